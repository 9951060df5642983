"""The operations that cells choose among, by the field's names: `PRIMITIVES[name]` is an (init, apply) pair.

A new operation is one entry here and one of its costs in `jaxnas.ops.costs`; a cost need not grow with the image. What
`apply` gets are plain arrays, unless the primitive says that it is `selective`. Supernets and derived networks share
these: a supernet takes them with `affine=False` and stacks the parameters of equal ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxnas.base import Array, Key, Stats
from jaxnas.ops import layers
from jaxnas.ops.depthwise import avg_pool, max_pool, relu_depthwise


class Apply(Protocol):
    """(params, x [B, H, W, C], stride, stats, axis_name) -> (y [B, ceil(H/stride), ceil(W/stride), C], stats).

    `stats` is None for batch statistics, or what an earlier call returned: a tuple with one entry for each batch norm.
    """

    def __call__(
        self, params: Any, x: Array, stride: int = 1, stats: Stats | None = None, axis_name: str | None = None
    ) -> tuple[Array, Stats]: ...


class Separable(NamedTuple):
    """`repeats` times ReLU, depthwise convolution, pointwise convolution, batch norm, the stride in the first."""

    size: int
    dilation: int
    repeats: int


class Dense(NamedTuple):
    """ReLU, convolution, batch norm."""

    size: int


class Pool(NamedTuple):
    """A pool, which has no parameters."""


class Normed(NamedTuple):
    """What `apply` does, which has no parameters, and batch norm."""

    apply: Apply


class Primitive(NamedTuple):
    """init: (key, channels, stride, affine) -> params. norms: (stride) -> how many batch norms it has.

    scaled: (params without affine, scale [C]) -> params with which the output is multiplied by the scale, where that
    costs less than multiplying it: in a last batch norm, whose gradient has the scale's in it. None: it does not.
    family: of operations that can be computed in one kernel; None: of no such family. selective: `apply` takes kernels
    whose gradient may be left out (`jaxnas.ops.gated`). Any other gets plain arrays, and its gradients always.
    """

    init: Callable[[Key, int, int, bool], Any]
    apply: Apply
    norms: Callable[[int], int]
    scaled: Callable[[Any, Array], Any | None] = lambda params, scale: None
    family: Separable | Dense | Pool | Normed | None = None
    selective: bool = False


def scaled_norm(params: Any, scale: Array) -> Any | None:
    """`Primitive.scaled` of an operation whose last batch norm is `params["norm"]`, if it has that."""
    return {**params, "norm": {"scale": scale}} if "norm" in params else None


def _norm_init(channels: int, affine: bool) -> layers.Params | None:
    return layers.affine_init(channels) if affine else None


def _without_parameters(apply: Apply, family: Pool | None = None) -> Primitive:
    return Primitive(lambda key, channels, stride, affine: {}, apply, lambda stride: 0, family=family)


def _none(
    params: Any, x: Array, stride: int = 1, stats: Stats | None = None, axis_name: str | None = None
) -> tuple[Array, Stats]:
    return jnp.zeros_like(x[:, ::stride, ::stride]), ()


def _max(
    params: Any, x: Array, stride: int = 1, stats: Stats | None = None, axis_name: str | None = None
) -> tuple[Array, Stats]:
    return max_pool(x, stride), ()


def _avg(
    params: Any, x: Array, stride: int = 1, stats: Stats | None = None, axis_name: str | None = None
) -> tuple[Array, Stats]:
    return avg_pool(x, stride), ()


def _skip() -> Primitive:
    """The identity, or a factorised reduction (ReLU first, batch norm last) where the stride is 2."""

    def init(key: Key, channels: int, stride: int, affine: bool) -> Any:
        if stride == 1:
            return {}
        return {
            "reduce": layers.factorised_reduce_init(key, channels, channels),
            "norm": _norm_init(channels, affine),
        }

    def apply(
        params: Any, x: Array, stride: int = 1, stats: Stats | None = None, axis_name: str | None = None
    ) -> tuple[Array, Stats]:
        if stride == 1:
            return x, ()
        y = layers.factorised_reduce(jax.nn.relu(x), params["reduce"])
        y, seen = layers.batch_norm(y, params["norm"], None if stats is None else stats[0], axis_name)
        return y, (seen,)

    return Primitive(init, apply, lambda stride: 0 if stride == 1 else 1, scaled_norm, selective=True)


def _depthwise_separable(size: int, dilation: int, repeats: int) -> Primitive:
    """ReLU, depthwise, pointwise, batch norm; repeated, with the stride in the first."""

    def init(key: Key, channels: int, stride: int, affine: bool) -> Any:
        def one(key: Key) -> Any:
            spatial, mixing = jax.random.split(key)
            return {
                "depthwise": layers.depthwise_init(spatial, size, channels),
                "pointwise": layers.conv_init(mixing, 1, channels, channels),
                "norm": _norm_init(channels, affine),
            }

        return [one(k) for k in jax.random.split(key, repeats)]

    def apply(
        params: Any, x: Array, stride: int = 1, stats: Stats | None = None, axis_name: str | None = None
    ) -> tuple[Array, Stats]:
        seen = []
        for r, layer in enumerate(params):
            x = relu_depthwise(x, layer["depthwise"], stride if r == 0 else 1, dilation)
            x = layers.pointwise(x, layer["pointwise"])
            x, one_seen = layers.batch_norm(x, layer["norm"], None if stats is None else stats[r], axis_name)
            seen.append(one_seen)
        return x, tuple(seen)

    def scaled(params: Any, scale: Array) -> Any:
        return [*params[:-1], scaled_norm(params[-1], scale)]

    return Primitive(init, apply, lambda stride: repeats, scaled, Separable(size, dilation, repeats), True)


def _conv(size: int) -> Primitive:
    """ReLU, dense convolution, batch norm."""

    def init(key: Key, channels: int, stride: int, affine: bool) -> Any:
        return {"kernel": layers.conv_init(key, size, channels, channels), "norm": _norm_init(channels, affine)}

    def apply(
        params: Any, x: Array, stride: int = 1, stats: Stats | None = None, axis_name: str | None = None
    ) -> tuple[Array, Stats]:
        x = jax.nn.relu(x)
        x = layers.pointwise(x, params["kernel"], stride) if size == 1 else layers.conv(x, params["kernel"], stride)
        x, seen = layers.batch_norm(x, params["norm"], None if stats is None else stats[0], axis_name)
        return x, (seen,)

    return Primitive(init, apply, lambda stride: 1, scaled_norm, Dense(size), True)


PRIMITIVES: dict[str, Primitive] = {
    "none": _without_parameters(_none),
    "max_pool_3x3": _without_parameters(_max, Pool()),
    "avg_pool_3x3": _without_parameters(_avg, Pool()),
    "skip_connect": _skip(),
    "sep_conv_3x3": _depthwise_separable(3, 1, 2),
    "sep_conv_5x5": _depthwise_separable(5, 1, 2),
    "dil_conv_3x3": _depthwise_separable(3, 2, 1),
    "dil_conv_5x5": _depthwise_separable(5, 2, 1),
    "nor_conv_1x1": _conv(1),
    "nor_conv_3x3": _conv(3),
}
"""The operations of the DARTS and NAS-Bench-201 spaces."""


def normed(primitive: Primitive) -> Primitive:
    """A primitive without parameters followed by batch norm without affine: what a pool is in a DARTS search cell."""

    def apply(
        params: Any, x: Array, stride: int = 1, stats: Stats | None = None, axis_name: str | None = None
    ) -> tuple[Array, Stats]:
        y, _ = primitive.apply({}, x, stride)
        y, seen = layers.batch_norm(y, params.get("norm"), None if stats is None else stats[0], axis_name)
        return y, (seen,)

    def scaled(params: Any, scale: Array) -> Any:
        return {**params, "norm": {"scale": scale}}

    return Primitive(primitive.init, apply, lambda stride: 1, scaled, Normed(primitive.apply))


def named(operations: Sequence[str], pool_norms: bool = False) -> tuple[Primitive, ...]:
    """The primitives of the named operations. pool_norms: pools are followed by batch norm, as `normed` says.

    Raises: ValueError for a name that has none.
    """
    unknown = [name for name in operations if name not in PRIMITIVES]
    if unknown:
        raise ValueError(f"unknown operation {unknown[0]!r}; known are {', '.join(sorted(PRIMITIVES))}")
    taken = tuple(PRIMITIVES[name] for name in operations)
    return tuple(normed(p) if pool_norms and isinstance(p.family, Pool) else p for p in taken)
