"""Train an architecture from scratch beside the hand-designed network, test it, draw it, report.

    python -m experiments.retrain --genotype DARTS_V2 --dataset cifar10 --data-dir DIR
    python -m experiments.retrain --genotype runs/darts                a run, or its genotype.json, of any space
    python -m experiments.retrain --space nasbench201 --genotype '|nor_conv_3x3~0|+|…' --table digits201

The paper's settings (--preset paper) give DARTS_V2 2.76 ± 0.09 % test error on CIFAR-10 (Liu et al. 2019, table 1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from jaxnas import command
from jaxnas.fit.fixed import Fixed, read_genotype

from .common import Common, defaults, travel


@dataclasses.dataclass(frozen=True)
class Config(Common):
    """The preset and the space set every default that follows; a genotype in JSON says its space."""

    genotype: str = "DARTS_V2"
    """The folder of a run, a genotype.json, a published name (DARTS_V2), or the field's notation."""


def _defaults(flag: Callable[[str], str]) -> Config:
    """The defaults of the space that the genotype says, or that is given."""
    space = flag("--space") or (read_genotype(flag("--genotype"))[1] if flag("--genotype") else None) or "darts"
    found = defaults(Config, "darts", space)(flag)
    return dataclasses.replace(found, workdir="runs/retrain", random_baselines=0)


PRESETS = _defaults


def main(config: Config) -> None:
    """Trains, or goes on with it."""
    genotype, space = read_genotype(config.genotype)
    if space not in (None, config.space):
        raise ValueError(f"the genotype is one of {space}, not of --space {config.space}: leave out --space")
    travel(config, Fixed(genotype))


if __name__ == "__main__":
    command.main(main, Config, presets=PRESETS)
