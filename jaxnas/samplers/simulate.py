"""A whole search on a tabular benchmark as one `lax.scan`, and many of them under `vmap`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnas.base import Array, Key, Sampler
from jaxnas.benchmarks.table import Table


class Trace(NamedTuple):
    """What happened in T steps of P candidates each.

    rows: int32 [T, P], the evaluated row of the table; -1 where there was no evaluation. objectives: float32 [T, P, M],
    NaN there. evaluations: int32 [T], so far. seconds: float32 [T], simulated, so far; 0 without a time metric.
    best: int32 [T], the row of the first of the sampler's best; -1 before the first evaluation.
    """

    rows: Array
    objectives: Array
    evaluations: Array
    seconds: Array
    best: Array


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
    invalid: they cost a step, but no evaluation and no time. The search also ends with `evaluations`, and before the
    first evaluation that would exceed the `budget` of seconds; what an evaluation costs is the metric `time`.

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

    def step(run_key: Key, carry: tuple[Any, Array, Array, Array], number: Array) -> tuple[Any, Trace]:
        key = jax.random.fold_in(run_key, number)
        state, count, seconds, over = carry
        candidates = sampler.ask(key, state)
        archs = candidates.archs
        values = jnp.stack([look_up(name, archs, candidates.fidelity) for name in names], axis=1)
        valid = candidates.wanted & ~jnp.isnan(values).any(axis=1) & ~over
        if evaluations is not None:
            valid &= count + jnp.cumsum(valid) <= evaluations
        if time is not None:
            cost = look_up(time, archs, candidates.fidelity)
            valid &= ~jnp.isnan(cost)
            spent = seconds + jnp.cumsum(jnp.where(valid, cost, 0.0))
            if budget is not None:
                # Costs are not negative: the first that exceeds the budget is followed by others that do.
                over |= (valid & (spent > budget)).any()
                valid &= spent <= budget
            seconds += jnp.where(valid, cost, 0.0).sum()
        count += valid.sum(dtype=jnp.int32)
        state = sampler.tell(state, candidates, values, valid)
        trace = Trace(
            rows=jnp.where(valid, jax.vmap(table.index)(archs), -1),
            objectives=jnp.where(valid[:, None], values, jnp.nan),
            evaluations=count,
            seconds=seconds,
            best=jnp.where(count > 0, table.index(sampler.best(state)[0]), -1),
        )
        return (state, count, seconds, over), trace

    def search(key: Key) -> tuple[Any, Trace]:
        init_key, run_key = jax.random.split(key)
        start = (sampler.init(init_key), jnp.int32(0), jnp.float32(0), jnp.bool_(False))
        carry, trace = jax.lax.scan(functools.partial(step, run_key), start, jnp.arange(steps))
        return carry[0], trace

    return search


def over_seeds(search: Search) -> Callable[[Key], tuple[Any, Trace]]:
    """keys [R] -> the states and traces of R searches, batched; compiled once for each R.

    On a CPU the compiler is told to optimise less: searches take a little longer and compile in a third of the time.
    """
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    return jax.jit(jax.vmap(search), compiler_options=options)
