"""The methods that a comparison knows by name, with the settings of their papers and of NAS-Bench-201's programs."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from jaxnas.base import Sampler
from jaxnas.controllers import adam, lstm_controller, reinforce_policy
from jaxnas.ranges import Count, Positive, Share, check_settings
from jaxnas.samplers import (
    Bracket,
    controller_search,
    evaluations,
    evolution,
    from_optuna,
    halving,
    hyperband,
    local_search,
    onto_rows,
    predictor_search,
    random_search,
    reinforce,
    rungs,
    simulated_annealing,
    successive_halving,
)
from jaxnas.samplers.simulate import ASKS_A_STEP
from jaxnas.tabular.known import known
from jaxnas.tabular.predictors import make_predictor
from jaxnas.tabular.setting import Setting

MOST_PREDICTED = 500
"""Search by a predictor ends after so many evaluations, as each fit sees all earlier ones."""
COLDEST = 0.01
"""Of the first temperature of annealing, what is left at the end."""


@dataclasses.dataclass(frozen=True)
class MethodSettings:
    """The settings of methods by name. Population, sample size and `ema` are those of NAS-Bench-201's programs.

    >>> MethodSettings(population=50).settings()["sample_size"]  # the others stay as they are
    3
    """

    population: Count = 10
    """The population of evolution."""
    sample_size: Count = 3
    """How many of the population evolution compares to choose a parent."""
    learning_rate: Positive = 0.1
    """The learning rate of Adam in reinforce. 0.1 is the best of 0.01 to 0.5 on digits201. NAS-Bench-201's program has
    0.5, NATS-Bench 0.01."""
    controller_learning_rate: Positive = 0.02
    """The learning rate of Adam in enas. 0.02 is the best of 0.001 to 0.1 on digits201. NAS-Bench-201's program, which
    the controller is from, has 0.001."""
    ema: Share = 0.9
    """The decay of the moving average of rewards in reinforce, which is the baseline."""
    temperature: Positive = 10.0
    """The temperature of annealing at its start, in the unit of the search metric; it falls to a hundredth of that. 10
    is the best of 0.3 to 30 on digits201."""
    eta: Positive = 3.0
    """For halving and hyperband: each rung keeps one in eta of the rung before."""

    def settings(self) -> dict[str, float]:
        """The settings of methods alone, whatever a program's config adds to them."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(MethodSettings)}


class Plan(NamedTuple):
    """A sampler and the steps after which its budget is spent. fewer: why a run may measure less than it is allowed."""

    sampler: Sampler
    steps: int
    fewer: str = f"it was asked {ASKS_A_STEP} times for each and named too few that are in the table"


def as_plan(sampler: Sampler | Plan, setting: Setting) -> Plan:
    """The plan of a sampler that wants all of what it asks for: as many steps as spend the evaluations."""
    if isinstance(sampler, Plan):
        return sampler
    key = jax.random.key(0)
    asked = jax.eval_shape(sampler.ask, key, jax.eval_shape(sampler.init, key))
    return Plan(sampler, math.ceil(setting.evaluations / len(asked.archs)))


def make_plan(name: str, setting: Setting, settings: MethodSettings) -> Plan:
    """The sampler of a method of `METHODS`, with its number of steps.

    setting: the task, as of `make_setting`. settings: those of the method.

    Raises: ValueError for an unknown name, and for settings that the method cannot have.

    >>> from jaxnas.benchmarks import digits201_table
    >>> from jaxnas.tabular import make_setting
    >>> setting = make_setting(digits201_table(), search="valid", report="test", evaluations=100)
    >>> plan = make_plan("evolution", setting, MethodSettings(population=20))  # `compare` takes it as a sampler
    >>> plan.steps
    100
    """
    if name not in METHODS:
        raise ValueError(f"there is no method {name!r}; there are {', '.join(METHODS)}")
    check_settings("", settings, type(settings))
    if name in ("halving", "hyperband") and setting.fidelities < 2:
        raise ValueError(f"{name} needs a search metric with several fidelities; {setting.search!r} has one")
    return METHODS[name](setting, settings)


def _random(setting: Setting, settings: MethodSettings) -> Plan:
    return Plan(random_search(setting.table.moves), setting.evaluations)


def _evolution(setting: Setting, settings: MethodSettings) -> Plan:
    sampler = evolution(setting.table.moves, population=settings.population, sample_size=settings.sample_size)
    return Plan(sampler, setting.evaluations)


def _local(setting: Setting, settings: MethodSettings) -> Plan:
    return Plan(local_search(setting.table.moves), setting.evaluations)


def _annealing(setting: Setting, settings: MethodSettings) -> Plan:
    cooling = COLDEST ** (1 / setting.expected)
    sampler = simulated_annealing(setting.table.moves, temperature=settings.temperature, cooling=cooling)
    return Plan(sampler, setting.evaluations)


def _reinforce(setting: Setting, settings: MethodSettings) -> Plan:
    sampler = reinforce(setting.table.choices, optax.adam(settings.learning_rate), ema=settings.ema)
    return Plan(_on_rows(sampler, setting), setting.evaluations)


def _enas(setting: Setting, settings: MethodSettings) -> Plan:
    controller = lstm_controller(
        setting.table.choices, hidden=32, depth=2, temperature=5.0, tanh_constant=2.5, op_tanh_reduce=1.0
    )
    policy = reinforce_policy(controller, adam(settings.controller_learning_rate))
    return Plan(_on_rows(controller_search(policy), setting), setting.evaluations)


def _on_rows(sampler: Sampler, setting: Setting) -> Sampler:
    """A sampler that knows the choices alone, on a sparse table told of the rows that are nearest."""
    nearest = setting.table.nearest
    return sampler if nearest is None else onto_rows(sampler, nearest)


def _predictor(setting: Setting, settings: MethodSettings) -> Plan:
    """A Gaussian process, ten random architectures, then batches of five by expected improvement."""
    of, capacity = known(setting.table), min(setting.evaluations, MOST_PREDICTED)
    process = make_predictor("gp", of)
    sampler = predictor_search(setting.table.moves, process, of.graph, capacity=capacity, start=10, batch=5)
    fewer = f"after its random start it measures none twice, and at most {MOST_PREDICTED}"
    return Plan(sampler, math.ceil(capacity / 5), fewer)


def _halving(setting: Setting, settings: MethodSettings) -> Plan:
    """One bracket, again and again, that ends with one architecture."""
    first = math.ceil(settings.eta ** (setting.fidelities - 1) - 1e-9)
    return _repeated(setting, (successive_halving(first, range(setting.fidelities), settings.eta),))


def _hyperband(setting: Setting, settings: MethodSettings) -> Plan:
    return _repeated(setting, hyperband(range(setting.fidelities), settings.eta))


def _optuna(name: str, integers: bool, setting: Setting, settings: MethodSettings) -> Plan:
    """A sampler of Optuna with its own defaults."""
    choices = setting.table.choices
    sampler = from_optuna(optuna_maker(name), choices, setting.evaluations, integers=integers)
    return Plan(sampler, setting.evaluations)


def optuna_maker(name: str, **settings: Any) -> Callable[[int], Any]:
    """seed -> the sampler of that name in `optuna.samplers`. Raises ValueError where the package is not installed."""
    for package in ("optuna", *(("cmaes",) if name == "CmaEsSampler" else ())):
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"{name} needs the package {package}: pip install 'jaxnas[optuna]'")

    def make(seed: int) -> Any:
        import optuna

        return getattr(optuna.samplers, name)(seed=seed, **settings)

    return make


def _repeated(setting: Setting, brackets: tuple[Bracket, ...]) -> Plan:
    rounds = math.ceil(setting.evaluations / sum(evaluations(brackets).values()))
    fewer = "a rung has as many as the rung before has different values for"
    return Plan(halving(setting.table.moves, brackets * rounds), rungs(brackets) * rounds, fewer)


METHODS: dict[str, Callable[[Setting, MethodSettings], Plan]] = {
    "random": _random,
    "evolution": _evolution,
    "local": _local,
    "annealing": _annealing,
    "reinforce": _reinforce,
    "enas": _enas,
    "predictor": _predictor,
    "halving": _halving,
    "hyperband": _hyperband,
    "optuna_tpe": functools.partial(_optuna, "TPESampler", False),
    "optuna_cma": functools.partial(_optuna, "CmaEsSampler", True),
}
"""Name -> what makes its plan."""
