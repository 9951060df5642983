"""Mixtures of which some operations are gone from some edges: fewer are held, and fewer are computed.

An operation's parameters are stacked over the edges that still have it. In the form `scan` they are spread over all
edges by zeros, and each operation of each edge stands behind a `lax.cond`; in the form `batch` the edges that leave a
node are joined for each operation by itself. Both compute no operation that is gone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnas.base import Arch, Array, Aux, Context, PyTree, Supernet
from jaxnas.ops.primitives import Primitive
from jaxnas.spaces.pruned import Pruned
from jaxnas.supernets import edges as mixed
from jaxnas.supernets.stages import Slots, Together, run_stages
from jaxnas.supernets.together import together

Rows = Literal["all"] | np.ndarray
"""Which entries along the second axis of a leaf are held, int [R]; "all" for a leaf that has no axis of edges."""


def embedded(supernet: Supernet, pruned: Pruned) -> Supernet:
    """The supernet of a space as one of what is left of it (`jaxnas.spaces.prune`), for single paths.

    The parameters stay those of the whole space, so that nothing has to be carried over; what no path reaches any more
    is neither computed nor, under `jaxnas.search.path_only`, moved. The mixture is that of the whole space.
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
    keep: Mapping[str, Any] | None, shapes: Mapping[str, tuple[int, int]], none: int | None
) -> dict[str, np.ndarray] | None:
    """keep as bool [S, O] of each cell kind; raises ValueError where it does not fit or leaves a slot nothing."""
    if keep is None:
        return None
    result = {kind: np.asarray(value, bool) for kind, value in keep.items()}
    if {kind: value.shape for kind, value in result.items()} != dict(shapes):
        raise ValueError(
            f"keep must be true or false in the shapes {dict(shapes)}, "
            f"got { ({kind: value.shape for kind, value in result.items()}) }"
        )
    for kind, value in result.items():
        for slot in np.flatnonzero(~np.delete(value, [] if none is None else [none], axis=1).any(axis=1)):
            raise ValueError(f"{kind} slot {slot} keeps no operation; keep at least one beside 'none'")
    return result


def narrowed(tree: PyTree, rows: PyTree) -> PyTree:
    """What is held of parameters of all edges; an operation that no edge has is gone with its leaves.

    rows: of the tree's form, its leaves are Rows. An empty stack becomes {}: nothing can be saved of no size.
    """

    def cut(row: Rows, leaf: Any) -> Any:
        if isinstance(row, str):
            return leaf
        return leaf[:, row] if len(row) else {}

    return jax.tree.map(cut, rows, tree)


def widened(tree: PyTree, rows: PyTree, shapes: PyTree) -> PyTree:
    """The way back, with zeros for what is not held. shapes: of the whole tree, as of `jax.eval_shape`."""

    def spread(row: Rows, whole: Any, leaf: Any) -> Any:
        if isinstance(row, str):
            return leaf
        zeros = jnp.zeros(whole.shape, whole.dtype)
        return zeros.at[:, row].set(leaf) if len(row) else zeros

    return jax.tree.map(spread, rows, shapes, tree)


def between(before: PyTree, after: PyTree) -> PyTree:
    """Rows that make of what is held by the rows `before` what is held by those `after`, a part of them."""

    def place(old: Rows, new: Rows) -> Rows:
        return new if isinstance(old, str) else np.searchsorted(old, new)

    return jax.tree.map(place, before, after)


def present(keep: np.ndarray, none: int | None) -> list[int]:
    """The operations that some edge still has; keep: bool [E, O]."""
    return [o for o in range(keep.shape[1]) if o != none and keep[:, o].any()]


def kept_edge(operations: Sequence[Primitive], stride: int, axis_name: str | None) -> mixed.Alone:
    """The sum of those operations that are there, which bool [O] in the place of statistics says."""
    each = [mixed.mixed_edge([operation], None, stride, axis_name).alone for operation in operations]

    def alone(params: Any, weights: Array, x: Array, there: Any, wanted: Array | None = None) -> tuple[Array, Any]:
        def gone(p: Any, w: Array, x: Array) -> Array:
            return jnp.zeros((x.shape[0], -(-x.shape[1] // stride), -(-x.shape[2] // stride), x.shape[3]), x.dtype)

        total = gone(None, weights, x)
        for o, one in enumerate(each):
            here = functools.partial(lambda one, p, w, x: one([p], w[None], x, (), wanted)[0], one)
            total = total + lax.cond(there[o], here, gone, params[o], weights[o], x)
        return total, there

    return alone


def kept_edges(
    form: mixed.Form,
    operations: Sequence[Primitive],
    none: int | None,
    keep: np.ndarray,
    ends: Sequence[tuple[int, int]],
    stride: int,
    axis_name: str | None,
    remat: bool,
) -> Callable[[Array | None, Array, list[Any], Array, Array | None], Array]:
    """Makes (inputs, nodes, params, weights [E, O], wanted) -> nodes, as of `edges.run_edges`.

    keep: bool [E, O], what the edges still have.

    params: of all operations with a leading axis of all edges; what is not kept is not read.
    """
    taken = present(keep, none)

    def stage(slots: Slots) -> Together:
        def run(params: Any, weights: Array, x: Array, stats: Any) -> tuple[Array, Any]:
            """Of each source by itself: they need not have kept the same."""
            del stats
            outputs = []
            for s, row in enumerate(slots):
                mixture = together(operations, none, stride, axis_name, keep[list(row)])
                own = jax.tree.map(lambda leaf, s=s: leaf[s : s + 1], (params, weights, x))
                outputs.append(mixture(*own))
            return functools.reduce(jnp.add, outputs), ()

        return jax.checkpoint(run) if remat else run

    def run(inputs: Array | None, nodes: Array, params: list[Any], weights: Array, wanted: Array | None) -> Array:
        if form == "batch":
            return run_stages(stage, inputs, nodes, ends, params, weights, ())[0]
        alone, there = kept_edge([operations[o] for o in taken], stride, axis_name), jnp.asarray(keep[:, taken])
        own, chosen = [params[o] for o in taken], weights[:, jnp.array(taken)]
        return mixed.scan_edges(alone, ends, inputs, nodes, own, chosen, there, wanted)[0]

    return run
