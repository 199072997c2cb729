"""Preprocessing as in the code of the paper's authors, and the data set in the memory of the compute device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from reproduce import spec
from reproduce.datasets.data import Split


@dataclass(frozen=True)
class DeviceData:
    """One split on the compute device: rows (N, P) uint8 or float32, labels (N,) int64.

    `shape` is () for flat rows, or (H, W, C). uint8 rows become floats batch by batch: x · scale + shift.
    """

    rows: Tensor
    labels: Tensor
    shape: tuple[int, ...]
    scale: float
    shift: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, index: Tensor) -> Tensor:
        """float32 images at `index` (B,): (B, P), or (B, C, H, W) laid out channels-last."""
        x = self.rows.index_select(0, index)
        if x.dtype == torch.uint8:
            x = x.to(torch.float32).mul_(self.scale).add_(self.shift)
        return x.view(len(x), *self.shape).permute(0, 3, 1, 2) if self.shape else x


def prepare(splits: dict[str, Split], data: spec.Data, flat: bool, device: torch.device) -> dict[str, DeviceData]:
    """Apply `data.preprocess`, fitted on the training split, and move every split to the device.

    `flat`: images are rows of pixels; else (H, W, C), with C = 1 for gray ones.

    As long as the steps are together an affine map per pixel, scale · (p - centre), the data stay uint8 and the
    map is applied to each batch. SpecError if a step would divide by zero.
    """
    rows = {k: torch.from_numpy(x.reshape(len(x), -1)).to(device) for k, (x, _) in splits.items()}
    labels = {k: torch.from_numpy(y).to(device, torch.int64) for k, (_, y) in splits.items()}
    image = splits["train"][0].shape[1:]
    scale, centre = 1.0, torch.zeros((), dtype=torch.float64, device=device)
    for step in data.preprocess:
        if isinstance(step, spec.Range):
            scale = (step.high - step.low) / 255
            centre = centre - step.low / scale
        elif isinstance(step, spec.Standardize | spec.Center) and rows["train"].dtype == torch.uint8:
            pixel_mean = _mean(rows["train"])
            if isinstance(step, spec.Center):
                centre = pixel_mean
            else:
                about = centre - centre.mean()  # 0 before a `center`
                mean = pixel_mean.mean()
                square = _mean(rows["train"], square=True).mean() + (about * (about - 2 * pixel_mean)).mean()
                scale = 1 / math.sqrt(_divisor(float(square - mean**2), step, 1e-9))
                centre = about + mean
        else:
            if rows["train"].dtype == torch.uint8:
                rows = {k: _floats(r, scale, -scale * centre) for k, r in rows.items()}
                scale, centre = 1.0, torch.zeros((), dtype=torch.float64, device=device)
            rows = spec.PREPROCESSING[step.step](step, rows, image)
    shape, shift = () if flat else (*image, 1)[:3], (-scale * centre).float()
    return {k: DeviceData(r, labels[k], shape, scale, shift) for k, r in rows.items()}


def _divisor(value: float, step: Any, least: float = 0.0) -> float:
    """The value, a divisor of a step; SpecError if it is not finite or not above `least`."""
    if not (math.isfinite(value) and value > least):
        raise spec.SpecError(f"data.preprocess: {step.step}: the images that it gets leave nothing to divide by")
    return value


def _mean(rows: Tensor, square: bool = False) -> Tensor:
    """Per-pixel mean of uint8 rows (or of their squares), float64, without a float copy of the whole."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    for chunk in rows.split(10000):
        chunk = chunk.to(torch.float32)
        total += (chunk * chunk if square else chunk).sum(0, dtype=torch.float64)
    return total / len(rows)


def _floats(rows: Tensor, scale: float, shift: Tensor) -> Tensor:
    return rows.to(torch.float32).mul_(scale).add_(shift.float())


Rows = dict[str, Tensor]
"""Split -> float32 rows (N, H · W · C). The code of a step takes its settings, rows and the images' shape."""


@spec.PREPROCESSING.add(spec.GCN)
def _gcn(step: spec.GCN, rows: Rows, image: tuple[int, ...]) -> Rows:
    return {k: gcn(r, step.scale, step.use_std, step.sqrt_bias) for k, r in rows.items()}


@spec.PREPROCESSING.add(spec.ZCA)
def _zca(step: spec.ZCA, rows: Rows, image: tuple[int, ...]) -> Rows:
    mean, matrix = zca(rows["train"], step.bias)
    return {k: (r - mean) @ matrix for k, r in rows.items()}


@spec.PREPROCESSING.add(spec.LCN)
def _lcn(step: spec.LCN, rows: Rows, image: tuple[int, ...]) -> Rows:
    return {k: lcn(r, image, step.as_in, step.kernel, step.threshold) for k, r in rows.items()}


@spec.PREPROCESSING.add(spec.Threshold)
def _threshold(step: spec.Threshold, rows: Rows, image: tuple[int, ...]) -> Rows:
    return {k: (r >= step.at).to(r.dtype).mul_(2).sub_(1) for k, r in rows.items()}


@spec.PREPROCESSING.add(spec.DivideByMax)
def _divide_by_max(step: spec.DivideByMax, rows: Rows, image: tuple[int, ...]) -> Rows:
    most = {k: r.max() for k, r in rows.items()}
    for value in most.values():
        _divisor(float(value), step)
    return {k: r / most[k] for k, r in rows.items()}


@spec.PREPROCESSING.add(spec.Standardize)
def _standardize(step: spec.Standardize, rows: Rows, image: tuple[int, ...]) -> Rows:
    mean, std = rows["train"].mean(), rows["train"].std()
    _divisor(float(std), step)
    return {k: (r - mean) / std for k, r in rows.items()}


@spec.PREPROCESSING.add(spec.Center)
def _center(step: spec.Center, rows: Rows, image: tuple[int, ...]) -> Rows:
    mean = rows["train"].mean(0)
    return {k: r - mean for k, r in rows.items()}


def gcn(rows: Tensor, scale: float, use_std: bool, sqrt_bias: float) -> Tensor:
    """Global contrast normalization of rows (N, P): scale · (x - mean) / sqrt(sqrt_bias + |x - mean|²).

    With `use_std` the variance (n - 1) takes the place of the squared norm. Divisors under 1e-8 become 1
    (pylearn2's `global_contrast_normalize`).
    """
    made = torch.empty_like(rows)
    for chunk, out in zip(rows.split(10000), made.split(10000), strict=True):  # needs no third copy of all rows
        centred = chunk - chunk.mean(1, keepdim=True)
        power = centred.square().sum(1, keepdim=True) / (rows.shape[1] - 1 if use_std else 1)
        divisor = (sqrt_bias + power).sqrt() / scale
        torch.div(centred, torch.where(divisor < 1e-8, 1.0, divisor), out=out)
    return made


def zca(rows: Tensor, bias: float) -> tuple[Tensor, Tensor]:
    """Mean (P,) and whitening matrix (P, P) = V (D + bias)^-1/2 Vᵀ of rows (N, P), fitted in float64."""
    mean = rows.mean(0, dtype=torch.float64)
    covariance = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=rows.device)
    for chunk in rows.split(5000):
        centred = chunk.to(torch.float64) - mean
        covariance.addmm_(centred.T, centred)
    values, vectors = torch.linalg.eigh(covariance / len(rows))
    matrix = (vectors * (values.clamp(min=0) + bias).rsqrt()) @ vectors.T
    return mean.to(rows.dtype), matrix.to(rows.dtype)


def lcn(rows: Tensor, image: tuple[int, ...], as_in: str, kernel: int, threshold: float) -> Tensor:
    """LeCun's local contrast normalization of rows (N, H·W·C): v = x - G*x, then a division.

    G is a Gaussian window (sigma 2), the borders are zeros.
    "dp": every channel of an image is divided by threshold + the std (n - 1) of its own v: one number, not a local
    one (nicholas-leonard/dp, preprocess/lecunlcn.lua with divide_by_std, from commit fc9b17d on).
    "pylearn2": only the first channel changes, as `return` stands inside the loop over channels
    (lisa-lab/pylearn2, datasets/preprocessing.py, since commit c71be4b of January 2014). Its divisor is
    max(sqrt(G*x²), the mean of that over the image, threshold), with x as it comes, not v.
    """
    height, width, channels = image
    at = torch.arange(kernel, dtype=rows.dtype, device=rows.device) - kernel // 2
    line = torch.exp(-at.square() / 8)
    line /= line.sum()
    treated = channels if as_in == "dp" else 1
    window = torch.outer(line, line).expand(treated, 1, kernel, kernel)

    def smooth(x: Tensor) -> Tensor:
        return F.conv2d(x, window, padding=kernel // 2, groups=treated)

    done = []
    for chunk in rows.split(5000):
        images = chunk.view(-1, height, width, channels).permute(0, 3, 1, 2)
        x = images[:, :treated]
        v = x - smooth(x)
        if as_in == "dp":
            divisor = v.std((2, 3), keepdim=True) + threshold
        else:
            local = smooth(x.square()).clamp(min=0).sqrt()
            divisor = torch.maximum(local, local.mean((2, 3), keepdim=True)).clamp(min=threshold)
        whole = torch.cat([v / divisor, images[:, treated:]], 1)
        done.append(whole.permute(0, 2, 3, 1).reshape(len(chunk), -1))
    return torch.cat(done)
