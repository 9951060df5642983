"""What a run of `shrink` leaves at its end: result.json, one picture, one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxnas import draw, report
from jaxnas.data import Dataset
from jaxnas.draw import metric_axis, new_figure, plain_axes, save_plot
from jaxnas.fit.results import Table, command_line
from jaxnas.runfolder import RunFolder, versions
from jaxnas.shrinking.settings import Shrinking

_COLORS = {"found": "#0072B2", "uniform": "#D55E00", "magnitude": "#E69F00", "random": "#777777", "scratch": "#009E73"}
_SAID = {"macs": "multiply-adds of one example", "params": "parameters", "latency_ms": "milliseconds of a batch"}
_WHAT = {
    "found": "integer program, next-best re-scored",
    "uniform": "all widths narrowed alike, units by importance",
    "magnitude": "all widths narrowed alike, units by weight norm",
    "random": "choices at random within the budget",
    "scratch": "the found network, from random parameters",
}


def finish(
    run: RunFolder, dataset: Dataset, settings: Shrinking, trained: Mapping[str, Any], scored: Mapping[str, Any],
    budgets: Mapping[str, Mapping[str, Any]], seconds: float, seed: int,
) -> None:  # fmt: skip
    """Writes the picture, the page and the result. trained: what is said of the trained model."""
    smallest = min(budgets.values(), key=lambda each: each["limit"])["networks"]
    rows = {f"{label} {name}": row for label, each in budgets.items() for name, row in each["networks"].items()}
    timing = {
        "train": trained["seconds"], "score": scored["seconds"],
        **{f"choose {label}": each["seconds"] for label, each in budgets.items()},
        **{f"distill {name}": row["seconds"] for name, row in rows.items()}, "this process": seconds,
    }  # fmt: skip
    result = {
        **_untimed(smallest["found"]),
        "experiment": "shrink",
        "metric": dataset.objective.name,
        "dataset": dataset.name,
        "data": dataset.summary(),
        "seed": seed,
        "cost": settings.cost,
        "trained": _untimed(trained),
        "scores": {name: scored[name] for name in ("losses", "fixed", "scored")},
        "budgets": {
            label: {**_untimed(each), "networks": {name: _untimed(row) for name, row in each["networks"].items()}}
            for label, each in budgets.items()
        },
        "baselines": {
            "trained": _untimed(trained),
            **{n: _untimed(row) for n, row in smallest.items() if n != "found"},
        },
        "verdict": verdict(budgets, trained, dataset.objective.name),
        "versions": versions(),
        "command": command_line(),
        "timing": timing,
    }
    folder = run.path / "report"
    _draw(result, folder / "shrink.png")
    pictures = [(
        "Accuracy and cost", "shrink.png",
        "On the test split, with 95 % intervals of shares. All but the trained model had the same distillation.",
    )]  # fmt: skip
    lines = run.metrics()
    if draw.has_curves(lines):
        draw.draw_curves(lines, folder / "curves.png", dataset.objective.name)
        pictures.append(("Curves", "curves.png", "Losses and accuracies of every stage."))
    report.write(run.path, result, pictures, [table_of(result), _losses(result)])
    run.finish(result)


def _untimed(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "seconds"}


def table_of(result: Mapping[str, Any]) -> Table:
    """All networks, those of each budget beside each other."""
    metric, cost = result["metric"], result["cost"]
    lines = [_line("", "trained", "the model that is shrunk", result["trained"], result)]
    for label, each in result["budgets"].items():
        for name, row in each["networks"].items():
            lines.append(_line(label, name, _WHAT[name.partition("-")[0]], row, result))
    head = ["Budget", "Network", "How", f"Test {metric.replace('_', ' ')}", "Before distillation", "Parameters", "MACs"]
    head += ["Milliseconds"] if cost == "latency_ms" else []
    return f"All networks, budgets of {_SAID[cost]}; the same distillation for all", head, lines


def _line(label: str, name: str, how: str, row: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    metric = result["metric"]
    before = row.get(f"before_{metric}")
    cells = [
        label, name, how, report.shown(row[f"test_{metric}"], metric, row["test_interval"]),
        "" if before is None else report.shown(before, metric), f"{row['params']:,}", f"{row['macs']:,}",
    ]  # fmt: skip
    if result["cost"] == "latency_ms":
        cells.append(f"{row['latency_ms']:.3f}" if "latency_ms" in row else "")
    return cells


def _losses(result: Mapping[str, Any]) -> Table:
    rows = [
        [name, ", ".join(f"{value:.4f}" for value in values[0])] for name, values in result["scores"]["losses"].items()
    ]
    return "Distance to the trained model by each alternative alone", ("Choice", "Its options, in their order"), rows


def verdict(budgets: Mapping[str, Mapping[str, Any]], trained: Mapping[str, Any], metric: str) -> str:
    """In words, for each budget: how far the found network is from the trained one, and whether it beats all others."""
    name, told = f"test_{metric}", []
    for label, each in budgets.items():
        rows = each["networks"]
        found, others = rows["found"], {n: row for n, row in rows.items() if n != "found"}
        text = (
            f"Budget {label}: found {report.shown(found[name], metric)}, trained {report.shown(trained[name], metric)}"
        )
        if others:
            best = max(others, key=lambda n: others[n][name])
            text += f", best of the others {best} {report.shown(others[best][name], metric)}"
            here, there = found["test_interval"], others[best]["test_interval"]
            if here is not None:
                apart = "better" if here[0] > there[1] else "worse" if there[0] > here[1] else ""
                text += f" (found is {apart} beyond the intervals)" if apart else " (the intervals overlap)"
        told.append(text + ".")
    return " ".join(told)


def _draw(result: Mapping[str, Any], path: Path) -> None:
    metric, cost = result["metric"], result["cost"]
    figure = new_figure(6.5, 4.0, "constrained")
    axes = figure.subplots()
    trained = result["trained"]
    axes.axhline(trained[f"test_{metric}"], color="black", lw=0.8, ls="--")
    if cost in trained:
        axes.plot(trained[cost], trained[f"test_{metric}"], "k*", ms=10, label="trained model")
    points: dict[str, list[Mapping[str, Any]]] = {}
    for each in result["budgets"].values():
        for name, row in each["networks"].items():
            points.setdefault(name.partition("-")[0], []).append(row)
    for name, rows in points.items():
        rows = sorted(rows, key=lambda row: row[cost])
        x, y = [row[cost] for row in rows], [row[f"test_{metric}"] for row in rows]
        errors = None
        if rows[0]["test_interval"] is not None:
            ends = [row["test_interval"] for row in rows]
            errors = [
                [v - e[0] for v, e in zip(y, ends, strict=True)],
                [e[1] - v for v, e in zip(y, ends, strict=True)],
            ]
        axes.errorbar(
            x,
            y,
            errors,
            fmt="o" if name == "random" else "o-",
            ms=4,
            lw=1.2,
            capsize=2,
            color=_COLORS[name],
            label=name,
        )
    axes.set_xlabel(_SAID[cost], size=9)
    axes.set_ylabel(f"test {metric.replace('_', ' ')}", size=9)
    metric_axis(axes.yaxis, metric)
    axes.legend(fontsize=8, frameon=False)
    plain_axes(axes)
    save_plot(figure, path)


def tell(result: Mapping[str, Any], path: Path | None) -> None:
    """Prints the outcome of a finished run. path: its folder, where it has one that stays."""
    title, head, rows = table_of(result)
    shown: Sequence[Sequence[str]] = [[cell for at, cell in enumerate(row) if at != 2] for row in (head, *rows)]
    widths = [max(len(row[at]) for row in shown) for at in range(len(shown[0]))]
    print(f"\n{title}")
    for row in shown:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(result["verdict"])
    if path is not None:
        print(f"report: {path / 'report' / 'index.html'}")
