"""What integer programming gives up under a latency limit: its picks against the true optimum, device by device.

    python -m benchmarks.ilp_hardware --table nb201.csv --hardware hw_nas_bench_nb201.csv

Needs a table of NAS-Bench-201 and HW-NAS-Bench's CSV. Accuracy, as normal scores, and latency are each fitted as a sum
over edges to `sample` random cells; the program maximizes the one sum with the other under the limit, at quantiles of
the device's latencies. Prints one JSON line for each device and quantile. `regret` is the accuracy of the best cell
that meets the limit, by measurement, less that of the first pick that does; `regret_best` that of the best among
`picks` picks, and `rejected` how many came before the first that meets it. `sample_regret` is that of the best cell of
the sample that meets the limit: what the same measurements give without a program. `accuracy_tau`, `accuracy_r2`,
`latency_tau` and `latency_r2` tell how well sums do on the cells that were not in the sample. All are means over the
draws that have a value; `draws_without_pick` had no pick that meets the limit.
"""

from __future__ import annotations

import dataclasses
import json
import time

import numpy as np
from scipy import stats

from jaxnas import command
from jaxnas.benchmarks import hw_nasbench201_table, nasbench201_table
from jaxnas.hardware import InfeasibleError, additivity, budget, fit_additive, one_option_each, solve
from jaxnas.spaces import nasbench201_space


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
    draws: int = 5
    seed: int = 0


def main(config: Config) -> None:
    table = nasbench201_table(config.table)
    hardware = hw_nasbench201_table(config.hardware, table)
    space = nasbench201_space()
    structure = one_option_each(space)
    archs = np.asarray(table.archs)
    accuracy = np.asarray(table.metrics[config.metric], np.float64).reshape(len(archs), -1)[:, -1]
    rows = {tuple(arch): row for row, arch in enumerate(archs.tolist())}
    order = [rows[tuple(arch)] for arch in np.asarray(hardware.archs).tolist()]
    for metric, values in hardware.metrics.items():
        if not metric.startswith(f"{config.dataset}_") or not metric.endswith("latency"):
            continue
        latency = np.full(len(archs), np.nan)
        latency[order] = np.asarray(values, np.float64)
        measured = np.flatnonzero(~np.isnan(latency))
        fits = []
        for draw in range(config.draws):
            rng = np.random.default_rng([config.seed, draw])
            shown = rng.choice(measured, config.sample, replace=False)
            others = np.setdiff1d(measured, shown)
            scores = fit_additive(space, archs[shown], _scores(accuracy[shown]))
            times = fit_additive(space, archs[shown], latency[shown])
            of_accuracy = additivity(space, scores, archs[others], _scores(accuracy[others]))
            of_latency = additivity(space, times, archs[others], latency[others])
            told = {
                **{f"accuracy_{name}": value for name, value in of_accuracy._asdict().items()},
                **{f"latency_{name}": value for name, value in of_latency._asdict().items()},
            }
            fits.append((shown, scores, times, told))
        for quantile in config.quantiles:
            limit = float(np.quantile(latency[measured], quantile))
            best = accuracy[measured][latency[measured] <= limit].max()
            found: dict[str, list[float]] = {}
            for shown, scores, times, told in fits:
                start = time.perf_counter()
                constraint = budget("latency", times.scores, limit, times.constant)
                try:
                    solutions = solve(structure, scores.scores, [constraint], config.picks)
                except InfeasibleError:
                    solutions = []
                seconds = time.perf_counter() - start
                picked = [rows[tuple(np.asarray(solution.arch).tolist())] for solution in solutions]
                meets = [row for row in picked if latency[row] <= limit]  # a missing latency meets none
                regrets = [best - accuracy[row] for row in meets]
                allowed = shown[latency[shown] <= limit]
                for name, value in {
                    "regret": regrets[0] if meets else np.nan,
                    "regret_best": min(regrets) if meets else np.nan,
                    "rejected": picked.index(meets[0]) if meets else len(picked),
                    "sample_regret": best - accuracy[allowed].max() if len(allowed) else np.nan,
                    **told,
                    "solve_s": seconds,
                }.items():
                    found.setdefault(name, []).append(float(value))
            line = {
                "name": f"ilp_{metric}_q{quantile:g}",
                "limit_ms": round(limit, 4),
                "optimum": round(float(best), 4),
                **{name: _mean(values) for name, values in found.items()},
                "draws_without_pick": int(np.isnan(found["regret"]).sum()),
                "draws": config.draws,
                "sample": config.sample,
                "metric": config.metric,
            }
            print(json.dumps(line), flush=True)


def _scores(values: np.ndarray) -> np.ndarray:
    """Normal quantiles of the ranks."""
    return stats.norm.ppf((stats.rankdata(values) - 0.5) / len(values))


def _mean(values: list[float]) -> float | None:
    """Over the draws that have a value; None where none has."""
    kept = [value for value in values if not np.isnan(value)]
    return round(float(np.mean(kept)), 4) if kept else None


if __name__ == "__main__":
    command.main(main, Config)
