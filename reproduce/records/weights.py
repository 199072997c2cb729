"""A trained net's weights as a file: written, checked when read, and their digest, which its record holds."""

from __future__ import annotations

import hashlib
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from reproduce import files, yamlfile
from reproduce.records import Record


def save(path: Path, state: dict[str, Tensor]) -> None:
    """Write a state_dict as safetensors, atomically. Raises OSError."""
    files.write_whole(path, safetensors.torch.save({name: value.contiguous() for name, value in state.items()}))


def load(path: Path) -> dict[str, Tensor]:
    """The state_dict of a trained net, of safetensors. ValueError (one line) if the file cannot be used.

    The format has no checksum. `of_run` compares the digest of the weights with that in the run's record.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path.name}: not a regular file")
    try:
        state = safetensors.torch.load(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path.stem}: there is no file of its weights ({yamlfile.shown(path)})") from None
    except Exception as error:  # a file cut or changed at any byte can fail in any way
        raise ValueError(f"{path.name} cannot be read ({type(error).__name__})") from None
    for name, value in state.items():
        if value.dtype != torch.float32 or not bool(value.isfinite().all()):
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
    """The weights in `path` if they have the record's digest; ValueError (one line) otherwise.

    Older records have no digest; they accept any weights.
    """
    state = load(path)
    if record.weights_sha256 not in (None, digest(state)):
        raise ValueError(f"{path.name}: the digest of these weights is not the one in the run's record")
    return state
