"""Finished runs side by side: what they found, how good it is, and how far runs with other seeds agree.

Runs that differ in nothing but the seed are one method: mean and standard deviation over its runs, and the agreement of
the cells that they found, which is the share of equal choices over all pairs, beside that of random cells. Searches
from other seeds mostly find other cells of much the same accuracy: what to report of a method is the mean of its seeds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np

from jaxnas import draw, report
from jaxnas.console import printable, printable_text, tell
from jaxnas.files import expanded, read_json, write_atomic, write_csv, write_json
from jaxnas.fit.results import check_result, command_line
from jaxnas.fit.seeds import share_equal, share_equal_by_chance
from jaxnas.report import metric_of
from jaxnas.runfolder import differences, versions
from jaxnas.saved import describe, space_of

HEAD = ("run", "method", "test", "95 % interval", "valid", "params", "MACs", "search", "seed")


class _Identity(TypedDict):
    experiment: str
    seed: int
    data: NotRequired[dict[str, Any]]
    space: NotRequired[str | None]


class _Config(TypedDict):
    """The shape of the config.json of a run that can be compared."""

    identity: _Identity


READ = ("data", "table", "supernet")
"""What of an identity are fingerprints. Those of data must be equal. Neither a table, with which scores are compared,
nor a supernet that was taken over, which is the one that a run would train itself, makes another method."""


class Run(NamedTuple):
    """name: short, and no other's. data: the fingerprint of its data. settings: its identity but for the seed and what
    was read, flat. result: that of result.json."""

    name: str
    path: Path
    data: dict[str, Any]
    settings: dict[str, Any]
    seed: int
    result: dict[str, Any]


class Method(NamedTuple):
    """Runs that differ in nothing but the seed. agreement: share of equal choices, None for fewer than two runs."""

    name: str
    runs: list[Run]
    mean: float
    std: float
    agreement: float | None
    by_chance: float | None


def read_runs(paths: Sequence[str]) -> list[Run]:
    """The runs, of which a copy of another is left out, which is said on standard error.

    Raises ValueError or OSError for what is no finished run of a network, comes twice, or has other data.
    """
    if not paths:
        raise ValueError("no run given: name the folders of at least one finished run")
    folders = [expanded(path) for path in paths]
    twice = [path for path, folder in zip(paths, folders, strict=True)
             if sum(folder.resolve() == other.resolve() for other in folders) > 1]  # fmt: skip
    if twice:
        raise ValueError(f"{twice[0]} is given twice: name each run once")
    short = {folder: printable(folder.absolute().name) for folder in folders}
    unique = len(set(short.values())) == len(folders)
    runs = [_read(folder, short[folder] if unique else printable(str(folder))) for folder in folders]
    first = runs[0]
    for run in runs:
        names = f"in {first.name}", f"in {run.name}"
        if differing := differences({"data": first.data}, {"data": run.data}, names):
            raise ValueError(f"{run.path} is on other data than {first.path} ({differing}): give runs on one data set")
    return _without_copies(runs)


def _without_copies(runs: Sequence[Run]) -> list[Run]:
    """Each run once: a copy says nothing about the spread over seeds."""
    kept: dict[str, Run] = {}
    for run in runs:
        numbers = {name: value for name, value in run.result.items() if name not in ("timing", "command", "versions")}
        same = kept.setdefault(json.dumps([run.settings, run.seed, numbers], sort_keys=True), run)
        if same is not run:
            tell(f"{run.path} has the settings, the seed and the numbers of {same.path}: it is counted once")
    return list(kept.values())


def _read(path: Path, name: str) -> Run:
    if not path.is_dir():
        raise OSError(f"there is no folder {path}: give the folder of a finished run")
    if not (path / "config.json").is_file():
        raise ValueError(f"{path} is no run (no config.json): give the folder of a finished run")
    identity = read_json(path / "config.json", _Config, "give another folder")["identity"]
    if not (path / "result.json").is_file():
        raise ValueError(f"{path} is not finished: run its command again, which goes on where it stopped")
    result = read_json(path / "result.json", dict, "give another folder")
    needed = (f"test_{metric_of(result)}", "test_interval", "notation", "genotype", "dataset", "params", "macs")
    lacking = [key for key in needed if key not in result]
    if lacking:
        raise ValueError(
            f"{path} is a run of {identity['experiment']}, which trains no found network, or damaged: its result.json "
            f"has no {lacking[0]!r}"
        )
    check_result(result, path / "result.json")
    settings = dict(_flat({key: value for key, value in identity.items() if key not in READ}))
    seed = settings.pop("seed")
    return Run(name, path, identity.get("data", {}), settings, seed, result)


def _flat(tree: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in tree.items():
        pairs += _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else [(f"{before}{key}", value)]
    return pairs


def group(runs: Sequence[Run]) -> list[Method]:
    """The methods, in the order of their first runs, named after their experiment and what tells them apart."""
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        grouped.setdefault(json.dumps(run.settings, sort_keys=True), []).append(run)
    members = list(grouped.values())
    return [_method(_name(own[0], [other[0] for other in members]), own) for own in members]


def _name(run: Run, of_methods: Sequence[Run]) -> str:
    """The experiment, its space where it has one, and those settings in which others of the same kind differ."""
    alike = [other for other in of_methods if other.settings["experiment"] == run.settings["experiment"]]
    space = run.settings.get("space")
    differing = [
        f"{key}={value}"
        for key, value in run.settings.items()
        if any(other.settings.get(key) != value for other in alike)
        and key != "space"
        and not key.startswith("search.genotype")
    ]
    return " ".join([run.settings["experiment"], *([space] if isinstance(space, str) else []), *differing])


def _method(name: str, runs: list[Run]) -> Method:
    accuracies = np.array([run.result[f"test_{metric_of(run.result)}"] for run in runs])
    std = float(accuracies.std(ddof=1)) if len(runs) > 1 else 0.0
    agreement = by_chance = None
    if len(runs) > 1:
        space = space_of(describe(runs[0].path))
        archs = np.stack([np.asarray(space.canonical(space.from_genotype(run.result["genotype"]))) for run in runs])
        agreement, by_chance = share_equal(archs), share_equal_by_chance(space)
    return Method(name, runs, float(accuracies.mean()), std, agreement, by_chance)


def told(method: Method) -> str:
    """The seeds of a method in one line."""
    metric = metric_of(method.runs[0].result)
    return (
        f"{method.name}: test {metric} {method.mean:.4f} ± {method.std:.4f} (mean, std of {len(method.runs)} seeds); "
        f"two found architectures have {method.agreement:.0%} of their choices in common, two random ones "
        f"{method.by_chance:.0%}"
    )


def rows(methods: Sequence[Method]) -> list[tuple[str, ...]]:
    """A line for each run, and one for each method with several."""
    lines: list[tuple[str, ...]] = []
    for method in methods:
        for run in method.runs:
            result = run.result
            metric, interval = metric_of(result), result["test_interval"]
            valid, searched = result.get(f"valid_{metric}"), (result.get("timing") or {}).get("search")
            lines.append((
                run.name, method.name, f"{result[f'test_{metric}']:.4f}",
                "–" if interval is None else "{:.4f} to {:.4f}".format(*interval),
                "–" if valid is None else f"{valid:.4f}", f"{result['params']:,}", f"{result['macs']:,}",
                "–" if searched is None else f"{searched:,.0f} s", str(run.seed),
            ))  # fmt: skip
        if len(method.runs) > 1:
            lines.append((
                "mean", method.name, f"{method.mean:.4f}", f"± {method.std:.4f}", "", "", "", "",
                f"{len(method.runs)} seeds",
            ))  # fmt: skip
    return lines


def text(runs: Sequence[Run], methods: Sequence[Method]) -> str:
    """The table, what each run found, and the seeds of each method, to be printed."""
    found = "".join(f"\n\n{run.name}\n  {run.result['notation']}" for run in runs)
    seeds = "".join(f"\n{told(method)}" for method in methods if len(method.runs) > 1)
    return printable_text(f"{text_table([HEAD, *rows(methods)])}{found}\n{seeds}".rstrip("\n"))


def text_table(lines: Sequence[Sequence[str]]) -> str:
    """In columns, names on the left and numbers on the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def latex(methods: Sequence[Method]) -> str:
    """A tabular of the methods: mean and standard deviation over the seeds, mean costs. It needs no package."""
    metric = metric_of(methods[0].runs[0].result)
    scale, unit = (100, r" (\%)") if metric.endswith("accuracy") else (1, "")
    lines = [
        r"\begin{tabular}{lrrrr}",
        r"\hline",
        rf"Method & Seeds & Test {_escaped(metric)}{unit} & Parameters & MACs \\",
        r"\hline",
    ]
    for method in methods:
        spread = rf" \pm {scale * method.std:.2f}" if len(method.runs) > 1 else ""
        costs = [float(np.mean([run.result[name] for run in method.runs])) for name in ("params", "macs")]
        cells = [_escaped(method.name), str(len(method.runs)), f"${scale * method.mean:.2f}{spread}$"]
        lines.append(" & ".join([*cells, *(f"{cost:,.0f}" for cost in costs)]) + r" \\")
    return "\n".join([*lines, r"\hline", r"\end{tabular}", ""])


_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    character: f"\\{character}" for character in "&%$#_{}"
}


def _escaped(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(_SPECIAL.get(character, character) for character in text)


def write(out: Path, runs: Sequence[Run], methods: Sequence[Method]) -> None:
    """table.csv, table.tex and the report, in a new or an empty folder or one that this wrote before.

    Raises: OSError where it cannot be written, ValueError where `out` holds something else, which stays as it is.
    """
    folder = out / "report"
    drawn = ["comparison", *(f"cells-{number}" for number in range(len(runs)))]
    names = ["table.csv", "table.tex", "report/index.html"]
    names += [f"report/{name}.{form}" for name in drawn for form in ("png", "svg")]
    _check_own(out, names)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make the folder {folder}: {error.strerror}; choose one that can be written") from error
    write_json(out / _WRITTEN, {"wrote": names})  # first: a killed comparison can be written again
    write_csv(out / "table.csv", [_plain(run, method) for method in methods for run in method.runs])
    write_atomic(out / "table.tex", latex(methods))
    metric = metric_of(runs[0].result)
    draw.draw_comparison({run.name: run.result for run in runs}, folder / "comparison.png", metric)
    pictures = [(f"Test {metric}", "comparison.png", "With its 95 % interval; the interval of a mean is another one.")]
    for number, run in enumerate(runs):
        if not draw.can_draw(run.result["genotype"]):
            continue
        costs = {name: run.result[name] for name in ("params", "macs")}
        draw.draw_genotype(run.result["genotype"], folder / f"cells-{number}.png", costs)
        pictures.append((f"Found by {run.name}", f"cells-{number}.png", run.result["notation"]))
    seeds = [(told(method),) for method in methods if len(method.runs) > 1]
    report.write(
        out,
        {
            "dataset": runs[0].result["dataset"],
            "versions": versions(),
            "command": command_line(),
        },
        pictures,
        [("Runs", HEAD, rows(methods)), *([("Seeds", ("methods run with several seeds",), seeds)] if seeds else [])],
    )


_WRITTEN = "comparison.json"


class _Written(TypedDict):
    """The shape of comparison.json, which names the files that a comparison wrote."""

    wrote: list[str]


def _check_own(out: Path, names: Sequence[str]) -> None:
    """Raises ValueError where a folder holds what no comparison wrote, and a file of these names would be lost."""
    if (out / "config.json").exists():
        raise ValueError(f"--out {out} is the folder of a run: choose another folder")
    if not out.is_dir():
        return
    if not (out / _WRITTEN).exists():
        strangers = sorted(entry.name for entry in out.iterdir() if entry.name != ".DS_Store")
        if strangers:
            raise ValueError(f"--out {out} holds {strangers[0]!r} and no comparison: choose an empty or a new folder")
        return
    wrote = set(read_json(out / _WRITTEN, _Written, "choose another folder")["wrote"])
    for name in names:
        if name not in wrote and (out / name).exists():
            raise ValueError(f"--out {out} holds {name!r}, which no comparison wrote: choose another folder")


def _plain(run: Run, method: Method) -> dict[str, Any]:
    result, metric = run.result, metric_of(run.result)
    low, high = result["test_interval"] or (None, None)
    return {
        "run": os.fspath(run.path),
        "method": method.name,
        "dataset": result["dataset"],
        "seed": run.seed,
        f"test_{metric}": result[f"test_{metric}"],
        "low": low,
        "high": high,
        f"valid_{metric}": result.get(f"valid_{metric}"),
        "params": result["params"],
        "macs": result["macs"],
        "search_seconds": (result.get("timing") or {}).get("search"),
        "notation": result["notation"],
    }
