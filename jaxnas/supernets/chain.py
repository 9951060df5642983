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
from jax import lax

from jaxnas.base import Arch, ArchWeights, Array, Aux, Context, Key, Network, PyTree, Skeleton, Stats, Supernet
from jaxnas.checks import checked_supernet
from jaxnas.kernels.arrays import materialized
from jaxnas.kernels.marks import CELL, mark
from jaxnas.kernels.norm import widened
from jaxnas.networks.blocks import conv_bn, conv_bn_init, draw, fresh_keys, global_pool
from jaxnas.networks.chain import chain_network
from jaxnas.ops import layers
from jaxnas.ops.chain import BLOCKS
from jaxnas.ops.primitives import Primitive, initial_stats
from jaxnas.spaces.chain import CHAIN_BLOCKS, CHAIN_HEAD, chain_depths, chain_space, chain_stages
from jaxnas.supernets.executors.edge import sampled_op
from jaxnas.supernets.executors.layout import operations_init, used_operations
from jaxnas.supernets.executors.scan import one_of
from jaxnas.supernets.extracting import as_network, taken


class ChainRun(NamedTuple):
    """Layers of one shape: one that halves the image, or all others of a stage.

    kind, slots: where their mixture weights are. blocks: what they choose among. channels: of their input.
    """

    kind: str
    slots: slice
    blocks: tuple[str, ...]
    channels: int
    stride: int

    def primitives(self) -> list[Primitive]:
        return [BLOCKS[name] for name in self.blocks]


def chain_runs(skeleton: Skeleton, depths: Sequence[int], blocks: Sequence[str]) -> list[ChainRun]:
    """The layers of a network in turn; a stage of one layer that halves the image is one run.

    Raises: ValueError as `chain_stages`.
    """
    changing = tuple(name for name in blocks if name != "identity")
    runs, reduced, kept = [], 0, 0
    for stage in chain_stages(skeleton, depths):
        if stage.reduces:
            runs.append(ChainRun("reduce", slice(reduced, reduced + 1), changing, stage.channels // 2, 2))
            reduced += 1
        if count := len(stage.layers) - stage.reduces:
            runs.append(ChainRun("normal", slice(kept, kept + count), tuple(blocks), stage.channels, 1))
            kept += count
    return runs


Layer = Callable[[ChainRun, PyTree, Array, Array, Context], tuple[Array, Stats]]
"""(run, params of all blocks, which block or the weight of each, x, context) -> (y, statistics)."""


def chain_supernet(
    skeleton: Skeleton,
    depths: Sequence[int] | None = None,
    blocks: Sequence[str] = CHAIN_BLOCKS,
    *,
    sampled: bool = False,
) -> Supernet:
    """The supernet over `chain_space(depths, blocks)`. depths: by default `chain_depths(skeleton.cells)`.

    sampled: as of `darts_supernet`, one block a layer. Parameters and statistics of the
    layers are a list over `chain_runs`, of lists over the blocks, stacked over the layers of the run. A path's
    statistics have a place for every batch norm of every block; those of blocks that it does not take have mean 0 and
    variance 1.

    Raises: ValueError as `chain_space` and `chain_stages`.
    """
    depths = chain_depths(skeleton.cells) if depths is None else depths
    space = chain_space(depths, blocks)
    runs = chain_runs(skeleton, depths, blocks)
    width = chain_stages(skeleton, depths)[-1].channels

    def init(key: Key) -> PyTree:
        return _init(skeleton, runs, width, key)

    def apply(params: PyTree, weights: ArchWeights, x: Array, context: Context) -> tuple[Array, Aux]:
        layer = _sampled if sampled else _mixture
        return _forward(runs, params, weights, x.astype(skeleton.dtype), context._replace(bn="batch"), layer)

    def blocks_of(arch: Arch) -> ArchWeights:
        return {kind: jnp.argmax(rows, axis=1) for kind, rows in space.one_hot(arch).items()}

    def apply_path(params: PyTree, arch: Arch, x: Array, context: Context) -> tuple[Array, Aux]:
        return _forward(runs, params, blocks_of(arch), x.astype(skeleton.dtype), context, _path)

    def used(arch: Arch) -> PyTree:
        chosen = blocks_of(arch)
        shapes = jax.eval_shape(init, jax.random.key(0))
        result = jax.tree.map(lambda _: jnp.array(True), shapes)

        stacks = [
            used_operations(chosen[run.kind][run.slots], listed)
            for run, listed in zip(runs, shapes["runs"], strict=True)
        ]
        return {**result, "runs": stacks}

    def network(arch: Arch) -> Network:
        return chain_network(arch, skeleton, space)

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
        return functools.partial(operations_init, run.primitives(), channels=run.channels, stride=run.stride)

    stacks = [draw(k, layer(run), (run.slots.stop - run.slots.start,)) for k, run in zip(rest, runs, strict=True)]
    return {**draw(outside, frame), "runs": stacks}


def _forward(
    runs: Sequence[ChainRun], params: PyTree, selection: ArchWeights, x: Array, context: Context, layer: Layer
) -> tuple[Array, Aux]:
    """selection: of each kind of layers int32 [N], or weights [N, O]."""
    x, stem_seen = conv_bn(x, params["stem"], context.at("stem"))
    x = mark(jax.nn.relu(x), CELL)
    seen: dict[str, Any] = {"stem": stem_seen, "runs": []}
    for r, run in enumerate(runs):

        def body(x: Array, item: Any, run: ChainRun = run) -> tuple[Array, Stats]:
            own, chosen, stats = item
            x, seen = layer(run, own, chosen, x, context._replace(bn="batch" if stats is None else stats))
            return mark(x, CELL), seen

        stats = None if isinstance(context.bn, str) else context.bn["runs"][r]
        items = (params["runs"][r], selection[run.kind][run.slots], stats)
        if run.stride == 1:
            x, run_seen = lax.scan(body, x, items)
        else:  # A loop's state keeps its shape.
            x, one = body(x, jax.tree.map(lambda leaf: leaf[0], items))
            run_seen = jax.tree.map(lambda leaf: leaf[None], one)
        seen["runs"].append(run_seen)
    x, seen["head"] = conv_bn(x, params["head"], context.at("head"))
    return layers.dense(global_pool(jax.nn.relu(x)), params["classifier"]), Aux(seen)


def _mixture(run: ChainRun, params: PyTree, weights: Array, x: Array, context: Context) -> tuple[Array, Stats]:
    """The sum of all blocks' outputs, each times its weight, computed again in the backward pass."""

    @jax.checkpoint
    def layer(params: PyTree, weights: Array, x: Array) -> Array:
        own = materialized(params)
        return functools.reduce(
            jnp.add,
            [
                # In float32 or wider, so that the gradient of the weight is a sum of such.
                (weights[o] * widened(block.apply(own[o], x, run.stride, context)[0])).astype(x.dtype)
                for o, block in enumerate(run.primitives())
            ],
        )

    return layer(params, weights, x), ()


def _sampled(run: ChainRun, params: PyTree, weights: Array, x: Array, context: Context) -> tuple[Array, Stats]:
    """The block of the greatest weight alone, times that weight, computed again in the backward pass."""
    op = sampled_op(run.primitives(), run.stride, context.axis_name)
    return op(materialized(params), weights, x, (None, context.key), None, context.wanted)[0], ()


def _path(run: ChainRun, params: PyTree, block: Array, x: Array, context: Context) -> tuple[Array, Stats]:
    """One block; the others are not computed, and their statistics stay as they are given, or as before any batch."""
    stats = context.bn
    if isinstance(stats, str):
        stats = [initial_stats(primitive, run.channels, run.stride) for primitive in run.primitives()]
    return one_of(run.primitives(), run.stride, params, block, x, stats, context)
