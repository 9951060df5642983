"""Numbers that depend on widths: sizes, and what is computed from sizes, found by comparing traces."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

Numbers = Mapping[str, Any]
"""Name of a choice -> the number of its option, an int or an int32 [], of a path."""
Weights = Mapping[str, Any]
"""Name of a choice -> the weights of its options, float [O], of a mixture."""


class Quantity(NamedTuple):
    """A number or an array for each combination of the options of some choices.

    table: [O1, O2, …, *shape], one axis for each name.
    """

    names: tuple[str, ...]
    table: np.ndarray

    def at(self, taken: Mapping[str, int]) -> Any:
        """Of concrete options."""
        return self.table[tuple(taken[name] for name in self.names)]

    def of_archs(self, archs: np.ndarray, places: Mapping[str, int]) -> np.ndarray:
        """Of archs [P, D]: [P, *shape]."""
        return self.table[tuple(archs[:, places[name]] for name in self.names)]

    def of_path(self, numbers: Numbers) -> Any:
        """Traceable."""
        if not self.names:
            return jnp.asarray(self.table)
        return jnp.asarray(self.table)[tuple(numbers[name] for name in self.names)]

    def of_mixture(self, weights: Weights) -> Any:
        """Its expectation, where the options of the choices are drawn with their weights; traceable."""
        found = jnp.asarray(self.table, jnp.float32)
        for name in self.names:
            found = jnp.tensordot(weights[name], found, 1)
        return found

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> Quantity:
        """The same choices with another table, entry by entry."""
        flat = self.table.reshape(-1)
        shape = self.table.shape
        new = np.stack([function(entry) for entry in flat])
        return Quantity(self.names, new.reshape(*shape, *new.shape[1:]))


class Design(NamedTuple):
    """The options of all choices that have sizes, in each trace. options: name -> how many; codes: name -> int [K]."""

    options: dict[str, int]
    codes: dict[str, np.ndarray]

    def taken(self, trace: int) -> dict[str, int]:
        """Of one trace."""
        return {name: int(code[trace]) for name, code in self.codes.items()}


def make_design(options: Mapping[str, int], whole: Mapping[str, int], seed: int = 0) -> Design:
    """As few traces as tell all choices apart: each has every option in one, and no two of them change alike.

    whole: the option of the first trace; -1 is none of them, where all inputs are joined.
    """
    if not options:
        return Design({}, {})
    most = max(options.values())
    count = most if len(options) == 1 else 2 * most + int(np.ceil(np.log2(len(options) + 1)))
    rng = np.random.RandomState(seed)
    while True:
        codes = {}
        for name, size in options.items():
            rest = np.concatenate([np.arange(size), rng.randint(0, size, count - size)])
            codes[name] = np.concatenate([[whole[name]], rng.permutation(rest)])
        if not any(_follows(a[1:], b[1:]) for a, b in itertools.permutations(codes.values(), 2)):
            return Design(dict(options), codes)
        count += 1


def _follows(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether one code is a function of another, which then could not be told from it."""
    return len(set(zip(a.tolist(), b.tolist(), strict=True))) == len(set(b.tolist()))


_FORMS: tuple[tuple[Callable[[Any], Any], Callable[[Any], Any]], ...] = ((np.log, np.exp), (lambda v: v, lambda v: v))
"""In which a size of several choices may be a sum of parts of each: a product, or a sum."""


def attribute(values: Sequence[Any], design: Design) -> Quantity | None:
    """The choices that a number, of which each trace has a value, is a function of; None where it is of none."""
    observed = np.stack([np.asarray(value, np.float64) for value in values])
    for name, code in design.codes.items():
        table = _single(observed, code, design.options[name])
        if table is not None:
            return Quantity((name,), table)
    for count in (2, 3):
        for chosen in itertools.islice(itertools.combinations(design.codes, count), 3000):
            table = _several(observed, [design.codes[n] for n in chosen], [design.options[n] for n in chosen])
            if table is not None:
                return Quantity(chosen, table)
    return None


def _single(observed: np.ndarray, code: np.ndarray, options: int) -> np.ndarray | None:
    table = np.zeros((options, *observed.shape[1:]))
    for option in range(options):
        own = observed[code == option]
        if len(own) == 0 or (own != own[0]).any():
            return None
        table[option] = own[0]
    return table


def _several(observed: np.ndarray, codes: Sequence[np.ndarray], options: Sequence[int]) -> np.ndarray | None:
    """[O1, O2, …] where a form of the number is a sum of a part of each choice, and the traces tell the parts."""
    if observed.ndim > 1:
        return None
    seen = np.all([code >= 0 for code in codes], axis=0)
    columns = [np.eye(size)[code[seen]] for code, size in zip(codes, options, strict=True)]
    design = np.concatenate(columns, axis=1)
    free = sum(options) - len(options) + 1
    if np.linalg.matrix_rank(design) < free or seen.sum() < free + 2:
        return None
    for form, back in _FORMS:
        with np.errstate(all="ignore"):
            target = form(observed[seen])
        if not np.isfinite(target).all():
            continue
        parts = np.linalg.lstsq(design, target, rcond=None)[0]
        if np.abs(design @ parts - target).max() > 1e-9 * max(1.0, float(np.abs(target).max())):
            continue
        split = np.split(parts, np.cumsum(options)[:-1])
        grid: Any = 0.0
        for axis, part in enumerate(split):
            grid = grid + part.reshape([-1 if a == axis else 1 for a in range(len(split))])
        return np.asarray(back(grid))
    return None
