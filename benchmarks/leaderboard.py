"""Weight-sharing searches against ground truth: what each finds in NAS-Bench-201's space on the data of digits201.

    python -m benchmarks.leaderboard --folder leaderboard --seeds 20
    python -m benchmarks.leaderboard --folder leaderboard --methods darts,gdas --first-seed 1000 --seeds 5

Each search learns from training and validation images alone; what it found is looked up in the table, whose networks
were trained on the same data. A line a search is kept in FOLDER/searches.jsonl, and the same command goes on where it
stopped: searches of other settings are lines of their own. p: Mann-Whitney, one-sided, that the cells found are no
better than all 15,625. A search takes some 30 s on two cores; settings are to be chosen on seeds from 1000 on, and the
reported seeds, from 0 on, run once afterwards.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
from scipy import stats

from jaxnas import command, fit
from jaxnas.catalog import entry_of
from jaxnas.data import Dataset, load_dataset
from jaxnas.files import open_to_append
from jaxnas.fit.darts import Variation
from jaxnas.fit.results import held_run
from jaxnas.fit.settings import skeleton_of
from jaxnas.ranges import check_ranges

SPACE, DATA = "nasbench201", "digits201"
DIFFERENTIABLE: tuple[str, ...] = get_args(Variation)
METHODS = (*DIFFERENTIABLE, "enas", "one_shot")


@dataclasses.dataclass(frozen=True)
class Config:
    folder: str = "leaderboard"
    methods: str = ",".join(METHODS)
    seeds: int = 20
    first_seed: int = 0
    epochs: int = 40
    channels: int = 8
    cells: int = 2
    """In each of the three stages."""
    alpha_learning_rate: float = 3e-3
    """Of the differentiable methods."""


def method_of(name: str, config: Config) -> Any:
    """The method of a name with the settings of the config."""
    if name in DIFFERENTIABLE:
        watch = fit.Watch(every=0, eigenvalue_every=0)
        rate = config.alpha_learning_rate
        found: Any = fit.Darts(batch_size=64, learning_rate=0.05, alpha_learning_rate=rate, watch=watch)
        found = dataclasses.replace(found, method=name)
    else:
        found = fit.preset(name, SPACE).method
    if name == "one_shot":
        scoring = fit.Scoring(batch_size=360, batches=2, evaluations=200, population=40)
        found = dataclasses.replace(found, scoring=scoring)
    return dataclasses.replace(found, epochs=config.epochs, channels=config.channels, cells=config.cells)


def searched(method: Any, seed: int, dataset: Dataset) -> tuple[fit.Found, float]:
    """What a search of one seed found, and its seconds."""
    entry, training = entry_of(SPACE), fit.Training(channels=8, cells=2)
    skeleton = skeleton_of(training, dataset)
    space = entry.space(skeleton)
    problem = fit.Problem(
        entry, dataset, training, space, lambda left: fit.make_budget(entry, left, skeleton, {}), seed=seed
    )
    prepared = method.prepare(problem)
    with held_run(None, {}, {}) as (run, stop):
        (found,) = prepared.search(run, stop).values()
    return found, found.seconds


def main(config: Config) -> None:
    """Searches what is not there yet, then prints the table."""
    check_ranges("", config, count=("seeds", "epochs", "channels", "cells"), seed=("first_seed",))
    names = config.methods.split(",")
    for name in names:
        if name not in METHODS:
            raise ValueError(f"there is no method {name!r}; there are {', '.join(METHODS)}")
    dataset = load_dataset(DATA)
    truth = fit.truth_of(DATA, entry_of(SPACE).space(skeleton_of(fit.Training(), dataset)))
    path = Path(config.folder) / "searches.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for seed in range(config.first_seed, config.first_seed + config.seeds):
        for name in names:
            key = {"method": name, "seed": seed, **{k: getattr(config, k) for k in _SETTINGS}}
            if any(line["key"] == key for line in done):
                continue
            found, seconds = searched(method_of(name, config), seed, dataset)
            line = {"key": key, "found": found.notation, "seconds": round(seconds, 1), **truth.told(found.arch)}
            done.append(line)
            with open_to_append(path) as file:
                file.write(json.dumps(line) + "\n")
            print(f"{name}, seed {seed}: {line['value']:.2f}, rank {line['rank']:,}, {seconds:.0f} s", flush=True)
    print(table(config, names, done, truth.values))


_SETTINGS = ("epochs", "channels", "cells", "alpha_learning_rate")


def table(config: Config, names: list[str], done: list[dict[str, Any]], every: np.ndarray) -> str:
    """The searches of the config, a line a method. every: the values of all cells."""
    lines = ["", "| method | seeds | found ± s.e. | median rank | percentile | seconds | p |", "| --- " * 7 + "|"]
    wanted = range(config.first_seed, config.first_seed + config.seeds)
    for name in names:
        own = [
            line for line in done
            if line["key"]["method"] == name and line["key"]["seed"] in wanted
            and all(line["key"][k] == getattr(config, k) for k in _SETTINGS)
        ]  # fmt: skip
        values, ranks, percentiles, seconds = (
            np.array([line[of] for line in own], float) for of in ("value", "rank", "percentile", "seconds")
        )
        error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else float("nan")
        p = stats.mannwhitneyu(values, every[~np.isnan(every)], alternative="greater").pvalue
        lines.append(
            f"| {name} | {len(own)} | {values.mean():.2f} ± {error:.2f} | {np.median(ranks):,.0f} "
            f"| {percentiles.mean():.1f} | {seconds.mean():.0f} | {p:.2g} |"
        )
    lines.append(f"| all cells | {len(every):,} | {np.nanmean(every):.2f}, best {np.nanmax(every):.2f} | | 50.0 | | |")
    return "\n".join(lines)


if __name__ == "__main__":
    command.main(main, Config)
