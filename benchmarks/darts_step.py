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

import argparse
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
import jax.numpy as jnp
import numpy as np

from experiments import cli
from experiments.devices import Devices, join, spread
from jaxnas import data
from jaxnas.base import Batch, Skeleton
from jaxnas.compiling import top_level_jit
from jaxnas.networks import darts_network
from jaxnas.parallel import DataParallel
from jaxnas.search import adam_l2, darts, exact, finite_difference, first_order
from jaxnas.spaces import darts_space, nasbench201_space
from jaxnas.supernets import darts_supernet, nasbench201_supernet
from jaxnas.train.classifier import classifier
from jaxnas.train.schedules import cosine, sgd

Name = Literal[
    "darts_first_order",
    "darts_second_order_exact",
    "darts_second_order_fd",
    "nasbench201_first_order",
    "evaluation_step",
]
ALL: tuple[Name, ...] = (
    "darts_first_order",
    "darts_second_order_exact",
    "darts_second_order_fd",
    "nasbench201_first_order",
    "evaluation_step",
)


@dataclasses.dataclass(frozen=True)
class Config:
    names: tuple[Name, ...] = ALL
    batch: int = 64
    channels: int = 16
    """Of the supernets; the evaluation network has those of --evaluation-channels."""
    cells: int = 8
    """Of the DARTS supernet; the NAS-Bench-201 one has five a stage, halved with --cells below 8."""
    evaluation_channels: int = 36
    evaluation_cells: int = 20
    evaluation_batch: int = 96
    rounds: int = 3
    """Timed steps of each side, after one that is not counted."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    devices: int = 0
    """Over how many devices our batch goes; 0 is as the experiments choose."""
    peer: bool = True
    torch_compile: bool = False
    """The peer's mixed operations go through torch.compile."""


class Ours:
    """A compiled step that keeps its state: each call is one step."""

    def __init__(self, over: DataParallel, step: Callable[..., Any], state: Any, data: Any) -> None:
        self.state, self.data, self.count = over.place(state), over.place_data(data), 0
        jitted = top_level_jit(over.step(step), donate_argnums=1)
        start = time.perf_counter()
        lowered = jitted.lower(jax.random.key(0), self.state, self.data)
        self.trace_s = time.perf_counter() - start
        self.compiled = lowered.compile()
        self.compile_s = time.perf_counter() - start
        memory = self.compiled.memory_analysis()
        self.temp_bytes = int(memory.temp_size_in_bytes) if memory else 0

    def __call__(self) -> None:
        self.state, info = self.compiled(jax.random.key(self.count), self.state, self.data)
        self.count += 1
        jax.block_until_ready((self.state, info))


def batch_of(size: int, seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    image = jnp.asarray(rng.normal(size=(size, 32, 32, 3)), jnp.float32)
    return Batch(image, jnp.asarray(rng.integers(0, 10, size), jnp.int32))


def batch_layout(name: Name, config: Config) -> tuple[int, DataParallel]:
    """The size of a batch, and how it is spread."""
    size = config.evaluation_batch if name == "evaluation_step" else config.batch
    return size, spread(Devices(count=config.devices), (32, 32, 3), size)


def build(name: Name, config: Config) -> Ours:
    """Compiles one of our steps, with the settings of its paper."""
    dtype = jnp.dtype(config.dtype)
    size, over = batch_layout(name, config)
    axis = over.axis_name
    if name == "evaluation_step":
        skeleton = Skeleton(config.evaluation_channels, config.evaluation_cells, (32, 32, 3), 10, auxiliary=True)
        space = darts_space()
        network = darts_network(space.from_genotype("DARTS_V2"), skeleton, space)
        rule = classifier(
            network,
            sgd(cosine(0.025, 0.0, 1000), momentum=0.9, weight_decay=3e-4, clip=5.0),
            total_steps=1000,
            axis_name=axis,
        )
        state = jax.jit(rule.init)(jax.random.key(0))
        return Ours(over, rule.step, state, batch_of(size, 0))
    optimiser = sgd(cosine(0.025, 0.001, 1000), momentum=0.9, weight_decay=3e-4, clip=5.0)
    if name == "nasbench201_first_order":
        cells = 5 if config.cells >= 8 else max(1, config.cells // 2)
        space = nasbench201_space()
        supernet = nasbench201_supernet(Skeleton(config.channels, cells, (32, 32, 3), 10), dtype=dtype)
    else:
        space = darts_space()
        supernet = darts_supernet(Skeleton(config.channels, config.cells, (32, 32, 3), 10), dtype=dtype)
    method = {
        "darts_second_order_exact": lambda: exact(optimiser, axis_name=axis),
        "darts_second_order_fd": lambda: finite_difference(optimiser, axis_name=axis),
    }.get(name, lambda: first_order(axis))()
    algorithm = darts(supernet, optimiser, adam_l2(), method, axis_name=axis)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    batches = {part: batch_of(size, seed) for seed, part in enumerate(("train", "valid"))}
    return Ours(over, algorithm.phases[0].step, state, batches)


def peer(name: Name, config: Config) -> Callable[[], object]:
    """The same step in PyTorch."""
    import torch

    from benchmarks import torch_darts

    orders: dict[Name, tuple[str, Literal["first", "second"] | None]] = {
        "nasbench201_first_order": ("nasbench201", "first"),
        "evaluation_step": ("evaluation", None),
        "darts_first_order": ("darts", "first"),
    }
    network, order = orders.get(name, ("darts", "second"))
    evaluation = name == "evaluation_step"
    nasbench_cells = 5 if config.cells >= 8 else max(1, config.cells // 2)
    settings = argparse.Namespace(
        channels=config.evaluation_channels if evaluation else config.channels,
        cells=config.evaluation_cells if evaluation else nasbench_cells if network == "nasbench201" else config.cells,
        batch=config.evaluation_batch if evaluation else config.batch,
        device=config.device,
        compile="edges" if config.torch_compile else None,
        bfloat16=config.dtype == "bfloat16",
    )
    step = torch_darts.build(network, order, True, settings)

    def synchronised() -> None:
        step()
        if config.device == "cuda":
            torch.cuda.synchronize()

    return synchronised


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
    ours = build(name, config)
    theirs = peer(name, config) if config.peer and importlib.util.find_spec("torch") else None
    sides: list[Callable[[], object]] = [ours] if theirs is None else [ours, theirs]
    for side in sides:
        side()
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(config.rounds):
        for side, own in zip(sides, times, strict=True):
            side()
            own.append(seconds(side))
    ours_s, *peer_s = (statistics.median(own) for own in times)
    record = {
        "name": name,
        "ours_s": ours_s,
        "peer_s": peer_s[0] if peer_s else None,
        "ratio": peer_s[0] / ours_s if peer_s else None,
        "input_s": input_seconds(name, config),
        "trace_s": ours.trace_s,
        "compile_s": ours.compile_s,
        "temp_bytes": ours.temp_bytes,
    }
    del ours, side, sides, theirs
    jax.clear_caches()  # what is compiled; the folder stays
    record["cached_s"] = build(name, config).compile_s
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
    cli.main(main, Config)
