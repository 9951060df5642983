"""Choosing an architecture by one-shot scores, within a budget: the second half of `experiments.one_shot`.

Every method asks for scores of so many architectures at most and keeps the best of those that it had scored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from experiments.one_shot_budget import Budget, excess, feasible_samples
from jaxnas import predictors, samplers
from jaxnas.base import Key, Sampler, SearchSpace
from jaxnas.hardware import Structure, additivity, fit_additive, solve
from jaxnas.predictors import Block
from jaxnas.train.path_score import CachedScore

Score = Callable[[Any], np.ndarray]
"""archs [P, D] -> scores [P]."""
BATCH = 5
"""How many a sampler asks for at a time."""


def evolution(space: SearchSpace, evaluations: int, population: int) -> Sampler:
    """Aging evolution; the paper of the single path has other rules of selection and crossover."""
    size = max(BATCH, min(population, evaluations // 2))
    return samplers.evolution(space, population=size, sample_size=max(2, size // 5), batch=BATCH)


def by_gaussian_process(space: SearchSpace, evaluations: int, population: int) -> Sampler:
    """Search guided by a Gaussian process on the options taken, which every space has."""
    options = max(len(choice.options) for choice in space.choices)
    example = jax.eval_shape(predictors.unconnected, jax.ShapeDtypeStruct((len(space.choices),), jnp.int32))
    predictor = predictors.gaussian_process([Block(predictors.one_hot(options))], example)
    return samplers.predictor_search(
        space,
        predictor,
        predictors.unconnected,
        capacity=2 * evaluations + 2 * population,  # what is over the budget is told without a score
        start=max(BATCH, min(population, evaluations // 2)),
        batch=BATCH,
    )


SAMPLERS: dict[str, Callable[[SearchSpace, int, int], Sampler]] = {
    "evolution": evolution,
    "predictor": by_gaussian_process,
}


def sampled(
    sampler: Sampler, score: Score, space: SearchSpace, budget: Budget, key: Key, evaluations: int
) -> dict[tuple[int, ...], float]:
    """What a sampler had scored, canonical architecture -> score, until there are `evaluations` of them.

    Constraints by Deb's rule (https://doi.org/10.1016/S0045-7825(99)00389-8): what is over the budget is worth minus
    its excess, less than anything within it, and is not scored. The sampler thus finds its way into the budget. It ends
    early where it finds nothing new any more.
    """
    own = CachedScore(score, space.canonical)
    init_key, ask_key = jax.random.split(key)
    state = jax.jit(sampler.init)(init_key)
    ask, tell = jax.jit(sampler.ask), jax.jit(sampler.tell)
    everything = jnp.ones(BATCH, bool)
    for number in range(20 * evaluations // BATCH + 20):
        candidates = ask(jax.random.fold_in(ask_key, number), state)
        if not bool(candidates.wanted.any()):
            break
        archs = np.asarray(candidates.archs)
        values = -excess(budget, archs)
        inside = np.flatnonzero((values == 0.0) & np.asarray(candidates.wanted))
        for row in inside:
            if len(own.values) < evaluations:
                values[row] = own(archs[row][None])[0]
        state = tell(state, candidates, jnp.asarray(values, jnp.float32)[:, None], everything)
        if len(own.values) >= evaluations:
            break
    return own.values


def program_of(space: SearchSpace, budget: Budget) -> Structure:
    """The structure of the integer program; raises ValueError where the space has none."""
    if budget.structure is None:
        raise ValueError(f"the costs of {space.name} do not add up, so there is no integer program: --search evolution")
    return budget.structure


def by_integer_program(
    score: Score, space: SearchSpace, budget: Budget, key: Key, evaluations: int
) -> tuple[dict[tuple[int, ...], float], dict[str, float]]:
    """Scores of random architectures, a sum fitted to them, and the best of the sum within the budget scored as well.

    Also tells how well such a sum does: R² and Kendall's tau on the half of the random ones that a fit to the other
    half has not seen, where they differ at all. Three quarters of the evaluations go to the fit.
    """
    structure = program_of(space, budget)
    own = CachedScore(score, space.canonical)
    best = evaluations // 4
    archs, _ = feasible_samples(space, budget, key, evaluations - best)
    values = own(archs)
    half = len(archs) // 2
    told: dict[str, float] = {}
    if half >= 2 and np.ptp(values[half:]) > 0:
        seen = fit_additive(space, archs[:half], values[:half])
        told = _finite(additivity(space, seen, archs[half:], values[half:])._asdict())
    scores = fit_additive(space, archs, values).scores
    solutions = solve(structure, scores, budget.constraints, best)
    own(np.stack([np.asarray(solution.arch) for solution in solutions]))
    return own.values, told


def _finite(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if np.isfinite(value)}


def agreement(scores: np.ndarray, truth: np.ndarray, tops: tuple[int, ...] = (1, 5, 10)) -> dict[str, float]:
    """Of scores [P] with what was measured [P]: Kendall's tau (b), Spearman's rho, and regrets.

    The regret of the top k is the best truth of all less the best among the k of the highest scores; of equal scores
    the first ones are taken. Equal scores throughout have neither tau nor rho.
    """
    order = np.argsort(-scores, kind="stable")
    regrets = {f"regret_top_{k}": float(truth.max() - truth[order[:k]].max()) for k in tops if k <= len(scores)}
    if np.ptp(scores) == 0 or np.ptp(truth) == 0:
        return regrets
    tau, rho = stats.kendalltau(scores, truth).statistic, stats.spearmanr(scores, truth).statistic
    return {"kendall": float(tau), "spearman": float(rho), **regrets}
