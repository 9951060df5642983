"""Images that stay in their files until they are looked at: of several processes each reads what it needs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np


class StoredImages:
    """Images [N, H, W, C] uint8, each read and decoded when it is first looked at.

    A slice and `rows` are other views of the same images, of which nothing is read yet; `images[i]`, `images[indices]`
    and `np.asarray(images)` read.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, read: Callable[[np.ndarray], np.ndarray], count: int, image_shape: tuple[int, ...]) -> None:
        """read: ascending numbers int [M] of examples -> their images [M, H, W, C]."""
        self._read = read
        self._pixels = np.empty((count, *image_shape), np.uint8)  # pages that nobody writes take no memory
        self._there = np.zeros(count, bool)
        self._rows = np.arange(count)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, C)."""
        return (len(self._rows), *self._pixels.shape[1:])

    @property
    def read_so_far(self) -> int:
        """How many images have been read, by all views together."""
        return int(self._there.sum())

    def rows(self, chosen: Any) -> StoredImages:
        """A view of those at the chosen positions, a slice or int [M]."""
        view = copy.copy(self)
        view._rows = self._rows[chosen]
        return view

    def keep(self, numbers: np.ndarray, images: np.ndarray) -> None:
        """Takes images that have been read already."""
        self._pixels[numbers] = images
        self._there[numbers] = True

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.rows(index)
        rows = self._rows[np.asarray(index)]
        wanted = np.unique(rows)
        missing = wanted[~self._there[wanted]]
        if missing.size:
            self.keep(missing, self._read(missing))
        return self._pixels[rows]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[np.arange(len(self))], dtype)


def is_stored(images: Any) -> bool:
    """Whether these are `StoredImages` and no array."""
    return isinstance(images, StoredImages)


def rows(images: Any, chosen: np.ndarray) -> Any:
    """The images at the chosen positions, int [M], of whatever kind they are."""
    return images.rows(chosen) if isinstance(images, StoredImages) else images[chosen]
