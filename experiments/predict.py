"""Classify images with the network of a finished run.

    python -m experiments.predict --run runs/demo IMAGE.png photos/ 'more/*.jpg'
    python -m experiments.predict --run runs/demo photos/ --out classes.csv

A folder stands for all images within it, and a pattern for all files that it matches. An image that cannot be read is
named and left out. All others are classified, and the exit code is then 2.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro

import jaxnas
from jaxnas import command
from jaxnas.console import printable
from jaxnas.data import DataError, ImageForm, image_files, read_image
from jaxnas.files import check_new, expanded, write_atomic
from jaxnas.ranges import Count, check_settings
from jaxnas.saved import describe, image_form

_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Config:
    """Images are read as those that the network was trained on: upright, in its size and channels."""

    images: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Image files, folders, and patterns such as 'photos/*.png'."""
    run: str
    """The folder of a finished run."""
    top: Count = 3
    """How many of the likeliest classes are printed."""
    out: str | None = None
    """A new CSV file, for the class and all probabilities of each image."""


def main(config: Config) -> None:
    """Prints, for each image, its likeliest classes."""
    check_settings("", config, Config)
    out = None if config.out is None else expanded(config.out)
    if out is not None:
        check_new(out, "--out")
    files = image_files(config.images)
    description = describe(config.run)
    form, wrong = image_form(description), _Wrong()
    images = _readable(files, form, wrong)
    first = next(images, None)  # before the network is loaded
    if first is None:
        more = f" (and {len(wrong.told) - 1} more)" if len(wrong.told) > 1 else ""
        raise DataError(f"{wrong.told[0]}{more}")
    network = jaxnas.load(config.run)
    names = description.get("class_names") or list(map(str, range(description["skeleton"]["num_classes"])))
    classify = jax.jit(lambda params, pixels: jax.nn.softmax(network.apply(params, pixels)))
    rows: list[tuple[Path, np.ndarray]] = []
    for batch in _batches(itertools.chain([first], images)):
        pixels = np.stack([image for _, image in batch])
        if len(files) > _BATCH:  # one program for all batches, also the last
            pixels = np.concatenate([pixels, np.zeros((_BATCH - len(batch), *pixels.shape[1:]), np.uint8)])
        probabilities = np.asarray(classify(network.params, pixels))[: len(batch)]
        for (path, _), row in zip(batch, probabilities, strict=True):
            best = np.argsort(-row)[: config.top]
            told = ", ".join(f"{names[k]} {row[k]:.3f}" for k in best)
            print(printable(f"{path}: {told}"), flush=True)
            rows.append((path, row))
    if out is not None:
        write_atomic(out, _table(rows, names))
        print(f"\ntable: {printable(str(out))}")
    if wrong.told:
        wrong.tell()
        raise DataError(f"{len(wrong.told)} of {len(files)} images could not be read, the first: {wrong.told[0]}")


@dataclasses.dataclass
class _Wrong:
    """What was said of images that cannot be read."""

    told: list[str] = dataclasses.field(default_factory=list)

    def tell(self) -> None:
        for line in self.told[1:]:
            print(printable(line), file=sys.stderr)


def _readable(files: list[Path], form: ImageForm, wrong: _Wrong) -> Iterator[tuple[Path, np.ndarray]]:
    for path in files:
        try:
            image = read_image(path, form)
        except DataError as error:
            wrong.told.append(" ".join(str(error).split()))
            continue
        yield path, image


def _batches(images: Iterator[tuple[Path, np.ndarray]]) -> Iterator[list[tuple[Path, np.ndarray]]]:
    while batch := list(itertools.islice(images, _BATCH)):
        yield batch


def _table(rows: list[tuple[Path, np.ndarray]], names: list[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "class", "probability", *(f"p({name})" for name in names)])
    for path, row in rows:
        best = int(np.argmax(row))
        writer.writerow([path, names[best], f"{row[best]:.6f}", *(f"{p:.6f}" for p in row)])
    return text.getvalue()


if __name__ == "__main__":
    command.main(main, Config, printed=True)
