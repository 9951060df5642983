"""Moves among the rows of a table that has not all of its space.

Where a row has other rows at one change, moves are those of the space that lead to a row. Where a table is sparse, as
with 5,000 rows in a space of 10^11, hardly any row has: then the neighbors of a row are those that differ in the fewest
choices.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Arch, Array, Key
from jaxnas.spaces.product import Product

FEWEST = 2.0
"""A table is sparse where its rows have fewer rows at one change, on average."""
NEAREST = 16
"""Neighbors of a row of a sparse table."""
MOST_COMPARED = 10_000
"""Of so many rows all pairs are compared; of more, each with those beside it in some orders of the rows."""
_ORDERS, _BESIDE, _SAMPLE = 16, 3, 64


def moves_among(
    everywhere: Product, rows: np.ndarray, index: Callable[[Arch], Array]
) -> tuple[Product, Callable[[Arch], Arch] | None]:
    """(the moves that lead to rows alone, arch -> that of the nearest row, None where the table is not sparse).

    everywhere: the moves of the space. rows: int [A, D]. index: arch -> its row, -1 where it has none.

    sample: uniform over the rows. mutate: uniform over the neighbors that have a row; where none does, any row.
    crossover: of the space, and the first parent where the child has no row. neighbors: valid are those that have a
    row. Of a sparse table the neighbors are the nearest rows, and a child is the row that is nearest to it.
    """
    archs = jnp.asarray(rows, jnp.int32)

    def sample(key: Key) -> Arch:
        # By way of a float, as in `product`; rounding may give its end.
        at = (jax.random.uniform(key) * len(archs)).astype(jnp.int32)
        return archs[jnp.minimum(at, len(archs) - 1)]

    def mutate(key: Key, arch: Arch) -> Arch:
        neighbor_key, sample_key = jax.random.split(key)
        near, there = neighbors(arch)
        drawn = jnp.where(there, jax.random.uniform(neighbor_key, there.shape), -1.0)
        return jnp.where(there.any(), near[jnp.argmax(drawn)], sample(sample_key))

    def crossover(key: Key, a: Arch, b: Arch) -> Arch:
        child = everywhere.crossover(key, a, b)
        return jnp.where(index(child) >= 0, child, a)

    def neighbors(arch: Arch) -> tuple[Array, Array]:
        near, valid = everywhere.neighbors(arch)
        rows = jax.vmap(index)(near)
        return near, valid & (rows >= 0) & (rows != index(arch))  # a change may change nothing of what is computed

    asked = np.random.default_rng(0).choice(len(rows), min(len(rows), _SAMPLE), replace=False)
    there = jax.jit(jax.vmap(lambda arch: neighbors(arch)[1].sum()))(archs[np.sort(asked)])
    if len(rows) < 3 or float(there.mean()) >= FEWEST:
        return Product(sample, mutate, crossover, neighbors), None

    beside = jnp.asarray(nearest_rows(rows))
    nearest = _nearest(archs, index)

    def nearest_neighbors(arch: Arch) -> tuple[Array, Array]:
        near = beside[index(nearest(arch))]
        return archs[near], jnp.ones(len(near), bool)

    def nearest_mutate(key: Key, arch: Arch) -> Arch:
        return jax.random.choice(key, nearest_neighbors(arch)[0])

    def nearest_crossover(key: Key, a: Arch, b: Arch) -> Arch:
        return nearest(everywhere.crossover(key, a, b))

    return Product(sample, nearest_mutate, nearest_crossover, nearest_neighbors), nearest


def _nearest(archs: Array, index: Callable[[Arch], Array]) -> Callable[[Arch], Arch]:
    """arch -> the architecture of its row, or of the one that differs in the fewest choices, in a random order."""
    shuffled = archs[np.random.default_rng(1).permutation(len(archs))]

    def nearest(arch: Arch) -> Arch:
        row = index(arch)
        closest = jnp.argmin((shuffled != arch[None]).sum(axis=1))
        return jnp.where(row >= 0, archs[row], shuffled[closest])

    return nearest


def nearest_rows(rows: np.ndarray, count: int = NEAREST) -> np.ndarray:
    """The nearest other rows of each row, by the choices in which they differ; int32 [A, count], fewer where there are
    fewer. Equally near ones are taken in a random order.

    Of more than `MOST_COMPARED` rows they are the nearest of those that lie beside a row where the rows are in the
    order of their choices, of a random first, second and so on.
    """
    random = np.random.default_rng(0)
    count = min(count, len(rows) - 1)
    smallest = rows.astype(np.min_scalar_type(int(rows.max())))
    found = np.empty((len(rows), count), np.int32)
    if len(rows) <= MOST_COMPARED:
        order = random.permutation(len(rows))
        shuffled = smallest[order]
        for start in range(0, len(rows), 256):
            part = smallest[start : start + 256]
            apart = np.zeros((len(part), len(rows)), np.int16)
            for d in range(rows.shape[1]):
                apart += part[:, d, None] != shuffled[None, :, d]
            apart[order[None] == np.arange(start, start + len(part))[:, None]] = np.iinfo(np.int16).max
            found[start : start + len(part)] = order[_least(apart, count)]
        return found
    candidates = []
    steps = [step for step in range(-_BESIDE, _BESIDE + 1) if step]
    for _ in range(_ORDERS):
        order = np.lexsort(smallest[:, random.permutation(rows.shape[1])].T).astype(np.int32)
        place = np.empty(len(rows), np.int32)
        place[order] = np.arange(len(rows), dtype=np.int32)
        candidates += [order[(place + step) % len(rows)] for step in steps]
    for start in range(0, len(rows), 1 << 12):
        these = slice(start, start + (1 << 12))
        near = np.sort(np.stack([each[these] for each in candidates], axis=1), axis=1)
        apart = (smallest[near] != smallest[these][:, None]).sum(axis=2, dtype=np.int16)
        apart[:, 1:][near[:, 1:] == near[:, :-1]] = np.iinfo(np.int16).max
        found[these] = np.take_along_axis(near, _least(apart, count), axis=1)
    return found


def _least(apart: np.ndarray, count: int) -> np.ndarray:
    """The places of the `count` least of each row, the first among equals; int [P, count]."""
    place = np.arange(apart.shape[1], dtype=np.int64)
    keys = apart.astype(np.int64) * apart.shape[1] + place[None]
    return np.argpartition(keys, count - 1, axis=1)[:, :count]
