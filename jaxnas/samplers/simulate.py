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
    """What happened in T steps of P candidates each. Where a step asked several times, its last ask is recorded.

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

    objectives: metrics to be maximized; one written "-NAME" is minimized. "NAME@LABEL" is always that fidelity, "NAME"
    the one that the sampler asks for. Candidates that the table lacks, or has without a value, are told as invalid and
    cost no evaluation and no time. Where the table has none of a step's candidates, the sampler is asked again, in the
    whole search at most `ASKS_A_STEP` times `steps`. The search ends after `evaluations`, and before the first
    evaluation that would exceed the `budget` of seconds. The metric `time` says what an evaluation costs.

    Raises: ValueError for a number that is not positive, an unknown metric, or a budget without a time metric.

    >>> from jaxnas.benchmarks import make_table
    >>> from jaxnas.samplers import random_search
    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2)})
    >>> archs = [[width, depth] for width in range(3) for depth in range(2)]
    >>> table = make_table("tiny", space, archs, {"accuracy": [0.5, 0.6, 0.7, 0.6, 0.8, 0.9]})
    >>> search = jax.jit(simulate(random_search(space), table, "accuracy", steps=20))
    >>> state, trace = search(jax.random.key(0))
    >>> int(trace.evaluations[-1]), bool(trace.objectives.max() == state.value)
    (20, True)
    """
    names = (objectives,) if isinstance(objectives, str) else tuple(objectives)
    limits = _Limits(evaluations, time, budget)
    _check(table, names, steps, limits)
    attempt = functools.partial(_attempt, sampler, table, names, limits)
    complete = len(measured(table, names if time is None else (*names, time))) == space_size(table.choices)

    def step(run: _Keys, loop: tuple[Any, _Spent, Array], number: Array) -> tuple[tuple[Any, _Spent, Array], Trace]:
        state, spent, asks = loop
        keys = run.at(number)
        if complete:
            tried = attempt(keys, state, spent)
        else:
            tried = _not_tried(sampler, len(names), keys.ask, state, spent)
            tried, asks = _until_one_is_there(attempt, keys, tried, asks, most=ASKS_A_STEP * steps)
        state, spent = tried.state, tried.spent
        best = jnp.where(spent.evaluations > 0, table.index(sampler.best(state)[0]), -1)
        return (state, spent, asks), Trace(tried.rows, tried.objectives, spent.evaluations, spent.seconds, best)

    def search(key: Key) -> tuple[Any, Trace]:
        init_key, ask_key, tell_key = jax.random.split(key, 3)
        nothing = _Spent(jnp.int32(0), jnp.float32(0), jnp.bool_(False))
        loop = (sampler.init(init_key), nothing, jnp.int32(0))
        (state, _, _), trace = jax.lax.scan(functools.partial(step, _Keys(ask_key, tell_key)), loop, jnp.arange(steps))
        return state, trace

    return search


class _Keys(NamedTuple):
    """The keys with which a sampler is asked and told."""

    ask: Key
    tell: Key

    def at(self, number: Array) -> _Keys:
        """Those of one step, or of one attempt of it."""
        return _Keys(jax.random.fold_in(self.ask, number), jax.random.fold_in(self.tell, number))


class _Limits(NamedTuple):
    """Where a search ends, None for nowhere: `evaluations`, or a `budget` of seconds in the metric `time`."""

    evaluations: int | None
    time: str | None
    budget: float | None


class _Spent(NamedTuple):
    """Of a search so far: evaluations int32 [], seconds float32 [], over bool [], whether the budget is used up."""

    evaluations: Array
    seconds: Array
    over: Array


class _Tried(NamedTuple):
    """What came of asking once. state: of the sampler, told. rows, objectives: as in `Trace`, [P] and [P, M].

    missed: bool [], whether something was wanted and the table has none of it.
    """

    state: Any
    spent: _Spent
    rows: Array
    objectives: Array
    missed: Array


def _check(table: Table, names: Sequence[str], steps: int, limits: _Limits) -> None:
    if not names:
        raise ValueError("there are no objectives; name at least one metric")
    for name, value in (("steps", steps), ("evaluations", limits.evaluations), ("budget", limits.budget)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    if limits.budget is not None and limits.time is None:
        raise ValueError(
            f"a budget of {limits.budget} seconds needs a time metric; the table has {', '.join(table.metrics)}"
        )
    arch = jax.ShapeDtypeStruct((len(table.choices),), jnp.int32)
    for name in (*names, *([] if limits.time is None else [limits.time])):
        jax.eval_shape(lambda arch, name=name: table.query(arch, name.removeprefix("-")), arch)


def _attempt(
    sampler: Sampler, table: Table, names: Sequence[str], limits: _Limits, keys: _Keys, state: Any, spent: _Spent
) -> _Tried:
    """Once ask, look up, tell."""
    candidates = sampler.ask(keys.ask, state)
    archs, fidelity = candidates.archs, candidates.fidelity
    values = jnp.stack([_look_up(table, name, archs, fidelity) for name in names], axis=1)
    valid = candidates.wanted & ~jnp.isnan(values).any(axis=1)
    cost = None
    if limits.time is not None:
        cost = _look_up(table, limits.time, archs, fidelity)
        valid &= ~jnp.isnan(cost)
    missed = candidates.wanted.any() & ~valid.any()
    valid, spent = _within(limits, spent, valid, cost)
    state = sampler.tell(keys.tell, state, candidates, values, valid)
    rows = jnp.where(valid, jax.vmap(table.index)(archs), -1)
    return _Tried(state, spent, rows, jnp.where(valid[:, None], values, jnp.nan), missed)


def _look_up(table: Table, name: str, archs: Array, fidelity: Array) -> Array:
    """The values of a metric, by the name that `simulate` takes, for P architectures at their fidelities, [P]."""
    metric = name.removeprefix("-")
    if "@" in metric:
        value = jax.vmap(lambda arch: table.query(arch, metric))(archs)
    else:
        value = jax.vmap(lambda arch, at: table.query(arch, metric, at))(archs, fidelity)
    return -value if name != metric else value


def _within(limits: _Limits, spent: _Spent, valid: Array, cost: Array | None) -> tuple[Array, _Spent]:
    """Which of P candidates are evaluated, one after another until a limit is reached, bool [P]; what is spent then."""
    count, seconds, over = spent
    valid &= ~over
    if limits.evaluations is not None:
        valid &= count + jnp.cumsum(valid) <= limits.evaluations
    if cost is not None:
        total = seconds + jnp.cumsum(jnp.where(valid, cost, 0.0))
        if limits.budget is not None:
            # Costs are not negative: the first that exceeds the budget is followed by others that do.
            over |= (valid & (total > limits.budget)).any()
            valid &= total <= limits.budget
        seconds += jnp.where(valid, cost, 0.0).sum()
    return valid, _Spent(count + valid.sum(dtype=jnp.int32), seconds, over)


def _not_tried(sampler: Sampler, metrics: int, key: Key, state: Any, spent: _Spent) -> _Tried:
    """What stands for an attempt before the first one, which is missed."""
    size = len(jax.eval_shape(sampler.ask, key, state).archs)
    rows = jnp.full(size, -1, jnp.int32)
    return _Tried(state, spent, rows, jnp.full((size, metrics), jnp.nan, jnp.float32), jnp.bool_(True))


def _until_one_is_there(
    attempt: Callable[[_Keys, Any, _Spent], _Tried], keys: _Keys, tried: _Tried, asks: Array, most: int
) -> tuple[_Tried, Array]:
    """Attempts until one is not missed, or the search has asked `most` times. asks: int32 [], how often it has."""

    def again(loop: tuple[_Tried, Array]) -> tuple[_Tried, Array]:
        tried, asks = loop
        return attempt(keys.at(asks), tried.state, tried.spent), asks + 1

    return jax.lax.while_loop(lambda loop: loop[0].missed & (loop[1] < most), again, (tried, asks))


def over_seeds(search: Search) -> Callable[[Key], tuple[Any, Trace]]:
    """keys [R] -> the states and traces of R searches, batched; compiled once for each R.

    On a CPU the compiler is told to optimize less: searches take a little longer and compile in a third of the time.

    >>> from jaxnas.benchmarks import make_table
    >>> from jaxnas.samplers import random_search
    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"depth": (1, 2)})
    >>> table = make_table("tiny", space, [[0], [1]], {"accuracy": [0.5, 0.9]})
    >>> searches = over_seeds(simulate(random_search(space), table, "accuracy", steps=20))
    >>> _, traces = searches(jax.random.split(jax.random.key(0), 8))
    >>> traces.objectives.shape  # 8 seeds, 20 steps, one candidate, one objective
    (8, 20, 1, 1)
    """
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    return jax.jit(jax.vmap(search), compiler_options=options)
