"""The network of an architecture of ENAS's macro space (Pham et al. 2018, section 2.3, https://arxiv.org/abs/1802.03268).

`jaxnas.spaces.enas_macro` says what it computes. Every batch norm is affine; reductions of states that nothing reads
are left out. Drop-path drops the operation of a layer, an image at a time, which the paper's macro networks do not.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxnas.base import Arch, Array, Aux, Context, Key, Network, PyTree, SearchSpace, Skeleton, Stats
from jaxnas.kernels.marks import CELL, mark
from jaxnas.networks.blocks import conv_bn, conv_bn_init, draw, fresh_keys, global_pool, part_keys
from jaxnas.ops import layers
from jaxnas.ops.macro import named_macro
from jaxnas.ops.primitives import Operations, initial_stats, operation_key
from jaxnas.spaces.enas_macro import ENAS_MACRO_OPERATIONS, enas_macro_space, enas_macro_stages


def enas_macro_network(
    arch: Arch, skeleton: Skeleton, space: SearchSpace | None = None, *, operations: Operations = ENAS_MACRO_OPERATIONS
) -> Network:
    """The network of one concrete architecture of `enas_macro_space(skeleton.cells, operations)`, or of a space.

    operations: those of the space, where some are objects that have no name in the library.

    Raises: ValueError where the architecture is not one of the space, or the skeleton does not fit it.

    >>> space = enas_macro_space(3)
    >>> arch, skeleton = space.from_genotype("0 4 1 5 0 1"), Skeleton(4, 3, (8, 8, 3), num_classes=10)
    >>> network = enas_macro_network(arch, skeleton, space)
    >>> network.costs == space.costs(arch, skeleton)
    True
    """
    space = enas_macro_space(skeleton.cells, operations) if space is None else space
    costs = space.costs(arch, skeleton)
    named = {primitive.name: primitive for primitive in named_macro(operations)}
    taken = [(named[name], states) for name, states in space.to_genotype(arch)["layers"]]
    stages = enas_macro_stages(skeleton)
    sizes = [(taken[k][0], stage.channels) for stage in stages for k in stage.layers]  # operation and channels
    # Of each reduction, the states that are read after it.
    read = [
        sorted({state for _, states in taken[stage.layers.stop :] for state in states if state <= stage.layers.stop}
               | {stage.layers.stop})
        for stage in stages[:-1]
    ]  # fmt: skip

    def layout(key: Key) -> PyTree:
        keys = fresh_keys(key)
        return {
            "stem": conv_bn_init(next(keys), 3, skeleton.image_shape[2], skeleton.channels),
            "layers": [
                {"operation": primitive.init(next(keys), channels, 1, True), "norm": layers.affine_init(channels)}
                for primitive, channels in sizes
            ],
            "reductions": [
                [
                    {
                        "reduce": layers.factorized_reduce_init(next(keys), stage.channels, 2 * stage.channels),
                        "norm": layers.affine_init(2 * stage.channels),
                    }
                    for _ in states
                ]
                for stage, states in zip(stages, read, strict=False)
            ],
            "classifier": layers.dense_init(next(keys), stages[-1].channels, skeleton.num_classes),
        }

    def stats() -> Stats:
        return {
            "stem": layers.initial_stats(skeleton.channels),
            "layers": [
                {"operation": initial_stats(primitive, channels, 1), "norm": layers.initial_stats(channels)}
                for primitive, channels in sizes
            ],
            "reductions": [
                [layers.initial_stats(2 * stage.channels) for _ in states]
                for stage, states in zip(stages, read, strict=False)
            ],
        }

    def init(key: Key) -> tuple[PyTree, Stats]:
        return draw(key, layout), stats()

    def apply(params: PyTree, x: Array, context: Context) -> tuple[Array, Aux]:
        keys = part_keys(context, skeleton.cells)
        x, stem_seen = conv_bn(x.astype(skeleton.dtype), params["stem"], context.at("stem"))
        seen: dict[str, Any] = {"stem": stem_seen, "layers": [], "reductions": []}
        states = {0: mark(x, CELL)}
        for s, stage in enumerate(stages):
            for k in stage.layers:
                primitive, added = taken[k]
                own = params["layers"][k]
                here = context.at("layers", k)._replace(key=None if keys is None else keys[k])
                own_key = operation_key(here.key, primitive)
                y, operation_seen = primitive.apply(
                    own["operation"], states[k], 1, here.at("operation")._replace(key=own_key)
                )
                y = sum((states[state] for state in added), start=layers.drop_path(y, here))
                y, norm_seen = layers.batch_norm(y, own["norm"], here.at("norm"))
                states[k + 1] = mark(y, CELL)
                seen["layers"].append({"operation": operation_seen, "norm": norm_seen})
            if s == len(stages) - 1:
                break
            reduced, reduced_seen = {}, []
            for number, state in enumerate(read[s]):
                own = params["reductions"][s][number]
                y = layers.factorized_reduce(states[state], own["reduce"], context)
                reduced[state], one_seen = layers.batch_norm(y, own["norm"], context.at("reductions", s, number))
                reduced_seen.append(one_seen)
            states = reduced
            seen["reductions"].append(reduced_seen)
        return layers.dense(global_pool(jnp.asarray(states[skeleton.cells])), params["classifier"]), Aux(seen)

    return Network(init, apply, costs)
