"""DrNAS: Dirichlet Neural Architecture Search (Chen, Wang, Cheng, Tang, Hsieh, ICLR 2021, arXiv 2006.10355).

The weights of a slot are drawn from a Dirichlet distribution of concentration c(alpha) = elu(alpha) + 1, with pathwise
gradients (eq. 4). Beside the validation loss the architecture descends a distance to the flat distribution (sec. 3.1):

    lambda KL(Dir(c) || Dir(1)),    KL = ln G(sum c) - sum ln G(c) - ln G(O) + sum (c - 1) (psi(c) - psi(sum c)).

What is derived is the mean c / sum c.

The authors' program has partial channels and prunes options half-way: give a supernet with `partial`, and `there`.
Where options have been pruned the distribution is that over the others.

Deviations: the penalty is the mean over the slots, where the authors' program has the sum, and its default is a squared
distance instead. With the divergence it has no weight decay of alpha: that is the caller's optimizer.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln

from jaxnas.base import ArchWeights, Array, Key
from jaxnas.relax import There, by_slots, masked
from jaxnas.search.darts import Variant


def concentration(alpha: Array) -> Array:
    """alpha -> the concentration of the Dirichlet distribution, positive."""
    return jax.nn.elu(alpha) + 1.0


def kl_to_flat(c: Array) -> Array:
    """The divergence of the Dirichlet distribution of concentration c [..., O] from the flat one, [...]; 0 at c = 1.

    An option of concentration 0 counts as absent.
    """
    left = c > 0
    total, safe = c.sum(axis=-1), jnp.where(left, c, 1.0)  # of 1 the terms below are 0
    away = jnp.where(left, (safe - 1.0) * (digamma(safe) - digamma(total)[..., None]), 0.0).sum(axis=-1)
    return gammaln(total) - gammaln(safe).sum(axis=-1) - gammaln(left.sum(axis=-1).astype(c.dtype)) + away


def drnas(weight: float = 1e-3, *, there: There | None = None) -> Variant:
    """Dirichlet weights. `weight` is the paper's lambda: the penalty is the mean divergence over the slots, times it.

    there: the options that pruning has left.

    Raises: ValueError where weight is negative.

    >>> variant, alpha = drnas(), {"cell": jnp.zeros((1, 4))}
    >>> variant.relaxation.mean(alpha)["cell"].tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    >>> abs(float(variant.penalty(alpha, alpha, 0))) < 1e-6  # of the flat distribution
    True
    """
    if not weight >= 0:
        raise ValueError(f"weight, of the divergence, must not be negative, got {weight}")

    def draw(key: Key, alpha: Array, step: Array) -> Array:
        del step
        left = alpha > -jnp.inf
        c = jnp.where(left, concentration(jnp.where(left, alpha, 0.0)), 1.0)
        # A Dirichlet draw is one of Gamma variables, divided by their sum; in logarithms, which do not underflow.
        return jax.nn.softmax(jnp.where(left, jax.random.loggamma(key, c), -jnp.inf))

    def mean(alpha: Array) -> Array:
        c = concentration(alpha)
        return c / c.sum(axis=-1, keepdims=True)

    def penalty(alpha: ArchWeights, weights: ArchWeights, step: Array) -> Array:
        del weights, step
        slots = [kl_to_flat(concentration(own)) for own in masked(alpha, there).values()]
        return weight * jnp.concatenate(slots).mean()

    return Variant(by_slots(draw, mean, there=there), penalty)
