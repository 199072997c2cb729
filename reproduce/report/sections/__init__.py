"""The sections of the page, a module each: the frame, its text, its verdict. `report.sections` lists them."""
