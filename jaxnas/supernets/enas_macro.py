"""The supernet of ENAS's macro space (Pham et al. 2018, section 2.3, https://arxiv.org/abs/1802.03268).

Every layer holds the parameters of all six operations, every state those of its reductions. Batch norm in layers and
reductions has no affine part. The layers of a stage are one loop over a buffer of all states, so that each operation is
compiled once a stage; a path computes its own operations and the reductions of states that are read after them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnas.base import Arch, ArchWeights, Array, Aux, Context, Key, Network, PyTree, Skeleton, Stats, Supernet
from jaxnas.checks import checked_supernet
from jaxnas.kernels.marks import CELL, mark
from jaxnas.networks.blocks import conv_bn, conv_bn_init, draw, fresh_keys, global_pool
from jaxnas.networks.enas_macro import enas_macro_network
from jaxnas.ops import layers
from jaxnas.ops.macro import MACRO_PRIMITIVES
from jaxnas.ops.primitives import Primitive, initial_stats
from jaxnas.spaces.enas_macro import (
    ENAS_MACRO_OPERATIONS,
    MacroStage,
    enas_macro_needed,
    enas_macro_skips,
    enas_macro_space,
    enas_macro_stages,
)
from jaxnas.supernets.executors.edge import Edge, mixed_op, sampled_op
from jaxnas.supernets.executors.layout import operations_init, used_operations
from jaxnas.supernets.executors.scan import one_of
from jaxnas.supernets.extracting import as_network, taken

_PRIMITIVES = tuple(MACRO_PRIMITIVES[name] for name in ENAS_MACRO_OPERATIONS)

Op = Callable[[Sequence[Primitive], int, str | None], Edge]
"""(primitives, stride, axis_name) -> how a mixture computes a layer's operations."""


def enas_macro_supernet(skeleton: Skeleton, *, sampled: bool = False) -> Supernet:
    """The supernet over `enas_macro_space(skeleton.cells)`.

    The paper's has `Skeleton(channels=36, cells=12, image_shape=(32, 32, 3), num_classes=10)`. sampled: of operations
    as of `darts_supernet`; skip connections, which cost little, are all added up.

    Raises: ValueError where there are fewer than three layers or an auxiliary head is asked for.
    """
    space = enas_macro_space(skeleton.cells)
    stages = enas_macro_stages(skeleton)
    count = skeleton.cells

    def init(key: Key) -> PyTree:
        return _init(skeleton, stages, key)

    def apply(params: PyTree, weights: ArchWeights, x: Array, context: Context) -> tuple[Array, Aux]:
        rows, columns = np.tril_indices(count, -1)
        skips = jnp.zeros((count, count)).at[rows, columns].set(weights["skip"][:, 1])
        context = context._replace(bn="batch")
        op = sampled_op if sampled else mixed_op
        return _forward(stages, params, weights["operation"], skips, x.astype(skeleton.dtype), context, op)

    def apply_path(params: PyTree, arch: Arch, x: Array, context: Context) -> tuple[Array, Aux]:
        operations, skips = enas_macro_skips(arch, count)
        return _forward(stages, params, operations, skips, x.astype(skeleton.dtype), context, None)

    def used(arch: Arch) -> PyTree:
        operations, skips = enas_macro_skips(arch, count)
        shapes = jax.eval_shape(init, jax.random.key(0))
        result = jax.tree.map(lambda _: jnp.array(True), shapes)
        for s, stage in enumerate(stages):
            here = operations[stage.layers.start : stage.layers.stop]
            result["stages"][s] = used_operations(here, shapes["stages"][s])
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
                "operation": taken(own["operation"][operations[k]], number),
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


def _init(skeleton: Skeleton, stages: Sequence[MacroStage], key: Key) -> PyTree:
    outside, *rest = jax.random.split(key, 1 + 2 * len(stages))

    def frame(key: Key) -> PyTree:
        keys = fresh_keys(key)
        return {
            "stem": conv_bn_init(next(keys), 3, skeleton.image_shape[2], skeleton.channels),
            "classifier": layers.dense_init(next(keys), stages[-1].channels, skeleton.num_classes),
        }

    def layer(stage: MacroStage) -> Callable[[Key], list[PyTree]]:
        return functools.partial(operations_init, _PRIMITIVES, channels=stage.channels, stride=1)

    def reduction(stage: MacroStage) -> Callable[[Key], PyTree]:
        return lambda key: layers.factorized_reduce_init(key, stage.channels, 2 * stage.channels)

    return {
        **draw(outside, frame),
        "stages": [draw(k, layer(stage), (len(stage.layers),)) for k, stage in zip(rest[::2], stages, strict=True)],
        "reductions": [
            draw(k, reduction(stage), (stage.layers.stop + 1,))
            for k, stage in zip(rest[1::2], stages[:-1], strict=False)
        ],
    }


def _forward(
    stages: Sequence[MacroStage],
    params: PyTree,
    operations: Array,
    skips: Array,
    x: Array,
    context: Context,
    op: Op | None,
) -> tuple[Array, Aux]:
    """operations: weights [L, O] of `op`, or int32 [L] of a path. skips: [L, L], weights, or of a path 0 or 1."""
    x, stem_seen = conv_bn(x, params["stem"], context.at("stem"))
    seen: dict[str, Any] = {"stem": stem_seen, "stages": [], "reductions": []}
    states = mark(x, CELL)[None]
    for s, stage in enumerate(stages):
        here = slice(stage.layers.start, stage.layers.stop)
        room = jnp.zeros((len(stage.layers), *states.shape[1:]), states.dtype)
        states = jnp.concatenate([states, room])
        rows = jnp.pad(skips[here], ((0, 0), (0, max(0, len(states) - len(skips)))))[:, : len(states)]
        stats = None if isinstance(context.bn, str) else context.bn["stages"][s]
        items = (jnp.arange(here.start, here.stop), params["stages"][s], operations[here], rows, stats)
        states, stage_seen = lax.scan(functools.partial(_layer, context, op), states, items)
        seen["stages"].append(stage_seen)
        if s < len(stages) - 1:
            needed = jnp.ones(here.stop + 1, bool) if op else enas_macro_needed(skips > 0, here.stop)
            states, reduced_seen = _reduced(states, params["reductions"][s], needed, context.at("reductions", s))
            seen["reductions"].append(reduced_seen)
    return layers.dense(global_pool(states[-1]), params["classifier"]), Aux(seen)


def _layer(context: Context, op: Op | None, states: Array, item: Any) -> tuple[Array, Stats]:
    """Layer k on a buffer of all states, of which those that are not made yet are zeros."""
    k, params, operation, added, stats = item
    here = context._replace(bn="batch" if stats is None else stats)
    source = lax.dynamic_index_in_dim(states, k, 0, keepdims=False)
    if op is None:
        channels = source.shape[-1]
        known = [initial_stats(p, channels, 1) for p in _PRIMITIVES] if stats is None else stats["operation"]
        y, own = one_of(_PRIMITIVES, 1, params, operation, source, known, here.at("operation"))
    else:
        mixed = op(_PRIMITIVES, 1, context.axis_name)
        y, own = mixed(params, operation, source, (None, None), None, context.wanted)[0], []
    y = y + jnp.tensordot(added.astype(y.dtype), states, 1)
    y, norm = layers.batch_norm(y, None, here.at("norm"))
    y = mark(y, CELL)
    return lax.dynamic_update_index_in_dim(states, y, k + 1, 0), {"operation": own, "norm": norm}


def _reduced(states: Array, params: PyTree, needed: Array, context: Context) -> tuple[Array, Stats]:
    """States [N, B, H, W, C] halved and doubled in channels, those that are not needed zero, and statistics [N, 2C]."""

    def reduce(x: Array, params: PyTree, given: Stats | None) -> tuple[Array, Stats]:
        here = context._replace(bn="batch" if given is None else given)
        return layers.batch_norm(layers.factorized_reduce(x, params), None, here)

    def leave(x: Array, params: PyTree, given: Stats | None) -> tuple[Array, Stats]:
        shape = jax.eval_shape(reduce, x, params, given)[0]
        return jnp.zeros(shape.shape, shape.dtype), layers.initial_stats(shape.shape[-1])

    def one(item: Any) -> tuple[Array, Stats]:
        return lax.cond(item[0], reduce, leave, *item[1:])

    return lax.map(one, (needed, states, params, None if isinstance(context.bn, str) else context.bn))
