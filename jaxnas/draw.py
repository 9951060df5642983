"""Pictures of a run: cells as graphs, architecture weights over time, curves, and what was found beside other networks.

Figures are made without pyplot, so that the figures, the backend and the settings of a program that plots for itself
stay as they are. PNG files are replaced in one step. Colors are those of Okabe & Ito (2008) and their neighbors in
Tol's palettes, which are told apart with every common color vision; each operation also has its name beside it.
"""

from __future__ import annotations

import io
import itertools
import math
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path as Curve
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from jaxnas.celllayout import Box, Cell, cells, place
from jaxnas.files import write_atomic

__all__ = [
    "alpha_figure",
    "comparison_figure",
    "curves_figure",
    "draw_alpha",
    "draw_comparison",
    "draw_curves",
    "draw_genotype",
    "draw_mixture",
    "figures",
    "genotype_figure",
    "save_figure",
    "to_dot",
]

DPI = 150
"""Pixels an inch of every PNG."""
_SETTINGS = threading.Lock()
"""Held while settings of matplotlib are changed, which are those of all threads."""

_COLOURS = {
    "none": "#999999",
    "max_pool_3x3": "#CC79A7",
    "avg_pool_3x3": "#882255",
    "skip_connect": "#009E73",
    "sep_conv_3x3": "#56B4E9",
    "sep_conv_5x5": "#0072B2",
    "dil_conv_3x3": "#E69F00",
    "dil_conv_5x5": "#D55E00",
    "nor_conv_1x1": "#56B4E9",
    "nor_conv_3x3": "#0072B2",
    "mbconv3_3x3": "#88CCEE",
    "mbconv3_5x5": "#56B4E9",
    "mbconv3_7x7": "#0072B2",
    "mbconv6_3x3": "#F0E442",
    "mbconv6_5x5": "#E69F00",
    "mbconv6_7x7": "#D55E00",
    "shuffle_3x3": "#44AA99",
    "shuffle_5x5": "#009E73",
    "shuffle_7x7": "#117733",
    "shuffle_xception": "#CC79A7",
    "identity": "#DDDDDD",
}
_SPARE_COLOURS = ("#332288", "#999933", "#44AA99", "#AA4499", "#DDCC77", "#661100")
_GRAY = "#777777"
_SPLITS = {"": "training", "train": "training", "valid": "validation", "test": "test"}
_SPLIT_COLOURS = {"training": "#0072B2", "validation": "#D55E00", "test": "#009E73"}
_NODE, _LABEL, _LABEL_HEIGHT = 10.0, 9.0, 0.25  # Font sizes in points, height in inches.


def draw_genotype(
    genotype: Mapping[str, Any], path: str | os.PathLike[str], costs: Mapping[str, int] | None = None
) -> None:
    """Writes a PNG and an SVG of the cells of a genotype, as `genotype_figure` draws them.

    path: ends in .png; the SVG gets the same name.

    >>> import os, tempfile
    >>> from jaxnas.spaces import nasbench201_space
    >>> space = nasbench201_space()
    >>> arch = space.from_genotype("|none~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw_genotype(space.to_genotype(arch), f"{folder}/cell.png")
    ...     sorted(os.listdir(folder))
    ['cell.png', 'cell.svg']
    """
    save_figure(genotype_figure(genotype, costs), path)


def can_draw(genotype: Mapping[str, Any]) -> bool:
    """Whether `genotype_figure` knows the form of a genotype."""
    try:
        cells(genotype)
    except ValueError:
        return False
    return True


def genotype_figure(genotype: Mapping[str, Any], costs: Mapping[str, int] | None = None) -> Figure:
    """The cells of a genotype as graphs from left to right, one below the other.

    Each operation is a box on the line from its source to its node; a line without a box is the concatenation into the
    output. Operations "none" are dashed. costs: {"params", "macs"} of the network, written above. Of the texts of the
    figure, those of operations have the gid "operation", those of nodes "node"; lines have the gid "line". Layers with
    skip connections stand one below the other, their skips as arcs beside them; each stage of a chain is a row.

    Raises: ValueError where the genotype has neither the cells of DARTS, nor that of NAS-Bench-201, nor layers, nor
    stages.

    >>> from jaxnas.spaces import nasbench201_space
    >>> space = nasbench201_space()
    >>> arch = space.from_genotype("|none~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|")
    >>> texts = genotype_figure(space.to_genotype(arch)).findobj(lambda artist: artist.get_gid() == "operation")
    >>> sorted({text.get_text() for text in texts if hasattr(text, "get_text")})
    ['none', 'nor conv 1×1', 'skip connect']
    """
    drawn = cells(genotype)
    caption = "" if costs is None else f"{figures(costs['params'])} parameters, {figures(costs['macs'])} MACs"
    if "layers" in genotype:
        return _layers_figure(drawn[0], caption)
    colors = operation_colors(operation for cell in drawn for operation, _, _ in cell.edges)
    width = {name: _text_width(_words(name), _LABEL) + 0.2 for name in colors}
    width |= {name: max(0.36, _text_width(name, _NODE) + 0.18) for cell in drawn for name in cell.nodes}
    layouts = [place(cell, width, _LABEL_HEIGHT) for cell in drawn]
    margin, title = 0.2, 0.4
    heights = [title + layout.height for layout in layouts]
    caption_width = _text_width(caption, _NODE)
    figure = new_figure(
        max(caption_width, *(layout.width for layout in layouts)) + 2 * margin,
        sum(heights) + margin * (len(drawn) + 1) + (title if caption else 0),
    )
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    size = figure.get_size_inches()
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0))  # One unit is one inch, counted from the upper left corner.
    top = margin
    if caption:
        axes.text(margin, top + title / 2, caption, size=_NODE, va="center", gid="title")
        top += title
    for cell, layout, height in zip(drawn, layouts, heights, strict=True):
        axes.text(margin, top + title / 2, cell.title, size=11, weight="bold", va="center", gid="title")
        origin = np.array([margin, top + title])
        for operation, points in layout.lines:
            _line(axes, points + origin, _GRAY if operation is None else colors[operation], operation)
        for box in layout.boxes:
            _box(axes, box, origin, colors)
        top += height + margin
    return figure


def _layers_figure(chain: Cell, caption: str) -> Figure:
    """A chain of layers from top to bottom; what a later one adds comes in by an arc, the longer the further out."""
    operations = {target: name for name, source, target in chain.edges[: len(chain.nodes) - 1]}
    skips = [(source, target) for _, source, target in chain.edges[len(chain.nodes) - 1 :]]
    colors = operation_colors(operations.values())
    step, size, left = 0.52, 0.3, 0.9
    width = max(_text_width(_words(name), _LABEL) for name in [*colors, chain.nodes[0]]) + 0.3
    reach = 0.25 + 0.22 * max((target - source for source, target in skips), default=0)
    top = 0.75 if caption else 0.35
    figure = new_figure(
        max(left + width + reach + 0.2, _text_width(caption, _NODE) + 0.4), top + step * len(chain.nodes)
    )
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    across, down = figure.get_size_inches()
    axes.set(xlim=(0, across), ylim=(down, 0))
    if caption:
        axes.text(0.2, 0.25, caption, size=_NODE, va="center", gid="title")
    middle, right = left + width / 2, left + width
    for node, name in enumerate(chain.nodes):
        y = top + step * node
        box = Box(operations.get(node, name), node > 0, middle, y, width, size)
        _box(axes, box, np.zeros(2), colors)
        if node:
            axes.text(left - 0.12, y, name, size=8, ha="right", va="center", color=_GRAY, gid="title")
            start, end = (middle, y - step + size / 2), (middle, y - size / 2)
            axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=8, color=_GRAY, gid="line"))
    ends = {node: sorted(pair for pair in skips if node in pair) for node in range(len(chain.nodes))}
    for source, target in skips:
        # Arcs that meet at one box are spread over its side.
        heights = [
            top + step * node + size * ((ends[node].index((source, target)) + 1) / (len(ends[node]) + 1) - 0.5)
            for node in (source, target)
        ]
        out = right + 0.3 * (target - source)
        path = Curve(
            [(right, heights[0]), (out, heights[0]), (out, heights[1]), (right, heights[1])],
            [Curve.MOVETO, *[Curve.CURVE4] * 3],
        )
        axes.add_patch(
            FancyArrowPatch(path=path, arrowstyle="-|>", mutation_scale=7, color="#0072B2", lw=0.9, gid="line")
        )
    return figure


def to_dot(genotype: Mapping[str, Any]) -> str:
    """The cells of a genotype as a graph in the language of Graphviz; raises like `genotype_figure`.

    >>> from jaxnas.spaces import nasbench201_space
    >>> space = nasbench201_space()
    >>> arch = space.from_genotype("|none~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|")
    >>> dot = to_dot(space.to_genotype(arch))
    >>> dot.startswith("digraph"), dot.count("->")
    (True, 6)
    """
    lines = ["digraph genotype {", "  rankdir=LR;", '  node [shape=box, style=rounded, fontname="DejaVu Sans"];']
    drawn = cells(genotype)
    colors = operation_colors(operation for cell in drawn for operation, _, _ in cell.edges)
    for index, cell in enumerate(drawn):
        lines += [f"  subgraph cluster_{index} {{", f'    label="{cell.title}";']
        lines += [f'    "{index}_{n}" [label="{_plain(name)}"];' for n, name in enumerate(cell.nodes)]
        for operation, source, target in cell.edges:
            style = ', style="dashed"' if operation == "none" else ""
            label = f'label="{operation}", color="{colors[operation]}"{style}'
            lines.append(f'    "{index}_{source}" -> "{index}_{target}" [{label}];')
        lines += [f'    "{index}_{source}" -> "{index}_{len(cell.nodes) - 1}";' for source in cell.joined]
        lines.append("  }")
    return "\n".join([*lines, "}"]) + "\n"


def draw_alpha(
    history: Mapping[str, Any], operations: Sequence[str], steps: Sequence[int], path: str | os.PathLike[str]
) -> None:
    """Writes a PNG and an SVG of mixture weights over time, as `alpha_figure` draws them.

    >>> import os, tempfile
    >>> import numpy as np
    >>> weights = {"cell": np.full((3, 6, 2), 0.5)}  # 3 steps, the 6 edges of a NAS-Bench-201 cell, 2 operations
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw_alpha(weights, ["skip_connect", "nor_conv_3x3"], [0, 10, 20], f"{folder}/alpha.png")
    ...     sorted(os.listdir(folder))
    ['alpha.png', 'alpha.svg']
    """
    save_figure(alpha_figure(history, operations, steps), path)


def alpha_figure(history: Mapping[str, Any], operations: Sequence[str], steps: Sequence[int]) -> Figure:
    """Mixture weights over time: a block of panels for each cell kind, a row for each node, a column for each source.

    history: kind -> [T, S, O], with the slots of the DARTS space (S = n (n + 3) / 2) or of NAS-Bench-201
    (S = n (n + 1) / 2), node by node and source ascending. steps: [T].

    Raises: ValueError where shapes do not fit together or S is of neither space.

    >>> import numpy as np
    >>> weights = {"cell": np.full((3, 6, 2), 0.5)}  # 3 steps, the 6 edges of a NAS-Bench-201 cell, 2 operations
    >>> figure = alpha_figure(weights, ["skip_connect", "nor_conv_3x3"], [0, 10, 20])
    >>> [axes.get_title() for axes in figure.axes]
    ['0 → 1', '0 → 2', '1 → 2', '0 → 3', '1 → 3', '2 → 3']
    """
    arrays = {kind: np.asarray(values, float) for kind, values in history.items()}
    if not arrays:
        raise ValueError("the history of the mixture weights is empty; give at least one cell kind")
    tables = {}
    for kind, values in arrays.items():
        if values.ndim != 3 or (values.shape[0], values.shape[2]) != (len(steps), len(operations)) or not len(steps):
            raise ValueError(
                f"the history of {kind!r} has shape {values.shape}; it must be [T, S, O] "
                f"with T = {len(steps)} steps and O = {len(operations)} operations"
            )
        tables[kind] = _slots(kind, values.shape[1])
    colors = operation_colors(operations)
    rows = {kind: 1 + max(row for row, _, _ in table) for kind, table in tables.items()}
    columns = 1 + max(column for table in tables.values() for _, column, _ in table)
    panel, heading, left = (1.75, 1.15), 0.5, 0.75
    legend_rows = math.ceil(len(operations) / 4)
    head = 0.15 + 0.22 * legend_rows
    figure = new_figure(
        max(left + panel[0] * columns + 0.2, 6.6), head + sum(heading + panel[1] * n for n in rows.values()) + 0.2
    )
    width, height = figure.get_size_inches()
    highest = max(float(np.nanmax(values)) for values in arrays.values()) * 1.06 or 1.0
    lowest = min(0.0, *(float(np.nanmin(values)) for values in arrays.values()))
    top = head
    handles: list[Any] = []
    for kind, table in tables.items():
        figure.text(0.2 / width, 1 - (top + 0.12) / height, _title(kind), size=11, weight="bold", va="center")
        top += heading
        for slot, (row, column, name) in enumerate(table):
            x, y = left + panel[0] * column, top + panel[1] * row
            axes = figure.add_axes(
                (x / width, 1 - (y + panel[1] - 0.3) / height, (panel[0] - 0.15) / width, (panel[1] - 0.3) / height)
            )
            handles = [
                axes.plot(
                    steps, arrays[kind][:, slot, o], color=colors[operation], lw=1.4, label=_words(operation),
                    ls="--" if operation == "none" else "-", marker="o" if len(steps) == 1 else "", ms=3,
                )[0]
                for o, operation in enumerate(operations)
            ]  # fmt: skip
            axes.set_title(name, size=8, pad=2)
            axes.set_ylim(lowest, highest)
            axes.margins(x=0.02)
            axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(3))
            axes.tick_params(labelsize=7, length=2, labelbottom=row == rows[kind] - 1, labelleft=column == 0)
            plain_axes(axes)
        top += panel[1] * rows[kind]
    figure.text(left / width, 0.2 / height, "step", size=8, va="center")
    figure.legend(
        handles=handles, loc="upper center", ncol=math.ceil(len(operations) / legend_rows), frameon=False, fontsize=9
    )
    return figure


def draw_mixture(
    history: Mapping[str, Any], operations: Sequence[str], steps: Sequence[int], path: str | os.PathLike[str]
) -> None:
    """Writes a PNG and an SVG of the mixture weights of any space.

    Where all slots have the same operations, the weights are drawn over time. Elsewhere the last weights are drawn.

    history: kind -> [T, S, O]. operations: the names of O options that every slot has, () where slots differ.

    >>> import os, tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw_mixture({"layers": np.full((3, 4, 2), 0.5)}, (), [0, 10, 20], f"{folder}/mixture.png")
    ...     sorted(os.listdir(folder))
    ['mixture.png', 'mixture.svg']
    """
    draw_alpha(history, operations, steps, path) if operations else save_figure(last_mixture_figure(history), path)


def last_mixture_figure(history: Mapping[str, Any]) -> Figure:
    """The last weights of a mixture as shades: a panel for each kind, a row for each slot, a column for each option.

    history: kind -> [T, S, O].
    """
    last = {kind: np.asarray(values, float)[-1] for kind, values in history.items()}
    figure = new_figure(3.4 * len(last), 1.2 + 0.16 * max(len(values) for values in last.values()), "constrained")
    for axes, (kind, values) in zip(figure.subplots(1, len(last), squeeze=False)[0], last.items(), strict=True):
        image = axes.imshow(values, cmap="Blues", vmin=0.0, vmax=max(1.0, float(values.max())), aspect="auto")
        axes.set_title(_title(kind), size=10, loc="left")
        axes.set_xlabel("option", size=8)
        axes.set_ylabel("slot", size=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelsize=7)
        figure.colorbar(image, ax=axes, shrink=0.8).ax.tick_params(labelsize=7)
    return figure


def draw_curves(lines: Iterable[Mapping[str, Any]], path: str | os.PathLike[str], metric: str = "accuracy") -> None:
    """Writes a PNG and an SVG of the curves of a run, as `curves_figure` draws them.

    >>> import os, tempfile
    >>> lines = [{"stage": "search", "phase": "epoch", "step": n, "valid_accuracy": n / 10} for n in range(5)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw_curves(lines, f"{folder}/curves.png")
    ...     sorted(os.listdir(folder))
    ['curves.png', 'curves.svg']
    """
    save_figure(curves_figure(lines, metric), path)


def has_curves(lines: Iterable[Mapping[str, Any]]) -> bool:
    """Whether there is anything that `curves_figure` draws."""
    return any(_is_curve(name, value) for line in lines for name, value in line.items())


def _is_curve(name: str, value: Any) -> bool:
    drawn = name.rpartition("_")[2] in ("loss", "metric", "accuracy")
    return drawn and isinstance(value, int | float) and math.isfinite(value)


def curves_figure(lines: Iterable[Mapping[str, Any]], metric: str = "accuracy") -> Figure:
    """Loss (left) and metric (right) over steps, one row for each stage.

    lines: those of metrics.jsonl; of each, the numbers whose names end in "loss" or "metric" are drawn, or "accuracy",
    which is what a metric is called where it is one. metric: the name of the metric; that of "accuracy" is in percent.
    Figures of the phase "epoch", one an epoch, have dots. Of more than 400 points the means of 200 equal parts are
    drawn, in a band from the 10th to the 90th percentile of each. A loss that falls by more than a factor of 30 is on a
    log scale.

    Raises: ValueError where there is no loss and no metric.

    >>> lines = [{"stage": "search", "phase": "epoch", "step": n, "train_loss": 1, "valid_loss": 2} for n in range(5)]
    >>> left, right = curves_figure(lines).axes
    >>> [text.get_text() for text in left.get_legend().get_texts()]
    ['training', 'validation']
    """
    stages: dict[str, dict[str, dict[str, list[tuple[int, float]]]]] = {}
    for line in lines:
        for name, value in line.items():
            split, _, quantity = name.rpartition("_")
            if _is_curve(name, value):
                label = _SPLITS.get(split, split.replace("_", " ")) + ("#" if line["phase"] == "epoch" else "")
                found = stages.setdefault(line["stage"], {"loss": {}, metric: {}})[
                    "loss" if quantity == "loss" else metric
                ]
                found.setdefault(label, []).append((line["step"], float(value)))
    if not stages:
        raise ValueError("there is no loss and no metric to draw; the metrics of a run that has begun have some")
    figure = new_figure(9.0, 2.5 * len(stages) + 0.2, layout="constrained")
    grid = figure.subplots(len(stages), 2, squeeze=False)
    for row, (stage, quantities) in zip(grid, stages.items(), strict=True):
        for axes, (quantity, series) in zip(row, quantities.items(), strict=True):
            axes.set_title(f"{stage}: {quantity.replace('_', ' ')}", size=10, loc="left")
            axes.set_xlabel("step", size=8)
            axes.tick_params(labelsize=8)
            plain_axes(axes)
            if not series:
                axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color=_GRAY)
                axes.set(xticks=[], yticks=[])
                continue
            spare = iter(_SPARE_COLOURS * len(series))
            for label, points in series.items():
                name, whole = label.rstrip("#"), label.endswith("#")
                color = _SPLIT_COLOURS.get(name) or next(spare)
                if whole and name in series:  # Both of single batches and of the whole split.
                    name, color = f"{name}, epoch", "#222222"
                _curve(axes, np.array(points), name, color, dots=whole)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            if quantity == "accuracy":
                axes.yaxis.set_major_formatter(PercentFormatter(1.0))
            else:
                values = np.array([value for points in series.values() for _, value in points])
                if values.min() > 0 and values.max() > 30 * values.min():
                    axes.set_yscale("log")
                    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.legend(fontsize=8, frameon=False)
    return figure


def draw_comparison(
    networks: Mapping[str, Mapping[str, Any]], path: str | os.PathLike[str], metric: str = "accuracy"
) -> None:
    """Writes a PNG and an SVG of networks beside each other, as `comparison_figure` draws them.

    >>> import os, tempfile
    >>> networks = {"found": {"test_accuracy": 0.9, "params": 1200, "macs": 30000}}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw_comparison(networks, f"{folder}/comparison.png")
    ...     sorted(os.listdir(folder))
    ['comparison.png', 'comparison.svg']
    """
    save_figure(comparison_figure(networks, metric), path)


_KINDS = {"found": "#0072B2", "seed-": "#56B4E9", "random": _GRAY}


def comparison_figure(networks: Mapping[str, Mapping[str, Any]], metric: str = "accuracy") -> Figure:
    """The metric on the test split as dots with confidence intervals, the best above; parameters and MACs at the right.

    networks: name -> {"test_METRIC", "params", "macs"} and, where known, "interval" (or, as a result has it,
    "test_interval"), [low, high]. Names that begin with "found" are blue, with "seed-" light
    blue, with "random" gray, all others orange.

    Raises: ValueError where there is no network.

    >>> networks = {
    ...     "random-1": {"test_accuracy": 0.8, "params": 900, "macs": 20000},
    ...     "found": {"test_accuracy": 0.9, "params": 1200, "macs": 30000, "interval": [0.88, 0.92]},
    ... }
    >>> [label.get_text() for label in comparison_figure(networks).axes[0].get_yticklabels()]
    ['found', 'random-1']
    """
    if not networks:
        raise ValueError("there is no network to compare; give at least the found one")
    ranked = sorted(networks.items(), key=lambda item: item[1][f"test_{metric}"], reverse=True)
    size, left, right = 0.36, max(_text_width(name, 10) for name in networks) + 0.35, 2.1
    figure = new_figure(left + 4.6 + right, size * len(ranked) + 0.8)
    width, height = figure.get_size_inches()
    axes = figure.add_axes((left / width, 0.6 / height, 4.6 / width, size * len(ranked) / height))
    for row, (name, network) in enumerate(ranked):
        color = next((color for start, color in _KINDS.items() if name.startswith(start)), "#D55E00")
        interval = network.get("interval") or network.get("test_interval")
        if interval is not None:
            axes.plot(interval, [row, row], color=color, lw=2.5, alpha=0.5, solid_capstyle="butt")
        axes.plot(network[f"test_{metric}"], row, "o", color=color, ms=7)
        sizes = f"{figures(network['params'])} params, {figures(network['macs'])} MACs"
        axes.text(1.02, row, sizes, transform=axes.get_yaxis_transform(), va="center", size=8.5, color="#444444")
    axes.set_yticks(range(len(ranked)), [name for name, _ in ranked])
    axes.set_ylim(len(ranked) - 0.5, -0.5)
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    metric_axis(axes.xaxis, metric)
    axes.set_xlabel(f"test {_words(metric)}, with its confidence interval where it has one", size=9)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    plain_axes(axes)
    axes.grid(axis="y", color="#eeeeee")
    return figure


def operation_colors(operations: Iterable[str]) -> dict[str, str]:
    """A color for each operation; those without one of their own get the spare ones in alphabetical order."""
    names = sorted(set(operations))
    spare = [name for name in names if name not in _COLOURS]
    return {name: _COLOURS.get(name) or _SPARE_COLOURS[spare.index(name) % len(_SPARE_COLOURS)] for name in names}


def figures(count: float) -> str:
    """A count in three figures or as it is: 3349342 -> "3.35 M".

    >>> figures(3349342), figures(528359050), figures(12)
    ('3.35 M', '528 M', '12')
    """
    for unit, value in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= 0.9995 * value:
            return f"{count / value:.{2 - int(math.log10(max(count / value, 1)) + 1e-3)}f} {unit}"
    return str(count)


def _words(operation: str) -> str:
    """sep_conv_3x3 -> sep conv 3×3."""
    kind, _, size = operation.rpartition("_")
    return (
        f"{kind} {size.replace('x', '×')}".replace("_", " ").strip()
        if size[:1].isdigit()
        else operation.replace("_", " ")
    )


def _plain(name: str) -> str:
    return name.strip("$").replace("{", "").replace("}", "")


def _title(kind: str) -> str:
    return {"normal": "Normal cell", "reduce": "Reduction cell"}.get(kind, kind.capitalize())


def _text_width(text: str, size: float) -> float:
    """Inches that a text takes in the default font, at a size in points."""
    return float(TextPath((0, 0), text, size=size).get_extents().width) / 72 if text else 0.0


def new_figure(width: float, height: float, layout: Any = None) -> Figure:
    """A white figure of at least that size in inches and of whole pixels."""
    size = (math.ceil(width * DPI - 1e-6) / DPI, math.ceil(height * DPI - 1e-6) / DPI)
    figure = Figure(figsize=size, dpi=DPI, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a PNG, and an SVG beside it, each in one step, and the folder where it is missing.

    Raises: ValueError for another ending than .png, OSError.

    >>> save_figure(curves_figure([{"stage": "train", "phase": "epoch", "step": 0, "train_loss": 1.0}]), "curves.pdf")
    Traceback (most recent call last):
        ...
    ValueError: pictures are PNG files, got 'curves.pdf'; end its name in .png
    """
    target = Path(path)
    if target.suffix != ".png":
        raise ValueError(f"pictures are PNG files, got {str(path)!r}; end its name in .png")
    target.parent.mkdir(parents=True, exist_ok=True)
    forms: tuple[tuple[str, dict[str, Any]], ...] = ((".svg", {"metadata": {"Date": None}}), (".png", {"dpi": DPI}))
    # The same picture is the same file: no date, and no names by chance.
    with _SETTINGS, matplotlib.rc_context({"svg.hashsalt": "jaxnas"}):
        for suffix, options in forms:
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix[1:], **options)
            write_atomic(target.with_suffix(suffix), buffer.getvalue())


def save_plot(figure: Figure, path: str | os.PathLike[str]) -> None:
    """`save_figure` with all axes plain and small numbers on them."""
    for axes in figure.axes:
        plain_axes(axes)
        axes.tick_params(labelsize=8)
    save_figure(figure, path)


def _line(axes: Axes, points: np.ndarray, color: str, operation: str | None) -> None:
    """A line that is level at each of the points [n, 2], with an arrow head at its end."""
    head = 0.09
    end = points[-1]
    points = np.concatenate([points[:-1], [end - (head, 0)]])
    vertices, codes = [points[0]], [Curve.MOVETO]
    for a, b in itertools.pairwise(points):
        middle = (a[0] + b[0]) / 2
        vertices += [np.array([middle, a[1]]), np.array([middle, b[1]]), b]
        codes += [Curve.CURVE4] * 3
    thin = operation is None or operation == "none"
    axes.add_patch(
        PathPatch(
            Curve(np.array(vertices), codes), fill=False, ec=color, lw=1.1 if thin else 1.8, zorder=1, gid="line",
            ls="--" if operation == "none" else "-", alpha=0.6 if thin else 1.0,
        )
    )  # fmt: skip
    tip = [end, end - (head, -head / 2), end - (head, head / 2)]
    axes.add_patch(Polygon(tip, color=color, lw=0, zorder=3, alpha=0.6 if thin else 1.0))


def _box(axes: Axes, box: Box, origin: np.ndarray, colors: Mapping[str, str]) -> None:
    x, y = origin + (box.x, box.y)
    operation = box.name if box.is_operation else None
    face = "#f2f2f2" if operation is None else "white" if operation == "none" else colors[operation]
    edge = "#444444" if operation is None else colors[operation]
    style = f"round,pad=0,rounding_size={0.06 if operation else 0.1}"
    corner = (x - box.width / 2, y - box.height / 2)
    axes.add_patch(FancyBboxPatch(corner, box.width, box.height, boxstyle=style, fc=face, ec=edge, lw=1, zorder=2))
    red, green, blue = (int(face[i : i + 2], 16) for i in (1, 3, 5)) if face != "white" else (255, 255, 255)
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 120
    axes.text(
        x, y, box.name if operation is None else _words(operation), size=_NODE if operation is None else _LABEL,
        color="white" if dark else "black" if operation != "none" else "#555555", ha="center", va="center", zorder=4,
        gid="node" if operation is None else "operation",
    )  # fmt: skip


def _slots(kind: str, count: int) -> list[tuple[int, int, str]]:
    """(row, column, name) of the panel of each slot of a cell."""
    for nodes in range(1, count + 1):
        if nodes * (nodes + 3) // 2 == count:
            names = ["$c_{k-2}$", "$c_{k-1}$", *(str(node) for node in range(nodes))]
            pairs = [(node, source) for node in range(nodes) for source in range(node + 2)]
            return [(node, source, f"{names[source]} → {node}") for node, source in pairs]
        if nodes * (nodes + 1) // 2 == count:
            pairs = [(node, source) for node in range(nodes) for source in range(node + 1)]
            return [(node, source, f"{source} → {node + 1}") for node, source in pairs]
    raise ValueError(f"{kind!r} has {count} slots; cells have n (n + 3) / 2 (DARTS) or n (n + 1) / 2 (NAS-Bench-201)")


def _curve(axes: Axes, points: np.ndarray, label: str, color: str, dots: bool) -> None:
    """One series, points [n, 2] of (step, value); means of equal parts and a band where there are many."""
    points = points[np.argsort(points[:, 0], kind="stable")]
    if len(points) > 400:
        parts = np.array_split(points, 200)
        low, high = np.array([np.percentile(part[:, 1], [10, 90]) for part in parts]).T
        points = np.array([part.mean(axis=0) for part in parts])
        axes.fill_between(points[:, 0], low, high, color=color, alpha=0.2, lw=0)
    marker = "o" if dots or len(points) == 1 else ""
    axes.plot(points[:, 0], points[:, 1], color=color, lw=1.4, marker=marker, ms=3, label=label)


def metric_axis(axis: Axis, metric: str) -> None:
    """Writes the numbers of an axis in percent where the metric is an accuracy; others stay as they are."""
    if metric.endswith("accuracy"):
        axis.set_major_formatter(PercentFormatter(1.0))


def plain_axes(axes: Axes) -> None:
    """Takes off the upper and right frame and lays a light grid behind."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
