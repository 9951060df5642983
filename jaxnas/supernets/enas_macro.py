"""The supernet of ENAS's macro space (Pham et al. 2018, section 2.3, https://arxiv.org/abs/1802.03268).

Every layer holds the parameters of all six operations, every state those of its reductions. Batch norm in layers and
reductions has no affine part. The layers of a stage are one loop over a buffer of all states, so that each operation is
compiled once a stage; a path computes its own operations and the reductions of states that are read after them.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnas.base import Arch, Array, Aux, Context, Key, Network, PyTree, Skeleton, Stats, Supernet, Weights
from jaxnas.checks import checked_supernet
from jaxnas.networks.blocks import conv_bn, conv_bn_init, draw, fresh_keys, given_stats, part
from jaxnas.networks.enas_macro import enas_macro_network
from jaxnas.networks.switched import apply_padded, switch
from jaxnas.ops import layers
from jaxnas.ops.macro import MACRO_PRIMITIVES
from jaxnas.ops.primitives import Primitive
from jaxnas.spaces.enas_macro import (
    ENAS_MACRO_OPERATIONS,
    MacroStage,
    enas_macro_needed,
    enas_macro_skips,
    enas_macro_space,
    enas_macro_stages,
)
from jaxnas.supernets import edges as mixed
from jaxnas.supernets.extracting import as_network, padded_stats, taken

_PRIMITIVES = tuple(MACRO_PRIMITIVES[name] for name in ENAS_MACRO_OPERATIONS)


def enas_macro_supernet(skeleton: Skeleton, *, dtype: Any = jnp.float32) -> Supernet:
    """The supernet over `enas_macro_space(skeleton.cells)`.

    The paper's has `Skeleton(channels=36, cells=12, image_shape=(32, 32, 3), num_classes=10)`. dtype: of the
    activations. A path has statistics for two batch norms an operation, of which some are of none.

    Raises: ValueError where there are fewer than three layers or an auxiliary head is asked for.
    """
    space = enas_macro_space(skeleton.cells)
    stages = enas_macro_stages(skeleton)
    count = skeleton.cells

    def init(key: Key) -> PyTree:
        outside, *rest = jax.random.split(key, 1 + 2 * len(stages))

        def frame(key: Key) -> PyTree:
            keys = fresh_keys(key)
            return {
                "stem": conv_bn_init(next(keys), 3, skeleton.image_shape[2], skeleton.channels),
                "classifier": layers.dense_init(next(keys), stages[-1].channels, skeleton.num_classes),
            }

        return {
            **draw(outside, frame),
            "stages": [
                draw(
                    k,
                    functools.partial(mixed.edge_init, _PRIMITIVES, channels=stage.channels, stride=1),
                    (len(stage.layers),),
                )
                for k, stage in zip(rest[::2], stages, strict=True)
            ],
            "reductions": [
                draw(
                    k,
                    functools.partial(
                        layers.factorised_reduce_init, channels_in=stage.channels, channels_out=2 * stage.channels
                    ),
                    (stage.layers.stop + 1,),
                )
                for k, stage in zip(rest[1::2], stages[:-1], strict=False)
            ],
        }

    def forward(
        params: PyTree,
        operations: Array,
        skips: Array,
        x: Array,
        context: Context,
        path: bool,
    ) -> tuple[Array, Aux]:
        """operations: int32 [L], or weights [L, O]. skips: [L, L], 0 or 1, or weights."""
        stats = given_stats(context)
        x, stem_seen = conv_bn(x.astype(dtype), params["stem"], context, part(stats, "stem"))
        seen: dict[str, Any] = {"stem": stem_seen, "stages": [], "reductions": []}
        mixture = mixed.mixed_edge(_PRIMITIVES, None, 1, context.axis_name).alone
        states = x[None]
        for s, stage in enumerate(stages):
            here = slice(stage.layers.start, stage.layers.stop)
            branches = [functools.partial(_branch, o, p, context.axis_name) for o, p in enumerate(_PRIMITIVES)]

            def layer(states: Array, item: Any, branches: Any = branches) -> tuple[Array, Stats]:
                k, params, operation, added, given = item
                source = lax.dynamic_index_in_dim(states, k, 0, keepdims=False)
                if path:
                    y, own = switch(branches, operation, params, (source,), part(given, "operation"))
                else:
                    y, own = mixture(params, operation, source, ())
                # States that are not made yet are zeros, and their entries too.
                y = y + jnp.tensordot(added.astype(y.dtype), states, 1)
                y, norm = layers.batch_norm(y, None, part(given, "norm"), context.axis_name)
                return lax.dynamic_update_index_in_dim(states, y, k + 1, 0), {"operation": own, "norm": norm}

            room = jnp.zeros((len(stage.layers), *states.shape[1:]), states.dtype)
            states = jnp.concatenate([states, room])
            width = len(states)
            rows = jnp.pad(skips[here], ((0, 0), (0, max(0, width - count))))[:, :width]
            items = (jnp.arange(here.start, here.stop), params["stages"][s], operations[here], rows)
            states, stage_seen = lax.scan(layer, states, (*items, part(stats, "stages", s)))
            seen["stages"].append(stage_seen)
            if s < len(stages) - 1:
                needed = enas_macro_needed(skips > 0, here.stop) if path else jnp.ones(here.stop + 1, bool)
                states, reduced_seen = _reduced(
                    states, params["reductions"][s], needed, part(stats, "reductions", s), context.axis_name
                )
                seen["reductions"].append(reduced_seen)
        features = jnp.mean(layers.widened(states[-1]), (1, 2))
        return layers.dense(features, params["classifier"]), Aux(seen)

    def apply(params: PyTree, weights: Weights, x: Array, context: Context) -> tuple[Array, Aux]:
        rows, columns = np.tril_indices(count, -1)
        skips = jnp.zeros((count, count)).at[rows, columns].set(weights["skip"][:, 1])
        return forward(params, weights["operation"], skips, x, context, path=False)

    def apply_path(params: PyTree, arch: Arch, x: Array, context: Context) -> tuple[Array, Aux]:
        operations, skips = enas_macro_skips(arch, count)
        return forward(params, operations, skips, x, context, path=True)

    def used(arch: Arch) -> PyTree:
        operations, skips = enas_macro_skips(arch, count)
        shapes = jax.eval_shape(init, jax.random.key(0))
        result = jax.tree.map(lambda _: jnp.array(True), shapes)
        for s, stage in enumerate(stages):
            here = operations[stage.layers.start : stage.layers.stop]
            result["stages"][s] = [
                jax.tree.map(lambda leaf, o=o, here=here: (here == o).reshape(-1, *[1] * (leaf.ndim - 1)), p)
                for o, p in enumerate(shapes["stages"][s])
            ]
        for s, stage in enumerate(stages[:-1]):
            needed = enas_macro_needed(skips, stage.layers.stop)[:, None, None]
            result["reductions"][s] = jax.tree.map(lambda _, needed=needed: needed, shapes["reductions"][s])
        return result

    def network(arch: Arch) -> Network:
        return enas_macro_network(arch, skeleton, space)

    def needed_states(arch: Arch, stage: MacroStage) -> list[int]:
        """The states that are read after the reduction at the end of a stage."""
        skips = enas_macro_skips(arch, count)[1]
        return np.flatnonzero(enas_macro_needed(skips, stage.layers.stop)).tolist()

    def extract(params: PyTree, arch: Arch) -> PyTree:
        operations = np.asarray(enas_macro_skips(arch, count)[0]).tolist()
        layers_of = [
            {"operation": taken(own[operations[k]], number), "norm": None}
            for stage, own in zip(stages, params["stages"], strict=True)
            for number, k in enumerate(stage.layers)
        ]
        reductions = [
            [{"reduce": taken(own, state), "norm": None} for state in needed_states(arch, stage)]
            for stage, own in zip(stages, params["reductions"], strict=False)
        ]
        return as_network(network, {**params, "layers": layers_of, "reductions": reductions}, arch)

    def extract_stats(stats: Any, arch: Arch) -> Any:
        operations = np.asarray(enas_macro_skips(arch, count)[0]).tolist()
        seen = [
            {
                "operation": padded_stats(own["operation"], _PRIMITIVES[operations[k]].norms(1), number),
                "norm": taken(own["norm"], number),
            }
            for stage, own in zip(stages, stats["stages"], strict=True)
            for number, k in enumerate(stage.layers)
        ]
        reductions = [
            [taken(own, state) for state in needed_states(arch, stage)]
            for stage, own in zip(stages, stats["reductions"], strict=False)
        ]
        return {"stem": stats["stem"], "layers": seen, "reductions": reductions}

    parts = (init, apply, apply_path, used, network, extract, extract_stats)
    return checked_supernet(Supernet(space, *parts, skeleton.image_shape))


def _branch(
    operation: int,
    primitive: Primitive,
    axis_name: str | None,
    params: PyTree,
    sources: tuple[Array, ...],
    stats: Stats | None,
) -> tuple[Array, Stats]:
    return apply_padded(primitive, params[operation], sources[0], 1, stats, axis_name)


def _reduced(
    states: Array, params: PyTree, needed: Array, stats: Stats | None, axis_name: str | None
) -> tuple[Array, Stats]:
    """States [N, B, H, W, C] halved and doubled in channels, those that are not needed zero, and statistics [N, 2C]."""

    def reduce(x: Array, params: PyTree, given: Stats | None) -> tuple[Array, Stats]:
        return layers.batch_norm(layers.factorised_reduce(x, params), None, given, axis_name)

    def leave(x: Array, params: PyTree, given: Stats | None) -> tuple[Array, Stats]:
        shape = jax.eval_shape(reduce, x, params, given)[0]
        return jnp.zeros(shape.shape, shape.dtype), layers.initial_stats(shape.shape[-1])

    def one(item: Any) -> tuple[Array, Stats]:
        return lax.cond(item[0], reduce, leave, *item[1:])

    return lax.map(one, (needed, states, params, stats))
