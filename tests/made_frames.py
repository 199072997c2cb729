"""Made data for every figure of the report, in the tidy form that charts.py draws."""

import numpy as np
import pandas as pd

NETS = ("baseline (float), CIFAR-10", "BNN (Theano), CIFAR-10", "BNN (Torch7), MNIST")


def curves(epochs=60):
    lines = []
    for number, net in enumerate(NETS):
        for quantity in ("validation error", "training cost"):
            for run in ("one", "two"):
                point = {"net": net, "source": "ours", "scale": "paper", "run": run, "quantity": quantity}
                for epoch in range(1, epochs + 1):
                    value = 10 + number + 40 * np.exp(-epoch / 10) + (run == "two")
                    lines.append(point | {"epoch": epoch, "value": value})
        for epoch, low, high in ((10, np.nan, np.nan), (25, 23.0, np.nan), (60, 11.0 + number, 12.0 + number)):
            point = {"net": net, "source": "paper", "scale": "paper", "run": "", "quantity": "validation error"}
            lines.append(point | {"epoch": epoch, "value": (low + high) / 2, "low": low, "high": high})
    return pd.DataFrame(lines)


def forest():
    lines = []
    for dataset, row, value, verdict in (
        ("MNIST", "BNN (Torch7)", 1.4, "reproduced"),
        ("MNIST", "BNN (Theano)", 0.96, "inconclusive"),
        ("CIFAR-10", "BNN (Torch7)", 10.15, None),
    ):
        of = {"dataset": dataset, "row": row}
        lines.append(
            of | {"kind": "paper", "scale": "paper", "value": value, "low": 0.8 * value, "high": 1.2 * value}
        )
        if verdict:
            mean = of | {"kind": "mean", "scale": "paper", "value": value * 1.02, "verdict": verdict}
            lines.append(mean | {"low": 0.9 * value, "high": 1.1 * value})
            lines += [of | {"kind": "seed", "scale": "paper", "value": value * f} for f in (1.0, 1.02, 1.04)]
        lines.append(of | {"kind": "mean", "scale": "small", "value": 2 * value})
        lines.append(of | {"kind": "said", "said": verdict or "not run: ~26 hours"})
    return pd.DataFrame(lines)


def times():
    lines = []
    for machine in ("A machine of ours, 2 cores", "Another"):
        for short in ("8192 × 8192 product", "MNIST MLP"):
            for kind, value, low, high in (("float32", 21.0, 19.0, 23.0), ("int8", 4.8, np.nan, np.nan)):
                line = {"machine": machine, "what": short, "short": short, "kind": kind}
                line |= {"candidate": "xnor, with packing", "against": f"a {kind} library"}
                lines.append(line | {"value": value, "low": low, "high": high})
    return pd.DataFrame(lines)


def figure2a(filters=32):
    signs = np.random.default_rng(2).choice([-1, 1], (filters, 3, 3, 3))
    lines = [
        {"cell": "table1/made", "seed": 0, "filter": f, "map": m, "y": y, "x": x, "sign": signs[f, m, y, x]}
        for f, m, y, x in np.ndindex(signs.shape)
    ]
    return pd.DataFrame(lines)


def figure2b():
    lines = []
    for cell in ("table1/one", "table1/two"):
        for seed in range(3):
            for layer in range(1, 7):
                for rule, random in (("512 classes", 80.0), ("256 classes", 60.0)):
                    line = {"cell": cell, "scale": "paper", "seed": seed, "layer": layer, "maps_in": 128}
                    line |= {"maps_out": 128, "rule": rule, "fraction": 30.0 + 5 * layer + seed}
                    lines.append(line | {"random": random, "first_layer": layer == 1, "printed": 42.0})
    return pd.DataFrame(lines)


def figure3():
    lines = []
    for what in ("product of two 8192×8192 matrices", "MNIST MLP on the 10,000 test images"):
        for machine, source in (("A machine of ours, 2 cores", "ours"), ("GTX 750", "paper")):
            for candidate, family, seconds in (
                ("naive", "naive", 6.8),
                ("a library", "library", 1),
                ("xnor", "xnor", 0.29),
            ):
                line = {"what": what, "machine": machine, "candidate": candidate, "family": family}
                line |= {"seconds": seconds, "low": seconds * 0.9, "high": seconds * 1.1}
                how = "timed once, scaled" if (family, source) == ("naive", "ours") else ""
                lines.append(line | {"times": 6.8 / seconds, "how": how, "source": source})
    return pd.DataFrame(lines)


def energy():
    lines = []
    for number, net in enumerate(("MNIST MLP", "CIFAR-10 ConvNet"), 1):
        for variant, factor in (("float", 1), ("binary weights", 0.2), ("binary", 0.01)):
            line = {"net": net, "variant": variant, "compute_uj": 170 * number * factor}
            lines.append(line | {"memory_uj": 2000 * number * factor, "bytes": 1e8 * number * factor})
    return pd.DataFrame(lines)


FIGURES = {made.__name__: made for made in (curves, figure2a, figure2b, figure3, energy, forest, times)}
