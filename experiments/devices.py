"""Which devices and processes a run uses: the flags that all searches share."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

import jax

from jaxnas.parallel import DataParallel, Way, data_parallel, join_hosts, on_one_device


@dataclasses.dataclass(frozen=True)
class Devices:
    """Over which devices and processes the batches are spread; results differ by rounding alone."""

    count: int = 0
    """How many devices share a batch; 0 is as many of them as divide it."""
    way: Way = "sharded"
    """By XLA's partitioner, or the step on each device's part by shard_map or pmap."""
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


def spread(devices: Devices, batch_sizes: Sequence[int]) -> DataParallel:
    """How the batches of these sizes are spread. Raises ValueError where the wanted number of devices does not fit."""
    there = jax.devices()
    if not 0 <= devices.count <= len(there):
        raise ValueError(
            f"devices.count must be 0 for all, or up to the {len(there)} that are there; got {devices.count}"
        )
    if devices.count == 0 and jax.process_count() == 1:
        count = max(n for n in range(1, len(there) + 1) if all(size % n == 0 for size in batch_sizes))
        if count < len(there):
            print(
                f"batches of {', '.join(map(str, batch_sizes))} go over {count} of {len(there)} devices",
                file=sys.stderr,
            )
    else:
        count = devices.count or len(there)
        for size in batch_sizes:
            if size % count:
                raise ValueError(
                    f"a batch of {size} cannot be divided over {count} devices; choose a multiple of {count}"
                )
    if count == 1 and devices.way == "sharded":
        return on_one_device()
    return data_parallel(devices.way, there[:count])
