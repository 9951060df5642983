"""How a trained model is shrunk, and how networks are trained for it: values that programs and callers give alike."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from jaxnas.ranges import Count, Fraction, NotNegative, Positive, Share, Some, SomeOrNone, UsedWith

Cost = Literal["macs", "params", "latency_ms"]


@dataclasses.dataclass(frozen=True)
class Shrinking:
    """How alternatives are scored and chosen.

    >>> half = Shrinking(cost="params", budgets=(0.5,), random_baselines=0)  # one network of half the parameters
    >>> half.importance, half.budgets
    ('fisher', (0.5,))
    """

    cost: Cost = "macs"
    """What is limited: multiply-adds for one example, parameters, or milliseconds for a batch on this device."""
    budgets: tuple[Positive, ...] = (0.75, 0.5, 0.25)
    """The most that a network may cost. Up to 1 it is a share of what the trained model costs; above 1 it is a number
    of multiply-adds, parameters or milliseconds."""
    importance: Literal["fisher", "norm"] = "fisher"
    """Which units of a width come first: those whose removal changes the outputs most, by the Fisher information on the
    calibration data, or those with the largest weights."""
    calibration: Count = 1024
    """Examples of the training split by which units are ordered and alternatives are scored."""
    calibration_batch: Count = 128
    candidates: Some = 8
    """So many best solutions of the integer program are scored whole, and the best of them is taken."""
    baselines: bool = True
    """Whether uniform narrowing, magnitude pruning and the found network from random parameters are trained beside."""
    random_baselines: SomeOrNone = 1
    """How many random choices within each budget are trained beside."""
    latency_batch: Annotated[Count, UsedWith("cost", "latency_ms")] = 32
    """Examples of the batch whose time is measured."""


@dataclasses.dataclass(frozen=True)
class Fitting:
    """How a network is trained: AdamW, a warm-up, then a cosine to 0; the last state is kept.

    >>> Fitting(epochs=30, cutout=True).batch_size
    128
    """

    epochs: Count = 10
    batch_size: Count = 128
    learning_rate: Positive = 2e-3
    weight_decay: NotNegative = 0.05
    """Of arrays of two or more axes; biases and norms do not decay."""
    warmup: Share = 0.1
    """The share of all steps in which the learning rate rises."""
    cutout: bool = False


@dataclasses.dataclass(frozen=True)
class Distillation(Fitting):
    """How a small network learns from the trained model.

    >>> distillation = Distillation(epochs=5, labels=0.0)  # the outputs of the trained model alone
    >>> distillation.batch_size, distillation.temperature  # what `Fitting` has is there too
    (128, 2.0)
    """

    epochs: Count = 3
    learning_rate: Positive = 1e-3
    labels: Fraction = 0.1
    """The share of the loss that is by the labels; the rest is by the outputs of the trained model."""
    temperature: Positive = 2.0
    """By which the logits of both are divided (Hinton et al. 2015); for classes alone."""
