"""DARTS, the whole road: search a cell, train the found network and its baselines, test, draw, report.

    python -m experiments.darts                                        digits, about 3 minutes on 2 CPU cores
    python -m experiments.darts --search.prune 5 3                     edges lose their weakest operations on the way
    python -m experiments.darts --search.method drnas                  a method after DARTS (docs/differentiable.md)
    python -m experiments.darts --search.derive perturbation           keep what the supernet needs most (DARTS-PT)
    python -m experiments.darts --space nasbench201 --dataset digits201 --table digits201      beside the ground truth
    python -m experiments.darts --max-macs 400000                      the heaviest cell within a budget
    python -m experiments.darts --preset small --data-dir DIR          CIFAR-10, about an hour on 2 cores
    python -m experiments.darts --preset paper --search.order second --data-dir DIR      the paper's settings, for a GPU

The paper reports 3.00 ± 0.14 % test error on CIFAR-10 with the first order, and 2.76 ± 0.09 % with the second
(Liu et al. 2019, table 1). The same command on the same --workdir goes on where it stopped.
"""

from __future__ import annotations

import dataclasses

from jaxnas import command, fit

from .common import Common, defaults, travel


@dataclasses.dataclass(frozen=True)
class Config(Common):
    """The preset and the space set every default that follows."""

    search: fit.Darts = fit.Darts()


PRESETS = defaults(Config, "darts", "darts")


def main(config: Config) -> None:
    """Runs the whole road, or goes on with it."""
    travel(config, config.search)


if __name__ == "__main__":
    command.main(main, Config, presets=PRESETS)
