"""TFRecord files without TensorFlow.

A record is: length (uint64), masked CRC-32C of the length (uint32), data, masked CRC-32C of the data (uint32), all
little-endian. Source: https://www.tensorflow.org/tutorials/load_data/tfrecord, "TFRecords format details".
"""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxnas.data.dataset import DataError

_BLOCK = 1024


def _crc_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return table


_TABLE = _crc_table()


def crc32c(messages: Sequence[bytes]) -> np.ndarray:
    """CRC-32C (Castagnoli) of each message, uint32 [N].

    All messages advance by one byte at a time: the work of a pure Python loop would be a minute for CIFAR-10.
    """
    order = sorted(range(len(messages)), key=lambda i: -len(messages[i]))
    lengths = np.array([len(messages[i]) for i in order])
    longest = int(lengths[0]) if len(order) else 0
    columns = np.zeros((longest, len(order)), np.uint8)
    for column, i in enumerate(order):
        columns[: lengths[column], column] = np.frombuffer(messages[i], np.uint8)
    # Longest first, so that the messages that still go on are a prefix.
    active = np.searchsorted(-lengths, -np.arange(longest), side="left")
    state = np.full(len(order), 0xFFFFFFFF, np.uint32)
    for byte, n in zip(columns, active.tolist(), strict=True):
        part = state[:n]
        state[:n] = _TABLE[(part ^ byte[:n]) & 0xFF] ^ (part >> 8)
    result = np.empty(len(order), np.uint32)
    result[order] = ~state
    return result


def masked_crc32c(messages: Sequence[bytes]) -> np.ndarray:
    """The checksum that TFRecord files store, uint32 [N]."""
    crc = crc32c(messages)
    return ((crc >> 15) | (crc << 17)) + np.uint32(0xA282EAD8)


def positions(path: str | os.PathLike[str]) -> list[tuple[int, int]]:
    """Where the data of each record begins and how long it is; the checksum of each length is verified.

    Raises DataError naming the file where it is cut short or damaged.
    """
    size = Path(path).stat().st_size
    found: list[tuple[int, int]] = []
    headers: list[bytes] = []
    with open(path, "rb") as file:
        while header := file.read(12):
            if len(header) < 12:
                raise DataError(f"{path} is cut short: record {len(found)} has no complete header")
            (length,) = struct.unpack("<Q", header[:8])
            found.append((file.tell(), length))
            headers.append(header)
            if file.tell() + length + 4 > size:
                raise DataError(f"{path} is cut short or damaged: record {len(found) - 1} goes beyond its end")
            file.seek(length + 4, os.SEEK_CUR)
    stored = np.array([struct.unpack("<I", header[8:])[0] for header in headers], np.uint32)
    _check(path, np.arange(len(found)), masked_crc32c([header[:8] for header in headers]), stored)
    return found


def _check(path: str | os.PathLike[str], numbers: np.ndarray, computed: np.ndarray, stored: np.ndarray) -> None:
    wrong = np.flatnonzero(computed != stored)
    if wrong.size:
        raise DataError(f"{path} is damaged: the checksum of record {numbers[wrong[0]]} is wrong")


def read_records(
    path: str | os.PathLike[str], numbers: Sequence[int] | None = None, where: Sequence[tuple[int, int]] | None = None
) -> Iterator[bytes]:
    """The records of one file with these ascending numbers, by default all; their checksums are verified.

    where: the `positions` of the file, if they are known. Raises DataError naming the file where it is cut short or
    damaged.
    """
    where = positions(path) if where is None else where
    numbers = range(len(where)) if numbers is None else numbers
    with open(path, "rb") as file:
        for start in range(0, len(numbers), _BLOCK):
            block = numbers[start : start + _BLOCK]
            data: list[bytes] = []
            stored: list[int] = []
            for number in block:
                offset, length = where[number]
                file.seek(offset)
                data.append(file.read(length))
                stored.append(struct.unpack("<I", file.read(4))[0])
            _check(path, np.asarray(block), masked_crc32c(data), np.array(stored, np.uint32))
            yield from data


def write_records(path: str | os.PathLike[str], records: Iterable[bytes]) -> None:
    """Writes the records, in order, to one file."""
    with open(path, "wb") as file:
        remaining = iter(records)
        while data := list(itertools.islice(remaining, _BLOCK)):
            lengths = [struct.pack("<Q", len(record)) for record in data]
            checksums = zip(masked_crc32c(lengths).tolist(), masked_crc32c(data).tolist(), strict=True)
            for length, record, (length_crc, data_crc) in zip(lengths, data, checksums, strict=True):
                file.write(length + struct.pack("<I", length_crc) + record + struct.pack("<I", data_crc))
