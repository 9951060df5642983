"""Choosing an architecture by one-shot scores, within a budget: the second half of `experiments.one_shot`.

Every method asks for scores of so many architectures at most and keeps the best of those that it had scored.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from experiments.one_shot_budget import Budget, excess, feasible_samples
from experiments.one_shot_predictors import PREDICTORS, graphs
from experiments.scoring import Score
from jaxnas import predictors, samplers
from jaxnas.base import Key, Sampler, SearchSpace
from jaxnas.hardware import Structure, additivity, fit_additive, solve
from jaxnas.search import weakest_by_marginal
from jaxnas.train.path_score import CachedScore

BATCH = 5
"""How many a sampler asks for at a time."""
MOST_SOLVED = 200
"""Next-best solutions of an integer program; each makes the next one dearer to find."""


def evolution(space: SearchSpace, evaluations: int, population: int) -> Sampler:
    """Aging evolution; the paper of the single path has other rules of selection and crossover."""
    size = max(BATCH, min(population, evaluations // 2))
    return samplers.evolution(space, population=size, sample_size=max(2, size // 5), batch=BATCH)


def guided(space: SearchSpace, budget: Budget, name: str, evaluations: int, population: int) -> Sampler:
    """Search guided by the predictor of that name."""
    return samplers.predictor_search(
        space,
        PREDICTORS[name](space, budget),
        graphs(space, budget),
        capacity=2 * evaluations + 2 * population,  # what is over the budget is told without a score
        start=max(BATCH, min(population, evaluations // 2)),
        batch=BATCH,
    )


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
        # As many at a time as devices can share; of those, some may turn out to be known.
        while len(inside) and len(own.values) < evaluations:
            now, inside = np.split(inside, [evaluations - len(own.values)])
            values[now] = own(archs[now])
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
    score: Score, space: SearchSpace, budget: Budget, key: Key, evaluations: int, predictor: str
) -> tuple[dict[tuple[int, ...], float], dict[str, float]]:
    """Scores of random architectures, a sum fitted to them, and some of the best of the sum within the budget.

    The best of a sum is a weak pick where scores do not quite add up. So of four times as many next-best solutions as
    are going to be scored (200 at most), a predictor that saw the same scores says which. Three quarters of the
    evaluations go to the fit. Also tells how well such a sum does: R² and Kendall's tau on the half of the random ones
    that a fit to the other half has not seen, where they differ at all.
    """
    fit_key, key = jax.random.split(key)
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
    solutions = solve(structure, scores, budget.constraints, max(best, min(4 * best, MOST_SOLVED)))
    found = np.stack([np.asarray(solution.arch) for solution in solutions])
    found = found[excess(budget, found) == 0.0]  # a pruned space may read a solution as another architecture
    predict = fitted(space, budget, predictor, archs, values, fit_key)
    own(found[np.argsort(-predict(found), kind="stable")[:best]])
    return own.values, told


def fitted(
    space: SearchSpace, budget: Budget, name: str, archs: np.ndarray, values: np.ndarray, key: Key
) -> Callable[[np.ndarray], np.ndarray]:
    """archs [P, D] -> predictions [P], as normal scores, of the predictor of that name that has seen some scores."""
    predictor, graph = PREDICTORS[name](space, budget), jax.jit(jax.vmap(graphs(space, budget)))
    init_key, fit_key = jax.random.split(key)
    weight = jnp.ones(len(values))
    targets = predictors.normal_scores(jnp.asarray(values, jnp.float32), weight)
    state = jax.jit(predictor.fit)(fit_key, predictor.init(init_key), graph(jnp.asarray(archs)), targets, weight)
    predict = jax.jit(predictor.predict)
    return lambda archs: np.asarray(predict(state, graph(jnp.asarray(archs)))[0])


def weakest(
    score: Score, space: SearchSpace, budget: Budget, key: Key, evaluations: int, predictor: str | None
) -> tuple[tuple[int, ...], ...]:
    """What is left of every choice, in the space's own options, when those with more than two lose the weakest.

    By the mean score of random architectures within the budget that have the option; with a predictor, which has seen
    those, by what it predicts of 4,096.
    """
    sample_key, fit_key, more_key = jax.random.split(key, 3)
    archs, _ = feasible_samples(space, budget, sample_key, evaluations)
    values = score(archs)
    if predictor is not None:
        predict = fitted(space, budget, predictor, archs, values, fit_key)
        archs, _ = feasible_samples(space, budget, more_key, 4096)
        values = predict(archs)
    by_size = {
        size: weakest_by_marginal(space.choices, archs, values, max(size - 1, min(size, 2)))
        for size in {len(choice.options) for choice in space.choices}
    }
    return tuple(by_size[len(choice.options)][place] for place, choice in enumerate(space.choices))


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
