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
from jaxnas.kernels.arrays import Places, apart, dealt
from jaxnas.networks.blocks import part_keys
from jaxnas.ops.primitives import Primitive
from jaxnas.supernets.executors import layout as lay
from jaxnas.supernets.executors.chosen import chosen
from jaxnas.supernets.executors.layout import STRIDES, Edges, Executor, Layout
from jaxnas.supernets.executors.together import together


def staged_executor(
    primitives: Sequence[Primitive], keep: np.ndarray | None = None, *, remat: bool = False
) -> Executor:
    """The executor of edges that are ready together.

    keep: bool [S, O], the operations that the slots of a mixture have. remat: a mixture is computed again in the
    backward pass.
    """
    primitives = tuple(primitives)

    def mixture(layout: Layout, params: PyTree, weights: Array, inputs: Array, context: Context) -> Array:
        states = [*inputs, *layout.room(inputs)]
        for group, slots in layout.groups().items():
            ends = [layout.ends[slot] for slot in slots]
            plan = stages([(source, node + layout.inputs) for source, node in ends])
            # Sources that have not kept the same run one after another.
            plan = plan if keep is None else [one for stage in plan for one in stage.apart()]
            order = tuple(stage.slots for stage in plan)
            leaves, tree = jax.tree.flatten((params[group], weights[slots]))
            for stage, *own in zip(plan, *(dealt(leaf, order) for leaf in leaves), strict=True):
                there = None if keep is None else keep[slots][np.array(stage.slots[0])]
                run = functools.partial(together, primitives, STRIDES[group], context, there)
                p, w = jax.tree.unflatten(tree, own)
                x = jnp.stack([states[source] for source in stage.sources])
                outputs = (jax.checkpoint(run) if remat else run)(p, w, x)
                for output, node in zip(apart(outputs), stage.nodes, strict=True):
                    states[node] = states[node] + output
        return jnp.stack(states[layout.inputs :])

    return Executor(mixture, functools.partial(_path, primitives))


class Stage(NamedTuple):
    """sources: [S]. slots: [S][E], the places of their edges. nodes: [E], where these end."""

    sources: tuple[int, ...]
    slots: Places
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
    primitives: tuple[Primitive, ...], layout: Layout, edges: Edges, params: PyTree, inputs: Array, context: Context
) -> tuple[Array, Stats]:
    count, channels = edges.slot.shape[0], inputs.shape[-1]
    given = not isinstance(context.bn, str)
    stats = context.bn if given else lay.edge_stats(primitives, layout, channels, count)
    own = lay.at_edges(layout, params, edges.slot)
    keys = part_keys(context, count)
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
        total = jnp.zeros((), inputs.dtype)
        for group, sources, index, reads in readings:
            x = jnp.stack([lax.select_n(jnp.clip(i, 0, len(sources) - 1), *sources) for i in index])
            number = jnp.where(reads, operation, len(primitives))
            run = chosen(primitives, STRIDES[group], given)
            y, told[group] = run(mine[group], number, x, told[group], context._replace(key=key))
            total = total + y
        nodes.append(total)
        seen.append(told)
    return jnp.stack(nodes), jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *seen)
