"""Tries each optional part of a training step on a GPU (`nets.ways`) before it is used.

A part that hangs or leaves the GPU in a bad state ends its whole process. So each trial is a process of its own,
with a time limit. Exit code 0: it passed; 1: it failed, and a line says why.
"""

from __future__ import annotations

import copy
import os
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kernels.bench.timing import said
from kernels.cuda import launch, trial
from reproduce import nets, spec
from reproduce.nets import tensorcores, ways
from reproduce.nets.binarize import sign

CELLS = {
    "paper": ("table1/bnn-theano-mnist", "table1/bnn-theano-cifar10"),
    "small": ("check/mlp", "check/convnet"),
}
"""The nets that are tried, by scale."""
STEPS = 8
"""Steps of a trial: more than the eager steps before a step is recorded as a CUDA graph."""
CLOSE = 0.05
"""Largest relative difference between the mean costs of STEPS recorded and unrecorded steps, and of gradients."""


def choose_parts(say: Callable[[str], None]) -> dict[str, str]:
    """Try every part on the GPU. Leave out those that fail, here and in later processes; returns part -> reason.

    Does nothing if $REPRODUCE_WITHOUT is set: the parts have then been chosen already.
    """
    prepare()
    if "REPRODUCE_WITHOUT" in os.environ:
        return {}
    return try_parts(say, "cuda", "paper", {})


def try_parts(
    say: Callable[[str], None],
    device: str,
    scale: str,
    others: dict[str, list[str]],
    seconds: tuple[float, float] = (trial.SECONDS, trial.SECONDS),
    cells: Sequence[str] = (),
) -> dict[str, str]:
    """As `choose_parts`, but parts in $REPRODUCE_WITHOUT are not tried and stay left out.

    `others`: further trials, for `trial.broken`. `seconds`: two time limits. The first is for all parts together.
    The second is for recorded steps that use the parts that passed; time left over from the first is added to it.
    `cells`: only what these nets use is tried; without them, the nets of CELLS.
    """
    given = ways.left_out()
    os.environ["REPRODUCE_WITHOUT"] = " ".join(given)
    own = list(dict.fromkeys(cells)) or list(CELLS[scale])
    kinds = {settings_of(name, scale).net.kind for name in own}
    alike = [name for name in CELLS[scale] if settings_of(name, scale).net.kind in kinds] or list(CELLS[scale])
    end = time.monotonic() + sum(seconds)
    name = "reproduce.campaign.gpu_trial"
    first = {part: [name, part, device, scale, *own] for part in ("bf16", "fp16", "tf32")}
    first |= {"passes": [name, "passes", device, scale, *alike]}  # float nets do not use them
    first |= {trial.UPDATES: ["kernels.cuda.trial", trial.UPDATES]}
    first = {part: words for part, words in first.items() if part not in given}
    found = trial.broken(first | others, seconds[0])
    for part in found:
        if part in ways.PARTS:
            ways.leave_out(part)
    graphs = {f"graph of {cell}": [name, "graph", device, scale, cell] for cell in own if "graph" not in given}
    found |= trial.broken(graphs, max(seconds[1], end - time.monotonic()))
    if any(net in found for net in graphs):
        ways.leave_out("graph")
    for part, reason in found.items():
        say(f"left out: {part}: {reason}")
    return found


def prepare() -> None:
    """Full float32 by default; cuDNN's fastest algorithms, found by trying: batches are of one size."""
    tensorcores.full_precision()
    torch.backends.cudnn.benchmark = True


def check(part: str, cells: Sequence[spec.Settings], device: torch.device) -> None:
    """Try one part on these nets; RuntimeError if it fails. Not for "updates": `kernels.cuda.trial` tries it."""
    prepare()
    torch.manual_seed(0)
    if part == "graph":
        for settings in cells:
            _check_graph(settings, device)
    elif part == "passes":
        for settings in cells:
            try:
                _check_passes(settings, device)
            except RuntimeError:  # a sign right beside 0 in a first layer spreads: once more, with other numbers
                _check_passes(settings, device)
    elif part == "bf16":
        for shape in sorted({shape for settings in cells for shape in _linear_shapes(settings)}):
            _check_linear(*shape, device)
    else:
        if part == "tf32":
            ways.leave_out("fp16")
        for settings in cells:
            if (failed := inexact(settings, device)) and failed[0] == part:
                raise RuntimeError(failed[1])


def leave_out_inexact(cells: Sequence[spec.Settings], device: torch.device, say: Callable[[str], None]) -> None:
    """Leave out the parts by which the forward convolutions of these nets are inexact in this process.

    That depends on the algorithm that cuDNN chooses. It chooses by measuring, again in each process.
    """
    prepare()
    for settings in {each.digest(): each for each in cells}.values():
        while failed := inexact(settings, device):
            say(f"left out: {failed[0]}: {failed[1]}")
            ways.leave_out(failed[0])


def inexact(settings: spec.Settings, device: torch.device) -> tuple[str, str] | None:
    """The part of `ways` by which a net's forward convolutions of ±1 by ±1 are inexact, and a line that says how.

    Tried in the net's own sizes and memory layout, with batches of training and of evaluation. None if exact.
    """
    from reproduce.training.train import eval_batch

    net = settings.net
    if not isinstance(net, spec.ConvNet) or net.weights != "binary" or net.activation == "relu":
        return None
    for layer in settings.layers()[1:]:  # images are real: the first layer's products need not be exact
        if layer.kernel == 1:
            continue
        part = "fp16" if ways.uses("fp16") and tensorcores.exact_in_fp16(layer.inputs) else "tf32"
        for batch in (settings.train.batch, eval_batch(device)) if ways.uses(part) else ():
            if wrong := _wrong_convolution(batch, layer.outputs, layer.inputs, layer.height, device):
                return part, wrong
    return None


def _signs(*shape: int, device: torch.device) -> Tensor:
    return torch.randint(0, 2, shape, device=device).float().mul_(2).sub_(1)


def _wrong_convolution(batch: int, units: int, inputs: int, size: int, device: torch.device) -> str | None:
    x, w = _signs(batch, inputs, size, size, device=device), _signs(units, inputs, 3, 3, device=device)
    x[0], w[0] = 1, 1  # the largest results
    x, w = (each.contiguous(memory_format=torch.channels_last) for each in (x, w))
    with torch.no_grad():
        found = tensorcores.conv2d(x, w, torch.zeros(units, device=device), True)
        for part in (slice(0, 4), slice(-4, None)):
            want = tensorcores.unfolded(x[part].double(), w.double())
            if wrong := int((found[part].double() != want).sum()):
                what = f"convolution of {batch} images {size}×{size}, {inputs} to {units} channels"
                return f"{what}: {wrong} of {want.numel()} integers are wrong"
    return None


def _linear_shapes(settings: spec.Settings) -> list[tuple[int, int, int, bool]]:
    """Batch, outputs, inputs of a net's linear layers, and whether the inputs are real."""
    batch = settings.train.batch
    return [(batch, a.outputs, a.inputs, i == 0) for i, a in enumerate(settings.layers()) if a.kernel == 1]


def _check_linear(batch: int, units: int, inputs: int, first: bool, device: torch.device) -> None:
    x = torch.randn(batch, inputs, device=device) if first else 2 * _signs(batch, inputs, device=device)
    w, g = torch.randn(units, inputs, device=device), torch.randn(batch, units, device=device)
    x.requires_grad_(), w.requires_grad_()
    found = tensorcores.linear(x, w, torch.zeros(units, device=device), not first)
    found.backward(g)
    assert x.grad is not None and w.grad is not None
    x64, w64, g64 = x.detach().double(), sign(w).double(), g.double()
    rounding = 2.0**-16
    bounds = {
        "results": (found, x64 @ w64.T, rounding * (x64.abs() @ w64.abs().T) if first else None),
        "gradients of inputs": (x.grad, g64 @ w64, rounding * (g64.abs() @ w64.abs())),
        "gradients of weights": (w.grad, g64.T @ x64, rounding * (g64.abs().T @ x64.abs())),
    }
    for what, (mine, want, bound) in bounds.items():
        off = (mine.double() - want).abs() > (0 if bound is None else bound)
        if bool(off.any()):
            count = f"{int(off.sum())} of {off.numel()}"
            raise RuntimeError(f"linear layer of {inputs} to {units}, batch {batch}: {count} {what} are wrong")


def _check_passes(settings: spec.Settings, device: torch.device) -> None:
    """Compare cost, gradients and moving averages of a step with and without autograd; neither has noise."""
    from reproduce.campaign.probe import Probe
    from reproduce.training.cuda import without_autograd
    from reproduce.training.step import squared_hinge

    if reason := launch.no_gpu():
        raise RuntimeError(reason)
    made = Probe(_without_noise(settings), device)
    net, data = made.module.net, made.data
    assert isinstance(net, nets.MLP | nets.ConvNet)
    if reason := without_autograd.unknown(net, data, made.batch, settings.train.loss):
        raise RuntimeError(reason)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if ".norm." in name:  # else many results are 0 up to rounding, and their signs are random
                p.uniform_(-1, 1)
    index, before = torch.arange(made.batch, device=device), copy.deepcopy(net.state_dict())
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)

    def state(cost: Tensor) -> dict[str, Tensor]:
        grads = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
        return {"cost": cost.detach().clone(), **grads, **{name: b.clone() for name, b in net.named_buffers()}}

    without_autograd.NetStep(net, data, loss_sum)(index)
    mine = state(loss_sum)
    net.load_state_dict(before)
    net.zero_grad()
    cost = squared_hinge(net(data.images(index)), made.module.targets[data.labels[index]])
    cost.backward()
    for name, value in state(cost).items():
        size = value.norm()
        if name.endswith("layer.bias"):  # before a batch norm this gradient is 0 up to rounding
            value, size = torch.zeros_like(value), mine[name.replace("layer", "norm")].norm()
        off = float((mine[name] - value).norm() / size)
        if not off < CLOSE:
            raise RuntimeError(f"{name}: a relative difference of {off:.3g} from autograd's")


def _without_noise(settings: spec.Settings) -> spec.Settings:
    net = settings.net
    assert isinstance(net, spec.PaperNet)
    still: dict[str, object] = {"activation": "sign" if net.activation == "stochastic_sign" else net.activation}
    if isinstance(net, spec.MLPNet):
        still |= {"dropout_in": 0.0, "dropout_hidden": 0.0}
    return settings.model_copy(update={"net": net.model_copy(update=still)})


def _check_graph(settings: spec.Settings, device: torch.device) -> None:
    """Compare the costs of recorded and eager steps from the same state, without noise.

    Here cuDNN uses fixed algorithms, whose sums do not depend on the order of threads.
    """
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    from reproduce.campaign.probe import Probe

    settings = _without_noise(settings)
    costs = []
    for recorded in (True, False):
        torch.manual_seed(0)
        made = Probe(settings, device)
        order = torch.arange(made.batch, device=device)
        before = os.environ.get("REPRODUCE_WITHOUT", "")
        if not recorded:
            ways.leave_out("graph")
        try:
            made.module.training_step([order] * STEPS, 0)
        finally:
            os.environ["REPRODUCE_WITHOUT"] = before
        costs.append(float(made.module.loss_sum) / STEPS)
    if not abs(costs[0] / costs[1] - 1) < CLOSE:
        raise RuntimeError(f"{STEPS} recorded steps cost {costs[0]:.6g} each, eager ones {costs[1]:.6g}")


def settings_of(name: str, scale: str) -> spec.Settings:
    """The settings of a cell at a scale, of a short schedule its own. KeyError if it has neither."""
    (cell,) = spec.cells([name])
    return cell.scales[scale if scale in cell.scales else "short"]


def main(arguments: list[str] | None = None) -> int:
    """One trial: PART DEVICE SCALE [CELL ...]; see the module."""
    part, device, scale, *names = sys.argv[1:] if arguments is None else arguments
    try:
        check(part, [settings_of(name, scale) for name in names or CELLS[scale]], torch.device(device))
    except Exception as error:  # a driver can raise any error
        print(said(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
