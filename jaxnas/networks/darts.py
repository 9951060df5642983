"""The evaluation network of the DARTS cell space (Liu et al. 2019, section 3.2, https://arxiv.org/abs/1806.09055).

A 3×3 stem, the cells, global pooling and a classifier; every batch norm is affine and, after training, normalises by
running statistics. Drop-path zeroes the output of any operation but the identity, an image at a time (Larsson et al.
2017). The auxiliary head of Szegedy et al. reads cell 2L // 3 in training. As in the paper's program, pools have no
batch norm here, which they have in the search; `pool_norms` gives it to them, so that the network computes what the
supernet's path computes.

`jaxnas.networks.switched` has the same network with the architecture as data.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnas.base import Arch, Array, Aux, Context, Key, Network, PyTree, SearchSpace, Skeleton, Stats
from jaxnas.networks.blocks import (
    conv_bn,
    conv_bn_init,
    draw,
    equal_runs,
    fresh_keys,
    given_stats,
    global_pool,
    part,
    path_keys,
    stacked_stats,
)
from jaxnas.ops import layers
from jaxnas.ops.primitives import named
from jaxnas.spaces.darts import CELL_KINDS, CellShape, darts_cells, darts_space

EdgesInit = Callable[[Key, CellShape, int], PyTree]
"""(key, shape, count) -> the parameters of the edges of `count` equal cells, stacked."""
CellApply = Callable[[CellShape, PyTree, tuple[Array, Array], Stats | None, Array | None, Context], tuple[Array, Stats]]
"""(shape, edges, preprocessed inputs, statistics, key of each edge [E], context) -> (output, statistics)."""


def darts_network(
    arch: Arch, skeleton: Skeleton, space: SearchSpace | None = None, *, pool_norms: bool = False
) -> Network:
    """The network of one concrete architecture of `darts_space()`, or of the given space of the same kind.

    pool_norms: pools are followed by batch norm without affine part, as in the search network. Equal consecutive cells
    (in stages of six: the third to the last) share their code through a scan; their parameters are stacked.

    Raises: ValueError where the architecture is not one of the space, or an auxiliary head has no room.
    """
    space = darts_space() if space is None else space
    costs = space.costs(arch, skeleton)
    return cell_network(space.to_genotype(arch), skeleton, costs, pool_norms)


def cell_network(
    genotype: Mapping[str, Any], skeleton: Skeleton, costs: dict[str, int], pool_norms: bool = False
) -> Network:
    """The network of two cells whose nodes add two edges each; "normal_concat" and "reduce_concat" make the outputs."""
    names = sorted({operation for kind in CELL_KINDS for operation, _ in genotype[kind]})
    primitives = dict(zip(names, named(names, pool_norms), strict=True))
    concat = {kind: genotype[f"{kind}_concat"] for kind in CELL_KINDS}
    nodes = len(genotype["normal"]) // 2
    frame = make_frame(skeleton, nodes, {kind: len(joined) for kind, joined in concat.items()})

    def edges(shape: CellShape) -> list[tuple[str, int, int]]:
        """(operation, source, stride) of each edge."""
        return [
            (operation, source, 2 if shape.kind == "reduce" and source < 2 else 1)
            for operation, source in genotype[shape.kind]
        ]

    def init_edges(key: Key, shape: CellShape, count: int) -> PyTree:
        def one(key: Key) -> PyTree:
            keys = fresh_keys(key)
            return [
                primitives[operation].init(next(keys), shape.channels, stride, True)
                for operation, _, stride in edges(shape)
            ]

        return draw(key, one, (count,))

    def apply_cell(
        shape: CellShape,
        params: PyTree,
        inputs: tuple[Array, Array],
        stats: Stats | None,
        keys: Array | None,
        context: Context,
    ) -> tuple[Array, Stats]:
        states, seen, total = list(inputs), [], None
        for e, (operation, source, stride) in enumerate(edges(shape)):
            y, edge_seen = primitives[operation].apply(
                params[e], states[source], stride, part(stats, e), context.axis_name
            )
            if keys is not None and (operation, stride) != ("skip_connect", 1):
                y = layers.drop_path(keys[e], y, context.drop_path)
            seen.append(edge_seen)
            if total is None:
                total = y
            else:
                states.append(total + y)
                total = None
        return jnp.concatenate([states[node] for node in concat[shape.kind]], axis=-1), seen

    def edge_stats(shape: CellShape) -> Stats:
        return [
            (layers.initial_stats(shape.channels),) * primitives[operation].norms(stride)
            for operation, _, stride in edges(shape)
        ]

    def init(key: Key) -> tuple[PyTree, Stats]:
        return frame.init(key, init_edges), frame.stats(edge_stats)

    def apply(params: PyTree, x: Array, context: Context) -> tuple[Array, Aux]:
        return frame.apply(apply_cell, params, x, context)

    return Network(init, apply, costs)


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


def make_frame(skeleton: Skeleton, nodes: int, joined: Mapping[str, int] | None = None) -> Frame:
    """The frame of the evaluation network, whose cells have some nodes; joined: how many make the output, or all."""
    shapes = darts_cells(skeleton, nodes if joined is None else joined)
    runs = tuple((shape, len(list(run))) for shape, run in itertools.groupby(shapes))
    head = 2 * skeleton.cells // 3

    def outside(key: Key) -> PyTree:
        keys = fresh_keys(key)
        params = {
            "stem": conv_bn_init(next(keys), 3, skeleton.image_shape[2], 3 * skeleton.channels),
            "classifier": layers.dense_init(next(keys), shapes[-1].outputs, skeleton.num_classes),
        }
        if skeleton.auxiliary:
            params["auxiliary"] = {
                "squeeze": conv_bn_init(next(keys), 1, shapes[head].outputs, 128),
                "conv": conv_bn_init(next(keys), 2, 128, 768),
                "classifier": layers.dense_init(next(keys), 768, skeleton.num_classes),
            }
        return params

    def preprocess(key: Key, shape: CellShape) -> PyTree:
        first = _reduce_bn_init if shape.input_reduced else _pointwise_bn_init
        keys = jax.random.split(key)
        return (
            first(keys[0], shape.inputs[0], shape.channels),
            _pointwise_bn_init(keys[1], shape.inputs[1], shape.channels),
        )

    def init(key: Key, init_edges: EdgesInit) -> PyTree:
        keys = jax.random.split(key, 2 * len(runs) + 1)
        cells = [
            {
                "preprocess": draw(keys[2 * r], functools.partial(preprocess, shape=shape), (count,)),
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

    def cell(
        inputs: tuple[Array, Array],
        params: PyTree,
        stats: Stats | None,
        key: Key | None,
        *,
        apply_cell: CellApply,
        shape: CellShape,
        context: Context,
    ) -> tuple[tuple[Array, Array], Stats]:
        preprocess0 = _reduce_bn if shape.input_reduced else _pointwise_bn
        first, seen0 = preprocess0(inputs[0], params["preprocess"][0], context, part(stats, "preprocess", 0))
        second, seen1 = _pointwise_bn(inputs[1], params["preprocess"][1], context, part(stats, "preprocess", 1))
        keys = None if key is None else jax.random.split(key, 2 * nodes)
        output, seen = apply_cell(shape, params["edges"], (first, second), part(stats, "edges"), keys, context)
        return (inputs[1], output), {"preprocess": (seen0, seen1), "edges": seen}

    def apply(apply_cell: CellApply, params: PyTree, x: Array, context: Context) -> tuple[Array, Aux]:
        stats = given_stats(context)
        keys = path_keys(context, skeleton.cells)
        x, stem_seen = conv_bn(x, params["stem"], context, part(stats, "stem"))
        seen: dict[str, Any] = {"stem": stem_seen, "cells": []}
        carry, start, aux_logits = (x, x), 0, None
        for r, (shape, count) in enumerate(runs):
            body = functools.partial(cell, apply_cell=apply_cell, shape=shape, context=context)
            run_keys = None if keys is None else keys[start : start + count]
            carry, run_seen = equal_runs(body, carry, params["cells"][r], part(stats, "cells", r), run_keys)
            seen["cells"].append(run_seen)
            start += count
            # The head's cell reduces, so it is the only one of its run.
            if skeleton.auxiliary and start == head + 1:
                if stats is None:
                    aux_logits, seen["auxiliary"] = _auxiliary(carry[1], params["auxiliary"], context)
                else:
                    seen["auxiliary"] = stats["auxiliary"]
        return layers.dense(global_pool(carry[1]), params["classifier"]), Aux(seen, aux_logits)

    return Frame(runs, init, stats, apply)


def cell_nodes(space: SearchSpace) -> int:
    """N, of a space made by `darts_space`."""
    return len(space.choices) // 6


def _pointwise_bn_init(key: Key, channels_in: int, channels_out: int) -> layers.Params:
    return conv_bn_init(key, 1, channels_in, channels_out)


def _pointwise_bn(x: Array, params: layers.Params, context: Context, stats: Stats | None) -> tuple[Array, Stats]:
    return conv_bn(jax.nn.relu(x), params, context, stats)


def _reduce_bn_init(key: Key, channels_in: int, channels_out: int) -> layers.Params:
    return {
        "reduce": layers.factorised_reduce_init(key, channels_in, channels_out),
        "norm": layers.affine_init(channels_out),
    }


def _reduce_bn(x: Array, params: layers.Params, context: Context, stats: Stats | None) -> tuple[Array, Stats]:
    x = layers.factorised_reduce(jax.nn.relu(x), params["reduce"])
    return layers.batch_norm(x, params["norm"], stats, context.axis_name)


def _auxiliary(x: Array, params: layers.Params, context: Context) -> tuple[Array, Stats]:
    """The head on a map [B, H, W, C] of at least 8×8, by the batch's statistics -> (logits [B, K], statistics)."""
    # The literal 0.0 matters: only by it is the sum known as one that has a gradient.
    x = jax.lax.reduce_window(jax.nn.relu(x), 0.0, jax.lax.add, (1, 5, 5, 1), (1, 3, 3, 1), "VALID")
    x, first = conv_bn(x / 25, params["squeeze"], context, None)
    x, second = conv_bn(jax.nn.relu(x), params["conv"], context, None, padding=0)
    return layers.dense(global_pool(jax.nn.relu(x)), params["classifier"]), (first, second)
