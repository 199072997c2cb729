"""The layers of kernels.torch train like the harness's; the example and the Python code of README and docs run."""

import re
import runpy
import shutil

import pytest
import torch
from made import convnet_settings, made_images, settings
from PIL import Image
from torch import nn

from kernels.torch import BinaryConv2d, BinaryLinear, clip_weights
from reproduce import nets, yamlfile

NETS = {
    "mlp": settings(net={"hidden": [40, 30], "dropout_in": 0.0, "dropout_hidden": 0.0}),
    "convnet": convnet_settings(net={"channels": [6, 8], "dense": [20]}),
}


def of_user_layers(harness, convolutions):
    """The same net as a user writes it: each layer takes the sign of its input, with none after the last."""
    parts = []
    for i, block in enumerate(harness.blocks):
        own = block.layer
        if i < convolutions:
            made = BinaryConv2d(own.in_channels, own.out_channels, 3, padding=1, real_inputs=i == 0)
        else:
            parts += [nn.Flatten()] if i == convolutions else []
            made = BinaryLinear(own.in_features, own.out_features, real_inputs=i == 0)
        made.load_state_dict(own.state_dict())
        parts += [made, *([nn.MaxPool2d(2)] if block.pool else []), block.norm]
    return nn.Sequential(*parts)


def trained(net, x, labels, layers, steps=12):
    optimizer = torch.optim.Adam(net.parameters(), 0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), labels).backward()
        optimizer.step()
        with torch.no_grad():
            if layers is None:
                clip_weights(net)
            else:
                for layer in layers:
                    layer.weight.clamp_(-1, 1)
    return net


@pytest.mark.parametrize("kind", NETS)
def test_they_train_like_the_harness_layers(kind):
    wanted = NETS[kind]
    shape, convolutions = ((28, 28), 0) if kind == "mlp" else ((32, 32, 3), 2 * len(wanted.net.channels))
    images, labels = made_images(20, shape)
    x = torch.from_numpy(images / 127.5 - 1)
    x = x.flatten(1) if kind == "mlp" else x.permute(0, 3, 1, 2)
    torch.manual_seed(0)
    harness = nets.build(wanted).double()
    twin = nets.build(wanted).double()
    twin.load_state_dict(harness.state_dict())
    mine = of_user_layers(twin, convolutions).double()
    before = [p.detach().clone() for p in mine.parameters()]
    trained(harness, x, torch.from_numpy(labels).long(), [block.layer for block in harness.blocks])
    trained(mine, x, torch.from_numpy(labels).long(), None)
    for its, own, old in zip(harness.parameters(), mine.parameters(), before, strict=True):
        torch.testing.assert_close(own, its, rtol=1e-6, atol=1e-6)
        assert own.dim() == 1 or (own - old).abs().max() > 1e-3  # the gradient of a bias before a batch norm is 0
    harness.eval(), mine.eval()
    with torch.no_grad():
        torch.testing.assert_close(mine(x), harness(x), rtol=1e-6, atol=1e-6)


def test_the_example_runs_and_learns(capsys):
    """examples/one_bit_model.py, from top to bottom, as a notebook would run it."""
    found = runpy.run_path(str(yamlfile.ROOT / "examples" / "one_bit_model.py"))
    assert found["accuracy"] > 0.9 and found["same"]
    assert "1-bit" in capsys.readouterr().out


def test_the_python_lines_of_readme_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "digits").mkdir()
    for i, image in enumerate(made_images(3)[0]):
        Image.fromarray(image).save(tmp_path / "digits" / f"{i}.png")
    (tmp_path / "results").symlink_to(yamlfile.ROOT / "results")
    shutil.copy(next((yamlfile.ROOT / "results" / "nets").glob("table1-bnn-torch7-*.bnn")), tmp_path / "net.bnn")
    monkeypatch.chdir(tmp_path)
    pages = [yamlfile.ROOT / "README.md", *sorted((yamlfile.ROOT / "docs").glob("*.md"))]
    blocks = [block for page in pages for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S)]
    assert len(blocks) == 3
    names = {"model": nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))}
    for block in blocks:
        exec(block, names)
    assert re.fullmatch(r"(\[\d \d \d\]\n){2}", capsys.readouterr().out)
    assert isinstance(names["model"][2], BinaryLinear)
