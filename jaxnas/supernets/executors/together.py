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
from jaxnas.kernels.arrays import computed_once
from jaxnas.kernels.many_depthwise import many_depthwise
from jaxnas.kernels.mixing import Places, Terms, mixed, over_edges
from jaxnas.kernels.norm import widened
from jaxnas.kernels.windows import bordered
from jaxnas.ops import layers
from jaxnas.ops.primitives import Dense, Normed, Primitive, Separable, Zero


def together(
    primitives: Sequence[Primitive],
    stride: int,
    context: Context,
    there: np.ndarray,
    params: list[Any],
    weights: Array,
    x: Array,
) -> Array:
    """The sum of all operations' outputs over the sources, each times its weight, [E, B, h, w, C].

    params: of each operation, leaves [S, E, ...]. weights: [S, E, O, C], the same for all channels. x:
    [S, B, H, W, C]. there: bool [E, O], the operations that the edges have.
    """
    x, positive = computed_once((x, jax.nn.relu(x)))  # or they would be for every tap of what reads them
    weights = weights if there.all() else jnp.where(there[None, ..., None], weights, 0)
    separable, dense, pools, plain, sums = [], [], {}, {}, []
    for o, (primitive, p) in enumerate(zip(primitives, params, strict=True)):
        row = np.flatnonzero(there[:, o])
        if isinstance(primitive.family, Zero) or not len(row):
            continue
        own = jax.tree.map(lambda leaf, row=row: _rows(leaf, row), p)
        items = _Items(own, tuple((int(edge), o) for edge in row))
        if isinstance(primitive.family, Separable):
            separable.append((primitive.family, items))
        elif isinstance(primitive.family, Dense):
            dense.append((primitive.family, items))
        elif isinstance(primitive.family, Normed):
            pools[o] = primitive.family
        elif not jax.tree.leaves(p) and not primitive.random:
            plain[o] = jax.vmap(lambda x, apply=primitive.apply: apply({}, x, stride, Context())[0])(x)
        else:
            sums.append(_single(primitive, items, weights, x, stride, context))
    own = [_separable(separable, positive, stride, context.axis_name)] if separable else []
    own += [_dense(dense, positive, stride)] if dense else []
    shared = [_pools(list(pools.values()), x, stride)] if pools else []
    if own or pools or plain:
        terms = Terms(tuple(y for y, _ in own), tuple(shared), tuple(plain.values()))
        places = Places(tuple(pairs for _, pairs in own), (*pools, *plain))
        sums.append(mixed(places, context.axis_name, terms, weights))
    return functools.reduce(jnp.add, sums)


Pairs = tuple[tuple[int, int], ...]
"""(edge, operation) of each."""


class _Items(NamedTuple):
    """An operation on the R edges that have it: parameters [S, R, ...], and whose weights it has."""

    params: Any
    pairs: Pairs


def _rows(leaf: Array, rows: np.ndarray) -> Array:
    return leaf if len(rows) == leaf.shape[1] else leaf[:, rows]


def _single(primitive: Primitive, items: _Items, weights: Array, x: Array, stride: int, context: Context) -> Array:
    """The sum of an operation of no family, under `vmap`."""
    target, operation = np.array(items.pairs).T
    scale = weights[:, target, operation]
    keys = None
    if primitive.random and context.key is not None:
        keys = jax.random.split(jax.random.fold_in(context.key, items.pairs[0][1]), scale.shape[:2])

    def one(params: Any, scale: Array, key: Any, x: Array) -> Array:
        with_scale = primitive.scaled(params, scale)
        here = Context(key=key, axis_name=context.axis_name, dropout=context.dropout)
        y = primitive.apply(params if with_scale is None else with_scale, x, stride, here)[0]
        return (widened(y) * scale[None, None, None]).astype(x.dtype) if with_scale is None else y

    y = jax.vmap(jax.vmap(one, (0, 0, 0, None)))(items.params, scale, keys, x)
    return over_edges(y, items.pairs, weights.shape[1])


class _Group(NamedTuple):
    """Layers of one step that are one depthwise kernel: whether they begin, their dilation, whose they are."""

    begins: bool
    dilation: int
    members: list[int]


def _groups(families: Sequence[Separable]) -> list[list[_Group]]:
    """Of each step. The last layers of all operations are one; operations of fewer layers begin later."""
    depth = max(family.repeats for family in families)
    steps = []
    for step in range(depth):
        groups: dict[tuple[bool, int], list[int]] = {}
        for m, family in enumerate(families):
            if depth - family.repeats <= step:
                groups.setdefault((depth - family.repeats == step, family.dilation), []).append(m)
        steps.append([_Group(*key, members) for key, members in groups.items()])
    return steps


def _separable(
    members: Sequence[tuple[Separable, _Items]], x: Array, stride: int, axis_name: str | None
) -> tuple[Array, Pairs]:
    """[S, K, B, h, w, C] before the last batch norms, of sources x after ReLU."""
    steps = _groups([family for family, _ in members])

    def kernels(step: int, kind: str, numbers: Sequence[int]) -> list[Array]:
        return [members[m][1].params[step - len(steps)][kind] for m in numbers]

    depthwise = [kernels(step, "depthwise", group.members) for step, groups in enumerate(steps) for group in groups]
    filters = iter(_in_one([_bordered_to_one_size(each) for each in depthwise]))
    y: Array = x
    order: list[int] = []
    reached: dict[int, Array] = {}  # what each operation has come to, [S, R, B, h, w, C]
    for step, groups in enumerate(steps):
        if order:
            ends = np.cumsum([len(members[m][1].pairs) for m in order])
            reached = dict(zip(order, jnp.split(_standardized(y, axis_name), ends[:-1], 1), strict=True))
        filtered = []
        for begins, dilation, numbers in groups:
            read = x[:, None] if begins else jnp.concatenate([reached[m] for m in numbers], 1)
            filtered.append(many_depthwise(read, next(filters), stride if begins else 1, dilation, not begins))
        order = [m for group in groups for m in group.members]
        y, pointwise = jnp.concatenate(filtered, 1), jnp.concatenate(kernels(step, "pointwise", order), 1)
        flat = [array.reshape(-1, *array.shape[2:]) for array in (y, pointwise)]
        y = jax.vmap(layers.pointwise)(flat[0], flat[1]).reshape(y.shape)
    return y, tuple(pair for m in order for pair in members[m][1].pairs)


def _bordered_to_one_size(kernels: Sequence[Array]) -> Array:
    """Kernels [S, R, k, k, C] of several operations as [S, K, size, size, C], where size is the largest."""
    size = max(kernel.shape[-2] for kernel in kernels)
    return jnp.concatenate([bordered(kernel, size) for kernel in kernels], 1)


def _in_one(kernels: Sequence[Array]) -> list[Array]:
    """Kernels [S, K, k, k, C] as parts of one array, which is computed once, taps first as they are read."""
    size = max(kernel.shape[-2] for kernel in kernels)
    each = [bordered(kernel, size).reshape(-1, size, size, kernel.shape[-1]) for kernel in kernels]
    ends = np.cumsum([len(kernel) for kernel in each])
    parts = jnp.split(computed_once(jnp.moveaxis(jnp.concatenate(each), 0, 2)), ends[:-1], 2)
    found = []
    for part, like in zip(parts, kernels, strict=True):
        border = (size - like.shape[-2]) // 2
        own = jnp.moveaxis(part, 2, 0)[:, border : size - border, border : size - border]
        found.append(own.reshape(like.shape))
    return found


def _standardized(x: Array, axis_name: str | None) -> Array:
    """Batch norm of each [B, H, W, C] of x."""
    y = jax.vmap(lambda x: layers.batch_norm(x, None, Context(axis_name=axis_name))[0])(x.reshape(-1, *x.shape[-4:]))
    return y.reshape(x.shape)


def _pools(members: Sequence[Normed], x: Array, stride: int) -> Array:
    """[P, S, B, h, w, C] before the batch norms: once a source."""
    images = x.reshape(-1, *x.shape[2:])
    # Not joined with their batch norms either way, of nine taps each.
    pooled = lax.optimization_barrier(jnp.stack([family.pool({}, images, stride, Context())[0] for family in members]))
    return pooled.reshape(len(members), *x.shape[:2], *pooled.shape[2:])


def _dense(members: Sequence[tuple[Dense, _Items]], x: Array, stride: int) -> tuple[Array, Pairs]:
    """[S, K, B, h, w, C] before the batch norms. One convolution a source, to the channels of all edges and operations;
    small kernels get a border of zeros. x: after ReLU."""
    size, channels = max(family.size for family, _ in members), x.shape[-1]

    def of_source(s: int) -> Array:
        kernels = []
        for _, items in members:
            kernel = items.params["kernel"][s]  # [R, k, k, C, C], or [R, C, C]
            kernel = kernel[:, None, None] if kernel.ndim == 3 else kernel
            flat = bordered(kernel.reshape(*kernel.shape[:3], -1), size)
            kernels.append(flat.reshape(-1, size, size, channels, channels))
        kernel = jnp.moveaxis(jnp.concatenate(kernels), 0, 3).reshape(size, size, channels, -1)
        y = layers.conv(x[s], kernel, stride)
        return jnp.moveaxis(y.reshape(*y.shape[:3], -1, channels), 3, 0)

    return jnp.stack([of_source(s) for s in range(len(x))]), tuple(pair for _, items in members for pair in items.pairs)
