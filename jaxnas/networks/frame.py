"""The network around the cells of DARTS and of ENAS's micro space: in their supernets and in their derived networks.

A 3×3 stem, cells whose two inputs each go through a 1×1 convolution first, global pooling and a classifier (Liu et al.
2019, section 3.2, https://arxiv.org/abs/1806.09055). Of a cell that follows a reduction the first input is reduced by
two strided convolutions. The auxiliary head of Szegedy et al. reads cell 2L // 3 in training.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from jaxnas.base import Array, Aux, Context, Key, PyTree, Skeleton, Stats
from jaxnas.kernels.marks import CELL, mark
from jaxnas.networks.blocks import (
    Item,
    conv_bn,
    conv_bn_init,
    draw,
    equal_runs,
    fresh_keys,
    global_pool,
    part_keys,
    stacked_stats,
)
from jaxnas.ops import layers
from jaxnas.ops.primitives import norm_init
from jaxnas.spaces.darts import CellShape, darts_cells

EdgesInit = Callable[[Key, CellShape, int], PyTree]
"""(key, shape, count) -> the parameters of the edges of `count` equal cells, stacked."""
CellApply = Callable[[CellShape, PyTree, tuple[Array, Array], Context], tuple[Array, Stats]]
"""(shape, edges, preprocessed inputs, context) -> (output, statistics)."""


class Frame(NamedTuple):
    """Everything around the edges of the cells.

    runs: the cells in turn, equal ones that follow each other counted. init: (key, init_edges) -> params.
    stats: the statistics of one cell's edges -> those of the network. apply: (apply_cell, params, x, context) ->
    (logits, Aux).
    """

    runs: tuple[tuple[CellShape, int], ...]
    init: Callable[[Key, EdgesInit], PyTree]
    stats: Callable[[Callable[[CellShape], Stats]], Stats]
    apply: Callable[[CellApply, PyTree, Array, Context], tuple[Array, Aux]]


def make_frame(skeleton: Skeleton, joined: int | Mapping[str, int], affine: bool = True) -> Frame:
    """The frame of cells of which so many nodes make the output, of each kind or of both.

    affine: whether the batch norms of the cells' inputs have scale and offset. Parameters, statistics and keys of equal
    cells are stacked: {"stem", "cells": [{"preprocess": (…, …), "edges"}, …], "classifier"}.
    """
    shapes = darts_cells(skeleton, joined)
    runs = tuple((shape, len(list(run))) for shape, run in itertools.groupby(shapes))
    head = 2 * skeleton.cells // 3

    def outside(key: Key) -> PyTree:
        keys = fresh_keys(key)
        params = {
            "stem": conv_bn_init(next(keys), 3, skeleton.image_shape[2], 3 * skeleton.channels),
            "classifier": layers.dense_init(next(keys), shapes[-1].outputs, skeleton.num_classes),
        }
        if skeleton.auxiliary:
            params["auxiliary"] = _auxiliary_init(next(keys), shapes[head].outputs, skeleton.num_classes)
        return params

    def init(key: Key, init_edges: EdgesInit) -> PyTree:
        keys = jax.random.split(key, 2 * len(runs) + 1)
        cells = [
            {
                "preprocess": draw(
                    keys[2 * r], functools.partial(preprocess_init, shape=shape, affine=affine), (count,)
                ),
                "edges": init_edges(keys[2 * r + 1], shape, count),
            }
            for r, (shape, count) in enumerate(runs)
        ]
        return {**draw(keys[-1], outside), "cells": cells}

    def stats(edge_stats: Callable[[CellShape], Stats]) -> Stats:
        result: dict[str, Any] = {"stem": layers.initial_stats(3 * skeleton.channels), "cells": []}
        for shape, count in runs:
            one = {"preprocess": (layers.initial_stats(shape.channels),) * 2, "edges": edge_stats(shape)}
            result["cells"].append(stacked_stats(one, count))
        if skeleton.auxiliary:
            result["auxiliary"] = (layers.initial_stats(128), layers.initial_stats(768))
        return result

    def apply(apply_cell: CellApply, params: PyTree, x: Array, context: Context) -> tuple[Array, Aux]:
        keys = part_keys(context, skeleton.cells)
        x, stem_seen = conv_bn(x.astype(skeleton.dtype), params["stem"], context.at("stem"))
        x = mark(x, CELL)
        seen: dict[str, Any] = {"stem": stem_seen, "cells": []}
        carry, start, aux_logits = (x, x), 0, None
        for r, (shape, count) in enumerate(runs):
            body = functools.partial(_cell, apply_cell, shape, context)
            run_keys = None if keys is None else keys[start : start + count]
            carry, run_seen = equal_runs(body, carry, params["cells"][r], context.at("cells", r), run_keys)
            seen["cells"].append(run_seen)
            start += count
            # The head's cell reduces, so it is the only one of its run.
            if skeleton.auxiliary and start == head + 1:
                if isinstance(context.bn, str):
                    aux_logits, seen["auxiliary"] = _auxiliary(carry[1], params["auxiliary"], context)
                else:
                    seen["auxiliary"] = context.bn["auxiliary"]
        return layers.dense(global_pool(carry[1]), params["classifier"]), Aux(seen, aux_logits)

    return Frame(runs, init, stats, apply)


def _cell(
    apply_cell: CellApply, shape: CellShape, context: Context, inputs: tuple[Array, Array], item: Item
) -> tuple[tuple[Array, Array], Stats]:
    params, context = item.params, item.within(context)
    own = params["preprocess"]
    projected = [_projected(x, each, context) for x, each in zip(inputs, own, strict=True)]
    (first, second), before = layers.batch_norms(projected, [each["norm"] for each in own], context.at("preprocess"))
    output, seen = apply_cell(shape, params["edges"], (first, second), context.at("edges"))
    return (inputs[1], mark(output, CELL)), {"preprocess": before, "edges": seen}


def preprocess_init(key: Key, shape: CellShape, affine: bool = True) -> tuple[PyTree, PyTree]:
    """Of a cell's two inputs: a 1×1 convolution to the channels of the cell, or a reduction by two of them."""
    first, second = jax.random.split(key)
    before, channels = shape.inputs, shape.channels
    if not shape.input_reduced:
        own = conv_bn_init(first, 1, before[0], channels, affine)
    else:
        own = {
            "reduce": layers.factorized_reduce_init(first, before[0], channels),
            "norm": norm_init(channels, affine),
        }
    return own, conv_bn_init(second, 1, before[1], channels, affine)


def preprocess(x: Array, params: PyTree, context: Context) -> tuple[Array, Stats]:
    """ReLU, what `preprocess_init` made, batch norm."""
    return layers.batch_norm(_projected(x, params, context), params["norm"], context)


def _projected(x: Array, params: PyTree, context: Context) -> Array:
    """The input of a cell before its batch norm."""
    x = jax.nn.relu(x)
    if "kernel" in params:
        return layers.pointwise(x, params["kernel"], 1, context)
    return layers.factorized_reduce(x, params["reduce"], context)


def _auxiliary_init(key: Key, channels: int, num_classes: int) -> PyTree:
    keys = fresh_keys(key)
    return {
        "squeeze": conv_bn_init(next(keys), 1, channels, 128),
        "conv": conv_bn_init(next(keys), 2, 128, 768),
        "classifier": layers.dense_init(next(keys), 768, num_classes),
    }


def _auxiliary(x: Array, params: layers.Params, context: Context) -> tuple[Array, Stats]:
    """The head on a map [B, H, W, C] of at least 8×8, by the batch's statistics -> (logits [B, K], statistics)."""
    # The literal 0.0 matters: only by it is the sum known as one that has a gradient.
    x = jax.lax.reduce_window(jax.nn.relu(x), 0.0, jax.lax.add, (1, 5, 5, 1), (1, 3, 3, 1), "VALID")
    x, first = conv_bn(x / 25, params["squeeze"], context)
    x, second = conv_bn(jax.nn.relu(x), params["conv"], context, padding=0)
    return layers.dense(global_pool(jax.nn.relu(x)), params["classifier"]), (first, second)
