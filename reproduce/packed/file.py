"""The file of a packed net: read without pickle, and only if every byte is as it was written.

magic     8 bytes, then version and length of the header, 4 bytes each, little-endian
header    JSON: settings; places, how many classes of places an 8-bit image has each way (null: real input); about
arrays    as `_arrays` lists them: the settings decide every dtype and shape, the file none
checksum  sha256 of all before, 32 bytes
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path
from typing import Any

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
from reproduce.records import explained

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


def _arrays(header: _Header) -> list[tuple[str, tuple[int, ...]]]:
    """Dtype and shape of each array in the file: a block's weights, then its thresholds or its batch norm."""
    every, places = shapes(header.settings), header.places
    found: list[tuple[str, tuple[int, ...]]] = []
    for i, shape in enumerate(every):
        units = shape.weights[0]
        found.append(("|u1", (*shape.weights[:-1], -(-shape.weights[-1] // 8))))
        if i == len(every) - 1 or (i == 0 and places is None):
            found.append(("<f8", (len(_NORM), units)))
        else:
            where = (places, places) if i == 0 and places is not None else ()
            found += [("<i4", (*where, units)), ("|u1", (units,))]
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
    for (dtype, shape), value in zip(_arrays(header), values, strict=True):
        parts.append(value.astype(dtype).reshape(shape).tobytes())
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
    """The net in a file's bytes. PackedError if a byte differs from what `save` wrote."""
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
    try:
        header = _Header.model_validate_json(body[_START.size : _START.size + length])
    except ValidationError as error:  # settings of a later version, or of a module that --use did not name
        raise PackedError(f"its header cannot be read: {explained(error)}") from None
    return _net(header, body[_START.size + length :])


def _net(header: _Header, body: bytes) -> Layers:
    at, values = 0, []
    for dtype, shape in _arrays(header):
        value = np.frombuffer(body, dtype, math.prod(shape), at)
        values.append(value.reshape(shape).astype(value.dtype.newbyteorder("=")))
        at += value.nbytes
    first, *hidden, last = shapes(header.settings)
    source = iter(values)

    def rule() -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        return next(source).astype(np.int64), next(source).astype(np.bool_)

    weights = _packed(next(source), first)
    if header.places is None:
        layer: PixelLayer | RealLayer = RealLayer(first, weights, Norm(*next(source)))
    else:
        where = places(first.size, header.places)
        layer = PixelLayer(first, weights, LocalThresholds(*rule(), where, where))
    bits = tuple(BitLayer(shape, _packed(next(source), shape), Thresholds(*rule())) for shape in hidden)
    output = OutputLayer(last, _packed(next(source), last), Norm(*next(source)))
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
