"""Scores that add up over the options taken: fitted to measured architectures, and how well they do.

An integer program maximizes a sum. Whether a space's accuracies or latencies are a sum is a question to be measured;
`additivity` answers it on architectures that the fit has not seen.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from jaxnas.base import SearchSpace
from jaxnas.checks import check_weights

Scores = dict[str, np.ndarray]
"""Cell kind -> float [S, O], what the option in the slot adds, as the weights of the space are laid out."""


class AdditiveFit(NamedTuple):
    """value(arch) ≈ constant + the sum of `scores` over the options taken.

    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2)})
    >>> fit = AdditiveFit(1.0, {"width": np.array([[0.0, 2.0, 4.0]]), "depth": np.array([[0.0, 0.5]])})
    >>> sums(space, fit, [[2, 1], [0, 0]]).tolist()
    [5.5, 1.0]
    """

    constant: float
    scores: Scores


class Additivity(NamedTuple):
    """How well sums agree with measured values: R² of the sums as they are, and Kendall's tau (b) of the two orders."""

    r2: float
    tau: float


@functools.lru_cache(maxsize=16)
def batched(of_one: Callable[..., Any]) -> Callable[..., Any]:
    """A function of one architecture for many at once. It is compiled once, however often it is asked for."""
    return jax.jit(jax.vmap(of_one))


def filled(rows: np.ndarray) -> np.ndarray:
    """Rows [P, …] repeated up to a power of two of them, so that for a few more nothing is compiled anew."""
    return np.resize(rows, (1 << (len(rows) - 1).bit_length(), *rows.shape[1:])) if len(rows) else rows


def one_hots(space: SearchSpace, archs: ArrayLike) -> Scores:
    """The options taken by archs [A, D]: cell kind -> float64 [A, S, O]."""
    rows = np.asarray(archs, np.int32)
    weights = batched(space.one_hot)(filled(rows))
    return {kind: np.asarray(value, np.float64)[: len(rows)] for kind, value in weights.items()}


def sums(space: SearchSpace, fit: AdditiveFit, archs: ArrayLike) -> np.ndarray:
    """The sum for each of archs [A, D], float64 [A]. Raises ValueError where the scores are of another space.

    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"depth": (1, 2)})
    >>> sums(space, AdditiveFit(1.0, {"depth": np.array([[0.0, 0.5]])}), [[0], [1]]).tolist()
    [1.0, 1.5]
    """
    check_weights(jax.eval_shape(space.template), fit.scores, f"the space {space.name!r}")
    taken = one_hots(space, archs)
    return fit.constant + sum(np.einsum("aso,so->a", taken[kind], fit.scores[kind]) for kind in taken)


def fit_additive(space: SearchSpace, archs: ArrayLike, values: ArrayLike) -> AdditiveFit:
    """Least squares over archs [A, D] with values [A]. Of several solutions it gives the one of least norm.

    Raises: ValueError where shapes do not fit or a value is missing.

    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"width": (8, 16), "depth": (1, 2)})
    >>> fit = fit_additive(space, [[0, 0], [0, 1], [1, 0]], [1.0, 2.0, 4.0])
    >>> sums(space, fit, [[1, 1]]).round(3).tolist()  # was not measured
    [5.0]
    """
    targets = np.asarray(values, np.float64)
    taken = one_hots(space, archs)
    count = len(next(iter(taken.values())))
    if targets.shape != (count,) or count < 2:
        raise ValueError(f"values must be [{count}], one for each of two architectures or more, got {targets.shape}")
    if not np.isfinite(targets).all():
        raise ValueError(f"{int((~np.isfinite(targets)).sum())} values are missing; leave their architectures out")
    design = np.concatenate([value.reshape(count, -1) for value in taken.values()], axis=1)
    mean = design.mean(axis=0)
    solution = np.linalg.lstsq(design - mean, targets - targets.mean(), rcond=None)[0]
    ends = np.cumsum([value[0].size for value in taken.values()])[:-1]
    parts = np.split(solution, ends)
    scores = {kind: part.reshape(taken[kind].shape[1:]) for kind, part in zip(taken, parts, strict=True)}
    return AdditiveFit(float(targets.mean() - mean @ solution), scores)


def additivity(space: SearchSpace, fit: AdditiveFit, archs: ArrayLike, values: ArrayLike) -> Additivity:
    """How well the sums of a fit agree with values [A] of archs [A, D].

    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"depth": (1, 2, 3)})
    >>> fit = AdditiveFit(0.0, {"depth": np.array([[1.0, 2.0, 3.0]])})
    >>> told = additivity(space, fit, [[0], [1], [2]], [1.0, 2.0, 3.0])
    >>> told.r2, round(told.tau, 3)
    (1.0, 1.0)
    """
    predicted, targets = sums(space, fit, archs), np.asarray(values, np.float64)
    residual = ((targets - predicted) ** 2).sum() / ((targets - targets.mean()) ** 2).sum()
    return Additivity(float(1 - residual), float(stats.kendalltau(predicted, targets).statistic))
