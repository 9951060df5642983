"""The units of a model's widths: which entries of which parameters belong to one unit, and in which order they stand.

A width keeps the first so many of its units. So a trained model is put in order before it is narrowed: the most
important units come first, in every array that has them. That is a permutation of the axis that these arrays share,
and changes nothing that the model computes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Arch, PyTree
from jaxnas.choices.asking import Found
from jaxnas.choices.axes import Axis
from jaxnas.choices.parts import Parts

Orders = Sequence[Any]
"""Of each group, which of its units stands first, second, …: int [size]."""


class Group(NamedTuple):
    """Units that are cut together. choices: those that say how many are used. size: how many there are."""

    choices: tuple[str, ...]
    size: int


class Units:
    """Of a model that `searchable` has traced.

    whole: the architecture that the model is outside of a search; a choice inside an option that is not taken has its
    widest option. found: name -> the choice, with its kind, its options
    and the conditions under which it matters. groups: of units, in a fixed order.
    """

    def __init__(self, parts: Parts):
        self._parts = parts
        self.found: Mapping[str, Found] = parts.source.found
        outside = [len(c.options) - 1 if c.kind == "join" else c.whole for c in self.found.values()]
        self.whole: Arch = jnp.array(outside, jnp.int32)
        layouts = parts.plan.layouts
        self._axes = [parts.plan.axes[variable] for variable in parts.variables["params"]]
        leaves = {id(leaf): leaf for axes in self._axes for axis in axes for leaf in _leaves(axis)}
        self._leaves = [leaf for leaf in leaves.values() if leaf.varies]
        self.groups = tuple(Group(tuple(sorted(layouts.names(leaf))), leaf.sizes[0]) for leaf in self._leaves)

    def ordered(self, params: PyTree, orders: Orders) -> PyTree:
        """A supernet's parameters with the units of each group in another order; a new tree."""
        known = {id(leaf): np.asarray(order) for leaf, order in zip(self._leaves, orders, strict=True)}
        leaves, form = jax.tree.flatten(params)
        found = []
        for array, axes in zip(leaves, self._axes, strict=True):
            for place, axis in enumerate(axes):
                if any(id(leaf) in known for leaf in _leaves(axis)):
                    array = jnp.take(array, _rows(axis, known), axis=place)
            found.append(array)
        return jax.tree.unflatten(form, found)

    def sums(self, params: PyTree) -> list[Any]:
        """The entries of a tree like a supernet's parameters, summed by the unit that they belong to; traceable.

        Returns: of each group, float [size]. An entry that belongs to units of several groups counts in each.
        """
        arrays = jax.tree.leaves(params)
        totals = [jnp.zeros(group.size) for group in self.groups]
        for array, axes in zip(arrays, self._axes, strict=True):
            for place, axis in enumerate(axes):
                along = array.sum(tuple(at for at in range(array.ndim) if at != place))
                for number, leaf in enumerate(self._leaves):
                    if any(leaf is own for own in _leaves(axis)):
                        totals[number] = totals[number].at[_members(axis, leaf)].add(along, mode="drop")
        return totals

    def embedded(self, own: PyTree, into: PyTree) -> PyTree:
        """A supernet's parameters, which are `own` where the whole network has them, and those of `into` elsewhere.

        Raises: ValueError where `own` has other arrays than the whole network.
        """
        taken = {c: int(o) for c, o in zip(self.found, np.asarray(self.whole), strict=True)}
        given = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(own)[0]}
        layouts, leaves = self._parts.plan.layouts, jax.tree.leaves(into)
        for path, array in given.items():
            place = self._parts.paths["params"].get(path)
            if place is None:
                raise ValueError(f"the model has no parameter {path}; give those of the model at its widest")
            used = [
                np.asarray(layouts.used(axis, taken)) if layouts.changes(axis) else np.arange(size)
                for axis, size in zip(self._axes[place], leaves[place].shape, strict=True)
            ]
            if np.shape(array) != tuple(map(len, used)):
                raise ValueError(
                    f"{path} is {list(np.shape(array))}, and {list(map(len, used))} in the model at its widest"
                )
            leaves[place] = jnp.asarray(leaves[place]).at[np.ix_(*used)].set(jnp.asarray(array))
        return jax.tree.unflatten(jax.tree.structure(into), leaves)


def _leaves(axis: Axis) -> Iterator[Axis]:
    """What an axis is made of in the end."""
    own = axis.root
    if not own.parts:
        yield own
    for part in own.parts:
        yield from _leaves(part)


def _folded(
    axis: Axis, leaf: Callable[[Axis], np.ndarray], product: Callable[[np.ndarray, np.ndarray], np.ndarray],
    joined: Callable[[Sequence[np.ndarray]], np.ndarray],
) -> np.ndarray:  # fmt: skip
    """Something of each entry of an axis, from that of what it is made of: leaves, products of them, joined ones."""
    own = axis.root
    parts = [_folded(part, leaf, product, joined) for part in own.parts]
    if own.made == "gate":
        return parts[0]
    if own.made == "product":
        return functools.reduce(product, parts)
    return joined(parts) if own.made == "joined" else leaf(own)


def _rows(axis: Axis, orders: Mapping[int, np.ndarray]) -> np.ndarray:
    """Which entry of an axis comes first, second, …, where that is given for what it is made of."""

    def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
        starts = np.cumsum([0, *map(len, parts)])
        return np.concatenate([part + start for part, start in zip(parts, starts, strict=False)])

    return _folded(
        axis,
        lambda own: orders.get(id(own), np.arange(own.sizes[0])),
        lambda outer, inner: (outer[:, None] * len(inner) + inner).reshape(-1),
        joined,
    )


def _members(axis: Axis, leaf: Axis) -> np.ndarray:
    """The unit of a leaf that each entry of an axis belongs to; beyond the last where to none."""
    none = leaf.sizes[0]
    return _folded(
        axis,
        lambda own: np.arange(none) if own is leaf else np.full(own.sizes[0], none),
        lambda outer, inner: np.where(outer[:, None] < none, outer[:, None], inner[None]).reshape(-1),
        np.concatenate,
    )
