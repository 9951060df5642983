"""Put all runs below a folder on one page: what each run is, how far it is, and what it found.

    python -m experiments.report runs

The page is index.html in that folder. It has a link to the page of each run, which shows the curves so far while the
run works. Call the program again to list new runs.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import tyro

from jaxnas import command
from jaxnas.fit import index


@dataclasses.dataclass(frozen=True)
class Config:
    """Runs are found at any depth below the folder."""

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
