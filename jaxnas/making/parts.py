"""The whole of digits201 in a run folder: parts that are saved one by one, runs whose time is taken, the file at last.

stages/first/0000.npz …    what the networks of so many classes gave; stages/second: with the next seed
stages/time                seconds of single runs
digits201.npz              all of it, as `jaxnas.benchmarks.digits201_table` reads it
"""

from __future__ import annotations

import dataclasses
import io
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, PartitionSpec
from scipy import stats

from jaxnas.benchmarks.digits201 import digits201_table, read_digits201
from jaxnas.data.dataset import count
from jaxnas.data.digits import load_digits
from jaxnas.files import write_atomic
from jaxnas.fingerprint import checksum
from jaxnas.making.trainer import Measured, Settings, make_trainer, representatives, run_identity, skeleton
from jaxnas.runfolder import RunFolder, Stage, differences, versions
from jaxnas.train.progress import duration
from jaxnas.train.stop import check_stop

Arrays = dict[str, np.ndarray]


class Job(NamedTuple):
    """Classes to be trained with one seed, and the file for what comes out."""

    file: Path
    seed: int
    numbers: np.ndarray


def make(
    run: RunFolder,
    settings: Settings,
    stop: Callable[[], int | None],
    report: Callable[[str], None],
    *,
    earlier: Arrays | None = None,
    train: bool = True,
    together: int | None = None,
) -> dict[str, Any]:
    """Trains what the folder has not yet, writes `run`/digits201.npz, and tells how noisy and how wide the ranking is.

    stop: that of `jaxnas.train.stop.stop_on_signal`, asked between two parts. report: gets a line after each of
    them. earlier: arrays of a file of the same
    settings (`read_start`), whose classes are not trained again. train: whether anything is trained; where not, the
    file has what is there. together: see `make_trainer`.

    Raises: Stopped where a signal came.
    """
    archs, macs = representatives(settings)
    # The classes of the second seed and of the timed runs are random ones.
    shuffled = np.random.RandomState(settings.seed).permutation(len(archs))
    wanted = {"first": np.arange(len(archs)), "second": np.sort(shuffled[: settings.second])}
    jobs = {
        name: [
            Job(run.stage(name).path / f"{piece:04d}.npz", settings.seed + seed, numbers[first : first + settings.part])
            for piece, first in enumerate(range(0, len(numbers), settings.part))
        ]
        for seed, (name, numbers) in enumerate(wanted.items())
    }
    _take_over(earlier or {}, jobs)
    trainer = make_trainer(settings, together)
    if train:
        left = [job for of_seed in jobs.values() for job in of_seed if not job.file.exists()]
        _train(left, trainer, archs, settings.part, stop, report)
    first, second = (_joined(of_seed, len(settings.fidelities)) for of_seed in jobs.values())
    timing = _time(run.stage("time"), trainer, archs, shuffled[: settings.timed])
    model = np.polyfit(macs[timing["classes"]], timing["seconds"], 1)
    seconds_an_epoch = [float(model[1]) / settings.epochs, float(model[0]) / settings.epochs]
    file = run.path / "digits201.npz"
    _write(file, settings, seconds_an_epoch, first, second, wanted["second"], timing)
    residual = np.polyval(model, macs[timing["classes"]]) - np.array(timing["seconds"])
    return {
        "classes": len(macs),
        "trained": int((~np.isnan(first.valid_loss[:, -1])).sum()),
        **_agreement(Measured(*(leaf[wanted["second"]] for leaf in first)), second),
        "quantiles": _quantiles(file),
        "bytes": file.stat().st_size,
        "seconds_an_epoch": seconds_an_epoch,
        "time_model_relative_residual": float(np.std(residual) / np.mean(timing["seconds"])),
        "versions": versions(),
    }


def _train(
    jobs: Sequence[Job],
    trainer: Callable[..., Measured],
    archs: np.ndarray,
    part: int,
    stop: Callable[[], int | None],
    report: Callable[[str], None],
) -> None:
    """Does jobs one after another; all devices share the architectures of each."""
    devices = jax.devices()
    mesh = jax.make_mesh((len(devices),), ("device",), axis_types=(AxisType.Auto,))
    split = PartitionSpec("device")
    train = jax.jit(
        jax.shard_map(trainer, mesh=mesh, in_specs=(PartitionSpec(), split, split), out_specs=split, check_vma=False)
    )
    width = -(-part // len(devices)) * len(devices)
    begun = time.monotonic()
    for done, job in enumerate(jobs, start=1):
        check_stop(stop, done - 1, len(jobs), "part")
        padded = np.resize(job.numbers, width)
        result = jax.device_get(train(jax.random.key(job.seed), padded, archs[padded]))
        _save(job.file, {name: leaf[: len(job.numbers)] for name, leaf in result._asdict().items()})
        left = (time.monotonic() - begun) / done * (len(jobs) - done)
        report(f"part {done} of {len(jobs)}, {duration(left)} left")


def _joined(jobs: Sequence[Job], fidelities: int) -> Measured:
    """What the jobs gave; the loss of what was not trained is NaN."""
    parts = []
    for job in jobs:
        if job.file.exists():
            with np.load(job.file) as stored:
                parts.append(Measured(*(stored[name] for name in Measured._fields)))
        else:
            count = len(job.numbers)
            nothing = np.zeros((count, fidelities), np.int32)
            parts.append(Measured(nothing, np.full(nothing.shape, np.nan, np.float32), nothing[:, 0]))
    return Measured(*(np.concatenate(leaves) for leaves in zip(*parts, strict=True)))


def read_start(path: str | Path, settings: Settings) -> Arrays:
    """The arrays of an earlier file, for `make`.

    Raises: OSError, or ValueError where it is not a file of digits201 or was made with other settings.
    """
    arrays, about = read_digits201(path)
    if differing := differences(about["config"], json.loads(json.dumps(run_identity(settings)))):
        raise ValueError(f"{path} was made with other settings ({differing}); leave out --start or give those")
    return arrays


def start_fingerprint(arrays: Arrays | None) -> dict[str, Any] | None:
    """Of the arrays of an earlier file, for the identity of the run; None where there is none."""
    if arrays is None:
        return None
    content = (part for name in sorted(arrays) for part in (name, arrays[name]))
    return {"classes": len(arrays["test_correct"]), "checksum": checksum(*content)}


def _take_over(arrays: Arrays, jobs: dict[str, list[Job]]) -> None:
    """Writes the parts that the arrays of an earlier file have whole."""
    if not arrays:
        return
    for name, prefix in (("first", ""), ("second", "second_")):
        rows = arrays["second_classes"].tolist() if prefix else range(len(arrays["test_correct"]))
        place = {number: row for row, number in enumerate(rows)}
        for job in jobs[name]:
            at = [place[number] for number in job.numbers.tolist()]
            taken = {field: arrays[f"{prefix}{field}"][at] for field in Measured._fields}
            if not np.isnan(taken["valid_loss"]).any():
                _save(job.file, taken)


def _save(path: Path, arrays: dict[str, Any]) -> None:
    """Writes an npz in one step: a reader, or a resumed run, sees all of it or nothing."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomic(path, buffer.getvalue())


def _time(stage: Stage, trainer: Callable[..., Measured], archs: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
    """Seconds of single runs of the chosen classes, each the smaller of two, evaluation included."""
    if stage.result is None:
        single = jax.jit(trainer)
        seconds = []
        for number in [chosen[0], *chosen]:  # the first is compiled
            taken = []
            for _ in range(2):
                begun = time.perf_counter()
                jax.block_until_ready(single(jax.random.key(0), number[None], archs[number][None]))
                taken.append(time.perf_counter() - begun)
            seconds.append(min(taken))
        stage.finish({"classes": chosen.tolist(), "seconds": seconds[1:]})
    return dict(stage.result or {})


def _write(
    file: Path,
    settings: Settings,
    seconds_an_epoch: list[float],
    first: Measured,
    second: Measured,
    second_classes: np.ndarray,
    timing: dict[str, Any],
) -> None:
    """Writes digits201.npz."""
    about = {
        "skeleton": dataclasses.asdict(skeleton(settings)),
        "fidelities": settings.fidelities,
        "images": settings.copies * count(load_digits().test),
        "seconds_an_epoch": seconds_an_epoch,
        "config": run_identity(settings),
        "versions": versions(),
    }
    arrays: dict[str, Any] = {}
    for prefix, of_seed in (("", first), ("second_", second)):
        arrays[f"{prefix}valid_correct"] = of_seed.valid_correct.astype(np.uint16)
        arrays[f"{prefix}valid_loss"] = of_seed.valid_loss.astype(np.float16)
        arrays[f"{prefix}test_correct"] = of_seed.test_correct.astype(np.uint16)
    arrays |= {
        "second_classes": second_classes.astype(np.uint16),
        "timed_classes": np.array(timing["classes"], np.uint16),
        "timed_seconds": np.array(timing["seconds"], np.float32),
    }
    _save(file, {**arrays, "about": np.array(json.dumps(about))})


def _agreement(first: Measured, second: Measured) -> dict[str, Any]:
    """How the same classes rank with two seeds, as far as both are trained; no ranking of less than three."""
    both = ~np.isnan(first.valid_loss[:, -1] + second.valid_loss[:, -1])
    pairs = {
        "valid": (first.valid_correct[both, -1], second.valid_correct[both, -1]),
        "valid_loss": (first.valid_loss[both, -1], second.valid_loss[both, -1]),
        "test": (first.test_correct[both], second.test_correct[both]),
    }
    ranks = {
        name: {
            "spearman": float(stats.spearmanr(a, b).statistic),
            "kendall": float(stats.kendalltau(a, b).statistic),
        }
        for name, (a, b) in pairs.items()
        if len(a) >= 3
    }
    return {"trained_twice": int(both.sum()), "seed_to_seed": ranks}


def _quantiles(file: Path) -> dict[str, float]:
    """Of the final accuracies of all cells in the written file, read again as a table."""
    table = digits201_table(file)
    last = {name: np.asarray(table.metrics[name]).reshape(len(table.archs), -1)[:, -1] for name in ("valid", "test")}
    shares = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
    return {f"{name}@{q}": float(np.nanquantile(values, q)) for name, values in last.items() for q in shares}
