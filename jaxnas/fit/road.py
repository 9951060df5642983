"""The whole road: initial architectures, search, selection, the found network and its baselines trained and tested."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import data, saved
from jaxnas.base import Arch, Key, SearchSpace
from jaxnas.benchmarks import Table
from jaxnas.cache import enable_cache
from jaxnas.catalog import Entry, entry_of
from jaxnas.data import Dataset
from jaxnas.files import expanded
from jaxnas.fingerprint import checksum
from jaxnas.fit import results, seeds
from jaxnas.fit.budget import Budget, check_feasible, feasible_samples, make_budget, with_costs, without_absent
from jaxnas.fit.devices import Devices, join
from jaxnas.fit.latency import given_latency_table, latency_table, network_milliseconds
from jaxnas.fit.presets import PRESETS, SIZES, preset
from jaxnas.fit.problem import Found, Method, Prepared, Problem, Stop, check_method, settings_of
from jaxnas.fit.scores import ScoreComparison
from jaxnas.fit.settings import Dtype, Limits, Training, has_images, skeleton_of
from jaxnas.fit.training import check_networks, check_training, fitting, train_all
from jaxnas.fit.truth import truth_of
from jaxnas.hardware import LatencyTable, save_latency
from jaxnas.loggers import check_loggers
from jaxnas.networks import tutorial_cnn
from jaxnas.parallel import is_first_process
from jaxnas.ranges import Seed, Some, SomeOrNone, check_settings, check_used
from jaxnas.runfolder import RunFolder, check_folder


@dataclasses.dataclass(frozen=True)
class Result:
    """What a road led to.

    space: of the networks. result: the content of result.json: accuracies with their split, costs, baselines, ground
    truth, versions, timing. folder: the run folder, None where none was asked for.
    """

    space: SearchSpace
    result: dict[str, Any]
    folder: Path | None
    load: Callable[[], saved.Loaded]

    @functools.cached_property
    def found(self) -> Found:
        """What the search found, of several seeds the one that is kept."""
        arch = self.space.from_genotype(self.result["genotype"])
        return Found(self.space, arch, self.result, seconds=self.result["timing"]["search"])

    @functools.cached_property
    def network(self) -> saved.Loaded:
        """The trained network, as (apply, params); apply takes images as they are on disk."""
        return self.load()


@dataclasses.dataclass(frozen=True)
class Road:
    """All that the numbers of a run depend on beside its method: space, data, training, seeds, budget, table."""

    space: str | Entry
    dataset: str | Dataset
    """A data set, or the name of one, as of `jaxnas.data.load_dataset`."""
    training: Training = Training()
    seed: Seed = 0
    seeds: Some = 1
    """Searches this many seeds at once, from `seed` on, trains what each found, and keeps the best by validation."""
    random_baselines: SomeOrNone = 1
    """Random architectures, within the budget, that are trained beside the found one."""
    hand_designed: bool = True
    """Whether networks that people designed are trained beside the found one: a small one of many tutorials, and a
    ResNet (over the chain a MobileNetV2, too) of as many multiply-adds as the found network."""
    limits: Limits = Limits()
    table: str | os.PathLike[str] | Table | None = None
    """A table of measured architectures, by name, file or itself: what was found is looked up there."""
    metric: str | None = None
    """Of the table; by default what is usually reported of it."""
    dtype: Dtype = "float32"
    """Of the activations of all networks, in the search and in the trainings. Parameters, statistics of batch norms,
    losses and the parameters of an architecture are float32."""


def run(
    method: Method,
    space: str | Entry,
    dataset: str | Dataset,
    training: Training | None = None,
    *,
    seed: int = 0,
    seeds: int = 1,
    random_baselines: int = 1,
    hand_designed: bool = True,
    limits: Limits | None = None,
    table: str | os.PathLike[str] | Table | None = None,
    metric: str | None = None,
    dtype: Dtype = "float32",
    folder: str | os.PathLike[str] | None = None,
    devices: Devices | None = None,
    loggers: Sequence[str] = (),
    cache_dir: str | None = None,
    data_dir: str | None = None,
    size: tuple[int, int] | None = None,
    label: str | None = None,
) -> Result | None:
    """Searches, trains what was found and its baselines, tests them, and reports.

    method: `Darts`, `Enas`, `OneShot`, `BlackBox`, or one of your own (`Method`). space: a name of
    `jaxnas.catalog.CATALOG`, or an `Entry`. dataset: a data set, or the name of one, and then data_dir, size and label
    are as of `jaxnas.data.load_dataset`. seed, seeds, random_baselines, hand_designed, limits, table, metric, dtype: as
    of `Road`. folder: where configuration, metrics, checkpoints, result and report go; the same call on the same folder
    goes on where it was stopped. loggers: names of `jaxnas.loggers.LOGGERS`, to which metrics go too.

    Returns: what came out; None in the other processes of several.

    Raises: ValueError or OSError, before any long work, for what cannot work; Stopped where a signal ended the run.

    docs/start.md has an example, and docs/tutorials/first_search.md explains it line by line.
    """
    road = Road(
        entry_of(space), dataset, Training() if training is None else training, seed, seeds, random_baselines,
        hand_designed, Limits() if limits is None else limits, table, metric, dtype,
    )  # fmt: skip
    devices = Devices() if devices is None else devices
    check_method(method)
    check_settings("search", method, type(method))
    check_settings("train", road.training, Training)
    check_settings("limits", road.limits, Limits, _FLAGS)
    check_settings("", road, Road)
    check_settings("devices", devices, Devices)
    _check_used(method, road, devices)
    if metric is not None and table is None:
        raise ValueError(f"metric {metric!r} is one of a table: give table too")
    if not isinstance(dataset, str) and (data_dir, size, label) != (None, None, None):
        raise ValueError("data_dir, size and label are for a data set that is given by name: leave them out")
    enable_cache(cache_dir)
    join(devices)
    timer = results.clock()
    folder = None if folder is None else str(expanded(folder))
    check_loggers(loggers)
    if folder is not None and is_first_process():
        check_folder(folder)
    if isinstance(dataset, str):
        dataset = data.load_dataset(dataset, data_dir, size=size, label=label)
        if is_first_process():
            print(dataset.told(), flush=True)
    problem, latency = _problem(road, dataset, devices, folder)
    prepared = method.prepare(problem)
    keys = _Keys(*jax.random.split(jax.random.key(road.seed), 4))
    check_feasible(problem.space, problem.budget(problem.space), keys.budget)
    identity = {
        "experiment": method.name,
        "space": problem.entry.name,
        "search": settings_of(method),
        "train": dataclasses.asdict(road.training),
        **{name: getattr(road, name) for name in ("seed", "random_baselines", "hand_designed", "dtype")},
        **({"seeds": road.seeds} if road.seeds > 1 else {}),
        "limits": {**dataclasses.asdict(road.limits), "latency_table": _content(road.limits, latency)},
        "data": data.fingerprint(dataset),
        "table": None if problem.truth is None else {**problem.truth.fingerprint, "metric": problem.truth.metric},
        **prepared.identity,
    }
    runtime = {
        "folder": folder, "devices": dataclasses.asdict(devices), "dataset": dataset.name, "loggers": list(loggers),
        **{name: getattr(method, name) for name in getattr(method, "runtime", ())},
    }  # fmt: skip
    with results.held_run(folder, identity, runtime, loggers=loggers) as (opened, stop):
        there = None if folder is None else opened.path
        if opened.result is None:
            if latency is not None:
                save_latency(latency, opened.path / "latency.json")
            done = _travel(opened, problem, prepared, keys, road, latency, timer, stop)
        else:
            done = opened.result
            results.check_result(done, opened.path / "result.json")
            print(f"{opened.path} is finished; another folder (--workdir) makes another run")
        if not is_first_process() or done is None:
            return None
        results.tell(there, done)
        # A folder that is gone afterwards is read now.
        read = functools.partial(saved.load, opened.path, problem.entry)
        loaded = read() if there is None else None
        return Result(problem.space, done, there, read if loaded is None else lambda: loaded)


_FLAGS = {name: f"max_{name}" for name in ("params", "macs", "latency_ms")} | {"latency_batch": "latency_batch"}
"""What the fields of `Limits` are called."""


def _check_used(method: Method, road: Road, devices: Devices) -> None:
    """Raises ValueError for a setting that was given and has no effect beside the others."""
    name = method.name if method.name in PRESETS else "darts"
    usual = [preset(name, entry_of(road.space), size) for size in SIZES]
    own = [each.method for each in usual if isinstance(each.method, type(method))]
    check_used("search", method, own)
    check_used("train", road.training, [each.training for each in usual])
    check_used("devices", devices)
    batch = road.limits.latency_batch
    if road.limits.latency_ms is None and batch != Limits.latency_batch:
        raise ValueError(f"latency_batch {batch} has an effect only with max_latency_ms: leave it out, or give that")
    compared = getattr(method, "comparison", None)
    defaults = [ScoreComparison(), *(getattr(each, "comparison", None) for each in own)]
    if road.table is None and compared is not None and compared not in defaults:
        raise ValueError("search.comparison has an effect only with table: leave it out, or give that")


class _Keys(NamedTuple):
    """Those of the parts of the road. search: of seed `seed`; several seeds have one each (`seeds.search_keys`)."""

    search: Key
    train: Key
    random: Key
    budget: Key


def _problem(road: Road, dataset: Dataset, devices: Devices, folder: str | None) -> tuple[Problem, LatencyTable | None]:
    """What the method is to solve, checked; the measured latency where that is limited, which takes seconds."""
    entry = entry_of(road.space)
    if road.hand_designed and has_images(dataset):
        fitting(lambda image_shape: tutorial_cnn(image_shape, dataset.num_outputs), dataset)
    check_training(road.training, dataset, road.seed, devices)
    skeleton = skeleton_of(road.training, dataset, road.dtype)
    space = with_costs(entry, entry.space(skeleton))
    truth = None if road.table is None else truth_of(road.table, space, road.metric)
    given = road.limits.latency_table
    if given is not None and road.limits.latency_ms is None:
        raise ValueError(f"latency_table {given} limits nothing without max_latency_ms")
    if road.limits.latency_ms is not None and given is None and devices.coordinator is not None:
        raise ValueError("max_latency_ms is measured, by each process otherwise: leave out devices.coordinator")
    check_networks(entry, space, road.training, dataset, road.dtype, road.hand_designed)
    latency = None
    if road.limits.latency_ms is not None:  # last: it takes time
        kept = None if folder is None else Path(folder) / "latency.json"
        if given is None:
            latency = latency_table(entry, space, skeleton, road.limits.latency_batch, kept)
        else:
            latency = given_latency_table(entry, space, given)

    @functools.cache  # asked for by every part of the road
    def budget(left: SearchSpace) -> Budget:
        own = make_budget(entry, left, skeleton, road.limits.given, latency)
        return own if left is space else without_absent(own, left)

    problem = Problem(entry, dataset, road.training, space, budget, truth, road.seed, road.seeds, devices, road.dtype)
    return problem, latency


def _travel(
    run: RunFolder, problem: Problem, prepared: Prepared, keys: _Keys, road: Road, latency: LatencyTable | None,
    timer: Callable[[], float], stop: Stop,
) -> dict[str, Any] | None:  # fmt: skip
    """Search, training, report; gives the result, None in the other processes of several."""
    loading = timer()
    found = prepared.search(run, stop)
    archs: dict[str, Arch] = {name: own.arch for name, own in found.items()}
    seeds.write_genotypes(run, problem.space, archs)
    if problem.seeds == 1:
        archs |= found[seeds.ONE].beside
    archs |= random_archs(problem, road.random_baselines, keys.random)
    figures = train_all(run, problem, archs, keys.train, stop, road.hand_designed)
    if not is_first_process():
        return None
    for name, own in found.items():
        figures[name] |= own.told
    if problem.truth is not None:
        for name, arch in archs.items():
            figures[name]["truth"] = problem.truth.told(arch)
    figures, chosen = seeds.choose(run, problem, problem.space, {name: archs[name] for name in found}, figures)
    kept = seeds.names(problem)[chosen or 0]
    timing = {"load": loading, "search": found[kept].seconds}
    if latency is not None:
        measured = _tell_latency(figures[seeds.ONE], archs[kept], problem, latency)
        timing |= {} if measured is None else {"latency_ms": measured}
    pictures = prepared.pictures(run, found, kept)
    finds = {name: archs[name] for name in found}
    tables = seeds.tables(finds, figures)
    return results.finish(run, problem, finds, figures, {**timing, "total": timer()}, pictures, tables)


def _content(limits: Limits, latency: LatencyTable | None) -> str | None:
    """The fingerprint of a latency table from a file, wherever it lies."""
    if limits.latency_table is None or latency is None:
        return None
    return checksum(str(latency.constant), *latency.milliseconds, *latency.milliseconds.values())


def _tell_latency(figures: dict[str, Any], arch: Arch, problem: Problem, latency: LatencyTable) -> float | None:
    """Puts the predicted latency of the found network into its figures; gives the one measured here, if any."""
    predicted = float(problem.budget(problem.space).costs(np.asarray(arch)[None])["latency_ms"][0])
    if not latency.batch:  # of a file, measured elsewhere
        figures["latency"] = {"device": latency.device, "predicted_ms": predicted}
        print(f"latency: {predicted:.3f} ms by the sum of {latency.device}", flush=True)
        return None
    skeleton = problem.trained_skeleton
    measured = network_milliseconds(problem.entry, arch, problem.space, skeleton, latency.batch)
    figures["latency"] = {"device": latency.device, "batch": latency.batch, "predicted_ms": predicted}
    print(f"latency of a batch: {predicted:.3f} ms by the sum, {measured:.3f} ms measured", flush=True)
    return measured


def random_archs(problem: Problem, count: int, key: Key) -> Mapping[str, Arch]:
    """Baselines drawn from the space, within the budget: random-1, random-2, …"""
    if count < 1:
        return {}
    if not problem.budget(problem.space).limits:
        archs = [problem.space.sample(k) for k in jax.random.split(key, count)]
    else:
        archs = list(jnp.asarray(feasible_samples(problem.space, problem.budget(problem.space), key, count)[0]))
    return {f"random-{number + 1}": arch for number, arch in enumerate(archs)}
