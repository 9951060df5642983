"""Progress of a stage for a person: on a terminal one line that is renewed, elsewhere a line every few seconds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, TextIO

import numpy as np

from jaxnas.console import is_terminal, put

_SECONDS_BETWEEN_LINES = 5.0
_SHOWN = 4


class Progress:
    """Reports step, round, the first four values of the Info (mean over the chunk), examples/s and the time left.

    legs: (name, steps in all rounds, examples of a step) of each leg, whose paces are measured apart. done: the steps
    of each leg that were done before. output: whatever becomes of it, nothing is raised; what nobody reads is dropped.
    """

    def __init__(
        self, stage: str, legs: Sequence[tuple[str, int, int]], done: Sequence[int], output: TextIO | None
    ) -> None:
        self._stage = stage
        self._legs = legs
        self._left = [steps - before for (_, steps, _), before in zip(legs, done, strict=True)]
        self._total = sum(steps for _, steps, _ in legs)
        self._seconds = [0.0] * len(legs)
        self._output = output
        self._terminal = is_terminal(output)
        self._last = float("-inf")
        self._open = False
        self._calls = [0] * len(legs)

    def report(self, leg: int, steps: int, seconds: float, epoch: str, infos: Any) -> None:
        """Tells of a chunk: which leg, its steps, its seconds, the round, its infos [steps]."""
        self._left[leg] -= steps
        self._calls[leg] += 1
        pace = seconds / steps
        # The first chunk compiles; after it the newest chunks count most.
        self._seconds[leg] = pace if self._calls[leg] <= 2 else 0.5 * (self._seconds[leg] + pace)
        now = time.monotonic()
        finished = not any(self._left)
        if not self._terminal and not finished and now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        done = self._total - sum(self._left)
        name, _, examples = self._legs[leg]
        parts = [
            self._stage if name == self._stage else f"{self._stage} {name}",
            f"step {done}/{self._total}",
            f"epoch {epoch}",
        ]
        values = list(infos._asdict().items())[:_SHOWN] if hasattr(infos, "_asdict") else []
        parts += [f"{field} {np.mean(value):.4g}" for field, value in values]
        if self._calls[leg] == 1:
            parts.append(f"first step after {duration(seconds)}")
        else:
            if examples:
                parts.append(f"{examples / pace:.4g} examples/s")
            # A leg that did not run yet is taken to be as slow as the slowest that did.
            slowest = max(self._seconds)
            left = sum(n * (known or slowest) for n, known in zip(self._left, self._seconds, strict=True))
            parts.append(f"{duration(left)} left")
        line = "  ".join(parts)
        put(f"\r\x1b[K{line}" if self._terminal else f"{line}\n", self._output, wait=False)
        self._open = self._terminal

    def close(self) -> None:
        """Ends the line on a terminal."""
        if self._open:
            put("\n", self._output, wait=False)
            self._open = False


def duration(seconds: float) -> str:
    """Seconds as a person says them: "4.2 s", "3 min 20 s", "2 h 05 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
