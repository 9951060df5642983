"""Classify images with the network of a finished run.

python -m experiments.predict --run runs/demo IMAGE.png ...
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import jax
import numpy as np
import tyro
from PIL import Image, UnidentifiedImageError

import jaxnas
from experiments import cli
from jaxnas.saved import describe


@dataclasses.dataclass(frozen=True)
class Config:
    """Images are brought to the size and the channels that the network was trained on."""

    images: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Image files."""
    run: str
    """The folder of a finished run."""


def main(config: Config) -> None:
    """Prints, for each image, its three likeliest classes."""
    if not config.images:
        raise ValueError("no image given: name at least one file")
    description = describe(config.run)
    height, width, channels = description["skeleton"]["image_shape"]
    pixels = []
    for path in config.images:
        try:
            with Image.open(path) as image:
                fitted = image.convert("L" if channels == 1 else "RGB").resize((width, height))
        except UnidentifiedImageError as error:
            raise ValueError(f"{path} is not an image that can be read") from error
        except OSError as error:  # Pillow's own do not name the file.
            raise OSError(f"cannot read {path}: {error.strerror or error}") from error
        pixels.append(np.asarray(fitted, np.uint8).reshape(height, width, channels))
    network = jaxnas.load(config.run)
    probabilities = np.asarray(jax.nn.softmax(jax.jit(network.apply)(network.params, np.stack(pixels))))
    names = description["class_names"]
    for path, row in zip(config.images, probabilities, strict=True):
        best = np.argsort(-row)[:3]
        print(f"{path}: " + ", ".join(f"{names[k]} {row[k]:.3f}" for k in best))


if __name__ == "__main__":
    cli.main(main, Config, printed=True)
