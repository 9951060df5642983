"""What the programs of all methods share: their flags, and the call of the library."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, TypeVar

import tyro

from jaxnas import fit
from jaxnas.catalog import CATALOG, Entry
from jaxnas.command import Size
from jaxnas.fit.presets import SIZES, preset
from jaxnas.loggers import LOGGERS
from jaxnas.ranges import Bound, Count, Positive, Seed, Some, SomeOrNone

Space = Annotated[str, tyro.conf.arg(metavar="{" + ",".join(CATALOG) + "}")]
Logger = Annotated[str, tyro.conf.arg(metavar="{" + ",".join(LOGGERS) + "}")]
Preset = Annotated[str, tyro.conf.arg(metavar="{" + ",".join(SIZES) + "}")]


@dataclasses.dataclass(frozen=True)
class Common:
    """The preset and the space set every default that follows."""

    space: Space = "darts"
    """What is searched."""
    preset: Preset = "tiny"
    """tiny takes minutes on two CPU cores, small searches on CIFAR-10 there, paper has the paper's settings."""
    dataset: str = "digits"
    """digits, digits201, a TFDS image-classification data set by name (cifar10), or a folder of images per class."""
    data_dir: str | None = None
    """Where TFDS data sets are."""
    label: str | None = None
    """What is learned, of a TFDS data set with several labels (cifar100 has label and coarse_label)."""
    size: Size = None
    """Images are resized to this when they are read. It is needed where they differ in size."""
    workdir: str = "runs"
    """The run folder."""
    table: str | None = None
    """Ground truth: a table over the same space, digits201 or a file, in which the found architecture is looked up."""
    metric: str | None = None
    """The metric of the table that is shown; by default the one that is usually reported of it."""
    max_params: Bound | None = None
    """The most parameters that the network which is trained in the end may have."""
    max_macs: Bound | None = None
    """The most multiply-adds that this network may need for one image."""
    max_latency_ms: Positive | None = None
    """The longest time of this network for a batch on this device. Each option is timed. The time of a network is
    estimated as the sum over its options, and the sum is fitted to two whole networks, which are timed as well."""
    latency_batch: Count = 32
    """Images of the batch whose time is limited."""
    latency_table: str | None = None
    """A file with the columns choice, option and milliseconds, of the device where the network is to run. Its sums are
    limited in place of those that are measured here (docs/own_table.md)."""
    random_baselines: SomeOrNone = 1
    """How many random architectures, within the budget, are trained beside the found one."""
    hand_designed: bool = True
    """Trains networks that people designed beside the found one: a small one of many tutorials, and a ResNet (over the
    chain a MobileNetV2, too) of as many multiply-adds."""
    dtype: fit.settings.Dtype = "float32"
    """The type of activations, in the search and in the trainings. bfloat16 is for accelerators, and halves the memory
    of activations. Parameters, statistics and losses stay float32."""
    seed: Seed = 0
    """The seed of everything that is random."""
    seeds: Some = 1
    """Searches this many seeds at once, from `seed` on, trains what each found, and keeps the best by validation."""
    train: fit.Training = fit.Training()
    devices: fit.Devices = fit.Devices()
    logger: tuple[Logger, ...] = ()
    """Where metrics and the result go too, into the run folder: tensorboard, wandb (WANDB_MODE=offline stays off the
    network), mlflow (to the server of MLFLOW_TRACKING_URI where that is set)."""
    cache_dir: str | None = None
    """Where compiled programs are kept between runs; the user's cache folder by default."""


Config = TypeVar("Config", bound=Common)


def defaults(config: type[Config], method: str, space: str) -> Callable[[Callable[[str], str]], Config]:
    """Makes the defaults of a program from the flags --space and --preset, where these are given."""

    def made(flag: Callable[[str], str]) -> Config:
        # What is neither is left to `travel`, which says so.
        chosen = flag("--space") if flag("--space") in CATALOG else space
        size = flag("--preset") if flag("--preset") in SIZES else SIZES[0]
        found = preset(method, chosen, size)  # type: ignore[arg-type]
        search = {"search": found.method} if hasattr(config, "search") else {}
        # A table is of the networks on one data set.
        table = found.table if flag("--dataset") in ("", found.dataset) else None
        return config(
            space=chosen, preset=size, dataset=found.dataset, random_baselines=found.random_baselines,
            table=table, train=found.training, workdir=f"runs/{method}", **search,
        )  # fmt: skip

    return made


def travel(config: Common, method: fit.Method, entry: Entry | None = None) -> None:
    """Runs the whole road with a method and the settings of a config, or goes on with it.

    entry: of the space, where it is another than that of its name.
    """
    if config.preset not in SIZES:
        raise ValueError(f"there is no preset {config.preset!r}: --preset is one of {', '.join(SIZES)}")
    fit.run(
        method, entry or config.space, config.dataset, config.train,
        folder=config.workdir, devices=config.devices, loggers=config.logger, cache_dir=config.cache_dir,
        data_dir=config.data_dir, size=config.size, label=config.label, seed=config.seed, seeds=config.seeds,
        table=config.table, metric=config.metric, random_baselines=config.random_baselines,
        hand_designed=config.hand_designed, dtype=config.dtype,
        limits=fit.Limits(
            config.max_params, config.max_macs, config.max_latency_ms, config.latency_batch, config.latency_table
        ),
    )  # fmt: skip
