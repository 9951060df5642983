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
from jaxnas.samplers.moves import Incumbent, Moves, better_of, length, no_incumbent, samples, single, whole

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
        archs = _pool(pool_key, moves, state, pool, parents)
        mean, std = predictor.predict(fitted, jax.vmap(graph)(archs))
        scores = acquisition(acquisition_key, mean, std, jnp.where(weight > 0, targets, -jnp.inf).max())
        new = fresh(archs, state.archs, state.used)
        _, chosen = jax.lax.top_k(jnp.where(new, scores, -jnp.inf), batch)
        return archs[chosen], new[chosen]

    def ask(key: Key, state: PredictorSearchState) -> Candidates:
        random_key, propose_key = jax.random.split(key)
        # Numbers, because keys that are given to both branches count as used twice where `vmap` computes both.
        numbers, kind = jax.random.key_data(jnp.stack([random_key, propose_key])), jax.random.key_impl(key)
        archs, wanted = jax.lax.cond(
            state.used < start,
            lambda: (samples(moves, jax.random.wrap_key_data(numbers[0], impl=kind), batch), jnp.ones(batch, bool)),
            lambda: propose(jax.random.wrap_key_data(numbers[1], impl=kind), state),
        )
        return whole(archs)._replace(wanted=wanted & (state.used + jnp.arange(batch) < capacity))

    def tell(
        key: Key, state: PredictorSearchState, candidates: Candidates, objectives: Array, valid: Array
    ) -> PredictorSearchState:
        del key
        values, _ = single(candidates, objectives, valid)
        at = jnp.minimum(state.used, rows - batch)
        there = state.used < rows

        def write(old: Array, new: Array) -> Array:
            return jnp.where(there, jax.lax.dynamic_update_slice_in_dim(old, new, at, axis=0), old)

        return PredictorSearchState(
            write(state.archs, candidates.archs),
            write(state.values, values),
            jnp.minimum(state.used + batch, rows),
            better_of(state.incumbent, candidates.archs, values),
        )

    return Sampler(init, ask, tell, best=lambda state: state.incumbent.arch[None])


def check_sizes(capacity: int, start: int, batch: int, pool: int, parents: int) -> None:
    """Raises ValueError where a number is below 1, the pool too small for the batch, or the capacity for the start."""
    for name, number in (("batch", batch), ("parents", parents), ("start", start)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    if pool < 2 * batch:
        raise ValueError(f"the pool must be at least twice the batch of {batch}, got {pool}")
    if capacity < start:
        raise ValueError(f"the capacity must be at least the start of {start}, got {capacity}")


def _pool(key: Key, moves: Moves, state: PredictorSearchState, size: int, parents: int) -> Array:
    """Architectures [size, D]: first mutants of the `parents` best that were measured, then random ones."""
    _, best = jax.lax.top_k(state.values, min(parents, len(state.values)))

    def mutant(key: Key, place: Array) -> Array:
        first_key, second_key, again_key = jax.random.split(key, 3)
        parent = state.archs[best[place % jnp.clip(state.used, 1, len(best))]]
        child = moves.mutate(first_key, parent)
        return jnp.where(jax.random.bernoulli(again_key), moves.mutate(second_key, child), child)

    mutant_key, random_key = jax.random.split(key)
    half = size // 2
    mutants = jax.vmap(mutant)(jax.random.split(mutant_key, half), jnp.arange(half))
    return jnp.concatenate([mutants, samples(moves, random_key, size - half)])


def fresh(archs: Array, before: Array, used: Array) -> Array:
    """Which of archs [Q, D] are not among the first `used` of before [C, D] and do not stand earlier in the list."""
    asked = (archs[:, None] == before[None]).all(axis=2) & (jnp.arange(len(before)) < used)[None]
    repeated = jnp.tril((archs[:, None] == archs[None]).all(axis=2), -1)
    return ~(asked.any(axis=1) | repeated.any(axis=1))
