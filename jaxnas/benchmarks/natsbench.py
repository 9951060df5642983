"""The official NATS-Bench release of the topology space, read without running what a pickle may contain.

Dong, Liu, Musial & Gabrys 2021, https://arxiv.org/abs/2009.00437. The release is a folder NATS-tss-v1_0-3ffb9-simple
with one bzip2-compressed pickle for each cell. A pickle can name any function and have it called, so that reading one
from elsewhere is running it; here only plain containers and numbers are ever made, and every other name is refused.

The structure is that of the official reader (github.com/D-X-Y/NATS-Bench, nats_bench/api_utils.py): {"12" | "200":
{"arch_index", "arch_str", "all_results": {(data set, seed): {"epochs", "flop", "params", "latency", "train_acc1es",
"train_losses", "train_times", "eval_acc1es": {"SPLIT@EPOCH": …}, …}}}}. Not verified: no pickle of the release was at
hand. What is verified is the content of its records 0, 11 and 284, in JSON, against the published means.
"""

from __future__ import annotations

import bz2
import collections
import gzip
import json
import math
import os
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnas.benchmarks.table import Table, find_fault, make_table
from jaxnas.files import check_no_pipe
from jaxnas.spaces.nasbench201 import nasbench201_space

SCHEDULES = ("12", "200")
"""The training schedules of the release, named by their epochs: the fidelities of a table."""


class Trial(NamedTuple):
    """One training run. dataset: "cifar10-valid", "cifar10", "cifar100" or "ImageNet16-120".

    flops, params: millions. latency: seconds, NaN where it was not measured. train_accuracy, train_loss: one number an
    epoch. train_time: seconds an epoch, in the mean. accuracy: split -> epoch, from 0 -> %; not every split was
    evaluated after every epoch. Splits: "x-valid", "x-test", and "ori-test", which is the test set of CIFAR-10 and both
    others together elsewhere.
    """

    dataset: str
    seed: int
    epochs: int
    flops: float
    params: float
    latency: float
    train_accuracy: tuple[float, ...]
    train_loss: tuple[float, ...]
    train_time: float
    accuracy: dict[str, dict[int, float]]


class Record(NamedTuple):
    """A cell. number: its official number. arch: its string. trials: "12" and "200" -> runs."""

    number: int
    arch: str
    trials: dict[str, tuple[Trial, ...]]


class _Metric(NamedTuple):
    """What `nats_table` takes of the runs on a data set."""

    dataset: str
    of: Callable[[Trial], float]
    description: str


def _accuracy(split: str) -> Callable[[Trial], float]:
    """The accuracy after the last epoch, NaN where it was not evaluated."""
    return lambda trial: trial.accuracy.get(split, {}).get(trial.epochs - 1, math.nan)


_HALF, _ALL = "trained on the training half", "trained on training and validation half"
_METRICS = {
    "c10_val": _Metric("cifar10-valid", _accuracy("x-valid"), f"CIFAR-10 validation accuracy in %, {_HALF}"),
    "c10valid_oritest": _Metric("cifar10-valid", _accuracy("ori-test"), f"CIFAR-10 TEST accuracy in %, {_HALF}"),
    "c10_test": _Metric("cifar10", _accuracy("ori-test"), f"CIFAR-10 TEST accuracy in %, {_ALL}"),
    "c100_val": _Metric("cifar100", _accuracy("x-valid"), "CIFAR-100 validation accuracy in %"),
    "c100_test": _Metric("cifar100", _accuracy("x-test"), "CIFAR-100 TEST accuracy in %"),
    "in16_val": _Metric("ImageNet16-120", _accuracy("x-valid"), "ImageNet-16-120 validation accuracy in %"),
    "in16_test": _Metric("ImageNet16-120", _accuracy("x-test"), "ImageNet-16-120 TEST accuracy in %"),
}
for _short, _dataset in (("c10", "cifar10-valid"), ("c100", "cifar100"), ("in16", "ImageNet16-120")):
    _METRICS[f"{_short}_train_time"] = _Metric(
        _dataset, lambda trial: trial.train_time * trial.epochs, f"seconds of training on {_dataset}, no evaluation"
    )
    _METRICS[f"{_short}_latency"] = _Metric(_dataset, lambda trial: trial.latency, f"seconds of a batch of {_dataset}")


def nats_records(path: str | os.PathLike[str]) -> Iterator[Record]:
    """The records of a release, one after the other: its folder of `NNNNNN.pickle.pbz2`, or one such file.

    A list of records in JSON, `.json` or `.json.gz`, is read too: {"index", "arch_str", "12": [{"dataset", "seed",
    "epochs", "flops_M", "params_M", "latency_s", "train_acc1", "train_loss", "train_time_s_per_epoch", "eval_acc1":
    {split: of every epoch, or of the last}}], "200": …}.

    Raises: OSError, or ValueError naming the file where it is none of these, or its pickle refers to anything but
    plain containers and numbers.
    """
    path = Path(path)
    check_no_pipe(path)
    if path.name.endswith((".json", ".json.gz")):
        yield from _json_records(path)
        return
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if re.fullmatch(r"\d+\.pickle\.pbz2", file.name))
        if not files:
            raise ValueError(
                f"{path} has no files like 000000.pickle.pbz2; unpack NATS-tss-v1_0-3ffb9-simple.tar there"
            )
    for file in files:
        yield _read_record(file)


def nats_table(path: str | os.PathLike[str]) -> Table:
    """The release as a table of 12 and 200 epochs, each the mean over the seeds that are there.

    Metrics, all with the fidelities "12" and "200": accuracies after the last epoch `c10_val`, `c10valid_oritest`,
    `c10_test`, `c100_val`, `c100_test`, `in16_val`, `in16_test`; simulated seconds of training `c10_train_time` (on the
    training half, as `c10_val`), `c100_train_time`, `in16_train_time`; seconds of a batch `c10_latency`, … Reading the
    whole release takes minutes; `save_table` keeps the result. Rows are in the official order.

    Raises: as `nats_records`.

    >>> import tempfile
    >>> run = {"dataset": "cifar10-valid", "seed": 777, "epochs": 12, "flops_M": 7.8, "params_M": 0.1, "latency_s": [],
    ...        "train_acc1": [50.0] * 12, "train_loss": [1.0] * 12, "train_time_s_per_epoch": 5.0,
    ...        "eval_acc1": {"x-valid": [40.0]}}
    >>> cell = "|none~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "records.json")
    ...     _ = path.write_text(json.dumps([{"index": 3, "arch_str": cell, "12": [run]}]))
    ...     table = nats_table(path)
    >>> [table.query(table.archs[0], metric).item() for metric in ("c10_val@12", "c10_train_time@12")]
    [40.0, 60.0]
    """
    space = nasbench201_space()
    rows: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # only what the table keeps: the curves would take gigabytes
    for record in nats_records(path):
        try:
            arch = np.asarray(space.from_genotype(record.arch))
        except ValueError as error:
            raise ValueError(f"{path}, record {record.number}: {error}") from None
        if record.number in rows:
            raise ValueError(f"{path}, record {record.number} is there twice; keep one")
        rows[record.number] = arch, _measure(record)
    if not rows:
        raise ValueError(f"{path} has no records")
    numbers = sorted(rows)
    archs, values = (np.stack([rows[number][part] for number in numbers]) for part in (0, 1))
    fault = find_fault(space.choices, archs, lambda row: f"record {numbers[row]}")
    if fault:
        raise ValueError(f"{path}, record {numbers[fault.row]}: {fault.reason}")
    metrics = {metric: values[:, m] for m, metric in enumerate(_METRICS)}
    descriptions = {metric: source.description for metric, source in _METRICS.items()}
    return make_table("natsbench", space, archs, metrics, descriptions, dict.fromkeys(metrics, SCHEDULES))


def _measure(record: Record) -> np.ndarray:
    """float64 [metrics, schedules], the means over seeds, NaN where there is none."""
    result = np.full((len(_METRICS), len(SCHEDULES)), np.nan)
    for m, metric in enumerate(_METRICS.values()):
        for f, schedule in enumerate(SCHEDULES):
            trials = [trial for trial in record.trials.get(schedule, ()) if trial.dataset == metric.dataset]
            values = [value for value in map(metric.of, trials) if not math.isnan(value)]
            if values:
                result[m, f] = np.mean(values)
    return result


def _read_record(path: Path) -> Record:
    """The record of one pickle."""
    check_no_pipe(path)
    try:
        with bz2.open(path) as file:
            content = _PlainUnpickler(file).load()
    except OSError as error:
        if error.errno is not None:  # the file itself, not its content
            raise
        raise ValueError(f"{path}: not a bzip2 file; take the files of the release as they are") from None
    except Exception as error:  # a broken pickle may raise anything
        raise ValueError(f"{path}: not a pickle of the release ({str(error) or type(error).__name__})") from None
    try:
        found = [
            Record(
                int(state["arch_index"]),
                str(state["arch_str"]),
                {str(schedule): tuple(_trial(key, run) for key, run in state["all_results"].items())},
            )
            for schedule, state in content.items()
        ]
        trials = {schedule: runs for record in found for schedule, runs in record.trials.items()}
        return found[0]._replace(trials=trials)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ValueError(f"{path}: not a record of the release ({type(error).__name__}: {error})") from None


def _trial(key: tuple[str, int], run: Mapping[str, Any]) -> Trial:
    dataset, seed = key
    epochs = int(run["epochs"])
    accuracy: dict[str, dict[int, float]] = {}
    for name, value in run["eval_acc1es"].items():
        split, _, epoch = name.partition("@")
        accuracy.setdefault(split, {})[int(epoch)] = float(value)
    return Trial(
        str(dataset),
        int(seed),
        epochs,
        float(run["flop"]),
        float(run["params"]),
        _latency(run["latency"]),
        tuple(float(run["train_acc1es"][epoch]) for epoch in range(epochs)),
        tuple(float(run["train_losses"][epoch]) for epoch in range(epochs)),
        _mean((run["train_times"] or {}).values()),
        accuracy,
    )


def _json_records(path: Path) -> Iterator[Record]:
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            content = json.load(file)
        for entry in content:
            trials = {key: tuple(_json_trial(run) for run in entry[key]) for key in SCHEDULES if key in entry}
            yield Record(int(entry["index"]), str(entry["arch_str"]), trials)
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"{path}: not a gzip file; name it .json where it is not compressed") from None
    except (EOFError, KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"{path}: not records of NATS-Bench in JSON ({type(error).__name__}: {error})") from None


def _json_trial(run: Mapping[str, Any]) -> Trial:
    epochs = int(run["epochs"])
    accuracy = {}
    for split, values in run["eval_acc1"].items():
        if len(values) not in (1, epochs):
            raise ValueError(f"{split} has {len(values)} values; write one for each of {epochs} epochs, or the last")
        accuracy[split] = {epochs - len(values) + place: float(value) for place, value in enumerate(values)}
    return Trial(
        str(run["dataset"]),
        int(run["seed"]),
        epochs,
        float(run["flops_M"]),
        float(run["params_M"]),
        _latency(run["latency_s"]),
        tuple(map(float, run["train_acc1"])),
        tuple(map(float, run["train_loss"])),
        float(run["train_time_s_per_epoch"]),
        accuracy,
    )


def _mean(values: Iterable[float] | None) -> float:
    numbers = [float(value) for value in values or ()]
    return sum(numbers) / len(numbers) if numbers else math.nan


def _latency(values: Iterable[float] | None) -> float:
    """The mean; the release has -1 where it was not measured."""
    return _mean(value for value in values or () if value > 0)


class _PlainUnpickler(pickle.Unpickler):
    """Makes containers, strings and numbers. NumPy's come as Python's: none of its code sees the pickle."""

    def find_class(self, module: str, name: str) -> Any:
        known = _ALLOWED.get((module.replace("numpy._core", "numpy.core"), name))
        if known is None:
            raise ValueError(
                f"it refers to {module}.{name}, which is no plain container or number and is refused; "
                "take NATS-tss-v1_0-3ffb9-simple, which has results only"
            )
        return known


class _Dtype:
    """Stands for `numpy.dtype`; numbers only."""

    def __init__(self, name: str, *_: Any) -> None:
        if not re.fullmatch(r"[biuf][1248]", name):
            raise ValueError(f"numbers of type {name!r}")
        self.name = name

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise ValueError(f"byte order {state[1]!r}")
        self.name = state[1] + self.name

    def read(self, data: bytes) -> list[Any]:
        return np.frombuffer(data, np.dtype(self.name)).tolist()


class _Array(list[Any]):
    """Stands for `numpy.ndarray`: a list of its entries."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, _, data = state
        if len(shape) > 1:
            raise ValueError(f"an array {shape}, where the release has numbers and rows of them")
        self[:] = dtype.read(data)


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    (value,) = dtype.read(data)
    return value


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): collections.defaultdict,
    **{("builtins", kind.__name__): kind for kind in (set, frozenset, list, dict, tuple, int, float, bool, str)},
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
}
