"""The supernet of another run, searched again: one training, several budgets and ways to search.

It is the supernet that the run would have trained itself, so that nothing else in it changes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxnas.checkpoint import fingerprint
from jaxnas.files import read_json, write_atomic
from jaxnas.runfolder import RunFolder, differences

if TYPE_CHECKING:
    from experiments.one_shot_config import Config

_TRAINING = ("experiment", "space", "data", "seed", "one_shot", "prune_stages")
"""What a supernet depends on."""
_SCORING = ("batch_size", "batches")
"""What a score depends on beside the supernet."""


def check(config: Config, data: dict[str, Any]) -> dict[str, Any] | None:
    """The fingerprint of the supernet named, None where none is. data: that of the data set.

    Raises: ValueError, or OSError, where the supernet is not the one that this run would train.
    """
    if config.supernet is None:
        return None
    if config.prune_stages:
        raise ValueError("a supernet that is pruned is of one search: leave out prune_stages, or supernet")
    if config.devices.coordinator is not None:
        raise ValueError("supernet is for one process: leave out devices.coordinator, or copy the run folder")
    source = Path(config.supernet)
    if not (source / "config.json").exists():
        raise FileNotFoundError(f"{source} is no run folder (no config.json); give one of experiments.one_shot")
    theirs, ours = _identity(source), {**_own(config), "data": data}
    if "seeds" in theirs:
        raise ValueError(f"{source} has the supernets of {theirs['seeds']} seeds; give a run with one")
    if differing := differences(*({name: each.get(name) for name in _TRAINING} for each in (theirs, ours))):
        raise ValueError(f"{source} has another supernet than this run ({differing}); train one here")
    if not (source / "stages" / "search" / "done.json").exists():
        raise ValueError(f"the search of {source} is not finished; run its command again first")
    return fingerprint(source / "stages" / "search" / "checkpoints")


def take(run: RunFolder, config: Config) -> None:
    """Copies checkpoints, metrics of the training, and scores that hold here, unless the run has a supernet already."""
    stage = run.stage("search")
    if config.supernet is None or (stage.path / "checkpoints").exists():
        return
    source = Path(config.supernet)
    stage.truncate_metrics(-1)
    for line in map(json.loads, (source / "metrics.jsonl").read_text(encoding="utf-8").splitlines()):
        if line["stage"] == stage.name:
            run.log(line)
    theirs, ours = _identity(source), _own(config)
    if all(theirs["scoring"][name] == ours["scoring"][name] for name in _SCORING):
        for path in (source / "stages" / "search").glob("scores-*.jsonl"):
            if path.stem != "scores-running" or theirs["comparison"] == ours["comparison"]:
                write_atomic(stage.path / path.name, path.read_bytes())
    # Last and in one step: once they are there, all the rest is.
    part = stage.path / ".checkpoints.part"
    if part.is_symlink() or part.is_file():
        part.unlink()
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source / "stages" / "search" / "checkpoints", part)
    os.replace(part, stage.path / "checkpoints")


def _identity(source: Path) -> dict[str, Any]:
    return dict(read_json(source / "config.json")["identity"])


def _own(config: Config) -> dict[str, Any]:
    return {"experiment": "one_shot", **json.loads(json.dumps(dataclasses.asdict(config)))}
