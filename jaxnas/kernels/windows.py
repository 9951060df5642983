"""Windows of an image: which entries each tap of a k x k kernel meets.

Padding is symmetric and explicit, `dilation * (k // 2)` on each side. A strided output has therefore ceil(H / stride)
rows at odd and even sizes, as in PyTorch; "SAME" would pad even sizes on one side only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxnas.base import Array


def taps_of(size: int, dilation: int) -> list[tuple[int, int]]:
    """(row, column) of each tap of a size x size kernel in the padded image, row by row."""
    return [(i * dilation, j * dilation) for i in range(size) for j in range(size)]


def output_size(x: Array, stride: int) -> tuple[int, int]:
    """(rows, columns) of what is computed from x [..., H, W, C] with that stride."""
    return -(-x.shape[-3] // stride), -(-x.shape[-2] // stride)


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

    The taps are looked up, not written out as slices: one operation, whatever the size of the kernel.

    each: int32 [S, K], a dilation for each convolution, of which `dilation` is the largest: x [S, J, B, H, W, C], J
    being 1 or K -> [k * k, S, K, B, h, w, C]. outside: what is around the image.
    """
    padded = pad(x, dilation * (size // 2), dilation * (size // 2), outside)
    spans = [stride * (n - 1) + 1 for n in shape]
    steps = jnp.array(taps_of(size, 1), jnp.int32)

    def met(padded: Array, tap: Array) -> Array:
        zero = jnp.zeros((), jnp.int32)
        leading = padded.shape[:-3]
        at = (*[zero] * len(leading), tap[0], tap[1], zero)
        return lax.dynamic_slice(padded, at, (*leading, *spans, padded.shape[-1]))[..., ::stride, ::stride, :]

    if each is None:
        return jax.vmap(functools.partial(met, padded))(steps * dilation)
    first = (dilation - each) * (size // 2)
    taps = first[None, :, :, None] + steps[:, None, None] * each[None, :, :, None]
    return jax.vmap(lambda taps: pairwise(met, padded, taps))(taps)


def pairwise(one: Callable[[Array, Array], Array], x: Array, other: Array) -> Array:
    """one(x, other) of each pair in turn: x [S, J, ...], J being 1 or K, and other [S, K, ...] -> [S, K, ...].

    Not by `vmap`, which some gradients of grouped convolutions have no rule for.
    """
    sources, items = other.shape[:2]
    rows = [[one(x[s, k if x.shape[1] > 1 else 0], other[s, k]) for k in range(items)] for s in range(sources)]
    return jnp.stack([jnp.stack(row) for row in rows])


def spread(g: Array, height: int, width: int, stride: int) -> Array:
    """Puts zeros between the entries of a strided gradient [..., h, w, C], back to the input's height and width."""
    if stride == 1:
        return g
    sizes = zip((height, width), g.shape[-3:-1], strict=True)
    gaps = [(0, n - (stride * (m - 1) + 1), stride - 1) for n, m in sizes]
    return lax.pad(g, jnp.zeros((), g.dtype), [(0, 0, 0)] * (g.ndim - 3) + gaps + [(0, 0, 0)])
