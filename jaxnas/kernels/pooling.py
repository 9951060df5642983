"""3x3 pooling, written as shifted arrays, for the reasons that `jaxnas.kernels.depthwise` gives."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnas.base import Array
from jaxnas.kernels.many_depthwise import correlate
from jaxnas.kernels.platform import by_platform, outlined, platform
from jaxnas.kernels.windows import output_size, pad, spread, taps_of, window, windows


@functools.partial(outlined, static=(1,))
def _max_and_tap(x: Array, stride: int) -> tuple[Array, Array]:
    forms = [functools.partial(f, stride=stride) for f in (_max_and_tap_in_turn, _max_and_tap_at_once)]
    return by_platform(x, cpu=forms[0], tpu=forms[0], default=forms[1])


def _max_and_tap_at_once(x: Array, stride: int) -> tuple[Array, Array]:
    """For a GPU: two small kernels that look the nine entries up, instead of one long one."""
    met = windows(x, output_size(x, stride), 3, stride, 1, outside=-jnp.inf)
    index = lax.optimization_barrier(lax.argmax(met, 0, jnp.int8))
    # Selected, not reduced as a maximum, whose derivative would be shared among equal entries.
    taps = lax.broadcasted_iota(jnp.int8, met.shape, 0)
    return jnp.sum(jnp.where(taps == index[None], met, 0), 0), index


def _max_and_tap_in_turn(x: Array, stride: int) -> tuple[Array, Array]:
    padded = pad(x, 1, 1, -jnp.inf)
    height, width = output_size(x, stride)
    taps = taps_of(3, 1)
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
    if platform() == "plain":
        return _reduced(x, -jnp.inf, lax.max, stride)
    return _max_and_tap(x, stride)[0]


def _reduced(x: Array, start: float, combine: Callable[..., Array], stride: int) -> Array:
    """Of each 3x3 window, as XLA has it."""
    return lax.reduce_window(
        x, np.array(start, x.dtype), combine, (1, 3, 3, 1), (1, stride, stride, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
    )


def _max_pool_forward(x: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    best, index = _max_and_tap(x, stride)
    return best, (x[:, :, :, :0], index)


def _max_pool_backward(stride: int, residuals: tuple[Array, Array], g: Array) -> tuple[Array]:
    like, index = residuals
    return (_routed(g, index, like.shape[1], like.shape[2], stride),)


@functools.partial(outlined, static=(2, 3, 4))
def _routed(g: Array, index: Array, height: int, width: int, stride: int) -> Array:
    # 0 marks where no output is.
    marks = spread(index + jnp.int8(1), height, width, stride)
    forms = {"cpu": _routed_in_turn, "tpu": _routed_in_turn, "default": _routed_at_once}
    return by_platform(spread(g, height, width, stride), marks, **forms)


def _routed_in_turn(g: Array, marks: Array) -> Array:
    """Each output's gradient to the input that it took, one more than whose number is in marks: [B, H, W, C]."""
    height, width = g.shape[1], g.shape[2]
    g_padded, marks_padded = pad(g, 1, 1), pad(marks, 1, 1)
    parts = []
    for t, (i, j) in enumerate(taps_of(3, 1)):
        # output o reads input o + tap - 1, so input p feeds output p + 1 - tap
        back = (2 - i, 2 - j)
        g_t = window(g_padded, back, 1, height, width)
        parts.append(jnp.where(window(marks_padded, back, 1, height, width) == t + 1, g_t, 0))
    return sum(parts)  # type: ignore[return-value]


def _routed_at_once(g: Array, marks: Array) -> Array:
    shape = (g.shape[1], g.shape[2])
    met = windows(marks, shape, 3, 1, 1)
    wanted = jnp.int8(9) - lax.broadcasted_iota(jnp.int8, met.shape, 0)  # the way back, as above
    return jnp.sum(jnp.where(met == wanted, windows(g, shape, 3, 1, 1), 0), 0)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _window_sums(x: Array, stride: int) -> Array:
    """Of 3x3 entries, zeros outside: [B, H, W, C] -> [B, ceil(H/stride), ceil(W/stride), C]."""

    def shifted(x: Array) -> Array:
        padded, (height, width) = pad(x, 1, 1), output_size(x, stride)
        return functools.reduce(lax.add, (window(padded, tap, stride, height, width) for tap in taps_of(3, 1)))

    def at_once(x: Array) -> Array:
        return correlate(x[None, None], jnp.ones((1, 1, 3, 3, 1), x.dtype), stride, 1)[0, 0]

    plain = functools.partial(_reduced, start=0.0, combine=lax.add, stride=stride)
    return by_platform(x, cpu=shifted, plain=plain, default=at_once)


def _pool_counts(height: int, width: int, stride: int) -> np.ndarray:
    """How many of the nine entries of each window lie inside the image, [1, rows, columns, 1]: a constant."""

    def along(size: int) -> np.ndarray:
        center = np.arange(0, size, stride)
        return np.minimum(center + 2, size) - np.maximum(center - 1, 0)

    return along(height)[None, :, None, None] * along(width)[None, None, :, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def avg_pool(x: Array, stride: int = 1) -> Array:
    """3x3 mean over the entries inside the image (padding is not counted): as `max_pool` in shape."""
    return _mean(x, stride)


@functools.partial(outlined, static=(1,))
def _mean(x: Array, stride: int) -> Array:
    return _window_sums(x, stride) / _pool_counts(x.shape[1], x.shape[2], stride).astype(x.dtype)


def _avg_pool_forward(x: Array, stride: int) -> tuple[Array, Array]:
    return _mean(x, stride), x[:, :, :, :0]


def _avg_pool_backward(stride: int, like: Array, g: Array) -> tuple[Array]:
    return (_shared(g, like.shape[1], like.shape[2], stride),)


@functools.partial(outlined, static=(1, 2, 3))
def _shared(g: Array, height: int, width: int, stride: int) -> Array:
    scaled = g / _pool_counts(height, width, stride).astype(g.dtype)
    return _window_sums(spread(scaled, height, width, stride), 1)


avg_pool.defvjp(_avg_pool_forward, _avg_pool_backward)
