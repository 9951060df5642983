"""Files that are replaced in one step, and opened only where they are files: never a link or a pipe."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
import stat
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from jaxnas.shapes import check_shape


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
                raise ValueError(_no_file(path)) from error
            raise
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ValueError(_no_file(path))
        return descriptor

    return open(path, "a+", encoding="utf-8", opener=opener)


def check_to_append(path: Path) -> None:
    """Raises ValueError where `open_to_append` would, and makes nothing."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ValueError(_no_file(path))


def _no_file(path: Path) -> str:
    return f"{path} is a link, a folder or a pipe, and no file of a run; remove it"


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with its home, ~ or ~NAME, put in. Raises ValueError where there is no such home, or a byte 0 in it."""
    if "\0" in os.fspath(path):
        raise ValueError(f"a path cannot hold the character 0, got {os.fspath(path)!r:.80}")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{os.fspath(path)!r:.80}: {error}; write out the folder") from None


def check_no_pipe(path: str | os.PathLike[str]) -> None:
    """Raises ValueError for a pipe, a socket or a device, which would be waited for; OSError where nothing is there."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ValueError(f"{os.fspath(path)} is a pipe or a device, and no file: give a file")


def check_new(path: Path, flag: str) -> None:
    """Raises ValueError or OSError where a file cannot be made there, or something has that name already."""
    if os.path.lexists(path):
        raise ValueError(f"{flag} {path} is there already: take another name, or remove it")
    if not path.absolute().parent.is_dir() or not os.access(path.absolute().parent, os.W_OK | os.X_OK):
        raise OSError(f"{flag} {path}: {path.absolute().parent} is no folder that can be written")


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replaces the content of `path` in one step, text as UTF-8; a link of that name becomes a file.

    Once it returns the content is on the disk, also after a loss of power. Raises: OSError where it cannot, and leaves
    the old content.
    """
    # One process holds the folder: a fixed name is enough, and what a killed process left is replaced.
    part = path.with_name(f".{path.name}.part")
    try:
        with open_new(part) as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        sync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error


def sync(path: Path) -> None:
    """Brings a file, or the entries of a folder, to the disk, as far as its file system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some do not sync folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as JSON in one step. Raises ValueError for NaN and infinity, which JSON does not have."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, shape: Any = Any, remedy: str = "remove it or take another folder") -> Any:
    """Reads a JSON file of a shape (`jaxnas.shapes`).

    Raises ValueError, naming the file, where it is damaged, nested too deeply, of another shape, or no file; OSError.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ValueError(f"{path} is no file; {remedy}")
    value = parse_json(path.read_bytes(), str(path), remedy)
    try:
        check_shape(value, shape, str(path))
    except ValueError as error:
        raise ValueError(f"{error}; {remedy}") from None
    return value


def parse_json(content: str | bytes, what: str, remedy: str) -> Any:
    """The value of a text in JSON. Raises ValueError where it is none: what, why, and the remedy."""
    try:
        return json.loads(content.decode("utf-8") if isinstance(content, bytes) else content)
    except RecursionError:
        raise ValueError(f"{what} is not readable as JSON (it is nested too deeply); {remedy}") from None
    except ValueError as error:
        raise ValueError(f"{what} is not readable as JSON ({error}); {remedy}") from None


def read_json_lines(path: Path, shape: Any = Any, remedy: str = "take another folder") -> list[Any]:
    """The values of a file with one JSON value a line, each of a shape; nothing where the file is missing.

    A last line that was cut short is left out. Raises ValueError, naming file and line, where one is damaged; OSError.
    """
    if not path.exists():
        return []
    if not path.is_file():
        raise ValueError(f"{path} is no file; {remedy}")
    values = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        what = f"{path}, line {number}"
        try:
            value = parse_json(line, what, remedy)
            check_shape(value, shape, what)
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is damaged ({error}); {remedy}") from None
        values.append(value)
    return values


MOST_UNPACKED = 1 << 31
"""Bytes that an archive of arrays may unpack to: tables of a million architectures have some hundred million."""


def check_unpacked(path: Path) -> None:
    """Raises ValueError where an npz would unpack to more than that, or is no archive; only its directory is read."""
    check_no_pipe(path)
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"{path} is no npz archive ({error})") from None
    if size > MOST_UNPACKED:
        raise ValueError(f"{path} unpacks to {size:,} bytes, more than the {MOST_UNPACKED:,} that are read")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows of the same columns as CSV, in one step."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())
