"""The operations of a layer of ENAS's macro space.

A convolution is a 1×1 convolution, batch norm and ReLU, then a k×k one, dense or depthwise separable, batch norm and
ReLU; a pool is that 1×1 convolution and then the pool. All keep size and channels: strides other than 1 do not occur.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jaxnas.base import Array, Context, Key, PyTree, Stats
from jaxnas.kernels.pooling import avg_pool, max_pool
from jaxnas.ops import costs as cost
from jaxnas.ops import layers
from jaxnas.ops.primitives import Operations, Primitive, norm_init, taken_from


def _pointwise_init(key: Key, channels: int, affine: bool) -> PyTree:
    return {"kernel": layers.conv_init(key, 1, channels, channels), "norm": norm_init(channels, affine)}


def _pointwise(params: Any, x: Array, context: Context) -> tuple[Array, Stats]:
    x, seen = layers.batch_norm(layers.pointwise(x, params["kernel"], 1, context), params["norm"], context)
    return jax.nn.relu(x), seen


def _convolution(name: str, size: int, separable: bool) -> Primitive:
    def init(key: Key, channels: int, stride: int, affine: bool) -> PyTree:
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
            "second": {**kernels, "norm": norm_init(channels, affine)},
        }

    def apply(params: Any, x: Array, stride: int, context: Context) -> tuple[Array, Stats]:
        del stride
        x, first = _pointwise(params["first"], x, context.at(0))
        own = params["second"]
        if separable:
            x = layers.depthwise(x, own["depthwise"], 1, 1, context)
            x = layers.pointwise(x, own["pointwise"], 1, context)
        else:
            x = layers.conv(x, own["kernel"], 1, context)
        x, second = layers.batch_norm(x, own["norm"], context.at(1))
        return jax.nn.relu(x), (first, second)

    def costs(channels: int, stride: int, image: cost.Size) -> cost.Cost:
        second = cost.depthwise_separable if separable else lambda c, k, image: cost.conv_bn(c, c, k, image)
        return cost.conv_bn(channels, channels, 1, image) + second(channels, size, image)

    return Primitive(name, init, apply, costs, lambda channels, stride: (channels, channels))


def _pool(name: str, pool: Callable[[Array], Array]) -> Primitive:
    def init(key: Key, channels: int, stride: int, affine: bool) -> PyTree:
        del stride
        return {"first": _pointwise_init(key, channels, affine)}

    def apply(params: Any, x: Array, stride: int, context: Context) -> tuple[Array, Stats]:
        del stride
        x, seen = _pointwise(params["first"], x, context.at(0))
        return pool(x), (seen,)

    def costs(channels: int, stride: int, image: cost.Size) -> cost.Cost:
        return cost.conv_bn(channels, channels, 1, image)

    return Primitive(name, init, apply, costs, lambda channels, stride: (channels,))


MACRO_PRIMITIVES: dict[str, Primitive] = {
    primitive.name: primitive
    for primitive in (
        _convolution("conv_3x3", 3, separable=False),
        _convolution("sep_conv_3x3", 3, separable=True),
        _convolution("conv_5x5", 5, separable=False),
        _convolution("sep_conv_5x5", 5, separable=True),
        _pool("avg_pool_3x3", avg_pool),
        _pool("max_pool_3x3", max_pool),
    )
}
"""In the order of the authors' numbers."""


def named_macro(operations: Operations) -> tuple[Primitive, ...]:
    """The primitives of some operations. Raises: ValueError as `jaxnas.ops.primitives.named`."""
    return taken_from(MACRO_PRIMITIVES, operations, "operation")
