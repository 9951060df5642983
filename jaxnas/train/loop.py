"""The loop: steps in chunks, progress, metrics, checkpoints, stops.

A `Leg` is one kind of step and how many of them make its part of a round; a round runs the legs in turn and is what
metrics call an epoch. DARTS has one leg, ENAS has two. The key of a run and the number of a step determine that step,
so that neither the length of a chunk nor a stop between two chunks changes a result.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TextIO

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Array, Key, PyTree
from jaxnas.checkpoint import Checkpoints, Restored, abstract
from jaxnas.parallel import arrays_from_first, from_first, is_first_process, is_key, largest, local
from jaxnas.runfolder import Stage
from jaxnas.train.chunk import Chunk, Infos, check_same_types
from jaxnas.train.progress import Progress
from jaxnas.train.stop import Stopped, saving

AfterRound = Callable[[int, PyTree], tuple[PyTree, Mapping[str, Any]]]
"""(rounds done, state) -> (state, numbers or arrays for the metrics): evaluation, a schedule that reads it, what
a picture shows. The next chunk uses the state up: what is to be kept of it is copied. A stop may have it called again
for the same round, with the same state."""


class NonFiniteError(RuntimeError):
    """A step gave NaN or infinity. `step` counts the steps of the stage, from 1; `quantity` is a field of its Info."""

    def __init__(self, quantity: str, value: float, step: int, where: str) -> None:
        super().__init__(f"{quantity} is {value} at step {step} ({where}); checkpoints from before this step are kept")
        self.step = step
        self.quantity = quantity


class Leg(NamedTuple):
    """`steps` steps of one kind in every round. `images` is what one step reads, for the rate that is shown."""

    name: str
    chunk: Chunk
    steps: int
    images: int = 0


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
    legs: Sequence[Leg],
    key: Key,
    state: PyTree,
    data: PyTree,
    rounds: int,
    *,
    stage: Stage | None = None,
    after_round: AfterRound | None = None,
    best: str | None = None,
    stop: Callable[[], int | None] = lambda: None,
    ended: Callable[[PyTree], bool] = lambda state: False,
    place: Callable[[PyTree], PyTree] = lambda tree: tree,
    chunk_seconds: float = 5.0,
    save_seconds: float = 60.0,
    log_every: int = 50,
    output: TextIO | None = None,
) -> Outcome:
    """Runs all legs `rounds` times, from the latest checkpoint of `stage` if there is one.

    state: the initial state; it is copied, not used up. data: what the batches are made of, moved to the device once.
    place: lays a state out over devices, before the first step and after a checkpoint was read; the state is saved as
    the first process has it, and goes on with other devices as well; `after_round` is given what is the same on all
    devices as one of them has it. A key of many seeds, [S], is folded for each.
    stage: where checkpoints and metrics go; None keeps neither. Of the steps, every `log_every`-th and the last one are
    written to the metrics, with their exact values. best: the value of `after_round` whose highest one has its state
    kept (`load`). stop: gives the number of a signal once one came (`stop_on_signal`); a chunk lasts about
    `chunk_seconds`, and then the state is saved and Stopped raised. ended: tells from the state, after each round and
    when one is resumed, whether to do no more rounds. A checkpoint is written every `save_seconds` and at the end.
    output: where progress goes, standard error by default.

    Raises NonFiniteError, naming the step and the quantity, for a NaN or infinity in an Info or in a value of
    `after_round`, and for a NaN in a state that was about to be saved; the checkpoints from before remain.
    """
    if not legs or min(leg.steps for leg in legs) < 1:
        raise ValueError(f"every leg needs at least 1 step, got {[(leg.name, leg.steps) for leg in legs]}")
    for name, value in (("rounds", rounds), ("log_every", log_every)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if best is not None and after_round is None:
        raise ValueError(f"best={best!r} needs an after_round that measures it")

    round_steps = sum(leg.steps for leg in legs)
    total = rounds * round_steps
    state = place(jax.tree.map(_own, state))
    data = jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else jax.device_put(leaf), data)
    keys = [_fold_in(key, number) for number in range(len(legs))]
    done, before, top = 0, 0.0, None
    with contextlib.ExitStack() as resources:
        checkpoints = None
        if stage is not None:
            if is_first_process():
                checkpoints = resources.enter_context(Checkpoints(stage.path / "checkpoints"))
            restored = _restore(None if checkpoints is None else checkpoints.restore, state)
            if restored is not None:
                state, done, before = place(restored.state), restored.step, restored.meta["seconds"]
                top = Best(*restored.meta["best"]) if restored.meta["best"] else None
                if done > total:
                    raise ValueError(f"{stage.path} is at step {done}, beyond the {total} steps asked for")
            # A stage without a checkpoint starts anew, and so do its metrics.
            stage.truncate_metrics(-1 if restored is None else done)
        progress = Progress(
            stage.name if stage else legs[0].name,
            [(leg.name, leg.steps * rounds, leg.images) for leg in legs],
            [_index(legs, number, done) for number in range(len(legs))],
            sys.stderr if output is None else output,
        )
        resources.callback(progress.close)
        paces = [_Pace(chunk_seconds, leg.chunk.max_steps) for leg in legs]
        started = saved = time.perf_counter()
        over = done == total or (done > 0 and done % round_steps == 0 and ended(state))

        def save(write: Callable[[int, PyTree, Mapping[str, Any]], None]) -> None:
            _check_no_nan(state, done)
            own = jax.tree.map(local, state)
            with saving():
                write(done, own, {"seconds": before + time.perf_counter() - started, "best": top})

        while not over:
            number = _leg_at(legs, done % round_steps)
            leg, first, epoch = legs[number], _index(legs, number, done), done // round_steps + 1
            # Every process takes the longest of their chunks, and not one of a length of its own.
            (length,) = largest([paces[number].length(leg.steps * epoch - first)])
            chunk_started = time.perf_counter()
            state, infos = leg.chunk.run(state, keys[number], first, first + length, data)
            elapsed = time.perf_counter() - chunk_started
            paces[number].record(length, elapsed)
            bad = _first_non_finite(infos)
            for index in range(length if bad is None else bad[0]):
                n = done + index + 1
                if stage is not None and (n % log_every == 0 or n == total):
                    stage.log(leg.name, n, {"epoch": epoch, **_row(infos, index)})
            if bad is not None:
                raise NonFiniteError(*bad[1:], done + bad[0] + 1, f"{leg.name}, epoch {epoch}")
            done += length
            progress.report(number, length, elapsed, f"{epoch}/{rounds}", infos)
            if done == epoch * round_steps and after_round is not None:
                own = jax.tree.map(local, state)
                after, values = _after_round(after_round, epoch, own, best, done)
                if after is not own:
                    state = place(arrays_from_first(after))
                if stage is not None:
                    stage.log("round", done, {"epoch": epoch, **values})
                if best is not None and (top is None or values[best] > top.value):
                    top = Best(values[best], done)
                    if checkpoints is not None:
                        save(checkpoints.save_best)
            over = done == total or (done == epoch * round_steps and ended(state))
            signalled = largest([stop() or 0])[0] or None
            due = time.perf_counter() - saved >= save_seconds or signalled is not None or over
            if checkpoints is not None and due:
                save(checkpoints.save)
                saved = time.perf_counter()
            if signalled is not None:
                raise Stopped(signalled, done, total, saved=stage is not None)
        return Outcome(state, before + time.perf_counter() - started, top)


def load(stage: Stage, target: PyTree, which: Literal["latest", "best"]) -> PyTree:
    """The latest or the best state of a stage. target: a state, or `jax.eval_shape` of what makes one.

    Raises OSError where the stage has no such checkpoint that is whole.
    """
    with contextlib.ExitStack() as resources:
        read = None
        if is_first_process():
            checkpoints = resources.enter_context(Checkpoints(stage.path / "checkpoints"))
            read = checkpoints.restore_best if which == "best" else checkpoints.restore
        restored = _restore(read, target)
    if restored is None:
        raise OSError(
            f"{stage.path / 'checkpoints' / which} has no whole checkpoint; remove {stage.path} to run it again"
        )
    return restored.state


def _restore(read: Callable[[PyTree], Restored | None] | None, like: PyTree) -> Restored | None:
    """What the first process reads, given to all; `read` is None in the others."""
    target = abstract(like)
    found = None if read is None else read(target)
    told = from_first(None if found is None else {"step": found.step, "meta": found.meta})
    if told is None:
        return None
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), target) if found is None else found.state
    return Restored(arrays_from_first(zeros), told["meta"], told["step"])


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


def _leg_at(legs: Sequence[Leg], position: int) -> int:
    """The leg to which a step of a round belongs."""
    ends = np.cumsum([leg.steps for leg in legs])
    return int(np.searchsorted(ends, position, side="right"))


def _index(legs: Sequence[Leg], number: int, done: int) -> int:
    """How many of the first `done` steps of all legs were steps of leg `number`."""
    rounds, position = divmod(done, sum(leg.steps for leg in legs))
    before = sum(leg.steps for leg in legs[:number])
    return rounds * legs[number].steps + min(max(position - before, 0), legs[number].steps)


def _after_round(
    after_round: AfterRound, epoch: int, state: PyTree, best: str | None, done: int
) -> tuple[PyTree, dict[str, Any]]:
    after, values = after_round(epoch, state)
    check_same_types(state, after)
    arrays = {name: np.asarray(value, np.float64) for name, value in values.items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise NonFiniteError(name, float(array[~np.isfinite(array)][0]), done, f"after epoch {epoch}")
    if best is not None and (best not in arrays or arrays[best].ndim):
        numbers = sorted(name for name, array in arrays.items() if not array.ndim)
        raise ValueError(f"best={best!r} is not among the numbers that after_round gives, which are {numbers}")
    return after, {name: array.tolist() for name, array in arrays.items()}


def _own(leaf: Any) -> Array:
    """A copy of a leaf that a chunk may use up, of a type that is not weak: a weak one would be traced for itself."""
    if is_key(leaf):
        return jax.random.clone(leaf)
    return jnp.array(leaf, dtype=jnp.result_type(leaf), copy=True)


def _named(infos: Infos) -> list[tuple[str, np.ndarray]]:
    leaves = jax.tree_util.tree_flatten_with_path(infos)[0]
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves]


def _row(infos: Infos, index: int) -> dict[str, Any]:
    return {name: leaf[index].tolist() for name, leaf in _named(infos)}


def _first_non_finite(infos: Infos) -> tuple[int, str, float] | None:
    """(index, quantity, value) of the first step of a chunk with a value that is not finite."""
    found = None
    for name, leaf in _named(infos):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue
        values = leaf.reshape(len(leaf), -1).astype(np.float64)
        wrong = np.argwhere(~np.isfinite(values))
        if len(wrong) and (found is None or wrong[0, 0] < found[0]):
            found = (int(wrong[0, 0]), name, float(values[tuple(wrong[0])]))
    return found


def _check_no_nan(state: PyTree, done: int) -> None:
    """A loss may be finite at the step that makes a parameter NaN. Infinity is left: some states begin with it."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and np.isnan(np.asarray(local(leaf))).any():
            raise NonFiniteError(f"state{jax.tree_util.keystr(path)}", float("nan"), done, "the state")
