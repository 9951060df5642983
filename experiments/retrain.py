"""Train an architecture from scratch beside the hand-designed network, test it, draw it, report.

    python -m experiments.retrain --genotype DARTS_V2 --dataset cifar10 --data-dir DIR
    python -m experiments.retrain --genotype runs/darts                a run, or its genotype.json, of any space
    python -m experiments.retrain --genotype genotypes.py:MY_CELL      a Genotype(…) of a program or a log, by its name
    python -m experiments.retrain --genotype '|nor_conv_3x3~0|+|…' --table digits201

The paper's settings (--preset paper) give DARTS_V2 a test error of 2.76 ± 0.09 % on CIFAR-10 (Liu et al. 2019,
table 1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from jaxnas import command
from jaxnas.fit.fixed import Fixed, layers_of, read_genotype

from .common import Common, defaults, travel


@dataclasses.dataclass(frozen=True)
class Config(Common):
    """The preset and the space set every default that follows; a genotype says its space."""

    genotype: str = "DARTS_V2"
    """The folder of a run, a published name (DARTS_V2), a text such as Genotype(…), or a .py, .txt, .log or .json file
    that has such a text. Where a file has several, choose one by its name or its number, as in genotypes.py:NAME."""


def _defaults(flag: Callable[[str], str]) -> Config:
    """The defaults of the space that the genotype says, or that is given, with as many layers as the genotype has."""
    genotype, space = None, flag("--space")
    if flag("--genotype"):
        genotype, entry = read_genotype(flag("--genotype"), space)
        space = space or entry.name
    found = defaults(Config, "darts", space or "darts")(flag)
    cells = layers_of(genotype) or found.train.cells
    train = dataclasses.replace(found.train, cells=cells)
    return dataclasses.replace(found, workdir="runs/retrain", random_baselines=0, train=train)


PRESETS = _defaults


def main(config: Config) -> None:
    """Trains, or goes on with it."""
    genotype, entry = read_genotype(config.genotype, config.space)
    travel(config, Fixed(genotype), entry if config.space == entry.name else None)


if __name__ == "__main__":
    command.main(main, Config, presets=PRESETS)
