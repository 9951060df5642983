"""SmoothDARTS: Stabilizing DARTS via Perturbation-based Regularization (Chen & Hsieh, ICML 2020, arXiv 2002.05283).

The weights of the network descend the loss of a perturbed mixture (eqs. 4 and 5), so that the validation loss is flat
around what is found: w minimizes L(w, p + delta), p = softmax(alpha), with |delta| <= epsilon in each entry, by

    random: delta uniform;        adversarial: delta the largest ascent, by steps of projected gradient.

epsilon grows linearly (the authors' program: from 0.03 to 0.3).

Deviations: the perturbed weights are kept above 0 and are not normalized again, where the authors' ascent keeps them
from 0 to 1; a weight of 0, as of what pruning took, is not perturbed. An ascent takes `steps` passes more of the
network; the paper's has 7. Batch norm is by the batch in the ascent, too, where the program has running statistics, and
the ascent's last step is taken, where the program takes it back if the loss has not grown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from jaxnas.base import ArchWeights, Array, Key
from jaxnas.relax import There, keys_of, softmax
from jaxnas.search.darts import Variant


def smooth_darts(
    total_steps: int, how: Literal["random", "adversarial"] = "random", first: float = 0.03, last: float = 0.3,
    steps: int = 7, *, there: There | None = None,
) -> Variant:  # fmt: skip
    """The inner loss sees perturbed weights.

    how: by random numbers, or adversarial. first, last: the size of the perturbation, which grows linearly over
    total_steps. steps: of the adversarial ascent. there: the options that pruning has left.

    Raises: ValueError where a number is out of its range.

    >>> weights = {"cell": jnp.full((2, 4), 0.25)}
    >>> seen = smooth_darts(total_steps=100).perturb(jax.random.key(0), None, weights, 0)["cell"]
    >>> bool((abs(seen - 0.25) <= 0.03).all())
    True
    """
    if how not in ("random", "adversarial"):
        raise ValueError(f'how must be "random" or "adversarial", got {how!r}')
    if total_steps < 1 or steps < 1 or not first >= 0 or not last >= 0:
        raise ValueError(f"numbers must be positive, got {total_steps}, {first}, {last} and {steps}")

    def perturb(
        key: Key, slope: Callable[[ArchWeights], ArchWeights], weights: ArchWeights, step: Array
    ) -> ArchWeights:
        epsilon = first + (last - first) * jnp.minimum(step / total_steps, 1.0)
        keys = keys_of(key, weights)
        delta = {k: jax.random.uniform(keys[k], w.shape, minval=-1.0, maxval=1.0) * epsilon for k, w in weights.items()}

        def shifted(delta: ArchWeights) -> ArchWeights:
            return jax.tree.map(lambda w, d: jnp.maximum(w + jnp.where(w > 0, d, 0.0), 0.0), weights, delta)

        def ascend(_: Array, delta: ArchWeights) -> ArchWeights:
            uphill = slope(shifted(delta))
            return jax.tree.map(
                lambda d, u: jnp.clip(d + 2.0 * epsilon / steps * jnp.sign(u), -epsilon, epsilon), delta, uphill
            )

        return shifted(jax.lax.fori_loop(0, steps, ascend, delta) if how == "adversarial" else delta)

    return Variant(softmax(there=there), perturb=perturb)
