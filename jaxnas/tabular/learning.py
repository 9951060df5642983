"""Learning curves of predictors on a table: how well they rank what they were not shown, against how much they were.

A draw is a random set of architectures. A predictor is fitted to their values, as normal scores, and asked about all
others but those that compute the same function as one of the set. Reported are Kendall's tau (b), Spearman's rho, and
the regret of the best among the ten that are predicted to be best. `tau_all` is Kendall's tau over all others, those
that compute the same function included, which is easier; published programs, as far as known here, report that.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from jaxnas import report
from jaxnas.base import Graph, Predictor
from jaxnas.benchmarks import Table
from jaxnas.benchmarks.named import metric_column
from jaxnas.benchmarks.table import table_fingerprint
from jaxnas.files import write_csv
from jaxnas.predictors import normal_scores
from jaxnas.runfolder import RunFolder, open_run, versions
from jaxnas.tabular.known import Known
from jaxnas.tabular.pictures import draw_learning_curves
from jaxnas.tabular.run import NOTHING
from jaxnas.train.stop import check_stop, stop_on_signal

TOP = 10
"""The regret is that of the best of so many."""
MEASURES = ("tau", "tau_all", "rho", "regret")
USUAL_SIZES = (78, 156, 391)
"""Architectures that are shown, 0.5, 1 and 2.5 % of NAS-Bench-201."""


def usual_sizes(table: Table, metric: str) -> list[int]:
    """How many architectures a predictor is usually shown: 78, 156 and 391, without those above half of the rows.

    Only rows with a value of the metric count. Where no size is left, it is half of the rows.

    >>> from jaxnas.benchmarks import digits201_table
    >>> usual_sizes(digits201_table(), "valid")
    [78, 156, 391]
    """
    half = int((~np.isnan(metric_column(table, metric))).sum()) // 2
    return [size for size in USUAL_SIZES if size <= half] or [half]


def run_learning_curves(
    workdir: str | os.PathLike[str],
    table: Table,
    of: Known,
    predictors: Mapping[str, Predictor],
    *,
    metric: str,
    sizes: Sequence[int],
    draws: int = 5,
    seed: int = 0,
    runtime: Mapping[str, Any] = NOTHING,
    command: str | None = None,
) -> list[dict[str, Any]]:
    """Runs in a run folder what has not run there, writes table, curves and report, prints and returns the rows.

    of: what the predictors know, of this table. predictors: name -> predictor; the name stands for it, so one that has
    changed needs another name or folder. metric: what is predicted. sizes: how many architectures are shown. runtime:
    what numbers do not depend on, to be kept in config.json. command: by which the run was started, for the report.

    Raises: ValueError for an unknown metric, sizes that are too small or more than half of the measured rows, no draws;
    ValueError and OSError as `open_run`; Stopped where a signal came. Only for the main thread.

    docs/results.md has its tables; the program is experiments/predictor.py.
    """
    start = time.perf_counter()
    values = metric_column(table, metric)
    most, sizes = int((~np.isnan(values)).sum()), sorted(set(sizes))
    if not sizes or not 4 <= sizes[0] <= sizes[-1] <= most // 2:
        shown = ",".join(map(str, sizes))
        raise ValueError(f"sizes must be at least 4 and at most half of the {most} measured rows, got {shown!r}")
    if draws < 1:
        raise ValueError(f"draws must be positive, got {draws}")
    signals = ",".join(of.signals) or None
    identity = {
        "experiment": "predictor", "table": table_fingerprint(table), "metric": metric, "draws": draws,
        "signals": signals, "seed": seed, "measures": ", ".join(MEASURES),
    }  # fmt: skip
    with open_run(workdir, identity, runtime) as run, stop_on_signal() as stop:
        for note in table.notes:
            print(f"{table.name}: {note}")
        graphs = jax.jit(jax.vmap(of.graph))(table.archs)
        outcomes: dict[str, dict[int, Any]] = {name: {} for name in predictors}
        for number, (name, size) in enumerate(itertools.product(predictors, sizes)):
            stage = run.stage(f"{name}-{size}")
            if stage.result is None:

                def before_draw(number: int = number) -> None:
                    check_stop(stop, number, len(predictors) * len(sizes), "point of the curves")

                found = measure_predictor(
                    predictors[name], of, graphs, values, size, draws=draws, seed=seed, before_draw=before_draw
                )
                stage.finish(found)
            outcomes[name][size] = stage.result
        rows = learning_rows(outcomes)
        result: dict[str, Any] = {
            "dataset": table.name,
            "seed": seed,
            "metric": metric,
            "description": table.descriptions.get(metric.lstrip("-").partition("@")[0], ""),
            "signals": signals,
            "methods": rows,
            "versions": versions(),
            **({} if command is None else {"command": command}),
            "timing": {"total": round(time.perf_counter() - start, 2)},
        }
        _write(run, result, len(table.archs), draws)
    return rows


def measure_predictor(
    predictor: Predictor,
    of: Known,
    graphs: Graph,
    values: np.ndarray,
    size: int,
    *,
    draws: int = 5,
    seed: int = 0,
    before_draw: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """All draws of one predictor and size: name of a measure -> one number a draw; seconds without compilation.

    graphs: of all A rows, batched. values: float [A], NaN where there is none.

    Raises: ValueError where all predictions are alike.

    docs/own_table.md has an example.
    """
    fit = jax.jit(lambda key, *data: predictor.fit(key, predictor.init(jax.random.fold_in(key, 0)), *data))
    predict = jax.jit(predictor.predict)
    measured = np.flatnonzero(~np.isnan(values))
    found: dict[str, list[float]] = {name: [] for name in (*MEASURES, "fit_seconds", "predict_seconds")}
    for draw in range(draws):
        before_draw()
        rows = np.random.default_rng([seed, draw]).choice(measured, size, replace=False)
        unseen = np.setdiff1d(measured, rows)
        others = unseen[~np.isin(of.classes[unseen], of.classes[rows])]
        weight = jnp.ones(size)
        targets = normal_scores(jnp.asarray(values[rows], jnp.float32), weight)
        train = jax.tree.map(lambda leaf, rows=rows: leaf[rows], graphs)
        start = time.perf_counter()
        state = jax.block_until_ready(fit(jax.random.fold_in(jax.random.key(seed), draw), train, targets, weight))
        fitted = time.perf_counter()
        mean = np.asarray(predict(state, graphs)[0])
        if draw or draws == 1:
            found["fit_seconds"].append(round(fitted - start, 4))
            found["predict_seconds"].append(round(time.perf_counter() - fitted, 4))
        best = others[np.argsort(-mean[others], kind="stable")[:TOP]]
        found["tau"].append(float(stats.kendalltau(mean[others], values[others]).statistic))
        found["tau_all"].append(float(stats.kendalltau(mean[unseen], values[unseen]).statistic))
        found["rho"].append(float(stats.spearmanr(mean[others], values[others]).statistic))
        found["regret"].append(float(values[others].max() - values[best].max()))
    if not np.isfinite(found["tau"]).all():
        raise ValueError(f"all predictions are alike after {size} architectures; show more of them")
    return found


def learning_rows(outcomes: Mapping[str, Mapping[int, Mapping[str, list[float]]]]) -> list[dict[str, Any]]:
    """A row for each method and size, with means and standard deviations over draws.

    outcomes: name -> size -> what `measure_predictor` gives.
    """
    rows = []
    for name, by_size in outcomes.items():
        for size, outcome in by_size.items():
            row: dict[str, Any] = {"method": name, "size": size, "draws": len(outcome["tau"])}
            for measured in MEASURES:
                values = np.array(outcome[measured])
                row[measured] = float(values.mean())
                row[f"{measured}_std"] = float(values.std(ddof=1)) if len(values) > 1 else 0.0
            for part in ("fit_seconds", "predict_seconds"):
                row[part] = float(np.mean(outcome[part]))
            rows.append(row)
    return rows


def _write(run: RunFolder, result: Mapping[str, Any], count: int, draws: int) -> None:
    rows, metric = result["methods"], result["metric"]
    write_csv(run.path / "table.csv", rows)
    draw_learning_curves(rows, count, run.path / "report" / "curves.png")
    lines = [f"{row['method']} {row['size']}: {row['tau']:.3f} ± {row['tau_std']:.3f}" for row in rows]
    caption = f"Kendall's tau with {metric} of architectures not shown, mean and std of {draws} draws"
    caption += f", told {result['signals']}" if result["signals"] else ""
    page = report.write(run.path, result, [("Learning curves", "curves.png", f"{caption}. {'; '.join(lines)}.")])
    run.finish(result)
    print(f"\n{metric} of {result['dataset']}, {result['description']}\n")
    print(f"{'method':<11}{'shown':>6}  {'tau':^15}  {'all':>6}  {'rho':>6}  {'regret':>6}  {'fit s':>7}  predict s")
    for row in rows:
        print(
            f"{row['method']:<11}{row['size']:>6}  {row['tau']:.4f} ± {row['tau_std']:.4f}  {row['tau_all']:>6.4f}  "
            f"{row['rho']:>6.4f}  {row['regret']:>6.3f}  {row['fit_seconds']:>7.3f}  {row['predict_seconds']:>9.2f}"
        )
    print(f"\ntable: {run.path / 'table.csv'}\nreport: {page}")
