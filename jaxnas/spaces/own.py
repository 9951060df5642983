"""The space that a genotype is of, where that has other operations, nodes or ends than the spaces of the papers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxnas.base import SearchSpace
from jaxnas.ops.primitives import PRIMITIVES
from jaxnas.spaces import genotypes
from jaxnas.spaces.chain import chain_space
from jaxnas.spaces.darts import DARTS_OPERATIONS, darts_space
from jaxnas.spaces.enas_macro import enas_macro_space
from jaxnas.spaces.enas_micro import ENAS_MICRO_OPERATIONS, enas_micro_space
from jaxnas.spaces.literals import shown
from jaxnas.spaces.nasbench201 import NASBENCH201_OPERATIONS, nasbench201_space


def genotype_space(genotype: Mapping[str, Any]) -> SearchSpace:
    """The space of the library that has a genotype, which is in the JSON form: `read_genotype` gives it.

    That is the space of the paper where it has the genotype, and else one with operations of the library beside those
    of the paper, other numbers of nodes, layers or stages, or, of DARTS, a free one (`darts_space(…, free=True)`).
    Cells that do not say their space are of ENAS micro where the nodes that no other reads are concatenated, and not
    all.

    Raises: ValueError where no space has it, which names what is different.

    >>> from jaxnas.spaces import read_genotype
    >>> text = "|sep_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|"
    >>> space = genotype_space(read_genotype(text))  # "sep_conv_3x3" is no operation of the paper
    >>> space.name, space.choices[0].options[-1]
    ('nasbench201', 'sep_conv_3x3')
    """
    may_be = genotypes.spaces_of(genotype)
    if may_be == ("darts", "enas_micro"):
        return _micro_space(genotype) if _joins_loose_ends(genotype) else _darts_space(genotype)
    name = may_be[0] if len(may_be) == 1 else None
    match name:
        case "darts":
            return _darts_space(genotype)
        case "enas_micro":
            arc = genotype.get("arc")
            return _micro_space(genotype) if arc is None else enas_micro_space(max(1, len(arc) // 8))
        case "nasbench201" if isinstance(genotype.get("cell"), (list, tuple)):
            found = _operations(genotypes.check_nasbench201(genotype["cell"], _Any()))
            return nasbench201_space(_with(NASBENCH201_OPERATIONS, found))
        case "enas_macro":
            if "arc" in genotype:
                count = len(genotype["arc"])
                return enas_macro_space(next(k for k in range(200) if k * (k + 1) // 2 >= count))
            return enas_macro_space(len(_listed(genotype, "layers")))
        case "chain":
            return chain_space(
                [len(stage) for stage in _listed(genotype, "stages") if isinstance(stage, (list, tuple))]
            )
    if may_be[1:]:
        raise ValueError(f"the genotype may be of the space {' or '.join(may_be)}: say which")
    known = "darts, nasbench201, enas_micro, enas_macro, chain"
    raise ValueError(f"no space of the library has this genotype; say its 'space', one of {known}, got {shown(name)}")


class _Any(tuple[str, ...]):
    """Operations of whatever name."""

    __slots__ = ()

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str)


def _listed(genotype: Mapping[str, Any], part: str) -> Sequence[Any]:
    listed = genotype.get(part)
    if not isinstance(listed, (list, tuple)) or not 1 <= len(listed) <= genotypes.MOST_NODES:
        raise ValueError(f"{part!r} must be a list of 1 to {genotypes.MOST_NODES} entries, got {shown(listed)}")
    return listed


def _operations(edges: Sequence[Any]) -> list[str]:
    return [edge[0] for edge in edges if isinstance(edge, (list, tuple)) and edge and isinstance(edge[0], str)]


def _with(operations: tuple[str, ...], found: Sequence[str]) -> tuple[str, ...]:
    """The operations of a paper, and the others that were found. Raises ValueError for one that the library has not."""
    if unknown := sorted({name for name in found if name not in PRIMITIVES}):
        raise ValueError(
            f"unknown operation {', '.join(map(shown, unknown[:8]))}; the library has {', '.join(sorted(PRIMITIVES))}, "
            "and takes others as Primitive objects in a space of your own"
        )
    return (*operations, *sorted(set(found) - set(operations)))


def _nodes(genotype: Mapping[str, Any]) -> tuple[int, list[str]]:
    """How many nodes the larger of two cells has, and the operations of both."""
    parts = genotypes.parts_of_cells(genotype)
    nodes = max(len(groups) for groups, _ in parts.values())
    if not 1 <= nodes <= genotypes.MOST_NODES:
        raise ValueError(f"a cell has 1 to {genotypes.MOST_NODES} nodes, got {nodes}")
    return nodes, _operations([edge for groups, _ in parts.values() for group in groups for edge in group])


def _joins_loose_ends(genotype: Mapping[str, Any]) -> bool:
    """Whether the cells concatenate the nodes that no other reads, and one of them not all nodes."""
    all_joined = True
    for groups, joined in genotypes.parts_of_cells(genotype).values():
        if any(len(group) != 2 for group in groups):
            return False
        read = {edge[1] for group in groups for edge in group if isinstance(edge, (list, tuple)) and len(edge) == 2
                and isinstance(edge[1], int)}  # fmt: skip
        nodes = set(range(2, len(groups) + 2))
        if sorted(nodes - read) != sorted(joined, key=lambda node: node if isinstance(node, int) else -1):
            return False
        all_joined &= not nodes & read
    return not all_joined


def _darts_space(genotype: Mapping[str, Any]) -> SearchSpace:
    nodes, found = _nodes(genotype)
    operations = _with(DARTS_OPERATIONS, found)
    for field in ("normal_concat", "reduce_concat"):
        joined = list(genotype[field])
        if sorted(joined, key=str) != sorted(range(2, nodes + 2), key=str):
            raise ValueError(
                f"{field} is {shown(joined)}; cells of DARTS concatenate all nodes, {list(range(2, nodes + 2))}, and "
                "cells of ENAS micro those that no other reads"
            )
    try:
        genotypes.check_darts(genotype, nodes, tuple(name for name in operations if name != "none"))
    except ValueError:
        genotypes.check_darts(genotype, nodes, operations, repeats=True)
        return darts_space(nodes, operations, free=True)
    return darts_space(nodes, operations)


def _micro_space(genotype: Mapping[str, Any]) -> SearchSpace:
    nodes, found = _nodes(genotype)
    if "none" in found:
        raise ValueError("unknown operation 'none'; a cell of ENAS micro has two operations a node")
    return enas_micro_space(nodes, _with(ENAS_MICRO_OPERATIONS, found))
