"""Which devices and processes a run uses: the flags that all searches share."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Annotated

import jax

from jaxnas.console import tell
from jaxnas.kernels.compiling import without_locations
from jaxnas.parallel import DataParallel, Way, data_parallel, join_hosts, on_one_device
from jaxnas.ranges import Count, Natural, Positive, UsedWith


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices and processes over which batches are spread. They change results by rounding only.

    >>> two = Devices(count=2, way="pmap")  # `jaxnas.run(…, devices=two)`
    >>> two.count, two.way
    (2, 'pmap')
    """

    count: Natural = 0
    """How many devices share a batch. 0 takes the most that divide it; on CPUs only as many as get enough work."""
    way: Way | None = None
    """How a batch is divided. "sharded": XLA's partitioner divides it. "shard_map" and "pmap": each device runs the
    step on its part. By default shard_map on CPUs, where the partitioner is slow, and sharded elsewhere."""
    memory_gb: Positive | None = None
    """How many gigabytes of each device a step may use, in addition to data and parameters. A step that needs more is
    refused before it runs, and the error names settings that would fit. By default all that the device has left."""
    coordinator: str | None = None
    """For several processes: "auto" on a TPU VM or under Slurm, elsewhere host:port of the first process."""
    processes: Annotated[Count | None, UsedWith("coordinator")] = None
    """How many processes there are, where the coordinator is not "auto"."""
    process: Annotated[Natural | None, UsedWith("coordinator")] = None
    """The number of this process, from 0."""


PIXELS = 2**14
"""Of the images of a batch that a CPU device must get to be worth having: 16 images of CIFAR-10."""


def join(devices: Devices) -> None:
    """Joins the other processes, if there are any, or makes each core a device. Comes before all else that uses JAX.

    XLA leaves a good part of a step to one thread; devices each have their own (`benchmarks.darts_step`).
    """
    without_locations()
    if devices.coordinator is not None:
        join_hosts(devices.coordinator, devices.processes, devices.process)
        return
    asked_for = "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not asked_for and getattr(jax.config, "jax_num_cpu_devices", 0) < 1:
        with contextlib.suppress(RuntimeError):  # JAX has been used before, by a program that runs this one
            jax.config.update("jax_num_cpu_devices", _cores())


def _cores() -> int:
    """That this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def trainings_at_once(over: DataParallel) -> int:
    """How many trainings this process runs at once: on CPUs one for each core, or for as many cores as a training has
    devices; elsewhere 1. over: how the batches of a training are spread.
    """
    return max(1, _cores() // over.devices) if jax.default_backend() == "cpu" else 1


def chosen(devices: Devices, sizes: Sequence[int], most: int | None = None) -> list[jax.Device]:
    """The devices that are asked for, else as many as divide all sizes, up to `most`, or all of several processes.

    Raises: ValueError where there are not so many, or a process would have none of them.
    """
    there = jax.devices()
    if not 0 <= devices.count <= len(there):
        raise ValueError(
            f"devices.count must be 0 for all, or up to the {len(there)} that are there; got {devices.count}"
        )
    if devices.count == 0 and jax.process_count() == 1:
        most = min(most or len(there), len(there))
        return there[: max(n for n in range(1, most + 1) if all(size % n == 0 for size in sizes))]
    taken = there[: devices.count or None]
    if len({device.process_index for device in taken}) < jax.process_count():
        raise ValueError(f"devices.count {devices.count} leaves some of the {jax.process_count()} processes no device")
    return taken


@functools.cache  # asked again for the training, it has told already
def spread(devices: Devices, image_shape: tuple[int, int, int], *batch_sizes: int) -> DataParallel:
    """How the batches of these sizes, of images [H, W, C], are spread.

    On CPUs, unless a number is asked for, over no more devices than have `PIXELS` pixels each: with less the steps of a
    device are so short that the devices wait for each other. Raises ValueError where the wanted number does not fit.
    """
    pixels = min(batch_sizes) * image_shape[0] * image_shape[1]
    most = max(1, pixels // PIXELS) if jax.default_backend() == "cpu" else None
    taken = chosen(devices, batch_sizes, most)
    for size in batch_sizes:
        if size % len(taken):
            raise ValueError(
                f"a batch of {size} cannot be divided over {len(taken)} devices; choose a multiple of {len(taken)}"
            )
    if not devices.count and len(taken) < min(most or jax.device_count(), jax.device_count()):
        sizes = ", ".join(map(str, batch_sizes))
        tell(f"batches of {sizes} go over {len(taken)} of {jax.device_count()} devices")
    if len(taken) == 1 and devices.way in (None, "sharded"):
        return on_one_device()
    return data_parallel(devices.way or ("shard_map" if taken[0].platform == "cpu" else "sharded"), taken)
