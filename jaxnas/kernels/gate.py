"""Gradients of kernels that are computed only where they are wanted.

A step of a search takes some gradients of a network for the architecture alone. A kernel's gradient is then a third of
the work for nothing. Whether it is wanted is data, not a second program: so that all passes of a step can be iterations
of one loop, compiled once.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxnas.base import Array
from jaxnas.kernels.platform import by_platform


def where_wanted(wanted: Array | None, gradient: Callable[..., Array], *operands: Array) -> Array:
    """gradient(*operands), or zeros without computing it on a CPU where `wanted`, bool [], is false. None is true.

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
