"""The official release of NAS-Bench-101 as a table, read without TensorFlow.

Ying et al. 2019, https://arxiv.org/abs/1902.09635. The release is a TFRecord file, nasbench_full.tfrecord or
nasbench_only108.tfrecord. A record is a JSON list: the hash of a module, epochs, its adjacency matrix row by row as a
text of 0 and 1, its operations with commas, and the metrics of one run, a message of Protocol Buffers in base64. The
same lists, one a line, in a file that ends in .jsonl or .json, are read as well.

The message (github.com/google-research/nasbench, lib/model_metrics.proto): field 1, repeated, an evaluation, of which
there are one before, one half way and one after the training; field 2 the number of parameters. An evaluation: fields 2
to 5 are the seconds of training so far, and the accuracies on training, validation and test images, from 0 to 1.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxnas.benchmarks.table import Table, canonical_rows, distinct, make_table
from jaxnas.data.tfrecord import read_records
from jaxnas.files import check_no_pipe
from jaxnas.spaces.literals import shown
from jaxnas.spaces.nasbench101 import nasbench101_entries, nasbench101_space

NASBENCH101_DESCRIPTIONS = {
    "valid": "validation accuracy in % after so many epochs, mean over runs",
    "test": "TEST accuracy in %, mean over runs",
    "train": "accuracy on training images in %, mean over runs",
    "seconds": "seconds of training, mean over runs",
    "valid_std": "standard deviation of `valid` over runs (n - 1)",
    "test_std": "standard deviation of `test` over runs (n - 1)",
    "valid_run1": "validation accuracy in % of the first run",
    "test_run1": "TEST accuracy in % of the first run",
    "params": "parameters of the network",
}
"""The metrics of `nasbench101_table`; runs 2 and 3 are called as the first."""
NASBENCH101_USUAL = MappingProxyType({"search": "valid", "report": "test", "time": "seconds"})

_WIRE_BYTES = {1: 8, 5: 4}
"""Wire type of Protocol Buffers -> bytes of a value of fixed length."""


class Run101(NamedTuple):
    """One training. entries: int32 [26], as of `nasbench101_space`. seconds; accuracies in %, after the training."""

    entries: np.ndarray
    epochs: int
    seconds: float
    train: float
    valid: float
    test: float
    params: int


def is_nasbench101(path: str | os.PathLike[str]) -> bool:
    """Whether a file is the release, by its name or, of text, by how its first line looks."""
    path = Path(path)
    if path.suffix == ".tfrecord":
        return True
    if path.suffix not in (".json", ".jsonl"):
        return False
    check_no_pipe(path)
    with open(path, encoding="utf-8", errors="replace") as file:
        start = file.read(2000).lstrip()
    return start.startswith("[") and '"input,' in start and not start.startswith("[{")


def nasbench101_table(path: str | os.PathLike[str]) -> Table:
    """NAS-Bench-101 from its release; a file may hold a part of it.

    Fidelities are the epochs, 4, 12, 36 and 108 as far as they are there. Each network was trained up to three times:
    "valid", "test", "train" and "seconds" are means, "NAME_std" and "NAME_runK" are of single runs.

    Raises: OSError, or ValueError naming the record that is wrong.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "release.jsonl")
    ...     _ = path.write_text(json.dumps(["a hash", 108, "010001000"]))  # operations and metrics are missing
    ...     nasbench101_table(path)
    Traceback (most recent call last):
        ...
    ValueError: ...release.jsonl, record 0: a record is a list of hash, epochs, matrix, operations and metrics, got ...
    """
    runs = list(nasbench101_runs(path))
    if not runs:
        raise ValueError(f"{path} has no record of NAS-Bench-101")
    space = nasbench101_space()
    given = np.stack([run.entries for run in runs])
    firsts, own = distinct(space.choices, given)
    canonical, _ = canonical_rows(space, space.choices, given[firsts])
    first, group = distinct(space.choices, canonical)
    cell = group[own]
    epochs = np.array([run.epochs for run in runs])
    labels = [str(number) for number in np.unique(epochs)]
    column = np.searchsorted(np.unique(epochs), epochs)
    values = np.array([run[2:6] for run in runs])  # seconds, train, valid, test
    place, most = _numbers_of_runs(cell * len(labels) + column)
    each = np.full((len(first), len(labels), most, values.shape[1]), np.nan)
    each[cell, column, place] = values
    there = ~np.isnan(each)
    counts = there.sum(axis=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, each, 0.0).sum(axis=2) / counts
        squares = np.where(there, (each - mean[:, :, None]) ** 2, 0.0).sum(axis=2)
        std = np.where(counts > 1, np.sqrt(squares / np.maximum(counts - 1, 1)), np.nan)
    names = ("seconds", "train", "valid", "test")
    metrics = {name: mean[..., at] for at, name in enumerate(names)}
    metrics |= {f"{name}_std": std[..., at] for at, name in enumerate(names) if name in ("valid", "test")}
    for run in range(most):
        metrics |= {f"{name}_run{run + 1}": each[:, :, run, names.index(name)] for name in ("valid", "test")}
    fidelities = dict.fromkeys(metrics, labels)
    params = np.full(len(first), np.nan)
    params[cell] = [run.params for run in runs]
    described = {name: text for name, text in NASBENCH101_DESCRIPTIONS.items() if name in (*metrics, "params")}
    metrics["params"] = params
    return make_table("nasbench101", space, canonical[first], metrics, described, fidelities)


def _numbers_of_runs(group: np.ndarray) -> tuple[np.ndarray, int]:
    """(the number of each run among those of its group, the most runs of a group)."""
    order = np.argsort(group, kind="stable")
    start = np.flatnonzero(np.diff(group[order], prepend=-1))
    number = np.empty(len(group), np.int64)
    number[order] = np.arange(len(group)) - np.repeat(start, np.diff([*start, len(group)]))
    return number, int(number.max()) + 1


def nasbench101_runs(path: str | os.PathLike[str]) -> Iterator[Run101]:
    """All runs of a release, one after another.

    Raises: OSError, or ValueError naming the record that is wrong.
    """
    known: dict[tuple[str, str], np.ndarray] = {}
    for number, record in enumerate(_lists(path)):
        try:
            if not isinstance(record, list) or len(record) != 5:
                raise ValueError(
                    f"a record is a list of hash, epochs, matrix, operations and metrics, got {shown(record)}"
                )
            _, epochs, matrix, operations, metrics = record
            if not isinstance(matrix, str) or not isinstance(operations, str) or type(epochs) is not int:
                raise ValueError(f"epochs are an integer, matrix and operations texts, got {shown(record[1:4])}")
            key = (matrix, operations)
            if key not in known:
                known[key] = nasbench101_entries(matrix, operations)
            yield _run(known[key], epochs, metrics)
        except ValueError as error:
            raise ValueError(f"{path}, record {number}: {error}") from None


def _lists(path: str | os.PathLike[str]) -> Iterator[Any]:
    check_no_pipe(path)
    if Path(path).suffix == ".tfrecord":
        for number, record in enumerate(read_records(path)):
            yield _parsed(path, number, record)
        return
    with open(path, encoding="utf-8-sig") as file:
        start = file.read(1000).lstrip()
        file.seek(0)
        if start[1:].lstrip().startswith("["):  # one list of all records
            yield from _parsed(path, 0, file.read())
            return
        for number, line in enumerate(line for line in file if line.strip()):
            yield _parsed(path, number, line)


def _parsed(path: str | os.PathLike[str], number: int, text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}, record {number}: no JSON ({error})") from None


def _run(entries: np.ndarray, epochs: int, metrics: Any) -> Run101:
    """Raises ValueError where the metrics are no message of the benchmark."""
    try:
        data = base64.b64decode(metrics, validate=True)
        evaluations: list[dict[int, float]] = []
        params = 0
        for field, value in _fields(data):
            if field == 1 and isinstance(value, bytes):
                evaluations.append({key: v for key, v in _fields(value) if isinstance(v, float)})
            elif field == 2 and isinstance(value, int):
                params = value
        last = evaluations[2]
        found = [last.get(field, 0.0) for field in (2, 3, 4, 5)]  # what is 0 may be left out
    except (binascii.Error, TypeError, IndexError, struct.error) as error:
        raise ValueError(f"the metrics are no message of NAS-Bench-101 ({error})") from None
    if not all(0 <= accuracy <= 1 for accuracy in found[1:]):
        raise ValueError(f"accuracies are from 0 to 1, got {found[1:]}")
    train, valid, test = (100 * accuracy for accuracy in found[1:])
    return Run101(entries, epochs, found[0], train, valid, test, params)


def _fields(data: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """(number, value) of the fields of a message: integers, doubles and bytes; others are passed over."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        field, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield field, value
        elif wire == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise IndexError("it is cut short")
            yield field, data[at : at + length]
            at += length
        elif wire in _WIRE_BYTES:
            if wire == 1:
                yield field, struct.unpack_from("<d", data, at)[0]
            at += _WIRE_BYTES[wire]
        else:
            raise IndexError(f"it has a field of wire type {wire}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise IndexError("it has an integer of more than 64 bits")


def nasbench101_message(params: int, evaluations: Sequence[Sequence[float]]) -> str:
    """The metrics of one run as the release has them, in base64: the inverse of how they are read.

    evaluations: (epochs, seconds, train, valid, test) before, half way and after; accuracies from 0 to 1.
    """
    message = b""
    for evaluation in evaluations:
        inner = b"".join(
            bytes([field << 3 | 1]) + struct.pack("<d", value) for field, value in enumerate(evaluation, 1)
        )
        message += bytes([1 << 3 | 2, len(inner)]) + inner
    message += bytes([2 << 3])
    while params >= 128:
        message += bytes([params & 127 | 128])
        params >>= 7
    return base64.b64encode(message + bytes([params])).decode()
