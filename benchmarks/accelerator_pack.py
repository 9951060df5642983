"""What travels to a machine without network for `benchmarks.accelerator`: training images and what a table says.

    python -m benchmarks.accelerator_pack --pack DIR --data-dir DATA [--table CSV]

`benchmarks/accelerator.sh --pack` runs this, and puts wheels beside.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from jaxnas import command
from jaxnas.benchmarks import make_table, nasbench201_table, save_table
from jaxnas.data import Augmentation, Dataset, Examples, Split, hold_out, load_dataset
from jaxnas.data.dataset import usual_augmentation
from jaxnas.data.stored import rows

IMAGES = "images.npz"
TABLE = "nasbench201.npz"
METRICS = ("c10_val", "c10_test")


@dataclasses.dataclass(frozen=True)
class Config:
    pack: Path
    """The folder to be filled."""
    data_dir: Path
    """Where TFDS has prepared CIFAR-10."""
    table: Path | None = None
    """A CSV as for `jaxnas.benchmarks.nasbench201_table`, of which the accuracies on CIFAR-10 travel."""
    count: int = 10_000
    """Of training images."""


def pack_images(dataset: Dataset, count: int, path: Path) -> None:
    """Writes some training images, stratified."""
    _, chosen = hold_out(dataset.train.targets, count, seed=0)
    images, labels = rows(dataset.train.inputs, chosen), dataset.train.targets[chosen]
    np.savez_compressed(path, images=images, labels=labels, name=np.array(dataset.name))


def read_images(path: Path) -> tuple[Split, Augmentation | None]:
    """What `pack_images` wrote, in two stratified halves for a search."""
    with np.load(path, allow_pickle=False) as stored:
        images, labels, name = stored["images"], stored["labels"], str(stored["name"])
    train, valid = hold_out(labels, len(labels) // 2, seed=0)
    halves = Split(*(Examples(images[half], labels[half]) for half in (train, valid)))
    return halves, usual_augmentation(name, images)


def pack_table(source: Path, path: Path) -> None:
    """Writes the accuracies on CIFAR-10 of all cells."""
    table = nasbench201_table(source)
    kept = [name for name in METRICS if name in table.metrics]
    made = make_table(
        table.name,
        table.choices,
        np.asarray(table.archs),
        {name: np.asarray(table.metrics[name]) for name in kept},
        {name: table.descriptions[name] for name in kept},
        {name: table.fidelities[name] for name in kept},
    )
    save_table(made, path)


def main(config: Config) -> None:
    config.pack.mkdir(parents=True, exist_ok=True)
    if config.table is not None:
        pack_table(config.table, config.pack / TABLE)
    pack_images(load_dataset("cifar10", str(config.data_dir)), config.count, config.pack / IMAGES)


if __name__ == "__main__":
    command.main(main, Config)
