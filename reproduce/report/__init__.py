"""The report: everything that the records say about the paper, derived afresh each time.

Data flow one way: a store's records (`evidence`) and what the paper prints (`experiments/paper.yaml`) give frames,
frames give tables, figures and verdicts. Nothing here measures, and no number is typed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from reproduce import files, spec, yamlfile
from reproduce.report import (
    ablations,
    claims,
    compare,
    curves,
    energy,
    exports,
    filters,
    folder,
    groups,
    page,
    rule,
    running,
    speed,
    table1,
)
from reproduce.report.evidence import Evidence
from reproduce.report.evidence import cells as cells
from reproduce.report.evidence import gather as gather
from reproduce.report.parts import Figure, Section, csv

TITLE = "Binarized Neural Networks, reproduced"
Say = Callable[[str], None]


def sections(evidence: Evidence) -> list[Section]:
    """The report's parts in the order of the page."""
    found = [part.section(evidence) for part in (table1, claims, curves)]
    found[1:1] = groups.sections(evidence)
    found += [ablations.section(evidence)]
    found += [running.section(evidence)] if evidence.running else []
    found += [part.section(evidence) for part in (filters, speed, energy)]
    return [*found, speed.training(evidence), rule.section()]


def summary(evidence: Evidence) -> str:
    """The page's first words: how many of the paper's cells are measured, what came of them and of the claims."""
    frame = table1.every(evidence)
    frame = frame[~frame["quoted"].astype(bool)]
    paper, short, small = (frame[frame["scale"] == scale] for scale in table1.SCALES)
    run = paper[paper["seeds"] > 0]
    words = [f"{count} {verdict}" for verdict, count in run["verdict"].value_counts(sort=False).items()]
    done, every = (part["cell"].nunique() for part in (run, paper))
    said = f"{done} of the {every} cells of Table 1 that are ours to run were run at the paper's scale"
    said += f", {len(run)} rows by the code that made them" if len(run) > done else ""
    said += f": {', '.join(words)}." if words else "."
    shorter = short[short["seeds"] > 0]
    if len(shorter):
        cells = (
            f"{r}, {d}: {mean:.2f} % (the paper, with its own schedule: {printed:.2f} %)"
            for r, d, mean, printed in shorter[["row", "dataset", "mean", "paper"]].values
        )
        said += f" With a shorter schedule, and not judged: {'; '.join(cells)}."
    if len(small):
        said += f" {small['cell'].nunique()} were run at small scale, which is never held against the paper."
    return f"{said} {claims.counts(claims.frame(evidence))}"


def tables(evidence: Evidence, parts: Sequence[Section] = ()) -> dict[str, str]:
    """The files of the report that are the same everywhere: path under the report's folder -> content.

    Without `parts` only Table 1's own, which take no time.
    """
    frame = table1.every(evidence)
    return {
        "table1.csv": exports.csv(frame),
        "table1.md": f"# Table 1\n\n{exports.markdown(frame)}",
        "table1.tex": exports.latex(frame),
        **_data(parts),
    }


def _data(parts: Sequence[Section]) -> dict[str, str]:
    return {f"data/{part.name}.csv": csv(part.frame) for section in parts for part in section.parts}


def pictures(parts: Sequence[Section], title: str, summary: str, home: str) -> dict[str, str]:
    """The page, and its figures by themselves: their bytes depend on the versions of the drawing libraries."""
    found = {"index.html": page.page(title, summary, parts, home)}
    for part in (part for section in parts for part in section.parts):
        if isinstance(part, Figure):
            found[f"{part.name}.svg"] = part.svg
    return found


def write(evidence: Evidence, target: Path, home: str | None = None, force: bool = False) -> None:
    """The report of a store into `target`; `home` is that folder as seen from the one that holds the store.

    Raises files.Foreign where `target` holds what no report wrote, unless `force`.
    """
    parts = [*sections(evidence), sources(evidence)]
    content = tables(evidence, parts)
    content |= pictures(parts, TITLE, summary(evidence), home or f"{evidence.name}/report")
    folder.write(content, target, force)


def compared(stores: Sequence[Evidence], target: Path, home: str, force: bool = False) -> None:
    """A page and a CSV that hold stores against each other, into `target`; raises as `write` does."""
    parts = compare.sections(stores)
    names = ", ".join(store.name for store in stores)
    said = f"Stores compared: {names}."
    folder.write(_data(parts) | pictures(parts, "Stores compared", said, home), target, force)


def cells_compared(
    evidence: Evidence, both: tuple[spec.Cell, spec.Cell], target: Path, home: str, force: bool = False
) -> None:
    """A page and a CSV that hold two cells of a store against each other, into `target`; errors as in `write`."""
    parts = compare.cell_sections(evidence, *both)
    said = f"Cells compared: {both[0].name} and {both[1].name}, in {evidence.name}."
    folder.write(_data(parts) | pictures(parts, "Cells compared", said, home), target, force)


def sources(evidence: Evidence) -> Section:
    """What the report rests on, and what was left out."""
    text = (
        f"Finished runs: {len(evidence.runs)}. Runs that broke off: {len(evidence.failed)}. Runs under way: "
        f"{len(evidence.running)}. Records of benchmarks: {len(evidence.benches)}, of training speed: "
        f"{len(evidence.training)}, of packed nets: {len(evidence.nets)}, of the small-scale check: "
        f"{len(evidence.checks)}. The newest record of a machine or a net counts, older ones stay as evidence.",
        *(f"Left out: {problem}." for problem in evidence.problems),
    )
    return Section("records", "Records", text, ())


def refresh(say: Say, force: bool = False) -> None:
    """Bring results/report and README's table up to date with the committed records; raises as `write` does."""
    from reproduce.records import runs  # which needs torch: a report does not

    evidence = gather(runs.PUBLISHED, cells(), say)
    write(evidence, runs.PUBLISHED / "report", force=force)
    readme = yamlfile.ROOT / "README.md"
    frame = table1.every(evidence)
    files.write_whole(readme, exports.into_readme(readme.read_text(encoding="utf-8"), frame))
    say(f"written: {yamlfile.shown(runs.PUBLISHED / 'report')} and README's table")
