"""GDAS: Searching for a Robust Neural Architecture in Four GPU Hours (Dong & Yang, CVPR 2019, arXiv 1910.04465).

Each slot takes one option by the Gumbel-max trick, and the gradient is that of the soft sample (eqs. 3 to 5): with g
standard Gumbel noise, tau the temperature,

    soft = softmax((log softmax(alpha) + g) / tau),      weights = onehot(argmax soft) + soft - stop_gradient(soft).

Straight-through: the forward value is a single path, the gradient is of another function, so that it is biased for any
tau. What is derived is the option of the greatest alpha.

Give it a supernet with `sampled=True`, which computes the sampled operations alone, as the authors do: the gradient of
a slot then goes through the weight of what was taken. Over a whole mixture it goes through all, which is closer to the
soft sample's, and slower.

Deviations: the authors' program adds the weights of the options that were not taken, which are zero, to the output as
numbers; each then has the sum of the output's gradient, whatever its operation computes. Here they have none, as in the
paper, and on digits201 cells are worse for it (docs/leaderboard.md). The weights of the network see the same kind of
sample. In the DARTS space an edge takes one option, and two edges of a node are kept at the end, as there.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxnas.base import Array, Key
from jaxnas.relax import There, by_slots
from jaxnas.search.darts import Variant


def gdas(total_steps: int, first: float = 10.0, last: float = 0.1, *, there: There | None = None) -> Variant:
    """One path a slot, straight through.

    total_steps: over which the temperature falls linearly from first to last (10 to 0.1 in the paper). there: the
    options that pruning has left.

    Raises: ValueError where a number is not positive.

    >>> relaxation = gdas(total_steps=100).relaxation
    >>> weights = relaxation.weights(jax.random.key(0), {"cell": jnp.zeros((3, 4))}, 0)["cell"]
    >>> (weights > 0.5).sum(axis=1).tolist()  # one option of each slot
    [1, 1, 1]
    """
    if total_steps < 1 or not first > 0 or not last > 0:
        raise ValueError(f"total_steps and temperatures must be positive, got {total_steps}, {first} and {last}")

    def weights(key: Key, alpha: Array, step: Array) -> Array:
        tau = first + (last - first) * jnp.minimum(step / total_steps, 1.0)
        soft = jax.nn.softmax((jax.nn.log_softmax(alpha) + jax.random.gumbel(key, alpha.shape)) / tau)
        hard = jax.nn.one_hot(jnp.argmax(soft, axis=-1), alpha.shape[-1])
        return jax.lax.stop_gradient(hard - soft) + soft

    return Variant(by_slots(weights, jax.nn.softmax, there=there))
