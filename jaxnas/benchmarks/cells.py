"""Cells of a table as numbers, options and architectures, however people write them."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Sequence

import numpy as np

from jaxnas.base import Choice, SearchSpace
from jaxnas.benchmarks.columns import Columns
from jaxnas.spaces.literals import shown

MISSING = frozenset(
    {"", "nan", "-nan", "na", "n/a", "n.a.", "#n/a", "#na", "<na>", "nat", "null", "none", "nil", "-", "--", "–", "—"}
    | {"?", ".", "missing", "unknown", "undefined", "not measured", "pending", "oom", "out of memory", "oot"}
    | {"timeout", "timed out", "error", "err", "fail", "failed", "failure", "crash", "crashed", "diverged", "skipped"}
    | {"#value!", "#div/0!", "#num!", "#ref!"}
)
"""What stands for a value that is missing, in small letters and without spaces around."""

MOST_OPTIONS = 1000
"""No choice is given more options by the values of a file alone: an identifier is no encoding."""

MOST_LOOKED_AT = 5000
"""Cells of a column by which it is told whether it holds words."""

_PLAIN = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_DECIMAL = re.compile(r"[-+]?(\d+,\d*|,\d+)([eE][-+]?\d+)?")
"""A comma for the point."""
_GROUPED = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?")
"""Commas between thousands."""
_DOTTED = re.compile(r"[-+]?[1-9]\d{0,2}(\.\d{3})+,\d*")
"""Points between thousands, and a comma for the point."""
_SPACES = re.compile(r"(?<=\d)[\u00a0\u202f\u2009' ](?=\d{3}(\D|$))")
"""Between thousands."""


def read_numbers(source: Columns, column: str) -> np.ndarray:
    """A column as float64 [A] or [A, F], NaN where a value is missing (`MISSING`).

    A percent sign is passed over where all numbers of the column have one. A comma is the point or stands between
    thousands, by what the cells of the column show.

    Raises: ValueError naming the row of what is no finite number.
    """
    source.check([column])
    values = source.columns[column]
    if values.dtype.kind == "O":
        values, wrong = _numbers(source, column, values)
        if wrong is not None:
            raise source.error(*wrong)
    elif values.dtype.kind not in "biuf":
        raise ValueError(f"{source.path}, array {column!r}: a metric holds numbers, got {values.dtype}")
    infinite = np.argwhere(np.isinf(values))
    if len(infinite):
        raise source.error(int(infinite[0][0]), column, "an infinite value; write nan where it is missing")
    return values


def holds_words(source: Columns, column: str) -> bool:
    """Whether a column is text: fewer than half of its cells that are not missing are numbers.

    Of a long column some thousand cells are looked at, which lie at equal distances.
    """
    cells = source.columns[column]
    if cells.dtype.kind != "O":
        return cells.dtype.kind not in "biuf"
    there: list[str] = []
    for some in (cells[:: max(1, len(cells) // MOST_LOOKED_AT)], cells):
        there = [cell for cell in some if cell.strip().lower() not in MISSING]
        if there:
            break
    return not there or 2 * sum(map(_looks_a_number, there)) < len(there)


def _looks_a_number(cell: str) -> bool:
    text = _SPACES.sub("", cell.strip().removesuffix("%").rstrip())
    return text.lower().lstrip("+-") in ("inf", "infinity") or any(
        form.fullmatch(text) for form in (_PLAIN, _DECIMAL, _GROUPED, _DOTTED)
    )


def _numbers(source: Columns, column: str, cells: np.ndarray) -> tuple[np.ndarray, tuple[int, str, str] | None]:
    """(float64 [A], what is wrong: row, column and reason)."""
    try:
        values = np.fromiter(map(float, cells), float, len(cells))
        if not any("_" in cell for cell in cells):  # Python's float reads 1_0 as 10
            return values, None
    except ValueError:
        pass
    texts = [_SPACES.sub("", cell.strip()) for cell in cells]
    percent = [row for row, text in enumerate(texts) if text.endswith("%")]
    texts = [text.removesuffix("%").rstrip() for text in texts]
    known: dict[str, float] = {}
    decimal = _comma_is_the_point(source, texts)
    values = np.empty(len(texts))
    for row, text in enumerate(texts):
        value = known.get(text)
        if value is None:
            try:
                value = known[text] = _number(text, decimal)
            except ValueError as error:
                return values, (row, column, str(error) or _no_number(cells[row]))
        values[row] = value
    bare = np.setdiff1d(np.flatnonzero(~np.isnan(values)), percent)
    if percent and len(bare):
        where = int(bare[0])
        return values, (where, column, f"{cells[where]!r} has no percent sign, and others have; write all alike")
    return values, None


def _no_number(cell: str) -> str:
    if any("\udc80" <= sign <= "\udcff" for sign in cell):
        return f"{shown(cell)}: not UTF-8 text; save the table as CSV in UTF-8"
    return f"{shown(cell)} is no number; leave the cell empty where it is missing"


def _number(text: str, decimal: bool | None) -> float:
    """decimal: whether a comma is the point, None where the column does not show it."""
    if text.lower() in MISSING:
        return math.nan
    if "," in text:
        if decimal is None and _GROUPED.fullmatch(text):
            point = text.replace(",", ".")
            raise ValueError(f"{text!r} may be {point} or {text.replace(',', '')}; write a point, or no comma")
        if decimal and (_DECIMAL.fullmatch(text) or _DOTTED.fullmatch(text)):
            text = text.replace(".", "").replace(",", ".")
        elif not decimal and _GROUPED.fullmatch(text):
            text = text.replace(",", "")
    if _PLAIN.fullmatch(text) or text.lower().lstrip("+-") in ("inf", "infinity"):
        return float(text)
    raise ValueError


def _comma_is_the_point(source: Columns, texts: Sequence[str]) -> bool | None:
    """None where nothing shows it. Where semicolons are between the cells, it is because commas are points."""
    commas = {text for text in texts if "," in text}
    if any(_DOTTED.fullmatch(text) or (_DECIMAL.fullmatch(text) and not _GROUPED.fullmatch(text)) for text in commas):
        return True
    if any(_GROUPED.fullmatch(text) and not _DECIMAL.fullmatch(text) for text in commas):
        return False
    return True if source.separator == ";" else None


def read_integers(source: Columns, column: str) -> np.ndarray:
    """A column as int64 [A] or [A, D]; "0.0" is 0.

    Raises: ValueError naming the row of what is no integer.
    """
    source.check([column])
    values = source.columns[column]
    if values.dtype.kind == "O":
        known = {cell: _integer(cell) for cell in set(values)}
        if None in known.values():
            row = next(row for row, cell in enumerate(values) if known[cell] is None)
            raise source.error(row, column, f"{values[row]!r} is no integer; write the number of the option, from 0")
        return np.array([known[cell] for cell in values], np.int64)
    if values.dtype.kind == "f" and np.isfinite(values).all() and (values == np.round(values)).all():
        return values.astype(np.int64)
    if values.dtype.kind not in "iu":
        raise ValueError(f"{source.path}, array {column!r}: an encoding holds integers, got {values.dtype}")
    return values.astype(np.int64)


def _integer(cell: str) -> int | None:
    match = re.fullmatch(r"\s*([-+]?\d{1,9})(?:[.,]0*)?\s*", cell, re.ASCII)
    return int(match[1]) if match else None


def read_genotypes(source: Columns, column: str, space: SearchSpace) -> np.ndarray:
    """A column of architecture strings or JSON genotypes as int32 [A, D]; equal texts are read once.

    Raises: ValueError naming the row of what the space cannot read.
    """
    archs = np.empty((len(texts_of(source, column)), len(space.choices)), np.int32)
    known: dict[str, np.ndarray] = {}
    for row, cell in enumerate(source.columns[column]):
        arch = known.get(cell)
        if arch is None:
            try:
                arch = known[cell] = np.asarray(space.from_genotype(cell))
            except ValueError as error:
                raise source.error(row, column, str(error)) from None
        archs[row] = arch
    return archs


def texts_of(source: Columns, column: str) -> np.ndarray:
    """A column of architectures as texts. Raises ValueError where it is none, or a cell is empty."""
    source.check([column])
    cells = source.columns[column]
    if cells.dtype.kind in "iu" and cells.ndim == 2:  # a list of integers, which is how ENAS writes an architecture
        cells = np.array([" ".join(map(str, row)) for row in cells.tolist()], object)
        source.columns[column] = cells
    if cells.ndim != 1 or cells.dtype.kind != "O":
        raise ValueError(f"{source.path}, array {column!r}: architectures are strings [A], got {cells.dtype}")
    empty = next((row for row, cell in enumerate(cells) if not cell.strip()), None)
    if empty is not None:
        raise source.error(empty, column, "the architecture is missing; write it, or leave the row out")
    return cells


def read_metrics(source: Columns, columns: Iterable[str]) -> tuple[dict[str, np.ndarray], dict[str, Sequence[str]]]:
    """(metrics: name -> [A] or [A, F], labels: name -> F), columns `NAME@LABEL` being the fidelities of one metric."""
    parts: dict[str, dict[str, str]] = {}
    for column in columns:
        name, separator, label = column.partition("@")
        if separator and not (name and label):
            raise ValueError(f"{source.path}: column {column!r}: write NAME@LABEL for a fidelity of a metric")
        if parts.get(name) and (label == "") != ("" in parts[name]):
            raise ValueError(f"{source.path}: metric {name!r} is there with and without fidelities; rename one")
        parts.setdefault(name, {})[label] = column
    values: dict[str, np.ndarray] = {}
    labels: dict[str, Sequence[str]] = {}
    for name, by_label in parts.items():
        arrays = {label: read_numbers(source, column) for label, column in by_label.items()}
        if "" in arrays:
            values[name] = arrays[""]
            continue
        if any(array.ndim != 1 for array in arrays.values()):
            raise ValueError(f"{source.path}: the arrays {name}@… must be [A], one for each fidelity")
        labels[name] = in_order(list(arrays))
        values[name] = np.stack([arrays[label] for label in labels[name]], axis=1)
    return values, labels


def in_order(labels: list[str]) -> list[str]:
    """Labels that are numbers in their order, others as they are."""
    try:
        return sorted(labels, key=float)
    except ValueError:
        return labels


def parts_of(source: Columns, columns: Sequence[str]) -> tuple[list[str], list[np.ndarray]]:
    """(the column of each choice, its cells [A]): a column is one choice, an array [A, D] is D of them, and a column of
    tuples or, alone, of strings of digits has a choice for each place.

    Raises: ValueError where there is no column, or one is of another kind.
    """
    if not columns:
        raise ValueError("encoding= names no column; give one for each choice")
    source.check(columns)
    names: list[str] = []
    cells: list[np.ndarray] = []
    for column in columns:
        values = source.columns[column]
        if values.dtype.kind not in "Oiuf" or (np.issubdtype(values.dtype, np.floating) and np.isnan(values).any()):
            raise ValueError(
                f"{source.path}, array {column!r}: an encoding holds integers or words, got {values.dtype}"
                + (" with gaps" if values.dtype.kind == "f" else "")
            )
        parts = _split(values, alone=len(columns) == 1)
        cells += parts
        names += [column] * len(parts)
    return names, cells


_BRACKETS = {"(": ")", "[": "]", "{": "}"}


def _split(values: np.ndarray, alone: bool) -> list[np.ndarray]:
    if values.ndim == 2:
        return list(values.T)
    if values.dtype.kind != "O":
        return [values]
    distinct = {cell: _places(cell, alone) for cell in dict.fromkeys(values)}
    lengths = {len(places) for places in distinct.values()}
    if len(lengths) > 1 or lengths == {1}:
        digits = {len(cell.strip()) for cell in distinct}
        if not alone or len(digits) > 1 or digits <= {0, 1} or not all(_is_digits(cell.strip()) for cell in distinct):
            return [values]
        distinct = {cell: list(cell.strip()) for cell in distinct}
    columns = list(zip(*(distinct[cell] for cell in values), strict=True))
    found = []
    for column in columns:
        part = np.empty(len(column), object)
        part[:] = column
        found.append(part)
    return found


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _places(cell: str, alone: bool) -> list[str]:
    """The entries of a tuple, with its brackets or, where the column is the whole encoding, without them."""
    text = cell.strip()
    if len(text) > 1 and _BRACKETS.get(text[0]) == text[-1]:
        try:
            return [str(entry) for entry in ast.literal_eval(f"({text[1:-1]},)")]
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return [part.strip().strip("'\"") for part in re.split(r"[,;\s]+", text[1:-1].strip()) if part]
    if alone and text:
        for separator in (r"\s*,\s*", r"\s*;\s*", r"\s*\|\s*", r"\s*:\s*", r"\s+", "-", "_", "/"):
            parts = re.split(separator, text)
            if len(parts) > 1 and all(parts):
                return parts
    return [text]


def options_that_occur(source: Columns, columns: Sequence[str]) -> tuple[tuple[Choice, ...], np.ndarray, list[str]]:
    """(choices, int64 [A, D], the column of each choice), the options being what the columns hold.

    Raises: ValueError where a cell is empty, or a column has more than `MOST_OPTIONS` values.
    """
    names, cells = parts_of(source, columns)
    choices, archs = [], []
    for d, (column, part) in enumerate(zip(names, cells, strict=True)):
        called = _option_names(part)
        options = in_order(sorted(set(called.values())))
        if "" in options:
            row = next(row for row, cell in enumerate(part.tolist()) if called[cell] == "")
            raise source.error(row, column, "'' is no option; write which option it is")
        if len(options) > MOST_OPTIONS:
            reason = f"{len(options)} different values; give the choices of so large a space"
            raise ValueError(f"{source.path}, column {column!r}: {reason}")
        number = {option: at for at, option in enumerate(options)}
        of = {cell: number[name] for cell, name in called.items()}
        archs.append(np.fromiter(map(of.__getitem__, part.tolist()), np.int64, len(part)))
        choices.append(Choice(column if names.count(column) == 1 else f"position {d}", tuple(options)))
    return tuple(choices), np.stack(archs, axis=1), names


def _option_names(cells: np.ndarray) -> dict[object, str]:
    """cell -> what it is called as an option: words as they are, numbers alike however they are written."""
    words = {cell: str(cell).strip() for cell in dict.fromkeys(cells.tolist())}
    if any("_" in word for word in words.values()):  # Python's float reads 1_0 as 10
        return words
    try:
        numbers = {cell: float(word) for cell, word in words.items()}
    except ValueError:
        return words
    if not all(map(math.isfinite, numbers.values())):
        return words
    return {cell: np.format_float_positional(number, trim="-") for cell, number in numbers.items()}


def known_options(source: Columns, columns: Sequence[str], choices: Sequence[Choice]) -> tuple[np.ndarray, list[str]]:
    """(int64 [A, D], the column of each choice), the cells being numbers of options, from 0, or their names.

    Raises: ValueError where there are not as many columns as choices, or a cell is neither.
    """
    names, cells = parts_of(source, columns)
    if len(names) != len(choices):
        raise ValueError(
            f"{source.path}: the encoding has {len(names)} columns and the space {len(choices)} choices, "
            f"{', '.join(choice.name for choice in choices[:30])}; name one column for each"
        )
    archs = []
    for column, part, choice in zip(names, cells, choices, strict=True):
        of = {cell: _option_number(str(cell).strip(), choice.options) for cell in dict.fromkeys(part.tolist())}
        if None not in of.values():
            archs.append(np.array([of[cell] for cell in part.tolist()], np.int64))
            continue
        of = {cell: choice.options.index(str(cell).strip()) for cell in of if str(cell).strip() in choice.options}
        if all(cell in of for cell in part.tolist()):
            archs.append(np.array([of[cell] for cell in part.tolist()], np.int64))
            continue
        one = source._replace(columns={column: part})
        archs.append(read_integers(one, column))
    return np.stack(archs, axis=1), names


def _option_number(cell: str, options: Sequence[str]) -> int | None:
    """The number of an option; None where the cell is none, or the number of no option."""
    number = _integer(cell)
    return number if number is not None and 0 <= number < len(options) else None
