"""Black-box search as a method of the road: a sampler, and every candidate trained from scratch for some epochs."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas import samplers
from jaxnas.base import Sampler, SearchSpace
from jaxnas.fit import seeds
from jaxnas.fit.black_box import search_black_box
from jaxnas.fit.budget import excess
from jaxnas.fit.devices import spread, trainings_at_once
from jaxnas.fit.problem import Found, Prepared, Problem, Stop
from jaxnas.fit.results import clock
from jaxnas.fit.select import guided
from jaxnas.fit.settings import Training, image_shape_of
from jaxnas.fit.training import Trainer, check_training
from jaxnas.fit.truth import curve
from jaxnas.parallel import at_once, first_alone
from jaxnas.ranges import Count, UsedWith, check_settings
from jaxnas.runfolder import RunFolder, Stage

Kind = Literal["random", "evolution", "local", "annealing", "reinforce", "predictor"]


@dataclasses.dataclass(frozen=True)
class BlackBox:
    """Trains every candidate for a short time, the same for all, and compares them by their validation accuracy.

    One compiled step trains all candidates, where the space has such a step (`Entry.together`) and `train.share_step`
    is true. A candidate over the budget is not trained. The sampler is told that it is worse than all candidates
    before.

    >>> method = BlackBox(sampler="random", evaluations=20)
    >>> f"{method.evaluations} trainings of {method.epochs} epochs"
    '20 trainings of 3 epochs'
    """

    name: ClassVar[str] = "black_box"

    sampler: Kind = "evolution"
    """Which search says what is trained next: random search, aging evolution, local search, simulated annealing,
    REINFORCE, or search by a predictor."""
    evaluations: Count = 30
    """How many candidates are trained."""
    epochs: Count = 3
    """Epochs of a candidate's training. Its other settings are those of the final training."""
    population: Annotated[Count, UsedWith("sampler", "evolution", "predictor")] = 10
    """The population of the evolution. For predictor: how many random candidates are trained first."""

    def prepare(self, problem: Problem) -> Prepared:
        """Raises ValueError for settings that cannot work with the space, the data or the devices."""
        check_settings("search", self, type(self))
        settings = dataclasses.asdict(self)
        return train_candidates(problem, sampler_of(self, problem), self.evaluations, self.epochs, settings)


def train_candidates(
    problem: Problem, sampler: Sampler, evaluations: int, epochs: int, settings: Mapping[str, Any]
) -> Prepared:
    """The search of a problem by a sampler whose candidates are trained, for a method's `prepare`.

    evaluations: candidates that are trained, each for `epochs` epochs. settings: those of the method, which a run that
    goes on must have again.

    Raises: ValueError for what cannot work with the space, the data or the devices.

    docs/own_method.md has an example.
    """
    seeds.check(problem, {})
    if not problem.training.hold_out:
        raise ValueError("candidates are compared by validation: train.hold_out must not be 0")
    if problem.devices.coordinator is not None:  # each would keep evaluations of its own, and resume from others
        raise ValueError("candidates are trained by one process: leave out devices.coordinator")
    if evaluations < 1:
        raise ValueError(f"search.evaluations must be at least 1, got {evaluations}")
    training = dataclasses.replace(problem.training, epochs=epochs)
    check_training(training, problem.dataset, problem.seed, problem.devices)
    this = _Search(problem, sampler, evaluations, training, dict(settings))
    return Prepared(lambda run, stop: search(this, run, stop))


class _Search(NamedTuple):
    """A search that was checked. training: of a candidate."""

    problem: Problem
    sampler: Sampler
    evaluations: int
    training: Training
    settings: dict[str, Any]

    @property
    def space(self) -> SearchSpace:
        return self.problem.space


def sampler_of(settings: BlackBox, problem: Problem) -> Sampler:
    """The sampler of the settings, over the space of a problem."""
    space, size = problem.space, max(2, min(settings.population, settings.evaluations // 2))
    make: dict[str, Callable[[], Sampler]] = {
        "random": lambda: samplers.random_search(space),
        "evolution": lambda: samplers.evolution(space, population=size, sample_size=max(2, size // 3)),
        "local": lambda: samplers.local_search(space),
        "annealing": lambda: samplers.simulated_annealing(  # accuracies are fractions
            space, temperature=0.1, cooling=0.01 ** (1 / settings.evaluations)
        ),
        "reinforce": lambda: samplers.reinforce(space.choices, optax.adam(0.1)),
        "predictor": lambda: guided(space, problem.budget(space), "gnn_gp", settings.evaluations, size),
    }
    return make[settings.sampler]()


def search(this: _Search, run: RunFolder, stop: Stop) -> dict[str, Found]:
    """The search stage: what each seed found. Candidates are kept as they come.

    A candidate that one device trains keeps no more than one core busy: there, seeds are searched at once.
    """
    problem = this.problem

    def each(stage: Stage) -> tuple[list[dict[str, Any]], float]:
        evaluate, timer = _evaluation(this), clock()
        names = seeds.names(problem)
        over = spread(problem.devices, image_shape_of(problem.dataset), this.training.batch_size)

        def one(number: int) -> dict[str, Any]:
            name = names[number]
            called = "evaluation" if len(names) == 1 else f"{name} evaluation"
            return _one(this, evaluate, stage.path / name, problem.seed + number, stop, called)

        return at_once(one, range(len(names)), min(trainings_at_once(over), len(names))), timer()

    return seeds.searched(run, problem, this.space, each)


def _evaluation(this: _Search) -> Callable[[int, np.ndarray], float]:
    """(seed, arch) -> the best validation metric of a training. The step is compiled once where the space has such."""
    problem, space = this.problem, this.space
    skeleton = problem.trained_skeleton
    together = problem.entry.together if this.training.share_step else None
    shared = None if together is None else _trainer(this, together(skeleton, space))

    def evaluate(seed: int, arch: np.ndarray) -> float:
        trainer = shared or _trainer(this, problem.entry.network(jnp.asarray(arch), skeleton, space))
        # All candidates have one key: what differs is the architecture. Signals are heeded between two of them.
        key = jax.random.key(seed)
        _, outcome = trainer.fit(jnp.asarray(arch), key, None, lambda: None, io.StringIO())
        return float("nan") if outcome.best is None else outcome.best.value

    return evaluate if shared is None else first_alone(evaluate)


def _one(
    this: _Search, evaluate: Callable[[int, np.ndarray], float], folder: Path, seed: int, stop: Stop, called: str
) -> dict[str, Any]:
    """What one seed found, in JSON's terms."""
    problem, space = this.problem, this.space
    budget = problem.budget(space)
    found = search_black_box(
        this.sampler, functools.partial(evaluate, seed), this.evaluations, space=space, seed=seed, folder=folder,
        settings=this.settings, excess=(lambda arch: float(excess(budget, arch[None])[0])) if budget.limits else None,
        stop=stop, called=called,
    )  # fmt: skip
    values = found.values[:, 0]
    best = [int(np.nanargmax(values[: n + 1])) for n in range(len(values)) if not np.isnan(values[: n + 1]).all()]
    told: dict[str, Any] = {
        **this.settings, "evaluations": len(values), "best_valid": float(np.nanmax(values)),
        "mean_valid": float(np.nanmean(values)),
    }  # fmt: skip
    if problem.truth is not None:
        told["truth_curve"] = curve(problem.truth, found.archs[best])
    return {"genotype": space.to_genotype(jnp.asarray(found.arch)), "told": {"candidates": told}}


def _trainer(this: _Search, network: Any) -> Trainer:
    return Trainer(network, this.training, this.problem.dataset, this.problem.seed, this.problem.devices)
