"""Everything that is to be known of an accelerator, in ten minutes: `benchmarks/accelerator.sh` runs this program.

    benchmarks/accelerator.sh [--files DIR] [--out DIR] [--seconds 540] [--parts NAME …]       on the machine
    benchmarks/accelerator.sh --dry                    every part in a tiny size on a CPU, as a GPU would be given it
    benchmarks/accelerator.sh --pack DIR --data-dir DATA [--table CSV]        before, where there is a network

Each part, and each side of it, ours and PyTorch's, is a process of its own, with a limit of its own. What it measures
is one JSON object a line, printed and appended to OUT/results.jsonl at once: a cut at any moment leaves what came
before. The first line names the card, its driver and the versions. What a process says beside goes to OUT/log.txt. A
part that fails or is stopped has a line with "error"; one that cannot be run, with "skipped". The exit code is 1 where
a part has failed. This program needs Python alone.

The first order's step is compiled with the machine to itself. After it the other steps are compiled side by side, in
one go and without any timing beside (lines with "compiled_beside", how many others there were): one after another they
would take more than the ten minutes. The parts then load what is compiled and have the card to themselves.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from benchmarks.sizes import Name

Side = Literal["ours", "torch"]


class Part(NamedTuple):
    """limits: the sides that are measured, and the seconds that the process of each may take. program: the step that is
    timed, and how its sizes differ from the paper's; None where the part is more than one step."""

    name: str
    limits: Mapping[Side, int]
    program: Name | None = None
    changes: Mapping[str, Any] = {}


FIRST_ORDER: Name = "darts_first_order"
PARTS = (
    Part("jax", {"ours": 60}),
    Part("first_order", {"ours": 150, "torch": 75}, FIRST_ORDER),
    Part("first_order_batch_256", {"ours": 120, "torch": 60}, FIRST_ORDER, {"batch": 256}),
    Part("first_order_bfloat16", {"ours": 120, "torch": 60}, FIRST_ORDER, {"dtype": "bfloat16"}),
    Part("nasbench201", {"ours": 60, "torch": 45}, "nasbench201_first_order"),
    Part("evaluation", {"ours": 90, "torch": 45}, "evaluation_step"),
    Part("second_order_exact", {"ours": 150}, "darts_second_order_exact"),
    Part("second_order_difference", {"ours": 120, "torch": 60}, "darts_second_order_fd"),
    Part("first_order_compiled", {"torch": 120}, FIRST_ORDER),
    Part("profile", {"ours": 90}, FIRST_ORDER),
    Part("seeds", {"ours": 75}),
    Part("nasbench201_one_shot", {"ours": 60}, "nasbench201_one_shot"),
    Part("darts_one_shot", {"ours": 75}, "darts_one_shot"),
    Part("enas_child", {"ours": 75}, "enas_child"),
    Part("enas_controller", {"ours": 75}, "enas_controller"),
    Part("search", {"ours": 600}),
)
"""In the order of their worth."""

TINY = {
    "batch": 4, "channels": 2, "cells": 1, "evaluation_batch": 4, "evaluation_channels": 2, "evaluation_cells": 3,
}  # fmt: skip
"""Sizes of a dry run."""

LEAST_S = 15
"""With less time left no part is begun."""


PREPARING_S = 180
"""That compiling side by side may take. What is not done then is compiled by its part."""


class Task(NamedTuple):
    """What a process is to do. seconds: after which it is stopped. files: what was packed. out: where results go.

    compile_only: to leave what is compiled to a later process; compiled: this has been done.
    """

    part: Part
    dry: bool
    compile_only: bool
    compiled: bool
    seconds: float
    files: Path
    out: Path

    @property
    def program(self) -> Name:
        """Raises ValueError where the part is more than one step."""
        if self.part.program is None:
            raise ValueError(f"the part {self.part.name} times no single step")
        return self.part.program

    @property
    def sizes(self) -> dict[str, Any]:
        """What differs from the sizes of the papers."""
        return {**self.part.changes, **(TINY if self.dry else {})}


def work(side: Side, measure: Callable[[Task], Any]) -> None:
    """The whole of a process: prints what `measure` yields, a line each, and at the end that it is done."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", choices=[part.name for part in PARTS if side in part.limits], required=True)
    for flag in ("--dry", "--compile-only", "--compiled"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--files", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = vars(parser.parse_args())
    if hasattr(signal, "alarm"):
        signal.alarm(int(args["seconds"]) + 30)  # ends this process also where nobody is left to do it
    name = args.pop("part")
    for record in measure(Task(next(part for part in PARTS if part.name == name), **args)):
        print(json.dumps(record), flush=True)
    print(json.dumps({"done": True}), flush=True)


def timed(start: Callable[[], object], wait: Callable[[], object], dry: bool) -> dict[str, Any]:
    """Seconds of a step: of the first, of one that is waited for (median), and of one in a row with a wait at its end.

    start: one step, without waiting for what it gives; wait: until all are done.
    """

    def seconds(steps: int) -> float:
        begun = time.perf_counter()
        for _ in range(steps):
            start()
        wait()
        return time.perf_counter() - begun

    first = seconds(1)
    alone = sorted([seconds(1), seconds(1), seconds(1)][1:])
    fewest, most = (1, 1) if dry else (5, 500)
    count = max(fewest, min(most, round(2.0 / alone[0])))
    alone = sorted(seconds(1) for _ in range(count))
    row = seconds(count) / count
    median = alone[count // 2]
    return {"step_s": median, "in_a_row_s": row, "least_s": alone[0], "first_s": first, "steps": count}


class Results:
    """The lines, printed and written as they come, from several threads."""

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.file = (out / "results.jsonl").open("a")
        self.log = (out / "log.txt").open("a")
        self.started, self.lock = time.monotonic(), threading.Lock()
        self.failed = list[str]()

    def add(self, record: dict[str, Any]) -> None:
        line = {"at_s": round(time.monotonic() - self.started, 1)} | {k: _short(v) for k, v in record.items()}
        with self.lock:
            if "error" in line:
                self.failed.append(f"{line.get('part')} {line.get('side')}: {line['error']}")
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
            os.fsync(self.file.fileno())
            print(json.dumps(line), flush=True)

    def close(self) -> None:
        self.file.close()
        self.log.close()

    def note(self, title: str, text: str) -> None:
        with self.lock:
            self.log.write(f"--- {title}\n{text}\n")
            self.log.flush()


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def told_by(command: Sequence[str]) -> str | None:
    """The first line of what a program prints; None where it is not there or fails."""
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    return lines[0] if lines else None


def machine() -> dict[str, Any]:
    """The card, its driver, and the versions of what is installed."""
    fields = ("name", "driver_version", "memory.total")
    card = (told_by(["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]) or "").split(", ")
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("jax", "jaxlib", "jax-cuda13-plugin", "flax", "optax", "chex", "numpy", "torch"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "part": "machine",
        **dict(zip(("card", "driver", "memory"), card if len(card) == len(fields) else [None] * 3, strict=True)),
        "versions": versions,
        "cpus": os.cpu_count(),
        "revision": told_by(["git", "rev-parse", "HEAD"]),
    }


class Runner:
    """Starts the processes of the parts, one after another or side by side, and ends those that take too long."""

    def __init__(self, args: argparse.Namespace, results: Results, cache: str) -> None:
        self.args, self.results = args, results
        self.deadline = time.monotonic() + args.seconds
        self.running, self.compiled = set[subprocess.Popen[str]](), set[str]()
        self.environment = os.environ | {
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            # What one part has compiled another need not: the profile is of the first part's program.
            "JAX_COMPILATION_CACHE_DIR": cache,
            "PYTHONUNBUFFERED": "1",
        }
        if args.dry:
            # Threads of processes side by side would wait for each other.
            dry = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "OMP_NUM_THREADS": "1"}
            self.environment |= dry

    def prepare(self, parts: Sequence[Part]) -> None:
        """Compiles the steps of some parts side by side."""
        at_once = max(2, (os.cpu_count() or 1) // 2)
        until = time.monotonic() + min(PREPARING_S, self.left - LEAST_S)

        def one(part: Part) -> None:
            told = {"part": part.name, "side": "ours", "compiled_beside": min(at_once, len(parts)) - 1}
            left = until - time.monotonic()
            if left > 0 and self._process(part, "ours", left, ["--compile-only"], told) is None:
                self.compiled.add(part.name)

        with ThreadPoolExecutor(at_once) as pool:
            self._all(pool, [pool.submit(one, part) for part in parts])

    def run(self, wanted: Sequence[tuple[Part, Side]], at_once: int) -> None:
        """Measures sides of parts in their order, so many at once."""

        def one(part: Part, side: Side) -> None:
            told = {"part": part.name, "side": side}
            if self.left < LEAST_S:
                self.results.add(told | {"skipped": "no time is left"})
            elif side == "torch" and importlib.util.find_spec("torch") is None:
                self.results.add(told | {"skipped": "no torch"})
            else:
                flags = ["--compiled"] if side == "ours" and part.name in self.compiled else []
                limit = self.left if self.args.dry else min(part.limits[side], self.left)
                error = self._process(part, side, limit, flags, told)
                if error is not None:
                    self.results.add(told | {"error": error})

        with ThreadPoolExecutor(at_once) as pool:
            self._all(pool, [pool.submit(one, part, side) for part, side in wanted])

    @property
    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    def _all(self, pool: ThreadPoolExecutor, futures: Sequence[Future[None]]) -> None:
        """Waits for all; where this process is told to end, ends those that it has started."""
        try:
            for future in futures:
                future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(self.running):
                _kill(process)

    def _process(self, part: Part, side: Side, limit: float, flags: list[str], told: dict[str, Any]) -> str | None:
        """One process for at most so many seconds, its records beside what is told of it; what went wrong, or None."""
        options = ["--part", part.name, "--seconds", str(limit), "--files", self.args.files, "--out", self.args.out]
        command = [sys.executable, "-m", f"benchmarks.accelerator_{side}", *options, *flags, *["--dry"] * self.args.dry]
        with (
            tempfile.TemporaryFile("w+") as errors,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, env=self.environment, process_group=0
            ) as process,
        ):
            self.running.add(process)
            late = threading.Timer(limit, _kill, (process,))
            late.start()
            done = self._read(process.stdout, told)
            in_time = late.is_alive()
            late.cancel()
            if done:
                _kill(process)  # what it has started may still be there
            code = process.wait()
            self.running.discard(process)
            errors.seek(0)
            said = errors.read()
        self.results.note(" ".join([part.name, side, *flags]), said)
        if done:
            return None
        lines = [line for line in said.splitlines() if line.strip()]
        reason = f"exit code {code}: {lines[-1] if lines else ''}" if in_time else f"stopped after {limit:.0f} s"
        return reason[:500]

    def _read(self, lines: IO[str] | None, told: dict[str, Any]) -> bool:
        """Adds the records that a process prints; whether it says that it is done."""
        for line in lines or ():
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                self.results.note(f"{told['part']} {told['side']}", line)
            elif "done" in record:
                return True
            else:
                self.results.add(told | record)
        return False


def _kill(process: subprocess.Popen[str]) -> None:
    """A process and all that it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", default=".accelerator", help="the folder that --pack has made")
    parser.add_argument("--out", default="runs/accelerator", help="where results.jsonl and log.txt are appended to")
    parser.add_argument("--seconds", type=float, default=540, help="that all of it may take")
    names = [part.name for part in PARTS]
    parser.add_argument("--parts", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--dry", action="store_true", help="in tiny sizes on a CPU")
    return parser.parse_args()


def sides(parts: Sequence[Part]) -> list[tuple[Part, Side]]:
    return [(part, side) for part in parts for side in part.limits]


def main() -> int:
    args = parse()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    parts = [part for part in PARTS if part.name in ("jax", *args.parts)]
    at_once = 2 if args.dry else 1  # on a card each has it to itself
    with contextlib.closing(Results(Path(args.out))) as results, tempfile.TemporaryDirectory() as cache:
        results.add(machine())
        runner = Runner(args, results, cache)
        runner.run(sides([part for part in parts if part.name == "jax"]), 1)
        if not results.failed:  # nothing is to be measured where JAX sees no GPU
            alone = [part for part in parts if part.name == "first_order"]
            rest = [part for part in parts if part.name != "jax" and part not in alone]
            runner.run(sides(alone), at_once)
            steps = [part for part in rest if part.program and "ours" in part.limits and part.name != "profile"]
            runner.prepare(steps[:2] if args.dry else steps)  # two are a rehearsal
            runner.run(sides(rest), at_once)
    for failure in results.failed:
        print(f"benchmarks.accelerator: {failure}", file=sys.stderr)
    return 1 if results.failed else 0


if __name__ == "__main__":
    sys.exit(main())
