"""The macro search space of ENAS (Pham et al. 2018, section 2.3, https://arxiv.org/abs/1802.03268): a whole network.

A 3×3 stem gives state 0. Layer k, from 0, applies one of six operations (`jaxnas.ops.macro`) to state k, adds those of
the states 0 … k - 1 that it is to skip to, and batch norm makes state k + 1 of the sum. After the layers L // 3 - 1 and
2 (L // 3) - 1 all states are halved in size and doubled in channels by a factorized reduction each. Global pooling and
a classifier read the last state.

An architecture has, for each layer in turn, its operation and then a choice "no" or "yes" for each state that it may
add: L + L (L - 1) / 2 choices, 78 for 12 layers. All combinations are valid and different. Costs are no sum over
choices: the reduction of a state is there only if a later layer reads it.

Mixture weights: "operation" [L, O], with O = 6, and "skip" [L (L - 1) / 2, 2], layer by layer.

In the authors' programs the first layer has no batch norm of the sum, and channels are doubled only in the final
network, which concatenates states and mixes them by a 1×1 convolution.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Arch, ArchWeights, Array, Choice, Graph, SearchSpace, Skeleton
from jaxnas.checks import checked_space
from jaxnas.ops import costs as cost
from jaxnas.ops.macro import MACRO_PRIMITIVES, named_macro
from jaxnas.ops.primitives import Operations, Primitive
from jaxnas.spaces import genotypes
from jaxnas.spaces.literals import shown
from jaxnas.spaces.product import entries, product
from jaxnas.spaces.reading import read_genotype

ENAS_MACRO_OPERATIONS = tuple(MACRO_PRIMITIVES)
"""Those of the paper, in the order of the authors' numbers."""

Layers = list[tuple[Primitive, list[int]]]
"""(operation, states added) of each layer of a concrete architecture."""


class MacroStage(NamedTuple):
    """Layers of one size. layers: their numbers. channels, size: of their states."""

    layers: range
    channels: int
    size: tuple[int, int]


def enas_macro_stages(skeleton: Skeleton) -> list[MacroStage]:
    """The three stages of a network of `skeleton.cells` layers.

    Raises: ValueError where there are fewer than three layers or an auxiliary head is asked for.
    """
    count = skeleton.cells
    if count < 3:
        raise ValueError(f"the macro network reduces the image twice: it needs at least 3 layers, got {count}")
    if skeleton.auxiliary:
        raise ValueError("ENAS's macro networks have no auxiliary head; use auxiliary=False")
    ends = (0, count // 3, 2 * (count // 3), count)
    return [
        MacroStage(range(ends[s], ends[s + 1]), skeleton.channels << s, cost.strided(skeleton.image_shape[:2], 1 << s))
        for s in range(3)
    ]


def enas_macro_skips(arch: Arch, layers: int) -> tuple[Array, Array]:
    """(operation of each layer int32 [L], whether it adds each state bool [L, L]); traceable.

    Raises: ValueError where the architecture has another number of layers.
    """
    if arch.shape != (layers * (layers + 1) // 2,):
        raise ValueError(
            f"{layers} layers have {layers * (layers + 1) // 2} choices, got an architecture {list(arch.shape)}"
        )
    places = _places(layers)
    rows = [jnp.concatenate([arch[place + 1 : place + 1 + k], jnp.zeros(layers - k, arch.dtype)]) > 0
            for k, place in enumerate(places)]  # fmt: skip
    return arch[jnp.array(places)], jnp.stack(rows)


def enas_macro_needed(skips: Array, after: int) -> Array:
    """Which states 0 … after are read once layer `after` - 1 has made the last of them, bool [after + 1].

    skips: bool [L, L], as of `enas_macro_skips`.
    """
    return skips[after:, : after + 1].any(axis=0) | (np.arange(after + 1) == after)


def enas_macro_graph_operations(operations: Operations = ENAS_MACRO_OPERATIONS) -> tuple[str, ...]:
    """What the operation ids of `graph` mean: the operations, "stem", "output"."""
    return (*(primitive.name for primitive in named_macro(operations)), "stem", "output")


def enas_macro_space(layers: int = 12, operations: Operations = ENAS_MACRO_OPERATIONS) -> SearchSpace:
    """The space of networks with some layers; the skeleton of a network must have as many cells.

    operations: names of `jaxnas.ops.macro.MACRO_PRIMITIVES`, or `jaxnas.ops.primitives.Primitive` objects.

    The notation is that of the authors' programs, the numbers of an architecture in its order. Its graph has a place
    for every state, and one for the output; a layer's is fed by the state before and by those that it adds.

    Raises: ValueError where there are fewer than three layers, or an operation is unknown, given twice or "none".

    >>> space = enas_macro_space(layers=3)
    >>> arch = space.from_genotype("0 4 1 5 0 1")
    >>> space.to_genotype(arch)["layers"]
    [['conv_3x3', []], ['avg_pool_3x3', [0]], ['max_pool_3x3', [1]]]
    """
    if layers < 3:
        raise ValueError(f"the macro network reduces the image twice: it needs at least 3 layers, got {layers}")
    primitives = named_macro(operations)
    names = tuple(primitive.name for primitive in primitives)
    if "none" in names or not names:
        raise ValueError(f"operations must be at least one and none of them 'none', got {names}")
    choices = _choices(layers, names)
    operation_places = np.array(_places(layers))
    skip_places = np.setdiff1d(np.arange(len(choices)), operation_places)

    def template() -> ArchWeights:
        return {
            "operation": jnp.zeros((layers, len(names)), jnp.float32),
            "skip": jnp.zeros((len(skip_places), 2), jnp.float32),
        }

    def one_hot(arch: Arch) -> ArchWeights:
        return {
            "operation": jax.nn.one_hot(arch[operation_places], len(names), dtype=jnp.float32),
            "skip": jax.nn.one_hot(arch[skip_places], 2, dtype=jnp.float32),
        }

    def discretize(weights: ArchWeights) -> Arch:
        arch = jnp.zeros(len(choices), jnp.int32)
        arch = arch.at[operation_places].set(jnp.argmax(weights["operation"], axis=1).astype(jnp.int32))
        return arch.at[skip_places].set(jnp.argmax(weights["skip"], axis=1).astype(jnp.int32))

    def found(arch: Arch) -> list[tuple[int, list[int]]]:
        """(number of the operation, states added) of each layer."""
        taken = entries(choices, arch)
        return [
            (taken[p], [state for state in range(k) if taken[p + 1 + state]]) for k, p in enumerate(_places(layers))
        ]

    def from_genotype(genotype: Mapping[str, Any] | str) -> Arch:
        meaning = f"for each of {layers} layers its operation and a 0 or 1 for each state before"
        count = len(choices)
        found = read_genotype(genotype, lambda text: {"arc": genotypes.parse_numbers(text, count, meaning)})
        if "arc" in found:
            arch = genotypes.check_numbers(found["arc"], count, meaning)
        else:
            genotypes.check_space(found, "enas_macro", genotype)
            arch = _read(found, layers, names)
        return jnp.asarray(entries(choices, jnp.asarray(arch)), jnp.int32)

    def to_genotype(arch: Arch) -> dict[str, Any]:
        return {"space": "enas_macro", "layers": [[names[operation], states] for operation, states in found(arch)]}

    space = SearchSpace(
        name="enas_macro",
        choices=choices,
        **product(choices)._asdict(),
        canonical=lambda arch: arch,
        template=template,
        one_hot=one_hot,
        discretize=discretize,
        graph=lambda arch: _graph(arch, layers, len(names)),
        costs=lambda arch, skeleton: _costs([(primitives[o], states) for o, states in found(arch)], skeleton),
        to_genotype=to_genotype,
        from_genotype=from_genotype,
        notation=lambda arch: " ".join(map(str, entries(choices, arch))),
        vocabulary=enas_macro_graph_operations(operations),
    )
    return checked_space(space)


def _places(layers: int) -> list[int]:
    """Where the operation of each layer stands in an architecture."""
    return [k * (k + 1) // 2 for k in range(layers)]


def _choices(layers: int, names: tuple[str, ...]) -> tuple[Choice, ...]:
    """Of each layer its operation, and whether it adds each state before."""
    choices = []
    for k in range(layers):
        node = f"state {k + 1}"
        choices.append(Choice(f"layer {k} operation", names, node))
        for state in range(k):
            reads = ((), (f"state {state}",))
            choices.append(Choice(f"layer {k} adds state {state}", ("no", "yes"), node, reads))
    return tuple(choices)


def _costs(taken: Layers, skeleton: Skeleton) -> dict[str, int]:
    """The costs of a network. Raises ValueError where the skeleton has another number of layers."""
    if skeleton.cells != len(taken):
        raise ValueError(
            f"a network of this space has {len(taken)} layers, but the skeleton has cells={skeleton.cells}"
        )
    stages = enas_macro_stages(skeleton)
    total = cost.conv_bn(skeleton.image_shape[2], skeleton.channels, 3, skeleton.image_shape[:2])
    for stage in stages:
        for k in stage.layers:
            total += taken[k][0].cost(stage.channels, 1, stage.size) + cost.batch_norm(stage.channels)
    for before, after in itertools.pairwise(stages):
        last = before.layers.stop
        read = {state for _, states in taken[last:] for state in states if state <= last} | {last}
        for _ in read:
            total += cost.factorized_reduce(before.channels, after.channels, after.size)
    total += cost.linear(stages[-1].channels, skeleton.num_classes)
    return {"params": total.params, "macs": total.macs}


def _read(genotype: Mapping[str, Any], layers: int, names: tuple[str, ...]) -> list[int]:
    """The entries of the architecture of a JSON genotype. Raises ValueError naming what is wrong."""
    listed = genotype.get("layers")
    if not isinstance(listed, (list, tuple)) or len(listed) != layers:
        raise ValueError(f"'layers' must be a list of {layers} pairs (operation, states added), got {_counted(listed)}")
    arch: list[int] = []
    for k, entry in enumerate(listed):
        if not isinstance(entry, (list, tuple)) or len(entry) != 2 or not isinstance(entry[1], (list, tuple)):
            raise ValueError(f"layer {k} is (operation, states added), got {shown(entry)}")
        operation, states = entry
        if not isinstance(operation, str) or operation not in names:
            raise ValueError(f"layer {k}: unknown operation {shown(operation)}; this space has {', '.join(names)}")
        if wrong := [state for state in states if type(state) is not int or state not in range(k)]:
            raise ValueError(f"layer {k}: state {shown(wrong[0])} cannot be added; it must be before state {k}")
        arch += [names.index(operation), *(int(state in states) for state in range(k))]
    return arch


def _counted(listed: Any) -> str:
    return f"{len(listed)}" if isinstance(listed, (list, tuple)) else shown(listed)


def _graph(arch: Arch, layers: int, count: int) -> Graph:
    """count: of the operations, behind which the ids of the stem and the output are."""
    operations, skips = enas_macro_skips(arch, layers)
    adjacency = jnp.eye(layers + 2, k=1) + jnp.pad(skips.T.astype(jnp.float32), ((0, 2), (1, 1)))
    stem, output = (jnp.full(1, number, jnp.int32) for number in (count, count + 1))
    return Graph(adjacency[None], jnp.concatenate([stem, operations, output])[None], jnp.ones((1, layers + 2), bool))
