"""The pictures of one_shot beside those that every search has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxnas.draw import metric_axis, new_figure, save_plot

_BLUE, _ORANGE, _GRAY = "#0072B2", "#D55E00", "#777777"


def draw_selection(
    found: Mapping[str, Any], limits: Mapping[str, float], folder: Path, metric: str
) -> list[tuple[str, str, str]]:
    """What was scored against its cost, and scores against a benchmark: (title, file, caption) of each picture.

    metric: what scores are of.
    """
    figure = new_figure(6.5, 3.6, "constrained")
    axes = figure.subplots()
    for name, color, label in (("random", _GRAY, "random"), ("search", _BLUE, found["search"])):
        points = found["points"][name]
        axes.plot(points["macs"], points["scores"], "o", ms=3, alpha=0.6, color=color, label=label)
    edge = found["front"]
    axes.step(
        [point["macs"] for point in edge], [point["score"] for point in edge], where="post", color=_ORANGE, lw=1.2,
        label="front",
    )  # fmt: skip
    if "macs" in limits:
        axes.axvline(limits["macs"], color="black", lw=0.8, ls="--", label="budget")
    axes.set_xlabel("multiply-adds of the network to be trained", size=8)
    axes.set_ylabel("one-shot score", size=8)
    metric_axis(axes.yaxis, metric)
    axes.legend(fontsize=8, frameon=False)
    save_plot(figure, folder / "front.png")
    budget = ", ".join(f"at most {limit:,} {name}" for name, limit in limits.items()) or "no budget"
    told = (
        f"{found['evaluations']} scored by {found['search']} and {found['random_evaluations']} at random, {budget}, on "
        f"{found['scored_on']}; "
        f"batch norm: {found['batch_norm']}."
    )
    if len(found["pruning"]) > 1:
        told += " Of the space were left, from stage to stage, " + ", ".join(
            f"{size['architectures']:,} architectures ({size['supernet_params']:,} parameters) from epoch "
            f"{size['from_epoch']}"
            for size in found["pruning"]
        )
        told += "."
    if "finalists" in found:
        finalists = found["finalists"]
        epochs = "1 epoch" if finalists["epochs"] == 1 else f"{finalists['epochs']} epochs"
        told += (
            f" The best {len(finalists['valid'])} were trained for {epochs} each. Number "
            f"{finalists['taken'] + 1} by score is the best by validation, and was taken."
        )
    pictures = [("Score and cost", "front.png", told)]
    if "agreement" in found:
        _draw_agreement(found, folder / "agreement.png", metric)
        pictures.append(
            ("Scores and the benchmark", "agreement.png", f"One-shot scores beside {found['agreement_with']}.")
        )
    return pictures


def _draw_agreement(found: Mapping[str, Any], path: Path, metric: str) -> None:
    scores = found["measured_scores"]
    figure = new_figure(3.2 * len(scores), 3.0, "constrained")
    for axes, (policy, values) in zip(figure.subplots(1, len(scores)), scores.items(), strict=True):
        axes.plot(values, found["measured"], "o", ms=3, alpha=0.6, color=_BLUE)
        tau = found["agreement"][policy].get("kendall")
        axes.set_title(policy if tau is None else f"{policy}: τ = {tau:.2f}", size=9, loc="left")
        axes.set_xlabel("one-shot score", size=8)
        axes.set_ylabel("the benchmark's value", size=8)
        metric_axis(axes.xaxis, metric)
    save_plot(figure, path)
