"""Pointwise and dense convolutions, with rules for reverse mode that are fast on a CPU inside of loops."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxnas.base import PLAIN, Array, Context
from jaxnas.kernels.gate import where_wanted
from jaxnas.kernels.platform import by_platform, platform


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
