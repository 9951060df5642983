"""Which devices and processes a run uses: the flags that all searches share."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Sequence

import jax

from jaxnas.parallel import DataParallel, Way, data_parallel, join_hosts, on_one_device


@dataclasses.dataclass(frozen=True)
class Devices:
    """Over which devices and processes the batches are spread; results differ by rounding alone."""

    count: int = 0
    """How many devices share a batch; 0 is as many of them as divide it."""
    way: Way | None = None
    """By XLA's partitioner ("sharded"), or the step on each device's part by shard_map or pmap; by default shard_map on
    CPUs, for whose loop over edges the partitioner gathers activations, and sharded elsewhere."""
    coordinator: str | None = None
    """For several processes: "auto" on a TPU VM or under Slurm, else host:port of the first one."""
    processes: int | None = None
    """How many there are, where the coordinator is not "auto"."""
    process: int | None = None
    """Which of them this one is, from 0."""


def join(devices: Devices) -> None:
    """Joins the other processes, if there are any. Comes before all else that uses JAX."""
    if devices.coordinator is not None:
        join_hosts(devices.coordinator, devices.processes, devices.process)


def chosen(devices: Devices, sizes: Sequence[int]) -> list[jax.Device]:
    """The devices that are asked for, else as many as divide all sizes, or all of several processes.

    Raises: ValueError where there are not so many, or a process would have none of them.
    """
    there = jax.devices()
    if not 0 <= devices.count <= len(there):
        raise ValueError(
            f"devices.count must be 0 for all, or up to the {len(there)} that are there; got {devices.count}"
        )
    if devices.count == 0 and jax.process_count() == 1:
        return there[: max(n for n in range(1, len(there) + 1) if all(size % n == 0 for size in sizes))]
    taken = there[: devices.count or None]
    if len({device.process_index for device in taken}) < jax.process_count():
        raise ValueError(f"devices.count {devices.count} leaves some of the {jax.process_count()} processes no device")
    return taken


@functools.cache  # asked again for the training, it has told already
def spread(devices: Devices, *batch_sizes: int) -> DataParallel:
    """How the batches of these sizes are spread. Raises ValueError where the wanted number of devices does not fit."""
    taken = chosen(devices, batch_sizes)
    for size in batch_sizes:
        if size % len(taken):
            raise ValueError(
                f"a batch of {size} cannot be divided over {len(taken)} devices; choose a multiple of {len(taken)}"
            )
    if not devices.count and len(taken) < jax.device_count():
        sizes = ", ".join(map(str, batch_sizes))
        print(f"batches of {sizes} go over {len(taken)} of {jax.device_count()} devices", file=sys.stderr)
    if len(taken) == 1 and devices.way in (None, "sharded"):
        return on_one_device()
    return data_parallel(devices.way or ("shard_map" if taken[0].platform == "cpu" else "sharded"), taken)
