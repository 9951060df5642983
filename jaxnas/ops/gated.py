"""Kernels whose gradients are computed only where they are wanted.

A step of a search takes some gradients of a network for the architecture alone. A kernel's gradient is then a third of
the work for nothing. Whether it is wanted is data, not a second program: so that all passes of a step can be iterations
of one loop, compiled once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnas.base import Array, PyTree
from jaxnas.ops.platform import by_platform


class Gated(NamedTuple):
    """kernel: what the convolutions of `jaxnas.ops` take. wanted: bool [], whether to compute its gradient."""

    kernel: Array
    wanted: Array


Kernel = Array | Gated


def gated(params: PyTree, wanted: Array | None) -> PyTree:
    """Every array of a pytree gated, or the pytree itself where `wanted` is None."""
    return params if wanted is None else jax.tree.map(lambda kernel: Gated(kernel, wanted), params)


def opened(kernel: Kernel, dtype: Any) -> tuple[Array, Array | None]:
    """(the kernel in a type, whether its gradient is wanted or None for always)."""
    return (kernel.kernel.astype(dtype), kernel.wanted) if isinstance(kernel, Gated) else (kernel.astype(dtype), None)


def where_wanted(wanted: Array | None, gradient: Callable[..., Array], *operands: Array) -> Array:
    """gradient(*operands), or zeros without computing it on a CPU.

    An accelerator computes it: a GPU's host would wait for a branch, and devices exchange sums in a branch one by one.
    """
    if wanted is None:
        return gradient(*operands)
    shape = jax.eval_shape(gradient, *operands)

    def branch(wanted: Array, *operands: Array) -> Array:
        return lax.cond(wanted, gradient, lambda *_: jnp.zeros(shape.shape, shape.dtype), *operands)

    def always(wanted: Array, *operands: Array) -> Array:
        del wanted
        return gradient(*operands)

    return by_platform(wanted, *operands, cpu=branch, default=always)
