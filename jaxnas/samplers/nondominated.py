"""Evolution by non-dominated sorting (NSGA-II, Deb et al. 2002, https://doi.org/10.1109/4235.996017).

A point dominates another where it is at least as good in every objective and better in one. Front 0 is what nothing
dominates, front k what only earlier fronts dominate. Of parents and children together the best P survive: by front,
within a front by crowding distance (the size of the gap that a point leaves among its neighbors, in each objective).
Parents win a tournament of two by the same order; a child is their uniform crossover with one choice changed.

What deviates: an architecture is kept once, for on a finite space copies would fill the population; and the mutation
changes exactly one choice.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Array, Candidates, Key, Sampler
from jaxnas.samplers.moves import Moves, samples, several, whole


class NondominatedState(NamedTuple):
    """archs: int32 [P, D], best first. objectives: float32 [P, M]. fronts: int32 [P], P + P where there is none yet."""

    archs: Array
    objectives: Array
    fronts: Array
    asked: Array


def nondominated(moves: Moves, objectives: int, *, population: int = 50) -> Sampler:
    """Asks for P children at a time and maximizes M objectives; `best` is front 0 of the population.

    moves: a space, or the moves of a table. objectives: M. population: P.

    A front that is larger than the population loses its most crowded members.

    Raises: ValueError where `population` is less than 2 or `objectives` less than 1.

    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2)})
    >>> sampler = nondominated(space, objectives=2, population=10)
    >>> state = sampler.init(jax.random.key(0))
    >>> candidates = jax.eval_shape(sampler.ask, jax.random.key(1), state)
    >>> candidates.archs.shape, state.objectives.shape
    ((10, 2), (10, 2))
    """
    if population < 2:
        raise ValueError(f"population must be at least 2, got {population}")
    if objectives < 1:
        raise ValueError(f"objectives must be at least 1, got {objectives}")
    nowhere = 2 * population

    def init(key: Key) -> NondominatedState:
        return NondominatedState(
            samples(moves, key, population),
            jnp.full((population, objectives), -jnp.inf, jnp.float32),
            jnp.full(population, nowhere, jnp.int32),
            jnp.int32(0),
        )

    def ask(key: Key, state: NondominatedState) -> Candidates:
        def child(key: Key) -> Array:
            parents_key, cross_key, mutate_key = jax.random.split(key, 3)
            drawn = (jax.random.uniform(parents_key, (2, 2)) * population).astype(jnp.int32)
            a, b = state.archs[drawn.min(axis=1)]  # the best come first
            return moves.mutate(mutate_key, moves.crossover(cross_key, a, b))

        children = jax.vmap(child)(jax.random.split(key, population))
        return whole(jnp.where(state.asked == 0, state.archs, children))

    def tell(
        key: Key, state: NondominatedState, candidates: Candidates, values: Array, valid: Array
    ) -> NondominatedState:
        del key
        archs = jnp.concatenate([state.archs, candidates.archs])
        merged = jnp.concatenate([state.objectives, several(candidates, values, valid, objectives)])
        same = (archs[:, None] == archs[None]).all(axis=2)
        # A copy is dropped where an earlier one has a value; parents come first.
        known = (merged > -jnp.inf).all(axis=1)
        earlier = jnp.tri(nowhere, k=-1, dtype=bool)
        there = known & ~(same & earlier & known[None]).any(axis=1)
        ranks = jnp.where(there, fronts(merged, there), nowhere)
        order = jnp.lexsort((-crowding(merged, ranks), ranks))[:population]
        return NondominatedState(
            archs[order],
            jnp.where((ranks < nowhere)[order][:, None], merged[order], -jnp.inf),
            ranks[order],
            state.asked + 1,
        )

    def best(state: NondominatedState) -> Array:
        return jnp.where((state.fronts == 0)[:, None], state.archs, state.archs[:1])

    return Sampler(init, ask, tell, best)


def dominates(objectives: Array) -> Array:
    """objectives [N, M] to be maximized -> bool [N, N], entry (i, j) true where i dominates j."""
    a, b = objectives[:, None], objectives[None]
    return (a >= b).all(axis=2) & (a > b).any(axis=2)


def fronts(objectives: Array, there: Array) -> Array:
    """The front of each point, int32 [N], among the points that are `there`, bool [N].

    It is the length of the longest chain of points that dominate each other and end here.
    """
    above = dominates(objectives) & there[:, None]

    def deepen(state: tuple[Array, Array]) -> tuple[Array, Array]:
        depth, _ = state
        longer = jnp.where(above, depth[:, None] + 1, 0).max(axis=0)
        return longer, (longer != depth).any()

    depth = jnp.zeros(len(objectives), jnp.int32)
    return jax.lax.while_loop(lambda state: state[1], deepen, (depth, jnp.bool_(True)))[0]


def crowding(objectives: Array, ranks: Array) -> Array:
    """The crowding distance of each point, float32 [N], within its front; infinite at the ends of a front."""
    total = jnp.zeros(len(objectives), jnp.float32)
    for values in objectives.T:
        order = jnp.lexsort((values, ranks))
        value, rank = values[order], ranks[order]
        finite = jnp.isfinite(values)
        width = jnp.where(finite, values, -jnp.inf).max() - jnp.where(finite, values, jnp.inf).min()
        inner = (rank[2:] == rank[1:-1]) & (rank[:-2] == rank[1:-1])
        gap = (value[2:] - value[:-2]) / jnp.where(width > 0, width, 1.0)
        gaps = jnp.concatenate([jnp.full(1, jnp.inf), jnp.where(inner, gap, jnp.inf), jnp.full(1, jnp.inf)])
        total = total.at[order].add(jnp.where(jnp.isnan(gaps), 0.0, gaps))
    return total


def front(points: np.ndarray) -> np.ndarray:
    """The rows of points [N, 2], to be maximized, that no other dominates, the first objective falling; without NaN."""
    rows = np.flatnonzero(~np.isnan(points).any(axis=1))
    order = rows[np.lexsort((-points[rows, 1], -points[rows, 0]))]
    before = np.concatenate([[-np.inf], np.maximum.accumulate(points[order, 1])[:-1]])
    return order[points[order, 1] > before]
