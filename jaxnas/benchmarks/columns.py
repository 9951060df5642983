"""The columns of a file of any user: CSV and its kin, JSON, NumPy archives.

CSV: a header, then one row for each architecture. Commas, semicolons, tabs or bars are between the cells; a byte order
mark, a line `sep=;`, blank lines and columns without a name (the index of pandas) are passed over. JSON: a list of
records, one record a line, or the forms that pandas writes. npz: arrays, read without unpickling anything.
"""

from __future__ import annotations

import array
import csv
import gc
import json
import os
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from jaxnas.base import Choice
from jaxnas.benchmarks.table import find_fault
from jaxnas.files import check_no_pipe, check_unpacked

HEADER = "@table"
"""The entry of an npz in which `save_table` keeps what is no array, as JSON."""

SEPARATORS = ",\t;|"
SUFFIXES = {"csv": (".csv", ".tsv", ".txt"), "json": (".json", ".jsonl"), "npz": (".npz",)}
"""Kind of a file -> how its name may end."""

_CHUNK = 1 << 10
"""Rows of a CSV that are held as lists of cells at a time."""
_UNNAMED = re.compile(r"(Unnamed: \d+)?")
"""Columns that pandas wrote without a name, as they are in the file and as pandas reads them again."""


class Columns(NamedTuple):
    """What a file holds. columns: name -> array [A] or [A, F]; those of text are strings, of any length.

    row: row from 0 -> where it is in the file, "line 7" of a CSV whose header is line 1, "row 6" elsewhere. separator:
    what is between the cells of a CSV, "" elsewhere. twice: names that several columns have, of which none is kept.
    """

    path: str
    columns: dict[str, np.ndarray]
    row: Callable[[int], str]
    separator: str = ""
    twice: Mapping[str, int] = {}

    def error(self, row: int, column: str, reason: str) -> ValueError:
        return ValueError(f"{self.path}, {self.row(row)}, column {column!r}: {reason}")

    def check_archs(self, choices: Sequence[Choice], archs: np.ndarray, columns: Sequence[str]) -> None:
        """Raises ValueError where an entry of archs [A, D] is no option or rows are equal; columns: of each choice."""
        fault = find_fault(choices, archs, self.row)
        if fault:
            raise self.error(fault.row, columns[fault.choice or 0], fault.reason)

    def check(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self.twice:
                place = self.twice[name]
                raise ValueError(
                    f"{self.path}, line 1: column {place} is called {name!r}; give every column its own name"
                )
            if name not in self.columns:
                raise ValueError(f"{self.path} has no column {name!r}; it has {', '.join(self.columns)}")


def read_columns(path: str | os.PathLike[str]) -> Columns:
    """The columns of a file, by the end of its name.

    Raises: OSError where it cannot be opened, ValueError where it is no table, which says where and why.
    """
    suffix = Path(path).suffix.lower()
    readers = {"csv": read_csv, "json": read_json, "npz": read_npz}
    for kind, suffixes in SUFFIXES.items():
        if suffix in suffixes:
            return readers[kind](path)
    known = ", ".join(end for ends in SUFFIXES.values() for end in ends)
    raise ValueError(f"{path}: a table is a file that ends in one of {known}, got {suffix!r}")


def read_csv(path: str | os.PathLike[str]) -> Columns:
    """The columns of a CSV as strings.

    Raises: OSError, or ValueError naming the line where the file is no table.
    """
    limit = csv.field_size_limit(sys.maxsize >> 32)  # a cell may hold a whole learning curve
    collects = gc.isenabled()
    gc.disable()  # it would look again and again through millions of cells, which hold nothing to be found
    try:
        with open(path, encoding=_encoding(path), errors="surrogateescape", newline="") as file:
            separator = _separator(path, file)
            file.seek(0)
            return _read_rows(path, file, separator)
    except UnicodeError:
        raise ValueError(f"{path}: not UTF-8 text; save the table as CSV in UTF-8") from None
    finally:
        csv.field_size_limit(limit)
        if collects:
            gc.enable()


def _encoding(path: str | os.PathLike[str]) -> str:
    """UTF-8, or UTF-16 where the file begins with its mark, as some spreadsheets write it."""
    check_no_pipe(path)
    with open(path, "rb") as file:
        return "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


_SAYS_SEPARATOR = re.compile(r"\s*\"?sep=(.)\"?\s*", re.IGNORECASE)


def _rows(file: TextIO, separator: str) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of every row that is not blank; the line is the one on which the row ends."""
    # Some programs name the separator in a line of its own.
    first = file.readline()
    skipped = bool(_SAYS_SEPARATOR.fullmatch(first))
    if not skipped:
        file.seek(0)
    reader = csv.reader(file, delimiter=separator, strict=True, skipinitialspace=separator != " ")
    try:
        for cells in reader:
            if cells and (cells[0].strip() or any(cell.strip() for cell in cells)):
                yield reader.line_num + skipped, cells
    except csv.Error as error:
        raise csv.Error(f"line {reader.line_num + skipped}: {error}") from None


def _separator(path: str | os.PathLike[str], file: TextIO) -> str:
    """The separator with which the header and the first row have the same and the greatest number of cells."""
    if said := _SAYS_SEPARATOR.fullmatch(file.readline()):
        return said[1]
    best, found = (False, 1), ","
    for separator in ("\t" + SEPARATORS) if Path(path).suffix.lower() == ".tsv" else SEPARATORS:
        file.seek(0)
        try:
            rows = _rows(file, separator)
            header, first = len(next(rows, (0, []))[1]), next(rows, None)
        except csv.Error:
            continue
        score = (first is None or len(first[1]) == header, header)
        if header > 1 and score > best:
            best, found = score, separator
    return found


def _read_rows(path: str | os.PathLike[str], file: TextIO, separator: str) -> Columns:
    lines = array.array("q")
    rows = _rows(file, separator)
    cells: list[list[Any]] = []
    same: list[dict[str, str] | None] = []
    chunk: list[list[str]] = []

    def keep() -> None:
        """Moves the chunk into the columns. A text that comes again is kept once, where that saves anything."""
        for at, column in enumerate(zip(*chunk, strict=True)):
            seen = same[at]
            if seen is not None:
                column = tuple(map(seen.setdefault, column, column))
                if len(seen) > max(2000, len(lines) // 2):
                    same[at] = None
            cells[at] += column
        chunk.clear()

    try:
        _, header = next(rows, (1, []))
        names = [name.strip().removeprefix("\ufeff") for name in header]
        cells, same = [[] for _ in names], [{} for _ in names]
        for line, row in rows:
            if len(row) != len(names) and any(cell.strip() for cell in row[len(names) :] or ("short",)):
                raise ValueError(
                    f"{path}, line {line}: {len(row)} cells where the header has {len(names)} columns; write "
                    f"{len(names)}, empty where a value is missing"
                )
            lines.append(line)
            chunk.append(row if len(row) == len(names) else row[: len(names)])  # a separator at the end of the line
            if len(chunk) == _CHUNK:
                keep()
        keep()
    except csv.Error as error:
        raise ValueError(f"{path}, {error}; write comma-separated values") from None
    if not lines:
        raise ValueError(f"{path} has {'no rows' if names else 'no header'}; a table has a header and one row or more")
    arrays = {name: _texts(column) for name, column in zip(names, cells, strict=True)}
    return _columns(str(path), names, arrays, lambda row: f"line {lines[row]}", separator)


def _columns(
    path: str, names: list[str], arrays: dict[str, np.ndarray], row: Callable[[int], str], separator: str
) -> Columns:
    """Without the columns that have no name, or one of several."""
    twice = {name: place for place, name in enumerate(names, 1) if name in names[: place - 1]}
    kept = {name: array for name, array in arrays.items() if name not in twice and not _UNNAMED.fullmatch(name)}
    if not kept and not twice:
        raise ValueError(f"{path}, line 1: no column has a name; a table has a header and one row or more")
    return Columns(path, kept, row, separator, twice)


def _texts(cells: Sequence[str]) -> np.ndarray:
    """As an array of objects, whatever the cells are."""
    found = np.empty(len(cells), object)
    found[:] = cells
    return found


def read_json(path: str | os.PathLike[str]) -> Columns:
    """The columns of a JSON file: a list of records, a record a line, or the forms that pandas writes.

    A record in a record is read by "OUTER.INNER", and is text, too, so that a genotype in JSON is a cell.

    Raises: OSError, or ValueError where the file is no such table.
    """
    with open(path, encoding=_encoding(path)) as file:
        try:
            text = file.read()
            try:
                content = json.loads(text)
            except ValueError:
                lines = [line for line in text.splitlines() if line.strip()]
                if len(lines) < 2:
                    raise
                content = [json.loads(line) for line in lines]
            names, records = _records(content)
        except (ValueError, RecursionError) as error:
            reason = "too deep" if isinstance(error, RecursionError) else error
            raise ValueError(f"{path} is no table in JSON ({reason}); write a list of records") from None
    arrays = {}
    for name in names:
        arrays[name] = _json_column([record.get(name) for record in records])
    return _columns(str(path), names, arrays, lambda row: f"row {row}", "")


def _records(content: Any) -> tuple[list[str], list[dict[str, Any]]]:
    """(names of columns, records) of any form of a table. Raises ValueError where it is none."""
    if isinstance(content, Mapping):
        columns, data = content.get("columns"), content.get("data")
        if isinstance(columns, list) and isinstance(data, list) and all(isinstance(row, list) for row in data):
            content = [dict(zip(map(str, columns), row, strict=False)) for row in data]
        else:
            content = _of_mapping(content)
    if not isinstance(content, list) or not content or not all(isinstance(record, Mapping) for record in content):
        raise ValueError("it holds no records")
    records = [{str(name): value for name, value in _flat(record)} for record in content]
    return list(dict.fromkeys(name for record in records for name in record)), records


def _of_mapping(content: Mapping[str, Any]) -> Any:
    """The records of a mapping: of columns, of rows by name, or of a table beside other things."""
    values = list(content.values())
    if values and all(isinstance(value, Mapping) for value in values):
        rows = list(values[0])
        if all(row.isdigit() for row in rows) and all(list(value) == rows for value in values):
            return [{name: value[row] for name, value in content.items()} for row in rows]
        return [{"key": key, **value} for key, value in content.items()]
    lists = {name: value for name, value in content.items() if isinstance(value, list)}
    columns = lists and len(lists) == len(content) and len(set(map(len, values))) == 1
    if columns and not any(isinstance(entry, Mapping) for entry in values[0]):
        return [dict(zip(content, row, strict=True)) for row in zip(*values, strict=True)]
    tables = [value for value in lists.values() if value and all(isinstance(entry, Mapping) for entry in value)]
    return tables[0] if len(tables) == 1 else content


def _flat(record: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        yield f"{before}{name}", value
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")


def _json_column(values: list[Any]) -> np.ndarray:
    """Numbers and lists of numbers as numbers, anything else as text; None is an empty text or NaN."""
    flat: list[Any] = values
    if all(isinstance(value, list) and len(value) == len(values[0]) and value for value in values):
        flat = [entry for value in values for entry in value]
    shape = (len(values), -1) if flat is not values else (len(values),)
    if all(type(value) is int and abs(value) < 1 << 53 for value in flat):
        return np.array(flat, np.int64).reshape(shape)
    if any(value is not None for value in flat) and all(
        value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)) for value in flat
    ):
        return np.array([np.nan if value is None else float(value) for value in flat]).reshape(shape)
    return _texts(["" if v is None else v if isinstance(v, str) else json.dumps(v) for v in values])


def read_npz(path: str | os.PathLike[str]) -> Columns:
    """The arrays of an npz, without unpickling anything.

    Raises: OSError, or ValueError where the file is no npz, an array holds objects, or arrays differ in length.
    """
    unreadable = (ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError, NotImplementedError)
    columns: dict[str, np.ndarray] = {}
    check_no_pipe(path)
    with open(path, "rb") as file:
        try:
            archive = np.load(file, allow_pickle=False)
        except unreadable as error:
            raise ValueError(f"{path}: not an npz archive ({error}); write it with numpy.savez") from None
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError(f"{path}: a single array, not an npz archive; write it with numpy.savez")
        check_unpacked(Path(path))
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
    for name, value in columns.items():
        if name != HEADER and value.dtype.kind in "US" and value.ndim == 1:
            texts = value.astype(str) if value.dtype.kind == "S" else value
            columns[name] = _texts(texts.tolist())
    return Columns(str(path), columns, lambda row: f"row {row}")
