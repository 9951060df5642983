"""SNAS: Stochastic Neural Architecture Search (Xie, Zheng, Liu, Lin, ICLR 2019, arXiv 1812.09926).

The weights of a slot are a sample of the concrete distribution (eq. 4): with g standard Gumbel noise and the
temperature lambda,

    weights = softmax((log softmax(alpha) + g) / lambda).

As lambda falls the samples become one-hot, and the gradient approaches that of the expected loss over architectures.
The problem has one level: give `darts` the bilevel `single_level()`, by which alpha and the weights of the network
descend one loss on one batch.

Deviations: no resource constraint is added to the loss; a budget is met at the end. What is derived is the option of
the greatest probability.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxnas.base import Array, Key
from jaxnas.relax import There, by_slots
from jaxnas.search.darts import Variant


def snas(total_steps: int, first: float = 1.0, last: float = 0.03, *, there: There | None = None) -> Variant:
    """Concrete samples; the temperature falls geometrically from first to last over `total_steps`.

    there: the options that pruning has left.

    Raises: ValueError where a number is not positive.

    >>> relaxation = snas(total_steps=100).relaxation
    >>> weights = relaxation.weights(jax.random.key(0), {"cell": jnp.zeros((3, 4))}, 100)["cell"]
    >>> weights.sum(axis=1).round(3).tolist()
    [1.0, 1.0, 1.0]
    """
    if total_steps < 1 or not first > 0 or not last > 0:
        raise ValueError(f"total_steps and temperatures must be positive, got {total_steps}, {first} and {last}")

    def weights(key: Key, alpha: Array, step: Array) -> Array:
        temperature = first * (last / first) ** jnp.minimum(step / total_steps, 1.0)
        return jax.nn.softmax((jax.nn.log_softmax(alpha) + jax.random.gumbel(key, alpha.shape)) / temperature)

    return Variant(by_slots(weights, jax.nn.softmax, there=there))
