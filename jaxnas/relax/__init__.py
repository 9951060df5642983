"""Relaxations: how architecture parameters become the weights of a mixture."""

from __future__ import annotations

import jax

from jaxnas.base import Array, Key

__all__ = ["softmax"]


def softmax(key: Key | None, alpha: Array, step: Array) -> Array:
    """DARTS (Liu et al. 2019, eq. 2): the softmax of each slot. alpha [S, O] -> weights [S, O]."""
    del key, step  # neither random nor annealed
    return jax.nn.softmax(alpha, axis=-1)
