"""Checksums of what a run reads, by which it knows its data again whatever the path is called.

A fingerprint is a dictionary in JSON's terms. Its counts, shapes and names tell a reader what the data is, and its
entry "checksum" is the SHA-256 of the values themselves, as arrays in memory: a moved, linked or recompressed file is
the same, and one changed value is another. Fingerprints are part of the identity of a run (`jaxnas.runfolder`).
"""

from __future__ import annotations

import hashlib

import numpy as np


def checksum(*parts: np.ndarray | str) -> str:
    """SHA-256, in hexadecimal digits, of texts and of arrays of numbers, in their order.

    The shapes and types of arrays count. All missing values (NaN) are one.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            text = part.encode()
            digest.update(f"text {len(text)} ".encode() + text)
            continue
        array = np.ascontiguousarray(part)
        if array.dtype.kind == "f":
            array = np.where(np.isnan(array), np.array(np.nan, array.dtype), array)
        digest.update(f"{array.dtype.str} {list(array.shape)} ".encode())
        digest.update(array.data)
    return digest.hexdigest()


def row_checksums(rows: np.ndarray) -> np.ndarray:
    """The SHA-256 of each row [N, …], uint8 [N, 32]: several processes can share the rows out."""
    rows = np.ascontiguousarray(rows)
    digests = b"".join(hashlib.sha256(row.data).digest() for row in rows)
    return np.frombuffer(digests, np.uint8).reshape(len(rows), -1)
