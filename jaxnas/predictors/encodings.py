"""Fixed encodings of a graph as a vector: one-hot, paths, and statistics of paths.

An encoding is a traceable function, graph -> float32 [F]. All but `one_hot` are best given a graph in functional form.
A path leads from a node without predecessors to the last node, the output; nodes are in topological order, so that one
pass over them sums over all paths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Arch, Array, Graph

Encoding = Callable[[Graph], Array]
"""graph -> float32 [F]."""


def unconnected(arch: Arch) -> Graph:
    """An architecture of a plain product of choices as a graph without edges: node d has option arch[d].

    >>> graph = unconnected(jnp.array([2, 0]))
    >>> graph.ops.tolist(), graph.adjacency.any().tolist()
    ([[2, 0]], False)
    """
    count = len(arch)
    return Graph(jnp.zeros((1, count, count)), arch[None], jnp.ones((1, count), bool))


def one_hot(vocabulary: int) -> Encoding:
    """The operations of nodes as one-hot, zeros where a node is masked out, and the adjacency above the diagonal.

    vocabulary: V, the number of operation ids. F = G · (N · V + N (N - 1) / 2).

    >>> graph = Graph(jnp.array([[[0.0, 1.0], [0.0, 0.0]]]), jnp.array([[0, 2]]), jnp.ones((1, 2), bool))
    >>> one_hot(3)(graph).tolist()  # two nodes and the edge between them
    [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    """

    def encode(graph: Graph) -> Array:
        count = graph.ops.shape[1]
        nodes = jax.nn.one_hot(graph.ops, vocabulary) * graph.mask[:, :, None]
        edges = graph.adjacency[:, *np.triu_indices(count, 1)]
        return jnp.concatenate([nodes.reshape(-1), edges.reshape(-1)])

    return encode


def path_counts(operations: Sequence[int], length: int) -> Encoding:
    """Counts of paths by the sequence of these operations on them, up to `length`; other operations are skipped over.

    The path encoding of White et al. 2021, https://arxiv.org/abs/1910.11858, section 4, with counts in place of bits;
    longer sequences are left out. F = G · (1 + O + … + O^length).

    Raises: ValueError where there is no operation, or `length` is negative.

    >>> chain = Graph(jnp.eye(3, k=1)[None], jnp.array([[0, 1, 2]]), jnp.ones((1, 3), bool))  # input, 1, output
    >>> jax.jit(path_counts([1], length=2))(chain).tolist()  # paths with no operation 1, one, and two
    [0.0, 1.0, 0.0]
    """
    if not operations or length < 0:
        raise ValueError(f"paths need operations and a length of at least 0, got {list(operations)} and {length}")
    size = len(operations)
    starts = np.cumsum([0] + [size**n for n in range(length + 1)])

    def encode_cell(adjacency: Array, ops: Array, mask: Array) -> Array:
        which = ops[:, None] == jnp.asarray(operations)[None]

        def visit(at: Array, node: tuple[Array, Array]) -> Array:
            """What paths to this node are like, int [sequences], from those to its predecessors."""
            place, source = node
            before = adjacency[:, place] @ at + jnp.zeros(starts[-1]).at[0].set(source)
            longer = [jnp.zeros(1)]
            for n in range(length):
                part = before[starts[n] : starts[n + 1]]
                longer.append((part[:, None] * which[place][None]).reshape(-1))
            after = jnp.where(which[place].any(), jnp.concatenate(longer), before)
            return at.at[place].set(jnp.where(mask[place], after, 0.0))

        nodes = (jnp.arange(len(ops)), _sources(adjacency, mask))
        start = jnp.zeros((len(ops), starts[-1]))
        return jax.lax.scan(lambda at, node: (visit(at, node), None), start, nodes)[0][-1]

    return lambda graph: jax.vmap(encode_cell)(graph.adjacency, graph.ops, graph.mask).reshape(-1)


def path_statistics(groups: Sequence[Sequence[int]]) -> Encoding:
    """For each group of operations the most, fewest and mean number on a path; and the log of the number of paths.

    The number of convolutions on the longest and the shortest path, a depth and a shortcut, says much about an
    accuracy, and few architectures are enough to learn it. F = G · (3 · groups + 1); all 0 where there is no path.

    Raises: ValueError where there is no group, or an empty one.

    >>> chain = Graph(jnp.eye(4, k=1)[None], jnp.array([[0, 1, 1, 2]]), jnp.ones((1, 4), bool))
    >>> jax.jit(path_statistics([[1]]))(chain)[:3].tolist()  # most, fewest and mean on its only path
    [2.0, 2.0, 2.0]
    """
    if not groups or not all(groups):
        raise ValueError(f"statistics of paths need groups of operations, none empty, got {[*map(list, groups)]}")

    def encode_cell(adjacency: Array, ops: Array, mask: Array) -> Array:
        counted = jnp.stack([jnp.isin(ops, jnp.asarray(group)) for group in groups], axis=1) * 1.0

        def visit(state: tuple[Array, ...], node: tuple[Array, Array]) -> tuple[Array, ...]:
            place, source = node
            paths, most, least, total = state
            edges, one = adjacency[:, place], counted[place]
            number = edges @ paths + source
            there = ((edges > 0) & (paths > 0))[:, None]
            values = (
                number,
                jnp.where(there, most, 0.0).max(axis=0) + one,
                jnp.where(source, 0.0, jnp.where(there, least, jnp.inf).min(axis=0)) + one,
                edges @ total + number * one,  # over all paths
            )
            live = mask[place] & (number > 0)
            return tuple(
                old.at[place].set(jnp.where(live, value, 0.0)) for old, value in zip(state, values, strict=True)
            )

        count = len(ops)
        start = (jnp.zeros(count), *(jnp.zeros((count, len(groups))) for _ in range(3)))
        nodes = (jnp.arange(count), _sources(adjacency, mask))
        state = jax.lax.scan(lambda at, node: (visit(at, node), None), start, nodes)[0]
        paths, most, least, total = (value[-1] for value in state)
        return jnp.concatenate([most, least, total / jnp.maximum(paths, 1), jnp.log1p(paths)[None]])

    return lambda graph: jax.vmap(encode_cell)(graph.adjacency, graph.ops, graph.mask).reshape(-1)


def operation_counts(operations: Sequence[int]) -> Encoding:
    """How many nodes have each of these operations. F = G · O.

    >>> chain = Graph(jnp.eye(4, k=1)[None], jnp.array([[0, 1, 1, 2]]), jnp.ones((1, 4), bool))
    >>> operation_counts([1, 3])(chain).tolist()
    [2.0, 0.0]
    """

    def encode(graph: Graph) -> Array:
        found = (graph.ops[:, :, None] == jnp.asarray(operations)[None, None]) & graph.mask[:, :, None]
        return found.sum(axis=1).astype(jnp.float32).reshape(-1)

    return encode


def signals(graph: Graph) -> Array:
    """The graph's own signals. Raises ValueError where it has none.

    >>> graph = unconnected(jnp.array([2, 0]))._replace(signals=jnp.array([0.5]))
    >>> signals(graph).tolist()
    [0.5]
    """
    if graph.signals is None:
        raise ValueError("these graphs have no signals; give them some by graphs._replace(signals=…)")
    return graph.signals


def concatenated(*encodings: Encoding) -> Encoding:
    """The encodings one after the other.

    >>> encode = concatenated(operation_counts([0]), operation_counts([1, 2]))
    >>> encode(unconnected(jnp.array([2, 0, 2]))).tolist()
    [1.0, 0.0, 2.0]
    """
    return lambda graph: jnp.concatenate([encode(graph) for encode in encodings])


def _sources(adjacency: Array, mask: Array) -> Array:
    """1 where a node has no predecessor, float32 [N]; the output is none, even alone."""
    lonely = mask & ~(adjacency * mask[:, None]).any(axis=0)
    return lonely.at[-1].set(False) * 1.0
