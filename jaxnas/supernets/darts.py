"""The supernet of the DARTS space (Liu et al., "DARTS: Differentiable Architecture Search", 2019, sections 2.1-2.2).

Every edge of every cell holds all operations. Batch norm in the cells has no affine part, or its scale would be
confounded with the mixture's weights, and always uses batch statistics in the mixture.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnas.base import Arch, Array, Aux, Context, Key, Network, PyTree, Skeleton, Supernet, Weights
from jaxnas.checks import checked_supernet
from jaxnas.networks.blocks import conv_bn_init, draw, fresh_keys
from jaxnas.networks.darts import darts_network, make_frame
from jaxnas.ops import layers
from jaxnas.ops.gated import gated
from jaxnas.ops.primitives import named
from jaxnas.spaces.darts import DARTS_OPERATIONS, CellShape, darts_cells, darts_space, edge_table
from jaxnas.supernets import edges as mixed
from jaxnas.supernets.extracting import as_network, stacked, taken
from jaxnas.supernets.kept import between, checked_keep, kept_edge, kept_edges, narrowed, present, widened
from jaxnas.supernets.stages import apart

Pass = Literal["mixture", "path", "path, statistics given"]


class _Evaluation(NamedTuple):
    """What all cells share. selection: cell kind -> group of edges -> their weights [E, O] or operations [E]."""

    pass_: Pass
    context: Context
    selection: Mapping[str, Mapping[str, Array]]


def darts_supernet(
    skeleton: Skeleton,
    nodes: int = 4,
    operations: Sequence[str] = DARTS_OPERATIONS,
    *,
    keep: Mapping[str, Any] | None = None,
    form: mixed.Form | None = None,
    remat: bool = False,
    dtype: Any = jnp.float32,
) -> Supernet:
    """The supernet over `darts_space(nodes, operations)`.

    The paper's search network is `Skeleton(channels=16, cells=8, image_shape=(32, 32, 3), num_classes=10)`. form: how
    the edges of a cell are run, by default what suits the platform. remat: in the batch form, compute the edges again
    in the backward pass instead of keeping their activations; the scan form always does. dtype: of the activations;
    parameters and statistics stay float32. In the form `scan` equal cells that follow each other are one loop, with the
    reduction cell before them. Parameters of an edge are stacked over equal cells and over the edges of a cell, those
    from a cell's inputs first, [L, E, ...].

    keep: cell kind -> bool [S, O], the operations that each edge still has (`jaxnas.search.weakest_by_alpha`); all by
    default. The others have no parameters, and are not computed in the mixture, whose weights of them are not read. A
    path that takes one of them adds zeros.
    """
    operations = tuple(operations)
    if nodes < 1:
        raise ValueError(f"nodes must be at least 1, got {nodes}")
    form = mixed.checked_form(skeleton, form, remat)
    primitives = named(operations, pool_norms=True)
    none = operations.index("none") if "none" in operations else None
    space = darts_space(nodes, operations)
    cells = darts_cells(skeleton, nodes)
    table = [(source, target) for target, source in edge_table(nodes)]
    groups = _groups(nodes)
    strides = {"plain": 1, "strided": 2}
    runs = _runs(cells)
    loops = _loops(runs, merged=bool(groups["reduce"]["plain"]))
    kept = checked_keep(keep, dict.fromkeys(groups, (len(table), len(operations))), none)

    def init_run(key: Key, run: list[CellShape]) -> PyTree:
        outside, *rest = jax.random.split(key, 1 + len(groups[run[0].kind]))

        def preprocess(key: Key) -> PyTree:
            keys = fresh_keys(key)
            return {
                "preprocess": [
                    (
                        (layers.factorised_reduce_init if cell.input_reduced else pointwise_init)(
                            next(keys), cell.inputs[0], cell.channels
                        ),
                        pointwise_init(next(keys), cell.inputs[1], cell.channels),
                    )
                    for cell in run
                ]
            }

        stacked = {
            name: draw(
                group_key,
                functools.partial(mixed.edge_init, primitives, channels=run[0].channels, stride=strides[name]),
                (len(run), len(slots)),
            )
            for (name, slots), group_key in zip(groups[run[0].kind].items(), rest, strict=True)
            if slots
        }
        return {**draw(outside, preprocess), "edges": stacked}

    def init_whole(key: Key) -> PyTree:
        outside, *rest = jax.random.split(key, 1 + len(runs))

        def frame(key: Key) -> PyTree:
            keys = fresh_keys(key)
            return {
                "stem": conv_bn_init(next(keys), 3, skeleton.image_shape[2], 3 * skeleton.channels),
                "classifier": layers.dense_init(next(keys), nodes * cells[-1].channels, skeleton.num_classes),
            }

        return {
            **draw(outside, frame),
            "runs": [init_run(k, run) for k, run in zip(rest, runs, strict=True)],
        }

    @functools.cache
    def shapes() -> PyTree:
        return jax.eval_shape(init_whole, jax.random.key(0))

    rows = None if kept is None else _rows(shapes(), runs, groups, kept)

    def init(key: Key) -> PyTree:
        return init_whole(key) if rows is None else narrowed(init_whole(key), rows)

    def initial_stats(run: list[CellShape], pass_: Pass) -> PyTree:
        """In the form of those seen: of the edges before any batch, of which a mixture has none; no others."""
        edges: dict[str, Any] = {name: () for name, slots in groups[run[0].kind].items() if slots}
        if pass_ != "mixture":
            for name in edges:
                one = mixed.edge_stats(primitives, run[0].channels, strides[name])
                edges[name] = _repeated(len(run), _repeated(len(groups[run[0].kind][name]), one))
        return {"preprocess": [(None, None)] * len(run), "edges": edges}

    @functools.cache  # one function for all passes and cells, so that its rules are traced once
    def edge_of(stride: int, pass_: Pass, axis_name: str | None) -> mixed.Edge:
        if pass_ == "mixture":
            return mixed.mixed_edge(primitives, none, stride, axis_name, remat)
        return mixed.path_edge(primitives, stride, axis_name, given=pass_ == "path, statistics given")

    def ends_of(kind: str, name: str) -> list[tuple[int, int]]:
        """Of a group of edges; nodes follow the inputs in one buffer where the cell does not reduce."""
        ends = [table[slot] for slot in groups[kind][name]]
        if kind == "normal":
            return [(source, target + 2) for source, target in ends]
        return [(source - (0 if name == "strided" else 2), target) for source, target in ends]

    @functools.cache
    def kept_of(kind: str, name: str, axis_name: str | None) -> Callable[..., Array]:
        there = (kept or {})[kind][np.array(groups[kind][name])]
        return kept_edges(form, primitives, none, there, ends_of(kind, name), strides[name], axis_name, remat)

    @functools.cache
    def kept_alone(held: tuple[int, ...], axis_name: str | None) -> mixed.Alone:
        return kept_edge([primitives[o] for o in held], 1, axis_name)

    def run_group(
        now: _Evaluation, kind: str, name: str, params: PyTree, stats: Any, inputs: Array | None, states: Array
    ) -> tuple[Array, Any]:
        """One group of edges of one cell."""
        own, chosen, context = params[name], now.selection[kind][name], now.context
        if kept is not None and now.pass_ == "mixture":
            return kept_of(kind, name, context.axis_name)(inputs, states, own, chosen, context.wanted), ()
        edge, ends = edge_of(strides[name], now.pass_, context.axis_name), ends_of(kind, name)
        return mixed.run_edges(form, edge, inputs, states, ends, own, chosen, stats[name], context.wanted)

    def reduced(inputs: Array) -> Array:
        """The nodes of a reduction cell before its edges."""
        _, batch, height, width, channels = inputs.shape
        return jnp.zeros((nodes, batch, -(-height // 2), -(-width // 2), channels), inputs.dtype)

    def run_cell(now: _Evaluation, kind: str, params: PyTree, stats: Any, inputs: Array) -> tuple[Array, Any]:
        """The edges of one cell from its two preprocessed inputs: (output [B, h, w, nodes * C], statistics)."""
        if kind == "normal":
            states = jnp.concatenate([inputs, jnp.zeros((nodes, *inputs.shape[1:]), inputs.dtype)])
            states, seen = run_group(now, kind, "plain", params, stats, None, states)
            return layers.joined(states, 2), {"plain": seen}
        states, told = reduced(inputs), {}
        for name, slots in groups[kind].items():
            if slots:
                sources = inputs if name == "strided" else None
                states, told[name] = run_group(now, kind, name, params, stats, sources, states)
        return layers.joined(states, 0), told

    def preprocess(context: Context, x: Array, params: PyTree, stats: Any) -> tuple[Array, Any]:
        """What a cell makes of one of its two inputs; by two kernels it reduces it."""
        convolve = layers.factorised_reduce if isinstance(params, dict) else layers.pointwise
        return layers.batch_norm(
            convolve(jax.nn.relu(x), gated(params, context.wanted)), None, stats, context.axis_name
        )

    def one_by_one(now: _Evaluation, params: list[PyTree], stats: list[Any], s0: Array, s1: Array) -> Any:
        """The cells of some runs in turn: (the outputs of the last two, the statistics of each run)."""
        told = []
        for own, given in zip(params, stats, strict=True):
            kind = "reduce" if "strided" in own["edges"] else "normal"
            stacks, tree = jax.tree.flatten((own["edges"], given["edges"]))
            norms, seen = [], []
            for pair, given_pair, *leaves in zip(
                own["preprocess"], given["preprocess"], *map(apart, stacks), strict=True
            ):
                edges, edge_given = jax.tree.unflatten(tree, leaves)
                inputs, norm = zip(
                    *map(functools.partial(preprocess, now.context), (s0, s1), pair, given_pair), strict=True
                )
                out, edge_seen = run_cell(now, kind, edges, edge_given, jnp.stack(inputs))
                s0, s1 = s1, out
                norms.append(norm)
                seen.append(edge_seen)
            told.append({"preprocess": norms, "edges": stacked(seen)})
        return s0, s1, told

    def plain_edges(now: _Evaluation, params: list[PyTree], stats: list[Any]) -> tuple[mixed.Alone, Any]:
        """Of the cells of one loop: (the edge, its parameters, weights and statistics [L, E, ...] and start [L])."""
        count, axis_name, start = len(params[-1]["preprocess"]), now.context.axis_name, None

        def own(r: int, cells: int, kind: str) -> tuple[PyTree, Array, Any]:
            return (
                params[r]["edges"]["plain"],
                _repeated(cells, now.selection[kind]["plain"]),
                stats[r]["edges"]["plain"],
            )

        edges = own(-1, count, "normal")
        kinds = ["normal"] * count
        if len(params) > 1:
            edges = jax.tree.map(_after, own(0, 1, "reduce"), edges)
            kinds = ["reduce", *kinds]
            start = jnp.array([len(groups["reduce"]["strided"]), *[0] * count], jnp.int32)
        if kept is None or now.pass_ != "mixture":
            return edge_of(1, now.pass_, axis_name).alone, (*edges, start)
        there = np.zeros((len(kinds), len(table), len(operations)), bool)
        for cell, kind in zip(there, kinds, strict=True):
            slots = groups[kind]["plain"]
            cell[len(table) - len(slots) :] = kept[kind][np.array(slots)]
        held = present(there.reshape(-1, len(operations)), none)
        own_kept = [edges[0][o] for o in held], edges[1][..., np.array(held)], jnp.array(there[..., held])
        return kept_alone(tuple(held), axis_name), (*own_kept, start)

    def looped(now: _Evaluation, params: list[PyTree], stats: list[Any], s0: Array, s1: Array) -> Any:
        """The same as one loop over all cells whose plain edges are of one size, compiled once.

        The first may be a reduction cell: its turn begins after the edges that it has no plain ones of. A turn ends
        with what the next two cells read of its output, so that the first one's inputs come before the loop.
        """
        kernels, given = ([pair for own in parts for pair in own["preprocess"]] for parts in (params, stats))
        prepare = functools.partial(preprocess, now.context)
        (p0, norm0), (p1, norm1) = map(prepare, (s0, s1), kernels[0], given[0])
        following, norm2 = prepare(s1, kernels[1][0], given[1][0])
        inputs, strided = jnp.stack([p0, p1]), ()
        if len(params) == 1:
            states = jnp.concatenate([inputs, jnp.zeros((nodes, *p0.shape), p0.dtype)])
        else:
            edges, edge_given = jax.tree.map(lambda leaf: leaf[0], (params[0]["edges"], stats[0]["edges"]))
            states, strided = run_group(now, "reduce", "strided", edges, edge_given, inputs, reduced(inputs))
            states = jnp.concatenate([jnp.zeros((2, *states.shape[1:]), states.dtype), states])
        alone, turns = plain_edges(now, params, stats)
        ends, count = ends_of("normal", "plain"), len(params[-1]["preprocess"])

        def later(pairs: list[Any], side: int, nothing: Any) -> Any:
            """What a turn prepares: input 1 of the next cell or input 0 of the one after it; nothing at the end."""
            own = [pair[side] for pair in pairs[2 - side :]]
            return stacked(own + [nothing] * (len(pairs) - len(own)))

        initial = None if given[0][0] is None else layers.initial_stats(p0.shape[-1])
        ahead = [(later(kernels, side, jnp.zeros_like(kernels[-1][1])), later(given, side, initial)) for side in (0, 1)]

        def cell(carry: Any, slot: Any) -> Any:
            states, p0, _, s1 = carry
            (edges, chosen, known, start), ahead = slot
            wanted = now.context.wanted
            states, seen = mixed.scan_edges(alone, ends, None, states, edges, chosen, known, wanted, start)
            out = layers.joined(states, 2)
            (following, norm0), (p1, norm1) = (prepare(out, *each) for each in ahead)
            states = jnp.concatenate([jnp.stack([p0, p1]), jnp.zeros_like(states[2:])])
            return (states, following, s1, out), (seen, norm0, norm1)

        last = jnp.zeros((*states.shape[1:-1], nodes * states.shape[-1]), states.dtype)
        (_, _, s0, s1), (seen, *norms) = lax.scan(cell, (states, following, last, last), (turns, ahead))
        norms0, norms1 = (
            [jax.tree.map(lambda leaf, i=i: leaf[i], part) for i in range(len(kernels))] for part in norms
        )
        pairs = [(norm0, norm1), (norm2, norms1[0]), *zip(norms0, norms1[1:], strict=False)][: len(kernels)]
        told = [{"preprocess": pairs[-count:], "edges": {"plain": jax.tree.map(lambda leaf: leaf[-count:], seen)}}]
        if len(params) > 1:
            plain = jax.tree.map(lambda leaf: leaf[:1, len(groups["reduce"]["strided"]) :], seen)
            told = [{"preprocess": pairs[:1], "edges": {"strided": _repeated(1, strided), "plain": plain}}, *told]
        return s0, s1, told

    def forward(
        params: PyTree,
        selections: dict[str, Array],
        x: Array,
        context: Context,
        pass_: Pass,
    ) -> tuple[Array, Aux]:
        given = None if isinstance(context.bn, str) else context.bn
        params = params if rows is None else widened(params, rows, shapes())
        x = layers.conv(x.astype(dtype), params["stem"]["kernel"])
        x, stem = layers.batch_norm(x, params["stem"]["norm"], given and given["stem"], context.axis_name)
        s0 = s1 = x
        selection = {
            kind: {name: selections[kind][np.array(slots)] for name, slots in own.items() if slots}
            for kind, own in groups.items()
        }
        now, seen = _Evaluation(pass_, context, selection), []
        stats = [initial_stats(run, pass_) for run in runs] if given is None else given["runs"]
        for loop in loops:
            several = form == "scan" and sum(len(runs[r]) for r in loop) > 1
            parts = ([params["runs"][r] for r in loop], [stats[r] for r in loop])
            s0, s1, told = (looped if several else one_by_one)(now, *parts, s0, s1)
            seen += told
        features = jnp.mean(layers.widened(s1), (1, 2))
        return layers.dense(features, params["classifier"]), Aux({"stem": stem, "runs": seen})

    def apply(params: PyTree, weights: Weights, x: Array, context: Context) -> tuple[Array, Aux]:
        return forward(params, weights, x, context, "mixture")

    def operation_of_slot(arch: Arch) -> dict[str, Array]:
        return {kind: jnp.argmax(w, -1) for kind, w in space.one_hot(arch).items()}

    def apply_path(params: PyTree, arch: Arch, x: Array, context: Context) -> tuple[Array, Aux]:
        pass_: Pass = "path" if isinstance(context.bn, str) else "path, statistics given"
        return forward(params, operation_of_slot(arch), x, context, pass_)

    def used(arch: Arch) -> PyTree:
        chosen = operation_of_slot(arch)
        everywhere = jax.tree.map(lambda _: jnp.array(True), shapes())
        for run, params, result in zip(runs, shapes()["runs"], everywhere["runs"], strict=True):
            for name, slots in groups[run[0].kind].items():
                if not slots:
                    continue
                operation = chosen[run[0].kind][jnp.array(slots)]
                result["edges"][name] = [
                    jax.tree.map(lambda leaf, o=o, op=operation: (op == o).reshape(1, -1, *[1] * (leaf.ndim - 2)), p)
                    for o, p in enumerate(params["edges"][name])
                ]
        return everywhere if rows is None else narrowed(everywhere, rows)

    def network(arch: Arch) -> Network:
        return darts_network(arch, skeleton, space, pool_norms=True)

    def by_cells(trees: PyTree, arch: Arch, preprocessed: Callable[[Any], Any]) -> list[PyTree]:
        """Parameters or statistics of all runs -> those of the derived network's cells; equal cells are stacked."""
        genotype, each = space.to_genotype(arch), []
        for run, own in zip(runs, trees, strict=True):
            kind = run[0].kind
            places = {slot: (name, i) for name, slots in groups[kind].items() for i, slot in enumerate(slots)}
            edges = [
                (*places[table.index((source, e // 2))], operations.index(operation))
                for e, (operation, source) in enumerate(genotype[kind])
            ]
            for cell, pair in enumerate(own["preprocess"]):
                chosen = [taken(own["edges"][name][o], cell, i) for name, i, o in edges]
                each.append({"preprocess": tuple(map(preprocessed, pair)), "edges": chosen})
        counts = [count for _, count in make_frame(skeleton, nodes).runs]
        return [stacked(each[end - count : end]) for count, end in zip(counts, np.cumsum(counts), strict=True)]

    def extract(params: PyTree, arch: Arch) -> PyTree:
        whole = params if rows is None else widened(params, rows, shapes())

        def with_norm(kernel: Any) -> PyTree:
            return {"reduce" if isinstance(kernel, dict) else "kernel": kernel, "norm": None}

        cells = by_cells(whole["runs"], arch, with_norm)
        return as_network(network, {"stem": whole["stem"], "cells": cells, "classifier": whole["classifier"]}, arch)

    def extract_stats(stats: Any, arch: Arch) -> Any:
        return {"stem": stats["stem"], "cells": by_cells(stats["runs"], arch, lambda pair: pair)}

    parts = (init, apply, apply_path, used, network, extract, extract_stats)
    return checked_supernet(Supernet(space, *parts, skeleton.image_shape))


def darts_narrowing(
    skeleton: Skeleton,
    after: Mapping[str, Any],
    before: Mapping[str, Any] | None = None,
    nodes: int = 4,
    operations: Sequence[str] = DARTS_OPERATIONS,
) -> Callable[[PyTree], PyTree]:
    """Makes parameters of the supernet that keeps `before` -> those of the one that keeps `after`, a part of it.

    Anything of the form of the parameters is taken over alike, such as momentum. None is all.

    Raises: ValueError where `after` keeps what is gone before.
    """
    none = operations.index("none") if "none" in operations else None
    groups, shape = _groups(nodes), (len(edge_table(nodes)), len(operations))
    every = dict.fromkeys(groups, np.ones(shape, bool))
    new, old = (checked_keep(keep, dict.fromkeys(groups, shape), none) or every for keep in (after, before))
    for kind in groups:
        if (new[kind] & ~old[kind]).any():
            raise ValueError(f"{kind}: operations are to be kept on edges that have not got them any more")
    shapes = jax.eval_shape(darts_supernet(skeleton, nodes, operations).init, jax.random.key(0))
    runs = _runs(darts_cells(skeleton, nodes))
    rows = between(*(_rows(shapes, runs, groups, keep) for keep in (old, new)))
    return lambda tree: narrowed(tree, rows)


def _groups(nodes: int) -> dict[str, dict[str, list[int]]]:
    """The slots of each cell kind that have one stride."""
    sources = [source for _, source in edge_table(nodes)]
    return {
        "normal": {"plain": sorted(range(len(sources)), key=lambda slot: sources[slot] >= 2)},
        "reduce": {
            "strided": [slot for slot, source in enumerate(sources) if source < 2],
            "plain": [slot for slot, source in enumerate(sources) if source >= 2],
        },
    }


def _runs(cells: list[CellShape]) -> list[list[CellShape]]:
    """Equal cells that follow each other."""
    return [list(run) for _, run in itertools.groupby(cells, key=lambda cell: (cell.kind, cell.channels, cell.size))]


def _loops(runs: list[list[CellShape]], merged: bool) -> list[list[int]]:
    """The numbers of the runs, if merged a reduction cell with the normal cells after it."""
    result: list[list[int]] = []
    for r, run in enumerate(runs):
        if merged and r and run[0].kind == "normal" and runs[r - 1][0].kind == "reduce":
            result[-1].append(r)
        else:
            result.append([r])
    return result


def _rows(
    shapes: PyTree, runs: list[list[CellShape]], groups: Mapping[str, Mapping[str, list[int]]], keep: Mapping[str, Any]
) -> PyTree:
    """What of the parameters of all edges is held, as of `narrowed`."""
    rows = jax.tree.map(lambda _: "all", shapes)
    for run, params, result in zip(runs, shapes["runs"], rows["runs"], strict=True):
        kind = run[0].kind
        for name, stacks in params["edges"].items():
            there = keep[kind][np.array(groups[kind][name])]
            result["edges"][name] = [
                jax.tree.map(lambda _, o=o, there=there: np.flatnonzero(there[:, o]), stack)
                for o, stack in enumerate(stacks)
            ]
    return rows


def _repeated(count: int, tree: PyTree) -> PyTree:
    """With a leading axis of so many times the same."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (count, *leaf.shape)), tree)


def _after(short: Array, whole: Array) -> Array:
    """[1, e, ...] with zeros before, as of E edges, before [L, E, ...]."""
    border = [(0, 0)] * whole.ndim
    border[1] = (whole.shape[1] - short.shape[1], 0)
    return jnp.concatenate([jnp.pad(short, border), whole])


def pointwise_init(key: Key, channels_in: int, channels_out: int) -> Array:
    """The kernel of a 1x1 convolution, [C_in, C_out]."""
    return layers.conv_init(key, 1, channels_in, channels_out)
