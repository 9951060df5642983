"""The part of `experiments.tabular` with two objectives: fronts found by NSGA-II, random search and the truth."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnas.benchmarks import Table
from jaxnas.draw import new_figure, save_plot
from jaxnas.samplers import nondominated, over_seeds, random_search, simulate

from .tabular_pictures import COLOURS

POPULATION = 20


def hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """The area that points [N, 2], to be maximized, dominate above the reference [2]."""
    area, height = 0.0, reference[1]
    inside = points[(points > reference).all(axis=1)]
    for x, y in inside[np.lexsort((-inside[:, 1], -inside[:, 0]))]:
        area += (x - reference[0]) * max(0.0, y - height)
        height = max(height, y)
    return float(area)


def front(points: np.ndarray) -> np.ndarray:
    """The rows of points [N, 2], to be maximized, that no other dominates, the first objective falling; without NaN."""
    rows = np.flatnonzero(~np.isnan(points).any(axis=1))
    order = rows[np.lexsort((-points[rows, 1], -points[rows, 0]))]
    before = np.concatenate([[-np.inf], np.maximum.accumulate(points[order, 1])[:-1]])
    return order[points[order, 1] > before]


def search_fronts(table: Table, points: np.ndarray, metrics: list[str], limit: int, seeds: int, seed: int) -> Any:
    """Runs of NSGA-II and of random search: the share of the true front's hypervolume, and one run's front, as JSON.

    points: [A, 2], the metrics of every row, to be maximized. The reference is the worst of each.
    """
    steps = math.ceil(limit / POPULATION)
    truth = front(points)
    reference = np.nanmin(points, axis=0)
    whole = hypervolume(points[truth], reference)
    samplers = {
        "nondominated": nondominated(table.moves, 2, population=POPULATION),
        "random": random_search(table.moves, batch=POPULATION),
    }
    outcome: dict[str, Any] = {}
    for name, sampler in samplers.items():
        if name == "random":  # it takes one objective; what it evaluates does not depend on that
            search = simulate(sampler, table, metrics[0], steps=steps, evaluations=limit)
        else:
            search = simulate(sampler, table, metrics, steps=steps, evaluations=limit)
        _, trace = over_seeds(search)(jax.random.split(jax.random.key(seed), seeds))
        rows = np.asarray(trace.rows).reshape(seeds, -1)
        found = [own[own >= 0][front(points[own[own >= 0]])] for own in rows]
        shares = np.array([hypervolume(points[own], reference) / whole for own in found])
        middle = int(np.argsort(shares)[len(shares) // 2])
        outcome[name] = {
            "mean": float(shares.mean()),
            "std": float(shares.std(ddof=1)) if seeds > 1 else 0.0,
            "front": points[found[middle]].tolist(),
        }
    return {"metrics": metrics, "truth": points[truth].tolist(), "methods": outcome}


def draw_fronts(outcome: dict[str, Any], points: np.ndarray, path: Path) -> None:
    """Writes a PNG: every architecture, the true front, and of each method the front of its median run."""
    figure = new_figure(9.0, 4.6, "constrained")
    axes = figure.subplots()
    signs = np.array([-1.0 if name.startswith("-") else 1.0 for name in outcome["metrics"]])
    everything = points * signs
    axes.plot(everything[:, 1], everything[:, 0], ".", color="#dddddd", ms=2, rasterized=True)
    lines = {"all architectures": outcome["truth"]} | {n: m["front"] for n, m in outcome["methods"].items()}
    for place, (name, line) in enumerate(lines.items()):
        values = np.array(line) * signs
        color = COLOURS[place] if place else "#000000"
        axes.plot(
            values[:, 1],
            values[:, 0],
            marker="o" if place else "",
            ms=4,
            lw=1.2,
            color=color,
            label=name,
            drawstyle="steps-pre",
        )  # the first objective falls along the line
    axes.set_xlabel(outcome["metrics"][1].lstrip("-"), size=9)
    axes.set_ylabel(outcome["metrics"][0].lstrip("-"), size=9)
    axes.legend(fontsize=9, frameon=False)
    save_plot(figure, path)
