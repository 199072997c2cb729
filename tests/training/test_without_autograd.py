"""Steps on a GPU without autograd against autograd in float64, on a GPU or emulated."""

import copy

import pytest
import torch
from emulator import installed
from made import by_sgd, convnet_settings, made_splits, settings
from sample import sample

from kernels.cuda import launch
from reproduce import nets
from reproduce.campaign import gpu_trial
from reproduce.campaign.probe import Probe
from reproduce.nets import tensorcores
from reproduce.training import preprocess, step, train
from reproduce.training.cuda import without_autograd

NETS = [settings(), convnet_settings(train={"batch": 10})]
PLACES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=PLACES)
def device(request, emulated, monkeypatch):
    monkeypatch.setenv("REPRODUCE_WITHOUT", "")
    monkeypatch.setattr(train, "EVAL_BATCH", 12)
    if request.param == "cuda":
        if not torch.cuda.is_available() or launch.no_gpu():
            pytest.skip("no CUDA device, or no CuPy")
        yield torch.device("cuda")
    else:
        with installed(emulated, monkeypatch):
            yield torch.device("cpu")


def made(device, s):
    probe = Probe(s, device)
    return probe.module, probe.data


def agree(module, data, batch, device, monkeypatch, noises):
    """One step of a net with random parameters, with and without autograd."""
    net = module.net
    with torch.no_grad():
        for p in net.parameters():  # no bias is 0, no gamma 1
            p.uniform_(-1, 1)
    assert without_autograd.unknown(net, data, batch, "squared_hinge") is None
    left = list(noises)
    monkeypatch.setattr(torch, "rand", lambda *size, device: left.pop(0))
    index = torch.randint(len(data), (batch,), device=device)
    twin = copy.deepcopy(net).double()
    loss_sum = torch.ones((), dtype=torch.float64, device=device)
    without_autograd.NetStep(net, data, loss_sum)(index)
    assert not left

    def dropout(x, p):
        return x * (noises.pop(0) >= p) / (1 - p)

    monkeypatch.setattr(nets, "dropout", dropout)
    monkeypatch.setattr(tensorcores, "serves", lambda x: False)
    targets = module.targets[data.labels[index]].double()
    cost = step.squared_hinge(twin(data.images(index).double()), targets)
    cost.backward()
    assert not noises
    assert float(loss_sum) - 1 == pytest.approx(cost.item(), rel=1e-4)
    near = 1e-5 if device.type == "cpu" else 1e-3  # TF32
    largest = max(float(q.grad.abs().max()) for q in twin.parameters())
    for (name, p), q in zip(net.named_parameters(), twin.parameters(), strict=True):
        assert p.grad.stride() == p.stride(), name
        torch.testing.assert_close(p.grad.double(), q.grad, rtol=1e-3, atol=near * largest)
    for mine, theirs in zip(net.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("drop", [(0.2, 0.5), (0.0, 0.0)])
def test_gradients_of_an_mlp_are_autograds(device, monkeypatch, drop, masked):
    over = {"dropout_in": drop[0], "dropout_hidden": drop[1], "ste_mask": masked, "hidden": [33, 70]}
    torch.manual_seed(1)
    noises = [torch.rand(100, units, device=device) for units in (784, 33, 70)] if drop[0] else []
    agree(*made(device, settings(net=over)), 100, device, monkeypatch, noises)


@pytest.mark.parametrize(("masked", "without"), sample([(True, ""), (False, ""), (True, "fp16")]))
def test_gradients_of_a_convnet_are_autograds(device, monkeypatch, masked, without):
    monkeypatch.setenv("REPRODUCE_WITHOUT", without)
    torch.manual_seed(2)
    net = {"ste_mask": masked, "channels": [4, 34], "dense": [16]}
    agree(*made(device, convnet_settings(net=net, train={"batch": 7})), 7, device, monkeypatch, [])


def test_the_trial_passes_and_finds_a_wrong_mask(device, monkeypatch):
    gpu_trial.check("passes", NETS, device)
    real = without_autograd.Dense.__init__

    def unmasked(self, block, last):
        real(self, block, last)
        self.masked = False

    monkeypatch.setattr(without_autograd.Dense, "__init__", unmasked)
    with pytest.raises(RuntimeError, match=r"a relative difference of .* from autograd's"):
        gpu_trial.check("passes", NETS, device)


@pytest.mark.parametrize(
    ("over", "why"),
    [
        ({"net": {"dropout_hidden": 0.1}}, "a dropout whose scale is no power of two"),
        (
            {"net": {"dropout_hidden": 0.0, "activation": "stochastic_sign"}},
            "an activation of the kind stochastic_sign",
        ),
        ({"net": {"dropout_hidden": 0.0, "weights": "float"}}, "weights that are not plain signs"),
        (
            {"net": {"dropout_hidden": 0.0, "norm": {"kind": "shift", "eps": 1e-5, "alpha": 0.1}}},
            "a ShiftBatchNorm",
        ),
        (
            {"data": {"valid": 300, "test": 300}, "net": {"dropout_hidden": 0.0}, "train": {"batch": 300}},
            "a batch of more than 256 images",
        ),
    ],
)
def test_unsupported_nets_are_left_to_autograd(monkeypatch, over, why):
    monkeypatch.setenv("REPRODUCE_WITHOUT", "")
    s = settings(**over)
    module, data = made(torch.device("cpu"), s)
    assert without_autograd.unknown(module.net, data, s.train.batch, s.train.loss) == why


def test_a_part_that_is_left_out_is_not_used(monkeypatch):
    for part in ("passes", "bf16", "tf32"):
        monkeypatch.setenv("REPRODUCE_WITHOUT", part)
        s = settings(net={"dropout_hidden": 0.0})
        module, data = made(torch.device("cpu"), s)
        why = without_autograd.unknown(module.net, data, 100, s.train.loss)
        assert why == "a part of the step that is left out"


@pytest.mark.gpu
def test_training_without_autograd_learns_what_autograd_learns(tmp_path, monkeypatch):
    if not torch.cuda.is_available() or launch.no_gpu():
        pytest.skip("no CUDA device, or no CuPy")
    s = by_sgd(settings(net={"dropout_in": 0.0, "dropout_hidden": 0.0}, train={"epochs": 4}))
    found = []
    for without in ("", "passes"):
        monkeypatch.setenv("REPRODUCE_WITHOUT", without)
        data = preprocess.prepare(made_splits(), s.data, True, torch.device("cuda"))
        outcome = train.fit(s, data, 0, tmp_path / f"{without}.ckpt", torch.device("cuda"))
        found.append([row["train_loss"] for row in outcome.curve])
    assert found[0] == pytest.approx(found[1], rel=0.05)
