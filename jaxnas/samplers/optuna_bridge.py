"""Optuna's samplers as samplers of the library, and those of the library as samplers of Optuna (Akiba et al. 2019,
https://arxiv.org/abs/1907.10902).

Both are over the choices of a space. Needs `pip install 'jaxnas[optuna]'`.
"""

from __future__ import annotations

import collections
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Array, Candidates, Choice, Key, Sampler
from jaxnas.samplers.moves import whole
from jaxnas.samplers.nondominated import dominates

if TYPE_CHECKING:
    import optuna

_MOST_STUDIES = 4096
"""Studies that are kept going, one for each search; of more, the oldest are computed again where they go on."""


class History(NamedTuple):
    """What a sampler of Optuna was told, which is all that its answers follow from.

    seed: int32 []. archs: int32 [N, D]. values: float32 [N, M]. valid: bool [N]. told: int32 [], how many of N.
    """

    seed: Array
    archs: Array
    values: Array
    valid: Array
    told: Array


def from_optuna(
    make: Callable[[int], optuna.samplers.BaseSampler],
    choices: Sequence[Choice],
    capacity: int,
    *,
    objectives: int = 1,
    integers: bool = False,
) -> Sampler:
    """A sampler of Optuna as one of the library, for every search and table: it asks for one architecture at a time.

    make: seed -> sampler, such as `lambda seed: optuna.samplers.TPESampler(seed=seed)`. capacity: the most that it is
    told. objectives: M, all to be maximized. integers: choices are given to Optuna as numbers and not as categories,
    which CMA-ES needs.

    The state is the history, so that it can be saved and a search goes on after a kill; the key of `init` gives the
    seed, those of `ask` and `tell` are not used. Optuna runs on the host, in about 1 to 20 ms an ask, and one search
    after another under `vmap`. What is told beyond the capacity is left out.

    Raises: ValueError where capacity or objectives is less than 1, or Optuna is not installed.

    >>> import optuna
    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2)})
    >>> sampler = from_optuna(lambda seed: optuna.samplers.RandomSampler(seed), space.choices, capacity=10)
    >>> sampler.ask(jax.random.key(1), sampler.init(jax.random.key(0))).archs.shape
    (1, 2)
    """
    for name, number in (("capacity", capacity), ("objectives", objectives)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    _imported()
    studies = _Studies(make, choices, objectives, integers)
    length = len(choices)

    def init(key: Key) -> History:
        seed = jax.random.randint(key, (), 0, np.iinfo(np.int32).max, jnp.int32)
        return History(
            seed,
            jnp.zeros((capacity, length), jnp.int32),
            jnp.full((capacity, objectives), -jnp.inf, jnp.float32),
            jnp.zeros(capacity, bool),
            jnp.int32(0),
        )

    def ask(key: Key, state: History) -> Candidates:
        del key
        shape = jax.ShapeDtypeStruct((length,), jnp.int32)
        return whole(jax.pure_callback(studies.ask, shape, *state, vmap_method="sequential")[None])

    def tell(key: Key, state: History, candidates: Candidates, values: Array, valid: Array) -> History:
        del key
        if values.shape != (1, objectives):
            raise ValueError(f"objectives must be [1, {objectives}], got {list(values.shape)}")
        at = jnp.arange(capacity) == state.told
        counted = valid & candidates.wanted
        return History(
            state.seed,
            jnp.where(at[:, None], candidates.archs, state.archs),
            jnp.where(at[:, None], jnp.where(counted[:, None], values, -jnp.inf), state.values),
            jnp.where(at, counted, state.valid),
            jnp.minimum(state.told + 1, capacity),
        )

    def best(state: History) -> Array:
        if objectives == 1:
            return state.archs[jnp.argmax(jnp.where(state.valid, state.values[:, 0], -jnp.inf))][None]
        beaten = (dominates(state.values) & state.valid[:, None]).any(axis=0)
        in_front = state.valid & ~beaten
        return jnp.where(in_front[:, None], state.archs, state.archs[jnp.argmax(in_front)][None])

    return Sampler(init, ask, tell, best)


class _Studies:
    """Answers of a sampler of Optuna to histories. A study that has come to a history is kept, and goes on from there;
    without one, the history is gone through again, to the same study."""

    def __init__(
        self,
        make: Callable[[int], optuna.samplers.BaseSampler],
        choices: Sequence[Choice],
        objectives: int,
        integers: bool,
    ) -> None:
        self._make, self._objectives = make, objectives
        self._names = [choice.name for choice in choices]
        self._space = _distributions(choices, integers)
        self._kept: collections.OrderedDict[bytes, tuple[Any, Any]] = collections.OrderedDict()
        self._lock = threading.Lock()

    def ask(self, *history: Any) -> np.ndarray:
        """What the sampler asks for after a history, int32 [D]."""
        seed, archs, values, valid, told = map(np.asarray, history)
        done = [(archs[n], values[n], bool(valid[n])) for n in range(int(told))]
        with self._lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna's, of what is experimental
            _, trial = self._at(int(seed), done)
        return np.array([trial.params[name] for name in self._names], np.int32)

    def _at(self, seed: int, done: list[tuple[np.ndarray, np.ndarray, bool]]) -> tuple[Any, Any]:
        """(study, the trial that it has asked for) after what is done."""
        name = self._name(seed, done)
        if name in self._kept:
            return self._kept[name]
        before = self._kept.pop(self._name(seed, done[:-1]), None) if done else None
        if before is None:
            study = self._new(seed)
            trial, left = study.ask(self._space), done
        else:
            (study, trial), left = before, done[-1:]
        for arch, values, valid in left:
            self._tell(study, trial, arch, values, valid)
            trial = study.ask(self._space)
        self._kept[name] = study, trial
        if len(self._kept) > _MOST_STUDIES:
            self._kept.popitem(last=False)
        return study, trial

    def _new(self, seed: int) -> Any:
        optuna = _imported()
        directions = ["maximize"] * self._objectives
        return optuna.create_study(sampler=self._make(seed), directions=directions)

    def _tell(self, study: Any, trial: Any, arch: np.ndarray, values: np.ndarray, valid: bool) -> None:
        optuna = _imported()
        state = optuna.trial.TrialState.COMPLETE if valid else optuna.trial.TrialState.FAIL
        numbers = values.tolist() if valid else None
        if arch.tolist() == [trial.params[name] for name in self._names]:
            study.tell(trial, numbers, state=state)
            return
        # Something else was evaluated than was asked for.
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        params = dict(zip(self._names, arch.tolist(), strict=True))
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=self._space, values=numbers, state=state)
        )

    @staticmethod
    def _name(seed: int, done: Sequence[tuple[np.ndarray, np.ndarray, bool]]) -> bytes:
        parts = [arch.tobytes() + values.tobytes() + bytes([valid]) for arch, values, valid in done]
        return seed.to_bytes(4, "little") + b"".join(parts)


def _distributions(choices: Sequence[Choice], integers: bool) -> dict[str, Any]:
    """Of the numbers of the options of each choice."""
    distributions = _imported().distributions
    counts = {choice.name: len(choice.options) for choice in choices}
    if integers:
        return {name: distributions.IntDistribution(0, count - 1) for name, count in counts.items()}
    return {name: distributions.CategoricalDistribution(tuple(range(count))) for name, count in counts.items()}


def to_optuna(
    sampler: Sampler, choices: Sequence[Choice], seed: int = 0, *, objectives: int = 1
) -> optuna.samplers.BaseSampler:
    """A sampler of the library as one of Optuna, for a study whose trials suggest the choices of a space by name.

    The objective of the study reads each choice by `trial.suggest_categorical(choice.name, choice.options)`; what else
    it suggests is drawn at random. A sampler that asks for several at once is told when all of them are done, and asked
    again where more are wanted before that. Directions of the study may be "minimize"; a trial that failed or was
    pruned counts as not evaluated. objectives: how many the study has.

    Raises: ValueError for a sampler that asks for lower fidelities, which trials do not have, once it does.

    >>> import optuna
    >>> from jaxnas.samplers import evolution
    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2)})
    >>> sampler = to_optuna(evolution(space, population=4, sample_size=2), space.choices)
    >>> study = optuna.create_study(sampler=sampler)
    >>> study.optimize(lambda trial: int(trial.suggest_categorical("width", space.choices[0].options)), n_trials=3)
    >>> len(study.trials)
    3
    """
    return _sampler_class()(sampler, choices, seed, objectives)


class _Asked(NamedTuple):
    """Candidates and what came of those that are wanted, by their place: values where it is valid, else None."""

    candidates: Candidates
    told: dict[int, list[float] | None]


class _Bridge:
    """What a sampler of Optuna does with one of the library: states, and which trial has which candidate."""

    def __init__(self, sampler: Sampler, choices: Sequence[Choice], seed: int, objectives: int) -> None:
        self.choices, self.objectives = tuple(choices), objectives
        self.sampler = sampler._replace(ask=jax.jit(sampler.ask), tell=jax.jit(sampler.tell))
        init_key, self._keys = jax.random.split(jax.random.key(seed))
        self.state = sampler.init(init_key)
        self._calls = 0
        self._waiting: list[tuple[_Asked, int]] = []
        self._trials: dict[int, tuple[_Asked, int]] = {}
        self._lock = threading.Lock()

    def _key(self) -> Key:
        self._calls += 1
        return jax.random.fold_in(self._keys, self._calls)

    def take(self, number: int) -> dict[str, str]:
        """The options of a trial."""
        with self._lock:
            if not self._waiting:
                candidates = jax.device_get(self.sampler.ask(self._key(), self.state))
                if (candidates.fidelity[candidates.wanted] != -1).any():
                    raise ValueError("this sampler asks for lower fidelities, which a trial of Optuna does not have")
                asked = _Asked(candidates, {})
                self._waiting = [(asked, place) for place in np.flatnonzero(candidates.wanted).tolist()]
            self._trials[number] = asked, place = self._waiting.pop(0)
            arch = asked.candidates.archs[place]
        return {choice.name: choice.options[option] for choice, option in zip(self.choices, arch, strict=True)}

    def give(self, number: int, values: list[float] | None) -> None:
        """What came of a trial, to be maximized; None where it is not valid. Tells the sampler once all are there."""
        with self._lock:
            if number not in self._trials:  # one that was added to the study from elsewhere
                return
            asked, place = self._trials.pop(number)
            asked.told[place] = values
            candidates = asked.candidates
            if len(asked.told) < int(candidates.wanted.sum()):
                return
            objectives = np.full((len(candidates.archs), self.objectives), -np.inf, np.float32)
            valid = np.zeros(len(candidates.archs), bool)
            for place, told in asked.told.items():
                if told is not None:
                    objectives[place], valid[place] = told, True
            self.state = self.sampler.tell(
                self._key(), self.state, candidates, jnp.asarray(objectives), jnp.asarray(valid)
            )


def _sampler_class() -> Any:
    """The class, made when it is wanted: its base is Optuna's."""
    optuna = _imported()
    complete = optuna.trial.TrialState.COMPLETE

    class LibrarySampler(optuna.samplers.BaseSampler):  # type: ignore[name-defined]
        """`to_optuna`."""

        def __init__(self, sampler: Sampler, choices: Sequence[Choice], seed: int, objectives: int) -> None:
            self.bridge = _Bridge(sampler, choices, seed, objectives)
            self._space = {
                choice.name: optuna.distributions.CategoricalDistribution(choice.options) for choice in choices
            }
            self._other = optuna.samplers.RandomSampler(seed)

        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return self._space

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
            if len(study.directions) != self.bridge.objectives:
                raise ValueError(
                    f"the study has {len(study.directions)} objectives, and the sampler was made for "
                    f"{self.bridge.objectives}: give to_optuna objectives={len(study.directions)}"
                )
            return self.bridge.take(trial.number)

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            return self._other.sample_independent(study, trial, param_name, param_distribution)

        def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
            signs = [-1 if direction == optuna.study.StudyDirection.MINIMIZE else 1 for direction in study.directions]
            told = None
            if state == complete and np.isfinite(values).all():
                told = [sign * value for sign, value in zip(signs, values, strict=True)]
            self.bridge.give(trial.number, told)

    return LibrarySampler


def _imported() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ValueError("this needs the package optuna: pip install 'jaxnas[optuna]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
