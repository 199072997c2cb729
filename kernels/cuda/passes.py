"""The operations between the products of a training step on a GPU (src/passes.cu).

For callers whose arrays belong to another library: all arguments are device addresses and numbers. Matrices are
(rows, units), C-contiguous, rows being the images of a batch. A float32 matrix may be given as a sum of several
matrices, stacked by rows; `parts` and `grads` are their numbers. Each function queues on `stream`, and raises
RuntimeError on a GPU that the kernels are not compiled for.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any

from kernels.cuda import launch, tiles

MOST_ROWS = tiles.PASSES["GROUPS"] * tiles.PASSES["KEPT"]
"""The largest batch of `forward` and `backward`."""


@dataclass(frozen=True)
class Images:
    """uint8 images (all, pixels) at int64 `index` (rows,) as x · scale + shift, with dropout.

    shift: float32 (shifts,), one number or one a pixel; noise: float32 (rows, pixels) in [0, 1), or 0 for no
    dropout: an element stays, divided by 1 - drop, where its noise is at least `drop`. Written: whole float32
    (rows, pixels); parts bfloat16 (3 rows, pixels), three matrices whose sum is `whole`.
    """

    images: int
    index: int
    shift: int
    noise: int
    whole: int
    parts: int
    rows: int
    pixels: int
    shifts: int
    scale: float
    drop: float


@dataclass(frozen=True)
class Forward:
    """Batch normalization of y by its batch, as `BatchNorm` in training, then sign and dropout.

    bias (of y), gamma, beta: float32 (units,). Moved by `alpha` towards the batch's: moving_mean, moving_inverse.
    Written: mean (without bias) and inverse = 1 / sqrt(var + eps), for `Backward`; with an activation signs
    (2 rows, units), twice the same matrix of 0 and ± the number whose 16 bits are `one`, else out float32 (rows,
    units). noise as in `Images`.
    """

    y: int
    bias: int
    gamma: int
    beta: int
    moving_mean: int
    moving_inverse: int
    mean: int
    inverse: int
    noise: int
    signs: int
    out: int
    parts: int
    rows: int
    units: int
    one: int
    eps: float
    alpha: float
    drop: float


@dataclass(frozen=True)
class Backward:
    """Gradients of `Forward`: of y from `grad`, that of the result. That of the bias is 0.

    kept: factor of the values that dropout kept; masked: no gradient where |normalized| > 1 (paper, equation 4).
    Written: to_gamma, to_beta float32 (units,); halves bfloat16 (2 rows, units): the gradient of y as a
    high and a low part, 16 significant bits; whole, unless 0: the same, float32.
    """

    y: int
    grad: int
    signs: int
    mean: int
    inverse: int
    gamma: int
    beta: int
    to_gamma: int
    to_beta: int
    halves: int
    whole: int
    parts: int
    grads: int
    rows: int
    units: int
    masked: int
    kept: float


@dataclass(frozen=True)
class Hinge:
    """The mean of max(0, 1 - t · score)² over scores (rows, classes), t = 1 at the label, else -1.

    labels: int64, those of the images at `index` count. The mean is added to `loss_sum`, float64; grad float32
    (rows, classes) is its gradient.
    """

    scores: int
    labels: int
    index: int
    grad: int
    loss_sum: int
    rows: int
    classes: int


@dataclass(frozen=True)
class Conv:
    """Batch normalization by the batch, then sign, after a convolution; with `pool` after a 2×2 max pooling.

    y: float16 (`half`) or float32 (images, height, width, units), with `pool` of twice the height and width.
    Pooled it has rows = images · height · width. bias, gamma, beta, the moving averages, mean and inverse as in
    `Forward`. partial: float32 (`chunks(rows)`, 2, units), room for both passes.

    Forward writes the result ±1 in 16 bits, `signs`, and in float32, `floats`, where they are not 0. With `flat`
    it is laid out (images, units, height, width), and signs hold it twice, one under the other; else as y.
    Backward: grad float32, `grads` matrices laid out as the result. Written: to_y float32, laid out as y;
    to_gamma, to_beta.
    """

    y: int
    half: int
    pool: int
    rows: int
    units: int
    height: int
    width: int
    bias: int
    gamma: int
    beta: int
    moving_mean: int
    moving_inverse: int
    mean: int
    inverse: int
    partial: int
    signs: int
    floats: int
    grad: int
    grads: int
    one: int
    flat: int
    masked: int
    to_y: int
    to_gamma: int
    to_beta: int
    eps: float
    alpha: float


def chunks(rows: int) -> int:
    """Number of chunks of rows; a block processes one chunk."""
    return -(-rows // MOST_ROWS)


def conv_forward(job: Conv, stream: int = 0) -> None:
    """Queues the forward passes of `Conv`."""
    across = -(-job.units // tiles.PASSES["COLUMNS"])
    _queue("conv_statistics", (across, chunks(job.rows)), job, stream)
    _queue("conv_moments", (across,), job, stream)
    _queue("conv_forward", (across, chunks(job.rows)), job, stream)


def conv_backward(job: Conv, stream: int = 0) -> None:
    """Queues the backward passes of `Conv`."""
    across = -(-job.units // tiles.PASSES["COLUMNS"])
    _queue("conv_sums", (across, chunks(job.rows)), job, stream)
    _queue("conv_totals", (across,), job, stream)
    _queue("conv_backward", (across, chunks(job.rows)), job, stream)


def images(job: Images, stream: int = 0) -> None:
    """Queues `Images`."""
    blocks = min(-(-job.rows * job.pixels // tiles.PASSES.threads), launch.multiprocessors() * 4)
    _queue("step_images", (blocks,), job, stream)


def forward(job: Forward, stream: int = 0) -> None:
    """Queues `Forward`. ValueError for more than MOST_ROWS rows."""
    _queue("step_forward", _columns(job.rows, job.units), job, stream)


def backward(job: Backward, stream: int = 0) -> None:
    """Queues `Backward`. ValueError for more than MOST_ROWS rows."""
    _queue("step_backward", _columns(job.rows, job.units), job, stream)


def hinge(job: Hinge, stream: int = 0) -> None:
    """Queues `Hinge`."""
    _queue("step_hinge", (1,), job, stream)


def _columns(rows: int, units: int) -> tuple[int]:
    if rows > MOST_ROWS:
        raise ValueError(f"at most {MOST_ROWS} rows, not {rows}")
    return (-(-units // tiles.PASSES["COLUMNS"]),)


def _queue(entry: str, blocks: tuple[int, ...], job: Any, stream: int) -> None:
    with launch.on(stream):
        launch.kernel(tiles.PASSES, entry, blocks, launch.structure(*astuple(job)))
