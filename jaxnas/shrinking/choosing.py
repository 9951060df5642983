"""Which smaller network is taken under a budget: by an integer program over the losses, and by simpler rules."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Arch, Key
from jaxnas.checks import inputs_form
from jaxnas.choices import Searchable
from jaxnas.fit.budget import Budget, check_feasible, cost_told, feasible_samples, make_budget
from jaxnas.fit.latency import milliseconds_of
from jaxnas.hardware import Constraint, LatencyTable, Structure, device_name, reachable, solve
from jaxnas.shrinking.scoring import Alternatives

COSTS = ("macs", "params", "latency_ms")
_STEPS, _NEAR = 2000, 0.9
_WAYS = 256
"""Constraints that a choice which stands in many places may have; beyond, some solutions may be one network."""


class Chosen(NamedTuple):
    """archs: int32 [P, D], the next-best solutions, each once. predicted: the sums of their losses."""

    archs: np.ndarray
    predicted: list[float]


def budget_of(
    own: Searchable, cost: str, limit: float, latency: LatencyTable | None, asked: float | None = None
) -> Budget:
    """That of a model. asked: the budget as it was given, perhaps a share, by default the limit.

    Raises: ValueError, with the smallest cost that there is, where no network is within.
    """
    budget = make_budget(own.entry, own.space, None, {cost: limit}, latency)  # type: ignore[arg-type]
    if budget.structure is None:
        raise ValueError("costs of this model multiply too many choices for an integer program; give it fewer widths")
    try:
        check_feasible(own.space, budget, jax.random.key(0))
    except ValueError as error:
        ends = reachable(budget.structure, budget.constraints[0])
        if ends is None:
            raise
        given = f"{asked:g}, {cost_told(limit)} {cost}," if asked is not None and asked != limit else cost_told(limit)
        least = cost_told(ends[0] + budget.constant[cost])
        raise ValueError(
            f"budget {given} is below the smallest network, which has {least} {cost}: allow more; a budget up to 1 is "
            "a share of what the trained model costs, one above 1 is a number"
        ) from error
    return budget


def next_best(own: Searchable, losses: dict[str, np.ndarray], budget: Budget, count: int) -> Chosen:
    """The solutions of the least sums of losses, the best first."""
    assert budget.structure is not None
    scores = {name: -value for name, value in losses.items()}
    solutions = solve(budget.structure, scores, (*budget.constraints, *_settled(own, budget.structure)), count)
    found = {tuple(np.asarray(each.arch).tolist()): -each.value for each in reversed(solutions)}
    rows = list(found.items())[::-1]
    return Chosen(np.array([arch for arch, _ in rows], np.int32), [loss for _, loss in rows])


def _settled(own: Searchable, structure: Structure) -> list[Constraint]:
    """Constraints by which a choice that a network has not is at its widest, so that each network is one solution.

    A choice matters under one of some conditions, each of which is that some others have one of their options. So for
    every way to take one part of each condition: the choice is at its widest, or one of those parts holds.
    """
    units, found = own.units(), []
    for (name, choice), whole in zip(units.found.items(), np.asarray(units.whole), strict=True):
        if math.prod(map(len, choice.conditions)) > _WAYS:
            continue
        for parts in itertools.product(*choice.conditions) if choice.conditions else ():
            row = {kind: np.zeros(shape) for kind, shape in structure.shapes.items() if kind not in structure.beside}
            row[name][0, whole] = 1
            for other, options in parts:
                row[other][0, list(options)] = 1
            found.append(Constraint(f"{name} is at its widest where it does not matter", row, lower=1))
    return found


def uniform(own: Searchable, budget: Budget) -> Arch | None:
    """All widths narrowed to the same share, as large as the budget allows; None where no share is small enough.

    What is left of the budget then goes to one width after another, each of which takes its next larger option.
    """
    units = own.units()
    widths = {place: c.options for place, c in enumerate(units.found.values()) if c.kind == "width"}
    shares = sorted({option / max(options) for options in widths.values() for option in options}, reverse=True)
    (name, limit), *_ = budget.limits.items()

    def fits(arch: np.ndarray) -> bool:
        return bool(budget.costs(arch[None])[name][0] <= limit)

    def narrowed(share: float) -> np.ndarray:
        arch = np.array(units.whole)
        for place, options in widths.items():
            sizes = np.array(options)
            fitting = np.where(sizes <= share * sizes.max() + 1e-9, sizes, -1)
            arch[place] = int(np.argmax(fitting) if fitting.max() > 0 else np.argmin(sizes))
        return arch

    arch = next((arch for arch in map(narrowed, shares) if fits(arch)), None)
    if arch is None:
        return None
    for place, options in widths.items():
        larger = [option for option in np.argsort(options) if options[option] > options[arch[place]]]
        wider = arch.copy()
        wider[place] = larger[0] if larger else arch[place]
        arch = wider if fits(wider) else arch
    return own.space.canonical(jnp.asarray(arch, jnp.int32))


def at_random(own: Searchable, budget: Budget, key: Key, count: int) -> list[Arch]:
    """Random architectures that use most of the budget.

    Uniform draws cost far less than a budget that is mild. So each takes random changes of one choice, of which those
    count that cost more and are within, until it uses 90 % of the budget.
    """
    if not count:
        return []
    draw_key, walk_key = jax.random.split(key)
    archs = feasible_samples(own.space, budget, draw_key, count)[0]
    (name, limit), *_ = budget.limits.items()
    costs, mutate = budget.costs(archs)[name], jax.jit(jax.vmap(own.space.mutate))
    for number in range(_STEPS):
        if (costs >= _NEAR * limit).all():
            break
        keys = jax.random.split(jax.random.fold_in(walk_key, number), len(archs))
        changed = np.asarray(mutate(keys, jnp.asarray(archs)))
        new = budget.costs(changed)[name]
        better = (costs < _NEAR * limit) & (new > costs) & (new <= limit)
        archs, costs = np.where(better[:, None], changed, archs), np.where(better, new, costs)
    return [own.space.canonical(jnp.asarray(arch, jnp.int32)) for arch in archs]


def timer(own: Searchable, batch: int) -> Callable[[Arch], float]:
    """Makes arch -> milliseconds of its network for a batch, on this device, in evaluation."""
    inputs = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), inputs_form(own.supernet, batch))
    return lambda arch: milliseconds_of(own.network(arch), inputs)


def latency_table(
    own: Searchable, alternatives: Alternatives, batch: int, milliseconds: Callable[[Arch], float]
) -> LatencyTable:
    """Of each alternative, alone in the trained model, how much longer the whole network takes; a sum over them."""
    times = np.array([milliseconds(jnp.asarray(arch)) for arch in alternatives.archs])
    row = tuple(np.asarray(own.units().whole).tolist())
    whole = alternatives.archs.tolist().index(list(row))
    return LatencyTable(device_name(), batch, (), alternatives.table(times), float(times[whole]))
