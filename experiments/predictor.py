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
import shlex
import sys

from jaxnas import command
from jaxnas.benchmarks import chosen_metric, named_table
from jaxnas.cache import enable_cache
from jaxnas.ranges import check_ranges, numbers
from jaxnas.tabular import known, make_predictor, run_learning_curves, with_scores


@dataclasses.dataclass(frozen=True)
class Config:
    """With the defaults, on the shipped benchmark, about two minutes."""

    table: str = "digits201"
    """A file or a name, as for experiments.tabular."""
    encoding: str | None = None
    """Of a CSV without architecture strings: its columns of option numbers, with commas."""
    scores: str | None = None
    """A run folder of experiments.proxies: its scores are metrics of the table."""
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
    check_ranges("", config, seed=("seed",))
    table, usual = named_table(config.table, config.encoding)
    table = table if config.scores is None else with_scores(table, config.scores)
    of = known(table, config.signals.split(",") if config.signals else ())
    run_learning_curves(
        config.workdir,
        table,
        of,
        {name: make_predictor(name, of) for name in config.methods.split(",")},
        metric=chosen_metric(table, config.metric, usual.get("report"), "--metric"),
        sizes=numbers("sizes", config.sizes),
        draws=config.draws,
        seed=config.seed,
        runtime={
            name: getattr(config, name) for name in ("table", "encoding", "scores", "methods", "workdir", "cache_dir")
        },
        command=shlex.join(["python", "-m", "experiments.predictor", *sys.argv[1:]]),
    )


if __name__ == "__main__":
    command.main(main, Config)
