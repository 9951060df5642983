"""Fair DARTS: Eliminating Unfair Advantages (Chu, Zhou, Zhang, Li, ECCV 2020, arXiv 1911.12126).

Options do not compete: the weight of each is a sigmoid of its own (eq. 3), and a zero-one loss drives it to either end
(eq. 4):

    weights = sigma(alpha),     L_01 = -w mean (sigma(alpha) - 1 / 2)^2.

Derived are the options above a threshold, however many of an edge, no more than two of a node (the authors' program;
the threshold is 0.85): `above` says so to a space whose nodes may have fewer than two edges or two from one input, as
`darts_space(free=True)`.

Deviations: over another space, its own rule reads an architecture off the sigmoids. The paper has no option "none". Its
output is zero, so its sigmoid has no gradient of the loss: only the noise of the start and the zero-one loss would move
it. Here it stays at 1/2 and is left out of the zero-one loss. An edge is absent where all of its other options are
below 1/2. That a node keeps two options at most is so in the authors' published cells; the part of their program that
does it was not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Arch, ArchWeights, Array
from jaxnas.relax import There, by_slots
from jaxnas.search.darts import Variant


def above(
    discretize: Callable[[ArchWeights], Arch], none: int, threshold: float = 0.85
) -> Callable[[ArchWeights], Arch]:
    """The rule of a free space where only weights above a threshold count.

    none: the number of the option that stands for an absent edge. It gets the threshold as its weight.

    Raises: ValueError where the threshold is not in (0, 1).

    >>> from jaxnas.spaces import darts_space
    >>> space = darts_space(1, ("none", "skip_connect", "sep_conv_3x3"), free=True)
    >>> weights = {kind: jnp.array([[0.1, 0.2, 0.9], [0.1, 0.8, 0.3]]) for kind in ("normal", "reduce")}
    >>> arch = jax.jit(above(space.discretize, none=0))(weights)
    >>> space.to_genotype(arch)["normal"]  # of two edges one is above 0.85
    [['none', 0], ['sep_conv_3x3', 0]]
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must be more than 0 and less than 1, got {threshold}")
    return lambda weights: discretize({kind: own.at[:, none].set(threshold) for kind, own in weights.items()})


def fair_darts(
    weight: float = 10.0, operations: Sequence[str] = (), none: str = "none", *, there: There | None = None
) -> Variant:
    """Sigmoids with the zero-one loss, whose weight is 10 in the paper.

    operations: the options of each slot. none: the name of the one that stands for an absent edge, where there is one.
    there: the options that pruning has left.

    Raises: ValueError where weight is negative.

    >>> variant = fair_darts()
    >>> variant.relaxation.mean({"cell": jnp.zeros((1, 3))})["cell"].tolist()
    [[0.5, 0.5, 0.5]]
    >>> float(variant.penalty(None, {"cell": jnp.array([[0.0, 1.0, 1.0]])}, 0))  # all decided: -10 / 4
    -2.5
    >>> variant = fair_darts(operations=("none", "conv"))
    >>> variant.relaxation.mean({"cell": jnp.array([[3.0, 0.0]])})["cell"].tolist()
    [[0.5, 0.5]]
    """
    if not weight >= 0:
        raise ValueError(f"weight, of the zero-one loss, must not be negative, got {weight}")

    free = np.array([name != none for name in operations]) if operations else np.True_

    def sigmoids(alpha: Array) -> Array:
        return jax.nn.sigmoid(jnp.where(jnp.broadcast_to(free, alpha.shape) | jnp.isneginf(alpha), alpha, 0.0))

    def penalty(alpha: ArchWeights, weights: ArchWeights, step: Array) -> Array:
        del alpha, step
        left = {
            kind: jnp.broadcast_to(free, own.shape) & (True if there is None else jnp.asarray(there[kind]))
            for kind, own in weights.items()
        }
        off = [jnp.where(left[kind], jnp.square(own - 0.5), 0.0).sum() for kind, own in weights.items()]
        return -weight * jnp.stack(off).sum() / jnp.stack([own.sum() for own in left.values()]).sum()

    relaxation = by_slots(lambda key, alpha, step: sigmoids(alpha), sigmoids, there=there)
    return Variant(relaxation, penalty)
