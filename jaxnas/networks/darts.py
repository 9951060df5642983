"""The evaluation network of the DARTS cell space (Liu et al. 2019, section 3.2, https://arxiv.org/abs/1806.09055).

Every batch norm is affine and, after training, normalizes by running statistics. Drop-path zeroes the output of any
operation but the identity, an image at a time (Larsson et al. 2017). As in the paper's program, pools have no batch
norm here, which they have in the search; `pool_norms` gives it to them, so that the network computes what the
supernet's path computes. What is around the cells is in `jaxnas.networks.frame`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxnas.base import Arch, Array, Aux, Context, Key, Network, PyTree, SearchSpace, Skeleton, Stats
from jaxnas.networks.blocks import draw, fresh_keys, part_keys
from jaxnas.networks.frame import make_frame
from jaxnas.ops import layers
from jaxnas.ops.primitives import PRIMITIVES, Operations, initial_stats, named, operation_key
from jaxnas.spaces.darts import CELL_KINDS, CellShape, darts_space, stride_of


def darts_network(
    arch: Arch,
    skeleton: Skeleton,
    space: SearchSpace | None = None,
    *,
    operations: Operations | None = None,
    pool_norms: bool = False,
) -> Network:
    """The network of one concrete architecture of `darts_space()`, or of the given space of the same kind.

    operations: those of the space, where some are objects that have no name in the library. pool_norms: pools are
    followed by batch norm, as in the search network. Equal consecutive cells (in stages of six: the third to the last)
    share their code through a scan; their parameters are stacked.

    Raises: ValueError where the architecture is not one of the space, or an auxiliary head has no room.

    >>> skeleton = Skeleton(channels=36, cells=20, image_shape=(32, 32, 3), num_classes=10)
    >>> network = darts_network(darts_space().from_genotype("DARTS_V2"), skeleton)
    >>> network.costs  # the 3.3 million parameters of the paper's table 1
    {'params': 3349342, 'macs': 528359050}
    """
    space = darts_space() if space is None else space
    costs = space.costs(arch, skeleton)
    return cell_network(space.to_genotype(arch), skeleton, costs, operations, pool_norms)


def cell_network(
    genotype: Mapping[str, Any],
    skeleton: Skeleton,
    costs: dict[str, int],
    operations: Operations | None = None,
    pool_norms: bool = False,
) -> Network:
    """The network of two cells whose nodes add two edges each; "normal_concat" and "reduce_concat" make the outputs."""
    known = named(tuple(PRIMITIVES) if operations is None else operations, pool_norms)
    primitives = {primitive.name: primitive for primitive in known}
    concat = {kind: genotype[f"{kind}_concat"] for kind in CELL_KINDS}
    frame = make_frame(skeleton, {kind: len(joined) for kind, joined in concat.items()})
    edges = {
        kind: [(primitives[name], source, stride_of(kind, source)) for name, source in genotype[kind]]
        for kind in CELL_KINDS
    }

    def init_edges(key: Key, shape: CellShape, count: int) -> PyTree:
        def one(key: Key) -> PyTree:
            keys = fresh_keys(key)
            return [
                primitive.init(next(keys), shape.channels, stride, True) for primitive, _, stride in edges[shape.kind]
            ]

        return draw(key, one, (count,))

    def apply_cell(
        shape: CellShape, params: PyTree, inputs: tuple[Array, Array], context: Context
    ) -> tuple[Array, Stats]:
        states, seen, outputs = list(inputs), [], []
        keys = part_keys(context, len(edges[shape.kind]))
        for e, (primitive, source, stride) in enumerate(edges[shape.kind]):
            here = context.at(e)._replace(key=None if keys is None else keys[e])
            own = here._replace(key=operation_key(here.key, primitive))
            y, edge_seen = primitive.apply(params[e], states[source], stride, own)
            outputs.append(y if is_identity(primitive.name, stride) else layers.drop_path(y, here))
            seen.append(edge_seen)
            if e % 2:
                states.append(outputs[-2] + outputs[-1])
        return jnp.concatenate([states[node] for node in concat[shape.kind]], axis=-1), seen

    def edge_stats(shape: CellShape) -> Stats:
        return [initial_stats(primitive, shape.channels, stride) for primitive, _, stride in edges[shape.kind]]

    def init(key: Key) -> tuple[PyTree, Stats]:
        return frame.init(key, init_edges), frame.stats(edge_stats)

    def apply(params: PyTree, x: Array, context: Context) -> tuple[Array, Aux]:
        return frame.apply(apply_cell, params, x, context)

    return Network(init, apply, costs)


def is_identity(operation: str, stride: int) -> bool:
    """Whether an edge hands on what it reads, so that its path is never dropped."""
    return (operation, stride) == ("skip_connect", 1)
