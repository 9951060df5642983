"""Kernels in 8 bits: w is kept as round(w / s) between -127 and 127, with a scale s for each output channel.

s is the largest |w| of the channel over 127, so that no weight changes by more than s / 2 (symmetric, per channel:
Krishnamoorthi 2018, https://arxiv.org/abs/1806.08342, section 3). Biases and batch norms stay in float32, and so does
all arithmetic: a network takes about a quarter of the space, not less time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Array, PyTree

_LARGEST = 127
_STACKED = "cells"
"""Under this name the parameters of equal cells are stacked (`jaxnas.networks.frame`)."""


class Int8(NamedTuple):
    """A kernel. values: int8 [...]. scale: float32, of size 1 in all axes but channels and stacked cells."""

    values: Array | np.ndarray
    scale: Array | np.ndarray

    def floats(self) -> Array:
        """The kernel, float32."""
        return jnp.asarray(self.values, jnp.float32) * self.scale


def quantized(kernel: Any, axes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(values int8, scale float32) of a kernel; axes: those over which a scale is shared, of size 1 in the scale."""
    kernel = np.asarray(kernel, np.float32)
    scale = np.abs(kernel).max(tuple(axes), keepdims=True, initial=0) / np.float32(_LARGEST)
    scale = np.where(scale > 0, scale, np.float32(1))
    return np.rint(kernel / scale).astype(np.int8), scale


def quantize(params: PyTree) -> PyTree:
    """Parameters of a network with each kernel as an `Int8`: what has two axes or more, stacked cells apart.

    >>> params = {"kernel": jnp.array([[127.0, -2.0], [63.4, 1.2]]), "bias": jnp.zeros(2)}
    >>> quantize(params)["kernel"].values.tolist()  # each column has a scale of its own
    [[127, -127], [63, 76]]
    """

    def one(path: tuple[Any, ...], leaf: Any) -> Any:
        stacked = any(getattr(part, "key", None) == _STACKED for part in path)
        axes = range(int(stacked), leaf.ndim - 1)
        return Int8(*quantized(leaf, tuple(axes))) if len(axes) else leaf

    return jax.tree_util.tree_map_with_path(one, params)


def dequantize(params: PyTree) -> PyTree:
    """Parameters as float32 again, after the rounding of `quantize`; traceable.

    >>> params = {"kernel": jnp.array([[127.0, -2.0], [63.4, 1.2]]), "bias": jnp.zeros(2)}
    >>> dequantize(quantize(params))["kernel"][:, 0].tolist()
    [127.0, 63.0]
    """
    return jax.tree.map(
        lambda leaf: leaf.floats() if isinstance(leaf, Int8) else leaf, params, is_leaf=lambda x: isinstance(x, Int8)
    )
