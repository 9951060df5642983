"""One program on several hosts: what their processes tell each other.

All processes run the same program, each on its own devices, and of the data a process reads what these need. The first
one alone reads and writes the run folder. What it finds there is sent to the others (`from_first`), so that hosts need
no common disk. What depends on a clock or a signal is agreed on (`largest`): a process that took another turn would
wait for ever. Work whose turns depend on files of the first process is led by it (`led_by_first`). Work that can be
shared out is done in blocks (`block`, `joined`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxnas.base import PyTree
from jaxnas.parallel.placement import is_key, local

HEARTBEAT_SECONDS = 30
"""After this long without a sign of life a process counts as dead and JAX ends the others; its own default is 100."""


def join_hosts(coordinator: str, processes: int | None = None, process: int | None = None) -> None:
    """Joins the processes of several hosts, before JAX is used for anything else.

    coordinator: "auto" finds everything in the environment of a TPU VM, Slurm, Open MPI or Kubernetes; else
    "host:port" of the first process, and then the number of processes and which of them this is must be given.

    Raises: ValueError where these do not fit together, or nothing can be found.
    """
    if coordinator == "auto":
        try:
            jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
        except ValueError as error:
            raise ValueError(
                f'coordinator "auto" found no cluster in the environment ({error}); give host:port of process 0, the '
                "number of processes and the number of this one"
            ) from error
        return
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f'coordinator must be "auto" or host:port, got {coordinator!r}')
    if processes is None or process is None or not 0 <= process < processes:
        raise ValueError(
            f"with coordinator {coordinator} give processes, at least 1, and process, from 0 to processes - 1; got "
            f"{processes} and {process}"
        )
    jax.distributed.initialize(
        coordinator,
        num_processes=processes,
        process_id=process,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
    )


def is_first_process() -> bool:
    """Whether this process is the one that reads and writes the run folder."""
    return jax.process_index() == 0


def from_first(value: Any) -> Any:
    """What the first process has, in JSON's terms, given to all; called by all processes at the same point."""
    if jax.process_count() == 1:
        return value
    own = np.frombuffer(json.dumps(value).encode(), np.uint8) if is_first_process() else np.zeros(0, np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(own.size)))
    text = np.zeros(size, np.uint8)
    text[: own.size] = own
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(text))))


def arrays_from_first(tree: PyTree) -> PyTree:
    """The arrays of the first process, given to all as NumPy arrays, and its keys; elsewhere their shapes and types
    alone count."""
    if jax.process_count() == 1:
        return tree

    def plain(leaf: Any) -> np.ndarray:
        return np.asarray(local(jax.random.key_data(leaf) if is_key(leaf) else leaf))

    def as_it_was(sent: Any, leaf: Any) -> Any:
        sent = np.asarray(sent)
        return jax.random.wrap_key_data(sent, impl=jax.random.key_impl(leaf)) if is_key(leaf) else sent

    return jax.tree.map(as_it_was, multihost_utils.broadcast_one_to_all(jax.tree.map(plain, tree)), tree)


def largest(values: Sequence[int]) -> list[int]:
    """The largest value of each number over all processes, so that all of them decide alike."""
    if jax.process_count() == 1:
        return list(values)
    return [int(value) for value in multihost_utils.process_allgather(np.asarray(values, np.int32)).max(axis=0)]


def led_by_first(work: Callable[[Callable[[Any], Any]], Any], answer: Callable[[Any], Any]) -> Any:
    """What `work` gives in the first process, in JSON's terms, given to all; called by all at the same point.

    The first process alone does the work, for example because files that only it has change its course. Each question
    that it asks, in JSON's terms, is sent to all processes, and all of them compute `answer` of it together.
    """
    if jax.process_count() == 1:
        return work(answer)
    if is_first_process():

        def ask(question: Any) -> Any:
            from_first({"question": question})
            return answer(question)

        return from_first({"result": work(ask)})["result"]
    while "question" in (told := from_first(None)):
        answer(told["question"])
    return told["result"]


def block(count: int) -> slice:
    """Which of `count` things in a row are this process's own, where each has as many of them, or one more."""
    here, processes = jax.process_index(), jax.process_count()
    return slice(count * here // processes, count * (here + 1) // processes)


def joined(own: np.ndarray, count: int) -> np.ndarray:
    """[count, ...] of all processes' own blocks [n, ...], given to all; called by all at the same point."""
    processes = jax.process_count()
    if processes == 1:
        return own
    share = np.zeros((-(-count // processes), *own.shape[1:]), own.dtype)
    share[: len(own)] = own
    # As bytes: JAX would make 32 bits of 64.
    sent = np.asarray(multihost_utils.process_allgather(np.frombuffer(share.tobytes(), np.uint8)))
    every = [np.frombuffer(row.tobytes(), own.dtype).reshape(share.shape) for row in sent]
    ends = [count * number // processes for number in range(processes + 1)]
    return np.concatenate([part[: b - a] for part, a, b in zip(every, ends[:-1], ends[1:], strict=True)])


def shared_rows(compute: Callable[[Any], np.ndarray]) -> Callable[[Any], np.ndarray]:
    """A function of rows [P, ...] -> float64 [P] of which each process computes its block, and has all."""

    def together(rows: Any) -> np.ndarray:
        return joined(np.asarray(compute(rows[block(len(rows))]), np.float64), len(rows))

    return together


def lost_process(error: Exception) -> bool:
    """Whether an error of a collective over CPUs means that another process has ended.

    On other devices there is no error: JAX ends the process after `HEARTBEAT_SECONDS`.
    """
    return jax.distributed.is_initialized() and "Gloo" in str(error)
