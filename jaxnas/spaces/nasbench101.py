"""The cells of NAS-Bench-101 (Ying et al. 2019, https://arxiv.org/abs/1902.09635): graphs with operations on nodes.

A cell is a directed acyclic graph of at most seven vertices and nine edges. The first vertex is the input, the last the
output, and each between has one of three operations. Vertices that lie on no way from the input to the output count
for nothing. Two cells are one where the vertices of one can be renamed to give the other; there are 423,624 of them.

An architecture has a choice for each pair of the seven vertices, row by row of the adjacency matrix above its diagonal,
and the operations of the five inner vertices: D = 26. Not every combination is a cell: `nasbench101_valid` says which.
`sample`, `mutate` and `crossover` give cells alone, and `neighbors` marks them.
"""

from __future__ import annotations

import ast
import itertools
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Arch, ArchWeights, Array, Choice, Graph, Key, SearchSpace, Skeleton
from jaxnas.checks import checked_space
from jaxnas.spaces.literals import shown
from jaxnas.spaces.product import entries, product

NASBENCH101_OPERATIONS = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")
"""In the official order."""
NASBENCH101_VERTICES = 7
NASBENCH101_EDGES = 9
"""The most that a cell has, once what counts for nothing is left out."""

_N = NASBENCH101_VERTICES
_PAIRS = np.array(list(itertools.combinations(range(_N), 2)), np.int32)
_INNER = _N - 2
_ORDERS = np.array([(0, *order, _N - 1) for order in itertools.permutations(range(1, _N - 1))], np.int32)
_NAMES = {
    **{name: number for number, name in enumerate(NASBENCH101_OPERATIONS)},
    **{name.partition("-")[0]: number for number, name in enumerate(NASBENCH101_OPERATIONS)},
}
_CODES = {-1: "input", -2: "output"}
"""Labels of the authors' programs for the two ends."""


def _matrix(arch: Arch) -> Array:
    """bool [7, 7]."""
    return jnp.zeros((_N, _N), bool).at[_PAIRS[:, 0], _PAIRS[:, 1]].set(arch[: len(_PAIRS)] > 0)


def _live(matrix: Array) -> Array:
    """Which vertices lie on a way from the input to the output, bool [7]; none where there is no way."""
    fed, read = [jnp.bool_(True)], [jnp.bool_(True)]
    for vertex in range(1, _N):
        fed.append((jnp.stack(fed) & matrix[:vertex, vertex]).any())
    for vertex in reversed(range(_N - 1)):
        read.insert(0, (jnp.stack(read) & matrix[vertex, vertex + 1 :]).any())
    return jnp.stack(fed) & jnp.stack(read)


def nasbench101_valid(arch: Arch) -> Array:
    """Whether an architecture is a cell of the benchmark, bool []: a way leads to the output, and at most nine
    edges count.

    arch: int32 [26]. The function is traceable; under `vmap` it takes a population.

    >>> valid, empty = jax.jit(nasbench101_valid), jnp.zeros(26, jnp.int32)
    >>> bool(valid(empty))  # nothing leads to the output
    False
    >>> bool(valid(empty.at[5].set(1)))  # the edge 0→6, from the input to the output
    True
    """
    matrix = _matrix(arch)
    live = _live(matrix)
    return live[-1] & ((matrix & live[:, None] & live[None]).sum() <= NASBENCH101_EDGES)


def nasbench101_canonical(arch: Arch) -> Arch:
    """The one architecture that stands for all of one graph; traceable.

    Vertices that count for nothing come last, without edges. Of all orders of the others that keep edges forward, that
    with the least operations, and then the least edges, as numbers, is taken. Where the output is not fed, all is 0.
    """
    matrix = _matrix(arch)
    live = _live(matrix)
    matrix &= live[:, None] & live[None]
    ops = jnp.where(live[1:-1], arch[len(_PAIRS) :], 0)
    orders = jnp.asarray(_ORDERS)
    moved = matrix[orders[:, :, None], orders[:, None, :]]  # [120, 7, 7]
    there = live[orders[:, 1:-1]]
    forward = ~jnp.tril(moved).any((1, 2)) & (there[:, :-1] >= there[:, 1:]).all(axis=1)
    edges = moved[:, _PAIRS[:, 0], _PAIRS[:, 1]].astype(jnp.int32)
    labels = ops[orders[:, 1:-1] - 1]
    code = labels @ (len(NASBENCH101_OPERATIONS) ** jnp.arange(_INNER)[::-1])
    code = (code << len(_PAIRS)) + edges @ (1 << jnp.arange(len(_PAIRS))[::-1])
    best = jnp.argmin(jnp.where(forward, code, jnp.iinfo(jnp.int32).max))
    return jnp.where(live[-1], jnp.concatenate([edges[best], labels[best]]), 0).astype(jnp.int32)


def nasbench101_space() -> SearchSpace:
    """The space of the benchmark's cells; D = 26.

    Its genotype is {"space", "matrix", "ops"}, its notation the same as Python writes the two lists.

    Mixture weights: "edge" [21, 2] and "vertex" [5, 3]. The graph has the seven vertices in canonical form, those that
    count for nothing masked out. There are no costs.

    >>> space = nasbench101_space()
    >>> arch = space.from_genotype({"matrix": "011001000", "ops": "input,conv3x3-bn-relu,output"})
    >>> len(arch), int(arch.sum())  # 21 pairs of vertices and 5 operations; the cell has three edges
    (26, 3)
    """
    choices = (
        *(Choice(f"edge {low}→{high}", ("no", "yes")) for low, high in _PAIRS.tolist()),
        *(Choice(f"vertex {vertex}", NASBENCH101_OPERATIONS) for vertex in range(1, _N - 1)),
    )
    moves = product(choices)

    def sample(key: Key) -> Arch:
        def drawn(key: Key) -> Arch:
            # Half of all graphs have more than ten edges; an edge is there with a probability that gives about nine.
            edge_key, rest_key = jax.random.split(key)
            edges = jax.random.bernoulli(edge_key, 0.4, (len(_PAIRS),)).astype(jnp.int32)
            return jnp.concatenate([edges, moves.sample(rest_key)[len(_PAIRS) :]])

        def again(loop: tuple[Array, Arch]) -> tuple[Array, Arch]:
            number = loop[0] + 1
            return number, drawn(jax.random.fold_in(key, number))

        start = (jnp.int32(0), drawn(jax.random.fold_in(key, 0)))
        return jax.lax.while_loop(lambda loop: ~nasbench101_valid(loop[1]), again, start)[1]

    def mutate(key: Key, arch: Arch) -> Arch:
        near, valid = neighbors(arch)
        valid |= ~valid.any()
        drawn = jnp.where(valid, jax.random.uniform(key, valid.shape), -1.0)
        return near[jnp.argmax(drawn)]

    def crossover(key: Key, a: Arch, b: Arch) -> Arch:
        child = moves.crossover(key, a, b)
        return jnp.where(nasbench101_valid(child), child, a)

    def neighbors(arch: Arch) -> tuple[Array, Array]:
        near, _ = moves.neighbors(arch)
        return near, jax.vmap(nasbench101_valid)(near)

    def one_hot(arch: Arch) -> ArchWeights:
        return {
            "edge": jax.nn.one_hot(arch[: len(_PAIRS)], 2, dtype=jnp.float32),
            "vertex": jax.nn.one_hot(arch[len(_PAIRS) :], len(NASBENCH101_OPERATIONS), dtype=jnp.float32),
        }

    def discretize(weights: ArchWeights) -> Arch:
        parts = [jnp.argmax(weights[kind], axis=1) for kind in ("edge", "vertex")]
        return nasbench101_canonical(jnp.concatenate(parts).astype(jnp.int32))

    def graph(arch: Arch) -> Graph:
        arch = nasbench101_canonical(arch)
        matrix, ends = _matrix(arch), len(NASBENCH101_OPERATIONS)
        ops = jnp.concatenate([jnp.full(1, ends), arch[len(_PAIRS) :], jnp.full(1, ends + 1)]).astype(jnp.int32)
        mask = _live(matrix) | (jnp.arange(_N) % (_N - 1) == 0)
        return Graph(matrix[None].astype(jnp.float32), ops[None], mask[None])

    def to_genotype(arch: Arch) -> dict[str, Any]:
        entries(choices, arch)
        plain = np.asarray(nasbench101_canonical(jnp.asarray(arch)))
        matrix = np.asarray(_matrix(jnp.asarray(plain))).astype(int)
        kept = [0, *(v for v in range(1, _N - 1) if matrix[:, v].any()), _N - 1]
        names = ["input", *(NASBENCH101_OPERATIONS[plain[len(_PAIRS) + v - 1]] for v in kept[1:-1]), "output"]
        return {"space": "nasbench101", "matrix": matrix[np.ix_(kept, kept)].tolist(), "ops": names}

    def notation(arch: Arch) -> str:
        genotype = to_genotype(arch)
        return f"{genotype['matrix']} {genotype['ops']}"

    space = SearchSpace(
        name="nasbench101",
        choices=choices,
        sample=sample,
        mutate=mutate,
        crossover=crossover,
        neighbors=neighbors,
        canonical=nasbench101_canonical,
        template=lambda: {"edge": jnp.zeros((len(_PAIRS), 2)), "vertex": jnp.zeros((_INNER, 3))},
        one_hot=one_hot,
        discretize=discretize,
        graph=graph,
        costs=lambda arch, skeleton: _no_costs(skeleton),
        to_genotype=to_genotype,
        from_genotype=_from_genotype,
        notation=notation,
        vocabulary=(*NASBENCH101_OPERATIONS, "input", "output"),
    )
    return checked_space(space)


def _no_costs(skeleton: Skeleton) -> dict[str, int]:
    return {}


def _from_genotype(genotype: Mapping[str, Any] | str) -> Arch:
    found = _parsed(genotype) if isinstance(genotype, str) else genotype
    if not isinstance(found, Mapping):
        raise ValueError(f"a genotype is a text or the JSON form of its space, got {shown(found)}")
    if found.get("space", "nasbench101") != "nasbench101":
        raise ValueError(f"the genotype is of the space {shown(found['space'])}, not of 'nasbench101'")
    matrix = next((found[name] for name in ("matrix", "module_adjacency", "adjacency") if name in found), None)
    ops = next((found[name] for name in ("ops", "module_operations", "operations") if name in found), None)
    return nasbench101_arch(matrix, ops)


def nasbench101_arch(matrix: Any, ops: Any) -> Arch:
    """The canonical architecture of a cell. matrix: 0 and 1 [V, V], above the diagonal alone, or their text row by row.

    ops: V names, or their text with commas; the authors' numbers 0, 1, 2, and -1 and -2 for the ends, are read, too.

    Raises: ValueError where it is no cell of the benchmark, which says why.
    """
    return jnp.asarray(jax.jit(nasbench101_canonical)(jnp.asarray(nasbench101_entries(matrix, ops))))


def nasbench101_entries(matrix: Any, ops: Any) -> np.ndarray:
    """As `nasbench101_arch`, int32 [26], not yet in canonical form."""
    if isinstance(ops, str):
        ops = [name.strip() for name in ops.split(",")]
    if not isinstance(ops, (list, tuple)) or not 2 <= len(ops) <= _N:
        raise ValueError(f"'ops' are the operations of 2 to {_N} vertices, from 'input' to 'output', got {shown(ops)}")
    names = [_CODES.get(name, name) if type(name) is int else name for name in ops]
    count = len(names)
    if isinstance(matrix, str):
        digits = matrix.strip()
        if math.isqrt(len(digits)) ** 2 == len(digits) and set(digits) <= {"0", "1"}:
            side = math.isqrt(len(digits))
            matrix = [[int(digit) for digit in digits[row * side : (row + 1) * side]] for row in range(side)]
    rows = [list(row) if isinstance(row, (list, tuple)) else row for row in matrix or ()]
    if len(rows) != count or any(not isinstance(row, list) or len(row) != count for row in rows):
        raise ValueError(
            f"'matrix' must have {count} rows of {count} numbers, one for each of 'ops', got {shown(matrix)}"
        )
    if any(entry not in (0, 1) for row in rows for entry in row):
        raise ValueError(f"the adjacency matrix has entries 0 and 1 alone, got {shown(matrix)}")
    if any(rows[high][low] for high in range(count) for low in range(high + 1)):
        raise ValueError("the adjacency matrix has an edge that leads back; edges lead to later vertices alone")
    if (names[0], names[-1]) != ("input", "output"):
        raise ValueError(
            f"the first vertex is 'input' and the last 'output', got {shown(names[0])}, {shown(names[-1])}"
        )
    arch = np.zeros(len(_PAIRS) + _INNER, np.int32)
    place = [*range(count - 1), _N - 1]
    number = {pair: at for at, pair in enumerate(map(tuple, _PAIRS.tolist()))}
    for low, high in itertools.combinations(range(count), 2):
        arch[number[place[low], place[high]]] = rows[low][high]
    for vertex, name in enumerate(names[1:-1]):
        known = name if type(name) is int and 0 <= name < 3 else _NAMES.get(str(name).strip().lower())
        if known is None:
            raise ValueError(
                f"vertex {vertex + 1}: unknown operation {shown(name)}; there are {', '.join(NASBENCH101_OPERATIONS)}"
            )
        arch[len(_PAIRS) + vertex] = known
    _check_cell(np.array(rows, bool))
    return arch


def _check_cell(matrix: np.ndarray) -> None:
    """Raises ValueError where the output is not fed, or too many edges are left."""
    reach = np.linalg.matrix_power(matrix.astype(np.int64) + np.eye(len(matrix), dtype=np.int64), len(matrix)) > 0
    live = reach[0] & reach[:, -1]
    if not live[-1]:
        raise ValueError("no way leads from the input to the output")
    edges = int((matrix & live[:, None] & live[None]).sum())
    if edges > NASBENCH101_EDGES:
        raise ValueError(f"a cell has at most {NASBENCH101_EDGES} edges, got {edges}")


_CONSTANTS = re.compile(r"\b(input|output|conv3x3|conv1x1|maxpool3x3)\b(?![-'\"\w])", re.IGNORECASE)


def _parsed(text: str) -> Mapping[str, Any]:
    """{"matrix", "ops"} of a text: JSON, two lists as Python writes them, or the text of a matrix and names."""
    if len(text) > 100_000:
        raise ValueError(f"a text of {len(text)} characters is no cell of NAS-Bench-101")
    stripped = text.strip()
    if stripped.startswith("{"):
        try:
            return dict(json.loads(stripped))
        except (ValueError, RecursionError):
            raise ValueError(f"not JSON: {shown(text)}") from None
    if match := re.fullmatch(r"([01]{4,49})[\s;:|,]+(input\s*,.*output)", stripped, re.IGNORECASE):
        return {"matrix": match[1], "ops": match[2].lower()}
    lists = re.search(r"(\[\s*\[[\s\d,\[\]]*\])\D*?(\[[^\[\]]*\])", stripped)
    if lists:
        quoted = _CONSTANTS.sub(lambda name: f"'{name[1].lower()}'", re.sub(r"['\"]", "", lists[2]))
        names = [name.strip().strip("'") for name in quoted.strip("[] ").split(",")]
        try:
            return {"matrix": ast.literal_eval(lists[1]), "ops": [_integer(name) for name in names]}
        except (ValueError, SyntaxError):
            pass
    raise ValueError(
        f"{shown(text)} is no cell of NAS-Bench-101; write its matrix and operations, as [[0, 1], [0, 0]] "
        "['input', 'output']"
    )


def _integer(name: str) -> str | int:
    return int(name) if re.fullmatch(r"-?\d", name) else name
