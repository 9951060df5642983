"""Single-path one-shot training of a supernet, over any space that has one.

Uniform sampling (Guo et al., "Single Path One-Shot Neural Architecture Search", ECCV 2020,
https://arxiv.org/abs/1904.00420): each step draws one architecture uniformly, and the weights that it uses
descend the training loss along its path. Strict fairness (Chu et al., "FairNAS", ICCV 2021,
https://arxiv.org/abs/1907.01845, algorithm 1): a step takes K paths through one batch in which each choice shows every
one of its K options exactly once, sums their gradients, and applies the sum once,

    W ← W - optimizer(Σ_k ∂L(path_k, batch) / ∂W).

The sandwich rule (Yu & Huang, "Universally Slimmable Networks", ICCV 2019, https://arxiv.org/abs/1903.05134; over whole
spaces Yu et al., "BigNAS", ECCV 2020, https://arxiv.org/abs/2003.11142): the paths of a step are the largest
architecture, the smallest and some random ones, so that every step moves both ends of what the weights are to serve,
again by one update of the sum. The papers teach all but the largest by its outputs; here every path sees the labels.
Their smaller networks are slices of the largest. Where options share no weights, as in the chain space, the ends train
the options that they consist of and what all paths share, and the random paths alone train the rest.

What no path of a step used stays as it was (`search.paths`). Nothing about the architecture is learned here: which one
is best is asked of a score afterwards. Passes normalize by the statistics of their own batch and keep none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas.base import (
    Arch,
    Array,
    Batch,
    Choice,
    Context,
    Key,
    Objective,
    Phase,
    PyTree,
    SearchAlgorithm,
    SearchSpace,
    Supernet,
)
from jaxnas.checks import check_arch, check_choices
from jaxnas.kernels.trees import norm, pmean
from jaxnas.objectives import CLASSIFICATION, means
from jaxnas.search.paths import path_only


class Paths(NamedTuple):
    """Which paths make one update. choices: of their space. draw: key -> int32 [K, D], the architectures; traceable.

    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2)})
    >>> pairs = Paths(space.choices, lambda key: jnp.stack([space.sample(key), jnp.array([2, 1])]))
    >>> pairs.draw(jax.random.key(0)).shape  # a random path and the largest one
    (2, 2)
    """

    choices: tuple[Choice, ...]
    draw: Callable[[Key], Array]


class SinglePathState(NamedTuple):
    """params: of the supernet. opt_state: of their optimizer."""

    params: PyTree
    opt_state: optax.OptState


class SinglePathInfo(NamedTuple):
    """Of one step, float32 []: means over its paths of loss and metric before it, norm of the summed gradient."""

    train_loss: Array
    train_metric: Array
    weight_gradient: Array


def uniform_paths(space: SearchSpace, count: int = 1) -> Paths:
    """`count` independent draws of `space.sample`.

    One path an update is that of the paper. For draws within a budget, say, give the space another `sample`. Raises:
    ValueError where count is less than 1.

    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2)})
    >>> uniform_paths(space, 4).draw(jax.random.key(0)).shape
    (4, 2)
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    return Paths(space.choices, lambda key: jax.vmap(space.sample)(jax.random.split(key, count)))


def fair_paths(choices: tuple[Choice, ...]) -> Paths:
    """K paths, K being the most options of any choice, in which each choice takes its options equally often.

    A choice of K options takes each exactly once, in an order independent of the other choices: the paper's case. One
    of m < K options takes each ⌊K / m⌋ times and K mod m of them, drawn at random, once more: within an update counts
    differ by one at most, over updates they are equal in the mean. More paths would make them equal in each update, but
    as many as the least common multiple of the sizes. Fair are the choices: where parameters belong to two choices at
    once, a source and an operation, not each pair of them is trained in every update.

    Raises: ValueError where there is no choice.

    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2)})
    >>> widths = fair_paths(space.choices).draw(jax.random.key(0))[:, 0]
    >>> sorted(widths.tolist())
    [0, 1, 2]
    """
    if not choices:
        raise ValueError("fair paths need at least one choice, got none")
    sizes = jnp.array([[len(choice.options)] for choice in choices], jnp.int32)
    count = max(len(choice.options) for choice in choices)
    place = jnp.arange(count)[None]

    def draw(key: Key) -> Array:
        label_key, order_key = jax.random.split(key)
        drawn = jax.random.uniform(label_key, (len(choices), count))
        options = jnp.argsort(jnp.where(place < sizes, drawn, jnp.inf), axis=1)  # those that exist come first
        columns = jnp.take_along_axis(options, place % sizes, axis=1)
        order = jnp.argsort(jax.random.uniform(order_key, columns.shape), axis=1)
        return jnp.take_along_axis(columns, order, axis=1).T.astype(jnp.int32)

    return Paths(choices, draw)


def sandwich_paths(space: SearchSpace, largest: Arch, smallest: Arch, count: int = 2) -> Paths:
    """The largest architecture, the smallest one and `count` draws of `space.sample`: count + 2 paths an update.

    Two draws are those of both papers. `jaxnas.spaces.chain_extremes` gives the two ends of a chain space.

    Raises: ValueError where count is less than 1, or the ends are not two different architectures of the space.

    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2)})
    >>> paths = sandwich_paths(space, jnp.array([2, 1]), jnp.array([0, 0]))
    >>> paths.draw(jax.random.key(0))[:2].tolist()
    [[2, 1], [0, 0]]
    """
    random = uniform_paths(space, count)
    for end in (largest, smallest):
        check_arch(space.choices, end, f"the space {space.name!r}")
    ends = np.array([largest, smallest], np.int32)
    if (ends[0] == ends[1]).all():
        raise ValueError(f"the largest and the smallest architecture must differ, got twice {ends[0].tolist()}")
    return Paths(space.choices, lambda key: jnp.concatenate([jnp.asarray(ends), random.draw(key)]))


def single_path(
    supernet: Supernet,
    paths: Paths,
    weight_optimizer: optax.GradientTransformation,
    *,
    objective: Objective = CLASSIFICATION,
    candidates: int = 1000,
    axis_name: str | None = None,
) -> SearchAlgorithm:
    """The one phase "supernet" reads "train"; the paths of a step are computed one after another.

    paths: `uniform_paths(space)`, `fair_paths(space.choices)` or `sandwich_paths(space, largest, smallest)` of the
    supernet's space. weight_optimizer: any that `path_only` can hold to a path; the gradient of K paths is their sum,
    so that its rate and its clip are of the sum. objective: whose loss they descend. candidates: `derive` draws
    so many by `supernet.space.sample` and keeps the one of the highest score, which it must be given: random search
    with weight sharing. Samplers search further with the same score. With `axis_name` a batch is spread over that axis
    and all devices, having one key, take the same paths.

    Raises: ValueError where candidates is less than 1, or the paths are of another space than the supernet.

    >>> from jaxnas.base import Skeleton
    >>> from jaxnas.supernets import nasbench201_supernet
    >>> supernet = nasbench201_supernet(Skeleton(channels=4, cells=1, image_shape=(8, 8, 3), num_classes=10))
    >>> search = single_path(supernet, fair_paths(supernet.space.choices), optax.sgd(0.05, momentum=0.9))
    >>> archs = jax.eval_shape(lambda key: search.draw(key, None, 20), jax.random.key(0))
    >>> archs.shape
    (20, 6)
    """
    check_choices(supernet.space.choices, paths.choices, f"the supernet over {supernet.space.name!r}", "the paths")
    if candidates < 1:
        raise ValueError(f"candidates must be at least 1, got {candidates}")
    optimizer = path_only(weight_optimizer)

    def init(key: Key) -> SinglePathState:
        params = supernet.init(key)
        return SinglePathState(params, optimizer.init(params))

    def step(key: Key, state: SinglePathState, batch: Mapping[str, Batch]) -> tuple[SinglePathState, SinglePathInfo]:
        inputs, targets = batch["train"]
        archs = paths.draw(key)

        def loss(params: PyTree, arch: Arch) -> tuple[Array, tuple[Array, Array]]:
            outputs, _ = supernet.apply_path(params, arch, inputs, Context(axis_name=axis_name))
            value, metric = means(objective, outputs, targets)
            return value, (value, metric)

        def accumulate(total: PyTree, arch: Arch) -> tuple[PyTree, tuple[Array, Array]]:
            gradient, told = jax.grad(loss, has_aux=True)(state.params, arch)
            return jax.tree.map(jnp.add, total, gradient), told

        gradient, told = jax.lax.scan(accumulate, jax.tree.map(jnp.zeros_like, state.params), archs)
        gradient, (value, metric) = pmean((gradient, jax.tree.map(jnp.mean, told)), axis_name)
        used = jax.tree.map(lambda masks: masks.any(axis=0), jax.vmap(supernet.used)(archs))
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params, used=used)
        params = optax.apply_updates(state.params, updates)
        return SinglePathState(params, opt_state), SinglePathInfo(value, metric, norm(gradient))

    def draw(key: Key, state: SinglePathState, count: int) -> Array:
        del state
        return jax.vmap(supernet.space.sample)(jax.random.split(key, count))

    def derive(key: Key, state: SinglePathState, score: Callable[[Array], Array] | None = None) -> Arch:
        if score is None:
            raise ValueError("a supernet alone prefers no architecture: give a score, archs [P, D] -> [P]")
        archs = draw(key, state, candidates)
        return archs[jnp.argmax(score(archs))]

    return SearchAlgorithm(init, (Phase("supernet", step, ("train",)),), derive, supernet, draw)
