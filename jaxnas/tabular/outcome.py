"""What many runs of one method came to, and the final table of a comparison. Shapes: R runs, A rows, G points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from jaxnas.samplers import Trace
from jaxnas.tabular.setting import Setting

QUANTILES = (0.05, 0.25, 0.75, 0.95)


class Outcome(NamedTuple):
    """What R runs of one method came to, in JSON's terms.

    final: R values of the report metric of what was found. evaluations, seconds: means of what a run spent; no seconds
    where time does not count. fewest_evaluations: of a run. evaluations_to_best: for each run the evaluation that met
    the best row of the search metric, None where none did. curves: "evaluations" and "seconds" -> the mean regret
    against them, {"x", "mean", "low", "high"}, each [G]. wall_seconds: what all runs took.
    """

    final: list[float]
    evaluations: float
    fewest_evaluations: int
    evaluations_to_best: list[int | None]
    seconds: float | None
    curves: dict[str, dict[str, list[float]]]
    wall_seconds: float


def outcome_of(trace: Trace, setting: Setting, wall_seconds: float) -> Outcome:
    """What the runs of a trace came to; each of them has found something. trace: batched over R runs."""
    best = np.where(trace.best < 0, np.nan, setting.reported[trace.best])
    regret = setting.optimum - best
    grid = np.unique(np.linspace(1, setting.evaluations, 200).astype(int))
    curves = {"evaluations": regret_curve(np.asarray(trace.evaluations), regret, grid)}
    if setting.time is not None:
        end = setting.time_budget or float(trace.seconds[:, -1].max())
        curves["seconds"] = regret_curve(np.asarray(trace.seconds), regret, np.linspace(0, end, 201)[1:])
    return Outcome(
        final=best[:, -1].tolist(),
        evaluations=float(trace.evaluations[:, -1].mean()),
        fewest_evaluations=int(trace.evaluations[:, -1].min()),
        evaluations_to_best=[None if math.isinf(n) else int(n) for n in evaluations_to_best(trace, setting.searched)],
        seconds=float(trace.seconds[:, -1].mean()) if setting.time is not None else None,
        curves=curves,
        wall_seconds=wall_seconds,
    )


def evaluations_to_best(trace: Trace, searched: np.ndarray) -> np.ndarray:
    """The evaluation of each of R runs that was the first of a best row of what is searched; float [R], inf for none.

    trace: batched over runs. searched: float [A], to be maximized, NaN where there is none, at the highest fidelity; a
    best row that was evaluated at a lower one counts for nothing.
    """
    rows = np.asarray(trace.rows).reshape(len(trace.rows), -1)
    values = np.asarray(trace.objectives, np.float64)[..., 0].reshape(rows.shape)
    optimum = np.nanmax(searched)
    met = (rows >= 0) & (searched[rows] == optimum) & (values == optimum)
    number = np.cumsum(rows >= 0, axis=1)
    first = number[np.arange(len(rows)), np.argmax(met, axis=1)]
    return np.where(met.any(axis=1), first, np.inf)


def regret_curve(spent: np.ndarray, regret: np.ndarray, grid: np.ndarray) -> dict[str, list[float]]:
    """Mean regret, and the 95 % interval of the mean over runs, where each of them has found something.

    spent: [R, T], what each step of a run had spent. regret: [R, T], NaN before the first evaluation. grid: rising.
    """
    steps = np.stack([np.searchsorted(row, grid, side="right") - 1 for row in spent])
    values = np.where(steps < 0, np.nan, np.take_along_axis(regret, np.maximum(steps, 0), axis=1))
    end = grid[min(np.searchsorted(grid, spent[:, -1].max()), len(grid) - 1)]
    kept = ~np.isnan(values).any(axis=0) & (grid <= end)
    values = values[:, kept]
    half = 1.96 * values.std(axis=0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.zeros(values.shape[1])
    mean = values.mean(axis=0)
    return {
        "x": grid[kept].tolist(),
        "mean": mean.tolist(),
        "low": (mean - half).tolist(),
        "high": (mean + half).tolist(),
    }


def summary(outcomes: Mapping[str, Outcome], optimum: float) -> list[dict[str, Any]]:
    """The final table: a row for each method.

    p_against_random: Mann-Whitney, one-sided, that it is not better than the method "random"; None without that one.
    """
    rows = []
    for name, outcome in outcomes.items():
        final = np.array(outcome.final)
        row: dict[str, Any] = {
            "method": name,
            "runs": len(final),
            "mean": float(final.mean()),
            "std": float(final.std(ddof=1)) if len(final) > 1 else 0.0,
            "median": float(np.median(final)),
            **{f"q{round(100 * q):02d}": float(np.quantile(final, q)) for q in QUANTILES},
            "mean_regret": float(optimum - final.mean()),
            "found_optimum": float((final >= optimum).mean()),
            "evaluations": outcome.evaluations,
            **quantiles_to_best(outcome.evaluations_to_best),
            "seconds": outcome.seconds,
            "p_against_random": None,
        }
        if "random" in outcomes and name != "random":
            row["p_against_random"] = float(
                stats.mannwhitneyu(final, outcomes["random"].final, alternative="greater").pvalue
            )
        rows.append(row)
    return rows


def quantiles_to_best(numbers: Sequence[int | None]) -> dict[str, float | None]:
    """Quantiles of the evaluations until the best is met, None where so many of the runs end before."""
    found = np.array([math.inf if number is None else number for number in numbers])
    quantiles = {"median": 0.5, **{f"q{round(100 * q):02d}": q for q in QUANTILES}}
    # An observed number, never a mean of two, one of which may be infinite.
    values = {name: float(np.quantile(found, q, method="inverted_cdf")) for name, q in quantiles.items()}
    told = {f"to_best_{name}": None if math.isinf(value) else value for name, value in values.items()}
    return {"met_best": float(np.isfinite(found).mean()), **told}
