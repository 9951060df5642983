"""The kernels of `jaxnas.kernels` on a CPU, each beside the plain way to write the same in JAX.

    python -m benchmarks.operations [--names depthwise pools] [--batch 64] [--size 32] [--channels 16]

Prints one JSON object a line: the piece, what is computed, the least milliseconds of `rounds` in which both forms take
turns, and the seconds in which either was compiled. The piece "cell" has no plain form: it times one DARTS edge and the
scan over the 14 edges of a cell. docs/kernels.md has the figures; `benchmarks.pieces` leaves pieces out of whole steps.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnas import command
from jaxnas.base import Array, Context
from jaxnas.kernels import arrays, convolution, depthwise, many_depthwise, norm, pooling, trees
from jaxnas.kernels.compiling import top_level_jit
from jaxnas.ops.primitives import named
from jaxnas.spaces import DARTS_OPERATIONS, NASBENCH201_OPERATIONS, edge_table
from jaxnas.spaces.nasbench201 import NASBENCH201_EDGES
from jaxnas.supernets.executors import Executor, Layout, edges_init, scan_executor, wide_executor
from jaxnas.supernets.executors.edge import mixed_op

LOOP = 8
"""Times that what is timed in a loop is done in one."""


@dataclasses.dataclass(frozen=True)
class Config:
    names: tuple[str, ...] = ()
    """Pieces, by the names of `PIECES`; none is all."""
    batch: int = 64
    size: int = 32
    channels: int = 16
    rounds: int = 15

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.size, self.size, self.channels


class Case(NamedTuple):
    """Two functions of the same arguments. plain: None where there is none. times: how often one call does it."""

    what: str
    plain: Callable[..., Any] | None
    ours: Callable[..., Any]
    arguments: tuple[Any, ...]
    times: int = 1


def normal(seed: int, *shape: int) -> Array:
    return jax.random.normal(jax.random.key(seed), shape)


def gradients(function: Callable[..., Any], which: tuple[int, ...] = (0, 1)) -> Callable[..., Any]:
    """(output gradient, *arguments) -> gradients of the arguments at `which`."""

    def pulled(g: Any, *arguments: Any) -> Any:
        def of_some(*some: Any) -> Any:
            whole = list(arguments)
            for place, value in zip(which, some, strict=True):
                whole[place] = value
            return function(*whole)

        return jax.vjp(of_some, *(arguments[place] for place in which))[1](g)

    return pulled


def both(what: str, forms: tuple[Callable[..., Any], Callable[..., Any]], g: Array, *arguments: Array) -> list[Case]:
    """The functions themselves, and their gradients of all arguments."""
    places = tuple(range(len(arguments)))
    plain, ours = (gradients(form, places) for form in forms)
    return [Case(what, *forms, arguments), Case(f"gradients of {what}", plain, ours, (g, *arguments))]


def grouped(x: Array, kernel: Array) -> Array:
    return many_depthwise.grouped(x, kernel, 1, 1)


def of_depthwise(config: Config, plain: Callable[..., Array] = grouped) -> Iterator[Case]:
    x, g = normal(0, *config.shape), normal(1, *config.shape)
    for k in (3, 5):
        kernel = normal(2, k, k, config.channels)
        yield Case(f"{k}x{k}", plain, depthwise.depthwise, (x, kernel))
        for which, name in ((0, "input"), (1, "kernel")):
            pulled, ours = (gradients(form, (which,)) for form in (plain, depthwise.depthwise))
            yield Case(f"gradient of the {name}, {k}x{k}", pulled, ours, (g, x, kernel))


def of_looked_up(config: Config) -> Iterator[Case]:
    """The form of a GPU on a CPU: why there are two."""

    def looked_up(x: Array, kernel: Array) -> Array:
        return many_depthwise.many_depthwise(x[None, None], kernel[None, None], 1, 1, False)[0, 0]

    yield from of_depthwise(config, looked_up)


def of_along(config: Config) -> Iterator[Case]:
    """A depthwise convolution of relu(x) and its derivative along a direction of x, or of x and the kernel."""

    def plain(x: Array, kernel: Array) -> Array:
        return depthwise._correlation(x, kernel, None, 1, 1, True, True)

    def ours(x: Array, kernel: Array) -> Array:
        return depthwise._correlate(x, kernel, 1, 1, True, True)

    def of_input(form: Callable[..., Array]) -> Callable[..., Any]:
        return lambda x, kernel, dx, dkernel: jax.jvp(lambda x: form(x, kernel), (x,), (dx,))

    def of_both(form: Callable[..., Array]) -> Callable[..., Any]:
        return lambda x, kernel, dx, dkernel: jax.jvp(form, (x, kernel), (dx, dkernel))

    kernels = normal(2, 5, 5, config.channels), normal(3, 5, 5, config.channels)
    arguments = (normal(0, *config.shape), kernels[0], normal(1, *config.shape), kernels[1])
    for what, along in (("x", of_input), ("x and the kernel", of_both)):
        yield Case(f"5x5, along {what}", along(plain), along(ours), arguments)


def of_pointwise(config: Config) -> Iterator[Case]:
    x, g, matrix = normal(0, *config.shape), normal(1, *config.shape), normal(2, config.channels, config.channels)
    yield from both("1x1", (jnp.dot, convolution.pointwise), g, x, matrix)


def of_gate(config: Config) -> Iterator[Case]:
    """Of gradients that are not wanted: computed all the same, or not."""
    x, g = normal(0, *config.shape), normal(1, *config.shape)
    forms: tuple[tuple[str, Callable[..., Array], Array], ...] = (
        ("depthwise 5x5", depthwise.depthwise, normal(2, 5, 5, config.channels)),
        ("3x3", convolution.conv, normal(2, 3, 3, config.channels, config.channels)),
        ("1x1", convolution.pointwise, normal(2, config.channels, config.channels)),
    )
    for name, form, kernel in forms:
        ours = gradients(lambda x, kernel, wanted, form=form: form(x, kernel, context=Context(wanted=wanted)))
        plain = gradients(lambda x, kernel, wanted, form=form: form(x, kernel))
        yield Case(f"gradients of {name}, the kernel's not wanted", plain, ours, (g, x, kernel, jnp.array(False)))


def of_conv(config: Config) -> Iterator[Case]:
    """The gradients again and again in one loop, each from the arguments that the last one moved."""

    def xla(x: Array, kernel: Array, stride: int) -> Array:
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def repeated(form: Callable[..., Array], stride: int) -> Callable[..., Any]:
        def body(_: int, arguments: tuple[Array, Array]) -> tuple[Array, Array]:
            x, kernel = arguments
            y, pull = jax.vjp(lambda x, kernel: form(x, kernel, stride), x, kernel)
            dx, dkernel = pull(y)
            return x - 1e-6 * dx, kernel - 1e-6 * dkernel

        return lambda x, kernel: lax.fori_loop(0, LOOP, body, (x, kernel))

    half, width = config.size // 2, config.channels
    for size, channels, stride in (
        (config.size, width, 2),
        (half, 2 * width, 2),
        (2, 2 * width, 1),
        (config.size, width, 1),
    ):
        x, kernel = normal(0, config.batch, size, size, channels), 0.1 * normal(2, 3, 3, channels, stride * channels)
        what = f"3x3 of stride {stride}, forward and gradients in a loop, {list(x.shape)}"
        yield Case(what, repeated(xla, stride), repeated(convolution.conv, stride), (x, kernel), LOOP)


def of_pools(config: Config) -> Iterator[Case]:
    def reduced(x: Array, start: float, add: Any, stride: int) -> Array:
        return lax.reduce_window(x, start, add, (1, 3, 3, 1), (1, stride, stride, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))

    x = normal(0, *config.shape)
    for stride in (1, 2):

        def maxima(x: Array, stride: int = stride) -> Array:
            return reduced(x, -jnp.inf, lax.max, stride)

        def means(x: Array, stride: int = stride) -> Array:
            return reduced(x, 0.0, lax.add, stride) / reduced(jnp.ones_like(x[:1, ..., :1]), 0.0, lax.add, stride)

        g = maxima(x)
        yield from both(f"maximum, stride {stride}", (maxima, lambda x, s=stride: pooling.max_pool(x, s)), g, x)
        yield from both(f"mean, stride {stride}", (means, lambda x, s=stride: pooling.avg_pool(x, s)), g, x)


def plain_batch_norm(x: Array, scale: Array) -> Array:
    factor = lax.rsqrt(jnp.var(x, (0, 1, 2)) + norm.EPSILON) * scale
    return (x - norm.placed(jnp.mean(x, (0, 1, 2)))) * norm.placed(factor)


def standardized(x: Array, scale: Array | None) -> Array:
    return norm.standardize(x, scale, None)[0]


def of_batch_norm(config: Config) -> Iterator[Case]:
    x, g, scale = normal(0, *config.shape), normal(1, *config.shape), normal(2, config.channels)
    yield from both("batch norm", (plain_batch_norm, standardized), g, x, scale)

    def plain(x: Array, g: Array) -> Array:
        return jnp.sum(x * g, (0, 1, 2))

    yield Case("sums of a product", plain, lambda x, g: norm.channel_sums(lambda x, g: x * g, x, g), (x, g))


def of_known(config: Config) -> Iterator[Case]:
    """A batch norm computed again with its gradient: with its sums, or by those kept."""
    x, g, scale = normal(0, *config.shape), normal(1, *config.shape), normal(2, config.channels)
    _, mean, variance = norm.standardize(x, scale, None)

    def again(g: Array, x: Array, scale: Array, mean: Array, variance: Array) -> Any:
        y, pull = jax.vjp(standardized, x, scale)
        return y, pull(g)

    def kept(g: Array, x: Array, scale: Array, mean: Array, variance: Array) -> Any:
        y, pull = jax.vjp(lambda x, scale: norm.standardize_by(x, mean, variance, scale, None), x, scale)
        return y, pull(g)

    yield Case("batch norm again, and its gradient", again, kept, (g, x, scale, mean, variance))


def of_scaled(config: Config) -> Iterator[Case]:
    """A batch norm whose output is weighted: after it, or in it."""

    def after(x: Array, scale: Array) -> Array:
        return norm.scale_channels(standardized(x, None), scale)

    x, g, scale = normal(0, *config.shape), normal(1, *config.shape), normal(2, config.channels)
    yield from both("batch norm with a weight", (after, standardized), g, x, scale)


def of_per_channel(config: Config) -> Iterator[Case]:
    """The weighted sum of two arrays, as of a pool and of a skip in a mixture."""

    def plain(weights: Array, x: Array, y: Array) -> Array:
        return weights[0] * x + weights[1] * y

    def automatic(weights: Array, x: Array, y: Array) -> Array:
        scales = norm.per_channel(weights, x.shape[-1])
        return x * norm.placed(scales[0]) + y * norm.placed(scales[1])

    def ours(weights: Array, x: Array, y: Array) -> Array:
        scales = norm.per_channel(weights, x.shape[-1])
        return norm.scale_channels(x, scales[0]) + norm.scale_channels(y, scales[1])

    x, g, weights = normal(0, *config.shape), normal(1, *config.shape), normal(2, 2)
    for name, form in (("per_channel and scale_channels", ours), ("per_channel alone", automatic)):
        what, arguments = f"gradients of a sum with weights, {name}", (g, weights, x, g + x)
        yield Case(what, gradients(plain), gradients(form), arguments)


def of_add_at(config: Config) -> Iterator[Case]:
    """A scan that adds a function of one node to another node."""

    def adding(add: Callable[..., Array]) -> Callable[..., Array]:
        def edge(nodes: Array, ends: Array) -> tuple[Array, None]:
            x = lax.dynamic_index_in_dim(nodes, ends[0], 0, keepdims=False)
            return add(nodes, ends[1], sum(jnp.roll(jnp.tanh(x), k, 1) for k in range(3))), None

        return lambda nodes, ends: lax.scan(edge, nodes, ends)[0]

    ends = jnp.array([(0, 2), (1, 2), (0, 3), (1, 3), (2, 3), (0, 4), (1, 4), (2, 4)])
    plain = adding(lambda nodes, index, value: nodes.at[index].add(value))
    yield Case("additions to nodes", plain, adding(arrays.add_at), (normal(0, 5, *config.shape), ends), len(ends))


def of_joined(config: Config) -> Iterator[Case]:
    def plain(states: Array) -> Array:
        return jnp.concatenate(list(states), -1)

    states, g = normal(0, 4, *config.shape), normal(1, *config.shape[:-1], 4 * config.channels)
    yield from both("4 nodes side by side", (plain, arrays.joined), g, states)


def of_materialized(config: Config) -> Iterator[Case]:
    """A scan over depthwise kernels, each a slice of an array of all."""

    def over(taken: Callable[[Array], Array]) -> Callable[..., Array]:
        def edge(x: Array, kernel: Array) -> tuple[Array, None]:
            return depthwise._sum_of_taps(
                jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0))), taken(kernel), 1, 1, *size
            ), None

        return lambda x, kernels: lax.scan(edge, x, kernels)[0]

    size = (config.size, config.size)
    arguments = (normal(0, *config.shape), 0.1 * normal(1, LOOP, 5, 5, config.channels))
    yield Case("depthwise 5x5 of a slice", over(lambda kernel: kernel), over(arrays.materialized), arguments, LOOP)


def of_dealt(config: Config) -> Iterator[Case]:
    """Parameters of 14 edges, taken by the five stages of a cell."""
    order = (((0, 2, 5, 9), (1, 3, 6, 10)), ((4, 7, 11),), ((8, 12),), ((13,),))

    def plain(leaf: Array) -> tuple[Array, ...]:
        return arrays._dealt(leaf, order)

    leaf = normal(0, 14, config.channels, config.channels)
    g = jax.tree.map(jnp.cos, plain(leaf))
    automatic, ours = (gradients(form, (0,)) for form in (plain, lambda leaf: arrays.dealt(leaf, order)))
    yield Case("gradient of the edges' parts", automatic, ours, (g, leaf))


def of_norm(config: Config) -> Iterator[Case]:
    """110 leaves scaled by their norm, and the gradient of that."""

    def plain_norm(tree: Any) -> Array:
        return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in tree))

    def clipped(norm: Callable[..., Array], times: Callable[..., Any]) -> Callable[..., Any]:
        return lambda tree: times(tree, 1 / norm(tree))

    def plain_times(tree: Any, factor: Array) -> Any:
        return [leaf * factor for leaf in tree]

    tree = [normal(i, 3, 3, config.channels * (1 + i % 3)) for i in range(110)]
    forms = (clipped(plain_norm, plain_times), clipped(trees.norm, plain_times), clipped(trees.norm, trees.times))
    yield Case("norm", forms[0], forms[1], (tree,))
    yield Case("norm, its gradient", gradients(forms[0], (0,)), gradients(forms[1], (0,)), (tree, tree))
    yield Case("times, its gradient", gradients(forms[1], (0,)), gradients(forms[2], (0,)), (tree, tree))


def of_cell(config: Config) -> Iterator[Case]:
    primitives = named(DARTS_OPERATIONS, pool_norms=True)
    held, edge = primitives[1:], mixed_op(primitives[1:], 1, None)  # all but "none"
    layout = Layout(2, 4, tuple((source, node) for node, source in edge_table(4)))
    params = edges_init(primitives, layout, jax.random.key(3), config.channels, (), False)
    weights = jnp.full((len(layout.ends), len(primitives)), 1 / len(primitives))
    first = [jax.tree.map(lambda leaf: leaf[0], own) for own in params["plain"][1:]]

    def one(params: Any, weights: Array, x: Array) -> Array:
        return edge(params, weights, x, (None, None), None, None)[0]

    def cell(params: Any, weights: Array, inputs: Array) -> Array:
        return scan_executor(primitives).mixture(layout, params, weights, inputs, Context())

    x, inputs, g = normal(0, *config.shape), normal(1, 2, *config.shape), normal(2, 4, *config.shape)
    for name, form, arguments, cotangent in (
        ("edge", one, (first, weights[0, : len(held)], x), x),
        ("cell", cell, (params, weights, inputs), g),
    ):
        yield Case(f"{name}, forward", None, form, arguments)
        for which, what in (((1, 2), "gradients of weights and input"), ((0, 1, 2), "all gradients")):
            yield Case(f"{name}, {what}", None, gradients(form, which), (cotangent, *arguments))


def of_wide(config: Config) -> Iterator[Case]:
    """A cell of NAS-Bench-201, its edges one after another and those of a source side by side."""
    primitives = named(NASBENCH201_OPERATIONS)
    layout = Layout(1, 3, tuple((source, node - 1) for node, source in NASBENCH201_EDGES))
    params = edges_init(primitives, layout, jax.random.key(3), config.channels, (), False)
    weights = jnp.full((len(layout.ends), len(primitives)), 1 / len(primitives))
    inputs, g = normal(0, 1, *config.shape), normal(1, 3, *config.shape)

    def form(make: Callable[..., Executor]) -> Callable[..., Array]:
        return lambda params, weights, inputs: make(primitives).mixture(layout, params, weights, inputs, Context())

    plain, ours = form(scan_executor), form(wide_executor)
    yield Case("cell, forward", plain, ours, (params, weights, inputs))
    for which, what in (((1, 2), "gradients of weights and input"), ((0, 1, 2), "all gradients")):
        arguments = (g, params, weights, inputs)
        yield Case(f"cell, {what}", gradients(plain, which), gradients(ours, which), arguments)


PIECES: dict[str, Callable[[Config], Iterator[Case]]] = {
    "depthwise": of_depthwise,
    "looked_up": of_looked_up,
    "along": of_along,
    "pointwise": of_pointwise,
    "gate": of_gate,
    "conv": of_conv,
    "pools": of_pools,
    "batch_norm": of_batch_norm,
    "known": of_known,
    "scaled": of_scaled,
    "per_channel": of_per_channel,
    "add_at": of_add_at,
    "joined": of_joined,
    "materialized": of_materialized,
    "dealt": of_dealt,
    "norm": of_norm,
    "cell": of_cell,
    "wide": of_wide,
}


def measured(case: Case, rounds: int) -> dict[str, Any]:
    """Milliseconds and seconds of compilation of both forms; they take turns, so that what else runs meets both."""
    forms = {"plain": case.plain, "ours": case.ours}
    compiled, told = {}, {}
    for name, form in forms.items():
        if form is not None:
            start = time.perf_counter()
            compiled[name] = top_level_jit(form).lower(*case.arguments).compile()
            told[f"{name}_compile_s"] = round(time.perf_counter() - start, 2)
            jax.block_until_ready(compiled[name](*case.arguments))
    least = dict.fromkeys(compiled, float("inf"))
    for _ in range(rounds):
        for name, run in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(run(*case.arguments))
            least[name] = min(least[name], time.perf_counter() - start)
    return {f"{name}_ms": round(1e3 * seconds / case.times, 3) for name, seconds in least.items()} | told


def main(config: Config) -> None:
    if unknown := set(config.names) - set(PIECES):
        raise ValueError(f"unknown piece {min(unknown)!r}; there are {', '.join(PIECES)}")
    for name in config.names or PIECES:
        for case in PIECES[name](config):
            told = measured(case, config.rounds)
            print(json.dumps({"name": name, "what": case.what, **told}), flush=True)


if __name__ == "__main__":
    command.main(main, Config)
