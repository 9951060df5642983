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
    """Which units of a width are kept first. fisher: those whose removal changes the outputs most, by the Fisher
    information on the calibration data. norm: those with the largest weights."""
    calibration: Count = 1024
    """How many examples of the training split are used to order units and to score alternatives."""
    calibration_batch: Count = 128
    """How many of these examples are computed at once."""
    candidates: Some = 8
    """How many of the best solutions of the integer program are scored as whole networks. The best one is taken."""
    baselines: bool = True
    """Whether these are trained as baselines: uniform narrowing, magnitude pruning, and the found network from random
    parameters."""
    random_baselines: SomeOrNone = 1
    """How many random architectures within each budget are trained as baselines."""
    latency_batch: Annotated[Count, UsedWith("cost", "latency_ms")] = 32
    """How many examples the batch has whose time is measured."""


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
    """The weight decay of arrays with two or more axes. Biases and norms do not decay."""
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
    """The share of the loss that compares with the labels. The rest compares with the outputs of the trained model."""
    temperature: Positive = 2.0
    """The logits of both models are divided by this number (Hinton et al. 2015). It is for classes only."""
