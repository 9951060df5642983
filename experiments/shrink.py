"""Shrink a trained model to budgets: score alternatives, choose by an integer program, distill, train baselines.

    python -m experiments.shrink                                              train ConvNet on digits, then shrink it
    python -m experiments.shrink --model vit --dataset cifar10 --data-dir DIR --size 16
    python -m experiments.shrink --model my_models:Net --weights net.msgpack --dataset folder:PATH --shrink.budgets 0.5
    python -m experiments.shrink --model my_models:Net --run runs/mine --shrink.cost latency_ms

A model is a flax module with choices in it, trained at its widest (docs/shrink.md). Its weights are a file of
`flax.serialization.to_bytes(variables)`, or those of the network that a run has trained; without either the model is
trained here. The same command on the same --workdir goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from typing import Any

import flax.linen as nn
import flax.serialization
import numpy as np

import jaxnas
from jaxnas import command, data
from jaxnas.choices import Searchable
from jaxnas.command import Size
from jaxnas.files import expanded
from jaxnas.ranges import Seed
from jaxnas.shrinking import Distillation, Fitting, Shrinking
from jaxnas.shrinking.trained import made_searchable

from .models import ConvNet, ViT

MODELS = {"convnet": ConvNet, "vit": ViT}


@dataclasses.dataclass(frozen=True)
class Config:
    """The defaults take some minutes on two CPU cores."""

    model: str = "convnet"
    """convnet, vit (experiments/models.py), or MODULE:NAME of a flax module with choices, or of a function that makes
    one."""
    run: str | None = None
    """The folder of a run that has trained this model at its widest."""
    weights: str | None = None
    """A file of flax.serialization.to_bytes(variables)."""
    dataset: str = "digits"
    """digits, digits201, a TFDS image-classification data set by name (cifar10), or a folder of images per class."""
    data_dir: str | None = None
    """Where TFDS data sets are."""
    size: Size = None
    """Images are resized to this when they are read."""
    workdir: str = "runs/shrink"
    """The run folder."""
    seed: Seed = 0
    shrink: Shrinking = Shrinking()
    train: Fitting = Fitting()
    """How the model is trained where neither --run nor --weights has it."""
    distill: Distillation = Distillation()
    """How every small network is trained, the found ones and the baselines."""
    cache_dir: str | None = None
    """Where compiled programs are kept between runs; the user's cache folder by default."""


def main(config: Config) -> None:
    """Shrinks the model, or goes on with it."""
    if config.run is not None and config.weights is not None:
        raise ValueError("--run and --weights are both of trained weights: give one")
    model = _model(config.model)
    dataset = data.load_dataset(config.dataset, config.data_dir, size=config.size)
    print(dataset.told(), flush=True)
    if isinstance(model, type) and issubclass(model, nn.Module):
        model = _made(model, dataset)
    own = made_searchable(model, dataset)
    weights = _weights(config, own)
    jaxnas.shrink(
        own, weights, dataset, config.shrink, config.distill, training=config.train if weights is None else None,
        seed=config.seed, folder=config.workdir, cache_dir=config.cache_dir,
    )  # fmt: skip


def _made(model: type[nn.Module], dataset: data.Dataset) -> nn.Module:
    """A module, told the number of classes where it has a field for that."""
    fields = {field.name for field in dataclasses.fields(model)}
    return model(**({"classes": dataset.num_outputs} if "classes" in fields else {}))


def _model(name: str) -> Any:
    """The model of a name, or of MODULE:NAME. Raises ValueError where there is none."""
    if name in MODELS:
        return MODELS[name]
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ValueError(f"--model is {', '.join(MODELS)} or MODULE:NAME, got {name!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--model {name}: {error}") from error


def _weights(config: Config, own: Searchable) -> Any:
    """The weights that are given; None where the model is trained here."""
    whole = own.units().whole
    if config.run is not None:
        params = jaxnas.load(config.run, model=own).params
        there = own.space.from_genotype(jaxnas.saved.describe(config.run)["genotype"])
        if not np.array_equal(np.asarray(there), np.asarray(own.space.canonical(whole))):
            raise ValueError(
                f"the network of {config.run} is {own.space.notation(there)}, not the model at its widest, which is "
                f"{own.space.notation(whole)}: train that"
            )
        return params["params"], params["stats"]
    if config.weights is None:
        return None
    if not expanded(config.weights).is_file():
        raise ValueError(f"there is no file {config.weights}: write flax.serialization.to_bytes(variables) into one")
    try:
        return flax.serialization.msgpack_restore(expanded(config.weights).read_bytes())
    except (ValueError, TypeError) as error:
        raise ValueError(f"{config.weights} is no file of flax.serialization.to_bytes(variables) ({error})") from error


if __name__ == "__main__":
    command.main(main, Config)
