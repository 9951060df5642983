"""Many seeds of a DARTS search at once against one after another, on a network as small as the "tiny" preset's.

    python -m benchmarks.seeds [--seeds 8]

One JSON object a line: `one_s`, a step of one seed; `together_s`, a step of all at once; `ratio`, the time of as many
steps one after another divided by that of one for all, by `vmap` and by `lax.map`, the three taking turns; compile
seconds and temporary bytes of both programs.
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
from jaxnas.compiling import top_level_jit
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
    """Prints a line for each of the two ways."""
    if config.seeds < 2 or config.rounds < 1:
        raise ValueError(f"seeds must be at least 2 and rounds at least 1, got {config.seeds} and {config.rounds}")
    skeleton = Skeleton(config.channels, config.cells, (config.side, config.side, 1), 10)
    algorithm = darts(darts_space(), darts_supernet(skeleton), sgd(0.05), adam_l2(3e-3))
    step = algorithm.phases[0].step
    key = jax.random.key(0)
    images = jax.random.normal(key, (config.batch, config.side, config.side, 1))
    half = Batch(images, jnp.arange(config.batch) % 10)
    batch = {"train": half, "valid": half}

    def compiled(function: Any, keys: Any, state: Any, batch: Any) -> tuple[Any, float]:
        started = time.perf_counter()
        program = top_level_jit(function, donate_argnums=1).lower(keys, state, batch).compile()
        return program, time.perf_counter() - started

    keys = jax.random.split(key, config.seeds)
    # Each seed has a batch of its own, as in a search.
    batches = jax.tree.map(lambda leaf: jnp.stack([leaf] * config.seeds), batch)
    states = jax.jit(jax.vmap(algorithm.init))(keys)

    def one_by_one(*given: Any) -> Any:
        return jax.lax.map(lambda own: step(*own), given)

    forms: dict[str, tuple[Any, ...]] = {
        "one": (step, keys[0], jax.jit(algorithm.init)(key), batch),
        "vmap": (jax.vmap(step), keys, states, batches),
        "map": (one_by_one, keys, jax.tree.map(jnp.copy, states), batches),
    }
    programs = {name: compiled(*form) for name, form in forms.items()}
    current = {name: form[2] for name, form in forms.items()}
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(config.rounds + 1):
        for name, (_, own_keys, _, own_batch) in forms.items():
            started = time.perf_counter()
            current[name], _ = jax.block_until_ready(programs[name][0](own_keys, current[name], own_batch))
            seconds[name].append(time.perf_counter() - started)
    median = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    for how in ("vmap", "map"):
        line = {
            "name": f"darts_first_order_{config.seeds}_seeds_{how}",
            "one_s": round(median["one"], 4),
            "together_s": round(median[how], 4),
            "ratio": round(config.seeds * median["one"] / median[how], 2),
            "compile_one_s": round(programs["one"][1], 1),
            "compile_together_s": round(programs[how][1], 1),
            "temp_one_bytes": programs["one"][0].memory_analysis().temp_size_in_bytes,
            "temp_together_bytes": programs[how][0].memory_analysis().temp_size_in_bytes,
            "device": jax.devices()[0].device_kind,
            "jax": jax.__version__,
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    cli.main(main, Config)
