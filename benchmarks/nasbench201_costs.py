"""Compares the costs of NAS-Bench-201 networks with a table of the benchmark, exactly.

    python -m benchmarks.nasbench201_costs PATH [--rows 200] [--seed 0]

PATH is a CSV file with the columns `arch_str` and, for each data set that it covers (c10, c100, in16), `…_params_M` and
`…_flops_M`. Some random rows are built from their strings and counted one by one; all rows are counted through the
space's cost table. A count agrees when it equals the printed number of millions digit for digit. Prints one JSON
object; exits with 1 where anything differs and with 2 where the file cannot be used. Takes seconds.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
import time
from decimal import Decimal, InvalidOperation

import numpy as np

from jaxnas.base import Skeleton
from jaxnas.spaces import nasbench201_cost_table, nasbench201_space

SKELETONS = {
    "c10": Skeleton(channels=16, cells=5, image_shape=(32, 32, 3), num_classes=10),
    "c100": Skeleton(channels=16, cells=5, image_shape=(32, 32, 3), num_classes=100),
    "in16": Skeleton(channels=16, cells=5, image_shape=(16, 16, 3), num_classes=120),
}
COLUMNS = {"params": "params_M", "macs": "flops_M"}


def read(path: str) -> list[dict[str, str]]:
    """The rows of the table. Raises: ValueError where it has no rows or lacks a column."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"cannot read {path}: {error}") from None
    for column in ("arch_str", "c10_params_M", "c10_flops_M"):
        if not rows or column not in rows[0]:
            raise ValueError(f"{path} has no column {column!r}; it must be a CSV table of NAS-Bench-201")
    return rows


def compare(rows: list[dict[str, str]], count: int, seed: int) -> dict[str, object]:
    space = nasbench201_space()
    datasets = [name for name in SKELETONS if f"{name}_params_M" in rows[0] and f"{name}_flops_M" in rows[0]]
    wrong_rows: list[str] = []
    picked = random.Random(seed).sample(rows, min(count, len(rows)))
    for row in picked:
        arch = space.from_genotype(row["arch_str"])
        for name in datasets:
            counted = space.costs(arch, SKELETONS[name])
            if any(counted[key] != millions(row[f"{name}_{column}"]) for key, column in COLUMNS.items()):
                wrong_rows.append(f"{name} {row['arch_str']}")

    start = time.perf_counter()
    archs = np.stack([np.asarray(space.from_genotype(row["arch_str"])) for row in rows])
    wrong_table = 0
    for name in datasets:
        table = nasbench201_cost_table(SKELETONS[name])
        for key, column in COLUMNS.items():
            each = getattr(table, key)["cell"]
            counted_all = table.constant[key] + each[np.arange(each.shape[0]), archs].sum(axis=1)
            printed = np.array([millions(row[f"{name}_{column}"]) for row in rows])
            wrong_table += int((counted_all != printed).sum())
    return {
        "name": "nasbench201_costs",
        "datasets": datasets,
        "rows": len(picked),
        "rows_wrong": len(wrong_rows),
        "first_wrong": wrong_rows[:3],
        "table_rows": len(rows),
        "table_wrong": wrong_table,
        "table_s": round(time.perf_counter() - start, 2),
    }


def millions(printed: str) -> int:
    """The integer that a printed number of millions stands for; -1, which nothing costs, where it is not whole."""
    try:
        value = Decimal(printed).scaleb(6)
    except (InvalidOperation, TypeError):
        return -1
    return int(value) if value.is_finite() and value == value.to_integral_value() else -1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", help="the CSV table")
    parser.add_argument("--rows", type=int, default=200, help="random rows to count one by one (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of rows (default 0)")
    arguments = parser.parse_args()
    try:
        if arguments.rows < 1:
            raise ValueError(f"--rows must be at least 1, got {arguments.rows}")
        result = compare(read(arguments.path), arguments.rows, arguments.seed)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result))
    return int(bool(result["rows_wrong"] or result["table_wrong"]))


if __name__ == "__main__":
    sys.exit(main())
