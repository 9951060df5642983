"""The table that a person gives to a program, as a part of its config."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxnas.benchmarks import Table, named_table
from jaxnas.files import expanded
from jaxnas.ranges import Seed
from jaxnas.tabular.proxies import with_scores


@dataclasses.dataclass(frozen=True)
class GivenTable:
    """Which table, and how it is read.

    >>> table, usual = GivenTable("digits201").read()
    >>> table.name, usual["search"]
    ('digits201', 'valid')
    """

    table: str = "digits201"
    """digits201, or a file: CSV, TSV, JSON, npz, or the release of NAS-Bench-101 (docs/own_table.md)."""
    space: str | None = None
    """The space of the architectures in a file: darts, nasbench201, nasbench101, natsbench_size, enas_micro, enas_macro
    or chain."""
    architecture: str | None = None
    """The column of the file that has the architectures, in the notation of --space or as genotypes in JSON."""
    encoding: str | None = None
    """The columns of the file that have the options, one column for each choice, with commas. Or one column that has
    tuples, or strings of digits."""
    duplicates: str = "refuse"
    """What is done with several rows of one architecture. refuse: an error. mean: their mean. first: the first row.
    seeds: their mean, and also each run and the standard deviation as metrics."""
    scores: str | None = None
    """A run folder of experiments.proxies. Its scores become metrics of the table."""
    seed: Seed = 0
    """The seed of everything that is random."""
    cache_dir: str | None = None
    """Where compiled programs are kept between runs; the user's cache folder by default."""

    def read(self, *metrics: str | None) -> tuple[Table, dict[str, str]]:
        """The table and its usual metrics, as of `named_table`. metrics: what was asked for, which must be numbers.

        Raises: ValueError or OSError where there is no such table.
        """
        # A metric that was asked for may be a score.
        needed: Sequence[str] = [] if self.scores else [metric for metric in metrics if metric]
        table, usual = named_table(
            str(expanded(self.table)), self.encoding, space=self.space, architecture=self.architecture,
            duplicates=self.duplicates, needed=needed,
        )  # fmt: skip
        return (table if self.scores is None else with_scores(table, expanded(self.scores))), usual

    def given(self) -> dict[str, Any]:
        """What numbers do not depend on once the table is read, for config.json."""
        return {
            field.name: getattr(self, field.name) for field in dataclasses.fields(GivenTable) if field.name != "seed"
        }
