"""The micro search space of ENAS (Pham et al. 2018, section 2.4, https://arxiv.org/abs/1802.03268).

Two cells, "normal" and "reduce", in the network of `jaxnas.spaces.darts` (which has it from here). A cell has two
inputs, numbered 0 and 1, and `nodes` nodes, numbered from 2. Each node adds two operations on two earlier inputs or
nodes, which may be the same; nodes that no other reads, the loose ends, are concatenated into the cell's output.

An architecture has, for each cell, normal first, and each node in turn, four choices, in the order in which the
controller makes them: the left and the right input, the left and the right operation. Every combination is valid.
Exchanging left and right gives the same network; `canonical` leaves the two apart, as shared weights do.

Mixture weights have a slot for each node, side and source, in that order, and "none" before the operations: with five
nodes S = 40, O = 6. Costs are not a sum over slots, for what is concatenated changes the layers that read it.

The authors' programs also concatenate an input that no node reads, and reduce the image before a reduction cell during
the search; here, as in their final networks, its operations on the inputs have stride 2.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Arch, ArchWeights, Array, Choice, SearchSpace, Skeleton
from jaxnas.checks import checked_space
from jaxnas.ops.primitives import Operations, names_of
from jaxnas.spaces import genotypes
from jaxnas.spaces.darts import CELL_KINDS, CellEdges, cell_graph, darts_costs, graph_operations
from jaxnas.spaces.literals import shown
from jaxnas.spaces.product import entries, product
from jaxnas.spaces.reading import read_genotype

ENAS_MICRO_OPERATIONS = ("sep_conv_3x3", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3", "skip_connect")
"""In the order of the authors' numbers."""


def enas_micro_slots(nodes: int) -> list[tuple[int, int, int]]:
    """The (node, side, source) of every slot of a cell, which is a row of the mixture weights; nodes count from 0.

    side: 0 is the left operation of the node and 1 the right one.

    >>> enas_micro_slots(1)  # one node, whose left and right operation read input 0 or 1
    [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)]
    """
    return [(node, side, source) for node in range(nodes) for side in range(2) for source in range(node + 2)]


def enas_micro_edges(arch: Arch) -> dict[str, CellEdges]:
    """The edges of each cell, left and right of each node in turn; operations count from 1, 0 being "none"."""
    nodes, rest = divmod(arch.shape[0], 8)
    if rest or not nodes:
        raise ValueError(f"a node has 8 choices in the two cells of ENAS micro, got {arch.shape[0]} choices in all")
    first = np.array([[node * (node + 3), node * (node + 3) + node + 2] for node in range(nodes)], np.int32)
    result = {}
    for kind, choices in zip(CELL_KINDS, arch.reshape(2, nodes, 4), strict=True):
        source = choices[:, :2]
        slot = source + first
        result[kind] = CellEdges(slot.reshape(-1), source.reshape(-1), choices[:, 2:].reshape(-1) + 1)
    return result


def enas_micro_loose(arch: Arch) -> dict[str, Array]:
    """kind -> bool [N], whether no other node reads a node."""
    nodes = arch.shape[0] // 8
    read = {kind: jax.nn.one_hot(edges.source - 2, nodes) for kind, edges in enas_micro_edges(arch).items()}
    return {kind: ~(value > 0).any(axis=0) for kind, value in read.items()}


def enas_micro_space(nodes: int = 5, operations: Operations = ENAS_MICRO_OPERATIONS) -> SearchSpace:
    """The space of cells with some nodes and operations; D = 8 · nodes.

    The notation is that of the authors' programs, "source operation source operation" in numbers for each node, first
    those of the normal cell. `discretize` takes, for each side of each node, the heaviest operation of all its sources,
    "none" left out, the first among equals. Its graph has 2 + 3 · nodes + 1 places per cell, in topological order: the
    inputs, for each node its two operations and their sum, the output; `vocabulary` of the space names them.

    Raises: ValueError where there is no node, or an operation is unknown, given twice or "none".

    >>> space = enas_micro_space(nodes=2)
    >>> arch = space.from_genotype("0 0 1 4  2 1 0 3  0 2 0 2  1 3 1 3")
    >>> genotype = space.to_genotype(arch)
    >>> genotype["normal"]
    [['sep_conv_3x3', 0], ['skip_connect', 1], ['sep_conv_5x5', 2], ['max_pool_3x3', 0]]
    >>> genotype["normal_concat"], genotype["reduce_concat"]
    ([3], [2, 3])
    """
    if nodes < 1:
        raise ValueError(f"a cell needs at least one node, got {nodes}")
    names = names_of(operations)
    if "none" in names or not names:
        raise ValueError(f"operations must be at least one and none of them 'none', got {names}")
    slots = enas_micro_slots(nodes)
    all_names = ("none", *names)
    choices = _choices(nodes, names)

    def template() -> ArchWeights:
        return {kind: jnp.zeros((len(slots), len(all_names)), jnp.float32) for kind in CELL_KINDS}

    def one_hot(arch: Arch) -> ArchWeights:
        result = {}
        for kind, edges in enas_micro_edges(arch).items():
            operation = jnp.zeros(len(slots), jnp.int32).at[edges.slot].set(edges.operation)
            result[kind] = jax.nn.one_hot(operation, len(all_names), dtype=jnp.float32)
        return result

    def cells(arch: Arch) -> dict[str, list[genotypes.Edge]]:
        taken = np.array(entries(choices, arch)).reshape(2, nodes, 2, 2)
        return {
            kind: [(names[o], int(source)) for node in cell for source, o in zip(*node, strict=True)]
            for kind, cell in zip(CELL_KINDS, taken, strict=True)
        }

    def costs(arch: Arch, skeleton: Skeleton) -> dict[str, int]:
        found = cells(arch)
        return darts_costs(found, skeleton, {kind: len(_loose(edges)) for kind, edges in found.items()}, operations)

    def to_genotype(arch: Arch) -> dict[str, Any]:
        genotype: dict[str, Any] = {"space": "enas_micro"}
        for kind, edges in cells(arch).items():
            genotype[kind] = [[operation, source] for operation, source in edges]
            genotype[f"{kind}_concat"] = _loose(edges)
        return genotype

    def from_genotype(genotype: Mapping[str, Any] | str) -> Arch:
        meaning = f"two cells of {nodes} nodes, four for each"
        found = read_genotype(genotype, lambda text: {"arc": genotypes.parse_numbers(text, 8 * nodes, meaning)})
        if "arc" in found:
            numbers = genotypes.check_numbers(found["arc"], 8 * nodes, meaning)
            arch = jnp.array(numbers, jnp.int32).reshape(-1, 2, 2).transpose(0, 2, 1).reshape(-1)
        else:
            genotypes.check_space(found, "enas_micro", genotype)
            arch = jnp.array(_read(found, nodes, names), jnp.int32)
        return jnp.asarray(entries(choices, arch), jnp.int32)

    def notation(arch: Arch) -> str:
        edges = [edge for cell in cells(arch).values() for edge in cell]
        return " ".join(f"{source} {names.index(operation)}" for operation, source in edges)

    space = SearchSpace(
        name="enas_micro",
        choices=choices,
        **product(choices)._asdict(),
        canonical=lambda arch: arch,
        template=template,
        one_hot=one_hot,
        discretize=lambda weights: _discretize(weights, nodes, len(names)),
        graph=lambda arch: cell_graph(enas_micro_edges(arch), enas_micro_loose(arch), all_names),
        costs=costs,
        to_genotype=to_genotype,
        from_genotype=from_genotype,
        notation=notation,
        vocabulary=graph_operations(all_names),
    )
    return checked_space(space)


def _loose(edges: list[genotypes.Edge]) -> list[int]:
    """The nodes, from 2, that no edge of a cell starts from."""
    return sorted({*range(2, len(edges) // 2 + 2)} - {source for _, source in edges})


def _choices(nodes: int, names: tuple[str, ...]) -> tuple[Choice, ...]:
    """Of each node two inputs and two operations, in the order in which the controller makes them."""
    choices = []
    for kind, node in itertools.product(CELL_KINDS, range(2, nodes + 2)):
        name, sources = f"{kind} {node}", range(node)
        reads = tuple((f"{kind} {source}",) for source in sources)
        for side in ("left", "right"):
            choices.append(Choice(f"{kind} node {node} {side} input", tuple(map(str, sources)), name, reads))
        for side in ("left", "right"):
            choices.append(Choice(f"{kind} node {node} {side} operation", names, name))
    return tuple(choices)


def _discretize(weights: ArchWeights, nodes: int, operations: int) -> Arch:
    """Of each side of each node the heaviest operation but "none" of all sources, the first among equals."""
    arch = []
    for kind, node in itertools.product(CELL_KINDS, range(nodes)):
        start, count = node * (node + 3), node + 2
        block = weights[kind][start : start + 2 * count, 1:].reshape(2, -1)
        best = jnp.argmax(block, axis=1)
        arch += [best // operations, best % operations]
    return jnp.concatenate(arch).astype(jnp.int32)


def _read(genotype: Mapping[str, Any], nodes: int, names: tuple[str, ...]) -> list[int]:
    """The entries of the architecture of a JSON genotype. Raises ValueError naming what is wrong."""
    arch: list[int] = []
    for kind, (groups, joined) in genotypes.parts_of_cells(genotype, nodes).items():
        if len(groups) != nodes:
            raise ValueError(f"{kind} has {len(groups)} nodes; a cell of this space has {nodes}")
        edges = []
        for node, group in enumerate(groups, 2):
            if len(group) != 2:
                raise ValueError(f"{kind} node {node} has {len(group)} edges; a node of this space has two")
            where = (f"{kind} edge {2 * node - 4 + e}, into node {node}" for e in (0, 1))
            edges += [genotypes.read_edge(place, edge, names, node) for place, edge in zip(where, group, strict=True)]
        if sorted(joined, key=str) != sorted(_loose(edges), key=str):
            raise ValueError(
                f"{kind}_concat is {shown(joined)}; the nodes that no other reads are concatenated, so it must be "
                f"{_loose(edges)}"
            )
        for left, right in zip(edges[::2], edges[1::2], strict=True):
            arch += [left[1], right[1], names.index(left[0]), names.index(right[0])]
    return arch
