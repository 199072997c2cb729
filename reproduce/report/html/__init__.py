"""The page: its first screen, its template and style, tables, figures and their colours."""
