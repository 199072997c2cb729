"""Same settings, seed, machine and number of threads on the CPU: the same numbers, bit for bit."""

import pytest
import torch
from made import convnet_settings, made_record, made_run, made_splits, settings
from sample import sample

from reproduce.records.machine import machine
from reproduce.report.rows import SHARED, made_by
from reproduce.training import preprocess, train

CPU = torch.device("cpu")
FLOAT = {"weights": "float", "activation": "relu"}
CASES = {
    "MLP by the kernels": (settings(train={"epochs": 2}, net={"hidden": [256, 256]}), True),
    "ConvNet by the kernels": (convnet_settings(train={"epochs": 2}, net={"channels": [16, 32]}), False),
    "float MLP": (settings(train={"epochs": 2}, net=FLOAT), True),
    "float ConvNet": (convnet_settings(train={"epochs": 2}, net=FLOAT), False),
}


@pytest.fixture
def threads(monkeypatch):
    before = torch.get_num_threads()

    def use(count):
        torch.set_num_threads(count)
        monkeypatch.setenv("KERNELS_THREADS", str(count))

    yield use
    torch.set_num_threads(before)


def fitted(s, flat, folder):
    data = preprocess.prepare(made_splits((28, 28) if flat else (32, 32, 3)), s.data, flat, CPU)
    outcome = train.fit(s, data, 0, folder / "run.ckpt", CPU)
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in outcome.curve]
    return rows, outcome.net


@pytest.mark.parametrize("count", sample([2, 1, 3]))
@pytest.mark.parametrize("case", sample(CASES))
def test_the_same_run_twice_gives_the_same_numbers(tmp_path, threads, case, count):
    s, flat = CASES[case]
    threads(count)
    (rows, net), (again, other) = (fitted(s, flat, tmp_path) for _ in range(2))
    assert rows == again
    assert net.keys() == other.keys() and all(torch.equal(net[key], other[key]) for key in net)


BY_KERNELS = {
    "deterministic": settings(train={"epochs": 2}, net={"hidden": [256, 256], "dropout_in": 0.0}),
    "stochastic, standardized": settings(
        data={"preprocess": [{"step": "range", "low": 0, "high": 1}, {"step": "standardize"}]},
        train={"epochs": 2},
        net={"hidden": [250, 130], "dropout_in": 0.0, "dropout_hidden": 0.0, "activation": "stochastic_sign"},
    ),
}


@pytest.mark.parametrize("case", sample(BY_KERNELS))
def test_mlps_of_signs_on_bytes_are_the_same_for_every_number_of_threads(tmp_path, threads, case):
    """The report relies on this when it pools such runs."""
    s, found = BY_KERNELS[case], []
    for count in (1, 2, 3):
        threads(count)
        found.append(fitted(s, True, tmp_path))
    for rows, net in found[1:]:
        assert rows == found[0][0]
        assert all(torch.equal(net[key], found[0][1][key]) for key in net)
    made = made_record(made_run()).model_copy(update={"settings": s.model_dump(mode="json")})
    code = made.code | {"mode": "fixed16", "threads": [1, 2]}
    assert made_by(made.model_copy(update={"code": code})).threads == ()
    assert made_by(made.model_copy(update={"code": code | {"mode": "torch"}})).threads == (1, 2)


def relu_settings(weights, hidden):
    """The MNIST nets of BinaryConnect (binary weights) and without regularization (float), of another size."""
    binary = weights == "binary"
    rates = {"weight_rate": "glorot_squared" if binary else "plain", "clip": "weights" if binary else "none"}
    made = settings(
        data={"preprocess": [{"step": "range", "low": 0, "high": 1}, {"step": "center"}]},
        net={"weights": weights, "activation": "relu", "hidden": hidden, "dropout_in": 0.0, "dropout_hidden": 0.0},
        train={**rates, "epochs": 2, "rate": {"kind": "exponential", "start": 1.0, "end": 0.1}},
    ).model_dump(mode="json")
    made["train"]["optimizer"] = {"kind": "sgd"}
    return type(settings()).model_validate(made)


@pytest.mark.skipif(machine("cpu")["cpu"] not in SHARED, reason="the report does not rely on it on this CPU")
@pytest.mark.parametrize("weights", ["binary", "float"])
@pytest.mark.parametrize("hidden", [[256, 192], [1024]])
def test_mlps_of_relu_are_the_same_for_one_thread_and_two(tmp_path, threads, weights, hidden):
    """The report relies on this when it pools such runs."""
    s, found = relu_settings(weights, hidden), []
    for count in (1, 2):
        threads(count)
        found.append(fitted(s, True, tmp_path))
    (rows, net), (others, other) = found
    assert rows == others
    assert all(torch.equal(net[key], other[key]) for key in net)


@pytest.mark.parametrize(
    ("cpu", "hidden", "used", "told_apart"),
    [
        (SHARED[0], [256], [1, 2], (1,)),
        (SHARED[0], [256], [2], (1,)),
        (SHARED[0], [256], [1, 3], (1, 3)),
        (SHARED[0], [100], [1, 2], (1, 2)),
        ("another CPU", [256], [1, 2], (1, 2)),
        ("another CPU", [256], [1], (1,)),
    ],
)
def test_runs_of_one_thread_and_two_are_told_apart_but_where_they_are_the_same(cpu, hidden, used, told_apart):
    made = made_record(made_run())
    settled = relu_settings("binary", hidden).model_dump(mode="json")
    code = made.code | {"mode": "fixed16", "threads": used}
    changed = {"settings": settled, "code": code, "machine": made.machine | {"name": f"{cpu}, 2 cores"}}
    assert made_by(made.model_copy(update=changed)).threads == told_apart
    calls = [{"name": f"{name}, 2 cores"} for name in ("another CPU", cpu)]
    elsewhere = changed | {"machine": changed["machine"] | {"calls": calls}}
    assert made_by(made.model_copy(update=elsewhere)).threads == tuple(used), "a call was made on another CPU"
    whitening = {"step": "zca", "bias": 0.1}  # torch computes it, in sums that threads share
    settled["data"]["preprocess"].append(whitening)
    assert made_by(made.model_copy(update=changed)).threads == tuple(used)
