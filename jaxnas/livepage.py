"""The page of a run that is still going on: its curves so far, written anew every few seconds from what it logs.

It stands where the report will be, `report/index.html`, and reloads itself in a browser. Curves are SVG inside the
page: drawing them takes milliseconds, where matplotlib would take a second from the run each time.
"""

from __future__ import annotations

import contextlib
import html
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxnas.files import write_atomic
from jaxnas.report import page

EVERY = 10.0
"""Seconds between two pages, and between two looks of the browser."""
_MOST = 400
"""Points of a curve; of more, every second one is dropped, again and again."""
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 320, 150, 52, 18


class Curve:
    """A value against steps, thinned out to at most `_MOST` points and the last one."""

    def __init__(self) -> None:
        self.points: list[tuple[int, float]] = []
        self.last: tuple[int, float] | None = None
        self._stride = self._seen = 0

    def add(self, step: int, value: float) -> None:
        """Adds a point; what is not finite is left out."""
        if not math.isfinite(value):
            return
        self.last = step, value
        if self._seen % max(1, self._stride) == 0:
            self.points.append(self.last)
        self._seen += 1
        if len(self.points) > _MOST:
            self.points = self.points[::2]
            self._stride = 2 * max(1, self._stride)


class LivePage:
    """Gathers what a run logs and writes its page, at most every `EVERY` seconds. A page that cannot be written is
    left out: a run does not end for it."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._curves: dict[tuple[str, str], Curve] = {}
        self._written = -math.inf

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Takes a line of metrics, and writes the page where it is time."""
        for name, value in values.items():
            self._curves.setdefault((stage, name), Curve()).add(step, value)
        if time.monotonic() - self._written >= EVERY:
            self._written = time.monotonic()
            self._write("running", EVERY)

    def stopped(self) -> None:
        """The run ends and is not finished: the page says so and reloads no more."""
        if self._curves:
            self._write("stopped; the same command goes on with it", None)

    def _write(self, state: str, refresh: float | None) -> None:
        title = f"Run {self._run.name}"
        body = [
            f"<h1>{html.escape(title)}</h1>",
            f'<p class="lead">{state} · written {time.strftime("%Y-%m-%d %H:%M:%S")}</p>',
        ]
        for stage in dict.fromkeys(stage for stage, _ in self._curves):
            own = {name: curve for (of, name), curve in self._curves.items() if of == stage}
            figures = [figure(name, curve) for name, curve in own.items() if curve.last is not None]
            body += [f"<section><h2>{html.escape(stage)}</h2>", '<div class="curves">', *figures, "</div></section>"]
        with contextlib.suppress(OSError):
            (self._run / "report").mkdir(exist_ok=True)
            write_atomic(self._run / "report" / "index.html", page(title, body, refresh=refresh))


def figure(name: str, curve: Curve) -> str:
    """A curve with its extremes and its last value, as an element of a page."""
    assert curve.last is not None
    points = curve.points if curve.points[-1] == curve.last else [*curve.points, curve.last]
    (first, end), (low, high) = _ends([step for step, _ in points]), _ends([value for _, value in points])

    def place(step: float, value: float) -> str:
        x = _LEFT + (step - first) / ((end - first) or 1) * (_WIDTH - _LEFT - 4)
        y = 4 + (high - value) / ((high - low) or 1) * (_HEIGHT - _BOTTOM - 8)
        return f"{x:.1f},{y:.1f}"

    line = " ".join(place(*point) for point in points)
    labels = [
        (0, 12, f"{high:.4g}"),
        (0, _HEIGHT - _BOTTOM, f"{low:.4g}"),
        (_LEFT, _HEIGHT - 4, f"step {first}"),
        (_WIDTH - 60, _HEIGHT - 4, f"{end}"),
    ]
    texts = "".join(f'<text x="{x}" y="{y}">{text}</text>' for x, y, text in labels)
    said = html.escape(name.replace("_", " "))
    return (
        f'<figure><h3>{said}: {curve.last[1]:.4g}</h3><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{said}"><polyline points="{line}"/>{texts}</svg></figure>'
    )


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)
