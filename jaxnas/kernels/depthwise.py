"""Depthwise convolution, for a CPU written as shifted arrays.

On a CPU, XLA's grouped convolution runs tens of times slower than a sum of shifted arrays, which fuses into one
vectorized loop. The rules for reverse mode are written out because the automatic ones (a pad for each tap, a reduction
of a slice for each weight) lose that speed again. They consist of plain operations, so `jvp(grad)` and `grad(grad)`
work; `grad(jvp)` does not. What accelerators run is in `jaxnas.kernels.many_depthwise`.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jaxnas.base import PLAIN, Array, Context
from jaxnas.kernels.gate import where_wanted
from jaxnas.kernels.many_depthwise import grouped, many_depthwise
from jaxnas.kernels.platform import outlined, platform
from jaxnas.kernels.windows import output_size, pad, spread, taps_of, window


def depthwise(x: Array, kernel: Array, stride: int = 1, dilation: int = 1, context: Context = PLAIN) -> Array:
    """Depthwise convolution: x [B, H, W, C], kernel [k, k, C], k odd -> [B, ceil(H/stride), ceil(W/stride), C]."""
    return _of_platform(x, kernel, stride, dilation, context, False)


def relu_depthwise(x: Array, kernel: Array, stride: int = 1, dilation: int = 1, context: Context = PLAIN) -> Array:
    """`depthwise` of relu(x). Its backward pass keeps x, and computes relu(x) where it reads it."""
    return _of_platform(x, kernel, stride, dilation, context, True)


def _of_platform(x: Array, kernel: Array, stride: int, dilation: int, context: Context, relu: bool) -> Array:
    if platform() == "cpu":
        return _depthwise(x, kernel.astype(x.dtype), context.wanted, stride, dilation, relu)
    if platform() == "plain":
        return grouped(jax.nn.relu(x) if relu else x, kernel.astype(x.dtype), stride, dilation)
    # One of one. An accelerator computes all gradients, as `where_wanted` says.
    return many_depthwise(x[None, None], kernel[None, None], stride, dilation, relu)[0, 0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4, 5))
def _correlate(x: Array, kernel: Array, stride: int, dilation: int, relu: bool = False, alone: bool = False) -> Array:
    """Of relu(x) or x. alone: in a kernel into which nothing else is fused."""
    return _correlation(x, kernel, None, stride, dilation, relu, alone)


@functools.partial(jax.jit, static_argnums=(3, 4, 5, 6))
def _correlation(
    x: Array, kernel: Array, gate: Array | None, stride: int, dilation: int, relu: bool, alone: bool
) -> Array:
    """Of relu(x), or of x where `gate` is positive, or of x."""
    if relu:
        x = jax.nn.relu(x)
    elif gate is not None:
        x = lax.select(gate > 0, x, jnp.zeros_like(x))
    border = dilation * (kernel.shape[0] // 2)
    form = _sum_of_taps_alone if alone else _sum_of_taps
    return form(pad(x, border, border), kernel, stride, dilation, *output_size(x, stride))


def _correlate_forward(
    stride: int, dilation: int, relu: bool, alone: bool, primals: tuple[Array, Array], tangents: tuple[Any, Any]
) -> tuple[Array, Any]:
    """Each term by itself, so that all three are one kernel, compiled once."""
    del alone
    (x, kernel), (dx, dkernel) = primals, tangents
    terms = []
    if not isinstance(dx, SymbolicZero):
        terms.append(_correlation(dx, kernel, x if relu else None, stride, dilation, False, True))
    if not isinstance(dkernel, SymbolicZero):
        terms.append(_correlation(x, dkernel, None, stride, dilation, relu, True))
    y = _correlation(x, kernel, None, stride, dilation, relu, True)
    return y, functools.reduce(lax.add, terms) if terms else jnp.zeros_like(y)


_correlate.defjvp(_correlate_forward, symbolic_zeros=True)


def _sum_of_taps(padded: Array, kernel: Array, stride: int, dilation: int, height: int, width: int) -> Array:
    size = kernel.shape[0]
    shape = (padded.shape[0], height, width, padded.shape[3])
    weights = kernel.reshape(size * size, -1)

    def product(t: int, tap: tuple[int, int]) -> Array:
        weight = lax.broadcast_in_dim(lax.index_in_dim(weights, t, keepdims=False), shape, (3,))
        return lax.mul(window(padded, tap, stride, height, width), weight)

    # Many small operations, by `lax`: those of jax.numpy take several times as long to trace.
    return functools.reduce(lax.add, itertools.starmap(product, enumerate(taps_of(size, dilation))))


_sum_of_taps_alone = outlined(_sum_of_taps, static=(2, 3, 4, 5))


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _kernel_gradient(x: Array, g: Array, size: int, stride: int, dilation: int) -> Array:
    """Sum over images and positions of (shifted input x output gradient), [k, k, C], in a loop over the taps.

    A reduction of a slice is not vectorized on a CPU. Elementwise sums are, so the rows of each image are added
    elementwise, up to 16 at a time, and only the [B, W, C] that this leaves are reduced. Everything a tap does is one
    kernel, which finds the tap's window itself; so the loop turns few times and the program is small.
    """
    batch, height, width, channels = g.shape
    padded = pad(x, dilation * (size // 2), dilation * (size // 2))
    # A strided window is a plain one of every stride-th row and column, of which there are stride ** 2 kinds.
    rows, columns = (-(-n // stride) for n in padded.shape[1:3])
    whole = ((0, 0), (0, rows * stride - padded.shape[1]), (0, columns * stride - padded.shape[2]), (0, 0))
    padded = jnp.pad(padded, whole)
    kinds = [padded[:, a::stride, b::stride] for a in range(stride) for b in range(stride)]
    source = kinds[0][None] if stride == 1 else jnp.stack(kinds)
    together = max(n for n in range(1, 17) if height % n == 0)
    starts = [
        (i % stride * stride + j % stride, first, first + i // stride, j // stride)
        for i, j in taps_of(size, dilation)
        for first in range(0, height, together)
    ]

    at = functools.partial(lax.dynamic_slice, allow_negative_indices=False)  # a smaller program

    def one(start: Array) -> Array:
        kind, first, row, column = start
        zero = jnp.zeros((), start.dtype)

        def product(r: int) -> Array:
            met = at(source, (kind, zero, row + r, column, zero), (1, batch, 1, width, channels))
            return lax.mul(met[0], at(g, (zero, first + r, zero, zero), (batch, 1, width, channels)))

        return functools.reduce(lax.add, map(product, range(together)))

    sums = lax.map(one, jnp.array(starts, jnp.int32))
    return sums.reshape(size, size, -1, channels).sum(2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _depthwise(x: Array, kernel: Array, wanted: Array | None, stride: int, dilation: int, relu: bool) -> Array:
    return _correlate(x, kernel, stride, dilation, relu, True)


def _depthwise_forward(
    x: Array, kernel: Array, wanted: Array | None, stride: int, dilation: int, relu: bool
) -> tuple[Array, tuple[Array, Array, Array | None]]:
    return _correlate(x, kernel, stride, dilation, relu, True), (x, kernel, wanted)


@functools.partial(outlined, static=(3, 4, 5))
def _to_input(g: Array, x: Array, kernel: Array, stride: int, dilation: int, relu: bool) -> Array:
    dx = _correlate(spread(g, x.shape[1], x.shape[2], stride), kernel[::-1, ::-1], 1, dilation)
    return lax.select(x > 0, dx, jnp.zeros_like(dx)) if relu else dx


def _depthwise_backward(
    stride: int, dilation: int, relu: bool, residuals: tuple[Array, Array, Array | None], g: Array
) -> tuple[Array, Array, None]:
    x, kernel, wanted = residuals

    def to_kernel(x: Array, g: Array) -> Array:
        return _kernel_gradient(jax.nn.relu(x) if relu else x, g, kernel.shape[0], stride, dilation)

    return _to_input(g, x, kernel, stride, dilation, relu), where_wanted(wanted, to_kernel, x, g), None


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)
