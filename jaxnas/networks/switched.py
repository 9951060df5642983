"""The DARTS evaluation network with the architecture as data: one compiled program for any number of architectures.

Every edge holds the parameters of all operations and a `lax.switch` runs the one that is chosen, its source looked up
in a buffer of nodes. The edges of a cell are one `lax.scan`, so that each operation is compiled once a cell. The
backward rule switches over whole vector-Jacobian products and computes the operation again: a switch that is
differentiated would save, at every edge, zeros in the place of what each operation not taken had to keep.

When it pays (two cores of a CPU): at 4 cells of 8 channels on 8×8 images it compiles in twice the time of one fixed
network and a step takes 1.6 times as long, so four networks are done sooner up to about 1,000 steps each; at 8 cells of
16 channels on 32×32 images a step takes 1.25 times as long and fixed networks win from some 50 steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnas.base import Arch, Array, Aux, Context, Key, PyTree, SearchSpace, Skeleton, Stats
from jaxnas.networks.blocks import draw, fresh_keys
from jaxnas.networks.darts import cell_nodes, make_frame
from jaxnas.ops import layers
from jaxnas.ops.primitives import PRIMITIVES, Primitive
from jaxnas.spaces.darts import CellEdges, CellShape, darts_edges, darts_space


class SwitchedNetwork(NamedTuple):
    """The networks of all architectures in one program.

    init: key -> (params, stats), holding every operation of every edge. apply: (params, arch, x [B, H, W, C], context)
    -> (logits [B, K], Aux), of which only the operations of `arch` are computed; the parameters of the others get
    gradients of zero. extract: (arch, params, stats) -> (params, stats) of `darts_network(arch, skeleton)`, which
    computes the same; `arch` is concrete there.
    """

    init: Callable[[Key], tuple[PyTree, Stats]]
    apply: Callable[[PyTree, Arch, Array, Context], tuple[Array, Aux]]
    extract: Callable[[Arch, PyTree, Stats], tuple[PyTree, Stats]]


def switched_darts_network(skeleton: Skeleton, space: SearchSpace | None = None) -> SwitchedNetwork:
    """The networks of `darts_space()`, or of the given space of the same kind.

    Statistics of an edge have room for two batch norms whatever its operation; unused places keep mean 0, variance 1.

    Raises: ValueError where an auxiliary head has no room.
    """
    space = darts_space() if space is None else space
    operations = space.choices[1].options
    nodes = cell_nodes(space)
    frame = make_frame(skeleton, nodes)
    space.costs(jnp.zeros(len(space.choices), jnp.int32), skeleton)  # Raises where there is no room for the head.

    def init_edges(key: Key, shape: CellShape, count: int) -> PyTree:
        # Strided skips have parameters, those of stride 1 have none: a reducing cell needs room for the former.
        stride = 2 if shape.kind == "reduce" else 1

        def one(key: Key) -> PyTree:
            keys = fresh_keys(key)
            return {name: PRIMITIVES[name].init(next(keys), shape.channels, stride, True) for name in operations}

        return draw(key, one, (count, 2 * nodes))

    def edge_stats(shape: CellShape) -> Stats:
        return jax.tree.map(lambda leaf: jnp.tile(leaf, (2 * nodes, 2, 1)), layers.initial_stats(shape.channels))

    def init(key: Key) -> tuple[PyTree, Stats]:
        return frame.init(key, init_edges), frame.stats(edge_stats)

    def apply(params: PyTree, arch: Arch, x: Array, context: Context) -> tuple[Array, Aux]:
        edges = darts_edges(arch, ("none", *operations))
        return frame.apply(functools.partial(_cell, operations, edges), params, x, context)

    def extract(arch: Arch, params: PyTree, stats: Stats) -> tuple[PyTree, Stats]:
        genotype = space.to_genotype(arch)
        cells, cell_stats = [], []
        for r, (shape, _) in enumerate(frame.runs):
            run, run_stats = params["cells"][r], stats["cells"][r]
            edges, seen = [], []
            for e, (name, source) in enumerate(genotype[shape.kind]):
                stride = 2 if shape.kind == "reduce" and source < 2 else 1
                norms = PRIMITIVES[name].norms(stride)
                empty = (name, stride) == ("skip_connect", 1)
                edges.append({} if empty else jax.tree.map(lambda leaf, e=e: leaf[:, e], run["edges"][name]))
                seen.append(tuple(tuple(leaf[:, e, n] for leaf in run_stats["edges"]) for n in range(norms)))
            cells.append({"preprocess": run["preprocess"], "edges": edges})
            cell_stats.append({"preprocess": run_stats["preprocess"], "edges": seen})
        return {**params, "cells": cells}, {**stats, "cells": cell_stats}

    return SwitchedNetwork(init, apply, extract)


def _cell(
    operations: tuple[str, ...],
    cells: dict[str, CellEdges],
    shape: CellShape,
    params: PyTree,
    inputs: tuple[Array, Array],
    stats: Stats | None,
    keys: Array | None,
    context: Context,
) -> tuple[Array, Stats]:
    """One cell, as `darts.CellApply`."""
    edges, reduces = cells[shape.kind], shape.kind == "reduce"
    nodes = edges.source.shape[0] // 2
    before = jnp.stack(inputs)
    size = tuple(-(-n // (2 if reduces else 1)) for n in before.shape[2:4])
    empty = jnp.zeros((nodes, before.shape[1], *size, shape.channels), before.dtype)
    # Nodes follow the inputs in one buffer where they have one size.
    buffer = empty if reduces else jnp.concatenate([before, empty])
    first = 0 if reduces else 2
    identity = operations.index("skip_connect") if "skip_connect" in operations else -1
    # (which of the sources, stride): an edge of a reducing cell has a source of either size.
    steps = ((0, 2), (1, 1)) if reduces else ((0, 1),)
    branches = [
        functools.partial(_branch, name, which, stride, context.axis_name)
        for which, stride in steps
        for name in operations
    ]

    def edge(buffer: Array, item: Any) -> tuple[Array, Stats]:
        number, source, operation, params, stats, key = item
        index = operation - 1
        strided = jnp.asarray(reduces) & (source < 2)
        if reduces:
            sources: tuple[Array, ...] = (before[jnp.minimum(source, 1)], buffer[jnp.maximum(source - 2, 0)])
            index = index + jnp.where(strided, 0, len(operations))
        else:
            sources = (buffer[source],)
        y, seen = switch(branches, index, params, sources, stats)
        if key is not None:
            kept = (operation - 1 == identity) & ~strided
            y = jnp.where(kept, y, layers.drop_path(key, y, context.drop_path))
        return buffer.at[first + number // 2].add(y), seen

    items = (jnp.arange(2 * nodes), edges.source, edges.operation, params, stats, keys)
    buffer, seen = jax.lax.scan(edge, buffer, items)
    return layers.joined(buffer, first), seen


Branch = Callable[[PyTree, tuple[Array, ...], Stats | None], tuple[Array, Stats]]
"""(params of all operations of an edge, sources, statistics) -> (output, statistics)."""


def _branch(
    name: str,
    which: int,
    stride: int,
    axis_name: str | None,
    params: PyTree,
    sources: tuple[Array, ...],
    stats: Stats | None,
) -> tuple[Array, Stats]:
    """One operation on the source that has its stride."""
    return apply_padded(PRIMITIVES[name], params[name], sources[which], stride, stats, axis_name)


def apply_padded(
    operation: Primitive, params: PyTree, x: Array, stride: int, stats: Stats | None, axis_name: str | None
) -> tuple[Array, Stats]:
    """The operation with statistics of one form for all, (mean [2, C], variance [2, C]), as `switch` needs them.

    Places without a batch norm have mean 0 and variance 1.
    """
    norms = operation.norms(stride)
    given = None if stats is None else tuple((stats[0][n], stats[1][n]) for n in range(norms))
    y, seen = operation.apply(params, x, stride, given, axis_name)
    padded = [*seen, *[layers.initial_stats(x.shape[-1])] * (2 - norms)]
    return y, (jnp.stack([mean for mean, _ in padded]), jnp.stack([variance for _, variance in padded]))


def switch(
    branches: Sequence[Branch], index: Array, params: PyTree, sources: tuple[Array, ...], stats: Stats | None
) -> tuple[Array, Stats]:
    """`lax.switch` with a backward rule that computes the taken branch again."""

    @jax.custom_vjp
    def call(index: Array, params: PyTree, sources: tuple[Array, ...], stats: Stats | None) -> tuple[Array, Stats]:
        return jax.lax.switch(index, branches, params, sources, stats)

    def forward(index: Array, params: PyTree, sources: tuple[Array, ...], stats: Stats | None) -> tuple[Any, Any]:
        return jax.lax.switch(index, branches, params, sources, stats), (index, params, sources, stats)

    def backward(residuals: Any, cotangent: Any) -> Any:
        index, *operands = residuals

        def pullback(branch: Branch) -> Callable[..., Any]:
            return lambda cotangent, *operands: jax.vjp(branch, *operands)[1](cotangent)

        return None, *jax.lax.switch(index, [pullback(branch) for branch in branches], cotangent, *operands)

    call.defvjp(forward, backward)
    return call(index, params, sources, stats)
