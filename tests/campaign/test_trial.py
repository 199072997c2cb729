"""Trials of a GPU step's parts, on the CPU: sound parts pass, and parts with an error are left out."""

import dataclasses
import os

import pytest
import torch
from made import convnet_settings, made_run, settings

from kernels.cuda import trial as kernel_trial
from reproduce.campaign import gpu_trial
from reproduce.nets import tensorcores, ways
from reproduce.records import machine
from reproduce.training import step, train

CPU = torch.device("cpu")
NETS = [settings(), convnet_settings(train={"batch": 10})]


@pytest.fixture(autouse=True)
def nothing_left_out(monkeypatch):
    monkeypatch.setenv("REPRODUCE_WITHOUT", "")
    monkeypatch.setenv("REPRODUCE_PRODUCTS", "float32")
    monkeypatch.setattr(train, "EVAL_BATCH", 12)
    yield monkeypatch
    torch.backends.cudnn.benchmark = False


@pytest.mark.parametrize("part", ["bf16", "fp16", "tf32", "graph"])
def test_a_sound_part_passes(part):
    gpu_trial.check(part, NETS, CPU)


def test_a_gradient_of_too_few_bits_is_found(nothing_left_out):
    real = tensorcores.parts
    nothing_left_out.setattr(tensorcores, "parts", lambda x, count: real(x, 1).repeat(count, 1) / count)
    with pytest.raises(
        RuntimeError, match=r"linear layer of \d+ to \d+, batch 10+: .* gradients of inputs are wrong"
    ):
        gpu_trial.check("bf16", NETS, CPU)


def inexact_where(dtype, monkeypatch):
    """Makes convolutions inexact where a result is large, as a Winograd algorithm of cuDNN would."""
    real = torch.nn.functional.conv2d

    def off(x, w, *rest, **named):
        y = real(x, w, *rest, **named)
        return y + (y.abs() > 20) * 0.25 if x.dtype == dtype else y

    monkeypatch.setattr(tensorcores.F, "conv2d", off)


@pytest.mark.parametrize(("dtype", "part"), [(torch.float16, "fp16"), (torch.float32, "tf32")])
def test_an_inexact_convolution_is_found_and_left_out(nothing_left_out, dtype, part):
    inexact_where(dtype, nothing_left_out)
    said = []
    if part == "tf32":
        ways.leave_out("fp16")
    with pytest.raises(RuntimeError, match=r"convolution of 10 images 32×32, 4 to 4 channels: .* are wrong"):
        gpu_trial.check(part, NETS, CPU)
    gpu_trial.leave_out_inexact(NETS, CPU, said.append)
    assert not ways.uses(part) and len(said) == 1 and said[0].startswith(f"left out: {part}: convolution of 10")
    assert gpu_trial.inexact(NETS[1], CPU) is None  # the remaining parts are exact
    gpu_trial.leave_out_inexact(NETS, CPU, said.append)
    assert len(said) == 1


def test_wrong_recorded_steps_are_found(nothing_left_out):
    real = step.Step.__call__

    def other(self, index):
        if ways.uses("graph"):
            self.rule.set_rate(1.0)
        real(self, index)

    nothing_left_out.setattr(step.Step, "__call__", other)
    with pytest.raises(RuntimeError, match="8 recorded steps cost"):
        gpu_trial.check("graph", NETS[:1], CPU)


def test_failed_parts_are_left_out_and_nothing_is_tried_twice(nothing_left_out):
    """The graph is tried with the parts that passed the first trials."""
    asked, words = [], {}

    def broken(commands, seconds=0):
        asked.append((sorted(commands), os.environ["REPRODUCE_WITHOUT"]))
        words.update(commands)
        return {"updates": "RuntimeError: 3 of 9"} if "updates" in commands else {"graph of b": "hangs"}

    nothing_left_out.setattr(kernel_trial, "broken", broken)
    kinds = {"a": settings(), "b": convnet_settings(), "c": settings()}
    nothing_left_out.setattr(gpu_trial, "settings_of", lambda name, _: kinds[name])
    nothing_left_out.setattr(gpu_trial, "CELLS", {"paper": ("a", "b")})
    nothing_left_out.delenv("REPRODUCE_WITHOUT")
    said = []
    found = gpu_trial.choose_parts(said.append)
    assert found == {"updates": "RuntimeError: 3 of 9", "graph of b": "hangs"}
    parts = ["bf16", "fp16", "passes", "tf32", "updates"]
    assert asked == [(parts, ""), (["graph of a", "graph of b"], "updates")]
    assert ways.left_out() == ("updates", "graph")
    assert said == ["left out: updates: RuntimeError: 3 of 9", "left out: graph of b: hangs"]
    assert gpu_trial.choose_parts(said.append) == {} and len(asked) == 2
    assert words["passes"][-2:] == words["bf16"][-2:] == ["a", "b"]
    nothing_left_out.setenv("REPRODUCE_WITHOUT", "bf16 graph")
    gpu_trial.try_parts(said.append, "cuda", "paper", {}, cells=["c", "c"])  # of c's kind there is a
    assert asked[2:] == [(["fp16", "passes", "tf32", "updates"], "bf16 graph"), ([], "bf16 graph updates")]
    assert words["passes"][-1] == "a" and words["tf32"][-2:] == ["paper", "c"]


@pytest.mark.exhaustive
def test_a_trial_in_its_own_process_reports_the_error(nothing_left_out):
    devices = {"bf16": "cpu", "graph": "nowhere"}
    commands = {part: ["reproduce.campaign.gpu_trial", part, where, "small"] for part, where in devices.items()}
    found = kernel_trial.broken(commands, 300)
    assert list(found) == ["graph"] and "nowhere" in found["graph"]


def test_a_gpu_runs_key_and_record_name_the_parts_left_out(nothing_left_out):
    run = dataclasses.replace(made_run(), device="cuda")
    keys = set()
    for without in ("", "updates", "graph updates"):
        nothing_left_out.setenv("REPRODUCE_WITHOUT", without)
        keys.add(run.key)
    assert len(keys) == 3
    nothing_left_out.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    nothing_left_out.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    machine.machine.cache_clear()
    assert machine.machine("cuda")["without"] == ["updates", "graph"]
    machine.machine.cache_clear()


def test_without_the_kernel_torch_makes_the_updates(nothing_left_out):
    """`on_gpu` decides whether the kernels update a parameter."""
    from kernels.cuda import launch
    from reproduce.training import optim

    class There:
        is_cuda, dtype = True, torch.float32

    nothing_left_out.setattr(launch, "no_gpu", lambda: None)
    assert optim.on_gpu(There())
    ways.leave_out("updates")
    assert not optim.on_gpu(There())
