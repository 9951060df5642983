"""Learning curves of predictors on a table: rank correlation with what was measured, against how much they were shown.

    python -m experiments.predictor --table nb201.csv --metric c10_test@200 --methods gnn_gp,gnn,gp,gp_paths,mlp
    python -m experiments.predictor --table nb201.csv --metric c10_test@200 --signals c10_params,c10_macs
    python -m experiments.predictor --table mine.csv --space darts --architecture genotype --metric accuracy

A draw is a random set of architectures. A method is fitted to their values, as normal scores, and asked about all
others but those that compute the same function as one of the set. Reported: Kendall's tau (b), Spearman's rho, and the
regret of the best among the ten that are predicted to be best. Signals are metrics that are known of all architectures
before any is trained, costs above all. On NAS-Bench-201, 156 architectures are 1 %, for which Kendall's tau of 0.657
(GIN), 0.734 (ResGatedGCN), 0.773 (FlowerFormer) and, pre-trained, 0.836 are published.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys

from jaxnas import command
from jaxnas.benchmarks import chosen_metric
from jaxnas.cache import enable_cache
from jaxnas.ranges import Count, check_settings, numbers
from jaxnas.tabular import GivenTable, known, make_predictor, predictor_names, run_learning_curves, usual_sizes


@dataclasses.dataclass(frozen=True)
class Config(GivenTable):
    """With the defaults, on the shipped benchmark, about two minutes."""

    metric: str | None = None
    """What is predicted; by default what experiments.tabular reports."""
    methods: str | None = None
    """With commas, of gnn_gp, gnn, gnn_alone, gp, gp_paths, mlp_paths, mlp; by default all but gnn_alone that there are
    for the table."""
    sizes: str | None = None
    """How many architectures are shown, with commas; by default 78,156,391 as far as they are half of the table."""
    draws: Count = 5
    signals: str | None = None
    """Metrics that gnn, gp and gnn_gp are told of every architecture, with commas; those that are positive and reach
    over a factor of ten as logarithms. They may have gaps."""
    workdir: str = "runs/predictor"


def main(config: Config) -> None:
    """Runs what is not there yet, then writes table, curves and report."""
    enable_cache(config.cache_dir)
    check_settings("", config, Config)
    signals = [signal.strip() for signal in config.signals.split(",")] if config.signals else []
    table, usual = config.read(config.metric, *signals)
    of = known(table, signals)
    names = [name.strip() for name in config.methods.split(",")] if config.methods else predictor_names(of)
    metric = chosen_metric(table, config.metric, usual.get("report"), "--metric")
    run_learning_curves(
        config.workdir,
        table,
        of,
        {name: make_predictor(name, of) for name in names},
        metric=metric,
        sizes=usual_sizes(table, metric) if config.sizes is None else numbers("sizes", config.sizes),
        draws=config.draws,
        seed=config.seed,
        runtime={**config.given(), "methods": config.methods, "workdir": config.workdir},
        command=shlex.join(["python", "-m", "experiments.predictor", *sys.argv[1:]]),
    )


if __name__ == "__main__":
    command.main(main, Config)
