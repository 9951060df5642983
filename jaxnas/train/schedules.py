"""Learning-rate schedules, and the optimizer of the published recipes.

A schedule is optax's: number of steps done -> learning rate. `per_epoch` turns one that counts epochs into one that
counts steps: the published recipes change the rate once an epoch, `per_epoch(cosine(0.025, 0.001, 50), steps)`.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import optax
from optax.contrib import reduce_on_plateau

from jaxnas.base import Array, PyTree
from jaxnas.kernels.arrays import materialized
from jaxnas.kernels.trees import norm, times

Count = int | Array


def cosine(first: float, last: float, total: int) -> optax.Schedule:
    """From `first` at 0 to `last` at `total` and after along half a cosine (Loshchilov & Hutter 2017).

    Raises: ValueError where total is under 1.
    """
    _at_least_one("total", total)

    def rate(count: Count) -> Array:
        progress = jnp.minimum(count, total) / total
        return last + 0.5 * (first - last) * (1.0 + jnp.cos(jnp.pi * progress))

    return rate


def warm_restarts(first: float, last: float, period: int, growth: int = 2) -> optax.Schedule:
    """Half a cosine from `first` to `last` again and again, each `growth` times as long as the one before.

    The first lasts `period`; SGDR (Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983).

    Raises: ValueError where period or growth is under 1.
    """
    _at_least_one("period", period)
    _at_least_one("growth", growth)

    def rate(count: Count) -> Array:
        periods = jnp.asarray(count) / period
        if growth == 1:
            progress = periods % 1
        else:
            # Restarts come after (growth^n - 1) / (growth - 1) periods; the small number is against rounding.
            n = jnp.floor(jnp.log1p(periods * (growth - 1)) / math.log(growth) + 1e-6)
            progress = (periods - (growth**n - 1) / (growth - 1)) / growth**n
        return last + 0.5 * (first - last) * (1.0 + jnp.cos(jnp.pi * jnp.clip(progress, 0.0, 1.0)))

    return rate


def step_decay(first: float, factor: float, every: int) -> optax.Schedule:
    """first · factor^(count // every). Raises: ValueError where every is under 1 or factor is not in (0, 1]."""
    _at_least_one("every", every)
    if not 0.0 < factor <= 1.0:
        raise ValueError(f"factor must be in (0, 1], got {factor}")
    return lambda count: first * factor ** (jnp.asarray(count) // every)


def per_epoch(schedule: optax.Schedule, steps_per_epoch: int) -> optax.Schedule:
    """A schedule over epochs, held for all steps of an epoch. Raises: ValueError where steps_per_epoch is under 1."""
    _at_least_one("steps_per_epoch", steps_per_epoch)
    return lambda count: schedule(count // steps_per_epoch)


def plateau(
    steps_per_epoch: int, factor: float = 0.1, patience: int = 10, threshold: float = 1e-4
) -> optax.GradientTransformationExtraArgs:
    """Scales updates by `factor` once more whenever the loss of an epoch has not improved for `patience` epochs.

    An epoch's loss is the mean over its steps of `value`, which the update is given. An improvement is a loss under
    (1 - threshold) times the best. The scale is part of the optimizer's state. Goes last: `sgd(…, then=plateau(…))`.

    Raises: ValueError where steps_per_epoch or patience is under 1 or factor is not in (0, 1).
    """
    _at_least_one("steps_per_epoch", steps_per_epoch)
    _at_least_one("patience", patience)
    return reduce_on_plateau(factor, patience, rtol=threshold, accumulation_size=steps_per_epoch)


def sgd(
    learning_rate: float | optax.Schedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 3e-4,
    clip: float | None = 5.0,
    nesterov: bool = False,
    then: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Stochastic gradient descent in PyTorch's order, which the published recipes mean.

    The gradient is clipped to a global norm, None for no clipping; then weight_decay · parameter is added, so that
    decay is not clipped but passes through momentum; then momentum; then minus the learning rate. Every parameter
    decays, batch norms and biases included. `then` comes last, such as `plateau`.

    Raises: ValueError where momentum is not in [0, 1), weight_decay is negative or clip is not positive.
    """
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"momentum must be in [0, 1), got {momentum}")
    if weight_decay < 0.0:
        raise ValueError(f"weight_decay must not be negative, got {weight_decay}")
    if clip is not None and clip <= 0.0:
        raise ValueError(f"clip must be positive, or None for no clipping, got {clip}")
    return optax.with_extra_args_support(
        optax.chain(
            optax.identity() if clip is None else clip_by_norm(clip),
            optax.add_decayed_weights(weight_decay),
            optax.trace(momentum, nesterov),
            optax.scale_by_learning_rate(_once(learning_rate)),
            optax.identity() if then is None else then,
        )
    )


def _once(learning_rate: float | optax.Schedule) -> float | optax.Schedule:
    """A schedule that is computed once, not in the kernel of each parameter that it is multiplied with."""
    return (lambda count: materialized(learning_rate(count))) if callable(learning_rate) else learning_rate


def clip_by_norm(most: float) -> optax.GradientTransformation:
    """As `optax.clip_by_global_norm`: scales the updates so that their norm is at most `most`; a smaller program."""

    def update(updates: PyTree, state: optax.EmptyState, params: PyTree | None = None) -> tuple[PyTree, Any]:
        del params
        size = norm(updates)
        return times(updates, jnp.where(size < most, 1.0, most / jnp.where(size < most, 1.0, size))), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
