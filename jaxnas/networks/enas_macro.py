"""The network of an architecture of ENAS's macro space (Pham et al. 2018, section 2.3, https://arxiv.org/abs/1802.03268).

`jaxnas.spaces.enas_macro` says what it computes. Every batch norm is affine; reductions of states that nothing reads
are left out. Drop-path drops the operation of a layer, an image at a time, which the paper's macro networks do not.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxnas.base import Arch, Array, Aux, Context, Key, Network, PyTree, SearchSpace, Skeleton, Stats
from jaxnas.networks.blocks import conv_bn, conv_bn_init, draw, fresh_keys, given_stats, global_pool, part, path_keys
from jaxnas.ops import layers
from jaxnas.ops.macro import MACRO_PRIMITIVES
from jaxnas.spaces.enas_macro import enas_macro_space, enas_macro_stages


def enas_macro_network(arch: Arch, skeleton: Skeleton, space: SearchSpace | None = None) -> Network:
    """The network of one concrete architecture of `enas_macro_space(skeleton.cells)`, or of the given one.

    Raises: ValueError where the architecture is not one of the space, or the skeleton does not fit it.
    """
    space = enas_macro_space(skeleton.cells) if space is None else space
    costs = space.costs(arch, skeleton)
    taken = space.to_genotype(arch)["layers"]
    stages = enas_macro_stages(skeleton)
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
                {
                    "operation": MACRO_PRIMITIVES[taken[k][0]].init(next(keys), stage.channels, 1, True),
                    "norm": layers.affine_init(stage.channels),
                }
                for stage in stages
                for k in stage.layers
            ],
            "reductions": [
                [
                    {
                        "reduce": layers.factorised_reduce_init(next(keys), stage.channels, 2 * stage.channels),
                        "norm": layers.affine_init(2 * stage.channels),
                    }
                    for _ in states
                ]
                for stage, states in zip(stages, read, strict=False)
            ],
            "classifier": layers.dense_init(next(keys), stages[-1].channels, skeleton.num_classes),
        }

    def initial_stats() -> Stats:
        return {
            "stem": layers.initial_stats(skeleton.channels),
            "layers": [
                {
                    "operation": (layers.initial_stats(stage.channels),) * MACRO_PRIMITIVES[taken[k][0]].norms(1),
                    "norm": layers.initial_stats(stage.channels),
                }
                for stage in stages
                for k in stage.layers
            ],
            "reductions": [
                [layers.initial_stats(2 * stage.channels) for _ in states]
                for stage, states in zip(stages, read, strict=False)
            ],
        }

    def init(key: Key) -> tuple[PyTree, Stats]:
        return draw(key, layout), initial_stats()

    def apply(params: PyTree, x: Array, context: Context) -> tuple[Array, Aux]:
        stats = given_stats(context)
        keys = path_keys(context, skeleton.cells)
        x, stem_seen = conv_bn(x, params["stem"], context, part(stats, "stem"))
        seen: dict[str, Any] = {"stem": stem_seen, "layers": [], "reductions": []}
        states = {0: x}
        for s, stage in enumerate(stages):
            for k in stage.layers:
                operation, added = taken[k]
                own, given = params["layers"][k], part(stats, "layers", k)
                y, operation_seen = MACRO_PRIMITIVES[operation].apply(
                    own["operation"], states[k], 1, part(given, "operation"), context.axis_name
                )
                if keys is not None:
                    y = layers.drop_path(keys[k], y, context.drop_path)
                y = sum((states[state] for state in added), start=y)
                y, norm_seen = layers.batch_norm(y, own["norm"], part(given, "norm"), context.axis_name)
                states[k + 1] = y
                seen["layers"].append({"operation": operation_seen, "norm": norm_seen})
            if s == len(stages) - 1:
                break
            reduced, reduced_seen = {}, []
            for number, state in enumerate(read[s]):
                own = params["reductions"][s][number]
                y = layers.factorised_reduce(states[state], own["reduce"])
                reduced[state], one_seen = layers.batch_norm(
                    y, own["norm"], part(stats, "reductions", s, number), context.axis_name
                )
                reduced_seen.append(one_seen)
            states = reduced
            seen["reductions"].append(reduced_seen)
        return layers.dense(global_pool(jnp.asarray(states[skeleton.cells])), params["classifier"]), Aux(seen)

    return Network(init, apply, costs)
