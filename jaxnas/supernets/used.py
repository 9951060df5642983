"""Which parameters a path of cells depends on, in the frame of DARTS: those that an optimizer may move.

What nothing reads does not matter, be it a node, an input or a whole cell. Nor do the operations on zeros: a node
without an operation is zeros, and so is what reads zeros only. Where batch norms are affine, their offsets make
something of zeros.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Array, PyTree, Skeleton
from jaxnas.spaces.darts import CELL_KINDS
from jaxnas.supernets.cells import Cells
from jaxnas.supernets.executors import Edges, used_edges


def used_by_path(
    skeleton: Skeleton,
    cells: Cells,
    edges: Mapping[str, Edges],
    outputs: Mapping[str, Array],
    *,
    none: int,
    affine: bool = False,
) -> PyTree:
    """`Supernet.used` in the form of the parameters of `cells`.

    edges: kind of cell -> those of the path. outputs: kind -> bool [N], the nodes that make the output. none: the
    number of the operation that gives zeros. affine: whether the batch norms of the cells are.
    """
    shapes = jax.eval_shape(cells.init, jax.random.key(0))
    alive, filled, live = _through(skeleton, cells, edges, outputs, none, affine)
    result = used_by_edges(cells, edges, alive & live[:, None])
    nodes, before = filled.shape[1], jnp.concatenate([jnp.ones((2, filled.shape[1]), bool), filled])  # before: the stem

    def channels(rows: Array, count: int) -> Array:
        """Of nodes [L, N] that hold more than zeros the channels [L, count]; of the stem all, whatever their number."""
        return jnp.repeat(rows, count // nodes, axis=1) if count % nodes == 0 else jnp.ones((len(rows), count), bool)

    start = 0
    for (shape, count), own in zip(cells.frame.runs, result["cells"], strict=True):
        for side, part in enumerate(own["preprocess"]):
            read = (edges[shape.kind].source == side) & (edges[shape.kind].operation != none)
            needed = live[start : start + count] & read.any()
            rows = channels(before[start + side : start + side + count], shape.inputs[side]) & needed[:, None]
            part["norm"] = jax.tree.map(lambda _, needed=needed: needed[:, None], part["norm"])
            kernel = kernel_of(part)
            part[kernel] = jax.tree.map(lambda _, rows=rows: rows[:, :, None], part[kernel])
        start += count
    result["classifier"]["kernel"] = channels(filled[-1:], shapes["classifier"]["kernel"].shape[0])[0, :, None]
    return result


def used_by_edges(cells: Cells, edges: Mapping[str, Edges], alive: Array) -> PyTree:
    """The same where every cell reads both of its inputs and fills every channel that is read.

    alive: bool [L, E], the edges that matter in each of the cells.
    """
    shapes = jax.eval_shape(cells.init, jax.random.key(0))
    result, start = jax.tree.map(lambda _: jnp.array(True), shapes), 0
    for (shape, count), own, given in zip(cells.frame.runs, result["cells"], shapes["cells"], strict=True):
        here = alive[start : start + count]
        own["edges"] = used_edges(cells.layouts[shape.kind], edges[shape.kind], given["edges"], here)
        start += count
    return result


def kernel_of(preprocess: Mapping[str, PyTree]) -> str:
    """The name of the parameters of a cell's input that have its channels on their first axis but that of the cells."""
    return "reduce" if "reduce" in preprocess else "kernel"


def _through(
    skeleton: Skeleton,
    cells: Cells,
    edges: Mapping[str, Edges],
    outputs: Mapping[str, Array],
    none: int,
    affine: bool,
) -> tuple[Array, Array, Array]:
    """Of each of the L cells: the edges that give more than zeros, bool [L, E]; the nodes of the output that hold more,
    bool [L, N]; whether anything reads it, bool [L].
    """
    numbers = jnp.array([CELL_KINDS.index(shape.kind) for shape, count in cells.frame.runs for _ in range(count)])
    source = jnp.stack([edges[kind].source for kind in CELL_KINDS])
    there = jnp.stack([edges[kind].operation != none for kind in CELL_KINDS])
    output = jnp.stack([outputs[kind] for kind in CELL_KINDS])
    nodes, ends = output.shape[1], np.array(edges["normal"].nodes)

    def forward(inputs: Array, kind: Array) -> tuple[Array, tuple[Array, Array]]:
        states = jnp.concatenate([inputs, jnp.zeros(nodes, bool)])
        for node in range(nodes):
            into = np.flatnonzero(ends == node)
            states = states.at[2 + node].set((there[kind, into] & (states[source[kind, into]] | affine)).any())
        filled = states[2:] & output[kind]
        return jnp.stack([inputs[1], filled.any()]), (there[kind] & (states[source[kind]] | affine), filled)

    _, (alive, filled) = jax.lax.scan(forward, jnp.ones(2, bool), numbers)
    reads = jnp.stack([(there & (source == side)).any(axis=1) for side in range(2)], axis=1)  # [kind, side]

    def backward(read: Array, cell: tuple[Array, Array]) -> tuple[Array, Array]:
        """read: bool [2], whether a later cell reads this one, and whether one reads the cell before it."""
        kind, end = cell
        live = read[0] | end
        return jnp.stack([read[1] | (live & reads[kind, 1]), live & reads[kind, 0]]), live

    last = len(numbers) - 1
    heads = (last, 2 * skeleton.cells // 3) if skeleton.auxiliary else (last,)
    ends_here = jnp.array([c in heads for c in range(len(numbers))])
    return alive, filled, jax.lax.scan(backward, jnp.zeros(2, bool), (numbers, ends_here), reverse=True)[1]
