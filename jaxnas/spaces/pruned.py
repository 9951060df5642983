"""A space of which some options are taken away, choice by choice, as between the stages of a progressive search.

What is left is a space of its own: its architectures count the options that are left, and genotypes, notation, graphs,
costs and mixture weights are those of the whole space, in its names and shapes. A supernet of the whole space computes
its paths after `embed`, with the parameters as they are: along one path only the options taken are computed anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Arch, ArchWeights, Array, SearchSpace
from jaxnas.checks import check_arch, checked_space
from jaxnas.spaces.product import entries, product

Keep = tuple[tuple[int, ...], ...]
"""For each choice the options that are left, in ascending order."""


class Pruned(NamedTuple):
    """What is left of a space, and the ways between the two.

    space: of what is left. embed: its architectures -> those of the whole space; traceable.

    restrict: the way back; an option that was taken away becomes the first one left.
    """

    space: SearchSpace
    embed: Callable[[Arch], Arch]
    restrict: Callable[[Arch], Arch]


def everything(space: SearchSpace) -> Keep:
    """For each choice of a space the numbers of all its options: what `prune` is to keep before something is left out.

    >>> from jaxnas.spaces import product_space
    >>> everything(product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2)}))
    ((0, 1, 2), (0, 1))
    """
    return tuple(tuple(range(len(choice.options))) for choice in space.choices)


def prune(space: SearchSpace, keep: Sequence[Sequence[int]]) -> Pruned:
    """What is left of a space where some options are taken away.

    keep: for each choice of the space, the numbers of the options that are left.

    `discretize` is the rule of the space; where that takes an option which is not left, the choices are put right one
    after another, each by the option whose architecture weighs most in the sum of the weights it takes.

    Raises: ValueError where an option does not exist or comes twice, or where fewer than two architectures are left.

    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2)})
    >>> [choice.options for choice in prune(space, [[0, 2], [1]]).space.choices]
    [('8', '32'), ('2',)]
    """
    if len(keep) != len(space.choices):
        raise ValueError(f"keep must have {len(space.choices)} entries, one for each choice, got {len(keep)}")
    for choice, left in zip(space.choices, keep, strict=True):
        if not left or len(set(left)) < len(left) or not set(left) <= set(range(len(choice.options))):
            raise ValueError(
                f"choice {choice.name!r} has options 0 to {len(choice.options) - 1}; keep at least one of them, each "
                f"once, got {list(left)}"
            )
    kept = [sorted(int(option) for option in left) for left in keep]
    most = max(map(len, kept))
    columns = np.arange(len(kept))
    # Shorter rows are filled up with their first option, which changes no maximum.
    table = np.array([row + row[:1] * (most - len(row)) for row in kept], np.int32)
    back = np.zeros((len(kept), max(len(choice.options) for choice in space.choices)), np.int32)
    there = np.zeros(back.shape, bool)
    for column, row in enumerate(kept):
        back[column, row] = np.arange(len(row))
        there[column, row] = True
    choices = tuple(
        choice._replace(
            options=tuple(choice.options[option] for option in row),
            reads=tuple(choice.reads[option] for option in row) if choice.reads else (),
        )
        for choice, row in zip(space.choices, kept, strict=True)
    )

    def embed(arch: Arch) -> Arch:
        check_arch(choices, arch, f"what is left of the space {space.name!r}")
        return jnp.asarray(table)[columns, arch]

    def restrict(arch: Arch) -> Arch:
        check_arch(space.choices, arch, f"the space {space.name!r}")
        return jnp.asarray(back)[columns, arch]

    def concrete(arch: Arch) -> Arch:
        return jnp.asarray(table[columns, list(entries(choices, arch))])

    def inside(arch: Arch) -> Array:
        return jnp.asarray(there)[columns, arch]

    def canonical(arch: Arch) -> Arch:
        whole = space.canonical(embed(arch))
        return jnp.where(inside(whole).all(), restrict(whole), arch)

    def discretize(weights: ArchWeights) -> Arch:
        def weight(arch: Arch) -> Array:
            taken = space.one_hot(arch)
            return jnp.sum(jnp.stack([jnp.sum(weights[kind] * taken[kind]) for kind in taken]))

        def put_right(arch: Arch, column: Array) -> tuple[Arch, None]:
            options = jnp.asarray(table)[column]
            changed = jax.vmap(lambda option: arch.at[column].set(option))(options)
            best = options[jnp.argmax(jax.vmap(weight)(changed))]
            left = jnp.asarray(there)[column, arch[column]]
            return arch.at[column].set(jnp.where(left, arch[column], best)), None

        return restrict(jax.lax.scan(put_right, space.discretize(weights), jnp.asarray(columns))[0])

    def from_genotype(genotype: Mapping[str, Any] | str) -> Arch:
        whole = np.asarray(space.from_genotype(genotype))
        for choice, option, left in zip(space.choices, whole.tolist(), kept, strict=True):
            if option not in left:
                raise ValueError(
                    f"{choice.options[option]!r} of {choice.name!r} was taken out of the space; left are "
                    f"{', '.join(choice.options[o] for o in left)}"
                )
        return restrict(jnp.asarray(whole))

    narrow = space._replace(
        choices=choices,
        **product(choices)._asdict(),
        canonical=canonical,
        one_hot=lambda arch: space.one_hot(embed(arch)),
        discretize=discretize,
        graph=lambda arch: space.graph(embed(arch)),
        costs=lambda arch, skeleton: space.costs(concrete(arch), skeleton),
        to_genotype=lambda arch: space.to_genotype(concrete(arch)),
        from_genotype=from_genotype,
        notation=lambda arch: space.notation(concrete(arch)),
    )
    return Pruned(checked_space(narrow), embed, restrict)
