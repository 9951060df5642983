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
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxnas import command
from jaxnas.base import Batch, SearchAlgorithm, Skeleton
from jaxnas.fit.devices import Devices, join
from jaxnas.kernels.compiling import top_level_jit
from jaxnas.parallel import many_seeds
from jaxnas.search import adam_l2, darts
from jaxnas.supernets import darts_supernet
from jaxnas.train.schedules import sgd

ONE = "one"
How = Literal["vmap", "map"]
HOW: tuple[How, How] = ("vmap", "map")


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


def programs(
    algorithm: SearchAlgorithm, examples: Batch, batch: int, seeds: int, several: Sequence[tuple[How, list[jax.Device]]]
) -> dict[str, Program]:
    """A step of one seed under `ONE`, and one of all seeds for each way and its devices, named by both.

    algorithm: a search of one phase. Its batches are drawn anew each step, for each seed its own, from the examples.
    """
    (phase,) = algorithm.phases
    key = jax.random.key(0)

    def one(state: Any, key: Any, index: Any, examples: Batch) -> tuple[Any, Any]:
        """A step on images of its own."""
        step_key, *parts = jax.random.split(jax.random.fold_in(key, index), 1 + len(phase.reads))
        chosen = [jax.random.randint(part, (batch,), 0, len(examples.targets)) for part in parts]
        batches = [jax.tree.map(lambda leaf, rows=rows: leaf[rows], examples) for rows in chosen]
        return phase.step(step_key, state, dict(zip(phase.reads, batches, strict=True)))

    keys = jax.random.split(key, seeds)
    made = {ONE: Program(one, jax.jit(algorithm.init)(key), key, examples)}
    for how, devices in several:
        all_seeds, states = many_seeds(seeds, how, devices), jax.jit(jax.vmap(algorithm.init))(keys)
        given = all_seeds.place(states), all_seeds.place(keys), all_seeds.place_data(examples)
        made[f"{how}_{len(devices)}"] = Program(all_seeds.lift(one), *given)
    return made


def measure(made: dict[str, Program], seeds: int, rounds: int) -> Iterator[dict[str, Any]]:
    """All take turns; what is told of each way, beside one seed."""
    for number in range(rounds + 1):
        for program in made.values():
            program(number)
    alone = made[ONE]
    for name, program in made.items():
        if name != ONE:
            yield {
                "way": name,
                "seeds": seeds,
                "one_s": round(alone.seconds, 6),
                "together_s": round(program.seconds, 6),
                "ratio": round(seeds * alone.seconds / program.seconds, 2),
                "compile_one_s": round(alone.compile_s, 1),
                "compile_together_s": round(program.compile_s, 1),
                "temp_one_bytes": alone.temp_bytes,
                "temp_together_bytes": program.temp_bytes,
            }


def main(config: Config) -> None:
    """Prints a line for each way."""
    if config.seeds < 2 or config.rounds < 1:
        raise ValueError(f"seeds must be at least 2 and rounds at least 1, got {config.seeds} and {config.rounds}")
    join(Devices())
    skeleton = Skeleton(config.channels, config.cells, (config.side, config.side, 1), 10)
    algorithm = darts(darts_supernet(skeleton), sgd(0.05), adam_l2(3e-3))
    images = jax.random.normal(jax.random.key(0), (10 * config.batch, config.side, config.side, 1))
    examples = Batch(images, jnp.arange(10 * config.batch) % 10)
    count = max(n for n in range(1, len(jax.devices()) + 1) if config.seeds % n == 0)
    several = [(how, jax.devices()[:n]) for n in sorted({1, count}) for how in HOW]
    made = programs(algorithm, examples, config.batch, config.seeds, several)
    for told in measure(made, config.seeds, config.rounds):
        name = f"darts_first_order_{config.seeds}_seeds_{told.pop('way')}_devices"
        about = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
        print(json.dumps({"name": name} | told | about), flush=True)


if __name__ == "__main__":
    command.main(main, Config)
