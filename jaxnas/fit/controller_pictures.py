"""The pictures of enas beside those that every search has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnas.draw import metric_axis, new_figure, save_plot
from jaxnas.report import shown

_BLUE, _ORANGE, _GRAY = "#0072B2", "#D55E00", "#777777"


def draw_controller(
    lines: Sequence[Mapping[str, Any]], found: Mapping[str, Any], folder: Path, metric: str, seed: int | None = None
) -> list[tuple[str, str, str]]:
    """What the controller learned and how candidates scored: (title, file, caption) of each picture.

    metric: what scores and rewards are of. seed: which of several in the lines, from 0.
    """
    steps = [line for line in lines if line["stage"] == "search" and line["phase"] == "controller"]
    steps = [line for line in steps if line.keys() >= {"best_reward", "mean_reward", "baseline", "entropy"}]
    if seed is not None:
        steps = [{k: v[seed] if isinstance(v, list) else v for k, v in line.items()} for line in steps]
    figure = new_figure(9.0, 3.0, "constrained")
    left, right = figure.subplots(1, 2)
    number = [line["step"] for line in steps]
    left.plot(number, [line["best_reward"] for line in steps], ".", ms=3, color=_GRAY, label="best of a step")
    left.plot(number, [line["mean_reward"] for line in steps], ".", ms=3, color=_BLUE, label="mean of a step")
    left.plot(number, [line["baseline"] for line in steps], color=_ORANGE, lw=1.5, label="baseline")
    left.set_title("reward", size=10, loc="left")
    metric_axis(left.yaxis, metric)
    left.legend(fontsize=8, frameon=False)
    right.plot(number, [line["entropy"] for line in steps], color=_BLUE, lw=1.2)
    right.set_title("entropy of the policy, nats", size=10, loc="left")
    for axes in (left, right):
        axes.set_xlabel("step", size=8)
    save_plot(figure, folder / "controller.png")

    figure = new_figure(6.0, 2.6, "constrained")
    axes = figure.subplots()
    both = np.concatenate([found["scores"], found["random_scores"]])
    bins = np.linspace(both.min() - 1e-3, both.max() + 1e-3, 25).tolist()
    for name, color, label in (("random_scores", _GRAY, "random"), ("scores", _BLUE, "drawn from the policy")):
        axes.hist(found[name], bins, color=color, alpha=0.6, label=f"{label}: best {shown(max(found[name]), metric)}")
    axes.set_xlabel(f"{metric.replace('_', ' ')} of the path with shared weights", size=8)
    metric_axis(axes.xaxis, metric)
    axes.legend(fontsize=8, frameon=False)
    save_plot(figure, folder / "candidates.png")
    scored = f"{found['count']} each, on {found['scored_on']}; batch norm by the {found['batch_norm']}."
    return [
        (
            "The controller",
            "controller.png",
            "Reward on validation batches with shared weights, and what is undecided.",
        ),
        ("Candidates", "candidates.png", scored),
    ]
