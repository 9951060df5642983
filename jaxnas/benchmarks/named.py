"""Tables by the name or the file that a person gives."""

from __future__ import annotations

import csv
from pathlib import Path

import jax
import numpy as np

from jaxnas.benchmarks.digits201 import digits201_table
from jaxnas.benchmarks.loading import load_table
from jaxnas.benchmarks.nasbench201 import nasbench201_table, nasbench201_time
from jaxnas.benchmarks.table import Table, make_table


def named_table(name: str, encoding: str | None = None) -> tuple[Table, dict[str, str]]:
    """The table of a name or a file, and its usual metrics: "search", "report", "time", as far as there are such.

    encoding: the columns of option numbers, with commas; None where the file says itself what is in it.

    Raises: ValueError or OSError where there is none or it is damaged.
    """
    usual = {"search": "valid", "report": "test", "time": "seconds"}
    if name == "digits201":
        if encoding is not None:
            raise ValueError("--encoding is for files; 'digits201' needs none")
        return digits201_table(), usual
    path = Path(name)
    if not path.exists():
        raise ValueError(f"there is no file {name!r} and no benchmark of that name; give a CSV, an npz or 'digits201'")
    if encoding is None and path.suffix == ".csv":
        if "arch_str" not in _header(path):
            raise ValueError(f"{name} has no column arch_str; name its columns of option numbers by --encoding a,b,c")
        table = nasbench201_table(path)
        metrics = dict(table.metrics)
        described, fidelities = dict(table.descriptions), dict(table.fidelities)
        if "c10_macs" in metrics and "c10_val" in metrics:
            metrics["seconds"] = nasbench201_time(table.metrics["c10_macs"])
            described["seconds"] = "time of 12 epochs on CIFAR-10 by a model of the multiply-adds"
        table = make_table(table.name, table.choices, table.archs, metrics, described, fidelities)
        usual = {"search": "c10_val@12", "report": "c10_test@200", "time": "seconds"}
    else:
        table = load_table(path, encoding=None if encoding is None else encoding.split(","))
    return table, {key: metric for key, metric in usual.items() if metric.partition("@")[0] in table.metrics}


def chosen_metric(table: Table, given: str | None, usual: str | None, flag: str) -> str:
    """The metric that a person gave, or the usual one. Raises ValueError, naming the flag, where there is neither."""
    metric = given or usual
    if metric is None:
        raise ValueError(f"{table.name} has no usual metric; name one by {flag}: {', '.join(table.metrics)}")
    return metric


def _header(path: Path) -> list[str]:
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        return next(csv.reader(file), [])


def metric_column(table: Table, metric: str) -> np.ndarray:
    """A metric of every row, its sign turned where it is written with "-"; raises ValueError where it is unknown."""
    values = jax.jit(jax.vmap(lambda arch: table.query(arch, metric.removeprefix("-"))))(table.archs)
    return np.asarray(values, np.float64) * (-1 if metric.startswith("-") else 1)
