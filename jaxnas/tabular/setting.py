"""What all methods of a comparison search, by what they are judged, and where their runs end."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from jaxnas.benchmarks import Table, measured, only_rows
from jaxnas.benchmarks.named import metric_column
from jaxnas.benchmarks.table import space_size, table_fingerprint

MOST_EVALUATIONS = 100_000
"""Of one run."""


class Coverage(NamedTuple):
    """How many architectures the space has, how many of them the table, and how many it has with a value of all that a
    search reads."""

    space: int
    rows: int
    measured: int
    sparse: bool = False

    def text(self) -> str:
        """The numbers in one sentence, or two."""
        space = f"{self.space:,}" if self.space < 10**9 else f"{float(self.space):.2g}"
        told = (
            f"{self.rows:,} of the {space} architectures are in the table, "
            f"{self.measured:,} ({100 * self.measured / self.space:.3g} %) with all that is searched"
        )
        return told + ("; they are sparse, so that searches move to the nearest rows" if self.sparse else "")


class Setting(NamedTuple):
    """A task for methods, made by `make_setting`.

    table: the rows that can be found. search, report, time: the metrics, the last one None where time does not count.
    searched, reported: float [A], their values, to be maximized. evaluations: the most that a run makes. time_budget:
    seconds, None for no limit. expected: evaluations that a run of random architectures makes. fidelities: how many the
    search metric has. fingerprint: of the whole table.
    """

    table: Table
    search: str
    report: str
    time: str | None
    searched: np.ndarray
    reported: np.ndarray
    evaluations: int
    time_budget: float | None
    expected: int
    fidelities: int
    coverage: Coverage
    fingerprint: dict[str, Any]

    @property
    def optimum(self) -> float:
        """The best value of the report metric."""
        return float(self.reported.max())


def make_setting(
    table: Table,
    *,
    search: str,
    report: str,
    evaluations: int | None = None,
    time: str | None = None,
    time_budget: float | None = None,
) -> Setting:
    """A task for methods: to find by the metric `search` what is good by the metric `report`.

    Metrics are maximized; one written "-NAME" is minimized, and "NAME@LABEL" is one of its fidelities. evaluations: the
    most that a run makes; by default 300, or as many as the time budget allows. time: the metric of what an evaluation
    costs. time_budget: simulated seconds; the evaluation that would exceed them is not made.

    Rows without a value of `search`, `time` or `report` are left out, which the table's notes say of the last.

    Raises: ValueError for an unknown metric, a limit that allows nothing, or where no row has all values.

    >>> from jaxnas.benchmarks import digits201_table
    >>> setting = make_setting(digits201_table(), search="valid", report="test", evaluations=100)
    >>> setting.coverage.text()
    '15,625 of the 15,625 architectures are in the table, 15,625 (100 %) with all that is searched'
    >>> setting.evaluations, bool(setting.optimum == setting.table.metrics["test"].max())
    (100, True)
    """
    for name, number in (("evaluations", evaluations), ("time_budget", time_budget)):
        if number is not None and not number > 0:
            raise ValueError(f"{name} must be positive, got {number}")
    read = (search,) if time is None else (search, time)
    for metric in (search, report, *read[1:]):
        metric_column(table, metric)
    there = measured(table, read)
    if not len(there):
        raise ValueError(f"no architecture of {table.name} has a value of {' and '.join(map(repr, read))}")
    whole = table_fingerprint(table)
    reported = metric_column(table, report)[there]
    lacking = int(np.isnan(reported).sum())
    if lacking == len(there):
        raise ValueError(f"{lacking} architectures that can be found by {search!r} have no {report!r} to be reported")
    rows, table = len(table.archs), only_rows(table, there[~np.isnan(reported)])
    if lacking:
        table = table._replace(notes=(*table.notes, f"{lacking:,} rows without {report} are left out"))
    reported = reported[~np.isnan(reported)]
    coverage = Coverage(space_size(table.choices), rows, len(table.archs), table.nearest is not None)
    most = expected = evaluations or 300
    if time_budget is not None:
        most, expected = _affordable(table, evaluations, time, time_budget)
    if most > MOST_EVALUATIONS:
        raise ValueError(f"{most} evaluations are more than {MOST_EVALUATIONS}; give a smaller number of evaluations")
    return Setting(
        table=table,
        search=search,
        report=report,
        time=time,
        searched=metric_column(table, search),
        reported=reported,
        evaluations=most,
        time_budget=time_budget,
        expected=expected,
        fidelities=1 if "@" in search else len(table.fidelities.get(search.removeprefix("-"), ("",))),
        coverage=coverage,
        fingerprint=whole,
    )


def _affordable(table: Table, evaluations: int | None, time: str | None, time_budget: float) -> tuple[int, int]:
    """How many evaluations a run can pay for at most, and how many of random architectures."""
    if time is None:
        raise ValueError(f"a time budget needs a time metric; {table.name} has {', '.join(table.metrics)}")
    name, _, label = time.partition("@")
    usual = metric_column(table, time)
    costs = usual if label else np.asarray(table.metrics[name])
    cheapest = float(np.nanmin(costs))
    if not cheapest > 0:
        raise ValueError(f"times must be positive; the least of {time!r} is {cheapest}")
    if time_budget < cheapest:
        raise ValueError(
            f"time_budget {time_budget} is less than the cheapest architecture's {cheapest:.4g}; give more"
        )
    most = math.floor(time_budget / cheapest)
    most = min(most, evaluations or most)
    return most, max(1, min(most, round(time_budget / float(usual.mean()))))
