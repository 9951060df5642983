"""Put finished runs side by side: what they found, how good it is, and how far runs with other seeds agree.

    python -m experiments.compare runs/darts runs/enas runs/one_shot
    python -m experiments.compare runs/seed-0 runs/seed-1 runs/seed-2 --out runs/comparison

Runs that differ only in the seed count as one method, with a mean and a standard deviation. Their agreement is the mean
share of equal choices between two of the cells that they found; the agreement of random cells is printed beside it.
Searches with other seeds mostly find other cells of about the same accuracy, so report the mean over seeds.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import tyro

from jaxnas import command
from jaxnas.files import expanded
from jaxnas.fit import comparing


@dataclasses.dataclass(frozen=True)
class Config:
    """The runs must be finished, and on one data set."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Run folders."""
    out: str | None = None
    """A folder for table.csv, table.tex for LaTeX, and report/index.html with pictures. It must be new, empty, or of an
    earlier comparison. Without this flag the table is only printed."""


def main(config: Config) -> None:
    """Prints the table, and writes it with pictures where that is asked for."""
    runs = comparing.read_runs(config.runs)
    methods = comparing.group(runs)
    print(comparing.text(runs, methods))
    if config.out is not None:
        out = expanded(config.out)
        comparing.write(out, runs, methods)
        print(f"\ntable: {out / 'table.csv'}, {out / 'table.tex'}\nreport: {out / 'report' / 'index.html'}")


if __name__ == "__main__":
    command.main(main, Config, printed=True)
