"""The supernet of the DARTS space (Liu et al., "DARTS: Differentiable Architecture Search", 2019, sections 2.1-2.2).

Every edge of every cell holds all operations. Batch norm in the cells has no affine part, or its scale would be
confounded with the mixture's weights, and always uses batch statistics in the mixture.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnas.base import Arch, Array, Aux, Context, Key, PyTree, Skeleton, Supernet, Weights
from jaxnas.networks.blocks import conv_bn_init, draw, fresh_keys
from jaxnas.ops import layers
from jaxnas.ops.gated import gated
from jaxnas.spaces.darts import DARTS_OPERATIONS, CellShape, darts_cells, darts_space, edge_table
from jaxnas.supernets import edges as mixed
from jaxnas.supernets.kept import between, checked_keep, kept_edges, narrowed, widened
from jaxnas.supernets.stages import apart

Pass = Literal["mixture", "path", "path, statistics given"]


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
    parameters and statistics stay float32. Equal cells that follow each other are one loop in the form `scan`;
    parameters of an edge are stacked over those cells and over the edges of a cell, [L, E, ...].

    keep: cell kind -> bool [S, O], the operations that each edge still has (`jaxnas.search.weakest_by_alpha`); all by
    default. The others have no parameters, and are not computed in the mixture, whose weights of them are not read. A
    path that takes one of them adds zeros.
    """
    operations = tuple(operations)
    if nodes < 1:
        raise ValueError(f"nodes must be at least 1, got {nodes}")
    form = mixed.checked_form(skeleton, form, remat)
    primitives = mixed.primitives(operations, normed_pools=True)
    none = operations.index("none") if "none" in operations else None
    space = darts_space(nodes, operations)
    cells = darts_cells(skeleton, nodes)
    table = [(source, target) for target, source in edge_table(nodes)]
    groups = _groups(nodes)
    strides = {"plain": 1, "strided": 2}
    runs = _runs(cells)
    kept = checked_keep(keep, dict.fromkeys(groups, (len(table), len(operations))), none)

    def init_run(key: Key, run: list[CellShape]) -> PyTree:
        outside, *rest = jax.random.split(key, 1 + len(groups[run[0].kind]))

        def preprocess(key: Key) -> PyTree:
            keys = fresh_keys(key)
            return {
                "preprocess0": [
                    (layers.factorised_reduce_init if cell.input_reduced else pointwise_init)(
                        next(keys), cell.inputs[0], cell.channels
                    )
                    for cell in run
                ],
                "preprocess1": [pointwise_init(next(keys), cell.inputs[1], cell.channels) for cell in run],
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
                "head": layers.dense_init(next(keys), nodes * cells[-1].channels, skeleton.num_classes),
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

    def initial_edge_stats(run: list[CellShape]) -> PyTree:
        return {
            name: jax.tree.map(
                functools.partial(_stacked, (len(run), len(slots))),
                mixed.edge_stats(primitives, run[0].channels, strides[name]),
            )
            for name, slots in groups[run[0].kind].items()
            if slots
        }

    @functools.cache  # one function for all passes and cells, so that its rules are traced once
    def edge_of(stride: int, pass_: Pass, axis_name: str | None) -> mixed.Edge:
        if pass_ == "mixture":
            return mixed.mixed_edge(primitives, none, stride, axis_name, remat)
        return mixed.path_edge(primitives, stride, axis_name, given=pass_ == "path, statistics given")

    def ends_of(kind: str, name: str) -> list[tuple[int, int]]:
        """Of a group of edges; nodes follow the inputs in one buffer where the cell does not reduce."""
        if kind == "normal":
            return [(source, target + 2) for source, target in table]
        return [(table[s][0] - (0 if name == "strided" else 2), table[s][1]) for s in groups[kind][name]]

    @functools.cache
    def kept_of(kind: str, name: str, axis_name: str | None) -> Callable[..., Array]:
        there = (kept or {})[kind][np.array(groups[kind][name])]
        return kept_edges(form, primitives, none, there, ends_of(kind, name), strides[name], axis_name, remat)

    def cell_edges(
        kind: str,
        pass_: Pass,
        context: Context,
        params: PyTree,
        selection: Array,
        stats: Any,
        s0: Array,
        s1: Array,
    ) -> tuple[Array, Any]:
        """The edges of one cell from its two preprocessed inputs: (output [B, h, w, nodes * C], statistics)."""

        def run(name: str, inputs: Array | None, states: Array) -> tuple[Array, Any]:
            chosen = selection if kind == "normal" else selection[jnp.array(groups[kind][name])]
            if kept is not None and pass_ == "mixture":
                edges = kept_of(kind, name, context.axis_name)
                return edges(inputs, states, params[name], chosen, context.wanted), ()
            edge, ends = edge_of(strides[name], pass_, context.axis_name), ends_of(kind, name)
            return mixed.run_edges(form, edge, inputs, states, ends, params[name], chosen, stats[name], context.wanted)

        inputs = jnp.stack([s0, s1])
        if kind == "normal":
            states = jnp.concatenate([inputs, jnp.zeros((nodes, *s0.shape), s0.dtype)])
            states, seen = run("plain", None, states)
            return jnp.concatenate(list(states[2:]), -1), {"plain": seen}
        size = (-(-s0.shape[1] // 2), -(-s0.shape[2] // 2))
        states = jnp.zeros((nodes, s0.shape[0], *size, s0.shape[3]), s0.dtype)
        seen = {}
        for name, slots in groups["reduce"].items():
            if slots:
                states, seen[name] = run(name, inputs if name == "strided" else None, states)
        return jnp.concatenate(list(states), -1), seen

    def run_forward(
        run: list[CellShape],
        pass_: Pass,
        context: Context,
        params: PyTree,
        selection: Array,
        stats: Any,
        s0: Array,
        s1: Array,
    ) -> tuple[Array, Array, Any]:
        """Equal cells in turn, as one loop in the form `scan`: (the outputs of the last two cells, statistics).

        The first preprocessing of a cell after the first reads the input of the cell before, so it is done there, and
        the first cell's before the loop: that one may reduce. Statistics have a leading axis of cells; of
        "preprocess0" they are those of the cell after, the last ones of nothing.
        """
        first = gated(params["preprocess0"][0], context.wanted)
        given = stats["preprocess"]
        looped = form == "scan" and len(run) > 1  # in a loop, what is kept for the backward pass has to be copied
        reduces = run[0].input_reduced
        p0 = (layers.factorised_reduce if reduces else layers.pointwise)(jax.nn.relu(s0), first)
        p0, seen_first = layers.batch_norm(p0, None, given and given["first"], context.axis_name)

        def preprocess(x: Array, kernel: Array, stats: Any) -> tuple[Array, Any]:
            y = layers.pointwise(jax.nn.relu(x), gated(kernel, context.wanted))
            return layers.batch_norm(y, None, stats, context.axis_name)

        # The inputs of the first cell may have fewer channels than its output has, or more: zeros fill up.
        width = max(s1.shape[-1], nodes * run[0].channels) if looped else 0

        def cell(carry: tuple[Array, Array, Array], slot: Any) -> tuple[Any, Any]:
            p0, _, s1 = carry
            edges, kernel1, next_kernel0, edge_given, given = slot
            p1, seen1 = preprocess(s1, kernel1, given and given["preprocess1"])
            out, seen_edges = cell_edges(run[0].kind, pass_, context, edges, selection, edge_given, p0, p1)
            seen = {"preprocess1": seen1, "edges": seen_edges}
            if next_kernel0 is None:
                return (p0, s1, out), seen
            next_p0, seen["preprocess0"] = preprocess(s1, next_kernel0, given and given["preprocess0"])
            return (next_p0, s1, _widened(out, width, -1) if looped else out), seen

        each = None if given is None else {name: given[name] for name in given if name != "first"}
        if looped:
            kernels = [_widened(kernel, width, 0) for kernel in params["preprocess1"]]
            following = [_widened(kernel, width, 0) for kernel in params["preprocess0"][1:]]
            following.append(jnp.zeros_like(following[-1]))
            slots = (params["edges"], jnp.stack(kernels), jnp.stack(following), stats["edges"], each)
            s1 = _widened(s1, width, -1)
            (_, s0, s1), seen = lax.scan(cell, (p0, s1, s1), slots)
        else:
            stacks, tree = jax.tree.flatten((params["edges"], stats["edges"], each))
            carry, told = (p0, s0, s1), []
            for c, *leaves in zip(range(len(run)), *map(apart, stacks), strict=True):
                edges, edge_given, own = jax.tree.unflatten(tree, leaves)
                next_kernel0 = params["preprocess0"][c + 1] if c + 1 < len(run) else None
                carry, cell_seen = cell(carry, (edges, params["preprocess1"][c], next_kernel0, edge_given, own))
                told.append(cell_seen)
            if len(run) > 1:
                told[-1]["preprocess0"] = layers.initial_stats(run[0].channels)
            _, s0, s1 = carry
            seen = jax.tree.map(lambda *leaves: jnp.stack(leaves), *told)
        seen_edges = seen.pop("edges")
        return (
            s0,
            s1[..., : nodes * run[0].channels],
            {"preprocess": {"first": seen_first, **seen}, "edges": seen_edges},
        )

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
        seen = []
        for i, run in enumerate(runs):
            kind = run[0].kind
            if given is not None:
                stats = given["runs"][i]
            else:
                empty = dict.fromkeys(groups[kind], ())
                stats = {"preprocess": None, "edges": empty if pass_ == "mixture" else initial_edge_stats(run)}
            s0, s1, run_seen = run_forward(run, pass_, context, params["runs"][i], selections[kind], stats, s0, s1)
            seen.append(run_seen)
        features = jnp.mean(layers.widened(s1), (1, 2))
        return layers.dense(features, params["head"]), Aux({"stem": stem, "runs": seen})

    def apply(params: PyTree, weights: Weights, x: Array, context: Context) -> tuple[Array, Aux]:
        if not isinstance(context.bn, str):
            raise ValueError("a mixture is normalised by batch statistics: give Context(bn='batch')")
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

    return Supernet(init, apply, apply_path, used)


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
        "normal": {"plain": list(range(len(sources)))},
        "reduce": {
            "strided": [slot for slot, source in enumerate(sources) if source < 2],
            "plain": [slot for slot, source in enumerate(sources) if source >= 2],
        },
    }


def _runs(cells: list[CellShape]) -> list[list[CellShape]]:
    """Equal cells that follow each other."""
    return [list(run) for _, run in itertools.groupby(cells, key=lambda cell: (cell.kind, cell.channels, cell.size))]


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


def _stacked(leading: tuple[int, ...], leaf: Array) -> Array:
    return jnp.broadcast_to(leaf, (*leading, *leaf.shape))


def _widened(array: Array, size: int, axis: int) -> Array:
    """The array with zeros at the end of an axis, which then has the given size."""
    pads = [(0, 0)] * array.ndim
    pads[axis] = (0, size - array.shape[axis])
    return array if array.shape[axis] == size else jnp.pad(array, pads)


def pointwise_init(key: Key, channels_in: int, channels_out: int) -> Array:
    """The kernel of a 1x1 convolution, [C_in, C_out]."""
    return layers.conv_init(key, 1, channels_in, channels_out)
