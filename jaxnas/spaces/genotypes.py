"""Genotypes of cells, checked and printed, and which spaces they may be of. Plain Python, no arrays.

DARTS: `Genotype(normal=[('sep_conv_3x3', 0), …], normal_concat=range(2, 6), reduce=[…], reduce_concat=range(2, 6))`,
two (operation, source) edges for each node in turn; sources 0 and 1 are the two preceding cells, 2 is the first node.
NAS-Bench-201: `|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|`.
ENAS: integers with spaces between them. `reading.py` finds them in what people have.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxnas.spaces.literals import FIELDS, shown

Edge = tuple[str, int]
"""(operation, source)."""

MOST_NODES = 64
"""Of a cell that is read."""


def spaces_of(genotype: Mapping[str, Any]) -> tuple[str, ...]:
    """The spaces that a genotype may be of, by what it says or else by its parts; () where nothing shows it.

    Cells are of DARTS where all nodes are concatenated, and of ENAS micro where those are that no other reads.
    """
    if isinstance(genotype.get("space"), str):
        return (genotype["space"],)
    if "arc" in genotype:
        count = len(genotype["arc"])
        macro = any(layers * (layers + 1) // 2 == count for layers in range(3, 200))
        return (*(["enas_micro"] if count % 8 == 0 else []), *(["enas_macro"] if macro else []))
    for part, space in (("cell", "nasbench201"), ("layers", "enas_macro"), ("stages", "chain")):
        if part in genotype:
            return (space,)
    return ("darts", "enas_micro") if {"normal", "reduce"} & genotype.keys() else ()


def check_space(genotype: Mapping[str, Any], name: str, given: Any = None) -> None:
    """Raises ValueError where a JSON genotype says or shows that it belongs to another space.

    given: what was read, which the error names where it is short.
    """
    said = genotype.get("space")
    if said is not None and not isinstance(said, str):
        raise ValueError(f"the 'space' of a genotype is a name, got {shown(said)}")
    may_be = spaces_of(genotype)
    if may_be and name not in may_be:
        subject = f"{given!r} is a genotype" if isinstance(given, str) and len(given) <= 40 else "this genotype is"
        raise ValueError(f"{subject} of the space {' or '.join(map(shown, may_be))}, not of {name!r}")


def read_edge(where: str, entry: Any, operations: Sequence[str], sources: int) -> Edge:
    """One (operation, source) pair, its source among 0 … sources - 1; `where` names it in errors."""
    if not (isinstance(entry, (list, tuple)) and len(entry) == 2):
        raise ValueError(f"{where}: an edge is (operation, source), got {shown(entry)}")
    operation, source = entry
    if isinstance(source, str) and source.isascii() and source.isdigit() and len(source) < 4:
        source = int(source)  # in an array of strings
    if not isinstance(operation, str) or operation not in operations:
        raise ValueError(f"{where}: unknown operation {shown(operation)}; this space has {', '.join(operations)}")
    if isinstance(source, bool) or not isinstance(source, int) or not 0 <= source < sources:
        raise ValueError(
            f"{where}: source {shown(source)} of {operation} is out of range; it must be 0 to {sources - 1}"
        )
    return operation, source


def by_node(kind: str, listed: Any, nodes: int | None = None) -> list[list[Any]]:
    """The edges of a cell for each node in turn, from any of the forms in which programs print them.

    Two pairs (operation, source) for each node one after another, or in a list for each node. Of triples the third is a
    weight where one of them is no integer, and is dropped. Else one of the two numbers is the target of the edge: the
    first where it is the larger one in every triple, or the second where that is; edges may then have any order, and a
    node any number of them.

    nodes: that there must be, for the error.

    Raises: ValueError where the edges are in none of these forms.
    """
    if not isinstance(listed, (list, tuple)):
        raise ValueError(f"{kind} must be a list, got {shown(listed)}")
    if listed and all(_is_list(entry) and all(map(_is_list, entry)) for entry in listed):
        flat = [edge for node in listed for edge in node]
        if not all(len(edge) == 3 for edge in flat):
            return [list(node) for node in listed]
        if not all(_is_integer(number) for edge in flat for number in edge[1:]):  # weights; the nodes are known
            return [[edge[:2] for edge in node] for node in listed]
        listed = flat
    if listed and all(_is_list(entry) and len(entry) == 3 and _is_integer(entry[1]) for entry in listed):
        thirds = [entry[2] for entry in listed]
        if all(map(_is_integer, thirds)):
            return _by_target(kind, listed)
        if all(isinstance(third, (int, float)) for third in thirds):
            listed = [entry[:2] for entry in listed]
    if len(listed) % 2 or (nodes is not None and len(listed) != 2 * nodes):
        wanted = f"a cell of {nodes} nodes has {2 * nodes}, two for each" if nodes else "a cell has two for each node"
        raise ValueError(f"{kind} has {len(listed)} edges; {wanted}")
    return [list(listed[start : start + 2]) for start in range(0, len(listed), 2)]


def _by_target(kind: str, listed: Sequence[Any]) -> list[list[Any]]:
    pairs = [(first, second) for _, first, second in listed]
    if not (all(first > second for first, second in pairs) or all(first < second for first, second in pairs)):
        raise ValueError(
            f"{kind}: a triple is (operation, target, source) or (operation, source, target), all in one order, with a "
            f"target that is higher than the source, got {shown(list(listed))}"
        )
    last = max(map(max, pairs))
    if min(map(max, pairs)) < 2 or last >= MOST_NODES + 2:
        raise ValueError(f"{kind}: the nodes of a cell, targets of its edges, count from 2 to {MOST_NODES + 1}")
    return [[[edge[0], min(edge[1:])] for edge in listed if max(edge[1:]) == node] for node in range(2, last + 1)]


def _is_list(entry: Any) -> bool:
    return isinstance(entry, (list, tuple))


def _is_integer(entry: Any) -> bool:
    return isinstance(entry, int) and not isinstance(entry, bool)


def parts_of_cells(
    genotype: Mapping[str, Any], nodes: int | None = None
) -> dict[str, tuple[list[list[Any]], list[Any]]]:
    """kind -> (the edges of each node, what is concatenated); nodes: as of `by_node`.

    Raises: ValueError where a part is missing or in no form that is read.
    """
    parts = {}
    for kind in ("normal", "reduce"):
        for field in (kind, f"{kind}_concat"):
            if field not in genotype:
                raise ValueError(f"the genotype has no {field!r}; it needs {', '.join(FIELDS)}")
            if not isinstance(genotype[field], (list, tuple, range)):
                raise ValueError(f"{field} must be a list, got {shown(genotype[field])}")
        groups, joined = by_node(kind, genotype[kind], nodes), list(genotype[f"{kind}_concat"])
        # Nodes that no edge leads to: only edges with a target leave them out.
        numbers = [node for node in joined if _is_integer(node) and node < MOST_NODES + 2]
        if any(_is_list(entry) and len(entry) == 3 for entry in genotype[kind]):
            groups += [[]] * (max([nodes or 0, *(node - 1 for node in numbers)]) - len(groups))
        parts[kind] = groups, joined
    return parts


def check_darts(
    genotype: Mapping[str, Any], nodes: int, operations: Sequence[str], *, repeats: bool = False
) -> dict[str, list[list[Edge]]]:
    """The cells of a genotype: kind -> for each node its two edges, the lower source first.

    repeats: whether the two edges of a node may come from one input; that with the lower operation is then the first.
    The source of an edge with "none" means nothing, and is given as 0; where "none" is an operation, edges that are
    missing have it.

    Raises: ValueError naming what is wrong and what would be right.
    """
    concat = list(range(2, nodes + 2))
    cells: dict[str, list[list[Edge]]] = {}
    for kind, (groups, joined) in parts_of_cells(genotype, nodes).items():
        if len(groups) != nodes:
            raise ValueError(f"{kind} has {len(groups)} nodes; a cell of this space has {nodes}")
        if sorted(joined, key=str) != sorted(concat, key=str):
            raise ValueError(
                f"{kind}_concat is {shown(joined)}; every node is concatenated here, so it must be {concat}"
            )
        cells[kind] = []
        for node, group in enumerate(groups):
            if len(group) < 2 and repeats and "none" in operations:
                group = [*group, *[["none", 0]] * (2 - len(group))]
            if len(group) != 2:
                raise ValueError(f"{kind} node {node + 2} has {len(group)} edges; a node of this space has two")
            pair = [
                read_edge(f"{kind} edge {2 * node + e}, into node {node + 2}", edge, operations, node + 2)
                for e, edge in enumerate(group)
            ]
            if pair[0][1] == pair[1][1] and not repeats:
                raise ValueError(
                    f"{kind} node {node + 2}: both edges come from {pair[0][1]}; "
                    "its two edges must come from two different inputs"
                )
            pair = [(operation, 0 if operation == "none" else source) for operation, source in pair]
            cells[kind].append(sorted(pair, key=lambda edge: (edge[1], operations.index(edge[0]))))
    return cells


def print_darts(genotype: Mapping[str, Any]) -> str:
    """A genotype as the DARTS program prints it."""
    parts = []
    for kind in ("normal", "reduce"):
        edges = ", ".join(f"('{operation}', {source})" for operation, source in genotype[kind])
        concat = genotype[f"{kind}_concat"]
        parts.append(f"{kind}=[{edges}], {kind}_concat=range({concat[0]}, {concat[-1] + 1})")
    return f"Genotype({', '.join(parts)})"


_NB201_NODE = r"\|(?:[^|+~\n]*~[^|+~\n]*\|)+"
NASBENCH201_STRING = re.compile(rf"{_NB201_NODE}(?:\s*\+\s*{_NB201_NODE}){{2}}")


def parse_nasbench201(text: str) -> list[tuple[str, Any]]:
    """The six (operation, source) edges of an architecture string, node by node; `check_nasbench201` checks them.

    Spaces mean nothing, and nodes may have any order.
    """
    edges: list[tuple[str, Any]] = []
    nodes = [node.strip() for node in text.strip().split("+")]
    if len(nodes) != 3:
        raise ValueError(
            f"{shown(text)} has {len(nodes)} nodes; write three joined by +: |op~0|+|op~0|op~1|+|op~0|op~1|op~2|"
        )
    if sorted(node.count("|") for node in nodes) == [2, 3, 4]:
        nodes.sort(key=lambda node: node.count("|"))
    for node, part in enumerate(nodes, 1):
        if len(part) < 2 or part[0] != "|" or part[-1] != "|" or part.count("|") != node + 1:
            raise ValueError(f"node {node} is {shown(part)}; it has {node} edges, written |op~0|" + "…|" * (node > 1))
        for edge in part[1:-1].split("|"):
            operation, separator, source = (word.strip() for word in edge.partition("~"))
            if not separator:
                raise ValueError(f"node {node}: {shown(edge)} is no edge; write operation~source")
            number = source.isascii() and source.isdigit() and len(source) < 4
            edges.append((operation, int(source) if number else source))
    return edges


def check_nasbench201(edges: Any, operations: Sequence[str]) -> list[Edge]:
    """The six edges, 1←0, 2←0, 2←1, 3←0, 3←1, 3←2, each checked; those into one node may have any order.

    edges: one after another, or in a list for each node.

    Raises: ValueError naming what is wrong and what would be right.
    """
    if _is_list(edges) and len(edges) == 3 and all(map(_is_list, edges)):
        edges = [edge for node in edges for edge in node]
    if not _is_list(edges) or len(edges) != 6:
        raise ValueError(f"a cell has a list of 6 edges (operation, source), got {shown(edges)}")
    result: list[Edge] = []
    for node, start in ((1, 0), (2, 1), (3, 3)):
        own = [
            read_edge(f"edge {start + e}, into node {node}", edges[start + e], operations, node) for e in range(node)
        ]
        if sorted(source for _, source in own) == list(range(node)):
            own.sort(key=lambda edge: edge[1])
        for e, (_, source) in enumerate(own):
            if source != e:
                raise ValueError(f"edge {start + e}, into node {node}: it must come from {e}, got {source}")
        result += own
    return result


def print_nasbench201(edges: Sequence[Edge]) -> str:
    """Six edges as the architecture string of NAS-Bench-201."""
    written = [f"{operation}~{source}" for operation, source in edges]
    return "+".join(f"|{'|'.join(written[start:stop])}|" for start, stop in ((0, 1), (1, 3), (3, 6)))


_SIGNS = re.compile(r"\b(?:np\.|numpy\.|jnp\.)?array\b|\b(?:normal|reduce)\w*\s*[:=]|[\[\](){},;'\"]")


def number_words(text: str) -> list[str]:
    """The words of a text of integers, without a name before and brackets and commas between them."""
    text = re.sub(r"^\s*[A-Za-z_][\w.]*\s*[:=](?=[^=])", "", text)
    return _SIGNS.sub(" ", text).split()


def is_number(word: str) -> bool:
    """Whether a word is a number of an option, or of a state."""
    return word.isascii() and word.isdigit() and len(word) < 6


def parse_numbers(text: str, count: int, meaning: str) -> list[int]:
    """A string of integers, as ENAS prints an architecture. count, meaning: how many there must be, and what they are.

    Raises: ValueError where the text is something else.
    """
    words = number_words(text)
    wrong = next((word for word in words if not is_number(word)), None)
    if wrong is not None:
        what = "integer" if re.fullmatch(r"[-+.\d]+", wrong) else "number"
        raise ValueError(f"{shown(wrong)} is no {what}; write {count} integers, {meaning}")
    return [int(word) for word in words]


def check_numbers(numbers: Any, count: int, meaning: str) -> list[int]:
    """The integers of an architecture; raises ValueError where there are not so many, or one is none."""
    if not _is_list(numbers) or not all(map(_is_integer, numbers)):
        raise ValueError(f"an arc is a list of integers, got {shown(numbers)}; write {count} integers, {meaning}")
    if len(numbers) != count:
        raise ValueError(f"there are {len(numbers)} integers; write {count}, {meaning}")
    return list(numbers)
