"""The mixture of edges that share their sources, in few large kernels: what an accelerator wants.

S sources of one size, each with edges to the same E targets. Operations without parameters are computed once a source,
not once an edge. Separable convolutions of all edges and kinds go in step, each layer of them one depthwise kernel a
dilation, one batched matrix product and one batch norm; dense convolutions are one convolution.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnas.base import Array, Context
from jaxnas.kernels.many_depthwise import many_depthwise
from jaxnas.kernels.norm import widened
from jaxnas.kernels.windows import bordered
from jaxnas.ops import layers
from jaxnas.ops.primitives import Dense, Normed, Primitive, Separable, Zero


def together(
    primitives: Sequence[Primitive],
    stride: int,
    context: Context,
    keep: np.ndarray | None,
    params: list[Any],
    weights: Array,
    x: Array,
) -> Array:
    """The sum of all operations' outputs over the sources, each times its weight, [E, B, h, w, C].

    params: of each operation, leaves [S, E, ...]. weights: [S, E, O]. x: [S, B, H, W, C]. keep: bool [E, O], the
    operations that the edges still have; None is all.
    """
    edges = weights.shape[1]
    x = lax.optimization_barrier(x)  # or it would be computed again for every tap of what reads it
    there = np.ones((edges, len(primitives)), bool) if keep is None else keep
    scales = jnp.broadcast_to(weights[..., None], (*weights.shape, x.shape[-1]))
    separable, dense, pools, free, sums = [], [], {}, {}, []
    for o, (primitive, p) in enumerate(zip(primitives, params, strict=True)):
        row = np.flatnonzero(there[:, o])
        if isinstance(primitive.family, Zero) or not len(row):
            continue
        own, scale = jax.tree.map(lambda leaf, row=row: _rows(leaf, row), (p, scales[:, :, o]))
        items = _Items(own, scale, tuple(row.tolist()))
        if isinstance(primitive.family, Separable):
            separable.append((primitive.family, items))
        elif isinstance(primitive.family, Dense):
            dense.append((primitive.family, items))
        elif isinstance(primitive.family, Normed):
            pools[o] = primitive.family
        elif not jax.tree.leaves(p) and not primitive.random:
            free[o] = jax.vmap(lambda x, apply=primitive.apply: apply({}, x, stride, Context())[0])(x)
        else:
            sums.append(_single(primitive, o, items, edges, x, stride, context))
    if pools:
        free |= dict(zip(pools, _pools(list(pools.values()), x, stride, context.axis_name), strict=True))
    if free:
        chosen = jnp.stack([jnp.where(there[None, :, o], weights[:, :, o], 0) for o in free], -1)
        sums.append(combined(list(free.values()), chosen))
    if separable:
        sums.append(_separable(separable, edges, x, stride, context.axis_name))
    if dense:
        sums.append(_dense(dense, edges, x, stride, context))
    return functools.reduce(jnp.add, sums)


class _Items(NamedTuple):
    """An operation on the R edges that have it: parameters [S, R, ...], scale [S, R, C], which of the E edges."""

    params: Any
    scale: Array
    edges: tuple[int, ...]


def _rows(leaf: Array, rows: np.ndarray) -> Array:
    return leaf if len(rows) == leaf.shape[1] else leaf[:, rows]


def _single(
    primitive: Primitive, number: int, items: _Items, edges: int, x: Array, stride: int, context: Context
) -> Array:
    """An operation of no family, under `vmap`."""
    keys = None
    if primitive.random and context.key is not None:
        keys = jax.random.split(jax.random.fold_in(context.key, number), items.scale.shape[:2])

    def one(params: Any, scale: Array, key: Any, x: Array) -> Array:
        with_scale = primitive.scaled(params, scale)
        here = Context(key=key, axis_name=context.axis_name, dropout=context.dropout)
        y = primitive.apply(params if with_scale is None else with_scale, x, stride, here)[0]
        return (widened(y) * scale[None, None, None]).astype(x.dtype) if with_scale is None else y

    y = jax.vmap(jax.vmap(one, (0, 0, 0, None)))(items.params, items.scale, keys, x)
    return _summed(y, items.edges, edges)


def _separable(
    members: Sequence[tuple[Separable, _Items]], edges: int, x: Array, stride: int, axis_name: str | None
) -> Array:
    """The last layers of all operations are one; operations of fewer layers begin later."""
    depth = max(family.repeats for family, _ in members)
    reached: dict[int, Array] = {}  # what each operation has come to, [S, R, B, h, w, C]
    for step in range(depth):
        groups: dict[tuple[bool, int], list[int]] = {}
        for m, (family, _) in enumerate(members):
            if depth - family.repeats <= step:
                groups.setdefault((depth - family.repeats == step, family.dilation), []).append(m)
        layer = {m: members[m][1].params[step - depth] for group in groups.values() for m in group}
        order, filtered = [], []
        for (begins, dilation), group in groups.items():
            size = max(members[m][0].size for m in group)
            kernels = jnp.concatenate([bordered(layer[m]["depthwise"], size) for m in group], 1)
            source = x[:, None] if begins else jnp.concatenate([reached[m] for m in group], 1)
            filtered.append(many_depthwise(source, kernels, stride if begins else 1, dilation))
            order += group
        y = jnp.concatenate(filtered, 1)
        kernels = jnp.concatenate([layer[m]["pointwise"] for m in order], 1)
        scale = jnp.concatenate([members[m][1].scale for m in order], 1) if step == depth - 1 else None
        flat, kernels, scale = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), (y, kernels, scale))
        y = _normalized(jax.vmap(layers.pointwise)(flat, kernels), scale, axis_name).reshape(y.shape)
        ends = np.cumsum([len(members[m][1].edges) for m in order])
        reached = dict(zip(order, jnp.split(y, ends[:-1], 1), strict=True))
    return _summed(y, tuple(e for m in order for e in members[m][1].edges), edges)


def _normalized(x: Array, scale: Array | None, axis_name: str | None) -> Array:
    """Batch norm of each [B, H, W, C] of x [I, B, H, W, C], times scale [I, C]."""
    affine = None if scale is None else {"scale": scale}
    return jax.vmap(lambda x, affine: layers.batch_norm(x, affine, Context(axis_name=axis_name))[0])(x, affine)


def _pools(members: Sequence[Normed], x: Array, stride: int, axis_name: str | None) -> list[Array]:
    """Of each operation [S, B, h, w, C]: once a source, their batch norms as one."""
    images = x.reshape(-1, *x.shape[2:])
    # Not joined with their batch norms either way, of nine taps each.
    pooled = lax.optimization_barrier(jnp.stack([family.pool({}, images, stride, Context())[0] for family in members]))
    y = _normalized(pooled.reshape(-1, x.shape[1], *pooled.shape[2:]), None, axis_name)
    return list(y.reshape(len(members), *x.shape[:2], *pooled.shape[2:]))


@jax.custom_vjp
def combined(arrays: list[Array], weights: Array) -> Array:
    """Sums of F arrays [S, B, h, w, C] and over S with weights [S, E, F]: [E, B, h, w, C]."""
    return _combination(arrays, weights)


def _combination(arrays: list[Array], weights: Array) -> Array:
    weights = weights.astype(arrays[0].dtype)
    parts = [array[:, None] * weights[:, :, f, None, None, None, None] for f, array in enumerate(arrays)]
    return jnp.sum(functools.reduce(jnp.add, parts), 0)


def _combined_backward(residuals: tuple[list[Array], Array], g: Array) -> tuple[list[Array], Array]:
    """The weights' gradients image by image first: sums of all arrays are then few kernels."""
    arrays, weights = residuals
    narrow = weights.astype(g.dtype)
    to_arrays = [jnp.sum(g[None] * narrow[:, :, f, None, None, None, None], 1) for f in range(len(arrays))]
    images = [jnp.sum(widened(g[None] * array[:, None]), (3, 4)) for array in arrays]
    return to_arrays, jnp.sum(jnp.stack(images, 2), (3, 4)).astype(weights.dtype)


combined.defvjp(lambda arrays, weights: (_combination(arrays, weights), (arrays, weights)), _combined_backward)


def _dense(members: Sequence[tuple[Dense, _Items]], edges: int, x: Array, stride: int, context: Context) -> Array:
    """One convolution a source, to the channels of all edges and operations; small kernels get a border of zeros."""
    size = max(family.size for family, _ in members)

    def of_source(s: int) -> Array:
        channels = x.shape[-1]
        kernels = []
        for _, items in members:
            kernel = items.params["kernel"][s]  # [R, k, k, C, C], or [R, C, C]
            kernel = kernel[:, None, None] if kernel.ndim == 3 else kernel
            flat = bordered(kernel.reshape(*kernel.shape[:3], -1), size)
            kernels.append(flat.reshape(-1, size, size, channels, channels))
        kernel = jnp.moveaxis(jnp.concatenate(kernels), 0, 3).reshape(size, size, channels, -1)
        y = layers.conv(jax.nn.relu(x[s]), kernel, stride)
        scale = jnp.concatenate([items.scale[s].reshape(-1) for _, items in members])
        y, _ = layers.batch_norm(y, {"scale": scale}, Context(axis_name=context.axis_name))
        return jnp.moveaxis(y.reshape(*y.shape[:3], -1, channels), 3, 0)

    parts = [of_source(s) for s in range(x.shape[0])]
    return _summed(jnp.stack(parts), tuple(e for _, items in members for e in items.edges), edges)


def _summed(items: Array, edges: tuple[int, ...], count: int) -> Array:
    """Adds items [S, K, B, h, w, C] of the given edges, over the sources too: [count, B, h, w, C]."""
    if edges == tuple(range(count)) * (len(edges) // count):
        return jnp.sum(items.reshape(-1, count, *items.shape[2:]), 0)
    return _gathered(jnp.sum(items, 0), edges, count)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gathered(items: Array, edges: tuple[int, ...], count: int) -> Array:
    """The gradient is a lookup, not a sum of slices."""
    return _sums(items, edges, count)


def _sums(items: Array, edges: tuple[int, ...], count: int) -> Array:
    zero = jnp.zeros(items.shape[1:], items.dtype)
    return jnp.stack([sum((items[k] for k, e in enumerate(edges) if e == edge), zero) for edge in range(count)])


_gathered.defvjp(
    lambda items, edges, count: (_sums(items, edges, count), None),
    lambda edges, count, _, g: (g[np.array(edges)],),
)
