"""Images from files for a net to classify: a PNG, a folder of PNGs, or a NumPy array (.npy)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def read_images(path: Path | str, image: tuple[int, ...]) -> NDArray[Any]:
    """The images in `path`: uint8 (N, *image), or what an .npy file holds (N, *image); `image` is a net's `image`.

    A PNG must be 8-bit grayscale for an image (H, W), RGB for (H, W, 3). Raises ValueError (one line).
    """
    return read_named(path, image)[1]


def read_named(path: Path | str, image: tuple[int, ...]) -> tuple[list[str], NDArray[Any]]:
    """As `read_images`, in order of the files' names, with a name for each: the file's, or a number."""
    path = Path(path)
    if path.is_dir():
        files = sorted(each for each in path.iterdir() if each.suffix.lower() == ".png")
        if not files:
            raise ValueError(f"{path.name}: no PNG in this folder")
        return [each.name for each in files], np.stack([_png(each, image) for each in files])
    if not path.exists():
        raise ValueError(f"{path.name}: no such file or folder")
    if path.suffix.lower() == ".png":
        return [path.name], _png(path, image)[None]
    if path.suffix.lower() != ".npy":
        raise ValueError(f"{path.name}: a PNG, a folder of PNGs or an .npy file is needed")
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path.name}: cannot be read ({str(error).splitlines()[0]})") from None
    if found.shape == image:
        found = found[None]
    if found.shape[1:] != image:
        raise ValueError(f"{path.name}: shape {found.shape}; the net takes (N, {', '.join(map(str, image))})")
    if not len(found):
        raise ValueError(f"{path.name}: no images, shape {found.shape}")
    return [str(i) for i in range(len(found))], found


def _png(path: Path, image: tuple[int, ...]) -> NDArray[np.uint8]:
    """One PNG, uint8 of the shape `image`."""
    from PIL import Image, UnidentifiedImageError

    mode, words = ("L", "8-bit grayscale") if len(image) == 2 else ("RGB", "RGB")
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            size = f"{picture.width}×{picture.height}"
            if picture.mode != mode or picture.size != (image[1], image[0]):
                raise ValueError(
                    f"{path.name}: {size} of mode {picture.mode}; the net takes {image[1]}×{image[0]}, {words}"
                )
            return np.array(picture)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError):  # of a damaged PNG
        raise ValueError(f"{path.name}: cannot be read as a PNG") from None
