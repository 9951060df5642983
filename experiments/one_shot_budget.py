"""What an architecture may cost in `experiments.one_shot`, and architectures that cost no more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Key, SearchSpace, Skeleton
from jaxnas.hardware import (
    Constraint,
    InfeasibleError,
    Structure,
    cost_budget,
    one_option_each,
    reachable,
    solve,
    two_edges_a_node,
)
from jaxnas.ops.costs import CostTable
from jaxnas.spaces import chain_cost_table, darts_cost_table, nasbench201_cost_table

PROGRAMS: dict[str, tuple[Callable[[SearchSpace], Structure], Callable[[Skeleton], CostTable]]] = {
    "darts": (two_edges_a_node, darts_cost_table),
    "nasbench201": (one_option_each, nasbench201_cost_table),
    "chain": (one_option_each, chain_cost_table),
}
"""Name of a space -> what integer programs need of it; the other spaces have costs that do not add up."""
_ROUNDS = 20
_STEPS = 5000
_PATIENCE = 300


class Budget(NamedTuple):
    """limits: "params" and "macs" -> the most allowed, those that are limited alone.

    costs: archs [P, D] -> float64 [P] of each name, of the networks that will be trained. structure and constraints:
    of the integer program, None and () where there is none; constant: what its sums leave out.
    """

    limits: dict[str, int]
    costs: Callable[[np.ndarray], dict[str, np.ndarray]]
    structure: Structure | None
    constraints: tuple[Constraint, ...]
    constant: dict[str, int]


def make_budget(space: SearchSpace, skeleton: Skeleton, limits: Mapping[str, int | None]) -> Budget:
    """Raises: ValueError for a limit that is not positive."""
    given = {name: limit for name, limit in limits.items() if limit is not None}
    for name, limit in given.items():
        if limit < 1:
            raise ValueError(f"max_{name} must be at least 1, got {limit}")
    if space.name not in PROGRAMS:

        def one_by_one(archs: np.ndarray) -> dict[str, np.ndarray]:
            each = [space.costs(jnp.asarray(arch), skeleton) for arch in archs]
            return {name: np.array([cost[name] for cost in each], np.float64) for name in ("params", "macs")}

        return Budget(given, one_by_one, None, (), {})
    make_structure, make_table = PROGRAMS[space.name]
    table = make_table(skeleton)
    one_hot = jax.jit(jax.vmap(space.one_hot))

    def by_table(archs: np.ndarray) -> dict[str, np.ndarray]:
        taken = {kind: np.asarray(value) > 0 for kind, value in one_hot(jnp.asarray(archs)).items()}
        parts = {"params": table.params, "macs": table.macs}
        return {
            name: table.constant[name] + sum(np.einsum("aso,so->a", taken[k], part[k].astype(float)) for k in part)
            for name, part in parts.items()
        }

    constraints = tuple(cost_budget(table, name, limit) for name, limit in given.items())
    return Budget(given, by_table, make_structure(space), constraints, table.constant)


def excess(budget: Budget, archs: np.ndarray) -> np.ndarray:
    """By which part of its limit each of archs [P, D] is over, summed over the limits; float64 [P], 0 within."""
    total = np.zeros(len(archs))
    if budget.limits:
        costs = budget.costs(archs)
        for name, limit in budget.limits.items():
            total += np.maximum(costs[name] / limit - 1.0, 0.0)
    return total


def feasible_samples(space: SearchSpace, budget: Budget, key: Key, count: int) -> tuple[np.ndarray, int]:
    """(archs [N, D] within the budget, N being `count` or less where they are hard to find, how many are not uniform).

    Uniform draws, of which those within are kept; where they are too rare for that, the rest come from uniform draws by
    random changes of one choice, each kept where it is not further over the budget.

    Raises: ValueError, saying how small a network was found, where none is within.
    """
    draw = jax.jit(jax.vmap(space.sample))
    kept = np.zeros((0, len(space.choices)), np.int32)
    for number in range(_ROUNDS):
        archs = np.asarray(draw(jax.random.split(jax.random.fold_in(key, number), count)))
        kept = np.concatenate([kept, archs[excess(budget, archs) == 0.0]])
        if len(kept) >= count:
            return kept[:count], 0
    mutate = jax.jit(jax.vmap(space.mutate))
    over, waited = excess(budget, archs), 0
    for number in range(_ROUNDS, _ROUNDS + _STEPS):
        if not over.any() or waited == _PATIENCE:
            break
        changed = np.asarray(mutate(jax.random.split(jax.random.fold_in(key, number), count), jnp.asarray(archs)))
        changed_over = excess(budget, changed)
        better = changed_over <= over
        waited = 0 if (changed_over < over).any() else waited + 1
        archs, over = np.where(better[:, None], changed, archs), np.where(better, changed_over, over)
    walked = archs[over == 0.0]
    result = np.concatenate([kept, walked])[:count]
    if not len(result):
        nearest = int(np.argmin(over))
        costs = {name: int(value[nearest]) for name, value in budget.costs(archs[nearest : nearest + 1]).items()}
        raise ValueError(
            f"no architecture within {_told(budget.limits)} was found; the nearest has "
            f"{_told({name: costs[name] for name in budget.limits})}: allow more, or train a narrower network"
        )
    return result, len(result) - len(kept)


def check_feasible(space: SearchSpace, budget: Budget, key: Key) -> None:
    """Raises ValueError, saying what can be reached, where nothing is within the budget; a program makes sure."""
    if not budget.limits:
        return
    if budget.structure is None:
        feasible_samples(space, budget, key, 4)
        return
    try:
        zeros = {kind: np.zeros(shape) for kind, shape in budget.structure.shapes.items()}
        solve(budget.structure, zeros, budget.constraints)
    except InfeasibleError as error:
        told = []
        conflict = [each for each in budget.constraints if each.name in error.conflicts]
        for constraint in conflict:
            others = [each for each in conflict if each is not constraint]
            ends = reachable(budget.structure, constraint, others)
            if ends is not None:
                name = constraint.name
                beside = " beside the other" if others else ""
                least = round(ends[0]) + budget.constant[name]
                told.append(f"max_{name} {budget.limits[name]:,}, where the smallest possible is {least:,}{beside}")
        raise ValueError(
            f"no architecture meets {' and '.join(told)}: allow more, or train a narrower network"
        ) from error


def _told(costs: Mapping[str, int]) -> str:
    return " and ".join(f"{value:,} {name}" for name, value in costs.items())
