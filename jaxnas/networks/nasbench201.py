"""The network of a NAS-Bench-201 cell (Dong & Yang 2020, section 2.1, https://arxiv.org/abs/2001.00326).

A 3×3 stem with batch norm, three stages of equal cells of C, 2C and 4C channels with a residual block of stride 2
before the second and the third, batch norm, ReLU, global pooling and a classifier.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas.base import Arch, Array, Aux, Context, Key, Network, PyTree, SearchSpace, Skeleton, Stats
from jaxnas.kernels.marks import CELL, mark
from jaxnas.networks.blocks import conv_bn, conv_bn_init, draw, fresh_keys, global_pool, part_keys
from jaxnas.ops import layers
from jaxnas.ops.primitives import PRIMITIVES, Operations, initial_stats, named, operation_key
from jaxnas.spaces.nasbench201 import (
    NASBENCH201_EDGES,
    NASBENCH201_OPERATIONS,
    nasbench201_space,
    nasbench201_stages,
)

_NODES = 4


def nasbench201_network(
    arch: Arch,
    skeleton: Skeleton,
    space: SearchSpace | None = None,
    *,
    operations: Operations | None = None,
) -> Network:
    """The network of one concrete architecture, with affine batch norms.

    operations: those of the space, where some are objects that have no name in the library. Edges with "none" are not
    computed; a node without another edge is zero. `drop_path` of the context, which the benchmark does not use, applies
    to all operations but the identity.

    Cells are written out, not scanned: even 15 of them, of convolutions only, compile in seconds.

    Raises: ValueError where the architecture is not one of the space, or an auxiliary head is asked for.

    >>> space = nasbench201_space()
    >>> arch = space.from_genotype("|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|nor_conv_1x1~2|")
    >>> network = nasbench201_network(arch, Skeleton(channels=4, cells=1, image_shape=(8, 8, 3), num_classes=10))
    >>> params, stats = jax.eval_shape(network.init, jax.random.key(0))
    >>> sum(leaf.size for leaf in jax.tree.leaves(params)) == network.costs["params"]
    True
    """
    space = nasbench201_space(operations or NASBENCH201_OPERATIONS) if space is None else space
    costs = space.costs(arch, skeleton)
    stages = nasbench201_stages(skeleton)
    primitives = {
        primitive.name: primitive for primitive in named(tuple(PRIMITIVES) if operations is None else operations)
    }
    edges = [
        (slot, primitives[operation], source, node)
        for slot, ((operation, source), (node, _)) in enumerate(
            zip(space.to_genotype(arch)["cell"], NASBENCH201_EDGES, strict=True)
        )
        if operation != "none"
    ]

    def layout(key: Key) -> PyTree:
        frame_key, cells_key = jax.random.split(key)
        keys = fresh_keys(cells_key)
        return {
            **init_frame(frame_key, skeleton),
            "stages": [
                [
                    [primitive.init(next(keys), channels, 1, True) for _, primitive, _, _ in edges]
                    for _ in range(skeleton.cells)
                ]
                for channels, _ in stages
            ],
        }

    def stats() -> Stats:
        of_cells = [
            [[initial_stats(primitive, channels, 1) for _, primitive, _, _ in edges] for _ in range(skeleton.cells)]
            for channels, _ in stages
        ]
        return {**frame_stats(skeleton), "stages": of_cells}

    def cell(x: Array, params: PyTree, context: Context) -> tuple[Array, list[Stats]]:
        keys = part_keys(context, len(NASBENCH201_EDGES))
        nodes: list[Array | None] = [x] + [None] * (_NODES - 1)
        seen = []
        for e, (slot, primitive, source, node) in enumerate(edges):
            start = nodes[source]
            start = jnp.zeros_like(x) if start is None else start
            here = context.at(e)._replace(key=None if keys is None else keys[slot])
            y, edge_seen = primitive.apply(params[e], start, 1, here._replace(key=operation_key(here.key, primitive)))
            y = y if primitive.name == "skip_connect" else layers.drop_path(y, here)
            total = nodes[node]
            nodes[node] = y if total is None else total + y
            seen.append(edge_seen)
        return jnp.zeros_like(x) if nodes[-1] is None else nodes[-1], seen

    def init(key: Key) -> tuple[PyTree, Stats]:
        return draw(key, layout), stats()

    def apply(params: PyTree, x: Array, context: Context) -> tuple[Array, Aux]:
        keys = part_keys(context, len(stages) * skeleton.cells)

        def stage(s: int, x: Array) -> tuple[Array, list[Stats]]:
            seen = []
            for c in range(skeleton.cells):
                key = None if keys is None else keys[s * skeleton.cells + c]
                x, cell_seen = cell(x, params["stages"][s][c], context.at("stages", s, c)._replace(key=key))
                x = mark(x, CELL)
                seen.append(cell_seen)
            return x, seen

        return apply_frame(stage, params, x.astype(skeleton.dtype), context)

    return Network(init, apply, costs)


def init_frame(key: Key, skeleton: Skeleton) -> PyTree:
    """Parameters of what is around the stages of cells: stem, residual blocks, last batch norm and classifier."""
    keys = fresh_keys(key)
    widths = [channels for channels, _ in nasbench201_stages(skeleton)]
    return {
        "stem": conv_bn_init(next(keys), 3, skeleton.image_shape[2], skeleton.channels),
        "blocks": [residual_block_init(next(keys), before, after) for before, after in itertools.pairwise(widths)],
        "norm": layers.affine_init(widths[-1]),
        "classifier": layers.dense_init(next(keys), widths[-1], skeleton.num_classes),
    }


def frame_stats(skeleton: Skeleton) -> dict[str, Any]:
    """Its statistics before the first step."""
    widths = [channels for channels, _ in nasbench201_stages(skeleton)]
    return {
        "stem": layers.initial_stats(skeleton.channels),
        "blocks": [(layers.initial_stats(after),) * 2 for after in widths[1:]],
        "norm": layers.initial_stats(widths[-1]),
    }


def apply_frame(
    stage: Callable[[int, Array], tuple[Array, Stats]], params: PyTree, x: Array, context: Context
) -> tuple[Array, Aux]:
    """The network around its stages; stage: (number, x) -> (x, statistics)."""
    x, stem_seen = conv_bn(x, params["stem"], context.at("stem"))
    x = mark(x, CELL)
    seen: dict[str, Any] = {"stem": stem_seen, "stages": [], "blocks": []}
    for s in range(len(params["stages"])):
        if s > 0:
            x, block_seen = residual_block(x, params["blocks"][s - 1], context.at("blocks", s - 1))
            x = mark(x, CELL)
            seen["blocks"].append(block_seen)
        x, stage_seen = stage(s, x)
        seen["stages"].append(stage_seen)
    x, seen["norm"] = layers.batch_norm(x, params["norm"], context.at("norm"))
    return layers.dense(global_pool(jax.nn.relu(x)), params["classifier"]), Aux(seen)


def residual_block_init(key: Key, before: int, after: int) -> layers.Params:
    """Parameters of the block between two stages of `before` and `after` channels."""
    first, second, shortcut = jax.random.split(key, 3)
    return {
        "first": conv_bn_init(first, 3, before, after),
        "second": conv_bn_init(second, 3, after, after),
        "shortcut": layers.conv_init(shortcut, 1, before, after),
    }


def residual_block(x: Array, params: layers.Params, context: Context) -> tuple[Array, tuple[Stats, Stats]]:
    """Two ReLU-conv-norm, the first of stride 2, added to a pooled and projected shortcut."""
    y, first = conv_bn(jax.nn.relu(x), params["first"], context.at(0), 2)
    y, second = conv_bn(jax.nn.relu(y), params["second"], context.at(1))
    return y + layers.pointwise(_halve(x), params["shortcut"], 1, context), (first, second)


def _halve(x: Array) -> Array:
    """2×2 mean of stride 2, rounding the size up; windows over the edge average what lies inside."""
    batch, height, width, channels = x.shape
    rows, columns = -(-height // 2), -(-width // 2)
    x = jnp.pad(x, ((0, 0), (0, 2 * rows - height), (0, 2 * columns - width), (0, 0)))
    sums = x.reshape(batch, rows, 2, columns, 2, channels).sum(axis=(2, 4))
    counts = [jnp.minimum(2, size - 2 * jnp.arange(n)) for size, n in ((height, rows), (width, columns))]
    return sums / (counts[0][:, None] * counts[1][None, :])[None, :, :, None].astype(x.dtype)
