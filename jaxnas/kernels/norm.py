"""The normalization of batch norm, by the statistics of the batch or by others, with a rule for reverse mode."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnas.base import Array
from jaxnas.kernels.platform import by_platform, outlined
from jaxnas.kernels.trees import pmean

EPSILON = 1e-5
"""Added to the variance in every batch norm."""


def widened(x: Array) -> Array:
    """x in float32 or wider: what statistics, features and logits are computed in."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def standardize(x: Array, scale: Array | None, axis_name: str | None) -> tuple[Array, Array, Array]:
    """Batch norm of x [B, H, W, C] times scale [C]: (y, mean [C], biased variance [C]).

    axis_name: the mapped axis over which the batch is spread, None where there is none. The statistics carry no
    gradient. For several batch norms at once, map it by `vmap`: each sum is then one kernel for all of them.
    """
    return _forward(x, scale, axis_name)[0]


def placed(values: Array) -> Array:
    """[C] -> [1, 1, 1, C]: broadcasting is spelled out, so that rank promotion can be an error."""
    return values[None, None, None, :]


def channel_sums(terms: Callable[..., Array], *arrays: Array, weight: float = 1.0) -> Array:
    """weight times the sum over all positions of terms(*arrays), [C]; arrays: [B, H, W, C].

    terms: elementwise, of arrays [N, C]. A mean is by a weight, in the product below: after a division, which XLA joins
    with what reads it, two programs round the same mean differently.

    XLA:CPU does not vectorize a reduction, and its library of reductions wants an array for the terms. There,
    elementwise sums of quarters are one vectorized loop, and a matrix product adds what they leave: of two rows,
    because one would be a kernel of its own for each such sum.
    """
    channels = arrays[0].shape[-1]
    rows = arrays[0].size // channels
    count = max(n for n in range(1, 5) if rows % n == 0)

    def accumulated(*arrays: Array) -> Array:
        parts = [x.reshape(count, rows // count, channels) for x in arrays]
        each = [terms(*(lax.index_in_dim(part, i, keepdims=False) for part in parts)) for i in range(count)]
        total = functools.reduce(lax.add, each)
        return jnp.dot(jnp.full((2, rows // count), weight, total.dtype), total)[0]

    def at_once(*arrays: Array) -> Array:
        return weight * jnp.sum(terms(*(x.reshape(rows, channels) for x in arrays)).reshape(arrays[0].shape), (0, 1, 2))

    return by_platform(*arrays, cpu=accumulated, default=at_once)


def _times_channels(x: Array, scale: Array) -> Array:
    return x * placed(scale).astype(x.dtype)


@jax.custom_vjp
def scale_channels(x: Array, scale: Array) -> Array:
    """x [B, H, W, C] times scale [C], rounded to the type of x."""
    return _times_channels(x, scale)


def _scale_channels_backward(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, scale = kept
    to_scale = channel_sums(lambda x, g: widened(x) * widened(g), x, g)
    return _times_channels(g, scale), to_scale.astype(scale.dtype)


scale_channels.defvjp(lambda x, scale: (_times_channels(x, scale), (x, scale)), _scale_channels_backward)


def _means_at_once(*arrays: Array, images_first: bool, joined: bool) -> Array:
    """Means over all positions of N arrays [B, H, W, C], [N, C], for accelerators: in one pass over the arrays.

    images_first: sums of each image before those over the images, in two kernels for all arrays. A GPU's XLA would
    split one reduction of that length anyway, and then each array's by itself. joined: whether the second sum is one
    of all arrays. Where more is made of the means they are better apart: that kernel then has it as well.
    """
    count = arrays[0].size // arrays[0].shape[-1]
    if not images_first:
        return jnp.stack([jnp.sum(array, (0, 1, 2)) / count for array in arrays])
    each = [jnp.sum(array, (1, 2)) / count for array in arrays]
    return _over_images(jnp.stack(each), 1) if joined else jnp.stack([_over_images(sums, 0) for sums in each])


def _over_images(x: Array, axis: int) -> Array:
    """The sum over an axis. XLA joins a sum of up to 16 rows with what reads it on a GPU, a longer one never."""
    while (count := x.shape[axis]) > 16 and count % 2 == 0:
        x = functools.reduce(lax.add, jnp.split(x, 2, axis))
    return jnp.sum(x, axis)


def _by_form(in_turn: Callable[..., Any], at_once: Callable[..., Any], *operands: Array) -> Any:
    """in_turn(*operands) on a CPU, and on an accelerator at_once(*operands, images_first)."""
    gpu, tpu = (functools.partial(at_once, images_first=first) for first in (True, False))
    return by_platform(*operands, cpu=in_turn, tpu=tpu, default=gpu)


def _moments_in_turn(x: Array) -> tuple[Array, Array]:
    share = x.shape[-1] / x.size
    mean = channel_sums(lambda x: x, x, weight=share)
    return mean, channel_sums(lambda x: jnp.square(x - mean[None]), x, weight=share)


def _moments_at_once(x: Array, images_first: bool) -> tuple[Array, Array]:
    """The variance is the mean square less the squared mean: half the passes over x, half the kernels of a GPU.

    It is as exact as long as the mean is not hundreds of standard deviations.
    """
    mean, square = _means_at_once(x, jnp.square(x), images_first=images_first, joined=False)
    return mean, _variance(mean, square)


def _variance(mean: Array, square: Array) -> Array:
    return jnp.maximum(square - jnp.square(mean), 0)


@functools.partial(outlined, static=(1,))
def moments(x: Array, axis_name: str | None) -> tuple[Array, Array]:
    """Mean and biased variance, as of `standardize`, of x [B, H, W, C]: [C] each."""
    mean, variance = _by_form(_moments_in_turn, _moments_at_once, widened(x))
    return _of_all(mean, variance, axis_name)


def _of_all(mean: Array, variance: Array, axis_name: str | None) -> tuple[Array, Array]:
    """The mean and variance of the batch of all devices."""
    if axis_name is None:
        return mean, variance
    # Devices wait for each other once: the mean of all is not needed before their own variances.
    means, variances = jnp.moveaxis(lax.all_gather(jnp.stack([mean, variance]), axis_name), 1, 0)
    mean = jnp.mean(means, 0)
    return mean, jnp.mean(variances + jnp.square(means - mean[None]), 0)


def joint_moments(arrays: Sequence[Array], axis_name: str | None) -> tuple[Array, Array]:
    """Mean and biased variance, as of `standardize`, of arrays [N, B, H, W, C] that differ in N alone: [N of all, C].

    A GPU adds all of them up over the images in one kernel. No arrays give none.
    """
    if not arrays:
        return jnp.zeros((0, 1)), jnp.zeros((0, 1))

    def in_turn(*arrays: Array) -> tuple[Array, Array]:
        means, variances = zip(*(jax.vmap(_moments_in_turn)(x) for x in arrays), strict=True)
        return jnp.concatenate(means), jnp.concatenate(variances)

    def at_once(*arrays: Array, images_first: bool) -> tuple[Array, Array]:
        count = math.prod(arrays[0].shape[1:-1])
        mean = _joint_sums(*arrays, images_first=images_first) / count
        return mean, _variance(mean, _joint_sums(*map(jnp.square, arrays), images_first=images_first) / count)

    mean, variance = _by_form(in_turn, at_once, *map(widened, arrays))
    return _of_all(mean, variance, axis_name)


def joint_sums(arrays: Sequence[Array]) -> Array:
    """The sums over all positions of arrays as of `joint_moments`, [N of all, C]."""
    return _by_form(functools.partial(_joint_sums, images_first=False), _joint_sums, *arrays)


def _joint_sums(*arrays: Array, images_first: bool) -> Array:
    if not images_first:
        return jnp.concatenate([jnp.sum(x, (1, 2, 3)) for x in arrays])
    return _over_images(jnp.sum(jnp.concatenate(arrays), (2, 3)), 1)


@jax.jit
def normalize(x: Array, mean: Array, variance: Array, scale: Array | None) -> Array:
    """Batch norm of x [B, H, W, C] by a given mean [C] and biased variance [C], times scale [C]: as x."""
    factor = lax.rsqrt(variance + EPSILON)
    if scale is not None:
        factor = factor * scale
    return ((widened(x) - placed(mean)) * placed(factor)).astype(x.dtype)


@functools.partial(jax.jit, static_argnums=2)
def _forward(x: Array, scale: Array | None, axis_name: str | None) -> tuple[tuple[Array, Array, Array], Any]:
    mean, variance = moments(x, axis_name)
    return (normalize(x, mean, variance, scale), mean, variance), (x, mean, variance, scale)


@functools.partial(outlined, static=(0,))
def _backward(axis_name: str | None, residuals: Any, cotangents: Any) -> tuple[Array, Array | None]:
    """Gradients of the input and of the scale, which is a sum that the input's needs anyway.

    The statistics are reported, not optimized through: their cotangents are dropped.
    """
    x, mean, variance, scale = residuals
    g = widened(cotangents[0])
    inverse = lax.rsqrt(variance + EPSILON)
    centered = (widened(x) - placed(mean)) * placed(inverse)
    count = x.size // x.shape[-1]

    def in_turn(g: Array, x: Array, centered: Array) -> Array:
        total = channel_sums(lambda g: g, g, weight=1 / count)
        along = channel_sums(lambda g, x: g * ((x - mean[None]) * inverse[None]), g, x, weight=1 / count)
        return jnp.stack([total, along])

    def at_once(g: Array, x: Array, centered: Array, images_first: bool) -> Array:
        return _means_at_once(g, g * centered, images_first=images_first, joined=True)

    local = _by_form(in_turn, at_once, g, widened(x), centered)
    g_mean, g_along = pmean(local, axis_name)
    factor = inverse if scale is None else inverse * scale
    dx = placed(factor) * (g - placed(g_mean) - centered * placed(g_along))
    return dx.astype(x.dtype), None if scale is None else (count * local[1]).astype(scale.dtype)


standardize.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def standardize_by(x: Array, mean: Array, variance: Array, scale: Array | None, axis_name: str | None) -> Array:
    """`standardize` with the statistics of x known: its gradient is that of a function of x alone."""
    return normalize(x, mean, variance, scale)


def _by_backward(axis_name: str | None, residuals: Any, g: Array) -> tuple[Any, ...]:
    dx, to_scale = _backward(axis_name, residuals, (g,))
    return dx, None, None, to_scale


standardize_by.defvjp(
    lambda x, mean, variance, scale, axis_name: (normalize(x, mean, variance, scale), (x, mean, variance, scale)),
    _by_backward,
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def per_channel(weights: Array, channels: int) -> Array:
    """[O] -> [O, C]. The gradient of a weight is then summed over positions first and over channels last.

    As one reduction to a scalar it would not be vectorized on a CPU; the product with a vector of ones keeps XLA from
    joining the two sums into that one.
    """
    return jnp.broadcast_to(weights[:, None], (*weights.shape, channels))


per_channel.defvjp(
    lambda weights, channels: (jnp.broadcast_to(weights[:, None], (*weights.shape, channels)), None),
    lambda channels, _, g: (jnp.dot(g, jnp.ones((channels,), g.dtype)),),
)
