"""The network of a NAS-Bench-201 cell with the architecture as data: thousands of networks from one compiled program.

As `jaxnas.networks.switched`, whose remarks hold here as well: every edge holds the parameters of all operations and
computes the chosen one alone, or, under `vmap`, all of them. Cells of a stage and edges of a cell are scanned, so that
each operation is compiled once a stage.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas.base import Arch, Array, Aux, Context, Key, PyTree, Skeleton, Stats
from jaxnas.networks.blocks import draw, fresh_keys, given_stats, part, path_keys
from jaxnas.networks.nasbench201 import apply_frame, frame_stats, init_frame
from jaxnas.networks.switched import SwitchedNetwork, switch
from jaxnas.ops import layers
from jaxnas.ops.primitives import PRIMITIVES
from jaxnas.spaces.nasbench201 import NASBENCH201_EDGES, NASBENCH201_OPERATIONS, nasbench201_space, nasbench201_stages

_EDGES = len(NASBENCH201_EDGES)
_SKIP = NASBENCH201_OPERATIONS.index("skip_connect")


def switched_nasbench201_network(skeleton: Skeleton) -> SwitchedNetwork:
    """The networks of `nasbench201_space()`, equal to `nasbench201_network` of each.

    Each edge has room for the statistics of one batch norm; where its operation has none they keep mean 0, variance 1.

    Raises: ValueError where an auxiliary head is asked for.
    """
    space = nasbench201_space()
    space.costs(jnp.zeros(_EDGES, jnp.int32), skeleton)  # Raises for an auxiliary head.
    stages = nasbench201_stages(skeleton)
    channels = [width for width, _ in stages]
    sources = jnp.array([source for _, source in NASBENCH201_EDGES], jnp.int32)
    nodes = jnp.array([node for node, _ in NASBENCH201_EDGES], jnp.int32)

    def init(key: Key) -> tuple[PyTree, Stats]:
        outside, *rest = jax.random.split(key, 1 + len(stages))

        def edge(key: Key, width: int) -> PyTree:
            keys = fresh_keys(key)
            return [PRIMITIVES[name].init(next(keys), width, 1, True) for name in NASBENCH201_OPERATIONS]

        cells = [
            draw(key, functools.partial(edge, width=width), (skeleton.cells, _EDGES))
            for key, width in zip(rest, channels, strict=True)
        ]
        stats = [
            jax.tree.map(lambda leaf: jnp.tile(leaf, (skeleton.cells, _EDGES, 1)), layers.initial_stats(width))
            for width in channels
        ]
        around = draw(outside, functools.partial(init_frame, skeleton=skeleton))
        return {**around, "stages": cells}, {**frame_stats(skeleton), "stages": stats}

    def cell(arch: Arch, context: Context, x: Array, item: Any) -> tuple[Array, Stats]:
        params, stats, key = item
        keys = None if key is None else jax.random.split(key, _EDGES)
        branches = [
            functools.partial(_branch, o, x.shape[-1], context.axis_name) for o in range(len(NASBENCH201_OPERATIONS))
        ]

        def edge(buffer: Array, item: Any) -> tuple[Array, Stats]:
            source, node, operation, params, stats, key = item
            y, seen = switch(branches, operation, params, (buffer[source],), stats)
            if key is not None:
                y = jnp.where(operation == _SKIP, y, layers.drop_path(key, y, context.drop_path))
            return buffer.at[node].add(y), seen

        buffer = jnp.concatenate([x[None], jnp.zeros((3, *x.shape), x.dtype)])
        buffer, seen = jax.lax.scan(edge, buffer, (sources, nodes, arch, params, stats, keys))
        return buffer[-1], seen

    def apply(params: PyTree, arch: Arch, x: Array, context: Context) -> tuple[Array, Aux]:
        stats = given_stats(context)
        keys = path_keys(context, len(stages) * skeleton.cells)

        def stage(s: int, x: Array) -> tuple[Array, Stats]:
            own = None if keys is None else keys.reshape(len(stages), skeleton.cells)[s]
            items = (params["stages"][s], part(stats, "stages", s), own)
            return jax.lax.scan(functools.partial(cell, arch, context), x, items)

        return apply_frame(stage, len(stages), params, x, context)

    def extract(arch: Arch, params: PyTree, stats: Stats) -> tuple[PyTree, Stats]:
        taken = [(e, name) for e, (name, _) in enumerate(space.to_genotype(arch)["cell"]) if name != "none"]
        operations = {name: o for o, name in enumerate(NASBENCH201_OPERATIONS)}

        def edges(s: int, c: int) -> tuple[list[Any], list[Any]]:
            own = [
                jax.tree.map(lambda leaf, e=e: leaf[c, e], params["stages"][s][operations[name]]) for e, name in taken
            ]
            means, variances = stats["stages"][s]
            return own, [((means[c, e], variances[c, e]),) * PRIMITIVES[name].norms(1) for e, name in taken]

        cells = [[edges(s, c) for c in range(skeleton.cells)] for s in range(len(stages))]
        return (
            {**params, "stages": [[own for own, _ in stage] for stage in cells]},
            {**stats, "stages": [[seen for _, seen in stage] for stage in cells]},
        )

    return SwitchedNetwork(init, apply, extract)


def _branch(
    operation: int,
    channels: int,
    axis_name: str | None,
    params: PyTree,
    sources: tuple[Array, ...],
    stats: Stats | None,
) -> tuple[Array, Stats]:
    """One operation, its statistics (mean [C], variance [C]) or, where it has none, those of initialisation."""
    given = None if stats is None else (stats,)
    name = NASBENCH201_OPERATIONS[operation]
    y, seen = PRIMITIVES[name].apply(params[operation], sources[0], 1, given, axis_name)
    return y, seen[0] if PRIMITIVES[name].norms(1) else layers.initial_stats(channels)
