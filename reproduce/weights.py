"""A trained net's weights as a file: written, read with suspicion, and their digest, which its record holds."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import torch
from torch import Tensor

from reproduce import files, yamlfile
from reproduce.records import Record
from reproduce.training import train


def save(path: Path, state: dict[str, Tensor]) -> None:
    """Write a state_dict, whole or not at all. Raises OSError."""
    torch.save(state, content := io.BytesIO())
    files.write_whole(path, content.getvalue())


def load(path: Path) -> dict[str, Tensor]:
    """The state_dict of a trained net. ValueError (one line) if it cannot be read as it was written."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path.name}: not a regular file")
    try:
        state = train.saved(path)
    except FileNotFoundError:
        raise ValueError(f"{path.stem}: its weights are not here ({yamlfile.shown(path)})") from None
    except Exception as error:  # a file cut or changed at any byte can fail in any way
        raise ValueError(f"{path.name} cannot be read ({type(error).__name__})") from None
    if not isinstance(state, dict):
        raise ValueError(f"{path.name} holds no weights")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ValueError(f"{path.name} holds no weights: {yamlfile.short(name)} is no tensor with a name")
        dense = value.layout == torch.strided and value.device.type == "cpu" and value.dtype == torch.float32
        if not dense or value.is_nested or not bool(value.isfinite().all()):
            raise ValueError(f"{path.name}: {yamlfile.short(name)} should be finite float32 numbers")
    return state


def digest(state: dict[str, Tensor]) -> str:
    """sha256 over the float32 tensors by name: name, shape and little-endian bytes of each."""
    total = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        total.update(f"{name}{list(value.shape)}".encode())
        total.update(value.numpy().astype("<f4", copy=False).tobytes())
    return total.hexdigest()


def of_run(path: Path, record: Record) -> dict[str, Tensor]:
    """The weights in `path` if they are those that the record tells of; ValueError (one line) otherwise.

    Records made before they held the weights' digest take any that fit the net.
    """
    state = load(path)
    if record.weights_sha256 not in (None, digest(state)):
        raise ValueError(f"{path.name}: not the weights that this run's record tells of")
    return state
