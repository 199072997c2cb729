"""The training path on an NVIDIA GPU against the CPU's (`pytest -m gpu`)."""

import pytest
import torch
from made import convnet_settings, made_splits, settings

from reproduce import yamlfile
from reproduce.nets import products
from reproduce.nets.binarize import ap2, sign
from reproduce.training import preprocess, step, train

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
SHIFT = {
    "net": {"activation": "stochastic_sign", "norm": {"kind": "shift", "eps": 1e-5, "alpha": 0.125}},
    "train": {
        "optimizer": {"kind": "shift_adamax", "beta1": 0.9, "beta2": 0.999, "eps": 2.0**-27},
        "bias_rate": "as_weight",
        "epochs": 6,
    },
}


@pytest.mark.parametrize("case", ["mlp", "mlp_shift", "convnet", "convnet_shift"])
def test_training_on_the_gpu_learns_what_the_cpu_learns(tmp_path, case):
    over = SHIFT if case.endswith("shift") else {"train": {"epochs": 6}}
    s = convnet_settings(**over) if case.startswith("convnet") else settings(**over)
    shape = (32, 32, 3) if case.startswith("convnet") else (28, 28)
    final = {}
    for name in ("cpu", "cuda"):
        device = torch.device(name)
        data = preprocess.prepare(made_splits(shape), s.data, s.net.kind == "mlp", device)
        outcome = train.fit(s, data, 0, tmp_path / f"{name}.ckpt", device)
        final[name] = outcome.curve[-1]["train_loss"]
        assert outcome.curve[-1]["train_loss"] < outcome.curve[0]["train_loss"]
    assert final["cuda"] == pytest.approx(final["cpu"], rel=0.25)


def test_first_loss_and_gradients_agree(tmp_path):
    s = settings(net={"dropout_in": 0.0, "dropout_hidden": 0.0})
    found = {}
    for name in ("cpu", "cuda"):
        data = preprocess.prepare(made_splits(), s.data, True, torch.device(name))
        module = train.Classifier(s, data, 0).to(name)
        index = torch.arange(100, device=name)
        loss = step.squared_hinge(
            module.net(data["train"].images(index)), module.targets[data["train"].labels[index]]
        )
        loss.backward()
        found[name] = [loss.detach().cpu(), *(p.grad.cpu() for p in module.net.parameters())]
    for a, b in zip(found["cpu"], found["cuda"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_binarization_is_the_cpus_bit_for_bit():
    x = torch.randn(100000) * torch.randn(100000).exp()
    for function in (sign, ap2):
        assert torch.equal(function(x), function(x.cuda()).cpu())


@pytest.mark.parametrize(
    "steps", [[{"step": "zca", "bias": 0.1}], [{"step": "lcn", "as_in": "dp", "kernel": 9, "threshold": 1e-4}], []]
)
def test_preprocessing_agrees(steps):
    split = made_splits((32, 32, 3))
    data = convnet_settings(data={"preprocess": [{"step": "range", "low": 0, "high": 1}, *steps]}).data
    index = torch.arange(50)
    got = [
        preprocess.prepare(split, data, False, torch.device(d))["test"].images(index.to(d)).cpu()
        for d in ("cpu", "cuda")
    ]
    torch.testing.assert_close(*got, rtol=1e-2, atol=1e-3)


def test_same_seed_differs_little_on_one_gpu(tmp_path):
    s = settings(train={"epochs": 2})
    device = torch.device("cuda")
    data = preprocess.prepare(made_splits(), s.data, True, device)
    first, again = (train.fit(s, data, 0, tmp_path / "r.ckpt", device).curve[-1]["train_loss"] for _ in range(2))
    assert first == pytest.approx(again, rel=1e-2)


@pytest.mark.parametrize("shift", [False, True])
def test_recorded_steps_equal_eager_ones(tmp_path, shift, monkeypatch):
    """20 steps replayed from a CUDA graph against 20 eager ones, both without noise."""
    over = SHIFT | {"net": SHIFT["net"] | {"activation": "sign"}} if shift else {}
    s = settings(**yamlfile.merged({"net": {"dropout_in": 0.0, "dropout_hidden": 0.0}}, over))
    found = {}
    for eager in (3, 10**9):
        monkeypatch.setattr(step, "EAGER_STEPS", eager)
        data = preprocess.prepare(made_splits(), s.data, True, torch.device("cuda"))
        module = train.Classifier(s, data, 0).to("cuda")
        module.rule.set_rate(1e-3)
        for i in range(20):
            if i == 10:
                module.rule.set_rate(1e-4)  # a recording must follow the schedule
            module.training_step([torch.arange(i * 20, i * 20 + s.train.batch, device="cuda")], 0)
        assert (module._step.graph is not None) == (eager == 3)
        found[eager] = [float(module.loss_sum), *(p.detach().cpu() for p in module.net.parameters())]
    for a, b in zip(found[3], found[10**9], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_products_of_signs_are_exact_on_tensor_cores():
    torch.manual_seed(0)
    x, w = (torch.randint(0, 2, shape, device="cuda").float() * 2 - 1 for shape in ((100, 4096), (512, 4096)))
    bias = torch.zeros(512, device="cuda")
    found = products.binary_linear(x * 2, w, bias, True)
    assert torch.equal(found.cpu(), (2 * x.cpu()) @ w.cpu().T)
    image, taps = (
        torch.randint(0, 2, shape, device="cuda").float() * 2 - 1 for shape in ((4, 128, 16, 16), (64, 128, 3, 3))
    )
    found = products.binary_conv2d(image, taps, bias[:64], True)
    assert torch.equal(found.cpu(), torch.nn.functional.conv2d(image.cpu(), taps.cpu(), padding=1))


def test_gradients_through_tensor_cores_keep_the_stated_precision():
    torch.manual_seed(0)
    x = (torch.randint(0, 2, (100, 4096), device="cuda").float() * 2 - 1).requires_grad_()
    w = torch.randn(512, 4096, device="cuda").requires_grad_()
    g = torch.randn(100, 512, device="cuda")
    products.binary_linear(x, w, torch.zeros(512, device="cuda"), True).backward(g)
    wanted_x, wanted_w = g.double() @ sign(w).double(), g.double().T @ x.double()
    assert ((x.grad - wanted_x).abs() <= 2.0**-11 * g.double().abs().sum(1, keepdim=True)).all()
    assert ((w.grad - wanted_w).abs() <= 2.0**-11 * g.double().abs().sum(0)[:, None]).all()
