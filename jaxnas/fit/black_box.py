"""Black-box search whose evaluations may leave this process: a sampler, and a Python function that trains something.

A sampler's batches are asked for one after another, and told in the order in which they were asked for. While one is
not complete, the next may be asked for: of a state that was told that batch as "not evaluated", and all complete ones
with their values. So each sampler sees only what its contract has, whole batches and invalid candidates; one that needs
a batch's values before it goes on, as successive halving, wants nothing until they are there.

All that happens is in `evaluations.jsonl`: each batch as it was asked for and each evaluation as it ended. A resumed
run replays that file, asks for nothing again, and evaluates what is missing.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from concurrent.futures import BrokenExecutor, Executor
from typing import Annotated, Any, NamedTuple, NotRequired, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import report
from jaxnas.base import Candidates, Sampler, SearchSpace
from jaxnas.checks import check_arch
from jaxnas.draw import new_figure, save_plot
from jaxnas.fit.evaluations import Evaluate, Evaluation, EvaluationProgress, Lines, Workers, takes_fidelity
from jaxnas.runfolder import RunFolder, open_run, versions
from jaxnas.shapes import Bounds, check_shape
from jaxnas.train.stop import check_stop, heed_signals

IDLE_ASKS = 300
"""After so many asks in a row without anything new, neither asked for nor ended, a search is over."""

_KINDS = {"archs": np.int32, "fidelity": np.int32, "wanted": np.bool_}
"""The arrays of `Candidates`, in its order."""


class BlackBoxFound(NamedTuple):
    """What a search found, and all N evaluations in the order of asking.

    arch: int32 [D], the sampler's best. objectives: float64 [M], its values; NaN where it was not evaluated. front:
    int32 [Q, D], all that the sampler holds for best, each once; for one objective that is the best alone. archs: int32
    [N, D]. fidelities: int32 [N]. values: float64 [N, M], NaN where an evaluation failed. errors: why, None elsewhere.
    """

    arch: np.ndarray
    objectives: np.ndarray
    front: np.ndarray
    archs: np.ndarray
    fidelities: np.ndarray
    values: np.ndarray
    errors: tuple[str | None, ...]


def search_black_box(
    sampler: Sampler,
    evaluate: Evaluate,
    evaluations: int,
    *,
    space: SearchSpace | None = None,
    seed: int = 0,
    executor: Executor | Callable[[], Executor] | None = None,
    in_flight: int = 1,
    folder: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    retries: int = 1,
    canonical: Callable[[Any], Any] | None = None,
    repeats: bool = False,
    objectives: int = 1,
    excess: Callable[[np.ndarray], float] | None = None,
    stop: Callable[[], int | None] | None = None,
    called: str = "evaluation",
) -> BlackBoxFound:
    """Maximizes a Python function over architectures, with `evaluations` evaluations.

    sampler: of `jaxnas.samplers`, or one's own. evaluate: arch int32 [D], a numpy array, -> a number, or `objectives`
    numbers. Where it has a parameter `fidelity` it is given the one that the sampler asks for, by name. An exception,
    and a number that is not finite, is a failed try. After `retries` more the evaluation counts as made and is told as
    invalid. space: of which the architectures are; they are checked, and told by its notation.

    executor: None evaluates here, one after another. A `concurrent.futures.Executor`, or anything whose `submit` gives
    futures, evaluates there. A function that makes an executor is called again when a process pool is broken. What a
    lost worker was doing is a failed try. A broken process pool fails all that it was doing, and each is tried again
    alone. in_flight: while fewer evaluations than this are under way, the next batch is asked for. With 1 the sampler
    waits for each whole batch.

    folder: a run folder (`jaxnas.runfolder`). A run that ended early goes on in it, and a finished one is read back.
    Called from the main thread, SIGTERM and SIGINT then end it between two results; stop: gives the number of a signal
    once one came, where the caller heeds them itself. settings: what else the numbers depend on, such as the sampler's
    name and numbers, as JSON; a folder with others is refused. called: the name of an evaluation in what
    progress tells.

    canonical: arch -> arch, by default that of the space. An architecture that was evaluated before, up to `canonical`
    and at the same fidelity, is told the value it had and costs nothing. repeats: evaluates it again.

    excess: arch -> by how much it is over a budget, 0 within. What is over is never evaluated and never the
    result, and costs nothing. The sampler is told that it is worth the least of 0 and all values so far, minus the
    excess (Deb 2000, https://doi.org/10.1016/S0045-7825(99)00389-8).

    With `in_flight` 1 everything is a function of the seed and of what `evaluate` returns, whatever the executor and
    however often the run was stopped and went on. With more, what a sampler knew when it asked depends on how long
    evaluations took. Then the asks of random search alone are reproducible; a resumed run still keeps all earlier asks.

    The search ends earlier where the sampler has nothing more to evaluate (`IDLE_ASKS`).

    Raises: ValueError for a number out of range, a function that returns something else, an architecture of another
    space, a folder of another run, or where no evaluation gave a value; BrokenExecutor where the executor takes no more
    work; Stopped after a signal; OSError.
    """
    for name, number, least in (
        ("evaluations", evaluations, 1), ("in_flight", in_flight, 1), ("objectives", objectives, 1),
        ("retries", retries, 0), ("seed", seed, 0),
    ):  # fmt: skip
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}")
    if executor is None and in_flight > 1:
        raise ValueError(f"in_flight is {in_flight}, but without an executor one evaluation runs at a time; give one")
    asked = _Asked(sampler, seed, evaluations, objectives, _same(evaluate, space, canonical, repeats), space, excess)
    began = time.monotonic()
    with contextlib.ExitStack() as held:
        run, log = None, None
        if folder is not None:
            identity = {
                "search": "black box", "settings": settings or {}, "evaluations": evaluations, "seed": seed,
                "objectives": objectives, "repeats": repeats,
                "space": space and {"name": space.name, "choices": [[c.name, c.options] for c in space.choices]},
            }  # fmt: skip
            run = held.enter_context(open_run(folder, identity, {"in_flight": in_flight, "retries": retries}))
            log = held.enter_context(contextlib.closing(Lines(run.path / "evaluations.jsonl")))
            asked.replay(log.lines)
            stop = held.enter_context(heed_signals()) if stop is None else stop
        workers = held.enter_context(Workers(evaluate, executor, retries, objectives))
        try:
            _drive(asked, workers, log, stop or _never, in_flight, called)
        except BrokenExecutor as error:
            kept = "give a folder to keep them" if run is None else f"run again to go on from those in {run.path}"
            raise BrokenExecutor(f"{error}; {len(asked.done)} of {evaluations} evaluations are done, {kept}") from error
        found = asked.found()
        if run is not None and run.result is None:
            _write(run, found, space, seed, time.monotonic() - began)
    return found


def _never() -> int | None:
    return None


def _same(
    evaluate: Evaluate, space: SearchSpace | None, canonical: Callable[[Any], Any] | None, repeats: bool
) -> Callable[[np.ndarray, int], Hashable] | None:
    """What two evaluations have in common whose values are the same; None where each is to be made."""
    if repeats:
        return None
    if canonical is None and space is not None:
        canonical = jax.jit(space.canonical)
    apart = takes_fidelity(evaluate)

    def same(arch: np.ndarray, fidelity: int) -> Hashable:
        form = arch if canonical is None else np.asarray(canonical(arch))
        return tuple(form.tolist()), fidelity if apart else None

    return same


def _drive(
    asked: _Asked, workers: Workers, log: Lines | None, stop: Callable[[], int | None], in_flight: int, called: str
) -> None:
    """Asks, evaluates, writes and tells until the search is over."""
    progress = EvaluationProgress(asked.limit, len(asked.done), sys.stderr, called)
    waiting = [evaluation for evaluation in asked.history if not evaluation.done]

    def taken(evaluation: Evaluation) -> bool:
        """Whether one that has ended is done; it is kept then."""
        if not workers.collect(evaluation):
            return False
        if log is not None:
            log.append(_line(evaluation))
        asked.end(evaluation)
        progress.report(len(asked.done), asked.failed, asked.best_value())
        return True

    try:
        while True:
            for evaluation in waiting:
                workers.start(evaluation)
            while len(workers) < in_flight and (candidates := asked.ask()) is not None:
                if log is not None:
                    log.append(
                        {"ask": asked.asks, **{name: value.tolist() for name, value in candidates._asdict().items()}}
                    )
                for evaluation in asked.add(candidates):
                    workers.start(evaluation)
            if not len(workers):
                return
            # What failed is tried again after all others that have ended: it may find the executor broken.
            waiting = [evaluation for evaluation in workers.ended() if not taken(evaluation)]
            if stop() is not None:
                for evaluation in workers.last():
                    taken(evaluation)
            check_stop(stop, len(asked.done), asked.limit, "evaluation")
    finally:
        progress.close()


class _AskLine(TypedDict):
    ask: int
    archs: list[list[int]]
    fidelity: list[int]
    wanted: list[bool]


class _EvaluationLine(TypedDict):
    evaluation: Annotated[int, Bounds(0, math.inf)]
    arch: list[int]
    values: NotRequired[list[float]]
    error: NotRequired[str | None]
    tries: int


def _line(evaluation: Evaluation) -> dict[str, Any]:
    """The line of the file for an evaluation that is done; "time" is all that depends on the clock."""
    came = {"error": evaluation.error} if evaluation.values is None else {"values": evaluation.values}
    return {
        "evaluation": evaluation.number, "arch": evaluation.arch.tolist(), "fidelity": evaluation.fidelity, **came,
        "tries": evaluation.tries, "time": round(time.time(), 3),
    }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Batch:
    """What was asked for at once, the `number`-th time. evaluations: of each of P candidates, None for one that is not
    to be evaluated.
    """

    number: int
    candidates: Candidates
    evaluations: tuple[Evaluation | None, ...]

    @property
    def complete(self) -> bool:
        return all(evaluation is None or evaluation.done for evaluation in self.evaluations)


class _Asked:
    """All that was asked for, what is known of it, and the sampler's state. Nothing here waits or writes."""

    def __init__(
        self,
        sampler: Sampler,
        seed: int,
        limit: int,
        objectives: int,
        same: Callable[[np.ndarray, int], Hashable] | None,
        space: SearchSpace | None,
        excess: Callable[[np.ndarray], float] | None = None,
    ) -> None:
        # Keys as `simulate` has them, so that on a table both are one search.
        init_key, self._ask_key, self._tell_key = jax.random.split(jax.random.key(seed), 3)
        self._sampler = sampler
        self._ask, self._tell = jax.jit(sampler.ask), jax.jit(sampler.tell)
        self._state = jax.jit(sampler.init)(init_key)
        self._objectives = objectives
        self._same = same
        self._space = space
        self._excess = excess
        self._known: dict[Hashable, Evaluation] = {}
        self._open: collections.deque[_Batch] = collections.deque()
        self._idle = 0
        self.limit = limit
        self.asks = 0
        self.history: list[Evaluation] = []
        self.done: list[Evaluation] = []
        """In the order in which they ended."""

    @property
    def failed(self) -> int:
        return sum(evaluation.values is None for evaluation in self.done)

    def ask(self) -> Candidates | None:
        """The next batch, as numpy arrays; None where there is none, or none before more evaluations have ended."""
        self._settle()
        if len(self.history) >= self.limit or self._idle >= IDLE_ASKS:
            return None
        state = self._state
        for batch in self._open:
            state = self._told(state, batch)
        candidates = jax.device_get(self._ask(jax.random.fold_in(self._ask_key, self.asks), state))
        return None if self._open and not candidates.wanted.any() else candidates

    def add(self, candidates: Candidates) -> list[Evaluation]:
        """Takes a batch as asked for; gives the new evaluations that it needs."""
        new: list[Evaluation] = []
        self.asks += 1
        evaluations = tuple(
            self._evaluation(np.array(arch, np.int32), int(fidelity), new) if wanted else None
            for arch, fidelity, wanted in zip(*candidates, strict=True)
        )
        self._open.append(_Batch(self.asks - 1, candidates, evaluations))
        self._idle = 0 if new else self._idle + 1
        return new

    def _evaluation(self, arch: np.ndarray, fidelity: int, new: list[Evaluation]) -> Evaluation | None:
        """That of a candidate: a known one, or one that is added to `new`; None beyond the limit."""
        if self._space is not None:
            check_arch(self._space.choices, arch, f"the space {self._space.name!r}")
        over = 0.0 if self._excess is None else self._excess(arch)
        if over > 0.0:
            came = [e.values for e in self.done if e.values is not None]
            least = [min([0.0, *column]) for column in zip(*came, strict=True)] or [0.0] * self._objectives
            return Evaluation(-1, arch, fidelity, tuple(value - over for value in least))
        number = len(self.history)
        same = number if self._same is None else self._same(arch, fidelity)
        if same in self._known or number >= self.limit:
            return self._known.get(same)
        evaluation = self._known[same] = Evaluation(number, arch, fidelity)
        self.history.append(evaluation)
        new.append(evaluation)
        return evaluation

    def end(self, evaluation: Evaluation) -> None:
        """Takes note of one that is done; the sampler may want something else now."""
        self.done.append(evaluation)
        self._idle = 0

    def _settle(self) -> None:
        """Tells the sampler of the batches that are complete, up to the first that is not."""
        while self._open and self._open[0].complete:
            self._state = self._told(self._state, self._open.popleft())

    def _told(self, state: Any, batch: _Batch) -> Any:
        """The state after a batch, which counts as not evaluated where it is not complete."""
        nothing = (0.0,) * self._objectives
        came = [e.values if e is not None and batch.complete else None for e in batch.evaluations]
        objectives = np.array([nothing if values is None else values for values in came], np.float32)
        valid = np.array([values is not None for values in came])
        # A batch that was told as not complete is told again, to the state before it: with the same key.
        key = jax.random.fold_in(self._tell_key, batch.number)
        return self._tell(key, state, batch.candidates, objectives, valid)

    def replay(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Takes what an earlier process has written. Raises ValueError where it is not what this one would write."""
        for number, line in enumerate(lines, 1):
            try:
                check_shape(line, _AskLine if "ask" in line else _EvaluationLine, "it")
                if "ask" in line:
                    arrays: Any = [np.array(line[name], kind) for name, kind in _KINDS.items()]
                    self.add(Candidates(*arrays))
                    continue
                evaluation = self.history[line["evaluation"]]
                if evaluation.arch.tolist() != line["arch"]:
                    raise ValueError(f"architecture {line['arch']} is not the one that was asked for")
                if len(line.get("values", [0.0] * self._objectives)) != self._objectives:
                    raise ValueError(f"values must be {self._objectives} numbers")
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise ValueError(
                    f"line {number} of evaluations.jsonl does not fit this search ({error}); take another folder"
                ) from error
            evaluation.values = tuple(line["values"]) if "values" in line else None
            evaluation.error, evaluation.tries = line.get("error"), line["tries"]
            self.end(evaluation)

    def best_value(self) -> float | None:
        """The greatest value of a single objective at the highest fidelity so far."""
        values = [(_height(e.fidelity), e.values) for e in self.done if e.values is not None]
        return max(values)[1][0] if values and self._objectives == 1 else None

    def found(self) -> BlackBoxFound:
        """The result. Raises ValueError where no evaluation gave a value."""
        self._settle()
        if len(self.done) == self.failed:
            last = self.done[-1].error if self.done else "the sampler asked for none"
            raise ValueError(f"none of {len(self.done)} evaluations gave a value; the last one: {last}")
        front = list(dict.fromkeys(map(tuple, np.asarray(self._sampler.best(self._state)).tolist())))
        if self._excess is not None:  # a sampler may hold what is over for the best where all values are low
            best = max((e for e in self.done if e.values is not None), key=lambda e: (_height(e.fidelity), e.values))
            front = [arch for arch in front if not self._excess(np.array(arch, np.int32)) > 0.0] or [
                tuple(best.arch.tolist())
            ]
        of_best = [
            (_height(e.fidelity), e.values)
            for e in self.history
            if e.values is not None and self._alike(e.arch, np.array(front[0], np.int32))
        ]
        nothing = (np.nan,) * self._objectives
        return BlackBoxFound(
            arch=np.array(front[0], np.int32),
            objectives=np.array(max(of_best)[1] if of_best else nothing),
            front=np.array(front, np.int32),
            archs=np.stack([e.arch for e in self.history]),
            fidelities=np.array([e.fidelity for e in self.history], np.int32),
            values=np.array([nothing if e.values is None else e.values for e in self.history]),
            errors=tuple(e.error for e in self.history),
        )

    def _alike(self, arch: np.ndarray, other: np.ndarray) -> bool:
        return (arch == other).all() if self._same is None else self._same(arch, -1) == self._same(other, -1)


def _height(fidelity: int) -> float:
    """By which fidelities are compared: -1 is the highest."""
    return float("inf") if fidelity < 0 else fidelity


def _write(run: RunFolder, found: BlackBoxFound, space: SearchSpace | None, seed: int, seconds: float) -> None:
    """result.json, the picture and the page of a search that is over."""
    heights = np.array([_height(fidelity) for fidelity in found.fidelities])
    there = ~np.isnan(found.values).any(axis=1)
    shown = np.flatnonzero(there & (heights == heights[there].max()))
    names = ["value"] if found.values.shape[1] == 1 else [f"objective {m + 1}" for m in range(found.values.shape[1])]
    best_arch = jnp.asarray(found.arch)
    result = {
        **({} if space is None else {"notation": space.notation(best_arch), "genotype": space.to_genotype(best_arch)}),
        "arch": found.arch.tolist(),
        "objectives": [None if np.isnan(value) else value for value in found.objectives.tolist()],
        "front": found.front.tolist(),
        "evaluations": len(found.archs),
        "failed": int((~there).sum()),
        "seed": seed,
        "versions": versions(),
        "timing": {"search_since_last_start_s": round(seconds, 3)},
    }
    figure = new_figure(8.0, 2.9 * len(names) + 0.2, layout="constrained")
    for axes, name, column in zip(figure.subplots(len(names), squeeze=False)[:, 0], names, found.values.T, strict=True):
        axes.plot(shown + 1, column[shown], "o", color="#56B4E9", ms=3, label="one evaluation")
        axes.step(shown + 1, np.maximum.accumulate(column[shown]), where="post", color="#0072B2", label="best so far")
        axes.set_xlabel("evaluations", size=8)
        axes.set_ylabel(name, size=8)
        axes.legend(fontsize=8, frameon=False)
    save_plot(figure, run.path / "report" / "evaluations.png")
    best = shown[np.argsort(-found.values[shown, 0], kind="stable")][:10]
    rows = [
        [
            str(n + 1),
            *(f"{value:.6g}" for value in found.values[n]),
            space.notation(jnp.asarray(found.archs[n])) if space is not None else " ".join(map(str, found.archs[n])),
        ]
        for n in best
    ]
    caption = "In the order of asking, at the highest fidelity that any was evaluated at."
    report.write(
        run.path,
        result,
        [("Values", "evaluations.png", caption)],
        [(f"The ten best by {names[0]}", ["Evaluation", *names, "Architecture"], rows)],
    )
    run.finish(result)
