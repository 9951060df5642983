"""A Gaussian process on fixed encodings (Rasmussen & Williams 2006, http://gaussianprocess.org/gpml, chapters 2 and 5).

The covariance of two architectures is s² / (1 + d² / l), the rational quadratic kernel, where d² is a weighted mean
over the encodings of squared distances, each divided by its mean over the training data. Of a grid of lengths l and
noises n the pair of greatest evidence is taken; the scale s² has its closed form, yᵀ(K + n)⁻¹y / P. No step of a fit
can diverge, and hundreds of fits run under `vmap`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnas.base import Array, Graph, Key, Predictor
from jaxnas.checks import checked_predictor
from jaxnas.cholesky import dot, whiten
from jaxnas.predictors.encodings import Encoding
from jaxnas.predictors.mlp import encoded_size
from jaxnas.predictors.regression import Moments, moments


class Block(NamedTuple):
    """One encoding of the kernel. share: its weight in d². standardize: whether its columns are scaled to variance 1.

    Counts of paths do better unscaled, because scaling would blow up rare ones.

    >>> from jaxnas.predictors import path_counts
    >>> Block(path_counts([1, 2], length=3), share=2.0, standardize=False).share
    2.0
    """

    encode: Encoding
    share: float = 1.0
    standardize: bool = True


class GaussianProcessState(NamedTuple):
    """inputs: for each block [P, F], scaled so that d² is plain. columns: moments [F] of each. targets: theirs.

    whitening [P, P], the inverse of the Cholesky factor of K + n; solution [P] of (K + n) a = y; there [P]; length,
    noise, scale [].
    """

    inputs: tuple[Array, ...]
    columns: tuple[Moments, ...]
    targets: Moments
    whitening: Array
    solution: Array
    there: Array
    length: Array
    noise: Array
    scale: Array


def gaussian_process(
    blocks: Sequence[Block],
    example: Graph,
    *,
    lengths: Sequence[float] = (0.75, 1.5, 3.0),
    noises: Sequence[float] = (0.02, 0.05, 0.15),
) -> Predictor:
    """A Gaussian process over the encodings of `blocks`; length and noise are those of the greatest evidence.

    example: any graph of the space, for its shape. lengths, noises: the grid; a noise is a variance, as a part of the
    scale. The state after `fit` has P rows; each fit begins anew.

    Raises: ValueError where there is no block, or a number is not positive.

    >>> from jaxnas.predictors import operation_counts, unconnected
    >>> graphs = jax.vmap(unconnected)(jnp.array([[0, 0], [0, 1], [1, 1]]))
    >>> predictor = gaussian_process([Block(operation_counts([1]))], unconnected(jnp.array([0, 0])))
    >>> init_key, fit_key = jax.random.split(jax.random.key(0))
    >>> state = jax.eval_shape(predictor.init, init_key)
    >>> state = jax.jit(predictor.fit)(fit_key, state, graphs, jnp.array([0.5, 0.6, 0.8]), jnp.ones(3))
    >>> mean, std = jax.jit(predictor.predict)(state, graphs)
    >>> bool((jnp.argsort(mean) == jnp.arange(3)).all())
    True
    """
    if not blocks:
        raise ValueError("a Gaussian process needs at least one block")
    for name, values in (
        ("shares", [block.share for block in blocks]), ("lengths", lengths), ("noises", noises)
    ):  # fmt: skip
        if not values or not all(value > 0 for value in values):
            raise ValueError(f"{name} must be positive, at least one, got {list(values)}")
    all_lengths, all_noises = jnp.asarray(lengths, jnp.float32), jnp.asarray(noises, jnp.float32)
    total = sum(block.share for block in blocks)

    def init(key: Key) -> GaussianProcessState:
        graphs = jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape), leaf.dtype), example)
        return fit(key, None, graphs, jnp.zeros(1), jnp.zeros(1))

    def fit(
        key: Key, state: GaussianProcessState | None, graphs: Graph, targets: Array, weight: Array
    ) -> GaussianProcessState:
        del key, state
        there = weight > 0
        count = jnp.maximum(there.sum(), 1)
        encoded = [jax.vmap(block.encode)(graphs) for block in blocks]
        columns = tuple(
            _columns(block, values, weight, block.share / total) for block, values in zip(blocks, encoded, strict=True)
        )
        inputs = tuple((x - found.mean[None]) / found.std[None] for x, found in zip(encoded, columns, strict=True))
        outputs = moments(targets, weight)
        y = jnp.where(there, (targets - outputs.mean) / outputs.std, 0.0)
        distance = _distances(inputs, inputs)
        both = there[:, None] & there[None]

        def whitened(length: Array, noise: Array, columns: Array) -> tuple[Array, Array]:
            """`whiten` by K + n; padding is independent and of variance 1, which changes nothing."""
            kernel = jnp.where(both, 1 / (1 + distance / length), 0.0)
            added = jnp.where(there, noise / jnp.where(there, weight, 1.0), 1.0)
            return whiten(kernel + jnp.diag(added), columns, added.min())

        def scale_of(white: Array) -> Array:
            return jnp.maximum((white**2).sum() / count, 1e-6)

        def evidence(length: Array, noise: Array) -> Array:
            """Its logarithm, but for a constant."""
            white, pivots = whitened(length, noise, y[:, None])
            return -0.5 * (count * jnp.log(scale_of(white)) + jnp.log(pivots).sum())

        # Noises together and lengths in turn: on a CPU that is faster than all together or all in turn.
        of_length = jax.vmap(evidence, in_axes=(None, 0))
        found = jax.lax.map(lambda length: of_length(length, all_noises), all_lengths)
        at = jnp.argmax(found)  # [lengths, noises]
        length, noise = all_lengths[at // len(noises)], all_noises[at % len(noises)]
        whitening, _ = whitened(length, noise, jnp.eye(len(y)))
        white = whitening @ y
        return GaussianProcessState(
            inputs, columns, outputs, whitening, white @ whitening, there, length, noise, scale_of(white)
        )

    def predict(state: GaussianProcessState, graphs: Graph) -> tuple[Array, Array]:
        inputs = [
            (jax.vmap(block.encode)(graphs) - found.mean[None]) / found.std[None]
            for block, found in zip(blocks, state.columns, strict=True)
        ]
        kernel = jnp.where(state.there[None], 1 / (1 + _distances(inputs, state.inputs) / state.length), 0.0)
        white = dot(state.whitening, kernel.T)
        variance = jnp.maximum(1 - (white**2).sum(axis=0), 0.0) + state.noise
        mean = kernel @ state.solution * state.targets.std + state.targets.mean
        return mean, jnp.sqrt(state.scale * variance) * state.targets.std

    for block in blocks:
        encoded_size(block.encode, example)
    return checked_predictor(Predictor(init, fit, predict), example)


def _columns(block: Block, values: Array, weight: Array, share: float) -> Moments:
    """What makes squared distances of a block's values [P, F] have the mean `share` over all pairs of data."""
    found = moments(values, weight)
    variance = moments((values - found.mean[None]) ** 2, weight).mean
    varies = variance > 1e-12
    if block.standardize:
        # A column that is constant here may differ elsewhere, and then counts as if it had variance 1.
        std = found.std * jnp.sqrt(2.0 * jnp.maximum(varies.sum(), 1))
    else:
        std = jnp.full(len(variance), jnp.where(varies.any(), jnp.sqrt(2 * variance.sum()), 1.0))
    return Moments(found.mean, std / share**0.5)


def _distances(a: Sequence[Array], b: Sequence[Array]) -> Array:
    """The sum over blocks of squared distances, [P, Q]."""
    left, right = jnp.concatenate(a, axis=1), jnp.concatenate(b, axis=1)
    squares = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None] - 2 * dot(left, right.T)
    return jnp.maximum(squares, 0.0)
