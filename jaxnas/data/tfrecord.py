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


def read_records(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """The records of one file in order; both checksums of each are verified.

    Raises DataError naming the file where it is cut short or damaged.
    """
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        headers: list[bytes] = []
        data: list[bytes] = []
        stored: list[tuple[int, int]] = []
        first = 0
        while header := file.read(12):
            if len(header) < 12:
                raise DataError(f"{path} is cut short: record {first + len(data)} has no complete header")
            length, header_crc = struct.unpack("<QI", header)
            if file.tell() + length + 4 > size:
                raise DataError(f"{path} is cut short or damaged: record {first + len(data)} goes beyond its end")
            headers.append(header[:8])
            data.append(file.read(length))
            stored.append((header_crc, *struct.unpack("<I", file.read(4))))
            if len(data) == _BLOCK or file.tell() == size:
                computed = np.stack([masked_crc32c(headers), masked_crc32c(data)], axis=1)
                wrong = np.flatnonzero((computed != np.array(stored, np.uint32)).any(axis=1))
                if wrong.size:
                    raise DataError(f"{path} is damaged: the checksum of record {first + wrong[0]} is wrong")
                yield from data
                first += len(data)
                headers, data, stored = [], [], []


def write_records(path: str | os.PathLike[str], records: Iterable[bytes]) -> None:
    """Writes the records, in order, to one file."""
    with open(path, "wb") as file:
        remaining = iter(records)
        while data := list(itertools.islice(remaining, _BLOCK)):
            lengths = [struct.pack("<Q", len(record)) for record in data]
            checksums = zip(masked_crc32c(lengths).tolist(), masked_crc32c(data).tolist(), strict=True)
            for length, record, (length_crc, data_crc) in zip(lengths, data, checksums, strict=True):
                file.write(length + struct.pack("<I", length_crc) + record + struct.pack("<I", data_crc))
