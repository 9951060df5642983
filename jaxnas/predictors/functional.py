"""The graph of what a cell computes: identities contracted, and what leads nowhere or comes from nowhere masked out.

Architectures of one function then have graphs that differ in the places of their nodes alone, so a predictor does not
have to learn that they are worth the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxnas.base import Array, Graph


def functional_form(vocabulary: Sequence[str], identities: Sequence[str] = ()) -> Callable[[Graph], Graph]:
    """graph -> graph, traceable; entry (i, j) of its adjacency counts the ways from node i to j over identities only.

    vocabulary: the names of the graph's operations; what begins with "input" and "stem" are sources, "output" the sink,
    "sum", where there is one, an identity. identities: names of operations that pass their input on unchanged, as
    "skip_connect" does where its stride is 1. Sources and sink always stay.

    Raises: ValueError where a name is missing from the vocabulary.

    >>> chain = Graph(jnp.eye(3, k=1)[None], jnp.array([[0, 1, 2]]), jnp.ones((1, 3), bool))
    >>> form = functional_form(("input", "skip_connect", "output"), identities=["skip_connect"])(chain)
    >>> form.mask.tolist(), float(form.adjacency[0, 0, 2])  # the input feeds the output
    ([[True, False, True]], 1.0)
    """
    for name in ("output", *identities):
        if name not in vocabulary:
            raise ValueError(f"there is no operation {name!r} in the vocabulary {', '.join(vocabulary)}")
    begins = [name.startswith("input") or name == "stem" for name in vocabulary]
    sources = jnp.asarray(begins)
    passing = jnp.asarray([name in (*identities, "sum") for name in vocabulary])
    sink = vocabulary.index("output")
    if not any(begins):
        raise ValueError(f"no operation is 'stem' or begins with 'input' in the vocabulary {', '.join(vocabulary)}")

    def cell(adjacency: Array, ops: Array, mask: Array) -> tuple[Array, Array]:
        count = len(ops)
        identity = passing[ops] & mask

        def contract(k: Array, adjacency: Array) -> Array:
            through = adjacency + adjacency[:, k, None] * adjacency[None, k]
            other = jnp.arange(count) != k
            return jnp.where(identity[k], through * (other[:, None] & other[None]), adjacency)

        adjacency = jax.lax.fori_loop(0, count, contract, adjacency)
        mask = mask & ~identity
        is_source, is_sink = sources[ops] & mask, (ops == sink) & mask

        def spread(reached: Array, edges: Array) -> Array:
            return jax.lax.fori_loop(0, count, lambda _, at: at | (at @ (edges > 0)), reached)

        live = (spread(is_source, adjacency) & spread(is_sink, adjacency.T)) | is_source | is_sink
        return adjacency * (live[:, None] & live[None]), mask & live

    def transform(graph: Graph) -> Graph:
        adjacency, mask = jax.vmap(cell)(graph.adjacency, graph.ops, graph.mask)
        return graph._replace(adjacency=adjacency, mask=mask)

    return transform
