"""Scores of pairs of options beside those of single ones: what a sum over slots misses of how two of them act together.

value(arch) ≈ constant + Σ single options + Σ options of two slots taken together, which an integer program maximizes
with a variable for each such product (`together`). Where architectures are few, the pairs would explain all and
predict nothing. So pairs have a ridge, chosen by the errors of leaving one architecture out (Allen 1974,
https://doi.org/10.1080/00401706.1974.10489157); single options have none.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxnas.base import SearchSpace
from jaxnas.hardware.additive import Scores, fit_additive, one_hots, sums
from jaxnas.hardware.integer_program import kind_of

Pair = tuple[tuple[str, int], tuple[str, int]]
"""Two slots (kind, slot)."""


class PairwiseFit(NamedTuple):
    """value(arch) ≈ constant + the sum of `scores` over the options and the pairs of options taken.

    error: the root of the mean squared error for an architecture that the fit has not seen, by leaving one out.
    """

    constant: float
    scores: Scores
    error: float


RIDGES = tuple(10.0**power for power in np.arange(-3, 4.5, 0.5))
"""Of which the one of the least error is taken; the last leaves next to nothing of the pairs."""


def all_pairs(space: SearchSpace) -> list[Pair]:
    """Every two slots of the mixture weights of a space.

    >>> from jaxnas.spaces import nasbench201_space
    >>> len(all_pairs(nasbench201_space()))  # of 6 edges
    15
    """
    slots = [(kind, slot) for kind, value in space.template().items() for slot in range(value.shape[0])]
    return list(itertools.combinations(slots, 2))


def pair_columns(taken: Scores, pairs: Sequence[Pair]) -> Scores:
    """What of two slots is taken together: `kind_of(pair)` -> [A, 1, O1 * O2]. taken: of `one_hots`, [A, S, O] each."""
    columns = {}
    for pair in pairs:
        first, second = (taken[kind][:, slot] for kind, slot in pair)
        columns[kind_of(pair)] = np.einsum("ai,aj->aij", first, second).reshape(len(first), 1, -1)
    return columns


def strongest_pairs(space: SearchSpace, archs: ArrayLike, values: ArrayLike, count: int) -> list[Pair]:
    """The `count` pairs of slots that explain most of what single options leave over of values [A] of archs [A, D].

    What a pair explains is the variance of the means over its combinations, less what chance alone would give them.

    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"a": (0, 1), "b": (0, 1), "c": (0, 1)})
    >>> archs = [[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]
    >>> strongest_pairs(space, archs, [a * b + c for a, b, c in archs], count=1)
    [(('a', 0), ('b', 0))]
    """
    pairs = all_pairs(space)
    if len(pairs) <= count:
        return pairs
    left = np.asarray(values, np.float64) - sums(space, fit_additive(space, archs, values), archs)
    taken = one_hots(space, archs)
    gains = []
    for pair in pairs:
        columns = pair_columns(taken, [pair])[kind_of(pair)][:, 0]
        times = columns.sum(axis=0)
        there = times > 0
        explained = (columns.T @ left)[there] ** 2 / times[there]
        gains.append(explained.sum() - there.sum() * left.var())
    return [pairs[place] for place in np.argsort(-np.array(gains), kind="stable")[:count]]


def fit_pairwise(
    space: SearchSpace, archs: ArrayLike, values: ArrayLike, pairs: Sequence[Pair] | None = None
) -> PairwiseFit:
    """Single options by least squares and pairs by ridge regression, both at once.

    archs [A, D] with values [A]. pairs: those that may act together, all by default. The scores have the kinds of
    `together(structure, pairs)` beside those of the space.

    Raises: ValueError where shapes do not fit or a value is missing.

    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"a": (0, 1), "b": (0, 1)})
    >>> archs, pairs = np.array([[0, 0], [0, 1], [1, 0], [1, 1]] * 3), all_pairs(space)
    >>> fit = fit_pairwise(space, archs, archs.prod(axis=1), pairs)  # a product, which is no sum of a and b
    >>> bool(abs(pairwise_sums(space, fit, archs, pairs) - archs.prod(axis=1)).max() < 0.01)
    True
    """
    fit_additive(space, archs, values)  # refuses what cannot be fitted
    taken, targets = one_hots(space, archs), np.asarray(values, np.float64)
    columns = pair_columns(taken, all_pairs(space) if pairs is None else pairs)
    empty = np.zeros((len(targets), 0))
    design = np.concatenate([empty, *(value[:, 0] for value in columns.values())], axis=1)
    options = np.concatenate([np.ones((len(targets), 1)), *(v.reshape(len(v), -1) for v in taken.values())], axis=1)
    basis, singular, _ = np.linalg.svd(options, full_matrices=False)
    solution, error = _ridge(design, targets, basis[:, singular > 1e-9 * singular[0]])
    scores, start = {}, 0
    for kind, value in columns.items():
        scores[kind] = solution[None, start : start + value.shape[2]]
        start += value.shape[2]
    rest = fit_additive(space, archs, targets - design @ solution)
    return PairwiseFit(rest.constant, {**rest.scores, **scores}, error)


def pairwise_sums(space: SearchSpace, fit: PairwiseFit, archs: ArrayLike, pairs: Sequence[Pair]) -> np.ndarray:
    """The sum for each of archs [A, D], float64 [A], of a fit to these pairs: those that `fit_pairwise` was given.

    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"a": (0, 1), "b": (0, 1)})
    >>> pair = (("a", 0), ("b", 0))
    >>> fit = PairwiseFit(2.0, {kind_of(pair): np.array([[0.0, 0.0, 0.0, 1.0]])}, 0.0)
    >>> pairwise_sums(space, fit, [[0, 1], [1, 1]], [pair]).tolist()
    [2.0, 3.0]
    """
    taken = one_hots(space, archs)
    columns = {**taken, **pair_columns(taken, pairs)}
    return fit.constant + sum(np.einsum("aso,so->a", columns[kind], value) for kind, value in fit.scores.items())


def _ridge(design: np.ndarray, targets: np.ndarray, free: np.ndarray) -> tuple[np.ndarray, float]:
    """Ridge regression on design [A, F] beside the columns of `free`, whose coefficients are not penalized.

    The penalty is that of the least error of leaving one out. free: [A, K], orthonormal; it is projected out (Frisch &
    Waugh 1933, https://doi.org/10.2307/1907330), which leaves the solution as it is.

    Returns: the solution [F], and the root of that mean squared error.
    """
    design, targets = (each - free @ (free.T @ each) for each in (design, targets))
    # Singular vectors, found on the shorter side.
    tall = design.shape[0] > design.shape[1]
    squares, vectors = np.linalg.eigh(design.T @ design if tall else design @ design.T)
    there = squares > 1e-10 * squares.max(initial=1e-300)
    squares, vectors = squares[there], vectors[:, there]
    root = np.sqrt(squares)
    left, right = (design @ vectors / root, vectors) if tall else (vectors, design.T @ vectors / root)
    rotated = left.T @ targets
    best, solution = np.inf, np.zeros(design.shape[1])
    for ridge in RIDGES:
        shrunk = squares / (squares + ridge)
        residual = targets - left @ (shrunk * rotated)
        leverage = np.minimum((free**2).sum(axis=1) + (left**2) @ shrunk, 1 - 1e-9)
        error = float(((residual / (1 - leverage)) ** 2).mean())
        if error < best:
            best, solution = error, right @ (shrunk / root * rotated)
    return solution, best**0.5
