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

from jaxnas.base import Arch, Array, Aux, Context, Key, Network, PyTree, Skeleton, Stats, Supernet, Weights
from jaxnas.checks import checked_supernet
from jaxnas.networks.blocks import conv_bn, conv_bn_init, draw, fresh_keys, given_stats, part
from jaxnas.networks.chain import chain_network
from jaxnas.networks.switched import switch
from jaxnas.ops import layers
from jaxnas.ops.chain import BLOCKS
from jaxnas.ops.trees import materialised
from jaxnas.spaces.chain import CHAIN_BLOCKS, CHAIN_HEAD, chain_depths, chain_space, chain_stages
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


Layer = Callable[[PyTree, Array, Array, Stats | None], tuple[Array, Stats]]
"""(params of all blocks, which block or the weight of each, x, statistics) -> (y, statistics)."""


def chain_supernet(
    skeleton: Skeleton,
    depths: Sequence[int] | None = None,
    blocks: Sequence[str] = CHAIN_BLOCKS,
    *,
    dtype: Any = jnp.float32,
) -> Supernet:
    """The supernet over `chain_space(depths, blocks)`. depths: by default `chain_depths(skeleton.cells)`.

    dtype: of the activations. Parameters and statistics of the layers are a list over `chain_runs`, of lists over the
    blocks, stacked over the layers of the run. A path's statistics have a place for every batch norm of every block;
    those of blocks that it does not take have mean 0 and variance 1.

    Raises: ValueError as `chain_space` and `chain_stages`.
    """
    depths = chain_depths(skeleton.cells) if depths is None else depths
    space = chain_space(depths, blocks)
    runs = chain_runs(skeleton, depths, blocks)
    width = chain_stages(skeleton, depths)[-1].channels

    def init(key: Key) -> PyTree:
        outside, *rest = jax.random.split(key, 1 + len(runs))

        def frame(key: Key) -> PyTree:
            keys = fresh_keys(key)
            return {
                "stem": conv_bn_init(next(keys), 3, skeleton.image_shape[2], skeleton.channels),
                "head": conv_bn_init(next(keys), 1, width, CHAIN_HEAD * width),
                "classifier": layers.dense_init(next(keys), CHAIN_HEAD * width, skeleton.num_classes),
            }

        def layer(run: ChainRun, key: Key) -> list[PyTree]:
            keys = fresh_keys(key)
            return [BLOCKS[name].init(next(keys), run.channels, run.stride, False) for name in run.blocks]

        return {
            **draw(outside, frame),
            "runs": [
                draw(k, functools.partial(layer, run), (run.slots.stop - run.slots.start,))
                for k, run in zip(rest, runs, strict=True)
            ],
        }

    def forward(
        params: PyTree, selection: Weights, x: Array, context: Context, make: Callable[..., Layer]
    ) -> tuple[Array, Aux]:
        """selection: of each kind of layers int32 [N], or weights [N, O]. make: (run, axis_name) -> how one is run."""
        stats = given_stats(context)
        x, stem_seen = conv_bn(x.astype(dtype), params["stem"], context, part(stats, "stem"))
        x = jax.nn.relu(x)
        seen: dict[str, Any] = {"stem": stem_seen, "runs": []}
        for r, run in enumerate(runs):
            layer = make(run, context.axis_name)

            def body(x: Array, item: Any, layer: Layer = layer) -> tuple[Array, Stats]:
                own, chosen, given = item
                return layer(own, chosen, x, given)

            items = (params["runs"][r], selection[run.kind][run.slots], part(stats, "runs", r))
            if run.stride == 1:
                x, run_seen = lax.scan(body, x, items)
            else:  # A loop's state keeps its shape.
                x, one = body(x, jax.tree.map(lambda leaf: leaf[0], items))
                run_seen = jax.tree.map(lambda leaf: leaf[None], one)
            seen["runs"].append(run_seen)
        x, seen["head"] = conv_bn(x, params["head"], context, part(stats, "head"))
        return layers.dense(jnp.mean(layers.widened(jax.nn.relu(x)), (1, 2)), params["classifier"]), Aux(seen)

    def apply(params: PyTree, weights: Weights, x: Array, context: Context) -> tuple[Array, Aux]:
        return forward(params, weights, x, context, _mixture)

    def blocks_of(arch: Arch) -> Weights:
        return {kind: jnp.argmax(rows, axis=1) for kind, rows in space.one_hot(arch).items()}

    def apply_path(params: PyTree, arch: Arch, x: Array, context: Context) -> tuple[Array, Aux]:
        return forward(params, blocks_of(arch), x, context, _path)

    def used(arch: Arch) -> PyTree:
        chosen = blocks_of(arch)
        shapes = jax.eval_shape(init, jax.random.key(0))
        result = jax.tree.map(lambda _: jnp.array(True), shapes)

        def mask(own: Array, leaf: Any) -> Array:
            return own.reshape(-1, *[1] * (leaf.ndim - 1))

        result["runs"] = [
            [
                jax.tree.map(functools.partial(mask, chosen[run.kind][run.slots] == o), block)
                for o, block in enumerate(listed)
            ]
            for run, listed in zip(runs, shapes["runs"], strict=True)
        ]
        return result

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


def _mixture(run: ChainRun, axis_name: str | None) -> Layer:
    """The sum of all blocks' outputs, each times its weight, computed again in the backward pass."""

    @jax.checkpoint
    def layer(params: PyTree, weights: Array, x: Array, stats: Stats | None) -> tuple[Array, Stats]:
        del stats  # a mixture is normalised by the batch alone
        params = materialised(params)
        outputs = [
            weights[o].astype(x.dtype) * BLOCKS[name].apply(params[o], x, run.stride, None, axis_name)[0]
            for o, name in enumerate(run.blocks)
        ]
        return sum(outputs), ()  # type: ignore[return-value]

    return layer


def _path(run: ChainRun, axis_name: str | None) -> Layer:
    """One block; the others are not computed, and their statistics stay as they are given, or as before any batch."""
    unseen = [tuple(map(layers.initial_stats, BLOCKS[name].norms(run.channels, run.stride))) for name in run.blocks]

    def branch(o: int) -> Callable[[PyTree, tuple[Array, ...], Stats | None], tuple[Array, Stats]]:
        def one(params: PyTree, sources: tuple[Array, ...], stats: Stats | None) -> tuple[Array, Stats]:
            given = None if stats is None else stats[o]
            y, seen = BLOCKS[run.blocks[o]].apply(params[o], sources[0], run.stride, given, axis_name)
            return y, [seen if other == o else s for other, s in enumerate(unseen if stats is None else stats)]

        return one

    branches = [branch(o) for o in range(len(run.blocks))]

    def layer(params: PyTree, block: Array, x: Array, stats: Stats | None) -> tuple[Array, Stats]:
        return switch(branches, block, params, (x,), stats)

    return layer
