"""ENAS as a method of the road: a controller over shared weights, and the best of what it draws at the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Array, Key, SearchAlgorithm, Supernet
from jaxnas.controllers import adam, lstm_controller, ppo, reinforce
from jaxnas.fit import seeds
from jaxnas.fit.budget import excess, feasible_samples
from jaxnas.fit.controller_pictures import draw_controller
from jaxnas.fit.problem import Found, Picture, Prepared, Problem, Stop, search_split
from jaxnas.fit.results import clock, metrics
from jaxnas.fit.scoring import Score, with_scores
from jaxnas.fit.searching import Epochs, run_epochs
from jaxnas.ranges import SUPERNET, check_ranges
from jaxnas.runfolder import RunFolder
from jaxnas.search import EnasState, enas, path_accuracy
from jaxnas.train import schedules
from jaxnas.train.path_score import make_path_score

_ROUNDS = 50
"""How many times a policy is asked for candidates until there are enough within a budget."""


@dataclasses.dataclass(frozen=True)
class Controller:
    """The controller and how it learns; the defaults are those of the micro search."""

    update: Literal["reinforce", "ppo"] = "reinforce"
    steps: int = 30
    """In every epoch."""
    samples: int = 10
    """Architectures of a step."""
    batch_size: int = 160
    """Validation images of a step."""
    batches: int = 1
    """Into how many parts, normalized apart, they are cut."""
    learning_rate: float = 0.0035
    hidden: int = 64
    depth: int = 1
    temperature: float | None = None
    tanh_constant: float = 1.1
    op_tanh_reduce: float = 2.5
    entropy_weight: float = 1e-4
    ema: float = 0.99
    skip_target: float = 0.4
    skip_weight: float = 0.8
    prior: float = 0.0
    """Added to the scores of separable convolutions."""


@dataclasses.dataclass(frozen=True)
class Enas:
    """Search by a policy over shared weights (Pham et al. 2018, https://arxiv.org/abs/1802.03268).

    The defaults are those of the micro search. Candidates are scored on the whole validation part by the statistics of
    its batches; the best of as many random ones, scored alike, is a baseline of a search with one seed.
    """

    name: ClassVar[str] = "enas"

    epochs: int = 150
    batch_size: int = 160
    channels: int = 20
    cells: int = 8
    learning_rate: float = 0.05
    last_learning_rate: float = 0.0005
    period: int = 10
    """Epochs until the rate starts again, each time twice as many."""
    momentum: float = 0.9
    weight_decay: float = 2e-4
    clip: float | None = None
    valid_part: float = 0.1
    """The part of the training split that the controller learns from, where there is no validation split."""
    candidates: int = 100
    """Drawn from the policy at the end, and as many at random, within the budget."""
    limit: int = 0
    """Search on at most this many images of the training split; 0 is all."""
    controller: Controller = Controller()

    def prepare(self, problem: Problem) -> Prepared:
        """Raises ValueError for settings that cannot work with the space, the data or the devices."""
        own = self.controller
        check_ranges("search.", self, **SUPERNET)
        check_ranges("search.", self, count=("period", "candidates"))
        check_ranges(
            "search.controller.",
            own,
            count=("steps", "samples", "batch_size", "batches", "hidden", "depth"),
            positive=("learning_rate",),
            finite=("prior",),
        )
        sizes = {
            "train": ("search.batch_size", self.batch_size), "valid": ("search.controller.batch_size", own.batch_size)
        }  # fmt: skip
        split = search_split(problem.dataset, problem.seed, self.valid_part, self.limit, sizes, "search.")
        if own.batch_size % own.batches:
            raise ValueError(
                f"search.controller.batch_size {own.batch_size} is no multiple of search.controller.batches "
                f"{own.batches}"
            )
        seeds.check(problem, {})
        layout = seeds.layout(problem, problem.dataset.image_shape, self.batch_size, own.batch_size, side_by_side=False)
        batch_sizes = {"child": self.batch_size, "controller": own.batch_size}
        epochs = Epochs(problem.dataset, split, batch_sizes, {"controller": own.steps})
        supernet = problem.supernet(self.channels, self.cells)
        this = _Search(self, problem, supernet, epochs, layout, algorithm_of(self, supernet, epochs, layout.axis_name))
        return Prepared(
            lambda run, stop: search(this, run, stop), pictures=lambda run, found, kept: pictures(run, found, kept)
        )


def algorithm_of(settings: Enas, supernet: Supernet, epochs: Epochs, axis_name: str | None = None) -> SearchAlgorithm:
    """The algorithm of the settings. axis_name: where each device runs the step on a part."""
    own, space = settings.controller, supernet.space
    steps = len(epochs.split.train.labels) // settings.batch_size
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
    policy = {"reinforce": reinforce, "ppo": ppo}[own.update](
        controller,
        adam(own.learning_rate),
        ema=own.ema,
        entropy_weight=own.entropy_weight,
        skip_weight=own.skip_weight,
    )
    reward = path_accuracy(supernet, own.batches, axis_name)
    return enas(
        supernet, policy, optimizer, reward, samples=own.samples, candidates=settings.candidates, axis_name=axis_name
    )


class _Search(NamedTuple):
    """A search that was checked."""

    settings: Enas
    problem: Problem
    supernet: Supernet
    epochs: Epochs
    layout: seeds.Layout
    algorithm: SearchAlgorithm


def search(this: _Search, run: RunFolder, stop: Stop) -> dict[str, Found]:
    """The search stage: what each seed found, and the best of as many random candidates."""
    stage, names, problem = run.stage("search"), seeds.names(this.problem), this.problem
    done = stage.result
    if done is None:
        init_keys, run_keys, derive_keys, random_keys = seeds.search_keys(problem, 4)
        outcome = run_epochs(
            this.algorithm, this.layout.start(this.algorithm.init, init_keys), this.layout.keys(run_keys), this.epochs,
            this.settings.epochs, layout=this.layout, seeds=problem.seeds, stage=stage, stop=stop, log_every=10,
            after_epoch=_tell_truth(this),
        )  # fmt: skip
        timer = clock()
        each = [
            _best_of(this, *own, stop)
            for own in zip(seeds.states(problem, outcome.state), derive_keys, random_keys, strict=True)
        ]
        done = {"found": each, "seconds": outcome.seconds + timer()}
        stage.finish(done)
    space = this.supernet.space
    return {
        name: Found(
            space,
            space.from_genotype(own["genotype"]),
            {"candidates": own["candidates"]},
            {"best-of-random": space.from_genotype(own["random_genotype"])},
            seconds=done["seconds"],
        )
        for name, own in zip(names, done["found"], strict=True)
    }


def _tell_truth(this: _Search) -> Any:
    """After an epoch: the mean of what architectures that the policy draws then are truly worth; None without a table.

    Of one seed alone, as several have the policy's state of each.
    """
    truth, draws = this.problem.truth, 32
    if truth is None or this.problem.seeds > 1:
        return None
    draw = jax.jit(lambda key, state: _drawn(this, key, state, draws))

    def after_epoch(epoch: int, state: EnasState) -> tuple[EnasState, dict[str, Any]]:
        told = truth.now(draw(jax.random.fold_in(jax.random.key(this.problem.seed), epoch), state))
        return state, {name: float(np.mean(value)) for name, value in told.items()}

    return after_epoch


def _best_of(this: _Search, state: EnasState, derive_key: Key, random_key: Key, stop: Stop) -> dict[str, Any]:
    """The best candidate by its score, and the best of as many random ones."""
    settings, size = this.settings, this.settings.controller.batch_size
    score_paths = make_path_score(this.supernet.apply_path, this.problem.dataset.augmentation, size)
    space, valid = this.supernet.space, this.epochs.split.valid

    def select(by: Mapping[str, Score]) -> dict[str, Any]:
        scores: list[np.ndarray] = []

        def score(archs: Array) -> Array:
            scores.append(by["accuracy"](archs))
            return jnp.asarray(scores[-1])

        candidates = _candidates(this, state, derive_key)
        arch = candidates[int(np.argmax(score(candidates)))]
        drawn, _ = feasible_samples(space, this.problem.budget(space), random_key, settings.candidates)
        best = drawn[int(np.argmax(score(jnp.asarray(drawn))))]
        told = {
            "count": settings.candidates,
            "scored_on": f"{len(valid.labels)} validation images",
            "batch_norm": f"statistics of each batch of {size}",
            "best_score": float(scores[0].max()),
            "mean_score": float(scores[0].mean()),
            "best_random_score": float(scores[1].max()),
            "mean_random_score": float(scores[1].mean()),
            "scores": scores[0].tolist(),
            "random_scores": scores[1].tolist(),
        }
        return {
            "genotype": space.to_genotype(arch),
            "random_genotype": space.to_genotype(jnp.asarray(best)),
            "candidates": told,
        }

    return with_scores({"accuracy": lambda archs: score_paths(state.params, archs, valid)}, select, stop)


def _candidates(this: _Search, state: EnasState, key: Key) -> Array:
    """What the policy draws at the end, within the budget: int32 [P, D], `candidates` of them or less.

    Raises: ValueError where the policy draws nothing within the budget.
    """
    count, budget = this.settings.candidates, this.problem.budget(this.supernet.space)
    if not budget.limits:
        return _drawn(this, key, state, count)
    within = np.zeros((0, len(this.supernet.space.choices)), np.int32)
    for number in range(_ROUNDS):
        drawn = np.asarray(_drawn(this, jax.random.fold_in(key, number), state, count))
        within = np.concatenate([within, drawn[excess(budget, drawn) == 0.0]])[:count]
        if len(within) == count:
            break
    if not len(within):
        raise ValueError(
            f"the policy drew nothing within the budget in {_ROUNDS * count} draws; allow more, or search by one_shot"
        )
    return jnp.asarray(within)


def _drawn(this: _Search, key: Key, state: EnasState, count: int) -> Array:
    if this.algorithm.draw is None:
        raise ValueError("ENAS keeps the best of what its policy draws, and this algorithm has no `draw`")
    return this.algorithm.draw(key, state, count)


def pictures(run: RunFolder, found: Mapping[str, Found], kept: str) -> list[Picture]:
    """What the controller learned, and how candidates scored."""
    seed = None if len(found) == 1 else list(found).index(kept)
    return draw_controller(metrics(run), found[kept].told["candidates"], run.path / "report", seed)
