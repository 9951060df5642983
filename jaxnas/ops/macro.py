"""The operations of a layer of ENAS's macro space.

A convolution is a 1×1 convolution, batch norm and ReLU, then a k×k one, dense or depthwise separable, batch norm and
ReLU; a pool is that 1×1 convolution and then the pool. All keep size and channels: strides other than 1 do not occur.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnas.base import Array, Context, Key, PyTree, Stats
from jaxnas.kernels.pooling import avg_pool, max_pool
from jaxnas.ops import costs as cost
from jaxnas.ops import layers
from jaxnas.ops.primitives import Case, Largest, Operations, Primitive, norm_init, taken_from


class _MacroCase(NamedTuple):
    """size: of the kernel of a convolution. pool: of a pool, its number among all."""

    size: int = 0
    pool: int = 0


def _any_operation(cases: tuple[_MacroCase, ...]) -> Largest:
    """The operation of some cases: a convolution of the largest size, and the pools beside it.

    A depthwise and a 1×1 convolution one after the other are one dense convolution.
    """
    size, pools = max(case.size for case in cases), sorted({case.pool for case in cases} - {0})

    def embed(case: _MacroCase, params: Any, channels: int, stride: int) -> PyTree:
        embedded = {"first": params["first"]["kernel"], "pool": jnp.float32(case.pool)}
        if not size:
            return embedded
        kernel = jnp.zeros((size, size, channels, channels))
        if case.size:
            own, border = params["second"], (size - case.size) // 2
            whole = own["depthwise"][..., None] * own["pointwise"][None, None] if "depthwise" in own else own["kernel"]
            kernel = jnp.pad(whole, ((border, border), (border, border), (0, 0), (0, 0)))
        return {**embedded, "second": kernel}

    def apply(params: Any, x: Array, stride: int, context: Context) -> tuple[Array, Stats]:
        first, seen = _pointwise({"kernel": params["first"], "norm": None}, x, context.at(0))
        told, y = [seen], first
        if size:
            y, second = layers.batch_norm(layers.conv(first, params["second"]), None, context.at(1))
            told, y = [seen, second], jax.nn.relu(y)
        for pool in pools:
            y = jnp.where(params["pool"] == pool, _POOLS[pool](first), y)
        return y, tuple(told)

    return Largest(
        apply,
        embed,
        lambda case, channels, stride: (0, 1) if case.size else (0,),
        lambda channels, stride: (channels, channels) if size else (channels,),
    )


_POOLS = {1: avg_pool, 2: max_pool}


def _case(size: int = 0, pool: int = 0) -> Case:
    return Case(_any_operation, _MacroCase(size, pool))


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

    return Primitive(
        name,
        init,
        apply,
        costs,
        lambda channels, stride: (channels, channels),
        family=_case(size),
    )


def _pool(name: str, number: int) -> Primitive:
    def init(key: Key, channels: int, stride: int, affine: bool) -> PyTree:
        del stride
        return {"first": _pointwise_init(key, channels, affine)}

    def apply(params: Any, x: Array, stride: int, context: Context) -> tuple[Array, Stats]:
        del stride
        x, seen = _pointwise(params["first"], x, context.at(0))
        return _POOLS[number](x), (seen,)

    def costs(channels: int, stride: int, image: cost.Size) -> cost.Cost:
        return cost.conv_bn(channels, channels, 1, image)

    return Primitive(
        name,
        init,
        apply,
        costs,
        lambda channels, stride: (channels,),
        family=_case(pool=number),
    )


MACRO_PRIMITIVES: dict[str, Primitive] = {
    primitive.name: primitive
    for primitive in (
        _convolution("conv_3x3", 3, separable=False),
        _convolution("sep_conv_3x3", 3, separable=True),
        _convolution("conv_5x5", 5, separable=False),
        _convolution("sep_conv_5x5", 5, separable=True),
        _pool("avg_pool_3x3", 1),
        _pool("max_pool_3x3", 2),
    )
}
"""In the order of the authors' numbers."""


def named_macro(operations: Operations) -> tuple[Primitive, ...]:
    """The primitives of some operations. Raises: ValueError as `jaxnas.ops.primitives.named`."""
    return taken_from(MACRO_PRIMITIVES, operations, "operation")
