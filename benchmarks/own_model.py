"""How long one's own model with choices takes to trace and to compile, written as a plain Python loop over its blocks.

    python -m benchmarks.own_model [--blocks 12] [--steps mixture path] [--widths]

A transformer of `blocks` blocks, each a choice among six: 1, 2 or 4 heads, and a feed-forward part of the model's width
or twice that. `--widths` has the heads and the feed-forward part as widths instead. Prints one JSON object a line: the
time until the space is found, and of a training step of the mixture (DARTS, first order: two losses and their
gradients) and of a path (a random one, only what it uses moved) the seconds to trace and to compile, and the seconds of
all cores for both.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import jaxnas
from jaxnas import command
from jaxnas.base import Batch
from jaxnas.kernels.compiling import top_level_jit
from jaxnas.search import adam_l2, darts, single_path, uniform_paths


@dataclasses.dataclass(frozen=True)
class Config:
    blocks: int = 12
    steps: tuple[Literal["mixture", "path"], ...] = ("mixture", "path")
    dim: int = 64
    tokens: int = 16
    batch: int = 8
    widths: bool = False
    """Heads and feed-forward parts are widths, three and two of them in each block, and not six layers."""


class Block(nn.Module):
    heads: int
    hidden: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        dim = x.shape[-1]
        x = x + nn.MultiHeadDotProductAttention(self.heads, qkv_features=16 * self.heads)(nn.LayerNorm()(x))
        return x + nn.Dense(dim)(nn.gelu(nn.Dense(self.hidden)(nn.LayerNorm()(x))))


class Transformer(nn.Module):
    blocks: int
    dim: int
    widths: bool

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Dense(self.dim)(x)
        for number in range(self.blocks):
            if self.widths:
                heads = jaxnas.width(f"heads{number}", (1, 2, 4))
                x = Block(heads, jaxnas.width(f"hidden{number}", (self.dim, 2 * self.dim)))(x)
            else:
                layers = {
                    f"heads{heads}_hidden{factor}": Block(heads, factor * self.dim)
                    for heads in (1, 2, 4)
                    for factor in (1, 2)
                }
                x = jaxnas.one_of(f"block{number}", layers)(x)
        return nn.Dense(10)(x.mean(1))


def main(config: Config) -> None:
    start = time.perf_counter()
    model = Transformer(config.blocks, config.dim, config.widths)
    x = jnp.zeros((config.batch, config.tokens, 12))
    own = jaxnas.searchable(model, x)
    told = {"blocks": config.blocks, "widths": config.widths, "cores": os.cpu_count()}
    print(
        json.dumps({"found": round(time.perf_counter() - start, 1), "choices": len(own.space.choices), **told}),
        flush=True,
    )
    algorithms = {
        "mixture": lambda: darts(own.supernet, optax.sgd(0.1, momentum=0.9), adam_l2()),
        "path": lambda: single_path(own.supernet, uniform_paths(own.space), optax.sgd(0.1, momentum=0.9)),
    }
    batch = Batch(x, jnp.zeros(config.batch, jnp.int32))
    for name in config.steps:
        algorithm = algorithms[name]()
        start, before = time.perf_counter(), time.process_time()
        state = jax.eval_shape(algorithm.init, jax.random.key(0))
        step = top_level_jit(algorithm.phases[0].step)
        lowered = step.lower(jax.random.key(0), state, {"train": batch, "valid": batch})
        traced = time.perf_counter()
        lowered.compile()
        compiled, spent = time.perf_counter(), time.process_time() - before
        row = {"step": name, "trace": round(traced - start, 1), "compile": round(compiled - traced, 1)}
        row["processor"] = round(spent, 1)
        print(json.dumps({**row, **told}), flush=True)


if __name__ == "__main__":
    command.main(main, Config)
