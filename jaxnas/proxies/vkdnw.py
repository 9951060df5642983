"""VKDNW, the variance of the knowledge of deep network weights (Tybl & Neumann, CVPR 2025, https://arxiv.org/abs/2502.04975).

Shapes: B examples, K classes, P parameters.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Array, Context
from jaxnas.cholesky import dot
from jaxnas.proxies.passes import Passes

QUANTILES = np.arange(1, 10, dtype=np.float32) / 10
SMOOTHING = 0.05
"""Of the probabilities, towards uniform."""
EXAMPLES = 8
"""Of how many examples at most Fisher's information is the mean."""


def vkdnw(of: Passes) -> Array:
    """The number of layers, and where it is equal the entropy of nine quantiles of the spectrum of Fisher's
    information: an integer plus a fraction that orders as the entropy does.

    Fisher's information of one parameter of each layer, the first of its kernel, for inputs of noise N(0, 1), each
    normalized by its own statistics. The eigenvalues of so many parameters are comparable between networks of
    different sizes. The authors' program takes scales and offsets of batch norms as well, and 32 inputs.

    >>> from jaxnas.base import Batch
    >>> from jaxnas.proxies import passes_of
    >>> batch = Batch(jnp.ones((2, 4)), jnp.arange(2))
    >>> score = jax.jit(lambda w: vkdnw(passes_of(lambda w, x: x @ w, w, batch)))
    >>> int(score(jnp.ones((4, 3))))  # one layer
    1
    """
    values, there = spectrum(of)
    size = len(values)
    count = there.sum()
    # Parameters that the architecture has not give the least eigenvalues, zeros: quantiles are of the others.
    place = size - count + QUANTILES * (count - 1)
    low = jnp.floor(place).astype(jnp.int32)
    part = place - low
    lambdas = values[low] * (1 - part) + values[jnp.minimum(low + 1, size - 1)] * part
    shares = jnp.maximum(lambdas, 0.0) / jnp.maximum(jnp.sum(jnp.maximum(lambdas, 0.0)), 1e-30)
    entropy = -jnp.sum(shares * jnp.log(shares + 1e-10))
    return count + entropy / (1.0 + jnp.log(len(QUANTILES)))


def spectrum(of: Passes) -> tuple[Array, Array]:
    """(eigenvalues [P] of Fisher's information, ascending; whether the output depends on each parameter, [P])."""
    leaves, form = jax.tree.flatten(of.params)
    kinds = of.of.leaves
    numbers = [len(rows) for rows in of.layers(of.params, searched=False)]
    inputs = jax.tree.leaves(of.batch.inputs)[0]
    noise = jax.random.normal(jax.random.key(0), (min(EXAMPLES, len(inputs)), *inputs.shape[1:]), inputs.dtype)

    def logits(pushes: list[Array], x: Array) -> Array:
        """pushes: what is added to the first parameter of each layer."""
        rest = iter(pushes)
        moved = [_moved(leaf, next(rest)) if kind.kernel else leaf for leaf, kind in zip(leaves, kinds, strict=True)]
        return of.of.apply_path(jax.tree.unflatten(form, moved), of.arch, x[None], Context())[0][0]

    def information(x: Array) -> Array:
        outputs, pull = jax.vjp(lambda pushes: logits(pushes, x), [jnp.zeros(number) for number in numbers])
        rows = jnp.concatenate(jax.vmap(pull)(jnp.eye(len(outputs)))[0], axis=1)  # [K, P]
        p = jax.nn.softmax(outputs) * (1 - SMOOTHING) + SMOOTHING / len(outputs)
        centered = rows - dot(p[None], rows)
        return dot((centered * p[:, None]).T, centered)  # Jᵀ (diag p - p pᵀ) J

    fisher = jnp.mean(jax.vmap(information)(noise), axis=0)
    used = [rows.max(axis=1) for rows in of.layers(of.used, searched=False)]
    return jnp.linalg.eigvalsh(fisher), jnp.concatenate(used)


def _moved(leaf: Array, push: Array) -> Array:
    return leaf.reshape(len(push), -1).at[:, 0].add(push).reshape(leaf.shape)
