"""The field's notations for cells, read and printed, and published genotypes by name. Plain Python, no arrays.

DARTS: `Genotype(normal=[('sep_conv_3x3', 0), …], normal_concat=range(2, 6), reduce=[…], reduce_concat=range(2, 6))`,
two (operation, source) edges for each node in turn; sources 0 and 1 are the two preceding cells, 2 is the first node.
NAS-Bench-201: `|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|`.
ENAS: integers with spaces between them.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

Edge = tuple[str, int]
"""(operation, source)."""

DARTS_FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")


def _published(normal: str, reduce: str) -> dict[str, Any]:
    def cell(text: str) -> list[Edge]:
        return [(name, int(source)) for name, source in (edge.split("~") for edge in text.split())]

    concat = [2, 3, 4, 5]
    return dict(zip(DARTS_FIELDS, (cell(normal), concat, cell(reduce), concat), strict=True))


PUBLISHED: dict[str, dict[str, Any]] = {
    # Liu et al. 2019, https://arxiv.org/abs/1806.09055: first and second order, CIFAR-10.
    "DARTS_V1": _published(
        "sep_conv_3x3~1 sep_conv_3x3~0 skip_connect~0 sep_conv_3x3~1 "
        "skip_connect~0 sep_conv_3x3~1 sep_conv_3x3~0 skip_connect~2",
        "max_pool_3x3~0 max_pool_3x3~1 skip_connect~2 max_pool_3x3~0 "
        "max_pool_3x3~0 skip_connect~2 skip_connect~2 avg_pool_3x3~0",
    ),
    "DARTS_V2": _published(
        "sep_conv_3x3~0 sep_conv_3x3~1 sep_conv_3x3~0 sep_conv_3x3~1 "
        "sep_conv_3x3~1 skip_connect~0 skip_connect~0 dil_conv_3x3~2",
        "max_pool_3x3~0 max_pool_3x3~1 skip_connect~2 max_pool_3x3~1 "
        "max_pool_3x3~0 skip_connect~2 skip_connect~2 max_pool_3x3~1",
    ),
    # Chen et al. 2019, https://arxiv.org/abs/1904.12760: CIFAR-10.
    "PDARTS": _published(
        "skip_connect~0 dil_conv_3x3~1 skip_connect~0 sep_conv_3x3~1 "
        "sep_conv_3x3~1 sep_conv_3x3~3 sep_conv_3x3~0 dil_conv_5x5~4",
        "avg_pool_3x3~0 sep_conv_5x5~1 sep_conv_3x3~0 dil_conv_5x5~2 "
        "max_pool_3x3~0 dil_conv_3x3~1 dil_conv_3x3~1 dil_conv_5x5~3",
    ),
    # Xu et al. 2020, https://arxiv.org/abs/1907.05737: CIFAR-10 and ImageNet.
    "PC_DARTS_cifar": _published(
        "sep_conv_3x3~1 skip_connect~0 sep_conv_3x3~0 dil_conv_3x3~1 "
        "sep_conv_5x5~0 sep_conv_3x3~1 avg_pool_3x3~0 dil_conv_3x3~1",
        "sep_conv_5x5~1 max_pool_3x3~0 sep_conv_5x5~1 sep_conv_5x5~2 "
        "sep_conv_3x3~0 sep_conv_3x3~3 sep_conv_3x3~1 sep_conv_3x3~2",
    ),
    "PC_DARTS_image": _published(
        "skip_connect~1 sep_conv_3x3~0 sep_conv_3x3~0 skip_connect~1 "
        "sep_conv_3x3~1 sep_conv_3x3~3 sep_conv_3x3~1 dil_conv_5x5~4",
        "sep_conv_3x3~0 skip_connect~1 dil_conv_5x5~2 max_pool_3x3~1 "
        "sep_conv_3x3~2 sep_conv_3x3~1 sep_conv_5x5~0 sep_conv_3x3~3",
    ),
    # Chen et al. 2021, https://arxiv.org/abs/2006.10355: CIFAR-10 and ImageNet.
    "DrNAS_cifar10": _published(
        "sep_conv_3x3~0 sep_conv_5x5~1 sep_conv_3x3~1 sep_conv_3x3~2 "
        "skip_connect~0 sep_conv_3x3~1 sep_conv_3x3~2 dil_conv_5x5~3",
        "max_pool_3x3~0 sep_conv_5x5~1 dil_conv_5x5~2 sep_conv_5x5~1 "
        "sep_conv_5x5~1 dil_conv_5x5~3 skip_connect~4 sep_conv_5x5~1",
    ),
    "DrNAS_imagenet": _published(
        "sep_conv_3x3~1 sep_conv_3x3~0 sep_conv_3x3~0 sep_conv_3x3~1 "
        "sep_conv_3x3~0 dil_conv_3x3~3 skip_connect~0 sep_conv_3x3~1",
        "max_pool_3x3~0 sep_conv_3x3~1 sep_conv_3x3~0 skip_connect~2 "
        "sep_conv_3x3~0 sep_conv_3x3~2 sep_conv_3x3~3 sep_conv_3x3~1",
    ),
}
"""DARTS cells as their authors' programs name them."""


def check_space(genotype: Mapping[str, Any], name: str) -> None:
    """Raises ValueError where a JSON genotype says that it belongs to another space; saying nothing is fine."""
    if genotype.get("space", name) != name:
        raise ValueError(f"this genotype is of the space {genotype['space']!r}, not of {name!r}")


def read_edge(where: str, entry: Any, operations: Sequence[str], sources: int) -> Edge:
    """One (operation, source) pair, its source among 0 … sources - 1; `where` names it in errors."""
    if not (isinstance(entry, (list, tuple)) and len(entry) == 2):
        raise ValueError(f"{where}: an edge is (operation, source), got {entry!r}")
    operation, source = entry
    if operation not in operations:
        raise ValueError(f"{where}: unknown operation {operation!r}; this space has {', '.join(operations)}")
    if isinstance(source, bool) or not isinstance(source, int) or not 0 <= source < sources:
        raise ValueError(f"{where}: source {source!r} of {operation} is out of range; it must be 0 to {sources - 1}")
    return operation, source


def _value(node: ast.expr, part: str) -> Any:
    """The value of a literal, of a list or tuple of such, or of `range(…)`; nothing is ever called or evaluated."""
    match node:
        case ast.Constant(value=str() | int()):
            return node.value
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return [_value(element, part) for element in elements]
        case ast.Call(func=ast.Name(id="range"), args=arguments, keywords=[]) if 1 <= len(arguments) <= 2:
            bounds = [_value(argument, part) for argument in arguments]
            if all(isinstance(bound, int) and 0 <= bound < 100 for bound in bounds):
                return list(range(*bounds))
    raise ValueError(f"{part}: cannot read {ast.unparse(node)!r}; write ('operation', source) pairs or range(2, 6)")


def parse_darts(text: str) -> dict[str, Any]:
    """`Genotype(…)` as {"normal": [[operation, source], …], "normal_concat": [2, …], "reduce": …, "reduce_concat": …}.

    Raises: ValueError where the text is something else.
    """
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "it cannot be parsed"
        raise ValueError(f"not a genotype: {reason}; write Genotype(normal=[('sep_conv_3x3', 0), …], …)") from None
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Genotype"):
        raise ValueError(
            "not a genotype; write Genotype(normal=[('sep_conv_3x3', 0), …], normal_concat=range(2, 6), …)"
        )
    if len(call.args) > len(DARTS_FIELDS):
        raise ValueError(f"Genotype(…) has {len(call.args)} arguments; it takes {', '.join(DARTS_FIELDS)}")
    named = list(zip(DARTS_FIELDS, call.args, strict=False)) + [(item.arg, item.value) for item in call.keywords]
    result: dict[str, Any] = {}
    for field, node in named:
        if field not in DARTS_FIELDS or field in result:
            raise ValueError(
                f"Genotype(…) has {field!r} twice or unasked; it takes {', '.join(DARTS_FIELDS)}, each once"
            )
        result[field] = _value(node, field)
    return result


def find_darts(text: str) -> Mapping[str, Any]:
    """The genotype that a text means: a published name in any case, or `Genotype(…)`."""
    if "(" in text:
        return parse_darts(text)
    for name, genotype in PUBLISHED.items():
        if name.casefold() == text.strip().casefold():
            return genotype
    raise ValueError(f"unknown genotype {text!r}; write Genotype(normal=…) or a name: {', '.join(PUBLISHED)}")


def check_darts(
    genotype: Mapping[str, Any], nodes: int, operations: Sequence[str], *, repeats: bool = False
) -> dict[str, list[list[Edge]]]:
    """The cells of a genotype: kind -> for each node its two edges, the lower source first.

    repeats: whether the two edges of a node may come from one input; that with the lower operation is then the first.
    The source of an edge with "none" means nothing, and is given as 0.

    Raises: ValueError naming what is wrong and what would be right.
    """
    concat = list(range(2, nodes + 2))
    cells: dict[str, list[list[Edge]]] = {}
    for kind in ("normal", "reduce"):
        for field in (kind, f"{kind}_concat"):
            if field not in genotype:
                raise ValueError(f"the genotype has no {field!r}; it needs {', '.join(DARTS_FIELDS)}")
            if not isinstance(genotype[field], (list, tuple, range)):
                raise ValueError(f"{field} must be a list, got {genotype[field]!r}")
        edges, joined = genotype[kind], list(genotype[f"{kind}_concat"])
        if len(edges) != 2 * nodes:
            raise ValueError(f"{kind} has {len(edges)} edges; a cell of {nodes} nodes has {2 * nodes}, two for each")
        if sorted(joined, key=str) != sorted(concat, key=str):
            raise ValueError(f"{kind}_concat is {joined}; every node is concatenated here, so it must be {concat}")
        cells[kind] = []
        for node in range(nodes):
            pair = [
                read_edge(f"{kind} edge {e}, into node {node + 2}", edges[e], operations, node + 2)
                for e in (2 * node, 2 * node + 1)
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


def parse_nasbench201(text: str) -> list[tuple[str, Any]]:
    """The six (operation, source) edges of an architecture string, in its order; `check_nasbench201` checks them."""
    edges: list[tuple[str, Any]] = []
    nodes = text.strip().split("+")
    if len(nodes) != 3:
        raise ValueError(
            f"{text!r} has {len(nodes)} nodes; write three joined by +: |op~0|+|op~0|op~1|+|op~0|op~1|op~2|"
        )
    for node, part in enumerate(nodes, 1):
        if len(part) < 2 or part[0] != "|" or part[-1] != "|" or part.count("|") != node + 1:
            raise ValueError(f"node {node} is {part!r}; it has {node} edges, written |op~0|" + "…|" * (node > 1))
        for edge in part[1:-1].split("|"):
            operation, separator, source = edge.partition("~")
            if not separator:
                raise ValueError(f"node {node}: {edge!r} is no edge; write operation~source")
            edges.append((operation, int(source) if source.isascii() and source.isdigit() else source))
    return edges


def check_nasbench201(edges: Any, operations: Sequence[str]) -> list[Edge]:
    """The six edges, 1←0, 2←0, 2←1, 3←0, 3←1, 3←2, each checked.

    Raises: ValueError naming what is wrong and what would be right.
    """
    if not isinstance(edges, (list, tuple)) or len(edges) != 6:
        raise ValueError(f"a cell has a list of 6 edges (operation, source), got {edges!r}")
    result = []
    for index, (node, source) in enumerate([(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]):
        edge = read_edge(f"edge {index}, into node {node}", edges[index], operations, node)
        if edge[1] != source:
            raise ValueError(f"edge {index}, into node {node}: it must come from {source}, got {edge[1]}")
        result.append(edge)
    return result


def print_nasbench201(edges: Sequence[Edge]) -> str:
    """Six edges as the architecture string of NAS-Bench-201."""
    written = [f"{operation}~{source}" for operation, source in edges]
    return "+".join(f"|{'|'.join(written[start:stop])}|" for start, stop in ((0, 1), (1, 3), (3, 6)))


def parse_numbers(text: str, count: int, meaning: str) -> list[int]:
    """A string of `count` integers, as ENAS prints an architecture; `meaning` says what they are.

    Raises: ValueError where the text is something else.
    """
    words = text.split()
    wrong = next((word for word in words if not (word.isascii() and word.isdigit())), None)
    if wrong is not None:
        raise ValueError(f"{wrong!r} is no number; write {count} integers, {meaning}")
    if len(words) != count:
        raise ValueError(f"there are {len(words)} integers; write {count}, {meaning}")
    return [int(word) for word in words]
