"""The file of a packed net: read without pickle, and only if every byte is as it was written.

magic     8 bytes, then version and length of the header, 4 bytes each, little-endian
header    JSON: settings; places, how many classes of places an 8-bit image has each way (null: real input); about
arrays    as `_arrays` lists them: the settings decide every dtype and shape, the file none
checksum  sha256 of all before, 32 bytes
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from kernels import LocalThresholds, Packed, Thresholds
from kernels.operands import words_for
from reproduce import files, spec, yamlfile
from reproduce.packed.blocks import (
    BitLayer,
    Layers,
    Norm,
    OutputLayer,
    PackedError,
    PixelLayer,
    RealLayer,
    Shape,
    places,
    shapes,
)

MAGIC = b"\x89BNNPK\r\n"
VERSION = 1
LARGEST = 2**30  # bytes: eight times what the largest net takes
_START = struct.Struct("<8sII")
_DIGEST = 32
_NORM = ("bias", "mean", "factor", "beta")


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    settings: spec.Settings
    places: int | None
    about: dict[str, Any]


class _Array(NamedTuple):
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        count = np.dtype(self.dtype).itemsize
        for length in self.shape:
            count *= length  # in Python's integers: a header may ask for anything
        return count


def _arrays(header: _Header) -> list[_Array]:
    """The arrays in the order of the file: each block's weights, then what turns its products into its results."""
    every, found = shapes(header.settings), []
    for i, shape in enumerate(every):
        units = shape.weights[0]
        found.append(_Array("|u1", (*shape.weights[:-1], -(-shape.weights[-1] // 8))))
        if i == len(every) - 1 or (i == 0 and header.places is None):
            found.append(_Array("<f8", (len(_NORM), units)))
            continue
        where: tuple[int, ...] = ()
        if i == 0 and header.places is not None:
            if header.places != shape.size and (header.places != 3 or shape.size <= 3):
                raise PackedError(f"damaged: {header.places} classes of {shape.size} places")
            where = (header.places, header.places)
        found += [_Array("<i4", (*where, units)), _Array("|u1", (units,))]
    return found


def save(net: Layers, path: Path) -> None:
    """Write `net` to `path`, under a scratch name beside it first. Raises OSError."""
    first = net.first
    values: list[NDArray[Any]] = [_octets(first.weights)]
    if isinstance(first, PixelLayer):
        classes: int | None = len(first.rule.level)
        values += [_narrow(first.rule.level), first.rule.below]
    else:
        classes = None
        values.append(_stacked(first.norm))
    for layer in net.hidden:
        values += [_octets(layer.weights), _narrow(layer.rule.level), layer.rule.below]
    values += [_octets(net.output.weights), _stacked(net.output.norm)]
    header = _Header(settings=net.settings, places=classes, about=net.about)
    text = json.dumps(header.model_dump(mode="json"), allow_nan=False).encode()
    parts = [_START.pack(MAGIC, VERSION, len(text)), text]
    for array, value in zip(_arrays(header), values, strict=True):
        parts.append(np.asarray(value).astype(array.dtype).reshape(array.shape).tobytes())
    content = b"".join(parts)
    files.write_whole(path, content + hashlib.sha256(content).digest())


def load(path: Path | str) -> Layers:
    """The net in `path`. PackedError, one line, if the file cannot be read as one."""
    path = Path(path)
    try:
        return parse(yamlfile.whole_file(path, LARGEST))
    except OSError as error:
        raise PackedError(f"{path.name}: {error.strerror}") from None
    except ValueError as error:
        raise PackedError(f"{path.name}: {error}") from None


def parse(content: bytes) -> Layers:
    """The net in a file's bytes. PackedError if they are not exactly what `save` writes."""
    if not content.startswith(MAGIC):
        raise PackedError("not a packed net")
    if len(content) < _START.size + _DIGEST:
        raise PackedError("damaged: cut short")
    _, version, length = _START.unpack_from(content)
    if version != VERSION:
        raise PackedError(f"a packed net of version {version}; this program reads {VERSION}")
    body = content[:-_DIGEST]
    if hashlib.sha256(body).digest() != content[-_DIGEST:]:
        raise PackedError("damaged: its checksum does not fit")
    if length > len(body) - _START.size:
        raise PackedError("damaged: its header is longer than the file")
    try:
        header = _Header.model_validate_json(body[_START.size : _START.size + length])
    except (ValidationError, RecursionError) as error:
        raise PackedError(f"damaged: its header cannot be read ({type(error).__name__})") from None
    return _net(header, body[_START.size + length :])


def _net(header: _Header, body: bytes) -> Layers:
    wanted = _arrays(header)
    sizes = [array.size for array in wanted]
    if sum(sizes) != len(body):
        raise PackedError(f"damaged: {len(body)} bytes of arrays, not {sum(sizes)}")
    at, values = 0, []
    for array, size in zip(wanted, sizes, strict=True):
        value = np.frombuffer(body, array.dtype, size // np.dtype(array.dtype).itemsize, at)
        values.append(value.reshape(array.shape).astype(value.dtype.newbyteorder("=")))
        at += size
    first, *hidden, last = shapes(header.settings)
    source = iter(values)
    try:
        weights = _packed(next(source), first)
        if header.places is None:
            layer: PixelLayer | RealLayer = RealLayer(first, weights, Norm(*next(source)))
        else:
            level, below = _rule(source)
            where = places(first.size, header.places)
            layer = PixelLayer(first, weights, LocalThresholds(level, below, where, where))
        bits = tuple(BitLayer(shape, _packed(next(source), shape), Thresholds(*_rule(source))) for shape in hidden)
        output = OutputLayer(last, _packed(next(source), last), Norm(*next(source)))
    except (ValueError, TypeError) as error:
        raise PackedError(f"damaged: {error}") from None
    return Layers(header.settings, layer, bits, output, header.about)


def _stacked(norm: Norm) -> NDArray[np.float64]:
    return np.stack([getattr(norm, name) for name in _NORM])


def _octets(weights: Packed) -> NDArray[np.uint8]:
    """The bits of each row as (k + 7) // 8 bytes."""
    octets: NDArray[np.uint8] = weights.words.astype("<u8").view(np.uint8)
    return octets[..., : -(-weights.k // 8)]


def _packed(octets: NDArray[np.uint8], shape: Shape) -> Packed:
    whole = np.zeros((*octets.shape[:-1], 8 * words_for(shape.weights[-1])), np.uint8)
    whole[..., : octets.shape[-1]] = octets
    return Packed(whole.view("<u8").astype(np.uint64), shape.weights[-1])


def _narrow(level: NDArray[np.int64]) -> NDArray[np.int64]:
    """Levels within 32 bits: products are at most 2^31 - 2 (`MAX_K` of kernels.operands), so none is lost."""
    return np.clip(level, -(2**31), 2**31 - 1)


def _rule(source: Iterator[NDArray[Any]]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    level, below = next(source), next(source)
    if below.max() > 1:
        raise ValueError("a direction that is neither 0 nor 1")
    return level.astype(np.int64), below.astype(np.bool_)
