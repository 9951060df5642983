"""What is made of several rows of one architecture."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from jaxnas.base import Choice
from jaxnas.benchmarks.table import distinct

REPEATS = ("refuse", "mean", "first", "seeds")
"""What several rows of one architecture are: an error, their mean, the first of them, or runs with several seeds."""
MOST_RUNS = 100
"""Of one architecture that are kept apart."""


def join_repeats(
    choices: Sequence[Choice],
    archs: np.ndarray,
    metrics: Mapping[str, np.ndarray],
    labels: Mapping[str, Sequence[str]],
    how: str,
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, Sequence[str]], list[str]]:
    """(archs [U, D], each once; metrics and labels; sentences on what was done). archs: int [A, D], all options.

    "mean" is over the values that are there. "first" is the first row, gaps included. "seeds" gives, beside the mean
    NAME, NAME_std, the standard deviation over runs (of n - 1; missing where there is one run), and NAME_run1,
    NAME_run2, …, the single runs in the order of the file. So a search may see one run and be judged by the mean.

    Raises: ValueError where one has more than `MOST_RUNS` rows that are to be kept apart, or a name is taken.
    """
    first, group = distinct(choices, archs)
    repeated = len(archs) - len(first)
    if not repeated:
        return archs, dict(metrics), dict(labels), []
    order = np.argsort(group, kind="stable")
    start = np.searchsorted(group[order], np.arange(len(first)))
    run = np.empty(len(archs), np.int64)
    run[order] = np.arange(len(archs)) - start[group[order]]
    most = int(run.max()) + 1
    several = int((np.bincount(group) > 1).sum())
    what = {"mean": "means are taken", "first": "the first row is taken", "seeds": "they are runs of several seeds"}
    notes = [f"{several:,} architectures have several rows, up to {most}: {what[how]}"]
    if how == "first":
        return archs[first], {name: value[first] for name, value in metrics.items()}, dict(labels), notes
    found: dict[str, np.ndarray] = {}
    named = dict(labels)
    for name, value in metrics.items():
        sums, counts = _sums(value, group, len(first))
        with np.errstate(invalid="ignore"):
            mean = sums / counts
            found[name] = mean
            if how == "mean":
                continue
            squares, _ = _sums((value - mean[group]) ** 2, group, len(first))
            std = np.where(counts > 1, np.sqrt(squares / np.maximum(counts - 1, 1)), np.nan)
        if most > MOST_RUNS:
            raise ValueError(f"an architecture has {most} rows; at most {MOST_RUNS} are kept apart: take their mean")
        parts = {f"{name}_std": std}
        for number in range(most):
            own = np.full((len(first), *value.shape[1:]), np.nan)
            at = run == number
            own[group[at]] = value[at]
            parts[f"{name}_run{number + 1}"] = own
        if taken := [part for part in parts if part in metrics]:
            raise ValueError(f"runs of {name!r} need the name {taken[0]!r}, which a column has; rename it")
        found |= parts
        named |= {part: labels[name] for part in parts if name in labels}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # no architecture has two values
            noise = float(np.sqrt(np.nanmean(std**2)))
        if np.isfinite(noise):
            notes.append(f"noise of {name}: a standard deviation of {noise:.3g} between runs of one architecture")
    return archs[first], found, named, notes


def _sums(value: np.ndarray, group: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(sums, numbers) of the values of each group that are there, [U, …]."""
    there = ~np.isnan(value)
    sums, counts = np.zeros((2, count, *value.shape[1:]))
    np.add.at(sums, group, np.where(there, value, 0.0))
    np.add.at(counts, group, there)
    return sums, counts
