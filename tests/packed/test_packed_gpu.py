"""Packed nets through the CUDA backends against the host's: under the emulator, and with -m gpu on a GPU."""

import numpy as np
import pytest
from made import raising
from test_packed import SHIFT, VANILLA, images_for, of_kind, random_state, shift_of

import kernels
from kernels.cuda import launch
from reproduce.packed import freeze_net
from reproduce.packed import net as net_module


@pytest.mark.parametrize(
    ("norm", "shift"),
    [
        pytest.param(VANILLA, "scalar", id="vanilla", marks=pytest.mark.exhaustive),
        pytest.param(SHIFT, "per pixel", id="shift"),
    ],
)
@pytest.mark.parametrize("kind", ["mlp", pytest.param("convnet", marks=pytest.mark.exhaustive)])
def test_every_bit_score_and_class_equals_the_hosts(cuda_name, cp, kind, norm, shift, monkeypatch):
    monkeypatch.setattr(net_module, "GPU_CHUNK", {"mlp": 4, "convnet": 1})
    small = {"channels": [5], "dense": [40, 16]} if kind == "convnet" else {}
    wanted = of_kind(kind, norm, **small)
    images = images_for(wanted, 6 if kind == "mlp" else 2)
    net = freeze_net(wanted, random_state(wanted, 1), (1 / 128, shift_of(shift, wanted)))
    for mine, theirs in zip(net.hidden_bits(images, cuda_name), net.hidden_bits(images, "cpu"), strict=True):
        assert np.array_equal(mine, theirs)
    scores = net.scores(images, "cpu")
    assert np.array_equal(net.scores(images, cuda_name), scores)
    assert np.array_equal(net.predict(images, cuda_name), scores.argmax(1))
    assert len(net.predict(images[:0], cuda_name)) == 0


@pytest.mark.exhaustive
def test_two_pooled_blocks_and_images_already_on_the_gpu(cp):
    wanted = of_kind("convnet", channels=[5, 20], dense=[40, 16])
    net = freeze_net(wanted, random_state(wanted, 2), (1 / 128, np.float32(-1).reshape(())))
    images = images_for(wanted, 2)
    there = cp.asarray(images)
    assert np.array_equal(net.scores(there), net.scores(images, "cpu"))
    assert np.array_equal(net.predict(there), net.predict(images, "cpu"))


@pytest.mark.parametrize("kind", ["mlp", "convnet"])
def test_nets_of_real_numbers_end_on_the_gpu_too(cp, kind):
    wanted = of_kind(kind) if kind == "mlp" else of_kind(kind, channels=[5], dense=[16])
    net = freeze_net(wanted, random_state(wanted), None)
    images = np.random.default_rng(3).standard_normal((3, *net.image)).astype(np.float32)
    assert np.array_equal(net.scores(images, "cuda-xnor"), net.scores(images, "cpu"))
    with pytest.raises(ValueError, match="images of the host"):
        net.predict(cp.asarray(images))


def test_bits_never_leave_the_gpu_between_layers(cp, monkeypatch):
    wanted = of_kind("mlp")
    net = freeze_net(wanted, random_state(wanted), (1 / 128, np.float32(-1).reshape(())))
    net.predict(images_for(wanted), "cuda-xnor")  # weights have moved
    for place in ("to_host", "to_gpu"):
        monkeypatch.setattr(kernels.cuda.arrays, place, raising(AssertionError("a copy")))
    assert len(net.predict(images_for(wanted), "cuda-xnor")) == 6


@pytest.mark.skipif(launch.no_gpu() is None, reason="there is a GPU here")
def test_without_a_gpu_a_net_says_why():
    wanted = of_kind("mlp")
    net = freeze_net(wanted, random_state(wanted), (1 / 128, np.float32(-1).reshape(())))
    with pytest.raises(RuntimeError, match="'cuda-bmma' is unavailable"):
        net.predict(images_for(wanted), "cuda-bmma")
