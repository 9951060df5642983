"""Black-box search, the whole road: candidates are trained for some epochs, then the found network and its baselines.

    python -m experiments.black_box                                            digits, a few minutes on 2 CPU cores
    python -m experiments.black_box --search.sampler predictor                 also random, local, annealing, reinforce
    python -m experiments.black_box --dataset digits201 --table digits201      beside the ground truth
    python -m experiments.black_box --space darts --max-macs 400000            no candidate over the budget is trained
    python -m experiments.black_box --preset small --data-dir DIR              CIFAR-10, cut down for a CPU

Each candidate is trained alone: candidates share the compiled step and no weights. So their values are those of real
trainings, but a search sees dozens of architectures, not thousands. `jaxnas.fit.search` does the same for any function
of your own, on the cores of this machine or on a cluster (docs/black_box.md). The same command on the same --workdir
goes on where it stopped.
"""

from __future__ import annotations

import dataclasses

from jaxnas import command, fit

from .common import Common, defaults, travel


@dataclasses.dataclass(frozen=True)
class Config(Common):
    """The preset and the space set every default that follows."""

    search: fit.BlackBox = fit.BlackBox()


PRESETS = defaults(Config, "black_box", "nasbench201")


def main(config: Config) -> None:
    """Runs the whole road, or goes on with it."""
    travel(config, config.search)


if __name__ == "__main__":
    command.main(main, Config, presets=PRESETS)
