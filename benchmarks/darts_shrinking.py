"""What a search step of DARTS costs where edges have lost operations: parameters, seconds, compilation.

    python -m benchmarks.darts_shrinking [--left 8 5 3 --channels 8 --cells 5 --batch 32]

Which operations are left on an edge is drawn at random, the same for every size that has them. The sizes take turns, so
that what else the machine does meets all. Prints one JSON line for each: `step_s` is the median of the steps, `least_s`
the fastest.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from typing import Any

import jax
import numpy as np

from benchmarks.programs import random_batch
from jaxnas import command
from jaxnas.base import Skeleton
from jaxnas.relax import softmax
from jaxnas.search import Variant, adam_l2, carried, darts, weakest_by_alpha
from jaxnas.spaces import DARTS_OPERATIONS, darts_space
from jaxnas.supernets import darts_narrowing, darts_supernet
from jaxnas.supernets.executors import Form
from jaxnas.train.schedules import sgd


@dataclasses.dataclass(frozen=True)
class Config:
    left: tuple[int, ...] = (8, 5, 3)
    channels: int = 8
    cells: int = 5
    batch: int = 32
    form: Form | None = None
    rounds: int = 5


def main(config: Config) -> None:
    skeleton, space = Skeleton(config.channels, config.cells, (32, 32, 3), 10), darts_space()
    optimizer, random = sgd(0.025, momentum=0.9, weight_decay=3e-4, clip=5.0), np.random.default_rng(0)
    order = {kind: random.normal(size=value.shape) for kind, value in space.template().items()}
    whole = {kind: np.ones(value.shape, bool) for kind, value in order.items()}
    batches = {"train": random_batch(config.batch, 0), "valid": random_batch(config.batch, 1)}
    lines: list[dict[str, Any]] = []
    runs, states = [], []
    for left in config.left:
        full = left == len(DARTS_OPERATIONS)
        keep = whole if full else weakest_by_alpha(order, whole, left)
        every = darts(darts_supernet(skeleton, form=config.form), optimizer, adam_l2())
        state = jax.jit(every.init)(jax.random.key(0))
        if not full:
            state = carried(state, darts_narrowing(skeleton, keep))
        supernet = darts_supernet(skeleton, keep=None if full else keep, form=config.form)
        variant = Variant(softmax(there=keep))
        (phase,) = darts(supernet, optimizer, adam_l2(), variant=variant).phases
        start = time.perf_counter()
        compiled = jax.jit(phase.step).lower(jax.random.key(0), state, batches).compile()
        params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        line = {"left": left, "params": params, "compile_s": round(time.perf_counter() - start, 2)}
        lines.append(line)
        runs.append(compiled)
        states.append(state)
    times: list[list[float]] = [[] for _ in runs]
    for number in range(config.rounds + 1):
        for place, compiled in enumerate(runs):
            start = time.perf_counter()
            states[place] = jax.block_until_ready(compiled(jax.random.key(number), states[place], batches)[0])
            if number:  # the first is not counted
                times[place].append(time.perf_counter() - start)
    for line, seconds in zip(lines, times, strict=True):
        told = {"step_s": round(statistics.median(seconds), 4), "least_s": round(min(seconds), 4)}
        print(json.dumps({"name": f"darts_left_{line['left']}", **line, **told}), flush=True)


if __name__ == "__main__":
    command.main(main, Config)
