"""The blocks that the layers of a chain choose among.

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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnas.base import Array, Context, Key, PyTree, Stats
from jaxnas.ops import costs as cost
from jaxnas.ops import layers
from jaxnas.ops.any_block import BlockCase, any_block
from jaxnas.ops.primitives import Case, Operations, Primitive, norm_init, taken_from, without_parameters


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
            "norm": norm_init(step.outputs, affine),
        }
        for k, step in zip(jax.random.split(key, len(steps)), steps, strict=True)
    ]


def _run(
    steps: Sequence[_Step], params: Sequence[Any], x: Array, context: Context, first: int = 0
) -> tuple[Array, tuple[Stats, ...]]:
    """first: the number of the first batch norm among those of the block."""
    seen = []
    for number, (step, own) in enumerate(zip(steps, params, strict=True)):
        if step.size == 1:
            x = layers.pointwise(x, own["kernel"], 1, context)
        else:
            x = layers.depthwise(x, own["kernel"], step.stride, 1, context)
        x, one = layers.batch_norm(x, own["norm"], context.at(first + number))
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


def _bottleneck(name: str, size: int, expansion: int) -> Primitive:
    def steps(channels: int, stride: int) -> tuple[_Step, ...]:
        inner = expansion * channels
        return (
            _Step(1, channels, inner, 1, relu=True),
            _Step(size, inner, inner, stride, relu=True),
            _Step(1, inner, stride * channels, 1, relu=False),
        )

    def init(key: Key, channels: int, stride: int, affine: bool) -> PyTree:
        return {"main": _init(steps(channels, stride), key, affine)}

    def apply(params: Any, x: Array, stride: int, context: Context) -> tuple[Array, Stats]:
        y, seen = _run(steps(x.shape[-1], stride), params["main"], x, context)
        if stride != 1:
            return y, seen
        return x + layers.drop_path(y, context), seen

    return Primitive(
        name,
        init,
        apply,
        lambda channels, stride, size: _cost(steps(channels, stride), size),
        lambda channels, stride: tuple(step.outputs for step in steps(channels, stride)),
        family=Case(any_block, BlockCase("bottleneck", size, expansion)),
    )


def _unit(name: str, case: BlockCase, main: _Steps, side: _Steps) -> Primitive:
    """A ShuffleNetV2 unit. main, side: of the channels of one branch; side is what the passing half goes through."""

    def branches(channels: int, stride: int) -> tuple[tuple[_Step, ...], tuple[_Step, ...]]:
        return (main(channels // 2, 1), ()) if stride == 1 else (main(channels, stride), side(channels, stride))

    def init(key: Key, channels: int, stride: int, affine: bool) -> PyTree:
        keys = jax.random.split(key)
        parts = zip(("main", "side"), keys, branches(channels, stride), strict=True)
        return {name: _init(steps, k, affine) for name, k, steps in parts if steps}

    def apply(params: Any, x: Array, stride: int, context: Context) -> tuple[Array, Stats]:
        main_steps, side_steps = branches(x.shape[-1], stride)
        half = x.shape[-1] // 2
        passing, other = jnp.split(x, (half,), -1) if stride == 1 else (x, x)
        y, seen = _run(main_steps, params["main"], other, context)
        if side_steps:
            passing, more = _run(side_steps, params["side"], passing, context, len(main_steps))
            seen += more
        # Concatenated and shuffled at once: channels alternate between the branches.
        return jnp.stack([passing, y], -1).reshape(*y.shape[:-1], -1), seen

    return Primitive(
        name,
        init,
        apply,
        lambda channels, stride, size: sum(
            (_cost(steps, size) for steps in branches(channels, stride)), start=cost.Cost()
        ),
        lambda channels, stride: tuple(step.outputs for steps in branches(channels, stride) for step in steps),
        family=Case(any_block, case),
    )


def _shuffle(size: int) -> Primitive:
    return _unit(
        f"shuffle_{size}x{size}",
        BlockCase("shuffle", size),
        lambda c, stride: (_Step(1, c, c, 1, relu=True), *_separable(size, c, stride)),
        lambda c, stride: _separable(size, c, stride),
    )


def _xception() -> Primitive:
    return _unit(
        "shuffle_xception",
        BlockCase("xception", 3),
        lambda c, stride: (*_separable(3, c, stride), *_separable(3, c, 1), *_separable(3, c, 1)),
        lambda c, stride: _separable(3, c, stride),
    )


def _separable(size: int, channels: int, stride: int) -> tuple[_Step, _Step]:
    return _Step(size, channels, channels, stride, relu=False), _Step(1, channels, channels, 1, relu=True)


BLOCKS: dict[str, Primitive] = {
    block.name: block
    for block in (
        *(
            _bottleneck(f"mbconv{expansion}_{size}x{size}", size, expansion)
            for expansion in (3, 6)
            for size in (3, 5, 7)
        ),
        *map(_shuffle, (3, 5, 7)),
        _xception(),
        without_parameters("identity", lambda x, stride: x),
    )
}
"""The number after "mbconv" is the expansion. The identity is for stride 1 alone."""


def named_blocks(blocks: Operations) -> tuple[Primitive, ...]:
    """The primitives of some blocks. Raises: ValueError as `jaxnas.ops.primitives.named`."""
    return taken_from(BLOCKS, blocks, "block")
