"""SETN: One-Shot Neural Architecture Search via Self-Evaluated Template Network (Dong & Yang, ICCV 2019, 1910.05733).

The weights of the template network descend the training loss along one random path, uniform over the architectures, so
that all are trained alike. The evaluator, alpha, descends the validation loss of the whole mixture, so that it knows
which are likely to be good. At the end architectures are drawn by the softmax of alpha, and the one of the best
validation score in the template network is kept (sec. 3.4; the authors' program draws 100).

Deviations: the training pass computes the whole mixture at one-hot weights; a slot of the mixture takes one option,
each as often.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxnas.base import Arch, ArchWeights, Array, Key, PyTree, SearchAlgorithm, Supernet
from jaxnas.relax import There, keys_of, masked, softmax
from jaxnas.search.darts import DartsState, Variant


def setn(*, there: There | None = None) -> Variant:
    """Softmax weights for the architecture, and uniform one-hot ones for the inner loss. See also `by_score`.

    there: the options that pruning has left.

    >>> weights = {"cell": jnp.full((3, 4), 0.25)}
    >>> seen = setn().perturb(jax.random.key(0), None, weights, 0)["cell"]
    >>> seen.max(axis=1).tolist(), seen.sum(axis=1).tolist()  # one option of each slot
    ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0])
    """

    def perturb(
        key: Key, slope: Callable[[ArchWeights], ArchWeights], weights: ArchWeights, step: Array
    ) -> ArchWeights:
        del slope, step
        keys = keys_of(key, weights)
        flat = masked(jax.tree.map(jnp.zeros_like, weights), there)
        return {k: jax.nn.one_hot(jax.random.categorical(keys[k], own), own.shape[-1]) for k, own in flat.items()}

    return Variant(softmax(there=there), perturb=perturb)


def by_score(algorithm: SearchAlgorithm, mean: Callable[[PyTree], ArchWeights], count: int = 100) -> SearchAlgorithm:
    """A search whose `derive` draws `count` architectures from the mixture, and takes the one with the best score.

    mean: of its relaxation. A draw takes one option of each slot, with its weight as the probability; the rule of the
    space makes an architecture of it. Without a score `derive` stays as it was.

    Raises: ValueError where count is less than 1, or the algorithm has no supernet.

    >>> import optax
    >>> from jaxnas.base import Skeleton
    >>> from jaxnas.search import darts
    >>> from jaxnas.supernets import nasbench201_supernet
    >>> supernet = nasbench201_supernet(Skeleton(channels=4, cells=1, image_shape=(8, 8, 3), num_classes=10))
    >>> search = by_score(darts(supernet, optax.sgd(0.025), optax.adam(3e-4), variant=setn()), setn().relaxation.mean)
    >>> state = jax.eval_shape(search.init, jax.random.key(0))
    >>> jax.eval_shape(lambda key, state: search.draw(key, state, 20), jax.random.key(0), state).shape
    (20, 6)
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    supernet: Supernet | None = algorithm.supernet
    if supernet is None:
        raise ValueError("the algorithm must have the supernet that it searches")
    space = supernet.space

    def one(key: Key, state: DartsState) -> Arch:
        weights = mean(state.alpha)
        keys = keys_of(key, weights)
        # By the Gumbel-max trick the greatest of each slot is a draw by its weights.
        noisy = {k: jnp.log(own) + jax.random.gumbel(keys[k], own.shape) for k, own in weights.items()}
        # What a slot weighs among others, as the edges of PC-DARTS do, stays as it is.
        sums = {k: own.sum(-1, keepdims=True) for k, own in weights.items()}
        return space.discretize({k: sums[k] * jax.nn.softmax(own) for k, own in noisy.items()})

    def draw(key: Key, state: DartsState, number: int) -> Array:
        return jax.vmap(one, (0, None))(jax.random.split(key, number), state)

    def derive(key: Key, state: DartsState, score: Callable[[Array], Array] | None = None) -> Arch:
        if score is None:
            return algorithm.derive(key, state, None)
        archs = draw(key, state, count)
        return archs[jnp.argmax(score(archs))]

    return algorithm._replace(derive=derive, draw=draw)
