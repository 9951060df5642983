"""One layer that chooses among operations, where a network is a chain of such layers: a cell of one edge.

A path takes its operation by a `lax.switch`, whose backward pass computes that operation alone, or on a GPU without a
branch (`jaxnas.supernets.executors.chosen`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from jaxnas.base import Array, Context, PyTree, Stats
from jaxnas.kernels.arrays import materialized
from jaxnas.kernels.platform import platform
from jaxnas.kernels.trees import taken
from jaxnas.ops.primitives import Primitive, initial_stats, operation_key
from jaxnas.supernets.executors.chosen import chosen
from jaxnas.supernets.executors.edge import draw_of, mixed_op, sampled_op, strongest
from jaxnas.supernets.executors.scan import one_of

Layer = Callable[[PyTree, Array, Array, Context], tuple[Array, Stats]]
"""(params of each operation, weights [O] or the number of one, x, context) -> (y, statistics). The key of the
context is the layer's."""


class LayerExecutor(NamedTuple):
    """A way to run a layer.

    mixture: of weights, by the statistics of the batch; tells none. path: one operation; tells the statistics of every
    batch norm of all operations, those of the others as they are given, or mean 0 and variance 1.
    """

    mixture: Layer
    path: Layer


def layer_executor(
    primitives: Sequence[Primitive], stride: int, *, sampled: bool = False, remat: bool = False
) -> LayerExecutor:
    """The executor of one layer of that stride.

    sampled: a mixture computes the operation of the greatest weight alone, times that weight. remat: a mixture is
    computed again in the backward pass, as a sampled one always is.
    """
    primitives = tuple(primitives)

    def mixture(params: PyTree, weights: Array, x: Array, context: Context) -> tuple[Array, Stats]:
        drawn = draw_of(context)

        def mixed(params: PyTree, weights: Array, x: Array) -> Array:
            op = mixed_op(primitives, stride, context.axis_name)
            return op(materialized(params), weights, x, (None, drawn), None, context.wanted)[0]

        return (jax.checkpoint(mixed) if remat else mixed)(params, weights, x), ()

    def strongest_alone(params: PyTree, weights: Array, x: Array, context: Context) -> tuple[Array, Stats]:
        if platform() == "gpu":
            number = strongest(weights, None)
            return _without_branch(primitives, stride, params, number, x, context, weights[number])[0], ()
        op = sampled_op(primitives, stride, context.axis_name)
        return op(materialized(params), weights, x, (None, draw_of(context)), None, context.wanted)[0], ()

    def path(params: PyTree, number: Array, x: Array, context: Context) -> tuple[Array, Stats]:
        if platform() == "gpu":
            return _without_branch(primitives, stride, params, number, x, context, None)
        stats, key = _stats(primitives, stride, x, context), operation_key(context.key, *primitives)
        return one_of(primitives, stride, params, number, x, stats, context._replace(key=key))

    return LayerExecutor(strongest_alone if sampled else mixture, path)


def _stats(primitives: Sequence[Primitive], stride: int, x: Array, context: Context) -> Any:
    """What the operations normalize by, or what those not taken tell where they normalize by the batch."""
    if not isinstance(context.bn, str):
        return context.bn
    return [initial_stats(primitive, x.shape[-1], stride) for primitive in primitives]


def _without_branch(
    primitives: tuple[Primitive, ...],
    stride: int,
    params: PyTree,
    number: Array,
    x: Array,
    context: Context,
    scale: Array | None,
) -> tuple[Array, list[Stats]]:
    """The operation of that number, times scale []."""
    given = not isinstance(context.bn, str)
    here = context._replace(key=None if context.key is None else context.key[None], drop_path=0.0)
    own, stats, count = jax.tree.map(lambda leaf: leaf[None], (params, _stats(primitives, stride, x, context), scale))
    y, seen = chosen(primitives, stride, given)(own, number[None], x[None], stats, here, count)
    return y, taken(seen, 0)
