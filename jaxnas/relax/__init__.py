"""Relaxations: how architecture parameters become the weights of a mixture. The papers' own are in `jaxnas.search`."""

from __future__ import annotations

from collections.abc import Callable

import jax

from jaxnas.base import ArchWeights, Array, Key, Relaxation

__all__ = ["by_slots", "softmax"]


def by_slots(
    weights: Callable[[Key, Array, Array], Array], mean: Callable[[Array], Array], scale: float = 1e-3
) -> Relaxation:
    """A relaxation that treats every cell kind alike.

    weights: (key, alpha [S, O], step) -> [S, O]. mean: alpha [S, O] -> [S, O]. scale: standard deviation of the initial
    alpha, which is normal.

    Raises: ValueError where scale is negative.
    """
    if not scale >= 0:
        raise ValueError(f"scale, of the initial alpha, must not be negative, got {scale}")

    def keys(key: Key, kinds: ArchWeights) -> dict[str, Key]:
        return dict(zip(sorted(kinds), jax.random.split(key, len(kinds)), strict=True))

    def init(key: Key, template: ArchWeights) -> ArchWeights:
        return {k: scale * jax.random.normal(own, template[k].shape) for k, own in keys(key, template).items()}

    def drawn(key: Key, alpha: ArchWeights, step: Array) -> ArchWeights:
        return {kind: weights(own, alpha[kind], step) for kind, own in keys(key, alpha).items()}

    return Relaxation(init, drawn, lambda alpha: {kind: mean(own) for kind, own in alpha.items()})


def softmax(scale: float = 1e-3) -> Relaxation:
    """DARTS (Liu et al. 2019, eq. 2): the softmax of each slot, neither random nor annealed."""
    return by_slots(lambda key, alpha, step: jax.nn.softmax(alpha), jax.nn.softmax, scale)
