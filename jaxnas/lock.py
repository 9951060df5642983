"""The lock of a run folder: one process at a time works there.

It is the system's `flock` on a file, so that a killed process leaves none. Some file systems (NFS without its lock
service, some of clusters and clouds) have no `flock`. There the file's content alone is the lock: the number and the
host of the process that works. A process of this host that has ended is known as such and loses it; whether one of
another host has ended only a person can tell, who then removes the file. Which way it is is said on standard error.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from pathlib import Path
from typing import IO

from jaxnas.console import tell
from jaxnas.files import open_to_append

_NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class Lock:
    """A file held by this process until `close`.

    Raises: BlockingIOError, naming the process, where another one holds it; ValueError where the path is no file;
    OSError where it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._own = f"{os.getpid()} {socket.gethostname()}"
        self._file = self._take()

    def check(self) -> None:
        """Makes sure that the folder is still this process's own; a file that was removed is made again.

        Raises: OSError where another process has put a lock of its own in its place.
        """
        try:
            there = os.stat(self._path, follow_symlinks=False)
        except FileNotFoundError:
            tell(f"{self._path} was removed while this process works there: it is made again")
            before, self._file = self._file, self._take()
            before.close()
            return
        except OSError as error:
            raise OSError(f"cannot read {self._path}: {error.strerror}") from error
        own = os.fstat(self._file.fileno())
        if (there.st_dev, there.st_ino) != (own.st_dev, own.st_ino):
            raise BlockingIOError(
                f"{self._path} was removed, and another process has worked in the folder since: this one ends, and "
                "what it did after its last checkpoint is not kept; run the command again"
            )

    def close(self) -> None:
        """Gives the file up."""
        with contextlib.suppress(OSError):
            self._file.truncate(0)
        with contextlib.suppress(OSError):
            self._file.close()

    def _take(self) -> IO[str]:
        try:
            file = open_to_append(self._path)
        except OSError as error:
            raise OSError(
                f"cannot write in {self._path.parent}: {error.strerror}; choose a folder that can be written"
            ) from error
        try:
            self._hold(file)
            file.truncate(0)
            file.write(self._own)
            file.flush()
        except BaseException:
            file.close()
            raise
        return file

    def _hold(self, file: IO[str]) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            raise BlockingIOError(self._in_use(_holder(file)[0])) from None
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                raise OSError(f"cannot lock {self._path}: {error.strerror}; choose another folder") from error
        number, host = _holder(file)
        if host and host != socket.gethostname():
            raise BlockingIOError(
                f"{self._in_use(f'{number} on {host}')}; its file system has no flock: if that process has ended, "
                f"remove {self._path}"
            )
        if number and number != str(os.getpid()) and _runs(number):
            raise BlockingIOError(f"{self._in_use(number)}; if that is another program, remove {self._path}")
        tell(f"the file system of {self._path.parent} has no flock: processes know each other by {self._path} alone")

    def _in_use(self, holder: str) -> str:
        by = f"process {holder}" if holder else "another process"
        return f"{self._path.parent} is in use by {by}; wait for it to end or choose another folder"


def _holder(file: IO[str]) -> tuple[str, str]:
    """(number, host) of the process that the file names, "" for what it does not."""
    file.seek(0)
    number, _, host = file.read(300).strip().partition(" ")
    return (number, host) if number.isdigit() and len(number) < 12 else ("", "")


def _runs(number: str) -> bool:
    """Whether there is a process of that number on this host."""
    try:
        os.kill(int(number), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        return True
    return True
