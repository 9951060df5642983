"""What to drop from a space between the stages of a search, and the state of a search of mixtures carried over.

Progressive shrinking, as in P-DARTS (Chen et al. 2019, https://arxiv.org/abs/1904.12760, section 3.2: of each edge the
operations of the greatest weight stay, 8, 5, then 3) and, by a one-shot supernet, as in ABS (Hu et al. 2020,
https://arxiv.org/abs/2004.13431, section 3.3), with scores where ABS has an angle: an option is worth what sampled
architectures that have it are worth in the mean.

Deviation from P-DARTS: what stays goes on with its parameters, optimizer states included, where P-DARTS begins each
stage anew in a deeper network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike

from jaxnas.base import Choice, PyTree
from jaxnas.checks import check_weights
from jaxnas.search.darts import DartsState

KeepSlots = dict[str, np.ndarray]
"""Cell kind -> bool [S, O], the options of each slot that are left; laid out as mixture weights are."""


def weakest_by_marginal(
    choices: Sequence[Choice], archs: ArrayLike, scores: ArrayLike, left: int
) -> tuple[tuple[int, ...], ...]:
    """For each choice, the `left` options with the best mean score, ascending. A choice with no more options keeps all.

    archs: int [P, D] of the space of these choices, with scores [P]: measured one-shot scores, or those that a
    predictor gives a larger sample. The mean is over the architectures that have the option, whatever else they have;
    an option that none has counts as the mean of all. Ties go to the earlier option.

    Raises: ValueError where left is less than 1, or shapes do not fit, or a score is missing.

    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2)})
    >>> weakest_by_marginal(space.choices, [[0, 0], [1, 0], [2, 1]], [0.5, 0.9, 0.7], left=2)
    ((1, 2), (0, 1))
    """
    if left < 1:
        raise ValueError(f"left must be at least 1, got {left}")
    taken, values = np.asarray(archs), np.asarray(scores, np.float64)
    if taken.ndim != 2 or taken.shape[1] != len(choices) or values.shape != (len(taken),) or not len(taken):
        raise ValueError(f"expected archs [P, {len(choices)}] and scores [P], got {taken.shape} and {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} scores are missing; leave their architectures out")
    keep = []
    for choice, column in zip(choices, taken.T, strict=True):
        has = column[None] == np.arange(len(choice.options))[:, None]
        means = np.array([values[row].mean() if row.any() else values.mean() for row in has])
        keep.append(tuple(sorted(np.argsort(-means, kind="stable")[:left].tolist())))
    return tuple(keep)


def weakest_by_alpha(weights: Mapping[str, ArrayLike], keep: Mapping[str, np.ndarray], left: int) -> KeepSlots:
    """For each slot, the `left` heaviest options among those that were there. Ties go to the earlier option.

    weights: those of the mixture (after the softmax) or the architecture parameters, which are in the same order.

    Raises: ValueError where fewer than two would be left, which is no mixture, or the weights are of another space.

    >>> kept = weakest_by_alpha({"cell": [[0.5, 0.1, 0.4]]}, {"cell": np.ones((1, 3), bool)}, left=2)
    >>> kept["cell"].tolist()
    [[True, False, True]]
    """
    if left < 2:
        raise ValueError(f"a mixture has at least 2 options in a slot, got {left}")
    check_weights(keep, weights, "what was kept before")
    result = {}
    for kind, before in keep.items():
        values = np.where(before, np.asarray(weights[kind], np.float64), -np.inf)
        order = np.argsort(-values, axis=1, kind="stable")
        chosen = np.zeros(before.shape, bool)
        np.put_along_axis(chosen, order[:, :left], True, axis=1)
        result[kind] = chosen & before
    return result


def carried(
    state: DartsState,
    narrow: Callable[[PyTree], PyTree],
) -> DartsState:
    """The state of a search after pruning, made of its state before.

    narrow: of parameters, and of what has their form in the optimizer's state, as from `darts_narrowing`. Steps, and
    with them schedules, go on. The architecture parameters stay as they are: the search that follows needs a relaxation
    with `there`, which does not read those of what is gone.

    >>> optimizer, params = optax.sgd(0.1, momentum=0.9), {"kernels": np.arange(3.0)}
    >>> state = DartsState(params, {"cell": np.zeros((1, 3))}, optimizer.init(params), (), 7)
    >>> after = carried(state, lambda tree: {"kernels": tree["kernels"][np.array([0, 2])]})
    >>> after.params["kernels"].tolist(), after.weight_state[0].trace["kernels"].shape
    ([0.0, 2.0], (2,))
    """
    return state._replace(params=narrow(state.params), weight_state=_each(narrow, state.weight_state, state.params))


def _each(change: Callable[[PyTree], PyTree], state: optax.OptState, params: PyTree) -> optax.OptState:
    """Every part of an optimizer's state that has the form of the parameters, changed as they are."""

    def described(node: PyTree) -> list[tuple[str, tuple[int, ...]]]:
        leaves = jax.tree_util.tree_flatten_with_path(node)[0]
        return [(jax.tree_util.keystr(path), jnp.shape(leaf)) for path, leaf in leaves]

    form = described(params)

    def is_part(node: PyTree) -> bool:
        return described(node) == form

    return jax.tree.map(lambda node: change(node) if is_part(node) else node, state, is_leaf=is_part)
