"""Local search (White et al. 2021, https://arxiv.org/abs/2005.02960, algorithm 1).

From a random architecture: evaluate all neighbors, move to the best of them, until none is better; then start again
from another random one. Neighbors come in random order, one at a time, and those that the previous center had too are
not evaluated twice.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnas.base import Array, Candidates, Key, Sampler
from jaxnas.samplers.moves import Incumbent, Moves, better_of, no_incumbent, single, whole


class LocalSearchState(NamedTuple):
    """center: its arch and value; -inf asks for a new start. around: the best neighbor so far. left: bool [M], to do.

    incumbent: the best of all starts.
    """

    center: Incumbent
    around: Incumbent
    left: Array
    incumbent: Incumbent


def local_search(moves: Moves) -> Sampler:
    """Asks for one architecture at a time. moves: a space, or the moves of a table.

    >>> from jaxnas.spaces import product_space
    >>> sampler = local_search(product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2)}))
    >>> state = sampler.init(jax.random.key(0))
    >>> candidates = jax.eval_shape(sampler.ask, jax.random.key(1), state)
    >>> candidates.archs.shape, state.left.shape  # an architecture has three neighbors
    ((1, 2), (3,))
    """

    def init(key: Key) -> LocalSearchState:
        del key
        nothing = no_incumbent(moves)
        count = jax.eval_shape(moves.neighbors, nothing.arch)[1].shape
        return LocalSearchState(nothing, nothing, jnp.zeros(count, bool), nothing)

    def ask(key: Key, state: LocalSearchState) -> Candidates:
        start_key, order_key = jax.random.split(key)
        archs, _ = moves.neighbors(state.center.arch)
        # The first of those left after a random place, around the end: one draw where a permutation takes M.
        count = len(state.left)
        turn = (jax.random.uniform(order_key) * count).astype(jnp.int32)
        place = jnp.argmax(jnp.where(state.left, (jnp.arange(count) + turn) % count, -1))
        climbing = state.center.value > -jnp.inf
        return whole(jnp.where(climbing, archs[place], moves.sample(start_key))[None])

    def tell(
        key: Key, state: LocalSearchState, candidates: Candidates, objectives: Array, valid: Array
    ) -> LocalSearchState:
        del key
        values, _ = single(candidates, objectives, valid)
        arch, value = candidates.archs[0], values[0]
        nothing = Incumbent(arch, jnp.float32(-jnp.inf))
        archs, _ = moves.neighbors(state.center.arch)
        starting = state.center.value == -jnp.inf
        around = _where(starting, nothing, better_of(state.around, candidates.archs, values))
        left = state.left & (archs != arch[None]).any(axis=1) & ~starting
        move = ~starting & ~left.any() & (around.value > state.center.value)
        center = _where(starting, Incumbent(arch, value), _where(move, around, state.center))
        # What is left around a new center; from the old one all that differed in one choice are known.
        archs, exists = moves.neighbors(center.arch)
        known = (archs != state.center.arch[None]).sum(axis=1) <= 1
        left = jnp.where(starting, exists, jnp.where(move, exists & ~known, left))
        again = ~left.any()  # also where a new start has no neighbor
        center = center._replace(value=jnp.where(again, -jnp.inf, center.value))
        incumbent = better_of(state.incumbent, candidates.archs, values)
        return LocalSearchState(center, _where(move, nothing, around), left, incumbent)

    return Sampler(init, ask, tell, best=lambda state: state.incumbent.arch[None])


def _where(condition: Array, a: Incumbent, b: Incumbent) -> Incumbent:
    return Incumbent(jnp.where(condition, a.arch, b.arch), jnp.where(condition, a.value, b.value))
