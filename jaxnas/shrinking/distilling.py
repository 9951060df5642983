"""Training of a network by labels and by the outputs of a trained model (Hinton et al. 2015, arXiv 1503.02531)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from jaxnas import data
from jaxnas.base import Array, Batch, Context, Key, Network, Objective, PyTree, Stats
from jaxnas.data import Dataset
from jaxnas.fit.problem import Stop
from jaxnas.runfolder import Stage
from jaxnas.shrinking.distances import Divergence
from jaxnas.shrinking.settings import Distillation, Fitting
from jaxnas.train.chunk import make_chunk
from jaxnas.train.loop import PhaseSteps
from jaxnas.train.loop import run as run_loop
from jaxnas.train.trainer import Evaluation, make_evaluate, make_trainer

_EVALUATED = 256
"""Examples of a batch that is evaluated."""


class Weights(NamedTuple):
    """What a trained network has."""

    params: PyTree
    stats: Stats


class Teacher(NamedTuple):
    """apply: (weights, inputs) -> outputs, of the trained model. The weights go along as data, not as constants."""

    apply: Callable[[Weights, Any], PyTree]
    weights: Weights
    divergence: Divergence


class Pupil:
    """A network that is trained, any number of times, by one compiled step.

    teacher: None to learn from labels alone.
    """

    def __init__(self, network: Network, dataset: Dataset, settings: Fitting, teacher: Teacher | None = None):
        self.network = network
        self.settings = settings
        self.teacher = teacher
        self.dataset = dataset
        self.examples = data.split(dataset, 0, 0.0).train
        count = data.count(self.examples)
        self.steps = count // settings.batch_size
        total = settings.epochs * self.steps
        self.init, self.step, _ = make_trainer(
            network, _adamw(settings, total), total_steps=total, objective=self._objective(), drop_path=0.0
        )
        batches = data.make_batches(count, settings.batch_size, dataset.augmentation, cutout=settings.cutout)

        def batch(key: Key, number: Array, given: tuple[Any, Weights | None]) -> Batch:
            inputs, targets = batches(key, number, given[0])
            if teacher is None:
                return Batch(inputs, targets)
            return Batch(inputs, (targets, jax.lax.stop_gradient(teacher.apply(given[1], inputs))))  # type: ignore[arg-type]

        self.chunk = make_chunk(self.step, batch)
        self.evaluated = make_evaluate(
            lambda weights, x: network.apply(weights.params, x, Context(weights.stats))[0],
            dataset.augmentation, _EVALUATED, dataset.objective,
        )  # fmt: skip

    def _objective(self) -> Objective:
        objective, teacher, settings = self.dataset.objective, self.teacher, self.settings
        if teacher is None or not isinstance(settings, Distillation):
            return objective
        share, temperature, soft = settings.labels, settings.temperature, teacher.divergence.soft

        def loss(outputs: PyTree, targets: PyTree) -> Array:
            labels, trained = targets
            by_labels = objective.loss(outputs, labels) if share else 0.0
            return share * by_labels + (1.0 - share) * soft(outputs, trained, temperature)

        return objective._replace(loss=loss, metric=lambda outputs, targets: objective.metric(outputs, targets[0]))

    def fit(
        self, start: Weights | None, key: Key, stage: Stage | None = None, stop: Stop = lambda: None
    ) -> tuple[Weights, float]:
        """The trained weights, and the seconds that it took. start: None is random parameters."""
        init_key, run_key = jax.random.split(key)
        state = self.init(init_key)
        if start is not None:
            state = state._replace(params=start.params, stats=start.stats)
        outcome = run_loop(
            [PhaseSteps("train", self.chunk, self.steps, self.settings.batch_size)], run_key, state,
            (self.examples, None if self.teacher is None else self.teacher.weights), self.settings.epochs,
            stage=stage, stop=stop,
        )  # fmt: skip
        return Weights(outcome.state.params, outcome.state.stats), outcome.seconds

    def evaluate(self, weights: Weights) -> Evaluation:
        """On the test split."""
        return self.evaluated(weights, self.dataset.test)


def _adamw(settings: Fitting, total: int) -> optax.GradientTransformation:
    rising = round(settings.warmup * total)
    rate = optax.warmup_cosine_decay_schedule(0.0, settings.learning_rate, rising, max(total, rising + 1))
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            rate, weight_decay=settings.weight_decay, mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
        ),
    )
