"""Evaluations by a Python function, here or where an executor runs it; the file that keeps them, and their progress.

Nothing of JAX goes to an executor: it is given the function, a numpy array and, where asked for, an integer.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import functools
import inspect
import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np

from jaxnas.console import bar, put, renews_lines
from jaxnas.files import open_to_append, read_json_lines, write_atomic
from jaxnas.train.progress import duration

Evaluate = Callable[..., float | Sequence[float]]
"""arch int32 [D] -> what is to be maximized; one that has a parameter `fidelity` is given that too, by name."""

_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_BETWEEN_LINES = 5.0
_FAILURES = (Exception, SystemExit, concurrent.futures.CancelledError, asyncio.CancelledError)
_LONGEST_REASON = 2000
_GREATEST = float(np.finfo(np.float32).max)
"""Samplers are told float32."""


@dataclasses.dataclass(eq=False)
class Evaluation:
    """One evaluation. number: its place in the order of asking. arch: int32 [D]. fidelity: as in `Candidates`.

    values: what came out, None where nothing did. error: why not. tries: how often it was begun and has ended.
    """

    number: int
    arch: np.ndarray
    fidelity: int
    values: tuple[float, ...] | None = None
    error: str | None = None
    tries: int = 0

    @property
    def done(self) -> bool:
        """Whether it has values, or failed for good."""
        return self.values is not None or self.error is not None


def takes_fidelity(evaluate: Evaluate) -> bool:
    """Whether the function has a parameter `fidelity`."""
    try:
        return "fidelity" in inspect.signature(evaluate).parameters
    except (TypeError, ValueError):  # some functions that are written in C
        return False


class Workers:
    """Runs evaluations. Use it as a context manager: what is still running at its end is canceled.

    executor: None runs each here, when it is collected. Anything with `submit`, whose futures have `done`, `result` and
    `cancel`, runs them elsewhere. A function without arguments makes such an executor, and another one in the place of
    one that is broken; those are shut down at the end.

    A process pool that breaks does not tell which evaluation broke it: all that ran in it are suspects, and each is
    tried again while no other runs.
    """

    def __init__(
        self, evaluate: Evaluate, executor: Executor | Callable[[], Executor] | None, retries: int, objectives: int
    ) -> None:
        self._evaluate = evaluate
        self._takes_fidelity = takes_fidelity(evaluate)
        self._make = executor if callable(executor) and not hasattr(executor, "submit") else None
        self._executor: Any = self._make() if self._make else _Here() if executor is None else executor
        self._retries = retries
        self._objectives = objectives
        self._here = executor is None
        self._running: dict[Evaluation, Any] = {}
        self._waiting: list[Evaluation] = []
        self._suspects: set[Evaluation] = set()
        self._wake = threading.Event()

    def __len__(self) -> int:
        """How many evaluations were started and not collected."""
        return len(self._running) + len(self._waiting)

    def start(self, evaluation: Evaluation) -> None:
        """Begins an evaluation as soon as it may. Raises BrokenExecutor where the executor takes no more work."""
        self._waiting.append(evaluation)
        self._begin()

    def _begin(self) -> None:
        """Submits what waits. Suspects come first, and each of them is alone."""
        self._waiting.sort(key=lambda evaluation: evaluation not in self._suspects)
        while self._waiting and not (self._suspects and self._running):
            self._submit(self._waiting.pop(0))

    def _submit(self, evaluation: Evaluation) -> None:
        fidelity = {"fidelity": evaluation.fidelity} if self._takes_fidelity else {}
        for another in (self._make, None):
            try:
                future = self._executor.submit(self._evaluate, evaluation.arch.copy(), **fidelity)
                break
            except Exception as error:
                if another is None:
                    raise BrokenExecutor(f"the executor takes no more work ({_reason(error)})") from error
                self._shut_down()
                self._executor = another()
        if hasattr(future, "add_done_callback"):  # others are looked at now and then
            future.add_done_callback(lambda _: self._wake.set())
        self._running[evaluation] = future

    def ended(self) -> list[Evaluation]:
        """Those that have ended, in the order in which they were begun; waits for one, but no longer than a second.

        Raises BrokenExecutor like `start`.
        """
        self._begin()
        self._wake.clear()
        if not (found := self._ended()):
            self._wake.wait(_SECONDS_BETWEEN_LOOKS)
            found = self._ended()
        return found

    def _ended(self) -> list[Evaluation]:
        if self._here:
            return list(self._running)[:1]  # it is evaluated when it is collected
        return [evaluation for evaluation, future in self._running.items() if future.done()]

    def last(self) -> list[Evaluation]:
        """Those that threads of this process are computing, once they have ended: such threads are waited for anyway.

        What has not begun is canceled. After it, nothing is to be started.
        """
        if not isinstance(self._executor, concurrent.futures.ThreadPoolExecutor):
            return []
        running = {evaluation: future for evaluation, future in self._running.items() if not future.cancel()}
        concurrent.futures.wait(running.values())
        return list(running)

    def collect(self, evaluation: Evaluation) -> bool:
        """Takes what came out of one that has ended; false where it failed and is to be started again.

        Raises: ValueError where the function returned something else than a number for each objective.
        """
        future = self._running.pop(evaluation)
        self._suspects.discard(evaluation)
        try:
            returned = future.result()
        except KeyboardInterrupt:  # a worker gets the signal too: that says nothing of the architecture
            if self._here:
                raise
            return False
        except _FAILURES as error:
            reason, broken = _reason(error), isinstance(error, BrokenExecutor)
        else:
            values = _numbers(returned, self._objectives)
            if all(abs(value) <= _GREATEST for value in values):  # false for NaN
                evaluation.values = values
            reason, broken = f"it returned {', '.join(map(str, values))}", False
        evaluation.tries += 1
        if evaluation.values is None and evaluation.tries > self._retries:
            evaluation.error = reason
        if broken and not evaluation.done:
            self._suspects.add(evaluation)
        return evaluation.done

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for future in self._running.values():
            with contextlib.suppress(Exception):  # the executor may be gone
                future.cancel()
        if self._make is not None:
            self._shut_down()

    def _shut_down(self) -> None:
        with contextlib.suppress(Exception):
            self._executor.shutdown(wait=False, cancel_futures=True)


class _Here:
    """The executor of this process: the call is made when its result is asked for."""

    def submit(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> _Later:
        return _Later(functools.partial(function, *arguments, **named))


@dataclasses.dataclass(frozen=True)
class _Later:
    result: Callable[[], Any]

    def done(self) -> bool:
        return True

    def cancel(self) -> None:
        """There is nothing to cancel: it has not begun."""


def _reason(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}"
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}…"


def _numbers(returned: Any, objectives: int) -> tuple[float, ...]:
    try:
        values = tuple(float(value) for value in ([returned] if np.ndim(returned) == 0 else returned))
    except (TypeError, ValueError):
        values = ()
    if len(values) != objectives:
        wanted = "one number" if objectives == 1 else f"{objectives} numbers, one for each objective"
        raise ValueError(f"the function that evaluates must return {wanted}; it returned {returned!r}")
    return values


class Lines:
    """A file of JSON objects, one a line, that is only appended to. lines: those that were there when it was opened.

    A last line that was cut short is dropped. Raises ValueError where a line is damaged, OSError where it cannot write.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = open_to_append(path)
        try:
            self._file.seek(0)
            whole = self._file.read()
            text = whole[: whole.rfind("\n") + 1]
            if text != whole:
                self._file.close()
                write_atomic(path, text)
                self._file = open_to_append(path)
            self.lines: list[dict[str, Any]] = read_json_lines(path, dict)
        except BaseException:
            self._file.close()
            raise

    def append(self, line: dict[str, Any]) -> None:
        """Writes a line at once."""
        try:
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise OSError(f"cannot write {self._path}: {error.strerror}") from error

    def close(self) -> None:
        """Closes the file."""
        with contextlib.suppress(OSError):  # `append` flushes, and has said so where that failed.
            self._file.close()


class EvaluationProgress:
    """Tells how many evaluations are done: on a terminal one line with a bar, elsewhere a line every few seconds.

    total: of all. done: those of earlier processes. output: whatever becomes of it, nothing is raised. called: what one
    is called.
    """

    def __init__(self, total: int, done: int, output: TextIO | None, called: str = "evaluation") -> None:
        self._called = called
        self._total = total
        self._first = done
        self._output = output
        self._renews = renews_lines(output)
        self._began = time.monotonic()
        self._last = -math.inf

    def report(self, done: int, failed: int, best: float | None) -> None:
        """done: so far, `failed` of them without a value. best: the greatest value, None where there is none."""
        now = time.monotonic()
        if not self._renews and done < self._total and now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        parts = [f"{self._called} {done}/{self._total}"]
        if self._renews:
            parts.append(bar(done / self._total))
        if failed:
            parts.append(f"{failed} failed")
        if best is not None:
            parts.append(f"best {best:.6g}")
        parts.append(f"{duration((now - self._began) / (done - self._first) * (self._total - done))} left")
        line = "  ".join(parts)
        put(f"\r\x1b[K{line}" if self._renews else f"{line}\n", self._output, wait=False)

    def close(self) -> None:
        """Ends the line on a terminal."""
        if self._renews and self._last > -math.inf:
            put("\n", self._output, wait=False)
