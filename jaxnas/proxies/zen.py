"""The Zen-score (Lin et al., "Zen-NAS", ICCV 2021, https://arxiv.org/abs/2102.01063, algorithm 1)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxnas.base import Array, PyTree
from jaxnas.kernels.marks import FEATURES
from jaxnas.proxies.passes import Passes

STEP = 0.01
"""How much of a second batch is added to the first."""


def zen(of: Passes) -> Array:
    """log mean ‖f(x) - f(x + 0.01 x')‖₁ + Σ log √(mean variance): f is what the global pooling reads, x and x' are
    batches of noise N(0, 1), the sum is over the batch norms, the mean variance is that of the channels of one.

    Kernels are drawn with variance 1, here brought to it. A network of batch norms does not depend on the scale of its
    kernels; the sum does, so that a scale c of all kernels adds log c for each batch norm behind one.

    >>> from jaxnas.base import Batch
    >>> from jaxnas.kernels.marks import mark
    >>> from jaxnas.proxies import passes_of
    >>> batch = Batch(jnp.ones((2, 4)), jnp.arange(2))
    >>> score = jax.jit(lambda w: zen(passes_of(lambda w, x: mark(x @ w, FEATURES), w, batch)))
    >>> abs(float(score(jnp.ones((4, 3))) - score(jnp.full((4, 3), 5.0)))) < 1e-4  # kernels are brought to variance 1
    True
    """
    params, inputs = _unit(of), jax.tree.leaves(of.batch.inputs)[0]
    first, second = jax.random.normal(jax.random.key(0), (2, *inputs.shape), inputs.dtype)

    def run(x: Array) -> tuple[Array, Any]:
        seen = of.watched(x, params=params, mark=FEATURES)
        return seen.kept[-1], seen.outputs[1].stats

    features, told = jax.lax.map(run, jnp.stack([first, first + STEP * second]))
    before, after = features
    difference = jnp.abs(before - after).sum(axis=tuple(range(1, before.ndim))).mean()
    variances = jax.tree.leaves(told)[1::2]  # after the means; 1 where nothing ran
    scales = sum((jnp.log(variance[0].mean(axis=-1)).sum() for variance in variances), start=jnp.zeros(()))
    return jnp.log(difference) + scales / 2


def _unit(of: Passes) -> PyTree:
    leaves, form = jax.tree.flatten(of.params)
    return jax.tree.unflatten(
        form,
        [
            leaf / jnp.sqrt(jnp.square(leaf).mean()) if kind.kernel else leaf
            for leaf, kind in zip(leaves, of.of.leaves, strict=True)
        ],
    )
