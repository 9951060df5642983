"""Weak scaling of a first-order DARTS step: each device has as many images, whatever their number.

    python -m benchmarks.weak_scaling [--devices 1 2 4] [--ways sharded shard_map pmap]

One JSON object a line: `step_s`, the median time of a step, the programs taking turns; `efficiency`, the time of plain
`jit` on one device divided by it: 1 where devices work beside each other without loss, and at best cores / devices
where the devices of a CPU have to share too few cores. On a CPU there are as many devices as the most that are asked
for, elsewhere those that are there.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas import command
from jaxnas.base import Batch, Skeleton
from jaxnas.kernels.compiling import top_level_jit
from jaxnas.parallel import DataParallel, Way, data_parallel, on_one_device
from jaxnas.search import adam_l2, darts, first_order
from jaxnas.supernets import darts_supernet
from jaxnas.train.schedules import sgd


@dataclasses.dataclass(frozen=True)
class Config:
    devices: tuple[int, ...] = (1, 2, 4)
    ways: tuple[Way, ...] = ("sharded", "shard_map", "pmap")
    channels: int = 8
    cells: int = 3
    batch: int = 30
    """Images of each half of the data for each device."""
    side: int = 8
    """Of the images, in pixels."""
    epochs: int = 5


def main(config: Config) -> None:
    """Prints a line for one device and for each number of several by each way."""
    if config.epochs < 1 or config.batch < 1:
        raise ValueError(f"epochs and batch must be at least 1, got {config.epochs} and {config.batch}")
    most = max(config.devices, default=0)
    jax.config.update("jax_num_cpu_devices", max(1, most))
    there = jax.devices()
    if min(config.devices, default=0) < 1 or most > len(there):
        raise ValueError(f"devices must be numbers from 1 to the {len(there)} there are, got {list(config.devices)}")
    cases: dict[tuple[int, str], DataParallel] = {(1, "jit"): on_one_device()}
    for count in config.devices:
        if count > 1:
            cases |= {(count, way): data_parallel(way, there[:count]) for way in config.ways}
    programs = {case: _program(config, case[0], over) for case, over in cases.items()}
    seconds: dict[tuple[int, str], list[float]] = {case: [] for case in cases}
    for _ in range(config.epochs + 1):
        for case, (step, key, state, batch) in programs.items():
            started = time.perf_counter()
            jax.block_until_ready(step(key, state, batch))
            seconds[case].append(time.perf_counter() - started)
    median = {case: statistics.median(times[1:]) for case, times in seconds.items()}
    for (count, way), step_s in median.items():
        line = {
            "name": "darts_first_order",
            "devices": count,
            "way": way,
            "batch": count * config.batch,
            "step_s": round(step_s, 4),
            "efficiency": round(median[1, "jit"] / step_s, 3),
            "cores": os.cpu_count(),
            "device": there[0].device_kind,
            "jax": jax.__version__,
        }
        print(json.dumps(line), flush=True)


def _program(config: Config, count: int, over: DataParallel) -> tuple[Any, ...]:
    """(compiled step, key, state, batch)."""
    shape = (config.side, config.side, 1)
    net = darts_supernet(Skeleton(config.channels, config.cells, shape, 10))
    axis = over.axis_name
    algorithm = darts(net, sgd(0.05), adam_l2(3e-3), first_order(axis), axis_name=axis)
    key = jax.random.key(0)
    images = jax.random.normal(key, (count * config.batch, *shape))
    half = Batch(images, jnp.arange(len(images)) % 10)
    given = (key, over.place(jax.jit(algorithm.init)(key)), over.place_data({"train": half, "valid": half}))
    return top_level_jit(over.step(algorithm.phases[0].step)).lower(*given).compile(), *given


if __name__ == "__main__":
    command.main(main, Config)
