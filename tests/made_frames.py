"""Made data for every figure of the report, in the tidy form that charts.py draws."""

import numpy as np
import pandas as pd

SERIES = ("baseline (float)", "BNN (Theano)", "BNN (Torch7)")


def figure1(scale="paper", epochs=60):
    lines = []
    for number, series in enumerate(SERIES):
        for quantity in ("validation error", "training cost"):
            for epoch in range(1, epochs + 1):
                value = 10 + number + 40 * np.exp(-epoch / 10)
                point = {"series": series, "source": "ours", "scale": scale, "quantity": quantity, "epoch": epoch}
                lines.append(point | {"value": value, "low": value - 1, "high": value + 1, "seeds": 3})
        if scale == "paper":
            for epoch, low, high in ((10, np.nan, np.nan), (25, 23.0, np.nan), (60, 11.0 + number, 12.0 + number)):
                point = {"series": series, "source": "paper", "scale": scale, "quantity": "validation error"}
                point |= {"epoch": epoch, "value": (low + high) / 2, "low": low, "high": high, "seeds": 1}
                lines.append(point)
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


FIGURES = {made.__name__: made for made in (figure1, figure2a, figure2b, figure3, energy)}
