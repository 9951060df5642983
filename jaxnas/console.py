"""What a run tells a person: no line of it can end the run, whatever became of the stream that it goes to."""

from __future__ import annotations

import contextlib
import re
import select
import sys
from typing import TextIO

_UNSEEN = r"\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069"
_OWN = r"\r\x1b\[K"
_STYLES = r"\x1b\[[\d;]*m"
_IN_NAMES = re.compile(f"[{_UNSEEN}]")
_IN_TEXT = re.compile(rf"(?:{_OWN})|[{_UNSEEN}]")
_IN_STYLED = re.compile(rf"(?:{_OWN}|{_STYLES})|[{_UNSEEN}]")


def printable(name: str) -> str:
    """A text of somebody else, such as a name, with all that steers a terminal or turns lines around written out."""
    return _IN_NAMES.sub(lambda found: _escaped(found[0]), name)


def printable_text(text: str, *, styled: bool = False) -> str:
    """What a program prints, in the same way, but with its lines, tabs and renewed lines; styled: with its colors."""
    return (_IN_STYLED if styled else _IN_TEXT).sub(lambda found: _kept(found[0]), text)


def _kept(found: str) -> str:
    return found if found in "\n\t" or len(found) > 1 else _escaped(found)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def put(text: str, output: TextIO | None, *, wait: bool = True) -> None:
    """Writes a text at once, or not at all where the stream is closed or full, or its reader has gone.

    output: None is no stream, which is what Python has for a standard stream that was closed from the start. wait: for
    a reader that does not read, as one that is stopped; else the text is dropped.
    """
    if output is None or not (wait or _is_read(output)):
        return
    with contextlib.suppress(OSError, ValueError):  # ValueError: the file is closed, or cannot encode a character
        output.write(text)
        output.flush()


def tell(line: str, *, wait: bool = True) -> None:
    """Puts a line on standard error."""
    put(f"{line}\n", sys.stderr, wait=wait)


def is_terminal(output: TextIO | None) -> bool:
    """Whether the stream is a terminal; one that is closed is none."""
    with contextlib.suppress(OSError, ValueError):
        return output is not None and output.isatty()
    return False


def renews_lines(output: TextIO | None) -> bool:
    """Whether a line can be written over: on a terminal, and in the output of a notebook's cell."""
    return is_terminal(output) or type(output).__module__.startswith("ipykernel")


def bar(share: float, width: int = 20) -> str:
    """Progress as a bar, from [----] to [####]."""
    full = round(width * min(max(share, 0.0), 1.0))
    return f"[{'#' * full}{'-' * (width - full)}]"


def _is_read(output: TextIO) -> bool:
    """Whether what is written now is taken at once; true of what is no pipe, socket or terminal."""
    try:
        return bool(select.select([], [output], [], 0)[1])
    except (OSError, ValueError):  # a stream in memory, for example
        return True
