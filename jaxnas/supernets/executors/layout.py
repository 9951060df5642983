"""What an executor is given: where the edges of a cell lie, and their parameters, weights or operations.

A cell has inputs and nodes; an edge starts from an input or an earlier node, and ends in a node, which adds what its
edges give. Sources are numbered with the inputs first. In a cell that halves the image the edges from its inputs have
stride 2, and parameters of their own; all others are plain. Parameters of edges are one tree a group, "strided" and
"plain", of a list over the operations, whose leaves are stacked over the slots of the group: [S', …].
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Array, Context, Key, PyTree, Stats
from jaxnas.networks.blocks import draw, fresh_keys, part_keys
from jaxnas.ops import layers
from jaxnas.ops.primitives import Primitive, initial_stats

Group = Literal["strided", "plain"]
STRIDES: Mapping[Group, int] = {"strided": 2, "plain": 1}


class Layout(NamedTuple):
    """The slots of a cell.

    inputs, nodes: how many. ends: the (source, node) of each slot, nodes from 0, in an order in which a node is
    complete before it is read. halves: whether the cell halves the image.
    """

    inputs: int
    nodes: int
    ends: tuple[tuple[int, int], ...]
    halves: bool = False

    def groups(self) -> dict[Group, np.ndarray]:
        """The slots of each group that has some, int [S']."""
        strided = np.array([self.halves and source < self.inputs for source, _ in self.ends])
        parts: dict[Group, np.ndarray] = {"strided": np.flatnonzero(strided), "plain": np.flatnonzero(~strided)}
        return {group: slots for group, slots in parts.items() if len(slots)}

    def room(self, inputs: Array) -> Array:
        """Zeros for the nodes of a cell whose inputs are [I, B, H, W, C]: [N, B, h, w, C]."""
        _, batch, height, width, channels = inputs.shape
        halved = 2 if self.halves else 1
        return jnp.zeros((self.nodes, batch, -(-height // halved), -(-width // halved), channels), inputs.dtype)


class Edges(NamedTuple):
    """The edges of a path, in the order of their nodes, which `nodes` tells of each; every node has one or more.

    slot, source, operation: int32 [E]. A number of an operation that there is not stands for zeros.
    """

    slot: Array
    source: Array
    operation: Array
    nodes: tuple[int, ...]


def every_slot(edges: Edges, ends: Sequence[tuple[int, int]], none: int) -> Edges:
    """The edges of a path, of which no two are of one slot, and of all other slots one with the operation `none`.

    ends: the (source, node) of each slot.
    """
    operation = jnp.full(len(ends), none, jnp.int32).at[edges.slot].set(edges.operation)
    sources, nodes = zip(*ends, strict=True)
    return Edges(jnp.arange(len(ends)), jnp.array(sources, jnp.int32), operation, nodes)


Mixture = Callable[[Layout, PyTree, Array, Array, Context], Array]
"""(layout, params, weights [S, O], inputs [I, B, H, W, C], context) -> nodes [N, B, h, w, C].

Always normalized by the statistics of the batch.
"""

Path = Callable[[Layout, Edges, PyTree, Array, Context], tuple[Array, Stats]]
"""(layout, edges, params, inputs, context) -> (nodes, statistics), as of `edge_stats`."""


class Executor(NamedTuple):
    """A way to run the edges of a cell."""

    mixture: Mixture
    path: Path


def edges_init(
    primitives: Sequence[Primitive], layout: Layout, key: Key, channels: int, leading: tuple[int, ...], affine: bool
) -> PyTree:
    """The parameters of the edges of cells, `leading` being the axes of the cells."""
    groups = layout.groups()
    keys = jax.random.split(key, len(groups))

    def edge(group: Group) -> Callable[[Key], list[PyTree]]:
        return functools.partial(operations_init, primitives, channels=channels, stride=STRIDES[group], affine=affine)

    return {
        group: draw(k, edge(group), (*leading, len(slots)))
        for k, (group, slots) in zip(keys, groups.items(), strict=True)
    }


def operations_init(
    primitives: Sequence[Primitive], key: Key, channels: int, stride: int, affine: bool = False
) -> list[PyTree]:
    """The parameters of every operation of one edge or layer."""
    keys = fresh_keys(key)
    return [primitive.init(next(keys), channels, stride, affine) for primitive in primitives]


def edge_stats(primitives: Sequence[Primitive], layout: Layout, channels: int, edges: int) -> Stats:
    """Statistics of every batch norm that the edges of a path can have, before any batch: leaves [E, C]."""
    each = {group: [initial_stats(p, channels, STRIDES[group]) for p in primitives] for group in layout.groups()}
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (edges, *leaf.shape)), each)


def at_edges(layout: Layout, params: PyTree, slot: Array) -> PyTree:
    """The parameters of the edges at some slots, leaves [E, …]; of a group that an edge is not in, any."""
    result = {}
    for group, slots in layout.groups().items():
        place = np.zeros(len(layout.ends), np.int32)
        place[slots] = np.arange(len(slots))
        at = jnp.asarray(place)[slot]
        result[group] = jax.tree.map(lambda leaf, at=at: leaf[at], params[group])
    return result


class OfPath(NamedTuple):
    """What the edges of a path run with, leaves [E, …]. given: whether they normalize by the statistics, or by the
    batch. keys: None where nothing is random."""

    params: PyTree
    stats: Stats
    given: bool
    keys: Any


def of_path(
    primitives: Sequence[Primitive], layout: Layout, edges: Edges, params: PyTree, channels: int, context: Context
) -> OfPath:
    """channels: those that operations get."""
    count, given = edges.slot.shape[0], not isinstance(context.bn, str)
    stats = context.bn if given else edge_stats(primitives, layout, channels, count)
    return OfPath(at_edges(layout, params, edges.slot), stats, given, part_keys(context, count))


def used_edges(layout: Layout, edges: Edges, shapes: PyTree, alive: Array) -> PyTree:
    """Which parameters the edges of a path depend on in equal cells, as of `Supernet.used`.

    shapes: of the parameters, leaves [L, S', …]. alive: bool [L, E], the edges that matter in each cell.
    """

    def mask(chosen: Array, leaf: Any) -> Array:
        return chosen.reshape(*chosen.shape, *[1] * (leaf.ndim - 2))

    result = {}
    for group, slots in layout.groups().items():
        at_slot = edges.slot[:, None] == slots[None]
        by_operation = edges.operation[:, None] == np.arange(len(shapes[group]))[None]
        chosen = (alive[:, :, None, None] & (at_slot[:, :, None] & by_operation[:, None])[None]).any(1)  # [L, S', O]
        result[group] = [
            jax.tree.map(functools.partial(mask, chosen[:, :, o]), tree) for o, tree in enumerate(shapes[group])
        ]
    return result


def used_operations(number: Array, shapes: Sequence[PyTree]) -> list[PyTree]:
    """Which parameters layers depend on that take the operations of these numbers, int32 [L]; shapes: leaves [L, …]."""
    return [
        jax.tree.map(lambda leaf, o=o: (number == o).reshape(-1, *[1] * (leaf.ndim - 1)), tree)
        for o, tree in enumerate(shapes)
    ]


def dropped(primitives: Sequence[Primitive], y: Array, operation: Array, strided: Array, context: Context) -> Array:
    """y after drop-path, which leaves identities alone.

    Of one edge, y [B, h, w, C], or of several with a leading axis, as operation, strided and the key of the context.
    """
    if context.key is None or not layers.drops_paths(context):
        return y
    one = functools.partial(_drop_path, context.drop_path)
    after = one(y, context.key) if operation.ndim == 0 else jax.vmap(one)(y, context.key)
    identities = [o for o, primitive in enumerate(primitives) if primitive.name == "skip_connect"]
    kept = jnp.isin(operation, jnp.array(identities, jnp.int32)) & ~strided
    return jnp.where(kept.reshape(*kept.shape, *[1] * (y.ndim - kept.ndim)), y, after)


def _drop_path(probability: float | Array, y: Array, key: Key) -> Array:
    return layers.drop_path(y, Context(key=key, drop_path=probability))


def with_key_if_read(context: Context, primitives: Sequence[Primitive]) -> Context:
    """The context, without its key where no operation and no drop-path would draw from it."""
    read = layers.drops_paths(context) or any(primitive.random for primitive in primitives)
    return context if read else context._replace(key=None)
