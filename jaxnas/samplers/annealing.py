"""Simulated annealing (Kirkpatrick, Gelatt & Vecchi 1983, https://doi.org/10.1126/science.220.4598.671).

A walk from one architecture to the next. A copy of the current one with one choice changed is evaluated. It becomes the
current one if it is not worse, and otherwise with the probability of Metropolis et al. (1953),

    exp((value of the copy - value of the current one) / T).

The temperature T starts high and falls by the same factor with every evaluation. The walk is thus nearly free at first
and only climbs in the end. What is returned is the best of all that were evaluated.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnas.base import Array, Candidates, Key, Sampler
from jaxnas.samplers.moves import Incumbent, Moves, better_of, no_incumbent, single, whole


class AnnealingState(NamedTuple):
    """current: where the walk is; a value of -inf before the first evaluation. temperature: float32 [], of the next
    decision. incumbent: the best of all.
    """

    current: Incumbent
    temperature: Array
    incumbent: Incumbent


def simulated_annealing(moves: Moves, *, temperature: float, cooling: float) -> Sampler:
    """Asks for one architecture at a time; the first is random.

    moves: a space, or the moves of a table. temperature: of the first decision, in the unit of the objective. A
    neighbor that is worse by one temperature is accepted in 37 of 100 cases. cooling: after every evaluation the
    temperature is multiplied by this factor. With 0.01 ** (1 / N) it falls to a hundredth within N evaluations. A
    candidate that could not be evaluated is not accepted, and the temperature stays.

    Raises: ValueError where the temperature is not positive and finite, or `cooling` is not above 0 and at most 1.

    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2)})
    >>> sampler = simulated_annealing(space, temperature=8.0, cooling=0.5)
    >>> state, ask, tell = sampler.init(jax.random.key(0)), jax.jit(sampler.ask), jax.jit(sampler.tell)
    >>> for ask_key, tell_key in jax.random.split(jax.random.key(1), (3, 2)):
    ...     candidates = ask(ask_key, state)
    ...     state = tell(tell_key, state, candidates, jnp.ones((1, 1)), candidates.wanted)
    >>> float(state.temperature)  # the first of the three architectures is no step
    2.0
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    if not 0 < cooling <= 1:
        raise ValueError(f"cooling must be greater than 0 and at most 1, got {cooling}")

    def init(key: Key) -> AnnealingState:
        del key
        nothing = no_incumbent(moves)
        return AnnealingState(nothing, jnp.float32(temperature), nothing)

    def ask(key: Key, state: AnnealingState) -> Candidates:
        sample_key, mutate_key = jax.random.split(key)
        walking = state.current.value > -jnp.inf
        arch = jnp.where(walking, moves.mutate(mutate_key, state.current.arch), moves.sample(sample_key))
        return whole(arch[None])

    def tell(
        key: Key, state: AnnealingState, candidates: Candidates, objectives: Array, valid: Array
    ) -> AnnealingState:
        values, counted = single(candidates, objectives, valid)
        value, walking = values[0], state.current.value > -jnp.inf
        gain = value - state.current.value
        # Equal values are compared apart: a temperature that has fallen to 0 makes their quotient NaN.
        accepted = (gain >= 0) | (jax.random.uniform(key) < jnp.exp(gain / state.temperature))
        moved = counted[0] & (accepted | ~walking)
        current = Incumbent(
            jnp.where(moved, candidates.archs[0], state.current.arch), jnp.where(moved, value, state.current.value)
        )
        cooled = jnp.where(counted[0] & walking, state.temperature * cooling, state.temperature)
        return AnnealingState(current, cooled, better_of(state.incumbent, candidates.archs, values))

    return Sampler(init, ask, tell, best=lambda state: state.incumbent.arch[None])
