"""Ground truth: what a table of measured architectures says of the architectures that a search found."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Arch, Array, SearchSpace
from jaxnas.benchmarks import Table, named_table
from jaxnas.benchmarks.named import metric_column
from jaxnas.benchmarks.table import table_fingerprint
from jaxnas.checks import check_arch
from jaxnas.files import expanded


class Truth(NamedTuple):
    """A metric of a table over the same choices as a search.

    values: float64 [A], that of every row, to be maximized, NaN where it was not measured. search_metric: what searches
    on the table may see, such as a validation accuracy; None where the table has no usual one. fingerprint: of the
    whole table. canonical: arch -> the form that architectures of one function share.
    """

    table: Table
    metric: str
    values: np.ndarray
    search_metric: str | None
    fingerprint: dict[str, Any]
    canonical: Callable[[Arch], Arch] = lambda arch: arch

    def rows(self, archs: Any) -> np.ndarray:
        """The row of each of archs [P, D], int [P]: its own, else that of its canonical form, else -1."""
        return np.asarray(_rows(self.table.index, self.canonical)(jnp.asarray(archs, jnp.int32)))

    def column(self, metric: str) -> np.ndarray:
        """Another metric of every row, float64 [A]. Raises: ValueError where the table has it not."""
        return metric_column(self.table, metric)

    def of(self, archs: Any) -> np.ndarray:
        """The values of archs [P, D], float64 [P], NaN where there is none."""
        rows = self.rows(archs)
        return np.where(rows < 0, np.nan, self.values[np.maximum(rows, 0)])

    def percentile(self, values: Any) -> np.ndarray:
        """Of 100 measured architectures, how many are worse; those that are equal count half. NaN for NaN."""
        known = np.sort(self.values[~np.isnan(self.values)])
        below, upto = np.searchsorted(known, values, "left"), np.searchsorted(known, values, "right")
        return np.where(np.isnan(values), np.nan, 50.0 * (below + upto) / len(known))

    def told(self, arch: Any) -> dict[str, Any]:
        """value, rank (1 is the best) and percentile of one architecture, None where it was not measured."""
        value = float(self.of(np.asarray(arch)[None])[0])
        if np.isnan(value):
            return {"value": None, "rank": None, "percentile": None}
        return {
            "value": value,
            "rank": 1 + int((self.values > value).sum()),
            "percentile": float(self.percentile(value)),
        }

    def now(self, arch: Any) -> dict[str, Any]:
        """For the metrics of a search: value and percentile of the architecture, or of those [S, D], held now.

        Nothing where a value is not known.
        """
        archs = np.asarray(arch)
        values = self.of(np.atleast_2d(archs))
        if np.isnan(values).any():
            return {}
        told = {"true_value": values, "true_percentile": self.percentile(values)}
        return told if archs.ndim > 1 else {name: float(value[0]) for name, value in told.items()}

    def summary(self) -> dict[str, Any]:
        """What is known of all architectures: how many, their mean, and the best."""
        known = self.values[~np.isnan(self.values)]
        best = int(np.nanargmax(self.values))
        return {
            "table": self.table.name,
            "metric": self.metric,
            "description": self.table.descriptions.get(self.metric.lstrip("-").partition("@")[0], ""),
            "measured": len(known),
            "mean": float(known.mean()),
            "best": float(known.max()),
            "best_architecture": np.asarray(self.table.archs)[best].tolist(),
        }


@functools.lru_cache(maxsize=8)  # asked after every epoch, and for every candidate: compiled once for a table
def _rows(index: Callable[[Arch], Array], canonical: Callable[[Arch], Arch]) -> Callable[[Array], Array]:
    """archs [P, D] -> their rows [P], as of `Truth.rows`."""

    def row(arch: Arch) -> Array:
        own = index(arch)
        return jnp.where(own < 0, index(canonical(arch)), own)

    return jax.jit(jax.vmap(row))


def truth_of(table: str | os.PathLike[str] | Table, space: SearchSpace, metric: str | None = None) -> Truth:
    """What a table knows of a space. table: "digits201", a file, or a table. metric: its usual report by default.

    Raises: ValueError where the table is over other choices, or the metric is not there; OSError for a file.

    >>> from jaxnas.spaces import nasbench201_space
    >>> space = nasbench201_space()
    >>> truth = truth_of("digits201", space)
    >>> nothing = space.from_genotype("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")
    >>> truth.metric, bool(truth.percentile(truth.of(nothing[None]))[0] < 10)
    ('test', True)
    """
    usual: Mapping[str, str] = {}
    if isinstance(table, Table):
        named = table
    else:
        named, usual = named_table(str(expanded(table)))
    if [choice.options for choice in named.choices] != [choice.options for choice in space.choices]:
        raise ValueError(
            f"the table {named.name} is not over the choices of {space.name}: take another table or another space"
        )
    metric = metric or usual.get("report") or usual.get("search")
    if metric is None:
        raise ValueError(f"the table {named.name} has no usual metric: name one of {', '.join(named.metrics)}")
    values = metric_column(named, metric)
    if np.isnan(values).all():
        raise ValueError(f"no architecture of the table {named.name} has a value of {metric!r}")
    return Truth(named, metric, values, usual.get("search"), table_fingerprint(named), space.canonical)


def rank(
    table: str | os.PathLike[str] | Table, space: SearchSpace, arch: Any, metric: str | None = None
) -> dict[str, Any]:
    """value, rank (1 is the best) and percentile of an architecture of a space in a table: `truth_of`, asked once.

    Raises: what `truth_of` does, and ValueError where the architecture is not one of the space.

    >>> from jaxnas.spaces import nasbench201_space
    >>> space = nasbench201_space()
    >>> rank("digits201", space, space.from_genotype("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"))
    {'value': 10.277..., 'rank': 15285, 'percentile': 1.0912}
    """
    check_arch(space.choices, arch, f"the space {space.name!r}")
    return truth_of(table, space, metric).told(arch)


def held(values: np.ndarray) -> list[int]:
    """Which of values [N] was the greatest so far, after each from the first that is no NaN.

    >>> held(np.array([np.nan, 1.0, 3.0, np.nan, 2.0]))
    [1, 2, 2, 2]
    """
    return [int(np.nanargmax(values[: n + 1])) for n in range(len(values)) if not np.isnan(values[: n + 1]).all()]


def curve(truth: Truth, archs: Any) -> dict[str, list[float | None]]:
    """Values and percentiles of archs [N, D] that a search held, one after another, None where unknown."""
    values = truth.of(np.asarray(archs))
    columns = {"value": values, "percentile": truth.percentile(values)}
    return {name: [None if np.isnan(v) else float(v) for v in column] for name, column in columns.items()}
