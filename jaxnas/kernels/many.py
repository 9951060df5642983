"""Many depthwise convolutions, or batch norms, in one kernel, as an accelerator wants them.

A GPU waits for the start of a small kernel longer than for its work, so that operations of one shape are computed
together. Depthwise convolutions are sums over the taps of their kernels with two leading axes, S inputs and K
convolutions of each; a 3x3 kernel among 5x5 ones gets a border of zeros.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from jaxnas.base import Array
from jaxnas.kernels.norm import EPSILON, widened
from jaxnas.kernels.platform import by_platform
from jaxnas.kernels.trees import pmean


def pad(x: Array, low: int, high: int, value: float = 0.0) -> Array:
    """x [..., H, W, C] with `low` rows and columns before and `high` after."""
    filled = jnp.array(value, x.dtype)
    return lax.pad(x, filled, [(0, 0, 0)] * (x.ndim - 3) + [(low, high, 0)] * 2 + [(0, 0, 0)])


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


def grouped(x: Array, kernel: Array, stride: int, dilation: int) -> Array:
    """A depthwise convolution as XLA has it, which a TPU has for its own: x [B, H, W, C], kernel [k, k, C] or [k, k, 1]
    -> [B, h, w, C]. In the precision of all convolutions there, by default of bfloat16 factors."""
    border, channels = dilation * (kernel.shape[0] // 2), x.shape[3]
    return lax.conv_general_dilated(
        x,
        jnp.broadcast_to(kernel, (*kernel.shape[:2], channels))[:, :, None],
        (stride, stride),
        ((border, border), (border, border)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
    )


def _each(one: Callable[[Array, Array], Array], x: Array, other: Array) -> Array:
    """x [S, J, ...] with other [S, K, ...], one by one: [S, K, ...]. J is 1 or K."""
    sources, items = other.shape[:2]  # not by `vmap`: some gradients of grouped convolutions have no rule for it
    rows = [[one(x[s, k if x.shape[1] > 1 else 0], other[s, k]) for k in range(items)] for s in range(sources)]
    return jnp.stack([jnp.stack(row) for row in rows])


@functools.partial(jax.jit, static_argnums=(2, 3))
def correlate(x: Array, kernels: Array, stride: int, dilation: int) -> Array:
    """Depthwise convolutions: x [S, J, B, H, W, C], kernels [S, K, k, k, C] -> [S, K, B, h, w, C]."""
    forms = [functools.partial(f, stride=stride, dilation=dilation) for f in (_grouped, taps_looked_up)]
    return by_platform(x, kernels, tpu=forms[0], default=forms[1])


def _grouped(x: Array, kernels: Array, stride: int, dilation: int) -> Array:
    return _each(functools.partial(grouped, stride=stride, dilation=dilation), x, kernels)


def taps_looked_up(x: Array, kernels: Array, stride: int, dilation: int, each: Array | None = None) -> Array:
    """One reduction over the taps, whose inputs are looked up inside its kernel: 25 sums written out are twenty times
    the program, which XLA fuses, assembles and recomputes for every reader.

    each: int32 [S, K], a dilation for each convolution, of which `dilation` is the largest.
    """
    size = kernels.shape[2]
    met = windows(x, (-(-x.shape[3] // stride), -(-x.shape[4] // stride)), size, stride, dilation, each)
    weights = jnp.moveaxis(kernels.reshape(*kernels.shape[:2], size * size, -1), 2, 0)
    return jnp.sum(met * weights[:, :, :, None, None, None], 0)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def kernel_gradients(x: Array, g: Array, size: int, stride: int, dilation: int) -> Array:
    """Sums over images and positions of shifted input x output gradient, [S, K, k, k, C] in float32.

    x: [S, J, B, H, W, C]. g: [S, K, B, h, w, C].
    """
    forms = [functools.partial(f, size=size, stride=stride, dilation=dilation) for f in (_transposed, sums_looked_up)]
    return by_platform(x, g, tpu=forms[0], default=forms[1])


def _transposed(x: Array, g: Array, size: int, stride: int, dilation: int) -> Array:
    def one(x: Array, g: Array) -> Array:
        kernel = jnp.zeros((size, size, x.shape[3]), g.dtype)
        return jax.vjp(lambda kernel: grouped(x, kernel, stride, dilation), kernel)[1](g)[0]

    return widened(_each(one, x, g))


def windows(
    x: Array,
    shape: tuple[int, int],
    size: int,
    stride: int,
    dilation: int,
    each: Array | None = None,
    outside: float = 0.0,
) -> Array:
    """What each tap meets at every position of an output of that shape: x [..., H, W, C] -> [k * k, ..., h, w, C].

    each: as of `taps_looked_up`, x [S, J, B, H, W, C] -> [k * k, S, K, B, h, w, C]. outside: what is around the image.
    """
    padded = pad(x, dilation * (size // 2), dilation * (size // 2), outside)
    spans = [stride * (n - 1) + 1 for n in shape]
    steps = jnp.array([(i, j) for i in range(size) for j in range(size)], jnp.int32)

    def met(padded: Array, tap: Array) -> Array:
        zero = jnp.zeros((), jnp.int32)
        leading = padded.shape[:-3]
        at = (*[zero] * len(leading), tap[0], tap[1], zero)
        return lax.dynamic_slice(padded, at, (*leading, *spans, padded.shape[-1]))[..., ::stride, ::stride, :]

    if each is None:
        return jax.vmap(functools.partial(met, padded))(steps * dilation)
    first = (dilation - each) * (size // 2)
    taps = first[None, :, :, None] + steps[:, None, None] * each[None, :, :, None]
    return jax.vmap(lambda taps: _each(met, padded, taps))(taps)


def sums_looked_up(x: Array, g: Array, size: int, stride: int, dilation: int, each: Array | None = None) -> Array:
    """As `kernel_gradients`: one reduction, as well."""
    met = windows(x, (g.shape[3], g.shape[4]), size, stride, dilation, each)
    products = widened(met) * widened(g)[None]
    # Left to itself, XLA would sum along rows, and transpose the gradient for that.
    products = with_layout_constraint(products, Layout(major_to_minor=tuple(range(products.ndim))))
    sums = jnp.sum(products, (3, 4, 5))
    return jnp.moveaxis(sums, 0, 2).reshape(*g.shape[:2], size, size, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def relu_depthwise(x: Array, kernels: Array, stride: int, dilation: int, each: Array | None = None) -> Array:
    """ReLU, then depthwise convolutions: x [S, J, B, H, W, C], kernels [S, K, k, k, C] -> [S, K, B, h, w, C].

    J is 1, where all K read the same, or K. Rows and padding are those of `jaxnas.kernels.depthwise`. each: int32 [S, K],
    their dilations where they are not all the same; `dilation` is then the largest.
    """
    return _forward(x, kernels, stride, dilation, each)[0]


def _forward(x: Array, kernels: Array, stride: int, dilation: int, each: Array | None) -> tuple[Array, Any]:
    positive, weights = jax.nn.relu(x), kernels.astype(x.dtype)
    if each is None:
        return correlate(positive, weights, stride, dilation), (x, kernels, each)
    return taps_looked_up(positive, weights, stride, dilation, each), (x, kernels, each)


def _backward(stride: int, dilation: int, residuals: Any, g: Array) -> tuple[Array, Array, None]:
    x, kernels, each = residuals
    positive, size = jax.nn.relu(x), kernels.shape[2]
    spread_g, flipped = spread(g, x.shape[3], x.shape[4], stride), kernels[:, :, ::-1, ::-1].astype(g.dtype)
    if each is None:
        dx = correlate(spread_g, flipped, 1, dilation)
        dkernels = kernel_gradients(positive, g, size, stride, dilation)
    else:
        dx = taps_looked_up(spread_g, flipped, 1, dilation, each)
        dkernels = sums_looked_up(positive, g, size, stride, dilation, each)
    dx = lax.optimization_barrier(dx)  # or what reads it would compute it again
    if x.shape[1] == 1:
        dx = jnp.sum(dx, 1, keepdims=True)
    return jnp.where(x > 0, dx, 0).astype(x.dtype), dkernels.astype(kernels.dtype), None


relu_depthwise.defvjp(_forward, _backward)


def pointwise(x: Array, kernels: Array) -> Array:
    """1x1 convolutions as one batched matrix product: x [S, K, B, H, W, C], kernels [S, K, C, C] -> as x."""
    flat = x.reshape(x.shape[0] * x.shape[1], -1, x.shape[-1])
    flat_kernels = kernels.reshape(-1, *kernels.shape[2:]).astype(x.dtype)
    return lax.dot_general(flat, flat_kernels, (((2,), (1,)), ((0,), (0,)))).reshape(x.shape)


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
def standardize(x: Array, scale: Array | None, axis_name: str | None) -> tuple[Array, Array, Array]:
    """Batch norms of x [I, B, H, W, C] for each of the I, times scale [I, C]: (y, mean [I, C], biased variance [I, C]).

    The variance is the mean square less the squared mean, in float32: half the passes over x of `layers.batch_norm`,
    and as exact while the mean is not hundreds of standard deviations. As there, statistics carry no gradient.
    """
    return _standardize_forward(x, scale, axis_name)[0]


def _standardize_forward(
    x: Array, scale: Array | None, axis_name: str | None
) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array, Array | None]]:
    wide = widened(x)
    mean, square = _means([wide, jnp.square(wide)], axis_name)
    variance = jnp.maximum(square - jnp.square(mean), 0)
    factor = lax.rsqrt(variance + EPSILON) if scale is None else lax.rsqrt(variance + EPSILON) * scale
    y = ((wide - _everywhere(mean)) * _everywhere(factor)).astype(x.dtype)
    return (y, mean, variance), (x, mean, variance, scale)


def _standardize_backward(
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


standardize.defvjp(_standardize_forward, _standardize_backward)
