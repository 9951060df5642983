"""The pictures and the printed tables of comparisons and learning curves on a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnas.draw import new_figure, save_plot

COLORS = ("#777777", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9")
"""Of Okabe & Ito (2008); the first method, mostly random search, is gray."""
_HEAD = (
    "method",
    "mean ± std",
    "median",
    "5 %",
    "25 %",
    "75 %",
    "95 %",
    "regret",
    "evaluations",
    "to best",
    "seconds",
    "p",
)


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """One method's line of the final table; p is against random search, "to best" the median of the evaluations."""
    p, seconds = row["p_against_random"], row["seconds"]
    return (
        row["method"],
        f"{row['mean']:.3f} ± {row['std']:.3f}",
        *(f"{row[name]:.3f}" for name in ("median", "q05", "q25", "q75", "q95", "mean_regret")),
        f"{row['evaluations']:.1f}",
        _to_best(row),
        "–" if seconds is None else f"{seconds:,.0f}",
        "–" if p is None else f"{p:.1e}",
    )


def _to_best(row: Mapping[str, Any]) -> str:
    """The median and, in brackets, the middle half; a share of the runs where the half of them ends before."""
    median, low, high = (row[f"to_best_{name}"] for name in ("median", "q25", "q75"))
    if median is None:
        return f"{100 * row['met_best']:.0f} % met it"
    return f"{median:.0f} [{low:.0f}, {'–' if high is None else f'{high:.0f}'}]"


def text_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The final table of a comparison as text, a line for each method. rows: those of `Comparison`.

    docs/own_table.md has an example.
    """
    table = [_HEAD, *map(cells, rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(_HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width)
                  for column, (cell, width) in enumerate(zip(line, widths, strict=True)))
        for line in table
    )  # fmt: skip


def draw_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes a PNG of final values, a line for each method: 5 to 95 % thin, the middle half thick, mean a dot."""
    figure = new_figure(9.0, 0.45 * len(rows) + 0.9, "constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        color = COLORS[place % len(COLORS)]
        axes.plot([row["q05"], row["q95"]], [place, place], color=color, lw=1.5)
        axes.plot([row["q25"], row["q75"]], [place, place], color=color, lw=6, alpha=0.5, solid_capstyle="butt")
        axes.plot(row["median"], place, "|", color=color, ms=12, mew=2)
        axes.plot(row["mean"], place, "o", color=color, ms=6)
        text = f"{row['mean']:.3f} ± {row['std']:.3f}"
        axes.text(1.02, place, text, transform=axes.get_yaxis_transform(), va="center", size=9)
    axes.set_yticks(range(len(rows)), [row["method"] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("dot: mean; tick: median; thick: half of the runs; thin: 90 % of the runs", size=8)
    save_plot(figure, path)


def draw_regret(curves: Mapping[str, Mapping[str, Sequence[float]]], label: str, path: Path) -> None:
    """Writes a PNG of mean regrets with their bands, log scale, against `label`.

    curves: method -> {"x", "mean", "low", "high"}, each [G].
    """
    figure = new_figure(9.0, 4.2, "constrained")
    axes = figure.subplots()
    means = [value for curve in curves.values() for value in curve["mean"] if value > 0]
    floor = min(means, default=1e-3) / 2
    for place, (name, curve) in enumerate(curves.items()):
        color = COLORS[place % len(COLORS)]
        low, mean, high = ([max(value, floor) for value in curve[part]] for part in ("low", "mean", "high"))
        axes.fill_between(curve["x"], low, high, color=color, alpha=0.2, lw=0)
        axes.plot(curve["x"], mean, color=color, lw=1.5, label=name)
    if means:
        axes.set_yscale("log")
    axes.set_xlabel(label, size=9)
    axes.set_ylabel("regret", size=9)
    axes.legend(fontsize=9, frameon=False)
    save_plot(figure, path)


def draw_fronts(outcome: Mapping[str, Any], points: np.ndarray, path: Path) -> None:
    """Writes a PNG: every architecture, the true front, and of each method the front of its median run."""
    figure = new_figure(9.0, 4.6, "constrained")
    axes = figure.subplots()
    signs = np.array([-1.0 if name.startswith("-") else 1.0 for name in outcome["metrics"]])
    everything = points * signs
    axes.plot(everything[:, 1], everything[:, 0], ".", color="#dddddd", ms=2, rasterized=True)
    lines = {"all architectures": outcome["truth"]} | {n: m["front"] for n, m in outcome["methods"].items()}
    for place, (name, line) in enumerate(lines.items()):
        values = np.array(line) * signs
        color = COLORS[place] if place else "#000000"
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


def draw_learning_curves(rows: Sequence[Mapping[str, Any]], count: int, path: Path) -> None:
    """Writes a PNG of Kendall's tau against the number of architectures shown, of `count`, with a band of one std."""
    figure = new_figure(8.0, 4.6, "constrained")
    axes = figure.subplots()
    for place, name in enumerate(dict.fromkeys(row["method"] for row in rows)):
        own = [row for row in rows if row["method"] == name]
        sizes, tau, std = (np.array([row[key] for row in own]) for key in ("size", "tau", "tau_std"))
        color = COLORS[(place + 1) % len(COLORS)]
        axes.fill_between(sizes, tau - std, tau + std, color=color, alpha=0.15, lw=0)
        axes.plot(sizes, tau, "o-", color=color, lw=1.5, ms=4, label=name)
    shown = sorted({row["size"] for row in rows})
    axes.set_xscale("log")
    axes.set_xticks(shown, [f"{size}\n{100 * size / count:.2g} %" for size in shown])
    axes.minorticks_off()
    axes.set_xlabel("architectures shown", size=9)
    axes.set_ylabel("Kendall's tau on the others", size=9)
    axes.legend(fontsize=9, frameon=False)
    save_plot(figure, path)


def draw_proxies(
    rows: Sequence[Mapping[str, Any]], ranks: np.ndarray, values: np.ndarray, name: str, metric: str, path: Path
) -> None:
    """Writes a PNG: Kendall's tau of every proxy in every set, and one proxy, `name`, against the metric.

    rows: of `jaxnas.tabular.proxies.correlations`. ranks, values: float [A].
    """
    sets = list(dict.fromkeys(row["set"] for row in rows))
    last = {row["proxy"]: row["tau"] or 0.0 for row in rows if row["set"] == sets[-1]}
    names = sorted(last, key=lambda proxy: last[proxy])
    figure = new_figure(9.0, max(3.0, 0.28 * len(names) + 1.0), "constrained")
    left, right = figure.subplots(1, 2)
    for place, which in enumerate(sets):
        taus = {row["proxy"]: row["tau"] or 0.0 for row in rows if row["set"] == which}
        count = next(row["count"] for row in rows if row["set"] == which)
        at = np.arange(len(names)) + 0.4 * (place - (len(sets) - 1) / 2)
        left.barh(at, [taus[proxy] for proxy in names], 0.4, color=COLORS[place], label=f"{which} ({count:,})")
    left.set_yticks(range(len(names)), names, fontsize=8)
    left.axvline(0.0, color="#000000", lw=0.6)
    left.set_xlabel("Kendall's tau", size=9)
    left.legend(fontsize=8, frameon=False)
    right.plot(ranks, values, ".", color=COLORS[1], ms=2, rasterized=True)
    right.set_xlabel(f"{name}, normal scores", size=9)
    right.set_ylabel(metric, size=9)
    save_plot(figure, path)
