"""Progress of a stage for a person: a bar on a terminal and in a notebook, elsewhere a line every few seconds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, TextIO

import numpy as np

from jaxnas.console import bar, put, renews_lines

_SECONDS_BETWEEN_LINES = 5.0
_SHOWN = 4


class Progress:
    """Reports step, epoch, the first four values of the Info (mean over the chunk), examples/s and the time left.

    phases: (name, steps in all epochs, examples of a step) of each phase, whose paces are measured apart. done: the
    steps of each phase that were done before. output: whatever becomes of it, nothing is raised; what nobody reads is
    dropped.
    """

    def __init__(
        self, stage: str, phases: Sequence[tuple[str, int, int]], done: Sequence[int], output: TextIO | None
    ) -> None:
        self._stage = stage
        self._phases = phases
        self._left = [steps - before for (_, steps, _), before in zip(phases, done, strict=True)]
        self._total = sum(steps for _, steps, _ in phases)
        self._seconds = [0.0] * len(phases)
        self._output = output
        self._renews = renews_lines(output)
        self._last = float("-inf")
        self._open = False
        self._calls = [0] * len(phases)

    def report(self, phase: int, steps: int, seconds: float, epoch: str, infos: Any) -> None:
        """Tells of a chunk: which phase, its steps, its seconds, the epoch, its infos [steps]."""
        self._left[phase] -= steps
        self._calls[phase] += 1
        pace = seconds / steps
        # The first chunk compiles; after it the newest chunks count most.
        self._seconds[phase] = pace if self._calls[phase] <= 2 else 0.5 * (self._seconds[phase] + pace)
        now = time.monotonic()
        finished = not any(self._left)
        if not self._renews and not finished and now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        done = self._total - sum(self._left)
        name, _, examples = self._phases[phase]
        parts = [
            self._stage if name == self._stage else f"{self._stage} {name}",
            f"step {done}/{self._total}",
            f"epoch {epoch}",
        ]
        values = list(infos._asdict().items())[:_SHOWN] if hasattr(infos, "_asdict") else []
        parts += [f"{field} {np.mean(value):.4g}" for field, value in values]
        if self._calls[phase] == 1:
            parts.append(f"first step after {duration(seconds)}")
        else:
            if examples:
                parts.append(f"{examples / pace:.4g} examples/s")
            # A phase that did not run yet is taken to be as slow as the slowest that did.
            slowest = max(self._seconds)
            left = sum(n * (known or slowest) for n, known in zip(self._left, self._seconds, strict=True))
            parts.append(f"{duration(left)} left")
        if self._renews:
            parts.insert(1, bar(done / max(self._total, 1)))
        line = "  ".join(parts)
        put(f"\r\x1b[K{line}" if self._renews else f"{line}\n", self._output, wait=False)
        self._open = self._renews

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
