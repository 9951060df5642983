"""Chunks: many steps in one call, compiled once, the same result however the steps are cut into chunks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Array, Key, PyTree
from jaxnas.kernels.compiling import top_level_jit
from jaxnas.parallel import Seeds, SeedStep

Infos = Any
"""The Info of a step with a leading axis of n steps, on the host."""


class Chunk(NamedTuple):
    """run: (state, key, first, stop, data) -> (state, infos [stop - first]), at most `max_steps` steps.

    The given state is used up. compile: (state, key, data) -> the program that `run` will run with such arguments,
    which it then does not compile again.
    """

    run: Callable[[PyTree, Key, int, int, PyTree], tuple[PyTree, Infos]]
    max_steps: int
    compile: Callable[[PyTree, Key, PyTree], jax.stages.Compiled]


def make_chunk(
    step: Callable[[Key, PyTree, Any], tuple[PyTree, Any]],
    batch: Callable[[Key, Array, PyTree], Any],
    *,
    max_steps: int = 1000,
    loop: Literal["device", "host"] | None = None,
    seeds: Seeds | None = None,
) -> Chunk:
    """Compiles `step` once, into a function that runs any number of steps up to `max_steps` and never traces again.

    step: (key, state, batch) -> (state, info), info a NamedTuple of scalars. batch: (key, step, data) -> batch; its key
    is the same at every step. Both are pure. loop: "device" puts the steps of a chunk into one while loop, without a
    dispatch a step; "host" dispatches each step. None takes "host" on CPUs: there XLA brings only convolutions outside
    of loops into the layout that it has a fast kernel for, and a convolution's gradients in a loop are far slower.
    seeds: runs the step for many seeds at once; state, key and infos then have an axis of seeds, that of the infos
    after that of the steps.

    The state is donated. Raises ValueError for max_steps < 1, and TypeError, when it is traced, for a step that returns
    a state of another structure than it was given.
    """
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, got {max_steps}")
    if loop not in (None, "device", "host"):
        raise ValueError(f'loop must be "device", "host" or None, got {loop!r}')

    def one(state: PyTree, key: Key, index: Array, data: PyTree) -> tuple[PyTree, Any]:
        # Folding in, unlike splitting, leaves the key to the next step.
        step_key = jax.random.fold_in(jax.random.fold_in(key, 0), index)
        after, info = step(step_key, state, batch(jax.random.fold_in(key, 1), index, data))
        check_same_types(state, after)
        return after, info

    stepped: SeedStep = one if seeds is None else seeds.lift(one)

    def on_device(state: PyTree, key: Key, first: Array, stop: Array, data: PyTree) -> tuple[PyTree, Any]:
        traced = jax.jit(stepped, inline=True)  # Asked for its shapes and then for its operations, it is traced once.
        shapes = jax.eval_shape(traced, state, key, first, data)[1]
        infos = jax.tree.map(lambda leaf: jnp.zeros((max_steps, *leaf.shape), leaf.dtype), shapes)

        def body(index: Array, carry: tuple[PyTree, Any]) -> tuple[PyTree, Any]:
            state, infos = carry
            state, info = traced(state, key, index, data)
            return state, jax.tree.map(lambda buffer, value: buffer.at[index - first].set(value), infos, info)

        return jax.lax.fori_loop(first, stop, body, (state, infos))

    @functools.cache  # the platform is not asked for before the first run
    def compiled(function: Callable[..., Any]) -> Any:
        return top_level_jit(function, donate_argnums=0)

    def run_on_device(state: PyTree, key: Key, first: int, stop: int, data: PyTree) -> tuple[PyTree, Infos]:
        state, infos = compiled(on_device)(state, key, np.int32(first), np.int32(stop), data)
        return state, jax.tree.map(lambda leaf: np.asarray(leaf)[: stop - first], infos)

    def run_on_host(state: PyTree, key: Key, first: int, stop: int, data: PyTree) -> tuple[PyTree, Infos]:
        infos = []
        for index in range(first, stop):
            state, info = compiled(stepped)(state, key, np.int32(index), data)
            infos.append(info)
        return state, jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(infos))

    def run_chunk(state: PyTree, key: Key, first: int, stop: int, data: PyTree) -> tuple[PyTree, Infos]:
        if not 0 < stop - first <= max_steps:
            raise ValueError(f"a chunk is of 1 to {max_steps} steps, got steps {first} to {stop}")
        return (run_on_device if loops_on_device() else run_on_host)(state, key, first, stop, data)

    def loops_on_device() -> bool:
        return (loop or ("host" if jax.default_backend() == "cpu" else "device")) == "device"

    def compile_chunk(state: PyTree, key: Key, data: PyTree) -> jax.stages.Compiled:
        program, numbers = (on_device, 2) if loops_on_device() else (stepped, 1)
        return compiled(program).lower(state, key, *[np.int32(0)] * numbers, data).compile()

    return Chunk(run_chunk, max_steps, compile_chunk)


def check_same_types(before: PyTree, after: PyTree) -> None:
    """Raises TypeError where a state comes back in another form, which would be traced again at the next step."""

    def describe(tree: PyTree) -> dict[str, str]:
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        return {jax.tree_util.keystr(path): jax.typeof(leaf).str_short() for path, leaf in leaves}

    old, new = describe(before), describe(after)
    for path in sorted(old.keys() | new.keys()):
        if old.get(path) != new.get(path):
            raise TypeError(
                f"a state must keep its form, but {path} is {old.get(path)} before and {new.get(path)} after"
            )
