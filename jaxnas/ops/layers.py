"""Layers as pairs of init and apply: convolutions, batch norm, factorized reduction, dense layer, drop-path.

An apply that has a kernel or statistics takes the `Context` of the pass. What makes them fast is in `jaxnas.kernels`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnas.base import PLAIN, Array, Context, Key
from jaxnas.kernels import norm
from jaxnas.kernels.convolution import conv, pointwise
from jaxnas.kernels.depthwise import depthwise, relu_depthwise
from jaxnas.kernels.platform import by_platform
from jaxnas.kernels.trees import stacked, unstacked

__all__ = [
    "BatchStats",
    "Known",
    "Params",
    "affine_init",
    "batch_norm",
    "batch_norms",
    "conv",
    "conv_init",
    "dense",
    "dense_init",
    "depthwise",
    "depthwise_init",
    "drop_path",
    "drops_paths",
    "factorized_reduce",
    "factorized_reduce_init",
    "initial_stats",
    "pointwise",
    "relu_depthwise",
    "stack",
    "uniform_fan_in",
]

Params = dict[str, Any]


def uniform_fan_in(key: Key, shape: Sequence[int], fan_in: int) -> Array:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): what PyTorch, hence every published recipe, gives convolutions."""
    bound = 1.0 / math.sqrt(fan_in)
    return jax.random.uniform(key, tuple(shape), jnp.float32, -bound, bound)


def conv_init(key: Key, size: int, channels_in: int, channels_out: int) -> Array:
    """A kernel [k, k, C_in, C_out], or [C_in, C_out] for size 1."""
    shape = (channels_in, channels_out) if size == 1 else (size, size, channels_in, channels_out)
    return uniform_fan_in(key, shape, size * size * channels_in)


def depthwise_init(key: Key, size: int, channels: int) -> Array:
    """A depthwise kernel [k, k, C]."""
    return uniform_fan_in(key, (size, size, channels), size * size)


BatchStats = tuple[Array, Array]
"""(mean [C], variance [C]), the variance unbiased."""


class Known(NamedTuple):
    """What a batch norm has told before of the very batch that it is given again: as "batch", without summing again."""

    mean: Array
    variance: Array


def batch_norm(x: Array, affine: Params | None = None, context: Context = PLAIN) -> tuple[Array, BatchStats]:
    """Batch norm of x [B, H, W, C]: by the batch's statistics where `context.bn` is "batch", else by those it has.

    Returns the output and the statistics: those given, or the batch's mean and unbiased variance, which are what a
    running average collects (as in PyTorch; the output is normalized by the biased one). Statistics are reported
    without a gradient. affine: {"scale": [C], "offset": [C]}, the offset may be missing. Where the context names an
    axis, the batch is the one of all devices.
    """
    scale = None if affine is None else affine["scale"]
    axis_name, stats = context.axis_name, context.bn
    count = x.size // x.shape[-1] * (1 if axis_name is None else lax.axis_size(axis_name))
    unbiased = count / max(count - 1, 1)
    if isinstance(stats, str):
        y, mean, variance = norm.standardize(x, scale, axis_name)
        seen = mean, variance * unbiased
    elif isinstance(stats, Known):
        y, seen = norm.standardize_by(x, stats.mean, stats.variance / unbiased, scale, axis_name), stats
    else:
        y, seen = norm.normalize(x, *stats, scale), stats
    if affine is not None and "offset" in affine:
        y = added(y, affine["offset"])
    return y, seen


def batch_norms(
    xs: Sequence[Array], affine: Sequence[Params | None], context: Context = PLAIN
) -> tuple[tuple[Array, ...], tuple[BatchStats, ...]]:
    """`batch_norm` of each of several arrays of one shape. An accelerator sums all of them in one kernel.

    affine: that of each array, all with the same leaves. context: where it has statistics, those of each array in turn.
    """

    def in_turn() -> list[tuple[Array, BatchStats]]:
        return [batch_norm(x, own, context.at(n)) for n, (x, own) in enumerate(zip(xs, affine, strict=True))]

    def at_once() -> list[tuple[Array, BatchStats]]:
        return unstacked(jax.vmap(lambda x, own: batch_norm(x, own, context))(stacked(xs), stacked(affine)))

    form = at_once if isinstance(context.bn, str) else in_turn
    outputs, seen = zip(*by_platform(cpu=in_turn, default=form), strict=True)
    return outputs, seen


def added(x: Array, offset: Array) -> Array:
    """x [B, H, W, C] plus an offset [C], in the type of x. The gradient of the offset is a sum in float32 or wider."""
    return (norm.widened(x) + norm.placed(offset)).astype(x.dtype)


def affine_init(channels: int) -> Params:
    """Scale one and offset zero of a batch norm."""
    return {"scale": jnp.ones((channels,)), "offset": jnp.zeros((channels,))}


def initial_stats(channels: int) -> BatchStats:
    """Running statistics before the first step."""
    return jnp.zeros((channels,)), jnp.ones((channels,))


def factorized_reduce_init(key: Key, channels_in: int, channels_out: int) -> Params:
    """Two pointwise kernels that share the output channels; an odd one goes to the first."""
    first, second = jax.random.split(key)
    half = channels_out // 2
    return {
        "first": conv_init(first, 1, channels_in, channels_out - half),
        "second": conv_init(second, 1, channels_in, half),
    }


def factorized_reduce(x: Array, params: Params, context: Context = PLAIN) -> Array:
    """Halves height and width by two strided 1x1 convolutions, the second one pixel further on (zeros beyond)."""
    padded = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    onward = lax.slice(padded, (0, 1, 1, 0), padded.shape)
    pairs = ((x, params["first"]), (onward, params["second"]))
    return jnp.concatenate([pointwise(y, kernel, 2, context) for y, kernel in pairs], -1)


def dense_init(key: Key, features_in: int, features_out: int) -> Params:
    """A dense layer with bias, both U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    kernel, bias = jax.random.split(key)
    return {
        "kernel": uniform_fan_in(kernel, (features_in, features_out), features_in),
        "bias": uniform_fan_in(bias, (features_out,), features_in),
    }


def dense(x: Array, params: Params) -> Array:
    """x [B, F] -> [B, K] in float32."""
    return jnp.dot(norm.widened(x), params["kernel"]) + params["bias"][None]


def drops_paths(context: Context) -> bool:
    """Whether `context.drop_path` is more than a 0 that is known before the pass is traced."""
    return isinstance(context.drop_path, jax.Array) or context.drop_path != 0


def drop_path(x: Array, context: Context) -> Array:
    """Zeroes whole examples of x [B, H, W, C] with probability `context.drop_path` and divides the rest by 1 - p.

    x itself where the context has no key, or a probability that is known to be 0.
    """
    probability = context.drop_path
    if context.key is None or not drops_paths(context):
        return x
    keep = jax.random.bernoulli(context.key, 1.0 - probability, (x.shape[0], 1, 1, 1))
    return jnp.where(keep, x / (1.0 - probability), 0.0).astype(x.dtype)


def stack(keys: Key, init: Callable[[Key], Any]) -> Any:
    """Parameters of equal layers, one for each key, stacked along a leading axis."""
    return jax.vmap(init)(keys)
