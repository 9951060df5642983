"""A whole search on a tabular benchmark as one `lax.scan`, and many of them under `vmap`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnas.base import Array, Key, Sampler
from jaxnas.benchmarks.table import Table, measured, space_size


class Trace(NamedTuple):
    """What happened in T steps of P candidates each; of a step that asked again, what its last ask came to.

    rows: int32 [T, P], the evaluated row of the table; -1 where there was no evaluation. objectives: float32 [T, P, M],
    NaN there. evaluations: int32 [T], so far. seconds: float32 [T], simulated, so far; 0 without a time metric.
    best: int32 [T], the row of the first of the sampler's best; -1 before the first evaluation.
    """

    rows: Array
    objectives: Array
    evaluations: Array
    seconds: Array
    best: Array


ASKS_A_STEP = 100
"""So often, on average over a search, is a sampler asked for something that a table with gaps has."""

Carry = tuple[Any, Array, Array, Array]
"""The sampler's state, evaluations, seconds, and whether the budget of time is spent."""
Found = tuple[Array, Array]
"""Rows and objectives of a step, as in `Trace`."""
Search = Callable[[Key], tuple[Any, Trace]]
"""key -> (the sampler's last state, trace), one search; traceable."""


def simulate(
    sampler: Sampler,
    table: Table,
    objectives: str | Sequence[str],
    *,
    steps: int,
    evaluations: int | None = None,
    time: str | None = None,
    budget: float | None = None,
) -> Search:
    """A search of `steps` times ask, look up, tell.

    objectives: metrics to be maximised; one written "-NAME" is minimised. "NAME@LABEL" is always that fidelity, "NAME"
    the one that the sampler asks for. Candidates that the table does not have, or only without a value, are told as
    invalid and cost no evaluation and no time. Nor does a step in which the table has none of them: the sampler is
    asked again, but in the whole search at most `ASKS_A_STEP` times `steps`. The search also ends with `evaluations`,
    and before the first evaluation that would exceed the `budget` of seconds; what an evaluation costs is the metric
    `time`.

    Raises: ValueError for a number that is not positive, an unknown metric, or a budget without a time metric.
    """
    names = (objectives,) if isinstance(objectives, str) else tuple(objectives)
    if not names:
        raise ValueError("there are no objectives; name at least one metric")
    for name, value in (("steps", steps), ("evaluations", evaluations), ("budget", budget)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    if budget is not None and time is None:
        raise ValueError(f"a budget of {budget} seconds needs a time metric; the table has {', '.join(table.metrics)}")
    arch = jax.ShapeDtypeStruct((len(table.choices),), jnp.int32)
    for name in (*names, *([] if time is None else [time])):
        jax.eval_shape(lambda arch, name=name: table.query(arch, name.removeprefix("-")), arch)

    def look_up(name: str, archs: Array, fidelity: Array) -> Array:
        metric = name.removeprefix("-")
        if "@" in metric:
            value = jax.vmap(lambda arch: table.query(arch, metric))(archs)
        else:
            value = jax.vmap(lambda arch, at: table.query(arch, metric, at))(archs, fidelity)
        return -value if name != metric else value

    complete = len(measured(table, names if time is None else (*names, time))) == space_size(table.choices)
    most_asks = ASKS_A_STEP * steps

    def attempt(key: Key, carry: Carry) -> tuple[Carry, Found, Array]:
        """Once ask, look up, tell; and bool [], whether something was wanted and none of it is in the table."""
        state, count, seconds, over = carry
        candidates = sampler.ask(key, state)
        archs = candidates.archs
        values = jnp.stack([look_up(name, archs, candidates.fidelity) for name in names], axis=1)
        valid = candidates.wanted & ~jnp.isnan(values).any(axis=1)
        if time is not None:
            cost = look_up(time, archs, candidates.fidelity)
            valid &= ~jnp.isnan(cost)
        missed = candidates.wanted.any() & ~valid.any()
        valid &= ~over
        if evaluations is not None:
            valid &= count + jnp.cumsum(valid) <= evaluations
        if time is not None:
            spent = seconds + jnp.cumsum(jnp.where(valid, cost, 0.0))
            if budget is not None:
                # Costs are not negative: the first that exceeds the budget is followed by others that do.
                over |= (valid & (spent > budget)).any()
                valid &= spent <= budget
            seconds += jnp.where(valid, cost, 0.0).sum()
        count += valid.sum(dtype=jnp.int32)
        state = sampler.tell(state, candidates, values, valid)
        rows = jnp.where(valid, jax.vmap(table.index)(archs), -1)
        return (state, count, seconds, over), (rows, jnp.where(valid[:, None], values, jnp.nan)), missed

    def until_there(key: Key, carry: Carry, asks: Array) -> tuple[Carry, Found, Array]:
        """Attempts until one is not missed, or no ask is left."""
        size = len(jax.eval_shape(sampler.ask, key, carry[0]).archs)
        nothing = jnp.full(size, -1, jnp.int32), jnp.full((size, len(names)), jnp.nan, jnp.float32)

        def again(loop: tuple[Carry, Found, Array, Array]) -> tuple[Carry, Found, Array, Array]:
            carry, _, _, asks = loop
            return *attempt(jax.random.fold_in(key, asks), carry), asks + 1

        carry, found, _, asks = jax.lax.while_loop(
            lambda loop: loop[2] & (loop[3] < most_asks), again, (carry, nothing, jnp.bool_(True), asks)
        )
        return carry, found, asks

    def step(run_key: Key, loop: tuple[Carry, Array], number: Array) -> tuple[tuple[Carry, Array], Trace]:
        carry, asks = loop
        key = jax.random.fold_in(run_key, number)
        if complete:
            carry, found, _ = attempt(key, carry)
        else:
            carry, found, asks = until_there(key, carry, asks)
        state, count, seconds, _ = carry
        best = jnp.where(count > 0, table.index(sampler.best(state)[0]), -1)
        return (carry, asks), Trace(*found, evaluations=count, seconds=seconds, best=best)

    def search(key: Key) -> tuple[Any, Trace]:
        init_key, run_key = jax.random.split(key)
        start = (sampler.init(init_key), jnp.int32(0), jnp.float32(0), jnp.bool_(False))
        loop = (start, jnp.int32(0))
        ((state, *_), _), trace = jax.lax.scan(functools.partial(step, run_key), loop, jnp.arange(steps))
        return state, trace

    return search


def over_seeds(search: Search) -> Callable[[Key], tuple[Any, Trace]]:
    """keys [R] -> the states and traces of R searches, batched; compiled once for each R.

    On a CPU the compiler is told to optimise less: searches take a little longer and compile in a third of the time.
    """
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    return jax.jit(jax.vmap(search), compiler_options=options)
