"""Moves on a product of choices: everything that samplers need and that no space defines for itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Arch, Array, Choice, Key
from jaxnas.checks import check_arch


class Product(NamedTuple):
    """The moves of `SearchSpace` on a plain product; all are traceable and work under `vmap`.

    sample: key -> arch, uniform. mutate: (key, arch) -> one of the M neighbors, uniform over them, so that a choice is
    changed with a probability proportional to its options less one and a choice with one option never is.
    crossover: (key, a, b) -> each entry from either parent with probability 1/2. neighbors: arch -> (archs [M, D],
    valid [M]), M being the sum over choices of the options less one; all are valid.
    """

    sample: Callable[[Key], Arch]
    mutate: Callable[[Key, Arch], Arch]
    crossover: Callable[[Key, Arch, Arch], Arch]
    neighbors: Callable[[Arch], tuple[Array, Array]]


def product(choices: tuple[Choice, ...]) -> Product:
    """The moves on the product of some choices.

    Raises: ValueError where a choice has no option, none has two, or two have one name; the moves, for architectures of
    another length or of floats.
    """
    names = [choice.name for choice in choices]
    if twice := next((name for place, name in enumerate(names) if name in names[:place]), None):
        raise ValueError(f"two choices have the name {twice!r}; give each its own")
    sizes = np.array([len(choice.options) for choice in choices], np.int32)
    for choice in choices:
        if not choice.options:
            raise ValueError(f"choice {choice.name!r} has no options; give it at least one or leave it out")
    if not (sizes > 1).any():
        raise ValueError("the space has a single architecture; give at least one choice two options")
    # Move m sets choice changed[m] to the option that lies offset[m] further on, around the end.
    changed = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes - 1)
    offset = np.concatenate([np.arange(1, size, dtype=np.int32) for size in sizes])

    def move(arch: Arch, at: Array, by: Array) -> Arch:
        return jnp.where(np.arange(len(sizes)) == at, (arch + by) % sizes, arch)

    # Integers by way of floats: `randint` takes three draws, which is most of the time that a search takes to compile.
    # No probability is off by more than 2^-23.
    def sample(key: Key) -> Arch:
        return (jax.random.uniform(key, sizes.shape) * sizes).astype(jnp.int32)

    def mutate(key: Key, arch: Arch) -> Arch:
        check_arch(choices, arch, "the space")
        m = (jax.random.uniform(key, ()) * len(changed)).astype(jnp.int32)
        return move(arch, jnp.asarray(changed)[m], jnp.asarray(offset)[m])

    def crossover(key: Key, a: Arch, b: Arch) -> Arch:
        for parent in (a, b):
            check_arch(choices, parent, "the space")
        return jnp.where(jax.random.bernoulli(key, 0.5, sizes.shape), a, b)

    def neighbors(arch: Arch) -> tuple[Array, Array]:
        check_arch(choices, arch, "the space")
        archs = jax.vmap(move, (None, 0, 0))(arch, jnp.asarray(changed), jnp.asarray(offset))
        return archs, jnp.ones(len(changed), bool)

    return Product(sample, mutate, crossover, neighbors)


def entries(choices: tuple[Choice, ...], arch: Arch) -> tuple[int, ...]:
    """The entries of a concrete architecture as Python integers.

    Raises: ValueError where it has another length than the space, or an entry that is no option.
    """
    check_arch(choices, arch, "the space")
    return tuple(int(value) for value in np.asarray(arch))
