"""Black-box searches on a table beside each other, many runs of each at once."""

from __future__ import annotations

import time as clock
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnas.base import Sampler
from jaxnas.benchmarks import Table
from jaxnas.samplers import over_seeds, simulate
from jaxnas.tabular.methods import Plan, as_plan
from jaxnas.tabular.outcome import Outcome, outcome_of, summary
from jaxnas.tabular.setting import Setting, make_setting


class Comparison(NamedTuple):
    """What methods came to on one setting. rows: the final table, a row for each method, as of `summary`.

    notes: a line for each method of which a run measured less than others may.
    """

    setting: Setting
    outcomes: dict[str, Outcome]
    rows: list[dict[str, Any]]
    notes: list[str]


def compare(
    table: Table,
    samplers: Mapping[str, Sampler | Plan],
    *,
    search: str,
    report: str,
    evaluations: int | None = None,
    seeds: int = 100,
    seed: int = 0,
    time: str | None = None,
    time_budget: float | None = None,
) -> Comparison:
    """Runs of samplers on a table, each from the same keys.

    samplers: name -> a sampler, made with the moves or the choices of this table. One that does not want all of what it
    asks for needs a `Plan`, which says how often it is asked. The others are compared with the one of the name
    "random", if there is one. search, report, evaluations, time, time_budget: as for `make_setting`. seeds: how many
    runs each sampler makes. seed: another one gives other runs.

    Raises: ValueError for what `make_setting` refuses, no seeds, no samplers, or a sampler that found nothing.

    >>> from jaxnas.benchmarks import make_table
    >>> from jaxnas.samplers import evolution, random_search
    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2, 3)})
    >>> archs = np.indices((3, 3)).reshape(2, -1).T
    >>> table = make_table("tiny", space, archs, {"valid": archs.sum(axis=1)})
    >>> samplers = {"random": random_search(table.moves), "evolution": evolution(table.moves)}
    >>> result = compare(table, samplers, search="valid", report="valid", evaluations=9, seeds=4)
    >>> [(row["method"], row["runs"]) for row in result.rows]
    [('random', 4), ('evolution', 4)]
    """
    setting = make_setting(
        table, search=search, report=report, evaluations=evaluations, time=time, time_budget=time_budget
    )
    plans = checked_plans(samplers, setting, seeds)
    outcomes = {name: run_plan(name, plan, setting, seeds, seed) for name, plan in plans.items()}
    return comparison_of(setting, plans, outcomes)


def checked_plans(samplers: Mapping[str, Sampler | Plan], setting: Setting, seeds: int) -> dict[str, Plan]:
    """The plan of each sampler. Raises ValueError where there are no samplers or no seeds."""
    if not samplers:
        raise ValueError("there is nothing to compare; give at least one sampler")
    if not seeds > 0:
        raise ValueError(f"seeds must be positive, got {seeds}")
    return {name: as_plan(sampler, setting) for name, sampler in samplers.items()}


def run_plan(name: str, plan: Plan, setting: Setting, seeds: int, seed: int) -> Outcome:
    """All runs of one method. Raises ValueError, naming it, where one of them found nothing."""
    start = clock.perf_counter()
    search = simulate(
        plan.sampler,
        setting.table,
        setting.search,
        steps=plan.steps,
        evaluations=setting.evaluations,
        time=setting.time,
        budget=setting.time_budget,
    )
    _, trace = over_seeds(search)(jax.random.split(jax.random.key(seed), seeds))
    trace = jax.device_get(trace)
    nothing = int((np.asarray(trace.best[:, -1]) < 0).sum())
    if nothing:
        remedy = "allow more evaluations or time"
        if setting.time_budget is None:
            remedy = f"{setting.coverage.text()}, too few for this method: leave it out"
        raise ValueError(f"{name} could evaluate nothing in {nothing} of {seeds} runs; {remedy}")
    return outcome_of(trace, setting, round(clock.perf_counter() - start, 2))


def comparison_of(setting: Setting, plans: Mapping[str, Plan], outcomes: Mapping[str, Outcome]) -> Comparison:
    """What the outcomes of these plans are beside each other."""
    notes = []
    if setting.time_budget is None:  # where time is the budget, numbers of evaluations differ
        notes = [
            f"{name} measured {outcome.evaluations:.4g} rows a run and {outcome.fewest_evaluations} in one, not "
            f"{setting.evaluations}: {plans[name].fewer}"
            for name, outcome in outcomes.items()
            if outcome.fewest_evaluations < setting.evaluations
        ]
    return Comparison(setting, dict(outcomes), summary(outcomes, setting.optimum), notes)
