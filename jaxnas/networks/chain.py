"""The network of an architecture of the chain space (`jaxnas.spaces.chain` says what it computes).

Every batch norm is affine; identities are left out. Drop-path drops what a bottleneck adds to its input, an image at a
time; units of ShuffleNetV2 have no such sum.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas.base import Arch, Array, Aux, Context, Key, Network, PyTree, SearchSpace, Skeleton, Stats
from jaxnas.kernels.marks import CELL, mark
from jaxnas.networks.blocks import conv_bn, conv_bn_init, draw, fresh_keys, global_pool, part_keys
from jaxnas.ops import layers
from jaxnas.ops.chain import named_blocks
from jaxnas.ops.primitives import Operations, initial_stats, operation_key
from jaxnas.spaces.chain import CHAIN_BLOCKS, CHAIN_HEAD, chain_depths, chain_space, chain_stages


def chain_network(
    arch: Arch, skeleton: Skeleton, space: SearchSpace | None = None, *, blocks: Operations = CHAIN_BLOCKS
) -> Network:
    """The network of one concrete architecture of `chain_space(chain_depths(skeleton.cells), blocks)`, or of a space.

    blocks: those of the space, where some are objects that have no name in the library.

    Raises: ValueError where the architecture is not one of the space, or the skeleton does not fit it.

    >>> space = chain_space((1, 1, 1))
    >>> arch = space.from_genotype("mbconv3_3x3 | shuffle_5x5 | mbconv6_3x3")
    >>> network = chain_network(arch, Skeleton(channels=8, cells=3, image_shape=(8, 8, 3), num_classes=10), space)
    >>> params, stats = jax.eval_shape(network.init, jax.random.key(0))
    >>> sum(leaf.size for leaf in jax.tree.leaves(params)) == network.costs["params"]
    True
    """
    space = chain_space(chain_depths(skeleton.cells), blocks) if space is None else space
    costs = space.costs(arch, skeleton)
    taken = space.to_genotype(arch)["stages"]
    stages = chain_stages(skeleton, [len(stage) for stage in taken])
    named = {block.name: block for block in named_blocks(blocks)}
    # (block, channels of its input, stride) of each layer of each stage.
    plan = []
    before = skeleton.channels
    for stage, names in zip(stages, taken, strict=True):
        row = []
        for number, name in enumerate(names):
            stride = 2 if stage.reduces and number == 0 else 1
            row.append((named[name], before, stride))
            before = stage.channels
        plan.append(row)
    features = CHAIN_HEAD * before

    def layout(key: Key) -> PyTree:
        keys = fresh_keys(key)
        return {
            "stem": conv_bn_init(next(keys), 3, skeleton.image_shape[2], skeleton.channels),
            "stages": [
                [block.init(next(keys), channels, stride, True) for block, channels, stride in row] for row in plan
            ],
            "head": conv_bn_init(next(keys), 1, before, features),
            "classifier": layers.dense_init(next(keys), features, skeleton.num_classes),
        }

    def stats() -> Stats:
        return {
            "stem": layers.initial_stats(skeleton.channels),
            "stages": [[initial_stats(block, channels, stride) for block, channels, stride in row] for row in plan],
            "head": layers.initial_stats(features),
        }

    def init(key: Key) -> tuple[PyTree, Stats]:
        return draw(key, layout), stats()

    def apply(params: PyTree, x: Array, context: Context) -> tuple[Array, Aux]:
        keys = part_keys(context, skeleton.cells)
        x, stem_seen = conv_bn(x.astype(skeleton.dtype), params["stem"], context.at("stem"))
        x = mark(jax.nn.relu(x), CELL)
        seen: dict[str, Any] = {"stem": stem_seen, "stages": []}
        for s, (stage, row) in enumerate(zip(stages, plan, strict=True)):
            stage_seen = []
            for number, (block, _, stride) in enumerate(row):
                key = None if keys is None else keys[stage.layers.start + number]
                drawn = operation_key(key, block)  # drop-path, which is inside of a block, draws from the key itself
                here = context.at("stages", s, number)._replace(key=key if drawn is None else drawn)
                x, one = block.apply(params["stages"][s][number], x, stride, here)
                x = mark(x, CELL)
                stage_seen.append(one)
            seen["stages"].append(stage_seen)
        x, seen["head"] = conv_bn(x, params["head"], context.at("head"))
        return layers.dense(global_pool(jax.nn.relu(jnp.asarray(x))), params["classifier"]), Aux(seen)

    return Network(init, apply, costs)


def mobilenetv2_within(macs: int, skeleton: Skeleton) -> Network:
    """MobileNetV2 (Sandler et al. 2018, https://arxiv.org/abs/1801.04381), as wide as the multiply-adds allow.

    It is the architecture of the chain space whose layers are all inverted bottlenecks of expansion 6 and 3×3, in a
    skeleton with other channels. Of the paper's, the first bottleneck has expansion 1, and the widths of stages differ.

    Raises: ValueError where not even the narrowest fits.

    >>> skeleton = Skeleton(channels=16, cells=6, image_shape=(32, 32, 3), num_classes=10)
    >>> mobilenetv2_within(20_000_000, skeleton).costs["macs"] <= 20_000_000
    True
    """
    space = chain_space(chain_depths(skeleton.cells))
    block = "mbconv6_3x3"
    arch = jnp.array([choice.options.index(block) for choice in space.choices], jnp.int32)

    def wide(channels: int) -> Skeleton:
        return dataclasses.replace(skeleton, channels=channels)

    def fits(channels: int) -> bool:
        return int(space.costs(arch, wide(channels))["macs"]) <= macs

    # ShuffleNet's units, which the space has too, need even channels.
    channels = 2
    if not fits(channels):
        raise ValueError(f"the narrowest MobileNetV2 of {skeleton.cells} layers needs more than {macs:,} multiply-adds")
    while fits(channels + 2):
        channels += 2
    return chain_network(arch, wide(channels), space)
