"""The supernet of another run, searched again: one training, several budgets and ways to select.

It is the supernet that the run would have trained itself, so that nothing else in it changes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, Protocol, TypedDict

from jaxnas import data
from jaxnas.checkpoint import fingerprint
from jaxnas.files import expanded, read_json, read_json_lines, write_atomic
from jaxnas.fit.problem import Problem, settings_of
from jaxnas.runfolder import Line, RunFolder, differences

_SELECTION = ("prune_by", "by", "predictor", "proxy", "proxy_from", "scoring", "finalists", "comparison")
"""Settings that a trained supernet does not depend on."""
_SCORING = {"batch_size": None, "batches": None, "limit": 0}
"""What a score depends on beside the supernet, and what it was in runs that did not say it."""


class Reusing(Protocol):
    """Of the settings of a one-shot search, what is asked here."""

    @property
    def name(self) -> str: ...
    @property
    def supernet(self) -> str | None: ...
    @property
    def prune(self) -> tuple[int, ...]: ...


class _Identity(TypedDict):
    search: NotRequired[dict[str, Any]]


class _Config(TypedDict):
    identity: _Identity


def check(settings: Reusing, problem: Problem) -> dict[str, Any] | None:
    """The fingerprint of the supernet named, None where none is.

    Raises: ValueError, or OSError, where the supernet is not the one that this run would train.
    """
    if settings.supernet is None:
        return None
    if settings.prune:
        raise ValueError("a supernet that is pruned is of one search: leave out search.prune, or search.supernet")
    if problem.devices.coordinator is not None:
        raise ValueError("search.supernet is for one process: leave out devices.coordinator, or copy the run folder")
    source = expanded(settings.supernet)
    if not (source / "config.json").exists():
        raise FileNotFoundError(f"{source} is no run folder (no config.json); give one of a one-shot search")
    theirs = _identity(source)
    if "seeds" in theirs:
        raise ValueError(f"{source} has the supernets of {theirs['seeds']} seeds; give a run with one")
    ours = {
        "experiment": settings.name, "dtype": problem.dtype, "space": problem.entry.name, "seed": problem.seed,
        "data": data.fingerprint(problem.dataset), "search": json.loads(json.dumps(settings_of(settings))),
    }  # fmt: skip
    if differing := differences(_training(theirs), _training(ours)):
        raise ValueError(f"{source} has another supernet than this run ({differing}); train one here")
    if not (source / "stages" / "search" / "done.json").exists():
        raise ValueError(f"the search of {source} is not finished; run its command again first")
    return fingerprint(source / "stages" / "search" / "checkpoints")


def take(run: RunFolder, settings: Reusing) -> None:
    """Copies checkpoints, metrics of the training, and scores that hold here, unless the run has a supernet already."""
    stage = run.stage("search")
    if settings.supernet is None or (stage.path / "checkpoints").exists():
        return
    source = expanded(settings.supernet)
    stage.truncate_metrics(-1)
    for line in read_json_lines(source / "metrics.jsonl", Line):
        if line["stage"] == stage.name:
            run.log(line)
    theirs, ours = _identity(source)["search"], json.loads(json.dumps(settings_of(settings)))
    if all(theirs.get("scoring", {}).get(name, before) == ours["scoring"][name] for name, before in _SCORING.items()):
        for path in (source / "stages" / "search").glob("scores-*.jsonl"):
            if path.stem != "scores-running" or theirs.get("comparison") == ours["comparison"]:
                write_atomic(stage.path / path.name, path.read_bytes())
    # Last and in one step: once they are there, all the rest is.
    part = stage.path / ".checkpoints.part"
    if part.is_symlink() or part.is_file():
        part.unlink()
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source / "stages" / "search" / "checkpoints", part)
    os.replace(part, stage.path / "checkpoints")


def _identity(source: Path) -> dict[str, Any]:
    identity: dict[str, Any] = read_json(source / "config.json", _Config, "give another folder")["identity"]
    return identity


def _training(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What of an identity a supernet depends on."""
    search = {name: value for name, value in dict(identity.get("search", {})).items() if name not in _SELECTION}
    return {**{name: identity.get(name) for name in ("experiment", "space", "seed", "data", "dtype")}, "search": search}
