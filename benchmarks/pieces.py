"""Whole search steps on a CPU without one piece of `jaxnas.kernels`, beside the same steps with it.

    python -m benchmarks.pieces [--names outlined gate] [--step darts_first_order] [--batch 16] [--cells 3]

Prints one JSON object a line: the piece, and of the step with all pieces ("whole") and without it: the least seconds
of `rounds` steps in which both take turns, seconds of tracing, seconds of all cores for tracing and compiling,
instructions after XLA's optimizations, and bytes of temporaries. `benchmarks.operations` has the kernels alone;
docs/kernels.md has the figures.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

from benchmarks.programs import Compiled, Forms, program, random_data
from benchmarks.sizes import Name
from jaxnas import command
from jaxnas.base import Array
from jaxnas.kernels import arrays, compiling, depthwise, gate, norm, platform, trees
from jaxnas.ops.primitives import Primitive
from jaxnas.parallel import on_one_device
from jaxnas.supernets.executors.edge import Edge, mixed_op


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Forms):
    names: tuple[str, ...] = ()
    """Pieces, by the names of `PIECES`; none is all."""
    step: Name = "darts_first_order"
    batch: int = 16
    cells: int = 3
    rounds: int = 5


@contextlib.contextmanager
def replaced(old: Any, new: Any) -> Iterator[None]:
    """Inside, `new` stands for `old` in every module of the library that has it by a name."""
    places = [
        (module, name)
        for title, module in list(sys.modules.items())
        if title.startswith("jaxnas.")
        for name, value in vars(module).items()
        if value is old
    ]
    if not places:
        raise ValueError(f"no module has {old}")
    for module, name in places:
        setattr(module, name, new)
    try:
        yield
    finally:
        for module, name in places:
            setattr(module, name, old)


def plain_channel_sums(terms: Callable[..., Array], *arrays: Array, weight: float = 1.0) -> Array:
    rows = (x.reshape(-1, x.shape[-1]) for x in arrays)
    return weight * jnp.sum(terms(*rows), 0)


def all_forms(*operands: Any, default: Callable[..., Any], **forms: Callable[..., Any]) -> Any:
    return lax.platform_dependent(*operands, default=default, **forms)


def scaled_after(primitives: Sequence[Primitive], stride: int, axis_name: str | None) -> Edge:
    alone = [primitive._replace(scaled=lambda params, scale: None) for primitive in primitives]
    return mixed_op(alone, stride, axis_name)


def again(x: Array, mean: Array, variance: Array, scale: Array | None, axis_name: str | None) -> Array:
    return norm.standardize(x, scale, axis_name)[0]


def correlate(x: Array, kernel: Array, stride: int, dilation: int, relu: bool = False, alone: bool = False) -> Array:
    return depthwise._correlation(x, kernel, None, stride, dilation, relu, alone)


def plain_norm(tree: Any) -> Array:
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))


def plain_times(tree: Any, factor: Array) -> Any:
    return jax.tree.map(lambda leaf: (leaf * factor).astype(leaf.dtype), tree)


@contextlib.contextmanager
def located() -> Iterator[None]:
    jax.config.update("jax_traceback_in_locations_limit", 10)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", 0)


def without_option(part: str) -> Callable[[], contextlib.AbstractContextManager[None]]:
    left = {name: value for name, value in compiling.compiler_options().items() if part not in name}
    return functools.partial(replaced, compiling.compiler_options, lambda: left)


def pieces() -> dict[str, Callable[[], contextlib.AbstractContextManager[None]]]:
    """Name -> what takes the piece away."""
    instead: dict[str, tuple[Any, Any]] = {
        "outlined": (set_xla_metadata, lambda leaf, **attributes: leaf),
        "by_platform": (platform.by_platform, all_forms),
        "gate": (gate.where_wanted, lambda wanted, gradient, *operands: gradient(*operands)),
        "scaled": (mixed_op, scaled_after),
        "known": (norm.standardize_by, again),
        "channel_sums": (norm.channel_sums, plain_channel_sums),
        "per_channel": (
            norm.per_channel,
            lambda weights, channels: jnp.broadcast_to(weights[:, None], (*weights.shape, channels)),
        ),
        "scale_channels": (norm.scale_channels, norm._times_channels),
        "materialized": (arrays.materialized, lambda tree: tree),
        "looked_up": (arrays.looked_up, arrays.at),
        "add_at": (arrays.add_at, lambda array, index, value: array.at[index].add(value)),
        "joined": (arrays.joined, lambda states: jnp.concatenate(list(states), -1)),
        "norm": (trees.norm, plain_norm),
        "times": (trees.times, plain_times),
        "symbolic_zeros": (depthwise._correlate, correlate),
        "garbage": (compiling._garbage_kept, contextlib.nullcontext),
    }
    options = {"reductions": "ynn", "wide_vectors": "vector_width", "verifier": "hlo_passes"}
    return {
        **{name: functools.partial(replaced, *pair) for name, pair in instead.items()},
        **{name: without_option(part) for name, part in options.items()},
        "without_locations": located,
    }


def built(config: Config) -> tuple[Compiled, dict[str, Any]]:
    """The step, and what it took to compile it from nothing."""
    jax.clear_caches()
    made = program(config.step, config)
    state = jax.jit(made.init)(jax.random.key(0))
    start = time.process_time()
    compiled = Compiled(on_one_device(), made.step, state, random_data(made, config.batch_of(config.step)))
    cpu = time.process_time() - start
    told = {
        "trace_s": round(compiled.trace_s, 1),
        "compile_cpu_s": round(cpu, 1),
        "instructions": compiled.compiled.as_text().count(" = "),
        "temp_bytes": compiled.temp_bytes,
    }
    compiled()
    return compiled, told


def step_seconds(steps: Sequence[Compiled], rounds: int) -> list[float]:
    """The least of each; they take turns, so that what else runs meets all."""
    least = [float("inf")] * len(steps)
    for _ in range(rounds):
        for i, step in enumerate(steps):
            start = time.perf_counter()
            step()
            least[i] = min(least[i], time.perf_counter() - start)
    return [round(seconds, 3) for seconds in least]


def main(config: Config) -> None:
    compiling.without_locations()
    known = pieces()
    if unknown := set(config.names) - set(known):
        raise ValueError(f"unknown piece {min(unknown)!r}; there are {', '.join(known)}")
    for name in config.names or known:
        whole, told_whole = built(config)  # for each piece again: what else the machine does changes
        with known[name]():
            without, told = built(config)
        with_s, without_s = step_seconds((whole, without), config.rounds)
        sides = {"whole": {"step_s": with_s, **told_whole}, "without": {"step_s": without_s, **told}}
        print(json.dumps({"name": name, **sides}), flush=True)


if __name__ == "__main__":
    command.main(main, Config)
