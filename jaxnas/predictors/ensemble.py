"""Several predictors as one: the mean of their means, and in the std how far they are apart.

Deep ensembles (Lakshminarayanan et al. 2017, https://arxiv.org/abs/1612.01474): members differ in where they begin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas.base import Array, Graph, Key, Predictor


def ensemble(predictor: Predictor, members: int) -> Predictor:
    """Several members of one predictor, fitted at once by `vmap`. The state has a leading axis of members.

    Raises: ValueError where there are fewer than two members, because a standard deviation needs two.

    >>> import optax
    >>> from jaxnas.predictors import mlp, one_hot, regression, unconnected
    >>> network = mlp(one_hot(3), unconnected(jnp.array([2, 0])), hidden=(8,))
    >>> predictor = ensemble(regression(network, optax.adam(0.01), epochs=100), members=5)
    >>> [weight.shape for weight, bias in jax.eval_shape(predictor.init, jax.random.key(0)).params]
    [(5, 7, 8), (5, 8, 1)]
    """
    if members < 2:
        raise ValueError(f"an ensemble has at least 2 members, got {members}")

    def fit(key: Key, state: Any, graphs: Graph, targets: Array, weight: Array) -> Any:
        keys = jax.random.split(key, members)
        return jax.vmap(predictor.fit, (0, 0, None, None, None))(keys, state, graphs, targets, weight)

    return Predictor(
        init=lambda key: jax.vmap(predictor.init)(jax.random.split(key, members)),
        fit=fit,
        predict=lambda state, graphs: _mixed(*jax.vmap(predictor.predict, (0, None))(state, graphs)),
    )


def average(*predictors: Predictor) -> Predictor:
    """Different predictors with equal weights; its state is a tuple of theirs.

    Raises: ValueError where there is none.

    >>> fixed = lambda value: Predictor(
    ...     lambda key: value, lambda key, state, *data: state, lambda state, graphs: (jnp.array([state]), jnp.zeros(1))
    ... )
    >>> both = average(fixed(1.0), fixed(3.0))
    >>> [values.tolist() for values in both.predict(both.init(jax.random.key(0)), None)]  # the mean, and how far apart
    [[2.0], [1.0]]
    """
    if not predictors:
        raise ValueError("there is no predictor to be averaged; give at least one")

    def init(key: Key) -> Any:
        keys = jax.random.split(key, len(predictors))
        return tuple(predictor.init(key) for predictor, key in zip(predictors, keys, strict=True))

    def fit(key: Key, state: Any, graphs: Graph, targets: Array, weight: Array) -> Any:
        parts = zip(predictors, jax.random.split(key, len(predictors)), state, strict=True)
        return tuple(each.fit(key, part, graphs, targets, weight) for each, key, part in parts)

    def predict(state: Sequence[Any], graphs: Graph) -> tuple[Array, Array]:
        found = [each.predict(part, graphs) for each, part in zip(predictors, state, strict=True)]
        means, stds = zip(*found, strict=True)
        return _mixed(jnp.stack(means), jnp.stack(stds))

    return Predictor(init, fit, predict)


def _mixed(means: Array, stds: Array) -> tuple[Array, Array]:
    """Mean and std of an equal mixture, of [E, P] each."""
    return means.mean(axis=0), jnp.sqrt(means.var(axis=0) + (stds**2).mean(axis=0))
