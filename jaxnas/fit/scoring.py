"""Scores of candidates over all devices and processes, which a signal stops between any few of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxnas.parallel import largest, led_by_first, shared_rows
from jaxnas.train.stop import check_stop

Score = Callable[[Any], np.ndarray]
"""archs [P, D] -> scores, float64 [P]."""
SLICE = 8
"""Candidates for each process between two looks for a signal."""


def with_scores(
    scores: Mapping[str, Score],
    work: Callable[[dict[str, Score]], Any],
    stop: Callable[[], int | None],
    keep: Callable[[str, np.ndarray, np.ndarray], None] = lambda name, archs, values: None,
) -> Any:
    """What `work` makes of the named scores, in JSON's terms; all processes get it, and the first alone does the work.

    What it asks for is cut into slices, of which each process scores a share. Before each slice they agree on whether a
    signal came to any of them, and then all raise Stopped. keep: is told of each slice that is scored.
    """
    size = SLICE * jax.process_count()
    shared = {name: shared_rows(score) for name, score in scores.items()}

    def answer(question: Any) -> np.ndarray:
        name, archs, done, total = question
        check_stop(lambda: largest([stop() or 0])[0] or None, done, total, "score")
        return shared[name](np.array(archs, np.int32))

    def lead(ask: Callable[[Any], np.ndarray]) -> Any:
        def sliced(name: str) -> Score:
            def score(archs: Any) -> np.ndarray:
                parts = []
                for first in range(0, len(archs), size):
                    some = np.asarray(archs[first : first + size])
                    parts.append(ask([name, some.tolist(), first, len(archs)]))
                    keep(name, some, parts[-1])
                return np.concatenate(parts)

            return score

        return work({name: sliced(name) for name in shared})

    return led_by_first(lead, answer)
