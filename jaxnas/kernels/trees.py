"""Pytrees: stacked and taken apart, the mean over devices, the norm, the product with a scalar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnas.base import Array, PyTree
from jaxnas.kernels.arrays import materialized
from jaxnas.kernels.platform import by_platform


def taken(tree: PyTree, *places: int) -> PyTree:
    """The entry at these places of the first axes of every leaf."""
    return jax.tree.map(lambda leaf: leaf[places], tree)


def unstacked(tree: PyTree) -> list[PyTree]:
    """The entries along the first axis of all leaves."""
    return [taken(tree, place) for place in range(jax.tree.leaves(tree)[0].shape[0])]


def stacked(trees: Sequence[PyTree]) -> PyTree:
    """Trees of one form as one whose leaves have a new first axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def pmean(tree: Any, axis_name: str | None) -> Any:
    """The mean over a mapped axis, or the tree itself where there is none."""
    return tree if axis_name is None else lax.pmean(tree, axis_name)


def _sum_of(terms: Callable[..., Array], *trees: PyTree) -> Array:
    """The sum of terms(*leaves) over all leaves.

    XLA would compute a sum over many leaves again in the kernel of each leaf that it is multiplied with, which makes a
    program of the square of their number. A GPU starts few kernels for all leaves side by side, and one for each sum.
    """
    each = [terms(*leaves) for leaves in zip(*map(jax.tree.leaves, trees), strict=True)]

    def in_turn(*each: Array) -> Array:
        return jnp.sum(jnp.stack([jnp.sum(part) for part in each]))

    def at_once(*each: Array) -> Array:
        # The barrier keeps XLA from making a sum of each leaf again.
        return jnp.sum(lax.optimization_barrier(jnp.concatenate([jnp.ravel(part) for part in each])))

    return materialized(by_platform(*each, cpu=in_turn, tpu=in_turn, default=at_once))


def norm(tree: PyTree) -> Array:
    """The Euclidean norm of all entries of a pytree of real arrays, [].

    Its gradient at zero is zero.
    """
    square = _sum_of(jnp.square, tree)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


@jax.custom_vjp
def times(tree: PyTree, factor: Array) -> PyTree:
    """Every leaf times a scalar."""
    return jax.tree.map(lambda leaf: (leaf * factor).astype(leaf.dtype), tree)


def _times_backward(kept: tuple[PyTree, Array], g: PyTree) -> tuple[PyTree, Array]:
    tree, factor = kept
    to_tree = jax.tree.map(lambda leaf, cotangent: (cotangent * factor).astype(leaf.dtype), tree, g)
    return to_tree, _sum_of(lax.mul, tree, g).astype(factor.dtype)


times.defvjp(
    lambda tree, factor: (jax.tree.map(lambda leaf: (leaf * factor).astype(leaf.dtype), tree), (tree, factor)),
    _times_backward,
)
