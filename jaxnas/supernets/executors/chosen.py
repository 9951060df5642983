"""One operation for each of a node's edges, without a branch: what an accelerator wants of a path.

A GPU's host would read the number of a branch and wait, and `vmap` of a branch computes all of them. Here each edge's
parameters are looked up instead. Separable convolutions of all sizes and dilations are one function: kernels of one
size, small ones with a border of zeros, whose taps lie as far apart as the edge's dilation says. Dense convolutions are
another, and an operation that is a case of a larger one (`jaxnas.ops.primitives.Case`) is computed by that. An edge
that wants none of a family computes it with kernels of zeros. So an edge does about the work of its largest operation,
and that of every operation of no family.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnas.base import Array, Context, PyTree, Stats
from jaxnas.kernels.many_depthwise import many_depthwise
from jaxnas.kernels.norm import per_channel, scale_channels
from jaxnas.kernels.windows import bordered
from jaxnas.ops import layers
from jaxnas.ops.primitives import Case, Dense, Largest, Primitive, Separable, operation_key
from jaxnas.supernets.executors.layout import dropped

Chosen = Callable[[PyTree, Array, Array, Stats, Context, Array | None], tuple[Array, Stats]]
"""(params of each operation, leaves [K, ...]; operation int32 [K]; x [K, B, H, W, C]; statistics, leaves [K, C];
context with a key for each edge or None; what each edge counts with [K], or None for 1) -> (the sum [B, h, w, C],
statistics)."""


@functools.cache  # one function for all cells, so that it is traced once a size
def chosen(primitives: tuple[Primitive, ...], stride: int, given: bool) -> Chosen:
    """The sum of K edges, each by the operation of its number; one that there is not gives zeros.

    given: whether to normalize by the statistics, or by the batch. Those of operations not chosen stay as they are.
    """
    separable = {o: p.family for o, p in enumerate(primitives) if isinstance(p.family, Separable)}
    dense = {o: p.family for o, p in enumerate(primitives) if isinstance(p.family, Dense)}
    cases: dict[Any, dict[int, Any]] = {}
    for o, p in enumerate(primitives):
        if isinstance(p.family, Case):
            cases.setdefault(p.family.largest, {})[o] = p.family.case

    def run(
        params: Any, choice: Array, x: Array, stats: Any, context: Context, scale: Array | None
    ) -> tuple[Array, Any]:
        x = lax.optimization_barrier(x)  # or it would be computed again for every tap of what reads it
        picks = [choice == o for o in range(len(primitives))]
        parts, seen = [], [list(own) for own in stats]
        for o, primitive in enumerate(primitives):
            if o not in separable and o not in dense and not isinstance(primitive.family, Case):
                y, told = _single(primitive, params[o], x, stats[o], picks[o], stride, context, given)
                parts.append(_picked(picks[o], y))
                seen[o] = [_where(picks[o], new, old) for new, old in zip(told, stats[o], strict=True)]
        for largest, members in cases.items():
            whole = largest(tuple(members.values()))
            y, told = _case(whole, members, params, stats, picks, x, stride, context, given)
            parts.append(y)
            for o, own in told.items():
                seen[o] = own
        norm = functools.partial(_normalized, picks, params, stats, seen, context.axis_name, given)
        if separable:
            parts.append(_separable(separable, params, picks, x, stride, norm))
        if dense:
            parts.append(_dense(dense, params, picks, x, stride, norm))
        y = functools.reduce(jnp.add, parts)
        y = dropped(primitives, y, choice, jnp.full(choice.shape, stride != 1), context)
        if scale is not None:
            y = jax.vmap(scale_channels)(y, per_channel(scale, y.shape[-1]))
        return jnp.sum(y, 0), [tuple(own) for own in seen]

    return run


def _single(
    primitive: Primitive, params: Any, x: Array, stats: Any, pick: Array, stride: int, context: Context, given: bool
) -> tuple[Array, Any]:
    """Of an operation of no family, or a pool: [K, B, h, w, C]."""

    def one(params: Any, x: Array, stats: Any, key: Any, pick: Array) -> tuple[Array, Any]:
        del pick  # there to be mapped over where there is nothing else
        here = Context(stats if given else "batch", operation_key(key, primitive), axis_name=context.axis_name)
        here = here._replace(dropout=context.dropout)
        return primitive.apply(params, x, stride, here)

    return jax.vmap(one)(params, x, stats, context.key, pick)


def _case(
    whole: Largest,
    members: Mapping[int, Any],
    params: Any,
    stats: Any,
    picks: Sequence[Array],
    x: Array,
    stride: int,
    context: Context,
    given: bool,
) -> tuple[Array, dict[int, list[Any]]]:
    """The operation that some are cases of, once, and the statistics of each: [K, B, h, w, C]."""
    channels, of = x.shape[-1], {o: picks[o] for o in members}
    places = {o: whole.norms(case, channels, stride) for o, case in members.items()}

    def embedded(o: int) -> PyTree:
        return jax.vmap(lambda own: whole.embed(members[o], own, channels, stride))(params[o])

    def told(number: int, width: int, which: int) -> Array:
        """What it normalizes by: zeros for channels that the case has not."""
        own = {o: stats[o][at.index(number)][which] for o, at in places.items() if number in at}
        return _looked_up(of, {o: jnp.pad(leaf, ((0, 0), (0, width - leaf.shape[1]))) for o, leaf in own.items()})

    own = jax.tree.map(lambda *leaves: _looked_up(of, dict(zip(members, leaves, strict=True))), *map(embedded, members))
    widths = enumerate(whole.widths(channels, stride))
    bn = tuple((told(number, width, 0), told(number, width, 1)) for number, width in widths) if given else None

    def one(own: PyTree, x: Array, bn: Any) -> tuple[Array, Any]:
        return whole.apply(own, x, stride, Context("batch" if bn is None else bn, axis_name=context.axis_name))

    y, seen = jax.vmap(one)(own, x, bn)
    seen = lax.stop_gradient(seen)
    result = {}
    for o, at in places.items():
        mine = [tuple(leaf[:, : old[0].shape[1]] for leaf in seen[n]) for n, old in zip(at, stats[o], strict=True)]
        result[o] = [_where(picks[o], new, old) for new, old in zip(mine, stats[o], strict=True)]
    return _picked(_any(picks, list(members)), y), result


def _where(pick: Array, new: Any, old: Any) -> Any:
    """new where pick [K], leaves [K, ...]."""
    return jax.tree.map(lambda n, o: jnp.where(pick.reshape(*pick.shape, *[1] * (n.ndim - 1)), n, o), new, old)


def _picked(pick: Array, y: Array) -> Array:
    """y [K, ...], zero where it is not picked."""
    return _where(pick, y, jnp.zeros((), y.dtype))


def _looked_up(picks: Mapping[int, Array], leaves: Mapping[int, Array]) -> Array:
    """Each edge's own leaf [K, ...] of those of some operations, zeros where none of them is picked."""
    nothing = jnp.zeros((), next(iter(leaves.values())).dtype)
    return functools.reduce(jnp.add, [_where(picks[o], leaf, nothing) for o, leaf in leaves.items()])


def _any(picks: Sequence[Array], operations: Sequence[int]) -> Array:
    return functools.reduce(jnp.logical_or, [picks[o] for o in operations])


def _normalized(
    picks: Sequence[Array],
    params: Any,
    stats: Any,
    seen: list[list[Any]],
    axis_name: str | None,
    given: bool,
    norms: Mapping[int, Callable[[Any], Any]],
    number: int,
    y: Array,
) -> Array:
    """The batch norm of that number of each of some operations, of which an edge has picked one at most.

    norms: operation -> its parameters -> the scale and offset of the batch norm, or None. y: [K, B, h, w, C]. Notes in
    `seen` what it normalized by.
    """
    of = dict(enumerate(picks))
    own = {o: where(params[o]) for o, where in norms.items()}
    affine = None
    if None not in own.values():
        affine = {name: _looked_up(of, {o: pair[name] for o, pair in own.items()}) for name in ("scale", "offset")}
    bn: Any = tuple(_looked_up(of, {o: stats[o][number][which] for o in norms}) for which in (0, 1)) if given else None

    def one(y: Array, affine: Any, bn: Any) -> tuple[Array, Any]:
        return layers.batch_norm(y, affine, Context("batch" if bn is None else bn, axis_name=axis_name))

    result, told = jax.vmap(one)(y, affine, bn)
    if not given:
        told = lax.stop_gradient(told)
        for o in norms:
            seen[o][number] = _where(picks[o], told, stats[o][number])
    return result


def _separable(
    members: Mapping[int, Separable], params: Any, picks: Sequence[Array], x: Array, stride: int, norm: Any
) -> Array:
    """All begin together; operations of fewer layers wait for the others."""
    size = max(family.size for family in members.values())
    dilations = jnp.ones((picks[0].shape[0], 1), jnp.int32)
    for o, family in members.items():
        dilations = jnp.where(picks[o][:, None], family.dilation, dilations)
    own, y = dict(enumerate(picks)), x
    for step in range(max(family.repeats for family in members.values())):
        there = [o for o, family in members.items() if family.repeats > step]
        kernels = _looked_up(own, {o: bordered(params[o][step]["depthwise"], size) for o in there})
        largest = max(members[o].dilation for o in there)
        each = None if all(members[o].dilation == largest for o in there) else dilations
        z = many_depthwise(y[:, None], kernels[:, None], stride if step == 0 else 1, largest, True, each)[:, 0]
        z = jax.vmap(layers.pointwise)(z, _looked_up(own, {o: params[o][step]["pointwise"] for o in there}))
        z = norm(dict.fromkeys(there, lambda p, step=step: p[step]["norm"]), step, z)
        y = z if step == 0 else _where(_any(picks, there), z, y)
    return _picked(_any(picks, list(members)), y)


def _dense(
    members: Mapping[int, Dense], params: Any, picks: Sequence[Array], x: Array, stride: int, norm: Any
) -> Array:
    """One convolution an edge."""
    size, channels = max(family.size for family in members.values()), x.shape[-1]

    def whole(kernel: Array) -> Array:
        """[K, k, k, C, C] or [K, C, C] -> [K, size, size, C, C]."""
        kernel = kernel[:, None, None] if kernel.ndim == 3 else kernel
        flat = kernel.reshape(*kernel.shape[:3], -1)
        return bordered(flat, size).reshape(flat.shape[0], size, size, channels, channels)

    kernels = _looked_up(dict(enumerate(picks)), {o: whole(params[o]["kernel"]) for o in members})
    y = jnp.stack([layers.conv(jax.nn.relu(own), kernel, stride) for own, kernel in zip(x, kernels, strict=True)])
    y = norm(dict.fromkeys(members, lambda p: p["norm"]), 0, y)
    return _picked(_any(picks, list(members)), y)
