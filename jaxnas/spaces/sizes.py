"""NATS-Bench's size space (Dong, Liu, Musial & Gabrys 2021, https://arxiv.org/abs/2009.00437, section 3.1).

The channels of the five layers of one network: stem and first stage, a residual block, second stage, a residual block,
third stage. Every layer has 8, 16, …, 64: 32,768 architectures, written "64:32:16:8:8".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxnas.base import Arch, Graph, SearchSpace
from jaxnas.checks import checked_space
from jaxnas.spaces.literals import shown
from jaxnas.spaces.plain import product_space
from jaxnas.spaces.product import entries

NATSBENCH_SIZES = tuple(range(8, 72, 8))
"""The channels that a layer may have."""
NATSBENCH_LAYERS = 5


def natsbench_size_space() -> SearchSpace:
    """The space of the channels of five layers; D = 5.

    Its graph is the layers one after another, between an input and an output.

    >>> space = natsbench_size_space()
    >>> space.from_genotype("64:32:16:8:8").tolist()
    [7, 3, 1, 0, 0]
    """
    plain = product_space("natsbench_size", {f"layer {layer}": NATSBENCH_SIZES for layer in range(NATSBENCH_LAYERS)})
    sizes = tuple(map(str, NATSBENCH_SIZES))
    vocabulary = (*(f"layer of {size}" for size in sizes), "input", "output")

    def graph(arch: Arch) -> Graph:
        count = NATSBENCH_LAYERS + 2
        ends = jnp.asarray([len(sizes), len(sizes) + 1], jnp.int32)
        ops = jnp.concatenate([ends[:1], arch, ends[1:]])
        return Graph(jnp.eye(count, k=1)[None], ops[None], jnp.ones((1, count), bool))

    def notation(arch: Arch) -> str:
        return ":".join(sizes[entry] for entry in entries(plain.choices, arch))

    def from_genotype(genotype: Mapping[str, Any] | str) -> Arch:
        if not isinstance(genotype, str) or "=" in genotype or "{" in genotype:
            return plain.from_genotype(genotype)
        found = [part.strip() for part in genotype.strip().split(":")]
        if len(found) != NATSBENCH_LAYERS:
            raise ValueError(f"{shown(genotype)} has {len(found)} layers; write five sizes, such as 64:32:16:8:8")
        wrong = next((part for part in found if part not in sizes), None)
        if wrong is not None:
            raise ValueError(f"a layer of this space has {', '.join(sizes)} channels, got {shown(wrong)}")
        return jnp.asarray([sizes.index(part) for part in found], jnp.int32)

    return checked_space(
        plain._replace(graph=graph, notation=notation, from_genotype=from_genotype, vocabulary=vocabulary)
    )
