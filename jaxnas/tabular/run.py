"""A comparison in a run folder: taken up where it ended, with its final table, its pictures and its report."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jaxnas import report
from jaxnas.base import Sampler
from jaxnas.files import write_csv
from jaxnas.runfolder import RunFolder, open_run, versions
from jaxnas.tabular.compare import Comparison, checked_plans, comparison_of, run_plan
from jaxnas.tabular.fronts import FRONT_USUAL, FrontSetting, front_sampler, search_fronts
from jaxnas.tabular.methods import Plan
from jaxnas.tabular.outcome import Outcome
from jaxnas.tabular.pictures import draw_fronts, draw_regret, draw_table, text_table
from jaxnas.tabular.setting import Setting
from jaxnas.train.stop import check_stop, stop_on_signal

NOTHING: Mapping[str, Any] = MappingProxyType({})


def run_comparison(
    workdir: str | os.PathLike[str],
    setting: Setting,
    samplers: Mapping[str, Sampler | Plan],
    *,
    seeds: int = 1000,
    seed: int = 0,
    front: FrontSetting | None = None,
    front_methods: Sequence[str] = FRONT_USUAL,
    settings: Mapping[str, Any] = NOTHING,
    runtime: Mapping[str, Any] = NOTHING,
    command: str | None = None,
) -> Comparison:
    """`compare` in a run folder: runs the methods that have not run there, then writes and prints what all came to.

    workdir: gets stages/NAME/done.json for each method, table.csv, result.json and report/index.html. samplers: name ->
    sampler or plan; the name stands for it, so one that has changed needs another name, another folder or other
    `settings`. front: also search for the front of two metrics, by front_methods. settings: what the samplers
    were made with, in JSON's terms; a folder with others is refused. runtime: what numbers do not depend on, to be kept
    in config.json. command: by which the run was started, for the report.

    Raises: ValueError and OSError as `compare` and `open_run`, Stopped where a signal came. Only for the main thread.

    >>> import contextlib, io, tempfile
    >>> from jaxnas.benchmarks import digits201_table
    >>> from jaxnas.samplers import random_search
    >>> from jaxnas.tabular import make_setting
    >>> table = digits201_table()
    >>> setting = make_setting(table, search="valid", report="test", evaluations=20)
    >>> with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
    ...     comparison = run_comparison(folder, setting, {"random": random_search(table.moves)}, seeds=2)
    ...     written = sorted(os.listdir(folder))
    >>> "table.csv" in written, "report" in written
    (True, True)
    """
    start = time.perf_counter()
    plans = checked_plans(samplers, setting, seeds)
    if front is not None:
        for name in front_methods:
            front_sampler(name, front, setting.evaluations)
    identity = _identity(setting, seeds, seed, front, front_methods, settings)
    with open_run(workdir, identity, runtime) as run, stop_on_signal() as stop:
        for note in (setting.coverage.text(), *setting.table.notes):
            print(f"{setting.table.name}: {note}")
        outcomes: dict[str, Outcome] = {}
        for number, (name, plan) in enumerate(plans.items()):
            stage = run.stage(name)
            done = stage.result
            if done is None:
                check_stop(stop, number, len(plans), "method")
                done = run_plan(name, plan, setting, seeds, seed)._asdict()
                stage.finish(done)
            outcomes[name] = Outcome(**done)
        fronts = None
        if front is not None:
            stage = run.stage("front")
            fronts = stage.result
            if fronts is None:
                check_stop(stop, len(plans), len(plans), "method")
                fronts = search_fronts(front, setting.evaluations, seeds, seed, front_methods)
                stage.finish(fronts)
        comparison = comparison_of(setting, plans, outcomes)
        pictures = _draw(run.path / "report", comparison, seeds)
        if front is not None and fronts is not None:
            pictures.append(_draw_fronts(run.path / "report", front, fronts, setting.evaluations))
        timing = {"total": round(time.perf_counter() - start, 2)}
        timing |= {name: outcome.wall_seconds for name, outcome in outcomes.items()}
        result = {
            **_result(comparison, seed),
            **({} if fronts is None else {"front": {name: fronts[name] for name in ("metrics", "methods")}}),
            "versions": versions(),
            **({} if command is None else {"command": command}),
            "timing": timing,
        }
        _write(run, comparison, result, pictures)
    return comparison


def _identity(
    setting: Setting,
    seeds: int,
    seed: int,
    front: FrontSetting | None,
    front_methods: Sequence[str],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "experiment": "tabular",
        "table": setting.fingerprint,
        "search_metric": setting.search,
        "report_metric": setting.report,
        "time_metric": setting.time,
        "evaluations": setting.evaluations,
        "time_budget": setting.time_budget,
        "front_metrics": None if front is None else list(front.metrics),
        # Those that were always there are not named, so that older folders go on.
        **({} if front is None or front_methods == FRONT_USUAL else {"front_methods": list(front_methods)}),
        "seeds": seeds,
        "seed": seed,
        "settings": dict(settings),
    }


def _draw(folder: Path, comparison: Comparison, seeds: int) -> list[tuple[str, str, str]]:
    """Draws the final values and the regrets; gives (title, file, caption) of each picture."""
    setting, outcomes, rows, _ = comparison
    lines = [
        f"{row['method']}: {row['mean']:.4g} ± {row['std']:.2g}, median {row['median']:.4g}, "
        f"5 to 95 % of runs {row['q05']:.4g} to {row['q95']:.4g}"
        for row in rows
    ]
    draw_table(rows, folder / "table.png")
    pictures = [("Final values", "table.png", f"{setting.report} of what was found. {'; '.join(lines)}.")]
    for axis, label in (("evaluations", "evaluations"), ("seconds", "simulated seconds")):
        curves = {name: outcome.curves[axis] for name, outcome in outcomes.items() if axis in outcome.curves}
        if curves:
            draw_regret(curves, label, folder / f"regret_{axis}.png")
            caption = f"Mean over {seeds} runs with its 95 % interval; found by {setting.search}."
            pictures.append((f"Regret of {setting.report} against {label}", f"regret_{axis}.png", caption))
    return pictures


def _draw_fronts(
    folder: Path, front: FrontSetting, fronts: Mapping[str, Any], evaluations: int
) -> tuple[str, str, str]:
    draw_fronts(fronts, front.points, folder / "front.png")
    shares = "; ".join(f"{name} {m['mean']:.3f} ± {m['std']:.3f}" for name, m in fronts["methods"].items())
    caption = f"Share of the true front's hypervolume after {evaluations} evaluations: {shares}. Median runs shown."
    print(caption)
    return f"Front of {' and '.join(front.metrics)}", "front.png", caption


def _result(comparison: Comparison, seed: int) -> dict[str, Any]:
    setting = comparison.setting
    metrics = {name.lstrip("-").partition("@")[0] for name in (setting.search, setting.report)}
    return {
        "dataset": setting.table.name,
        "seed": seed,
        "search_metric": setting.search,
        "report_metric": setting.report,
        "time_metric": setting.time,
        "descriptions": {name: setting.table.descriptions.get(name, "") for name in sorted(metrics)},
        "coverage": setting.coverage._asdict(),
        "optimum": setting.optimum,
        "methods": comparison.rows,
        "notes": comparison.notes,
    }


def _write(
    run: RunFolder, comparison: Comparison, result: Mapping[str, Any], pictures: list[tuple[str, str, str]]
) -> None:
    setting, _, rows, notes = comparison
    write_csv(run.path / "table.csv", rows)
    said = [("Coverage", ("architectures",), [(note,) for note in (setting.coverage.text(), *setting.table.notes)])]
    if notes:
        said.append(("Below the budget", ("method",), [(note,) for note in notes]))
    page = report.write(run.path, result, pictures, said)
    run.finish(result)
    print(f"\n{setting.report} found by {setting.search}; the best of {setting.table.name} has {setting.optimum:.4f}\n")
    print(text_table(rows))
    for note in notes:
        print(note)
    print(f"\ntable: {run.path / 'table.csv'}\nreport: {page}")
