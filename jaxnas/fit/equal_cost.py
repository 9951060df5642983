"""Whether a search beat chance: what it found beside random architectures of the same cost, in a table of all.

Architectures that cost more tend to be better, so that a search which finds large ones alone would beat a random draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from jaxnas.base import Arch
from jaxnas.fit.truth import Truth

WITHIN = 0.1
"""Of equal cost are those whose multiply-adds differ by at most this share."""
_DRAWS = 20_000


def cost_metric(truth: Truth) -> str | None:
    """The metric of the table that has multiply-adds: "macs", or that of the data of the truth's metric."""
    data = truth.metric.lstrip("-").partition("_")[0]
    return next((name for name in ("macs", f"{data}_macs") if name in truth.table.metrics), None)


def peers(truth: Truth, archs: Sequence[Arch]) -> list[np.ndarray]:
    """For each of the architectures the values of all in the table that cost as much; empty where that is not known."""
    metric = cost_metric(truth)
    if metric is None:
        return [np.zeros(0) for _ in archs]
    macs = truth.column(metric)
    rows = truth.rows(np.asarray(archs))
    near = [np.abs(macs - macs[row]) <= WITHIN * macs[row] for row in rows]
    return [
        truth.values[mask & ~np.isnan(truth.values)] if row >= 0 else np.zeros(0)
        for row, mask in zip(rows, near, strict=True)
    ]


def compared(truth: Truth, archs: Sequence[Arch], others: Sequence[np.ndarray]) -> dict[str, Any] | None:
    """What the searches of some seeds found, beside as many random architectures, one of equal cost for each.

    others: their `peers`.

    Returns: "found" and "random", the means; "found_interval", by Student's t, and "random_interval", of the mean of as
    many random architectures, at 95 %, None for one seed; "p", how often random architectures of equal cost have a
    mean as high, by so many draws of them (20,000); "within" and "cost", what equal cost is. None where the table does
    not know a cost or a value.
    """
    values = truth.of(np.asarray(archs))
    if np.isnan(values).any() or not all(len(own) for own in others):
        return None
    generator = np.random.default_rng(0)
    draws = np.mean([generator.choice(own, _DRAWS) for own in others], axis=0)
    mean, count = float(values.mean()), len(values)
    result: dict[str, Any] = {
        "count": count,
        "found": mean,
        "found_interval": None,
        "random": float(np.mean([own.mean() for own in others])),
        "random_interval": None,
        "p": float((1 + (draws >= mean).sum()) / (1 + _DRAWS)),
        "within": WITHIN,
        "cost": cost_metric(truth),
    }
    if count > 1:
        half = stats.t.ppf(0.975, count - 1) * values.std(ddof=1) / math.sqrt(count)
        result["found_interval"] = [mean - float(half), mean + float(half)]
        result["random_interval"] = np.quantile(draws, [0.025, 0.975]).tolist()
    return result


def told(found: Mapping[str, Any]) -> str:
    """The comparison in a sentence or two."""

    def figure(name: str) -> str:
        interval = found[f"{name}_interval"]
        return f"{found[name]:.1f}" + (f" ({interval[0]:.1f} to {interval[1]:.1f})" if interval else "")

    what = "The cell found has" if found["count"] == 1 else f"The cells of {found['count']} seeds have"
    chance = "p < 0.0001" if found["p"] < 1e-4 else f"p = {found['p']:.2g}"
    equal = f"equal cost (multiply-adds within {found['within']:.0%})"
    return f"{what} {figure('found')} in the table. Random ones of {equal} have {figure('random')}: {chance}."
