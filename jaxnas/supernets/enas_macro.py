"""The supernet of ENAS's macro space (Pham et al. 2018, section 2.3, https://arxiv.org/abs/1802.03268).

Every layer holds the parameters of all operations, every state those of its reductions. Batch norm in layers and
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

from jaxnas.base import Arch, ArchWeights, Array, Aux, Context, Key, PyTree, Skeleton, Stats, Supernet
from jaxnas.checks import checked_supernet
from jaxnas.kernels.marks import CELL, mark
from jaxnas.kernels.platform import by_platform
from jaxnas.kernels.trees import taken, unstacked
from jaxnas.networks.blocks import conv_bn, conv_bn_init, draw, fresh_keys, global_pool, part_keys
from jaxnas.networks.enas_macro import enas_macro_network
from jaxnas.ops import layers
from jaxnas.ops.macro import named_macro
from jaxnas.ops.primitives import Operations
from jaxnas.spaces.enas_macro import (
    ENAS_MACRO_OPERATIONS,
    MacroStage,
    enas_macro_needed,
    enas_macro_skips,
    enas_macro_space,
    enas_macro_stages,
)
from jaxnas.supernets.executors.layer import Layer, layer_executor
from jaxnas.supernets.executors.layout import operations_init, used_operations, with_key_if_read
from jaxnas.supernets.extracting import as_network

Needed = Callable[[int], Array]
"""Number of layers done -> the states that are read after them, bool [that + 1]."""


def enas_macro_supernet(
    skeleton: Skeleton, operations: Operations = ENAS_MACRO_OPERATIONS, *, sampled: bool = False
) -> Supernet:
    """The supernet over `enas_macro_space(skeleton.cells, operations)`.

    The paper's has `Skeleton(channels=36, cells=12, image_shape=(32, 32, 3), num_classes=10)`. sampled: of operations
    as of `darts_supernet`; skip connections, which cost little, are all added up.

    Raises: ValueError as `enas_macro_space`, and where an auxiliary head is asked for.

    >>> supernet = enas_macro_supernet(Skeleton(channels=4, cells=3, image_shape=(8, 8, 3), num_classes=10))
    >>> key, images = jax.random.key(0), jnp.zeros((5, 8, 8, 3))
    >>> logits = lambda params: supernet.apply_path(params, supernet.space.sample(key), images, Context())[0]
    >>> jax.eval_shape(logits, jax.eval_shape(supernet.init, key)).shape
    (5, 10)
    """
    space, primitives = enas_macro_space(skeleton.cells, operations), named_macro(operations)
    stages, count = enas_macro_stages(skeleton), skeleton.cells
    executor = layer_executor(primitives, 1, sampled=sampled)
    network = functools.partial(enas_macro_network, skeleton=skeleton, space=space, operations=operations)

    def init(key: Key) -> PyTree:
        outside, *rest = jax.random.split(key, 1 + 2 * len(stages))
        inside = []
        for k, stage in zip(rest[::2], stages, strict=True):
            layer = functools.partial(operations_init, primitives, channels=stage.channels, stride=1)
            inside.append(draw(k, layer, (len(stage.layers),)))
        return {**_frame_init(skeleton, stages, outside, rest[1::2]), "stages": inside}

    def apply(params: PyTree, weights: ArchWeights, x: Array, context: Context) -> tuple[Array, Aux]:
        rows, columns = np.tril_indices(count, -1)
        skips = jnp.zeros((count, count)).at[rows, columns].set(weights["skip"][:, 1])
        context = context._replace(bn="batch")
        return forward(executor.mixture, params, weights["operation"], skips, _every_state, x, context)

    def apply_path(params: PyTree, arch: Arch, x: Array, context: Context) -> tuple[Array, Aux]:
        chosen, skips = enas_macro_skips(arch, count)
        return forward(executor.path, params, chosen, skips, lambda s: enas_macro_needed(skips, s), x, context)

    def forward(
        layer: Layer, params: PyTree, selection: Array, skips: Array, needed: Needed, x: Array, context: Context
    ) -> tuple[Array, Aux]:
        """selection: weights [L, O], or int32 [L]. skips: [L, L], weights, or 0 or 1."""
        context = with_key_if_read(context, primitives)
        keys = part_keys(context, count)  # as those of a derived network
        x, stem_seen = conv_bn(x.astype(skeleton.dtype), params["stem"], context.at("stem"))
        seen: dict[str, Any] = {"stem": stem_seen, "stages": [], "reductions": []}
        states = mark(x, CELL)[None]
        for s, stage in enumerate(stages):
            here = np.array(stage.layers)
            states = jnp.concatenate([states, jnp.zeros((len(here), *states.shape[1:]), states.dtype)])
            rows = jnp.pad(skips[here], ((0, 0), (0, max(0, len(states) - count))))[:, : len(states)]
            stats = None if isinstance(context.bn, str) else context.bn["stages"][s]
            own = None if keys is None else keys[here]
            items = (jnp.asarray(here), params["stages"][s], selection[here], rows, stats, own)
            states, stage_seen = lax.scan(functools.partial(_layer, layer, context), states, items)
            seen["stages"].append(stage_seen)
            if s < len(stages) - 1:
                read, told = needed(stage.layers.stop), context.at("reductions", s)
                states, one = _reduced(states, params["reductions"][s], read, told)
                seen["reductions"].append(one)
        return layers.dense(global_pool(states[-1]), params["classifier"]), Aux(seen)

    def used(arch: Arch) -> PyTree:
        chosen, skips = enas_macro_skips(arch, count)
        shapes = jax.eval_shape(init, jax.random.key(0))
        result = jax.tree.map(lambda _: jnp.array(True), shapes)
        for s, stage in enumerate(stages):
            result["stages"][s] = used_operations(chosen[np.array(stage.layers)], shapes["stages"][s])
        for stage, own in zip(stages, result["reductions"], strict=False):
            needed = enas_macro_needed(skips, stage.layers.stop)[:, None, None]
            own.update(jax.tree.map(lambda _, needed=needed: needed, own))
        return result

    def of_layers(arch: Arch, trees: PyTree) -> list[PyTree]:
        """Those of the operation of each layer, of trees of each stage."""
        chosen = np.asarray(enas_macro_skips(arch, count)[0]).tolist()
        pairs = zip(stages, trees, strict=True)
        return [taken(own[chosen[k]], number) for stage, own in pairs for number, k in enumerate(stage.layers)]

    def of_states(arch: Arch, trees: PyTree) -> list[list[PyTree]]:
        """Those of the reductions of states that are read after a stage, of trees of each stage but the last."""
        skips = enas_macro_skips(arch, count)[1]
        needed = [np.flatnonzero(enas_macro_needed(skips, stage.layers.stop)).tolist() for stage in stages[:-1]]
        return [[taken(own, state) for state in states] for own, states in zip(trees, needed, strict=True)]

    def extract(params: PyTree, arch: Arch) -> PyTree:
        inside = [{"operation": own, "norm": None} for own in of_layers(arch, params["stages"])]
        reductions = [[{"reduce": own, "norm": None} for own in row] for row in of_states(arch, params["reductions"])]
        return as_network(network, {**params, "layers": inside, "reductions": reductions}, arch)

    def extract_stats(stats: Any, arch: Arch) -> Any:
        operation = of_layers(arch, [stage["operation"] for stage in stats["stages"]])
        norm = [one for stage in stats["stages"] for one in unstacked(stage["norm"])]
        inside = [{"operation": one, "norm": other} for one, other in zip(operation, norm, strict=True)]
        return {"stem": stats["stem"], "layers": inside, "reductions": of_states(arch, stats["reductions"])}

    parts = (init, apply, apply_path, used, network, extract, extract_stats)
    return checked_supernet(Supernet(space, *parts, skeleton.image_shape))


def _frame_init(skeleton: Skeleton, stages: Sequence[MacroStage], key: Key, rest: Sequence[Key]) -> PyTree:
    """Of what is around the layers: stem, reductions and classifier."""

    def ends(key: Key) -> PyTree:
        keys = fresh_keys(key)
        return {
            "stem": conv_bn_init(next(keys), 3, skeleton.image_shape[2], skeleton.channels),
            "classifier": layers.dense_init(next(keys), stages[-1].channels, skeleton.num_classes),
        }

    def reduction(stage: MacroStage) -> Callable[[Key], PyTree]:
        return lambda key: layers.factorized_reduce_init(key, stage.channels, 2 * stage.channels)

    pairs = zip(rest, stages[:-1], strict=False)
    return {**draw(key, ends), "reductions": [draw(k, reduction(s), (s.layers.stop + 1,)) for k, s in pairs]}


def _every_state(done: int) -> Array:
    return jnp.ones(done + 1, bool)


def _layer(layer: Layer, context: Context, states: Array, item: Any) -> tuple[Array, Stats]:
    """Layer k on a buffer of all states, of which those that are not made yet are zeros."""
    k, params, selected, added, stats, key = item
    here = context._replace(bn="batch" if stats is None else stats, key=key)
    source = lax.dynamic_index_in_dim(states, k, 0, keepdims=False)
    y, own = layer(params, selected, source, here.at("operation"))
    y = y + jnp.tensordot(added.astype(y.dtype), states, 1)
    y, norm = layers.batch_norm(y, None, here.at("norm"))
    return lax.dynamic_update_index_in_dim(states, mark(y, CELL), k + 1, 0), {"operation": own, "norm": norm}


def _reduced(states: Array, params: PyTree, needed: Array, context: Context) -> tuple[Array, Stats]:
    """States [N, B, H, W, C] halved and doubled in channels, those that are not needed zero, and statistics [N, 2C]."""

    def reduce(x: Array, params: PyTree, given: Stats | None) -> tuple[Array, Stats]:
        here = context._replace(bn="batch" if given is None else given)
        return layers.batch_norm(layers.factorized_reduce(x, params), None, here)

    def leave(x: Array, params: PyTree, given: Stats | None) -> tuple[Array, Stats]:
        shape = jax.eval_shape(reduce, x, params, given)[0]
        return jnp.zeros(shape.shape, shape.dtype), layers.initial_stats(shape.shape[-1])

    def branch(item: Any) -> tuple[Array, Stats]:
        return lax.cond(item[0], reduce, leave, *item[1:])

    def picked(item: Any) -> tuple[Array, Stats]:
        return jax.tree.map(functools.partial(jnp.where, item[0]), reduce(*item[1:]), leave(*item[1:]))

    items = (needed, states, params, None if isinstance(context.bn, str) else context.bn)
    # A GPU's host would wait for each branch.
    return by_platform(items, default=functools.partial(lax.map, branch), gpu=jax.vmap(picked))
