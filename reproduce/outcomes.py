"""Which test images a run got wrong, as the text that its record keeps."""

from __future__ import annotations

import base64
import binascii
import math

import numpy as np
from numpy.typing import NDArray


def pack(wrong: NDArray[np.bool_]) -> str:
    """Base64 of one bit an image of `wrong` (N,): 1 where it is wrong, the first image in the highest bit."""
    return base64.b64encode(np.packbits(wrong).tobytes()).decode("ascii")


def unpack(text: str, images: int) -> NDArray[np.bool_]:
    """The array (images,) that `pack` was given. ValueError if the text is not of this many images."""
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64") from None
    bits = np.unpackbits(np.frombuffer(content, np.uint8))
    if len(content) != math.ceil(images / 8) or bits[images:].any():
        raise ValueError(f"not a bit for each of {images} images")
    return bits[:images].astype(bool)
