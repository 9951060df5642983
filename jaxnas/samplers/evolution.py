"""Regularized (aging) evolution (Real et al. 2019, https://arxiv.org/abs/1802.01548, algorithm 1).

The population is a queue of P architectures, random at first. Then, again and again: of `sample_size` members drawn
with replacement the best is the parent; a copy with one choice changed is evaluated and appended; the oldest member is
dropped, however good it is. What is returned is the best of all that were evaluated.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnas.base import Array, Candidates, Key, Sampler
from jaxnas.samplers.moves import Incumbent, Moves, better_of, no_incumbent, samples, single, whole


class EvolutionState(NamedTuple):
    """archs: int32 [P, D], a ring. values: float32 [P], -inf where not evaluated. born: int32 [], members so far.

    Member n lies at n mod P. The first P are drawn at once by `init` and wait there for their evaluation.
    """

    archs: Array
    values: Array
    born: Array
    incumbent: Incumbent


def evolution(moves: Moves, *, population: int = 50, sample_size: int = 10, batch: int = 1) -> Sampler:
    """Asks for `batch` children at a time, whose parents come from the same population.

    moves: a space, or the moves of a table. population: P. sample_size: of how many members the parent is the best.

    A child that could not be evaluated is not appended to the queue. Of the first P, such a member stays in the queue
    and loses against every member that was evaluated.

    Raises: ValueError where a number is less than 1, or `sample_size` or `batch` exceeds `population`.

    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2)})
    >>> sampler = evolution(space, population=20, sample_size=5)
    >>> state = jax.eval_shape(sampler.init, jax.random.key(0))
    >>> state.archs.shape, jax.eval_shape(sampler.ask, jax.random.key(1), state).archs.shape
    ((20, 2), (1, 2))
    """
    for name, value in (("population", population), ("sample_size", sample_size), ("batch", batch)):
        if not 1 <= value <= population:
            raise ValueError(f"{name} must be at least 1 and at most the population of {population}, got {value}")

    def init(key: Key) -> EvolutionState:
        values = jnp.full(population, -jnp.inf, jnp.float32)
        return EvolutionState(samples(moves, key, population), values, jnp.int32(0), no_incumbent(moves))

    def ask(key: Key, state: EvolutionState) -> Candidates:
        def one(key: Key, number: Array) -> Array:
            sample_key, mutate_key = jax.random.split(key)
            # As floats: integers in a range take three draws, which is most of the time to compile.
            drawn = (jax.random.uniform(sample_key, (sample_size,)) * population).astype(jnp.int32)
            parent = drawn[jnp.argmax(state.values[drawn])]
            waiting = number < population
            arch = state.archs[jnp.where(waiting, number, parent)]
            return jnp.where(waiting, arch, moves.mutate(mutate_key, arch))

        if batch == 1:
            return whole(one(key, state.born)[None])
        return whole(jax.vmap(one)(jax.random.split(key, batch), state.born + jnp.arange(batch)))

    def tell(
        key: Key, state: EvolutionState, candidates: Candidates, objectives: Array, valid: Array
    ) -> EvolutionState:
        del key
        values, counted = single(candidates, objectives, valid)
        incumbent = better_of(state.incumbent, candidates.archs, values)
        counted |= state.born + jnp.arange(batch) < population
        number = state.born + jnp.cumsum(counted, dtype=jnp.int32) - 1
        # [P, B], true where the candidate takes that place; written out because scattering is slow on a CPU.
        takes = (jnp.arange(population)[:, None] == (number % population)[None]) & counted[None]
        taken = takes.any(axis=1)
        archs = candidates.archs
        if batch > 1:
            which = jnp.argmax(takes, axis=1)
            archs, values = archs[which], values[which]
        return EvolutionState(
            jnp.where(taken[:, None], archs, state.archs),
            jnp.where(taken, values, state.values),
            state.born + counted.sum(dtype=jnp.int32),
            incumbent,
        )

    return Sampler(init, ask, tell, best=lambda state: state.incumbent.arch[None])
