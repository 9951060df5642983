"""Search for a front of several objectives, guided by a predictor of each.

What is evaluated next is chosen as in ParEGO (Knowles 2006, https://doi.org/10.1109/TEVC.2005.851274): each choice
draws its own weights of the objectives, and takes the architecture of the least augmented Chebyshev distance to the
ideal point,

    max_m w_m (z_m - y_m) + 0.05 Σ_m w_m (z_m - y_m),

where z is the best of each objective so far. Random weights lead to all parts of the front, also to those that no
weighted sum reaches.

What deviates: each objective has a predictor of its own, where ParEGO has one of the distance; y is a draw from what
they predict (Thompson sampling) and not an expected improvement; objectives are normal scores, so that their units and
tails do not matter; and the pool holds mutants of the front so far, and random architectures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnas.base import Arch, Array, Candidates, Graph, Key, Predictor, Sampler
from jaxnas.predictors.losses import normal_scores
from jaxnas.samplers.asked import asking, check_sizes, fresh, pool_of, recorded
from jaxnas.samplers.moves import Moves, length, several
from jaxnas.samplers.nondominated import crowding, fronts

AUGMENTATION = 0.05


class PredictorFrontState(NamedTuple):
    """archs: int32 [C, D], all that were asked for, in turn. values: float32 [C, M], -inf where there is none.

    used: int32 [], how many rows are.
    """

    archs: Array
    values: Array
    used: Array


def predictor_front(
    moves: Moves,
    predictor: Predictor,
    graph: Callable[[Arch], Graph],
    objectives: int,
    *,
    capacity: int,
    start: int = 20,
    batch: int = 5,
    pool: int = 200,
    parents: int = 20,
) -> Sampler:
    """Asks for `batch` architectures at a time and maximizes M objectives; `best` is the front of all evaluated.

    moves: a space, or the moves of a table. predictor: fitted anew to each objective. graph: arch -> the graph that it
    reads; traceable. objectives: M. capacity: the most evaluations; after them the sampler wants nothing. start: the
    number of random architectures at the start, rounded up to whole batches. pool: how many architectures the
    predictors are asked about at a time. parents: from how many architectures the mutants of the pool come: the front,
    the least crowded first, then the fronts behind it.

    Raises: ValueError where a number is less than 1, the pool too small for the batch, or the capacity for the start.

    >>> from jaxnas.predictors import Block, gaussian_process, operation_counts
    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2)})
    >>> example = space.graph(jnp.zeros(2, jnp.int32))
    >>> predictor = gaussian_process([Block(operation_counts(range(5)))], example)
    >>> sampler = predictor_front(space, predictor, space.graph, objectives=2, capacity=6, start=2, batch=1, pool=20)
    >>> state = sampler.init(jax.random.key(0))
    >>> jax.eval_shape(sampler.ask, jax.random.key(1), state).archs.shape, state.values.shape
    ((1, 2), (6, 2))
    """
    if objectives < 1:
        raise ValueError(f"objectives must be at least 1, got {objectives}")
    check_sizes(capacity, start, batch, pool, parents)
    rows = -(-capacity // batch) * batch

    def init(key: Key) -> PredictorFrontState:
        del key
        archs = jnp.zeros((rows, length(moves)), jnp.int32)
        return PredictorFrontState(archs, jnp.full((rows, objectives), -jnp.inf, jnp.float32), jnp.int32(0))

    def propose(key: Key, state: PredictorFrontState) -> tuple[Array, Array]:
        """(archs [batch, D], bool [batch]: whether there was so much that is new in the pool)."""
        fit_key, init_key, pool_key, draw_key, weight_key = jax.random.split(key, 5)
        there = _there(state)
        weight = there.astype(jnp.float32)
        targets = jax.vmap(normal_scores, (1, None))(state.values, weight)  # [M, C]
        graphs = jax.vmap(graph)(state.archs)
        ranks = _ranks(state)
        first = jnp.lexsort((-crowding(state.values, ranks), ranks))[:parents]
        archs = pool_of(pool_key, moves, state.archs[first], there.sum(), pool)
        asked = jax.vmap(graph)(archs)

        def predicted(fit_key: Key, init_key: Key, targets: Array) -> tuple[Array, Array]:
            fitted = predictor.fit(fit_key, predictor.init(init_key), graphs, targets, weight)
            return predictor.predict(fitted, asked)

        keys = jax.random.split(fit_key, objectives), jax.random.split(init_key, objectives)
        mean, std = jax.vmap(predicted)(*keys, targets)  # [M, Q]
        drawn = mean[None] + std[None] * jax.random.normal(draw_key, (batch, *mean.shape))
        weights = jax.random.dirichlet(weight_key, jnp.ones(objectives), (batch,))
        ideal = jnp.where(there[None], targets, -jnp.inf).max(axis=1)
        places, new = _nearest(fresh(archs, state.archs, state.used), ideal[None, :, None] - drawn, weights)
        return archs[places], new

    def tell(
        key: Key, state: PredictorFrontState, candidates: Candidates, values: Array, valid: Array
    ) -> PredictorFrontState:
        del key
        told = several(candidates, values, valid, objectives)
        return PredictorFrontState(*recorded(*state, candidates.archs, told))

    def best(state: PredictorFrontState) -> Array:
        on_front = _ranks(state) == 0
        return jnp.where(on_front[:, None], state.archs, state.archs[jnp.argmax(on_front)][None])

    return Sampler(init, asking(moves, propose, capacity, start, batch), tell, best)


def _there(state: PredictorFrontState) -> Array:
    """Which rows have a value, bool [C]."""
    return (state.values > -jnp.inf).all(axis=1)


def _ranks(state: PredictorFrontState) -> Array:
    """The front of each row, int32 [C]; C where it has no value."""
    there = _there(state)
    return jnp.where(there, fronts(state.values, there), len(there))


def _nearest(left: Array, away: Array, weights: Array) -> tuple[Array, Array]:
    """One after another the architecture of the least augmented Chebyshev distance by each weights, none twice.

    left: bool [Q], which can be taken. away: float32 [B, M, Q], how far each is from the ideal point. weights: [B, M].

    Returns: (places int32 [B], bool [B]: whether there was one left).
    """
    weighted = weights[:, :, None] * away
    distance = weighted.max(axis=1) + AUGMENTATION * weighted.sum(axis=1)  # [B, Q]

    def take(left: Array, distance: Array) -> tuple[Array, tuple[Array, Array]]:
        place = jnp.argmin(jnp.where(left, distance, jnp.inf))
        return left.at[place].set(False), (place, left[place])

    return jax.lax.scan(take, left, distance)[1]
