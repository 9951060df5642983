"""What an architecture may cost, and architectures that cost no more.

Costs are parameters, multiply-adds and, where it was measured, latency: that of the parts of a network, summed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Arch, Array, Key, SearchSpace, Skeleton
from jaxnas.catalog import Entry
from jaxnas.hardware import (
    Constraint,
    InfeasibleError,
    LatencyTable,
    Structure,
    reachable,
    solve,
)
from jaxnas.hardware.additive import batched

_ROUNDS = 20
_STEPS = 5000
_PATIENCE = 300


class Budget(NamedTuple):
    """limits: "params", "macs" and "latency_ms" -> the most allowed, those that are limited alone.

    costs: archs [P, D] -> float64 [P] of each name, of the networks that will be trained. structure and constraints:
    of the integer program, None and () where there is none; constant: what its sums leave out. signals: arch ->
    float32 [2], logarithms of parameters and multiply-adds, traceable; None where they do not add up. vocabulary: that
    of the graphs of the space.
    """

    limits: dict[str, float]
    costs: Callable[[np.ndarray], dict[str, np.ndarray]]
    structure: Structure | None
    constraints: tuple[Constraint, ...]
    constant: dict[str, float]
    signals: Callable[[Arch], Array] | None = None
    vocabulary: tuple[str, ...] = ()


def make_budget(
    entry: Entry, space: SearchSpace, skeleton: Skeleton, limits: Mapping[str, float | None],
    latency: LatencyTable | None = None,
) -> Budget:  # fmt: skip
    """The budget of a space, or of what is left of it, whose networks have that skeleton.

    limits: "params", "macs", "latency_ms" -> the most allowed, None for no limit. latency: of the networks, where it is
    known; a limit of "latency_ms" needs it.

    Raises: ValueError for a limit of something else, and for one that is not positive.

    >>> from jaxnas.base import Skeleton
    >>> from jaxnas.catalog import entry_of
    >>> skeleton = Skeleton(channels=4, cells=1, image_shape=(8, 8, 1), num_classes=10)
    >>> entry = entry_of("nasbench201")
    >>> budget = make_budget(entry, entry.space(skeleton), skeleton, {"macs": 100_000, "params": None})
    >>> skips, convolutions = budget.costs(np.array([[1] * 6, [3] * 6]))["macs"] <= budget.limits["macs"]
    >>> bool(skips), bool(convolutions)
    (True, False)
    """
    given = {name: limit for name, limit in limits.items() if limit is not None}
    for name, limit in given.items():
        if name not in ("params", "macs", "latency_ms"):
            raise ValueError(f"limits are of params, macs and latency_ms, got one of {name!r}")
        if not limit > 0:
            raise ValueError(f"max_{name} must be positive, got {limit:g}")
    if "latency_ms" in given and latency is None:
        raise ValueError(
            f"a limit of latency_ms {given['latency_ms']:g} needs the latency of the options of {space.name}"
        )
    if entry.structure is None or entry.cost_table is None:
        space = with_costs(entry, space)

        def one_by_one(archs: np.ndarray) -> dict[str, np.ndarray]:
            each = [space.costs(jnp.asarray(arch), skeleton) for arch in archs]
            return {name: np.array([cost[name] for cost in each], np.float64) for name in ("params", "macs")}

        return Budget(given, one_by_one, None, (), {}, None, entry.vocabulary)
    table = entry.cost_table(skeleton)
    parts: dict[str, Mapping[str, np.ndarray]] = {"params": table.params, "macs": table.macs}
    constant: dict[str, float] = dict(table.constant)
    if latency is not None:
        parts["latency_ms"], constant["latency_ms"] = latency.milliseconds, latency.constant
    one_hot = jax.jit(jax.vmap(space.one_hot))

    def by_table(archs: np.ndarray) -> dict[str, np.ndarray]:
        taken = {kind: np.asarray(value) > 0 for kind, value in one_hot(jnp.asarray(archs)).items()}
        known = {} if entry.costs is None else entry.costs(taken, skeleton)
        return {
            name: known[name].astype(np.float64)
            if name in known
            else constant[name] + sum(np.einsum("aso,so->a", taken[k], part[k].astype(float)) for k in part)
            for name, part in parts.items()
        }

    def signals(arch: Arch) -> Array:
        taken = space.one_hot(arch)
        sums = [
            constant[name] + sum(jnp.sum(taken[kind] * jnp.asarray(parts[name][kind], jnp.float32)) for kind in taken)
            for name in ("params", "macs")
        ]
        return jnp.log(jnp.stack(sums))

    constraints = tuple(Constraint(name, dict(parts[name]), upper=given[name] - constant[name]) for name in given)
    told = signals if entry.costs is None else None  # the sums of the table need more than the options taken
    return Budget(given, by_table, entry.structure(space), constraints, constant, told, entry.vocabulary)


def with_costs(entry: Entry, space: SearchSpace) -> SearchSpace:
    """The space of an entry; where it tells no costs itself, as a product of choices, with those of its networks."""

    def costs(arch: Arch, skeleton: Skeleton) -> dict[str, int]:
        told = space.costs(arch, skeleton)
        return told if {"params", "macs"} <= told.keys() else entry.network(arch, skeleton, space).costs

    return space._replace(costs=costs)


def without_absent(budget: Budget, space: SearchSpace) -> Budget:
    """The budget of a pruned space, whose program takes nothing that no random architecture of it has."""
    if budget.structure is None:
        return budget
    archs = jax.vmap(space.sample)(jax.random.split(jax.random.key(0), 4096))
    taken = jax.jit(lambda archs: jax.tree.map(lambda w: w.max(axis=0), jax.vmap(space.one_hot)(archs)))(archs)
    gone = {kind: (np.asarray(value) == 0).astype(np.float64) for kind, value in taken.items()}
    return budget._replace(constraints=(*budget.constraints, Constraint("what was pruned", gone, upper=0)))


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
    draw = batched(space.sample)
    kept = np.zeros((0, len(space.choices)), np.int32)
    for number in range(_ROUNDS):
        archs = np.asarray(draw(jax.random.split(jax.random.fold_in(key, number), count)))
        kept = np.concatenate([kept, archs[excess(budget, archs) == 0.0]])
        if len(kept) >= count:
            return kept[:count], 0
    mutate = batched(space.mutate)
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
        costs = {name: float(value[nearest]) for name, value in budget.costs(archs[nearest : nearest + 1]).items()}
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
            if ends is not None and constraint.name in budget.limits:
                name = constraint.name
                beside = " beside the other" if others else ""
                least, limit = ends[0] + budget.constant[name], budget.limits[name]
                told.append(f"max_{name} {cost_told(limit)}, where the smallest possible is {cost_told(least)}{beside}")
        raise ValueError(
            f"no architecture meets {' and '.join(told)}: allow more, or train a narrower network"
        ) from error


def _told(costs: Mapping[str, float]) -> str:
    return " and ".join(f"{cost_told(value)} {name}" for name, value in costs.items())


def cost_told(value: float) -> str:
    """A cost as it is told: a count whole, a time in four digits."""
    return f"{round(value):,}" if abs(value - round(value)) < 1e-6 else f"{value:,.4g}"
