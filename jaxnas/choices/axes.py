"""Which entries along an axis a path uses, found by following each axis through the program.

An axis of an array is a node; operations say which axes are one and the same, and which are made of others: rows of a
product (a reshape), one behind the other (a concatenation), or not there at all (a gate). An axis that is made of
nothing uses its first so many entries. So the order of entries is that of the network of an architecture, whose arrays
are the used entries alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxnas.choices.quantities import Design, Quantity, attribute

Sizes = tuple[int, ...]
"""Of an axis in each trace; that of the first, the widest, comes first."""


class Conflict(ValueError):
    """Two layouts of one axis that cannot both be."""


class Axis:
    """An axis of one or more arrays. sizes: in each trace. Made of nothing, or of `parts` as `made` says."""

    __slots__ = ("_mask", "_same", "active", "made", "parts", "sizes")

    def __init__(self, sizes: Sequence[int], made: Literal["", "product", "joined", "gate"] = "", parts: Any = ()):
        self.sizes: Sizes = tuple(int(size) for size in sizes)
        self._same: Axis | None = None
        self.made = made
        self.parts: tuple[Axis, ...] = tuple(parts)
        self.active: Quantity | None = None
        self._mask: Quantity | None = None

    @property
    def root(self) -> Axis:
        """What stands for all axes that are the same."""
        axis = self
        while axis._same is not None:
            axis = axis._same
        return axis

    @property
    def varies(self) -> bool:
        """Whether it has other sizes in other traces."""
        return any(size != self.sizes[0] for size in self.sizes)

    def __repr__(self) -> str:
        own = self.root
        return f"Axis{list(own.sizes)}" + (f" {own.made}{list(own.parts)}" if own.parts else "")


def same(a: Axis, b: Axis) -> Axis:
    """Makes two axes one. Raises: Conflict where one is made in another way than the other, and that matters."""
    a, b = a.root, b.root
    if a is b:
        return a
    if a.sizes != b.sizes:
        raise Conflict(f"an axis has the sizes {_shown(a.sizes)} and {_shown(b.sizes)}")
    if a.parts and not b.parts:
        a, b = b, a
    # b stays; what a is made of must be what b is made of.
    if a.parts and (a.varies or _gated(a) or _gated(b)):
        _same_parts(a, b)
    a._same = b
    return b


def _gated(axis: Axis) -> bool:
    return axis.varies or any(_gated(part.root) for part in axis.root.parts)


def _same_parts(a: Axis, b: Axis) -> None:
    if a.made == b.made and [p.root.sizes for p in a.parts] == [p.root.sizes for p in b.parts]:
        for mine, other in zip(a.parts, b.parts, strict=True):
            same(mine, other)
        return
    if a.made == b.made == "product" and _refined(a, b):
        return
    raise Conflict(f"an axis is {_told(a)} in one place and {_told(b)} in another")


def _refined(a: Axis, b: Axis) -> bool:
    """Of two products, each part of the coarser one is made of parts of the finer one."""
    mine, others = [p.root for p in a.parts], [p.root for p in b.parts]
    groups = grouped([p.sizes for p in mine], [p.sizes for p in others])
    if groups is None:
        return False
    for left, right in groups:
        one, other = [mine[i] for i in left], [others[i] for i in right]
        if len(one) == 1:
            same(one[0], product(other))
        elif len(other) == 1:
            same(other[0], product(one))
        else:
            return False
    return True


def product(parts: Sequence[Axis]) -> Axis:
    """The axis whose rows are those of the parts, the last running fastest."""
    kept = [part.root for part in parts if part.root.sizes != (1,) * len(part.root.sizes)]
    if len(kept) == 1:
        return kept[0]
    sizes = [math.prod(own) for own in zip(*(part.root.sizes for part in parts), strict=True)]
    return Axis(sizes, "product", kept)


def joined(parts: Sequence[Axis]) -> Axis:
    """The axis that has the parts one behind the other."""
    sizes = [sum(own) for own in zip(*(part.root.sizes for part in parts), strict=True)]
    return Axis(sizes, "joined", [part.root for part in parts])


def grouped(a: Sequence[Sizes], b: Sequence[Sizes]) -> list[tuple[list[int], list[int]]] | None:
    """Which axes of a reshape become which: groups of the same product in every trace; None where there are none."""
    groups, i, j = [], 0, 0
    while i < len(a) or j < len(b):
        left, right = list(range(i, min(i + 1, len(a)))), list(range(j, min(j + 1, len(b))))
        i, j = i + len(left), j + len(right)
        while (one := _product(a, left, b)) != (other := _product(b, right, a)):
            if i < len(a) and (one[0] <= other[0] or j == len(b)):
                left.append(i)
                i += 1
            elif j < len(b):
                right.append(j)
                j += 1
            else:
                return None
        groups.append((left, right))
    return groups


def _product(sizes: Sequence[Sizes], chosen: Sequence[int], others: Sequence[Sizes]) -> Sizes:
    traces = len((*sizes, *others)[0])
    return tuple(math.prod(sizes[i][k] for i in chosen) for k in range(traces))


def _shown(sizes: Sizes) -> str:
    return "/".join(map(str, dict.fromkeys(sizes)))


def _told(axis: Axis) -> str:
    names = {"product": " x ", "joined": " + "}
    return f"({names.get(axis.made, ' ').join(_shown(part.root.sizes) for part in axis.parts)})"


class Layouts:
    """What each axis of a program uses, once all operations have been followed."""

    def __init__(self, design: Design):
        self.design = design

    def leaf(self, axis: Axis) -> Quantity:
        """How many entries are used of an axis that is made of nothing."""
        own = axis.root
        if own.active is None:
            found = Quantity((), np.asarray(own.sizes[0])) if not own.varies else attribute(own.sizes, self.design)
            if found is None:
                raise Conflict(f"an axis of the sizes {_shown(own.sizes)}, which no width explains")
            own.active = Quantity(found.names, np.rint(found.table).astype(np.int64))
        return own.active

    def size(self, axis: Axis, of: Callable[[Quantity], Any]) -> Any:
        """How many entries are used. of: what a quantity is, in a path, a mixture or many architectures."""
        own = axis.root
        if own.made == "gate":
            return of(self.share(own)) * self.size(own.parts[0], of)
        if own.made == "product":
            return math.prod(self.size(part, of) for part in own.parts)
        if own.made == "joined":
            return sum(self.size(part, of) for part in own.parts)
        return of(self.leaf(own))

    def names(self, axis: Axis) -> set[str]:
        """The choices that change it."""
        own = axis.root
        if own.parts:
            mine = set(self.share(own).names) if own.made == "gate" else set()
            return mine.union(*(self.names(part) for part in own.parts))
        return set(self.leaf(own).names)

    def changes(self, axis: Axis) -> bool:
        """Whether it is not always all of it."""
        own = axis.root
        return own.varies or any(self.changes(part) for part in own.parts)

    def mask(self, axis: Axis, prefix: Callable[[Quantity, int], Any], gate: Callable[[Quantity], Any], xp: Any) -> Any:
        """The mask of an axis, [n]: 1 where an entry is used. prefix: (sizes, n) -> that of the first so many.

        gate: of an array that is there or not, its share. xp: numpy or jax.numpy.
        """
        own = axis.root
        if own.made == "gate":
            inner = own.parts[0].root
            return gate(self.share(own)) * self.mask(inner, prefix, gate, xp)
        if own.made == "product":
            mask = xp.ones(1)
            for part in own.parts:
                mask = (mask[:, None] * self.mask(part, prefix, gate, xp)[None, :]).reshape(-1)
            return mask
        if own.made == "joined":
            return xp.concatenate([self.mask(part, prefix, gate, xp) for part in own.parts])
        if not own.varies:
            return xp.ones(own.sizes[0])
        return prefix(self.leaf(own), own.sizes[0])

    def share(self, axis: Axis) -> Quantity:
        """Of a gate: 1 where it is open, 0 where it is shut."""
        inner = axis.parts[0].root
        opened = [own // max(before, 1) for own, before in zip(axis.sizes, inner.sizes, strict=True)]
        if not any(value != opened[0] for value in opened):
            return Quantity((), np.asarray(1.0))
        found = attribute(opened, self.design)
        if found is None:
            raise Conflict("nothing explains which inputs are joined")
        return found

    def used(self, axis: Axis, taken: dict[str, int]) -> np.ndarray:
        """The numbers of the entries that one architecture uses."""
        mask = self.mask(
            axis, lambda sizes, n: (np.arange(n) < sizes.at(taken)).astype(float), lambda q: float(q.at(taken)), np
        )
        return np.flatnonzero(mask > 0)


class Number(NamedTuple):
    """A number that comes from sizes: factor x (the size of an axis) ** power."""

    axis: Axis
    power: float
    factor: float


_POWERS = (1.0, -1.0, 0.5, -0.5, 2.0, -2.0)


def number_of(values: Sequence[Any], layouts: Layouts, axes: Sequence[Axis]) -> Number | Quantity | None:
    """What a number that differs from trace to trace is: of one choice, or of the size of one of some axes."""
    observed = np.stack([np.asarray(value, np.float64) for value in values])
    if observed.ndim == 1 and np.all(observed != 0):
        for axis in axes:
            sizes = np.array(axis.root.sizes, np.float64)
            if not axis.root.varies or (sizes == 0).any():
                continue
            for power in _POWERS:
                factors = observed / sizes**power
                if np.abs(factors - factors[0]).max() <= 1e-6 * abs(factors[0]):
                    return Number(axis.root, power, float(factors[0]))
    return attribute(values, layouts.design)
