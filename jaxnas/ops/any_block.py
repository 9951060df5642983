"""One block that computes any of a chain's blocks, whichever its parameters are those of.

A GPU's path has it in the place of a branch (`jaxnas.ops.primitives.Case`). A block of the chain is a 1×1, a depthwise
and a 1×1 convolution. Here they have the channels and the size of the largest block, a smaller one has zeros in their
kernels. Where blocks differ in more than that (which ReLU there is, what is added to the input) both are computed and
one is taken.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxnas.base import Array, Context, PyTree, Stats
from jaxnas.kernels.windows import bordered
from jaxnas.ops import layers
from jaxnas.ops.primitives import Largest


class BlockCase(NamedTuple):
    """size: of the depthwise kernels. expansion: of a bottleneck, 0 of a unit of ShuffleNetV2."""

    kind: Literal["bottleneck", "shuffle", "xception"]
    size: int
    expansion: int = 0


def any_block(cases: tuple[BlockCase, ...]) -> Largest:
    """The block of some cases. Its batch norms are those of the three convolutions; then those of the other two
    depthwise and 1×1 convolutions of "xception", if that is a case; then those of the branch of a unit that passes
    where it halves the image, if a unit is a case."""
    size = max(case.size for case in cases)
    bottlenecks, units = ([c for c in cases if (c.kind == "bottleneck") == own] for own in (True, False))
    long = any(case.kind == "xception" for case in cases)

    def branch(channels: int, stride: int) -> int:
        return channels // 2 if stride == 1 else channels

    def wide(channels: int, stride: int) -> int:
        """The channels of the depthwise convolution."""
        return max([branch(channels, stride), *(case.expansion * channels for case in bottlenecks)])

    def outputs(channels: int, stride: int) -> int:
        return stride * channels if bottlenecks else branch(channels, stride)

    def embed(case: BlockCase, params: Any, channels: int, stride: int) -> PyTree:
        inner, count = wide(channels, stride), branch(channels, stride)
        main, starts = params["main"], case.kind != "xception"
        spatial, mixing = main[int(starts)]["kernel"], main[int(starts) + 1]["kernel"]
        # A unit of stride 1 reads the second half of the channels.
        first = main[0]["kernel"] if starts else jnp.zeros((count, inner))
        embedded = {
            "first": jnp.pad(first, ((channels - first.shape[0], 0), (0, inner - first.shape[1]))),
            "depthwise": _padded(bordered(spatial, size), (size, size, inner)),
            "mixing": _padded(mixing, (inner, outputs(channels, stride))),
            "bottleneck": jnp.float32(case.kind == "bottleneck"),
            "starts": jnp.float32(starts),
        }
        if long:
            rest = [step["kernel"] for step in main[2:]] if not starts else []
            shapes = [(3, 3, count), (count, count)] * 2
            embedded["more"] = rest or [jnp.zeros(shape) for shape in shapes]
        if units and stride == 2:
            side = [step["kernel"] for step in params.get("side", ())]
            side = side or [jnp.zeros((size, size, channels)), jnp.zeros((channels, channels))]
            embedded["side"] = [bordered(side[0], size), side[1]]
        return embedded

    def apply(params: Any, x: Array, stride: int, context: Context) -> tuple[Array, Stats]:
        channels, count = x.shape[-1], branch(x.shape[-1], stride)
        seen: list[Stats] = []

        def normalized(y: Array) -> Array:
            y, told = layers.batch_norm(y, None, context.at(len(seen)))
            seen.append(told)
            return y

        def pair(y: Array, kernels: Any, stride: int = 1) -> Array:
            y = normalized(layers.depthwise(y, kernels[0], stride))
            return jax.nn.relu(normalized(layers.pointwise(y, kernels[1])))

        bottleneck, starts = params["bottleneck"] > 0, params["starts"] > 0
        y = jax.nn.relu(normalized(layers.pointwise(x, params["first"])))
        if long:
            y = jnp.where(starts, y, _padded(x[..., channels - count :], y.shape))
        y = normalized(layers.depthwise(y, params["depthwise"], stride))
        y = normalized(layers.pointwise(jnp.where(bottleneck, jax.nn.relu(y), y), params["mixing"]))
        unit = jax.nn.relu(y[..., :count])
        for m in range(2 if long else 0):
            unit = jnp.where(starts, unit, pair(unit, params["more"][2 * m : 2 * m + 2]))
        whole = x + y if bottlenecks and stride == 1 else y
        if not units:
            return whole, tuple(seen)
        passing = x[..., :count] if stride == 1 else pair(x, params["side"], 2)
        both = jnp.stack([passing, unit], -1).reshape(*unit.shape[:-1], -1)
        return jnp.where(bottleneck, whole, both) if bottlenecks else both, tuple(seen)

    def norms(case: BlockCase, channels: int, stride: int) -> tuple[int, ...]:
        own = {"xception": (1, 2, 3, 4, 5, 6)}.get(case.kind, (0, 1, 2))
        side = 7 if long else 3
        return own if stride == 1 or case.kind == "bottleneck" else (*own, side, side + 1)

    def widths(channels: int, stride: int) -> tuple[int, ...]:
        inner, count = wide(channels, stride), branch(channels, stride)
        side = (channels,) * 2 if units and stride == 2 else ()
        return (inner, inner, outputs(channels, stride), *(count,) * (4 if long else 0), *side)

    return Largest(apply, embed, norms, widths)


def _padded(array: Array, shape: tuple[int, ...]) -> Array:
    """The array with zeros behind it along each axis."""
    return jnp.pad(array, [(0, whole - own) for whole, own in zip(shape, array.shape, strict=True)])
