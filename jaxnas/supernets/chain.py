"""The supernet of the chain space: every layer holds the parameters of all its blocks (`jaxnas.spaces.chain`).

Layers of one stage that keep its size are one loop over their stacked parameters, so that each block is compiled once a
stage, and once more where a stage begins by halving the image. A path computes its own blocks alone. Batch norm in the
blocks has no affine part; that of the stem and of the last convolution has.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Arch, ArchWeights, Array, Aux, Context, Key, Network, PyTree, Skeleton, Stats, Supernet
from jaxnas.checks import checked_supernet
from jaxnas.kernels.marks import CELL, mark
from jaxnas.kernels.trees import taken
from jaxnas.networks.blocks import Item, conv_bn, conv_bn_init, draw, equal_runs, fresh_keys, global_pool, part_keys
from jaxnas.networks.chain import chain_network
from jaxnas.ops import layers
from jaxnas.ops.chain import named_blocks
from jaxnas.ops.primitives import Operations, Primitive
from jaxnas.spaces.chain import CHAIN_BLOCKS, CHAIN_HEAD, chain_depths, chain_space, chain_stages, changing_blocks
from jaxnas.supernets.executors.layer import Layer, layer_executor
from jaxnas.supernets.executors.layout import operations_init, used_operations, with_key_if_read
from jaxnas.supernets.extracting import as_network


class ChainRun(NamedTuple):
    """Layers of one shape: one that halves the image, or all others of a stage.

    kind, slots: where their mixture weights are. blocks: what they choose among. channels: of their input. layers:
    their numbers in the network.
    """

    kind: str
    slots: slice
    blocks: tuple[Primitive, ...]
    channels: int
    stride: int
    layers: range


def chain_runs(skeleton: Skeleton, depths: Sequence[int], blocks: Operations) -> list[ChainRun]:
    """The layers of a network in turn; a stage of one layer that halves the image is one run.

    Raises: ValueError as `chain_stages`.
    """
    every, changing = named_blocks(blocks), changing_blocks(blocks)
    runs, reduced, kept = [], 0, 0
    for stage in chain_stages(skeleton, depths):
        first, rest = stage.layers[: stage.reduces], stage.layers[stage.reduces :]
        if first:
            runs.append(ChainRun("reduce", slice(reduced, reduced + 1), changing, stage.channels // 2, 2, first))
            reduced += 1
        if rest:
            runs.append(ChainRun("normal", slice(kept, kept + len(rest)), every, stage.channels, 1, rest))
            kept += len(rest)
    return runs


def chain_supernet(
    skeleton: Skeleton,
    depths: Sequence[int] | None = None,
    blocks: Operations = CHAIN_BLOCKS,
    *,
    sampled: bool = False,
) -> Supernet:
    """The supernet over `chain_space(depths, blocks)`. depths: by default `chain_depths(skeleton.cells)`.

    sampled: as of `darts_supernet`, one block a layer. Parameters and statistics of the layers are a list over
    `chain_runs`, of lists over the blocks, stacked over the layers of the run. A path's statistics have a place for
    every batch norm of every block; those of blocks that it does not take have mean 0 and variance 1.

    Raises: ValueError as `chain_space` and `chain_stages`.

    >>> skeleton = Skeleton(channels=8, cells=3, image_shape=(8, 8, 3), num_classes=10)
    >>> supernet = chain_supernet(skeleton, (1, 1, 1), ("mbconv3_3x3", "shuffle_3x3"))
    >>> params, images = jax.eval_shape(supernet.init, jax.random.key(0)), jnp.zeros((5, 8, 8, 3))
    >>> arch = supernet.space.sample(jax.random.key(1))
    >>> jax.eval_shape(lambda p: supernet.apply_path(p, arch, images, Context())[0], params).shape
    (5, 10)
    """
    depths = chain_depths(skeleton.cells) if depths is None else depths
    space = chain_space(depths, blocks)
    runs = chain_runs(skeleton, depths, blocks)
    width = chain_stages(skeleton, depths)[-1].channels
    executors = [layer_executor(run.blocks, run.stride, sampled=sampled, remat=True) for run in runs]

    def init(key: Key) -> PyTree:
        return _init(skeleton, runs, width, key)

    def apply(params: PyTree, weights: ArchWeights, x: Array, context: Context) -> tuple[Array, Aux]:
        mixtures = [executor.mixture for executor in executors]
        return forward(mixtures, params, weights, x, context._replace(bn="batch"))

    def apply_path(params: PyTree, arch: Arch, x: Array, context: Context) -> tuple[Array, Aux]:
        return forward([executor.path for executor in executors], params, blocks_of(arch), x, context)

    def forward(
        forms: Sequence[Layer], params: PyTree, selection: ArchWeights, x: Array, context: Context
    ) -> tuple[Array, Aux]:
        """forms: how the layers of each run are computed. selection: of each kind of layers int32 [N], or weights."""
        context = with_key_if_read(context, named_blocks(blocks))
        keys = part_keys(context, skeleton.cells)  # as those of a derived network

        def inside(r: int, x: Array) -> tuple[Array, Stats]:
            def one(x: Array, item: Item) -> tuple[Array, Stats]:
                own, selected = item.params
                x, seen = forms[r](own, selected, x, item.within(context))
                return mark(x, CELL), seen

            run, here = runs[r], None if keys is None else keys[np.array(runs[r].layers)]
            return equal_runs(one, x, (params["runs"][r], selection[run.kind][run.slots]), context.at("runs", r), here)

        return _frame(inside, len(runs), params, x.astype(skeleton.dtype), context)

    def blocks_of(arch: Arch) -> ArchWeights:
        return {kind: jnp.argmax(rows, axis=1) for kind, rows in space.one_hot(arch).items()}

    def used(arch: Arch) -> PyTree:
        chosen, shapes = blocks_of(arch), jax.eval_shape(init, jax.random.key(0))
        masks = [
            used_operations(chosen[run.kind][run.slots], own) for run, own in zip(runs, shapes["runs"], strict=True)
        ]
        return {**jax.tree.map(lambda _: jnp.array(True), shapes), "runs": masks}

    def network(arch: Arch) -> Network:
        return chain_network(arch, skeleton, space, blocks=blocks)

    def by_stages(trees: PyTree, arch: Arch) -> list[list[PyTree]]:
        """Parameters or statistics of all runs -> for each stage those of its layers."""
        chosen = {kind: np.asarray(own).tolist() for kind, own in blocks_of(arch).items()}
        each = [
            taken(own[block], layer)
            for run, own in zip(runs, trees, strict=True)
            for layer, block in enumerate(chosen[run.kind][run.slots])
        ]
        ends = np.cumsum(depths).tolist()
        return [each[end - depth : end] for depth, end in zip(depths, ends, strict=True)]

    def extract(params: PyTree, arch: Arch) -> PyTree:
        return as_network(network, {**params, "stages": by_stages(params["runs"], arch)}, arch)

    def extract_stats(stats: Any, arch: Arch) -> Any:
        return {"stem": stats["stem"], "stages": by_stages(stats["runs"], arch), "head": stats["head"]}

    parts = (init, apply, apply_path, used, network, extract, extract_stats)
    return checked_supernet(Supernet(space, *parts, skeleton.image_shape))


def _init(skeleton: Skeleton, runs: Sequence[ChainRun], width: int, key: Key) -> PyTree:
    outside, *rest = jax.random.split(key, 1 + len(runs))

    def frame(key: Key) -> PyTree:
        keys = fresh_keys(key)
        return {
            "stem": conv_bn_init(next(keys), 3, skeleton.image_shape[2], skeleton.channels),
            "head": conv_bn_init(next(keys), 1, width, CHAIN_HEAD * width),
            "classifier": layers.dense_init(next(keys), CHAIN_HEAD * width, skeleton.num_classes),
        }

    def layer(run: ChainRun) -> Callable[[Key], list[PyTree]]:
        return functools.partial(operations_init, run.blocks, channels=run.channels, stride=run.stride)

    stacks = [draw(k, layer(run), (len(run.layers),)) for k, run in zip(rest, runs, strict=True)]
    return {**draw(outside, frame), "runs": stacks}


def _frame(
    inside: Callable[[int, Array], tuple[Array, Stats]], runs: int, params: PyTree, x: Array, context: Context
) -> tuple[Array, Aux]:
    """What is around the runs of layers. inside: (number of a run, x) -> (x, statistics)."""
    x, stem_seen = conv_bn(x, params["stem"], context.at("stem"))
    x = mark(jax.nn.relu(x), CELL)
    seen: dict[str, Any] = {"stem": stem_seen, "runs": []}
    for r in range(runs):
        x, run_seen = inside(r, x)
        seen["runs"].append(run_seen)
    x, seen["head"] = conv_bn(x, params["head"], context.at("head"))
    return layers.dense(global_pool(jax.nn.relu(x)), params["classifier"]), Aux(seen)
