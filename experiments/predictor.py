"""Learning curves of predictors on a table: how well they rank architectures, against how many they have seen.

    python -m experiments.predictor --table nb201.csv --metric c10_test@200 --methods gnn_gp,gnn,gp,gp_paths,mlp
    python -m experiments.predictor --table nb201.csv --metric c10_test@200 --signals c10_params,c10_macs
    python -m experiments.predictor --table mine.csv --space darts --architecture genotype --metric accuracy

A draw is a random set of architectures. A predictor is fitted to their values, which are made into normal scores. Then
it predicts all other architectures, without those that compute the same function as one of the set. The program reports
Kendall's tau (b), Spearman's rho, and a regret: that of the best of the ten architectures with the highest predictions.
"all" is Kendall's tau with those that compute the same function left in, which is easier.
Signals are metrics that are known for every architecture before any is trained, such as costs. On NAS-Bench-201, 156
architectures are 1 %. For these the published values of Kendall's tau are 0.657 (GIN), 0.734 (ResGatedGCN), 0.773
(FlowerFormer) and 0.836 (pre-trained).
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
    """The defaults take about two minutes on the shipped benchmark."""

    metric: str | None = None
    """The metric that is predicted; by default the report metric of experiments.tabular."""
    methods: str | None = None
    """Names with commas: gnn_gp, gnn, gnn_alone, gp, gp_paths, mlp_paths, mlp. By default all that work on the table,
    without gnn_alone."""
    sizes: str | None = None
    """How many architectures a predictor sees; numbers with commas. By default 78,156,391, without those that are more
    than half of the table."""
    draws: Count = 5
    """How many random sets there are for each size."""
    signals: str | None = None
    """Metrics with commas, which gnn, gp and gnn_gp know for every architecture. A metric that is positive and ranges
    over more than a factor of ten is given as its logarithm. Values may be missing."""
    workdir: str = "runs/predictor"
    """The run folder."""


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
