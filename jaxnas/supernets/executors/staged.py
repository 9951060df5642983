"""The edges that are ready together, in few large kernels: what a GPU wants.

It waits longer for the start of a small kernel than for its work.

A mixture runs in stages: the sources of one are complete when it begins, and have edges to the same nodes. The two
inputs of a cell of DARTS are one stage, each node is another. A path runs node by node, because its sources are data.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnas.base import Array, Context, PyTree, Stats
from jaxnas.kernels.arrays import Places as Slots
from jaxnas.kernels.arrays import apart, dealt
from jaxnas.kernels.mixing import Places, Terms, mixed
from jaxnas.networks.blocks import part_keys
from jaxnas.ops.primitives import Primitive, initial_stats
from jaxnas.supernets.executors import layout as lay
from jaxnas.supernets.executors.chosen import Chosen, chosen
from jaxnas.supernets.executors.edge import strongest
from jaxnas.supernets.executors.layout import STRIDES, Edges, Executor, Layout
from jaxnas.supernets.executors.partial import edges_past, mixed_part, passing_part, shuffled, weights_past
from jaxnas.supernets.executors.together import together


def staged_executor(
    primitives: Sequence[Primitive],
    keep: np.ndarray | None = None,
    *,
    remat: bool = False,
    sampled: bool = False,
    partial: int = 1,
    absent: int | None = None,
) -> Executor:
    """The executor of edges that are ready together.

    keep: bool [S, O], the operations that the slots of a mixture have. remat: a mixture is computed again in the
    backward pass. sampled: a mixture computes of each slot the operation of the greatest weight alone. partial, absent:
    as of `jaxnas.supernets.executors.partial`.
    """
    primitives = tuple(primitives)

    def mixture(layout: Layout, params: PyTree, weights: Array, inputs: Array, context: Context) -> Array:
        states = [*inputs, *layout.room(inputs)]
        past = None if partial == 1 else weights_past(weights, keep, absent)
        kept = np.ones((len(layout.ends), len(primitives)), bool) if keep is None else keep
        # Of each channel: gradients are then added up over the channels for all stages at once.
        scales = jnp.broadcast_to(weights[..., None], (*weights.shape, inputs.shape[-1] // partial))
        groups = layout.groups()
        by_group = tuple((tuple(slots.tolist()),) for slots in groups.values())
        scales_of = dealt(scales, by_group)
        past_of = [None] * len(groups) if past is None else dealt(past, by_group)
        for (group, slots), own_scales, own_past in zip(groups.items(), scales_of, past_of, strict=True):
            ends = [layout.ends[slot] for slot in slots]
            plan = stages([(source, node + layout.inputs) for source, node in ends])
            # Sources that have not kept the same run one after another.
            plan = plan if keep is None else [one for stage in plan for one in stage.apart()]
            order = tuple(stage.slots for stage in plan)
            leaves, tree = jax.tree.flatten((params[group], own_scales[0], None if own_past is None else own_past[0]))
            for stage, *own in zip(plan, *(dealt(leaf, order) for leaf in leaves), strict=True):
                there = kept[slots][np.array(stage.slots[0])]
                run = functools.partial(_stage, primitives, partial, STRIDES[group], context, there)
                x = jnp.stack([states[source] for source in stage.sources])
                p, w, beside = jax.tree.unflatten(tree, own)
                outputs = (jax.checkpoint(run) if remat else run)(p, w, beside, x)
                for output, node in zip(apart(outputs), stage.nodes, strict=True):
                    states[node] = states[node] + output
        return jnp.stack(states[layout.inputs :])

    def path(layout: Layout, edges: Edges, params: PyTree, inputs: Array, context: Context) -> tuple[Array, Stats]:
        past = None if partial == 1 else edges_past(edges, len(layout.ends), len(primitives), keep, absent)
        return _path(primitives, partial, layout, edges, past, params, inputs, context)

    return Executor(functools.partial(_sampled, primitives, keep, remat) if sampled else mixture, path)


def _stage(
    primitives: tuple[Primitive, ...],
    parts: int,
    stride: int,
    context: Context,
    there: np.ndarray,
    params: list[Any],
    weights: Array,
    past: Array | None,
    x: Array,
) -> Array:
    """`together` of a part of the channels. past: [S, E], what the others go past it with; None where it gets all."""
    part = together(primitives, stride, context, there, params, weights, mixed_part(x, parts))
    if past is None:
        return part
    passed = passing_part(x, parts, stride)
    scales = jnp.broadcast_to(past[..., None, None], (*past.shape, 1, passed.shape[-1]))
    return shuffled(part, mixed(Places(common=(0,)), context.axis_name, Terms(plain=(passed,)), scales))


def _sampled(
    primitives: tuple[Primitive, ...],
    keep: np.ndarray | None,
    remat: bool,
    layout: Layout,
    params: PyTree,
    weights: Array,
    inputs: Array,
    context: Context,
) -> Array:
    """A mixture of each slot's operation of the greatest weight alone, node by node."""
    taken = strongest(weights, keep)
    scale = jnp.take_along_axis(weights, taken[:, None], 1)[:, 0]
    keys = part_keys(context, len(layout.ends))
    states = [*inputs, *layout.room(inputs)]
    work: list[list[tuple[lay.Group, np.ndarray, PyTree]]] = [[] for _ in range(layout.nodes)]
    for group, slots in layout.groups().items():
        target = np.array([layout.ends[slot][1] for slot in slots])
        places = [(int(node), np.flatnonzero(target == node)) for node in np.unique(target)]
        order = tuple((tuple(own.tolist()),) for _, own in places)
        leaves, tree = jax.tree.flatten(params[group])
        parts = [dealt(leaf, order) for leaf in leaves]
        for number, (node, own) in enumerate(places):
            work[node].append((group, slots[own], jax.tree.unflatten(tree, [part[number][0] for part in parts])))
    for node, groups in enumerate(work):
        for group, slots, own in groups:
            x = jnp.stack([states[layout.ends[slot][0]] for slot in slots])
            before = [initial_stats(p, x.shape[-1], STRIDES[group]) for p in primitives]
            stats = jax.tree.map(lambda leaf, at=slots: jnp.broadcast_to(leaf, (*at.shape, *leaf.shape)), before)
            key = None if keys is None else keys[slots]
            here = context._replace(bn="batch", key=key, drop_path=0.0)
            run = functools.partial(_alone, chosen(primitives, STRIDES[group], False), stats, here)
            y = (jax.checkpoint(run) if remat else run)(own, taken[slots], x, scale[slots])
            states[layout.inputs + node] = states[layout.inputs + node] + y
    return jnp.stack(states[layout.inputs :])


def _alone(op: Chosen, stats: Stats, context: Context, params: PyTree, taken: Array, x: Array, scale: Array) -> Array:
    return op(params, taken, x, stats, context, scale)[0]


class Stage(NamedTuple):
    """sources: [S]. slots: [S][E], the places of their edges. nodes: [E], where these end."""

    sources: tuple[int, ...]
    slots: Slots
    nodes: tuple[int, ...]

    def apart(self) -> list[Stage]:
        """One stage a source."""
        return [Stage((source,), (row,), self.nodes) for source, row in zip(self.sources, self.slots, strict=True)]


def stages(edges: Sequence[tuple[int, int]]) -> list[Stage]:
    """The edges (source, node) in stages; both count the same states, in an order in which they complete."""
    result: list[Stage] = []
    for source in sorted({source for source, _ in edges}):
        slots = tuple(slot for slot, (start, _) in enumerate(edges) if start == source)
        nodes = tuple(edges[slot][1] for slot in slots)
        last = result[-1] if result else None
        if last and last.nodes == nodes and source not in nodes:
            result[-1] = Stage((*last.sources, source), (*last.slots, slots), nodes)
        else:
            result.append(Stage((source,), (slots,), nodes))
    return result


def _path(
    primitives: tuple[Primitive, ...],
    parts: int,
    layout: Layout,
    edges: Edges,
    past: Array | None,
    params: PyTree,
    inputs: Array,
    context: Context,
) -> tuple[Array, Stats]:
    """past: bool [E], whose other channels go past the operation; None where it gets all."""
    own, stats, given, keys = lay.of_path(primitives, layout, edges, params, inputs.shape[-1] // parts, context)
    nodes: list[Array] = []
    seen: list[Stats] = []
    for node in range(layout.nodes):
        here = np.array([e for e, end in enumerate(edges.nodes) if end == node])
        source, operation = edges.source[here], edges.operation[here]
        mine, told, key = jax.tree.map(lambda leaf, here=here: leaf[here], (own, stats, keys))
        # An edge of a cell that halves the image reads sources of one of two sizes; the other gives it zeros.
        readings: list[tuple[lay.Group, Sequence[Array], Array, Any]] = []
        if layout.halves:
            readings.append(("strided", tuple(inputs), source, source < layout.inputs))
            if nodes:
                readings.append(("plain", nodes, source - layout.inputs, source >= layout.inputs))
        else:
            readings.append(("plain", (*inputs, *nodes), source, True))
        total, passed = jnp.zeros((), inputs.dtype), jnp.zeros((), inputs.dtype)
        for group, sources, index, reads in readings:
            x = jnp.stack([lax.select_n(jnp.clip(i, 0, len(sources) - 1), *sources) for i in index])
            number = jnp.where(reads, operation, len(primitives))
            run = chosen(primitives, STRIDES[group], given)
            y, told[group] = run(
                mine[group], number, mixed_part(x, parts), told[group], context._replace(key=key), None
            )
            total = total + y
            if past is not None:
                count_it = (past[here] & reads)[:, None, None, None, None]
                passed = passed + jnp.sum(jnp.where(count_it, passing_part(x, parts, STRIDES[group]), 0), 0)
        nodes.append(total if past is None else shuffled(total, passed))
        seen.append(told)
    return jnp.stack(nodes), jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *seen)
