"""Black-box search as a method of the road: a sampler, and every candidate trained from scratch for some epochs."""

from __future__ import annotations

import concurrent.futures
import contextlib
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
from jaxnas.fit.truth import curve, held
from jaxnas.parallel import at_once, first_alone
from jaxnas.ranges import Count, Natural, UsedWith, check_settings
from jaxnas.runfolder import RunFolder, Stage
from jaxnas.samplers.moves import whole

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
    if evaluations < 1:
        raise ValueError(f"search.evaluations must be at least 1, got {evaluations}")
    this = _Search(problem, sampler, evaluations, _checked(problem, epochs), dict(settings))
    return Prepared(lambda run, stop: search(this, run, stop))


def _checked(problem: Problem, epochs: int, what: str = "candidates") -> Training:
    """Of candidates. Raises ValueError where it cannot work with the data or the devices."""
    if not problem.training.hold_out:
        raise ValueError(f"{what} are compared by validation: train.hold_out must not be 0")
    if problem.devices.coordinator is not None:  # each would keep evaluations of its own, and resume from others
        raise ValueError(f"{what} are trained by one process: leave out devices.coordinator")
    training = dataclasses.replace(problem.training, epochs=epochs)
    check_training(training, problem.dataset, problem.seed, problem.devices)
    return training


@dataclasses.dataclass(frozen=True)
class Finalists:
    """Architectures of the highest scores, which are trained for a short time and compared by validation.

    >>> Finalists(count=20).epochs  # `jaxnas.OneShot(finalists=Finalists(count=20))`
    3
    """

    count: Natural = 0
    """How many are trained, of all that were scored; no two of them compute the same. 0 trains none: the architecture
    of the highest score that the search found is taken."""
    epochs: Count = 3
    """Epochs of a finalist's training. Its other settings are those of the final training."""


def check_finalists(problem: Problem, finalists: Finalists) -> None:
    """Raises ValueError for finalists that cannot be trained, before anything is compiled."""
    if finalists.count:
        _checked(problem, finalists.epochs, f"the {finalists.count} of search.finalists.count")
    elif finalists.epochs != Finalists.epochs:
        raise ValueError(
            f"search.finalists.epochs {finalists.epochs} has an effect only with search.finalists.count: leave it out, "
            "or give that"
        )


TrainFinalists = Callable[[np.ndarray, int, Path, Stop, str], np.ndarray]
"""(archs int [K, D], seed, folder, stop, what one is called where progress is told) -> the validation metric of each
after a short training, float64 [K]; NaN where one failed. The folder keeps each value as it comes, and a run that was
stopped goes on with it. Raises ValueError where all failed; Stopped after a signal; OSError."""


def make_finalists(problem: Problem, finalists: Finalists) -> TrainFinalists:
    """What trains the finalists of all seeds, compiled once; as many at a time as `trainings_at_once` says."""
    training = _checked(problem, finalists.epochs)
    evaluate = _evaluation(problem, training)
    over = spread(problem.devices, image_shape_of(problem.dataset), training.batch_size)

    def train(archs: np.ndarray, seed: int, folder: Path, stop: Stop, called: str) -> np.ndarray:
        workers = min(trainings_at_once(over), len(archs))
        # All are asked for at once.
        listed = samplers.random_search(problem.space)._replace(ask=lambda key, state: whole(jnp.asarray(archs)))
        with concurrent.futures.ThreadPoolExecutor(workers) if workers > 1 else contextlib.nullcontext() as executor:
            found = search_black_box(
                listed, functools.partial(evaluate, seed), len(archs), space=problem.space, seed=seed,
                executor=executor, in_flight=workers, folder=folder, repeats=True, stop=stop, called=called,
                settings={**dataclasses.asdict(finalists), "archs": archs.tolist(), **_origin(problem)},
            )  # fmt: skip
        return found.values[:, 0]

    return train


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
        evaluate, timer = _evaluation(problem, this.training), clock()
        names = seeds.names(problem)
        over = spread(problem.devices, image_shape_of(problem.dataset), this.training.batch_size)

        def one(number: int) -> dict[str, Any]:
            name = names[number]
            called = "evaluation" if len(names) == 1 else f"{name} evaluation"
            return _one(this, evaluate, stage.path / name, problem.seed + number, stop, called)

        return at_once(one, range(len(names)), min(trainings_at_once(over), len(names))), timer()

    return seeds.searched(run, problem, this.space, each)


def _evaluation(problem: Problem, training: Training) -> Callable[[int, np.ndarray], float]:
    """(seed, arch) -> the best validation metric of a training. The step is compiled once where the space has such."""
    if problem.evaluate is not None:
        return problem.evaluate
    space, skeleton = problem.space, problem.trained_skeleton
    together = problem.entry.together if training.share_step else None

    def trainer_of(network: Any) -> Trainer:
        return Trainer(network, training, problem.dataset, problem.seed, problem.devices)

    shared = None if together is None else trainer_of(together(skeleton, space))

    def evaluate(seed: int, arch: np.ndarray) -> float:
        trainer = shared or trainer_of(problem.entry.network(jnp.asarray(arch), skeleton, space))
        # All candidates have one key: what differs is the architecture. Signals are heeded between two of them.
        key = jax.random.key(seed)
        _, outcome = trainer.fit(jnp.asarray(arch), key, None, lambda: None, io.StringIO())
        return float("nan") if outcome.best is None else outcome.best.value

    return evaluate if shared is None else first_alone(evaluate)


def _origin(problem: Problem) -> dict[str, Any]:
    """A setting by which a folder of values of `problem.evaluate` refuses trainings, and one of trainings those."""
    return {} if problem.evaluate is None else {"trained": False}


def _one(
    this: _Search, evaluate: Callable[[int, np.ndarray], float], folder: Path, seed: int, stop: Stop, called: str
) -> dict[str, Any]:
    """What one seed found, in JSON's terms."""
    problem, space = this.problem, this.space
    budget = problem.budget(space)
    found = search_black_box(
        this.sampler, functools.partial(evaluate, seed), this.evaluations, space=space, seed=seed, folder=folder,
        settings={**this.settings, **_origin(problem)}, stop=stop, called=called,
        excess=(lambda arch: float(excess(budget, arch[None])[0])) if budget.limits else None,
    )  # fmt: skip
    values = found.values[:, 0]
    told: dict[str, Any] = {
        **this.settings, "evaluations": len(values), "best_valid": float(np.nanmax(values)),
        "mean_valid": float(np.nanmean(values)),
    }  # fmt: skip
    if problem.truth is not None:
        told["truth_curve"] = curve(problem.truth, found.archs[held(values)])
    return {"genotype": space.to_genotype(jnp.asarray(found.arch)), "told": {"candidates": told}}
