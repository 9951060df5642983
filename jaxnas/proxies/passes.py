"""What proxies are made from: the passes of one architecture on one batch, each computed once and only where asked for.

Shapes: B examples, L layers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnas.base import Arch, Array, Aux, Batch, Context, Objective, PyTree, Supernet
from jaxnas.kernels.trees import unstacked
from jaxnas.objectives import CLASSIFICATION
from jaxnas.proxies.watching import Watched, watch

Proxy = Callable[["Passes"], Array]
"""A score of an untrained network, higher being better: passes -> float32 [], traceable."""


class Leaf(NamedTuple):
    """An array of parameters. stacked: how many leading axes count equal layers. kernel: whether it is one, and neither
    scale nor offset nor bias. searched: whether some architecture does without it, or without a layer of it."""

    stacked: int
    kernel: bool
    searched: bool


class Subject(NamedTuple):
    """A supernet, what it learns, and what its parameters are, in the order of their leaves."""

    apply_path: Callable[[PyTree, Arch, Any, Context], tuple[Any, Aux]]
    used: Callable[[Arch], PyTree]
    objective: Objective
    leaves: tuple[Leaf, ...]


def subject(supernet: Supernet, objective: Objective = CLASSIFICATION) -> Subject:
    """What proxies need to know of a supernet.

    A supernet stacks equal layers in one array. `Supernet.used` tells them apart: its masks have an entry for each
    layer along the first axes, two at most, cells and edges. Whether something is searched is seen from 64 random
    architectures.

    >>> from jaxnas.spaces import product_space
    >>> scaled = lambda w, arch, x, context: (x @ w * arch[0], Aux(()))
    >>> space = product_space("two", {"scale": ("0", "1")})
    >>> of = subject(Supernet(space, lambda key: jnp.ones((1, 3)), None, scaled, lambda arch: arch[0] > 0))
    >>> of.leaves  # the path of scale 0 does without it
    (Leaf(stacked=0, kernel=True, searched=True),)
    """
    space = supernet.space
    archs = jax.vmap(space.sample)(jax.random.split(jax.random.key(0), 64))
    shapes = jax.tree_util.tree_leaves_with_path(jax.eval_shape(supernet.init, jax.random.key(0)))
    always = jax.tree.leaves(jax.jit(lambda archs: jax.tree.map(jnp.all, jax.vmap(supernet.used)(archs)))(archs))
    masks = jax.tree.leaves(jax.eval_shape(supernet.used, archs[0]))
    leaves = []
    for (path, leaf), mask, fixed in zip(shapes, masks, always, strict=True):
        axes = list(zip(mask.shape, leaf.shape, strict=False))[:2]
        stacked = next((axis for axis, (one, other) in enumerate(axes) if one != other), len(axes))
        name = _name(path)
        leaves.append(Leaf(stacked, name not in ("scale", "offset", "bias"), not bool(fixed)))
    return Subject(supernet.apply_path, supernet.used, objective, tuple(leaves))


class Passes:
    """One architecture, with its parameters, on one batch. Every pass is made when it is first asked for.

    >>> of = passes_of(lambda w, x: x @ w, jnp.array([[3.0, -4.0]]), Batch(jnp.ones((2, 1)), jnp.arange(2)))
    >>> largest = lambda of: of.summed(lambda theta: jnp.abs(theta).max(), of.params)  # a proxy of one's own
    >>> float(largest(of))
    4.0
    """

    def __init__(self, of: Subject, params: PyTree, arch: Arch, batch: Batch) -> None:
        """params: those of the supernet, as its `init` gives them; they are brought to He's variance."""
        self.of, self.arch, self.batch = of, arch, batch
        self.drawn = params
        self.params = he_uniform(params)
        self._made: dict[Callable[[Passes], Any], Any] = {}

    def outputs(self, params: PyTree, inputs: Any) -> tuple[Any, Aux]:
        """By the statistics of the batch, without randomness."""
        return self.of.apply_path(params, self.arch, inputs, Context())

    def watched(self, inputs: Any, params: PyTree = None, **how: Any) -> Watched:
        """(outputs, Aux) for some inputs, and what was seen on the way; how: of `jaxnas.proxies.watching.watch`.

        params: others than those of the architecture.
        """

        def forward(params: PyTree, arch: Arch, inputs: Any) -> tuple[Any, Aux]:
            return self.of.apply_path(params, arch, inputs, Context())

        return watch(forward, self.params if params is None else params, self.arch, inputs, **how)

    def layers(self, tree: PyTree, *, searched: bool = True, kernels: bool = True) -> list[Array]:
        """A tree like the parameters as arrays [L, size of a layer].

        searched: of the layers that are searched alone. kernels: without scales, offsets and biases. In a small network
        the fixed layers, stem, reductions and head, would outweigh what the architecture chooses.
        """
        return [
            leaf.reshape(_number(leaf.shape, kind.stacked), -1)
            for leaf, kind in zip(jax.tree.leaves(tree), self.of.leaves, strict=True)
            if (kind.searched or not searched) and (kind.kernel or not kernels)
        ]

    def summed(self, function: Callable[..., Array], *trees: PyTree, searched: bool = True) -> Array:
        """The sum over layers of function(each layer's kernels [size], …) -> []."""
        parts = [self.layers(tree, searched=searched) for tree in trees]
        return sum((jax.vmap(function)(*own).sum() for own in zip(*parts, strict=True)), start=jnp.zeros(()))

    def once(self, function: Callable[[Passes], Any]) -> Any:
        """function(self), made when it is first asked for: a pass that several proxies share."""
        if function not in self._made:
            self._made[function] = function(self)
        return self._made[function]

    @functools.cached_property
    def used(self) -> PyTree:
        """Like the parameters, 1 where the output depends on them, else 0."""
        masks = self.of.used(self.arch)
        return jax.tree.map(lambda mask, leaf: jnp.broadcast_to(mask, leaf.shape) * 1.0, masks, self.params)

    def gradients(self, params: PyTree) -> PyTree:
        """Of the mean loss of each half of the batch, leaves [2, …]; one example is left out where it is odd."""
        half = len(jax.tree.leaves(self.batch)[0]) // 2
        parts = jax.tree.map(lambda leaf: leaf[: 2 * half].reshape(2, half, *leaf.shape[1:]), self.batch)

        def loss(params: PyTree, part: Batch) -> Array:
            return self.of.objective.loss(self.outputs(params, part.inputs)[0], part.targets).mean()

        return jax.lax.map(lambda part: jax.grad(loss)(params, part), parts)

    @functools.cached_property
    def halves(self) -> tuple[PyTree, PyTree]:
        """The gradients of the two halves of the batch."""
        first, second = unstacked(self.gradients(self.params))
        return first, second

    @functools.cached_property
    def gradient(self) -> PyTree:
        """The mean of these; 0 where the output does not depend on a parameter. Batch norms see a half at a time."""
        return jax.tree.map(lambda first, second: (first + second) / 2, *self.halves)

    @functools.cached_property
    def by_inputs(self) -> Array:
        """The gradient of the sum of all outputs by each example, [B, size of an example]. The inputs are floats."""
        inputs = self.batch.inputs
        gradient = jax.grad(lambda inputs: jnp.sum(self.outputs(self.params, inputs)[0]))(inputs)
        return jnp.concatenate([leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(gradient)], axis=1)


def passes_of(
    apply: Callable[[PyTree, Any], Any], params: PyTree, batch: Batch, *, objective: Objective = CLASSIFICATION
) -> Passes:
    """The passes of one network of your own, which is no path of a supernet.

    apply: (params, inputs) -> outputs; batch norms, if it has any, normalize by the statistics of the batch. params:
    used as they are. Each array is a layer, and a kernel where its name is neither "scale" nor "offset" nor "bias".
    batch: inputs and targets [B, …]. objective: whose loss has the gradients.

    `synflow` needs a network without batch norms. `zen` and the proxies of AZ-NAS read values that the network marks
    (`jaxnas.kernels.marks`).

    >>> from jaxnas.objectives import regression
    >>> from jaxnas.proxies import snip
    >>> batch = Batch(jnp.ones(2), jnp.zeros(2))
    >>> of = passes_of(lambda w, x: w * x, jnp.array([2.0]), batch, objective=regression())
    >>> float(snip(of))  # of the loss w^2: |w * 2 w|
    8.0
    """
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    leaves = tuple(Leaf(0, _name(path) not in ("scale", "offset", "bias"), True) for path in paths)
    every = jax.tree.map(lambda _: jnp.array(True), params)

    def apply_path(params: PyTree, arch: Arch, inputs: Any, context: Context) -> tuple[Any, Aux]:
        del arch, context
        return apply(params, inputs), Aux(())

    of = Subject(apply_path, lambda arch: every, objective, leaves)
    passes = Passes(of, params, jnp.zeros(0, jnp.int32), batch)
    passes.params = params
    return passes


def he_uniform(params: PyTree) -> PyTree:
    """Parameters drawn as `Supernet.init` does, brought to the variance of He et al. 2015, 2 / fan-in, biases zero.

    U(-1/√fan-in, 1/√fan-in), PyTorch's default, times √6 is U(-√(6/fan-in), √(6/fan-in)).
    """

    def one(path: Any, leaf: Array) -> Array:
        name = _name(path)
        return leaf if name in ("scale", "offset") else jnp.zeros_like(leaf) if name == "bias" else leaf * jnp.sqrt(6.0)

    return jax.tree_util.tree_map_with_path(one, params)


def measure_of(proxies: Mapping[str, Proxy], of: Subject) -> Callable[[PyTree, Arch, Batch], dict[str, Array]]:
    """(params, arch, batch) -> name -> float32 []: all scores of one architecture, which share their passes."""

    def measure(params: PyTree, arch: Arch, batch: Batch) -> dict[str, Array]:
        passes = Passes(of, params, arch, batch)
        return {name: jnp.asarray(proxy(passes), jnp.float32) for name, proxy in proxies.items()}

    return measure


def over_architectures(proxies: Mapping[str, Proxy], of: Subject) -> Callable[[PyTree, Array, Batch], dict[str, Array]]:
    """(params, archs [P, D], batch) -> name -> [P]: all with the same parameters and batch, in one program.

    One architecture after another: under `vmap` every operation of every architecture would be computed.

    >>> from jaxnas.proxies import layers
    >>> from jaxnas.spaces import product_space
    >>> scaled = lambda w, arch, x, context: (x @ w * arch[0], Aux(()))
    >>> space = product_space("two", {"scale": ("0", "1")})
    >>> of = subject(Supernet(space, lambda key: jnp.ones((1, 3)), None, scaled, lambda arch: arch[0] > 0))
    >>> batch = Batch(jnp.ones((2, 1)), jnp.arange(2))
    >>> over_architectures({"layers": layers}, of)(jnp.ones((1, 3)), jnp.array([[0], [1]]), batch)["layers"].tolist()
    [0.0, 1.0]
    """
    measure = measure_of(proxies, of)
    return lambda params, archs, batch: jax.lax.map(lambda arch: measure(params, arch, batch), archs)


def _name(path: Sequence[Any]) -> str:
    """What an array of parameters is called, "kernel" where it has no name of its own."""
    return str(getattr(path[-1], "key", "kernel")) if path else "kernel"


def _number(shape: Sequence[int], stacked: int) -> int:
    number = 1
    for size in shape[:stacked]:
        number *= size
    return number
