"""Figure 2: the first convolution's binary filters, and how often filters repeat, by two rules of counting."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from reproduce import spec
from reproduce.records import Record, filter_counts
from reproduce.report.evidence import Evidence, marks, once, the_paper
from reproduce.report.html import charts
from reproduce.report.html.parts import Column, Figure, Section, Table
from reproduce.report.rows import grouped, main
from reproduce.report.sections.table1 import SCALES, again, with_note

LAYERS = ["cell", "scale", "seed", "layer", "maps_in", "maps_out", "operations", "rule", "fraction", "random"]
LAYERS += ["first_layer", "printed"]
SUMMARY = "cell scale seeds rule mean random mean_rest random_rest weighted random_weighted".split()
PICTURE = ["cell", "seed", "filter", "map", "y", "x", "sign"]
FIRST = "table1/bnn-theano-cifar10"  # whose filters are shown where there are several
SHOWN = 64  # filters in the picture, at most


def counted(evidence: Evidence) -> list[Record]:
    """Runs whose records hold the counts of 3×3 filters, at the largest scale first; of each cell one code's.

    Arms of ablations are left out: they are variants of small nets.
    """
    arms = {cell.name for cell in evidence.cells if cell.ablation}
    every = [
        r
        for r in evidence.runs
        if r.cell not in arms and r.filters and all(f.kernel == 3 for f in r.filters.layers)
    ]
    found = [r for group in grouped(every, _cell).values() for r in main(group)]
    return sorted(found, key=lambda r: (SCALES.index(r.scale), r.cell != FIRST, r.cell, r.seed))


def layers(records: Sequence[Record]) -> pd.DataFrame:
    """One line per run, layer and rule: the share of distinct filters and that of random signs, in percent."""
    lines = []
    for record in records:
        every = record.filters.layers if record.filters else []
        counts = operations([(found.maps_in, found.maps_out) for found in every])
        for number, (found, multiply_adds) in enumerate(zip(every, counts, strict=True), 1):
            for rule, key in filter_counts.RULES.items():
                line = {"cell": record.cell, "scale": record.scale, "seed": record.seed, "layer": number}
                line |= {"maps_in": found.maps_in, "maps_out": found.maps_out, "operations": multiply_adds}
                line |= {"rule": rule, "fraction": 100 * getattr(found, key), "first_layer": number == 1}
                line["printed"] = printed()
                lines.append(line | {"random": 100 * _random(rule, found.maps_out)})
    return pd.DataFrame(lines, columns=LAYERS)


def _random(rule: str, maps_out: int) -> float:
    return filter_counts.random_share(int(rule.split()[0]), maps_out)


def operations(maps: Sequence[tuple[int, int]]) -> list[int]:
    """Multiply-adds of 3×3 convolutions with these (maps in, maps out) on 32×32 images, two a stage."""
    return [9 * i * o * (32 >> number // 2) ** 2 for number, (i, o) in enumerate(maps)]


def averages(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Means over the layers (lines of `layers`) of each group of `by`, in percent.

    mean: all layers alike; mean_rest: without the first; weighted: by their multiply-adds. Each also for random
    signs: random, random_rest, random_weighted.
    """
    shares, keys = ["fraction", "random"], list(by)
    whole = table.groupby(keys, sort=False)
    rest = table[~table["first_layer"].astype(bool)].groupby(keys, sort=False)[shares].mean()
    shared = table[shares].mul(table["operations"], axis=0).groupby([table[k] for k in keys], sort=False).sum()
    weighted = shared.div(whole["operations"].sum(), axis=0)
    return (
        whole[shares]
        .mean()
        .rename(columns={"fraction": "mean"})
        .join(rest.set_axis(["mean_rest", "random_rest"], axis=1))
        .join(weighted.set_axis(["weighted", "random_weighted"], axis=1))
    )


@once
def summary(evidence: Evidence) -> pd.DataFrame:
    """One line per cell, scale and rule: `averages` over the layers, and their mean over the seeds, in percent."""
    lines = []
    for (name, scale), group in grouped(counted(evidence), _cell).items():
        runs_apart = averages(layers(group), ["rule", "seed"])
        for rule in filter_counts.RULES:
            found = pd.DataFrame(runs_apart.loc[rule])
            line = {"cell": name, "scale": scale, "seeds": len(found), "rule": rule}
            line |= {str(key): value for key, value in found.mean().items()}
            lines.append(
                line | marks(*group) | {"records": evidence.paths(group), "again": again(name, scale, group)}
            )
    return pd.DataFrame(lines, columns=[*SUMMARY, "dirty", "note", "records", "again"])


def _cell(record: Record) -> tuple[str, str]:
    return record.cell, record.scale


def chance(evidence: Evidence) -> pd.DataFrame:
    """What random signs would give in the paper's own ConvNets: per cell and rule, the averages in percent."""
    lines = []
    for cell in evidence.cells:
        settings = cell.scales.get("paper")
        if settings is None or not (cell.name.startswith("table1/bnn") and isinstance(settings.net, spec.ConvNet)):
            continue
        maps = [(layer.inputs, layer.outputs) for layer in settings.layers() if layer.kernel > 1]
        table = pd.DataFrame(maps, columns=["maps_in", "maps_out"]).assign(operations=operations(maps))
        table["first_layer"] = table.index == 0
        for rule in filter_counts.RULES:
            share = [100 * _random(rule, out) for _, out in maps]
            found = averages(table.assign(rule=rule, fraction=share, random=share), ["rule"]).loc[rule]
            line = {"cell": cell.name, "rule": rule, "random": found["random"]}
            lines.append(line | {k: found[k] for k in ("random_rest", "random_weighted")})
    return pd.DataFrame(lines, columns=["cell", "rule", "random", "random_rest", "random_weighted"])


def picture(record: Record) -> pd.DataFrame:
    """The first SHOWN filters of a run's first convolution, one line per sign; columns PICTURE."""
    assert record.filters is not None
    lines = []
    for index, text in enumerate(record.filters.first[:SHOWN]):
        for place, bit in enumerate(text):
            of_map, pixel = divmod(place, 9)
            line = {"cell": record.cell, "seed": record.seed, "filter": index, "map": of_map}
            lines.append(line | {"y": pixel // 3, "x": pixel % 3, "sign": 1 if bit == "1" else -1})
    return pd.DataFrame(lines, columns=PICTURE)


def printed() -> float:
    """The paper's share of unique filters, in percent."""
    return float(next(c["value"] for c in the_paper()["claims"] if c["id"] == "unique filters"))


def section(evidence: Evidence) -> Section:
    """Picture, counts per layer and rule, averages, and the same for random signs."""
    records = counted(evidence)
    text = [
        "A binary 3×3 kernel is one of 2⁹ = 512. The paper says that in its CIFAR-10 ConvNet "
        f"{printed():g} % of a layer's filters are unique on average, and does not say over what it averaged. "
        "By a reading note of its arXiv version a kernel and its negation count as one. In a layer of 128 × 128 "
        "maps there are 32 times more kernels than classes, so only kernels that act on the same input map can be "
        "counted: distinct ones as a share of the output maps, averaged over the input maps. "
        "That is done by two rules: every kernel by itself (512 classes), or a kernel and its negation as one "
        "(256 classes). Random signs repeat, too: C/M · (1 - (1 - 1/C)^M) of M kernels from C classes are "
        "expected to be distinct. Only what lies below that was learned.",
    ]
    counts = (
        ("mean", "random", "all layers", ""),
        ("mean_rest", "random_rest", "without the first", ""),
        ("weighted", "random_weighted", "op-weighted", "layers weighted by their multiply-adds"),
    )
    parts: list[Table | Figure] = []
    if records:
        first, found = records[0], summary(evidence)
        alike = [r for r in records if r.scale == first.scale and r.data.name == first.data.name]
        columns = [Column("cell", "cell"), Column("scale", "scale")]
        columns += [Column("seeds", "seeds", 0), Column("rule", "rule")]
        for key, random, name, hint in counts:
            columns += [Column(key, name, 1, "%", hint), Column(random, "random signs", 1, "%")]
        count = len(first.filters.first) if first.filters else 0
        parts += [
            Figure(
                "figure2a",
                f"Binary filters of the first convolution, as trained: {first.cell}, {first.scale} scale, seed "
                f"{first.seed}, the first {min(SHOWN, count)} of {count}. A block an input map, kernels sorted "
                "so that equal ones stand together; +1 is light.",
                "Tiles of 3×3 black and white squares, one for each kernel of the first convolution.",
                picture(first),
                charts.figure2a,
            ),
            Figure(
                "figure2b",
                f"Distinct filters per layer by both rules, beside what random signs give ({first.scale} scale).",
                "Share of distinct filters against the layer, for two rules of counting, with the random "
                "baseline.",
                layers(alike),
                charts.figure2b,
            ),
            Table(
                "filters",
                f"Averages over the layers; the paper prints {printed():g} %.",
                found,
                with_note(found, *columns),
            ),
        ]
    else:
        text.append(
            "No record of a binary ConvNet holds its filters yet: there is no picture, and nothing to count."
        )
    parts.append(
        Table(
            "filters-chance",
            f"What random signs give in the paper's nets; the paper prints {printed():g} %.",
            chance(evidence),
            (
                *(Column("cell", "cell"), Column("rule", "rule")),
                *(Column(random, name, 1, "%", hint) for _, random, name, hint in counts),
            ),
        )
    )
    return Section("figure2", "Figure 2: binary filters", tuple(text), tuple(parts))
