"""Learning curves of predictors on a table: rank correlation with what was measured, against how much they were shown.

    python -m experiments.predictor --table nb201.csv --metric c10_test@200 --methods gnn_gp,gnn,gp,gp_paths,mlp
    python -m experiments.predictor --table nb201.csv --metric c10_test@200 --signals c10_params,c10_macs

A draw is a random set of architectures. A method is fitted to their values, as normal scores, and asked about all
others but those that compute the same function as one of the set. Reported: Kendall's tau (b), Spearman's rho, and the
regret of the best among the ten that are predicted to be best. Signals are metrics that are known of all architectures
before any is trained, costs above all. On NAS-Bench-201, 156 architectures are 1 %, for which Kendall's tau of 0.657
(GIN), 0.734 (ResGatedGCN), 0.773 (FlowerFormer) and, pre-trained, 0.836 are published.
"""

from __future__ import annotations

import dataclasses
import itertools
import shlex
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from jaxnas import command, report
from jaxnas.base import Array, Graph, Predictor
from jaxnas.benchmarks import Table, fingerprint, metric_column, named_table
from jaxnas.cache import enable_cache
from jaxnas.draw import new_figure, save_plot
from jaxnas.fit.results import clock
from jaxnas.predictors import normal_scores
from jaxnas.ranges import check_ranges
from jaxnas.runfolder import RunFolder, open_run, versions
from jaxnas.train.stop import check_stop, stop_on_signal

from .table_predictors import PREDICTORS, Known, known
from .tabular import write_table
from .tabular_pictures import COLOURS

TOP = 10
"""The regret is that of the best of so many."""
MEASURES = ("tau", "rho", "regret")


@dataclasses.dataclass(frozen=True)
class Config:
    """With the defaults, on the shipped benchmark, about two minutes."""

    table: str = "digits201"
    """A file or a name, as for experiments.tabular."""
    encoding: str | None = None
    """Of a CSV without architecture strings: its columns of option numbers, with commas."""
    metric: str | None = None
    """What is predicted; by default what experiments.tabular reports."""
    methods: str = "gnn_gp,gnn,gp,gp_paths,mlp_paths,mlp"
    """With commas, of gnn_gp, gnn, gnn_alone, gp, gp_paths, mlp_paths, mlp."""
    sizes: str = "78,156,391"
    """How many architectures are shown, with commas."""
    draws: int = 5
    signals: str | None = None
    """Metrics that gnn, gp and gnn_gp are told of every architecture, with commas; those that are positive and reach
    over a factor of ten as logarithms."""
    seed: int = 0
    workdir: str = "runs/predictor"
    cache_dir: str | None = None


def main(config: Config) -> None:
    """Runs what is not there yet, then writes table, curves and report."""
    enable_cache(config.cache_dir)
    timer = clock()
    check_ranges("", config, seed=("seed",))
    table, usual = named_table(config.table, config.encoding)
    metric = config.metric or usual.get("report")
    if metric is None:
        raise ValueError(f"{table.name} has no usual metric; name one by --metric: {', '.join(table.metrics)}")
    values = metric_column(table, metric)
    methods = list(dict.fromkeys(config.methods.split(",")))
    for name in methods:
        if name not in PREDICTORS:
            raise ValueError(f"there is no method {name!r}; there are {', '.join(PREDICTORS)}")
    sizes = _sizes(config.sizes, int((~np.isnan(values)).sum()))
    if config.draws < 1:
        raise ValueError(f"draws must be positive, got {config.draws}")
    of = known(table, None if config.signals is None else _signals(table, config.signals.split(",")))
    made = {name: PREDICTORS[name](of) for name in methods}
    settings = dataclasses.asdict(config)
    apart = {name: settings.pop(name) for name in ("table", "workdir", "cache_dir", "methods", "sizes")}
    identity = {"experiment": "predictor", "table": fingerprint(table), **settings}
    with open_run(config.workdir, identity, apart) as run, stop_on_signal() as stop:
        graphs = jax.jit(jax.vmap(of.graph))(table.archs)
        outcomes: dict[str, dict[int, Any]] = {name: {} for name in methods}
        for number, (name, size) in enumerate(itertools.product(methods, sizes)):
            stage = run.stage(f"{name}-{size}")
            if stage.result is None:

                def before_draw(number: int = number) -> None:
                    check_stop(stop, number, len(methods) * len(sizes), "point of the curves")

                stage.finish(measure(made[name], of, graphs, values, size, config, before_draw))
            outcomes[name][size] = stage.result
        _finish(run, config, table, metric, outcomes, {"total": timer()})


def _sizes(text: str, most: int) -> list[int]:
    try:
        sizes = sorted({int(size) for size in text.split(",")})
    except ValueError:
        raise ValueError(f"sizes are numbers with commas between them, got {text!r}") from None
    if not 4 <= sizes[0] <= sizes[-1] <= most // 2:
        raise ValueError(f"sizes must be at least 4 and at most half of the {most} measured rows, got {text!r}")
    return sizes


def _signals(table: Table, metrics: list[str]) -> Array:
    """[A, F]; raises ValueError where a value is missing."""
    columns = []
    for metric in metrics:
        column = metric_column(table, metric)
        if np.isnan(column).any():
            raise ValueError(f"the signal {metric!r} is missing for {int(np.isnan(column).sum())} architectures")
        wide = column.min() > 0 and column.max() > 10 * column.min()
        columns.append(np.log(column) if wide else column)
    return jnp.asarray(np.stack(columns, axis=1), jnp.float32)


def measure(
    predictor: Predictor, of: Known, graphs: Graph, values: np.ndarray, size: int, config: Config,
    before_draw: Callable[[], None] = lambda: None,
) -> dict[str, Any]:  # fmt: skip
    """All draws of one method and size: name of a measure -> one number a draw; mean seconds, without compilation."""
    fit = jax.jit(lambda key, *data: predictor.fit(key, predictor.init(jax.random.fold_in(key, 0)), *data))
    predict = jax.jit(predictor.predict)
    measured = np.flatnonzero(~np.isnan(values))
    found: dict[str, list[float]] = {name: [] for name in (*MEASURES, "fit_seconds", "predict_seconds")}
    for draw in range(config.draws):
        before_draw()
        rows = np.random.default_rng([config.seed, draw]).choice(measured, size, replace=False)
        others = measured[~np.isin(of.classes[measured], of.classes[rows])]
        weight = jnp.ones(size)
        targets = normal_scores(jnp.asarray(values[rows], jnp.float32), weight)
        train = jax.tree.map(lambda leaf, rows=rows: leaf[rows], graphs)
        timer = clock()
        state = jax.block_until_ready(
            fit(jax.random.fold_in(jax.random.key(config.seed), draw), train, targets, weight)
        )
        fit_seconds, timer = timer(), clock()
        mean = np.asarray(predict(state, graphs)[0])
        if draw or config.draws == 1:
            found["fit_seconds"].append(fit_seconds)
            found["predict_seconds"].append(timer())
        best = others[np.argsort(-mean[others], kind="stable")[:TOP]]
        found["tau"].append(float(stats.kendalltau(mean[others], values[others]).statistic))
        found["rho"].append(float(stats.spearmanr(mean[others], values[others]).statistic))
        found["regret"].append(float(values[others].max() - values[best].max()))
    if not np.isfinite(found["tau"]).all():
        raise ValueError(f"all predictions are alike after {size} architectures; show more of them")
    return found


def summary(outcomes: Mapping[str, Mapping[int, Mapping[str, list[float]]]]) -> list[dict[str, Any]]:
    """A row for each method and size, with means and standard deviations over draws."""
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


def _finish(
    run: RunFolder,
    config: Config,
    table: Table,
    metric: str,
    outcomes: dict[str, dict[int, Any]],
    timing: dict[str, float],
) -> None:
    rows = summary(outcomes)
    write_table(run.path / "table.csv", rows)
    folder = run.path / "report"
    draw_curves(rows, len(table.archs), folder / "curves.png")
    lines = [f"{row['method']} {row['size']}: {row['tau']:.3f} ± {row['tau_std']:.3f}" for row in rows]
    caption = f"Kendall's tau with {metric} of architectures not shown, mean and std of {config.draws} draws"
    caption += f", told {config.signals}" if config.signals else ""
    result = {
        "dataset": table.name,
        "seed": config.seed,
        "metric": metric,
        "description": table.descriptions.get(metric.lstrip("-").partition("@")[0], ""),
        "signals": config.signals,
        "methods": rows,
        "versions": versions(),
        "command": shlex.join(["python", "-m", "experiments.predictor", *sys.argv[1:]]),
        "timing": timing,
    }
    report.write(run.path, result, [("Learning curves", "curves.png", f"{caption}. {'; '.join(lines)}.")])
    run.finish(result)
    print(f"\n{metric} of {table.name}, {result['description']}\n")
    print(f"{'method':<11}{'shown':>6}  {'tau':^15}  {'rho':>6}  {'regret':>6}  {'fit s':>7}  {'predict s':>9}")
    for row in rows:
        print(
            f"{row['method']:<11}{row['size']:>6}  {row['tau']:.4f} ± {row['tau_std']:.4f}  {row['rho']:>6.4f}  "
            f"{row['regret']:>6.3f}  {row['fit_seconds']:>7.3f}  {row['predict_seconds']:>9.2f}"
        )
    print(f"\ntable: {run.path / 'table.csv'}\nreport: {run.path / 'report' / 'index.html'}")


def draw_curves(rows: list[dict[str, Any]], count: int, path: Any) -> None:
    """Writes a PNG of Kendall's tau against the number of architectures shown, of `count`, with a band of one std."""
    figure = new_figure(8.0, 4.6, "constrained")
    axes = figure.subplots()
    for place, name in enumerate(dict.fromkeys(row["method"] for row in rows)):
        own = [row for row in rows if row["method"] == name]
        sizes, tau, std = (np.array([row[key] for row in own]) for key in ("size", "tau", "tau_std"))
        color = COLOURS[(place + 1) % len(COLOURS)]
        axes.fill_between(sizes, tau - std, tau + std, color=color, alpha=0.15, lw=0)
        axes.plot(sizes, tau, "o-", color=color, lw=1.5, ms=4, label=name)
    shown = sorted({row["size"] for row in rows})
    axes.set_xscale("log")
    axes.set_xticks(shown, [f"{size}\n{100 * size / count:.2g} %" for size in shown])
    axes.minorticks_off()
    axes.set_xlabel("architectures shown", size=9)
    axes.set_ylabel("Kendall's tau on the others", size=9)
    axes.legend(fontsize=9, frameon=False)
    save_plot(figure, path)


if __name__ == "__main__":
    command.main(main, Config)
