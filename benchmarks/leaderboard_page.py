"""The table and the pictures of docs/leaderboard.md, from the searches that `benchmarks.leaderboard` kept.

python -m benchmarks.leaderboard_page --folder docs/leaderboard --images docs/images
python -m benchmarks.leaderboard_page --board cifar10_small --table nb201.csv --seeds 3
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.leaderboard import BOARDS, chance, rows, table
from jaxnas import command, fit
from jaxnas.draw import new_figure, save_plot
from jaxnas.spaces import NASBENCH201_OPERATIONS, nasbench201_space


@dataclasses.dataclass(frozen=True)
class Config:
    folder: str = "docs/leaderboard"
    board: Literal["digits201", "cifar10_small", "cifar10"] = "digits201"
    table: str = ""
    """For CIFAR-10: the file of the table of NAS-Bench-201."""
    images: str = "docs/images"
    seeds: int = 20


def main(config: Config) -> None:
    """Prints the tables and draws two pictures: what every search found, and what it held on its way."""
    board = BOARDS[config.board]
    lines = [json.loads(line) for line in (Path(config.folder) / f"{config.board}.jsonl").read_text().splitlines()]
    found = {name: own for name, own in rows(board.methods, lines, range(config.seeds)).items() if own}
    truth = fit.truth_of(config.table or board.data, nasbench201_space(), board.metric)
    print(table(found, truth.values))
    print(epochs_table(found, truth.values))
    print(edges_table(found))
    means = ", ".join(f"{count}: {mean:.1f}" for count, mean in enumerate(by_skips(truth)))
    print(f"\nmean of all cells by their skip connections: {means}")
    for count in (31, 50) if "test_second" in truth.table.metrics else ():
        own, second = luck(truth, count)
        print(
            f"\nbest of {count} functions by validation: its test accuracy {own:.1f}, of a second training {second:.1f}"
        )
    draw_found(found, truth, Path(config.images) / f"leaderboard_{config.board}.png")
    draw_curves(found, truth, Path(config.images) / f"leaderboard_{config.board}_curves.png")


def epochs_table(found: Mapping[str, Sequence[Mapping[str, Any]]], every: np.ndarray) -> str:
    """What a method held after some of its epochs: mean, standard error, and p against all cells."""
    longest = max((len(line["curve"]) for own in found.values() for line in own if "curve" in line), default=0)
    shown = [epoch for epoch in (3, 5, 10, 20, 30, 40, 50) if epoch <= longest]
    lines = ["", "| held after epoch | " + " | ".join(map(str, shown)) + " |", "| --- " * (1 + len(shown)) + "|"]
    for name, own in found.items():
        if "curve" not in own[0]:
            continue
        curve = curve_of(own)
        cells = []
        for values in (curve[:, epoch - 1] for epoch in shown if epoch <= curve.shape[1]):
            p = chance(values, every)
            cells.append(f"{values.mean():.1f} ± {values.std(ddof=1) / np.sqrt(len(values)):.1f} (p {p:.1g})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def curve_of(own: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """What each search held after each epoch, [seeds, epochs]; one that ended early holds what it found."""
    longest = max(len(line["curve"]) for line in own)
    return np.array([line["curve"] + [line["value"]] * (longest - len(line["curve"])) for line in own])


def edges_table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """How many edges of all cells that a method found have each operation."""
    lines = ["", "| edges with | " + " | ".join(NASBENCH201_OPERATIONS) + " |", "| --- " * 6 + "|"]
    for name, own in found.items():
        cells = "".join(line.get("found", "") for line in own)
        if cells:
            counts = [cells.count(f"|{operation}~") for operation in NASBENCH201_OPERATIONS]
            lines.append(f"| {name} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(lines)


def by_skips(truth: fit.Truth) -> list[float]:
    """The mean of the cells that have no skip connection, of those that have one, two, and so on."""
    skips = (np.asarray(truth.table.archs) == NASBENCH201_OPERATIONS.index("skip_connect")).sum(1)
    return [float(np.nanmean(truth.values[skips == count])) for count in range(skips.max() + 1)]


def luck(truth: fit.Truth, count: int, draws: int = 5000) -> tuple[float, float]:
    """How much of what a search finds by lookups is luck, from the functions of digits201 that were trained twice.

    Of `count` random functions the one of the best validation accuracy is taken. Returns the mean test accuracy of the
    network that had it, and of the second network of that function.
    """
    names = ("valid_second", "test_second", "valid", "test")
    columns = np.stack([truth.column(name) for name in names], 1)
    twice = np.unique(columns[~np.isnan(columns).any(1)], axis=0)  # cells of one function share their networks
    _, second, valid, test = twice.T
    picks = np.random.default_rng(0).permuted(np.tile(np.arange(len(twice)), (draws, 1)), axis=1)[:, :count]
    best = picks[np.arange(draws), valid[picks].argmax(1)]
    return float(test[best].mean()), float(second[best].mean())


def draw_found(found: Mapping[str, Sequence[Mapping[str, Any]]], truth: fit.Truth, path: Path) -> None:
    """A dot a search, the mean with two standard errors, and the quantiles of all cells."""
    order = sorted(found, key=lambda name: np.mean([line["value"] for line in found[name]]))
    figure = new_figure(7.5, 0.32 * len(order) + 1.0, "constrained")
    axes = figure.subplots()
    for height, name in enumerate(order):
        values = np.array([line["value"] for line in found[name]])
        axes.plot(values, np.full(len(values), height), ".", color="#56B4E9", ms=5, alpha=0.7)
        error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
        axes.errorbar(values.mean(), height, xerr=2 * error, fmt="D", color="#D55E00", ms=4, lw=1.2)
    known = truth.values[~np.isnan(truth.values)]
    for value, text, style in (
        (known.mean(), "mean of all cells", ":"), (np.quantile(known, 0.95), "their 95 % quantile", "--"),
        (known.max(), "the best of them", "-"),
    ):  # fmt: skip
        axes.axvline(value, color="#777777", lw=0.9, ls=style, label=f"{text}: {value:.1f}")
    axes.set_xlim(right=min(100.0, axes.get_xlim()[1]))  # error bars may reach further, accuracies do not
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.set_yticks(range(len(order)), order, size=8)
    axes.set_xlabel("test accuracy of the found cell in the table, %", size=8)
    save_plot(figure, path)


def draw_curves(found: Mapping[str, Sequence[Mapping[str, Any]]], truth: fit.Truth, path: Path) -> None:
    """What was derived after each epoch, the mean of all seeds."""
    curves = {name: curve_of(own).mean(0) for name, own in found.items() if "curve" in own[0]}
    figure = new_figure(7.5, 4.0, "constrained")
    axes = figure.subplots()
    for number, (name, curve) in enumerate(sorted(curves.items(), key=lambda item: -item[1][-1])):
        style = ("-", (0, (4, 1.5)))[number // 10 % 2]  # there are ten colors
        axes.plot(np.arange(1, len(curve) + 1), curve, lw=1.4, ls=style, color=f"C{number % 10}", label=name)
    axes.axhline(np.nanmean(truth.values), color="#777777", lw=0.8, ls=":", label="mean of all cells")
    axes.set_xlabel("epoch of the search", size=8)
    axes.set_ylabel("test accuracy of the cell derived then, %", size=8)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save_plot(figure, path)


if __name__ == "__main__":
    command.main(main, Config)
