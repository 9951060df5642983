"""The blocks that the layers of a chain choose among, as (init, apply) pairs, and their costs.

An inverted bottleneck (Sandler et al. 2018, "MobileNetV2", https://arxiv.org/abs/1801.04381): a 1×1 convolution to e
times the channels, a depthwise k×k one, and a linear 1×1 one back, added to the input. A ShuffleNetV2 unit (Ma et al.
2018, https://arxiv.org/abs/1807.11164, figure 3 c and d): half of the channels pass, the other half goes through a 1×1,
a depthwise k×k and a 1×1 convolution, and the halves are interleaved; "shuffle_xception" (Guo et al. 2020,
https://arxiv.org/abs/1904.00420) goes through three depthwise 3×3 and 1×1 convolutions instead.

Every convolution has batch norm; ReLU follows each but the depthwise ones of ShuffleNetV2 and the last of a bottleneck
(whose authors take ReLU6). A block of stride 2 halves the image and doubles the channels: a bottleneck then adds no
input, and of a ShuffleNetV2 unit both branches see all channels, the passing one through a depthwise k×k and a 1×1
convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxnas.base import Array, Key, Stats
from jaxnas.ops import costs as cost
from jaxnas.ops import layers
from jaxnas.ops.depthwise import depthwise


class Apply(Protocol):
    """(params, x [B, H, W, C], stride, stats, axis_name, drop) -> (y, statistics of each batch norm).

    `stats` is None for batch statistics, or what an earlier call returned. drop: of what is added to the input, [B, H,
    W, C] -> same; a block that adds nothing does not call it.
    """

    def __call__(
        self,
        params: Any,
        x: Array,
        stride: int = 1,
        stats: Stats | None = None,
        axis_name: str | None = None,
        drop: Callable[[Array], Array] | None = None,
    ) -> tuple[Array, Stats]: ...


class Block(NamedTuple):
    """init: (key, channels of the input, stride, affine) -> params.

    norms: (channels, stride) -> the channels of each batch norm, in the order of the statistics. cost: (channels,
    stride, size of the input) -> that in a derived network.
    """

    init: Callable[[Key, int, int, bool], Any]
    apply: Apply
    norms: Callable[[int, int], tuple[int, ...]]
    cost: Callable[[int, int, cost.Size], cost.Cost]


class _Step(NamedTuple):
    """A convolution with batch norm: depthwise of a size above 1, a 1×1 one of size 1."""

    size: int
    inputs: int
    outputs: int
    stride: int
    relu: bool


_Steps = Callable[[int, int], tuple[_Step, ...]]
"""(channels, stride) -> one convolution after another."""


def _init(steps: Sequence[_Step], key: Key, affine: bool) -> list[Any]:
    return [
        {
            "kernel": layers.conv_init(k, 1, step.inputs, step.outputs)
            if step.size == 1
            else layers.depthwise_init(k, step.size, step.inputs),
            "norm": layers.affine_init(step.outputs) if affine else None,
        }
        for k, step in zip(jax.random.split(key, len(steps)), steps, strict=True)
    ]


def _run(
    steps: Sequence[_Step], params: Sequence[Any], x: Array, stats: Stats | None, axis_name: str | None
) -> tuple[Array, tuple[Stats, ...]]:
    seen = []
    for number, (step, own) in enumerate(zip(steps, params, strict=True)):
        kernel = own["kernel"].astype(x.dtype)
        x = layers.pointwise(x, kernel) if step.size == 1 else depthwise(x, kernel, step.stride)
        x, one = layers.batch_norm(x, own["norm"], None if stats is None else stats[number], axis_name)
        seen.append(one)
        x = jax.nn.relu(x) if step.relu else x
    return x, tuple(seen)


def _cost(steps: Sequence[_Step], size: cost.Size) -> cost.Cost:
    total = cost.Cost()
    for step in steps:
        size = cost.strided(size, step.stride)
        groups = 1 if step.size == 1 else step.inputs
        total += cost.conv(step.inputs, step.outputs, step.size, size, groups) + cost.batch_norm(step.outputs)
    return total


def _bottleneck(size: int, expansion: int) -> Block:
    def steps(channels: int, stride: int) -> tuple[_Step, ...]:
        inner = expansion * channels
        return (
            _Step(1, channels, inner, 1, relu=True),
            _Step(size, inner, inner, stride, relu=True),
            _Step(1, inner, stride * channels, 1, relu=False),
        )

    def init(key: Key, channels: int, stride: int, affine: bool) -> Any:
        return {"main": _init(steps(channels, stride), key, affine)}

    def apply(
        params: Any,
        x: Array,
        stride: int = 1,
        stats: Stats | None = None,
        axis_name: str | None = None,
        drop: Callable[[Array], Array] | None = None,
    ) -> tuple[Array, Stats]:
        y, seen = _run(steps(x.shape[-1], stride), params["main"], x, stats, axis_name)
        if stride != 1:
            return y, seen
        return x + (y if drop is None else drop(y)), seen

    return Block(
        init,
        apply,
        lambda channels, stride: tuple(step.outputs for step in steps(channels, stride)),
        lambda channels, stride, size: _cost(steps(channels, stride), size),
    )


def _unit(main: _Steps, side: _Steps) -> Block:
    """A ShuffleNetV2 unit. main, side: of the channels of one branch; side is what the passing half goes through."""

    def branches(channels: int, stride: int) -> tuple[tuple[_Step, ...], tuple[_Step, ...]]:
        return (main(channels // 2, 1), ()) if stride == 1 else (main(channels, stride), side(channels, stride))

    def init(key: Key, channels: int, stride: int, affine: bool) -> Any:
        keys = jax.random.split(key)
        parts = zip(("main", "side"), keys, branches(channels, stride), strict=True)
        return {name: _init(steps, k, affine) for name, k, steps in parts if steps}

    def apply(
        params: Any,
        x: Array,
        stride: int = 1,
        stats: Stats | None = None,
        axis_name: str | None = None,
        drop: Callable[[Array], Array] | None = None,
    ) -> tuple[Array, Stats]:
        del drop
        main_steps, side_steps = branches(x.shape[-1], stride)
        half, count = x.shape[-1] // 2, len(main_steps)
        passing, other = (x[..., :half], x[..., half:]) if stride == 1 else (x, x)
        y, seen = _run(main_steps, params["main"], other, None if stats is None else stats[:count], axis_name)
        if side_steps:
            passing, more = _run(
                side_steps, params["side"], passing, None if stats is None else stats[count:], axis_name
            )
            seen += more
        # Concatenated and shuffled at once: channels alternate between the branches.
        return jnp.stack([passing, y], -1).reshape(*y.shape[:-1], -1), seen

    def all_steps(channels: int, stride: int) -> tuple[_Step, ...]:
        return sum(branches(channels, stride), ())

    return Block(
        init,
        apply,
        lambda channels, stride: tuple(step.outputs for step in all_steps(channels, stride)),
        lambda channels, stride, size: sum(
            (_cost(steps, size) for steps in branches(channels, stride)), start=cost.Cost()
        ),
    )


def _shuffle(size: int) -> Block:
    return _unit(
        lambda c, stride: (_Step(1, c, c, 1, relu=True), *_separable(size, c, stride)),
        lambda c, stride: _separable(size, c, stride),
    )


def _xception() -> Block:
    return _unit(
        lambda c, stride: (*_separable(3, c, stride), *_separable(3, c, 1), *_separable(3, c, 1)),
        lambda c, stride: _separable(3, c, stride),
    )


def _separable(size: int, channels: int, stride: int) -> tuple[_Step, _Step]:
    return _Step(size, channels, channels, stride, relu=False), _Step(1, channels, channels, 1, relu=True)


def _identity(
    params: Any,
    x: Array,
    stride: int = 1,
    stats: Stats | None = None,
    axis_name: str | None = None,
    drop: Callable[[Array], Array] | None = None,
) -> tuple[Array, Stats]:
    return x, ()


BLOCKS: dict[str, Block] = {
    "mbconv3_3x3": _bottleneck(3, 3),
    "mbconv3_5x5": _bottleneck(5, 3),
    "mbconv3_7x7": _bottleneck(7, 3),
    "mbconv6_3x3": _bottleneck(3, 6),
    "mbconv6_5x5": _bottleneck(5, 6),
    "mbconv6_7x7": _bottleneck(7, 6),
    "shuffle_3x3": _shuffle(3),
    "shuffle_5x5": _shuffle(5),
    "shuffle_7x7": _shuffle(7),
    "shuffle_xception": _xception(),
    "identity": Block(
        lambda key, channels, stride, affine: {},
        _identity,
        lambda channels, stride: (),
        lambda channels, stride, size: cost.Cost(),
    ),
}
"""The number after "mbconv" is the expansion. The identity is for stride 1 alone."""
