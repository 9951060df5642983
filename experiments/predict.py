"""Classify images with the network of a finished run.

python -m experiments.predict --run runs/demo IMAGE.png ...
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro

import jaxnas
from jaxnas import command
from jaxnas.data import read_image
from jaxnas.saved import describe, image_form


@dataclasses.dataclass(frozen=True)
class Config:
    """Images are read as those that the network was trained on: upright, in its size and channels."""

    images: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Image files."""
    run: str
    """The folder of a finished run."""


def main(config: Config) -> None:
    """Prints, for each image, its three likeliest classes."""
    if not config.images:
        raise ValueError("no image given: name at least one file")
    description = describe(config.run)
    form = image_form(description)
    pixels = np.stack([read_image(Path(path), form) for path in config.images])
    network = jaxnas.load(config.run)
    probabilities = np.asarray(jax.nn.softmax(jax.jit(network.apply)(network.params, pixels)))
    names = description["class_names"]
    for path, row in zip(config.images, probabilities, strict=True):
        best = np.argsort(-row)[:3]
        print(f"{path}: " + ", ".join(f"{names[k]} {row[k]:.3f}" for k in best))


if __name__ == "__main__":
    command.main(main, Config, printed=True)
