"""Search guided by a predictor: fit, propose, evaluate, and again (BANANAS, White et al. 2021,
https://arxiv.org/abs/1910.11858, algorithm 1, for any predictor and acquisition).

The first architectures are random. Then the predictor is fitted to all that were measured, their values as normal
scores, and asked about a pool of architectures not measured yet: half of it mutants of the best ones, of one change or
two, the other half random. An acquisition gives each a score from its predicted mean and std, and the highest are
evaluated next.

What deviates: the pool is part random, so that no optimum is out of reach; and each fit begins anew, so that a step
depends on nothing but what was measured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnas.base import Arch, Array, Candidates, Graph, Key, Predictor, Sampler
from jaxnas.predictors.losses import normal_scores
from jaxnas.samplers.asked import asking, check_sizes, fresh, pool_of, recorded
from jaxnas.samplers.moves import Incumbent, Moves, better_of, length, no_incumbent, single

Acquisition = Callable[[Key, Array, Array, Array], Array]
"""(key, mean [Q], std [Q], the best target so far []) -> scores [Q]."""


def expected_improvement(key: Key, mean: Array, std: Array, best: Array) -> Array:
    """E max(y - best, 0) of a normal y (Jones et al. 1998, https://doi.org/10.1023/A:1008306431147, equation 15).

    >>> mean, std = jnp.zeros(1), jnp.ones(1)
    >>> round(float(expected_improvement(jax.random.key(0), mean, std, 0.0)[0]), 3)  # 1 / sqrt(2 pi)
    0.399
    """
    del key
    std = jnp.maximum(std, 1e-6)
    z = (mean - best) / std
    return std * (z * jax.scipy.stats.norm.cdf(z) + jax.scipy.stats.norm.pdf(z))


def thompson(key: Key, mean: Array, std: Array, best: Array) -> Array:
    """One draw of each y, independent, as BANANAS has it.

    >>> thompson(jax.random.key(0), jnp.array([0.5, 0.25]), jnp.zeros(2), 0.0).tolist()  # without doubt, the mean
    [0.5, 0.25]
    """
    del best
    return mean + std * jax.random.normal(key, mean.shape)


def upper_confidence(factor: float) -> Acquisition:
    """mean + factor · std; 0 follows the mean alone.

    >>> upper_confidence(2.0)(jax.random.key(0), jnp.array([0.5, 0.25]), jnp.array([0.0, 0.25]), 0.0).tolist()
    [0.5, 0.75]
    """
    return lambda key, mean, std, best: mean + factor * std


class PredictorSearchState(NamedTuple):
    """archs: int32 [C, D], all that were asked for, in turn. values: float32 [C], -inf where there is none.

    used: int32 [], how many rows are.
    """

    archs: Array
    values: Array
    used: Array
    incumbent: Incumbent


def predictor_search(
    moves: Moves,
    predictor: Predictor,
    graph: Callable[[Arch], Graph],
    *,
    capacity: int,
    start: int = 20,
    batch: int = 5,
    pool: int = 200,
    parents: int = 10,
    acquisition: Acquisition = expected_improvement,
) -> Sampler:
    """Asks for `batch` architectures at a time. After the random start it never asks for one twice.

    moves: a space, or the moves of a table. graph: arch -> the graph that the predictor reads; traceable. capacity: the
    most evaluations; after them the sampler wants nothing. start: the number of random architectures at the start,
    rounded up to whole batches. pool: how many architectures the predictor is asked about at a time. parents: from how
    many of the best the mutants of the pool come. acquisition: `expected_improvement`, `thompson`,
    `upper_confidence(…)` or one of your own.

    Under `vmap` the predictor is also fitted during the random start, and its predictions are not used then.

    Raises: ValueError where a number is less than 1, the pool too small for the batch, or the capacity for the start.

    >>> from jaxnas.predictors import Block, gaussian_process, operation_counts
    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2)})
    >>> example = space.graph(jnp.zeros(2, jnp.int32))
    >>> predictor = gaussian_process([Block(operation_counts(range(5)))], example)
    >>> sampler = predictor_search(space, predictor, space.graph, capacity=6, start=2, batch=1, pool=20)
    >>> state = sampler.init(jax.random.key(0))
    >>> jax.eval_shape(sampler.ask, jax.random.key(1), state).archs.shape
    (1, 2)
    """
    check_sizes(capacity, start, batch, pool, parents)
    rows = -(-capacity // batch) * batch

    def init(key: Key) -> PredictorSearchState:
        del key
        values = jnp.full(rows, -jnp.inf, jnp.float32)
        return PredictorSearchState(
            jnp.zeros((rows, length(moves)), jnp.int32), values, jnp.int32(0), no_incumbent(moves)
        )

    def propose(key: Key, state: PredictorSearchState) -> tuple[Array, Array]:
        """(archs [batch, D], bool [batch]: whether there was so much that is new in the pool)."""
        fit_key, init_key, pool_key, acquisition_key = jax.random.split(key, 4)
        weight = (state.values > -jnp.inf).astype(jnp.float32)
        targets = normal_scores(state.values, weight)
        graphs = jax.vmap(graph)(state.archs)
        fitted = predictor.fit(fit_key, predictor.init(init_key), graphs, targets, weight)
        _, best = jax.lax.top_k(state.values, min(parents, rows))
        archs = pool_of(pool_key, moves, state.archs[best], state.used, pool)
        mean, std = predictor.predict(fitted, jax.vmap(graph)(archs))
        scores = acquisition(acquisition_key, mean, std, jnp.where(weight > 0, targets, -jnp.inf).max())
        new = fresh(archs, state.archs, state.used)
        _, chosen = jax.lax.top_k(jnp.where(new, scores, -jnp.inf), batch)
        return archs[chosen], new[chosen]

    def tell(
        key: Key, state: PredictorSearchState, candidates: Candidates, objectives: Array, valid: Array
    ) -> PredictorSearchState:
        del key
        values, _ = single(candidates, objectives, valid)
        after = recorded(state.archs, state.values, state.used, candidates.archs, values)
        return PredictorSearchState(*after, better_of(state.incumbent, candidates.archs, values))

    ask = asking(moves, propose, capacity, start, batch)
    return Sampler(init, ask, tell, best=lambda state: state.incumbent.arch[None])
