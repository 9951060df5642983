"""Standard output and standard error of a program whose work must not end, nor wait for ever, because of them.

What is printed holds names of files, classes and metrics that others chose: what would steer the terminal is written
out."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import Any

from jaxnas.console import printable_text
from jaxnas.train.stop import asked_to_stop

_SECONDS_BETWEEN_LOOKS = 0.2


class Output(io.RawIOBase):
    """Bytes to a file descriptor, None for a stream that was closed from the start; an error is kept and not raised.

    A reader that does not read is waited for, until a signal asks the run to end: what it does not take then is lost.
    """

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self.error: OSError | None = None
        """The latest error."""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        if self._descriptor is None:
            raise io.UnsupportedOperation("fileno of a closed stream")
        return self._descriptor

    def isatty(self) -> bool:
        return self._descriptor is not None and os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        whole = memoryview(data).cast("B")
        try:
            self._write(whole)
        except OSError as error:
            self.error = error
        return len(whole)

    def _write(self, left: memoryview) -> None:
        if self._descriptor is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        while left:
            # A write into a pipe that is full returns only when somebody reads.
            seconds = 0.0 if asked_to_stop() else _SECONDS_BETWEEN_LOOKS
            if select.select([], [self._descriptor], [], seconds)[1]:
                left = left[os.write(self._descriptor, left[: select.PIPE_BUF]) :]
            elif asked_to_stop():
                return


class Text(io.TextIOWrapper):
    """Text to an `Output`. styled: whether colors go through, as of a help text."""

    styled = False

    def write(self, text: str) -> int:
        super().write(printable_text(text, styled=self.styled))
        return len(text)


def style_streams(styled: bool) -> None:
    """Whether colors go through the standard streams that were taken."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, Text):
            stream.styled = styled


def open_closed() -> None:
    """Opens the standard streams that are closed, as files of nothing.

    The next files that are opened would get their numbers, and with them what libraries print.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def take_standard_streams() -> Output | None:
    """Makes the process's sys.stdout and sys.stderr such that printing raises nothing, also at its exit.

    Returns what is behind sys.stdout; None where that is no stream of the process, as in a notebook or a test.
    """
    taken = {name: _taken(name, descriptor) for name, descriptor in (("stdout", 1), ("stderr", 2))}
    open_closed()
    return taken["stdout"]


def _taken(name: str, descriptor: int) -> Output | None:
    stream = getattr(sys, name)
    if stream is not None:
        try:
            if stream.fileno() != descriptor:
                return None
            stream.flush()
        except (OSError, ValueError):  # no file, or one that cannot be written
            return None
    if isinstance(getattr(stream, "buffer", None), Output):
        return stream.buffer
    output = Output(None if stream is None else descriptor)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    text = Text(output, encoding, errors="backslashreplace", line_buffering=True)  # type: ignore[arg-type]
    setattr(sys, name, text)
    return output
