"""ENAS, the whole road: a controller over shared weights, then the found network and its baselines trained and tested.

    python -m experiments.enas --space enas_micro                      digits, about 3 minutes on 2 CPU cores
    python -m experiments.enas --space darts                           also nasbench201, enas_macro, chain
    python -m experiments.enas --space nasbench201 --dataset digits201 --table digits201      beside the ground truth
    python -m experiments.enas --space nasbench201 --preset small --data-dir DIR      CIFAR-10, cut down for a CPU
    python -m experiments.enas --space enas_micro --preset paper --data-dir DIR       the paper's settings, for a GPU

The paper reports 2.89 % test error on CIFAR-10 for its micro space, with cutout, and 3.87 % for its macro space (Pham
et al. 2018, table 1). Candidates are scored on the whole validation part, with the batch norm statistics of its
batches. As many random architectures are scored in the same way, and the best of them is trained as a baseline. A
search with several seeds (--seeds 8) leaves this baseline out. The same command on the same --workdir goes on where it
stopped.
"""

from __future__ import annotations

import dataclasses

from jaxnas import command, fit

from .common import Common, defaults, travel


@dataclasses.dataclass(frozen=True)
class Config(Common):
    """The preset and the space set every default that follows."""

    search: fit.Enas = fit.Enas()


PRESETS = defaults(Config, "enas", "enas_micro")


def main(config: Config) -> None:
    """Runs the whole road, or goes on with it."""
    travel(config, config.search)


if __name__ == "__main__":
    command.main(main, Config, presets=PRESETS)
