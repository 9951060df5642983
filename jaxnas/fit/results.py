"""What a run leaves: its folder while it works, its result and its report at the end."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import numpy as np

from jaxnas import draw, report
from jaxnas.base import Arch
from jaxnas.data import Dataset
from jaxnas.fit import equal_cost, seeds
from jaxnas.fit.problem import Picture, Problem, Stop
from jaxnas.fit.settings import has_images
from jaxnas.fit.truth_pictures import draw_truth
from jaxnas.parallel import from_first, is_first_process
from jaxnas.runfolder import RunFolder, open_run, versions
from jaxnas.saved import form_of
from jaxnas.shapes import Bounds, check_shape
from jaxnas.train.stop import heed_signals

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""Title, heads of the columns, rows."""


class _Row(TypedDict):
    """The shape of what a result says of one network, beside its metrics, whose names are those of the data set."""

    params: int
    macs: int
    test_interval: Annotated[list[float], Bounds(2, 2)] | None


class _Timing(TypedDict):
    search: NotRequired[float | None]


class _Truth(TypedDict):
    metric: str
    table: str
    measured: int
    best: float
    mean: float
    value: float | None
    rank: int | None
    percentile: float | None


class _Result(_Row):
    """The shape of the result of a road."""

    notation: str
    genotype: dict[str, Any]
    dataset: str
    metric: NotRequired[str]
    baselines: NotRequired[dict[str, _Row]]
    timing: NotRequired[_Timing]
    truth: NotRequired[_Truth]


def check_result(result: Any, path: Path) -> None:
    """Raises ValueError, naming the file, where the content of result.json is not that of a road that was travelled."""
    check_shape(result, _Result, str(path))
    metric = report.metric_of(result)
    for name, row in {"": result, **result.get("baselines", {})}.items():
        where = f"{path}: baselines.{name}" if name else str(path)
        check_shape(row.get(f"test_{metric}"), float, f"{where}: test_{metric}")
        check_shape(row.get(f"valid_{metric}"), float | None, f"{where}: valid_{metric}")


@contextlib.contextmanager
def held_run(
    folder: str | None, identity: Mapping[str, Any], runtime: Mapping[str, Any], *, loggers: Sequence[str] = ()
) -> Iterator[tuple[RunFolder, Stop]]:
    """A run folder, held, and what tells of a signal. folder: None is one that is gone afterwards."""
    with contextlib.ExitStack() as resources:
        if folder is None or not is_first_process():
            # Another process computes as the first one does, and what it writes is thrown away.
            folder = resources.enter_context(tempfile.TemporaryDirectory()) + "/run"
        if not is_first_process():
            loggers = ()
        run = resources.enter_context(open_run(folder, identity, runtime, loggers=loggers, share=from_first))
        yield run, resources.enter_context(heed_signals())


def finish(
    run: RunFolder, problem: Problem, finds: Mapping[str, Arch], figures: Mapping[str, Mapping[str, Any]],
    timing: Mapping[str, float], pictures: Sequence[Picture], tables: Sequence[Table] = (),
) -> dict[str, Any]:  # fmt: skip
    """Writes result.json and the report; gives the result.

    finds: what each search found. figures: of "found" and of all else that was trained.
    """
    dataset = problem.dataset
    seconds = {f"train-{name}": entry["seconds"] for name, entry in figures.items()}
    rows = {name: {k: v for k, v in entry.items() if k != "seconds"} for name, entry in figures.items()}
    lines = run.metrics()
    result = {
        **rows["found"],
        "metric": dataset.objective.name,
        "dataset": dataset.name,
        "data": {**dataset.summary(), **_read_as(dataset)},
        "seed": problem.seed,
        "baselines": {name: row for name, row in rows.items() if name != "found"},
        "versions": versions(),
        "command": command_line(),
        "timing": {**timing, **seconds},
    }
    folder = run.path / "report"
    every = {"found": rows["found"], **result["baselines"]}
    known: list[Picture] = []
    if problem.truth is not None:
        archs = list(finds.values())
        peers = equal_cost.peers(problem.truth, archs)
        compared = equal_cost.compared(problem.truth, archs, peers)
        result["truth"] = {**result["truth"], **problem.truth.summary(), "equal_cost": compared}
        known = draw_truth(problem.truth, every, lines, folder, np.concatenate(peers), compared)
        tables = [truth_table(result["truth"], every), *tables]
    result["verdict"] = verdict(result)
    if draw.can_draw(result["genotype"]):
        draw.draw_genotype(result["genotype"], folder / "cells.png", {k: result[k] for k in ("params", "macs")})
        known = [("The found architecture", "cells.png", "What was found, operations on the edges."), *known]
    draw.draw_comparison(seeds.once(every), folder / "comparison.png", dataset.objective.name)
    curves: list[Picture] = []
    if draw.has_curves(lines):  # else somebody took the metrics away
        draw.draw_curves(lines, folder / "curves.png", dataset.objective.name)
        curves.append(("Curves", "curves.png", "Losses and accuracies of every stage."))
    report.write(
        run.path,
        result,
        [
            *known,
            (
                "Found and baselines",
                "comparison.png",
                "On the test split, an accuracy with its 95 % interval; the same training for all.",
            ),
            *pictures,
            *curves,
        ],
        tables,
    )
    run.finish(result)
    return result


def _read_as(dataset: Dataset) -> dict[str, Any]:
    form = form_of(dataset) if has_images(dataset) else None
    return {} if form is None else {"read_as": dataclasses.asdict(form)}


def verdict(result: Mapping[str, Any]) -> str | None:
    """Whether this run shows that its search beat chance, in words.

    By a table that knows the truth, and by the random networks that were trained beside the found one; None without
    either.
    """
    compared = result.get("truth", {}).get("equal_cost")
    parts = [equal_cost.told(compared)] if compared else []
    return " ".join([*parts, *_beside_random(result)]) or None


def _beside_random(result: Mapping[str, Any]) -> list[str]:
    """Two sentences on the networks that were trained here, or none."""
    metric = report.metric_of(result)
    name = f"test_{metric}"
    random = [row for other, row in result["baselines"].items() if other.startswith("random-")]
    if not random:
        return []
    best = max(random, key=lambda row: row[name])
    what = "the random architecture" if len(random) == 1 else f"the best of {len(random)} random architectures"
    text = (
        f"The found network has {report.shown(result[name], metric)} on the test split, {what} under the same training "
        f"{report.shown(best[name], metric)}."
    )
    own, other = result["test_interval"], best["test_interval"]
    if own is None:
        return [text]
    if own[0] > other[1]:
        return [text, "The 95 % intervals do not overlap: what was found is better."]
    if other[0] > own[1]:
        return [text, "The 95 % intervals do not overlap: what was found is worse than a random one."]
    return [text, "The 95 % intervals overlap: these networks alone do not tell the search from chance."]


def truth_table(known: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """What the table of measured architectures says of the found one, of the baselines, and of the best."""
    lines = [(name, *_truth_cells(row["truth"])) for name, row in rows.items() if "truth" in row]
    lines.append(("the best of the table", f"{known['best']:.2f}", f"1 of {known['measured']:,}", "100.0"))
    lines.append(("mean of the table", f"{known['mean']:.2f}", "", ""))
    title = f"Ground truth: {known['metric']} of {known['table']}"
    return title, ("Architecture", known["description"] or known["metric"], "Rank", "Percentile"), lines


def _truth_cells(told: Mapping[str, Any]) -> tuple[str, str, str]:
    if told["value"] is None:
        return "–", "", ""
    return f"{told['value']:.2f}", f"{told['rank']:,}", f"{told['percentile']:.1f}"


def tell(path: Path | None, result: Mapping[str, Any]) -> None:
    """Prints the outcome of a finished run. path: its folder, where it has one that stays."""
    rows = {"found": result, **result.get("baselines", {})}
    known = result.get("truth")
    head = f"{'true':>9}{'rank':>8}" if known else ""
    print(f"\n{'network':<16}{'test':>8}  {'95 % interval':<18}{'valid':>8}{'params':>12}{'MACs':>14}{head}")
    metric = report.metric_of(result)
    for name, row in rows.items():
        interval = "" if row["test_interval"] is None else "{:.4f} to {:.4f}".format(*row["test_interval"])
        valid = "–" if row.get(f"valid_{metric}") is None else f"{row[f'valid_{metric}']:.4f}"
        value, rank, _ = _truth_cells(row["truth"]) if known and "truth" in row else ("", "", "")
        print(
            f"{name:<16}{row[f'test_{metric}']:>8.4f}  {interval:<18}{valid:>8}"
            f"{row['params']:>12,}{row['macs']:>14,}{value:>9}{rank:>8}".rstrip()
        )
    if known:
        print(
            f"true: {known['metric']} of {known['table']}, {known['measured']:,} measured, best {known['best']:.2f}, "
            f"mean {known['mean']:.2f}"
        )
    if result.get("verdict"):
        print(result["verdict"])
    print(f"\n{result['notation']}")
    if path is not None:
        print(f"report: {path / 'report' / 'index.html'}")


def command_line() -> str:
    """How this process was started, as far as it is a program."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return shlex.join(["python", *([Path(sys.argv[0]).name] if sys.argv and sys.argv[0] else []), *sys.argv[1:]])
    if spec.name.startswith("jaxnas.programs."):
        return shlex.join(["jaxnas", spec.name.rpartition(".")[2], *sys.argv[1:]])
    return shlex.join(["python", "-m", spec.name, *sys.argv[1:]])


def clock() -> Callable[[], float]:
    """Seconds since now."""
    start = time.perf_counter()
    return lambda: round(time.perf_counter() - start, 2)
