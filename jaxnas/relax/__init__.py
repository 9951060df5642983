"""Relaxations: how architecture parameters become the weights of a mixture. The papers' own are in `jaxnas.search`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas.base import ArchWeights, Array, Key, Relaxation

__all__ = ["There", "by_slots", "keys_of", "masked", "softmax"]

There = Mapping[str, Any]
"""Cell kind -> bool [S, O], the options that pruning has left of each slot; laid out as mixture weights are."""


def keys_of(key: Key, kinds: ArchWeights) -> dict[str, Key]:
    """A key of its own for each cell kind.

    >>> sorted(keys_of(jax.random.key(0), {"normal": jnp.zeros((14, 8)), "reduce": jnp.zeros((14, 8))}))
    ['normal', 'reduce']
    """
    return dict(zip(sorted(kinds), jax.random.split(key, len(kinds)), strict=True))


def masked(alpha: ArchWeights, there: There | None) -> ArchWeights:
    """alpha with minus infinity where an option is gone. Its softmax, its sigmoid and its gradient are 0 there.

    alpha: cell kind -> [S, O]. there: the options that are left; None leaves alpha as it is.

    >>> left = masked({"cell": jnp.zeros((1, 3))}, {"cell": [[True, False, True]]})
    >>> jax.nn.softmax(left["cell"]).tolist()
    [[0.5, 0.0, 0.5]]
    """
    if there is None:
        return alpha
    return {kind: jnp.where(jnp.asarray(there[kind]), own, -jnp.inf) for kind, own in alpha.items()}


def by_slots(
    weights: Callable[[Key, Array, Array], Array],
    mean: Callable[[Array], Array],
    scale: float = 1e-3,
    *,
    there: There | None = None,
) -> Relaxation:
    """A relaxation that treats every cell kind alike.

    weights: (key, alpha [S, O], step) -> [S, O]. mean: alpha [S, O] -> [S, O]. An option that is gone comes to both as
    minus infinity, and both must give it the weight 0. scale: the standard deviation of the initial alpha, which is
    drawn from a normal distribution. there: the options that pruning has left; None stands for all.

    Raises: ValueError where scale is negative.

    >>> sigmoids = by_slots(lambda key, alpha, step: jax.nn.sigmoid(alpha), jax.nn.sigmoid)
    >>> alpha = sigmoids.init(jax.random.key(0), {"cell": jnp.zeros((2, 3))})
    >>> sigmoids.weights(jax.random.key(1), alpha, 0)["cell"].shape
    (2, 3)
    >>> sigmoids.mean({"cell": jnp.zeros((1, 3))})["cell"].tolist()
    [[0.5, 0.5, 0.5]]
    """
    if not scale >= 0:
        raise ValueError(f"scale, of the initial alpha, must not be negative, got {scale}")

    def init(key: Key, template: ArchWeights) -> ArchWeights:
        return {k: scale * jax.random.normal(own, template[k].shape) for k, own in keys_of(key, template).items()}

    def drawn(key: Key, alpha: ArchWeights, step: Array) -> ArchWeights:
        left = masked(alpha, there)
        return {kind: weights(own, left[kind], step) for kind, own in keys_of(key, alpha).items()}

    def expected(alpha: ArchWeights) -> ArchWeights:
        return {kind: mean(own) for kind, own in masked(alpha, there).items()}

    return Relaxation(init, drawn, expected)


def softmax(scale: float = 1e-3, *, there: There | None = None) -> Relaxation:
    """DARTS (Liu et al. 2019, eq. 2): the softmax of each slot, neither random nor annealed.

    >>> relaxation = softmax()
    >>> alpha = {"cell": jnp.log(jnp.array([[1.0, 3.0]]))}
    >>> relaxation.mean(alpha)["cell"].round(2).tolist()
    [[0.25, 0.75]]
    """
    return by_slots(lambda key, alpha, step: jax.nn.softmax(alpha), jax.nn.softmax, scale, there=there)
