"""All runs below a folder on one page: what each is, how far it is, what came out, and where its report lies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxnas import report
from jaxnas.files import read_json

HEAD = ("run", "experiment", "space", "data set", "seed", "state", "test", "params", "MACs", "search", "changed")
"""The columns of the page."""


class Listed(NamedTuple):
    """A run. name: its path below the folder. identity, result: of config.json and result.json, {} where there is none
    that can be read. state: "finished", "running" or "stopped". changed: seconds since the epoch."""

    name: str
    identity: dict[str, Any]
    result: dict[str, Any]
    state: str
    changed: float


def list_runs(folder: str | os.PathLike[str]) -> list[Listed]:
    """The runs below a folder, the last changed first; what is inside a run is no other run.

    Raises: OSError where there is no such folder, ValueError where there is no run below it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise OSError(f"there is no folder {root}: give one that holds runs")
    runs = []
    for place, below, files in os.walk(root):
        if "config.json" in files and ".lock" in files:
            below.clear()
            runs.append(_listed(Path(place), root))
        below[:] = sorted(name for name in below if not name.startswith("."))
    if not runs:
        raise ValueError(f"there is no run below {root} (no folder with a config.json): give the folder of your runs")
    return sorted(runs, key=lambda run: -run.changed)


def _listed(path: Path, root: Path) -> Listed:
    config, result = _read(path / "config.json"), _read(path / "result.json")
    identity = config.get("identity")
    state = "finished" if result else "running" if _held(path / ".lock") else "stopped"
    changed = max(file.stat().st_mtime for file in (path / "config.json", *path.glob("*.json*")))
    name = path.relative_to(root).as_posix()
    return Listed(name, identity if isinstance(identity, dict) else {}, result, state, changed)


def _read(path: Path) -> dict[str, Any]:
    """An object in JSON; {} where there is none: a damaged run must not keep the others from being listed."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _held(path: Path) -> bool:
    """Whether a process works in the folder of this lock."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def rows(runs: Sequence[Listed]) -> list[tuple[str, ...]]:
    """A line of `HEAD` for each run."""
    return [_row(run) for run in runs]


def _row(run: Listed) -> tuple[str, ...]:
    identity, result = run.identity, run.result
    metric = report.metric_of(result)
    tested = result.get(f"test_{metric}")
    searched = (result.get("timing") or {}).get("search")
    table = result.get("dataset") or identity.get("data", {}).get("source", "–")
    return (
        run.name,
        str(identity.get("experiment", "–")),
        str(identity.get("space", "–")),
        str(table),
        str(identity.get("seed", "–")),
        run.state,
        "–" if tested is None else report.shown(tested, metric),
        *("–" if result.get(name) is None else f"{result[name]:,}" for name in ("params", "macs")),
        "–" if searched is None else f"{searched:,.0f} s",
        time.strftime("%Y-%m-%d %H:%M", time.localtime(run.changed)),
    )


def write_runs(folder: str | os.PathLike[str]) -> tuple[Path, list[Listed]]:
    """Writes `folder`/index.html, which leads to the report of each run; gives its path and the runs.

    Raises: as `list_runs`; ValueError where the folder is itself a run; OSError where the page cannot be written.
    """
    root = Path(folder)
    if (root / "config.json").exists():
        raise ValueError(f"{root} is itself a run, whose page is report/index.html: give the folder above it")
    runs = list_runs(root)
    lines: list[list[str | tuple[str, str]]] = []
    for run, row in zip(runs, rows(runs), strict=True):
        page = f"{run.name}/report/index.html"
        lines.append([(row[0], page) if (root / page).is_file() else row[0], *row[1:]])
    count = sum(run.state == "finished" for run in runs)
    lead = f"{len(runs)} runs, {count} finished; click on a head to sort"
    report.write_index(root / "index.html", f"Runs in {root.absolute().name}", lead, HEAD, lines)
    return root / "index.html", runs
