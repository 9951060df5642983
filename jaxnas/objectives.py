"""Objectives: what training minimizes and what searches compare, example by example. Shapes: B batch, K classes.

Each factory makes an `Objective`. One of your own is two functions of (outputs, targets) that give a number for each
example:

    Objective(lambda y, t: jnp.abs(y - t).mean(1), lambda y, t: -jnp.abs(y - t).mean(1), "negative_absolute_error")
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxnas.base import Array, Objective, PyTree


def classification(label_smoothing: float = 0.0, top_k: int = 1) -> Objective:
    """Cross-entropy in nats, and accuracy: outputs are logits [B, K], targets are classes, int [B].

    An example counts as right where its class has one of the top_k largest logits, the first among equals.
    label_smoothing: s makes the target of the loss (1 - s) · one-hot + s / K (Szegedy et al. 2016,
    https://arxiv.org/abs/1512.00567). It is for training; what is evaluated has none.

    Raises: ValueError where label_smoothing is not in [0, 1) or top_k is less than 1, and while tracing for outputs or
    targets of other forms and for fewer than top_k classes.

    >>> objective = classification(top_k=2)
    >>> logits = jnp.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    >>> objective.metric(logits, jnp.array([1, 2])).tolist()
    [1.0, 0.0]
    >>> objective.name
    'top_2_accuracy'
    """
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")

    def loss(logits: Array, labels: Array) -> Array:
        _check_classes(logits, labels)
        if label_smoothing == 0.0:
            return optax.losses.softmax_cross_entropy_with_integer_labels(_at_least_float32(logits), labels)
        return cross_entropies(logits, labels, label_smoothing)

    def metric(logits: Array, labels: Array) -> Array:
        _check_classes(logits, labels)
        if top_k == 1:
            return (jnp.argmax(logits, axis=1) == labels).astype(jnp.float32)
        if top_k > logits.shape[1]:
            raise ValueError(f"top_k must be at most the number of classes, {logits.shape[1]}, got {top_k}")
        best = jax.lax.top_k(logits, top_k)[1]
        return (best == labels[:, None]).any(axis=1).astype(jnp.float32)

    return Objective(loss, metric, "accuracy" if top_k == 1 else f"top_{top_k}_accuracy", share=True)


CLASSIFICATION = classification()
"""The default of all that takes an objective."""


def takes_logits(objective: Objective) -> bool:
    """Whether an objective is one of `classification`, whose outputs are logits [B, K].

    >>> takes_logits(classification(label_smoothing=0.1)), takes_logits(regression())
    (True, False)
    """
    own, known = (getattr(loss, "__code__", None) for loss in (objective.loss, CLASSIFICATION.loss))
    return own is known


def regression() -> Objective:
    """The squared error, and its negative as the metric: outputs [B] or [B, W], targets numbers [B] or [B, W].

    It is the mean over the W numbers of an example. Outputs [B, 1] fit targets [B].

    Raises: ValueError, while tracing, where outputs and targets have different shapes.

    >>> regression().loss(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])).tolist()
    [0.0, 4.0]
    """

    def loss(outputs: Array, targets: Array) -> Array:
        if outputs.shape == (*targets.shape, 1):
            outputs = outputs[..., 0]
        if outputs.shape != targets.shape:
            raise ValueError(
                f"regression needs outputs in the shape of the targets, {targets.shape}, got {outputs.shape}"
            )
        squared = jnp.square(_at_least_float32(outputs) - targets)
        return squared.reshape(len(squared), -1).mean(axis=1)

    return Objective(loss, lambda outputs, targets: -loss(outputs, targets), "negative_squared_error")


def cross_entropies(logits: Array, labels: Array, smoothing: float = 0.0) -> Array:
    """The cross-entropy of each example with smoothed labels: logits [B, K], labels int [B] -> [B], in nats.

    Without smoothing its last bits are not those of `classification()`, which takes optax's.

    >>> round(float(cross_entropies(jnp.zeros((1, 4)), jnp.array([2]))[0]), 3)  # ln 4, whatever the class
    1.386
    """
    log_probabilities = jax.nn.log_softmax(_at_least_float32(logits))
    taken = jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]
    if smoothing == 0.0:
        return -taken
    return -(1.0 - smoothing) * taken - smoothing * jnp.mean(log_probabilities, axis=1)


def means(objective: Objective, outputs: PyTree, targets: PyTree) -> tuple[Array, Array]:
    """(loss, metric), each the mean over the examples of a batch.

    >>> loss, metric = means(regression(), jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0]))
    >>> float(loss), float(metric)
    (2.0, -2.0)
    """
    return objective.loss(outputs, targets).mean(), objective.metric(outputs, targets).mean()


def _at_least_float32(values: Array) -> Array:
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def _check_classes(logits: Array, labels: Array) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"classification needs outputs [B, K] and integer targets [B], got outputs {logits.shape} and targets "
            f"{labels.dtype} {labels.shape}; give an objective that fits, such as regression()"
        )
