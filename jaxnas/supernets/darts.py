"""The supernet of the DARTS space (Liu et al., "DARTS: Differentiable Architecture Search", 2019, sections 2.1-2.2).

Every edge of every cell holds all operations. Batch norm in the cells has no affine part, or its scale would be
confounded with the mixture's weights, and always uses batch statistics in the mixture.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxnas.base import Arch, Array, Aux, Context, Key, PyTree, Skeleton, Supernet, Weights
from jaxnas.networks.blocks import conv_bn_init, draw, fresh_keys
from jaxnas.ops import layers
from jaxnas.spaces.darts import DARTS_OPERATIONS, CellShape, darts_cells, darts_space, edge_table
from jaxnas.supernets import edges as mixed

Pass = Literal["mixture", "path", "path, statistics given"]


def darts_supernet(
    skeleton: Skeleton,
    nodes: int = 4,
    operations: Sequence[str] = DARTS_OPERATIONS,
    *,
    form: mixed.Form | None = None,
    remat: bool = False,
    dtype: Any = jnp.float32,
) -> Supernet:
    """The supernet over `darts_space(nodes, operations)`.

    The paper's search network is `Skeleton(channels=16, cells=8, image_shape=(32, 32, 3), num_classes=10)`. form: how
    the edges of a cell are run, by default what suits the platform. remat: in the batch form, recompute each edge in
    the backward pass instead of keeping its activations; the scan form always does. dtype: of the activations;
    parameters and statistics stay float32. Parameters of an edge are stacked over the edges of its cell, [E, ...].
    """
    operations = tuple(operations)
    if nodes < 1:
        raise ValueError(f"nodes must be at least 1, got {nodes}")
    form = mixed.checked_form(skeleton, form, remat)
    primitives = mixed.primitives(operations, normed_pools=True)
    none = operations.index("none") if "none" in operations else None
    space = darts_space(nodes, operations)
    cells = darts_cells(skeleton, nodes)
    table = [(source, target) for target, source in edge_table(nodes)]
    groups = {
        "normal": {"plain": list(range(len(table)))},
        "reduce": {
            "strided": [slot for slot, (source, _) in enumerate(table) if source < 2],
            "plain": [slot for slot, (source, _) in enumerate(table) if source >= 2],
        },
    }
    strides = {"plain": 1, "strided": 2}

    def init_cell(key: Key, cell: CellShape) -> PyTree:
        outside, *rest = jax.random.split(key, 1 + len(groups[cell.kind]))

        def preprocess(key: Key) -> PyTree:
            keys = fresh_keys(key)
            first = layers.factorised_reduce_init if cell.input_reduced else pointwise_init
            return {
                "preprocess0": first(next(keys), cell.inputs[0], cell.channels),
                "preprocess1": pointwise_init(next(keys), cell.inputs[1], cell.channels),
            }

        stacked = {
            name: draw(
                group_key,
                functools.partial(mixed.edge_init, primitives, channels=cell.channels, stride=strides[name]),
                (len(slots),),
            )
            for (name, slots), group_key in zip(groups[cell.kind].items(), rest, strict=True)
            if slots
        }
        return {**draw(outside, preprocess), "edges": stacked}

    def init(key: Key) -> PyTree:
        outside, *rest = jax.random.split(key, 1 + len(cells))

        def frame(key: Key) -> PyTree:
            keys = fresh_keys(key)
            return {
                "stem": conv_bn_init(next(keys), 3, skeleton.image_shape[2], 3 * skeleton.channels),
                "head": layers.dense_init(next(keys), nodes * cells[-1].channels, skeleton.num_classes),
            }

        return {
            **draw(outside, frame),
            "cells": [init_cell(k, cell) for k, cell in zip(rest, cells, strict=True)],
        }

    def initial_edge_stats(cell: CellShape) -> PyTree:
        return {
            name: jax.tree.map(
                functools.partial(_stacked, len(slots)),
                mixed.edge_stats(primitives, cell.channels, strides[name]),
            )
            for name, slots in groups[cell.kind].items()
            if slots
        }

    @functools.cache
    def edge_of(stride: int, pass_: Pass, axis_name: str | None) -> mixed.Edge:
        if pass_ == "mixture":
            edge = mixed.mixed_edge(primitives, none, stride, axis_name)
            return jax.checkpoint(edge) if remat else edge
        return mixed.path_edge(primitives, stride, axis_name, given=pass_ == "path, statistics given")

    @functools.cache  # one function for all cells of one shape and for all passes of a step: traced once
    def cell_forward(kind: str, pass_: Pass, axis_name: str | None) -> Callable[..., tuple[Array, Any]]:
        edges = {name: edge_of(strides[name], pass_, axis_name) for name in groups[kind]}

        def forward(params: PyTree, selection: Array, stats: Any, s0: Array, s1: Array) -> tuple[Array, Any]:
            given = stats["preprocess"] if stats["preprocess"] is not None else (None, None)
            s0, s1 = jax.nn.relu(s0), jax.nn.relu(s1)
            # input 0 comes from before a reduction where its kernel is a pair
            reduce = isinstance(params["preprocess0"], dict)
            s0 = (layers.factorised_reduce if reduce else layers.pointwise)(s0, params["preprocess0"])
            s0, seen0 = layers.batch_norm(s0, None, given[0], axis_name)
            s1, seen1 = layers.batch_norm(layers.pointwise(s1, params["preprocess1"]), None, given[1], axis_name)
            inputs = jnp.stack([s0, s1])
            seen = {}
            if kind == "normal":
                states = jnp.concatenate([inputs, jnp.zeros((nodes, *s0.shape), s0.dtype)])
                ends = [(source, target + 2) for source, target in table]
                states, seen["plain"] = mixed.run_edges(
                    form,
                    edges["plain"],
                    None,
                    states,
                    ends,
                    params["edges"]["plain"],
                    selection,
                    stats["edges"]["plain"],
                )
                states = states[2:]
            else:
                size = (-(-s0.shape[1] // 2), -(-s0.shape[2] // 2))
                states = jnp.zeros((nodes, s0.shape[0], *size, s0.shape[3]), s0.dtype)
                for name, slots in groups["reduce"].items():
                    if not slots:
                        continue
                    strided = name == "strided"
                    ends = [(table[s][0] - (0 if strided else 2), table[s][1]) for s in slots]
                    states, seen[name] = mixed.run_edges(
                        form,
                        edges[name],
                        inputs if strided else None,
                        states,
                        ends,
                        params["edges"][name],
                        selection[jnp.array(slots)],
                        stats["edges"][name],
                    )
            out = jnp.concatenate(list(states), -1)
            return out, {"preprocess": (seen0, seen1), "edges": seen}

        return jax.jit(forward)

    def forward(
        params: PyTree,
        selections: dict[str, Array],
        x: Array,
        context: Context,
        pass_: Pass,
    ) -> tuple[Array, Aux]:
        given = None if isinstance(context.bn, str) else context.bn
        x = layers.conv(x.astype(dtype), params["stem"]["kernel"])
        x, stem = layers.batch_norm(x, params["stem"]["norm"], given and given["stem"], context.axis_name)
        s0 = s1 = x
        seen = []
        for i, cell in enumerate(cells):
            if given is not None:
                stats = given["cells"][i]
            else:
                empty = dict.fromkeys(groups[cell.kind], ())
                stats = {"preprocess": None, "edges": empty if pass_ == "mixture" else initial_edge_stats(cell)}
            run = cell_forward(cell.kind, pass_, context.axis_name)
            s2, cell_seen = run(params["cells"][i], selections[cell.kind], stats, s0, s1)
            s0, s1 = s1, s2
            seen.append(cell_seen)
        features = jnp.mean(layers.widened(s1), (1, 2))
        return layers.dense(features, params["head"]), Aux({"stem": stem, "cells": seen})

    def apply(params: PyTree, weights: Weights, x: Array, context: Context) -> tuple[Array, Aux]:
        if not isinstance(context.bn, str):
            raise ValueError("a mixture is normalised by batch statistics: give Context(bn='batch')")
        return forward(params, weights, x, context, "mixture")

    def operation_of_slot(arch: Arch) -> dict[str, Array]:
        return {kind: jnp.argmax(w, -1) for kind, w in space.one_hot(arch).items()}

    def apply_path(params: PyTree, arch: Arch, x: Array, context: Context) -> tuple[Array, Aux]:
        pass_: Pass = "path" if isinstance(context.bn, str) else "path, statistics given"
        return forward(params, operation_of_slot(arch), x, context, pass_)

    def used(arch: Arch) -> PyTree:
        chosen = operation_of_slot(arch)
        shapes = jax.eval_shape(init, jax.random.key(0))
        everywhere = jax.tree.map(lambda _: jnp.array(True), shapes)
        for cell, params, result in zip(cells, shapes["cells"], everywhere["cells"], strict=True):
            for name, slots in groups[cell.kind].items():
                if not slots:
                    continue
                operation = chosen[cell.kind][jnp.array(slots)]
                result["edges"][name] = [
                    jax.tree.map(lambda leaf, o=o, op=operation: (op == o).reshape(-1, *[1] * (leaf.ndim - 1)), p)
                    for o, p in enumerate(params["edges"][name])
                ]
        return everywhere

    return Supernet(init, apply, apply_path, used)


def _stacked(count: int, leaf: Array) -> Array:
    return jnp.broadcast_to(leaf, (count, *leaf.shape))


def pointwise_init(key: Key, channels_in: int, channels_out: int) -> Array:
    """The kernel of a 1x1 convolution, [C_in, C_out]."""
    return layers.conv_init(key, 1, channels_in, channels_out)
