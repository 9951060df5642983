"""What a step of the weights costs along one path and in the mixture, over the same supernet.

    python -m benchmarks.single_path [--spaces darts nasbench201 enas_micro enas_macro chain] [--batch 64]

Prints one JSON object a line: for each space and form the median time of a whole step (loss, gradient, optimizer; for
the path, an architecture drawn anew each time, and only used slices moved), the time to trace and compile, and exact
MACs of the forward pass for one image, of the path the mean over random architectures. `flops_per_step` counts two
operations a MAC and twice the forward pass for the backward one. In the mixture that is every operation on every edge.
The two forms take turns, so that what else the machine does meets both.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas import command
from jaxnas.base import Context, SearchSpace, Skeleton, Supernet
from jaxnas.catalog import CATALOG
from jaxnas.kernels.compiling import top_level_jit
from jaxnas.ops.macro import MACRO_PRIMITIVES
from jaxnas.search import path_only
from jaxnas.spaces import (
    ENAS_MICRO_OPERATIONS,
    darts_cost_table,
    enas_macro_space,
)
from jaxnas.spaces.enas_macro import enas_macro_stages
from jaxnas.train.schedules import sgd

Name = Literal["darts", "nasbench201", "enas_micro", "enas_macro", "chain"]


@dataclasses.dataclass(frozen=True)
class Config:
    spaces: tuple[Name, ...] = ("darts", "nasbench201", "enas_micro", "enas_macro", "chain")
    batch: int = 64
    channels: int = 16
    size: int = 32
    """Of the images."""
    rounds: int = 10
    """Timed steps of each form, after one that is not counted."""


def subject(name: Name, config: Config) -> tuple[SearchSpace, Supernet, Skeleton]:
    entry = CATALOG[name]
    skeleton = Skeleton(config.channels, entry.paper_cells, (config.size, config.size, 3), 10)
    return entry.space(skeleton), entry.supernet(skeleton), skeleton


def mixed_macs(name: Name, skeleton: Skeleton) -> int:
    """MACs of one image through every operation."""
    if name == "enas_macro":
        stages = enas_macro_stages(skeleton)
        # What one architecture with all skips has beside its operations, and then all operations of all layers.
        space = enas_macro_space(skeleton.cells)
        arch = space.from_genotype(
            {"space": name, "layers": [["avg_pool_3x3", list(range(k))] for k in range(skeleton.cells)]}
        )
        total = space.costs(arch, skeleton)["macs"]
        for stage in stages:
            each = {p.name: p.cost(stage.channels, 1, stage.size).macs for p in MACRO_PRIMITIVES.values()}
            total += len(stage.layers) * (sum(each.values()) - each["avg_pool_3x3"])
        return total
    if name == "enas_micro":
        table = darts_cost_table(skeleton, 5, ("none", *ENAS_MICRO_OPERATIONS))
        return table.constant["macs"] + 2 * sum(int(macs.sum()) for macs in table.macs.values())
    make_table = CATALOG[name].cost_table
    if make_table is None:
        raise ValueError(f"the costs of {name} do not add up over its operations")
    table = make_table(skeleton)
    return table.constant["macs"] + sum(int(macs.sum()) for macs in table.macs.values())


class Step:
    """A compiled step that keeps its state."""

    def __init__(self, step: Callable[..., Any], state: Any) -> None:
        self.state = state
        start = time.perf_counter()
        self.compiled = top_level_jit(step, donate_argnums=1).lower(jax.random.key(0), state).compile()
        self.compile_s = time.perf_counter() - start
        self.times: list[float] = []

    def __call__(self, number: int) -> None:
        key = jax.random.key(number)
        start = time.perf_counter()
        self.state = jax.block_until_ready(self.compiled(key, self.state))
        self.times.append(time.perf_counter() - start)


def build(space: SearchSpace, supernet: Supernet, config: Config) -> dict[str, Step]:
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=(config.batch, config.size, config.size, 3)), jnp.float32)
    label = jnp.asarray(rng.integers(0, 10, config.batch), jnp.int32)
    plain = sgd(0.025, momentum=0.9, weight_decay=3e-4, clip=5.0)
    held = path_only(plain)
    weights = jax.tree.map(lambda leaf: jax.nn.softmax(leaf, axis=-1), space.template())

    def loss(logits: jax.Array) -> jax.Array:
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, label).mean()

    def mixed(key: jax.Array, state: Any) -> Any:
        del key
        params, optimizer_state = state
        gradient = jax.grad(lambda p: loss(supernet.apply(p, weights, image, Context())[0]))(params)
        updates, optimizer_state = plain.update(gradient, optimizer_state, params)
        return optax.apply_updates(params, updates), optimizer_state

    def path(key: jax.Array, state: Any) -> Any:
        params, optimizer_state = state
        arch = space.sample(key)
        gradient = jax.grad(lambda p: loss(supernet.apply_path(p, arch, image, Context())[0]))(params)
        updates, optimizer_state = held.update(gradient, optimizer_state, params, used=supernet.used(arch))
        return optax.apply_updates(params, updates), optimizer_state

    def start() -> Any:
        params = jax.jit(supernet.init)(jax.random.key(0))
        return params, plain.init(params)

    return {"mixed": Step(mixed, start()), "path": Step(path, start())}


def main(config: Config) -> None:
    for name in config.spaces:
        space, supernet, skeleton = subject(name, config)
        steps = build(space, supernet, config)
        for number in range(config.rounds + 1):
            for step in steps.values():
                step(number)
        archs = jax.vmap(space.sample)(jax.random.split(jax.random.key(1), 200))
        macs = {
            "mixed": float(mixed_macs(name, skeleton)),
            "path": statistics.fmean(space.costs(arch, skeleton)["macs"] for arch in archs),
        }
        seconds = {form: statistics.median(step.times[1:]) for form, step in steps.items()}
        for form, step in steps.items():
            line = {
                "space": name,
                "form": form,
                "batch": config.batch,
                "channels": config.channels,
                "cells": skeleton.cells,
                "step_s": round(seconds[form], 4),
                "compile_s": round(step.compile_s, 1),
                "macs_per_image": round(macs[form]),
                "flops_per_step": round(6 * macs[form] * config.batch),
                "time_of_mixed": round(seconds[form] / seconds["mixed"], 3),
                "flops_of_mixed": round(macs[form] / macs["mixed"], 3),
                "device": jax.devices()[0].device_kind,
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    command.main(main, Config)
