"""One step, spread over devices.

A step is (key, state, batch) -> (state, info). There are three ways to run it over devices beside plain `jit`, each a
`DataParallel`:

- "sharded": XLA's partitioner spreads the batch. The step is written for the whole batch and knows nothing of it.
- "shard_map", "pmap": each device runs the step on its part of the batch. The step must then be made with the
  `axis_name`, over which it averages statistics of batch norms and gradients, the inner ones of a second-order step
  too. `pmap` is kept for those whose programs are written for it.

All of them take and give whole arrays: they are transformations of the step, which `train.chunk.make_chunk` compiles.
The state is the same on all devices. The images of a data set are divided among them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnas.base import Key, PyTree
from jaxnas.parallel.placement import divide, put

Step = Callable[[Key, PyTree, Any], tuple[PyTree, Any]]
"""(key, state, batch) -> (state, info), all leaves of the batch with the images' axis first."""
Way = Literal["sharded", "shard_map", "pmap"]

_AXIS = "batch"


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

    return DataParallel(
        None if way == "sharded" else _AXIS,
        lambda step: _checked(ways[way](step, mesh), len(devices)),
        lambda tree: jax.tree.map(lambda leaf: put(leaf, whole), tree),
        lambda data: jax.tree.map(lambda leaf: divide(leaf, split), data),
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
