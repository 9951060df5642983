"""The supernet of the NAS-Bench-201 space (Dong and Yang, "NAS-Bench-201", ICLR 2020, section 2).

Three stages of equal cells, a residual block that halves the image between them. Batch norm in the cells has no affine
part; the benchmark's own networks have.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnas.base import Arch, Array, Aux, Context, Key, Network, PyTree, Skeleton, Supernet, Weights
from jaxnas.checks import checked_supernet
from jaxnas.networks.blocks import conv_bn_init, draw, fresh_keys
from jaxnas.networks.nasbench201 import nasbench201_network, residual_block, residual_block_init
from jaxnas.ops import layers
from jaxnas.ops.primitives import named
from jaxnas.spaces.nasbench201 import (
    NASBENCH201_EDGES,
    NASBENCH201_OPERATIONS,
    nasbench201_live,
    nasbench201_space,
    nasbench201_stages,
)
from jaxnas.supernets import edges as mixed
from jaxnas.supernets.extracting import as_network, taken


def nasbench201_supernet(
    skeleton: Skeleton,
    *,
    form: mixed.Form | None = None,
    remat: bool = False,
    dtype: Any = jnp.float32,
) -> Supernet:
    """The supernet over `nasbench201_space()`; the benchmark's skeleton has channels=16 and cells=5 (in each stage).

    Arguments as in `darts_supernet`. Parameters of the cells are stacked over the cells and edges of a stage,
    [N, 6, …], and the cells of a stage are scanned.
    """
    form = mixed.checked_form(skeleton, form, remat)
    primitives = named(NASBENCH201_OPERATIONS)
    none = NASBENCH201_OPERATIONS.index("none")
    space = nasbench201_space()
    stages = nasbench201_stages(skeleton)
    ends = [(source, node) for node, source in NASBENCH201_EDGES]

    def init(key: Key) -> PyTree:
        outside, *rest = jax.random.split(key, 1 + len(stages))

        def frame(key: Key) -> PyTree:
            keys = fresh_keys(key)
            channels = [channels for channels, _ in stages]
            return {
                "stem": conv_bn_init(next(keys), 3, skeleton.image_shape[2], skeleton.channels),
                "blocks": [residual_block_init(next(keys), c, 2 * c) for c in channels[:-1]],
                "norm": layers.affine_init(channels[-1]),
                "classifier": layers.dense_init(next(keys), channels[-1], skeleton.num_classes),
            }

        return {
            **draw(outside, frame),
            "stages": [
                draw(
                    k,
                    functools.partial(mixed.edge_init, primitives, channels=channels, stride=1),
                    (skeleton.cells, len(ends)),
                )
                for k, (channels, _) in zip(rest, stages, strict=True)
            ],
        }

    def initial_edge_stats(channels: int) -> PyTree:
        one = mixed.edge_stats(primitives, channels, 1)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (skeleton.cells, len(ends), *leaf.shape)), one)

    def forward(
        params: PyTree, selection: Array, x: Array, context: Context, edge: mixed.Edge, path: bool
    ) -> tuple[Array, Aux]:
        given = None if isinstance(context.bn, str) else context.bn

        def cell(x: Array, slot: tuple[PyTree, PyTree]) -> tuple[Array, PyTree]:
            params, stats = slot
            states = jnp.concatenate([x[None], jnp.zeros((3, *x.shape), x.dtype)])
            states, seen = mixed.run_edges(form, edge, None, states, ends, params, selection, stats, context.wanted)
            return states[3], seen

        def norm(name: str, x: Array) -> Array:
            x, seen[name] = layers.batch_norm(x, params[name], given and given[name], context.axis_name)
            return x

        x = layers.conv(x.astype(dtype), params["stem"]["kernel"])
        x, stem = layers.batch_norm(x, params["stem"]["norm"], given and given["stem"], context.axis_name)
        seen: dict[str, Any] = {"stem": stem, "stages": [], "blocks": []}
        for i, (channels, _) in enumerate(stages):
            if i > 0:
                block_stats = given and given["blocks"][i - 1]
                x, block_seen = residual_block(x, params["blocks"][i - 1], context, block_stats)
                seen["blocks"].append(block_seen)
            stats = given["stages"][i] if given is not None else initial_edge_stats(channels) if path else ()
            x, stage_seen = lax.scan(cell, x, (params["stages"][i], stats))
            seen["stages"].append(stage_seen)
        features = jnp.mean(layers.widened(jax.nn.relu(norm("norm", x))), (1, 2))
        return layers.dense(features, params["classifier"]), Aux(seen)

    def apply(params: PyTree, weights: Weights, x: Array, context: Context) -> tuple[Array, Aux]:
        edge = mixed.mixed_edge(primitives, none, 1, context.axis_name, remat)
        return forward(params, weights["cell"], x, context, edge, path=False)

    def apply_path(params: PyTree, arch: Arch, x: Array, context: Context) -> tuple[Array, Aux]:
        edge = mixed.path_edge(primitives, 1, context.axis_name, not isinstance(context.bn, str))
        return forward(params, jnp.argmax(space.one_hot(arch)["cell"], -1), x, context, edge, path=True)

    def used(arch: Arch) -> PyTree:
        operation = jnp.argmax(space.one_hot(arch)["cell"], -1)
        live = nasbench201_live(arch)
        shapes = jax.eval_shape(init, jax.random.key(0))
        everywhere = jax.tree.map(lambda _: jnp.array(True), shapes)
        everywhere["stages"] = [
            [
                jax.tree.map(lambda leaf, o=o: ((operation == o) & live).reshape(1, -1, *[1] * (leaf.ndim - 2)), p)
                for o, p in enumerate(stage)
            ]
            for stage in shapes["stages"]
        ]
        return everywhere

    def network(arch: Arch) -> Network:
        return nasbench201_network(arch, skeleton)

    def by_cells(trees: PyTree, arch: Arch) -> list[list[PyTree]]:
        """Parameters or statistics of all stages -> for each cell those of its edges but "none"."""
        edges = [(slot, int(o)) for slot, o in enumerate(np.asarray(arch)) if o != none]
        return [
            [[taken(stage[o], cell, slot) for slot, o in edges] for cell in range(skeleton.cells)] for stage in trees
        ]

    def extract(params: PyTree, arch: Arch) -> PyTree:
        return as_network(network, {**params, "stages": by_cells(params["stages"], arch)}, arch)

    def extract_stats(stats: Any, arch: Arch) -> Any:
        return {**stats, "stages": by_cells(stats["stages"], arch)}

    parts = (init, apply, apply_path, used, network, extract, extract_stats)
    return checked_supernet(Supernet(space, *parts, skeleton.image_shape))
