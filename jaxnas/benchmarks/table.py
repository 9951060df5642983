"""A tabular benchmark as a few arrays: which architectures were measured, and what came out.

A query is a pure function of arrays, so that a whole search over a table runs under `jit`, and many under `vmap`.
Shapes: A rows, D choices of the space, F fidelities of a metric.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxnas.base import Arch, Array, Choice, SearchSpace
from jaxnas.benchmarks.near import moves_among
from jaxnas.checks import check_arch
from jaxnas.fingerprint import checksum
from jaxnas.spaces.product import Product, product

LOOKUP_LIMIT = 1 << 22
"""Spaces of up to so many architectures, 4,194,304, have an array with the row of each; larger ones are searched by
bisection over the rows, which needs no more memory than the rows do and log2(A) steps a query."""
CANONICAL_ROWS = 1 << 14
"""Rows that are brought into canonical form at a time."""


class Table(NamedTuple):
    """A benchmark over a product of choices, as made by `make_table`.

    moves: `Product` of the choices; where not all architectures have a row, moves among those that do. archs: int32
    [A, D], every row, in canonical form where the table is over a space. metrics: name -> float32 [A], or [A, F] with
    the fidelities in the order of their cost; NaN where a value is missing. index: arch -> int32 row, -1 where the
    table has none. query: (arch, metric, fidelity=-1) -> float32 [], NaN where the value is missing, the table has no
    such row, or a traced fidelity is out of range. Both are traceable and work under `vmap`. `fidelity` is an index, -1
    the last, an integer or a traced one; "NAME@LABEL"
    as the metric takes the fidelity of that label. An unknown metric or a Python integer out of range raises
    ValueError. descriptions: name -> what a metric is. fidelities: name -> F labels, for metrics that have several or a
    labeled one. space: of which the architectures are, None where they are a plain product. nearest: arch -> that of
    the nearest row, which is the same where it has one; None where the rows are dense enough for moves of one change.
    notes: sentences on how the table was read, for the person who gave it.
    """

    name: str
    choices: tuple[Choice, ...]
    moves: Product
    archs: Array
    metrics: dict[str, Array]
    index: Callable[[Arch], Array]  # type: ignore[assignment]  # hides the method of tuples
    query: Callable[..., Array]
    descriptions: Mapping[str, str] = MappingProxyType({})
    fidelities: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    space: SearchSpace | None = None
    nearest: Callable[[Arch], Arch] | None = None
    notes: tuple[str, ...] = ()


class Fault(NamedTuple):
    """What is wrong with the architecture of a row. choice: the offending one, None where it is the whole."""

    row: int
    choice: int | None
    reason: str


def find_fault(choices: Sequence[Choice], archs: np.ndarray, row_name: Callable[[int], str]) -> Fault | None:
    """The first entry of integer archs [A, D] that is no option, else the first row that repeats another, else None.

    row_name: row -> how the reader of an error finds it.
    """
    outside = find_outside(choices, archs)
    if outside is not None:
        return outside
    first, group = distinct(choices, archs)
    repeats = np.flatnonzero(first[group] != np.arange(len(archs)))
    if len(repeats):
        row = int(repeats[0])
        same = row_name(int(first[group[row]]))
        reason = (
            f"the same architecture as {same}; keep one row for each, or read them by duplicates: mean, first, seeds"
        )
        return Fault(row, None, reason)
    return None


def find_outside(choices: Sequence[Choice], archs: np.ndarray) -> Fault | None:
    """The first entry of integer archs [A, D] that is no option, else None."""
    sizes = np.array([len(choice.options) for choice in choices])
    outside = np.argwhere((archs < 0) | (archs >= sizes))
    if not len(outside):
        return None
    row, d = (int(at) for at in outside[0])
    return Fault(row, d, f"choice {choices[d].name!r} has options 0 to {sizes[d] - 1}, got {archs[row, d]}")


def distinct(choices: Sequence[Choice], archs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the first row of each different architecture, in their order, int [U]; which of them each row is, int [A])."""
    codes = archs @ _radix(choices).T
    first = group = np.zeros(len(archs), np.int64)
    for place, word in enumerate(codes.T):
        if place:
            word = np.unique(word, return_inverse=True)[1].reshape(-1)
            word = group * (int(word.max()) + 1) + word
        _, first, group = np.unique(word, return_index=True, return_inverse=True)
        group = group.reshape(-1)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[group]


def make_table(
    name: str,
    choices: SearchSpace | Sequence[Choice],
    archs: ArrayLike,
    metrics: Mapping[str, ArrayLike],
    descriptions: Mapping[str, str] | None = None,
    fidelities: Mapping[str, Sequence[str]] | None = None,
    notes: Sequence[str] = (),
) -> Table:
    """A table from arrays.

    choices: of a plain product, or a space, whose canonical form, moves and graphs are then those of the table. archs:
    integers [A, D]. metrics: name -> numbers [A] or [A, F], the cheapest fidelity first; NaN where a value is
    missing. fidelities: name -> labels of the F columns, by default "0", "1", …; a metric [A] needs none.

    Raises: ValueError where shapes do not fit, an entry is no option of its choice, two rows are equal, a value is
    infinite, or a name is used that is not there.

    >>> import jax
    >>> from jaxnas.base import Choice
    >>> choices = [Choice("width", ("8", "16")), Choice("depth", ("1", "2"))]
    >>> archs = [[0, 0], [0, 1], [1, 0], [1, 1]]
    >>> table = make_table("mine", choices, archs, {"valid": [50.0, 60.0, 70.0, 80.0]})
    >>> jax.jit(lambda arch: table.query(arch, "valid"))(jnp.array([1, 0])).item()
    70.0
    """
    space = choices if isinstance(choices, SearchSpace) else None
    choices = tuple(choices.choices if isinstance(choices, SearchSpace) else choices)
    everywhere = product(choices)
    if space is not None:
        everywhere = Product(space.sample, space.mutate, space.crossover, space.neighbors)
    rows = np.asarray(archs)
    if rows.ndim != 2 or rows.shape[1] != len(choices) or not len(rows) or rows.dtype.kind not in "iu":
        raise ValueError(
            f"archs must be integers [A, {len(choices)}], one row for each architecture and one column for each "
            f"choice, got {rows.dtype} {list(rows.shape)}"
        )
    rows, canonical = canonical_rows(space, choices, rows)
    fault = find_fault(choices, rows, lambda row: f"row {row}")
    if fault:
        raise ValueError(f"row {fault.row} of archs: {fault.reason}")
    if not metrics:
        raise ValueError("a table needs at least one metric, got none")
    for kind, given in (("descriptions", descriptions), ("fidelities", fidelities)):
        for metric in given or {}:
            if metric not in metrics:
                raise ValueError(f"{kind} name {metric!r}, which is no metric; there are {', '.join(metrics)}")
    values = {metric: _check_metric(metric, value, len(rows)) for metric, value in metrics.items()}
    labels = {
        metric: _check_labels(metric, value, (fidelities or {}).get(metric))
        for metric, value in values.items()
        if value.ndim == 2 or metric in (fidelities or {})
    }
    rows = rows.astype(np.int32)
    arrays = {metric: jnp.asarray(value) for metric, value in values.items()}
    lookup, owner = _make_index(choices, rows), f"the table {name!r}"

    def index(arch: Arch) -> Array:
        check_arch(choices, arch, owner)
        return lookup(arch if canonical is None else canonical(arch))

    query = _make_query(index, arrays, labels)
    moves, nearest = everywhere, None
    if len(rows) < space_size(choices):
        moves, nearest = moves_among(everywhere, rows, index)
    described = dict(descriptions or {})
    return Table(
        name, choices, moves, jnp.asarray(rows), arrays, index, query, described, labels, space, nearest, tuple(notes)
    )


def canonical_rows(
    space: SearchSpace | None, choices: tuple[Choice, ...], rows: np.ndarray
) -> tuple[np.ndarray, Callable[[Arch], Arch] | None]:
    """(the rows in canonical form, what makes it, None where that is nothing)."""
    if space is None or find_outside(choices, rows) is not None:  # which is told later
        return rows, None
    program = jax.make_jaxpr(space.canonical)(jax.ShapeDtypeStruct((len(choices),), jnp.int32)).jaxpr
    if program.outvars[0] is program.invars[0]:
        return rows, None
    make = jax.jit(jax.vmap(space.canonical))
    rows = rows.astype(np.int32)
    parts = [rows[start : start + CANONICAL_ROWS] for start in range(0, len(rows), CANONICAL_ROWS)]
    if len(parts) > 1:  # one shape alone, so that it is compiled once
        filled = np.concatenate([parts[-1], rows[: CANONICAL_ROWS - len(parts[-1])]])
        return np.concatenate([np.asarray(make(part)) for part in (*parts[:-1], filled)])[: len(rows)], space.canonical
    return np.asarray(make(rows)), space.canonical


def space_size(choices: Sequence[Choice]) -> int:
    """How many architectures the product of some choices has."""
    return math.prod(len(choice.options) for choice in choices)


def measured(table: Table, metrics: Sequence[str]) -> np.ndarray:
    """The rows, int [N], that have a value of every one of the metrics, at each of its fidelities if it names none.

    A metric is written as for `Table.query`; a "-" before it changes nothing.

    >>> from jaxnas.base import Choice
    >>> table = make_table("mine", [Choice("width", ("8", "16"))], [[0], [1]], {"valid": [5, 6], "test": [np.nan, 6]})
    >>> measured(table, ["valid", "test"]).tolist()
    [1]
    """
    there = np.ones(len(table.archs), bool)
    for metric in metrics:
        name, _, label = metric.removeprefix("-").partition("@")
        values = np.asarray(table.metrics[name]).reshape(len(there), -1)
        if label:
            at = table.fidelities[name].index(label)
            values = values[:, at : at + 1]
        there &= ~np.isnan(values).any(axis=1)
    return np.flatnonzero(there)


def only_rows(table: Table, rows: np.ndarray) -> Table:
    """The table with some of its rows, int [N], alone: its moves lead to no other.

    Raises: ValueError where there is no row.

    >>> from jaxnas.base import Choice
    >>> table = make_table("mine", [Choice("width", ("8", "16"))], [[0], [1]], {"valid": [5, 6], "test": [np.nan, 6]})
    >>> only_rows(table, measured(table, ["test"])).archs.tolist()
    [[1]]
    """
    if len(rows) == len(table.archs):
        return table
    if not len(rows):
        raise ValueError(f"no row of {table.name} has all the values that are needed; leave out a metric")
    kept = {name: np.asarray(value)[rows] for name, value in table.metrics.items()}
    archs = np.asarray(table.archs)[rows]
    over = table.choices if table.space is None else table.space
    return make_table(table.name, over, archs, kept, table.descriptions, table.fidelities, table.notes)


def missing(table: Table) -> dict[str, int]:
    """How many rows have no value, for each metric ("NAME") or fidelity of one ("NAME@LABEL").

    >>> from jaxnas.base import Choice
    >>> table = make_table("mine", [Choice("width", ("8", "16"))], [[0], [1]], {"valid": [5, 6], "test": [np.nan, 6]})
    >>> missing(table)
    {'valid': 0, 'test': 1}
    """
    counts: dict[str, int] = {}
    for metric, value in table.metrics.items():
        columns = np.isnan(np.asarray(value)).reshape(len(value), -1).sum(axis=0)
        labels = table.fidelities.get(metric)
        names = [f"{metric}@{label}" for label in labels] if labels else [metric]
        counts.update(zip(names, columns.tolist(), strict=True))
    return counts


def table_fingerprint(table: Table) -> dict[str, Any]:
    """What a table holds, for the identity of a run: the same for any file that gives the same table, and its name.

    One changed value, option or order of rows makes another; neither the descriptions of metrics nor their order.
    """
    metrics = sorted(table.metrics)
    described = [
        [[choice.name, choice.options] for choice in table.choices],
        [[metric, table.fidelities.get(metric)] for metric in metrics],
    ]
    arrays = [np.asarray(table.metrics[metric]) for metric in metrics]
    return {
        "rows": len(table.archs),
        "choices": [choice.name for choice in table.choices],
        "metrics": sorted(missing(table)),
        "checksum": checksum(json.dumps(described), np.asarray(table.archs), *arrays),
    }


def _check_metric(metric: str, value: ArrayLike, count: int) -> np.ndarray:
    """The values as float32 [A] or [A, F]."""
    if "@" in metric:
        raise ValueError(f"metric {metric!r}: '@' divides a metric from its fidelity; give the metric another name")
    array = np.asarray(value)
    if array.ndim not in (1, 2) or len(array) != count or not array.size or array.dtype.kind not in "biuf":
        raise ValueError(
            f"metric {metric!r} must be numbers [{count}] or [{count}, F], one row for each architecture, "
            f"got {array.dtype} {list(array.shape)}"
        )
    with np.errstate(over="ignore"):  # what overflows float32 is told below
        array = array.astype(np.float32)
    infinite = np.argwhere(np.isinf(array))
    if len(infinite):
        at = ", ".join(f"{kind} {index}" for kind, index in zip(("row", "fidelity"), infinite[0], strict=False))
        raise ValueError(f"metric {metric!r}, {at}: infinite in float32; write NaN where a value is missing")
    return array


def _check_labels(metric: str, value: np.ndarray, labels: Sequence[str] | None) -> tuple[str, ...]:
    count = 1 if value.ndim == 1 else value.shape[1]
    result = tuple(str(label) for label in (range(count) if labels is None else labels))
    if len(result) != count or len(set(result)) != count:
        raise ValueError(f"metric {metric!r} needs {count} different labels of fidelities, got {list(result)}")
    return result


def _radix(choices: Sequence[Choice]) -> np.ndarray:
    """int32 [W, D]: archs @ radix.T is a mixed-radix code in as many int32 words as it needs."""
    sizes = np.array([len(choice.options) for choice in choices], np.int32)
    words: list[list[int]] = [[]]  # the choices of each word; their sizes multiply to less than 2^31
    for d, size in enumerate(sizes.tolist()):
        if math.prod(sizes[words[-1]].tolist()) * size >= 1 << 31:
            words.append([])
        words[-1].append(d)
    radix = np.zeros((len(words), len(sizes)), np.int32)
    for word, members in enumerate(words):
        for place, d in enumerate(members):
            radix[word, d] = math.prod(sizes[members[place + 1 :]].tolist())
    return radix


def _make_index(choices: tuple[Choice, ...], archs: np.ndarray) -> Callable[[Arch], Array]:
    """arch -> row, by its mixed-radix code."""
    sizes = np.array([len(choice.options) for choice in choices], np.int32)
    lookup_size, radix = space_size(choices), _radix(choices)
    codes = archs @ radix.T  # int32 [A, W]

    def encode(arch: Arch) -> tuple[Array, Array]:
        """(whether every entry is an option, int32 code [W], which is that of row 0 … 0 where one is not)."""
        inside = jnp.all((arch >= 0) & (arch < sizes))
        return inside, jnp.sum(jnp.where(inside, arch, 0)[None, :] * radix, axis=1)

    if lookup_size <= LOOKUP_LIMIT:
        filled = np.full(lookup_size, -1, np.int32)
        filled[codes[:, 0]] = np.arange(len(archs))
        lookup = jnp.asarray(filled)

        def index_by_lookup(arch: Arch) -> Array:
            inside, code = encode(arch)
            return jnp.where(inside, lookup[code[0]], -1)

        return index_by_lookup

    order = np.lexsort(codes.T[::-1]).astype(np.int32)  # the first word counts most
    ordered, rows = jnp.asarray(codes[order]), jnp.asarray(order)

    def index_by_bisection(arch: Arch) -> Array:
        inside, code = encode(arch)

        def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bounds
            middle = (low + high) // 2
            differ = ordered[middle] != code
            first = jnp.argmax(differ)
            after = (low < high) & differ.any() & (ordered[middle, first] < code[first])
            return jnp.where(after, middle + 1, low), jnp.where(after, high, middle)

        # The row, if there is one, lies in low … high; each step halves what is between.
        bounds = (jnp.int32(0), jnp.int32(len(archs) - 1))
        at, _ = jax.lax.fori_loop(0, len(archs).bit_length(), halve, bounds)
        return jnp.where(inside & jnp.all(ordered[at] == code), rows[at], -1)

    return index_by_bisection


def _make_query(
    index: Callable[[Arch], Array], metrics: Mapping[str, Array], labels: Mapping[str, tuple[str, ...]]
) -> Callable[..., Array]:
    def query(arch: Arch, metric: str, fidelity: int | Array = -1) -> Array:
        name, _, label = metric.partition("@")
        if name not in metrics:
            raise ValueError(f"there is no metric {name!r}; there are {', '.join(metrics)}")
        values = metrics[name]
        count = 1 if values.ndim == 1 else values.shape[1]
        if label:
            if label not in labels.get(name, ()):
                raise ValueError(f"metric {name!r} has no fidelity {label!r}; it has {list(labels.get(name, ()))}")
            if not (isinstance(fidelity, int) and fidelity == -1):
                raise ValueError(f"{metric!r} names its fidelity; leave out the argument fidelity={fidelity}")
            fidelity = labels[name].index(label)
        if isinstance(fidelity, int) and not -count <= fidelity < count:
            raise ValueError(f"metric {name!r} has fidelities 0 to {count - 1}, or -1 for the last, got {fidelity}")
        row = index(arch)
        column = jnp.where(fidelity < 0, fidelity + count, fidelity).astype(jnp.int32)
        there = (row >= 0) & (column >= 0) & (column < count)
        value = values.reshape(-1)[jnp.where(there, row * count + column, 0)]
        return jnp.where(there, value, jnp.nan)

    return query
