"""The supernet of the DARTS space (Liu et al., "DARTS: Differentiable Architecture Search", 2019, sections 2.1-2.2).

Every edge of every cell holds all operations: node i of a cell adds the mixed operations of all edges that end in it,
and the cell's output is the concatenation of its nodes. `jaxnas.supernets.reference.darts_reference` is the same in
plain loops.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Arch, ArchWeights, Array, Aux, Context, Key, Network, PyTree, Skeleton, Supernet
from jaxnas.checks import checked_supernet
from jaxnas.kernels.arrays import joined
from jaxnas.networks.darts import darts_network
from jaxnas.ops.primitives import Operations, named, names_of, none_index
from jaxnas.spaces.darts import CELL_KINDS, DARTS_OPERATIONS, darts_edges, darts_space, edge_table
from jaxnas.supernets.cells import in_runs, make_cells, separate
from jaxnas.supernets.executors import Edges, Form, every_slot
from jaxnas.supernets.extracting import as_network, of_channels
from jaxnas.supernets.kept import between, checked_keep, narrowed, rows_of, widened
from jaxnas.supernets.used import used_by_edges, used_by_path


def darts_supernet(
    skeleton: Skeleton,
    nodes: int = 4,
    operations: Operations = DARTS_OPERATIONS,
    *,
    keep: Mapping[str, Any] | None = None,
    form: Form | None = None,
    remat: bool = False,
    affine: bool = False,
    free: bool = False,
    sampled: bool = False,
    partial: int = 1,
) -> Supernet:
    """The supernet over `darts_space(nodes, operations, free=free)`, whose paths share the parameters of an edge.

    The paper's search network is `Skeleton(channels=16, cells=8, image_shape=(32, 32, 3), num_classes=10)`. form: how
    the edges of a cell are run, by default what suits the platform. remat: in the form `staged`, compute the edges
    again in the backward pass instead of keeping their activations; the other forms always do. affine: with scale and
    offset in every batch norm, a path with drop-path and auxiliary head, to train networks of fixed architectures in
    one program. Parameters of an edge are stacked over equal cells and over edges, [L, E, ...].

    keep: cell kind -> bool [S, O], the operations that each edge still has (`jaxnas.search.weakest_by_alpha`); all by
    default. The others have no parameters, and are not computed in the mixture, whose weights of them are not read. A
    path that takes one of them adds zeros.

    sampled: the mixture computes of each slot the operation of the greatest weight alone, times that weight, and has a
    gradient to that weight and that operation alone; the others count as if their weights were zero. Of weights that
    are one-hot in value, such as GDAS's, that is the value of the whole mixture. Under `vmap` (of seeds) the form
    `scan` computes all operations.

    partial: K of PC-DARTS; an edge mixes the first 1 / K of its channels, and the others go past the operations with
    the sum of the slot's weights (`jaxnas.supernets.executors.partial`). A path is the mixture of its one-hot weights:
    these have "none", if it is an operation, where the path has no edge, so that channels go past all edges then. The
    parameters are those of no network: `extract` and `extract_stats` raise ValueError.

    Raises: ValueError as `darts_space`, and for a form, a `keep` or a mixture that cannot be.

    >>> skeleton = Skeleton(channels=4, cells=3, image_shape=(8, 8, 3), num_classes=10)
    >>> supernet = darts_supernet(skeleton, 2, ("none", "skip_connect", "nor_conv_3x3"))
    >>> params = jax.eval_shape(supernet.init, jax.random.key(0))  # shapes alone
    >>> weights, images = supernet.space.template(), jnp.zeros((5, 8, 8, 3))
    >>> jax.eval_shape(lambda p: supernet.apply(p, weights, images, Context())[0], params).shape
    (5, 10)
    """
    space, names = darts_space(nodes, operations, free=free), names_of(operations)
    if free and partial > 1:
        raise ValueError(f"in the free space an edge may have two operations: leave out partial={partial}")
    primitives = named(operations, pool_norms=not affine)
    table = edge_table(nodes)
    none = none_index(names)
    kept = checked_keep(keep, dict.fromkeys(CELL_KINDS, (len(table), len(names))), none)
    cells = make_cells(
        skeleton, nodes, [(source, node) for node, source in table], primitives,
        form=form, remat=remat, affine=affine, inputs_affine=affine, keep=kept, sampled=sampled,
        partial=partial,
    )  # fmt: skip
    shapes = functools.cache(lambda: jax.eval_shape(cells.init, jax.random.key(0)))
    rows = functools.cache(lambda: None if kept is None else rows_of(shapes(), cells, kept))

    def init(key: Key) -> PyTree:
        return narrowed(cells.init(key), rows())

    def whole(params: PyTree) -> PyTree:
        return widened(params, rows(), shapes())

    def apply(params: PyTree, weights: ArchWeights, x: Array, context: Context) -> tuple[Array, Aux]:
        return cells.mixture(whole(params), weights, _join, x, context)

    def edges_of(arch: Arch) -> dict[str, Edges]:
        return _edges(arch, nodes, names, free=free, everywhere=partial > 1)

    def apply_path(params: PyTree, arch: Arch, x: Array, context: Context) -> tuple[Array, Aux]:
        return cells.path(whole(params), edges_of(arch), _join, x, context)

    def used(arch: Arch) -> PyTree:
        edges = edges_of(arch)
        if free:
            every = dict.fromkeys(CELL_KINDS, jnp.ones(nodes, bool))
            mask = used_by_path(skeleton, cells, edges, every, none=none, affine=affine)
        else:
            mask = used_by_edges(cells, edges, jnp.ones((skeleton.cells, len(edges["normal"].nodes)), bool))
        return narrowed(mask, rows())

    def network(arch: Arch) -> Network:
        return darts_network(arch, skeleton, space, operations=operations, pool_norms=not affine)

    def by_cells(trees: PyTree, arch: Arch, *, by_slot: bool) -> list[PyTree]:
        return in_runs(separate(cells, trees, edges_of(arch), by_slot=by_slot), skeleton, nodes)

    def extract(params: PyTree, arch: Arch) -> PyTree:
        own = whole(params)
        return as_network(network, {**own, "cells": by_cells(own["cells"], arch, by_slot=True)}, arch)

    def extract_stats(stats: Any, arch: Arch) -> Any:
        return {**stats, "cells": by_cells(stats["cells"], arch, by_slot=False)}

    parts = (init, apply, apply_path, used, network, extract, extract_stats)
    return checked_supernet(of_channels(Supernet(space, *parts, skeleton.image_shape), partial))


def _edges(arch: Arch, nodes: int, names: tuple[str, ...], *, free: bool, everywhere: bool) -> dict[str, Edges]:
    """What a path runs in each cell. everywhere: slots without an edge have "none", where that is an operation."""
    ends, none = tuple(node for node in range(nodes) for _ in range(2)), none_index(names)
    taken = {kind: Edges(*own, ends) for kind, own in darts_edges(arch, names, free=free).items()}
    if not everywhere or none == len(names):
        return taken
    slots = [(source, node) for node, source in edge_table(nodes)]
    return {kind: every_slot(own, slots, none) for kind, own in taken.items()}


def _join(kind: str, states: Array) -> Array:
    """The output of a cell: all its nodes."""
    return joined(states)


def darts_narrowing(
    skeleton: Skeleton,
    after: Mapping[str, Any],
    before: Mapping[str, Any] | None = None,
    nodes: int = 4,
    operations: Operations = DARTS_OPERATIONS,
) -> Callable[[PyTree], PyTree]:
    """What carries the parameters of a supernet over to one that has fewer operations, as between stages of P-DARTS.

    after, before: the `keep` of the narrower and of the wider supernet, as of `darts_supernet`; of `before` None is
    all. nodes, operations: those of both.

    Returns: (parameters of the wider supernet) -> those of the narrower one. It takes anything of the same form, such
    as the momentum of an optimizer.

    Raises: ValueError where `after` keeps what is gone before.

    >>> skeleton = Skeleton(channels=4, cells=3, image_shape=(8, 8, 3), num_classes=10)
    >>> operations = ("none", "skip_connect", "nor_conv_3x3")
    >>> keep = {kind: np.array([[False, False, True]] * 5) for kind in CELL_KINDS}
    >>> whole, left = darts_supernet(skeleton, 2, operations), darts_supernet(skeleton, 2, operations, keep=keep)
    >>> narrowing = darts_narrowing(skeleton, keep, nodes=2, operations=operations)
    >>> made = jax.eval_shape(lambda key: narrowing(whole.init(key)), jax.random.key(0))
    >>> made == jax.eval_shape(left.init, jax.random.key(0))
    True
    """
    names, shape = names_of(operations), (len(edge_table(nodes)), len(operations))
    none = none_index(names)
    every = dict.fromkeys(CELL_KINDS, np.ones(shape, bool))
    new, old = (checked_keep(keep, dict.fromkeys(CELL_KINDS, shape), none) or every for keep in (after, before))
    for kind in CELL_KINDS:
        if (new[kind] & ~old[kind]).any():
            raise ValueError(f"{kind}: operations are to be kept on edges that have not got them any more")
    ends = [(source, node) for node, source in edge_table(nodes)]
    cells = make_cells(
        skeleton, nodes, ends, named(operations, pool_norms=True),
        form="scan", remat=False, affine=False, inputs_affine=False,
    )  # fmt: skip
    shapes = jax.eval_shape(cells.init, jax.random.key(0))
    rows = between(*(rows_of(shapes, cells, keep) for keep in (old, new)))
    return lambda tree: narrowed(tree, rows)
