"""The three proxies of AZ-NAS (Lee & Ham, CVPR 2024, https://arxiv.org/abs/2403.19232); the fourth are multiply-adds.

All are of the features that cells hand on: the values that networks mark as `CELL`, the stem's first. Inputs are noise
N(0, 1). Shapes: B examples, H W C.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnas.base import Array
from jaxnas.cholesky import dot
from jaxnas.kernels.marks import CELL
from jaxnas.proxies.passes import Passes


def expressivity(of: Passes) -> Array:
    """Σ over cells of the entropy of the eigenvalues of the covariance of channels, equation 3.

    >>> from jaxnas.base import Batch
    >>> from jaxnas.kernels.marks import mark
    >>> from jaxnas.proxies import passes_of
    >>> copied = lambda w, x: mark(jnp.concatenate([x, w * x], axis=3), CELL)
    >>> of = passes_of(copied, jnp.ones((1, 1, 1, 1)), Batch(jnp.ones((2, 4, 4, 1)), jnp.arange(2)))
    >>> abs(float(expressivity(of))) < 1e-3  # the copy of a channel says nothing new
    True
    """
    return jnp.sum(_entropies(of))


def progressivity(of: Passes) -> Array:
    """The least growth of that entropy from one cell to the next, equation 4.

    >>> from jaxnas.base import Batch
    >>> from jaxnas.kernels.marks import mark
    >>> from jaxnas.proxies import passes_of
    >>> def squares(w, x):
    ...     x = mark(x, CELL)
    ...     return mark(jnp.concatenate([x, w * x * x], axis=3), CELL)
    >>> of = passes_of(squares, jnp.ones((1, 1, 1, 1)), Batch(jnp.ones((2, 4, 4, 1)), jnp.arange(2)))
    >>> float(progressivity(of)) > 0.1  # another channel that says something new
    True
    """
    return jnp.min(jnp.diff(_entropies(of)))


def trainability(of: Passes) -> Array:
    """The mean over cells of 2 - σ - 1 / σ, equation 7: σ is the greatest singular value of what a cell's backward pass
    does to channels, estimated from signs at random as the gradient of the cell's output.

    -inf for a cell that passes everything on. Where image sizes differ, blocks of pixels become channels.

    >>> from jaxnas.base import Batch
    >>> from jaxnas.kernels.marks import mark
    >>> from jaxnas.proxies import passes_of
    >>> twice = lambda w, x: mark(w * mark(x, CELL), CELL)
    >>> of = passes_of(twice, jnp.full((1, 1, 1, 1), 2.0), Batch(jnp.ones((2, 4, 4, 1)), jnp.arange(2)))
    >>> round(float(trainability(of)), 3)  # 2 - 2 - 1 / 2
    -0.5
    """
    seen = of.once(_cells)
    pairs = zip(seen.back[:-1], seen.signs[1:], strict=True)
    return jnp.mean(jnp.stack([_flow(into, out) for into, out in pairs]))


class _Cells(NamedTuple):
    """Of the stem and each cell: features [B, H, W, C], signs in their shape, and the gradient of the inner product of
    the next one's signs and features by its own features."""

    features: Sequence[Array]
    signs: Sequence[Array]
    back: Sequence[Array]


def _cells(of: Passes) -> _Cells:
    inputs = jax.tree.leaves(of.batch.inputs)[0]
    noise = jax.random.normal(jax.random.key(0), inputs.shape, inputs.dtype)

    def features(pushes: list[Array] | None) -> list[Array]:
        return of.watched(noise, mark=CELL, pushes=pushes).kept

    shapes = jax.eval_shape(lambda: features(None))
    signs = [
        jax.random.rademacher(jax.random.fold_in(jax.random.key(1), number), shape.shape, shape.dtype)
        for number, shape in enumerate(shapes)
    ]
    kept, pull = jax.vjp(features, [jnp.zeros(shape.shape, shape.dtype) for shape in shapes])
    return _Cells(kept, signs, pull(signs)[0])


def _entropies(of: Passes) -> Array:
    """Of each cell's features, [L]; -inf where they are all alike."""
    return jnp.stack([_entropy(x) for x in of.once(_cells).features])


def _entropy(x: Array) -> Array:
    rows = x.reshape(-1, x.shape[-1])
    rows = rows - rows.mean(axis=0, keepdims=True)
    values = jnp.maximum(jnp.linalg.eigvalsh(dot(rows.T, rows) / len(rows)), 0.0)
    total = values.sum()
    shares = values / jnp.where(total > 0, total, 1.0)
    return jnp.where(total > 0, -jnp.sum(shares * jnp.log(shares + 1e-8)), -jnp.inf)


def _flow(into: Array, out: Array) -> Array:
    """into, out [B, H, W, C]: gradients of a cell's input and output."""
    alike = jnp.all(into == out) if into.shape == out.shape else jnp.array(False)
    first = _blocks(into, out.shape[1])
    last = out.reshape(-1, out.shape[-1])
    matrix = dot(first, last) / len(last)
    small = dot(matrix, matrix.T) if len(matrix) < matrix.shape[1] else dot(matrix.T, matrix)
    sigma = jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(small)[-1], 0.0))
    return jnp.where(alike, -jnp.inf, 2.0 - sigma - 1.0 / (sigma + 1e-6))


def _blocks(x: Array, height: int) -> Array:
    """[B, H, W, C] -> [C', B h w], with height h; a border of zeros where it does not divide H."""
    batch, rows, columns, channels = x.shape
    side = -(-rows // height)
    x = jnp.pad(x, ((0, 0), (0, -rows % side), (0, -columns % side), (0, 0)))
    x = x.reshape(batch, x.shape[1] // side, side, x.shape[2] // side, side, channels)
    return x.transpose(2, 4, 5, 0, 1, 3).reshape(side * side * channels, -1)
