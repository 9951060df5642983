"""Encoded images to one uint8 array."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from jaxnas.data.dataset import DataError

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_GREY = ("1", "L", "LA")
_DEEP = ("I", "F")


def decode(source: bytes | Path, channels: int, size: int | None = None) -> np.ndarray:
    """One encoded image as uint8 [H, W, C], brought to `channels` channels, and to size x size where that is given.

    Resizing does not keep the proportions. Raises DataError where the image cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.mode.startswith(_DEEP):
                raise DataError(f"{_named(source)} has more than 8 bits a channel ({image.mode}): convert it to 8 bits")
            image.load()
            converted = image.convert(_MODES[channels])
            if size is not None:
                converted = converted.resize((size, size), Image.Resampling.BILINEAR)
            return np.asarray(converted, np.uint8).reshape(converted.height, converted.width, channels)
    except DataError:
        raise
    # Pillow reports a broken file by any of these.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{_named(source)} cannot be decoded: {error}") from error


def is_grey(path: Path) -> bool:
    """Whether an image file has one channel; only its header is read."""
    try:
        with Image.open(path) as image:
            return image.mode in _GREY
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} is no image that can be read: {error}") from error


def stack(images: Iterable[np.ndarray], count: int, origin: str) -> np.ndarray:
    """Puts `count` images [H, W, C] into one uint8 array [N, H, W, C].

    Raises DataError where they differ in size; `origin` says in the message where they came from.
    """
    result: np.ndarray | None = None
    for i, image in enumerate(images):
        if result is None:
            result = np.empty((count, *image.shape), np.uint8)
        if image.shape != result.shape[1:]:
            sizes = " and ".join(f"{h}x{w}" for h, w, _ in (result.shape[1:], image.shape))
            raise DataError(f"{origin} has images of different sizes, {sizes}: load it with size=N to resize them")
        result[i] = image
    if result is None:
        raise DataError(f"{origin} has no images")
    return result


def _named(source: bytes | Path) -> str:
    return "an image" if isinstance(source, bytes) else str(source)
