"""The DARTS cell space (Liu et al. 2019, https://arxiv.org/abs/1806.09055).

Two cells, "normal" and "reduce". A cell has two inputs (the outputs of the two preceding cells), numbered 0 and 1, and
`nodes` nodes, numbered from 2; each node adds two edges, each an operation on an earlier input or node, and the cell's
output concatenates all nodes. In a network the cells L // 3 and 2L // 3 of L reduce: edges from their inputs have
stride 2.

An architecture has, for each cell, normal first, and each node in turn, three choices: the pair of different inputs
(in lexicographic order: "0,1", "0,2", …), the operation on the lower and that on the higher of them ("none" is no
option, where there is one). The first node has one pair only; its choice stays, with one option, so that every node has
three entries. Every combination is valid and no two mean the same.

The free space has more cells: those that random search and surrogate benchmarks publish. There the two edges of a node
may come from one input ("0,0", "0,1", …, "1,1", …), and "none" is an option of an operation. Some combinations then
mean the same, and `canonical` picks one of them: an edge with "none" comes from input 0, and two edges from one input
have the operation of the lower number first.

Mixture weights number all edges node by node, source ascending: node i (0 … nodes - 1) and source j (0 … i + 1) have
slot i (i + 3) / 2 + j. With four nodes that makes S = 14 slots. In the free space a slot may take two operations, or
one twice: the weights of an architecture then count them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Arch, ArchWeights, Array, Choice, Graph, SearchSpace, Skeleton
from jaxnas.checks import check_weights, checked_space
from jaxnas.ops import costs as cost
from jaxnas.ops.primitives import Operations, Primitive, named, names_of, none_index
from jaxnas.spaces import genotypes
from jaxnas.spaces.product import entries, product
from jaxnas.spaces.reading import read_genotype

DARTS_OPERATIONS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
CELL_KINDS = ("normal", "reduce")


class CellEdges(NamedTuple):
    """The edges of one cell, two for each node in turn, the lower source first.

    slot: int32 [2N], the place among all edges. source: int32 [2N]. operation: int32 [2N], index into the operations.
    """

    slot: Array
    source: Array
    operation: Array


class CellShape(NamedTuple):
    """One cell of the evaluation network.

    channels: of each node. inputs: channels of the two preceding cells' outputs. size: (height, width) after
    preprocessing, before any reduction. input_reduced: whether the preceding cell reduces, so that input 0 is twice as
    large and its preprocessing reduces it. outputs: channels of the cell's own output.
    """

    kind: str
    channels: int
    inputs: tuple[int, int]
    size: tuple[int, int]
    input_reduced: bool
    outputs: int


def edge_table(nodes: int) -> list[tuple[int, int]]:
    """The (node, source) of every slot of a cell, which is a row of the mixture weights; nodes count from 0.

    >>> edge_table(2)  # node 1 may read both inputs and node 0
    [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    """
    return [(node, source) for node in range(nodes) for source in range(node + 2)]


def stride_of(kind: str, source: int) -> int:
    """Of an edge from this source: a reduction cell halves what it takes from its two inputs."""
    return 2 if kind == "reduce" and source < 2 else 1


def darts_cells(skeleton: Skeleton, joined: int | Mapping[str, int] = 4) -> list[CellShape]:
    """The cells of the evaluation network in turn. joined: how many nodes make the output, of each kind or of both."""
    result = []
    channels, size, reduced = skeleton.channels, skeleton.image_shape[:2], False
    inputs = (3 * channels, 3 * channels)
    for index in range(skeleton.cells):
        reduces = index in (skeleton.cells // 3, 2 * skeleton.cells // 3)
        kind = "reduce" if reduces else "normal"
        channels *= 2 if reduces else 1
        outputs = channels * (joined if isinstance(joined, int) else joined[kind])
        result.append(CellShape(kind, channels, inputs, size, reduced, outputs))
        inputs = (inputs[1], outputs)
        size = cost.strided(size, 2) if reduces else size
        reduced = reduces
    return result


def darts_edges(
    arch: Arch, operations: tuple[str, ...] = DARTS_OPERATIONS, *, free: bool = False
) -> dict[str, CellEdges]:
    """The two edges of each node of each cell; traceable. Of the free space some may have "none"."""
    nodes, rest = divmod(arch.shape[0], 6)
    if rest or not nodes:
        raise ValueError(f"a node has 6 choices in the two cells of DARTS, got {arch.shape[0]} choices in all")
    options = jnp.asarray(_options(operations, free))
    pairs = np.zeros((nodes, len(_pairs(nodes - 1, free)), 2), np.int32)  # Padded; the padding is never looked up.
    for node in range(nodes):
        pairs[node, : len(_pairs(node, free))] = _pairs(node, free)
    first_slot = np.array([node * (node + 3) // 2 for node in range(nodes)], np.int32)
    result = {}
    for kind, choices in zip(CELL_KINDS, arch.reshape(2, nodes, 3), strict=True):
        source = jnp.asarray(pairs)[np.arange(nodes), choices[:, 0]]
        slot = source + first_slot[:, None]
        result[kind] = CellEdges(slot.reshape(-1), source.reshape(-1), options[choices[:, 1:]].reshape(-1))
    return result


def discretize_paper(weights: ArchWeights, operations: tuple[str, ...] = DARTS_OPERATIONS) -> Arch:
    """The paper's rule (section 2.4): "none" is left out of everything.

    Of each node the two edges are kept whose best operation weighs most, each with its best operation. Ties go to the
    lower slot and the lower operation. Edges are compared with each other, so weights are those of the mixture (after
    the softmax), not the architecture parameters. weights: kind -> [S, O]. operations: the names of the O operations.

    >>> edges = jnp.array([[0, 0.5, 0.5], [0, 0.4, 0.6], [0.6, 0, 0.4], [0.3, 0.36, 0.34], [0.2, 0.41, 0.39]])
    >>> operations = ("none", "skip_connect", "sep_conv_3x3")
    >>> arch = discretize_paper({"normal": edges, "reduce": edges}, operations)
    >>> darts_space(2, operations).to_genotype(arch)["normal"]
    [['skip_connect', 0], ['sep_conv_3x3', 1], ['sep_conv_3x3', 0], ['skip_connect', 2]]
    """
    return _derive(weights, operations, lambda edge: edge[:, _options(operations)].max(axis=1))


def discretize_argmax(weights: ArchWeights, operations: tuple[str, ...] = DARTS_OPERATIONS) -> Arch:
    """Derivation by plain argmax: an edge on which "none" weighs most counts as absent.

    As in the paper's rule, but the edges of a node whose argmax over all operations is not "none" go before the others;
    only where fewer than two are left do the best of the others fill up. weights: kind -> [S, O]. operations: the names
    of the O operations.

    >>> edges = jnp.array([[0, 0.5, 0.5], [0, 0.4, 0.6], [0.6, 0, 0.4], [0.3, 0.36, 0.34], [0.2, 0.41, 0.39]])
    >>> operations = ("none", "skip_connect", "sep_conv_3x3")
    >>> arch = discretize_argmax({"normal": edges, "reduce": edges}, operations)
    >>> darts_space(2, operations).to_genotype(arch)["normal"]  # "none" weighs most on the first edge of node 3
    [['skip_connect', 0], ['sep_conv_3x3', 1], ['skip_connect', 1], ['skip_connect', 2]]
    """

    none = none_index(operations)

    def score(edge: Array) -> Array:
        best = edge[:, _options(operations)].max(axis=1)
        # Two keys in one number: the rank of the weight, raised above all ranks where "none" does not win.
        rank = (best[:, None] > best[None, :]).sum(axis=1)
        absent = jnp.argmax(edge, axis=1) == none
        return jnp.where(absent, rank, rank + len(rank))

    return _derive(weights, operations, score)


def discretize_free(weights: ArchWeights, operations: tuple[str, ...] = DARTS_OPERATIONS) -> Arch:
    """The rule of the free space: of each node the two heaviest of all operations on all its edges.

    Only operations that weigh more than "none" on their edge count; where fewer than two are left, "none" is taken. An
    operation that was taken weighs one less: one of weight two is taken twice. Ties go to the lower slot and the lower
    operation. weights: kind -> [S, O]. operations: the names of the O operations.

    >>> operations = ("none", "skip_connect", "sep_conv_3x3")
    >>> edges = jnp.array([[0, 0, 2.0], [1.0, 0, 0]])  # the convolution of input 0 twice
    >>> arch = discretize_free({"normal": edges, "reduce": edges}, operations)
    >>> darts_space(1, operations, free=True).to_genotype(arch)["normal"]
    [['sep_conv_3x3', 0], ['sep_conv_3x3', 0]]
    """
    nodes, none = _nodes(weights, operations), none_index(operations)
    slots, there = np.zeros((nodes, nodes + 1), np.int32), np.zeros((nodes, nodes + 1), bool)
    for slot, (node, source) in enumerate(edge_table(nodes)):
        slots[node, source], there[node, source] = slot, True
    left = jnp.stack([weights[kind] for kind in CELL_KINDS])[:, slots]  # [2, N, sources, O]
    if none < len(operations):
        left = jnp.where(left > left[..., none, None], left, 0.0).at[..., none].set(0.0)
    left = jnp.where(there[:, :, None], left, -jnp.inf).reshape(2 * nodes, -1)
    taken = []
    for _ in range(2):
        best = jnp.argmax(left, axis=1)
        enough = True if none == len(operations) else left.max(axis=1) > 0
        taken.append(jnp.where(enough, best, none))
        left -= jax.nn.one_hot(best, left.shape[1])
    return _free_arch(jnp.stack(taken, axis=1), len(operations))


def graph_operations(operations: tuple[str, ...] = DARTS_OPERATIONS) -> tuple[str, ...]:
    """What the operation ids of `graph` mean: the operations, then "input_0", "input_1", "sum", "output"."""
    return (*operations, "input_0", "input_1", "sum", "output")


def darts_cost_table(skeleton: Skeleton, nodes: int = 4, operations: Operations = DARTS_OPERATIONS) -> cost.CostTable:
    """What each operation on each edge adds to the evaluation network, over all cells of its kind.

    nodes, operations: those of `darts_space`.

    Raises: ValueError where an auxiliary head is asked for on a map under 8×8.

    >>> skeleton = Skeleton(channels=16, cells=8, image_shape=(32, 32, 3), num_classes=10)
    >>> table, space = darts_cost_table(skeleton), darts_space()
    >>> arch = space.from_genotype("DARTS_V2")
    >>> taken = space.one_hot(arch)
    >>> added = sum(int((table.params[kind] * np.asarray(taken[kind], int)).sum()) for kind in table.params)
    >>> table.constant["params"] + added == space.costs(arch, skeleton)["params"]
    True
    """
    constant = _constant(skeleton, nodes)
    shape = (len(edge_table(nodes)), len(operations))
    params = {kind: np.zeros(shape, np.int64) for kind in CELL_KINDS}
    macs = {kind: np.zeros(shape, np.int64) for kind in CELL_KINDS}
    for cell in darts_cells(skeleton, nodes):
        for slot, (_, source) in enumerate(edge_table(nodes)):
            for o, primitive in enumerate(named(operations)):
                added = _edge_cost(cell, source, primitive)
                params[cell.kind][slot, o] += added.params
                macs[cell.kind][slot, o] += added.macs
    return cost.CostTable({"params": constant.params, "macs": constant.macs}, params, macs)


def darts_costs(
    cells: Mapping[str, list[genotypes.Edge]],
    skeleton: Skeleton,
    joined: int | Mapping[str, int],
    operations: Operations = DARTS_OPERATIONS,
) -> dict[str, int]:
    """The costs of the evaluation network of two cells, kind -> edges. joined: as of `darts_cells`."""
    primitives = {primitive.name: primitive for primitive in named(operations)}
    total = _constant(skeleton, joined)
    for shape in darts_cells(skeleton, joined):
        for operation, source in cells[shape.kind]:
            total += _edge_cost(shape, source, primitives[operation])
    return {"params": total.params, "macs": total.macs}


def darts_choices(
    nodes: int = 4, operations: Operations = DARTS_OPERATIONS, *, free: bool = False
) -> tuple[Choice, ...]:
    """The choices of `darts_space`, three a node; raises as it does."""
    names = names_of(operations)
    if nodes < 1:
        raise ValueError(f"a cell needs at least one node, got {nodes}")
    if not set(names) - {"none"}:
        raise ValueError(f"operations must hold at least one beside 'none', got {names}")
    options = tuple(names[o] for o in _options(names, free))
    choices = []
    for kind, node in itertools.product(CELL_KINDS, range(nodes)):
        name, made, pairs = f"{kind} node {node + 2}", f"{kind} {node + 2}", _pairs(node, free)
        reads = tuple((f"{kind} {low}", f"{kind} {high}") for low, high in pairs)
        choices.append(Choice(f"{name} inputs", tuple(f"{low},{high}" for low, high in pairs), made, reads))
        choices += [Choice(f"{name} {end} operation", options, made) for end in ("lower", "higher")]
    return tuple(choices)


def darts_space(nodes: int = 4, operations: Operations = DARTS_OPERATIONS, *, free: bool = False) -> SearchSpace:
    """The space of cells with some nodes and operations; D = 6 · nodes.

    `discretize` is `discretize_paper`; put another rule in its place with `space._replace(discretize=…)`.
    Its graph has 2 + 3 · nodes + 1 places per cell, in topological order: the two inputs, for each node its two
    operations and their sum, the output. Places of "none" are masked out.

    operations: names, or `jaxnas.ops.primitives.Primitive` objects. Without "none" among them, an edge that is left out
    has weights of zero. free: the two edges of a node may come from one input, and each may have "none", where that is
    among the operations; `discretize` is then `discretize_free`.

    Raises: ValueError where there is no node or no operation beside "none", or an operation is unknown or given twice.

    >>> space = darts_space()
    >>> arch = space.from_genotype("DARTS_V2")
    >>> len(arch), space.choices[1].options[:3]
    (24, ('max_pool_3x3', 'avg_pool_3x3', 'skip_connect'))
    >>> space.costs(arch, Skeleton(channels=36, cells=20, image_shape=(32, 32, 3), num_classes=10))
    {'params': 3349342, 'macs': 528359050}
    """
    choices, names = darts_choices(nodes, operations, free=free), names_of(operations)
    slots, none = len(edge_table(nodes)), none_index(names)

    def canonical(arch: Arch) -> Arch:
        return _canonical(arch, names) if free else arch

    def edges(arch: Arch) -> dict[str, CellEdges]:
        return darts_edges(arch, names, free=free)

    def template() -> ArchWeights:
        return {kind: jnp.zeros((slots, len(names)), jnp.float32) for kind in CELL_KINDS}

    def one_hot(arch: Arch) -> ArchWeights:
        result = {}
        for kind, own in edges(arch).items():
            of_slots, of_operations = jax.nn.one_hot(own.slot, slots), jax.nn.one_hot(own.operation, len(names))
            counts = jnp.einsum("es,eo->so", of_slots, of_operations)
            if none < len(names):
                unused = ~(counts[:, _options(names)] > 0).any(axis=1)
                counts = counts.at[:, none].set(unused.astype(jnp.float32))
            result[kind] = counts
        return result

    def cells(arch: Arch) -> dict[str, list[genotypes.Edge]]:
        return _cells(choices, entries(choices, arch))

    def to_genotype(arch: Arch) -> dict[str, Any]:
        genotype: dict[str, Any] = {"space": "darts"}
        for kind, own in cells(arch).items():
            genotype[kind] = [[operation, source] for operation, source in own]
            genotype[f"{kind}_concat"] = list(range(2, nodes + 2))
        return genotype

    def from_genotype(genotype: Mapping[str, Any] | str) -> Arch:
        found = read_genotype(genotype)
        genotypes.check_space(found, "darts", genotype)
        options = choices[1].options
        arch = []
        for cell in genotypes.check_darts(found, nodes, options, repeats=free).values():
            for node, ((low_name, low), (high_name, high)) in enumerate(cell):
                arch += [_pairs(node, free).index((low, high)), options.index(low_name), options.index(high_name)]
        return jnp.asarray(arch, jnp.int32)

    space = SearchSpace(
        name="darts",
        choices=choices,
        **product(choices)._asdict(),
        canonical=canonical,
        template=template,
        one_hot=one_hot,
        discretize=lambda weights: (discretize_free if free else discretize_paper)(weights, names),
        graph=lambda arch: cell_graph(edges(canonical(arch)), dict.fromkeys(CELL_KINDS, jnp.ones(nodes)), names),
        costs=lambda arch, skeleton: darts_costs(cells(arch), skeleton, nodes, operations),
        to_genotype=to_genotype,
        from_genotype=from_genotype,
        notation=lambda arch: genotypes.print_darts(to_genotype(arch)),
        vocabulary=graph_operations(names),
    )
    return checked_space(space)


def _pairs(node: int, free: bool = False) -> list[tuple[int, int]]:
    """The pairs of inputs of a node, counted from 0, in the order of its choice."""
    pairs = itertools.combinations_with_replacement if free else itertools.combinations
    return list(pairs(range(node + 2), 2))


def _pair_number(low: Array, high: Array, inputs: int | np.ndarray, free: bool = False) -> Array:
    """The place in `_pairs` of a pair of so many inputs."""
    if free:  # as many as the pairs of different inputs where there is one input more
        inputs, high = inputs + 1, high + 1
    return low * inputs - low * (low + 1) // 2 + high - low - 1


def _options(operations: tuple[str, ...], free: bool = False) -> np.ndarray:
    """The indices of the operations that a derived cell may have."""
    return np.array([o for o, name in enumerate(operations) if free or name != "none"], np.int32)


def _canonical(arch: Arch, operations: tuple[str, ...]) -> Arch:
    """The one of the free space that stands for all that mean the same."""
    none, edges = none_index(operations), darts_edges(arch, operations, free=True).values()
    keys = [jnp.where(own.operation == none, 0, own.source) * len(operations) + own.operation for own in edges]
    return _free_arch(jnp.stack(keys).reshape(-1, 2), len(operations))


def _free_arch(keys: Array, operations: int) -> Arch:
    """The architecture of the free space with some edges. keys: [2N, 2], source * operations + operation, any order."""
    low, high = keys.min(axis=1), keys.max(axis=1)
    inputs = np.tile(np.arange(2, len(keys) // 2 + 2), 2)
    pair = _pair_number(low // operations, high // operations, inputs, free=True)
    return jnp.stack([pair, low % operations, high % operations], axis=1).reshape(-1).astype(jnp.int32)


def _nodes(weights: ArchWeights, operations: tuple[str, ...]) -> int:
    """How many nodes the cells of mixture weights have. Raises ValueError where they are of no such cells."""
    slots = max((len(rows) for rows in weights.values()), default=0)
    nodes = next(n for n in itertools.count(1) if len(edge_table(n)) >= slots)
    layout = jax.ShapeDtypeStruct((len(edge_table(nodes)), len(operations)), jnp.float32)
    check_weights(dict.fromkeys(CELL_KINDS, layout), weights, f"a cell of {nodes} nodes")
    return nodes


def _derive(weights: ArchWeights, operations: tuple[str, ...], score: Callable[[Array], Array]) -> Arch:
    """Of each node the two edges of the highest score, each with its best operation but "none"."""
    nodes = _nodes(weights, operations)
    arch: list[Array] = []
    for kind in CELL_KINDS:
        edge_score = score(weights[kind])
        operation = jnp.argmax(weights[kind][:, _options(operations)], axis=1)
        for node in range(nodes):
            first = node * (node + 3) // 2
            # `top_k` puts the lower index first among equals.
            low, high = jnp.sort(jax.lax.top_k(edge_score[first : first + node + 2], 2)[1])
            arch += [_pair_number(low, high, node + 2), operation[first + low], operation[first + high]]
    return jnp.stack(arch).astype(jnp.int32)


def _cells(choices: tuple[Choice, ...], arch: tuple[int, ...]) -> dict[str, list[genotypes.Edge]]:
    """kind -> the (operation, source) edges of a concrete architecture, two for each node."""
    taken = [choice.options[entry] for choice, entry in zip(choices, arch, strict=True)]
    edges: list[genotypes.Edge] = []
    for pair, low, high in zip(taken[::3], taken[1::3], taken[2::3], strict=True):
        edges += zip((low, high), map(int, pair.split(",")), strict=True)
    half = len(edges) // 2
    return dict(zip(CELL_KINDS, (edges[:half], edges[half:]), strict=True))


def cell_graph(cells: Mapping[str, CellEdges], read: Mapping[str, Array], operations: tuple[str, ...]) -> Graph:
    """Cells of two edges a node, which stand between their source and the sum of the node.

    read: kind -> [N], 1 for the nodes that make the output and 0 for others. Edges with "none" are masked out.
    """
    nodes = next(iter(read.values())).shape[0]
    places = 2 + 3 * nodes + 1
    vocabulary = graph_operations(operations)
    # Where the value of source j stands: the inputs first, then the sum of each node.
    place = np.array([0, 1] + [4 + 3 * node for node in range(nodes)], np.int32)
    ends = np.array([2 + 3 * node + end for node in range(nodes) for end in (0, 1)], np.int32)
    fixed = np.zeros((places, places), np.float32)
    fixed[ends, np.repeat(place[2:], 2)] = 1
    kinds = np.full(places, vocabulary.index("sum"), np.int32)
    kinds[[0, 1, -1]] = [vocabulary.index(name) for name in ("input_0", "input_1", "output")]
    adjacency, ops, mask = [], [], []
    for kind, edges in cells.items():
        there = jnp.ones(places, bool).at[ends].set(edges.operation != none_index(operations))
        one = jnp.asarray(fixed).at[jnp.asarray(place)[edges.source], ends].set(1)
        one = one.at[place[2:], -1].set(read[kind].astype(jnp.float32))
        adjacency.append(one * there[:, None] * there[None])
        ops.append(jnp.asarray(kinds).at[ends].set(edges.operation))
        mask.append(there)
    return Graph(jnp.stack(adjacency), jnp.stack(ops), jnp.stack(mask))


def _edge_cost(cell: CellShape, source: int, primitive: Primitive) -> cost.Cost:
    """One edge of one cell: edges from the inputs of a reducing cell have stride 2, all later ones see its result."""
    halved = cell.kind == "reduce" and source >= 2
    size = cost.strided(cell.size, 2) if halved else cell.size
    return primitive.cost(cell.channels, stride_of(cell.kind, source), size)


def _constant(skeleton: Skeleton, joined: int | Mapping[str, int]) -> cost.Cost:
    """Stem, preprocessing of every cell, classifier, and the auxiliary head where the skeleton has one."""
    cells = darts_cells(skeleton, joined)
    total = cost.conv_bn(skeleton.image_shape[2], 3 * skeleton.channels, 3, skeleton.image_shape[:2])
    for cell in cells:
        preprocess0 = cost.factorized_reduce if cell.input_reduced else _relu_conv_bn
        total += preprocess0(cell.inputs[0], cell.channels, cell.size)
        total += _relu_conv_bn(cell.inputs[1], cell.channels, cell.size)
    if skeleton.auxiliary:
        cell = cells[2 * skeleton.cells // 3]
        size = cost.strided(cell.size, 2)
        total += cost.auxiliary_head(cell.outputs, size, skeleton.num_classes)
    return total + cost.linear(cells[-1].outputs, skeleton.num_classes)


def _relu_conv_bn(inputs: int, outputs: int, size: tuple[int, int]) -> cost.Cost:
    return cost.conv_bn(inputs, outputs, 1, size)
