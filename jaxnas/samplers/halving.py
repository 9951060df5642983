"""Successive halving (Jamieson & Talwalkar 2016, https://arxiv.org/abs/1502.07943) and Hyperband (Li et al. 2018,
https://arxiv.org/abs/1603.06560) over the fidelities of a benchmark.

A bracket is a list of rungs. The first evaluates random architectures at a low fidelity, each further one the best of
the rung before at a higher fidelity. The best of all is the one with the greatest value at the highest fidelity that
any was evaluated at, for values of different fidelities do not compare.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxnas.base import Array, Candidates, Key, Sampler
from jaxnas.samplers.moves import Incumbent, Moves, better_of, no_incumbent, samples, single


class Rung(NamedTuple):
    """`size` architectures are evaluated at the fidelity of index `fidelity`.

    >>> halve = (Rung(size=8, fidelity=0), Rung(size=4, fidelity=1))
    >>> evaluations([halve])
    {0: 8, 1: 4}
    """

    size: int
    fidelity: int


Bracket = tuple[Rung, ...]


def successive_halving(count: int, fidelities: Sequence[int], eta: float = 3) -> Bracket:
    """The bracket that begins with `count` architectures. At each next fidelity it keeps one in `eta`, rounded down.

    fidelities: indices, rising. `eta` is also the ratio of cost that the paper assumes between them.

    Raises: ValueError where none is left for the last one, fidelities do not rise, or `eta` is not above 1.

    >>> successive_halving(9, fidelities=[0, 1, 2])
    (Rung(size=9, fidelity=0), Rung(size=3, fidelity=1), Rung(size=1, fidelity=2))
    """
    if eta <= 1:
        raise ValueError(f"eta must be greater than 1, got {eta}")
    # The small number keeps 9 = 3 ** 2 from being 8.999… with a broken eta.
    bracket = tuple(Rung(int(count / eta**i + 1e-9), fidelity) for i, fidelity in enumerate(fidelities))
    _check(bracket)
    return bracket


def hyperband(fidelities: Sequence[int], eta: float = 3) -> tuple[Bracket, ...]:
    """The brackets of one round of Hyperband, from the one with most halvings to plain random search.

    With F fidelities, bracket s = F - 1, …, 0 begins with ceil(F / (s + 1) eta^s) architectures at the fidelity s steps
    below the last. Raises like `successive_halving`.

    >>> [[rung.size for rung in bracket] for bracket in hyperband([0, 1, 2])]
    [[9, 3, 1], [5, 1], [3]]
    """
    if not fidelities:
        raise ValueError("there are no fidelities; give at least one")
    last = len(fidelities) - 1
    return tuple(
        successive_halving(int(np.ceil((last + 1) / (s + 1) * eta**s - 1e-9)), fidelities[last - s :], eta)
        for s in range(last, -1, -1)
    )


def evaluations(brackets: Iterable[Bracket]) -> dict[int, int]:
    """The exact budget of the brackets: fidelity -> the number of evaluations at it.

    >>> evaluations(hyperband([0, 1, 2]))
    {0: 9, 1: 8, 2: 5}
    """
    counts: dict[int, int] = {}
    for bracket in brackets:
        for rung in bracket:
            counts[rung.fidelity] = counts.get(rung.fidelity, 0) + rung.size
    return dict(sorted(counts.items()))


class HalvingState(NamedTuple):
    """step: int32 [], rungs done. archs: int32 [P, D], the last rung's, best first. usable: int32 [], how many have
    a value. incumbent: at fidelity `highest`, int32 [].
    """

    step: Array
    archs: Array
    usable: Array
    incumbent: Incumbent
    highest: Array


def halving(moves: Moves, brackets: Sequence[Bracket]) -> Sampler:
    """Asks for a whole rung at a time, padded to the size of the largest one. After the last rung it wants nothing.

    moves: a space, or the moves of a table. brackets: of `hyperband`, or some of `successive_halving`, one after
    another.

    An architecture that could not be evaluated is not promoted, so the next rung may be smaller.

    Raises: ValueError where there is no bracket, or counts rise or fidelities do not rise within one.

    >>> import jax
    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2)})
    >>> sampler = halving(space, hyperband([0, 1, 2]))
    >>> candidates = sampler.ask(jax.random.key(1), sampler.init(jax.random.key(0)))
    >>> int(candidates.wanted.sum()), set(candidates.fidelity.tolist())
    (9, {0})
    """
    if not brackets:
        raise ValueError("there are no brackets; give some of `hyperband` or `successive_halving`")
    for bracket in brackets:
        _check(bracket)
    counts = np.array([rung.size for bracket in brackets for rung in bracket], np.int32)
    fidelities = np.array([rung.fidelity for bracket in brackets for rung in bracket], np.int32)
    first = np.array([i == 0 for bracket in brackets for i in range(len(bracket))])
    most = int(counts.max())

    def init(key: Key) -> HalvingState:
        nothing = no_incumbent(moves)
        return HalvingState(jnp.int32(0), samples(moves, key, most), jnp.int32(0), nothing, jnp.int32(-1))

    def ask(key: Key, state: HalvingState) -> Candidates:
        at = jnp.minimum(state.step, len(counts) - 1)
        begins = jnp.asarray(first)[at]
        archs = jnp.where(begins, samples(moves, key, most), state.archs)
        count = jnp.where(state.step < len(counts), jnp.asarray(counts)[at], 0)
        count = jnp.where(begins, count, jnp.minimum(count, state.usable))
        return Candidates(archs, jnp.full(most, jnp.asarray(fidelities)[at]), jnp.arange(most) < count)

    def tell(key: Key, state: HalvingState, candidates: Candidates, objectives: Array, valid: Array) -> HalvingState:
        del key
        values, counted = single(candidates, objectives, valid)
        order = jnp.argsort(-values)
        fidelity = candidates.fidelity[0]
        any_counted = counted.any()
        higher = any_counted & (fidelity > state.highest)
        before = state.incumbent._replace(value=jnp.where(higher, -jnp.inf, state.incumbent.value))
        compared = jnp.where(fidelity >= state.highest, values, -jnp.inf)
        return HalvingState(
            state.step + 1,
            candidates.archs[order],
            counted.sum(dtype=jnp.int32),
            better_of(before, candidates.archs, compared),
            jnp.where(higher, fidelity, state.highest),
        )

    return Sampler(init, ask, tell, best=lambda state: state.incumbent.arch[None])


def rungs(brackets: Iterable[Bracket]) -> int:
    """The number of rungs of these brackets, which is the number of steps that a search over them takes.

    >>> rungs(hyperband([0, 1, 2]))
    6
    """
    return sum(len(bracket) for bracket in brackets)


def _check(bracket: Bracket) -> None:
    counts, fidelities = [rung.size for rung in bracket], [rung.fidelity for rung in bracket]
    if not bracket or min(counts) < 1:
        raise ValueError(f"each rung needs at least one architecture, got {counts}; begin with more, or fewer rungs")
    if counts != sorted(counts, reverse=True):
        raise ValueError(f"a rung takes from the one before and cannot be larger, got {counts}")
    if fidelities != sorted(set(fidelities)) or fidelities[0] < 0:
        raise ValueError(f"fidelities are indices from 0 and must rise from rung to rung, got {fidelities}")
