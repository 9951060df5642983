"""One edge after another, in one compiled loop body: programs that compile fast and stay in a CPU's cache.

The backward pass computes each edge again from its source. A path takes its operation by a `lax.switch`, whose backward
pass computes that operation alone.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnas.base import Array, Context, PyTree, Stats
from jaxnas.kernels.arrays import add_at, at, looked_up, materialized
from jaxnas.kernels.platform import outlined
from jaxnas.kernels.trees import stacked, unstacked
from jaxnas.ops.primitives import Primitive, Zero, operation_key
from jaxnas.supernets.executors import layout as lay
from jaxnas.supernets.executors.edge import Edge, draws, kept_op, mixed_op, sampled_op
from jaxnas.supernets.executors.layout import STRIDES, Edges, Executor, Layout
from jaxnas.supernets.executors.partial import edges_past, mixed_part, passing_op, passing_part, shuffled, weights_past
from jaxnas.supernets.executors.switch import switch


def scan_executor(
    primitives: Sequence[Primitive],
    keep: np.ndarray | None = None,
    *,
    sampled: bool = False,
    partial: int = 1,
    absent: int | None = None,
    pairs: bool = False,
) -> Executor:
    """The executor of one edge after another.

    keep: bool [S, O], the operations that the slots of a mixture have. sampled: a mixture computes of each slot the
    operation of the greatest weight alone. partial, absent: as of `jaxnas.supernets.executors.partial`. pairs: a turn
    of a mixture's loop computes two edges, where neither waits for the other.
    """
    primitives = tuple(primitives)

    @functools.cache  # one function for all cells: its rules are traced once
    def op(held: tuple[Primitive, ...], whole: bool, stride: int, axis_name: str | None) -> Edge:
        edge = (sampled_op if sampled else mixed_op if whole else kept_op)(held, stride, axis_name)
        return edge if partial == 1 else passing_op(edge, stride, partial)

    def mixture(layout: Layout, params: PyTree, weights: Array, inputs: Array, context: Context) -> Array:
        nodes = layout.room(inputs)
        if not layout.halves:
            nodes = jnp.concatenate([inputs, nodes])
        past = None if partial == 1 else weights_past(weights, keep, absent)
        for group, slots in layout.groups().items():
            there = np.ones((len(slots), len(primitives)), bool) if keep is None else keep[slots]
            # Zeros are not added up, but may be what is sampled.
            added = [sampled or not isinstance(p.family, Zero) for p in primitives]
            held = [o for o in range(len(primitives)) if added[o] and there[:, o].any()]
            whole = bool(there[:, held].all())
            draw = draws(context, len(slots)) if any(primitives[o].random for o in held) else None
            own = weights[slots][:, np.array(held)]
            if past is not None:
                own = jnp.concatenate([own, past[slots][:, None]], 1)
            operands = _Operands(
                inputs if group == "strided" else None,
                nodes,
                [params[group][o] for o in held],
                own,
                (None if whole else jnp.asarray(there[:, held]), draw),
            )
            edge = op(tuple(primitives[o] for o in held), whole, STRIDES[group], context.axis_name)
            ends = _ends(layout, group, slots)
            nodes = _scan_edges(
                _Static(edge, ends, 2 if pairs and not _pairs_wait(ends, group) else 1), operands, context.wanted
            )
        return nodes if layout.halves else nodes[layout.inputs :]

    def path(layout: Layout, edges: Edges, params: PyTree, inputs: Array, context: Context) -> tuple[Array, Stats]:
        past = None if partial == 1 else edges_past(edges, len(layout.ends), len(primitives), keep, absent)
        return _path(primitives, partial, layout, edges, past, params, inputs, context)

    return Executor(mixture, path)


class _Static(NamedTuple):
    """edge: how one is computed. ends: the (source, node) of each, in the arrays of sources and nodes. turn: how many
    edges a turn of the loop computes."""

    edge: Edge
    ends: tuple[tuple[int, int], ...]
    turn: int


def _ends(layout: Layout, group: lay.Group, slots: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Where the edges of a group start and end: nodes stand behind the inputs in one array, unless these are larger."""
    source, node = (0, 0) if group == "strided" else (-layout.inputs, 0) if layout.halves else (0, layout.inputs)
    return tuple((layout.ends[slot][0] + source, layout.ends[slot][1] + node) for slot in slots)


def _pairs_wait(ends: tuple[tuple[int, int], ...], group: lay.Group) -> bool:
    """Whether an edge reads what the other of its pair adds to, or the number of edges is odd."""
    reads = any(source == node for (_, node), (source, _) in zip(ends[::2], ends[1::2], strict=False))
    return len(ends) % 2 != 0 or (group == "plain" and reads)


def _by_turns(static: _Static, operands: _Operands, *more: Any) -> Any:
    """What the turns of a loop over the edges read, leaves [T, edges of a turn, …]."""
    sources, targets = zip(*static.ends, strict=True)
    indices = jnp.array(sources, jnp.int32), jnp.array(targets, jnp.int32)
    slots = (indices, operands.params, operands.weights, operands.each, *more)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, static.turn, *leaf.shape[1:]), slots)


def _one_by_one(tree: PyTree) -> PyTree:
    """Leaves [T, edges of a turn, …] -> [S', …]."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)


class _Operands(NamedTuple):
    """inputs: where the edges start from, None where that is `nodes`. Of the rest, which an edge has each of its own,
    leaves [S', …]; `each`: as of `Edge`."""

    inputs: Array | None
    nodes: Array
    params: PyTree
    weights: Array
    each: Any

    def sources(self) -> Array:
        return self.nodes if self.inputs is None else self.inputs


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan_edges(static: _Static, operands: _Operands, wanted: Array | None) -> Array:
    """Adds the output of every edge to the node it ends in."""
    return _forward(static, operands)[0]


@functools.partial(outlined, static=(0,))
def _forward(static: _Static, operands: _Operands) -> tuple[Array, Any]:
    def body(nodes: Array, slots: Any) -> tuple[Array, Any]:
        outputs = []
        for (source, target), own, weight, other in unstacked(slots):
            x = at(operands._replace(nodes=nodes).sources(), source)
            y, seen = _edge_by_rules(static.edge, materialized(own), weight, x, other)
            outputs.append((target, y, seen))
        for target, y, _ in outputs:
            nodes = add_at(nodes, target, y)
        return nodes, stacked([seen for *_, seen in outputs])

    nodes, seen = lax.scan(body, operands.nodes, _by_turns(static, operands))
    return nodes, _one_by_one(seen)


@functools.partial(outlined, static=(0,))
def _edge_by_rules(edge: Edge, own: PyTree, weight: Array, x: Array, each: Any) -> tuple[Array, Any]:
    """The edge by the forward rules of what it consists of, not by the operations themselves.

    These have no forward-mode derivative, which a second-order hypergradient takes of a forward pass.
    """
    y, _, seen = jax.vjp(lambda own, w, x: edge(own, w, x, each, None, None), own, weight, x, has_aux=True)
    return y, seen


@functools.partial(outlined, static=(0,))
def _edge_gradient(
    edge: Edge, g: Array, own: PyTree, weight: Array, x: Array, each: Any, known: Any, wanted: Array | None
) -> tuple[PyTree, Array, Array]:
    """Gradients of the parameters, the weights and the input."""
    return jax.vjp(lambda own, w, x: edge(own, w, x, each, known, wanted)[0], own, weight, x)[1](g)


def _scan_edges_forward(static: _Static, operands: _Operands, wanted: Array | None) -> tuple[Array, Any]:
    nodes, seen = _forward(static, operands)
    return nodes, (operands._replace(nodes=nodes), seen, wanted)


@functools.partial(outlined, static=(0,))
def _scan_edges_backward(static: _Static, residuals: Any, g: Array) -> tuple[Any, ...]:
    """The edges in reverse, each computed again from its source, which by now is complete.

    The automatic rule would keep every activation of every edge and, for each edge, add an array of all nodes to the
    gradient; here a step touches two nodes of it. Statistics are kept, so that no sum over the batch, for which devices
    wait for each other, is taken a second time.
    """
    operands, seen, wanted = residuals
    sources = operands.sources()

    def body(gradients: tuple[Array | None, Array], slots: Any) -> tuple[Any, Any]:
        to_inputs, to_nodes = gradients
        found = []
        for (source, target), own, weight, other, known in unstacked(slots):
            x, g = looked_up(sources, source), looked_up(to_nodes, target)
            found.append((source, _edge_gradient(static.edge, g, materialized(own), weight, x, other, known, wanted)))
        for source, (_, _, to_x) in found:
            if to_inputs is None:
                to_nodes = add_at(to_nodes, source, to_x)
            else:
                to_inputs = add_at(to_inputs, source, to_x)
        return (to_inputs, to_nodes), stacked([to_edge for _, (*to_edge, _) in found])

    carry = (jax.tree.map(jnp.zeros_like, operands.inputs), g)
    (to_inputs, to_nodes), to_edges = lax.scan(body, carry, _by_turns(static, operands, seen), reverse=True)
    to_params, to_weights = _one_by_one(to_edges)
    return _Operands(to_inputs, to_nodes, to_params, to_weights, None), None


_scan_edges.defvjp(_scan_edges_forward, _scan_edges_backward)


def _path(
    primitives: tuple[Primitive, ...],
    parts: int,
    layout: Layout,
    edges: Edges,
    past: Array | None,
    params: PyTree,
    inputs: Array,
    context: Context,
) -> tuple[Array, Stats]:
    """The edges of a path, each by the operation of its number. past: bool [E], whose other channels go past it."""
    own, stats, given, keys = lay.of_path(primitives, layout, edges, params, inputs.shape[-1] // parts, context)
    nodes, first = layout.room(inputs), 0
    if not layout.halves:
        nodes, first = jnp.concatenate([inputs, nodes]), layout.inputs
    groups = list(layout.groups())
    branches = [
        functools.partial(_branch, primitives, groups, group, o, given, context.axis_name)
        for group in groups
        for o in range(len(primitives) + 1)
    ]

    def edge(nodes: Array, item: Any) -> tuple[Array, Stats]:
        source, target, operation, beside, own, stats, key = item
        strided = (source < layout.inputs) & layout.halves
        index = jnp.minimum(operation, len(primitives))
        if not layout.halves:
            sources: tuple[Array, ...] = (at(nodes, source),)
        else:
            earlier = at(nodes, jnp.maximum(source - layout.inputs, 0))
            halves = {"strided": at(inputs, jnp.minimum(source, layout.inputs - 1)), "plain": earlier}
            sources = tuple(halves[group] for group in groups)
            if len(groups) > 1:
                index = index + jnp.where(strided, 0, len(primitives) + 1)
        others = (stats, operation_key(key, *primitives), context.wanted)
        mixed = tuple(mixed_part(x, parts) for x in sources)
        y, seen = switch(branches, index, own, mixed, others)
        y = lay.dropped(primitives, y, operation, strided, context._replace(key=key))
        if beside is not None:
            passed = [passing_part(x, parts, STRIDES[group]) for x, group in zip(sources, groups, strict=True)]
            rest = passed[0] if len(passed) == 1 else jnp.where(strided, passed[0], passed[1])
            y = shuffled(y, jnp.where(beside, rest, 0))
        return nodes.at[first + target].add(y), seen

    items = (edges.source, jnp.array(edges.nodes), edges.operation, past, own, stats, keys)
    nodes, seen = lax.scan(edge, nodes, items)
    return nodes[first:], seen


def _branch(
    primitives: Sequence[Primitive],
    groups: Sequence[lay.Group],
    group: lay.Group,
    operation: int,
    given: bool,
    axis_name: str | None,
    params: PyTree,
    sources: tuple[Array, ...],
    others: tuple[Stats, Any, Any],
) -> tuple[Array, Stats]:
    """One operation on the source that has its stride; the statistics of all others stay."""
    stats, key, wanted = others
    x, stride = sources[groups.index(group)], STRIDES[group]
    if operation == len(primitives):
        return jnp.zeros_like(x[:, ::stride, ::stride]), stats
    own = stats[group]
    context = Context(own[operation] if given else "batch", key, axis_name=axis_name, wanted=wanted)
    y, seen = primitives[operation].apply(params[group][operation], x, stride, context)
    return y, {**stats, group: [seen if o == operation else told for o, told in enumerate(own)]}


def one_of(
    primitives: Sequence[Primitive],
    stride: int,
    params: Sequence[PyTree],
    number: Array,
    x: Array,
    stats: Sequence[Stats],
    context: Context,
) -> tuple[Array, list[Stats]]:
    """The operation of that number alone, on x: (y, statistics).

    stats: of all operations, those of the others stay. The context says whether to normalize by them.
    """
    group: lay.Group = "plain" if stride == 1 else "strided"
    given = not isinstance(context.bn, str)
    branches = [
        functools.partial(_branch, primitives, (group,), group, o, given, context.axis_name)
        for o in range(len(primitives))
    ]
    others = ({group: stats}, context.key, context.wanted)
    y, seen = switch(branches, number, {group: params}, (x,), others)
    return y, seen[group]
