"""What integer programming finds under a latency limit: its picks against the true optimum, device by device.

    python -m benchmarks.ilp_hardware --table nb201.csv --hardware hw_nas_bench_nb201.csv

Needs a table of NAS-Bench-201 and HW-NAS-Bench's CSV. Of `sample` random cells accuracy and latency are known. A
Gaussian process learns the accuracies, as normal scores; latency is fitted by single options and pairs of them. Cells
that learned nothing are left out of that: compilers remove most of them. A program with pairs
(`jaxnas.fit.programs.nominate`) picks a cell, which is then measured as well, and the fits learn from it before the
next pick. From the program's solution and the cells that were asked about, a climb over neighbors leads to the cell of
which the predictor expects most; `--by climb` leaves the program out.

Each pick that breaks the limit lowers the program's limit by half the error of the latency fit, and each that meets it
raises it again, at most to the limit itself; where a lowered limit leaves nothing that promises more than the best
known cell, it is the limit itself again. `--by sum` picks by single options alone, all at once.

Prints one JSON line for each device and quantile of its latencies. `regret` is the accuracy of the best cell that meets
the limit, by measurement, less that of the first pick that does; `regret_best` that of the best among `picks` picks,
and `rejected` how many came before the first that meets it. `sample_regret` is that of the best cell of the sample that
meets the limit: what the same measurements give without a program. `accuracy_tau`, `accuracy_r2`, `latency_tau` and
`latency_r2` tell how well sums over single options do on the cells that were not in the sample. All are means over the
draws that have a value; `draws_without_pick` had no pick that meets the limit. The last line counts the lines on which
picks beat the sample.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from scipy import stats

from jaxnas import command
from jaxnas.base import Skeleton
from jaxnas.benchmarks import hw_nasbench201_table, nasbench201_table
from jaxnas.catalog import entry_of
from jaxnas.fit.budget import make_budget
from jaxnas.fit.programs import Predict, fitter, nominate
from jaxnas.hardware import (
    InfeasibleError,
    PairwiseFit,
    Structure,
    additivity,
    all_pairs,
    budget,
    fit_additive,
    fit_pairwise,
    one_option_each,
    pairwise_sums,
    solve,
    together,
)
from jaxnas.spaces import nasbench201_space

SPACE = nasbench201_space()
PAIRS = all_pairs(SPACE)
SKELETON = Skeleton(16, 15, (32, 32, 3), 10)
DRAWN, ASKED = 8000, 1000
"""Random cells, and how many of them the predictor is asked about: within the limit, or nearest to it."""
CHANCE = 10.5
"""In %: no cell with less has learned anything."""


@dataclasses.dataclass(frozen=True)
class Config:
    table: str
    hardware: str
    metric: str = "c10_test"
    """Of the accuracies after 200 epochs."""
    dataset: str = "c10"
    sample: int = 200
    picks: int = 10
    quantiles: tuple[float, ...] = (0.1, 0.3, 0.6)
    by: Literal["pairs", "climb", "sum"] = "pairs"
    draws: int = 5
    seed: int = 0


class Measured(NamedTuple):
    """archs int [A, 6], accuracy [A] in %, latency [A] in milliseconds, NaN where there is none."""

    archs: np.ndarray
    accuracy: np.ndarray
    latency: np.ndarray


def main(config: Config) -> None:
    table = nasbench201_table(config.table)
    hardware = hw_nasbench201_table(config.hardware, table)
    archs = np.asarray(table.archs)
    accuracy = np.asarray(table.metrics[config.metric], np.float64).reshape(len(archs), -1)[:, -1]
    rows = {tuple(arch): row for row, arch in enumerate(archs.tolist())}
    order = [rows[tuple(arch)] for arch in np.asarray(hardware.archs).tolist()]
    fit = fitter(SPACE, make_budget(entry_of(SPACE.name), SPACE, SKELETON, {}), "gp", config.sample + config.picks)
    wins: dict[str, int] = {"regret": 0, "regret_best": 0}
    lines = 0
    for metric, values in hardware.metrics.items():
        if not metric.startswith(f"{config.dataset}_") or not metric.endswith("latency"):
            continue
        latency = np.full(len(archs), np.nan)
        latency[order] = np.asarray(values, np.float64)
        measured = Measured(archs, accuracy, latency)
        there = np.flatnonzero(~np.isnan(latency))
        for quantile in config.quantiles:
            limit = float(np.quantile(latency[there], quantile))
            found: dict[str, list[float]] = {}
            for draw in range(config.draws):
                rng = np.random.default_rng([config.seed, draw])
                shown = rng.choice(there, config.sample, replace=False)
                start = time.perf_counter()
                if config.by == "sum":
                    picked = list(by_sum(measured, rows, shown, limit, config.picks))
                else:
                    picked = list(
                        by_pairs(measured, rows, shown, limit, config.picks, fit, rng, int(config.by == "pairs"))
                    )
                for name, value in {**_told(measured, shown, limit, picked), **_additivity(measured, shown)}.items():
                    found.setdefault(name, []).append(value)
                found.setdefault("seconds", []).append(time.perf_counter() - start)
            line = {
                "name": f"ilp_{metric}_q{quantile:g}",
                "limit_ms": round(limit, 4),
                "optimum": round(float(accuracy[there][latency[there] <= limit].max()), 4),
                **{name: _mean(values) for name, values in found.items()},
                "draws_without_pick": int(np.isnan(found["regret"]).sum()),
                "draws": config.draws,
                "sample": config.sample,
                "metric": config.metric,
                "by": config.by,
            }
            print(json.dumps(line), flush=True)
            lines += 1
            of_sample = _mean(found["sample_regret"])
            for name in wins:
                mean = _mean(found[name])
                wins[name] += mean is not None and of_sample is not None and mean < of_sample
    print(json.dumps({"name": "ilp_wins", "lines": lines, "by": config.by, **wins}), flush=True)


def by_sum(
    measured: Measured, rows: dict[tuple[int, ...], int], shown: np.ndarray, limit: float, picks: int
) -> Iterator[int]:
    """The next-best solutions of a sum over single options, all at once."""
    scores = fit_additive(SPACE, measured.archs[shown], _scores(measured.accuracy[shown]))
    times = fit_additive(SPACE, measured.archs[shown], measured.latency[shown])
    constraint = budget("latency", times.scores, limit, times.constant)
    try:
        solutions = solve(one_option_each(SPACE), scores.scores, [constraint], picks)
    except InfeasibleError:
        return
    for solution in solutions:
        yield rows[tuple(np.asarray(solution.arch).tolist())]


def by_pairs(
    measured: Measured, rows: dict[tuple[int, ...], int], shown: np.ndarray, limit: float, picks: int, fit: Any,
    rng: np.random.Generator, solutions: int,
) -> Iterator[int]:  # fmt: skip
    """One pick after the other, with what was learned from those before."""
    structure = together(one_option_each(SPACE), PAIRS)
    known, bound = shown.tolist(), limit
    for number in range(picks):
        archs = measured.archs[known]
        timed = [row for row in known if measured.accuracy[row] > CHANCE and not np.isnan(measured.latency[row])]
        times = fit_pairwise(SPACE, measured.archs[timed], measured.latency[timed], PAIRS)
        asked = measured.archs[rng.choice(len(measured.archs), DRAWN, replace=False)]
        over = np.maximum(pairwise_sums(SPACE, times, asked, PAIRS) - bound, 0.0)
        asked = asked[np.argsort(over, kind="stable")[:ASKED]]
        predict = fit(jax.random.key(number), archs, measured.accuracy[known])
        within = [row for row in known if measured.latency[row] <= limit]
        promised = predict(measured.archs[within]).max() if within else -np.inf
        new = _named(measured, rows, known, structure, times, bound, predict, asked, solutions)
        if bound < limit and (not new or new[0][1] <= promised):  # so low a limit leaves nothing better
            bound = limit
            new = _named(measured, rows, known, structure, times, bound, predict, asked, solutions)
        if not new:
            return
        picked = new[0][0]
        yield picked
        known.append(picked)
        meets = measured.latency[picked] <= limit  # a missing latency meets none
        bound = min(limit, bound + times.error / 2) if meets else bound - times.error / 2


def _named(
    measured: Measured, rows: dict[tuple[int, ...], int], known: list[int], structure: Structure, times: PairwiseFit,
    bound: float, predict: Predict, asked: np.ndarray, solutions: int,
) -> list[tuple[int, float]]:  # fmt: skip
    """(row, what is expected of it) of what is not known yet and meets the bound by the fit, the best first."""
    constraint = budget("latency", times.scores, bound, times.constant)

    def within(archs: np.ndarray) -> np.ndarray:
        return pairwise_sums(SPACE, times, archs, PAIRS) <= bound

    try:
        found, expected = nominate(
            SPACE, structure, [constraint], within, predict, asked, predict(asked), PAIRS, solutions
        )
    except InfeasibleError:
        return []
    pairs = zip(found.tolist(), expected.tolist(), strict=True)
    return [(rows[tuple(arch)], value) for arch, value in pairs if rows[tuple(arch)] not in known]


def _told(measured: Measured, shown: np.ndarray, limit: float, picked: list[int]) -> dict[str, float]:
    meets = measured.latency <= limit
    best = measured.accuracy[meets].max()
    regrets = [float(best - measured.accuracy[row]) for row in picked if meets[row]]
    allowed = shown[meets[shown]]
    return {
        "regret": regrets[0] if regrets else np.nan,
        "regret_best": min(regrets) if regrets else np.nan,
        "rejected": float(next((n for n, row in enumerate(picked) if meets[row]), len(picked))),
        "sample_regret": float(best - measured.accuracy[allowed].max()) if len(allowed) else np.nan,
    }


def _additivity(measured: Measured, shown: np.ndarray) -> dict[str, float]:
    """How well sums over single options do on the cells that were not shown."""
    others = np.setdiff1d(np.flatnonzero(~np.isnan(measured.latency)), shown)
    told: dict[str, float] = {}
    for name, values, seen in (
        ("accuracy", _scores(measured.accuracy[others]), _scores(measured.accuracy[shown])),
        ("latency", measured.latency[others], measured.latency[shown]),
    ):
        of_sum = additivity(SPACE, fit_additive(SPACE, measured.archs[shown], seen), measured.archs[others], values)
        told |= {f"{name}_{measure}": value for measure, value in of_sum._asdict().items()}
    return told


def _scores(values: np.ndarray) -> np.ndarray:
    """Normal quantiles of the ranks."""
    return stats.norm.ppf((stats.rankdata(values) - 0.5) / len(values))


def _mean(values: list[float]) -> float | None:
    """Over the draws that have a value; None where none has."""
    kept = [value for value in values if not np.isnan(value)]
    return round(float(np.mean(kept)), 4) if kept else None


if __name__ == "__main__":
    command.main(main, Config)
