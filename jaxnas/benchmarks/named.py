"""Tables by the name or the file that a person gives."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from jaxnas.benchmarks.columns import SUFFIXES, read_columns
from jaxnas.benchmarks.digits201 import digits201_table
from jaxnas.benchmarks.loading import load_table
from jaxnas.benchmarks.nasbench101 import NASBENCH101_USUAL, is_nasbench101, nasbench101_table
from jaxnas.benchmarks.nasbench201 import nasbench201_table, nasbench201_time
from jaxnas.benchmarks.table import Table, make_table


def named_table(
    name: str | os.PathLike[str],
    encoding: str | None = None,
    *,
    space: str | None = None,
    architecture: str | None = None,
    duplicates: str = "refuse",
    needed: Sequence[str] = (),
) -> tuple[Table, dict[str, str]]:
    """The table of a name or a file, and its usual metrics: "search", "report", "time", as far as there are such.

    name: "digits201", a file that `load_table` reads, or the release of NAS-Bench-101. encoding: the columns of
    options, with commas. space, architecture, duplicates, needed: as of `load_table`. Without encoding and
    architecture, a file with a column arch_str is NAS-Bench-201, and another one must say itself what is in it.

    Raises: ValueError or OSError where there is none or it is damaged.

    >>> table, usual = named_table("digits201")
    >>> len(table.archs), usual
    (15625, {'search': 'valid', 'report': 'test', 'time': 'seconds'})
    """
    usual = {"search": "valid", "report": "test", "time": "seconds"}
    says = {"encoding": encoding, "space": space, "architecture": architecture}
    if os.fspath(name) == "digits201":
        for flag, value in says.items():
            if value is not None:
                raise ValueError(f"--{flag} is for files; 'digits201' needs none")
        return digits201_table(), usual
    path = Path(name)
    if not path.exists():
        raise ValueError(
            f"there is no file {str(name)!r} and no benchmark of that name; give a CSV, an npz or 'digits201'"
        )
    if is_nasbench101(path):
        return nasbench101_table(path), dict(NASBENCH101_USUAL)
    if architecture is not None or encoding is not None:
        if architecture is not None and space is None:
            raise ValueError(f"--architecture {architecture} is read by a space: name it by --space, as nasbench201")
        table = load_table(
            path, space, architecture=architecture, encoding=None if encoding is None else _listed(encoding),
            needed=needed, duplicates=duplicates,
        )  # fmt: skip
    elif path.suffix.lower() != ".npz" or space is not None:
        if path.suffix.lower() in {suffix for kind in ("csv", "json") for suffix in SUFFIXES[kind]}:
            columns = list(read_columns(path).columns)
        else:
            columns = []
        if "arch_str" in columns and space in (None, "nasbench201"):
            table = _with_time(nasbench201_table(path))
            return table, _there(table, {"search": "c10_val@12", "report": "c10_test@200", "time": "seconds"})
        if path.suffix.lower() != ".npz":
            shown = ", ".join(columns[:40])
            raise ValueError(
                f"{name} has no column arch_str; name its column of architectures by --space NAME --architecture "
                f"COLUMN, or its columns of options by --encoding a,b,c; there are {shown}"
            )
        table = load_table(path, space, needed=needed, duplicates=duplicates)
    else:
        table = load_table(path, needed=needed, duplicates=duplicates)
    return table, _there(table, usual)


def _listed(encoding: str) -> list[str]:
    return [column.strip() for column in encoding.split(",") if column.strip()]


def _there(table: Table, usual: dict[str, str]) -> dict[str, str]:
    """The usual metrics that a table has, each with all of what it is called by."""
    return {
        key: metric
        for key, metric in usual.items()
        if (parts := metric.partition("@"))[0] in table.metrics
        and (not parts[2] or parts[2] in table.fidelities.get(parts[0], ()))
    }


def _with_time(table: Table) -> Table:
    """With the seconds of 12 epochs on CIFAR-10, where multiply-adds are known."""
    if not {"c10_macs", "c10_val"} <= table.metrics.keys() or "seconds" in table.metrics:
        return table
    metrics = {**table.metrics, "seconds": nasbench201_time(table.metrics["c10_macs"])}
    described = {**table.descriptions, "seconds": "time of 12 epochs on CIFAR-10 by a model of the multiply-adds"}
    return make_table(
        table.name, table.space or table.choices, table.archs, metrics, described, table.fidelities, table.notes
    )


def chosen_metric(table: Table, given: str | None, usual: str | None, flag: str) -> str:
    """The metric that a person gave, or the usual one of the table.

    given, usual: names of metrics, None where there is none. flag: how the user can name a metric.

    Raises: ValueError, naming the flag, where both are None.

    >>> from jaxnas.base import Choice
    >>> table = make_table("mine", [Choice("width", ("8", "16"))], [[0], [1]], {"valid": [50, 60], "test": [51, 61]})
    >>> chosen_metric(table, None, "valid", "--search-metric"), chosen_metric(table, "test", "valid", "--search-metric")
    ('valid', 'test')
    """
    metric = given or usual
    if metric is None:
        raise ValueError(f"{table.name} has no usual metric; name one by {flag}: {', '.join(table.metrics)}")
    return metric


def metric_column(table: Table, metric: str) -> np.ndarray:
    """A metric of every row, its sign turned where it is written with "-"; raises ValueError where it is unknown."""
    values = jax.jit(jax.vmap(lambda arch: table.query(arch, metric.removeprefix("-"))))(table.archs)
    return np.asarray(values, np.float64) * (-1 if metric.startswith("-") else 1)
