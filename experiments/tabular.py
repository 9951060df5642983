"""Compare black-box searches on a tabular benchmark, many seeds at once: curves of regret, final table, report.

    python -m experiments.tabular
    python -m experiments.tabular --table nb201.csv --methods random,evolution,reinforce --evaluations 95
    python -m experiments.tabular --table mine.csv --space darts --architecture genotype --search-metric accuracy

A table is "digits201" or a file. "digits201" comes with the package: the cells of NAS-Bench-201, trained on noisy
digits. A file of yours is over any space of the library, or over the values that occur in its columns
(docs/own_table.md). Regret is the best value of the report metric in the table, minus the value of the best
architecture that was found. A metric written "-NAME" is better when it is smaller. A table may lack a part of its
space. Then the program first prints how large the part is that it has. Methods choose among the rows that have the
search metric. A method that cannot do so may ask for a missing row, which costs it nothing. The program also prints
after how many evaluations a run met the best architecture of the search metric.

The settings are those of NAS-Bench-201 (Dong & Yang 2020). It reports these CIFAR-10 test accuracies after 12,000 s or
about 95 evaluations: random 93.70 ± 0.36, evolution 93.92 ± 0.30, REINFORCE 93.85 ± 0.37. The defaults take a minute.
For samplers of your own see `jaxnas.tabular.compare` and docs/data.md.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys

from jaxnas import command
from jaxnas.benchmarks import chosen_metric
from jaxnas.cache import enable_cache
from jaxnas.ranges import Count, Positive, check_settings
from jaxnas.tabular import GivenTable, MethodSettings, make_front_setting, make_plan, make_setting, run_comparison


@dataclasses.dataclass(frozen=True)
class Config(MethodSettings, GivenTable):
    """What is compared on which table; how methods are set is in `MethodSettings`."""

    methods: str = "random,evolution,local,reinforce"
    """Names with commas: random, evolution, local, annealing, reinforce, enas, predictor. Where the search metric has
    several fidelities, also halving and hyperband. optuna_tpe and optuna_cma are samplers of Optuna. Their runs go one
    after another, so take 20 seeds."""
    seeds: Count = 1000
    """How many runs each method makes."""
    evaluations: Count | None = None
    """The most evaluations of a run; by default 300, or as many as the time budget allows."""
    search_metric: str | None = None
    """The metric that methods see; by default the usual one of the table, or else --report-metric."""
    report_metric: str | None = None
    """The metric by which the found architectures are judged; by default the usual one of the table, or else
    --search-metric."""
    front_metrics: str | None = None
    """Two metrics with a comma, such as valid,-macs: methods also search for the Pareto front of these two."""
    front_methods: str = "nondominated,random"
    """The methods that search for the front, with commas: nondominated (NSGA-II), random, predictor (a Gaussian process
    of each metric), optuna_tpe, optuna_nsga2."""
    time_metric: str | None = None
    """The metric that says how many seconds an evaluation takes; by default the usual one of the table."""
    time_budget: Positive | None = None
    """The simulated seconds of a run. An evaluation that would take it over this time is not made."""
    workdir: str = "runs/tabular"
    """The run folder."""


def main(config: Config) -> None:
    """Runs what is not there yet, then writes table, curves and report."""
    enable_cache(config.cache_dir)
    check_settings("", config, Config)
    front = [metric.strip() for metric in config.front_metrics.split(",")] if config.front_metrics else []
    table, usual = config.read(config.search_metric, config.report_metric, config.time_metric, *front)
    search = usual.get("search") or config.report_metric or usual.get("report")
    report = usual.get("report") or config.search_metric or usual.get("search")
    setting = make_setting(
        table,
        search=chosen_metric(table, config.search_metric, search, "--search-metric"),
        report=chosen_metric(table, config.report_metric, report, "--report-metric"),
        evaluations=config.evaluations,
        time=config.time_metric or usual.get("time"),
        time_budget=config.time_budget,
    )
    run_comparison(
        config.workdir,
        setting,
        {name: make_plan(name, setting, config) for name in map(str.strip, config.methods.split(","))},
        seeds=config.seeds,
        seed=config.seed,
        front=make_front_setting(table, front) if front else None,
        front_methods=tuple(map(str.strip, config.front_methods.split(","))),
        settings=config.settings(),
        runtime={**config.given(), "methods": config.methods, "workdir": config.workdir},
        command=shlex.join(["python", "-m", "experiments.tabular", *sys.argv[1:]]),
    )


if __name__ == "__main__":
    command.main(main, Config)
