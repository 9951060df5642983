"""What one edge of a mixture computes: all operations, those that it has not lost, or the strongest alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnas.base import Array, Context, Key, PyTree, Stats
from jaxnas.kernels.norm import per_channel, scale_channels
from jaxnas.networks.blocks import part_keys
from jaxnas.ops import layers
from jaxnas.ops.primitives import Primitive
from jaxnas.supernets.executors.switch import switch

Edge = Callable[[PyTree, Array, Array, Any, Any, Any], tuple[Array, Any]]
"""(params, weights [O], x, each, known, wanted) -> (y, what each batch norm told).

each: (which operations are there, bool [O], or None for all; what operations draw from, as of `draws`). known: what the
edge has told before of the same x, or None. wanted: as of `Context`.
"""


Draw = tuple[Key, Array]
"""A key, and the rate of dropout."""


def draw_of(context: Context) -> Draw | None:
    """What the operations of one edge draw from, whose key the context has; None where nothing is random."""
    return None if context.key is None else (context.key, jnp.asarray(context.dropout, jnp.float32))


def draws(context: Context, edges: int) -> Draw | None:
    """What the operations of each of so many edges draw from, keys [E] and rates [E]; None where nothing is random."""
    keys = part_keys(context, edges)
    return None if keys is None else (keys, jnp.broadcast_to(jnp.asarray(context.dropout, jnp.float32), (edges,)))


def of_operation(draw: Draw | None, number: int) -> Any:
    """That of one operation of an edge."""
    return None if draw is None else (jax.random.fold_in(draw[0], number), draw[1])


def mixed_op(primitives: Sequence[Primitive], stride: int, axis_name: str | None) -> Edge:
    """The sum of all operations' outputs, each times its weight (Liu et al. 2019, equation 2)."""

    def edge(
        params: PyTree, weights: Array, x: Array, each: Any, known: Any, wanted: Array | None
    ) -> tuple[Array, Any]:
        scales, (_, draw) = per_channel(weights, x.shape[-1]), each
        outputs, seen = [], []
        for o, (primitive, own) in enumerate(zip(primitives, params, strict=True)):
            here = Context("batch" if known is None else known[o], axis_name=axis_name, wanted=wanted)
            if primitive.random and draw is not None:
                key, dropout = of_operation(draw, o)
                here = here._replace(key=key, dropout=dropout)
            # The weight goes into the last batch norm, where there is one.
            with_scale = primitive.scaled(own, scales[o])
            y, told = primitive.apply(own if with_scale is None else with_scale, x, stride, here)
            if with_scale is None:  # then it may give more channels than it gets
                own_scales = scales if y.shape[-1] == x.shape[-1] else per_channel(weights, y.shape[-1])
                y = scale_channels(y, own_scales[o])
            outputs.append(y)
            seen.append(tuple(layers.Known(*pair) for pair in told))
        return functools.reduce(jnp.add, outputs), tuple(seen)

    return edge


def kept_op(primitives: Sequence[Primitive], stride: int, axis_name: str | None) -> Edge:
    """`mixed_op` of those operations that the edge has not lost; the others are not computed. Tells nothing."""
    alone = [mixed_op((primitive,), stride, axis_name) for primitive in primitives]

    def edge(
        params: PyTree, weights: Array, x: Array, each: Any, known: Any, wanted: Array | None
    ) -> tuple[Array, Any]:
        there, draw = each
        outputs = []
        for o, op in enumerate(alone):

            def taken(own: PyTree, weight: Array, x: Array, draw: Any, wanted: Any, op: Edge = op) -> Array:
                return op([own], weight, x, (None, draw), None, wanted)[0]

            operands = (params[o], weights[o : o + 1], x, of_operation(draw, o), wanted)
            shape = jax.eval_shape(taken, *operands)
            nothing = functools.partial(jnp.zeros, shape.shape, shape.dtype)
            outputs.append(lax.cond(there[o], taken, lambda *_, nothing=nothing: nothing(), *operands))
        return functools.reduce(jnp.add, outputs), ()

    return edge


def sampled_op(primitives: Sequence[Primitive], stride: int, axis_name: str | None) -> Edge:
    """The operation of the greatest weight, times that weight; the others are not computed and have no gradient.

    Under `vmap` a branch computes all of them. Tells nothing.
    """
    alone = [mixed_op((primitive,), stride, axis_name) for primitive in primitives]

    def branch(o: int, params: PyTree, sources: tuple[Array, ...], others: Any) -> tuple[Array, Stats]:
        (x, weight), (draw, wanted) = sources, others
        return alone[o]([params[o]], weight, x, (None, of_operation(draw, o)), None, wanted)[0], ()

    branches = [functools.partial(branch, o) for o in range(len(primitives))]

    def edge(
        params: PyTree, weights: Array, x: Array, each: Any, known: Any, wanted: Array | None
    ) -> tuple[Array, Any]:
        there, draw = each
        taken = strongest(weights, there)
        return switch(branches, taken, params, (x, weights[taken][None]), (draw, wanted))

    return edge


def strongest(weights: Array, there: Array | np.ndarray | None) -> Array:
    """Of each slot the option of the greatest weight among those that are there, the first among equals: int32.

    weights: [..., O]. there: bool [..., O], or None for all.
    """
    among = weights if there is None else jnp.where(there, weights, -jnp.inf)
    return jnp.argmax(among, -1).astype(jnp.int32)


def strongest_alone(weights: Array, there: np.ndarray | None = None) -> Array:
    """Weights [..., O] of which all but the greatest of each slot are zero, and have no gradient."""
    taken = jax.nn.one_hot(strongest(weights, there), weights.shape[-1], dtype=bool)
    return jnp.where(taken, weights, 0)
