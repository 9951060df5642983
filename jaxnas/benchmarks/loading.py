"""Tables from files: CSV and NumPy archives (npz) of any user, over a space of the library or a plain product.

CSV: a header, then one row for each architecture. A metric of several fidelities has a column `NAME@LABEL` for each. An
empty cell, or `nan`, is a missing value. npz: the same columns as arrays, read without unpickling anything; a metric of
several fidelities may also be one array [A, F], and an encoding one array [A, D].
"""

from __future__ import annotations

import csv
import json
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnas.base import Choice, SearchSpace
from jaxnas.benchmarks.table import Table, find_fault, make_table

HEADER = "@table"
"""The entry of an npz in which `save_table` keeps what is no array, as JSON."""

MOST_OPTIONS = 1000
"""No choice is given more options by the numbers of a file alone: an identifier is no encoding."""


class Columns(NamedTuple):
    """What a file holds. columns: name -> array [A] or [A, F]; those of a CSV are strings.

    row: row from 0 -> where it is in the file, "line 7" of a CSV whose header is line 1, "row 6" of an npz.
    """

    path: str
    columns: dict[str, np.ndarray]
    row: Callable[[int], str]

    def error(self, row: int, column: str, reason: str) -> ValueError:
        return ValueError(f"{self.path}, {self.row(row)}, column {column!r}: {reason}")

    def check_archs(self, choices: Sequence[Choice], archs: np.ndarray, columns: Sequence[str]) -> None:
        """Raises ValueError where an entry of archs [A, D] is no option or rows are equal; columns: of each choice."""
        fault = find_fault(choices, archs, self.row)
        if fault:
            raise self.error(fault.row, columns[fault.choice or 0], fault.reason)

    def check(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.columns:
                raise ValueError(f"{self.path} has no column {name!r}; it has {', '.join(self.columns)}")


def load_table(
    path: str | os.PathLike[str],
    space: SearchSpace | Sequence[Choice] | None = None,
    *,
    architecture: str | None = None,
    encoding: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    name: str | None = None,
    descriptions: Mapping[str, str] | None = None,
) -> Table:
    """A table from a CSV (`.csv`) or NumPy archive (`.npz`).

    Either `architecture` names a column of architecture strings or JSON genotypes, read by `space.from_genotype`; or
    `encoding` names the columns of options, in the order of the choices. Without both, an npz is encoded in its array
    "archs" [A, D]. space: a space, or the choices of a plain product, whose option numbers, from 0, the columns then
    hold; None takes those of a file by `save_table`, and else the values that occur in a column are its options,
    numbers in their order or words in that of the alphabet. metrics: columns to be read, by default all others; "NAME"
    stands for all its fidelities. Labels that are numbers put fidelities in their order, others keep the file's. name:
    by default the file's.

    Raises: OSError where the file cannot be opened. ValueError naming the row and column of what is wrong, rows of a
    CSV counted as in the file with the header as line 1.
    """
    path = Path(path)
    if path.suffix not in (".csv", ".npz"):
        raise ValueError(f"{path}: a table is a .csv or .npz file, got {path.suffix!r}")
    source = read_csv(path) if path.suffix == ".csv" else read_npz(path)
    header = _header(source)
    if architecture is not None and encoding is not None:
        raise ValueError("architectures are either strings or an encoding; give one of architecture= and encoding=")
    if architecture is None and encoding is None:
        if "archs" not in source.columns:
            raise ValueError(
                f"{path}: say where the architectures are, by architecture=COLUMN (strings of the space) or "
                f"encoding=[COLUMN, …] (option numbers); there are {', '.join(source.columns)}"
            )
        encoding = ["archs"]
    if architecture is not None:
        if not isinstance(space, SearchSpace):
            raise ValueError(f"architecture={architecture!r} is read by a space; give one, such as nasbench201_space()")
        choices, taken = space.choices, [architecture]
        archs = read_genotypes(source, architecture, space)
        choice_columns = [architecture] * len(choices)
    else:
        taken = [encoding] if isinstance(encoding, str) else list(encoding or ())
        if space is None and not header:
            choices, archs, choice_columns = _options_that_occur(source, taken)
        else:
            archs, choice_columns = _read_encoding(source, taken)
            choices = _known_choices(source, space, header, archs)
    source.check_archs(choices, archs, choice_columns)
    wanted = _find_metrics(source, metrics, taken)
    values, labels = read_metrics(source, wanted)
    for metric in values:  # an array of several fidelities has its labels in the header
        if metric in header.get("fidelities", {}):
            labels[metric] = header["fidelities"][metric]
    kept = {metric: text for metric, text in header.get("descriptions", {}).items() if metric in values}
    name = name or header.get("name") or path.stem
    return make_table(name, choices, archs, values, {**kept, **(descriptions or {})}, labels)


def save_table(table: Table, path: str | os.PathLike[str]) -> None:
    """Writes a table as a compressed npz that `load_table(path)` gives back, names, labels and descriptions included.

    Raises: ValueError where the path does not end in .npz, or a metric is called "archs".
    """
    if Path(path).suffix != ".npz":
        raise ValueError(f"{path}: a table is saved as .npz")
    if "archs" in table.metrics:
        raise ValueError("a metric is called 'archs', as the architectures are in the file; give it another name")
    header = {
        "name": table.name,
        "choices": [[choice.name, list(choice.options)] for choice in table.choices],
        "descriptions": dict(table.descriptions),
        "fidelities": {metric: list(labels) for metric, labels in table.fidelities.items()},
    }
    smallest = np.min_scalar_type(max(len(choice.options) for choice in table.choices))
    arrays: dict[str, Any] = {metric: np.asarray(value) for metric, value in table.metrics.items()}
    arrays |= {"archs": np.asarray(table.archs).astype(smallest), HEADER: np.array(json.dumps(header))}
    with open(path, "wb") as file:
        np.savez_compressed(file, **arrays)


def read_csv(path: str | os.PathLike[str]) -> Columns:
    """The columns of a CSV as strings. Blank lines are passed over.

    Raises: OSError, or ValueError naming the line where the file is no table.
    """
    lines: list[int] = []
    rows: list[list[str]] = []
    header: list[str] = []
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            for cells in reader:
                if not header:
                    header = [cell.strip() for cell in cells]
                elif cells:
                    if len(cells) != len(header):
                        raise ValueError(
                            f"{path}, line {reader.line_num}: {len(cells)} cells where the header has {len(header)} "
                            f"columns; write {len(header)}, empty where a value is missing"
                        )
                    lines.append(reader.line_num)
                    rows.append(cells)
        except UnicodeDecodeError:
            raise ValueError(f"{path}: not UTF-8 text; save the table as CSV in UTF-8") from None
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}; write comma-separated values") from None
    if not rows:
        raise ValueError(f"{path} has {'no rows' if header else 'no header'}; a table has a header and one row or more")
    for place, name in enumerate(header):
        if not name or name in header[:place]:
            raise ValueError(f"{path}, line 1: column {place + 1} is called {name!r}; give every column its own name")
    columns = {name: np.array(cells, object) for name, cells in zip(header, zip(*rows, strict=True), strict=True)}
    return Columns(str(path), columns, lambda row: f"line {lines[row]}")


def read_npz(path: str | os.PathLike[str]) -> Columns:
    """The arrays of an npz, without unpickling anything.

    Raises: OSError, or ValueError where the file is no npz, an array holds objects, or arrays differ in length.
    """
    unreadable = (ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError, NotImplementedError)
    columns: dict[str, np.ndarray] = {}
    with open(path, "rb") as file:
        try:
            archive = np.load(file, allow_pickle=False)
        except unreadable as error:
            raise ValueError(f"{path}: not an npz archive ({error}); write it with numpy.savez") from None
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError(f"{path}: a single array, not an npz archive; write it with numpy.savez")
        with archive:
            for name in archive.files:
                try:
                    columns[name] = archive[name]
                except unreadable as error:
                    raise ValueError(f"{path}, array {name!r}: {error}; save numbers or strings") from None
    lengths = {name: len(value) if value.ndim else None for name, value in columns.items() if name != HEADER}
    for name, length in lengths.items():
        if not length or length != next(iter(lengths.values())) or columns[name].ndim > 2:
            shapes = ", ".join(f"{each} {list(columns[each].shape)}" for each in lengths)
            raise ValueError(f"{path}, array {name!r}: arrays are [A] or [A, F] with the same A, got {shapes}")
    if not lengths:
        raise ValueError(f"{path} holds no array")
    return Columns(str(path), columns, lambda row: f"row {row}")


def read_numbers(source: Columns, column: str) -> np.ndarray:
    """A column as float64 [A] or [A, F], NaN where a cell is empty.

    Raises: ValueError naming the row of what is no finite number.
    """
    source.check([column])
    values = source.columns[column]
    if values.dtype.kind == "O":  # the strings of a CSV
        values = np.array([_number(source, column, row, cell) for row, cell in enumerate(values)])
    elif values.dtype.kind not in "biuf":
        raise ValueError(f"{source.path}, array {column!r}: a metric holds numbers, got {values.dtype}")
    infinite = np.argwhere(np.isinf(values))
    if len(infinite):
        raise source.error(infinite[0][0], column, "an infinite value; write nan where it is missing")
    return values


def read_integers(source: Columns, column: str) -> np.ndarray:
    """A column as int64 [A] or [A, D].

    Raises: ValueError naming the row of what is no integer.
    """
    source.check([column])
    values = source.columns[column]
    if values.dtype.kind == "O":
        for row, cell in enumerate(values):
            digits = cell.strip().removeprefix("-")
            if not (digits.isascii() and digits.isdigit() and len(digits) < 10):
                raise source.error(row, column, f"{cell!r} is no integer; write the number of the option, from 0")
        return values.astype(np.int64)
    if values.dtype.kind not in "iu":
        raise ValueError(f"{source.path}, array {column!r}: an encoding holds integers, got {values.dtype}")
    return values.astype(np.int64)


def read_genotypes(source: Columns, column: str, space: SearchSpace) -> np.ndarray:
    """A column of architecture strings or JSON genotypes as int32 [A, D].

    Raises: ValueError naming the row of what the space cannot read.
    """
    source.check([column])
    cells = source.columns[column]
    if cells.ndim != 1 or cells.dtype.kind not in "OU":
        raise ValueError(f"{source.path}, array {column!r}: architectures are strings [A], got {cells.dtype}")
    archs = np.empty((len(cells), len(space.choices)), np.int32)
    for row, cell in enumerate(cells):
        try:
            archs[row] = space.from_genotype(str(cell))
        except ValueError as error:
            raise source.error(row, column, str(error)) from None
    return archs


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
        labels[name] = _in_order(list(arrays))
        values[name] = np.stack([arrays[label] for label in labels[name]], axis=1)
    return values, labels


def _number(source: Columns, column: str, row: int, cell: str) -> float:
    try:
        return float(cell) if cell.strip() else math.nan
    except ValueError:
        raise source.error(row, column, f"{cell!r} is no number; leave the cell empty where it is missing") from None


def _in_order(labels: list[str]) -> list[str]:
    try:
        return sorted(labels, key=float)
    except ValueError:
        return labels


def _header(source: Columns) -> dict[str, Any]:
    """What `save_table` left, taken out of the columns; empty where another program made the file."""
    entry = source.columns.pop(HEADER, None)
    if entry is None:
        return {}
    try:
        header = json.loads(str(entry))
        kinds = {"name": str, "choices": list, "descriptions": dict, "fidelities": dict}
        if all(isinstance(header[key], kind) for key, kind in kinds.items()):
            choices = tuple(Choice(str(name), tuple(map(str, options))) for name, options in header["choices"])
            return {**header, "choices": choices}
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ValueError(f"{source.path}, array {HEADER!r}: not as save_table writes it; save the table again")


def _read_encoding(source: Columns, columns: list[str]) -> tuple[np.ndarray, list[str]]:
    """(int64 [A, D], the column of each choice)."""
    if not columns:
        raise ValueError("encoding= names no column; give one for each choice")
    parts = [read_integers(source, column) for column in columns]
    parts = [part if part.ndim == 2 else part[:, None] for part in parts]
    names = [column for column, part in zip(columns, parts, strict=True) for _ in range(part.shape[1])]
    return np.concatenate(parts, axis=1), names


def _options_that_occur(source: Columns, columns: list[str]) -> tuple[tuple[Choice, ...], np.ndarray, list[str]]:
    """(choices, int64 [A, D], the column of each choice), the options being what the columns hold."""
    if not columns:
        raise ValueError("encoding= names no column; give one for each choice")
    source.check(columns)
    cells: list[list[str]] = []
    names: list[str] = []
    for column in columns:
        values = source.columns[column]
        if values.dtype.kind not in "OUiu":
            raise ValueError(
                f"{source.path}, array {column!r}: an encoding holds integers or words, got {values.dtype}"
            )
        parts = values[:, None] if values.ndim == 1 else values
        cells += [_option_names(part) for part in parts.T]
        names += [column] * parts.shape[1]
    choices, archs = [], []
    for d, (column, part) in enumerate(zip(names, cells, strict=True)):
        options = _in_order(sorted(set(part)))
        if "" in options:
            raise source.error(part.index(""), column, "'' is no option; write which option it is")
        if len(options) > MOST_OPTIONS:
            reason = f"{len(options)} different values; give the choices of so large a space"
            raise ValueError(f"{source.path}, column {column!r}: {reason}")
        number = {option: at for at, option in enumerate(options)}
        archs.append([number[cell] for cell in part])
        choices.append(Choice(column if names.count(column) == 1 else f"position {d}", tuple(options)))
    return tuple(choices), np.array(archs).T, names


def _option_names(cells: np.ndarray) -> list[str]:
    """What [A] cells are called as options: words as they are, numbers alike however they are written."""
    words = [str(cell).strip() for cell in cells]
    try:
        return [np.format_float_positional(float(word), trim="-") for word in words]
    except ValueError:
        return words


def _known_choices(
    source: Columns, space: SearchSpace | Sequence[Choice] | None, header: dict[str, Any], archs: np.ndarray
) -> tuple[Choice, ...]:
    given = space.choices if isinstance(space, SearchSpace) else space
    choices = header["choices"] if given is None else tuple(given)
    if len(choices) != archs.shape[1]:
        raise ValueError(
            f"{source.path}: the encoding has {archs.shape[1]} columns and the space {len(choices)} choices, "
            f"{', '.join(choice.name for choice in choices)}; name one column for each"
        )
    if header and [choice.options for choice in choices] != [choice.options for choice in header["choices"]]:
        raise ValueError(f"{source.path} was saved with other choices than those given; leave out the space")
    return choices


def _find_metrics(source: Columns, metrics: Sequence[str] | None, taken: list[str]) -> list[str]:
    """The columns of the metrics that are wanted."""
    others = [column for column in source.columns if column not in taken]
    if metrics is None:
        if not others:
            raise ValueError(f"{source.path} has no column beside the architectures; it needs a metric")
        return others
    wanted = [metrics] if isinstance(metrics, str) else list(metrics)
    found = [column for column in others if column in wanted or column.partition("@")[0] in wanted]
    for metric in wanted:
        if not any(metric in (column, column.partition("@")[0]) for column in found):
            raise ValueError(f"{source.path} has no metric {metric!r}; it has {', '.join(others)}")
    return found
