"""A multilayer perceptron on a fixed encoding, the predictor of BANANAS (White et al. 2021,
https://arxiv.org/abs/1910.11858) on paths, and the usual baseline on one-hot encodings.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxnas.base import Array, Graph, Key
from jaxnas.predictors.encodings import Encoding
from jaxnas.predictors.regression import Regressor

Layer = tuple[Array, Array]
"""weight [inputs, outputs], bias [outputs]."""


def mlp(encode: Encoding, example: Graph, hidden: Sequence[int] = (64, 64)) -> Regressor:
    """Dense layers with ReLU between them, to be fitted by `regression`.

    encode: graph -> [F], what the first layer reads. example: any graph of the space, for its shape. hidden: the units
    of each hidden layer.

    Raises: ValueError where a layer has no unit.

    >>> from jaxnas.predictors import one_hot, unconnected
    >>> network = mlp(one_hot(3), unconnected(jnp.array([2, 0])), hidden=(8,))
    >>> [weight.shape for weight, bias in jax.eval_shape(network.init, jax.random.key(0))]
    [(7, 8), (8, 1)]
    """
    if not hidden or min(hidden) < 1:
        raise ValueError(f"hidden layers need at least one unit each, got {list(hidden)}")
    features = encoded_size(encode, example)
    return Regressor(
        example=example,
        features=features,
        encode=encode,
        init=lambda key: dense_init(key, (features, *hidden, 1)),
        apply=lambda params, graph, encoded: dense_apply(params, encoded)[0],
    )


def encoded_size(encode: Encoding, example: Graph) -> int:
    """F. Raises: ValueError where the encoding gives no vector."""
    shape = jax.eval_shape(encode, example).shape
    if len(shape) != 1:
        raise ValueError(f"an encoding of one graph is a vector [F], got {list(shape)}")
    return int(shape[0])


def dense_init(key: Key, sizes: Sequence[int]) -> list[Layer]:
    """Weights of variance 2 / inputs, the last of 1 / inputs; biases of 0."""
    keys = jax.random.split(key, len(sizes) - 1)
    gains = [2.0] * (len(sizes) - 2) + [1.0]
    return [
        (jax.random.normal(k, (a, b)) * (gain / max(a, 1)) ** 0.5, jnp.zeros(b))
        for k, gain, a, b in zip(keys, gains, sizes, sizes[1:], strict=False)
    ]


def dense_apply(layers: Sequence[Layer], x: Array) -> Array:
    """x [inputs] -> [outputs], with ReLU after all layers but the last."""
    for place, (weight, bias) in enumerate(layers):
        x = x @ weight + bias
        x = jax.nn.relu(x) if place < len(layers) - 1 else x
    return x
