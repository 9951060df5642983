"""DARTS-: Robustly Stepping out of Performance Collapse without Indicators (Chu et al., ICLR 2021, arXiv 2009.01027).

An auxiliary skip connection beside the mixture takes over what skip connections do for the training of a supernet,
and decays (eq. 5): with beta falling from 1 to 0,

    weights = softmax(alpha) + beta onehot(skip).

What is derived is the softmax alone: with beta in it, a search that ends early would derive skip connections
everywhere.

Deviations: an edge that has lost its skip connection by pruning has no auxiliary one. Where an edge reduces, the
auxiliary skip shares the parameters of the skip connection (a factorized reduction); the paper gives it its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxnas.base import Array, Key
from jaxnas.relax import There, by_slots
from jaxnas.search.darts import Variant


def darts_minus(
    total_steps: int, operations: Sequence[str], skip: str = "skip_connect", *, there: There | None = None
) -> Variant:
    """The auxiliary skip decays linearly over `total_steps`. operations: the options of every slot, `skip` among them.

    there: the options that pruning has left.

    Raises: ValueError where there is no such option, or total_steps is not positive.

    >>> relaxation = darts_minus(100, ("sep_conv_3x3", "skip_connect")).relaxation
    >>> alpha = {"cell": jnp.zeros((1, 2))}
    >>> [relaxation.weights(jax.random.key(0), alpha, step)["cell"].tolist() for step in (0, 50, 100)]
    [[[0.5, 1.5]], [[0.5, 1.0]], [[0.5, 0.5]]]
    """
    if skip not in operations:
        known = ", ".join(operations) or "none that all slots have"
        raise ValueError(
            f"the auxiliary skip needs an option {skip!r}; there are {known}: take a space whose slots all have a skip "
            "connection, such as darts or nasbench201"
        )
    if total_steps < 1:
        raise ValueError(f"total_steps must be at least 1, got {total_steps}")
    place = list(operations).index(skip)

    def weights(key: Key, alpha: Array, step: Array) -> Array:
        del key
        beta = 1.0 - jnp.minimum(step / total_steps, 1.0)
        skips = jax.nn.one_hot(place, alpha.shape[-1])[None] * (alpha > -jnp.inf)
        return jax.nn.softmax(alpha) + beta * skips

    return Variant(by_slots(weights, jax.nn.softmax, there=there))
