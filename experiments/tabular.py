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
defaults take a minute. Samplers of one's own: `jaxnas.tabular.compare`, docs/data.md.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys

from jaxnas import command
from jaxnas.benchmarks import chosen_metric, named_table
from jaxnas.cache import enable_cache
from jaxnas.ranges import check_ranges
from jaxnas.tabular import MethodSettings, make_front_setting, make_plan, make_setting, run_comparison, with_scores


@dataclasses.dataclass(frozen=True)
class Config(MethodSettings):
    """What is compared on which table; how methods are set is in `MethodSettings`."""

    table: str = "digits201"
    encoding: str | None = None
    """Of a CSV without architecture strings: its columns of option numbers, with commas."""
    scores: str | None = None
    """A run folder of experiments.proxies: its scores are metrics of the table."""
    methods: str = "random,evolution,local,reinforce"
    """Of random, evolution, local, annealing, reinforce, enas, predictor, and where metrics have fidelities halving,
    hyperband."""
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
    seed: int = 0
    workdir: str = "runs/tabular"
    cache_dir: str | None = None


def main(config: Config) -> None:
    """Runs what is not there yet, then writes table, curves and report."""
    enable_cache(config.cache_dir)
    check_ranges("", config, seed=("seed",))
    table, usual = named_table(config.table, config.encoding)
    table = table if config.scores is None else with_scores(table, config.scores)
    setting = make_setting(
        table,
        search=chosen_metric(table, config.search_metric, usual.get("search"), "--search-metric"),
        report=chosen_metric(table, config.report_metric, usual.get("report"), "--report-metric"),
        evaluations=config.evaluations,
        time=config.time_metric or usual.get("time"),
        time_budget=config.time_budget,
    )
    run_comparison(
        config.workdir,
        setting,
        {name: make_plan(name, setting, config) for name in config.methods.split(",")},
        seeds=config.seeds,
        seed=config.seed,
        front=None if config.front_metrics is None else make_front_setting(table, config.front_metrics.split(",")),
        settings=config.settings(),
        runtime={
            name: getattr(config, name) for name in ("table", "encoding", "scores", "methods", "workdir", "cache_dir")
        },
        command=shlex.join(["python", "-m", "experiments.tabular", *sys.argv[1:]]),
    )


if __name__ == "__main__":
    command.main(main, Config)
