"""The edges of one source side by side in the channels: what a CPU wants where operations are dense convolutions.

From 16 to 48 channels XLA:CPU's convolution takes half of the time of three convolutions to 16
(docs/appendix_performance.md; wider ones gain less). What the convolutions give is kept for the backward pass;
operations without parameters are computed again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnas.base import Array, Context, PyTree
from jaxnas.kernels.norm import EPSILON, channel_sums, moments, placed, standardize_by, widened
from jaxnas.kernels.platform import outlined
from jaxnas.ops import layers
from jaxnas.ops.primitives import Dense, Primitive, Zero
from jaxnas.supernets.executors.layout import Executor, Layout
from jaxnas.supernets.executors.scan import scan_executor


def suits(primitives: Sequence[Primitive]) -> bool:
    """Whether edges of stride 1 with these operations can be run so: dense convolutions, of which there is one, and
    operations that have no parameters, no batch norm and draw nothing."""
    dense = [isinstance(primitive.family, Dense) for primitive in primitives]
    return any(dense) and all(own or _is_plain(p) for own, p in zip(dense, primitives, strict=True))


def _is_plain(primitive: Primitive) -> bool:
    params = jax.eval_shape(lambda: primitive.init(jax.random.key(0), 16, 1, False))
    return not (jax.tree.leaves(params) or primitive.random or primitive.norms(16, 1))


def wide_executor(primitives: Sequence[Primitive], keep: np.ndarray | None = None) -> Executor:
    """The executor of the edges of one source at a time, which the primitives must suit.

    Cells that halve the image, and paths, run as of `scan_executor`. keep: bool [S, O], the operations that the slots
    of a mixture have.
    """
    primitives = tuple(primitives)
    scan = scan_executor(primitives, keep)

    def mixture(layout: Layout, params: PyTree, weights: Array, inputs: Array, context: Context) -> Array:
        if layout.halves:
            return scan.mixture(layout, params, weights, inputs, context)
        states = [*inputs, *layout.room(inputs)]
        for source in sorted({source for source, _ in layout.ends}):
            slots = np.array([slot for slot, (start, _) in enumerate(layout.ends) if start == source])
            targets = [layout.ends[slot][1] + layout.inputs for slot in slots]
            there = np.ones((len(slots), len(primitives)), bool) if keep is None else keep[slots]
            fan = _fan(primitives, there, context.axis_name)
            kernels = [params["plain"][member.number]["kernel"][slots[list(member.edges)]] for member in fan.dense]
            before = [states[target] for target in targets]
            after = _added(fan, kernels, weights[slots], states[source], before, context.wanted)
            for target, state in zip(targets, after, strict=True):
                states[target] = state
        return jnp.stack(states[layout.inputs :])

    return Executor(mixture, scan.path)


class _Member(NamedTuple):
    """An operation of a fan, its number, and the edges that have it."""

    primitive: Primitive
    number: int
    edges: tuple[int, ...]


class _Fan(NamedTuple):
    """The edges of one source: how many there are, and their operations."""

    edges: int
    dense: tuple[_Member, ...]
    plain: tuple[_Member, ...]
    axis_name: str | None


def _fan(primitives: Sequence[Primitive], there: np.ndarray, axis_name: str | None) -> _Fan:
    """there: bool [E, O], the operations that the edges have."""
    dense: list[_Member] = []
    plain: list[_Member] = []
    for number, primitive in enumerate(primitives):
        edges = tuple(np.flatnonzero(there[:, number]).tolist())
        if edges and not isinstance(primitive.family, Zero):
            (dense if isinstance(primitive.family, Dense) else plain).append(_Member(primitive, number, edges))
    return _Fan(len(there), tuple(dense), tuple(plain), axis_name)


class _Kept(NamedTuple):
    """Of each dense convolution: what it gave, [B, h, w, R * C] of its R edges, and mean and variance of that."""

    output: Array
    mean: Array
    variance: Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _added(
    fan: _Fan, kernels: list[Array], weights: Array, x: Array, before: list[Array], wanted: Array | None
) -> list[Array]:
    """What the nodes are after the edges of a source, given what they were before.

    kernels: of each dense operation, [R, ...] of its edges. weights: [E, O]. before: of each edge the node it ends in.
    """
    return _forward(fan, kernels, weights, x, before, wanted)[0]


@functools.partial(outlined, static=(0,))
def _forward(
    fan: _Fan, kernels: list[Array], weights: Array, x: Array, before: list[Array], wanted: Array | None
) -> tuple[list[Array], Any]:
    positive = _relu(x)
    kept = []
    for kernel in kernels:
        # By forward rules, which have a forward-mode derivative, as a second-order hypergradient takes it.
        output, _ = jax.vjp(_convolution(wanted), positive, kernel)
        kept.append(_Kept(output, *moments(output, fan.axis_name)))
    plain = [jax.vjp(functools.partial(_applied, member.primitive), x)[0] for member in fan.plain]
    return _sum(fan, kept, plain, weights, before), (kernels, weights, x, kept, wanted)


def _convolution(wanted: Array | None) -> Callable[[Array, Array], Array]:
    """(x [B, H, W, C], kernels [R, k, k, C, C] or [R, C, C]) -> [B, H, W, R * C]."""

    def convolved(x: Array, kernels: Array) -> Array:
        wide = jnp.moveaxis(kernels, 0, -2)
        convolve = layers.pointwise if kernels.ndim == 3 else layers.conv
        return convolve(x, wide.reshape(*wide.shape[:-2], -1), 1, Context(wanted=wanted))

    return convolved


@functools.partial(outlined, static=(0,))
def _applied(primitive: Primitive, x: Array) -> Array:
    """An operation without parameters, computed once for all edges."""
    return primitive.apply({}, x, 1, Context())[0]


_relu = outlined(jax.nn.relu)
_joined = outlined(lambda arrays: jnp.concatenate(arrays, -1))


def _part(member: _Member, edge: int, channels: int) -> slice:
    """The channels of an edge among those of a dense operation."""
    place = member.edges.index(edge)
    return slice(place * channels, (place + 1) * channels)


@functools.partial(outlined, static=(0,))
def _sum(fan: _Fan, kept: list[_Kept], plain: list[Array], weights: Array, before: list[Array]) -> list[Array]:
    factors = [lax.rsqrt(each.variance + EPSILON) for each in kept]
    after = []
    for edge, node in enumerate(before):
        total = widened(node)
        for member, (output, mean, _), factor in zip(fan.dense, kept, factors, strict=True):
            if edge in member.edges:
                own = _part(member, edge, node.shape[-1])
                scale = factor[own] * weights[edge, member.number]
                total = total + (widened(output[..., own]) - placed(mean[own])) * placed(scale)
        for member, output in zip(fan.plain, plain, strict=True):
            if edge in member.edges:
                total = total + widened(output) * weights[edge, member.number]
        after.append(total.astype(node.dtype))
    return after


@functools.partial(outlined, static=(0,))
def _backward(fan: _Fan, residuals: Any, g: list[Array]) -> tuple[Any, ...]:
    kernels, weights, x, kept, wanted = residuals
    channels, positive = x.shape[-1], _relu(x)
    to_weights = jnp.zeros_like(weights)
    to_kernels, to_positive, to_x = [], [], []
    joined = {edges: _joined([g[edge] for edge in edges]) for edges in {member.edges for member in fan.dense}}
    for member, kernel, (output, mean, variance) in zip(fan.dense, kernels, kept, strict=True):
        rows = np.array(member.edges)
        scale = jnp.repeat(weights[rows, member.number], channels)
        _, pull = jax.vjp(lambda y, m, v, s: standardize_by(y, m, v, s, fan.axis_name), output, mean, variance, scale)
        to_output, _, _, to_scale = pull(joined[member.edges])
        to_weights = to_weights.at[rows, member.number].set(_over_channels(to_scale.reshape(-1, channels)))
        positive_part, to_kernel = jax.vjp(_convolution(wanted), positive, kernel)[1](to_output)
        to_positive.append(positive_part)
        to_kernels.append(to_kernel)
    for member in fan.plain:
        rows, own = np.array(member.edges), [g[edge] for edge in member.edges]
        y, pull = jax.vjp(functools.partial(_applied, member.primitive), x)
        to_y, sums = _scaled(weights[rows, member.number], y, own)
        to_x.append(pull(to_y)[0])
        to_weights = to_weights.at[rows, member.number].set(_over_channels(sums))
    return to_kernels, to_weights, _joint(x, to_positive, to_x), g, None


def _over_channels(sums: Array) -> Array:
    """[R, C] -> [R], as a product, which XLA does not join with the sums over positions (as in `per_channel`)."""
    return sums @ jnp.ones((sums.shape[-1],), sums.dtype)


@outlined
def _scaled(weights: Array, y: Array, g: list[Array]) -> tuple[Array, Array]:
    """The gradients of y and, for each channel, of the weights, where edge e adds weights[e] * y: [E, C]."""
    to_y = functools.reduce(jnp.add, [widened(own) * weights[e] for e, own in enumerate(g)])
    sums = [channel_sums(lambda y, own: widened(y) * widened(own), y, own) for own in g]
    return to_y.astype(y.dtype), jnp.stack(sums)


@outlined
def _joint(x: Array, to_positive: list[Array], to_x: list[Array]) -> Array:
    """The gradient of x by way of its ReLU and otherwise."""
    nothing = jnp.zeros_like(widened(x))
    through = functools.reduce(jnp.add, map(widened, to_positive), nothing)
    return functools.reduce(jnp.add, map(widened, to_x), jnp.where(x > 0, through, 0)).astype(x.dtype)


_added.defvjp(_forward, _backward)
