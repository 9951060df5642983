"""How a network is trained from scratch, and what it may cost: values that programs and callers give alike."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from jaxnas.base import Skeleton
from jaxnas.data import Dataset
from jaxnas.ranges import Bound, Count, Depth, NotNegative, Positive, Share, UsedWith, Width


@dataclasses.dataclass(frozen=True)
class Training:
    """How a network is trained from scratch; `jaxnas.fit.preset` has the values of the papers.

    >>> import dataclasses
    >>> short = Training(epochs=5, channels=8)
    >>> dataclasses.replace(short, label_smoothing=0.1).epochs
    5
    """

    epochs: Count = 30
    batch_size: Count = 64
    channels: Width = 12
    cells: Depth = 3
    """How many cells the network has: in all for the DARTS space, in each stage for NAS-Bench-201's space."""
    learning_rate: Positive = 0.025
    schedule: Literal["cosine", "step", "plateau"] = "cosine"
    momentum: Share = 0.9
    nesterov: bool = False
    weight_decay: NotNegative = 3e-4
    clip: Positive = 5.0
    label_smoothing: Share = 0.0
    drop_path: Share = 0.2
    auxiliary: bool = False
    auxiliary_weight: Annotated[NotNegative, UsedWith("auxiliary")] = 0.4
    accumulate: Count = 1
    """Gradient accumulation: a batch is cut into this many parts, which are computed one after another."""
    cutout: bool = True
    hold_out: Share = 0.1
    """The share of the training split that is kept back to choose the best epoch. 0 trains on the whole split, and
    takes the last epoch."""
    share_step: bool = True
    """Whether one compiled step trains both the found and the random networks. It needs a space with a step that takes
    the architecture as data; other spaces compile each network."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the network that is trained in the end may cost; None is no limit.

    >>> Limits(macs=400_000).given
    {'macs': 400000}
    """

    params: Bound | None = None
    macs: Bound | None = None
    """Multiply-adds for one image."""
    latency_ms: Positive | None = None
    """The longest time of a batch on this device. Each option is timed. The time of a network is estimated as the sum
    over its options, and the sum is fitted to two whole networks, which are timed as well."""
    latency_batch: Count = 32
    """Images of the batch whose time is limited."""
    latency_table: str | None = None
    """A CSV of choice, option and milliseconds (`jaxnas.hardware.read_latency_table`), in place of what is measured."""

    @property
    def given(self) -> dict[str, float]:
        """The limits that there are: "params", "macs", "latency_ms" -> the most allowed."""
        every = {"params": self.params, "macs": self.macs, "latency_ms": self.latency_ms}
        return {name: limit for name, limit in every.items() if limit is not None}


def has_images(dataset: Dataset) -> bool:
    """Whether the inputs of a data set are images."""
    return dataset.augmentation is not None


def image_shape_of(dataset: Dataset) -> tuple[int, int, int]:
    """(H, W, C); (1, 1, 1) for data without images, which no network reads."""
    return dataset.image_shape if has_images(dataset) else (1, 1, 1)


Dtype = Literal["float32", "bfloat16"]
"""Of the activations of all networks of a run."""


def skeleton_of(training: Training, dataset: Dataset, dtype: Dtype = "float32") -> Skeleton:
    """The network around the cells."""
    return Skeleton(
        training.channels, training.cells, image_shape_of(dataset), dataset.num_outputs, training.auxiliary, dtype
    )


def check_accumulate(name: str, accumulate: int, batch_size: int) -> None:
    """Raises ValueError where a batch cannot be cut into so many parts."""
    if accumulate < 1 or batch_size % accumulate:
        raise ValueError(f"{name}.accumulate must be a divisor of the batch size {batch_size}, got {accumulate}")
