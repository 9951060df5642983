"""Kills runs at random moments, many times, and checks that they end with the numbers of undisturbed ones.

    python -m benchmarks.soak --minutes 20 --kills 60

All programs that go on in a folder, as small as they go, take turns: a DARTS search with its early stop and the
training of what it found, each batch on two devices of the CPU; one whose space shrinks; a training alone; ENAS and
DARTS for two seeds at once; one-shot scoring, and one-shot search that a graph network guides and prunes by; candidates
trained one by one; searches, and learning curves of a graph network, on a table; and a small part of the making of
digits201. Each is run once undisturbed, which also fills the cache of compiled programs. Then it is started again and
again in one folder, each time killed after a random time by SIGKILL, or by SIGTERM or SIGHUP, on which it must exit
with 75, or by two SIGTERMs, 143; each third start writes its output into a pipe that nobody reads any more, which must
change nothing. When it finishes, everything in its result.json and in its metrics but the clock must be equal, and a
new folder is begun. A run that finishes before its kill counts as a round without a kill. The rest of the last round is
let finish.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from jaxnas import command

ROOT = Path(__file__).parents[1]
_TINY_TRAINING = ("--train.channels", "2", "--train.cells", "1", "--train.batch-size", "500", "--train.epochs", "3")
PROGRAMS: dict[str, tuple[str, ...]] = {
    "search": (
        "experiments.darts", "--search.epochs", "6", "--search.channels", "2", "--search.cells", "1",
        "--search.batch-size", "180", "--search.watch.eigenvalue-every", "1", "--search.watch.products", "3",
        "--search.watch.batches", "1",
        "--search.early-stop", "--search.watch.window", "1", "--search.watch.lag", "1", "--search.watch.ratio", "0.999",
        "--search.watch.first", "1", "--random-baselines", "0", "--devices.count", "2", *_TINY_TRAINING,
    ),
    "training": (
        "experiments.retrain", "--genotype", "DARTS_V2", *_TINY_TRAINING[:-2], "--train.epochs", "8",
    ),
    "enas": (
        "experiments.enas", "--space", "nasbench201", "--seeds", "2", "--search.epochs", "6", "--search.batch-size",
        "300", "--search.channels", "2", "--search.candidates", "3", "--search.controller.steps", "3",
        "--search.controller.samples", "2", "--search.controller.batch-size", "200",
        "--random-baselines", "0", *_TINY_TRAINING,
    ),
    "one-shot scoring": (
        "experiments.one_shot", "--search.epochs", "2", "--search.channels", "2", "--search.batch-size", "300",
        "--search.scoring.evaluations", "40", "--search.scoring.population", "5", "--search.scoring.batch-size", "360",
        "--search.scoring.batches", "1", "--random-baselines", "0", *_TINY_TRAINING,
    ),
    "trained candidates": (
        "experiments.black_box", "--search.evaluations", "8", "--search.epochs", "2", "--random-baselines", "0",
        *_TINY_TRAINING,
    ),
    "predictor search": ("experiments.tabular", "--methods", "random,predictor", "--seeds", "2", "--evaluations", "40"),
    "pruning": (
        "experiments.darts", "--search.epochs", "6", "--search.channels", "2", "--search.cells", "1",
        "--search.batch-size", "180", "--search.prune", "5", "3", "--random-baselines", "0", *_TINY_TRAINING,
    ),
    "seeds": (
        "experiments.darts", "--seeds", "2", "--search.epochs", "4", "--search.channels", "2", "--search.cells", "1",
        "--search.batch-size", "180", "--random-baselines", "0", *_TINY_TRAINING,
    ),
    "graph network": (
        "experiments.one_shot", "--dataset", "digits", "--table", "None", "--search.epochs", "4",
        "--search.channels", "2", "--search.batch-size", "300", "--search.prune", "3", "--search.prune-by", "predictor",
        "--search.by", "predictor", "--search.predictor", "gnn", "--search.scoring.evaluations", "30",
        "--search.scoring.population", "10", "--search.scoring.batch-size", "360", "--search.scoring.batches", "1",
        "--random-baselines", "0", *_TINY_TRAINING,
    ),
    "learning curves": ("experiments.predictor", "--methods", "gp,gnn_alone", "--sizes", "8,16", "--draws", "2"),
    "digits201": (
        "experiments.make_digits201", "--classes", "24", "--part", "8", "--second", "8", "--timed", "3", "--epochs",
        "2", "--fidelities", "1", "2", "--channels", "2", "--cells", "1", "--copies", "1",
    ),
}  # fmt: skip
"""Name -> module and flags."""
CODES = {
    "SIGKILL": {-signal.SIGKILL},
    "SIGTERM": {75, -signal.SIGTERM},
    "SIGHUP": {75, -signal.SIGHUP},
    "SIGTERM twice": {143, 75, -signal.SIGTERM},
}
"""What a run may exit with; by SIGTERM itself where it came before the program was ready to handle it."""


@dataclasses.dataclass(frozen=True)
class Config:
    minutes: float = 20.0
    """After the undisturbed runs, no more are begun after so long."""
    kills: int = 60
    """Ends before that."""
    seed: int = 0
    programs: tuple[str, ...] = tuple(PROGRAMS)
    folder: Path | None = None
    """Where runs are kept; a temporary folder by default."""


def main(config: Config) -> None:
    """Prints one JSON object a kill, and a summary; exit code 1 where numbers differ or a code is another."""
    unknown = set(config.programs) - set(PROGRAMS)
    if unknown:
        raise ValueError(f"there is no program {unknown.pop()!r}; there are {', '.join(PROGRAMS)}")
    if config.minutes <= 0 or config.kills < 1:
        raise ValueError(f"minutes and kills must be positive, got {config.minutes} and {config.kills}")
    folder = config.folder or Path(tempfile.mkdtemp(prefix="soak-"))
    chance = random.Random(config.seed)
    soaks = {name: _Soak(name, folder / name.replace(" ", "-")) for name in config.programs}
    end = time.monotonic() + 60 * config.minutes
    kills: collections.Counter[str] = collections.Counter()
    while sum(kills.values()) < config.kills and time.monotonic() < end:
        for soak in soaks.values():
            if sum(kills.values()) < config.kills and time.monotonic() < end:
                how = soak.disturb(chance)
                kills[how] += how != "finished"
    for soak in soaks.values():
        soak.finish()
    wrong = [line for soak in soaks.values() for line in soak.wrong]
    rounds = {name: soak.rounds for name, soak in soaks.items()}
    kills.pop("finished", None)
    print(json.dumps({"kills": dict(kills), "total": sum(kills.values()), "compared": rounds, "wrong": wrong}))
    if config.folder is None:
        shutil.rmtree(folder)
    if wrong:
        raise ValueError(f"{len(wrong)} of the runs did not end as undisturbed ones: {wrong[0]}")


class _Soak:
    """One program: its undisturbed numbers, and the run that is being disturbed."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.rounds = 0
        self.wrong: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(2):  # the second with a full cache, so that its time is that of the others
            began = time.monotonic()
            code = self._start(f"whole-{number}").wait()
            self.seconds = time.monotonic() - began
            if code:
                raise ValueError(f"undisturbed, {name} exits with {code}: {self._log().read_text()[-2000:]}")
            print(json.dumps({"program": name, "undisturbed": round(self.seconds, 2)}), flush=True)
        self.expected = numbers(folder / "whole-0")
        self._compare(folder / "whole-1")

    def disturb(self, chance: random.Random) -> str:
        """Starts or resumes the run and kills it; gives how, or "finished"."""
        how = chance.choices(list(CODES), (5, 3, 1, 1))[0]
        process = self._start("disturbed", read=chance.random() > 1 / 3)
        wait = chance.uniform(0.0, self.seconds)
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.Signals[how.split()[0]])
            if how == "SIGTERM twice":
                time.sleep(chance.uniform(0.0, 0.5))
                process.send_signal(signal.SIGTERM)
        code = process.wait()
        print(json.dumps({"program": self.name, "after": round(wait, 2), "how": how, "code": code}), flush=True)
        if code == 0:
            self._finished()
            return "finished"
        if code not in CODES[how]:
            self.wrong.append(f"{self.name}: exit code {code} after {how}: {self._log().read_text()[-300:]}")
        return how

    def finish(self) -> None:
        """Lets the run come to its end."""
        code = self._start("disturbed").wait()
        if code:
            self.wrong.append(f"{self.name}: exit code {code} at the end: {self._log().read_text()[-300:]}")
        else:
            self._finished()

    def _finished(self) -> None:
        self.rounds += 1
        self._compare(self.folder / "disturbed")
        shutil.rmtree(self.folder / "disturbed")

    def _compare(self, run: Path) -> None:
        found = numbers(run)
        for file, expected in self.expected.items():
            if found[file] != expected:
                shutil.copytree(run, run.with_name(f"wrong-{len(self.wrong)}"), dirs_exist_ok=True)
                self.wrong.append(f"{self.name}: {file} differs: {_difference(expected, found[file])}")

    def _log(self) -> Path:
        return self.folder / "log.txt"

    def _start(self, run: str, read: bool = True) -> subprocess.Popen[bytes]:
        """read: whether anybody reads the output."""
        module, *flags = PROGRAMS[self.name]
        places = ["--workdir", str(self.folder / run), "--cache-dir", str(self.folder.parent / "cache")]
        with open(self._log(), "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *flags, *places],
                cwd=ROOT,
                stdout=log if read else subprocess.PIPE,
                stderr=log if read else subprocess.STDOUT,
                env={**os.environ, "JAX_NUM_CPU_DEVICES": "2"},
            )
        if process.stdout is not None:
            process.stdout.close()
        return process


def numbers(run: Path) -> dict[str, Any]:
    """All that a run left which may not depend on the clock."""
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    lines = []
    metrics = run / "metrics.jsonl"
    for line in metrics.read_text(encoding="utf-8").splitlines():
        lines.append({key: value for key, value in json.loads(line).items() if key != "time"})
    lines.sort(key=lambda line: (line["stage"], line["step"], line["phase"]))
    return {"result.json": _without_clock(result), "metrics.jsonl": lines}


def _without_clock(tree: Any) -> Any:
    if isinstance(tree, dict):
        apart = (
            "timing", "command", "seconds", "wall_seconds", "fit_seconds", "predict_seconds", "seconds_an_epoch",
            "time_model_relative_residual", "bytes",
        )  # fmt: skip
        return {key: _without_clock(value) for key, value in tree.items() if key not in apart}
    return [_without_clock(value) for value in tree] if isinstance(tree, list) else tree


def _difference(expected: Any, found: Any) -> str:
    """The first place where two trees differ."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in expected.keys() | found.keys():
            if expected.get(key) != found.get(key):
                return f"{key}: {_difference(expected.get(key), found.get(key))}"
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for number, (a, b) in enumerate(zip(expected, found, strict=True)):
            if a != b:
                return f"[{number}] {_difference(a, b)}"
    return f"{str(expected)[:100]} undisturbed, {str(found)[:100]} now"


if __name__ == "__main__":
    command.main(main, Config)
