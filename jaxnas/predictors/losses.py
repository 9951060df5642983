"""Losses of predictors and a transform of what they learn.

A loss maps (predictions [P], targets [P], weight [P]) to a number; entries of weight 0 do not count.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxnas.base import Array

Loss = Callable[[Array, Array, Array], Array]


def squared(predictions: Array, targets: Array, weight: Array) -> Array:
    """The weighted mean of squared errors.

    >>> float(squared(jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0]), jnp.ones(2)))
    2.0
    """
    return jnp.sum(weight * (predictions - targets) ** 2) / jnp.maximum(weight.sum(), 1e-12)


def pairwise_logistic(predictions: Array, targets: Array, weight: Array) -> Array:
    """log(1 + exp(-(f_i - f_j))) where y_i > y_j: RankNet (Burges et al. 2005, https://doi.org/10.1145/1102351.1102363).

    The mean over all pairs of different targets, each with the product of its weights.

    >>> round(float(pairwise_logistic(jnp.zeros(2), jnp.array([0.9, 0.8]), jnp.ones(2))), 3)  # ln 2, of a tie
    0.693
    """
    return _pairwise(jax.nn.softplus, predictions, targets, weight)


def pairwise_hinge(margin: float = 0.1) -> Loss:
    """max(0, margin - (f_i - f_j)) where y_i > y_j, as GATES has it (Ning et al. 2020, https://arxiv.org/abs/2004.01899).

    Raises: ValueError where the margin is not positive: then a constant would be best.

    >>> loss = pairwise_hinge(margin=0.5)
    >>> float(loss(jnp.array([2.0, 1.0]), jnp.array([0.9, 0.8]), jnp.ones(2)))  # the right order, far enough apart
    0.0
    """
    if not margin > 0:
        raise ValueError(f"the margin must be positive, got {margin}")
    return lambda *given: _pairwise(lambda wrong: jax.nn.relu(margin + wrong), *given)


def _pairwise(of_difference: Callable[[Array], Array], predictions: Array, targets: Array, weight: Array) -> Array:
    pairs = weight[:, None] * weight[None] * (targets[:, None] > targets[None])
    values = of_difference(predictions[None] - predictions[:, None])
    return jnp.sum(pairs * values) / jnp.maximum(pairs.sum(), 1e-12)


def normal_scores(targets: Array, weight: Array) -> Array:
    """Targets by rank: the normal quantile of (rank - 1/2) / n among those of positive weight, ties at their mean rank.

    Accuracies have a long lower tail. As they are, a predictor would learn more from that tail than from differences at
    the top.

    Returns: [P], 0 where the weight is 0.

    >>> scores = jax.jit(normal_scores)(jnp.array([0.1, 0.9, 0.8]), jnp.ones(3))
    >>> [round(score, 2) for score in scores.tolist()]
    [-0.97, 0.97, 0.0]
    """
    there = weight > 0
    below = (there[None] & (targets[None] < targets[:, None])).sum(axis=1)
    equal = (there[None] & (targets[None] == targets[:, None])).sum(axis=1)
    quantile = (below + equal / 2) / jnp.maximum(there.sum(), 1)
    return jnp.where(there, jax.scipy.special.ndtri(jnp.where(there, quantile, 0.5)), 0.0)
