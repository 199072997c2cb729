"""The report: everything that the records say about the paper, derived afresh each time.

Data flow one way: a store's records (`evidence`) and what the paper prints (`experiments/paper.yaml`) give frames,
frames give tables, figures and verdicts. Nothing here measures, and no number is typed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from reproduce import files, spec, yamlfile
from reproduce.report import claims, exports, folder, wording
from reproduce.report.evidence import Evidence
from reproduce.report.evidence import cells as cells
from reproduce.report.evidence import gather as gather
from reproduce.report.html import head, look, page
from reproduce.report.html.parts import Figure, Section, csv
from reproduce.report.sections import (
    ablations,
    compare,
    curves,
    energy,
    filters,
    groups,
    rule,
    running,
    speed,
    table1,
)

TITLE = "Binarized Neural Networks, reproduced"
Say = Callable[[str], None]


def sections(evidence: Evidence) -> list[Section]:
    """The report's parts in the order of the page."""
    found = [part.section(evidence) for part in (table1, curves)]
    found[1:1] = groups.sections(evidence)
    found += [ablations.section(evidence)]
    found += [running.section(evidence)] if evidence.running else []
    found += [part.section(evidence) for part in (filters, speed, energy)]
    return [*found, speed.layers(evidence), speed.training(evidence), rule.section(), claims.section()]


def tables(evidence: Evidence, parts: Sequence[Section] = ()) -> dict[str, str]:
    """The files of the report that are the same everywhere: path under the report's folder -> content.

    Without `parts` only Table 1's own, which take no time.
    """
    frame = table1.every(evidence)
    found = {
        "table1.csv": exports.csv(frame),
        "table1.md": f"# Table 1\n\n{exports.markdown(frame)}",
        "table1.tex": exports.latex(frame),
    }
    if parts:
        found |= {"verdicts.json": head.for_others(evidence), "data/claims.csv": csv(claims.frame(evidence))}
        found |= _data(parts, head.figures(evidence))
    return found


def _data(parts: Sequence[Section], first: Sequence[Figure] = ()) -> dict[str, str]:
    every = [*first, *(part for section in parts for part in section.parts)]
    return {f"data/{part.name}.csv": csv(part.frame) for part in every}


def drawings(parts: Sequence[Section], first: Sequence[Figure] = ()) -> dict[str, str]:
    """The figures as SVG files; those of the first screen also in light and dark colours, for README.

    Their bytes depend on the versions of the drawing libraries, as the page's do.
    """
    found: dict[str, str] = {}
    for part in [*first, *(part for section in parts for part in section.parts)]:
        found |= part.files if isinstance(part, Figure) else {}
    for figure in first:
        for name, dark in (("light", False), ("dark", True)):
            found[f"{figure.name}-{name}.svg"] = look.alone(figure.svgs[0], dark)
    return found


def write(evidence: Evidence, target: Path, home: str | None = None, force: bool = False) -> None:
    """Write the report of a store into `target`; `home` is the path of `target` from the folder of the store.

    Raises files.Foreign where `target` holds what no report wrote, unless `force`.
    """
    parts, first = [*sections(evidence), sources(evidence)], head.figures(evidence)
    content = tables(evidence, parts) | drawings(parts, first)
    home = home or f"{evidence.name}/report"
    said = head.sentences(evidence)
    content["index.html"] = page.page(TITLE, said, parts, home, first, head.verdicts(evidence))
    folder.write(content, target, force)


def found(evidence: Evidence, cells: Sequence[spec.Cell], scale: str) -> str:
    """A summary of a store's runs of these cells at one scale: a sentence without its full stop."""
    frame = table1.frame(evidence.runs, cells, quoted=False, groups=None)
    frame = frame[(frame["scale"] == scale) & (frame["seeds"] > 0)]
    said = f"{frame['cell'].nunique()} of {len(cells)} cells have runs at {scale} scale"
    if scale != "paper":
        return f"{said}, which is never held against the paper"
    return f"{said}: {wording.verdicts_counted(frame['verdict'])}" if len(frame) else said


def compared(stores: Sequence[Evidence], target: Path, home: str, force: bool = False) -> None:
    """Compare stores: a page with its CSV files, into `target`; raises as `write` does."""
    names = ", ".join(store.name for store in stores)
    _page(compare.sections(stores), "Stores compared", names, target, home, force)


def cells_compared(
    evidence: Evidence, both: tuple[spec.Cell, spec.Cell], target: Path, home: str, force: bool = False
) -> None:
    """Compare two cells of a store: a page with its CSV files, into `target`; raises as `write` does."""
    names = f"{both[0].name} and {both[1].name}, in {evidence.name}"
    _page(compare.cell_sections(evidence, *both), "Cells compared", names, target, home, force)


def _page(parts: Sequence[Section], title: str, names: str, target: Path, home: str, force: bool) -> None:
    text = page.page(title, [f"{title}: {names}."], parts, home)
    content = _data(parts) | drawings(parts) | {"index.html": text}
    folder.write(content, target, force)


def sources(evidence: Evidence) -> Section:
    """What the report rests on, and what was left out."""
    text = (
        f"Finished runs: {len(evidence.runs)}. Runs that broke off: {len(evidence.failed)}. Runs under way: "
        f"{len(evidence.running)}. Records of benchmarks: {len(evidence.benches)}, of training speed: "
        f"{len(evidence.training)}, of packed nets: {len(evidence.nets)}. The newest record of a machine or a "
        "net counts, older ones stay as evidence.",
        *(f"Left out: {problem}." for problem in evidence.problems),
    )
    return Section("records", "Records", text, ())


def refresh(say: Say, force: bool = False) -> None:
    """Bring results/report and README's table up to date with the committed records; raises as `write` does."""
    from reproduce.records import runs  # which needs torch: a report does not

    evidence = gather(runs.PUBLISHED, cells(), say)
    write(evidence, runs.PUBLISHED / "report", force=force)
    readme = yamlfile.ROOT / "README.md"
    files.write_whole(readme, exports.into_readme(readme.read_text(encoding="utf-8"), head.markdown(evidence)))
    say(f"written: {yamlfile.shown(runs.PUBLISHED / 'report')} and README's table")
