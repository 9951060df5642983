"""Train a genotype from scratch beside the hand-designed network, test it, draw it, report.

    python -m experiments.retrain --genotype DARTS_V2 --dataset cifar10 --data-dir DIR
    python -m experiments.retrain --genotype runs/darts/genotype.json

The paper's settings (--preset paper) give DARTS_V2 2.76 ± 0.09 % test error on CIFAR-10 (Liu et al. 2019, table 1).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import jax

from experiments.darts import PRESETS as SEARCHES
from experiments.evaluation import (
    Training,
    check,
    clock,
    finish,
    held_run,
    load_data,
    random_archs,
    told_finished,
    train_all,
)
from jaxnas import command, data
from jaxnas.cache import enable_cache
from jaxnas.files import read_json, write_json
from jaxnas.fit.devices import Devices, join
from jaxnas.parallel import is_first_process
from jaxnas.ranges import check_ranges
from jaxnas.spaces import darts_space


@dataclasses.dataclass(frozen=True)
class Config:
    """The preset sets every default that follows."""

    genotype: str
    """A published name (DARTS_V2), a genotype.json, or the text of a Genotype(…)."""
    preset: Literal["tiny", "small", "paper"] = "tiny"
    dataset: str = "digits"
    data_dir: str | None = None
    size: command.Size = None
    """Images of the data set are resized to this when they are read, which is needed where they differ in size."""
    workdir: str = "runs/retrain"
    random_baselines: int = 0
    seed: int = 0
    train: Training = Training(epochs=600, batch_size=96, channels=36, cells=20)
    devices: Devices = Devices()
    tensorboard: bool = False
    cache_dir: str | None = None


def main(config: Config) -> None:
    """Trains, or goes on with it."""
    enable_cache(config.cache_dir)
    join(config.devices)
    timer = clock()
    space = darts_space()
    path = Path(config.genotype)
    if config.genotype.endswith(".json") and not path.is_file():
        raise OSError(f"there is no file {path}: give the genotype.json of a run, or a published name (DARTS_V2)")
    check_ranges("", config, seed=("seed",))
    arch = space.from_genotype(read_json(path) if config.genotype.endswith(".json") else config.genotype)
    dataset = load_data(config)
    check(config.train, dataset, space, config.seed, config.random_baselines, config.devices)
    runtime = ("workdir", "dataset", "data_dir", "devices", "tensorboard", "cache_dir")
    genotype = space.to_genotype(arch)  # a name, a file and a text of one architecture are one run
    with held_run("retrain", config, runtime, genotype=genotype, data=data.fingerprint(dataset)) as (run, stop):
        if told_finished(run):
            return
        write_json(run.path / "genotype.json", genotype)
        train_key, random_key = jax.random.split(jax.random.key(config.seed))
        archs = {"found": arch, **random_archs(space, config.random_baselines, random_key)}
        figures = train_all(run, config.train, dataset, space, archs, train_key, config.seed, stop, config.devices)
        if not is_first_process():
            return
        finish(run, figures, dataset, config.seed, {"total": timer()}, [])


PRESETS = {
    name: Config(genotype="DARTS_V2", preset=search.preset, dataset=search.dataset, train=search.train)
    for name, search in SEARCHES.items()
}

if __name__ == "__main__":
    command.main(main, Config, presets=PRESETS)
