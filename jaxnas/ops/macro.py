"""The operations of a layer of ENAS's macro space, as (init, apply) pairs, and their costs.

A convolution is a 1×1 convolution, batch norm and ReLU, then a k×k one, dense or depthwise separable, batch norm and
ReLU; a pool is that 1×1 convolution and then the pool. All keep size and channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jaxnas.base import Array, Key, Stats
from jaxnas.ops import costs as cost
from jaxnas.ops import layers
from jaxnas.ops.depthwise import avg_pool, depthwise, max_pool
from jaxnas.ops.primitives import Primitive


def _norm_init(channels: int, affine: bool) -> layers.Params | None:
    return layers.affine_init(channels) if affine else None


def _pointwise_init(key: Key, channels: int, affine: bool) -> Any:
    return {"kernel": layers.conv_init(key, 1, channels, channels), "norm": _norm_init(channels, affine)}


def _pointwise(params: Any, x: Array, stats: Stats | None, axis_name: str | None) -> tuple[Array, Stats]:
    x, seen = layers.batch_norm(layers.pointwise(x, params["kernel"]), params["norm"], stats, axis_name)
    return jax.nn.relu(x), seen


def _convolution(size: int, separable: bool) -> Primitive:
    def init(key: Key, channels: int, stride: int, affine: bool) -> Any:
        del stride
        first, second, third = jax.random.split(key, 3)
        if separable:
            kernels = {
                "depthwise": layers.depthwise_init(second, size, channels),
                "pointwise": layers.conv_init(third, 1, channels, channels),
            }
        else:
            kernels = {"kernel": layers.conv_init(second, size, channels, channels)}
        return {
            "first": _pointwise_init(first, channels, affine),
            "second": {**kernels, "norm": _norm_init(channels, affine)},
        }

    def apply(
        params: Any, x: Array, stride: int = 1, stats: Stats | None = None, axis_name: str | None = None
    ) -> tuple[Array, Stats]:
        del stride
        x, first = _pointwise(params["first"], x, None if stats is None else stats[0], axis_name)
        own = params["second"]
        if separable:
            x = layers.pointwise(depthwise(x, own["depthwise"].astype(x.dtype)), own["pointwise"])
        else:
            x = layers.conv(x, own["kernel"])
        x, second = layers.batch_norm(x, own["norm"], None if stats is None else stats[1], axis_name)
        return jax.nn.relu(x), (first, second)

    return Primitive(init, apply, lambda stride: 2)


def _pool(pool: Callable[[Array], Array]) -> Primitive:
    def init(key: Key, channels: int, stride: int, affine: bool) -> Any:
        del stride
        return {"first": _pointwise_init(key, channels, affine)}

    def apply(
        params: Any, x: Array, stride: int = 1, stats: Stats | None = None, axis_name: str | None = None
    ) -> tuple[Array, Stats]:
        del stride
        x, seen = _pointwise(params["first"], x, None if stats is None else stats[0], axis_name)
        return pool(x), (seen,)

    return Primitive(init, apply, lambda stride: 1)


MACRO_PRIMITIVES: dict[str, Primitive] = {
    "conv_3x3": _convolution(3, separable=False),
    "sep_conv_3x3": _convolution(3, separable=True),
    "conv_5x5": _convolution(5, separable=False),
    "sep_conv_5x5": _convolution(5, separable=True),
    "avg_pool_3x3": _pool(avg_pool),
    "max_pool_3x3": _pool(max_pool),
}
"""In the order of the authors' numbers; strides other than 1 do not occur."""

MACRO_COSTS: dict[str, Callable[[int, cost.Size], cost.Cost]] = {
    "conv_3x3": lambda c, size: cost.conv_bn(c, c, 1, size) + cost.conv_bn(c, c, 3, size),
    "sep_conv_3x3": lambda c, size: cost.conv_bn(c, c, 1, size) + cost.depthwise_separable(c, 3, size),
    "conv_5x5": lambda c, size: cost.conv_bn(c, c, 1, size) + cost.conv_bn(c, c, 5, size),
    "sep_conv_5x5": lambda c, size: cost.conv_bn(c, c, 1, size) + cost.depthwise_separable(c, 5, size),
    "avg_pool_3x3": lambda c, size: cost.conv_bn(c, c, 1, size),
    "max_pool_3x3": lambda c, size: cost.conv_bn(c, c, 1, size),
}
"""Operation -> (channels, size) -> its cost in a derived network."""
