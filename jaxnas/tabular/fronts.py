"""Two objectives on a table: fronts found by NSGA-II, random search and others beside the true one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnas.base import Sampler
from jaxnas.benchmarks import Table, measured, only_rows
from jaxnas.benchmarks.named import metric_column
from jaxnas.samplers import from_optuna, nondominated, over_seeds, predictor_front, random_search, simulate
from jaxnas.samplers.nondominated import front
from jaxnas.tabular.known import known
from jaxnas.tabular.methods import optuna_maker
from jaxnas.tabular.predictors import make_predictor

POPULATION = 20


class FrontSetting(NamedTuple):
    """Two metrics and the rows that have both, with their values: float [A, 2], to be maximized."""

    table: Table
    metrics: tuple[str, str]
    points: np.ndarray


def make_front_setting(table: Table, metrics: Sequence[str]) -> FrontSetting:
    """The metrics at the highest fidelity where none is named; one written "-NAME" is minimized.

    Raises: ValueError where there are not two, one is unknown, or no row has both.

    >>> from jaxnas.benchmarks import make_table
    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2, 3)})
    >>> archs = np.indices((3, 3)).reshape(2, -1).T
    >>> table = make_table("tiny", space, archs, {"valid": archs.sum(axis=1), "macs": archs[:, 0]})
    >>> setting = make_front_setting(table, ["valid", "-macs"])  # many correct, few multiply-adds
    >>> setting.points.shape, setting.points[:, 0].max().item()
    ((9, 2), 4.0)
    """
    if len(metrics) != 2:
        raise ValueError(f"a front is of two metrics, got {','.join(metrics)!r}; give two, such as valid,-macs")
    points = np.stack([metric_column(table, name) for name in metrics], axis=1)
    there = measured(table, metrics)
    if not len(there):
        raise ValueError(f"no architecture of {table.name} has both of {','.join(metrics)!r}")
    return FrontSetting(only_rows(table, there), (metrics[0], metrics[1]), points[there])


def hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """The area that points [N, 2], to be maximized, dominate above the reference [2].

    >>> hypervolume(np.array([[2.0, 1.0], [1.0, 2.0]]), np.zeros(2))  # two rectangles of 2, and the square they share
    3.0
    """
    area, height = 0.0, reference[1]
    inside = points[(points > reference).all(axis=1)]
    for x, y in inside[np.lexsort((-inside[:, 1], -inside[:, 0]))]:
        area += (x - reference[0]) * max(0.0, y - height)
        height = max(height, y)
    return float(area)


def _nondominated(setting: FrontSetting, evaluations: int) -> Sampler:
    return nondominated(setting.table.moves, 2, population=POPULATION)


def _random(setting: FrontSetting, evaluations: int) -> Sampler:
    return random_search(setting.table.moves, batch=POPULATION)


def _predictor(setting: FrontSetting, evaluations: int) -> Sampler:
    of, start = known(setting.table), min(20, -(-evaluations // 2))
    process = make_predictor("gp", of)
    return predictor_front(setting.table.moves, process, of.graph, 2, capacity=evaluations, start=start)


def _optuna_tpe(setting: FrontSetting, evaluations: int) -> Sampler:
    return from_optuna(optuna_maker("TPESampler"), setting.table.choices, evaluations, objectives=2)


def _optuna_nsga2(setting: FrontSetting, evaluations: int) -> Sampler:
    make = optuna_maker("NSGAIISampler", population_size=POPULATION)
    return from_optuna(make, setting.table.choices, evaluations, objectives=2)


FRONT_METHODS: dict[str, Callable[[FrontSetting, int], Sampler]] = {
    "nondominated": _nondominated,
    "random": _random,
    "predictor": _predictor,
    "optuna_tpe": _optuna_tpe,
    "optuna_nsga2": _optuna_nsga2,
}
"""Name -> what makes the sampler for so many evaluations."""
FRONT_USUAL = ("nondominated", "random")


def search_fronts(
    setting: FrontSetting, evaluations: int, seeds: int, seed: int, methods: Sequence[str] = FRONT_USUAL
) -> dict[str, Any]:
    """Runs of each method: the share of the true front's hypervolume, and one run's front, as JSON.

    evaluations: of a run. methods: of `FRONT_METHODS`. The reference of hypervolumes is the worst of each metric.

    Raises: ValueError for an unknown method.
    """
    table, metrics, points = setting
    samplers = {name: front_sampler(name, setting, evaluations) for name in methods}
    truth = front(points)
    reference = np.nanmin(points, axis=0)
    whole = hypervolume(points[truth], reference)
    outcome: dict[str, Any] = {}
    for name, sampler in samplers.items():
        # Random search takes one objective; what it evaluates does not depend on that.
        objectives = metrics[:1] if name == "random" else metrics
        asked = jax.eval_shape(sampler.ask, jax.random.key(0), jax.eval_shape(sampler.init, jax.random.key(0)))
        steps = math.ceil(evaluations / len(asked.archs))
        search = simulate(sampler, table, objectives, steps=steps, evaluations=evaluations)
        _, trace = over_seeds(search)(jax.random.split(jax.random.key(seed), seeds))
        rows = np.asarray(trace.rows).reshape(seeds, -1)
        found = [own[own >= 0][front(points[own[own >= 0]])] for own in rows]
        shares = np.array([hypervolume(points[own], reference) / whole for own in found])
        middle = int(np.argsort(shares)[len(shares) // 2])
        outcome[name] = {
            "mean": float(shares.mean()),
            "std": float(shares.std(ddof=1)) if seeds > 1 else 0.0,
            "front": points[found[middle]].tolist(),
        }
    return {"metrics": list(metrics), "truth": points[truth].tolist(), "methods": outcome}


def front_sampler(name: str, setting: FrontSetting, evaluations: int) -> Sampler:
    """The sampler of that name. Raises ValueError for an unknown one, and where its package is not installed."""
    if name not in FRONT_METHODS:
        raise ValueError(f"there is no method {name!r} for a front; there are {', '.join(FRONT_METHODS)}")
    return FRONT_METHODS[name](setting, evaluations)
