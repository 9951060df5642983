"""The settings of `experiments.one_shot`, their presets, and the parts of the data that they ask for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

from experiments.darts import SearchParts
from experiments.enas import PAPER
from experiments.evaluation import Training
from jaxnas import command, data
from jaxnas.catalog import CATALOG
from jaxnas.fit.devices import Devices
from jaxnas.ranges import SUPERNET, check_ranges


@dataclasses.dataclass(frozen=True)
class OneShot:
    """How the supernet is trained."""

    sampling: Literal["uniform", "fair", "sandwich"] = "uniform"
    """One random path a step; or as many as the largest choice has options, each option once, and one update of the
    sum: so many times as long a step; or, on the chain, the largest, the smallest and two random architectures."""
    epochs: int = 250
    batch_size: int = 128
    channels: int = 16
    cells: int = 5
    learning_rate: float = 0.05
    last_learning_rate: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 2.5e-4
    clip: float | None = 5.0
    valid_part: float = 0.5
    """The part of the training split that scores are of."""
    limit: int = 0
    """Search on at most this many images of the training split; 0 is all."""


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How architectures are scored."""

    batch_norm: Literal["batch", "recalibrated"] = "recalibrated"
    """By the statistics of each validation batch, or by those of some training batches along the same path."""
    batch_size: int = 250
    batches: int = 8
    """Training batches of the recalibration."""
    evaluations: int = 1000
    """Architectures scored by the search, and as many random ones."""
    population: int = 50
    """Of the evolution; the random start of a search guided by a predictor."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """With a benchmark of measured architectures."""

    metric: str | None = None
    """The column; by default what searches on the table see, such as a validation accuracy."""
    architectures: int = 500
    """Drawn at random from the table, scored under every policy of batch norm."""
    running_paths: int = 1000
    """Random paths, a training batch each, that the running averages are of."""


@dataclasses.dataclass(frozen=True)
class Config:
    """The preset and the space set every default that follows."""

    space: Literal["nasbench201", "darts", "enas_micro", "enas_macro", "chain"] = "nasbench201"
    preset: Literal["tiny", "small", "paper"] = "tiny"
    search: Literal["evolution", "predictor", "ilp"] = "evolution"
    """By evolution, guided by a predictor, or by an integer program over scores that add up."""
    predictor: Literal["gp", "gnn", "gnn_gp"] = "gnn_gp"
    """A Gaussian process, a graph network, or the mean of both, which are told parameters and multiply-adds: what
    guides the search by a predictor, and what ranks the next-best of an integer program before they are scored."""
    max_params: int | None = None
    max_macs: int | None = None
    max_latency_ms: float | None = None
    """Of a batch on this device: each option is timed, and a network takes their sum, fitted to two whole networks."""
    latency_batch: int = 32
    """Images in a batch whose latency is limited."""
    prune_stages: int = 0
    """How many times, at equal parts of the epochs, every choice of more than two options loses its weakest one."""
    prune_by: Literal["marginal", "predictor"] = "marginal"
    """Weakest by the mean one-shot score of scored architectures that have the option, or of predicted ones."""
    dataset: str = "digits"
    """digits, a TFDS image-classification data set by name (cifar10), or a folder of images per class."""
    data_dir: str | None = None
    """Where TFDS data sets are."""
    size: command.Size = None
    """Images of the data set are resized to this when they are read, which is needed where they differ in size."""
    workdir: str = "runs/one_shot"
    """The run folder."""
    supernet: str | None = None
    """The run folder of a finished search whose supernet is taken instead of training the same again: for another
    budget or another way to search."""
    table: str | None = None
    """A benchmark over NAS-Bench-201's cells, as for experiments.tabular: digits201 or a file."""
    random_baselines: int = 1
    """How many random architectures, within no budget, are trained beside the found one and the best of the scored."""
    seed: int = 0
    seeds: int = 1
    """Searches this many seeds at once, from `seed` on, trains what each found, and keeps the best by validation."""
    one_shot: OneShot = OneShot()
    scoring: Scoring = Scoring()
    comparison: Comparison = Comparison()
    train: Training = Training(epochs=200, batch_size=256, channels=16, cells=5)
    devices: Devices = Devices()
    tensorboard: bool = False
    """Metrics also go to the run folder's tensorboard/ (needs tensorboardX)."""
    cache_dir: str | None = None
    """Where compiled programs are kept between runs; the user's cache folder by default."""


def defaults(flag: Callable[[str], str]) -> Config:
    """The defaults of a space and a preset; "tiny" and "small" are cut down for two CPU cores.

    Sizes and the final training are those of `experiments.enas`.
    """
    # What is neither is left to the parser, which says so.
    space = flag("--space") if flag("--space") in PAPER else Config.space
    preset = flag("--preset") or Config.preset
    sizes, _, train = PAPER[space]
    one_shot = OneShot(channels=sizes.channels, cells=sizes.cells)
    if preset == "paper":
        return Config(space, preset, dataset="cifar10", random_baselines=0, one_shot=one_shot, train=train)  # type: ignore[arg-type]
    cells = CATALOG[space].small_cells
    scoring = Scoring(batch_size=120, batches=4, evaluations=60, population=20)
    train = dataclasses.replace(train, channels=12, cells=cells, learning_rate=0.05, auxiliary=False, hold_out=0.1)
    if preset == "small":
        return Config(
            space,  # type: ignore[arg-type]
            "small",
            dataset="cifar10",
            one_shot=OneShot(epochs=12, batch_size=64, channels=8, cells=cells, valid_part=0.2, limit=10_000),
            scoring=dataclasses.replace(scoring, batch_size=200),
            comparison=Comparison(architectures=100, running_paths=200),
            train=dataclasses.replace(train, epochs=2, batch_size=96, drop_path=0.0, share_step=False),
        )
    # A layer of the chain has eleven options, each of which a random path takes in one step of eleven.
    return Config(
        space,  # type: ignore[arg-type]
        random_baselines=0,
        one_shot=OneShot(
            epochs=200 if space == "chain" else 60, batch_size=64, channels=8, cells=cells, valid_part=0.3
        ),
        scoring=scoring,
        comparison=Comparison(architectures=60, running_paths=200),
        train=dataclasses.replace(train, epochs=30, batch_size=64, drop_path=0.05, cutout=False, share_step=True),
    )


def search_parts(dataset: data.Dataset, config: Config) -> SearchParts:
    """The part that the weights learn from and the part that scores are of, disjoint.

    Raises: ValueError where a batch, the limit or the part does not fit.
    """
    settings, scoring = config.one_shot, config.scoring
    if settings.limit < 0:
        raise ValueError(f"one_shot.limit must be 0 for all, or positive, got {settings.limit}")
    limits = ("max_params", "max_macs", "max_latency_ms")
    check_ranges("", config, seed=("seed",), count=("latency_batch",), positive=limits)
    check_ranges("one_shot.", settings, **SUPERNET)
    check_ranges("scoring.", scoring, count=("batches", "batch_size", "population"))
    check_ranges("comparison.", config.comparison, count=("running_paths",))
    if scoring.evaluations < 16:
        raise ValueError(f"scoring.evaluations must be at least 16, got {scoring.evaluations}")
    if not 0 <= config.prune_stages < settings.epochs:
        raise ValueError(
            f"prune_stages must be 0 to {settings.epochs - 1}, an epoch being the least between two, got "
            f"{config.prune_stages}"
        )
    if not 0 < settings.valid_part < 1:
        raise ValueError(f"one_shot.valid_part must be between 0 and 1, got {settings.valid_part}")
    train, valid = data.split(dataset, config.seed, settings.valid_part)
    if valid is None:
        raise ValueError(f"one_shot.valid_part {settings.valid_part} leaves no image to score on; choose more")
    if settings.limit:
        kept = round(settings.limit * settings.valid_part)
        valid = data.limited(valid, kept)
        train = data.limited(train, settings.limit - kept)
    if settings.batch_size > len(train.labels):
        raise ValueError(
            f"one_shot.batch_size {settings.batch_size} is larger than its part, which has {len(train.labels)} images"
        )
    if scoring.batches * scoring.batch_size > len(train.labels):
        raise ValueError(
            f"scoring.batches {scoring.batches} of {scoring.batch_size} images are more than the {len(train.labels)} "
            "that the supernet learns from"
        )
    return SearchParts(train, valid)
