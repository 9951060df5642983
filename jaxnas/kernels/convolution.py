"""Pointwise and dense convolutions, with rules for reverse mode that are fast on a CPU inside of loops."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnas.base import PLAIN, Array, Context
from jaxnas.kernels.gate import where_wanted
from jaxnas.kernels.platform import by_platform, platform
from jaxnas.kernels.windows import pad, taps_of, window

_FEW = 32
"""Channels up to which a dense kernel's gradient is one matrix product."""


def pointwise(x: Array, kernel: Array, stride: int = 1, context: Context = PLAIN) -> Array:
    """1x1 convolution: x [B, H, W, C_in], kernel [C_in, C_out] -> [B, ceil(H/stride), ceil(W/stride), C_out]."""
    if platform() == "plain":
        return _convolve(x, kernel.astype(x.dtype)[None, None], stride, 0)
    if stride != 1:
        x = lax.slice(
            x, (0, 0, 0, 0), x.shape, (1, stride, stride, 1)
        )  # indices would be looked up, of a batch of any size
    # flattened: the gradient of a product over four dimensions is several times slower on a CPU
    flat = x.reshape(-1, x.shape[-1])
    matrix = kernel.astype(x.dtype)
    wanted = context.wanted
    product = jnp.dot(flat, matrix) if wanted is None else _gated_product(flat, matrix, wanted)
    return product.reshape(*x.shape[:-1], -1)


@jax.custom_vjp
def _gated_product(x: Array, matrix: Array, wanted: Array) -> Array:
    return jnp.dot(x, matrix)


_gated_product.defvjp(
    lambda x, matrix, wanted: (jnp.dot(x, matrix), (x, matrix, wanted)),
    lambda kept, g: (jnp.dot(g, kept[1].T), where_wanted(kept[2], lambda x, g: jnp.dot(x.T, g), kept[0], g), None),
)


def conv(x: Array, kernel: Array, stride: int = 1, context: Context = PLAIN, *, padding: int | None = None) -> Array:
    """Dense convolution: kernel [k, k, C_in, C_out]; padding k // 2 on each side unless given."""
    kernel, wanted = kernel.astype(x.dtype), context.wanted
    pad = kernel.shape[0] // 2 if padding is None else padding
    small = x.shape[1] * x.shape[2] <= (64 if x.shape[-1] < 8 else 16)
    if stride != 1 or small:
        return _conv_by_taps(x, kernel, wanted, stride, pad)
    return _same_conv(x, kernel, wanted) if padding is None else _convolve(x, kernel, stride, pad)


def _convolve(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    pads = ((padding, padding), (padding, padding))
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


class _Taps(NamedTuple):
    """A convolution as matrix products, one for each entry of the window. Written in `lax`, which is traced in a third
    of the time that indices and operators of `jax.numpy` take; gradients are written out for the same reason."""

    size: int
    stride: int
    padding: int

    def windows(self, x: Array) -> list[Array]:
        """What each tap meets: [B h w, C_in]."""
        padded = pad(x, self.padding, self.padding)
        rows, columns = self.shape(x)
        met = (window(padded, tap, self.stride, rows, columns) for tap in taps_of(self.size, 1))
        return [lax.reshape(each, (x.shape[0] * rows * columns, x.shape[-1])) for each in met]

    def shape(self, x: Array) -> tuple[int, int]:
        """(h, w) of what is computed from x."""
        rows, columns = ((n + 2 * self.padding - self.size) // self.stride + 1 for n in x.shape[1:3])
        return rows, columns

    def kernels(self, kernel: Array) -> list[Array]:
        """The matrix of each tap: [C_in, C_out]."""
        flat = lax.reshape(kernel, (self.size**2, *kernel.shape[2:]))
        return [lax.index_in_dim(flat, tap, keepdims=False) for tap in range(self.size**2)]

    def sum(self, x: Array, kernel: Array) -> Array:
        """The convolution."""
        products = map(lax.dot, self.windows(x), self.kernels(kernel))
        return lax.reshape(functools.reduce(lax.add, products), (x.shape[0], *self.shape(x), kernel.shape[-1]))

    def to_input(self, x: Array, kernel: Array, g: Array) -> Array:
        """The gradient of x: that of each tap goes back to where the tap was."""
        flat, (rows, columns) = lax.reshape(g, (g.size // g.shape[-1], g.shape[-1])), self.shape(x)
        zero, spaces = jnp.zeros((), g.dtype), self.stride - 1
        parts = []
        for (i, j), matrix in zip(taps_of(self.size, 1), self.kernels(kernel), strict=True):
            part = lax.dot_general(flat, matrix, (((1,), (1,)), ((), ())))
            part = lax.reshape(part, (x.shape[0], rows, columns, x.shape[-1]))
            # Negative numbers take away what lies in the padding.
            around = [
                (at - self.padding, n - (at - self.padding) - self.stride * (m - 1) - 1, spaces)
                for at, n, m in zip((i, j), x.shape[1:3], (rows, columns), strict=True)
            ]
            parts.append(lax.pad(part, zero, [(0, 0, 0), *around, (0, 0, 0)]))
        return functools.reduce(lax.add, parts)

    def to_kernel(self, x: Array, kernel: Array, g: Array) -> Array:
        """The gradient of the kernel."""
        flat = lax.reshape(g, (g.size // g.shape[-1], g.shape[-1]))
        products = [lax.dot_general(each, flat, (((0,), (0,)), ((), ()))) for each in self.windows(x)]
        return lax.reshape(jnp.stack(products), kernel.shape)


class _Whole(NamedTuple):
    """The same convolution in one piece."""

    stride: int
    padding: int

    def sum(self, x: Array, kernel: Array) -> Array:
        return _convolve(x, kernel, self.stride, self.padding)

    def to_input(self, x: Array, kernel: Array, g: Array) -> Array:
        return jax.vjp(lambda x: self.sum(x, kernel), x)[1](g)[0]

    def to_kernel(self, x: Array, kernel: Array, g: Array) -> Array:
        return jax.vjp(lambda kernel: self.sum(x, kernel), kernel)[1](g)[0]


def _taps_or_whole(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    taps, whole = _Taps(kernel.shape[0], stride, padding), _Whole(stride, padding)
    return by_platform(x, kernel, cpu=taps.sum, default=whole.sum)


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
    taps, whole = _Taps(kernel.shape[0], stride, padding), _Whole(stride, padding)
    dx = by_platform(x, kernel, g, cpu=taps.to_input, default=whole.to_input)
    to_kernel = functools.partial(by_platform, cpu=taps.to_kernel, default=whole.to_kernel)
    return dx, where_wanted(wanted, to_kernel, x, kernel, g), None


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
    """[k, k, C_in, C_out]."""
    if max(x.shape[-1], g.shape[-1]) <= _FEW:
        return _kernel_gradient_by_one_product(x, g, size)
    return _kernel_gradient_by_rows(x, g, size)


def _kernel_gradient_by_one_product(x: Array, g: Array, size: int) -> Array:
    """x is shifted along columns, the gradient along rows: a product of few rows and columns would be a slow one."""
    low, (height, width) = size // 2, x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (low, low), (low, low), (0, 0)))
    tall = jnp.pad(g, ((0, 0), (2 * low, 2 * low), (0, 0), (0, 0)))
    columns = jnp.concatenate([padded[:, :, j : j + width] for j in range(size)], -1)
    rows = jnp.concatenate([tall[:, 2 * low - i : height + 4 * low - i] for i in range(size)], -1)
    product = jnp.dot(columns.reshape(-1, columns.shape[-1]).T, rows.reshape(-1, rows.shape[-1]))
    return product.reshape(size, x.shape[-1], size, g.shape[-1]).transpose(2, 0, 1, 3)


def _kernel_gradient_by_rows(x: Array, g: Array, size: int) -> Array:
    """A matrix product for each row of the kernel: what has fewer channels is shifted and stacked along them."""
    moved, still = (x, g) if x.shape[-1] < g.shape[-1] else (g, x)
    low, (height, width) = size // 2, x.shape[1:3]
    padded = jnp.pad(moved, ((0, 0), (low, low), (low, low), (0, 0)))
    columns = jnp.concatenate([padded[:, :, j : j + width] for j in range(size)], -1)
    stacked = [columns[:, i : i + height].reshape(-1, columns.shape[-1]) for i in range(size)]
    flat = still.reshape(-1, still.shape[-1])
    if moved is x:
        return jnp.stack([jnp.dot(row.T, flat) for row in stacked]).reshape(size, size, x.shape[-1], -1)
    products = jnp.stack([jnp.dot(flat.T, row) for row in stacked]).reshape(size, x.shape[-1], size, -1)
    return products.transpose(0, 2, 1, 3)[::-1, ::-1]


_same_conv.defvjp(
    lambda x, kernel, wanted: (_convolve(x, kernel, 1, kernel.shape[0] // 2), (x, kernel, wanted)), _same_conv_backward
)
