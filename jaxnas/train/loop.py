"""The loop: steps in chunks, progress, metrics, checkpoints, stops.

A `PhaseSteps` is one phase and how many of its steps an epoch has; an epoch runs the phases in turn. DARTS has one
phase, ENAS has two. The key of a run and the number of a step determine that step, so that neither the length of a
chunk nor a stop between two chunks changes a result.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TextIO, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Array, Key, PyTree
from jaxnas.checkpoint import Checkpoints, Restored, abstract
from jaxnas.parallel import arrays_from_first, from_first, is_first_process, is_key, largest, local
from jaxnas.runfolder import Stage
from jaxnas.shapes import check_shape
from jaxnas.train.chunk import Chunk, Infos, check_same_types
from jaxnas.train.finite import NonFiniteError, check_no_nan, first_non_finite, named
from jaxnas.train.progress import Progress
from jaxnas.train.stop import Stopped, saving

AfterEpoch = Callable[[int, PyTree], tuple[PyTree, Mapping[str, Any]]]
"""(epochs done, state) -> (state, numbers or arrays for the metrics): evaluation, a schedule that reads it, what
a picture shows. The next chunk uses the state up: what is to be kept of it is copied. A stop may have it called again
for the same epoch, with the same state."""


Fits = Callable[[Sequence["PhaseSteps"], PyTree, Sequence[Key], PyTree], None]
"""(phases, state, a key for each phase, data) -> nothing; raises where a step does not fit into memory."""


class PhaseSteps(NamedTuple):
    """`steps` steps of one kind in every epoch. `examples` is how many one step reads, for the rate that is shown."""

    name: str
    chunk: Chunk
    steps: int
    examples: int = 0


class Best(NamedTuple):
    """The best value of the metric that selects, and the number of steps done when it was reached."""

    value: float
    step: int


class Outcome(NamedTuple):
    """The last state; the seconds that all parts of an interrupted stage took; the best, if a metric was named."""

    state: PyTree
    seconds: float
    best: Best | None


def run(
    phases: Sequence[PhaseSteps],
    key: Key,
    state: PyTree,
    data: PyTree,
    epochs: int,
    *,
    stage: Stage | None = None,
    after_epoch: AfterEpoch | None = None,
    best: str | None = None,
    stop: Callable[[], int | None] = lambda: None,
    ended: Callable[[PyTree], bool] = lambda state: False,
    place: Callable[[PyTree], PyTree] = lambda tree: tree,
    fits: Fits = lambda phases, state, keys, data: None,
    chunk_seconds: float = 5.0,
    save_seconds: float = 60.0,
    log_every: int = 50,
    output: TextIO | None = None,
) -> Outcome:
    """Runs all phases `epochs` times, from the latest checkpoint of `stage` if there is one.

    state: the initial state; it is copied, not used up. data: what the batches are made of, moved to the device once.
    place: lays a state out over devices, before the first step and after a checkpoint was read; the state is saved as
    the first process has it, and goes on with other devices as well; `after_epoch` is given what is the same on all
    devices as one of them has it. fits: asked before the first step, unless there is none to do. A key of many seeds,
    [S], is folded for each.
    stage: where checkpoints and metrics go; None keeps neither. Of the steps, every `log_every`-th and the last one are
    written to the metrics, with their exact values. best: the value of `after_epoch` whose highest one has its state
    kept (`load`). stop: gives the number of a signal once one came (`stop_on_signal`); a chunk lasts about
    `chunk_seconds`, and then the state is saved and Stopped raised. ended: tells from the state, after each epoch and
    when one is resumed, whether to do no more epochs. A checkpoint is written every `save_seconds` and at the end.
    output: where progress goes, standard error by default.

    Raises NonFiniteError, naming the step and the quantity, for a NaN or infinity in an Info or in a value of
    `after_epoch`, and for a NaN in a state that was about to be saved; the checkpoints from before remain.
    """
    _check(phases, epochs, log_every, best, after_epoch)
    epoch_steps = sum(phase.steps for phase in phases)
    total = epochs * epoch_steps
    data = jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else jax.device_put(leaf), data)
    keys = [_fold_in(key, number) for number in range(len(phases))]
    paces = [_Pace(chunk_seconds, phase.chunk.max_steps) for phase in phases]
    with contextlib.ExitStack() as resources:
        checkpoints = None if stage is None else _checkpoints(stage, resources)
        state, done, before, top = _start(stage, checkpoints, place(jax.tree.map(_own, state)), place, total)
        progress = Progress(
            stage.name if stage else phases[0].name,
            [(phase.name, phase.steps * epochs, phase.examples) for phase in phases],
            [_index(phases, number, done) for number in range(len(phases))],
            sys.stderr if output is None else output,
        )
        resources.callback(progress.close)
        started = time.perf_counter()
        over = done == total or (done > 0 and done % epoch_steps == 0 and ended(state))
        if not over:
            fits(phases, state, keys, data)
        saved = time.perf_counter()
        compiling = saved - started
        while not over:
            number = _phase_at(phases, done % epoch_steps)
            phase, first, epoch = phases[number], _index(phases, number, done), done // epoch_steps + 1
            # Every process takes the longest of their chunks, and not one of a length of its own.
            (length,) = largest([paces[number].length(phase.steps * epoch - first)])
            chunk_started = time.perf_counter()
            state, infos = phase.chunk.run(state, keys[number], first, first + length, data)
            elapsed = time.perf_counter() - chunk_started
            paces[number].record(length, elapsed)
            steps = range(done + 1, done + length + 1)
            _log_steps(stage, phase.name, epoch, infos, steps, lambda step: step % log_every == 0 or step == total)
            done += length
            progress.report(number, length, elapsed + compiling, f"{epoch}/{epochs}", infos)
            compiling = 0.0
            if done == epoch * epoch_steps and after_epoch is not None:
                state, values = _after_epoch(after_epoch, epoch, state, place, best, done)
                if stage is not None:
                    stage.log("epoch", done, {"epoch": epoch, **values})
                if best is not None and (top is None or values[best] > top.value):
                    top = Best(values[best], done)
                    if checkpoints is not None:
                        _save(
                            stage, checkpoints.save_best, _At(state, done, before + time.perf_counter() - started, top)
                        )
            over = done == total or (done == epoch * epoch_steps and ended(state))
            signalled = largest([stop() or 0])[0] or None
            due = time.perf_counter() - saved >= save_seconds or signalled is not None or over
            if checkpoints is not None and due:
                _save(stage, checkpoints.save, _At(state, done, before + time.perf_counter() - started, top))
                saved = time.perf_counter()
            if signalled is not None:
                raise Stopped(signalled, done, total, saved=stage is not None)
        return Outcome(state, before + time.perf_counter() - started, top)


def load(stage: Stage, target: PyTree, which: Literal["latest", "best"]) -> PyTree:
    """The latest or the best state of a stage. target: a state, or `jax.eval_shape` of what makes one.

    Raises OSError where the stage has no such checkpoint that is whole.
    """
    with contextlib.ExitStack() as resources:
        checkpoints = _checkpoints(stage, resources)
        restored = _restore(checkpoints, target, which)
    if restored is None:
        raise OSError(
            f"{stage.path / 'checkpoints' / which} has no whole checkpoint; remove {stage.path} to run it again"
        )
    return restored.state


class _Meta(TypedDict):
    """What is saved with a state. best: value and step."""

    seconds: float
    best: list[float] | None


class _At(NamedTuple):
    """How far a stage is: state, steps done, the seconds that they took, and the best so far."""

    state: PyTree
    done: int
    seconds: float
    best: Best | None


def _check(
    phases: Sequence[PhaseSteps], epochs: int, log_every: int, best: str | None, after_epoch: AfterEpoch | None
) -> None:
    if not phases or min(phase.steps for phase in phases) < 1:
        raise ValueError(f"every phase needs at least 1 step, got {[(phase.name, phase.steps) for phase in phases]}")
    for name, value in (("epochs", epochs), ("log_every", log_every)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if best is not None and after_epoch is None:
        raise ValueError(f"best={best!r} needs an after_epoch that measures it")


def _checkpoints(stage: Stage, resources: contextlib.ExitStack) -> Checkpoints | None:
    """The checkpoints of a stage in the first process, which alone reads and writes them; None in the others."""
    return resources.enter_context(Checkpoints(stage.path / "checkpoints")) if is_first_process() else None


def _start(
    stage: Stage | None, checkpoints: Checkpoints | None, state: PyTree, place: Callable[[PyTree], PyTree], total: int
) -> _At:
    """Where the stage begins: its latest checkpoint, else the initial state. Its metrics are cut back to that."""
    if stage is None:
        return _At(state, 0, 0.0, None)
    restored = _restore(checkpoints, state, "latest")
    if restored is None:
        stage.truncate_metrics(-1)
        return _At(state, 0, 0.0, None)
    if restored.step > total:
        raise ValueError(f"{stage.path} is at step {restored.step}, beyond the {total} steps asked for")
    stage.truncate_metrics(restored.step)
    check_shape(restored.meta, _Meta, f"the checkpoint of step {restored.step} in {stage.path}")
    best = restored.meta["best"]
    return _At(place(restored.state), restored.step, restored.meta["seconds"], Best(*best) if best else None)


def _restore(checkpoints: Checkpoints | None, like: PyTree, which: Literal["latest", "best"]) -> Restored | None:
    """What the first process reads, given to all; it alone has the checkpoints."""
    target = abstract(like)
    found = None
    if checkpoints is not None:
        found = (checkpoints.restore_best if which == "best" else checkpoints.restore)(target)
    told = from_first(None if found is None else {"step": found.step, "meta": found.meta})
    if told is None:
        return None
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), target) if found is None else found.state
    return Restored(arrays_from_first(zeros), told["meta"], told["step"])


def _save(stage: Stage | None, write: Callable[[int, PyTree, Mapping[str, Any]], None], at: _At) -> None:
    check_no_nan(at.state, at.done)
    own = jax.tree.map(local, at.state)
    with saving():
        if stage is not None:
            stage.sync()  # lines that a checkpoint comes after are on the disk before it
        write(at.done, own, {"seconds": at.seconds, "best": at.best})


class _Pace:
    """How many steps last about `seconds`. The first chunk compiles and the second measures: both are one step."""

    def __init__(self, seconds: float, max_steps: int) -> None:
        self._seconds = seconds
        self._max_steps = max_steps
        self._next = [1, 1]

    def length(self, left: int) -> int:
        return max(1, min(self._next[0], left, self._max_steps))

    def record(self, steps: int, seconds: float) -> None:
        if len(self._next) > 1:
            self._next = self._next[1:]
        else:
            # Growing by four at most, one measurement that was too short does not make a chunk that is far too long.
            self._next = [min(int(self._seconds / max(seconds / steps, 1e-6)), 4 * steps)]


def _fold_in(key: Key, number: int) -> Key:
    return jax.vmap(jax.random.fold_in, (0, None))(key, number) if key.ndim else jax.random.fold_in(key, number)


def _phase_at(phases: Sequence[PhaseSteps], position: int) -> int:
    """The phase to which a step of an epoch belongs."""
    ends = np.cumsum([phase.steps for phase in phases])
    return int(np.searchsorted(ends, position, side="right"))


def _index(phases: Sequence[PhaseSteps], number: int, done: int) -> int:
    """How many of the first `done` steps of all phases were steps of phase `number`."""
    epochs, position = divmod(done, sum(phase.steps for phase in phases))
    before = sum(phase.steps for phase in phases[:number])
    return epochs * phases[number].steps + min(max(position - before, 0), phases[number].steps)


def _log_steps(
    stage: Stage | None, name: str, epoch: int, infos: Infos, steps: range, wanted: Callable[[int], bool]
) -> None:
    """Writes those steps of a phase that are wanted, by their numbers, up to one that is not finite; raises there."""
    bad = first_non_finite(infos)
    for index, step in enumerate(steps if bad is None else steps[: bad[0]]):
        if stage is not None and wanted(step):
            stage.log(name, step, {"epoch": epoch, **_row(infos, index)})
    if bad is not None:
        index, quantity, value = bad
        raise NonFiniteError(quantity, value, steps[index], f"{name}, epoch {epoch}")


def _after_epoch(
    after_epoch: AfterEpoch,
    epoch: int,
    state: PyTree,
    place: Callable[[PyTree], PyTree],
    best: str | None,
    done: int,
) -> tuple[PyTree, dict[str, Any]]:
    """The state after the epoch, laid out, and the values that were measured, checked and as lists."""
    own = jax.tree.map(local, state)
    after, values = after_epoch(epoch, own)
    check_same_types(own, after)
    arrays = {name: np.asarray(value, np.float64) for name, value in values.items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise NonFiniteError(name, float(array[~np.isfinite(array)][0]), done, f"after epoch {epoch}")
    if best is not None and (best not in arrays or arrays[best].ndim):
        numbers = sorted(name for name, array in arrays.items() if not array.ndim)
        raise ValueError(f"best={best!r} is not among the numbers that after_epoch gives, which are {numbers}")
    if after is not own:
        state = place(arrays_from_first(after))
    return state, {name: array.tolist() for name, array in arrays.items()}


def _own(leaf: Any) -> Array:
    """A copy of a leaf that a chunk may use up, of a type that is not weak: a weak one would be traced for itself."""
    if is_key(leaf):
        return jax.random.clone(leaf)
    return jnp.array(leaf, dtype=jnp.result_type(leaf), copy=True)


def _row(infos: Infos, index: int) -> dict[str, Any]:
    return {name: leaf[index].tolist() for name, leaf in named(infos)}
