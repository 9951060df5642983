"""Cholesky's factorization in plain JAX, for programs that run many at once.

A = L Lᵀ by blocks (Golub & Van Loan 2013, Matrix Computations, chapter 4.2): a small block is factored and inverted
column by column, and everything else is products of matrices. So nothing here is a call of LAPACK. On a CPU a call of
LAPACK with many matrices takes a thread of XLA's pool and then waits for others of it: two such calls at once can hold
all threads and wait forever. Alone, a factorization of 156 rows took about as long as LAPACK's on a CPU.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxnas.base import Array

LARGEST_BLOCK = 40
"""Rows of a matrix that is factored column by column; of 16 to 52 the fastest for a fit to 156 rows on a CPU, while
hundreds of fits at once gain from less."""


def whiten(matrix: Array, columns: Array, least: float | Array) -> tuple[Array, Array]:
    """(L⁻¹ columns [P, R], pivots [P]) of a symmetric positive definite matrix [P, P] = L Lᵀ and columns [P, R].

    Pivots are the squares of L's diagonal: their product is the determinant. least: a number above 0 that no eigenvalue
    is below, such as the noise on the diagonal of a covariance; no pivot is then below it, and one that rounding puts
    there is set to it.
    """
    size = len(matrix)
    if size <= LARGEST_BLOCK:
        inverse, pivots = _invert_factor(matrix, least)
        return dot(inverse, columns), pivots
    half = size // 2
    top, first = whiten(matrix[:half, :half], jnp.concatenate([matrix[:half, half:], columns[:half]], axis=1), least)
    across, above = (
        top[:, : size - half],
        top[:, size - half :],
    )  # the first is L's block below the diagonal, transposed
    rest = matrix[half:, half:] - dot(across.T, across)
    below, second = whiten(rest, columns[half:] - dot(across.T, above), least)
    return jnp.concatenate([above, below]), jnp.concatenate([first, second])


def dot(a: Array, b: Array) -> Array:
    """The product of two matrices in full float32, which accelerators round by default."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _invert_factor(matrix: Array, least: float | Array) -> tuple[Array, Array]:
    """(L⁻¹ [P, P], pivots [P]), a column at a time: of the array below, columns that are done hold L⁻¹ before it is
    scaled, the others what is left of the matrix, and the diagonal the pivots."""
    place = jnp.arange(len(matrix))

    def eliminate(j: Array, left: Array) -> Array:
        row, at = left[j], place == j
        pivot = jnp.maximum(row[j], least)
        factors = jnp.where(place > j, left[:, j] / pivot, 0.0)
        kept = jnp.where(at[None], jnp.where(at[:, None], pivot, 0.0), left)
        return kept - factors[:, None] * jnp.where(at, 1.0, row)[None]

    done = jax.lax.fori_loop(0, len(matrix), eliminate, matrix)
    pivots = jnp.diag(done)
    lower = jnp.where(place[:, None] > place[None], done, jnp.eye(len(matrix), dtype=matrix.dtype))
    return lower * jax.lax.rsqrt(pivots)[:, None], pivots
