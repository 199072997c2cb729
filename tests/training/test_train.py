"""Training: Algorithm 1 step by step, resume bit for bit, selection, divergence."""

import os
import shutil
import signal
import time

import lightning as L
import numpy as np
import pytest
import torch
from made import convnet_settings, made_splits, settings
from sample import sample

from reproduce import outcomes, yamlfile
from reproduce.training import preprocess, step, train

CPU = torch.device("cpu")


def ready(s, shape=(28, 28)):
    flat = s.net.kind == "mlp"
    splits = made_splits(shape, s.data.train, s.data.valid, s.data.test)
    return preprocess.prepare(splits, s.data, flat, CPU)


def fit(s, tmp_path, data=None, seed=0, **rest):
    return train.fit(s, data or ready(s), seed, tmp_path / "run.ckpt", CPU, **rest)


def plain(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def same_net(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_squared_hinge_by_hand():
    y = torch.tensor([[0.5, -2.0], [3.0, 1.0]])
    t = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    assert step.squared_hinge(y, t).item() == pytest.approx((0.25 + 0 + 0 + 4) / 4)


def test_it_learns_made_images(tmp_path):
    outcome = fit(settings(train={"epochs": 8}, net={"hidden": [128, 128]}), tmp_path)
    assert outcome.curve[0]["valid_wrong"] > outcome.best["valid_wrong"]
    assert outcome.best["valid_wrong"] / outcome.scored["valid"] < 0.15


def cases(kind):
    """Settings of four epochs, and the images' shape."""
    if kind == "convnet":
        few = {"train": 200, "valid": 100, "test": 100}
        return convnet_settings(data=few, train={"epochs": 4, "batch": 50}), (32, 32, 3)
    if kind == "theano":
        return settings(train={"epochs": 4}), (28, 28)
    rule = {"kind": "shift_adamax", "beta1": 0.9, "beta2": 0.999, "eps": 2.0**-27}
    s = settings(
        net={"activation": "stochastic_sign", "norm": {"kind": "shift", "eps": 1e-5, "alpha": 0.125}},
        train={"epochs": 4, "optimizer": rule, "bias_rate": "as_weight"},
        data={"drop_incomplete": False, "train": 550},
    )
    return s, (28, 28)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_stop_the_run_which_resumes_later(tmp_path, how):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore Ctrl-C
    s = settings(train={"epochs": 4})
    data = ready(s)
    straight = fit(s, tmp_path, data)
    before = signal.getsignal(signal.SIGINT)

    class Press(L.Callback):
        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 2:
                os.kill(os.getpid(), how)

    with pytest.raises(KeyboardInterrupt):
        fit(s, tmp_path, data, callbacks=[Press()], checkpoint_seconds=0)
    assert signal.getsignal(signal.SIGINT) is before
    resumed = fit(s, tmp_path, data)
    assert plain(resumed.curve) == plain(straight.curve)
    assert same_net(resumed.net, straight.net)


@pytest.mark.parametrize("products", [None, "float32"])
@pytest.mark.parametrize("kind", sample(["theano", "torch7", "convnet"], 2))
def test_a_run_split_by_time_limits_and_machines_equals_the_undisturbed_run(tmp_path, monkeypatch, kind, products):
    """By the engine, which makes its own random numbers, and by autograd, which takes torch's."""
    if products:
        monkeypatch.setenv("REPRODUCE_PRODUCTS", products)
    s, shape = cases(kind)
    data = ready(s, shape)
    straight = fit(s, tmp_path, data)
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    for epoch in (1, 2):  # the limit is over at once, so each call trains one epoch
        with pytest.raises(train.OutOfTime) as stop:
            fit(s, here, data, deadline=time.monotonic())
        assert stop.value.epoch == epoch
    shutil.copy(here / "run.ckpt", there)
    torch.manual_seed(99)  # the state of the global generator must not matter
    with pytest.raises(train.OutOfTime):
        fit(s, there, data, deadline=time.monotonic())
    resumed = fit(s, there, data, deadline=time.monotonic() + 1000)
    assert plain(resumed.curve) == plain(straight.curve)
    assert same_net(resumed.net, straight.net)
    assert resumed.missed == straight.missed and resumed.best["missed"] == straight.best["missed"]


@pytest.mark.parametrize(("limit", "epochs"), [(205, 1), (215, 2), (315, 3), (405, 3), (415, 4)])
def test_it_stops_if_the_next_epoch_would_not_fit(tmp_path, monkeypatch, limit, epochs):
    """Epochs of 100 s by a simulated clock: another one begins if 110 s are left."""
    now = 1000.0
    monkeypatch.setattr(train.time, "monotonic", lambda: now)

    class Slow(L.Callback):
        def on_train_epoch_end(self, trainer, module):
            nonlocal now
            now += 100
            module.curve[-1]["seconds"] = 100.0

    try:
        made = len(fit(settings(train={"epochs": 4}), tmp_path, callbacks=[Slow()], deadline=1000.0 + limit).curve)
    except train.OutOfTime as stop:
        made = stop.epoch
    assert made == epochs
    assert (tmp_path / "run.ckpt").exists()


def test_every_epoch_and_every_seed_has_an_order_of_all_images_and_noise_of_its_own(tmp_path, monkeypatch):
    s = settings(train={"epochs": 2})
    orders, noise, start = [], [], step.Step.start

    def noted(self, seed):
        noise.append(seed)
        start(self, seed)

    class Note(L.Callback):
        def on_train_epoch_start(self, trainer, module):
            orders.append([])

        def on_train_batch_start(self, trainer, module, batch, _):
            orders[-1] += torch.cat(batch).tolist()

    monkeypatch.setattr(step.Step, "start", noted)
    for seed in (0, 1):
        fit(s, tmp_path, seed=seed, callbacks=[Note()])
    images = list(range(s.data.train))
    assert [sorted(order) for order in orders] == [images] * 4
    assert len({tuple(order) for order in [*orders, images]}) == 5 and len(set(noise)) == len(noise) == 4


def test_block_size_changes_nothing(tmp_path, monkeypatch):
    s = settings(train={"epochs": 2})
    data = ready(s)
    one = fit(s, tmp_path, data)
    monkeypatch.setattr(train, "STEPS_PER_BLOCK", 1)
    assert plain(fit(s, tmp_path, data).curve) == plain(one.curve)


def test_test_error_is_read_at_the_best_validation_epoch_ties_to_the_later(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "EVAL_BATCH", 37)  # several batches, the last one incomplete
    s = settings(train={"epochs": 6})
    outcome = fit(s, tmp_path)
    wrong = [row["valid_wrong"] for row in outcome.curve]
    best = max(i for i, w in enumerate(wrong) if w == min(wrong))
    assert outcome.best["epoch"] == best + 1
    assert outcome.best["test_wrong"] == outcome.curve[best]["test_wrong"]
    assert "test_wrong" in outcome.curve[-1]
    for i, row in enumerate(outcome.curve[:-1]):
        assert ("test_wrong" in row) == (row["valid_wrong"] <= min(wrong[: i + 1]))
    module = train.Classifier(s, ready(s), 0)
    module.net.load_state_dict(outcome.net)
    data = module.data["test"]
    n = outcome.scored["test"]
    with torch.no_grad():
        scores = module.net.eval()(data.images(torch.arange(n)))
    wrong = (scores.argmax(1) != data.labels[:n]).numpy()
    hinges = (1 - scores * (2 * torch.eye(10)[data.labels[:n]] - 1)).clamp(min=0).square().mean(1)
    assert outcome.curve[best]["test_loss"] == pytest.approx(float(hinges.mean()), rel=1e-3)
    np.testing.assert_array_equal(outcomes.unpack(outcome.best["missed"], n), wrong)
    assert wrong.sum() == outcome.best["test_wrong"]
    assert outcomes.unpack(outcome.missed, n).sum() == outcome.curve[-1]["test_wrong"]


def test_the_best_epochs_wrong_images_are_kept_when_a_run_is_stopped_later(tmp_path, monkeypatch):
    """The best epoch is before the checkpoint and the last one after it; each has its own wrong images.

    The net that is kept is that of the best epoch.
    """
    valid, nets = iter([5, 9, 9, 9]), {}

    def evaluate(module, split):
        epoch = module.current_epoch
        nets[epoch] = {name: tensor.clone() for name, tensor in module.net.state_dict().items()}
        wrong = torch.arange(200) < next(valid) if split == "valid" else torch.arange(200) == epoch
        return wrong, 0.1

    monkeypatch.setattr(train.Classifier, "evaluate", evaluate)

    class Stop(L.Callback):
        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 2:
                raise RuntimeError("power cut")

    s = settings(train={"epochs": 4})
    with pytest.raises(RuntimeError, match="power cut"):
        fit(s, tmp_path, callbacks=[Stop()], checkpoint_seconds=0)
    outcome = fit(s, tmp_path)
    assert same_net(outcome.net, nets[0]) and not same_net(outcome.net, nets[3])
    assert np.flatnonzero(outcomes.unpack(outcome.best["missed"], 200)) == [0]
    assert np.flatnonzero(outcomes.unpack(outcome.missed, 200)) == [3]


def test_a_tie_goes_to_the_later_epoch(tmp_path, monkeypatch):
    wrong = iter([9, 5, 7, 5, 6])

    def evaluate(module, split):
        return torch.arange(200) < (next(wrong) if split == "valid" else 50), 0.1

    monkeypatch.setattr(train.Classifier, "evaluate", evaluate)
    outcome = fit(settings(train={"epochs": 5}), tmp_path)
    assert outcome.best["epoch"] == 4
    assert [("test_wrong" in row) for row in outcome.curve] == [True, True, False, True, True]


def test_incomplete_batches_are_dropped_only_where_the_cell_says_so():
    order = torch.arange(250)
    sizes = [[len(step) for block in train.Blocks(order, 100, drop) for step in block] for drop in (True, False)]
    assert sizes == [[100, 100], [100, 100, 50]]
    s = settings(data={"train": 550, "valid": 150, "test": 200})
    module = train.Classifier(s, preprocess.prepare(made_splits(train=550, valid=150), s.data, True, CPU), 0)
    assert (module.scored("valid"), module.scored("test")) == (100, 200)


@pytest.mark.parametrize("where", ["loss", "hidden"])
def test_a_number_that_is_not_finite_stops_the_run_with_the_epoch(tmp_path, where):
    s = settings(train={"epochs": 3})

    class Poison(L.Callback):
        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 1:
                with torch.no_grad():
                    norm = module.net.blocks[-1 if where == "loss" else 0].norm
                    norm.bias[0] = float("nan")

    with pytest.raises(train.Diverged, match="after epoch 2") as error:
        fit(s, tmp_path, callbacks=[Poison()], checkpoint_seconds=1e9)
    assert error.value.epoch == 2


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_first_epoch_of_the_paper_size_mnist_net_agrees_with_the_authors_log(tmp_path):
    """The author's own log gives cost and error after epoch 1; ours must be close (paper.yaml, author_log)."""
    from reproduce import spec
    from reproduce.datasets import data as sets
    from reproduce.datasets.fetch import load

    (cell,) = spec.cells(["table1/bnn-theano-mnist"])
    paper = yamlfile.read_yaml(spec.EXPERIMENTS / "paper.yaml")["author_log"]["mnist_epoch_1"]
    s = cell.scales["paper"]
    data = preprocess.prepare(sets.splits(load("mnist"), s.data), s.data, True, CPU)
    rows = []

    class One(L.Callback):
        def on_train_epoch_end(self, trainer, module):
            rows.append(module.curve[-1])
            trainer.should_stop = True

    with pytest.raises(KeyboardInterrupt):
        fit(s, tmp_path, data, callbacks=[One()], checkpoint_seconds=1e9)
    assert rows[0]["train_loss"] == pytest.approx(paper["train_loss"], rel=0.02)
    assert rows[0]["valid_loss"] == pytest.approx(paper["valid_loss"], rel=0.1)
    assert 100 * rows[0]["valid_wrong"] / 10000 == pytest.approx(paper["valid_error"], abs=1.0)
