"""Fair DARTS: Eliminating Unfair Advantages (Chu, Zhou, Zhang, Li, ECCV 2020, arXiv 1911.12126).

Options do not compete: the weight of each is a sigmoid of its own (eq. 3), and a zero-one loss drives it to either end
(eq. 4):

    weights = sigma(alpha),     L_01 = -w mean (sigma(alpha) - 1 / 2)^2.

Deviations: the authors keep every option above a threshold, any number of them on an edge; here an architecture of the
space is derived, by the rule of the space from the sigmoids.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxnas.base import ArchWeights, Array
from jaxnas.relax import There, by_slots
from jaxnas.search.darts import Variant


def fair_darts(weight: float = 10.0, *, there: There | None = None) -> Variant:
    """Sigmoids with the zero-one loss, whose weight is 10 in the paper.

    Raises: ValueError where weight is negative.
    """
    if not weight >= 0:
        raise ValueError(f"weight, of the zero-one loss, must not be negative, got {weight}")

    def penalty(alpha: ArchWeights, weights: ArchWeights, step: Array) -> Array:
        del alpha, step
        left = {
            kind: jnp.ones_like(own, bool) if there is None else jnp.asarray(there[kind])
            for kind, own in weights.items()
        }
        off = [jnp.where(left[kind], jnp.square(own - 0.5), 0.0).sum() for kind, own in weights.items()]
        return -weight * jnp.stack(off).sum() / jnp.stack([own.sum() for own in left.values()]).sum()

    relaxation = by_slots(lambda key, alpha, step: jax.nn.sigmoid(alpha), jax.nn.sigmoid, there=there)
    return Variant(relaxation, penalty)
