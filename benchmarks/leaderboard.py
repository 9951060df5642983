"""The methods of this library against ground truth: what each finds in NAS-Bench-201's space.

    python -m benchmarks.leaderboard --folder leaderboard
    python -m benchmarks.leaderboard --folder leaderboard --methods darts,gdas --first-seed 1000 --seeds 4
    python -m benchmarks.leaderboard --folder leaderboard --board cifar10_small --table CSV --data-dir DIR --seeds 3
    python -m benchmarks.leaderboard --folder leaderboard --board cifar10 --table CSV --data-dir DIR --seeds 3

There are three boards. digits201: the noisy digits, which come with the package, on a laptop. cifar10_small: CIFAR-10
at 16 by 16 pixels, on a laptop. cifar10: CIFAR-10 at the scale of the papers, for a GPU.

Each search learns from training and validation images alone; what it found is looked up in the table, whose networks
were trained on the same data. A line a search is kept in FOLDER/BOARD.jsonl, with all settings of its method, and
the same command goes on where it stopped. Seeds are searched several at once, side by side on the cores. p:
Mann-Whitney, one-sided, that the cells found are no better than all 15,625. Settings are to be chosen on seeds from
1000 on, and the reported seeds, from 0 on, run once afterwards.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import stats

from jaxnas import command, fit
from jaxnas.catalog import entry_of
from jaxnas.data import Dataset, load_dataset
from jaxnas.files import open_to_append
from jaxnas.fit.devices import Devices, join
from jaxnas.fit.family import Variation
from jaxnas.fit.results import held_run
from jaxnas.fit.searching import epoch_lines
from jaxnas.fit.settings import Dtype, skeleton_of
from jaxnas.ranges import Seed, Some, check_settings
from jaxnas.spaces import nasbench201_space
from jaxnas.tabular.compare import run_plan
from jaxnas.tabular.methods import MethodSettings, make_plan
from jaxnas.tabular.setting import make_setting

SPACE = "nasbench201"
_UNWATCHED = fit.Watch(every=0, eigenvalue_every=0)
_DARTS = dataclasses.replace(fit.preset("darts", SPACE).method, method="darts", watch=_UNWATCHED)


def _darts(**changes: Any) -> fit.Darts:
    return dataclasses.replace(_DARTS, **changes)


def _one_shot(**changes: Any) -> fit.OneShot:
    return dataclasses.replace(fit.preset("one_shot", SPACE).method, **changes)


@dataclasses.dataclass(frozen=True)
class OnTable:
    """Black-box search that reads the table as it goes, and pays the seconds that each training took."""

    sampler: str = "random"
    seconds: float = 60.0


@dataclasses.dataclass(frozen=True)
class ByTable:
    """A method whose candidates are looked up in the table, and cost the seconds that it tells of their trainings."""

    method: fit.OneShot


METHODS: Mapping[str, Any] = {
    "darts": _DARTS,
    "darts-second": _darts(order="second"),
    "darts-difference": _darts(order="second-fd"),
    "gdas": _darts(method="gdas"),
    "snas": _darts(method="snas"),
    "pc_darts": _darts(method="pc_darts"),
    "drnas": _darts(method="drnas"),
    "fair_darts": _darts(method="fair_darts"),
    "smooth_random": _darts(method="smooth_random"),
    "smooth_adversarial": _darts(method="smooth_adversarial"),
    "p_darts": _darts(method="p_darts", epochs=39, warmup_epochs=5, depths=(1, 2, 3)),
    "darts_minus": _darts(method="darts_minus"),
    "beta_darts": _darts(method="beta_darts"),
    "darts_pt": _darts(derive="perturbation", tune_epochs=2),
    "setn": _darts(method="setn"),
    "one_shot": _one_shot(),
    "one_shot-fair": _one_shot(sampling="fair", epochs=12),
    "one_shot-predictor": _one_shot(by="predictor"),
    "one_shot-finalists": _one_shot(
        epochs=30,
        scoring=fit.Scoring("batch", 360, 2, evaluations=300, population=40, limit=360),
        finalists=fit.Finalists(40, 5),
    ),
    "one_shot-finalists-of-table": ByTable(
        _one_shot(
            epochs=30,
            scoring=fit.Scoring("batch", 360, 2, evaluations=300, population=40, limit=360),
            finalists=fit.Finalists(25, 8),
        )
    ),
    "enas": fit.preset("enas", SPACE).method,
    "black_box-random": OnTable("random"),
    "black_box-evolution": OnTable("evolution"),
    "black_box-predictor": OnTable("predictor"),
}
"""Of the board of digits201, by the names of the table, each with its settings."""

FAMILY: tuple[Variation, ...] = (
    "darts", "gdas", "snas", "pc_darts", "drnas", "fair_darts", "smooth_random", "darts_minus", "beta_darts", "setn",
)  # fmt: skip


def _on_cifar10(base: fit.Darts, one_shot: fit.OneShot, enas: fit.Enas) -> dict[str, Any]:
    """The methods of a board of CIFAR-10."""
    methods: dict[str, Any] = {name: dataclasses.replace(base, method=name) for name in FAMILY}
    methods["darts-second"] = dataclasses.replace(base, order="second")
    methods["darts-stopped"] = dataclasses.replace(base, early_stop=True, watch=_WATCH)
    methods["darts_pt"] = dataclasses.replace(base, derive="perturbation")
    return {**methods, "one_shot": one_shot, "enas": enas}


_WATCH = fit.Watch(every=0, batches=2, window=3, lag=2, first=4)
_SMALL = dataclasses.replace(_DARTS, epochs=25, cells=1, limit=10_000)
_PAPER = dataclasses.replace(fit.preset("darts", SPACE, "paper").method, watch=_UNWATCHED)


class Board(NamedTuple):
    """Data, whose images may be resized to a size; a metric of the table, the usual one for None; the methods."""

    data: str
    methods: Mapping[str, Any]
    size: int | None = None
    metric: str | None = None


BOARDS = {
    "digits201": Board("digits201", METHODS),
    "cifar10_small": Board(
        "cifar10",
        _on_cifar10(
            _SMALL,
            _one_shot(epochs=25, cells=1, limit=10_000, valid_part=0.5),
            dataclasses.replace(fit.preset("enas", SPACE, "small").method, epochs=25, cells=1, valid_part=0.5),
        ),
        16,
        "c10_test@200",
    ),
    "cifar10": Board(
        "cifar10",
        {
            **_on_cifar10(
                _PAPER, fit.preset("one_shot", SPACE, "paper").method, fit.preset("enas", SPACE, "paper").method
            ),
            # The paper of NAS-Bench-201 searches five times as long where one operation of an edge is computed.
            "gdas": dataclasses.replace(_PAPER, method="gdas", epochs=250),
            "setn": dataclasses.replace(_PAPER, method="setn", epochs=250),
        },
        None,
        "c10_test@200",
    ),
}


@dataclasses.dataclass(frozen=True)
class Config:
    folder: str = "leaderboard"
    board: Literal["digits201", "cifar10_small", "cifar10"] = "digits201"
    methods: str = ""
    """Names with commas; all of the board by default."""
    table: str = ""
    """For CIFAR-10: the file of the table of NAS-Bench-201."""
    data_dir: str | None = None
    """For CIFAR-10: where TFDS has prepared it."""
    seeds: Some = 20
    first_seed: Seed = 0
    at_once: Some = 10
    """How many seeds are searched in one program."""
    dtype: Dtype = "float32"
    """Of activations; methods in another type than float32 have it in their names."""
    settings: str = "{}"
    """Other settings for all methods, in JSON: what was tried on the way is not the table."""


def searched(
    method: Any, first: int, count: int, dataset: Dataset, truth: fit.Truth, dtype: Dtype
) -> list[dict[str, Any]]:
    """What the searches of some seeds found: a line each, without its key."""
    looked_up = isinstance(method, ByTable)
    method = method.method if looked_up else method
    # Finalists are trained as the networks of the table of digits201 were.
    entry, training = entry_of(SPACE), dataclasses.replace(fit.preset("darts", SPACE).training, cells=method.cells)
    skeleton = skeleton_of(training, dataset, dtype)
    space = entry.space(skeleton)
    # Others would compare their scores with the table, which takes longer than the search.
    known = truth if isinstance(method, fit.Darts) else None
    problem = fit.Problem(
        entry, dataset, training, space, lambda left: fit.make_budget(entry, left, skeleton, {}), known, first, count,
        dtype=dtype, evaluate=of_table(truth) if looked_up else None,
    )  # fmt: skip
    prepared = method.prepare(problem)
    with held_run(None, {}, {}) as (run, stop):
        found = list(prepared.search(run, stop).values())
        epochs = [np.atleast_1d(line["true_value"]) for line in epoch_lines(run.metrics()) if "true_value" in line]
    lines = []
    for number, own in enumerate(found):
        seconds = own.seconds / count + (seconds_of_finalists(own, truth) if looked_up else 0.0)
        line = {"found": own.notation, "seconds": round(seconds, 1), **truth.told(own.arch)}
        # one_shot-finalists has the same supernet, and so the same best of random cells.
        line["beside"] = {} if looked_up else {name: truth.told(arch) for name, arch in own.beside.items()}
        if epochs and len(epochs[0]) == count:
            line["curve"] = [round(float(values[number]), 2) for values in epochs]
        lines.append(line)
    return lines


def of_table(truth: fit.Truth) -> Callable[[int, np.ndarray], float]:
    """The validation accuracy in the table, a fraction, the same for every seed."""
    values = truth.column(str(truth.search_metric)) / 100
    return lambda seed, arch: float(values[truth.rows(arch[None])[0]])


def seconds_of_finalists(found: fit.Found, truth: fit.Truth) -> float:
    """What the trainings of the finalists take by the table."""
    notations = found.told["selection"]["finalists"]["notations"]
    archs = np.stack([found.space.from_genotype(notation) for notation in notations])
    return float(truth.column("seconds")[truth.rows(archs)].sum())


def on_table(method: OnTable, first: int, count: int, truth: fit.Truth) -> list[dict[str, Any]]:
    """What black-box searches of some seeds found within their seconds."""
    setting = make_setting(truth.table, search="valid", report=truth.metric, time="seconds", time_budget=method.seconds)
    outcome = run_plan(
        method.sampler, make_plan(method.sampler, setting, MethodSettings()), setting, count, first
    )  # fmt: skip
    return [
        {
            "found": "", "seconds": round(outcome.seconds or 0.0, 1), "value": value,
            "rank": 1 + int((truth.values > value).sum()), "percentile": float(truth.percentile(value)), "beside": {},
        }
        for value in outcome.final
    ]  # fmt: skip


def main(config: Config) -> None:
    """Searches what is not there yet, then prints the table."""
    join(Devices())
    check_settings("", config, Config)
    changes = json.loads(config.settings)
    board, methods = BOARDS[config.board], {}
    for name in config.methods.split(",") if config.methods else board.methods:
        if name not in board.methods:
            raise ValueError(f"there is no method {name!r}; there are {', '.join(board.methods)}")
        own = dataclasses.replace(board.methods[name], **changes) if changes else board.methods[name]
        methods[name if config.dtype == "float32" else f"{name}, {config.dtype}"] = own
    if bool(config.table) != (board.data != "digits201"):
        raise ValueError("the boards of CIFAR-10 need the file of a table, --table nb201.csv; digits201 has its own")
    dataset = load_dataset(board.data, config.data_dir, size=board.size)
    truth = fit.truth_of(config.table or board.data, nasbench201_space(), board.metric)
    path = Path(config.folder) / f"{config.board}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    seeds = range(config.first_seed, config.first_seed + config.seeds)
    for name, method in methods.items():
        there = {line["seed"] for line in done if line["method"] == name and line["settings"] == told(method)}
        # An early stop is one search's own.
        most = 1 if getattr(method, "early_stop", False) else config.at_once
        for first, count in groups([seed for seed in seeds if seed not in there], most):
            if isinstance(method, OnTable):
                lines = on_table(method, first, count, truth)
            else:
                lines = searched(method, first, count, dataset, truth, config.dtype)
            for number, line in enumerate(lines):
                line = {"method": name, "seed": first + number, "settings": told(method), **line}
                done.append(line)
                with open_to_append(path) as file:
                    file.write(json.dumps(line) + "\n")
                print(f"{name}, seed {line['seed']}: {line['value']:.2f}, rank {line['rank']:,}", flush=True)
    print(table(rows(methods, done, seeds), truth.values))


def told(method: Any) -> str:
    """The settings of a method, as a line knows them: those that are not its defaults."""
    return f"{type(method).__name__} {json.dumps(_changed(method), sort_keys=True)}"


def _changed(settings: Any) -> dict[str, Any]:
    """Those that are not defaults, so that a setting that is added later changes no line that is there."""
    values = {field.name: (getattr(settings, field.name), field.default) for field in dataclasses.fields(settings)}
    return {
        name: _changed(value) if dataclasses.is_dataclass(value) else value
        for name, (value, default) in values.items()
        if value != default
    }


def groups(seeds: Sequence[int], most: int) -> list[tuple[int, int]]:
    """(first, count) of runs of consecutive seeds."""
    found: list[tuple[int, int]] = []
    for seed in seeds:
        if found and seed == sum(found[-1]) and found[-1][1] < most:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((seed, 1))
    return found


def rows(methods: Mapping[str, Any], done: Sequence[Mapping[str, Any]], seeds: range) -> dict[str, list[Any]]:
    """The lines of each method, and of the baselines that its searches have beside them."""
    found: dict[str, list[Any]] = {}
    for name, method in methods.items():
        own = [
            line for line in done
            if line["method"] == name and line["seed"] in seeds and line["settings"] == told(method)
        ]  # fmt: skip
        found[name] = own
        for beside in own[0]["beside"] if own else ():
            found[f"{name}: {beside}"] = [{**line["beside"][beside], "seconds": line["seconds"]} for line in own]
    return found


def chance(values: np.ndarray, every: np.ndarray) -> float:
    """p of the one-sided test of Mann and Whitney that some values are no better than all."""
    return float(stats.mannwhitneyu(values, every[~np.isnan(every)], alternative="greater").pvalue)


def table(found: Mapping[str, Sequence[Mapping[str, Any]]], every: np.ndarray) -> str:
    """A line a method. every: the values of all cells."""
    lines = ["", "| method | seeds | found ± s.e. | median rank | percentile | seconds | p |", "| --- " * 7 + "|"]
    for name, own in sorted(found.items(), key=lambda item: -np.mean([line["value"] for line in item[1]] or [0])):
        if not own:
            continue
        values, ranks, percentiles, seconds = (
            np.array([line[of] for line in own], float) for of in ("value", "rank", "percentile", "seconds")
        )
        error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else float("nan")
        p = chance(values, every)
        lines.append(
            f"| {name} | {len(own)} | {values.mean():.2f} ± {error:.2f} | {np.median(ranks):,.0f} "
            f"| {percentiles.mean():.1f} | {seconds.mean():.0f} | {p:.2g} |"
        )
    lines.append(f"| all cells | {len(every):,} | {np.nanmean(every):.2f}, best {np.nanmax(every):.2f} | | 50.0 | | |")
    return "\n".join(lines)


if __name__ == "__main__":
    command.main(main, Config)
