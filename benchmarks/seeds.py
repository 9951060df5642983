"""Many seeds of a DARTS search at once against one after another, on a network as small as the "tiny" preset's.

    python -m benchmarks.seeds [--seeds 8]

One JSON object a line: `one_s`, a step of one seed on one device; `together_s`, a step of all at once; `ratio`, the
time of as many steps one after another divided by that of one for all; by `vmap` and by `lax.map` on one device, and by
either in equal shares on several, which the cores of a CPU are. All take turns. `compile_..._s`, and the bytes of
temporary arrays of one device.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from typing import Any, Literal

import jax
import jax.numpy as jnp

from experiments import cli
from experiments.devices import Devices, join
from jaxnas.base import Batch, Skeleton
from jaxnas.compiling import top_level_jit
from jaxnas.parallel import many_seeds
from jaxnas.search import adam_l2, darts
from jaxnas.supernets import darts_supernet
from jaxnas.train.schedules import sgd

ONE = "one"
HOW: tuple[Literal["vmap"], Literal["map"]] = ("vmap", "map")


@dataclasses.dataclass(frozen=True)
class Config:
    seeds: int = 8
    channels: int = 8
    cells: int = 3
    batch: int = 60
    side: int = 8
    """Of the images, in pixels."""
    rounds: int = 5


class Program:
    """A compiled step, which is timed whenever it is called."""

    def __init__(self, step: Any, state: Any, keys: Any, examples: Batch) -> None:
        started = time.perf_counter()
        self.state, self.given, self.times = state, (keys, examples), list[float]()
        self.run = top_level_jit(step, donate_argnums=0).lower(state, keys, jnp.int32(0), examples).compile()
        self.compile_s = time.perf_counter() - started
        self.temp_bytes = int(self.run.memory_analysis().temp_size_in_bytes)

    def __call__(self, number: int) -> None:
        keys, examples = self.given
        started = time.perf_counter()
        self.state, _ = jax.block_until_ready(self.run(self.state, keys, jnp.int32(number), examples))
        self.times.append(time.perf_counter() - started)

    @property
    def seconds(self) -> float:
        """The median without the first."""
        return statistics.median(self.times[1:])


def main(config: Config) -> None:
    """Prints a line for each way."""
    if config.seeds < 2 or config.rounds < 1:
        raise ValueError(f"seeds must be at least 2 and rounds at least 1, got {config.seeds} and {config.rounds}")
    join(Devices())
    skeleton = Skeleton(config.channels, config.cells, (config.side, config.side, 1), 10)
    algorithm = darts(darts_supernet(skeleton), sgd(0.05), adam_l2(3e-3))
    step = algorithm.phases[0].step
    key = jax.random.key(0)
    images = jax.random.normal(key, (10 * config.batch, config.side, config.side, 1))
    examples = Batch(images, jnp.arange(10 * config.batch) % 10)

    def one(state: Any, key: Any, index: Any, examples: Batch) -> tuple[Any, Any]:
        """A step on images of its own."""
        step_key, *halves = jax.random.split(jax.random.fold_in(key, index), 3)
        chosen = [jax.random.randint(half, (config.batch,), 0, len(images)) for half in halves]
        train, valid = (jax.tree.map(lambda leaf, rows=rows: leaf[rows], examples) for rows in chosen)
        return step(step_key, state, {"train": train, "valid": valid})

    count = max(n for n in range(1, len(jax.devices()) + 1) if config.seeds % n == 0)
    several = [(how, jax.devices()[:n]) for n in sorted({1, count}) for how in HOW]
    keys = jax.random.split(key, config.seeds)
    programs = {ONE: Program(one, jax.jit(algorithm.init)(key), key, examples)}
    for how, devices in several:
        seeds, states = many_seeds(config.seeds, how, devices), jax.jit(jax.vmap(algorithm.init))(keys)
        given = seeds.place(states), seeds.place(keys), seeds.place_data(examples)
        programs[f"{how}_{len(devices)}"] = Program(seeds.lift(one), *given)
    for number in range(config.rounds + 1):
        for program in programs.values():
            program(number)
    alone = programs.pop(ONE)
    for name, program in programs.items():
        line = {
            "name": f"darts_first_order_{config.seeds}_seeds_{name}_devices",
            "one_s": round(alone.seconds, 4),
            "together_s": round(program.seconds, 4),
            "ratio": round(config.seeds * alone.seconds / program.seconds, 2),
            "compile_one_s": round(alone.compile_s, 1),
            "compile_together_s": round(program.compile_s, 1),
            "temp_one_bytes": alone.temp_bytes,
            "temp_together_bytes": program.temp_bytes,
            "device": jax.devices()[0].device_kind,
            "jax": jax.__version__,
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    cli.main(main, Config)
