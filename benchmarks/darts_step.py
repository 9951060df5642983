"""The steps that users wait for, beside PyTorch's: search steps of both supernets, a training step of a found network.

    python -m benchmarks.darts_step [--batch 64 --channels 16 --cells 8 --device cpu]
    python -m benchmarks.darts_step --devices 1               all cores of a CPU as one device

In one run the two sides take turns, so that what else the machine does meets both. A turn is two steps, of which the
second is timed: a search takes its steps one right after the other, but during the other side's turn the system may
take back the memory that a step has returned, and a virtual machine's host needs seconds to give it again.

Prints one JSON object a line, then a table. `compile_s` is tracing and compiling from nothing, `cached_s` the same with
the persistent cache filled, `ratio` the peer's median time divided by ours. `input_s`, no part of it, is what drawing
and augmenting the images of a step takes, from 50,000 of CIFAR-10's size. The peer is `benchmarks.torch_darts`,
channels-last; it needs PyTorch (`pip install -e '.[torch]'`), and without it the peer's figures are null.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any, Literal

# Waiting threads of PyTorch would spin and keep ours off the cores; it is read when PyTorch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import jax
import numpy as np

from benchmarks.programs import IMAGE, Compiled, Forms, build
from benchmarks.sizes import Name
from jaxnas import command, data
from jaxnas.fit.devices import Devices, join, spread
from jaxnas.parallel import DataParallel

ALL: tuple[Name, ...] = (
    "darts_first_order",
    "darts_second_order_exact",
    "darts_second_order_fd",
    "nasbench201_first_order",
    "evaluation_step",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Forms):
    names: tuple[Name, ...] = ALL
    rounds: int = 3
    """Timed steps of each side, after one that is not counted."""
    device: Literal["cpu", "cuda"] = "cpu"
    devices: int = 0
    """Over how many devices our batch goes; 0 is as the experiments choose."""
    peer: bool = True
    torch_compile: bool = False
    """The peer's mixed operations go through torch.compile."""


def batch_layout(name: Name, config: Config) -> tuple[int, DataParallel]:
    """The size of a batch, and how it is spread."""
    size = config.batch_of(name)
    return size, spread(Devices(count=config.devices), IMAGE, size)


def ours(name: Name, config: Config) -> Compiled:
    """Our step, compiled."""
    return build(name, config, batch_layout(name, config)[1])


def peer(name: Name, config: Config) -> Callable[[], object]:
    """The same step in PyTorch."""
    from benchmarks import torch_darts

    step, wait = torch_darts.peer(name, config, config.device, "edges" if config.torch_compile else None)

    def waited() -> None:
        step()
        wait()

    return waited


def input_seconds(name: Name, config: Config) -> float:
    """The median time in which the images that a step reads are drawn and augmented."""
    both = name != "evaluation_step"
    count = 25_000 if both else 45_000
    size, over = batch_layout(name, config)
    augmentation = data.Augmentation(shift=4, flip=True, cutout=16, mean=(0.5,) * 3, std=(0.25,) * 3)
    images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
    examples = over.place_data(data.Examples(images, np.zeros(count, np.int32)))
    draw = jax.jit(data.make_batches(count, size, augmentation, cutout=not both))
    times = []
    for number in range(11):
        start = time.perf_counter()
        jax.block_until_ready([draw(jax.random.key(part), number, examples) for part in range(1 + both)])
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def measure(name: Name, config: Config) -> dict[str, Any]:
    own = ours(name, config)
    theirs = peer(name, config) if config.peer and importlib.util.find_spec("torch") else None
    sides: list[Callable[[], object]] = [own] if theirs is None else [own, theirs]
    for side in sides:
        side()
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(config.rounds):
        for side, taken in zip(sides, times, strict=True):
            side()
            taken.append(seconds(side))
    ours_s, *peer_s = (statistics.median(taken) for taken in times)
    record = {
        "name": name,
        "ours_s": ours_s,
        "peer_s": peer_s[0] if peer_s else None,
        "ratio": peer_s[0] / ours_s if peer_s else None,
        "input_s": input_seconds(name, config),
        "trace_s": own.trace_s,
        "compile_s": own.compile_s,
        "temp_bytes": own.temp_bytes,
    }
    del own, side, sides, theirs
    jax.clear_caches()  # what is compiled; the folder stays
    record["cached_s"] = ours(name, config).compile_s
    jax.clear_caches()
    return record


def main(config: Config) -> None:
    if config.device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    join(Devices())
    versions = {"jax": jax.__version__}
    if config.peer and importlib.util.find_spec("torch"):
        import torch

        versions["torch"] = torch.__version__
    records = []
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
        for name in config.names:
            record = measure(name, config)
            record |= {"batch": config.batch, "dtype": config.dtype, "torch_compile": config.torch_compile}
            record |= {"device": jax.devices()[0].device_kind, "cpus": os.cpu_count(), "versions": versions}
            record["devices"] = batch_layout(name, config)[1].devices
            print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in record.items()}), flush=True)
            records.append(record)
    print(f"\n{'step':26}{'ours, s':>10}{'peer, s':>10}{'ratio':>8}{'compile, s':>12}{'cached, s':>11}{'temp, GB':>10}")
    for r in records:
        theirs = f"{r['peer_s']:10.2f}{r['ratio']:8.2f}" if r["peer_s"] else f"{'-':>10}{'-':>8}"
        print(
            f"{r['name']:26}{r['ours_s']:10.2f}{theirs}{r['compile_s']:12.1f}{r['cached_s']:11.1f}"
            f"{r['temp_bytes'] / 1e9:10.2f}"
        )


if __name__ == "__main__":
    command.main(main, Config)
