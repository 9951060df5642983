"""What a mixture adds up: arrays, most of them after batch norm, times weights, with one rule for all of them.

Apart, each batch norm would add up over the images by itself, in two kernels forward and two backward. Here the second
sums of all are one kernel, and the gradient of a weight is one of the sums that a batch norm needs anyway.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jaxnas.base import Array
from jaxnas.kernels.norm import EPSILON, joint_moments, joint_sums, widened
from jaxnas.kernels.trees import pmean


class Terms(NamedTuple):
    """Arrays of S sources, each of which has edges to the same E targets.

    own: of single edges, before their batch norms, each [S, K, B, h, w, C]. shared: of all edges of a source, before
    their batch norms, each [P, S, B, h, w, C]. plain: of all edges of a source, without any, each [S, B, h, w, C].
    """

    own: tuple[Array, ...] = ()
    shared: tuple[Array, ...] = ()
    plain: tuple[Array, ...] = ()


class Places(NamedTuple):
    """Where the weights of `Terms` are.

    own: of each array, the (target, operation) of its K edges. common: the operations of `shared`, then of `plain`.
    """

    own: tuple[tuple[tuple[int, int], ...], ...] = ()
    common: tuple[int, ...] = ()


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def mixed(places: Places, axis_name: str | None, terms: Terms, weights: Array) -> Array:
    """The sum over sources and operations of arrays times weights [S, E, O, C], the same for all C: [E, B, h, w, C].

    places: which weight each array has. axis_name: the mapped axis over which the batch is spread, None where there is
    none.
    """
    return _forward(places, axis_name, terms, weights)[0]


class _Normalized(NamedTuple):
    """own: [S, K, B, h, w, C]; common: [S, B, h, w, C], shared and plain. inverses: what each was multiplied with,
    [S, K, C] and [S, C]; none for what is plain."""

    own: list[Array]
    own_inverses: list[Array]
    common: list[Array]
    common_inverses: list[Array]


def _normalized(terms: Terms, mean: Array, variance: Array) -> _Normalized:
    inverse, arrays = lax.rsqrt(variance + EPSILON), (*terms.own, *terms.shared)
    means, inverses = (_split(rows, [a.shape[:-4] for a in arrays]) for rows in (mean, inverse))
    each = [(widened(x) - _spread(m)) * _spread(i) for x, m, i in zip(arrays, means, inverses, strict=True)]
    count = len(terms.own)
    common, common_inverses = ([part for array in found[count:] for part in array] for found in (each, inverses))
    return _Normalized(each[:count], inverses[:count], common + [widened(x) for x in terms.plain], common_inverses)


def _forward(places: Places, axis_name: str | None, terms: Terms, weights: Array) -> tuple[Array, Any]:
    mean, variance = joint_moments([_rows(x) for x in (*terms.own, *terms.shared)], axis_name)
    x = _normalized(terms, mean, variance)
    sums = [
        over_edges(array * _spread(_of(pairs, weights)), pairs, weights.shape[1])
        for pairs, array in zip(places.own, x.own, strict=True)
    ]
    if x.common:
        each = [array[:, None] * _spread(weights[:, :, o]) for o, array in zip(places.common, x.common, strict=True)]
        sums.append(jnp.sum(functools.reduce(jnp.add, each), 0))
    y = functools.reduce(jnp.add, sums)
    return y.astype(jax.tree.leaves(terms)[0].dtype), (mean, variance)


def _kept(places: Places, axis_name: str | None, terms: Any, weights: Any) -> tuple[Array, Any]:
    """Keeps plain arrays only where the gradient of the weights is asked for, because no other reads them."""
    wanted = weights.perturbed
    terms, weights = jax.tree.map(lambda given: given.value, (terms, weights))
    y, statistics = _forward(places, axis_name, terms, weights)
    return y, (terms if wanted else terms._replace(plain=()), weights, statistics)


def _backward(places: Places, axis_name: str | None, residuals: Any, g: Any) -> tuple[Terms, Array]:
    """Each sum over positions is one of g, or of g times an array."""
    terms, weights, (mean, variance) = residuals
    g = jnp.zeros(g.shape, g.dtype) if isinstance(g, SymbolicZero) else g  # JAX may give either
    x, dtype, g = _normalized(terms, mean, variance), g.dtype, widened(g)
    to_edges = [_of_targets(g, pairs)[None] for pairs in places.own]
    products = [g_own * array for g_own, array in zip(to_edges, x.own, strict=True)]
    products += [g[None] * array[:, None] for array in x.common]
    sums = joint_sums([g, *map(_rows, products)])
    leading = [g.shape[:1], *(product.shape[:-4] for product in products)]
    g_mean, *along = _split(pmean(sums, axis_name) / math.prod(g.shape[1:-1]), leading)

    own = []
    along_own, along_common = along[: len(x.own)], along[len(x.own) :]
    for pairs, array, inverse, g_own, part in zip(places.own, x.own, x.own_inverses, to_edges, along_own, strict=True):
        rest = g_own - _spread(_of_targets(g_mean, pairs)[None]) - array * _spread(part)
        own.append((_spread(_of(pairs, weights) * inverse) * rest).astype(dtype))
    common = [jnp.sum(_spread(weights[:, :, o]) * g[None], 1) for o in places.common]
    for i, inverse in enumerate(x.common_inverses):  # the shared ones, which come first
        scale = weights[:, :, places.common[i]]
        total, part = jnp.sum(scale * g_mean[None], 1), jnp.sum(scale * along_common[i], 1)
        common[i] = _spread(inverse) * (common[i] - _spread(total) - x.common[i] * _spread(part))
    shared = []
    for array in terms.shared:
        shared.append(jnp.stack(common[: len(array)]).astype(dtype))
        common = common[len(array) :]
    to_terms = Terms(tuple(own), tuple(shared), tuple(array.astype(dtype) for array in common))
    known = places._replace(common=places.common[: len(x.common)])  # without plain arrays that were not kept
    return to_terms, _to_weights(known, weights, sums).astype(weights.dtype)


mixed.defvjp(_kept, _backward, symbolic_zeros=True)


def _to_weights(places: Places, weights: Array, sums: Array) -> Array:
    """Each weight's gradient is a row of the sums of g [E], g times `own` [S, K] each, g times `common` [S, E] each."""
    sources, targets, operations, _ = weights.shape
    row, place = targets, np.full((sources, targets, operations), len(sums))  # beyond: zero
    for pairs in places.own:
        target, operation = np.array(pairs).T
        place[:, target, operation] = row + np.arange(sources * len(pairs)).reshape(sources, -1)
        row += sources * len(pairs)
    for operation in places.common:
        place[:, :, operation] = row + np.arange(sources * targets).reshape(sources, -1)
        row += sources * targets
    return jnp.concatenate([sums, jnp.zeros_like(sums[:1])])[place]


def _rows(x: Array) -> Array:
    """[..., B, h, w, C] -> [N, B, h, w, C]."""
    return x.reshape(-1, *x.shape[-4:])


def _split(rows: Array, leading: Sequence[tuple[int, ...]]) -> list[Array]:
    """[N of all, C] -> of each [*leading, C]."""
    ends = np.cumsum([math.prod(shape) for shape in leading]).tolist()
    return [rows[end - math.prod(shape) : end].reshape(*shape, -1) for end, shape in zip(ends, leading, strict=True)]


def _spread(x: Array) -> Array:
    """[..., C] -> [..., 1, 1, 1, C], in float32 or wider."""
    return widened(x)[..., None, None, None, :]


def _of(pairs: Sequence[tuple[int, int]], weights: Array) -> Array:
    """[S, E, O, C] -> [S, K, C]."""
    target, operation = np.array(pairs).T
    return weights[:, target, operation]


def _in_turn(pairs: Sequence[tuple[int, int]], targets: int) -> bool:
    """Whether the edges have all targets again and again."""
    return [target for target, _ in pairs] == list(range(targets)) * (len(pairs) // targets)


def _of_targets(x: Array, pairs: Sequence[tuple[int, int]]) -> Array:
    """[E, ...] -> [K, ...]."""
    if _in_turn(pairs, len(x)):
        again = len(pairs) // len(x)
        return jnp.broadcast_to(x[None], (again, *x.shape)).reshape(-1, *x.shape[1:])
    return x[np.array([target for target, _ in pairs])]


def over_edges(x: Array, pairs: Sequence[tuple[int, int]], targets: int) -> Array:
    """Sums of [S, K, ...] over sources and the edges of each target, [E, ...]."""
    if _in_turn(pairs, targets):
        return jnp.sum(x.reshape(-1, targets, *x.shape[2:]), 0)
    x = jnp.sum(x, 0)
    zero = jnp.zeros_like(x[0])
    return jnp.stack([sum((x[k] for k, (t, _) in enumerate(pairs) if t == target), zero) for target in range(targets)])
