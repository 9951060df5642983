"""Choosing an architecture by scores, within a budget.

Every method asks for scores of so many architectures at most and keeps the best of those that it had scored.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from jaxnas import samplers
from jaxnas.base import Key, Sampler, SearchSpace
from jaxnas.fit.budget import Budget, excess, feasible_samples
from jaxnas.fit.predictors import PREDICTORS, graphs
from jaxnas.fit.programs import by_integer_program, fitted
from jaxnas.fit.scores import Scoring
from jaxnas.fit.scoring import Score
from jaxnas.samplers.nondominated import front
from jaxnas.search import weakest_by_marginal
from jaxnas.train.path_score import CachedScore

Way = Literal["evolution", "predictor", "ilp", "proxy"]
PREDICTOR = Literal["gp", "gnn", "gnn_gp"]
BATCH = 5
"""How many a sampler asks for at a time; one that fits a predictor each time asks for more."""


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
        batch=max(BATCH, evaluations // 10),  # a fit of graph networks takes as long as some hundred scores
    )


def sampler_of(
    by: Way, space: SearchSpace, budget: Budget, predictor: PREDICTOR, evaluations: int, population: int
) -> Sampler | None:
    """The sampler of a selection, None where it has none. Several selections by one sampler compile it once."""
    if by == "evolution":
        return evolution(space, evaluations, population)
    return guided(space, budget, predictor, evaluations, population) if by == "predictor" else None


def sampled(
    sampler: Sampler, score: Score, space: SearchSpace, budget: Budget, key: Key, evaluations: int
) -> dict[tuple[int, ...], float]:
    """What a sampler had scored, canonical architecture -> score, until there are `evaluations` of them.

    Constraints by Deb's rule (https://doi.org/10.1016/S0045-7825(99)00389-8): what is over the budget is not
    scored, and is worth the least of 0 and all scores so far, minus its excess. The sampler thus finds its way into the
    budget. It ends early where it finds nothing new any more.
    """
    own = CachedScore(score, space.canonical)
    init_key, ask_key, tell_key = jax.random.split(key, 3)
    state = jax.jit(sampler.init)(init_key)
    ask, tell = jax.jit(sampler.ask), jax.jit(sampler.tell)
    for number in range(20 * evaluations // BATCH + 20):
        candidates = ask(jax.random.fold_in(ask_key, number), state)
        if not bool(candidates.wanted.any()):
            break
        archs = np.asarray(candidates.archs)
        over = excess(budget, archs)
        values = np.where(over > 0.0, min([0.0, *own.values.values()]) - over, 0.0)
        inside = np.flatnonzero((over == 0.0) & np.asarray(candidates.wanted))
        # As many at a time as devices can share; of those, some may turn out to be known.
        while len(inside) and len(own.values) < evaluations:
            now, inside = np.split(inside, [evaluations - len(own.values)])
            values[now] = own(archs[now])
        told = jnp.asarray(values, jnp.float32)[:, None]
        state = tell(jax.random.fold_in(tell_key, number), state, candidates, told, jnp.ones(len(archs), bool))
        if len(own.values) >= evaluations:
            break
    return own.values


class Selected(NamedTuple):
    """What a selection chose. arch: int32 [D], with its score `value`. archs [N, D], scores [N]: all that were scored,
    in the order in which they were. additivity: of an integer program, how well a sum of parts explains scores that it
    has not seen."""

    arch: np.ndarray
    value: float
    archs: np.ndarray
    scores: np.ndarray
    additivity: dict[str, float] | None = None


def select(
    score: Score, space: SearchSpace, budget: Budget, *, by: Way = "evolution", predictor: PREDICTOR = "gnn_gp",
    evaluations: int = 200, population: int = 50, key: Key | None = None, rank: Score | None = None,
    ranked: int = 1000, sampler: Sampler | None = None,
) -> Selected:  # fmt: skip
    """The architecture of the highest score within a budget, of so many that are scored at most.

    score: archs int [P, D] -> float [P], of one-shot weights, a table, or a function of your own; it is asked nothing
    twice. budget: of `make_budget`. by: evolution, search guided by a predictor, or an integer program over options
    and pairs of them, which are fitted to what the predictor expects (`programs`); or "proxy": `rank`, a score that
    costs little, ranks `ranked` random architectures, and the first of them are scored. population: of the evolution;
    the random start of a search by a predictor. key: `jax.random.key(0)` by default. sampler: of `sampler_of` for the
    same settings, where several selections share one.

    Raises: ValueError for another `by` or predictor or fewer than 4 evaluations; where nothing within the budget was
    found; where the costs of the space do not add up for "ilp"; where `rank` is missing for "proxy".

    >>> from jaxnas.spaces import nasbench201_space
    >>> def convolutions(archs):  # in place of a trained supernet's score
    ...     return (archs == 3).sum(axis=1).astype(float)
    >>> budget = Budget({"macs": 1}, lambda archs: {"macs": convolutions(archs)}, None, (), {})
    >>> selected = select(convolutions, nasbench201_space(), budget, evaluations=20, population=10)
    >>> len(selected.scores), float(selected.value)
    (20, 1.0)
    """
    if by not in get_args(Way) or predictor not in PREDICTORS:
        ways, names = ", ".join(get_args(Way)), ", ".join(PREDICTORS)
        raise ValueError(f"by must be one of {ways}, and predictor one of {names}, got {by!r} and {predictor!r}")
    if evaluations < 4 or population < 1:
        raise ValueError(
            f"evaluations must be at least 4 and population at least 1, got {evaluations} and {population}"
        )
    key, told = jax.random.key(0) if key is None else key, None
    if by == "ilp":
        own, told = by_integer_program(score, space, budget, key, evaluations, predictor)
    elif by == "proxy":
        own = by_proxy(score, space, budget, key, evaluations, rank, ranked)
    else:
        sampler = sampler or sampler_of(by, space, budget, predictor, evaluations, population)
        assert sampler is not None
        own = sampled(sampler, score, space, budget, key, evaluations)
    if not own:
        raise ValueError(f"the selection by {by} found nothing within the budget; allow more, or select by ilp")
    archs, scores = np.array(list(own), np.int32), np.array(list(own.values()))
    best = int(np.argmax(scores))
    return Selected(archs[best], float(scores[best]), archs, scores, told)


def selected(
    way: Way, predictor: PREDICTOR, scoring: Scoring, space: SearchSpace, budget: Budget, score: Score, key: Key,
    random_key: Key, rank: Score | None = None, ranked: int = 1000, sampler: Sampler | None = None,
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:  # fmt: skip
    """The best within the budget of what the way had scored, and of as many random ones, in JSON's terms.

    Beside it, the architecture of the highest score so far after each evaluation of the way, int [N, D], and all that
    were scored, the random ones too, those of high scores first, int [M, D].
    """
    chosen = select(
        score, space, budget, by=way, predictor=predictor, evaluations=scoring.evaluations,
        population=scoring.population, key=key, rank=rank, ranked=ranked, sampler=sampler,
    )  # fmt: skip
    archs, values = chosen.archs, chosen.scores
    drawn, walked = feasible_samples(space, budget, random_key, len(archs))
    random_values = score(drawn)
    every, all_values = np.concatenate([archs, drawn]), np.concatenate([values, random_values])
    costs = budget.costs(every)

    def told(row: int) -> dict[str, Any]:
        return {
            "notation": space.notation(jnp.asarray(every[row])),
            "score": float(all_values[row]),
            **{name: float(value[row]) if name == "latency_ms" else int(value[row]) for name, value in costs.items()},
        }

    best_random = int(np.argmax(random_values))
    so_far = np.maximum.accumulate(np.where(values == np.maximum.accumulate(values), np.arange(len(values)), 0))
    return (
        {
            "genotype": space.to_genotype(jnp.asarray(chosen.arch)),
            "random_genotype": space.to_genotype(jnp.asarray(drawn[best_random])),
            "search": way,
            "batch_norm": scoring.batch_norm,
            "evaluations": len(archs),
            "random_evaluations": len(drawn),
            "random_by_walking": walked,
            "best_score": float(values.max()),
            "mean_score": float(values.mean()),
            "best_random_score": float(random_values.max()),
            "mean_random_score": float(random_values.mean()),
            "front": [told(int(row)) for row in front(np.stack([-costs["macs"], all_values], axis=1))],
            "points": {
                "search": {"macs": costs["macs"][: len(archs)].tolist(), "scores": values.tolist()},
                "random": {"macs": costs["macs"][len(archs) :].tolist(), "scores": random_values.tolist()},
            },
            **({} if chosen.additivity is None else {"additivity": chosen.additivity}),
        },
        archs[so_far],
        every[np.argsort(-all_values, kind="stable")],
    )


def by_proxy(
    score: Score, space: SearchSpace, budget: Budget, key: Key, evaluations: int, rank: Score | None, ranked: int
) -> dict[tuple[int, ...], float]:
    """Scores of the best `evaluations`, by `rank`, of `ranked` random architectures within the budget."""
    if rank is None or ranked < evaluations:
        raise ValueError(f"a filter by a proxy needs `rank`, and to rank at least {evaluations}, got {rank}, {ranked}")
    own = CachedScore(score, space.canonical)
    archs, _ = feasible_samples(space, budget, key, ranked)
    archs = np.unique(np.asarray(jax.jit(jax.vmap(space.canonical))(jnp.asarray(archs))), axis=0)
    own(archs[np.argsort(-np.nan_to_num(rank(archs), nan=-np.inf), kind="stable")[:evaluations]])
    return own.values


def weakest(
    score: Score, space: SearchSpace, budget: Budget, key: Key, evaluations: int, left: int, predictor: str | None
) -> tuple[tuple[int, ...], ...]:
    """What is left of every choice, in the space's own options, when those with more than `left` lose the weakest.

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
    return weakest_by_marginal(space.choices, archs, values, left)


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
