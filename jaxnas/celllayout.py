"""Where the nodes, operations and lines of a cell stand when it is drawn from left to right. Plain geometry, in inches.

A layered layout (Sugiyama, Tagawa & Toda 1981). A node's layer is the longest path to it from the inputs. Between two
layers of nodes there is a layer of operations, and an operation stands just before the node that it feeds. Where a line
passes a layer it has a place of its own there and is level over the whole width of the layer. Hence, whatever the cell,
boxes do not overlap and no line runs through a box; lines cross only in the gaps between layers.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

_SPACE = 0.13  # Between things in one layer.
_PORT = 0.13  # Between lines at one node.


class Cell(NamedTuple):
    """A cell to draw.

    nodes: names, inputs first, the output last. edges: (operation, source, target) by number of the node. joined: nodes
    that feed the output without an operation.
    """

    title: str
    nodes: tuple[str, ...]
    edges: tuple[tuple[str, int, int], ...]
    joined: tuple[int, ...]


class Box(NamedTuple):
    """A node or an operation, centered at (x, y); y grows downwards."""

    name: str
    is_operation: bool
    x: float
    y: float
    width: float
    height: float


class Layout(NamedTuple):
    """A cell in a rectangle of `width` by `height` inches, its upper left corner at (0, 0).

    lines: (operation or None, [n, 2]), from node to operation to node, level at every point.
    """

    width: float
    height: float
    boxes: list[Box]
    lines: list[tuple[str | None, np.ndarray]]


class _Item(NamedTuple):
    """What stands in a layer: a node, an operation (`lines` has one entry) or a line that passes (no name)."""

    name: str
    is_operation: bool
    height: float


def cells(genotype: Mapping[str, Any]) -> list[Cell]:
    """The cells of a genotype in its JSON form; layers with skip connections are one cell, stages of a chain each one.

    Raises: ValueError where it has neither the cells of DARTS, nor that of NAS-Bench-201, nor layers, nor stages.
    """
    try:
        if "cell" in genotype:
            ends = [(node, source) for node in range(1, 4) for source in range(node)]
            edges = [
                (operation, source, node) for (operation, source), (node, _) in zip(genotype["cell"], ends, strict=True)
            ]
            found = [Cell("Cell", ("0", "1", "2", "3"), tuple(edges), ())]
        elif "layers" in genotype:
            edges = [(operation, k, k + 1) for k, (operation, _) in enumerate(genotype["layers"])]
            edges += [("skip_connect", s, k + 1) for k, (_, states) in enumerate(genotype["layers"]) for s in states]
            names = ("stem", *(f"layer {k}" for k in range(len(genotype["layers"]))))
            found = [Cell("Layers", names, tuple(edges), ())]
        elif "stages" in genotype:
            # A stage begins with what the last layer of the one before made.
            names = ("stem", *(str(k) for k in range(sum(len(stage) for stage in genotype["stages"]))))
            found, start = [], 0
            for s, stage in enumerate(genotype["stages"]):
                title = f"Stage {s}" + (", half the size and twice the channels" if s else "")
                edges = [(block, k, k + 1) for k, block in enumerate(stage)]
                found.append(Cell(title, names[start : start + len(stage) + 1], tuple(edges), ()))
                start += len(stage)
        else:
            found = []
            for kind, title in (("normal", "Normal cell"), ("reduce", "Reduction cell")):
                nodes = len(genotype[kind]) // 2
                names = ("$c_{k-2}$", "$c_{k-1}$", *(str(node) for node in range(nodes)), "$c_k$")
                edges = [(operation, source, 2 + e // 2) for e, (operation, source) in enumerate(genotype[kind])]
                found.append(Cell(title, names, tuple(edges), tuple(genotype[f"{kind}_concat"])))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"cannot draw this genotype ({error!r}); it needs 'normal', 'reduce' and their '_concat', or 'cell', "
            "or 'layers', or 'stages'"
        ) from error
    for cell in found:
        for source, target in [edge[1:] for edge in cell.edges] + [(node, len(cell.nodes) - 1) for node in cell.joined]:
            if source not in range(target):
                raise ValueError(
                    f"cannot draw this genotype: an edge from {source!r} to {target} does not lead forward"
                )
    return found


def place(cell: Cell, widths: Mapping[str, float], label_height: float) -> Layout:
    """Places a cell. widths: inches that the box of each node and operation takes."""
    rank = _ranks(cell)
    count = len(cell.nodes)
    links = [*cell.edges, *((None, node, count - 1) for node in cell.joined)]
    # Layer 2r holds the nodes of rank r, layer 2r - 1 the operations before them; where only lines without an
    # operation lead to a layer, as to the output, it comes right after the nodes before it.
    layer = [2 * r for r in rank]
    if cell.joined:
        layer[-1] -= 1
    layers: list[list[int]] = [[] for _ in range(layer[-1] + 1)]
    degree = [max(sum(link[end] == node for link in links) for end in (1, 2)) for node in range(count)]
    items = [_Item(name, False, max(0.36, _PORT * degree[node] + 0.1)) for node, name in enumerate(cell.nodes)]
    for node in range(count):
        layers[layer[node]].append(node)
    chains: list[list[int]] = []
    for operation, source, target in links:
        chain = [source]
        for step in range(layer[source] + 1, layer[target]):
            label = operation if step == layer[target] - 1 else None
            items.append(_Item("", False, 0.0) if label is None else _Item(label, True, label_height))
            layers[step].append(len(items) - 1)
            chain.append(len(items) - 1)
        chains.append([*chain, target])
    layers = _order(layers, chains)
    if cell.nodes[:2] == ("$c_{k-2}$", "$c_{k-1}$") and layers[0].index(0) > layers[0].index(1):
        layers = [row[::-1] for row in layers]
    place_in_layer = {item: index for row in layers for index, item in enumerate(row)}
    out_port = _ports(chains, 0, 1, place_in_layer)
    in_port = _ports(chains, -1, -2, place_in_layer)
    y = _heights(layers, chains, items, out_port, in_port)

    widest = [max((widths[items[i].name] for i in row if items[i].name), default=0.0) for row in layers]
    x, left = [], 0.0
    for index, row in enumerate(layers):
        x.append(left + widest[index] / 2)
        steep = [
            abs(y[a] - y[b])
            for chain in chains
            for a, b in itertools.pairwise(chain)
            if a in row
        ]  # fmt: skip
        left += widest[index] + min(0.34 + 0.16 * max(steep, default=0.0), 0.75)
    column = {item: index for index, row in enumerate(layers) for item in row}
    boxes = [
        Box(item.name, item.is_operation, x[column[i]], y[i], widths[item.name], item.height)
        for i, item in enumerate(items)
        if item.name
    ]
    lines: list[tuple[str | None, np.ndarray]] = []
    for number, (chain, link) in enumerate(zip(chains, links, strict=True)):
        points = [(x[column[chain[0]]] + widths[items[chain[0]].name] / 2, y[chain[0]] + out_port[number])]
        # The node's own box may be narrower than its layer.
        points.append((x[column[chain[0]]] + widest[column[chain[0]]] / 2, points[0][1]))
        for i in chain[1:-1]:
            half = widest[column[i]] / 2
            points += [(x[column[i]] - half, y[i]), (x[column[i]] + half, y[i])]
        last = chain[-1]
        height = y[last] + in_port[number]
        points.append((x[column[last]] - widest[column[last]] / 2, height))
        points.append((x[column[last]] - widths[items[last].name] / 2, height))
        lines.append((link[0], np.array(points)))
    bottom = max(y[i] + item.height / 2 for i, item in enumerate(items))
    return Layout(x[-1] + widest[-1] / 2, bottom, boxes, lines)


def _ranks(cell: Cell) -> list[int]:
    """Length of the longest path to each node; edges lead from lower to higher numbers."""
    rank = [0] * len(cell.nodes)
    for node in range(len(cell.nodes)):
        sources = [source for _, source, target in cell.edges if target == node]
        if cell.joined and node == len(cell.nodes) - 1:
            sources = list(range(node))  # The output is the rightmost, whatever feeds it.
        rank[node] = 1 + max((rank[source] for source in sources), default=-1)
    return rank


def _order(layers: list[list[int]], chains: list[list[int]]) -> list[list[int]]:
    """Orders each layer so that few lines cross: sweeps by the mean of neighbors, then exchanges, from many starts."""
    before: dict[int, list[int]] = {}
    after: dict[int, list[int]] = {}
    for chain in chains:
        for a, b in itertools.pairwise(chain):
            after.setdefault(a, []).append(b)
            before.setdefault(b, []).append(a)

    def crossings(upper: Sequence[int], lower: Sequence[int]) -> tuple[int, int]:
        """Crossings between two layers, and how far lines go up and down."""
        index = {item: i for i, item in enumerate(lower)}
        ends = [sorted(index[b] for b in after.get(a, [])) for a in upper]
        crossed = sum(
            1 for i, high in enumerate(ends) for low in ends[i + 1 :] for p in high for q in low if p > q
        )  # fmt: skip
        center = (len(lower) - len(upper)) / 2
        return crossed, int(sum(abs(p - i - center) for i, row in enumerate(ends) for p in row))

    def cost(rows: list[list[int]]) -> tuple[int, int]:
        parts = [crossings(a, b) for a, b in itertools.pairwise(rows)]
        return sum(part[0] for part in parts), sum(part[1] for part in parts)

    def sweep(rows: list[list[int]], near: Mapping[int, list[int]], indices: Sequence[int]) -> None:
        for index in indices:
            where = {item: i / max(len(row), 1) for row in rows for i, item in enumerate(row)}
            current = {item: i for i, item in enumerate(rows[index])}
            rows[index].sort(
                key=lambda item: (
                    float(np.mean([where[n] for n in near[item]])) if near.get(item) else where[item],
                    current[item],
                )
            )

    def exchange(rows: list[list[int]]) -> None:
        best, improved = cost(rows), True
        while improved:
            improved = False
            for row in rows:
                for i in range(len(row) - 1):
                    row[i], row[i + 1] = row[i + 1], row[i]
                    now = cost(rows)
                    if now < best:
                        best, improved = now, True
                    else:
                        row[i], row[i + 1] = row[i + 1], row[i]

    shuffled = random.Random(0)  # Always the same picture.
    results = []
    for start in range(6):
        rows = [list(row) for row in layers]
        if start:
            for row in rows:
                shuffled.shuffle(row)
        for _ in range(4):
            sweep(rows, before, range(1, len(rows)))
            sweep(rows, after, range(len(rows) - 2, -1, -1))
        exchange(rows)
        results.append((cost(rows), rows))
    return min(results, key=lambda result: result[0])[1]


def _ports(chains: list[list[int]], end: int, beside: int, place_in_layer: Mapping[int, int]) -> list[float]:
    """How far above or below the middle of its first (0) or last (-1) node each line meets it."""
    result = [0.0] * len(chains)
    for node in {chain[end] for chain in chains}:
        mine = [number for number, chain in enumerate(chains) if chain[end] == node]
        mine.sort(key=lambda number: place_in_layer[chains[number][beside]])
        for index, number in enumerate(mine):
            result[number] = _PORT * (index - (len(mine) - 1) / 2)
    return result


def _heights(
    layers: list[list[int]],
    chains: list[list[int]],
    items: list[_Item],
    out_port: list[float],
    in_port: list[float],
) -> list[float]:
    """The y of each item: near its neighbors, in the order of its layer, nothing overlapping.

    Layers are placed in turn, each the best for its neighbors as they stand: a least-squares fit with least distances.
    """
    near: list[list[tuple[int, float, float]]] = [[] for _ in items]  # (neighbor, offset, weight)
    for number, chain in enumerate(chains):
        for index in range(len(chain) - 1):
            a, b = chain[index], chain[index + 1]
            start = out_port[number] if index == 0 else 0.0
            stop = in_port[number] if index == len(chain) - 2 else 0.0
            weight = (
                1.0 if items[a].name or items[b].name else 10.0
            )  # A line that passes layers had better be straight.
            near[a].append((b, stop - start, weight))
            near[b].append((a, start - stop, weight))
    y = [0.0] * len(items)
    offsets = []
    for row in layers:
        apart = [
            (items[a].height + items[b].height) / 2 + _SPACE for a, b in itertools.pairwise(row)
        ]  # fmt: skip
        offset = np.concatenate([[0.0], np.cumsum(apart)])
        offsets.append(offset)
        for item, value in zip(row, offset - offset[-1] / 2, strict=True):
            y[item] = float(value)
    order = list(range(len(layers)))
    for _ in range(30):
        for index in [*order, *order[::-1]]:
            row, offset = layers[index], offsets[index]
            wanted, weights = [], []
            for item in row:
                total = sum(weight for _, _, weight in near[item])
                wish = sum(weight * (y[n] + away) for n, away, weight in near[item])
                wanted.append(wish / total if total else y[item])
                weights.append(total or 0.1)
            for item, value in zip(row, _ascending(np.array(wanted) - offset, weights) + offset, strict=True):
                y[item] = float(value)
    top = min(y[i] - item.height / 2 for i, item in enumerate(items))
    return [value - top for value in y]


def _ascending(wanted: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """The ascending values [n] nearest to the wanted ones in weighted squares (pool adjacent violators)."""
    blocks: list[list[float]] = []  # [value, weight, count]
    for value, weight in zip(wanted, weights, strict=True):
        blocks.append([float(value), weight, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, wa, na), (b, wb, nb) = blocks[-2:]
            blocks[-2:] = [[(a * wa + b * wb) / (wa + wb), wa + wb, na + nb]]
    return np.concatenate([np.full(int(count), value) for value, _, count in blocks])
