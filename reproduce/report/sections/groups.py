"""Groups of cells that are not the paper's: each has a section of the page, with a line a cell and scale."""

from __future__ import annotations

import hashlib
import re

from reproduce.report.evidence import Evidence
from reproduce.report.html.parts import Section, Table
from reproduce.report.sections import table1

PAPER = ("table1", "short", "figure1", "ablations")  # what has sections of its own


def sections(evidence: Evidence) -> list[Section]:
    """One section a group, in the order of the cells."""
    found = []
    for group in dict.fromkeys(cell.group for cell in evidence.cells if cell.group not in PAPER):
        cells = [cell for cell in evidence.cells if cell.group == group]
        frame = table1.frame(evidence.runs, cells, evidence.name, quoted=False, groups=None)
        text = (
            f"Experiments of the folder {group}: test error in percent at the best validation epoch, and at the "
            "last. They are no cells of the paper; one is judged only where its file says what is printed, and "
            "with which margin. To run one again, give its file, and what it uses by --use.",
        )
        name = f"group-{_anchor(group)}"
        table = Table(name, f"The cells of {group}.", frame, table1.with_note(frame, *table1.OWN))
        found.append(Section(name, f"Group: {group}", text, (table,)))
    return found


def _anchor(group: str) -> str:
    """The group's name for links and file names, different for every group."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", group)
    return plain if plain == group else f"{plain}-{hashlib.sha256(group.encode()).hexdigest()[:6]}"
