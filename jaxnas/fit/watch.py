"""The watch for a collapse of a differentiable search: what is measured, when to stop, the picture of it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
from matplotlib.ticker import MaxNLocator

from jaxnas import data
from jaxnas.base import Array, Batch, Key, Objective, SearchSpace, Supernet
from jaxnas.draw import metric_axis, new_figure, save_plot
from jaxnas.ranges import Count, Natural, Positive, UsedWith
from jaxnas.report import shown
from jaxnas.search.health import (
    EarlyStop,
    Mixture,
    WatchedState,
    check_rule,
    collapsed,
    entropy,
    make_curvature,
    make_gap,
    record,
    skip_connections,
    softmax_mixture,
)

_BLUE, _ORANGE, _GREEN, _GRAY = "#0072B2", "#D55E00", "#009E73", "#777777"


@dataclasses.dataclass(frozen=True)
class Watch:
    """What is measured to see a collapse, always on the same validation images, without augmentation.

    A run of several seeds measures nothing of it.

    >>> off = Watch(every=0, eigenvalue_every=0)  # `jaxnas.Darts(watch=off)` measures nothing on its way
    >>> off.every, off.eigenvalue_every
    (0, 0)
    """

    every: Natural = 1
    """Epochs between two measurements of skip connections, entropy, and the gap between mixture and path. 0 measures
    nothing."""
    batches: Annotated[Count, UsedWith("every")] = 8
    """The gap is measured on this many batches of search.batch_size images, or on all where there are fewer."""
    eigenvalue_every: Natural = 1
    """Epochs between two measurements of the largest eigenvalue of the Hessian. 0 measures none."""
    eigenvalue_batches: Annotated[Count, UsedWith("eigenvalue_every")] = 1
    """Batches for each eigenvalue."""
    products: Annotated[Count, UsedWith("eigenvalue_every")] = 20
    """The most Hessian-vector products for each eigenvalue."""
    window: Count = EarlyStop().window
    """For search.early_stop: the eigenvalue is averaged over this many measurements."""
    lag: Count = EarlyStop().lag
    """For search.early_stop: the latest mean is compared with the mean this many measurements earlier."""
    ratio: Positive = EarlyStop().ratio
    """For search.early_stop: the search ends when the earlier mean is less than this share of the latest one."""
    first: Natural = EarlyStop().first
    """For search.early_stop: the search never returns to the architecture of a measurement before this one, from 0."""


def rule_of(watch: Watch, early_stop: bool, epochs: int) -> EarlyStop | None:
    """The rule of an early stop, None without one; raises ValueError for a watch that cannot work."""
    if not early_stop:
        usual = EarlyStop()
        for name in EarlyStop._fields:
            if getattr(watch, name) != getattr(usual, name):
                raise ValueError(f"search.watch.{name} is of search.early_stop: leave it out, or give that")
        return None
    rule = EarlyStop(watch.window, watch.lag, watch.ratio, watch.first)
    try:
        check_rule(rule)
    except ValueError as error:
        raise ValueError(f"search.watch.{error}") from None
    if watch.eigenvalue_every < 1:
        raise ValueError("search.early_stop needs eigenvalues: give search.watch.eigenvalue_every of at least 1, not 0")
    needed = rule.first + rule.lag + rule.window // 2 + 1
    if epochs // watch.eigenvalue_every < needed:
        raise ValueError(
            f"search.early_stop could never stop: it needs {needed} eigenvalues, and {epochs} epochs with "
            f"search.watch.eigenvalue_every {watch.eigenvalue_every} give {epochs // watch.eigenvalue_every}; lower "
            "search.watch.first, or search longer"
        )
    return rule


def measurements(watch: Watch, epochs: int) -> int:
    """How many eigenvalues a search of so many epochs computes, and at least 1."""
    return max(1, epochs // watch.eigenvalue_every) if watch.eigenvalue_every else 1


def make_measure(
    watch: Watch, space: SearchSpace, supernet: Supernet, valid: data.Examples, augmentation: data.Augmentation | None,
    batch_size: int, key: Key, objective: Objective, mixture: Mixture = softmax_mixture,
) -> Callable[[int, WatchedState], tuple[WatchedState, dict[str, Any]]]:  # fmt: skip
    """Makes (epoch, state) -> (state with its history, values for the metrics). mixture: the mean of the relaxation."""
    order = np.random.RandomState(0).permutation(data.count(valid))

    def first_batches(count: int) -> list[Batch]:
        most = min(count, len(order) // batch_size)
        chosen = order[: most * batch_size].reshape(most, batch_size)
        return data.plain_batches(valid, chosen, augmentation)

    gap_of = make_gap(space, supernet, mixture, objective=objective)
    curvature_of = make_curvature(supernet, mixture, objective=objective, most_products=watch.products)
    derive = jax.jit(lambda alpha: space.discretize(mixture(alpha)))
    entropy_of = jax.jit(lambda alpha: entropy(mixture(alpha)))
    batches = first_batches(max(watch.batches, watch.eigenvalue_batches))

    def measure(epoch: int, state: WatchedState) -> tuple[WatchedState, dict[str, Any]]:
        params, alpha = state.search.params, state.search.alpha
        values: dict[str, Any] = {}
        if watch.every and epoch % watch.every == 0:
            skips = skip_connections(space.to_genotype(derive(alpha)))
            gap = gap_of(params, alpha, batches[: watch.batches])
            values |= {f"skips_{kind}": count for kind, count in skips.items()}
            values |= {"alpha_entropy": entropy_of(alpha), **_gap_values(gap)}
        if watch.eigenvalue_every and epoch % watch.eigenvalue_every == 0:
            found = curvature_of(jax.random.clone(key), params, alpha, batches[: watch.eigenvalue_batches])
            values |= {"eigenvalue": found.eigenvalue, "eigenvalue_error": found.error}
            state = state._replace(history=record(state.history, found.eigenvalue, alpha))
        return state, values

    return measure


def _gap_values(gap: Any) -> dict[str, Array]:
    """Named so that the curves of the run leave them out: they have a picture of their own."""
    return {
        "loss_mixture": gap.mixture_loss,
        "loss_path": gap.path_loss,
        "accuracy_mixture": gap.mixture_metric,
        "accuracy_path": gap.path_metric,
        "accuracy_gap": gap.mixture_metric - gap.path_metric,
    }


def stopped(state: WatchedState, rule: EarlyStop | None, watch: Watch) -> int | None:
    """The epoch to whose architecture an early stop returns; None where there is none."""
    if rule is None:
        return None
    back = int(collapsed(state.history, rule))
    return None if back < 0 else (back + 1) * watch.eigenvalue_every


def told(epochs: Sequence[Mapping[str, Any]], returned: int | None) -> dict[str, Any]:
    """What a result says of the watch: the last of every measurement, the largest eigenvalue, the early stop."""
    names = ("skips_", "alpha_entropy", "loss_", "accuracy_", "eigenvalue")
    last = {name: line[name] for line in epochs for name in line if name.startswith(names)}
    eigenvalues = [line["eigenvalue"] for line in epochs if "eigenvalue" in line]
    if eigenvalues:
        last["largest_eigenvalue"] = max(eigenvalues)
    return {**last, "epochs": epochs[-1]["epoch"], "early_stop_returned_to_epoch": returned}


def draw_health(
    epochs: Sequence[Mapping[str, Any]], health: Mapping[str, Any], folder: Path, metric: str = "accuracy"
) -> list[tuple[str, str, str]]:
    """Eigenvalue, gap, skip connections and entropy over the epochs; nothing where nothing was measured.

    metric: of the data set, which the lines call accuracy whatever it is.
    """
    panels = [
        ("dominant eigenvalue of the Hessian in α", {"eigenvalue": ("", _BLUE)}),
        (
            f"{metric.replace('_', ' ')} with shared weights",
            {"accuracy_mixture": ("mixture", _BLUE), "accuracy_path": ("path", _ORANGE)},
        ),
        ("skip connections of the derived cells", _skip_lines(epochs)),
        ("mean entropy of the mixture, nats", {"alpha_entropy": ("", _BLUE)}),
    ]
    drawn = [
        (title, {name: look for name, look in lines.items() if any(name in line for line in epochs)})
        for title, lines in panels
    ]
    drawn = [(title, lines) for title, lines in drawn if lines]
    if not drawn:
        return []
    figure = new_figure(9.0, 2.6 * ((len(drawn) + 1) // 2), "constrained")
    grid = figure.subplots((len(drawn) + 1) // 2, 2, squeeze=False).ravel()
    for axes, (title, lines) in zip(grid, drawn, strict=False):
        axes.set_title(title, size=10, loc="left")
        for name, (label, color) in lines.items():
            points = np.array([(line["epoch"], line[name]) for line in epochs if name in line])
            axes.plot(*points.T, "o-", color=color, lw=1.4, ms=3, label=label)
            if name == "eigenvalue":
                error = np.array([line["eigenvalue_error"] for line in epochs if name in line])
                axes.fill_between(points[:, 0], points[:, 1] - error, points[:, 1] + error, color=color, alpha=0.2)
        axes.ticklabel_format(axis="y", useOffset=False)
        if "accuracy_path" in lines:
            metric_axis(axes.yaxis, metric)
        if any(name.startswith("skips_") for name in lines):
            axes.set_ylim(bottom=-0.1)
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        if health["early_stop_returned_to_epoch"] is not None:
            axes.axvline(health["early_stop_returned_to_epoch"], color=_GRAY, ls="--", lw=1)
        if len(lines) > 1:
            axes.legend(fontsize=8, frameon=False)
        axes.set_xlabel("epoch", size=8)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    for axes in grid[len(drawn) :]:
        axes.set_axis_off()
    save_plot(figure, folder / "health.png")
    return [("Signs of a collapse", "health.png", caption(health, metric))]


def _skip_lines(epochs: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    names = dict.fromkeys(name for line in epochs for name in line if name.startswith("skips_"))
    colors = itertools.cycle((_BLUE, _ORANGE, _GREEN))
    return {name: (name.removeprefix("skips_"), next(colors)) for name in names}


def caption(health: Mapping[str, Any], metric: str) -> str:
    """The last measurement in words."""
    parts = []
    skips = [f"{value:g} in {name.removeprefix('skips_')}" for name, value in health.items() if name[:6] == "skips_"]
    if skips:
        parts.append(f"Skip connections at the end: {', '.join(skips)}.")
    if "accuracy_gap" in health:
        parts.append(
            f"The mixture has {shown(health['accuracy_mixture'], metric)} on validation batches, the path derived from "
            f"it {shown(health['accuracy_path'], metric)} with the same weights."
        )
    if "eigenvalue" in health:
        parts.append(f"Eigenvalue {health['eigenvalue']:.3g}, at most {health['largest_eigenvalue']:.3g}.")
    returned = health["early_stop_returned_to_epoch"]
    if returned is not None:
        parts.append(
            f"Stopped early after epoch {health['epochs']}, for the architecture of epoch {returned} (dashed)."
        )
    return " ".join(parts)
