"""Many seeds of a DARTS search at once against one after another, on a network as small as the "tiny" preset's.

    python -m benchmarks.seeds [--seeds 8]

One JSON object a line: `one_s`, a step of one seed; `together_s`, a step of all at once; `ratio`, the time of as many
steps one after another divided by that of one for all; compile seconds and temporary bytes of both programs.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from experiments import cli
from jaxnas.base import Batch, Skeleton
from jaxnas.search import adam_l2, darts
from jaxnas.spaces import darts_space
from jaxnas.supernets import darts_supernet
from jaxnas.train.schedules import sgd


@dataclasses.dataclass(frozen=True)
class Config:
    seeds: int = 8
    channels: int = 8
    cells: int = 3
    batch: int = 60
    side: int = 8
    """Of the images, in pixels."""
    rounds: int = 5


def main(config: Config) -> None:
    """Prints one line."""
    if config.seeds < 2 or config.rounds < 1:
        raise ValueError(f"seeds must be at least 2 and rounds at least 1, got {config.seeds} and {config.rounds}")
    skeleton = Skeleton(config.channels, config.cells, (config.side, config.side, 1), 10)
    algorithm = darts(darts_space(), darts_supernet(skeleton), sgd(0.05), adam_l2(3e-3))
    step = algorithm.phases[0].step
    key = jax.random.key(0)
    images = jax.random.normal(key, (config.batch, config.side, config.side, 1))
    half = Batch(images, jnp.arange(config.batch) % 10)
    batch = {"train": half, "valid": half}

    def measured(function: Any, keys: Any, state: Any, batch: Any) -> tuple[float, float, int]:
        started = time.perf_counter()
        compiled = jax.jit(function, donate_argnums=1).lower(keys, state, batch).compile()
        compile_s = time.perf_counter() - started
        seconds = []
        for _ in range(config.rounds + 1):
            started = time.perf_counter()
            state, info = jax.block_until_ready(compiled(keys, state, batch))
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds[1:]), compile_s, compiled.memory_analysis().temp_size_in_bytes

    keys = jax.random.split(key, config.seeds)
    one = measured(step, keys[0], jax.jit(algorithm.init)(key), batch)
    # Each seed has a batch of its own, as in a search.
    batches = jax.tree.map(lambda leaf: jnp.stack([leaf] * config.seeds), batch)
    together = measured(jax.vmap(step), keys, jax.jit(jax.vmap(algorithm.init))(keys), batches)
    line = {
        "name": f"darts_first_order_{config.seeds}_seeds",
        "one_s": round(one[0], 4),
        "together_s": round(together[0], 4),
        "ratio": round(config.seeds * one[0] / together[0], 2),
        "compile_one_s": round(one[1], 1),
        "compile_together_s": round(together[1], 1),
        "temp_one_bytes": one[2],
        "temp_together_bytes": together[2],
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    cli.main(main, Config)
