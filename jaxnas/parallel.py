"""One pure step, spread over devices, seeds and hosts.

A step is (key, state, batch) -> (state, info). Over devices there are three ways to run the same step beside plain
`jit`, as `DataParallel`s:

- `sharded`: XLA's partitioner spreads the batch; the step is written for the whole batch and knows nothing of it.
- `shard_mapped`, `pmapped`: each device runs the step on its part of the batch. The step must then be made with the
  `axis_name`, over which it averages statistics of batch norms and gradients, the inner ones of a second-order step
  too. `pmap` is kept for those whose programs are written for it.

All of them take and give whole arrays: they are transformations of the step, which `train.chunk.make_chunk` compiles.
The state is the same on all devices, the images of a data set are divided among them.

`many_seeds` runs a step for S seeds at once: S keys, S states, one data set.

Over hosts, all processes run the same program, each on its own devices, and of the data a process reads what these
need. The first one alone reads and writes the run folder: what it finds there is sent to the others (`from_first`), so
that hosts need no common disk. What depends on a clock or a signal is agreed on (`largest`), since a process that took
another turn would wait for ever. Work whose turns depend on files of the first process is led by it (`led_by_first`);
work that can be shared out is done in blocks (`block`, `joined`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnas.base import Array, Key, PyTree

Step = Callable[[Key, PyTree, Any], tuple[PyTree, Any]]
"""(key, state, batch) -> (state, info), all leaves of the batch with the images' axis first."""
SeedStep = Callable[[PyTree, Key, Array, PyTree], tuple[PyTree, Any]]
"""(state, key, number of the step, data) -> (state, info)."""
Way = Literal["sharded", "shard_map", "pmap"]

HEARTBEAT_SECONDS = 30
"""After this long without a sign of life a process counts as dead and JAX ends the others; its own default is 100."""
_AXIS = "batch"
_SEEDS = "seeds"


class DataParallel(NamedTuple):
    """axis_name: what the factory of the step is given. step: transforms a step; outside of it arrays are whole.

    place: a pytree as it must be before the first call, the same on all devices. place_data: a data set's arrays,
    divided over the devices along their first axis, which is filled up with its first rows to a multiple of their
    number; of what is no array in memory a process asks for its own rows alone. devices: how many; they must divide the
    batch.
    """

    axis_name: str | None
    step: Callable[[Step], Step]
    place: Callable[[PyTree], PyTree]
    place_data: Callable[[PyTree], PyTree]
    devices: int


def on_one_device() -> DataParallel:
    """Plain `jit` on the default device."""
    return DataParallel(None, lambda step: step, jax.device_put, jax.device_put, 1)


def data_parallel(way: Way = "sharded", devices: Sequence[jax.Device] | None = None) -> DataParallel:
    """The batch over `devices`, by default all devices of all processes.

    With one device, "sharded" is plain `jit`. Raises: ValueError for no device, an unknown way, or `pmap` over several
    processes, which `jax.pmap` does not do for a step that takes whole arrays.
    """
    devices = jax.devices() if devices is None else list(devices)
    ways = {"sharded": _sharded, "shard_map": _shard_mapped, "pmap": _pmapped}
    if way not in ways:
        raise ValueError(f"way must be one of {', '.join(ways)}, got {way!r}")
    if not devices:
        raise ValueError("data_parallel needs at least one device, got none")
    if way == "pmap" and len({device.process_index for device in devices}) > 1:
        raise ValueError('way "pmap" is for the devices of one process; take "sharded" or "shard_map"')
    mesh = Mesh(np.asarray(devices), (_AXIS,), axis_types=(AxisType.Auto,))
    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P(_AXIS))

    def divided(leaf: Any) -> Array:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return leaf  # laid out already

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None  # the array is divided
            return np.asarray(leaf[np.arange(filled)[index[0]] % len(leaf)])

        filled = -(-len(leaf) // len(devices)) * len(devices)
        return jax.make_array_from_callback((filled, *leaf.shape[1:]), split, part)

    def place_data(data: PyTree) -> PyTree:
        return jax.tree.map(divided, data)

    return DataParallel(
        None if way == "sharded" else _AXIS,
        lambda step: _checked(ways[way](step, mesh), len(devices)),
        lambda tree: jax.tree.map(lambda leaf: _put(leaf, whole), tree),
        place_data,
        len(devices),
    )


def _sharded(step: Step, mesh: Mesh) -> Step:
    def run(key: Key, state: PyTree, batch: Any) -> tuple[PyTree, Any]:
        batch = jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, P(_AXIS)))
        # Without the second constraint the state could come back otherwise divided, and the next call be compiled anew.
        return jax.lax.with_sharding_constraint(step(key, state, batch), NamedSharding(mesh, P()))

    return run


def _shard_mapped(step: Step, mesh: Mesh) -> Step:
    # With check_vma=True the gradient of a loss on one device is already the sum over all of them, and the mean that
    # the step takes would leave it as many times too large as there are devices.
    return jax.shard_map(step, mesh=mesh, in_specs=(P(), P(), P(_AXIS)), out_specs=P(), check_vma=False)


def _pmapped(step: Step, mesh: Mesh) -> Step:
    mapped = jax.pmap(
        step, axis_name=_AXIS, in_axes=(None, None, 0), out_axes=None, devices=list(mesh.devices.flat)
    )  # fmt: skip

    def run(key: Key, state: PyTree, batch: Any) -> tuple[PyTree, Any]:
        parts = jax.tree.map(lambda leaf: leaf.reshape(mesh.size, -1, *leaf.shape[1:]), batch)
        return mapped(key, state, parts)

    return run


def _checked(step: Step, devices: int) -> Step:
    def run(key: Key, state: PyTree, batch: Any) -> tuple[PyTree, Any]:
        for leaf in jax.tree.leaves(batch):
            if len(leaf) % devices:
                raise ValueError(f"a batch of {len(leaf)} cannot be divided over {devices} devices; choose a multiple")
        return step(key, state, batch)

    return run


def is_key(leaf: Any) -> bool:
    """Whether a leaf is an array of typed random keys."""
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _put(leaf: Any, sharding: NamedSharding) -> Array:
    """A leaf whose value every process has, laid out over the devices of all of them."""
    if is_key(leaf):
        data = _put(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return leaf  # laid out already
    value = np.asarray(leaf)
    # Each process fills the devices that it has and sends nothing.
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


class Seeds(NamedTuple):
    """number: S. lift: makes a step of one seed that of all: state, key and info get a leading axis S.

    place: a pytree with that leading axis as it must be before the first call. place_data: a data set's arrays.
    """

    number: int
    lift: Callable[[SeedStep], SeedStep]
    place: Callable[[PyTree], PyTree]
    place_data: Callable[[PyTree], PyTree]


def many_seeds(count: int, how: Literal["vmap", "map"] = "vmap", devices: Sequence[jax.Device] | None = None) -> Seeds:
    """`count` seeds at once on each of `devices` in equal shares, by default on the default device.

    how: "vmap" computes the seeds of a device side by side. A step that takes one path by a conditional, whose index
    differs from seed to seed, would then compute every branch: "map" runs the seeds of a device one after another, in
    one program, and gains by several devices alone.

    Raises: ValueError where the devices do not divide the count, or it is less than 1.
    """
    if how not in ("vmap", "map"):
        raise ValueError(f'how must be "vmap" or "map", got {how!r}')
    devices = list(devices or jax.devices()[:1])
    if count < 1 or count % len(devices):
        raise ValueError(f"{count} seeds cannot be divided over {len(devices)} devices; choose a positive multiple")
    mesh = Mesh(np.asarray(devices), (_SEEDS,), axis_types=(AxisType.Auto,))

    def lift(step: SeedStep) -> SeedStep:
        def some(states: PyTree, keys: Key, index: Array, data: PyTree) -> tuple[PyTree, Any]:
            if how == "vmap":
                return jax.vmap(step, (0, 0, None, None))(states, keys, index, data)
            return jax.lax.map(lambda own: step(own[0], own[1], index, data), (states, keys))

        if len(devices) == 1:
            return some
        return jax.shard_map(
            some, mesh=mesh, in_specs=(P(_SEEDS), P(_SEEDS), P(), P()), out_specs=P(_SEEDS), check_vma=False
        )

    def place(spec: P) -> Callable[[PyTree], PyTree]:
        if len(devices) == 1:
            return jax.device_put
        return lambda tree: jax.tree.map(lambda leaf: _put(leaf, NamedSharding(mesh, spec)), tree)

    return Seeds(count, lift, place(P(_SEEDS)), place(P()))


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


def local(leaf: Any) -> Any:
    """A leaf that is the same on several devices, as one of this process has it; any other leaf as it is.

    What is computed from the leaf would otherwise be computed by all of them, which is lost time where they share the
    cores of a CPU.
    """
    if isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1 and leaf.is_fully_replicated:
        return leaf.addressable_data(0)
    return leaf
