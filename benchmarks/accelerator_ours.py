"""Our side of `benchmarks.accelerator`: a part, in a process of its own.

In a dry run a CPU computes what a GPU would be given: the forms of a GPU, in tiny sizes.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import kernels, seeds
from benchmarks.accelerator import FIRST_ORDER, Task, timed, work
from benchmarks.accelerator_pack import IMAGES, TABLE, read_images
from benchmarks.launches import launches
from benchmarks.programs import Compiled, Forms, build
from jaxnas import data
from jaxnas.base import Batch, SearchAlgorithm, Skeleton
from jaxnas.benchmarks import load_table
from jaxnas.data.digits import load_digits
from jaxnas.kernels.compiling import without_locations
from jaxnas.kernels.platform import supposing
from jaxnas.parallel import on_one_device
from jaxnas.search import adam_l2, darts
from jaxnas.spaces import nasbench201_space
from jaxnas.supernets import nasbench201_supernet
from jaxnas.train.chunk import make_chunk
from jaxnas.train.schedules import cosine, per_epoch, sgd

Records = Iterator[dict[str, Any]]

SEEDS = 8
EPOCHS = 50


def memory(name: str) -> int | None:
    """A figure of the card's allocator; a CPU has none."""
    return (jax.devices()[0].memory_stats() or {}).get(name)


def see(task: Task) -> Records:
    """What JAX sees, and that it computes there."""
    device = jax.devices()[0]
    if not task.dry and device.platform != "gpu":
        raise SystemExit(f"JAX sees no GPU, its first device is {device.platform} {device.device_kind}")
    one = jnp.ones((256, 256))
    yield {
        "devices": [f"{device.platform} {device.device_kind}" for device in jax.devices()],
        "computes": float((one @ one).mean()) == 256,
        "bytes": memory("bytes_limit"),
    }


def compiled(task: Task) -> Compiled:
    sizes = Forms(**task.sizes, nodes=2 if task.dry else None)
    return build(task.program, sizes, on_one_device())


def step(task: Task) -> Records:
    """A step with the settings of its paper."""
    made = compiled(task)
    tracing = {"trace_s": made.trace_s, "loaded_s" if task.compiled else "compile_s": made.compile_s}
    if task.compile_only:
        yield tracing
        return
    at_first = memory("peak_bytes_in_use")
    times = timed(made.start, made.wait, task.dry)
    told = {name: float(np.mean(value)) for name, value in jax.device_get(made.told)._asdict().items()}
    yield (
        times
        | tracing
        | {
            "peak_bytes": memory("peak_bytes_in_use"),
            "peak_bytes_compiling": at_first,
            "temp_bytes": made.temp_bytes,
            "sizes": task.sizes,
            "finite": all(map(math.isfinite, told.values())),
            "told": {name: value if math.isfinite(value) else None for name, value in told.items()},
        }
    )


def profile(task: Task) -> Records:
    """Of the first part's program, whose optimized text is kept beside the results."""
    made = compiled(task)
    for _ in range(3):
        made()
    steps = 1 if task.dry else 5
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(steps):
                made.start()
            made.wait()
        found = kernels.traced(Path(folder))
    text = made.compiled.as_text() or ""
    with gzip.open(task.out / f"{FIRST_ORDER}.hlo.txt.gz", "wt") as file:
        file.write(text)
    counted = launches(text)
    moved = counted.pop("bytes")
    yield kernels.summary(found, steps, text) | {"launches_of_program": counted.total(), "bytes_of_program": moved}


def cells_search(task: Task, image: tuple[int, ...], steps_per_epoch: int) -> SearchAlgorithm:
    """First-order DARTS over the cells of NAS-Bench-201, with the settings of its authors."""
    rate = per_epoch(cosine(0.025, 0.001, EPOCHS), steps_per_epoch)
    optimizer = sgd(rate, momentum=0.9, nesterov=True, weight_decay=5e-4, clip=5.0)
    height, width, channels = image
    skeleton = Skeleton(*((2, 1) if task.dry else (16, 5)), (height, width, channels), 10)
    return darts(nasbench201_supernet(skeleton), optimizer, adam_l2())


def all_seeds(task: Task) -> Records:
    """A step of eight seeds at once and of one, over NAS-Bench-201's space on the digits."""
    digits = load_digits()
    examples = data.plain_batch(digits.train, jnp.arange(data.count(digits.train)), digits.augmentation)
    batch = 4 if task.dry else 64
    algorithm = cells_search(task, digits.image_shape, len(digits.train.targets) // batch)
    made = seeds.programs(algorithm, examples, batch, SEEDS, [("vmap", jax.devices()[:1])])
    for told in seeds.measure(made, SEEDS, rounds=1 if task.dry else 30):
        yield told | {"batch": batch, "peak_bytes": memory("peak_bytes_in_use")}


def search(task: Task) -> Records:
    """A real search, as long as there is time: a line an epoch, with its cell and what the table says of it."""
    begun = time.monotonic()
    packed = task.files / IMAGES
    if not task.dry and not packed.exists():
        yield {"skipped": f"there is no {packed}: make it with --pack"}
        return
    if packed.exists():
        halves, augmentation = read_images(packed)
    else:
        digits = load_digits()
        halves, augmentation = data.split(digits, seed=0), digits.augmentation
    examples = jax.device_put({"train": halves.train, "valid": halves.valid})
    size, batch = (8, 4) if task.dry else (min(len(half.targets) for half in examples.values()), 64)
    steps = size // batch
    algorithm = cells_search(task, halves.train.inputs.shape[1:], steps)
    draw = data.make_batches(size, batch, augmentation)

    def batches(key: Any, number: Any, examples: Any) -> dict[str, Batch]:
        keys = jax.random.split(key, len(examples))
        return {part: draw(own, number, examples[part]) for own, part in zip(keys, sorted(examples), strict=True)}

    chunk = make_chunk(algorithm.phases[0].step, batches, max_steps=steps, loop="device")  # as on a GPU
    key, init_key = jax.random.split(jax.random.key(0))
    state = jax.jit(algorithm.init)(init_key)
    judged = judge(task.files / TABLE)
    for epoch in range(1 if task.dry else EPOCHS):
        before = time.monotonic()
        state, infos = chunk.run(state, key, epoch * steps, (epoch + 1) * steps, examples)
        now = time.monotonic()
        told = {name: float(value.mean()) for name, value in infos._asdict().items()}
        yield {
            "epoch": epoch + 1,
            "epochs": EPOCHS,
            "images": size,
            "epoch_s": now - before,
            **told,
            **judged(algorithm.derive(jax.random.key(1), state, None)),
        }
        if now - begun + 2 * (now - before) > task.seconds:  # of the next one, too, there should be a line
            return


def judge(path: Path) -> Callable[[Any], dict[str, Any]]:
    """A function that says what a cell is and, where the table has travelled, how good it is."""
    space = nasbench201_space()
    table = load_table(path) if path.exists() else None

    def judged(arch: Any) -> dict[str, Any]:
        told: dict[str, Any] = {"cell": space.notation(arch)}
        if table is None:
            return told
        for metric in table.metrics:
            every = np.asarray(table.metrics[metric]).reshape(len(table.archs), -1)[:, -1]
            own = float(table.query(arch, metric))
            told[metric] = {
                "cell": round(own, 3),
                "best": round(float(np.nanmax(every)), 3),
                "better_cells": int((every > own).sum()),
            }
        return told

    return judged


MEASURES = {"jax": see, "profile": profile, "seeds": all_seeds, "search": search}
"""The parts that are more than the times of a step."""


def measure(task: Task) -> Records:
    without_locations()
    with supposing("gpu") if task.dry else contextlib.nullcontext():
        yield from MEASURES.get(task.part.name, step)(task)


if __name__ == "__main__":
    work("ours", measure)
