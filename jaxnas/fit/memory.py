"""Whether the steps of a search or a training fit into memory, and which other settings would.

Both are XLA's own counts of compiled programs, made before the first step. What is advised was compiled too, so the
advice holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from jaxnas.base import Key, PyTree
from jaxnas.console import tell
from jaxnas.memory import GIGABYTE, free_memory, needed_memory
from jaxnas.parallel import largest
from jaxnas.train.chunk import Chunk
from jaxnas.train.loop import Fits, PhaseSteps


class Lighter(NamedTuple):
    """Other settings, with which a step needs less memory.

    said: the settings, as a user gives them. make: the step with them. parts: the step then works on a part of the
    batch at a time, one in so many; 1 where it does not, and what it saves is not known.
    """

    said: str
    make: Callable[[], Chunk]
    parts: int = 1


Lighten = Callable[[str], Iterator[Lighter]]
"""The name of a phase -> other settings for it, those with few parts first."""


def memory_check(lighten: Lighten, devices: int, most: float | None = None) -> Fits:
    """What the loop asks before its first step. It raises ValueError for a step that does not fit, with what would.

    devices: over how many of this process a step is spread. most: gigabytes that a step may use of each; by default
    what each has left. Where neither XLA nor the system can tell, nothing is raised.
    """

    def fits(phases: Sequence[PhaseSteps], state: PyTree, keys: Sequence[Key], data: PyTree) -> None:
        left = free_memory(devices) if most is None else round(most * GIGABYTE)
        if largest([int(left is None)])[0] or left is None:
            return
        for phase, key in zip(phases, keys, strict=True):
            needed = needed_memory(phase.chunk.compile(state, key, data))
            if largest([int(needed is not None and needed > left)])[0] and needed is not None:
                tell(f"a step of {phase.name} needs {_gigabytes(needed)}: compiling smaller ones to see what would fit")

                def lighter(chunk: Chunk, key: Key = key) -> int | None:
                    return needed_memory(chunk.compile(state, key, data))

                smaller = list(_that_fit(lighten(phase.name), needed, left, lighter))
                raise ValueError(_refusal(phase.name, needed, left, smaller))

    return fits


def _that_fit(
    every: Iterator[Lighter], needed: int, left: int, count: Callable[[Chunk], int | None]
) -> Iterator[tuple[str, int]]:
    """(settings, bytes that they need) of those that fit: all without parts, and the one with the fewest parts."""
    for lighter in every:
        # A step of one part in p needs a p-th at least, because something in it does not depend on the batch.
        if lighter.parts > 1 and needed > left * lighter.parts:
            continue
        own = count(lighter.make())
        if own is not None and own <= left:
            yield lighter.said, own
            if lighter.parts > 1:
                return


def _refusal(name: str, needed: int, left: int, smaller: Sequence[tuple[str, int]]) -> str:
    would = "; or ".join(f"{said} needs {_gigabytes(own)}" for said, own in smaller)
    remedy = would or "no smaller part of a batch fits: take fewer channels or cells, or a device with more memory"
    return f"a step of {name} needs {_gigabytes(needed)} on each device, where {_gigabytes(left)} may be used: {remedy}"


def _gigabytes(count: int) -> str:
    return f"{count / GIGABYTE:.3g} GB"


def divisors(number: int) -> Iterator[int]:
    """Those of a number from 2 on, rising.

    >>> list(divisors(12))
    [2, 3, 4, 6, 12]
    """
    return (d for d in range(2, number + 1) if number % d == 0)
