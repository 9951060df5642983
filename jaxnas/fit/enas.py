"""ENAS as a method of the road: a controller over shared weights, and the best of what it draws at the end."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import ClassVar, Literal

from jaxnas.base import Objective, SearchAlgorithm, Supernet
from jaxnas.controllers import adam, lstm_controller, ppo_policy, reinforce_policy
from jaxnas.fit.controller_pictures import draw_controller
from jaxnas.fit.problem import Found, Picture, Prepared, Problem
from jaxnas.fit.sharing import Sharing, weight_sharing
from jaxnas.objectives import CLASSIFICATION
from jaxnas.ranges import (
    Between,
    Count,
    Depth,
    Finite,
    Limit,
    NotNegative,
    Positive,
    Share,
    Some,
    Width,
    check_settings,
)
from jaxnas.runfolder import RunFolder
from jaxnas.search import enas, path_metric
from jaxnas.train import schedules


@dataclasses.dataclass(frozen=True)
class EnasController:
    """The controller and how it learns; the defaults are those of the micro search.

    >>> controller = EnasController(update="ppo", steps=50)
    >>> controller.steps * controller.samples  # architectures that are drawn in an epoch
    500
    """

    update: Literal["reinforce", "ppo"] = "reinforce"
    steps: Count = 30
    """Steps of the controller in every epoch."""
    samples: Some = 10
    """Architectures that are drawn in each step."""
    batch_size: Count = 160
    """Validation images in each step."""
    batches: Count = 1
    """The images of a step are cut into this many parts. Batch norm normalizes each part by itself."""
    learning_rate: Positive = 0.0035
    hidden: Width = 64
    """Units of the LSTM."""
    depth: Depth = 1
    """Layers of the LSTM."""
    temperature: Positive | None = None
    """The scores of options are divided by this number; None does not divide them."""
    tanh_constant: Positive = 1.1
    """A tanh limits scores to the range from minus this number to plus this number."""
    op_tanh_reduce: Positive = 2.5
    """For operations, the range of scores is divided by this number."""
    entropy_weight: NotNegative = 1e-4
    """The weight of the policy's entropy in the reward."""
    ema: Share = 0.99
    """The decay of the moving average of rewards, which is the baseline."""
    skip_target: Between = 0.4
    """In spaces with choices of skip connections, the policy is held near this probability of a skip connection."""
    skip_weight: NotNegative = 0.8
    """The weight of the policy's divergence from `skip_target`."""
    prior: Finite = 0.0
    """A constant that is added to the scores of separable convolutions."""


@dataclasses.dataclass(frozen=True)
class Enas:
    """Search by a policy over shared weights (Pham et al. 2018, https://arxiv.org/abs/1802.03268).

    The defaults are those of the micro search. Candidates are scored on the whole validation part, with the batch norm
    statistics of its batches. As many random architectures are scored in the same way. In a search with one seed, the
    best of them is a baseline.

    >>> method = Enas(epochs=30, controller=EnasController(update="ppo"))
    >>> method.controller.update, method.candidates
    ('ppo', 100)
    """

    name: ClassVar[str] = "enas"

    epochs: Count = 150
    batch_size: Count = 160
    channels: Width = 20
    cells: Depth = 8
    learning_rate: Positive = 0.05
    last_learning_rate: NotNegative = 0.0005
    period: Count = 10
    """The learning rate falls over this many epochs and starts again. Each further period is twice as long."""
    momentum: Share = 0.9
    weight_decay: NotNegative = 2e-4
    clip: Positive | None = None
    valid_part: Between = 0.1
    """The share of the training split from which the controller learns, where there is no validation split."""
    candidates: Count = 100
    """At the end, this many architectures within the budget are drawn from the policy, and as many at random."""
    limit: Limit = 0
    """The search uses at most this many images of the training split; 0 is all."""
    controller: EnasController = EnasController()

    def prepare(self, problem: Problem) -> Prepared:
        """Raises ValueError for settings that cannot work with the space, the data or the devices."""
        check_settings("search", self, type(self))
        own = self.controller
        if own.batch_size % own.batches:
            raise ValueError(
                f"search.controller.batch_size {own.batch_size} is no multiple of search.controller.batches "
                f"{own.batches}"
            )
        sharing = Sharing(
            self.epochs, self.batch_size, self.channels, self.cells, {"controller": own.batch_size},
            {"controller": own.steps}, self.valid_part, self.limit, self.candidates, own.batch_size,
            per_device=True, log_every=10,
        )  # fmt: skip
        objective = problem.dataset.objective
        return weight_sharing(
            problem, sharing, functools.partial(algorithm_of, self, objective=objective),
            functools.partial(pictures, objective.name),
        )  # fmt: skip


def algorithm_of(
    settings: Enas, supernet: Supernet, steps: int, axis_name: str | None = None, objective: Objective = CLASSIFICATION
) -> SearchAlgorithm:
    """The algorithm of the settings. steps: of an epoch. axis_name: where each device runs the step on a part."""
    own, space = settings.controller, supernet.space
    rate = schedules.warm_restarts(settings.learning_rate, settings.last_learning_rate, settings.period)
    optimizer = schedules.sgd(
        schedules.per_epoch(rate, steps),
        momentum=settings.momentum, weight_decay=settings.weight_decay, clip=settings.clip, nesterov=True,
    )  # fmt: skip
    options = {name for choice in space.choices for name in choice.options}
    controller = lstm_controller(
        space.choices,
        hidden=own.hidden,
        depth=own.depth,
        temperature=own.temperature,
        tanh_constant=own.tanh_constant,
        op_tanh_reduce=own.op_tanh_reduce,
        skip_target=own.skip_target,
        prior={name: own.prior for name in options if name.startswith("sep_conv")} if own.prior else None,
    )
    policy = {"reinforce": reinforce_policy, "ppo": ppo_policy}[own.update](
        controller,
        adam(own.learning_rate),
        ema=own.ema,
        entropy_weight=own.entropy_weight,
        skip_weight=own.skip_weight,
    )
    reward = path_metric(supernet, own.batches, axis_name, objective=objective)
    return enas(
        supernet,
        policy,
        optimizer,
        reward,
        objective=objective,
        samples=own.samples,
        candidates=settings.candidates,
        axis_name=axis_name,
    )


def pictures(metric: str, run: RunFolder, found: Mapping[str, Found], kept: str) -> list[Picture]:
    """What the controller learned, and how candidates scored by the metric."""
    seed = None if len(found) == 1 else list(found).index(kept)
    return draw_controller(run.metrics(), found[kept].told["candidates"], run.path / "report", metric, seed)
