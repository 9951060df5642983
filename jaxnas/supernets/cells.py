"""Supernets of cells of two inputs in the frame of DARTS: what its space and ENAS's micro space share.

Batch norms of the edges are without affine part in a search, or their scales would be confounded with the mixture's
weights. With `affine`, a path is the network of its architecture as that is trained from scratch, with drop-path and
auxiliary head: one compiled program for any number of architectures.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxnas.base import Array, Aux, Context, Key, PyTree, Skeleton, Stats
from jaxnas.kernels.trees import stacked, taken
from jaxnas.networks.frame import Frame, make_frame
from jaxnas.ops import costs
from jaxnas.ops.primitives import Primitive
from jaxnas.spaces.darts import CELL_KINDS, CellShape, darts_cells
from jaxnas.supernets.executors import (
    Edges,
    Form,
    Layout,
    checked_form,
    checked_mixture,
    edges_init,
    executor,
    with_key_if_read,
)

Join = Callable[[str, Array], Array]
"""(kind of cell, nodes [N, B, h, w, C]) -> the output of the cell [B, h, w, N * C]."""


class Cells(NamedTuple):
    """init: key -> params. mixture: (params, weights, join, x, context) -> (logits, Aux). path: (params, kind -> edges,
    join, x, context) -> (logits, Aux). layouts: kind -> where the slots of a cell lie."""

    frame: Frame
    layouts: Mapping[str, Layout]
    init: Callable[[Key], PyTree]
    mixture: Callable[[PyTree, Mapping[str, Array], Join, Array, Context], tuple[Array, Aux]]
    path: Callable[[PyTree, Mapping[str, Edges], Join, Array, Context], tuple[Array, Aux]]


def make_cells(
    skeleton: Skeleton,
    nodes: int,
    ends: Sequence[tuple[int, int]],
    primitives: Sequence[Primitive],
    *,
    form: Form | None,
    remat: bool,
    affine: bool,
    inputs_affine: bool,
    keep: Mapping[str, np.ndarray] | None = None,
    sampled: bool = False,
    partial: int = 1,
    absent: int | None = None,
) -> Cells:
    """ends: the (source, node) of each slot. inputs_affine: whether the batch norms of the cells' inputs have scale and
    offset. keep: kind -> bool [S, O]. absent: the number of an option that stands for no edge, which nothing goes past.
    Others as of `darts_supernet`.

    Raises: ValueError for a form or a mixture that cannot be, and for an auxiliary head where nothing trains it or it
    has no room.
    """
    form = checked_form(skeleton, form, remat)
    widths = [shape.channels for shape in darts_cells(skeleton, nodes)]
    checked_mixture(widths, partial=partial, sampled=sampled, affine=affine)
    if skeleton.auxiliary and not affine:
        raise ValueError("a search has no auxiliary head: give a skeleton with auxiliary=False, or affine=True")
    if skeleton.auxiliary:
        shape = darts_cells(skeleton, nodes)[2 * skeleton.cells // 3]
        costs.auxiliary_head(shape.outputs, costs.strided(shape.size, 2), skeleton.num_classes)  # or there is no room
    layouts = {kind: Layout(2, nodes, tuple(ends), kind == "reduce") for kind in CELL_KINDS}
    frame = make_frame(skeleton, nodes, inputs_affine)
    make = functools.partial(executor, form, primitives, remat=remat, sampled=sampled, partial=partial, absent=absent)
    # Where it is one executor for both kinds, its rules are traced once.
    each = {} if keep is None else {kind: make(keep[kind]) for kind in CELL_KINDS}
    executors = each or dict.fromkeys(CELL_KINDS, make())

    def init_edges(key: Key, shape: CellShape, count: int) -> PyTree:
        return edges_init(primitives, layouts[shape.kind], key, shape.channels // partial, (count,), affine)

    def init(key: Key) -> PyTree:
        return frame.init(key, init_edges)

    def mixture(
        params: PyTree, weights: Mapping[str, Array], join: Join, x: Array, context: Context
    ) -> tuple[Array, Aux]:
        def cell(shape: CellShape, own: PyTree, inputs: tuple[Array, Array], context: Context) -> tuple[Array, Stats]:
            run = executors[shape.kind].mixture
            states = run(layouts[shape.kind], own, weights[shape.kind], jnp.stack(inputs), context)
            return join(shape.kind, states), ()

        context = with_key_if_read(context._replace(bn="batch"), primitives)
        return frame.apply(cell, params, x, context)

    def path(params: PyTree, edges: Mapping[str, Edges], join: Join, x: Array, context: Context) -> tuple[Array, Aux]:
        def cell(shape: CellShape, own: PyTree, inputs: tuple[Array, Array], context: Context) -> tuple[Array, Stats]:
            run = executors[shape.kind].path
            states, seen = run(layouts[shape.kind], edges[shape.kind], own, jnp.stack(inputs), context)
            return join(shape.kind, states), seen

        return frame.apply(cell, params, x, with_key_if_read(context, primitives))

    return Cells(frame, layouts, init, mixture, path)


def separate(cells: Cells, trees: Sequence[PyTree], path: Mapping[str, Edges], *, by_slot: bool) -> list[PyTree]:
    """Of the stacked cells of a supernet each by itself, {"preprocess", "edges"}, with the edges of a path alone.

    path: kind of cell -> its edges, concrete. trees: the "cells" of parameters, which have their edges by slot, or of a
    path's statistics, which have them in the order of the path.
    """
    each = []
    for (shape, count), own in zip(cells.frame.runs, trees, strict=True):
        groups = cells.layouts[shape.kind].groups()
        places = {slot: (group, place) for group, slots in groups.items() for place, slot in enumerate(slots.tolist())}
        chosen = np.stack([path[shape.kind].slot, path[shape.kind].operation], axis=1).tolist()
        for cell in range(count):
            edges = []
            for e, (slot, operation) in enumerate(chosen):
                group, place = places[slot]
                edges.append(taken(own["edges"][group][operation], cell, place if by_slot else e))
            each.append({"preprocess": taken(own["preprocess"], cell), "edges": edges})
    return each


def in_runs(each: Sequence[PyTree], skeleton: Skeleton, joined: int | Mapping[str, int]) -> list[PyTree]:
    """Cells stacked as the frame of a derived network has them."""
    counts = [count for _, count in make_frame(skeleton, joined).runs]
    ends = np.cumsum(counts).tolist()
    return [stacked(each[end - count : end]) for count, end in zip(counts, ends, strict=True)]
