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
    """tiny takes minutes on two CPU cores. small searches on CIFAR-10, also on a CPU. paper has the paper's
    settings."""
    dataset: str = "digits"
    """digits, digits201, a TFDS image-classification data set by name (cifar10), or folder:PATH with one
    folder of images for each class."""
    data_dir: str | None = None
    """Where TFDS data sets are."""
    label: str | None = None
    """Which label is learned, where a TFDS data set has several (cifar100 has label and coarse_label)."""
    size: Size = None
    """Images are resized to this size when they are read. It is needed where images differ in size."""
    workdir: str = "runs"
    """The run folder."""
    table: str | None = None
    """Ground truth: a table over the same space, in which the found architecture is looked up; digits201 or a file."""
    metric: str | None = None
    """The metric of the table that is shown; by default the one that is usually reported for this table."""
    max_params: Bound | None = None
    """The most parameters that the final network may have."""
    max_macs: Bound | None = None
    """The most multiply-adds that the final network may need for one image."""
    max_latency_ms: Positive | None = None
    """The longest time that the final network may take for a batch on this device, in milliseconds. Each option is
    timed. The time of a network is estimated as a sum over its options, which is fitted to the times of two whole
    networks."""
    latency_batch: Count = 32
    """How many images the batch for --max-latency-ms has."""
    latency_table: str | None = None
    """A file of times on another device, with the columns choice, option and milliseconds. --max-latency-ms then limits
    the sum of these times, and nothing is timed here (docs/own_table.md)."""
    random_baselines: SomeOrNone = 1
    """How many random architectures within the budget are trained as baselines."""
    hand_designed: bool = True
    """Also trains networks that people designed, as baselines: a small network as in many tutorials, and a ResNet with
    as many multiply-adds as the found network. Over the chain also a MobileNetV2."""
    dtype: fit.settings.Dtype = "float32"
    """The type of activations, in the search and in every training. bfloat16 is for accelerators, and halves the memory
    of activations. Parameters, statistics and losses stay float32."""
    seed: Seed = 0
    """The seed of everything that is random."""
    seeds: Some = 1
    """How many seeds are searched at once, from `seed` on. The network of each is trained, and the best on the
    validation part is kept."""
    train: fit.Training = fit.Training()
    devices: fit.Devices = fit.Devices()
    logger: tuple[Logger, ...] = ()
    """Metrics and the result also go to these: tensorboard, wandb, mlflow. They write into the run folder. wandb uses
    the network unless WANDB_MODE=offline; mlflow writes to a server where MLFLOW_TRACKING_URI names one."""
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
