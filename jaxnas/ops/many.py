"""Many depthwise convolutions, or batch norms, in one kernel, as an accelerator wants them.

A GPU waits for the start of a small kernel longer than for its work, so that operations of one shape are computed
together. Depthwise convolutions are sums over the taps of their kernels with two leading axes, S inputs and K
convolutions of each; a 3x3 kernel among 5x5 ones gets a border of zeros.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from jaxnas.base import Array
from jaxnas.ops.layers import EPSILON, pmean, widened


def pad(x: Array, low: int, high: int, value: float = 0.0) -> Array:
    """x [..., H, W, C] with `low` rows and columns before and `high` after."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(low, high), (low, high), (0, 0)], constant_values=value)


def bordered(kernels: Array, size: int) -> Array:
    """Kernels [..., k, k, C] with a border of zeros, [..., size, size, C]: the same convolutions."""
    border = (size - kernels.shape[-2]) // 2
    return pad(kernels, border, border)


def window(padded: Array, tap: tuple[int, int], stride: int, height: int, width: int) -> Array:
    """The input [..., H, W, C] that one tap meets at every output position, [..., height, width, C]."""
    leading, channels = padded.shape[:-3], padded.shape[-1]
    zeros, ones = (0,) * len(leading), (1,) * len(leading)
    ends = [n + stride * (size - 1) + 1 for n, size in zip(tap, (height, width), strict=True)]
    return lax.slice(padded, (*zeros, *tap, 0), (*leading, *ends, channels), (*ones, stride, stride, 1))


def spread(g: Array, height: int, width: int, stride: int) -> Array:
    """Puts zeros between the entries of a strided gradient [..., h, w, C], back to the input's height and width."""
    if stride == 1:
        return g
    sizes = zip((height, width), g.shape[-3:-1], strict=True)
    gaps = [(0, n - (stride * (m - 1) + 1), stride - 1) for n, m in sizes]
    return lax.pad(g, jnp.zeros((), g.dtype), [(0, 0, 0)] * (g.ndim - 3) + gaps + [(0, 0, 0)])


def _correlate(x: Array, kernels: Array, stride: int, dilation: int) -> Array:
    """One reduction over the taps, whose inputs are looked up inside its kernel: 25 sums written out are twenty times
    the program, which XLA fuses, assembles and recomputes for every reader."""
    size = kernels.shape[2]
    padded = pad(x, dilation * (size // 2), dilation * (size // 2))
    height, width = (-(-n // stride) for n in x.shape[3:5])
    met, taps = _windows(padded, (height, width), size, stride, dilation)
    weights = jnp.moveaxis(kernels.reshape(*kernels.shape[:2], size * size, -1), 2, 0)[:, :, :, None, None, None]
    return jnp.sum(jax.vmap(met)(taps) * weights, 0)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def kernel_gradients(x: Array, g: Array, size: int, stride: int, dilation: int) -> Array:
    """Sums over images and positions of shifted input x output gradient, [S, K, k, k, C] in float32.

    x: [S, J, B, H, W, C]. g: [S, K, B, h, w, C].
    """
    forms = [functools.partial(f, size=size, stride=stride, dilation=dilation) for f in (tap_by_tap, taps_at_once)]
    # A lookup cannot be part of a larger kernel on a TPU, and a loop costs it little.
    padded = pad(x, dilation * (size // 2), dilation * (size // 2))
    sums = lax.platform_dependent(padded, g, tpu=forms[0], default=forms[1])
    return jnp.moveaxis(sums, 0, 2).reshape(*g.shape[:2], size, size, -1)


def _windows(
    padded: Array, shape: tuple[int, int], size: int, stride: int, dilation: int
) -> tuple[Callable[[Array], Array], Array]:
    """(tap [2] -> the input that it meets at every position of the output, [S, J, B, h, w, C]; the taps [k * k, 2])."""
    spans = [stride * (n - 1) + 1 for n in shape]
    sizes = (*padded.shape[:3], *spans, padded.shape[5])
    zero = jnp.zeros((), jnp.int32)

    def met(tap: Array) -> Array:
        at = (zero, zero, zero, tap[0], tap[1], zero)
        return lax.dynamic_slice(padded, at, sizes)[..., ::stride, ::stride, :]

    return met, jnp.array([(i * dilation, j * dilation) for i in range(size) for j in range(size)], jnp.int32)


def taps_at_once(padded: Array, g: Array, size: int, stride: int, dilation: int) -> Array:
    """[k * k, S, K, C], one reduction: the shifts are looked up inside its kernel."""
    met, taps = _windows(padded, g.shape[3:5], size, stride, dilation)
    products = widened(jax.vmap(met)(taps)) * widened(g)[None]
    # Left to itself, XLA would sum along rows, and transpose the gradient for that.
    products = with_layout_constraint(products, Layout(major_to_minor=tuple(range(products.ndim))))
    return jnp.sum(products, (3, 4, 5))


def tap_by_tap(padded: Array, g: Array, size: int, stride: int, dilation: int) -> Array:
    """The same in a loop over the taps."""
    met, taps = _windows(padded, g.shape[3:5], size, stride, dilation)
    return lax.map(lambda tap: jnp.sum(widened(met(tap)) * widened(g), (2, 3, 4)), taps)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def relu_depthwise(x: Array, kernels: Array, stride: int, dilation: int) -> Array:
    """ReLU, then depthwise convolutions: x [S, J, B, H, W, C], kernels [S, K, k, k, C] -> [S, K, B, h, w, C].

    J is 1, where all K read the same, or K. Rows and padding are those of `jaxnas.ops.depthwise`.
    """
    return _forward(x, kernels, stride, dilation)[0]


def _forward(x: Array, kernels: Array, stride: int, dilation: int) -> tuple[Array, tuple[Array, Array]]:
    return _correlate(jax.nn.relu(x), kernels.astype(x.dtype), stride, dilation), (x, kernels)


def _backward(stride: int, dilation: int, residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernels = residuals
    dx = _correlate(spread(g, x.shape[3], x.shape[4], stride), kernels[:, :, ::-1, ::-1].astype(g.dtype), 1, dilation)
    # One kernel of the taps of all sizes and dilations would spill its registers, kilobytes a thread.
    dx = lax.optimization_barrier(dx)
    if x.shape[1] == 1:
        dx = jnp.sum(dx, 1, keepdims=True)
    dkernels = kernel_gradients(jax.nn.relu(x), g, kernels.shape[2], stride, dilation)
    return jnp.where(x > 0, dx, 0).astype(x.dtype), dkernels.astype(kernels.dtype)


relu_depthwise.defvjp(_forward, _backward)


def _means(arrays: list[Array], axis_name: str | None) -> Array:
    """Means of [I, B, H, W, C] over all but the first and last axis, [N, I, C], in one pass over the arrays.

    In two steps, images first: XLA would split one reduction of that length anyway, and then each array's by itself.
    """
    count = math.prod(arrays[0].shape[1:4])
    images = jnp.stack([jnp.sum(array, (2, 3)) / count for array in arrays])
    return pmean(jnp.sum(images, 2), axis_name)


def _everywhere(values: Array) -> Array:
    """[I, C] -> [I, 1, 1, 1, C]."""
    return values[:, None, None, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def standardise(x: Array, scale: Array | None, axis_name: str | None) -> tuple[Array, Array, Array]:
    """Batch norms of x [I, B, H, W, C] for each of the I, times scale [I, C]: (y, mean [I, C], biased variance [I, C]).

    The variance is the mean square less the squared mean, in float32: half the passes over x of `layers.batch_norm`,
    and as exact while the mean is not hundreds of standard deviations. As there, statistics carry no gradient.
    """
    return _standardise_forward(x, scale, axis_name)[0]


def _standardise_forward(
    x: Array, scale: Array | None, axis_name: str | None
) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array, Array | None]]:
    wide = widened(x)
    mean, square = _means([wide, jnp.square(wide)], axis_name)
    variance = jnp.maximum(square - jnp.square(mean), 0)
    factor = lax.rsqrt(variance + EPSILON) if scale is None else lax.rsqrt(variance + EPSILON) * scale
    y = ((wide - _everywhere(mean)) * _everywhere(factor)).astype(x.dtype)
    return (y, mean, variance), (x, mean, variance, scale)


def _standardise_backward(
    axis_name: str | None, residuals: tuple[Array, Array, Array, Array | None], cotangents: tuple[Array, Array, Array]
) -> tuple[Array, Array | None]:
    x, mean, variance, scale = residuals
    g = widened(cotangents[0])
    inverse = lax.rsqrt(variance + EPSILON)
    centred = (widened(x) - _everywhere(mean)) * _everywhere(inverse)
    local = _means([g, g * centred], None)
    g_mean, g_along = pmean(local, axis_name)
    factor = inverse if scale is None else inverse * scale
    dx = _everywhere(factor) * (g - _everywhere(g_mean) - centred * _everywhere(g_along))
    if scale is None:
        return dx.astype(x.dtype), None
    return dx.astype(x.dtype), (local[1] * math.prod(x.shape[1:4])).astype(scale.dtype)


standardise.defvjp(_standardise_forward, _standardise_backward)
