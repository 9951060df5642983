"""Put all runs below a folder on one page: what each is, how far it is, and what came out.

    python -m experiments.report runs

The page, index.html in that folder, leads to the page of each run, which is there while the run works and shows its
curves so far. Run this again to list new runs.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import tyro

from jaxnas import command
from jaxnas.fit import index


@dataclasses.dataclass(frozen=True)
class Config:
    """Runs may lie at any depth."""

    folder: Annotated[str, tyro.conf.Positional] = "runs"
    """The folder that holds the runs."""


def main(config: Config) -> None:
    """Writes the page, and says what it has."""
    page, runs = index.write_runs(config.folder)
    for state in ("finished", "running", "stopped"):
        names = [run.name for run in runs if run.state == state]
        if names:
            print(f"{state}: {', '.join(names)}")
    print(f"report: {page}")


if __name__ == "__main__":
    command.main(main, Config, printed=True)
