"""Mixtures of which some operations are gone from some edges: fewer are held, and fewer are computed.

An operation's parameters are stacked over the edges that still have it, and spread over all edges by zeros where an
executor runs them, which computes no operation that is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Arch, Array, Aux, Context, PyTree, Supernet
from jaxnas.spaces.pruned import Pruned
from jaxnas.supernets.cells import Cells

Rows = Literal["all"] | np.ndarray
"""Which entries along the second axis of a leaf are held, int [R]; "all" for a leaf that has no axis of edges."""


def embedded(supernet: Supernet, pruned: Pruned) -> Supernet:
    """The supernet of a space as one of what is left of it, for single paths.

    supernet: that of the whole space. pruned: what is left, as `jaxnas.spaces.prune` gives it.

    The parameters stay those of the whole space, so that nothing has to be carried over; what no path reaches any more
    is neither computed nor, under `jaxnas.search.path_only`, moved. The mixture is that of the whole space.

    >>> from jaxnas.base import Skeleton
    >>> from jaxnas.spaces import prune
    >>> from jaxnas.supernets import nasbench201_supernet
    >>> supernet = nasbench201_supernet(Skeleton(channels=4, cells=1, image_shape=(8, 8, 3), num_classes=10))
    >>> left = embedded(supernet, prune(supernet.space, [[3, 4]] * 6))
    >>> left.space.choices[0].options
    ('nor_conv_3x3', 'avg_pool_3x3')
    """

    def apply_path(params: PyTree, arch: Arch, x: Array, context: Context) -> tuple[Array, Aux]:
        return supernet.apply_path(params, pruned.embed(arch), x, context)

    return supernet._replace(
        space=pruned.space,
        apply_path=apply_path,
        used=lambda arch: supernet.used(pruned.embed(arch)),
        network=lambda arch: supernet.network(pruned.embed(arch)),
        extract=lambda params, arch: supernet.extract(params, pruned.embed(arch)),
        extract_stats=lambda stats, arch: supernet.extract_stats(stats, pruned.embed(arch)),
    )


def checked_keep(
    keep: Mapping[str, Any] | None, shapes: Mapping[str, tuple[int, int]], none: int
) -> dict[str, np.ndarray] | None:
    """keep as bool [S, O] of each cell kind; raises ValueError where it does not fit or leaves a slot nothing.

    none: the number of the operation that gives zeros, as of `none_index`.
    """
    if keep is None:
        return None
    result = {kind: np.asarray(value, bool) for kind, value in keep.items()}
    if {kind: value.shape for kind, value in result.items()} != dict(shapes):
        raise ValueError(
            f"keep must be true or false in the shapes {dict(shapes)}, "
            f"got { ({kind: value.shape for kind, value in result.items()}) }"
        )
    for kind, value in result.items():
        for slot in np.flatnonzero(~value[:, np.arange(value.shape[1]) != none].any(axis=1)):
            raise ValueError(f"{kind} slot {slot} keeps no operation; keep at least one beside 'none'")
    return result


def rows_of(shapes: PyTree, cells: Cells, keep: Mapping[str, np.ndarray]) -> PyTree:
    """What is held of parameters in those shapes: the rows of each operation on the edges of each group."""
    rows = jax.tree.map(lambda _: "all", shapes)
    for (shape, _), own in zip(cells.frame.runs, rows["cells"], strict=True):
        for group, slots in cells.layouts[shape.kind].groups().items():
            for o, tree in enumerate(own["edges"][group]):
                held = np.flatnonzero(keep[shape.kind][slots, o])
                own["edges"][group][o] = jax.tree.map(lambda _, held=held: held, tree)
    return rows


def narrowed(tree: PyTree, rows: PyTree | None) -> PyTree:
    """What is held of parameters of all edges; an operation that no edge has is gone with its leaves.

    rows: of the tree's form, its leaves are Rows; None is all. An empty stack becomes {}: nothing can be saved of no
    size.
    """

    def cut(row: Rows, leaf: Any) -> Any:
        if isinstance(row, str):
            return leaf
        return leaf[:, row] if len(row) else {}

    return tree if rows is None else jax.tree.map(cut, rows, tree)


def widened(tree: PyTree, rows: PyTree | None, shapes: PyTree) -> PyTree:
    """The way back, with zeros for what is not held. shapes: of the whole tree, as of `jax.eval_shape`."""

    def spread(row: Rows, whole: Any, leaf: Any) -> Any:
        if isinstance(row, str):
            return leaf
        zeros = jnp.zeros(whole.shape, whole.dtype)
        return zeros.at[:, row].set(leaf) if len(row) else zeros

    return tree if rows is None else jax.tree.map(spread, rows, shapes, tree)


def between(before: PyTree, after: PyTree) -> PyTree:
    """Rows that make of what is held by the rows `before` what is held by those `after`, a part of them."""

    def place(old: Rows, new: Rows) -> Rows:
        return new if isinstance(old, str) else np.searchsorted(old, new)

    return jax.tree.map(place, before, after)
