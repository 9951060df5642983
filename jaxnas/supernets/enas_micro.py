"""The supernet of ENAS's micro space (Pham et al. 2018, section 2.4, https://arxiv.org/abs/1802.03268).

Every cell holds, for each node, side and source, the parameters of every operation. Batch norm after operations has no
affine part; pools have none, as in the paper. The frame is that of the evaluation network, with room for the outputs
of all nodes: those that are read by another node are zeros in the output, and reach nothing that reads it.

A path looks up the parameters of its two edges a node and computes its own operations, edge after edge in one loop, or
in the form `batch` both edges of a node at once, without a branch (`chosen.py`). In the mixture a node is in the output
with the product of the weights of "none" on the edges that could read it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnas.base import Arch, Array, Aux, Context, Key, Network, PyTree, Skeleton, Stats, Supernet, Weights
from jaxnas.checks import checked_supernet
from jaxnas.networks.blocks import draw
from jaxnas.networks.darts import CellApply, make_frame
from jaxnas.networks.enas_micro import enas_micro_network
from jaxnas.networks.switched import apply_padded, switch
from jaxnas.ops import layers
from jaxnas.ops.primitives import Primitive, named
from jaxnas.spaces.darts import CellEdges, CellShape
from jaxnas.spaces.enas_micro import (
    ENAS_MICRO_OPERATIONS,
    enas_micro_edges,
    enas_micro_loose,
    enas_micro_slots,
    enas_micro_space,
)
from jaxnas.supernets import edges as mixed
from jaxnas.supernets.chosen import chosen
from jaxnas.supernets.extracting import as_network, padded_stats, stacked, taken


def enas_micro_supernet(
    skeleton: Skeleton,
    nodes: int = 5,
    operations: Sequence[str] = ENAS_MICRO_OPERATIONS,
    *,
    form: mixed.Form | None = None,
    remat: bool = False,
    dtype: Any = jnp.float32,
) -> Supernet:
    """The supernet over `enas_micro_space(nodes, operations)`.

    The paper's has `Skeleton(channels=20, cells=8, image_shape=(32, 32, 3), num_classes=10)`: six normal and two
    reduction cells. form as in `darts_supernet`, remat of the mixture. dtype: of the activations. A path has
    statistics for two batch norms an edge, [2N, 2, C], of which some are of none.
    """
    operations = tuple(operations)
    space = enas_micro_space(nodes, operations)
    form = mixed.checked_form(skeleton, form, remat)
    primitives = named(("none", *operations))
    skip = 1 + operations.index("skip_connect") if "skip_connect" in operations else None
    slots = enas_micro_slots(nodes)
    frame = make_frame(skeleton, nodes)
    cells = [shape for shape, count in frame.runs for _ in range(count)]

    def init_edges(key: Key, shape: CellShape, count: int) -> PyTree:
        # Strided skips have parameters, those of stride 1 have none: a reducing cell has room for the former.
        stride = 2 if shape.kind == "reduce" else 1
        one = functools.partial(mixed.edge_init, primitives, channels=shape.channels, stride=stride)
        return draw(key, one, (count, len(slots)))

    def init(key: Key) -> PyTree:
        return frame.init(key, init_edges)

    @functools.cache  # one function for all cells, so that its rules are traced once
    def edge_of(stride: int, axis_name: str | None) -> mixed.Edge:
        return mixed.mixed_edge(primitives, 0, stride, axis_name, remat)

    def mixed_cell(weights: Weights) -> CellApply:
        def cell(
            shape: CellShape, params: PyTree, inputs: tuple[Array, Array], stats: Any, keys: Any, context: Context
        ) -> tuple[Array, Stats]:
            del stats, keys  # normalised by the batch; no path is dropped
            selection, before = weights[shape.kind], jnp.stack(inputs)

            def run(states: Array, strided: bool | None) -> Array:
                here = [s for s, (_, _, source) in enumerate(slots) if strided is None or (source < 2) == strided]
                if not here:
                    return states
                first = {None: (0, 2), True: (0, 0), False: (2, 0)}[strided]
                ends = [(slots[s][2] - first[0], slots[s][0] + first[1]) for s in here]
                # An identity of stride 1 must not take the parameters of one of stride 2 for its own.
                kept = params if strided else [{} if o == skip else p for o, p in enumerate(params)]
                mine, chosen = jax.tree.map(lambda leaf: leaf[jnp.array(here)], (kept, selection))
                edge = edge_of(2 if strided else 1, context.axis_name)
                return mixed.run_edges(form, edge, before if strided else None, states, ends, mine, chosen, ())[0]

            size = [-(-n // (2 if shape.kind == "reduce" else 1)) for n in before.shape[2:4]]
            empty = jnp.zeros((nodes, before.shape[1], *size, shape.channels), before.dtype)
            if shape.kind == "reduce":
                states = run(run(empty, True), False)
            else:
                states = run(jnp.concatenate([before, empty]), None)[2:]
            later = [(s, source - 2) for s, (_, _, source) in enumerate(slots) if source > 1]
            loose = jnp.ones(nodes)
            for s, node in later:
                loose = loose.at[node].multiply(selection[s, 0])
            return _joined(states, loose), ()

        return cell

    def path_cell(arch: Arch) -> CellApply:
        edges, loose = enas_micro_edges(arch), enas_micro_loose(arch)

        def cell(
            shape: CellShape, params: PyTree, inputs: tuple[Array, Array], stats: Any, keys: Any, context: Context
        ) -> tuple[Array, Stats]:
            del keys
            used_edges = edges[shape.kind]
            own = jax.tree.map(lambda leaf: leaf[used_edges.slot], params)
            run = _path_cell if form == "scan" else _path_cell_at_once
            states, seen = run(primitives, nodes, used_edges, shape, own, inputs, stats, context)
            return _joined(states, loose[shape.kind]), seen

        return cell

    def apply(params: PyTree, weights: Weights, x: Array, context: Context) -> tuple[Array, Aux]:
        return frame.apply(mixed_cell(weights), params, x.astype(dtype), context)

    def apply_path(params: PyTree, arch: Arch, x: Array, context: Context) -> tuple[Array, Aux]:
        return frame.apply(path_cell(arch), params, x.astype(dtype), context)

    def used(arch: Arch) -> PyTree:
        edges, loose = enas_micro_edges(arch), enas_micro_loose(arch)
        shapes = jax.eval_shape(init, jax.random.key(0))
        result = jax.tree.map(lambda _: jnp.array(True), shapes)
        reads = {kind: [jnp.any(own.source == side) for side in range(2)] for kind, own in edges.items()}
        # A cell matters where a later one that matters reads it: the next as its input 1, the one after as its input 0.
        live = [jnp.array(False)] * (len(cells) - 1) + [jnp.array(True)]
        for c in reversed(range(len(cells) - 1)):
            live[c] = live[c + 1] & reads[cells[c + 1].kind][1]
            if c + 2 < len(cells):
                live[c] |= live[c + 2] & reads[cells[c + 2].kind][0]

        def joined(index: int, channels: int) -> Array:
            """Which channels of the output of a cell, or of the stem before the first, hold anything."""
            if index < 0:
                return jnp.ones(channels, bool)
            return jnp.repeat(loose[cells[index].kind], cells[index].channels)

        start = 0
        for r, (shape, count) in enumerate(frame.runs):
            alive = jnp.stack(live[start : start + count])
            for side in range(2):
                given = result["cells"][r]["preprocess"][side]
                needed = alive & reads[shape.kind][side]
                rows = jnp.stack([joined(start + c - 2 + side, shape.inputs[side]) for c in range(count)])
                inner = "reduce" if "reduce" in given else "kernel"
                given["norm"] = jax.tree.map(lambda _, needed=needed: needed[:, None], given["norm"])
                kernel_mask = (rows & needed[:, None])[:, :, None]
                given[inner] = jax.tree.map(lambda _, mask=kernel_mask: mask, given[inner])
            chosen = jnp.zeros(len(slots), jnp.int32).at[edges[shape.kind].slot].set(edges[shape.kind].operation)
            strided = jnp.array([shape.kind == "reduce" and source < 2 for _, _, source in slots])
            for o in range(len(primitives)):
                # Of identities only those of stride 2 have a use for their parameters.
                mask = alive[:, None] & ((chosen == o) & (strided | (o != skip)))[None]
                result["cells"][r]["edges"][o] = jax.tree.map(
                    lambda leaf, mask=mask: mask.reshape(*mask.shape, *[1] * (leaf.ndim - 2)),
                    shapes["cells"][r]["edges"][o],
                )
            start += count
        result["classifier"]["kernel"] = joined(len(cells) - 1, 0)[:, None]
        return result

    def network(arch: Arch) -> Network:
        return enas_micro_network(arch, skeleton, space)

    def extract(params: PyTree, arch: Arch) -> PyTree:
        genotype, runs, start = space.to_genotype(arch), [], 0

        def joined(index: int, kernel: Array, axis: int) -> Array:
            """Of the rows of a kernel, which are C of each node of the cell that it reads, those of loose ends."""
            if index < 0:
                return kernel
            rows = np.arange(kernel.shape[axis]).reshape(nodes, -1)
            return jnp.take(kernel, rows[np.array(genotype[f"{cells[index].kind}_concat"]) - 2].reshape(-1), axis)

        for (shape, count), own in zip(frame.runs, params["cells"], strict=True):
            each = []
            for c in range(count):
                pair = []
                for side, one in enumerate(taken(own["preprocess"], c)):
                    name, before = "reduce" if "reduce" in one else "kernel", start + c - 2 + side
                    pair.append({**one, name: jax.tree.map(lambda k, b=before: joined(b, k, 0), one[name])})
                edges = [taken(own["edges"][o], c, slot) for slot, o in edges_of(genotype[shape.kind])]
                each.append({"preprocess": tuple(pair), "edges": edges})
            runs.append(stacked(each))
            start += count
        kernel = joined(len(cells) - 1, params["classifier"]["kernel"], 0)
        found = {**params, "cells": runs, "classifier": {**params["classifier"], "kernel": kernel}}
        return as_network(network, found, arch)

    def edges_of(genotype: Sequence[Any]) -> list[tuple[int, int]]:
        """The (slot, operation) of each edge of a cell."""
        return [
            (slots.index((e // 2, e % 2, source)), 1 + operations.index(operation))
            for e, (operation, source) in enumerate(genotype)
        ]

    def extract_stats(stats: Any, arch: Arch) -> Any:
        genotype, runs = space.to_genotype(arch), []
        for (shape, count), own in zip(frame.runs, stats["cells"], strict=True):
            each = []
            for c in range(count):
                edges = []
                for e, (operation, source) in enumerate(genotype[shape.kind]):
                    stride = 2 if shape.kind == "reduce" and source < 2 else 1
                    norms = primitives[1 + operations.index(operation)].norms(stride)
                    edges.append(padded_stats(own["edges"], norms, c, e))
                each.append({"preprocess": taken(own["preprocess"], c), "edges": edges})
            runs.append(stacked(each))
        return {**stats, "cells": runs}

    parts = (init, apply, apply_path, used, network, extract, extract_stats)
    return checked_supernet(Supernet(space, *parts, skeleton.image_shape))


def _joined(states: Array, loose: Array) -> Array:
    """Nodes [N, B, H, W, C] side by side, each times its entry of loose [N]."""
    return layers.joined(states * loose.astype(states.dtype)[:, None, None, None, None], 0)


def _path_cell(
    primitives: tuple[Primitive, ...],
    nodes: int,
    edges: CellEdges,
    shape: CellShape,
    params: PyTree,
    inputs: tuple[Array, Array],
    stats: Stats | None,
    context: Context,
) -> tuple[Array, Stats]:
    """The nodes [N, B, h, w, C] and statistics of one cell; params: of all operations at the edges in use, [2N, …]."""
    reduces = shape.kind == "reduce"
    before = jnp.stack(inputs)
    size = [-(-n // (2 if reduces else 1)) for n in before.shape[2:4]]
    empty = jnp.zeros((nodes, before.shape[1], *size, shape.channels), before.dtype)
    # Nodes follow the inputs in one buffer where they have one size; a reducing cell has sources of two sizes.
    buffer = empty if reduces else jnp.concatenate([before, empty])
    first = 0 if reduces else 2
    strides = (2, 1) if reduces else (1,)
    branches = [
        functools.partial(_branch, o, primitive, which, stride, context.axis_name)
        for which, stride in enumerate(strides)
        for o, primitive in enumerate(primitives)
        if o > 0
    ]

    def edge(buffer: Array, item: Any) -> tuple[Array, Stats]:
        number, source, operation, params, stats = item
        index = operation - 1
        if reduces:
            sources: tuple[Array, ...] = (before[jnp.minimum(source, 1)], buffer[jnp.maximum(source - 2, 0)])
            index = index + jnp.where(source < 2, 0, len(primitives) - 1)
        else:
            sources = (buffer[source],)
        y, seen = switch(branches, index, params, sources, stats)
        return buffer.at[first + number // 2].add(y), seen

    items = (jnp.arange(2 * nodes), edges.source, edges.operation, params, stats)
    buffer, seen = lax.scan(edge, buffer, items)
    return buffer[first:], seen


def _path_cell_at_once(
    primitives: tuple[Primitive, ...],
    nodes: int,
    edges: CellEdges,
    shape: CellShape,
    params: PyTree,
    inputs: tuple[Array, Array],
    stats: Stats | None,
    context: Context,
) -> tuple[Array, Stats]:
    """As `_path_cell`. The two edges of a node are two sources of one target."""
    reduces, given = shape.kind == "reduce", stats is not None
    empty = jax.tree.map(lambda leaf: jnp.tile(leaf, (2 * nodes, 2, 1)), layers.initial_stats(shape.channels))
    states: list[Array] = []
    seen: list[Stats] = []
    for node in range(nodes):
        pair = slice(2 * node, 2 * node + 2)
        source, operation = edges.source[pair], edges.operation[pair]
        own, told = jax.tree.map(lambda leaf, pair=pair: leaf[pair], (params, empty if stats is None else stats))
        # A reducing cell has sources of two sizes, of which each edge reads one; the other gives it zeros.
        readings: list[tuple[Sequence[Array], int, Array, Array]] = []
        if reduces:
            readings.append((inputs, 2, source, source < 2))
            if node > 0:
                readings.append((states, 1, source - 2, source >= 2))
        else:
            readings.append(((*inputs, *states), 1, source, source >= 0))
        outputs = []
        for sources, stride, index, reads in readings:
            x = jnp.stack([lax.select_n(jnp.clip(i, 0, len(sources) - 1), *sources) for i in index])
            run = _at_once(primitives, stride, context.axis_name, given)
            y, told = run(own, jnp.where(reads, operation, 0), x, told)
            outputs.append(y)
        states.append(functools.reduce(jnp.add, outputs))
        seen.append(told)
    return jnp.stack(states), jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *seen)


@functools.cache
def _at_once(primitives: tuple[Primitive, ...], stride: int, axis_name: str | None, given: bool) -> Callable[..., Any]:
    """(params [2, ...], operation [2], x [2, B, H, W, C], statistics [2, 2, C]) -> (their sum, statistics)."""
    stage = chosen(primitives, stride, axis_name, given)

    def run(params: PyTree, operation: Array, x: Array, stats: Stats) -> tuple[Array, Stats]:
        each = [tuple((stats[0][:, None, n], stats[1][:, None, n]) for n in range(p.norms(stride))) for p in primitives]
        outputs, seen = stage(jax.tree.map(lambda leaf: leaf[:, None], params), operation[:, None], x, each)
        mean, variance = stats
        for o, told in enumerate(seen):
            pick = (operation == o)[:, None]
            for n, (new_mean, new_variance) in enumerate(told):
                mean = mean.at[:, n].set(jnp.where(pick, new_mean[:, 0], mean[:, n]))
                variance = variance.at[:, n].set(jnp.where(pick, new_variance[:, 0], variance[:, n]))
        return outputs[0], (mean, variance)

    return run


def _branch(
    operation: int,
    primitive: Primitive,
    which: int,
    stride: int,
    axis_name: str | None,
    params: PyTree,
    sources: tuple[Array, ...],
    stats: Stats | None,
) -> tuple[Array, Stats]:
    """One operation on the source that has its stride."""
    return apply_padded(primitive, params[operation], sources[which], stride, stats, axis_name)
