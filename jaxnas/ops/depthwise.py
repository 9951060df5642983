"""Depthwise convolution and 3x3 pooling, written as shifted arrays.

XLA's grouped convolution and select-and-scatter run tens of times slower on a CPU than sums of shifted arrays, which
fuse into one vectorised loop; on an accelerator the same sums are one kernel. The rules for reverse mode are written
out because the automatic ones (a pad for each tap, a reduction of a slice for each weight) lose that speed again. The
rules consist of plain operations, so `jvp(grad)` and `grad(grad)` work; `grad(jvp)` does not.

Padding is symmetric and explicit, `dilation * (k // 2)` on each side, so that a strided output has ceil(H / stride)
rows at odd and even sizes, as in PyTorch; "SAME" would pad even sizes on one side only.
"""

from __future__ import annotations

import functools
import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxnas.base import Array, PyTree
from jaxnas.ops.many import kernel_gradients, pad, spread, window


def materialised(tree: PyTree) -> PyTree:
    """The arrays of a tree, computed on its own on a CPU instead of inside the loop of whatever reads it.

    Sums of many shifted arrays that are fused into one another are no longer vectorised, and XLA:CPU drops optimisation
    barriers before it fuses. It does not fuse across a conditional, whose condition it cannot know.
    """

    def apart(tree: PyTree) -> PyTree:
        first = jax.tree.leaves(tree)[0]
        known = first[(0,) * first.ndim] <= jnp.inf  # false for NaN alone
        return lax.cond(known, lambda t: t, lambda t: jax.tree.map(lambda x: lax.full_like(x, jnp.nan), t), tree)

    return lax.platform_dependent(tree, cpu=apart, default=lambda t: t)


def _taps(size: int, dilation: int) -> list[tuple[int, int]]:
    return [(i * dilation, j * dilation) for i in range(size) for j in range(size)]


def _output_size(x: Array, stride: int) -> tuple[int, int]:
    return -(-x.shape[1] // stride), -(-x.shape[2] // stride)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _correlate(x: Array, kernel: Array, stride: int, dilation: int) -> Array:
    size = kernel.shape[0]
    padded = pad(x, dilation * (size // 2), dilation * (size // 2))
    height, width = _output_size(x, stride)
    shape = (x.shape[0], height, width, x.shape[3])
    weights = jnp.broadcast_to(kernel, (size, size, x.shape[3])).reshape(size * size, -1)

    def product(t: int, tap: tuple[int, int]) -> Array:
        weight = lax.broadcast_in_dim(lax.index_in_dim(weights, t, keepdims=False), shape, (3,))
        return lax.mul(window(padded, tap, stride, height, width), weight)

    # Many small operations, by `lax`: those of jax.numpy take several times as long to trace.
    return functools.reduce(lax.add, itertools.starmap(product, enumerate(_taps(size, dilation))))


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _kernel_gradient(x: Array, g: Array, size: int, stride: int, dilation: int) -> Array:
    """Sum over images and positions of (shifted input x output gradient), [k, k, C].

    A reduction of a slice is not vectorised on a CPU. Elementwise sums are, so up to 16 rows of an image, or of several
    small ones, are added elementwise into [W, C] accumulators, and only those are reduced. Such a block stays in the
    cache for all taps; its rows follow each other in memory, since rows of different images often fall into the same
    lines of a cache. One row of taps at a time keeps the unrolled program, hence the compile time, small. An
    accelerator would wait for every turn of these loops.
    """
    in_loops = functools.partial(_kernel_gradient_in_loops, size=size, stride=stride, dilation=dilation)

    def at_once(x: Array, g: Array) -> Array:
        return kernel_gradients(x[None, None], g[None, None], size, stride, dilation)[0, 0].astype(g.dtype)

    return lax.platform_dependent(x, g, cpu=in_loops, default=at_once)


def _kernel_gradient_in_loops(x: Array, g: Array, size: int, stride: int, dilation: int) -> Array:
    batch, height, width, channels = g.shape
    padded = pad(x, dilation * (size // 2), dilation * (size // 2))
    rows = math.gcd(height, 16)
    group = math.gcd(batch, 16 // rows)
    in_group = [(u, r) for u in range(group) for r in range(rows)]
    high, span = stride * (rows - 1) + 1, stride * (width - 1) + 1

    def block(t: Array, sums: list[Array]) -> list[Array]:
        first, row = t // (height // rows) * group, t % (height // rows) * rows
        g_rows = lax.dynamic_slice(g, (first, row, 0, 0), (group, rows, width, channels))
        met = (group, high + (size - 1) * dilation, padded.shape[2], channels)
        x_rows = lax.dynamic_slice(padded, (first, row * stride, 0, 0), met)
        each_g = [lax.slice(g_rows, (u, r, 0, 0), (u + 1, r + 1, width, channels)) for u, r in in_group]

        def tap_row(i: Array, sums: list[Array]) -> list[Array]:
            shifted = lax.dynamic_slice_in_dim(x_rows, i * dilation, high, 1)

            def column(j: int, s: Array) -> Array:
                ends, strides = (j * dilation + span, channels), (1, 1, stride, 1)
                each_x = [
                    lax.slice(shifted, (u, r * stride, j * dilation, 0), (u + 1, r * stride + 1, *ends), strides)
                    for u, r in in_group
                ]
                total = functools.reduce(lax.add, map(lax.mul, each_x, each_g)).reshape(width, channels)
                return lax.dynamic_update_index_in_dim(s, s[i] + total, i, 0)

            return list(itertools.starmap(column, enumerate(sums)))

        return lax.fori_loop(0, size, tap_row, sums)

    zeros = [jnp.zeros((size, width, channels), g.dtype)] * size
    return jnp.stack(lax.fori_loop(0, batch // group * (height // rows), block, zeros), 1).sum(2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise(x: Array, kernel: Array, stride: int = 1, dilation: int = 1) -> Array:
    """Depthwise convolution: x [B, H, W, C], kernel [k, k, C], k odd -> [B, ceil(H/stride), ceil(W/stride), C]."""
    return _correlate(x, kernel, stride, dilation)


def _depthwise_forward(x: Array, kernel: Array, stride: int, dilation: int) -> tuple[Array, tuple[Array, Array]]:
    return _correlate(x, kernel, stride, dilation), (x, kernel)


def _depthwise_backward(stride: int, dilation: int, residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    dx = _correlate(spread(g, x.shape[1], x.shape[2], stride), kernel[::-1, ::-1], 1, dilation)
    return materialised(dx), _kernel_gradient(x, g, kernel.shape[0], stride, dilation)


depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _max_and_tap(x: Array, stride: int) -> tuple[Array, Array]:
    padded = pad(x, 1, 1, -jnp.inf)
    height, width = _output_size(x, stride)
    taps = _taps(3, 1)
    best = window(padded, taps[0], stride, height, width)
    index = jnp.zeros(best.shape, jnp.int8)
    for t, tap in enumerate(taps[1:], 1):
        value = window(padded, tap, stride, height, width)
        better = value > best
        best, index = jnp.where(better, value, best), jnp.where(better, jnp.int8(t), index)
    return best, index


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x: Array, stride: int = 1) -> Array:
    """3x3 maximum, padding of one: [B, H, W, C] -> [B, ceil(H/stride), ceil(W/stride), C].

    Of equal entries the first in row-major order takes the whole gradient.
    """
    return _max_and_tap(x, stride)[0]


def _max_pool_forward(x: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    best, index = _max_and_tap(x, stride)
    return best, (x[:, :, :, :0], index)


def _max_pool_backward(stride: int, residuals: tuple[Array, Array], g: Array) -> tuple[Array]:
    like, index = residuals
    height, width = like.shape[1], like.shape[2]
    g_padded = pad(spread(g, height, width, stride), 1, 1)
    # 0 marks where no output is.
    index_padded = pad(spread(index + jnp.int8(1), height, width, stride), 1, 1)
    parts = []
    for t, (i, j) in enumerate(_taps(3, 1)):
        # output o reads input o + tap - 1, so input p feeds output p + 1 - tap
        back = (2 - i, 2 - j)
        g_t = window(g_padded, back, 1, height, width)
        chosen = window(index_padded, back, 1, height, width) == t + 1
        parts.append(jnp.where(chosen, g_t, 0))
    return (materialised(sum(parts)),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _pool_counts(height: int, width: int, stride: int) -> Array:
    """How many of the nine entries of each window lie inside the image, [1, rows, columns, 1]."""

    def along(size: int) -> Array:
        centre = jnp.arange(0, size, stride)
        return jnp.minimum(centre + 2, size) - jnp.maximum(centre - 1, 0)

    return along(height)[None, :, None, None] * along(width)[None, None, :, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def avg_pool(x: Array, stride: int = 1) -> Array:
    """3x3 mean over the entries inside the image (padding is not counted): as `max_pool` in shape."""
    return _mean(x, stride)


def _mean(x: Array, stride: int) -> Array:
    counts = _pool_counts(x.shape[1], x.shape[2], stride).astype(x.dtype)
    return _correlate(x, jnp.ones((3, 3, 1), x.dtype), stride, 1) / counts


def _avg_pool_forward(x: Array, stride: int) -> tuple[Array, Array]:
    return _mean(x, stride), x[:, :, :, :0]


def _avg_pool_backward(stride: int, like: Array, g: Array) -> tuple[Array]:
    height, width = like.shape[1], like.shape[2]
    scaled = g / _pool_counts(height, width, stride).astype(g.dtype)
    whole = spread(scaled, height, width, stride)
    return (materialised(_correlate(whole, jnp.ones((3, 3, 1), g.dtype), 1, 1)),)


avg_pool.defvjp(_avg_pool_forward, _avg_pool_backward)
