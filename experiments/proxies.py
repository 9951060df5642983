"""Zero-cost proxies: scores of untrained networks for a space or a sample, and their rank correlation with a table.

    python -m experiments.proxies                                          500 cells of NAS-Bench-201: scores and ranks
    python -m experiments.proxies --table digits201 --dataset digits201    beside what was measured
    python -m experiments.proxies --table nb201.csv --metric c10_test@200 --dataset cifar10 --data-dir DIR --size 16
    python -m experiments.proxies --space darts --sample 100               any space of the catalog
    python -m experiments.predictor --scores runs/proxies --signals zico,vkdnw
    python -m experiments.tabular --scores runs/proxies --search-metric vkdnw_agg

All architectures are paths of one supernet with random parameters, and all scores one compiled program. Architectures
that compute the same function are scored once. Of NAS-Bench-201 Kendall's tau is told over all 15,625 cells, and over
the 9,445 without an operation that is never reached, as published ones are (Tybl & Neumann 2025, table 1, CIFAR-10):
FLOPs .623, layers .626, SynFlow .561, Jacov .616, NASWOT .571, ZiCo .607, AZ-NAS .712, VKDNW with its aggregate .750.
The same command on the same --workdir goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys

import jax
import numpy as np

from jaxnas import command, data
from jaxnas.base import SearchSpace
from jaxnas.benchmarks import Table, chosen_metric, named_table
from jaxnas.cache import enable_cache
from jaxnas.catalog import entry_of
from jaxnas.command import Size
from jaxnas.proxies import AGGREGATES, COSTS, PROXIES
from jaxnas.ranges import Count, Depth, Natural, Seed, Width, check_settings
from jaxnas.tabular import make_network, run_proxies


@dataclasses.dataclass(frozen=True)
class Config:
    """With the defaults most of the time is for compiling, two minutes on two CPU cores that others use as well."""

    space: str = "nasbench201"
    table: str | None = None
    """What was measured over the same space: digits201 or a file."""
    encoding: str | None = None
    """Of a CSV without architecture strings: its columns of option numbers, with commas."""
    metric: str | None = None
    """With what scores are correlated; by default what experiments.tabular reports."""
    proxies: str = ",".join((*COSTS, *(name for name in PROXIES if name != "grasp"), *AGGREGATES))
    """With commas. grasp takes second derivatives, which compile for long."""
    sample: Natural = 0
    """How many architectures at random; 0 is every row of the table, or 500 without one."""
    dataset: str = "digits"
    """Of which one batch is read: digits, digits201, a TFDS data set by name, or a folder of images per class."""
    data_dir: str | None = None
    """Where TFDS data sets are."""
    size: Size = None
    """Images are resized to this."""
    batch_size: Count = 32
    channels: Width = 8
    cells: Depth | None = None
    """As of searches; by default the small number of the space, of NAS-Bench-201 one a stage."""
    seed: Seed = 0
    """Of the parameters, the batch and the sample."""
    workdir: str = "runs/proxies"
    cache_dir: str | None = None


def main(config: Config) -> None:
    """Scores what is not scored yet, then writes scores, correlations and report."""
    enable_cache(config.cache_dir)
    check_settings("", config, Config)
    entry = entry_of(config.space)
    dataset = data.load_dataset(config.dataset, config.data_dir, size=config.size)
    network = make_network(
        entry, dataset, config.proxies.split(","), channels=config.channels,
        cells=config.cells or entry.small_cells, batch_size=config.batch_size, seed=config.seed,
    )  # fmt: skip
    table, metric = None, None
    if config.table is not None:
        table, usual = named_table(config.table, config.encoding)
        metric = chosen_metric(table, config.metric, usual.get("report"), "--metric")
        if [choice.options for choice in table.choices] != [choice.options for choice in network.space.choices]:
            raise ValueError(f"{config.table} is no table over {config.space}: its choices are others")
    run_proxies(
        config.workdir,
        network,
        _architectures(config, network.space, table),
        data_fingerprint=data.fingerprint(dataset),
        table=table,
        metric=metric,
        runtime={name: getattr(config, name) for name in ("table", "dataset", "data_dir", "workdir", "cache_dir")},
        command=shlex.join(["python", "-m", "experiments.proxies", *sys.argv[1:]]),
    )


def _architectures(config: Config, space: SearchSpace, table: Table | None) -> np.ndarray:
    """Rows of the table or architectures of the space, int [A, D]."""
    if table is None:
        keys = jax.random.split(jax.random.key(config.seed), config.sample or 500)
        return np.unique(np.asarray(jax.jit(jax.vmap(space.sample))(keys)), axis=0)
    archs = np.asarray(table.archs)
    if config.sample in (0, len(archs)):
        return archs
    if config.sample > len(archs):
        raise ValueError(f"--sample {config.sample} is more than the {len(archs)} rows of {config.table}")
    rows = np.random.default_rng(config.seed).choice(len(archs), config.sample, replace=False)
    return archs[np.sort(rows)]


if __name__ == "__main__":
    command.main(main, Config)
