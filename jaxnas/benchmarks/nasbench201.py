"""NAS-Bench-201 and HW-NAS-Bench as tables, the partitions of their 15,625 cells, and a model of training time.

Dong & Yang 2020, https://arxiv.org/abs/2001.00326; Li et al. 2021, https://arxiv.org/abs/2103.10584. The files are the
user's: CSV with one row for each cell in the official order. The benchmark's own release is read by `natsbench`.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Sequence

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxnas.base import Array
from jaxnas.benchmarks.cells import holds_words, read_genotypes, read_integers, read_metrics, read_numbers
from jaxnas.benchmarks.columns import Columns, read_columns
from jaxnas.benchmarks.table import Table, make_table, space_size
from jaxnas.spaces.nasbench201 import NASBENCH201_EDGES, NASBENCH201_OPERATIONS, nasbench201_space

_DATASETS = {"c10": "CIFAR-10", "c100": "CIFAR-100", "in16": "ImageNet-16-120"}
_TIMED = {"c10_train_time": "cifar10-valid", "c100_train_time": "cifar100", "in16_train_time": "ImageNet16-120"}

NASBENCH201_DESCRIPTIONS = {
    "index": "official number of the cell",
    "c10_val": "CIFAR-10 validation accuracy in %, trained on the training half, mean over seeds",
    "c10_test": "CIFAR-10 TEST accuracy in %, trained on training and validation half, mean over seeds",
    "c10valid_oritest_200_s888": "CIFAR-10 TEST-set accuracy in % after 200 epochs on the training half, seed 888 "
    "alone; other libraries call it CIFAR-10 validation accuracy, which it is not",
    "c100_val": "CIFAR-100 validation accuracy in %, mean over seeds",
    "c100_test": "CIFAR-100 TEST accuracy in %, mean over seeds",
    "in16_val": "ImageNet-16-120 validation accuracy in %, mean over seeds",
    "in16_test": "ImageNet-16-120 TEST accuracy in %, mean over seeds",
    **{f"{short}_macs": f"multiply-adds of the {name} network" for short, name in _DATASETS.items()},
    **{f"{short}_params": f"parameters of the {name} network" for short, name in _DATASETS.items()},
    "c10_train_time": "simulated seconds of training on half of CIFAR-10, by the model of nasbench201_time",
    "c100_train_time": "simulated seconds of training on CIFAR-100, by the model of nasbench201_time",
    "in16_train_time": "simulated seconds of training on ImageNet-16-120, by the model of nasbench201_time",
}
"""The metrics of `nasbench201_table`. Accuracies that are not called validation are of the test set."""

HARDWARE_METRICS = {
    "edgegpu_latency": "latency in ms on the edge GPU (NVIDIA Jetson TX2)",
    "edgegpu_energy": "energy in mJ on the edge GPU (NVIDIA Jetson TX2)",
    "raspi4_latency": "latency in ms on the Raspberry Pi 4",
    "edgetpu_latency": "latency in ms on the Edge TPU; missing where it cannot be measured",
    "pixel3_latency": "latency in ms on the Pixel 3",
    "eyeriss_latency": "latency in ms on Eyeriss, estimated",
    "eyeriss_energy": "energy in mJ on Eyeriss, estimated",
    "eyeriss_arithmetic_intensity": "operations a byte on Eyeriss, estimated",
    "fpga_latency": "latency in ms on the FPGA, estimated",
    "fpga_energy": "energy in mJ on the FPGA, estimated",
}
"""The measures of HW-NAS-Bench; a metric's name is a data set, c10, c100 or in16, `_`, and one of these."""


def nasbench201_table(path: str | os.PathLike[str]) -> Table:
    """NAS-Bench-201 from a file with a column `arch_str` and any of the columns that follow.

    Accuracies after 12 epochs and 200: `c10_val_12`, `c10_test_12`, `c10_test_200`, and those of c100 and in16, become
    the metrics `c10_val` (fidelity "12"), `c10_test` (fidelities "12" and "200") and so on: `query(arch,
    "c10_test@200")`. `c10valid_oritest_200_s888`, an accuracy on the test set, keeps its name. `c10_flops_M` and
    `c10_params_M`, in millions, become the counts `c10_macs` and `c10_params`. `c10_train_time`, `c100_train_time` and
    `in16_train_time`, of fidelities "12" and "200", are no measurements but `nasbench201_time` of `c10_macs`.

    The two fidelities are two runs, each with its own schedule, not two checkpoints of one; no validation accuracy
    after 200 epochs is there. Every other column of numbers is a metric of its own name, `index` is the official
    number of a cell, by which the rows are put in order. A file may have a part of the cells.

    Raises: OSError, or ValueError naming the row and column of what is wrong.

    >>> import json, pathlib, tempfile
    >>> cell = "|none~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "cells.json")
    ...     _ = path.write_text(json.dumps([{"arch_str": cell, "c10_val_12": 10.0, "c10_test_200": 12.0}]))
    ...     table = nasbench201_table(path)
    >>> table.archs.tolist(), table.query(table.archs[0], "c10_test@200").item()
    ([[0, 0, 0, 0, 0, 1]], 12.0)
    """
    source = read_columns(path)
    space = nasbench201_space()
    archs = _read_strings(source, "arch_str")
    order = _official_order(source, len(archs), space_size(space.choices))
    metrics: dict[str, np.ndarray] = {}
    fidelities: dict[str, Sequence[str]] = {}
    taken = {"arch_str"}
    for metric in NASBENCH201_DESCRIPTIONS:
        if metric.endswith(("_macs", "_params")):
            column = metric.replace("_macs", "_flops") + "_M"
            if column in source.columns:
                metrics[metric] = np.round(read_numbers(source, column) * 1e6)
                taken.add(column)
        elif metric in source.columns:
            metrics[metric] = read_numbers(source, metric)
            taken.add(metric)
        else:
            labels = [label for label in ("12", "200") if f"{metric}_{label}" in source.columns]
            if labels:
                columns = [f"{metric}_{label}" for label in labels]
                metrics[metric] = np.stack([read_numbers(source, column) for column in columns], axis=1)
                fidelities[metric] = labels
                taken.update(columns)
    others = [column for column in source.columns if column not in taken]
    words = [column for column in others if holds_words(source, column)]
    own, own_labels = read_metrics(source, [column for column in others if column not in words])
    metrics |= {metric: value for metric, value in own.items() if metric not in metrics}
    fidelities |= {metric: labels for metric, labels in own_labels.items() if metric not in fidelities}
    if "c10_macs" in metrics:
        for metric, dataset in _TIMED.items():
            times = [nasbench201_time(metrics["c10_macs"], epochs, dataset) for epochs in (12, 200)]
            metrics[metric], fidelities[metric] = np.stack([np.asarray(time) for time in times], axis=1), ["12", "200"]
    if not metrics.keys() - {"index"}:
        raise ValueError(f"{source.path} has no column of numbers beside arch_str; it needs c10_val_12 or others")
    described = {metric: text for metric, text in NASBENCH201_DESCRIPTIONS.items() if metric in metrics}
    source.check_archs(space.choices, archs, ["arch_str"] * archs.shape[1])
    metrics = {metric: value[order] for metric, value in metrics.items()}
    notes = [f"not read, because it holds words: {', '.join(words)}"] if words else []
    return make_table("nasbench201", space, archs[order], metrics, described, fidelities, notes)


def _official_order(source: Columns, count: int, cells: int) -> np.ndarray:
    """The rows in the order of their official numbers, or of the file where it has none; int [A]."""
    if "index" not in source.columns:
        return np.arange(count)
    numbers = read_integers(source, "index")
    outside = np.flatnonzero((numbers < 0) | (numbers >= cells))
    if len(outside):
        row = int(outside[0])
        raise source.error(row, "index", f"{numbers[row]} is no number of a cell; there are 0 to {cells - 1}")
    order = np.argsort(numbers, kind="stable")
    twice = np.flatnonzero(numbers[order][1:] == numbers[order][:-1])
    if len(twice):
        row = int(order[twice[0] + 1])
        raise source.error(row, "index", f"{numbers[row]} is the number of another row; each cell has its own")
    return order


def hw_nasbench201_table(path: str | os.PathLike[str], nasbench201: Table) -> Table:
    """HW-NAS-Bench on the cells of NAS-Bench-201, from a CSV with a column `index` and one for each metric.

    nasbench201: the table of the cells, as from `nasbench201_table`; its metric `index` says which they are, where it
    is not complete. Cells that it lacks are left out. Entries of -1, which could not be
    measured, are missing; `missing(table)` counts them. Columns: `HARDWARE_METRICS` after c10_, c100_ or in16_.

    Raises: OSError, or ValueError naming the row and column of what is wrong.

    >>> import json, pathlib, tempfile
    >>> cells = make_table("nasbench201", nasbench201_space(), [[0] * 6, [1] * 6], {"index": [7, 9]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "latency.json")
    ...     _ = path.write_text(json.dumps([{"index": row, "c10_pixel3_latency": 2.5} for row in (7, 8)]))
    ...     table = hw_nasbench201_table(path, cells)
    >>> table.archs.tolist(), table.metrics["c10_pixel3_latency"].tolist()
    ([[0, 0, 0, 0, 0, 0]], [2.5])
    """
    source = read_columns(path)
    index = read_integers(source, "index")
    rows = _rows_of_numbers(source, index, nasbench201)
    known = {f"{short}_{measure}" for short in _DATASETS for measure in HARDWARE_METRICS}
    metrics: dict[str, np.ndarray] = {}
    for column in source.columns:
        if column == "index":
            continue
        if column not in known:
            raise ValueError(f"{source.path}: column {column!r} is none of HW-NAS-Bench's; drop it or use load_table")
        values = read_numbers(source, column)
        wrong = np.flatnonzero((values < 0) & (values != -1))
        if len(wrong):
            reason = f"{values[wrong[0]]:g} is negative; only -1 stands for what cannot be measured"
            raise source.error(int(wrong[0]), column, reason)
        metrics[column] = np.where(values == -1, np.nan, values)
    if not metrics:
        raise ValueError(f"{source.path} has no column beside index; it needs c10_edgegpu_latency or others")
    described = {}
    for metric in metrics:
        short, _, measure = metric.partition("_")
        described[metric] = f"{_DATASETS[short]} network: {HARDWARE_METRICS[measure]}"
    there = np.flatnonzero(rows >= 0)
    archs = np.asarray(nasbench201.archs)[rows[there]]
    metrics = {metric: value[there] for metric, value in metrics.items()}
    part = source._replace(row=lambda row: source.row(int(there[row])))
    part.check_archs(nasbench201.choices, archs, ["index"] * archs.shape[1])
    return make_table("hw_nasbench201", nasbench201.space or nasbench201.choices, archs, metrics, described)


def _rows_of_numbers(source: Columns, numbers: np.ndarray, nasbench201: Table) -> np.ndarray:
    """The row of each official number in the table of NAS-Bench-201, -1 where the table lacks the cell.

    Raises: ValueError for a number of no cell, and where the table lacks cells and does not say which.
    """
    count, cells = len(nasbench201.archs), space_size(nasbench201.choices)
    wrong = np.flatnonzero((numbers < 0) | (numbers >= cells))
    if len(wrong):
        reason = f"{numbers[wrong[0]]} is no number of a cell; NAS-Bench-201 has 0 to {cells - 1}"
        raise source.error(int(wrong[0]), "index", reason)
    if "index" not in nasbench201.metrics and count < cells:
        raise ValueError(
            f"{source.path} counts all {cells:,} cells of NAS-Bench-201; the table {nasbench201.name!r} lacks "
            f"{cells - count:,} of them and has no column index that says which: give it one, or the whole table"
        )
    row = np.full(cells, -1)
    known = np.arange(cells) if "index" not in nasbench201.metrics else np.asarray(nasbench201.metrics["index"])
    row[known.astype(np.int64)] = np.arange(count)
    found = row[numbers]
    if (found < 0).all():
        raise ValueError(f"{source.path} has none of the {count:,} cells of the table {nasbench201.name!r}")
    return found


def nasbench201_time(macs: ArrayLike, epochs: int = 12, dataset: str = "cifar10-valid") -> Array:
    """Simulated seconds of training, epochs · scale(dataset) · (5.1444 + 0.064577 · macs / 10⁶).

    The result is float32 in the shape of `macs`. macs: multiply-adds of the CIFAR-10 network, whatever the data set.
    dataset: "cifar10-valid" trains on half of the training split, scale 1; "cifar10" and "cifar100" on all of it,
    scale 2; "ImageNet16-120", scale 6.068.

    Source: least squares over the three complete records, 0, 11 and 284, that the official repository shows
    (github.com/D-X-Y/NATS-Bench, fake_torch_dir), with 7.22109, 12.46206 and 4.87579 s an epoch at
    15.647, 113.951 and 11.715 million multiply-adds. The scales are exact in all three records, and an epoch costs the
    same in runs of 12 and of 200. Three points leave one degree of freedom: the residuals are 1.07, -0.04 and -1.03 s
    an epoch, as pooling, skips and the number of edges cost time and no multiply-adds. Evaluation is not in it: the
    records have no time of it.

    Over all cells 12 epochs take 104.3 s in the mean, so that 12,000 s are about 115 evaluations of random cells. The
    published protocol is said to come to about 95, or 126 s each, evaluation included: this model is some 20 % short
    of it, and a comparison with published numbers is better made at a fixed 95 evaluations.

    Raises: ValueError where epochs is not positive or the data set is another.

    >>> half, whole = (nasbench201_time([10e6, 20e6], dataset=name) for name in ("cifar10-valid", "cifar10"))
    >>> half.shape, bool((whole == 2 * half).all())
    ((2,), True)
    """
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}")
    if dataset not in NASBENCH201_TIME_SCALES:
        raise ValueError(f"there is no time of {dataset!r}; there are {', '.join(NASBENCH201_TIME_SCALES)}")
    constant, slope = NASBENCH201_TIME
    scale = epochs * NASBENCH201_TIME_SCALES[dataset]
    return scale * constant + scale * slope * jnp.asarray(macs, jnp.float32)


NASBENCH201_TIME = (5.144441, 0.06457690e-6)
"""Seconds an epoch on "cifar10-valid": the constant, and the slope over multiply-adds."""
NASBENCH201_TIME_SCALES = {"cifar10-valid": 1.0, "cifar10": 2.0, "cifar100": 2.0, "ImageNet16-120": 6.068}


def official_classes(archs: ArrayLike) -> np.ndarray:
    """The benchmark's own partition of cells [A, 6]: int32 [A], classes numbered as they first come up.

    Two cells are in one class where the official unique strings, which look through zeroes and skips, are equal: 6,466
    classes of the 15,625 cells (Dong & Yang 2020, section 2.1; `to_unique_str(consider_zero=True)` of AutoDL-Projects,
    lib/models/cell_searchs/genotypes.py). It leaves some equal functions apart: a sum of two zeroes is not seen as
    zero, and a sum that a skip passes on is not merged with the others before it is sorted.

    Raises: ValueError where archs are no cells.

    >>> space = nasbench201_space()
    >>> zero_sum = space.from_genotype("|none~0|+|none~0|none~1|+|none~0|nor_conv_3x3~1|nor_conv_3x3~2|")
    >>> nothing = space.from_genotype("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")
    >>> official_classes(np.stack([zero_sum, nothing, nothing])).tolist()
    [0, 1, 1]
    """
    return _number_classes(_unique_string(arch) for arch in _check_cells(archs))


def functional_classes(archs: ArrayLike) -> np.ndarray:
    """The partition of cells [A, 6] by what they compute: int32 [A], classes numbered as they first come up.

    A node is the multiset of its terms: a zero adds none, a skip adds those of its source, and another operation adds
    one, which is zero where its source is: 4,930 classes of the 15,625 cells. Cells of one class are one network up to
    the order of sums and the names of parameters, though edges of no effect may differ and so may the costs. That
    average pooling is linear is not used.

    Raises: ValueError where archs are no cells.

    >>> space = nasbench201_space()
    >>> dead = space.from_genotype("|none~0|+|none~0|none~1|+|none~0|nor_conv_3x3~1|nor_conv_3x3~2|")
    >>> nothing = space.from_genotype("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")
    >>> functional_classes(np.stack([dead, nothing])).tolist()  # a convolution of zeros gives zeros
    [0, 0]
    """
    return _number_classes(_sum_of_terms(arch) for arch in _check_cells(archs))


def _read_strings(source: Columns, column: str) -> np.ndarray:
    """A column of architecture strings as int32 [A, 6]. The usual form is read by table, which is far faster."""
    source.check([column])
    tokens = [
        {f"{operation}~{edge[1]}": entry for entry, operation in enumerate(NASBENCH201_OPERATIONS)}
        for edge in NASBENCH201_EDGES
    ]
    archs = np.empty((len(source.columns[column]), len(tokens)), np.int32)
    for row, text in enumerate(source.columns[column]):
        parts = text.split("|")  # "", edge, "+", edge, edge, "+", edge, edge, edge, ""
        try:
            if len(parts) != 10 or (parts[0], parts[2], parts[5], parts[9]) != ("", "+", "+", ""):
                raise KeyError(text)
            edges = (parts[1], parts[3], parts[4], *parts[6:9])
            archs[row] = [entries[edge] for entries, edge in zip(tokens, edges, strict=True)]
        except KeyError:  # read with care, which says what is wrong
            return read_genotypes(source, column, nasbench201_space())
    return archs


def _unique_string(arch: list[int]) -> str:
    """The official string. Operations keep their names in it, as their alphabetical order decides what is equal."""
    nodes = ["0"]
    for incoming in _incoming(arch):
        terms = []
        for operation, source in incoming:
            if operation == "none" or nodes[source] == "#":
                terms.append("#")
            else:
                terms.append(nodes[source] if operation == "skip_connect" else f"({nodes[source]})@{operation}")
        nodes.append("+".join(sorted(terms)))
    return nodes[-1]


def _sum_of_terms(arch: list[int]) -> tuple[str, ...]:
    nodes: list[tuple[str, ...]] = [("input",)]
    for incoming in _incoming(arch):
        terms: list[str] = []
        for operation, source in incoming:
            if operation == "skip_connect":
                terms += nodes[source]
            elif operation != "none" and nodes[source]:
                terms.append(f"{operation}({'+'.join(nodes[source])})")
        nodes.append(tuple(sorted(terms)))
    return nodes[-1]


def _incoming(arch: list[int]) -> list[list[tuple[str, int]]]:
    """(operation, source) of the edges into nodes 1, 2 and 3."""
    incoming: list[list[tuple[str, int]]] = [[], [], []]
    for entry, (node, source) in zip(arch, NASBENCH201_EDGES, strict=True):
        incoming[node - 1].append((NASBENCH201_OPERATIONS[entry], source))
    return incoming


def _number_classes(keys: Iterable[Hashable]) -> np.ndarray:
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int32)


def _check_cells(archs: ArrayLike) -> list[list[int]]:
    cells = np.asarray(archs)
    if cells.ndim != 2 or cells.shape[1] != len(NASBENCH201_EDGES) or cells.dtype.kind not in "iu":
        raise ValueError(f"cells are integers [A, {len(NASBENCH201_EDGES)}], got {cells.dtype} {list(cells.shape)}")
    wrong = np.argwhere((cells < 0) | (cells >= len(NASBENCH201_OPERATIONS)))
    if len(wrong):
        row, edge = (int(at) for at in wrong[0])
        raise ValueError(f"row {row}, edge {edge}: operations are 0 to 4, got {cells[row, edge]}")
    return cells.tolist()
