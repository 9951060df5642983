"""One operation for each of many edges, without a branch: what an accelerator wants of a path.

A GPU's host would read the number of a branch and wait, and `vmap` of a branch computes all of them. Here each edge's
parameters are looked up instead. Separable convolutions of all sizes and dilations are one function: kernels of one
size, small ones with a border of zeros, whose taps lie as far apart as the edge's dilation says. Dense convolutions are
another. Operations without parameters are computed once a source, and an edge takes the one it wants. An edge that
wants none of a family computes it with kernels of zeros; about one operation's work an edge is done in all.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnas.base import Array
from jaxnas.ops import layers
from jaxnas.ops.many import bordered, pointwise, relu_depthwise, standardise
from jaxnas.ops.primitives import Dense, Primitive, Separable
from jaxnas.supernets.stages import Together


def chosen(operations: Sequence[Primitive], stride: int, axis_name: str | None, given: bool) -> Together:
    """The edges of S sources to E targets, each by the operation of its number, int32 [S, E].

    Statistics have the form of `edges.edge_stats`, leaves [S, E, C]; `given` says whether to normalise by them or by
    the batch. Those of operations not chosen stay as they are, and their parameters have gradients of zero.
    """
    separable = {o: p.family for o, p in enumerate(operations) if isinstance(p.family, Separable)}
    dense = {o: p.family for o, p in enumerate(operations) if isinstance(p.family, Dense)}

    def stage(params: Any, choice: Array, x: Array, stats: Any) -> tuple[Array, Any]:
        x = lax.optimization_barrier(x)  # or it would be computed again for every tap of what reads it
        picks = [choice == o for o in range(len(operations))]
        sums, seen = [], [list(own) for own in stats]
        for o, primitive in enumerate(operations):
            if o not in separable and o not in dense:
                y, told = _single(primitive, params[o], x, stats[o], picks[o], stride, axis_name, given)
                sums.append(_taken(picks[o], y))
                seen[o] = [_where(picks[o], new, old) for new, old in zip(told, stats[o], strict=True)]
        norm = functools.partial(_normalised, picks, stats, seen, axis_name, given)
        if separable:
            sums.append(_separable(separable, params, picks, x, stride, norm))
        if dense:
            sums.append(_dense(dense, params, picks, x, stride, norm))
        return functools.reduce(jnp.add, sums), [tuple(own) for own in seen]

    return stage


def _single(
    primitive: Primitive,
    params: Any,
    x: Array,
    stats: Any,
    pick: Array,
    stride: int,
    axis_name: str | None,
    given: bool,
) -> tuple[Array, Any]:
    """Of an operation of no family, or a pool: [S, E, B, h, w, C]. `vmap` computes once what edges have in common."""

    def one(params: Any, x: Array, stats: Any, pick: Array) -> tuple[Array, Any]:
        del pick  # there to be mapped over where there is nothing else
        return primitive.apply(params, x, stride, stats if given else None, axis_name)

    return jax.vmap(jax.vmap(one, (0, None, 0, 0)))(params, x, stats, pick)


def _where(pick: Array, new: Any, old: Any) -> Any:
    """new where pick [S, E], leaves [S, E, ...]."""
    return jax.tree.map(lambda n, o: jnp.where(pick.reshape(*pick.shape, *[1] * (n.ndim - 2)), n, o), new, old)


def _taken(pick: Array, y: Array) -> Array:
    """The sum over the sources of what is picked: pick [S, E], y [S, E, ...] -> [E, ...]."""
    return jnp.sum(_where(pick, y, jnp.zeros((), y.dtype)), 0)


def _looked_up(picks: Mapping[int, Array], leaves: Mapping[int, Array]) -> Array:
    """Each edge's own leaf [S, E, ...] of those of some operations, zeros where none of them is picked."""
    nothing = jnp.zeros((), next(iter(leaves.values())).dtype)
    return functools.reduce(jnp.add, [_where(picks[o], leaf, nothing) for o, leaf in leaves.items()])


def _any(picks: Sequence[Array], operations: Sequence[int]) -> Array:
    return functools.reduce(jnp.logical_or, [picks[o] for o in operations])


def _normalised(
    picks: Sequence[Array],
    stats: Any,
    seen: list[list[Any]],
    axis_name: str | None,
    given: bool,
    operations: Sequence[int],
    number: int,
    y: Array,
) -> Array:
    """The batch norm of that number of each of some operations, of which an edge has picked one at most.

    y: [S, E, B, h, w, C]. Notes in `seen` what it normalised by.
    """
    if given:
        mean, variance = (
            _looked_up(dict(enumerate(picks)), {o: stats[o][number][which] for o in operations}) for which in (0, 1)
        )
        factor = lax.rsqrt(variance + layers.EPSILON)
        wide = layers.widened(y) - mean[:, :, None, None, None]
        return (wide * factor[:, :, None, None, None]).astype(y.dtype)
    flat, mean, variance = standardise(y.reshape(-1, *y.shape[2:]), None, axis_name)
    count = y.shape[2] * y.shape[3] * y.shape[4] * (1 if axis_name is None else lax.axis_size(axis_name))
    told = (mean, variance * (count / max(count - 1, 1)))
    told = jax.tree.map(lambda leaf: lax.stop_gradient(leaf).reshape(*y.shape[:2], -1), told)
    for o in operations:
        seen[o][number] = _where(picks[o], told, stats[o][number])
    return flat.reshape(y.shape)


def _separable(
    members: Mapping[int, Separable], params: Any, picks: Sequence[Array], x: Array, stride: int, norm: Any
) -> Array:
    """All begin together; operations of fewer layers wait for the others."""
    size = max(family.size for family in members.values())
    dilations = jnp.ones(picks[0].shape, jnp.int32)
    for o, family in members.items():
        dilations = jnp.where(picks[o], family.dilation, dilations)
    own, y = dict(enumerate(picks)), x[:, None]
    for step in range(max(family.repeats for family in members.values())):
        there = [o for o, family in members.items() if family.repeats > step]
        kernels = _looked_up(own, {o: bordered(params[o][step]["depthwise"], size) for o in there})
        largest = max(members[o].dilation for o in there)
        alike = all(members[o].dilation == largest for o in there)
        z = relu_depthwise(y, kernels, stride if step == 0 else 1, largest, None if alike else dilations)
        z = pointwise(z, _looked_up(own, {o: params[o][step]["pointwise"] for o in there}))
        z = norm(there, step, z)
        y = z if step == 0 else _where(_any(picks, there), z, y)
    return _taken(_any(picks, list(members)), y)


def _dense(
    members: Mapping[int, Dense], params: Any, picks: Sequence[Array], x: Array, stride: int, norm: Any
) -> Array:
    """One convolution a source, to the channels of all edges."""
    size, channels = max(family.size for family in members.values()), x.shape[-1]

    def whole(kernel: Array) -> Array:
        """[S, E, k, k, C, C] or [S, E, C, C] -> [S, E, size, size, C, C]."""
        kernel = kernel[:, :, None, None] if kernel.ndim == 4 else kernel
        flat = kernel.reshape(*kernel.shape[:4], -1)
        return bordered(flat, size).reshape(*flat.shape[:2], size, size, channels, channels)

    kernels = _looked_up(dict(enumerate(picks)), {o: whole(params[o]["kernel"]) for o in members})

    def of_source(x: Array, kernels: Array) -> Array:
        kernel = jnp.moveaxis(kernels, 0, 3).reshape(size, size, channels, -1)
        y = layers.conv(jax.nn.relu(x), kernel, stride)
        return jnp.moveaxis(y.reshape(*y.shape[:3], -1, channels), 3, 0)

    y = jnp.stack([of_source(*source) for source in zip(x, kernels, strict=True)])
    return _taken(_any(picks, list(members)), norm(list(members), 0, y))
