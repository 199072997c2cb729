"""Tables 2 and 3: energy constants, and a simple model of what one image costs in three variants of each net."""

from __future__ import annotations

from functools import cache
from typing import Any

import pandas as pd

from reproduce import spec
from reproduce.records import stem_of
from reproduce.records.packed_net import PackedRecord
from reproduce.report.evidence import Evidence, marks, newest, once, the_paper
from reproduce.report.html import charts
from reproduce.report.html.parts import Column, Figure, Section, Table
from reproduce.report.sections.table1 import with_note

VARIANTS = ("float", "binary weights", "binary")
NETS = {
    "MNIST MLP, 3 × 4096": "table1/bnn-theano-mnist",
    "MNIST MLP, 3 × 2048": "table1/bnn-torch7-mnist",
    "CIFAR-10 ConvNet": "table1/bnn-theano-cifar10",
    "SVHN ConvNet": "table1/bnn-theano-svhn",
}
WORD = 32  # 1-bit multiply-adds in one XNOR, one popcount, one accumulation
WORD_OPERATIONS = 3
ACCESS_BITS = 64
SIZES = {"8K": 2**13, "32K": 2**15, "1M": 2**20}  # bytes; what does not fit lies in DRAM


@cache
def constants() -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Table 2 (operation -> multiply, add) and Table 3 (memory -> low, high), picojoules."""
    tables = the_paper()
    return (
        {r["operation"]: r for r in tables["table2"]["rows"]},
        {r["memory"]: r for r in tables["table3"]["rows"]},
    )


def per_mac(variant: str, first: bool) -> float:
    """Picojoules of one multiply-add; `first`: of the layer that reads pixels."""
    table2, _ = constants()
    if variant == "float":
        return table2["32-bit float"]["multiply"] + table2["32-bit float"]["add"]
    if variant == "binary weights":
        return table2["32-bit float"]["add"]
    if first:
        return table2["32-bit integer"]["add"]
    return WORD_OPERATIONS * table2["32-bit integer"]["add"] / WORD


def level(bits: float) -> str:
    """The smallest memory of Table 3 that holds so many bits."""
    return next((name for name, size in SIZES.items() if bits <= 8 * size), "DRAM")


def access(bits: float, held: float) -> float:
    """Picojoules to move `bits` to or from the memory that holds `held` bits, at the low end of its range."""
    _, table3 = constants()
    return bits / ACCESS_BITS * table3[level(held)]["low"]


def model(settings: spec.Settings, variant: str) -> dict[str, Any]:
    """Microjoules of arithmetic and memory for one image, and the bytes of the weights."""
    shape = settings.layers()
    weight_bits = sum(layer.weights for layer in shape) * (32 if variant == "float" else 1)
    value_bits = 1 if variant == "binary" else 32

    def moved(index: int) -> tuple[int, int]:
        """Bits that a layer reads and writes: pixels of 8 bits for the fully binary net, scores of 32."""
        into = 8 if variant == "binary" and index == 0 else value_bits
        out = 32 if index == len(shape) - 1 else value_bits
        return shape[index].values_in * into, shape[index].values_out * out

    traffic = [moved(index) for index in range(len(shape))]
    values = sum(access(i + o, i + o) for i, o in traffic)
    weights = access(weight_bits, weight_bits)
    compute = sum(layer.macs * per_mac(variant, index == 0) for index, layer in enumerate(shape))
    return {
        "compute_uj": compute / 1e6,
        "memory_uj": (weights + values) / 1e6,
        "bytes": -(-weight_bits // 8),
        "total_uj": (compute + weights + values) / 1e6,
        "held_in": level(weight_bits),
        "accesses": -(-weight_bits // ACCESS_BITS),
    }


@cache
def frame() -> pd.DataFrame:
    """One line per net and variant: `model`, and how many times less than in float (energy and bytes)."""
    lines = []
    for name, cell_name in NETS.items():
        (cell,) = spec.cells([cell_name])
        settings = cell.scales["paper"]
        whole = model(settings, "float")
        for variant in VARIANTS:
            found = model(settings, variant)
            found["energy_times"] = whole["total_uj"] / found["total_uj"]
            found["bytes_times"] = whole["bytes"] / found["bytes"]
            lines.append({"net": name, "variant": variant, **found})
    return pd.DataFrame(lines)


@once
def files(evidence: Evidence) -> pd.DataFrame:
    """The newest record of each run's packed net and backend: the real file's bytes against weights in float32."""
    lines = []
    for net in newest(evidence.nets, lambda n: (n.about.cell, n.about.key, n.backend.split(" ")[0])):
        lines.append(
            marks(net)
            | {
                "cell": net.about.cell,
                "scale": net.about.scale,
                "seed": net.about.seed,
                "weights": net.weights,
                "float32": 4 * net.weights,
                "bytes": net.bytes,
                "times": 4 * net.weights / net.bytes,
                "images": net.images,
                "wrong": net.wrong,
                "differing": None if net.differing is None else len(net.differing),
                "unexplained": net.unexplained,
                "in_training": None
                if net.about.test_error is None
                else round(net.about.test_error * net.images / 100),
                "backend": net.backend,
                "machine": net.machine.name,
                "records": net.path,
                "again": f"reproduce freeze {_stem(net)}",
            }
        )
    columns = ["cell", "scale", "seed", "weights", "float32", "bytes", "times", "images", "wrong"]
    columns += ["in_training", "differing", "unexplained"]
    return pd.DataFrame(lines, columns=[*columns, "backend", "machine", "dirty", "note", "records", "again"])


def predicted(evidence: Evidence) -> pd.DataFrame:
    """The lines of `files` with an XNOR kernel's predictions compared with the float32 net's."""
    nets = files(evidence)
    return nets[nets["differing"].notna() & ~nets["backend"].str.startswith("cuda-naive")]


def in_float64(nets: pd.DataFrame) -> str:
    """How many predictions that differ from the float32 net's do from the float64 net's too; "" for none."""
    lost = int(nets["unexplained"].sum())
    said = f"{lost:,} of these from the float64 net's too" if lost else "there float64 agrees with ours"
    return f"; {said}" if nets["differing"].sum() else ""


def _stem(net: PackedRecord) -> str:
    """The name of the run that was packed."""
    about = net.about
    return stem_of(about.cell, about.scale, about.seed, about.key)


def section(evidence: Evidence) -> Section:
    """The constants, the model's assumptions and figures, and real files."""
    table2, table3 = (pd.DataFrame(t.values()) for t in constants())
    text = (
        "Tables 2 and 3 quote rough energies of a 45 nm chip. The paper gives no formula that joins them; this is "
        "a simple one, and its assumptions are all there is to it. One image is classified. Arithmetic: a "
        f"multiply-add of the float net takes a 32-bit float product and addition ({per_mac('float', False):g} "
        f"pJ); with binary weights the product is a change of sign, which is taken as free "
        f"({per_mac('binary weights', False):g} pJ); in the fully binary net {WORD} of them take an XNOR, a bit "
        f"count and an addition, {WORD_OPERATIONS} operations taken at the price of a 32-bit integer addition "
        f"each ({per_mac('binary', False):.2g} pJ a multiply-add), and its first layer adds 8-bit pixels as "
        f"32-bit integers ({per_mac('binary', True):g} pJ). The tables have no entry for XNOR or bit counting, so "
        "that price is a choice.",
        "Memory: each weight is read once an image from the smallest memory that holds all weights (8, 32 and "
        "1,024 KiB, else DRAM), each layer's inputs are read and its outputs written once, in the smallest memory "
        "that holds both; values take 32 bits, in the fully binary net 1 bit (pixels 8, scores 32). DRAM counts "
        "at the low end of its range. Batch normalization, biases, control and padding are left out. So a "
        "convolution's weights are taken to be reused perfectly; real chips differ.",
    )
    picojoule = "pJ"
    operations = (
        *(Column("operation", "operation"), Column("multiply", "multiply", 2, picojoule)),
        Column("add", "add", 2, picojoule),
    )
    memories = (
        *(Column("memory", "memory"), Column("low", "64-bit access", 0, picojoule)),
        Column("high", "at most", 0, picojoule),
    )
    figures, real = frame(), files(evidence)
    modelled = (
        *(Column("net", "net"), Column("variant", "variant"), Column("compute_uj", "arithmetic", 2, "µJ")),
        *(Column("memory_uj", "memory", 2, "µJ"), Column("total_uj", "total", 2, "µJ")),
        Column("energy_times", "energy, times less", 1, "", "than the float net"),
        *(Column("bytes", "weights", 0, "bytes"), Column("bytes_times", "times smaller", 1)),
        Column("held_in", "held in", hint="the memory the weights are read from"),
    )
    parts: list[Table | Figure] = [
        Table("table2", "Table 2, as printed: energy of operations (quoted).", table2, operations),
        Table("table3", "Table 3, as printed: energy of memory accesses (quoted).", table3, memories),
        Figure(
            "energy",
            "The model, on log axes: joules of arithmetic and of memory accesses for one image, and bytes of the "
            "weights.",
            "Bars of modelled energy and of the weights' bytes for four nets, each in float, with binary weights "
            "and fully binary.",
            figures,
            charts.energy,
        ),
        Table("energy-model", "The model's figures.", figures, modelled),
    ]
    if len(real):
        columns = (
            *(Column("cell", "cell"), Column("scale", "scale"), Column("seed", "seed", 0)),
            *(Column("weights", "weights", 0), Column("float32", "in float32", 0, "bytes")),
            *(Column("bytes", "file", 0, "bytes"), Column("times", "times smaller", 1)),
            Column("differing", "float32 differs", 0, "", "images that the float32 net puts into another class"),
            Column("unexplained", "float64 too", 0, "", "of these, images with another class in float64 too"),
            Column("wrong", "wrong", 0, "", "test images that the packed net puts into a wrong class"),
            Column("in_training", "wrong in training", 0, "", "by the evaluation during the run"),
            *(Column("images", "images", 0), Column("backend", "run by")),
        )
        caption = (
            "Real files: trained nets frozen to bits and thresholds, against their weights alone in float32. A "
            "packed net is exact. Float nets round, by which a sign next to zero can turn."
        )
        parts.append(Table("packed-files", caption, real, with_note(real, *columns)))
    return Section("energy", "Tables 2 and 3: energy and memory", text, tuple(parts))
