"""Proxies of how differently a network sees the examples of a batch: patterns of its rectifiers, gradients by inputs.

Shapes: B examples, U units.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnas.base import Array
from jaxnas.cholesky import dot, whiten
from jaxnas.proxies.passes import Passes

SWAP_EXAMPLES = 16
"""Examples whose patterns are told apart; there are two to the power of this many patterns."""


def naswot(of: Passes) -> Array:
    """log |det K|, K[i, j] the number of units that examples i and j switch alike (Mellor et al., "Neural Architecture
    Search without Training", ICML 2021, https://arxiv.org/abs/2006.04647; also called NWOT).

    Units are the entries of all rectifiers. -inf where two examples have one pattern.

    >>> from jaxnas.base import Batch
    >>> from jaxnas.proxies import passes_of
    >>> batch = Batch(jnp.array([[1.0, -1.0], [-1.0, 1.0]]), jnp.arange(2))
    >>> score = jax.jit(lambda w: naswot(passes_of(lambda w, x: jax.nn.relu(x @ w), w, batch)))
    >>> round(float(jnp.exp(score(jnp.eye(2)))), 3)  # two units, and no example switches one as the other does
    4.0
    """
    seen = of.once(patterns)
    return log_determinant(seen.alike, seen.units)


class Patterns(NamedTuple):
    """What rectifiers tell of a batch. alike: [B, B], the number of units that two examples switch alike. units: how
    many there are. found: [2^E], how many units have each of the patterns over the first E examples, 16 at most."""

    alike: Array
    units: Array
    found: Array


def see_patterns(x: Array, y: Array) -> tuple[Array, Patterns]:
    """What one rectifier tells, as `watch` takes it."""
    bits = (x > 0).reshape(len(x), -1)
    on, examples = bits.astype(jnp.float32), min(SWAP_EXAMPLES, len(x))
    codes = (bits[:examples] * (1 << jnp.arange(examples))[:, None]).sum(axis=0)
    alike = dot(on, on.T) + dot(1.0 - on, (1.0 - on).T)
    return y, Patterns(alike, jnp.float32(on.shape[1]), jnp.zeros(1 << examples).at[codes].add(1.0))


def no_patterns(examples: int) -> Patterns:
    """What the sum over rectifiers starts from, for a batch of so many."""
    found = jnp.zeros(1 << min(SWAP_EXAMPLES, examples))
    return Patterns(jnp.zeros((examples, examples)), jnp.zeros(()), found)


def patterns(of: Passes) -> Patterns:
    """The sum over all rectifiers."""
    inputs = of.batch.inputs
    return of.watched(inputs, see=see_patterns, zero=no_patterns(len(jax.tree.leaves(inputs)[0]))).total


def log_determinant(matrix: Array, units: Array) -> Array:
    """log |det K| of K [B, B], which counts units that examples switch alike, of so many."""
    examples = len(matrix)
    # What rounding can do to a pivot, so the least that is told from 0.
    _, pivots = whiten(matrix, matrix[:, :0], units * examples * float(jnp.finfo(matrix.dtype).eps))
    same = (matrix == units) & ~jnp.eye(examples, dtype=bool)
    return jnp.where(same.any(), -jnp.inf, jnp.sum(jnp.log(pivots)))


def swap(of: Passes) -> Array:
    """The number of different patterns that units have over the examples, of which the first 16 count (Peng et al.,
    "SWAP-NAS", ICLR 2024, https://arxiv.org/abs/2403.04161, definition 3.2). Not regularized by the size: what it is
    regularized by has to be chosen for each space.

    >>> from jaxnas.base import Batch
    >>> from jaxnas.proxies import passes_of
    >>> batch = Batch(jnp.array([[1.0, -1.0], [-1.0, 1.0]]), jnp.arange(2))
    >>> of = passes_of(lambda w, x: jax.nn.relu(x @ w), jnp.array([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]), batch)
    >>> int(swap(of))  # the first and the last of three units are alike
    2
    """
    return jnp.sum(of.once(patterns).found > 0)


def jacobian_covariance(of: Passes) -> Array:
    """-Σ (log(λ + k) + 1 / (λ + k)) over the eigenvalues λ of the correlations between the gradients of the summed
    outputs by the inputs; k = 1e-5 (Mellor et al., first version, https://arxiv.org/abs/2006.04647v1; also called
    Jacov).

    High where the network sees every example its own way. A gradient that is zero or constant correlates with nothing.

    >>> from jaxnas.base import Batch
    >>> from jaxnas.proxies import passes_of
    >>> batch = Batch(jnp.array([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]]), jnp.arange(2))
    >>> of = passes_of(lambda w, x: jnp.square(x) @ w, jnp.ones((4, 2)), batch)
    >>> round(float(jacobian_covariance(of)), 3)  # gradients without correlation: both eigenvalues are 1
    -2.0
    """
    k = 1e-5
    correlations = _correlations(of.by_inputs)
    # Both sums without eigenvalues: log |det M| and the trace of M⁻¹ = Σ (L⁻¹)², of M = correlations + k = L Lᵀ.
    diagonal = jnp.eye(len(correlations), dtype=correlations.dtype)
    inverse, pivots = whiten(correlations + k * diagonal, diagonal, k)
    return -(jnp.sum(jnp.log(pivots)) + jnp.sum(inverse**2))


def epe_nas(of: Passes) -> Array:
    """Σ |Σ log(|c| + k)| over the classes of the batch, c the correlations between the same gradients of two examples
    of a class; k = 1e-5 (Lopes et al., "EPE-NAS", 2021, https://arxiv.org/abs/2102.08099). Targets are classes.

    >>> from jaxnas.base import Batch
    >>> from jaxnas.proxies import passes_of
    >>> batch = Batch(jnp.array([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]]), jnp.array([0, 0]))
    >>> of = passes_of(lambda w, x: jnp.square(x) @ w, jnp.ones((4, 2)), batch)
    >>> round(float(epe_nas(of)), 1)  # -2 ln 1e-5: two of a class without correlation
    23.0
    """
    logs = jnp.log(jnp.abs(_correlations(of.by_inputs)) + 1e-5)
    labels = of.batch.targets
    same = (labels[:, None] == labels[None, :]) * logs
    # The sum over classes of what all pairs of a class add up to; each class is counted by its first example.
    of_class = (labels[:, None] == labels[None, :]) @ same.sum(axis=1)
    first = jnp.argmax(labels[:, None] == labels[None, :], axis=1) == jnp.arange(len(labels))
    return jnp.sum(jnp.abs(of_class) * first)


def _correlations(rows: Array) -> Array:
    centered = rows - rows.mean(axis=1, keepdims=True)
    length = jnp.linalg.norm(centered, axis=1, keepdims=True)
    unit = centered / jnp.where(length > 0, length, 1.0)
    return dot(unit, unit.T)
