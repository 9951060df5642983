"""What searches guided by predictors share: what was asked for, from what the next are chosen, and when to ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import jax
import jax.numpy as jnp

from jaxnas.base import Array, Candidates, Key
from jaxnas.samplers.moves import Moves, samples, whole


class Asked(Protocol):
    """A state that knows how many architectures were asked for, int32 []."""

    @property
    def used(self) -> Array: ...


State = TypeVar("State", bound=Asked)


def check_sizes(capacity: int, start: int, batch: int, pool: int, parents: int) -> None:
    """Raises ValueError where a number is below 1, the pool too small for the batch, or the capacity for the start."""
    for name, number in (("batch", batch), ("parents", parents), ("start", start)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    if pool < 2 * batch:
        raise ValueError(f"the pool must be at least twice the batch of {batch}, got {pool}")
    if capacity < start:
        raise ValueError(f"the capacity must be at least the start of {start}, got {capacity}")


def asking(
    moves: Moves, propose: Callable[[Key, State], tuple[Array, Array]], capacity: int, start: int, batch: int
) -> Callable[[Key, State], Candidates]:
    """The `ask` of a sampler: random architectures until `start` were asked for, then what `propose` says.

    propose: (key, state) -> (archs [batch, D], bool [batch], which of them are wanted). After `capacity` architectures
    nothing is wanted.
    """

    def ask(key: Key, state: State) -> Candidates:
        random_key, propose_key = jax.random.split(key)
        # Numbers, because keys that are given to both branches count as used twice where `vmap` computes both.
        numbers, kind = jax.random.key_data(jnp.stack([random_key, propose_key])), jax.random.key_impl(key)
        archs, wanted = jax.lax.cond(
            state.used < start,
            lambda: (samples(moves, jax.random.wrap_key_data(numbers[0], impl=kind), batch), jnp.ones(batch, bool)),
            lambda: propose(jax.random.wrap_key_data(numbers[1], impl=kind), state),
        )
        return whole(archs)._replace(wanted=wanted & (state.used + jnp.arange(batch) < capacity))

    return ask


def recorded(archs: Array, values: Array, used: Array, new: Array, new_values: Array) -> tuple[Array, Array, Array]:
    """(archs [C, D], values [C, …], used), with a batch written behind the first `used`, where there is room."""
    rows, batch = len(archs), len(new)
    at, there = jnp.minimum(used, rows - batch), used < rows

    def write(old: Array, new: Array) -> Array:
        return jnp.where(there, jax.lax.dynamic_update_slice_in_dim(old, new, at, axis=0), old)

    return write(archs, new), write(values, new_values), jnp.minimum(used + batch, rows)


def pool_of(key: Key, moves: Moves, parents: Array, count: Array, size: int) -> Array:
    """Architectures [size, D]: first mutants of the first `count` parents, of one change or two, then random ones."""

    def mutant(key: Key, place: Array) -> Array:
        first_key, second_key, again_key = jax.random.split(key, 3)
        child = moves.mutate(first_key, parents[place % jnp.clip(count, 1, len(parents))])
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
