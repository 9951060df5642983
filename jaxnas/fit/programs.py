"""Selection by an integer program whose scores are those of a predictor, as far as options and pairs of them add up.

Scores of architectures are no sum over options, so the best of a fitted sum is a weak pick. A predictor knows better,
but nobody can ask it about every architecture. So it is asked about some thousand random ones, single options and the
strongest pairs of them are fitted to its answers, and an integer program finds the best of that sum within the budget.
From its solutions and the best random ones a climb over neighbors within the budget leads to what the predictor itself
expects most of. Every second architecture that is scored is instead named in the same way by the sum that is fitted to
the scores alone: where options do add up, no predictor is as good. Both learn from what was scored before the next
round.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import predictors
from jaxnas.base import Array, Key, SearchSpace
from jaxnas.fit.budget import Budget, excess, feasible_samples
from jaxnas.fit.predictors import PREDICTORS, graphs
from jaxnas.fit.scoring import Score
from jaxnas.hardware import (
    Constraint,
    Pair,
    Structure,
    additivity,
    fit_additive,
    fit_pairwise,
    kind_of,
    pairwise_sums,
    solve,
    strongest_pairs,
    together,
)
from jaxnas.hardware.additive import batched, filled
from jaxnas.train.path_score import CachedScore

Predict = Callable[[np.ndarray], np.ndarray]
"""archs [P, D] -> float [P]."""
Within = Callable[[np.ndarray], np.ndarray]
"""archs [P, D] -> bool [P]."""
ROUNDS = 3
ASKED = 2048
"""Random architectures about which the predictor is asked."""
MOST_PRODUCTS = 400
"""Pairs of options in a program, as many as there are on NAS-Bench-201; each makes it slower."""
SOLUTIONS = 2
"""Of each program; the next-best are much like the best, and so are neighbors, which cost nothing."""
CLIMBERS, CLIMBS = 16, 20
"""How many of the best a climb goes on from, and how often at most."""


def program_of(space: SearchSpace, budget: Budget) -> Structure:
    """The structure of the integer program; raises ValueError where the space has none."""
    if budget.structure is None:
        raise ValueError(
            f"the costs of {space.name} do not add up, so there is no integer program: search.by evolution"
        )
    return budget.structure


def nominate(
    space: SearchSpace, structure: Structure, constraints: Sequence[Constraint], within: Within, predict: Predict,
    archs: np.ndarray, expected: np.ndarray, pairs: Sequence[Pair] | None = None, solutions: int = SOLUTIONS,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Architectures of which a predictor expects most, int32 [N, D], the best first, and what it expects, [N].

    structure: with the pairs of `constraints`, if they have any, but not those of the predictor. within: which
    architectures meet the constraints. archs [A, D]: about which the predictor was asked, within the constraints or
    near them; expected [A]: its answers. pairs: of the predictor's sum, the strongest by default. solutions: of the
    program; with 0 there is none, and the climb starts from `archs` alone.

    Raises: InfeasibleError where nothing meets the constraints.
    """
    starts, values = archs, expected
    if solutions:
        solved = _solved(space, structure, constraints, archs, expected, pairs, solutions)
        starts, values = np.concatenate([solved, archs]), np.concatenate([predict(solved), expected])
    inside = within(starts)
    return climbed(space, within, predict, starts[inside], values[inside])


def _solved(
    space: SearchSpace, structure: Structure, constraints: Sequence[Constraint], archs: np.ndarray,
    expected: np.ndarray, pairs: Sequence[Pair] | None, solutions: int,
) -> np.ndarray:  # fmt: skip
    """The best solutions of the sum that is fitted to what is expected of archs, canonical, int32 [solutions, D]."""
    pairs = strongest(space, archs, expected) if pairs is None else pairs
    scores = fit_pairwise(space, archs, expected, pairs).scores
    new = [pair for pair in pairs if kind_of(pair) not in structure.shapes]
    found = solve(together(structure, new), scores, constraints, solutions)
    return np.asarray(batched(space.canonical)(jnp.stack([solution.arch for solution in found])))


def climbed(
    space: SearchSpace, within: Within, predict: Predict, archs: np.ndarray, expected: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """All that a climb from archs [A, D] met, the best first, int32 [N, D], and what is expected of them, [N].

    expected [A]: of archs. The best that were met are replaced by the best of themselves and of their neighbors within
    the constraints, until they stay. What was met twice is given once; from nothing a climb leads nowhere.
    """
    met, places = np.unique(archs, axis=0, return_index=True)
    values = expected[places]
    for _ in range(CLIMBS if len(met) else 0):
        order = np.argsort(-values, kind="stable")
        met, values = met[order], values[order]
        near, valid = batched(space.neighbors)(np.resize(met, (CLIMBERS, met.shape[1])))
        # All of them are predicted, those that are no use as well: so nothing is compiled for another number.
        near = np.asarray(batched(space.canonical)(near.reshape(-1, near.shape[-1])))
        useful, known = np.asarray(valid).reshape(-1) & within(near), set(map(tuple, met.tolist()))
        pairs = zip(map(tuple, near[useful].tolist()), predict(near)[useful], strict=True)
        new = {arch: value for arch, value in pairs if arch not in known}
        least = values[CLIMBERS - 1] if len(values) >= CLIMBERS else -np.inf
        if max(new.values(), default=-np.inf) <= least:
            break
        met = np.concatenate([met, np.array(list(new), met.dtype)])
        values = np.concatenate([values, np.array(list(new.values()))])
    order = np.argsort(-values, kind="stable")
    return met[order], values[order]


def strongest(space: SearchSpace, archs: np.ndarray, values: np.ndarray) -> list[Pair]:
    """The pairs of slots that explain most, as many as a program bears."""
    options = max(value.shape[1] for value in jax.eval_shape(space.template).values())
    return strongest_pairs(space, archs, values, max(1, MOST_PRODUCTS // options**2))


def by_integer_program(
    score: Score, space: SearchSpace, budget: Budget, key: Key, evaluations: int, predictor: str
) -> tuple[dict[tuple[int, ...], float], dict[str, float]]:
    """Scores of random architectures within the budget, and of those that `nominate` names after them, in rounds.

    Three quarters of the evaluations are of random ones. Also tells how well a sum over single options does: R² and
    Kendall's tau on the half of the random ones that a fit to the other half has not seen, where they differ at all.
    """
    structure = program_of(space, budget)
    fit_key, ask_key, key = jax.random.split(key, 3)
    own = CachedScore(score, space.canonical)
    archs, _ = feasible_samples(space, budget, key, evaluations - evaluations // 4)
    values = own(archs)
    half = len(archs) // 2
    told: dict[str, float] = {}
    if half >= 2 and np.ptp(values[half:]) > 0:
        seen = fit_additive(space, archs[:half], values[:half])
        of_sum = additivity(space, seen, archs[half:], values[half:])
        told = {name: value for name, value in of_sum._asdict().items() if np.isfinite(value)}
    fit = fitter(space, budget, predictor, evaluations)
    asked, _ = feasible_samples(space, budget, ask_key, ASKED)
    asked = np.unique(np.asarray(batched(space.canonical)(asked)), axis=0)

    def within(archs: np.ndarray) -> np.ndarray:
        return excess(budget, archs) == 0.0

    if len(asked) < 2:
        return own.values, told  # the budget leaves one alone
    if len(own.values) < 2:
        own(asked[:2])  # of one nothing can be learned
    size = -(-(evaluations // 4) // ROUNDS)
    for number in range(ROUNDS):
        left = min(evaluations - len(own.values), size)
        if left < 1:
            break
        archs, values = np.array(list(own.values), np.int32), np.array(list(own.values.values()))
        predict, added = fit(jax.random.fold_in(fit_key, number), archs, values), sum_of(space, archs, values)
        named = []
        for each in (predict, added):
            answers = each(asked)
            named.append(nominate(space, structure, budget.constraints, within, each, asked, answers)[0])
        found = np.array([arch for both in itertools.zip_longest(*named) for arch in both if arch is not None])
        new = [arch for arch in dict.fromkeys(map(tuple, found.tolist())) if arch not in own.values]
        if not new:
            break
        own(np.array(new[:left]))
    return own.values, told


def sum_of(space: SearchSpace, archs: np.ndarray, values: np.ndarray) -> Predict:
    """What single options and the strongest pairs of them, fitted to values [P] of archs [P, D], add up to."""
    pairs = strongest(space, archs, values)
    fit = fit_pairwise(space, archs, values, pairs)
    return lambda archs: pairwise_sums(space, fit, archs, pairs)


def fitter(
    space: SearchSpace, budget: Budget, name: str, most: int
) -> Callable[[Key, np.ndarray, np.ndarray], Predict]:
    """(key, archs [P, D], values [P]) -> predictions as normal scores, of the predictor of that name; P is at most
    `most`, to which data are filled up, so that nothing is compiled twice.
    """
    predictor, graph = PREDICTORS[name](space, budget), graphs(space, budget)

    @jax.jit
    def learn(key: Key, archs: Array, values: Array, weight: Array) -> Any:
        init_key, key = jax.random.split(key)
        targets = predictors.normal_scores(values, weight)
        return predictor.fit(key, predictor.init(init_key), jax.vmap(graph)(archs), targets, weight)

    answer = jax.jit(lambda state, archs: predictor.predict(state, jax.vmap(graph)(archs))[0])

    def fit(key: Key, archs: np.ndarray, values: np.ndarray) -> Predict:
        rows = np.arange(max(most, len(values)))
        there = rows < len(values)
        weight = jnp.asarray(there, jnp.float32)
        state = learn(key, jnp.asarray(archs[rows * there]), jnp.asarray(values[rows * there], jnp.float32), weight)
        return lambda archs: np.asarray(answer(state, jnp.asarray(filled(archs))))[: len(archs)]

    return fit


def fitted(space: SearchSpace, budget: Budget, name: str, archs: np.ndarray, values: np.ndarray, key: Key) -> Predict:
    """archs [P, D] -> predictions [P], as normal scores, of the predictor of that name that has seen some scores."""
    return fitter(space, budget, name, len(values))(key, archs, values)
