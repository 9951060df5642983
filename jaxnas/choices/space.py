"""The search space of a model's choices: their product. Choices inside an option that is not taken mean nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnas.base import Arch, ArchWeights, Array, Graph, SearchSpace, Skeleton
from jaxnas.checks import checked_space
from jaxnas.choices.asking import Found
from jaxnas.spaces import product_space

Costs = Callable[[Arch], dict[str, int]]


def choice_space(name: str, found: Mapping[str, Found], costs: Costs) -> SearchSpace:
    """The space. costs: arch -> parameters and multiply-adds of its network.

    An architecture has an option for each choice. Where the options of others say that a choice is nowhere in the
    network, `canonical` sets it to its first option, and its node is masked out of the graph.
    """
    base = product_space(name, {choice.name: choice.labels for choice in found.values()})
    matters = _matters(found)

    def canonical(arch: Arch) -> Arch:
        return jnp.where(matters(arch), arch, 0).astype(jnp.int32)

    def discretize(weights: ArchWeights) -> Arch:
        return canonical(base.discretize(weights))

    def graph(arch: Arch) -> Graph:
        plain, there = base.graph(canonical(arch)), matters(arch)
        between = there[:, None] & there[None, :]
        # The choices that matter, one behind the other.
        rank = jnp.cumsum(there)
        follows = (rank[None, :] == rank[:, None] + 1) & between
        return plain._replace(adjacency=follows[None].astype(jnp.float32), mask=there[None])

    def from_genotype(genotype: Mapping[str, Any] | str) -> Arch:
        return canonical(base.from_genotype(genotype))

    def of_skeleton(arch: Arch, skeleton: Skeleton) -> dict[str, int]:
        return costs(arch)

    space = base._replace(
        canonical=canonical, discretize=discretize, graph=graph, from_genotype=from_genotype, costs=of_skeleton
    )
    return checked_space(space)


def _matters(found: Mapping[str, Found]) -> Callable[[Arch], Array]:
    """Makes arch -> bool [D], which choices its network has."""
    places = {name: place for place, name in enumerate(found)}

    def holds(arch: Arch, condition: frozenset[tuple[str, frozenset[int]]]) -> Array:
        result = jnp.array(True)
        for name, options in condition:
            table = np.zeros(len(found[name].options), bool)
            table[list(options)] = True
            result = result & jnp.asarray(table)[arch[places[name]]]
        return result

    def matters(arch: Arch) -> Array:
        ways = [[holds(arch, condition) for condition in choice.conditions] for choice in found.values()]
        return jnp.stack([jnp.any(jnp.stack(own)) for own in ways])

    return matters
