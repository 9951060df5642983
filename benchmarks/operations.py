"""The operations that decide how a supernet is written for a CPU, each beside the plain way to write it.

    python -m benchmarks.operations [--batch 64] [--size 32] [--channels 16]

Prints one JSON object a line: what, and milliseconds (median of `repeats`) of the plain form and of this library's. The
lines "edge" and "cell" have no plain form; they time the operations of one DARTS edge and the scan over all 14.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from experiments import cli
from jaxnas.base import Array, Context
from jaxnas.kernels.compiling import top_level_jit
from jaxnas.kernels.depthwise import depthwise
from jaxnas.ops import layers
from jaxnas.ops.primitives import named
from jaxnas.spaces import DARTS_OPERATIONS, edge_table
from jaxnas.supernets.executors import Layout, edges_init, scan_executor
from jaxnas.supernets.executors.scan import mixed_op

LOOP = 8
"""Times that what is timed in a loop is done in one."""


@dataclasses.dataclass(frozen=True)
class Config:
    batch: int = 64
    size: int = 32
    channels: int = 16
    repeats: int = 7


def gradients(function: Callable[..., Array], which: tuple[int, ...]) -> Callable[..., Any]:
    """(arguments, output gradient) -> gradients of the arguments at `which`."""

    def pulled(arguments: tuple[Any, ...], g: Array) -> Any:
        def of_some(*some: Any) -> Array:
            whole = list(arguments)
            for place, value in zip(which, some, strict=True):
                whole[place] = value
            return function(*whole)

        return jax.vjp(of_some, *(arguments[place] for place in which))[1](g)

    return pulled


def main(config: Config) -> None:
    keys = jax.random.split(jax.random.key(0), 4)
    shape = (config.batch, config.size, config.size, config.channels)
    x, g = jax.random.normal(keys[0], shape), jax.random.normal(keys[1], shape)

    def milliseconds(function: Callable[..., Any], *arguments: Any) -> float:
        compiled = top_level_jit(function).lower(*arguments).compile()
        jax.block_until_ready(compiled(*arguments))
        times = []
        for _ in range(config.repeats):
            start = time.perf_counter()
            jax.block_until_ready(compiled(*arguments))
            times.append(time.perf_counter() - start)
        return 1e3 * statistics.median(times)

    def line(name: str, plain: float | None, ours: float) -> None:
        print(json.dumps({"name": name, "plain_ms": plain and round(plain, 2), "ours_ms": round(ours, 2)}), flush=True)

    for k in (3, 5):
        kernel = jax.random.normal(keys[2], (k, k, config.channels))

        def grouped(x: Array, kernel: Array) -> Array:
            return lax.conv_general_dilated(
                x, kernel[:, :, None], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=config.channels,
            )  # fmt: skip

        line(f"depthwise {k}x{k}", milliseconds(grouped, x, kernel), milliseconds(depthwise, x, kernel))
        times = [milliseconds(gradients(f, (1,)), (x, kernel), g) for f in (grouped, depthwise)]
        line(f"gradient of the {k}x{k} depthwise kernel", *times)

    square = jax.random.normal(keys[2], (config.channels, config.channels))
    times = [milliseconds(gradients(f, (0, 1)), (x, square), g) for f in (jnp.dot, layers.pointwise)]
    line("gradients of a 1x1 convolution", *times)

    def xla(x: Array, kernel: Array, stride: int) -> Array:
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def repeated(form: Callable[..., Array], stride: int) -> Callable[..., Any]:
        """The gradients again and again in one loop, each from the arguments that the last one moved."""

        def body(_: int, arguments: tuple[Array, Array]) -> tuple[Array, Array]:
            x, kernel = arguments
            y, pull = jax.vjp(lambda x, kernel: form(x, kernel, stride), x, kernel)
            dx, dkernel = pull(y)
            return x - 1e-6 * dx, kernel - 1e-6 * dkernel

        return lambda x, kernel: lax.fori_loop(0, LOOP, body, (x, kernel))

    half, width = config.size // 2, config.channels
    strided = ((config.size, width, 2), (half, 2 * width, 2))
    for size, channels, stride in (*strided, (2, 2 * width, 1), (config.size, width, 1)):
        small = jax.random.normal(keys[0], (config.batch, size, size, channels))
        kernel = 0.1 * jax.random.normal(keys[2], (3, 3, channels, stride * channels))
        times = [milliseconds(repeated(form, stride), small, kernel) / LOOP for form in (xla, layers.conv)]
        line(f"3x3 convolution of stride {stride}, forward and gradients in a loop, {list(small.shape)}", *times)

    primitives = named(DARTS_OPERATIONS, pool_norms=True)
    edge = mixed_op(primitives, 1)
    layout = Layout(inputs=2, nodes=4, ends=tuple((source, target) for target, source in edge_table(4)))
    params = edges_init(primitives, layout, keys[3], config.channels, (), affine=False)
    weights = jnp.full((len(layout.ends), len(primitives)), 1 / len(primitives))
    first = jax.tree.map(lambda leaf: leaf[0], params["plain"])

    def one(params: Any, weights: Array, x: Array) -> Array:
        return edge(params, weights, x, None, Context())[0]

    line("edge, forward", None, milliseconds(one, first, weights[0], x))
    line("edge, gradients of weights and input", None, milliseconds(gradients(one, (1, 2)), (first, weights[0], x), g))
    line("edge, all gradients", None, milliseconds(gradients(one, (0, 1, 2)), (first, weights[0], x), g))

    mixture = scan_executor(primitives).mixture

    def cell(params: Any, weights: Array, inputs: Array) -> Array:
        return mixture(layout, params, weights, inputs, Context())

    arguments = (params, weights, jnp.stack([x, g]))
    nodes = jnp.stack([g] * layout.nodes)
    line("cell, forward", None, milliseconds(cell, *arguments))
    line("cell, gradients of weights and input", None, milliseconds(gradients(cell, (1, 2)), arguments, nodes))
    line("cell, all gradients", None, milliseconds(gradients(cell, (0, 1, 2)), arguments, nodes))


if __name__ == "__main__":
    cli.main(main, Config)
