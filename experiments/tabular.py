"""Compare black-box searches on a tabular benchmark, many seeds at once: curves of regret, final table, report.

    python -m experiments.tabular
    python -m experiments.tabular --table nb201.csv --methods random,evolution,reinforce --evaluations 95

A benchmark is "digits201", which comes with the package (NAS-Bench-201's cells trained on noisy digits), or a file: a
CSV of NAS-Bench-201 with its column arch_str, or any table that `jaxnas.benchmarks.load_table` reads. Regret is the
best value of the report metric in the table less that of the best architecture found; a metric written "-NAME" is
better when smaller. A table may lack a part of its space: its coverage is told first, methods draw among the rows that
have what is searched, and those that cannot pay nothing for what is not there. Also told: after how many evaluations a
run met the best architecture of the search metric.
The settings are those of NAS-Bench-201 (Dong & Yang 2020), which gives, as CIFAR-10 test accuracy
after 12,000 s or about 95 evaluations: random 93.70 ± 0.36, evolution 93.92 ± 0.30, REINFORCE 93.85 ± 0.37. The
defaults take a minute.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from scipy import stats

from jaxnas import command, report
from jaxnas.base import Sampler
from jaxnas.benchmarks import (
    Table,
    fingerprint,
    measured,
    metric_column,
    named_table,
    only_rows,
    space_size,
)
from jaxnas.cache import enable_cache
from jaxnas.controllers import adam, lstm_controller
from jaxnas.controllers import reinforce as policy_gradient
from jaxnas.files import write_atomic
from jaxnas.fit.results import clock
from jaxnas.ranges import check_ranges
from jaxnas.runfolder import RunFolder, open_run, versions
from jaxnas.samplers import (
    Trace,
    controller_search,
    evaluations,
    evolution,
    halving,
    hyperband,
    local_search,
    over_seeds,
    predictor_search,
    random_search,
    reinforce,
    rungs,
    simulate,
    successive_halving,
)
from jaxnas.samplers.simulate import ASKS_A_STEP
from jaxnas.train.stop import check_stop, stop_on_signal

from . import tabular_front, tabular_pictures
from .table_predictors import PREDICTORS, known

MOST_STEPS = 100_000
MOST_PREDICTED = 500
"""Search by a predictor ends after so many evaluations, as each fit sees all earlier ones."""
QUANTILES = (0.05, 0.25, 0.75, 0.95)


@dataclasses.dataclass(frozen=True)
class Config:
    """Population, sample size and averaging are those of NAS-Bench-201's programs."""

    table: str = "digits201"
    encoding: str | None = None
    """Of a CSV without architecture strings: its columns of option numbers, with commas."""
    methods: str = "random,evolution,local,reinforce"
    """Of random, evolution, local, reinforce, enas, predictor, and where metrics have fidelities halving, hyperband."""
    seeds: int = 1000
    evaluations: int | None = None
    """By default 300, or as many as the time budget allows."""
    search_metric: str | None = None
    report_metric: str | None = None
    front_metrics: str | None = None
    """Two metrics, with a comma, such as valid,-macs: also search for their front, by NSGA-II and at random."""
    time_metric: str | None = None
    time_budget: float | None = None
    """Simulated seconds; the evaluation that would exceed them is not made."""
    population: int = 10
    sample_size: int = 3
    learning_rate: float = 0.1
    """Of Adam in REINFORCE, the best of 0.01 to 0.5 on digits201; NAS-Bench-201's program has 0.5, NATS-Bench 0.01."""
    controller_learning_rate: float = 0.02
    """Of Adam in enas, the best of 0.001 to 0.1 on digits201; NAS-Bench-201's program, whose controller it is, has
    0.001."""
    ema: float = 0.9
    eta: float = 3.0
    """Of halving and hyperband."""
    seed: int = 0
    workdir: str = "runs/tabular"
    cache_dir: str | None = None


class Plan(NamedTuple):
    """A sampler and the steps after which its budget is spent."""

    sampler: Sampler
    steps: int


def _random(table: Table, config: Config, limit: int, fidelities: int) -> Plan:
    return Plan(random_search(table.moves), limit)


def _evolution(table: Table, config: Config, limit: int, fidelities: int) -> Plan:
    sampler = evolution(table.moves, population=config.population, sample_size=config.sample_size)
    return Plan(sampler, limit)


def _local(table: Table, config: Config, limit: int, fidelities: int) -> Plan:
    return Plan(local_search(table.moves), limit)


def _reinforce(table: Table, config: Config, limit: int, fidelities: int) -> Plan:
    return Plan(reinforce(table.choices, optax.adam(config.learning_rate), ema=config.ema), limit)


def _enas(table: Table, config: Config, limit: int, fidelities: int) -> Plan:
    controller = lstm_controller(
        table.choices, hidden=32, depth=2, temperature=5.0, tanh_constant=2.5, op_tanh_reduce=1.0
    )
    policy = policy_gradient(controller, adam(config.controller_learning_rate))
    return Plan(controller_search(policy), limit)


def _predictor(table: Table, config: Config, limit: int, fidelities: int) -> Plan:
    """A Gaussian process, ten random architectures, then batches of five by expected improvement."""
    of, capacity = known(table), min(limit, MOST_PREDICTED)
    sampler = predictor_search(table.moves, PREDICTORS["gp"](of), of.graph, capacity=capacity, start=10, batch=5)
    return Plan(sampler, math.ceil(capacity / 5))


def _halving(table: Table, config: Config, limit: int, fidelities: int) -> Plan:
    """One bracket, again and again, that ends with one architecture."""
    first = math.ceil(config.eta ** (fidelities - 1) - 1e-9)
    return _repeated(table, (successive_halving(first, range(fidelities), config.eta),), limit)


def _hyperband(table: Table, config: Config, limit: int, fidelities: int) -> Plan:
    return _repeated(table, hyperband(range(fidelities), config.eta), limit)


def _repeated(table: Table, brackets: tuple[Any, ...], limit: int) -> Plan:
    rounds = math.ceil(limit / sum(evaluations(brackets).values()))
    return Plan(halving(table.moves, brackets * rounds), rungs(brackets) * rounds)


METHODS: dict[str, Callable[[Table, Config, int, int], Plan]] = {
    "random": _random,
    "evolution": _evolution,
    "local": _local,
    "reinforce": _reinforce,
    "enas": _enas,
    "predictor": _predictor,
    "halving": _halving,
    "hyperband": _hyperband,
}
"""Name -> what makes its plan from the table, the config, a limit of evaluations and the number of fidelities."""


class Coverage(NamedTuple):
    """How many architectures the space has, how many of them the table, and how many it has with a value of all that a
    search reads."""

    space: int
    rows: int
    measured: int

    def text(self) -> str:
        return (
            f"{self.rows:,} of the {self.space:,} architectures are in the table, "
            f"{self.measured:,} ({100 * self.measured / self.space:.3g} %) with all that is searched"
        )


class Front(NamedTuple):
    """Two metrics and the rows that have both, with their values: float [A, 2], to be maximized."""

    table: Table
    metrics: list[str]
    points: np.ndarray


class Setting(NamedTuple):
    """The rows that can be found, and what of them is used.

    report: float [A], to be maximized. limit: of evaluations. fingerprint: of the whole table.
    """

    table: Table
    search: str
    report: np.ndarray
    report_name: str
    time: str | None
    fidelities: int
    limit: int
    front: Front | None
    coverage: Coverage
    fingerprint: dict[str, Any]


def prepare(config: Config) -> Setting:
    """Raises ValueError for what cannot work, before anything is compiled."""
    check_ranges(
        "", config, seed=("seed",), positive=("learning_rate", "controller_learning_rate"),
        count=("population", "sample_size"),
    )  # fmt: skip
    table, usual = named_table(config.table, config.encoding)
    known = ", ".join(table.metrics)
    search, reported = config.search_metric or usual.get("search"), config.report_metric or usual.get("report")
    if search is None:
        raise ValueError(f"{table.name} has no usual metric; name one by --search-metric: {known}")
    if reported is None:
        raise ValueError(f"{table.name} has no usual metric; name one by --report-metric: {known}")
    time = config.time_metric or usual.get("time")
    for flag, number in (
        ("seeds", config.seeds), ("evaluations", config.evaluations), ("time_budget", config.time_budget)
    ):  # fmt: skip
        if number is not None and not number > 0:
            raise ValueError(f"{flag} must be positive, got {number}")
    for method in config.methods.split(","):
        if method not in METHODS:
            raise ValueError(f"there is no method {method!r}; there are {', '.join(METHODS)}")
    fidelities = 1 if "@" in search else len(table.fidelities.get(search.removeprefix("-"), ("",)))
    for metric in (search, reported, *(() if time is None else (time,))):
        metric_column(table, metric)
    front = None if config.front_metrics is None else _front(table, config.front_metrics)
    read = (search,) if time is None else (search, time)
    there = measured(table, read)
    whole = fingerprint(table)
    coverage = Coverage(space_size(table.choices), len(table.archs), len(there))
    if not len(there):
        raise ValueError(f"no architecture of {table.name} has a value of {' and '.join(map(repr, read))}")
    table = only_rows(table, there)
    column = metric_column(table, reported)
    lacking = int(np.isnan(column).sum())
    if lacking:
        raise ValueError(f"{lacking} architectures that can be found by {search!r} have no {reported!r} to be reported")
    limit = config.evaluations or 300
    if config.time_budget is not None:
        if time is None:
            raise ValueError(f"a time budget needs --time-metric; {table.name} has {known}")
        name, _, label = time.partition("@")
        costs = np.asarray(table.metrics[name]) if not label else metric_column(table, time)
        cheapest = float(np.nanmin(costs))
        if not cheapest > 0:
            raise ValueError(f"times must be positive; the least of {time!r} is {cheapest}")
        if config.time_budget < cheapest:
            raise ValueError(
                f"time_budget {config.time_budget} is less than the cheapest architecture's {cheapest:.4g}; give more"
            )
        affordable = math.floor(config.time_budget / cheapest)
        limit = min(affordable, config.evaluations or affordable)
    if limit > MOST_STEPS:
        raise ValueError(f"{limit} evaluations are more than {MOST_STEPS}; give a smaller --evaluations")
    return Setting(table, search, column, reported, time, fidelities, limit, front, coverage, whole)


def make_plan(name: str, setting: Setting, config: Config) -> Plan:
    """Raises ValueError for settings that the method cannot have."""
    if name in ("halving", "hyperband") and setting.fidelities < 2:
        raise ValueError(f"{name} needs a search metric with several fidelities; {setting.search!r} has one")
    return METHODS[name](setting.table, config, setting.limit, setting.fidelities)


def run_method(name: str, plan: Plan, setting: Setting, config: Config) -> dict[str, Any]:
    """All seeds of one method: final values, and curves on a grid, as JSON."""
    search = simulate(
        plan.sampler,
        setting.table,
        setting.search,
        steps=plan.steps,
        evaluations=setting.limit,
        time=setting.time,
        budget=config.time_budget,
    )
    _, trace = over_seeds(search)(jax.random.split(jax.random.key(config.seed), config.seeds))
    trace = jax.device_get(trace)
    best = np.where(trace.best < 0, np.nan, setting.report[trace.best])
    searched = metric_column(setting.table, setting.search)
    if np.isnan(best[:, -1]).any():
        remedy = "allow more evaluations or time"
        if config.time_budget is None:
            remedy = f"{setting.coverage.text()}, too few for this method: leave it out of --methods"
        raise ValueError(
            f"{name} could evaluate nothing in {int(np.isnan(best[:, -1]).sum())} of {config.seeds} runs; {remedy}"
        )
    regret = float(np.nanmax(setting.report)) - best
    count_grid = np.unique(np.linspace(1, setting.limit, 200).astype(int))
    curves = {"evaluations": _curve(np.asarray(trace.evaluations), regret, count_grid)}
    if setting.time is not None:
        end = config.time_budget or float(trace.seconds[:, -1].max())
        curves["seconds"] = _curve(np.asarray(trace.seconds), regret, np.linspace(0, end, 201)[1:])
    return {
        "final": best[:, -1].tolist(),
        "evaluations": float(trace.evaluations[:, -1].mean()),
        "fewest_evaluations": int(trace.evaluations[:, -1].min()),
        "evaluations_to_best": [None if math.isinf(n) else int(n) for n in evaluations_to_best(trace, searched)],
        "seconds": float(trace.seconds[:, -1].mean()) if setting.time is not None else None,
        "curves": curves,
    }


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


def _curve(spent: np.ndarray, regret: np.ndarray, grid: np.ndarray) -> dict[str, list[float]]:
    """Mean regret, and the 95 % interval of the mean over runs, where each of them has found something."""
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


def summary(outcomes: Mapping[str, Mapping[str, Any]], optimum: float) -> list[dict[str, Any]]:
    """The final table: a row for each method. p: Mann-Whitney, one-sided, that it is not better than random."""
    rows = []
    for name, outcome in outcomes.items():
        final = np.array(outcome["final"])
        row: dict[str, Any] = {
            "method": name,
            "runs": len(final),
            "mean": float(final.mean()),
            "std": float(final.std(ddof=1)) if len(final) > 1 else 0.0,
            "median": float(np.median(final)),
            **{f"q{round(100 * q):02d}": float(np.quantile(final, q)) for q in QUANTILES},
            "mean_regret": float(optimum - final.mean()),
            "found_optimum": float((final >= optimum).mean()),
            "evaluations": outcome["evaluations"],
            **_to_best(outcome["evaluations_to_best"]),
            "seconds": outcome["seconds"],
            "p_against_random": None,
        }
        if "random" in outcomes and name != "random":
            row["p_against_random"] = float(
                stats.mannwhitneyu(final, outcomes["random"]["final"], alternative="greater").pvalue
            )
        rows.append(row)
    return rows


def _to_best(numbers: list[int | None]) -> dict[str, float | None]:
    """Quantiles of the evaluations until the best is met, None where so many of the runs end before."""
    found = np.array([math.inf if number is None else number for number in numbers])
    quantiles = {"median": 0.5, **{f"q{round(100 * q):02d}": q for q in QUANTILES}}
    # An observed number, never a mean of two, one of which may be infinite.
    values = {name: float(np.quantile(found, q, method="inverted_cdf")) for name, q in quantiles.items()}
    told = {f"to_best_{name}": None if math.isinf(value) else value for name, value in values.items()}
    return {"met_best": float(np.isfinite(found).mean()), **told}


def main(config: Config) -> None:
    """Runs what is not there yet, then writes table, curves and report."""
    enable_cache(config.cache_dir)
    timer = clock()
    setting = prepare(config)
    settings = dataclasses.asdict(config)
    apart = {name: settings.pop(name) for name in ("table", "workdir", "cache_dir", "methods")}
    methods = list(dict.fromkeys(config.methods.split(",")))
    plans = {name: make_plan(name, setting, config) for name in methods}  # all, before any is run
    identity = {"experiment": "tabular", "table": setting.fingerprint, **settings}
    with open_run(config.workdir, identity, apart) as run, stop_on_signal() as stop:
        print(f"{setting.table.name}: {setting.coverage.text()}")
        outcomes: dict[str, Any] = {}
        timing: dict[str, float] = {}
        for number, name in enumerate(methods):
            stage = run.stage(name)
            done = stage.result
            if done is None:
                check_stop(stop, number, len(methods), "method")
                each = clock()
                done = {**run_method(name, plans[name], setting, config), "wall_seconds": each()}
                stage.finish(done)
            outcomes[name], timing[name] = done, done["wall_seconds"]
        fronts = None
        if setting.front is not None:
            stage = run.stage("front")
            if stage.result is None:
                check_stop(stop, len(methods), len(methods), "method")
                front_table, metrics, points = setting.front
                stage.finish(
                    tabular_front.search_fronts(front_table, points, metrics, setting.limit, config.seeds, config.seed)
                )
            fronts = stage.result
        _finish(run, config, setting, outcomes, fronts, {"total": timer(), **timing})


def _front(table: Table, metrics: str) -> Front:
    """The metrics at the highest fidelity where none is named. Raises ValueError where there are not two."""
    names = metrics.split(",")
    if len(names) != 2:
        raise ValueError(f"a front is of two metrics, got {metrics!r}; give as in --front-metrics valid,-macs")
    points = np.stack([metric_column(table, name) for name in names], axis=1)
    there = measured(table, names)
    if not len(there):
        raise ValueError(f"no architecture of {table.name} has both of {metrics!r}")
    return Front(only_rows(table, there), names, points[there])


def below_the_budget(setting: Setting, config: Config, outcomes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each method of which a run measured fewer rows than others may; none where time is the budget."""
    if config.time_budget is not None:
        return []
    return [
        f"{name} measured {outcome['evaluations']:.4g} rows a run and {outcome['fewest_evaluations']} in one, not "
        f"{setting.limit}: {_why_fewer(name)}"
        for name, outcome in outcomes.items()
        if outcome["fewest_evaluations"] < setting.limit
    ]


def _why_fewer(name: str) -> str:
    if name == "predictor":
        return f"after its random start it measures none twice, and at most {MOST_PREDICTED}"
    if name in ("halving", "hyperband"):
        return "a rung has as many as the rung before has different values for"
    return f"it was asked {ASKS_A_STEP} times for each and named too few that are in the table"


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes rows of the same columns as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())


def _finish(
    run: RunFolder,
    config: Config,
    setting: Setting,
    outcomes: dict[str, Any],
    fronts: dict[str, Any] | None,
    timing: dict[str, float],
) -> None:
    optimum = float(np.nanmax(setting.report))
    rows = summary(outcomes, optimum)
    folder = run.path / "report"
    write_table(run.path / "table.csv", rows)
    lines = [
        f"{row['method']}: {row['mean']:.4g} ± {row['std']:.2g}, median {row['median']:.4g}, "
        f"5 to 95 % of runs {row['q05']:.4g} to {row['q95']:.4g}"
        for row in rows
    ]
    tabular_pictures.draw_table(rows, folder / "table.png")
    pictures = [("Final values", "table.png", f"{setting.report_name} of what was found. {'; '.join(lines)}.")]
    for axis, label in (("evaluations", "evaluations"), ("seconds", "simulated seconds")):
        curves = {name: outcome["curves"][axis] for name, outcome in outcomes.items() if axis in outcome["curves"]}
        if curves:
            tabular_pictures.draw_regret(curves, label, folder / f"regret_{axis}.png")
            caption = f"Mean over {config.seeds} runs with its 95 % interval; found by {setting.search}."
            pictures.append((f"Regret of {setting.report_name} against {label}", f"regret_{axis}.png", caption))
    if fronts is not None and setting.front is not None:
        tabular_front.draw_fronts(fronts, setting.front.points, folder / "front.png")
        shares = "; ".join(f"{name} {m['mean']:.3f} ± {m['std']:.3f}" for name, m in fronts["methods"].items())
        caption = (
            f"Share of the true front's hypervolume after {setting.limit} evaluations: {shares}. Median runs shown."
        )
        pictures.append((f"Front of {' and '.join(fronts['metrics'])}", "front.png", caption))
        print(caption)
    notes = below_the_budget(setting, config, outcomes)
    metrics = {name.lstrip("-").partition("@")[0] for name in (setting.search, setting.report_name)}
    result = {
        "dataset": setting.table.name,
        "seed": config.seed,
        "search_metric": setting.search,
        "report_metric": setting.report_name,
        "time_metric": setting.time,
        "descriptions": {name: setting.table.descriptions.get(name, "") for name in sorted(metrics)},
        "coverage": setting.coverage._asdict(),
        "optimum": optimum,
        "methods": rows,
        "notes": notes,
        **({} if fronts is None else {"front": {name: fronts[name] for name in ("metrics", "methods")}}),
        "versions": versions(),
        "command": shlex.join(["python", "-m", "experiments.tabular", *sys.argv[1:]]),
        "timing": timing,
    }
    said = [("Coverage", ("architectures",), [(setting.coverage.text(),)])]
    if notes:
        said.append(("Below the budget", ("method",), [(note,) for note in notes]))
    report.write(run.path, result, pictures, said)
    run.finish(result)
    print(f"\n{setting.report_name} found by {setting.search}; the best of {setting.table.name} has {optimum:.4f}\n")
    print(tabular_pictures.text_table(rows))
    for note in notes:
        print(note)
    print(f"\ntable: {run.path / 'table.csv'}\nreport: {run.path / 'report' / 'index.html'}")


if __name__ == "__main__":
    command.main(main, Config)
