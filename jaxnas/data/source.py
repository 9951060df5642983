"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jaxnas.data.dataset import DataError, Dataset
from jaxnas.data.digits import load_digits
from jaxnas.data.digits201 import load_digits201
from jaxnas.data.folder import load_folder
from jaxnas.data.images import LARGEST_SIDE
from jaxnas.data.tfds import load_tfds

EMBEDDED: dict[str, Callable[[], Dataset]] = {"digits": load_digits, "digits201": load_digits201}
"""What comes with the package."""


def load_dataset(
    name: str, data_dir: str | None = None, *, size: int | tuple[int, int] | None = None, label: str | None = None
) -> Dataset:
    """Loads a data set into memory.

    name: "digits" or "digits201", moved and noisy digits, which come with the package; "folder:PATH" or a path that
    holds a slash or begins with a dot or a tilde: a folder of images for each class; else the name of a data set that
    TFDS has prepared: "cifar10", "cifar10:3.0.2", "emnist/letters". data_dir: where TFDS data lies, None for the
    default of TFDS (`TFDS_DATA_DIR` or ~/tensorflow_datasets). size: the side, or (height, width), that images are
    resized to. label: what is learned, of a data set of TFDS with several labels.

    Raises: DataError, a ValueError, with the remedy in one line; for data that is not there it is the command that gets
    it.

    >>> digits = load_dataset("digits")
    >>> digits.image_shape, digits.num_classes
    ((8, 8, 1), 10)
    >>> digits.train.inputs.shape, digits.valid.inputs.shape, digits.test.inputs.shape
    ((1077, 8, 8, 1), (360, 8, 8, 1), (360, 8, 8, 1))
    """
    if size is not None:
        size = (size, size) if isinstance(size, int) else size
        if not 1 <= min(size) <= max(size) <= LARGEST_SIDE:
            raise DataError(f"size must be 1 to {LARGEST_SIDE} pixels, got {size[0]}x{size[1]}")
    is_folder = name.startswith(("folder:", "/", ".", "~")) or ("/" in name and Path(name).is_dir())
    if data_dir is not None and (is_folder or name in EMBEDDED):
        raise DataError(f"data_dir is for data sets of TFDS, {name!r} does not use it: leave out {data_dir}")
    if label is not None and (is_folder or name in EMBEDDED):
        raise DataError(f"label is for data sets of TFDS with several, {name!r} has one: leave out {label}")
    if is_folder:
        return load_folder(name.removeprefix("folder:"), size)
    if name in EMBEDDED:
        if size is not None:
            raise DataError(f"{name} are 8x8 and cannot be resized: leave out size {size[0]}x{size[1]}")
        return EMBEDDED[name]()
    return load_tfds(name, data_dir, size, label)
