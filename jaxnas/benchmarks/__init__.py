"""Tabular benchmarks as arrays: measured architectures, asked by pure functions under `jit` and `vmap`."""

from jaxnas.benchmarks.digits201 import DIGITS201_DESCRIPTIONS, digits201_table
from jaxnas.benchmarks.loading import load_table, save_table
from jaxnas.benchmarks.named import chosen_metric, named_table
from jaxnas.benchmarks.nasbench101 import NASBENCH101_DESCRIPTIONS, nasbench101_table
from jaxnas.benchmarks.nasbench201 import (
    HARDWARE_METRICS,
    NASBENCH201_DESCRIPTIONS,
    NASBENCH201_TIME,
    NASBENCH201_TIME_SCALES,
    functional_classes,
    hw_nasbench201_table,
    nasbench201_table,
    nasbench201_time,
    official_classes,
)
from jaxnas.benchmarks.natsbench import nats_table
from jaxnas.benchmarks.repeats import REPEATS
from jaxnas.benchmarks.table import Table, make_table, measured, missing, only_rows

__all__ = [
    "DIGITS201_DESCRIPTIONS",
    "HARDWARE_METRICS",
    "NASBENCH101_DESCRIPTIONS",
    "NASBENCH201_DESCRIPTIONS",
    "NASBENCH201_TIME",
    "NASBENCH201_TIME_SCALES",
    "REPEATS",
    "Table",
    "chosen_metric",
    "digits201_table",
    "functional_classes",
    "hw_nasbench201_table",
    "load_table",
    "make_table",
    "measured",
    "missing",
    "named_table",
    "nasbench101_table",
    "nasbench201_table",
    "nasbench201_time",
    "nats_table",
    "official_classes",
    "only_rows",
    "save_table",
]
