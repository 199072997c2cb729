"""The report: everything that the records say about the paper, derived afresh each time.

Data flow one way: a store's records (`evidence`) and what the paper prints (`experiments/paper.yaml`) give frames,
frames give tables, figures and verdicts. Nothing here measures, and no number is typed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from reproduce import runs, yamlfile
from reproduce.report import claims, curves, energy, exports, filters, simulation, speed, table1
from reproduce.report.evidence import Evidence
from reproduce.report.evidence import cells as cells
from reproduce.report.evidence import gather as gather
from reproduce.report.parts import Section, csv

Say = Callable[[str], None]


def sections(evidence: Evidence) -> list[Section]:
    """The report's parts in the order of the page."""
    parts = (table1, claims, curves, filters, speed, energy, simulation)
    return [part.section(evidence) for part in parts]


def files(evidence: Evidence) -> dict[str, str]:
    """Every file of the report but the page and its pictures: path under the report's folder -> content."""
    frame = table1.frame(evidence.runs, evidence.cells, evidence.name)
    found = {
        "table1.csv": exports.csv(frame),
        "table1.md": f"# Table 1\n\n{exports.markdown(frame)}",
        "table1.tex": exports.latex(frame),
    }
    for part in (p for section in sections(evidence) for p in section.parts):
        found[f"data/{part.name}.csv"] = csv(part.frame)
    return found


def write(evidence: Evidence, folder: Path) -> None:
    """The report of a store into `folder`; files of an earlier one that are no part of it any more are removed."""
    content = files(evidence)
    for path in folder.glob("data/*.csv"):
        if f"data/{path.name}" not in content:
            path.unlink()
    for name, text in content.items():
        runs.write_whole(folder / name, text)


def refresh(say: Say) -> None:
    """Bring results/report and README's table up to date with the committed records."""
    evidence = gather(runs.PUBLISHED, cells(), say)
    write(evidence, runs.PUBLISHED / "report")
    readme = yamlfile.ROOT / "README.md"
    frame = table1.frame(evidence.runs, evidence.cells)
    runs.write_whole(readme, exports.into_readme(readme.read_text(encoding="utf-8"), frame))
    say(f"written: {yamlfile.shown(runs.PUBLISHED / 'report')} and README's table")
