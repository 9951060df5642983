"""Pytrees: the mean over devices, the norm, the product with a scalar."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnas.base import Array, PyTree
from jaxnas.kernels.arrays import materialized


def pmean(tree: Any, axis_name: str | None) -> Any:
    """The mean over a mapped axis, or the tree itself where there is none."""
    return tree if axis_name is None else lax.pmean(tree, axis_name)


def _total(parts: list[Array]) -> Array:
    """XLA would compute a sum over many leaves again in the kernel of each leaf that it is multiplied with, which makes
    a program of the square of their number."""
    return materialized(jnp.sum(jnp.stack(parts)))


def norm(tree: PyTree) -> Array:
    """The Euclidean norm of all entries of a pytree of real arrays, [].

    Its gradient at zero is zero.
    """
    square = _total([jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)])
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


@jax.custom_vjp
def times(tree: PyTree, factor: Array) -> PyTree:
    """Every leaf times a scalar."""
    return jax.tree.map(lambda leaf: (leaf * factor).astype(leaf.dtype), tree)


def _times_backward(kept: tuple[PyTree, Array], g: PyTree) -> tuple[PyTree, Array]:
    tree, factor = kept
    along = jax.tree.leaves(jax.tree.map(lambda leaf, cotangent: jnp.sum(leaf * cotangent), tree, g))
    to_tree = jax.tree.map(lambda leaf, cotangent: (cotangent * factor).astype(leaf.dtype), tree, g)
    return to_tree, _total(along).astype(factor.dtype)


times.defvjp(
    lambda tree, factor: (jax.tree.map(lambda leaf: (leaf * factor).astype(leaf.dtype), tree), (tree, factor)),
    _times_backward,
)
