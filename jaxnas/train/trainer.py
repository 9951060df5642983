"""Training and evaluation of a fixed network on any data. Shapes: B batch, S batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas.base import Arch, Array, Batch, Context, Key, Network, Objective, PyTree, Stats, Supernet
from jaxnas.data.augment import network_inputs
from jaxnas.data.dataset import Augmentation, Examples, count
from jaxnas.data.pipeline import eval_batches
from jaxnas.kernels.compiling import top_level_jit
from jaxnas.kernels.trees import norm, pmean
from jaxnas.objectives import CLASSIFICATION
from jaxnas.parallel import block, joined
from jaxnas.supernets.extracting import path_stats


class TrainState(NamedTuple):
    """step: int32 [], the steps done. arch: int32 [D] where the network takes it as data, else None."""

    params: PyTree
    stats: Stats
    opt_state: PyTree
    step: Array
    arch: Arch | None


class TrainInfo(NamedTuple):
    """Of one step, float32 []: the loss that was minimized (auxiliary head included), metric and gradient norm.

    The metric is that of the training batch under drop-path; the norm is that before clipping.
    """

    loss: Array
    metric: Array
    gradient_norm: Array


class Trainer(NamedTuple):
    """init: (key, arch) -> state; arch is None but for a `Supernet`. step: (key, state, batch) -> (state, info).

    predict: (state, inputs) -> outputs, by the running statistics and without drop-path.
    """

    init: Callable[..., TrainState]
    step: Callable[[Key, TrainState, Batch], tuple[TrainState, TrainInfo]]
    predict: Callable[[TrainState, Any], Any]


def make_trainer(
    network: Network | Supernet,
    tx: optax.GradientTransformation,
    *,
    total_steps: int,
    objective: Objective = CLASSIFICATION,
    auxiliary_weight: float = 0.4,
    drop_path: float = 0.2,
    momentum: float = 0.1,
    axis_name: str | None = None,
) -> Trainer:
    """How a network is trained from scratch; the defaults are those of DARTS (Liu et al. 2019, section 3.2).

    network: or a supernet, of which one path is trained, whose architecture is then a part of the state: one compiled
    program for any number of architectures. objective: whose loss is minimized, `classification(0.1)` for smoothed
    labels; that of an auxiliary head is added auxiliary_weight times.

    drop_path: the probability that is reached at the end. It grows with step / total_steps; the paper's program raises
    it once an epoch instead. momentum: what a batch adds to the running statistics, (1 - m) running + m batch. The
    optimizer is told the loss as `value`, for `schedules.plateau`. With `axis_name` the batch is spread over that axis:
    gradients, statistics and the info are means over it, drop-path is drawn on each device for itself.

    Raises: ValueError where a number is out of its range.
    """
    if total_steps < 1:
        raise ValueError(f"total_steps must be at least 1, got {total_steps}")
    if auxiliary_weight < 0.0:
        raise ValueError(f"auxiliary_weight must not be negative, got {auxiliary_weight}")
    if not 0.0 <= drop_path < 1.0:
        raise ValueError(f"drop_path must be in [0, 1), got {drop_path}")
    if not 0.0 < momentum <= 1.0:
        raise ValueError(f"momentum, of the running statistics, must be in (0, 1], got {momentum}")
    optimizer = optax.with_extra_args_support(tx)

    def apply(params: PyTree, arch: Arch | None, inputs: Any, context: Context) -> Any:
        if isinstance(network, Supernet):
            return network.apply_path(params, arch, inputs, context)  # type: ignore[arg-type]
        return network.apply(params, inputs, context)

    def init(key: Key, arch: Arch | None = None) -> TrainState:
        if isinstance(network, Supernet) != (arch is not None):
            raise ValueError("an architecture belongs to a Supernet, which needs one; a Network is one already")
        params, stats = (network.init(key), path_stats(network)) if isinstance(network, Supernet) else network.init(key)
        return TrainState(params, stats, optimizer.init(params), jnp.zeros((), jnp.int32), arch)

    def step(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, TrainInfo]:
        if axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        # A probability of Python's 0 leaves drop-path out of the program.
        probability = drop_path and drop_path * state.step / total_steps
        context = Context("batch", key, probability, axis_name)

        def loss(params: PyTree) -> tuple[Array, tuple[Any, Stats]]:
            outputs, aux = apply(params, state.arch, batch.inputs, context)
            value = objective.loss(outputs, batch.targets).mean()
            if aux.aux_logits is not None:
                value = value + auxiliary_weight * objective.loss(aux.aux_logits, batch.targets).mean()
            return value, (outputs, aux.stats)

        (value, (outputs, seen)), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        metric = objective.metric(outputs, batch.targets).mean()
        value, metric, gradient = pmean((value, metric, gradient), axis_name)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params, value=value)
        stats = jax.tree.map(lambda old, new: (1.0 - momentum) * old + momentum * new, state.stats, seen)
        params = optax.apply_updates(state.params, updates)
        info = TrainInfo(value, metric, norm(gradient))
        return TrainState(params, stats, opt_state, state.step + 1, state.arch), info

    def predict(state: TrainState, inputs: Any) -> Any:
        return apply(state.params, state.arch, inputs, Context(state.stats))[0]

    return Trainer(init, step, predict)


class Evaluation(NamedTuple):
    """On all `total` examples of a split, each counted once: the means of the objective's metric and loss.

    correct: the examples whose metric is 1 where the metric is a share, such as accuracy, and None where it is not.
    """

    metric: float
    loss: float
    correct: int | None
    total: int


def make_evaluate(
    predict: Callable[[Any, Any], Any],
    augmentation: Augmentation | None,
    batch_size: int,
    objective: Objective = CLASSIFICATION,
) -> Callable[[Any, Examples], Evaluation]:
    """Makes (state, data) -> Evaluation, compiled once for all splits; `predict` is that of a `Trainer`, or alike.

    augmentation: that of the data set, None where its inputs are no images. objective: that of the data set, without
    the label smoothing of a training.

    The last batch is filled up with examples that count nothing; a `predict` that normalizes by the batch would see
    them. Batches are dispatched one by one: inside a loop XLA's convolutions are slow on a CPU.

    Several processes take a part of the batches each; all of them must call it.

    Raises: ValueError where batch_size is under 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")

    @top_level_jit
    def sums(state: Any, batch: Examples, weight: Array) -> tuple[Array, Array]:
        outputs = predict(state, network_inputs(batch.inputs, augmentation))
        metric, loss = objective.metric(outputs, batch.targets), objective.loss(outputs, batch.targets)
        return jnp.sum(jnp.where(weight > 0, metric, 0.0)), jnp.sum(jnp.where(weight > 0, loss, 0.0))

    def evaluate(state: Any, data: Examples) -> Evaluation:
        total = count(data)
        chosen, weights = eval_batches(total, batch_size)
        # Splits differ in size; batches cut here do not, so that nothing is compiled again.
        own = block(len(chosen))
        summed = jax.device_get(
            [
                sums(state, jax.tree.map(lambda leaf, i=i: leaf[i], data), w)
                for i, w in zip(chosen[own], weights[own], strict=True)
            ]
        )
        every = joined(np.array(summed, np.float64).reshape(-1, 2), len(chosen))
        metric, loss = math.fsum(every[:, 0]), math.fsum(every[:, 1])
        return Evaluation(metric / total, loss / total, round(metric) if objective.share else None, total)

    return evaluate


def confidence_interval(correct: int, total: int) -> tuple[float, float]:
    """The 95 % interval of an accuracy, by Wilson's score (Wilson 1927).

    Raises: ValueError where total is under 1 or correct is not in [0, total].
    """
    if total < 1 or not 0 <= correct <= total:
        raise ValueError(f"needs 0 ≤ correct ≤ total and total ≥ 1, got {correct} of {total}")
    z2 = 1.959963984540054**2
    share = correct / total
    center = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = math.sqrt(z2 * (share * (1 - share) / total + z2 / (4 * total**2))) / (1 + z2 / total)
    return max(0.0, center - half), min(1.0, center + half)
