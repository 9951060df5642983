"""Training of a small network as a predictor: one `lax.scan` over the epochs, and one over the batches of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from jaxnas.base import Array, Graph, Key, Predictor, PyTree
from jaxnas.checks import checked_predictor
from jaxnas.predictors.encodings import Encoding
from jaxnas.predictors.losses import Loss, squared

CHUNK = 512
"""Architectures predicted at a time, so that what a network keeps of them fits the processor's cache."""


class Regressor(NamedTuple):
    """A network of one graph.

    example: any graph of its space, for its shape. encode: what of the graph is not learned, graph -> [F], features =
    F; it is computed once and standardized. init: key -> params. apply: (params, graph, encoded [F]) -> float32 [].

    >>> from jaxnas.predictors import operation_counts, unconnected
    >>> linear = Regressor(
    ...     example=unconnected(jnp.array([2, 0])),
    ...     features=3,
    ...     encode=operation_counts([0, 1, 2]),
    ...     init=lambda key: jnp.zeros(3),
    ...     apply=lambda params, graph, encoded: encoded @ params,
    ... )
    >>> float(linear.apply(jnp.array([1.0, 2.0, 3.0]), linear.example, linear.encode(linear.example)))
    4.0
    """

    example: Graph
    features: int
    encode: Encoding
    init: Callable[[Key], PyTree]
    apply: Callable[[PyTree, Graph, Array], Array]


class Moments(NamedTuple):
    """Weighted mean and standard deviation, of columns; 1 in place of a deviation of 0."""

    mean: Array
    std: Array


class RegressionState(NamedTuple):
    """params: of the network. encoded: moments [F] over the training data. targets: theirs []."""

    params: PyTree
    encoded: Moments
    targets: Moments


def moments(values: Array, weight: Array) -> Moments:
    """Of values [P] or [P, F] with weights [P]."""
    share = (weight / jnp.maximum(weight.sum(), 1e-12)).reshape(-1, *[1] * (values.ndim - 1))
    mean = jnp.sum(share * values, axis=0)
    variance = jnp.sum(share * (values - mean[None]) ** 2, axis=0)
    return Moments(mean, jnp.where(variance > 1e-12, jnp.sqrt(jnp.maximum(variance, 1e-12)), 1.0))


Optimizer: TypeAlias = optax.GradientTransformation | Callable[[int], optax.GradientTransformation]
"""An optimizer, or a function from the number of steps of a fit to one, for a schedule over all of them."""


def decaying_adamw(steps: int) -> optax.GradientTransformation:
    """AdamW with clipped gradients, whose learning rate falls from 0.005 to 0 by a cosine over the steps of a fit."""
    schedule = optax.cosine_decay_schedule(5e-3, steps)
    return optax.chain(optax.clip_by_global_norm(5.0), optax.adamw(schedule, weight_decay=1e-2))


def regression(
    network: Regressor,
    optimizer: Optimizer,
    *,
    epochs: int,
    batch: int | None = None,
    least_steps: int = 1,
    loss: Loss = squared,
) -> Predictor:
    """The network fitted to standardized targets. Its std is 0; see `ensemble`.

    network: of `mlp`, `gnn` or your own. optimizer: an optax transformation, or a function from the number of steps to
    one. epochs: of each fit. batch: about how many data a step sees. The data of an epoch are drawn in random order and
    divided into equal batches of nearly that size; by default a step sees all of them. least_steps: where the epochs
    have fewer steps than these, there are more epochs. loss: of predictions, targets and weights.

    Fitting is random only where there is more than one batch.

    Raises: ValueError where a number is less than 1.

    >>> from jaxnas.predictors import mlp, one_hot, unconnected
    >>> graphs = jax.vmap(unconnected)(jnp.array([[0, 0], [0, 1], [1, 1]]))
    >>> network = mlp(one_hot(2), jax.tree.map(lambda leaf: leaf[0], graphs), hidden=(8,))
    >>> predictor = regression(network, optax.adam(0.01), epochs=100)
    >>> init_key, fit_key = jax.random.split(jax.random.key(0))
    >>> state = jax.eval_shape(predictor.init, init_key)
    >>> state = jax.eval_shape(predictor.fit, fit_key, state, graphs, jnp.array([0.5, 0.6, 0.8]), jnp.ones(3))
    >>> mean, std = jax.eval_shape(predictor.predict, state, graphs)
    >>> mean.shape, std.shape
    ((3,), (3,))
    """
    for name, number in (("epochs", epochs), ("batch", batch), ("least_steps", least_steps)):
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")

    def init(key: Key) -> RegressionState:
        encoded = Moments(jnp.zeros(network.features), jnp.ones(network.features))
        return RegressionState(network.init(key), encoded, Moments(jnp.float32(0), jnp.float32(1)))

    def fit(key: Key, state: RegressionState, graphs: Graph, targets: Array, weight: Array) -> RegressionState:
        encoded = jax.vmap(network.encode)(graphs)
        inputs, outputs = moments(encoded, weight), moments(targets, weight)
        encoded = (encoded - inputs.mean[None]) / inputs.std[None]
        data = (graphs, encoded, (targets - outputs.mean) / outputs.std, weight)
        count = len(targets)
        parts = 1 if batch is None else max(1, round(count / batch))
        size = -(-count // parts)
        turns = max(epochs, -(-least_steps // parts))
        transformation = optimizer(parts * turns) if callable(optimizer) else optimizer

        def value(params: PyTree, graphs: Graph, encoded: Array, wanted: Array, weight: Array) -> Array:
            return loss(jax.vmap(network.apply, (None, 0, 0))(params, graphs, encoded), wanted, weight)

        def step(carry: tuple[PyTree, Any], seen: tuple[Any, ...]) -> tuple[tuple[PyTree, Any], None]:
            params, state = carry
            updates, state = transformation.update(jax.grad(value)(params, *seen), state, params)
            return (optax.apply_updates(params, updates), state), None

        def epoch(carry: tuple[PyTree, Any], key: Key) -> tuple[tuple[PyTree, Any], None]:
            if parts == 1:
                return step(carry, data)
            # Where the data do not divide, the first of the order come twice.
            rows = jnp.resize(jax.random.permutation(key, count), (parts, size))
            return jax.lax.scan(lambda carry, at: step(carry, jax.tree.map(lambda x: x[at], data)), carry, rows)

        start = (state.params, transformation.init(state.params))
        params = jax.lax.scan(epoch, start, jax.random.split(key, turns))[0][0]
        return RegressionState(params, inputs, outputs)

    def predict(state: RegressionState, graphs: Graph) -> tuple[Array, Array]:
        def one(graph: Graph) -> Array:
            encoded = (network.encode(graph) - state.encoded.mean) / state.encoded.std
            return network.apply(state.params, graph, encoded)

        mean = jax.lax.map(one, graphs, batch_size=CHUNK) * state.targets.std + state.targets.mean
        return mean, jnp.zeros_like(mean)

    return checked_predictor(Predictor(init, fit, predict), network.example)
