"""What samplers need of a space, and what they share in keeping the best one found."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxnas.base import Arch, Array, Candidates, Key


class Moves(Protocol):
    """The moves on a space, all traceable: those of a `SearchSpace` or of a `jaxnas.spaces.product.Product`."""

    @property
    def sample(self) -> Callable[[Key], Arch]: ...
    @property
    def mutate(self) -> Callable[[Key, Arch], Arch]: ...
    @property
    def crossover(self) -> Callable[[Key, Arch, Arch], Arch]: ...
    @property
    def neighbors(self) -> Callable[[Arch], tuple[Array, Array]]: ...


def samples(moves: Moves, key: Key, count: int) -> Array:
    """Architectures [count, D], uniform and independent."""
    return jax.vmap(moves.sample)(jax.random.split(key, count))


def length(moves: Moves) -> int:
    """D, the number of choices."""
    return int(jax.eval_shape(moves.sample, jax.random.key(0)).shape[0])


def whole(archs: Array) -> Candidates:
    """All of archs [P, D] at the highest fidelity."""
    return Candidates(archs, jnp.full(len(archs), -1, jnp.int32), jnp.ones(len(archs), bool))


class Incumbent(NamedTuple):
    """The best architecture so far. arch: int32 [D]. value: float32 [], -inf before the first."""

    arch: Array
    value: Array


def no_incumbent(moves: Moves) -> Incumbent:
    """Before the first evaluation."""
    return Incumbent(jnp.zeros(length(moves), jnp.int32), jnp.float32(-jnp.inf))


def better_of(incumbent: Incumbent, archs: Array, values: Array) -> Incumbent:
    """The incumbent, or the best of archs [P, D] where its value, of [P], is greater; the first among equals."""
    first = jnp.argmax(values) if len(values) > 1 else 0  # samplers mostly ask for one, and gathering is slow
    better = values[first] > incumbent.value
    return Incumbent(jnp.where(better, archs[first], incumbent.arch), jnp.where(better, values[first], incumbent.value))


def single(candidates: Candidates, objectives: Array, valid: Array) -> tuple[Array, Array]:
    """(values [P], counted bool [P]) of objectives [P, 1]; values are -inf where there was no evaluation.

    Raises: ValueError where there is not exactly one objective.
    """
    if objectives.ndim != 2 or objectives.shape[1] != 1:
        raise ValueError(
            f"this sampler maximizes one objective and takes [P, 1], got {objectives.shape}; "
            "`nondominated` and `predictor_front` take several"
        )
    counted = valid & candidates.wanted
    return jnp.where(counted, objectives[:, 0], -jnp.inf), counted


def several(candidates: Candidates, objectives: Array, valid: Array, number: int) -> Array:
    """The values [P, M] of objectives [P, M], -inf where there was no evaluation.

    Raises: ValueError where there are not `number` objectives of each candidate.
    """
    if objectives.shape != (len(candidates.archs), number):
        raise ValueError(f"objectives must be [{len(candidates.archs)}, {number}], got {list(objectives.shape)}")
    return jnp.where((valid & candidates.wanted)[:, None], objectives, -jnp.inf)
