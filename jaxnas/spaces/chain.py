"""A chain of layers, each a choice among blocks: the spaces of mobile networks and of single-path one-shot search.

A 3×3 stem gives C channels. Stages follow, each of some layers; the first layer of every stage but the first halves the
image and doubles the channels, all others keep both. Each layer is one of the blocks of `jaxnas.ops.chain`: inverted
bottlenecks of two expansions and three kernel sizes (ProxylessNAS, Cai et al. 2019, https://arxiv.org/abs/1812.00332),
units of ShuffleNetV2 (single path one-shot, Guo et al. 2020, https://arxiv.org/abs/1904.00420) or, where the layer
keeps size and channels, the identity, which makes the depth of a stage elastic. A 1×1 convolution to four times the
channels, global pooling and a classifier read the last.

An architecture has one entry for each layer, D = L. All are valid. The parameters of a layer belong to its place, so
that a block before an identity and the same block after it are two paths of a supernet, with other parameters each:
`canonical` leaves them apart, although networks trained from scratch would be the same. The graph makes them one.

Mixture weights: "normal" [N, O] of the layers that keep the size, and "reduce" [R, O - 1], without the identity, of
those that halve it; both in the order of the layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import PLAIN, Arch, ArchWeights, Choice, Graph, SearchSpace, Skeleton
from jaxnas.checks import checked_space
from jaxnas.ops import costs as cost
from jaxnas.ops.chain import BLOCKS, named_blocks
from jaxnas.ops.primitives import Operations, Primitive
from jaxnas.spaces import genotypes
from jaxnas.spaces.literals import shown
from jaxnas.spaces.product import entries, product
from jaxnas.spaces.reading import read_genotype

CHAIN_BLOCKS = tuple(BLOCKS)
CHAIN_HEAD = 4
"""Channels of the last 1×1 convolution over those of the last stage, as of MobileNetV2's."""


class ChainStage(NamedTuple):
    """Layers of one size. layers: their numbers. channels, size: of what they make. reduces: the first halves it."""

    layers: range
    channels: int
    size: cost.Size
    reduces: bool


def chain_depths(layers: int) -> tuple[int, int, int]:
    """Three stages of so many layers together, as equal as can be; the later ones have one more.

    Raises: ValueError where there are fewer than three.

    >>> chain_depths(8)
    (2, 3, 3)
    """
    if layers < 3:
        raise ValueError(f"a chain has three stages here: it needs at least 3 layers, got {layers}")
    return layers // 3, (layers + 1) // 3, (layers + 2) // 3


def chain_stages(skeleton: Skeleton, depths: Sequence[int]) -> list[ChainStage]:
    """The stages of a network.

    Raises: ValueError where the skeleton has another number of cells than there are layers, an odd number of channels,
    or an auxiliary head.
    """
    if skeleton.cells != sum(depths):
        raise ValueError(
            f"a network of this space has {sum(depths)} layers, but the skeleton has cells={skeleton.cells}"
        )
    if skeleton.channels % 2:
        raise ValueError(f"units of ShuffleNetV2 halve the channels: they must be even, got {skeleton.channels}")
    if skeleton.auxiliary:
        raise ValueError("chain networks have no auxiliary head; use auxiliary=False")
    ends = [0, *itertools.accumulate(depths)]
    return [
        ChainStage(
            range(start, stop), skeleton.channels << s, cost.strided(skeleton.image_shape[:2], 1 << s), reduces=s > 0
        )
        for s, (start, stop) in enumerate(itertools.pairwise(ends))
    ]


def changing_blocks(blocks: Operations) -> tuple[Primitive, ...]:
    """What the layers that halve the image choose among: all blocks but the identity."""
    return tuple(block for block in named_blocks(blocks) if block.name != "identity")


def chain_layer_blocks(depths: Sequence[int], blocks: Operations) -> list[tuple[Primitive, ...]]:
    """What each layer chooses among."""
    firsts = set(itertools.accumulate(depths[:-1]))
    return [changing_blocks(blocks) if layer in firsts else named_blocks(blocks) for layer in range(sum(depths))]


def chain_cost_table(
    skeleton: Skeleton, depths: Sequence[int] | None = None, blocks: Operations = CHAIN_BLOCKS
) -> cost.CostTable:
    """What each block in each layer adds. depths: by default `chain_depths(skeleton.cells)`.

    Raises: ValueError as `chain_stages`, and for an unknown block.

    >>> skeleton = Skeleton(channels=8, cells=4, image_shape=(32, 32, 3), num_classes=10)
    >>> table = chain_cost_table(skeleton, (2, 2), ("mbconv3_3x3", "identity"))
    >>> table.params["normal"].shape, table.params["reduce"].shape  # a layer that halves the image has no identity
    ((3, 2), (1, 1))
    """
    depths = chain_depths(skeleton.cells) if depths is None else depths
    constant = _constant(skeleton, depths)
    slots = _slots(depths)
    options = chain_layer_blocks(depths, blocks)
    each = [[_layer_cost(skeleton, depths, k, block) for block in options[k]] for k in range(len(options))]
    params, macs = (
        {kind: np.array([row[k] for k in places], np.int64) for kind, places in slots.items()}
        for row in ([[c.params for c in layer] for layer in each], [[c.macs for c in layer] for layer in each])
    )
    return cost.CostTable({"params": constant.params, "macs": constant.macs}, params, macs)


def chain_extremes(space: SearchSpace, skeleton: Skeleton) -> tuple[Arch, Arch]:
    """The largest and the smallest architecture of a chain space: in each layer the block of most and of fewest MACs.

    Raises: ValueError where the space is no chain, or the skeleton does not fit it.

    >>> space = chain_space((2, 2))
    >>> largest, smallest = chain_extremes(space, Skeleton(16, 4, (32, 32, 3), num_classes=10))
    >>> space.notation(largest)
    'mbconv6_7x7 mbconv6_7x7 | mbconv6_7x7 mbconv6_7x7'
    """
    if space.name != "chain":
        raise ValueError(f"extremes are those of a chain space, got the space {space.name!r}")
    first = np.zeros(len(space.choices), np.int32)

    def macs_with(layer: int, option: int) -> int:
        arch = first.copy()
        arch[layer] = option
        return int(space.costs(jnp.asarray(arch), skeleton)["macs"])

    # Costs are a sum over layers, so that the ends of each may be found alone.
    macs = [[macs_with(k, o) for o in range(len(choice.options))] for k, choice in enumerate(space.choices)]
    largest, smallest = ([row.index(end(row)) for row in macs] for end in (max, min))
    return jnp.array(largest, jnp.int32), jnp.array(smallest, jnp.int32)


def chain_graph_operations(blocks: Operations = CHAIN_BLOCKS) -> tuple[str, ...]:
    """What the operation ids of `graph` mean: the blocks, the same where they halve the image, "stem", "output"."""
    names = tuple(block.name for block in named_blocks(blocks))
    return (*names, *(f"reduce {name}" for name in names), "stem", "output")


def chain_space(depths: Sequence[int] = (4, 4, 4), blocks: Operations = CHAIN_BLOCKS) -> SearchSpace:
    """The space of networks with stages of some depths; the skeleton of a network has as many cells as layers.

    blocks: names of `jaxnas.ops.chain.BLOCKS`, or `jaxnas.ops.primitives.Primitive` objects, which multiply the
    channels by their stride. "identity" is for layers that keep the size.

    Its notation is the names of the blocks, with "|" between stages. Its graph has a place for the stem, for every
    layer and for the output; identities are masked out, and what is before them feeds what is after.

    Raises: ValueError for a stage without layers, blocks that do not exist, are there twice or do not give the channels
    that they should, and a space without a choice.

    >>> space = chain_space((2, 2))
    >>> arch = space.from_genotype("mbconv6_3x3 identity | shuffle_5x5 mbconv3_7x7")
    >>> space.notation(arch)
    'mbconv6_3x3 identity | shuffle_5x5 mbconv3_7x7'
    """
    depths, primitives = tuple(depths), named_blocks(blocks)
    if not depths or min(depths) < 1:
        raise ValueError(f"every stage of a chain has at least one layer, got depths {depths}")
    changing = changing_blocks(primitives)
    if not changing:
        raise ValueError(f"one block must be no identity, got {', '.join(p.name for p in primitives) or 'none'}")
    _check_channels(changing, (1, 2) if len(depths) > 1 else (1,))
    count = sum(depths)
    options = chain_layer_blocks(depths, primitives)
    starts = [0, *itertools.accumulate(depths)]
    choices = tuple(
        Choice(f"stage {s} layer {k}", tuple(block.name for block in options[k]))
        for s, (start, stop) in enumerate(itertools.pairwise(starts))
        for k in range(start, stop)
    )
    slots = {kind: np.array(places) for kind, places in _slots(depths).items()}
    widths = {kind: len(options[places[0]]) for kind, places in slots.items()}
    # Option of a layer -> operation of the graph.
    reduces = np.isin(np.arange(count), slots.get("reduce", ()))
    vocabulary = chain_graph_operations(primitives)
    meaning = np.zeros((count, len(primitives)), np.int32)
    for k, layer_options in enumerate(options):
        for o, block in enumerate(layer_options):
            meaning[k, o] = vocabulary.index(f"reduce {block.name}" if reduces[k] else block.name)

    def discretize(weights: ArchWeights) -> Arch:
        arch = jnp.zeros(count, jnp.int32)
        for kind, places in slots.items():
            arch = arch.at[places].set(jnp.argmax(weights[kind], axis=1).astype(jnp.int32))
        return arch

    def names(arch: Arch) -> list[list[str]]:
        taken = [options[k][entry].name for k, entry in enumerate(entries(choices, arch))]
        return [taken[start:stop] for start, stop in itertools.pairwise(starts)]

    def costs(arch: Arch, skeleton: Skeleton) -> dict[str, int]:
        total = _constant(skeleton, depths)
        for k, entry in enumerate(entries(choices, arch)):
            total += _layer_cost(skeleton, depths, k, options[k][entry])
        return {"params": total.params, "macs": total.macs}

    def graph(arch: Arch) -> Graph:
        operations = jnp.take_along_axis(jnp.asarray(meaning), arch[:, None], axis=1)[:, 0]
        stem, output = (jnp.full(1, vocabulary.index(name), jnp.int32) for name in ("stem", "output"))
        there = operations != (vocabulary.index("identity") if "identity" in vocabulary else -1)
        mask = jnp.concatenate([jnp.ones(1, bool), there, jnp.ones(1, bool)])
        rank = jnp.cumsum(mask)
        follows = rank[None, :] == rank[:, None] + 1
        adjacency = (follows & mask[:, None] & mask[None, :]).astype(jnp.float32)
        return Graph(adjacency[None], jnp.concatenate([stem, operations, output])[None], mask[None])

    space = SearchSpace(
        name="chain",
        choices=choices,
        **product(choices)._asdict(),
        canonical=lambda arch: arch,
        template=lambda: {k: jnp.zeros((len(slots[k]), widths[k]), jnp.float32) for k in slots},
        one_hot=lambda arch: {k: jax.nn.one_hot(arch[slots[k]], widths[k], dtype=jnp.float32) for k in slots},
        discretize=discretize,
        graph=graph,
        costs=costs,
        to_genotype=lambda arch: {"space": "chain", "stages": names(arch)},
        from_genotype=lambda genotype: _read(genotype, depths, choices),
        notation=lambda arch: " | ".join(" ".join(stage) for stage in names(arch)),
        vocabulary=vocabulary,
    )
    return checked_space(space)


def _read(genotype: Mapping[str, Any] | str, depths: tuple[int, ...], choices: Sequence[Choice]) -> Arch:
    """The architecture of a genotype or of its notation. Raises ValueError naming what is wrong."""
    read = read_genotype(genotype, lambda text: {"stages": [stage.split() for stage in text.split("|")]})
    genotypes.check_space(read, "chain", genotype)
    found = read.get("stages")
    if not isinstance(found, (list, tuple)) or not all(isinstance(stage, (list, tuple)) for stage in found):
        raise ValueError(f"'stages' must be a list of lists of blocks, got {shown(found)}")
    if (lengths := tuple(len(stage) for stage in found)) != depths:
        raise ValueError(f"the stages of this space have {depths} layers, those of the genotype {shown(lengths)}")
    arch = []
    for choice, name in zip(choices, itertools.chain.from_iterable(found), strict=True):
        if name not in choice.options:
            raise ValueError(f"{choice.name}: no block {shown(name)}; there are {', '.join(choice.options)}")
        arch.append(choice.options.index(name))
    return jnp.array(arch, jnp.int32)


def _slots(depths: Sequence[int]) -> dict[str, list[int]]:
    """The layers of each kind of mixture weights; without "reduce" where there is one stage."""
    reduces = list(itertools.accumulate(depths[:-1]))
    slots = {"normal": [k for k in range(sum(depths)) if k not in reduces]}
    return {**slots, "reduce": reduces} if reduces else slots


def _check_channels(blocks: Sequence[Primitive], strides: Sequence[int]) -> None:
    """Raises ValueError for a block, none of the library's own, that does not multiply the channels by its stride."""
    for block, stride in itertools.product(blocks, strides):
        if block.name in BLOCKS:
            continue
        found = jax.eval_shape(
            lambda key, x, block=block, stride=stride: block.apply(block.init(key, 4, stride, False), x, stride, PLAIN),
            jax.random.key(0),
            jax.ShapeDtypeStruct((2, 4, 4, 4), jnp.float32),
        )[0].shape
        if found != (expected := (2, 4 // stride, 4 // stride, 4 * stride)):
            raise ValueError(
                f"a block of a chain divides the image by its stride and multiplies the channels by it: at stride "
                f"{stride} {block.name} makes {list(found)} of [2, 4, 4, 4], not {list(expected)}"
            )


def _layer_cost(skeleton: Skeleton, depths: Sequence[int], layer: int, block: Primitive) -> cost.Cost:
    stages = chain_stages(skeleton, depths)
    s = next(s for s, stage in enumerate(stages) if layer in stage.layers)
    stage = stages[s]
    if stage.reduces and layer == stage.layers.start:
        return block.cost(stages[s - 1].channels, 2, stages[s - 1].size)
    return block.cost(stage.channels, 1, stage.size)


def _constant(skeleton: Skeleton, depths: Sequence[int]) -> cost.Cost:
    """Stem, last convolution and classifier."""
    last = chain_stages(skeleton, depths)[-1]
    features = CHAIN_HEAD * last.channels
    stem = cost.conv_bn(skeleton.image_shape[2], skeleton.channels, 3, skeleton.image_shape[:2])
    return stem + cost.conv_bn(last.channels, features, 1, last.size) + cost.linear(features, skeleton.num_classes)
