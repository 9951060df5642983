"""Zero-cost proxies: scores of untrained networks for a space or a sample, and their rank correlation with a table.

    python -m experiments.proxies                                          500 cells of NAS-Bench-201: scores and ranks
    python -m experiments.proxies --table digits201 --dataset digits201    beside what was measured
    python -m experiments.proxies --table nb201.csv --metric c10_test@200 --dataset cifar10 --data-dir DIR --size 16
    python -m experiments.proxies --space darts --sample 100               any space of the catalog
    python -m experiments.predictor --scores runs/proxies --signals zico,vkdnw
    python -m experiments.tabular --scores runs/proxies --search-metric vkdnw_agg

All architectures are paths of one supernet with random parameters, and one compiled program makes all scores.
Architectures that compute the same function are scored once. For NAS-Bench-201 there are two values of Kendall's tau:
over all 15,625 cells, and over the 9,445 cells in which every operation lies on a way from the input to the output.
Published values are of the second kind (Tybl & Neumann 2025, table 1, CIFAR-10): FLOPs .623, layers .626, SynFlow .561,
Jacov .616, NASWOT .571, ZiCo .607, AZ-NAS .712, VKDNW with its aggregate .750. The same command on the same --workdir
goes on where it stopped.
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
    """With the defaults it takes two minutes on two busy CPU cores, most of it to compile."""

    space: str = "nasbench201"
    """The space of the architectures."""
    table: str | None = None
    """A table of measured architectures of the same space: digits201 or a file."""
    encoding: str | None = None
    """For a CSV without architecture strings: its columns that hold the numbers of options, with commas."""
    metric: str | None = None
    """The metric that scores are compared with; by default the report metric of experiments.tabular."""
    proxies: str = ",".join((*COSTS, *(name for name in PROXIES if name != "grasp"), *AGGREGATES))
    """Names with commas. grasp takes second derivatives, which need long to compile."""
    sample: Natural = 0
    """How many random architectures are scored. 0 takes every row of the table, or 500 where there is no table."""
    dataset: str = "digits"
    """The data set of the one batch that is used: digits, digits201, a TFDS data set by name, or a folder with one
    folder of images for each class."""
    data_dir: str | None = None
    """Where TFDS data sets are."""
    size: Size = None
    """Images are resized to this."""
    batch_size: Count = 32
    channels: Width = 8
    cells: Depth | None = None
    """Cells of the network, counted as in a search; by default a small number, such as one a stage for
    NAS-Bench-201."""
    seed: Seed = 0
    """The seed of the parameters, the batch and the sample."""
    workdir: str = "runs/proxies"
    """The run folder."""
    cache_dir: str | None = None
    """Where compiled programs are kept between runs; the user's cache folder by default."""


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
