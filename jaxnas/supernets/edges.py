"""Mixed and single-path operations on the edges of a cell, and the two ways to run all edges of one.

`scan` runs one edge after another in one compiled loop body: small programs that compile fast and stay in a CPU's
cache. `batch` runs the edges that leave a node together: few and large kernels, what an accelerator wants. Both compute
the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnas.base import Array, Key, Stats
from jaxnas.ops import layers
from jaxnas.ops.primitives import PRIMITIVES, Primitive

Form = Literal["scan", "batch"]

Edge = Callable[[Any, Any, Array, Any], tuple[Array, Any]]
"""(params of one edge, its weights [O] or operation, x, its statistics or ()) -> (y, statistics seen)."""


def default_form() -> Form:
    """`scan` on a CPU, `batch` elsewhere."""
    return "scan" if jax.default_backend() == "cpu" else "batch"


def normed(primitive: Primitive) -> Primitive:
    """The primitive followed by batch norm without affine: what a pool is in a DARTS search cell."""

    def apply(
        params: Any, x: Array, stride: int = 1, stats: Stats | None = None, axis_name: str | None = None
    ) -> tuple[Array, Stats]:
        inner = None if stats is None else stats[:-1]
        y, seen = primitive.apply(params, x, stride, inner, axis_name)
        y, last = layers.batch_norm(y, None, None if stats is None else stats[-1], axis_name)
        return y, (*seen, last)

    return Primitive(primitive.init, apply, lambda stride: primitive.norms(stride) + 1)


def primitives(operations: Sequence[str], normed_pools: bool) -> tuple[Primitive, ...]:
    """The primitives of the named operations; raises ValueError for a name that has none."""
    unknown = [name for name in operations if name not in PRIMITIVES]
    if unknown:
        raise ValueError(f"unknown operation {unknown[0]!r}; known are {', '.join(sorted(PRIMITIVES))}")
    chosen = [PRIMITIVES[name] for name in operations]
    return tuple(
        normed(p) if normed_pools and name.endswith("pool_3x3") else p
        for name, p in zip(operations, chosen, strict=True)
    )


def edge_init(operations: Sequence[Primitive], key: Key, channels: int, stride: int) -> list[Any]:
    """Parameters of one edge: those of each operation, without affine batch norm."""
    keys = jax.random.split(key, len(operations))
    return [p.init(k, channels, stride, False) for p, k in zip(operations, keys, strict=True)]


def mixed_edge(operations: Sequence[Primitive], none: int | None, stride: int, axis_name: str | None) -> Edge:
    """The sum of all operations' outputs, each times its weight; `none` is the index of the zero operation."""

    def edge(params: Any, weights: Array, x: Array, stats: Any) -> tuple[Array, Any]:
        del stats  # a mixture is normalised by the batch alone
        outputs = [
            weights[o].astype(x.dtype) * primitive.apply(p, x, stride, None, axis_name)[0]
            for o, (primitive, p) in enumerate(zip(operations, params, strict=True))
            if o != none
        ]
        return sum(outputs), ()  # type: ignore[return-value]

    return edge


def path_edge(
    operations: Sequence[Primitive], stride: int, axis_name: str | None, given: bool
) -> Edge:
    """One operation of an edge, chosen by an int32 index; the others are not computed.

    Statistics have the form of `edge_stats`; `given` says whether to normalise by them or by the batch.
    """

    def branch(o: int) -> Callable[[Any, Array, Any], tuple[Array, Any]]:
        def run(params: Any, x: Array, stats: Any) -> tuple[Array, Any]:
            own = stats[o] if given else None
            y, seen = operations[o].apply(params[o], x, stride, own, axis_name)
            return y, [seen if other == o else s for other, s in enumerate(stats)]

        return run

    branches = [branch(o) for o in range(len(operations))]

    def edge(params: Any, operation: Array, x: Array, stats: Any) -> tuple[Array, Any]:
        return lax.switch(operation, branches, params, x, stats)

    return edge


def edge_stats(operations: Sequence[Primitive], channels: int, stride: int) -> list[Any]:
    """Statistics of every batch norm of one edge before any batch was seen."""
    return [tuple(layers.initial_stats(channels) for _ in range(p.norms(stride))) for p in operations]


def run_edges(
    form: Form,
    edge: Edge,
    inputs: Array | None,
    nodes: Array,
    edges: Sequence[tuple[int, int]],
    params: Any,
    selection: Array,
    stats: Any,
) -> tuple[Array, Any]:
    """Adds the output of every edge to the node it ends in.

    inputs: [I, B, H, W, C] that edges start from, or None where they start from `nodes` themselves, whose edges must
    then be ordered so that a node is complete before it is read. nodes: [N, B, h, w, C]. edges: (source, target).
    params, selection, stats: with a leading axis E. Returns the nodes and the statistics [E, ...].
    """
    sources, targets = (np.array(column, np.int32) for column in zip(*edges, strict=True))
    if form == "scan":

        def body(nodes: Array, slot: Any) -> tuple[Array, Any]:
            source, target, p, s, seen = slot
            x = lax.dynamic_index_in_dim(nodes if inputs is None else inputs, source, 0, keepdims=False)
            y, seen = edge(p, s, x, seen)
            old = lax.dynamic_index_in_dim(nodes, target, 0, keepdims=False)
            return lax.dynamic_update_index_in_dim(nodes, old + y, target, 0), seen

        return lax.scan(body, nodes, (jnp.asarray(sources), jnp.asarray(targets), params, selection, stats))

    values = list(nodes)
    seen_at: dict[int, Any] = {}
    for source in sorted(set(sources.tolist())):
        slots = np.flatnonzero(sources == source)
        x = values[source] if inputs is None else inputs[source]
        taken = jax.tree.map(lambda leaf, slots=slots: leaf[slots], (params, selection, stats))
        outputs, seen = jax.vmap(edge, (0, 0, None, 0))(taken[0], taken[1], x, taken[2])
        for i, slot in enumerate(slots):
            values[targets[slot]] = values[targets[slot]] + outputs[i]
            seen_at[int(slot)] = jax.tree.map(lambda leaf, i=i: leaf[i], seen)
    ordered = [seen_at[slot] for slot in range(len(sources))]
    return jnp.stack(values), jax.tree.map(lambda *leaves: jnp.stack(leaves), *ordered)
