"""Entries and updates of arrays that stay apart from the kernels around them, with gradients put together once."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnas.base import Array, PyTree
from jaxnas.kernels.platform import by_platform, outlined


@outlined
def materialized(tree: PyTree) -> PyTree:
    """The arrays of a tree, computed apart from what reads them."""
    return lax.optimization_barrier(tree)


@jax.custom_vjp
def computed_once(tree: PyTree) -> PyTree:
    """The arrays of a tree, computed apart from what reads them; their gradients are not."""
    return lax.optimization_barrier(tree)


computed_once.defvjp(lambda tree: (lax.optimization_barrier(tree), None), lambda _, g: (g,))


def at(array: Array, index: Array) -> Array:
    """array[index] of an index that is there."""
    return lax.dynamic_index_in_dim(array, index, 0, keepdims=False, allow_negative_indices=False)


looked_up = outlined(at)


def _put(array: Array, index: Array, value: Array) -> Array:
    return lax.dynamic_update_index_in_dim(array, value, index, 0, allow_negative_indices=False)


def add_at(array: Array, index: Array, value: Array) -> Array:
    """array[index] += value, of one type.

    An update of a slice is one thread's work on a CPU, and XLA would fuse into it all that `value` is computed from. A
    loop over the images keeps that out: its operand is computed before, by all threads.
    """

    def at_once(array: Array, index: Array, value: Array) -> Array:
        return _put(array, index, at(array, index) + value)

    by_images = _add_narrow if array.dtype.itemsize == 2 else _add_by_images
    return by_platform(array, index, value, cpu=by_images, default=at_once)


def _add_by_images(array: Array, index: Array, value: Array) -> Array:
    """array: as `value`, or its bits as integers."""

    def image(b: Array, array: Array) -> Array:
        b = lax.convert_element_type(b, index.dtype)
        place = (index, b, *[jnp.zeros((), index.dtype)] * (array.ndim - 2))
        old = lax.dynamic_slice(array, place, (1, 1, *array.shape[2:]))
        new = _as(old, value.dtype) + lax.dynamic_slice_in_dim(value, b, 1, 0)[None]
        return lax.dynamic_update_slice(array, _as(new, array.dtype), place)

    return lax.fori_loop(0, array.shape[1], image, array)


@jax.custom_jvp
def _add_narrow(array: Array, index: Array, value: Array) -> Array:
    """Views the array as integers, because XLA:CPU otherwise converts all of it to float32 and back for each image."""
    return _as(_add_by_images(_as(array, jnp.uint16), index, value), array.dtype)


@_add_narrow.defjvp
def _add_narrow_tangents(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    """Bits have no derivative. That of the sum must have a transpose, for reverse mode, and is converted."""
    (array, index, value), (d_array, _, d_value) = primals, tangents
    return _add_narrow(array, index, value), _add_by_images(d_array, index, d_value)


def _as(array: Array, dtype: Any) -> Array:
    """The same bits in another type of that width."""
    return array if array.dtype == dtype else lax.bitcast_convert_type(array, dtype)


@jax.custom_vjp
def joined(states: Array) -> Array:
    """Nodes side by side in the channels: [N, B, h, w, C] -> [B, h, w, N * C]."""
    return jnp.concatenate(list(states), -1)


@functools.partial(outlined, static=(1,))
def _parted(g: Array, nodes: int) -> Array:
    """The automatic rule adds up an array of all nodes for each."""
    return jnp.stack(jnp.split(g, nodes, -1))


joined.defvjp(
    lambda states: (jnp.concatenate(list(states), -1), states[..., :0]),
    lambda like, g: (_parted(g, like.shape[0]),),
)


@jax.custom_vjp
def apart(array: Array) -> tuple[Array, ...]:
    """The entries along the first axis. The gradient is stacked once, not added up."""
    return tuple(array)


apart.defvjp(lambda array: (tuple(array), None), lambda _, g: (jnp.stack(g),))

Places = tuple[tuple[int, ...], ...]
"""[S][E], entries along an axis."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def dealt(leaf: Array, order: tuple[Places, ...]) -> tuple[Array, ...]:
    """[E of all, ...] -> [S, E, ...] of each part, which together take every entry once.

    The gradient is put together once, not added up by parts.
    """
    return _dealt(leaf, order)


def _dealt(leaf: Array, order: tuple[Places, ...]) -> tuple[Array, ...]:
    return tuple(leaf[np.array(places)] for places in order)


def gathered(parts: Sequence[Array], order: tuple[Places, ...]) -> Array:
    """The way back."""
    place = np.argsort(np.concatenate([np.ravel(places) for places in order]))
    return jnp.concatenate([part.reshape(-1, *part.shape[2:]) for part in parts])[place]


dealt.defvjp(lambda leaf, order: (_dealt(leaf, order), None), lambda order, _, g: (gathered(g, order),))
