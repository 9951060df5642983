"""Mixed and single-path operations on the edges of a cell, and the two ways to run all edges of one.

`scan` runs one edge after another in one compiled loop body: small programs that compile fast and stay in a CPU's
cache. `batch` runs the edges that leave a node together (`stages.py`; `together.py` a mixture, `chosen.py` a path): few
and large kernels, what a GPU wants, which waits longer for the start of a small one than for its work. Both compute the
same function.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnas.base import Array, Key, Skeleton
from jaxnas.ops import layers
from jaxnas.ops.gated import gated
from jaxnas.ops.platform import by_platform, outlined, platform
from jaxnas.ops.primitives import Primitive
from jaxnas.ops.trees import materialised
from jaxnas.supernets.chosen import chosen
from jaxnas.supernets.stages import Slots, Together, run_stages
from jaxnas.supernets.together import together

Form = Literal["scan", "batch"]

Alone = Callable[..., tuple[Array, Any]]
"""(params of one edge, its weights [O] or operation, x, its statistics or (), wanted=None) -> (y, statistics seen).

wanted: as of `Context`. A mixture that is given the statistics that it told of the same x reuses them.
"""


class Edge(NamedTuple):
    """How to compute one edge, and how to compute those of a stage together, told which they are."""

    alone: Alone
    together: Callable[[Slots], Together]


def default_form() -> Form:
    """`batch` on a GPU, else `scan`: a TPU does not wait for the start of a kernel, and compiles `batch` slowly."""
    return "batch" if platform() == "gpu" else "scan"


def checked_form(skeleton: Skeleton, form: Form | None, remat: bool) -> Form:
    """The form to use. Raises ValueError for one that does not exist and for settings that no supernet can have."""
    if skeleton.auxiliary:
        raise ValueError("a supernet has no auxiliary head: give a skeleton with auxiliary=False")
    if form not in (None, "scan", "batch"):
        raise ValueError(f"form must be 'scan', 'batch' or None, got {form!r}")
    form = form or default_form()
    if remat and form == "scan":
        raise ValueError("the form 'scan' always computes edges again: leave out remat, or give form='batch'")
    return form


def edge_init(operations: Sequence[Primitive], key: Key, channels: int, stride: int) -> list[Any]:
    """Parameters of one edge: those of each operation, without affine batch norm."""
    keys = jax.random.split(key, len(operations))
    return [p.init(k, channels, stride, False) for p, k in zip(operations, keys, strict=True)]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _per_channel(weights: Array, channels: int) -> Array:
    """[O] -> [O, C]. The gradient of a weight is then summed over positions first and over channels last.

    As one reduction to a scalar it would not be vectorised on a CPU; the product with a vector of ones keeps XLA from
    joining the two sums into that one.
    """
    return jnp.broadcast_to(weights[:, None], (*weights.shape, channels))


_per_channel.defvjp(
    lambda weights, channels: (jnp.broadcast_to(weights[:, None], (*weights.shape, channels)), None),
    lambda channels, _, g: (jnp.dot(g, jnp.ones((channels,), g.dtype)),),
)


def mixed_edge(
    operations: Sequence[Primitive], none: int | None, stride: int, axis_name: str | None, remat: bool = False
) -> Edge:
    """The sum of all operations' outputs, each times its weight; `none` is the index of the zero operation.

    remat: edges that are computed together are computed again in the backward pass.
    """

    def alone(params: Any, weights: Array, x: Array, known: Any, wanted: Array | None = None) -> tuple[Array, Any]:
        scales = _per_channel(weights, x.shape[-1])
        outputs: list[Array] = []
        seen: list[Any] = []
        for o, (primitive, p) in enumerate(zip(operations, params, strict=True)):
            if o == none:
                seen.append(())
                continue
            p = gated(p, wanted) if primitive.selective else p
            with_scale = primitive.scaled(p, scales[o])
            given = known[o] if known else None
            y, stats = primitive.apply(p if with_scale is None else with_scale, x, stride, given, axis_name)
            outputs.append(layers.scale_channels(y, scales[o]) if with_scale is None else y)
            seen.append(tuple(layers.Known(*pair) for pair in stats))
        return functools.reduce(jnp.add, outputs), tuple(seen)

    mixture = together(operations, none, stride, axis_name)

    def stage(params: Any, weights: Array, x: Array, stats: Any) -> tuple[Array, Any]:
        del stats
        return mixture(params, weights, x), ()

    chosen = jax.checkpoint(stage) if remat else stage
    return Edge(alone, lambda slots: chosen)


def path_edge(operations: Sequence[Primitive], stride: int, axis_name: str | None, given: bool) -> Edge:
    """One operation of an edge, chosen by an int32 index; the others are not computed.

    Statistics have the form of `edge_stats`; `given` says whether to normalise by them or by the batch.
    """

    def branch(o: int) -> Callable[[Any, Array, Any, Array | None], tuple[Array, Any]]:
        def run(params: Any, x: Array, stats: Any, wanted: Array | None) -> tuple[Array, Any]:
            own = stats[o] if given else None
            p = gated(params[o], wanted) if operations[o].selective else params[o]
            y, seen = operations[o].apply(p, x, stride, own, axis_name)
            return y, [seen if other == o else s for other, s in enumerate(stats)]

        return run

    branches = [branch(o) for o in range(len(operations))]

    def alone(params: Any, operation: Array, x: Array, stats: Any, wanted: Array | None = None) -> tuple[Array, Any]:
        return lax.switch(operation, branches, params, x, stats, wanted)

    together = chosen(operations, stride, axis_name, given)
    return Edge(alone, lambda slots: together)


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
    wanted: Array | None = None,
) -> tuple[Array, Any]:
    """Adds the output of every edge to the node it ends in.

    inputs: [I, B, H, W, C] that edges start from, or None where they start from `nodes` themselves, whose edges must
    then be ordered so that a node is complete before it is read. nodes: [N, B, h, w, C]. edges: (source, target).
    params, selection, stats: with a leading axis E. wanted: as of `Context`; the form `batch` always computes them.
    Returns the nodes and the statistics [E, ...].
    """
    if form == "scan":
        return scan_edges(edge.alone, edges, inputs, nodes, params, selection, stats, wanted)
    return run_stages(edge.together, inputs, nodes, edges, params, selection, stats)


def scan_edges(
    edge: Alone,
    edges: Sequence[tuple[int, int]],
    inputs: Array | None,
    nodes: Array,
    params: Any,
    selection: Array,
    stats: Any,
    wanted: Array | None = None,
    start: Array | None = None,
) -> tuple[Array, Any]:
    """`run_edges` in the form `scan`. start: int32 [], how many edges at the beginning are left out; None is none.

    Of those that are left out, statistics are zero.
    """
    return _scan_edges(edge, tuple(edges), inputs, nodes, params, selection, stats, wanted, start)


def _scan(
    edge: Alone,
    edges: tuple[tuple[int, int], ...],
    inputs: Array | None,
    nodes: Array,
    params: Any,
    selection: Array,
    stats: Any,
    wanted: Array | None,
    start: Array | None,
) -> tuple[Array, Any]:
    nodes, seen = _run(edge, edges, inputs, nodes, params, selection, stats, start)
    return nodes, () if _mixture(selection) else seen


def _mixture(selection: Array) -> bool:
    """Or one chosen operation an edge."""
    return bool(jnp.issubdtype(selection.dtype, jnp.floating))


def _run(
    edge: Alone,
    edges: tuple[tuple[int, int], ...],
    inputs: Array | None,
    nodes: Array,
    params: Any,
    selection: Array,
    stats: Any,
    start: Array | None,
) -> tuple[Array, Any]:
    def body(nodes: Array, slot: Any) -> tuple[Array, Any]:
        (source, target), p, s, given = slot
        p = materialised(p)
        y, seen = edge(p, s, _at(nodes if inputs is None else inputs, source), given)
        return _add_at(nodes, target, y), seen

    return _scan_from(start, body, nodes, (_ends(edges), params, selection, stats))


def _scan_from(
    start: Array | None,
    body: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    slots: Any,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """`lax.scan` without the slots before `start`, of which the outputs are zero."""
    if start is None:
        return lax.scan(body, carry, slots, reverse=reverse)
    count = len(jax.tree.leaves(slots)[0])
    body = jax.jit(body, inline=True)  # asked for its shapes and then for its operations, it is traced once

    def at(i: Array) -> Any:
        return jax.tree.map(lambda leaf: _at(leaf, i), slots)

    outputs = jax.eval_shape(lambda carry: body(carry, at(start))[1], carry)
    outputs = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), outputs)

    def turn(i: Array, state: Any) -> Any:
        carry, outputs = state
        i = count - 1 - (i - start) if reverse else i
        carry, output = body(carry, at(i))
        return carry, jax.tree.map(lambda rows, row: _put(rows, i, row), outputs, output)

    return lax.fori_loop(start, count, turn, (carry, outputs))


@functools.partial(jax.jit, static_argnums=0)
def _edge_by_rules(edge: Alone, p: Any, s: Array, x: Array, given: Any) -> tuple[Array, Any]:
    """The edge by the forward rules of what it consists of, not by the operations themselves.

    These have no forward-mode derivative, which a second-order hypergradient takes of a forward pass. Compiled for
    itself, it is traced once for all cells of one size.
    """
    y, _, seen = _edge_vjp(edge, p, s, x, given, None)
    return y, seen


@functools.partial(jax.jit, static_argnums=0)
def _edge_gradient(edge: Alone, p: Any, s: Array, x: Array, given: Any, wanted: Array | None, g: Array) -> Any:
    """Gradients of the parameters, of the weights (None for a chosen operation) and of the input."""
    return _edge_vjp(edge, p, s, x, given, wanted)[1](g)


def _scan_edges_forward(
    edge: Alone,
    edges: tuple[tuple[int, int], ...],
    inputs: Array | None,
    nodes: Array,
    params: Any,
    selection: Array,
    stats: Any,
    wanted: Array | None,
    start: Array | None,
) -> tuple[tuple[Array, Any], Any]:
    by_rules = functools.partial(_edge_by_rules, edge)
    nodes, seen = _run(by_rules, edges, inputs, nodes, params, selection, stats, start)
    told, needed = ((), seen) if _mixture(selection) else (seen, stats)
    return (nodes, told), (inputs, nodes, params, selection, needed, wanted, start)


def _edge_vjp(
    edge: Alone, p: Any, s: Array, x: Array, given: Any, wanted: Array | None
) -> tuple[Array, Callable[[Array], Any], Any]:
    """(output, its gradient -> (to p, to s or None, to x), statistics); a chosen operation has no gradient."""
    if _mixture(s):
        return jax.vjp(lambda p, s, x: edge(p, s, x, given, wanted), p, s, x, has_aux=True)
    y, pull, seen = jax.vjp(lambda p, x: edge(p, s, x, given, wanted), p, x, has_aux=True)

    def with_none(g: Array) -> Any:
        to_p, to_x = pull(g)
        return to_p, None, to_x

    return y, with_none, seen


def _scan_edges_backward(
    edge: Alone, edges: tuple[tuple[int, int], ...], residuals: Any, cotangents: Any
) -> tuple[Any, ...]:
    """The edges in reverse, each computed again from its source, which by now is complete.

    The automatic rule would keep every activation of every edge and, for each edge, add an array of all nodes to the
    gradient; here a step touches two nodes of it. Statistics carry no gradient; those of a mixture are kept, so that
    no sum over the batch, for which devices wait for each other, is taken a second time.
    """
    inputs, nodes, params, selection, stats, wanted, start = residuals
    sources = nodes if inputs is None else inputs

    def body(gradients: tuple[Array | None, Array], slot: Any) -> tuple[Any, Any]:
        (source, target), p, s, given = slot
        to_inputs, to_nodes = gradients
        p, x, g = materialised(p), _looked_up(sources, source), _looked_up(to_nodes, target)
        dp, ds, dx = _edge_gradient(edge, p, s, x, given, wanted, g)
        if to_inputs is None:
            return (None, _add_at(to_nodes, source, dx)), (dp, ds)
        return (_add_at(to_inputs, source, dx), to_nodes), (dp, ds)

    carry = (None if inputs is None else jnp.zeros_like(inputs), cotangents[0])
    slots = (_ends(edges), params, selection, stats)
    (to_inputs, to_nodes), (dp, ds) = _scan_from(start, body, carry, slots, reverse=True)
    return to_inputs, to_nodes, dp, ds, None, None, None


_scan_edges = jax.custom_vjp(_scan, nondiff_argnums=(0, 1))
_scan_edges.defvjp(_scan_edges_forward, _scan_edges_backward)


def _ends(edges: Sequence[tuple[int, int]]) -> tuple[Array, Array]:
    sources, targets = zip(*edges, strict=True)
    return jnp.array(sources, jnp.int32), jnp.array(targets, jnp.int32)


def _at(array: Array, index: Array) -> Array:
    return lax.dynamic_index_in_dim(array, index, 0, keepdims=False, allow_negative_indices=False)


def _put(array: Array, index: Array, value: Array) -> Array:
    return lax.dynamic_update_index_in_dim(array, value, index, 0, allow_negative_indices=False)


_looked_up = outlined(_at)


def _add_at(array: Array, index: Array, value: Array) -> Array:
    """array[index] += value.

    An update of a slice is one thread's work on a CPU, and XLA would fuse into it all that `value` is computed from. A
    loop over the images keeps that out: its operand is computed before, by all threads.
    """

    def by_images(array: Array, index: Array, value: Array) -> Array:
        def image(b: Array, array: Array) -> Array:
            b = lax.convert_element_type(b, index.dtype)
            at = (index, b, *[jnp.zeros((), index.dtype)] * (array.ndim - 2))
            old = lax.dynamic_slice(array, at, (1, 1, *array.shape[2:]))
            new = old + lax.dynamic_slice_in_dim(value, b, 1, 0)[None]
            return lax.dynamic_update_slice(array, new, at)

        return lax.fori_loop(0, array.shape[1], image, array)

    def at_once(array: Array, index: Array, value: Array) -> Array:
        return _put(array, index, _at(array, index) + value)

    return by_platform(array, index, value, cpu=by_images, default=at_once)
