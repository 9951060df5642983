"""What a trained model loses by each alternative, and which of its units matter.

One compiled function, a path of the supernet with its architecture as data, gives the outputs of all alternatives.
Batch norms are by the statistics of each calibration batch, those of the trained model as well, so that the model
itself is at distance 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Array, Context, Key, PyTree
from jaxnas.choices import Searchable
from jaxnas.choices.units import Units
from jaxnas.data import Augmentation, Examples, network_inputs
from jaxnas.data.dataset import count
from jaxnas.shrinking.distances import Divergence
from jaxnas.shrinking.distilling import Weights

_SMALL, _DRAWS = 16, 4
"""Examples of a batch, and directions drawn for it, of which one gradient each is taken."""
_EQUAL = 1e-3
"""Outputs that differ by less than this share of the largest are the same but for rounding."""


class Scorer:
    """Distances of architectures to the trained model, on calibration examples.

    examples: as many as fill whole batches of `batch_size`.
    """

    def __init__(
        self, own: Searchable, examples: Examples, augmentation: Augmentation | None, batch_size: int,
        divergence: Divergence,
    ):  # fmt: skip
        size = min(batch_size, count(examples))
        cut = [slice(start, start + size) for start in range(0, count(examples) - size + 1, size)]
        self.batches = [jax.tree.map(lambda leaf, s=s: jnp.asarray(leaf[s]), examples.inputs) for s in cut]
        self.units: Units = own.units()
        self.size = size

        def outputs(params: PyTree, arch: Array, inputs: PyTree) -> PyTree:
            return own.supernet.apply_path(params, arch, network_inputs(inputs, augmentation), Context())[0]

        self.outputs = jax.jit(outputs)
        self._sum = jax.jit(lambda out, trained: divergence.distance(out, trained).sum())

    def trained(self, params: PyTree) -> list[PyTree]:
        """The outputs of the trained model, whose parameters are those of the supernet at its widest, per batch."""
        return [self.outputs(params, self.units.whole, batch) for batch in self.batches]

    def distances(self, params: PyTree, archs: Any, trained: Sequence[PyTree]) -> np.ndarray:
        """The mean distance to the trained outputs of each of archs [P, D], float64 [P]."""
        sums = [
            [
                self._sum(self.outputs(params, arch, batch), known)
                for batch, known in zip(self.batches, trained, strict=True)
            ]
            for arch in jnp.asarray(archs, jnp.int32)
        ]
        return np.array(jax.device_get(sums), np.float64).sum(axis=1) / (self.size * len(self.batches))

    def keeps_order(self, params: PyTree) -> list[bool]:
        """Of each group of units, whether the model reads their order, as where it slices a table by a width.

        Such units cannot be put in another order. Found by turning each group around.
        """
        batch = self.batches[0]
        plain = self.outputs(params, self.units.whole, batch)
        most = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(plain))
        found = []
        for number in range(len(self.units.groups)):
            orders = [np.arange(group.size) for group in self.units.groups]
            orders[number] = orders[number][::-1]
            turned = self.outputs(self.units.ordered(params, orders), self.units.whole, batch)
            apart = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), plain, turned)
            found.append(max(jax.tree.leaves(apart)) > _EQUAL * most)
        return found


def fisher(
    own: Searchable, trained: Weights, examples: Examples, augmentation: Augmentation | None, divergence: Divergence,
    key: Key,
) -> list[np.ndarray]:  # fmt: skip
    """The importance of each unit: by how much its removal changes the outputs, to second order.

    With a gate of 1 at a unit, the distance that its removal causes is about half the Fisher information of the gate,
    the mean of (∂ log p / ∂ gate)² for labels drawn from the model itself (Theis et al. 2018, arXiv 1801.05787;
    Molchanov et al. 2019, arXiv 1906.10771). That derivative is Σ w ∂/∂w over the weights of the unit. As its mean is
    0, squares of sums over a batch add up to the same as squares of each example.

    Returns: of each group, float64 [size].
    """
    units = own.units()
    network = own.network(units.whole)
    empty = _zeros(own)

    @jax.jit
    def of_batch(weights: Weights, key: Key, inputs: PyTree) -> list[Array]:
        x = network_inputs(inputs, augmentation)
        out, back = jax.vjp(lambda params: network.apply(params, x, Context(weights.stats))[0], weights.params)

        def squares(key: Key) -> list[Array]:
            (gradient,) = back(divergence.draw(key, out))
            product = jax.tree.map(jnp.multiply, weights.params, gradient)
            return [total**2 for total in units.sums(units.embedded(product, empty))]

        every = [squares(k) for k in jax.random.split(key, _DRAWS)]
        return [jnp.stack(own).sum(0) for own in zip(*every, strict=True)]

    size = min(_SMALL, count(examples))
    total: list[Any] = [np.zeros(group.size) for group in units.groups]
    for number in range(count(examples) // size):
        inputs = jax.tree.map(lambda leaf, n=number: jnp.asarray(leaf[n * size : (n + 1) * size]), examples.inputs)
        found = jax.device_get(of_batch(trained, jax.random.fold_in(key, number), inputs))
        total = [a + np.asarray(b, np.float64) for a, b in zip(total, found, strict=True)]
    return total


def norms(own: Searchable, trained: Weights) -> list[np.ndarray]:
    """The importance of each unit by the squares of its weights, summed (Li et al. 2017, arXiv 1608.08710)."""
    units = own.units()
    squares = units.embedded(jax.tree.map(jnp.square, trained.params), _zeros(own))
    return [np.asarray(total, np.float64) for total in units.sums(squares)]


def _zeros(own: Searchable) -> PyTree:
    shapes = jax.eval_shape(own.supernet.init, jax.random.key(0))
    return jax.tree.map(lambda shape: np.zeros(shape.shape, shape.dtype), shapes)


def falling(importances: Sequence[np.ndarray], fixed: Sequence[bool]) -> list[np.ndarray]:
    """The order of the units of each group, the most important first; as they are where `fixed`."""
    return [
        np.arange(len(own)) if stays else np.argsort(-own, kind="stable")
        for own, stays in zip(importances, fixed, strict=True)
    ]


class Alternatives:
    """Every option of every choice, put alone into the trained model.

    archs: int32 [P, D]. A choice inside an option that the trained model has not taken is put into the model with that
    option; then the loss is what it adds to that of the option.
    """

    def __init__(self, own: Searchable):
        units = own.units()
        self.names = tuple(units.found)
        whole = np.asarray(units.whole)
        places = {name: place for place, name in enumerate(self.names)}
        rows: dict[tuple[int, ...], int] = {}
        self.pairs: dict[str, list[tuple[int, int]]] = {}
        for name, found in units.found.items():
            around = whole.copy()
            holding = [all(whole[places[n]] in options for n, options in each) for each in found.conditions]
            if holding and not any(holding):
                first = min(found.conditions, key=lambda each: sorted((n, sorted(o)) for n, o in each))
                for other, options in first:
                    around[places[other]] = min(options)
            self.pairs[name] = []
            for option in range(len(found.options)):
                alone = around.copy()
                alone[places[name]] = option
                numbers = [rows.setdefault(tuple(map(int, arch)), len(rows)) for arch in (around, alone)]
                self.pairs[name].append((numbers[0], numbers[1]))
        self.archs = np.array(list(rows), np.int32)

    def table(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Of a value of each of `archs`: choice -> float [1, O], what each option adds."""
        return {name: np.array([[values[b] - values[a] for a, b in own]]) for name, own in self.pairs.items()}
