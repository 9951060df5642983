"""What a step of each method of the differentiable family costs, beside a step of DARTS.

    python -m benchmarks.family_step [--space nasbench201] [--batch 64] [--rounds 5]

Prints a table: the median time of a whole step (both levels, penalty and optimizers), that time over DARTS's, the time
to trace and compile, and the temporary memory that the compiled program says it needs. On one device, first order where
nothing else is said. Methods take turns, so that what else the machine does meets all.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import command
from jaxnas.base import Batch, Skeleton
from jaxnas.catalog import entry_of
from jaxnas.fit.family import Part, Variation, nodes_of, supernet_options, variant_of
from jaxnas.kernels.compiling import top_level_jit
from jaxnas.ranges import Count, Depth, Width, check_settings
from jaxnas.search import adam_l2, darts, exact, finite_difference, first_order, single_level
from jaxnas.train.schedules import sgd


@dataclasses.dataclass(frozen=True)
class Config:
    space: str = "nasbench201"
    batch: Count = 64
    channels: Width = 8
    cells: Depth = 1
    size: Count = 16
    """Of the images."""
    rounds: Count = 5
    """Timed steps of each, after one that is not counted."""


class Step:
    """A compiled step that keeps its state."""

    def __init__(self, method: Any, config: Config, order: str = "first") -> None:
        entry = entry_of(config.space)
        skeleton = Skeleton(config.channels, config.cells, (config.size, config.size, 3), 10)
        supernet = entry.supernet(skeleton, **supernet_options(method, entry, 0))
        nodes = nodes_of(entry, supernet.space.template())
        variant = variant_of(method, Part(1000, 10, 2, None, 0.1, nodes, entry.operations))
        optimizer = sgd(0.025, momentum=0.9, weight_decay=3e-4, clip=5.0)
        bilevel = {"second": exact(optimizer), "second-fd": finite_difference(optimizer)}.get(order, first_order())
        search = darts(
            supernet, optimizer, adam_l2(), single_level() if method == "snas" else bilevel, variant=variant
        )  # fmt: skip
        rng = np.random.default_rng(0)

        def batch() -> Batch:
            images = rng.normal(size=(config.batch, *skeleton.image_shape))
            return Batch(jnp.asarray(images, jnp.float32), jnp.asarray(rng.integers(0, 10, config.batch), jnp.int32))

        self.batches = {"train": batch(), "valid": batch()}
        self.state, self.count = jax.jit(search.init)(jax.random.key(0)), 0
        start = time.perf_counter()
        step = top_level_jit(search.phases[0].step)
        self.compiled = step.lower(jax.random.key(0), self.state, self.batches).compile()
        self.compile_seconds = time.perf_counter() - start
        memory = self.compiled.memory_analysis()
        self.megabytes = float("nan") if memory is None else memory.temp_size_in_bytes / 1e6

    def __call__(self) -> float:
        """The seconds of one more step."""
        start = time.perf_counter()
        self.count += 1
        self.state, _ = jax.block_until_ready(self.compiled(jax.random.key(self.count), self.state, self.batches))
        return time.perf_counter() - start


def main(config: Config) -> None:
    check_settings("", config, Config)
    made: dict[str, Step] = {}
    for name, method, order in (
        *((method, method, "first") for method in get_args(Variation)),
        ("darts, second order", "darts", "second"),
        ("darts, finite difference", "darts", "second-fd"),
    ):
        try:
            made[name] = Step(method, config, order)
        except ValueError as reason:  # of a method that is not for the space
            print(f"{name}: {reason}", flush=True)
    times: dict[str, list[float]] = {name: [] for name in made}
    for number in range(config.rounds + 1):
        for name, step in made.items():
            seconds = step()
            if number:
                times[name].append(seconds)
    base = statistics.median(times["darts"])
    print("| method | step, ms | of DARTS | compile, s | temporaries, MB |")
    print("| --- | --- | --- | --- | --- |")
    for name, step in made.items():
        median = statistics.median(times[name])
        print(
            f"| {name} | {1e3 * median:.0f} | {median / base:.2f} | {step.compile_seconds:.0f} | {step.megabytes:.0f} |"
        )


if __name__ == "__main__":
    command.main(main, Config)
