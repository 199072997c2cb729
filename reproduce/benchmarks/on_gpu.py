"""Figure 3 on an NVIDIA GPU: products, the MNIST MLP and the CIFAR-10 ConvNet by every CUDA backend; one record.

The nets are those of `benchmarks.cells`, of the paper's sizes. Beside the packed net stand the same
net in plain torch float32 (TF32 off, and on), and once more with every product by the paper's naive kernel. Images
are on the GPU but where it is said, predictions end on the host, so every time is one of a host's clock. A packed
net that gives another class than on the host has no row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import kernels
from kernels import cuda, pixels
from kernels.bench import clock, timing
from kernels.bench import on_gpu as products
from kernels.bench.on_cpu import has_compiler
from kernels.cuda import arrays, launch, nvrtc, trial
from reproduce import spec
from reproduce.benchmarks import common
from reproduce.benchmarks.cells import CELLS, RANDOM, floats, images_of, net_of
from reproduce.datasets.data import DataError
from reproduce.nets.tensorcores import full_precision
from reproduce.packed import PackedNet
from reproduce.records import machine, runs
from reproduce.records.benchmark import CUT_OFF

Say = Callable[[str], None]
Keep = Callable[[dict[str, Any]], None]
Classes = NDArray[np.int64]
IMAGES = {"MNIST MLP": (10000, 10000), "CIFAR-10 ConvNet": (10000, 1000)}  # images, batch
QUICK_IMAGES = {"MNIST MLP": (8, 4), "CIFAR-10 ConvNet": (2, 1)}
NAIVE_IMAGES = 10000, 1000  # of an MLP, of a ConvNet: the naive kernel's time for more of them is multiplied
NAIVE_BATCH = 100
HOST_IMAGES = 200  # that a host without a compiler predicts
FP32, TF32, NAIVE = "torch float32, end to end", "torch tf32, end to end", "naive float32 (cuda-naive), end to end"


def missing() -> str | None:
    """Why nothing can be measured here, in one line; None if it can."""
    if not torch.cuda.is_available():
        return "no CUDA device here"
    reason = launch.no_gpu()
    return f"{reason}; `pip install cupy-cuda13x` brings it" if reason and "CuPy cannot" in reason else reason


def measure(
    say: Say,
    data_folder: Path | None,
    quick: bool = False,
    keep: Keep = lambda _: None,
    broken: dict[str, str] | None = None,
) -> dict[str, Any]:
    """The record of one run on this machine's GPU. `quick`: tiny sizes, for tests.

    broken: backends that failed earlier trials, and why; None: each is tried now.
    `keep` is called with the record after the products and after each net, so that a crash loses only one part.
    """
    started = runs.now()
    full_precision()
    torch.backends.cudnn.benchmark = True  # the library's best: batches are of one size
    names = (*products.BACKENDS, "cuda-naive")
    said = kernels.backends()
    usable = [name for name in names if not said[name].startswith("unavailable")]
    if broken is None:
        say("each kernel once, in a process of its own")
        broken = trial.failures([*usable, trial.PIXELS])
    broken = broken | {name: said[name] for name in names if name not in usable}
    for name, reason in broken.items():
        say(f"left out: {name}: {reason}")
    before = clock.readings()
    rows: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    notes: list[str] = []

    def record_of(left: list[str]) -> dict[str, Any]:
        every = notes + [f"{one['what']}, {one['candidate']}: left out, {one['error']}" for one in failed]
        every += [CUT_OFF + name for name in left]
        content = common.about("gpu", quick, started, _versions(), "cuda")
        content["machine"] = content["machine"] | {"readings": {"before": before, "after": clock.readings()}}
        return content | {
            "backends": said,
            "first_layer": pixels.describe("cuda-xnor"),
            "bounds": clock.bounds(before),
            "rows": list(rows),
            "failed": list(failed),
            "notes": list(dict.fromkeys(every)),
            "warnings": timing.warnings(rows),
            "paper": common.figure3(),
        }

    parts: dict[str, Callable[[], tuple[list[dict[str, Any]], list[str], list[dict[str, str]]]]]
    parts = {"products": partial(_product_rows, say, broken, quick)}
    parts |= {name: partial(_net_rows, name, say, data_folder, quick, broken) for name in CELLS}
    for name, part in parts.items():
        try:
            found, remarks, wrong = part()
        except DataError:
            raise
        except Exception as error:  # a GPU that has given up fails every later call too: keep what there is
            found, remarks, wrong = [], [], [{"what": name, "candidate": "all", "error": timing.said(error)}]
        rows, notes, failed = rows + found, notes + remarks, failed + wrong
        keep(record_of(list(parts)[list(parts).index(name) + 1 :]))
    return record_of([])


def _product_rows(
    say: Say, broken: dict[str, str], quick: bool
) -> tuple[list[dict[str, Any]], list[str], list[dict[str, str]]]:
    rows, failed = products.products(say, broken, quick)
    return rows, [], failed


def _versions() -> dict[str, str]:
    found = machine.versions("cupy-cuda13x", "cupy-cuda12x", "triton")
    if torch.version.cuda:
        found["torch's CUDA"] = torch.version.cuda
    with suppress(nvrtc.CompileError):  # then no kernel runs, and each says so
        found["NVRTC"] = ".".join(map(str, nvrtc.compiler().version))
    return found


# --- the nets -------------------------------------------------------------------------------------------------


def _net_rows(
    name: str, say: Say, data_folder: Path | None, quick: bool, broken: dict[str, str]
) -> tuple[list[dict[str, Any]], list[str], list[dict[str, str]]]:
    """Rows for one net (all images from the GPU, from the host, one image alone), notes, and what failed."""
    settings, net, plain, whose = net_of(name, quick)
    count, batch = (QUICK_IMAGES if quick else IMAGES)[name]
    images, source = images_of(name, settings, data_folder, count)
    usable = [backend for backend in products.BACKENDS if backend not in broken and trial.PIXELS not in broken]
    plain = plain.to(products.DEVICE)
    there = arrays.moved(images)
    want, held = _wanted(net, images, there, usable)
    part = min(len(images), NAIVE_IMAGES[settings.net.kind == "convnet"])
    share = len(images) / part
    say(f"{name}: {len(images)} images, batches of {batch}")
    notes = [f"{name}: {whose}, {source}; every packed net held against {held}"]
    if share > 1:
        notes.append(f"{name}, {NAIVE}: timed on {part} images, times {share:g}")
    rows, failed = [], []
    rest = f"{len(images)} images in batches of {batch}"
    for where, few, size, most in (
        (f"{name}, {rest}", there, batch, 6.0),
        (f"{name} from the host, {rest}", images, batch, 3.0),
        (f"{name}, one image alone", images[:1], 1, 2.0),
    ):
        whole = few is there
        calls = _candidates(net, plain, few, size, usable)
        if "cuda-naive" not in broken and few is not images:
            calls[NAIVE] = _naive(plain, few[:part] if whole else few, settings)
        errors = {
            f"packed {b}": broken.get(b) or broken[trial.PIXELS] for b in products.BACKENDS if b not in usable
        }
        differing = _compared(calls, want, errors)
        budget, least = (0.02, 3) if quick else (most, 5)
        times = timing.interleave(
            calls, budget, least, 31, 0.0 if quick else 0.02, dict.fromkeys(calls, clock.waiting), 200, errors
        )
        if whole and NAIVE in times:
            times[NAIVE] = times[NAIVE] * share
        failed += [{"what": where, "candidate": key, "error": error} for key, error in errors.items()]
        macs, readings = settings.macs, clock.readings()
        for key in times:
            row = timing.row(where, key, times, 2.0 * macs * len(few), batch=size, images=len(few))
            row |= {"images_per_second": len(few) / row["seconds"], "differing": differing[key]}
            row["timed_images"] = part if whole and key == NAIVE else len(few)
            row["random_weights"] = whose == RANDOM
            rows.append(row | {"clock": "host", "readings": readings})
            if whole:
                notes.append(f"{name}: {key} and the packed net differ on {differing[key]} images")
    return rows, notes, failed


def _wanted(net: PackedNet, images: Any, there: Any, usable: list[str]) -> tuple[Classes, str]:
    """The right classes, and what computed them: the host, on every image if it has a compiler."""
    if has_compiler():
        return net.predict(images), "the host's on every image"
    few = net.predict(images[:HOST_IMAGES])
    for backend in usable:
        with suppress(Exception):  # it will fail again when it is timed, and be named
            every = net.predict(there, backend)
            if np.array_equal(every[: len(few)], few):
                return every, f"the host's on {len(few)} images (no compiler), {backend}'s on the rest"
    return few, f"the host's on {len(few)} images (no compiler)"


def _candidates(
    net: PackedNet, plain: nn.Module, images: Any, batch: int, usable: list[str]
) -> dict[str, Callable[[], Classes]]:
    """The candidates by name; each classifies `images`, which are on the GPU (CuPy's) or on the host."""
    found: dict[str, Callable[[], Classes]] = {
        f"packed {b}, end to end": partial(net.predict, images, b) for b in usable
    }
    found[FP32] = partial(_torch_classes, plain, images, batch)

    def tf32() -> Classes:
        with _tensor_cores():
            return _torch_classes(plain, images, batch)

    return found | {TF32: tf32}


def _compared(calls: dict[str, Callable[[], Classes]], want: Classes, errors: dict[str, str]) -> dict[str, int]:
    """On how many images each candidate differs from `want`; failures and wrong packed nets go to `errors`."""
    differing = {}
    for key in list(calls):
        try:
            classes = calls[key]()
            differing[key] = int((classes != want[: len(classes)]).sum())
            wrong = f"{differing[key]} wrong predictions" if key.startswith("packed") and differing[key] else None
        except Exception as error:  # a launch that fails, memory, a driver's own words
            wrong = timing.said(error)
        if wrong:
            errors[key] = wrong
            del calls[key]
    return differing


def _torch_classes(net: nn.Module, images: Any, batch: int) -> Classes:
    """Classes by a float net on the GPU; images uint8, CuPy's or NumPy's."""
    x = arrays.as_torch(images) if arrays.on_gpu(images) else torch.from_numpy(images).to(products.DEVICE)
    with torch.no_grad():
        found = [net(floats(part)).argmax(1) for part in x.split(batch)]
        classes: Classes = torch.cat(found).cpu().numpy()
    return classes


@contextmanager
def _tensor_cores() -> Iterator[None]:
    holders: tuple[Any, Any] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    for holder in holders:
        holder.fp32_precision = "tf32"
    try:
        yield
    finally:
        full_precision()


# --- the naive kernel as a net's products ---------------------------------------------------------------------


class NaiveProducts(TorchFunctionMode):
    """Within this mode torch's linear maps and 3×3 convolutions (padding 1) use the naive kernel.

    Weights are brought to its layout once. Convolutions are products of unfolded windows.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights: dict[int, tuple[Tensor, Any]] = {}
        self.products = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear:
            return self._linear(*args, **(kwargs or {}))
        if func is F.conv2d:
            return self._conv2d(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        kept = self.weights.get(id(weight))
        if kept is None:
            kept = (weight, arrays.as_cupy(weight.detach().flatten(1).t().contiguous())[0])
            self.weights[id(weight)] = kept
        self.products += 1
        product = cuda.naive_product(arrays.as_cupy(x.contiguous())[0], kept[1])
        y: Tensor = arrays.as_torch(product) + bias
        return y

    def _conv2d(self, x: Tensor, weight: Tensor, bias: Tensor, padding: int) -> Tensor:
        assert padding == 1
        images, _, height, width = x.shape
        windows = F.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1)
        y = self._linear(windows, weight, bias)
        return y.view(images, height, width, -1).permute(0, 3, 1, 2)


def _naive(plain: nn.Module, images: Any, settings: spec.Settings) -> Callable[[], Classes]:
    batch = len(images) if settings.net.kind == "mlp" else NAIVE_BATCH
    mode = NaiveProducts()
    layers = len(settings.layers())

    def run() -> Classes:
        mode.products = 0
        with mode:
            classes = _torch_classes(plain, images, batch)
        if mode.products != layers * -(-len(images) // batch):
            raise RuntimeError(f"{mode.products} products by the naive kernel in a net of {layers} layers")
        return classes

    return run
