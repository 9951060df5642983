"""Pointwise and dense convolutions, batch norm, factorised reduction, dense layer: each an init and an apply."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnas.base import Array, Key
from jaxnas.ops.gated import Kernel, opened, where_wanted
from jaxnas.ops.platform import by_platform, outlined

Params = dict[str, Any]
EPSILON = 1e-5
"""Added to the variance in every batch norm."""


def uniform_fan_in(key: Key, shape: Sequence[int], fan_in: int) -> Array:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): what PyTorch, hence every published recipe, gives convolutions."""
    bound = 1.0 / math.sqrt(fan_in)
    return jax.random.uniform(key, tuple(shape), jnp.float32, -bound, bound)


def conv_init(key: Key, size: int, channels_in: int, channels_out: int) -> Array:
    """A kernel [k, k, C_in, C_out], or [C_in, C_out] for size 1."""
    shape = (channels_in, channels_out) if size == 1 else (size, size, channels_in, channels_out)
    return uniform_fan_in(key, shape, size * size * channels_in)


def depthwise_init(key: Key, size: int, channels: int) -> Array:
    """A depthwise kernel [k, k, C]."""
    return uniform_fan_in(key, (size, size, channels), size * size)


def pointwise(x: Array, kernel: Kernel, stride: int = 1) -> Array:
    """1x1 convolution: x [B, H, W, C_in], kernel [C_in, C_out] -> [B, ceil(H/stride), ceil(W/stride), C_out]."""
    if stride != 1:
        x = x[:, ::stride, ::stride]
    # flattened: the gradient of a product over four dimensions is several times slower on a CPU
    flat = x.reshape(-1, x.shape[-1])
    matrix, wanted = opened(kernel, x.dtype)
    product = jnp.dot(flat, matrix) if wanted is None else _gated_product(flat, matrix, wanted)
    return product.reshape(*x.shape[:-1], -1)


@jax.custom_vjp
def _gated_product(x: Array, matrix: Array, wanted: Array) -> Array:
    return jnp.dot(x, matrix)


_gated_product.defvjp(
    lambda x, matrix, wanted: (jnp.dot(x, matrix), (x, matrix, wanted)),
    lambda kept, g: (jnp.dot(g, kept[1].T), where_wanted(kept[2], lambda x, g: jnp.dot(x.T, g), kept[0], g), None),
)


def conv(x: Array, kernel: Kernel, stride: int = 1, padding: int | None = None) -> Array:
    """Dense convolution: kernel [k, k, C_in, C_out]; padding k // 2 on each side unless given."""
    kernel, wanted = opened(kernel, x.dtype)
    pad = kernel.shape[0] // 2 if padding is None else padding
    small = x.shape[1] * x.shape[2] <= (64 if x.shape[-1] < 8 else 16)
    if stride != 1 or small:
        return _conv_by_taps(x, kernel, wanted, stride, pad)
    return _same_conv(x, kernel, wanted) if padding is None else _convolve(x, kernel, stride, pad)


def _convolve(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    pads = ((padding, padding), (padding, padding))
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _sum_of_taps(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    size = kernel.shape[0]
    padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows, columns = ((n - size) // stride + 1 for n in padded.shape[1:3])
    high, wide = stride * (rows - 1) + 1, stride * (columns - 1) + 1
    products = [
        jnp.dot(padded[:, i : i + high : stride, j : j + wide : stride].reshape(-1, x.shape[-1]), kernel[i, j])
        for i in range(size)
        for j in range(size)
    ]
    return sum(products).reshape(x.shape[0], rows, columns, -1)  # type: ignore[union-attr]


def _taps_or_whole(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    taps = functools.partial(_sum_of_taps, stride=stride, padding=padding)
    whole = functools.partial(_convolve, stride=stride, padding=padding)
    return by_platform(x, kernel, cpu=taps, default=whole)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _conv_by_taps(x: Array, kernel: Array, wanted: Array | None, stride: int, padding: int) -> Array:
    """A convolution that is a sum of matrix products on a CPU, one for each entry of the window.

    XLA:CPU has no fast kernel for the gradients of a strided convolution: inside a loop, as a chunk of training steps
    is one, they take tens of times as long (`benchmarks.operations`). Small images gain as well.
    """
    return _taps_or_whole(x, kernel, stride, padding)


def _conv_by_taps_backward(
    stride: int, padding: int, residuals: tuple[Array, Array, Array | None], g: Array
) -> tuple[Array, Array, None]:
    x, kernel, wanted = residuals

    def to_input(form: Callable[..., Array]) -> Callable[..., Array]:
        return lambda x, kernel, g: jax.vjp(lambda x: form(x, kernel, stride, padding), x)[1](g)[0]

    def to_kernel(form: Callable[..., Array]) -> Callable[..., Array]:
        return lambda x, kernel, g: jax.vjp(lambda kernel: form(x, kernel, stride, padding), kernel)[1](g)[0]

    def formed(gradient: Callable[..., Callable[..., Array]]) -> Callable[..., Array]:
        return functools.partial(by_platform, cpu=gradient(_sum_of_taps), default=gradient(_convolve))

    dx = formed(to_input)(x, kernel, g)
    return dx, where_wanted(wanted, formed(to_kernel), x, kernel, g), None


_conv_by_taps.defvjp(
    lambda x, kernel, wanted, stride, padding: (_taps_or_whole(x, kernel, stride, padding), (x, kernel, wanted)),
    _conv_by_taps_backward,
)


@jax.custom_vjp
def _same_conv(x: Array, kernel: Array, wanted: Array | None) -> Array:
    return _convolve(x, kernel, 1, kernel.shape[0] // 2)


def _same_conv_backward(residuals: tuple[Array, Array, Array | None], g: Array) -> tuple[Array, Array, None]:
    """Both gradients in the plain layout.

    XLA:CPU brings the automatic ones into a layout that it has a fast kernel for only outside of loops; in a scan over
    cells or edges they would take many times as long. The kernel's gradient as a convolution is slow there everywhere,
    the more channels, the more so.
    """
    x, kernel, wanted = residuals
    pad = kernel.shape[0] // 2
    dx = _convolve(g, kernel[::-1, ::-1].transpose(0, 1, 3, 2), 1, pad)

    def by_convolution(x: Array, g: Array) -> Array:
        return _convolve(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), 1, pad).transpose(1, 2, 0, 3)

    by_products = functools.partial(_kernel_gradient_by_products, size=kernel.shape[0])
    to_kernel = functools.partial(by_platform, cpu=by_products, default=by_convolution)
    return dx, where_wanted(wanted, to_kernel, x, g), None


def _kernel_gradient_by_products(x: Array, g: Array, size: int) -> Array:
    """[k, k, C_in, C_out], a matrix product for each row of the kernel: what has fewer channels is shifted and stacked
    along them."""
    moved, still = (x, g) if x.shape[-1] < g.shape[-1] else (g, x)
    low, (height, width) = size // 2, x.shape[1:3]
    padded = jnp.pad(moved, ((0, 0), (low, low), (low, low), (0, 0)))
    columns = jnp.concatenate([padded[:, :, j : j + width] for j in range(size)], -1)
    rows = [columns[:, i : i + height].reshape(-1, columns.shape[-1]) for i in range(size)]
    flat = still.reshape(-1, still.shape[-1])
    if moved is x:
        return jnp.stack([jnp.dot(row.T, flat) for row in rows]).reshape(size, size, x.shape[-1], -1)
    products = jnp.stack([jnp.dot(flat.T, row) for row in rows]).reshape(size, x.shape[-1], size, -1)
    return products.transpose(0, 2, 1, 3)[::-1, ::-1]


_same_conv.defvjp(
    lambda x, kernel, wanted: (_convolve(x, kernel, 1, kernel.shape[0] // 2), (x, kernel, wanted)), _same_conv_backward
)


def widened(x: Array) -> Array:
    """x in float32 or wider: what statistics, features and logits are computed in."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def pmean(tree: Any, axis_name: str | None) -> Any:
    """The mean over a mapped axis, or the tree itself where there is none."""
    return tree if axis_name is None else lax.pmean(tree, axis_name)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _standardise(x: Array, scale: Array | None, axis_name: str | None) -> tuple[Array, Array, Array]:
    return _standardise_forward(x, scale, axis_name)[0]


def _per_channel(values: Array) -> Array:
    """[C] -> [1, 1, 1, C]: broadcasting is spelled out, so that rank promotion can be an error."""
    return values[None, None, None, :]


def channel_sums(terms: Callable[..., Array], *arrays: Array, weight: float = 1.0) -> Array:
    """weight times the sum over all positions of terms(*arrays), [C]; arrays: [B, H, W, C].

    terms: elementwise, of arrays [N, C]. A mean is by a weight, in the product below: after a division, which XLA joins
    with what reads it, two programs round the same mean differently.

    XLA:CPU does not vectorise a reduction, and its library of reductions wants an array for the terms. There,
    elementwise sums of quarters are one vectorised loop, and a matrix product adds what they leave: of two rows,
    because one would be a kernel of its own for each such sum.
    """
    channels = arrays[0].shape[-1]
    rows = arrays[0].size // channels
    count = max(n for n in range(1, 5) if rows % n == 0)

    def in_parts(*arrays: Array) -> Array:
        parts = [x.reshape(count, rows // count, channels) for x in arrays]
        each = [terms(*(lax.index_in_dim(part, i, keepdims=False) for part in parts)) for i in range(count)]
        total = functools.reduce(lax.add, each)
        return jnp.dot(jnp.full((2, rows // count), weight, total.dtype), total)[0]

    def at_once(*arrays: Array) -> Array:
        return weight * jnp.sum(terms(*(x.reshape(rows, channels) for x in arrays)).reshape(arrays[0].shape), (0, 1, 2))

    return by_platform(*arrays, cpu=in_parts, default=at_once)


def _times_channels(x: Array, scale: Array) -> Array:
    return x * _per_channel(scale).astype(x.dtype)


@jax.custom_vjp
def scale_channels(x: Array, scale: Array) -> Array:
    """x [B, H, W, C] times scale [C], rounded to the type of x."""
    return _times_channels(x, scale)


def _scale_channels_backward(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, scale = kept
    to_scale = channel_sums(lambda x, g: widened(x) * widened(g), x, g)
    return _times_channels(g, scale), to_scale.astype(scale.dtype)


scale_channels.defvjp(lambda x, scale: (_times_channels(x, scale), (x, scale)), _scale_channels_backward)


def _moments_in_turn(x: Array) -> tuple[Array, Array]:
    share = x.shape[-1] / x.size
    mean = channel_sums(lambda x: x, x, weight=share)
    return mean, channel_sums(lambda x: jnp.square(x - mean[None]), x, weight=share)


def _moments_at_once(x: Array, images_first: bool) -> tuple[Array, Array]:
    """As `jaxnas.ops.many.standardise`: half the kernels of a GPU, and half the times that devices wait for others."""
    parts = [x, jnp.square(x)]
    if images_first:  # or XLA would split either sum, each by itself
        parts = list(jnp.stack([jnp.sum(part, (1, 2), keepdims=True) for part in parts]))
    mean, square = (jnp.sum(part, (0, 1, 2)) / (x.size // x.shape[-1]) for part in parts)
    return mean, jnp.maximum(square - jnp.square(mean), 0)


@functools.partial(outlined, static=(1,))
def _moments(x: Array, axis_name: str | None) -> tuple[Array, Array]:
    gpu, tpu = (functools.partial(_moments_at_once, images_first=first) for first in (True, False))
    mean, variance = by_platform(widened(x), cpu=_moments_in_turn, tpu=tpu, default=gpu)
    if axis_name is None:
        return mean, variance
    # Devices wait for each other once: the mean of all is not needed before their own variances.
    means, variances = jnp.moveaxis(lax.all_gather(jnp.stack([mean, variance]), axis_name), 1, 0)
    mean = jnp.mean(means, 0)
    return mean, jnp.mean(variances + jnp.square(means - mean[None]), 0)


@jax.jit
def _scaled(x: Array, mean: Array, variance: Array, scale: Array | None) -> Array:
    factor = lax.rsqrt(variance + EPSILON)
    if scale is not None:
        factor = factor * scale
    return ((widened(x) - _per_channel(mean)) * _per_channel(factor)).astype(x.dtype)


@functools.partial(jax.jit, static_argnums=2)
def _standardise_forward(
    x: Array, scale: Array | None, axis_name: str | None
) -> tuple[tuple[Array, Array, Array], Any]:
    mean, variance = _moments(x, axis_name)
    return (_scaled(x, mean, variance, scale), mean, variance), (x, mean, variance, scale)


@functools.partial(outlined, static=(0,))
def _standardise_backward(axis_name: str | None, residuals: Any, cotangents: Any) -> tuple[Array, Array | None]:
    """The gradient of the scale is a sum that the gradient of the input needs anyway.

    The statistics are reported, not optimised through: their cotangents are dropped.
    """
    x, mean, variance, scale = residuals
    g = widened(cotangents[0])
    inverse = lax.rsqrt(variance + EPSILON)
    centred = (widened(x) - _per_channel(mean)) * _per_channel(inverse)
    count = x.size // x.shape[-1]
    total = channel_sums(lambda g: g, g, weight=1 / count)
    along = channel_sums(lambda g, x: g * ((x - mean[None]) * inverse[None]), g, widened(x), weight=1 / count)
    g_mean, g_along = pmean(jnp.stack([total, along]), axis_name)
    factor = inverse if scale is None else inverse * scale
    dx = _per_channel(factor) * (g - _per_channel(g_mean) - centred * _per_channel(g_along))
    return dx.astype(x.dtype), None if scale is None else (count * along).astype(scale.dtype)


_standardise.defvjp(_standardise_forward, _standardise_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _standardise_by(x: Array, mean: Array, variance: Array, scale: Array | None, axis_name: str | None) -> Array:
    """`_standardise` with the statistics of x known: its gradient is that of a function of x alone."""
    return _scaled(x, mean, variance, scale)


def _standardise_by_backward(axis_name: str | None, residuals: Any, g: Array) -> tuple[Any, ...]:
    dx, to_scale = _standardise_backward(axis_name, residuals, (g,))
    return dx, None, None, to_scale


_standardise_by.defvjp(
    lambda x, mean, variance, scale, axis_name: (_scaled(x, mean, variance, scale), (x, mean, variance, scale)),
    _standardise_by_backward,
)

BatchStats = tuple[Array, Array]
"""(mean [C], variance [C]), the variance unbiased."""


class Known(NamedTuple):
    """What a batch norm has told before of the very batch that it is given again: as None, without summing again."""

    mean: Array
    variance: Array


def batch_norm(
    x: Array, affine: Params | None = None, stats: BatchStats | Known | None = None, axis_name: str | None = None
) -> tuple[Array, BatchStats]:
    """Batch norm of x [B, H, W, C]: by the batch's statistics where `stats` is None, else by those given.

    Returns the output and the statistics: those given, or the batch's mean and unbiased variance, which are what a
    running average collects (as in PyTorch; the output is normalised by the biased one). Statistics are reported
    without a gradient. affine: {"scale": [C], "offset": [C]}, the offset may be missing. With `axis_name` the batch is
    the one of all devices.
    """
    scale = None if affine is None else affine["scale"]
    count = x.size // x.shape[-1] * (1 if axis_name is None else lax.axis_size(axis_name))
    unbiased = count / max(count - 1, 1)
    if stats is None:
        y, mean, variance = _standardise(x, scale, axis_name)
        seen = mean, variance * unbiased
    elif isinstance(stats, Known):
        y, seen = _standardise_by(x, stats.mean, stats.variance / unbiased, scale, axis_name), stats
    else:
        y, seen = _scaled(x, *stats, scale), stats
    if affine is not None and "offset" in affine:
        y = y + _per_channel(affine["offset"].astype(y.dtype))
    return y, seen


def affine_init(channels: int) -> Params:
    """Scale one and offset zero of a batch norm."""
    return {"scale": jnp.ones((channels,)), "offset": jnp.zeros((channels,))}


def initial_stats(channels: int) -> BatchStats:
    """Running statistics before the first step."""
    return jnp.zeros((channels,)), jnp.ones((channels,))


def factorised_reduce_init(key: Key, channels_in: int, channels_out: int) -> Params:
    """Two pointwise kernels that share the output channels; an odd one goes to the first."""
    first, second = jax.random.split(key)
    half = channels_out // 2
    return {
        "first": conv_init(first, 1, channels_in, channels_out - half),
        "second": conv_init(second, 1, channels_in, half),
    }


def factorised_reduce(x: Array, params: Params) -> Array:
    """Halves height and width by two strided 1x1 convolutions, the second one pixel further on (zeros beyond)."""
    shifted = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))[:, 1:, 1:]
    return jnp.concatenate([pointwise(x, params["first"], 2), pointwise(shifted, params["second"], 2)], -1)


def dense_init(key: Key, features_in: int, features_out: int) -> Params:
    """A dense layer with bias, both U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    kernel, bias = jax.random.split(key)
    return {
        "kernel": uniform_fan_in(kernel, (features_in, features_out), features_in),
        "bias": uniform_fan_in(bias, (features_out,), features_in),
    }


def dense(x: Array, params: Params) -> Array:
    """x [B, F] -> [B, K] in float32."""
    return jnp.dot(widened(x), params["kernel"]) + params["bias"][None]


def drop_path(key: Key, x: Array, probability: float | Array) -> Array:
    """Zeroes whole examples of x [B, H, W, C] with the given probability and scales the rest by 1 / (1 - p)."""
    keep = jax.random.bernoulli(key, 1.0 - probability, (x.shape[0], 1, 1, 1))
    return jnp.where(keep, x / (1.0 - probability), 0.0).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def joined(states: Array, first: int) -> Array:
    """The channels of the nodes from `first` on: [N, B, h, w, C] -> [B, h, w, (N - first) * C]."""
    return _concatenated(states, first)


def _concatenated(states: Array, first: int) -> Array:
    return jnp.concatenate(list(states[first:]), -1)


@functools.partial(outlined, static=(1, 2))
def _parted(g: Array, nodes: int, first: int) -> Array:
    """The automatic rule adds up an array of all nodes for each."""
    parts = jnp.split(g, nodes, -1)
    return jnp.stack([jnp.zeros_like(parts[0])] * first + parts)


joined.defvjp(
    lambda states, first: (_concatenated(states, first), states[..., :0]),
    lambda first, like, g: (_parted(g, like.shape[0] - first, first),),
)


def stack(keys: Key, init: Callable[[Key], Any]) -> Any:
    """Parameters of equal layers, one for each key, stacked along a leading axis."""
    return jax.vmap(init)(keys)
