"""Files that are replaced in one step, and opened only where they are files: never a link or a pipe."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any


def open_new(path: Path) -> IO[bytes]:
    """Opens a new file to be written, in place of a file, a link or a pipe of that name; where a link led, nothing
    changes.

    Raises: OSError, naming the path where a folder has that name.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"{path} is in the way ({error.strerror}); remove it") from error
    return open(path, "xb")  # Unlike "wb" it follows no link that somebody made meanwhile.


def open_to_append(path: Path) -> IO[str]:
    """Opens a file to be read and appended to, made where it is missing.

    Raises: ValueError for a symbolic link, which may lead to somebody else's file, a pipe and a folder; OSError.
    """

    def opener(name: str, flags: int) -> int:
        try:
            descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR):
                raise ValueError(no_file) from error
            raise
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ValueError(no_file)
        return descriptor

    no_file = f"{path} is a link, a folder or a pipe, and no file of a run; remove it"
    return open(path, "a+", encoding="utf-8", opener=opener)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replaces the content of `path` in one step, text as UTF-8; a link of that name becomes a file.

    Raises: OSError where it cannot, and leaves the old content.
    """
    # One process holds the folder: a fixed name is enough, and what a killed process left is replaced.
    part = path.with_name(f".{path.name}.part")
    try:
        with open_new(part) as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as JSON in one step. Raises ValueError for NaN and infinity, which JSON does not have."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file. Raises ValueError, naming the file, where it is damaged or no file."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ValueError(f"{path} is no file; remove it or take another folder")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not readable as JSON ({error}); remove it or take another folder") from error


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows of the same columns as CSV, in one step."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())
