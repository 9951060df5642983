"""How far the outputs of a smaller network are from those of the trained model, example by example. Shapes: B batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnas.base import Array, Key, PyTree
from jaxnas.data import Dataset

Distance = Callable[[PyTree, PyTree], Array]
"""(outputs of the smaller network, outputs of the trained model) -> float [B], 0 where they are equal."""


class Divergence(NamedTuple):
    """distance: to the trained model. soft: (outputs, trained, temperature) -> float [B], what distillation minimizes.

    draw: (key, outputs) -> a direction in the outputs, a random one whose second moment is the curvature of the
    distance; with it a gradient of the outputs is one of the Fisher information (`importance`).
    """

    name: str
    distance: Distance
    soft: Callable[[PyTree, PyTree, float], Array]
    draw: Callable[[Key, PyTree], PyTree]


def divergence_of(dataset: Dataset, distance: Distance | None = None) -> Divergence:
    """What suits a data set: the Kullback-Leibler divergence for classes, the squared error for other targets.

    distance: of your own, in place of it.
    """
    if distance is not None:
        name = getattr(distance, "__qualname__", type(distance).__qualname__)
        return Divergence(name, distance, lambda outputs, trained, _: distance(outputs, trained), _normal)
    if dataset.class_names:
        return Divergence("KL divergence", lambda own, trained: kl(own, trained, 1.0), kl, _of_classes)
    return Divergence("squared error", squared, lambda outputs, trained, _: squared(outputs, trained), _normal)


def kl(logits: Array, trained: Array, temperature: float) -> Array:
    """T² KL(trained ‖ own), in nats, of logits [B, K] divided by T (Hinton et al. 2015)."""
    own, other = (jax.nn.log_softmax(x / temperature) for x in (logits, trained))
    return temperature**2 * jnp.sum(jnp.exp(other) * (other - own), axis=-1)


def squared(outputs: PyTree, trained: PyTree) -> Array:
    """The mean squared difference of the numbers of an example, over all arrays."""
    pairs = zip(jax.tree.leaves(outputs), jax.tree.leaves(trained), strict=True)
    apart = [jnp.square(a - b).reshape(len(a), -1) for a, b in pairs]
    return jnp.concatenate(apart, axis=1).mean(axis=1)


def _of_classes(key: Key, logits: Array) -> Array:
    """The gradient of -log p(y) for y drawn from the model: its second moment is the Hessian of the KL divergence."""
    drawn = jax.random.categorical(key, logits)
    return jax.nn.softmax(logits) - jax.nn.one_hot(drawn, logits.shape[-1])


def _normal(key: Key, outputs: PyTree) -> PyTree:
    leaves, form = jax.tree.flatten(outputs)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(form, [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)])
