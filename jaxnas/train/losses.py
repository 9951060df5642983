"""Losses and scores of classification. Shapes: B batch, K classes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxnas.base import Array


def mean(values: Array, weight: Array | None = None) -> Array:
    """Mean of values [B], or sum(weight · values) / sum(weight) with weight [B], not all 0."""
    return jnp.mean(values) if weight is None else jnp.sum(values * weight) / jnp.sum(weight)


def cross_entropies(logits: Array, labels: Array, smoothing: float = 0.0) -> Array:
    """The cross-entropy of each example: logits [B, K], labels int [B] -> float32 [B], in nats.

    Smoothing s makes the target (1 - s) · one-hot + s / K (Szegedy et al. 2016, https://arxiv.org/abs/1512.00567).
    """
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    taken = jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]
    if smoothing == 0.0:
        return -taken
    return -(1.0 - smoothing) * taken - smoothing * jnp.mean(log_probabilities, axis=1)


def cross_entropy(logits: Array, labels: Array, smoothing: float = 0.0, weight: Array | None = None) -> Array:
    """Mean of `cross_entropies`, weighted by weight [B] where that is given."""
    return mean(cross_entropies(logits, labels, smoothing), weight)


def accuracy(logits: Array, labels: Array, weight: Array | None = None) -> Array:
    """Share of examples whose largest logit, the first among equals, is the label's."""
    return mean((jnp.argmax(logits, axis=1) == labels).astype(jnp.float32), weight)


def top_k_accuracy(logits: Array, labels: Array, k: int, weight: Array | None = None) -> Array:
    """Share of examples whose label is among the k largest logits, the first among equals. Raises: ValueError on k."""
    if not 1 <= k <= logits.shape[1]:
        raise ValueError(f"k must be between 1 and the number of classes, {logits.shape[1]}, got {k}")
    best = jax.lax.top_k(logits, k)[1]
    return mean((best == labels[:, None]).any(axis=1).astype(jnp.float32), weight)


def with_auxiliary(
    logits: Array,
    aux_logits: Array | None,
    labels: Array,
    auxiliary_weight: float = 0.4,
    smoothing: float = 0.0,
) -> Array:
    """Cross-entropy, plus auxiliary_weight times that of the auxiliary head where the network has one."""
    loss = cross_entropy(logits, labels, smoothing)
    return loss if aux_logits is None else loss + auxiliary_weight * cross_entropy(aux_logits, labels, smoothing)
