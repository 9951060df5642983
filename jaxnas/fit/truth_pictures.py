"""The picture of the ground truth: where found architectures stand among all, and how a search came there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnas.draw import new_figure, save_plot
from jaxnas.fit.equal_cost import told as told_compared
from jaxnas.fit.truth import Truth

_BLUE, _LIGHT, _ORANGE, _GREEN, _GRAY = "#0072B2", "#56B4E9", "#D55E00", "#009E73", "#777777"
_STYLES: list[tuple[str, dict[str, Any]]] = [
    (_BLUE, {"lw": 2.4}),
    (_LIGHT, {"lw": 1.4}),
    (_GRAY, {"lw": 1.0, "ls": "--"}),
]
"""Of the lines for what was found, by other seeds too, and for random baselines."""


def draw_truth(
    truth: Truth, rows: Mapping[str, Mapping[str, Any]], lines: Sequence[Mapping[str, Any]], folder: Path,
    peers: np.ndarray, compared: Mapping[str, Any] | None,
) -> list[tuple[str, str, str]]:  # fmt: skip
    """A histogram of the table with the trained architectures in it, and the value that the search held over time.

    rows: name -> figures with "truth". lines: of the metrics, of which those with "true_value" are drawn; a search over
    several seeds has a value of each. peers: values [N] of architectures that cost as much as the found ones. compared:
    what `equal_cost.compared` says.
    """
    held = [(line["step"], np.atleast_1d(line["true_value"])) for line in lines if "true_value" in line]
    where = "step of the search"
    for row in rows.values():  # searches by scores, and by trained candidates, tell after each
        told = row.get("selection", row.get("candidates", {})).get("truth_curve")
        if not held and told is not None:
            held = [(n + 1, np.array([value])) for n, value in enumerate(told["value"]) if value is not None]
            finalists = row.get("selection", {}).get("finalists")
            where = (
                "evaluations" if finalists is None else f"evaluations, the last {len(finalists['valid'])} of finalists"
            )
    figure = new_figure(9.0 if held else 5.0, 3.0, "constrained")
    left, *right = figure.subplots(1, 2 if held else 1, squeeze=False)[0]
    known = truth.values[~np.isnan(truth.values)]
    _, edges, _ = left.hist(known, 60, color="#cccccc", label="all")
    if len(peers):
        weights = np.full(len(peers), len(known) / len(peers))
        left.hist(peers, edges, weights=weights, histtype="step", color=_GREEN, lw=1.2, label="equal cost, to scale")
    marks: dict[str, list[float]] = {"found": [], "other seeds": [], "random, trained here": []}
    for name, row in rows.items():
        kind = "found" if name == "found" else "other seeds" if name.startswith("seed-") else "random, trained here"
        value = row.get("truth", {}).get("value")
        if value is not None and value not in marks["found"]:
            marks[kind].append(value)
    for (kind, values), (color, style) in zip(marks.items(), _STYLES, strict=True):
        for number, mark in enumerate(values):
            left.axvline(mark, label="_" if number else kind, color=color, **style)
    left.axvline(np.nanmax(truth.values), color=_ORANGE, lw=1.0, label="best of the table")
    left.legend(fontsize=7, frameon=False, loc="upper left")
    left.set_xlabel(f"{truth.metric} of {truth.table.name}", size=8)
    left.set_ylabel("architectures", size=8)
    for axes in right:
        curve = np.array([value for _, value in held])
        axes.plot([step for step, _ in held], curve, color=_BLUE, lw=1.2, alpha=0.8)
        axes.axhline(np.nanmax(truth.values), color=_ORANGE, lw=1.0, label="best of the table")
        axes.axhline(np.nanmean(truth.values), color=_GRAY, lw=1.0, ls="--", label="mean of the table")
        axes.set_xlabel(where, size=8)
        axes.set_ylabel("what was held then", size=8)
        axes.legend(fontsize=8, frameon=False)
    save_plot(figure, folder / "truth.png")
    caption = f"{len(truth.values):,} architectures of {truth.table.name} by {truth.metric}; those trained here marked."
    if compared is not None:
        caption += f" {told_compared(compared)}"
    return [("Ground truth", "truth.png", caption)]
