"""DrNAS: Dirichlet Neural Architecture Search (Chen, Wang, Cheng, Tang, Hsieh, ICLR 2021, arXiv 2006.10355).

The weights of a slot are drawn from a Dirichlet distribution of concentration c(alpha) = elu(alpha) + 1, with pathwise
gradients (eq. 4). Beside the validation loss the architecture descends a distance to the flat distribution (sec. 3.1):

    lambda KL(Dir(c) || Dir(1)),    KL = ln G(sum c) - sum ln G(c) - ln G(O) + sum (c - 1) (psi(c) - psi(sum c)).

What is derived is the mean c / sum c.

Deviations: partial channels and the progressive growth of the authors' program are not part of it. Where options have
been pruned their concentration would be zero: this relaxation is for whole spaces.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln

from jaxnas.base import ArchWeights, Array, Key
from jaxnas.relax import by_slots
from jaxnas.search.darts import Variant


def concentration(alpha: Array) -> Array:
    """alpha -> the concentration of the Dirichlet distribution, positive."""
    return jax.nn.elu(alpha) + 1.0


def kl_to_flat(c: Array) -> Array:
    """The divergence of the Dirichlet distribution of concentration c [..., O] from the flat one, [...]; 0 at c = 1."""
    total, options = c.sum(axis=-1), c.shape[-1]
    away = ((c - 1.0) * (digamma(c) - digamma(total)[..., None])).sum(axis=-1)
    return gammaln(total) - gammaln(c).sum(axis=-1) - gammaln(float(options)) + away


def drnas(weight: float = 1e-3) -> Variant:
    """Dirichlet weights; `weight` is lambda, of the mean of the divergence over the slots.

    Raises: ValueError where weight is negative.
    """
    if not weight >= 0:
        raise ValueError(f"weight, of the divergence, must not be negative, got {weight}")

    def draw(key: Key, alpha: Array, step: Array) -> Array:
        del step
        return jax.random.dirichlet(key, concentration(alpha))

    def mean(alpha: Array) -> Array:
        c = concentration(alpha)
        return c / c.sum(axis=-1, keepdims=True)

    def penalty(alpha: ArchWeights, weights: ArchWeights, step: Array) -> Array:
        del weights, step
        return weight * jnp.concatenate([kl_to_flat(concentration(own)) for own in alpha.values()]).mean()

    return Variant(by_slots(draw, mean), penalty)
