"""beta-DARTS: Beta-Decay Regularization for Differentiable Architecture Search (Ye et al., CVPR 2022, 2203.01665).

The weights are DARTS's softmax; the architecture descends beside the validation loss (eq. 13)

    lambda(step) mean over slots of ln sum exp alpha,

which keeps the softmax from running away. lambda grows linearly from 0 (the paper: to 50 at the end on NAS-Bench-201).

Deviations: the slots' mean is over all cell kinds together. The L2 decay of alpha is the caller's optimizer; the paper
has none beside this.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxnas.base import ArchWeights, Array
from jaxnas.relax import There, masked, softmax
from jaxnas.search.darts import Variant


def beta_darts(total_steps: int, last: float = 50.0, *, there: There | None = None) -> Variant:
    """The decay of the softmax's inputs, whose weight grows to `last` over `total_steps`.

    there: the options that pruning has left.

    Raises: ValueError where total_steps is not positive or last is negative.

    >>> penalty = beta_darts(total_steps=100).penalty
    >>> alpha = {"cell": jnp.zeros((6, 5))}
    >>> [round(float(penalty(alpha, alpha, step)), 1) for step in (0, 50, 100)]  # up to 50 ln 5
    [0.0, 40.2, 80.5]
    """
    if total_steps < 1 or not last >= 0:
        raise ValueError(f"total_steps must be at least 1 and last not negative, got {total_steps} and {last}")

    def penalty(alpha: ArchWeights, weights: ArchWeights, step: Array) -> Array:
        del weights
        grown = last * jnp.minimum(step / total_steps, 1.0)
        slots = [jax.nn.logsumexp(own, axis=-1) for own in masked(alpha, there).values()]
        return grown * jnp.mean(jnp.concatenate(slots))

    return Variant(softmax(there=there), penalty)
