"""What belongs to a search space: everything that a method, a program or a test asks of one, by its name.

`CATALOG` is a plain dictionary, which programs read. A space of your own is one more `Entry` in it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxnas.base import Arch, ArchWeights, Network, PyTree, SearchSpace, Skeleton, Supernet
from jaxnas.hardware import (
    LatencyTable,
    Structure,
    darts_latency,
    nasbench201_latency,
    one_option_each,
    two_edges_a_node,
)
from jaxnas.networks import (
    chain_network,
    darts_network,
    enas_macro_network,
    enas_micro_network,
    mobilenetv2_within,
    nasbench201_network,
)
from jaxnas.ops.costs import CostTable
from jaxnas.spaces import (
    DARTS_OPERATIONS,
    ENAS_MICRO_OPERATIONS,
    NASBENCH201_OPERATIONS,
    chain_cost_table,
    chain_depths,
    chain_space,
    darts_cost_table,
    darts_space,
    discretize_argmax,
    enas_macro_space,
    enas_micro_space,
    genotype_space,
    nasbench201_cost_table,
    nasbench201_space,
)
from jaxnas.spaces.chain import chain_graph_operations
from jaxnas.spaces.darts import edge_table, graph_operations
from jaxnas.spaces.enas_macro import enas_macro_graph_operations
from jaxnas.spaces.enas_micro import enas_micro_slots
from jaxnas.spaces.nasbench201 import NASBENCH201_EDGES, nasbench201_graph_operations
from jaxnas.supernets import (
    chain_supernet,
    darts_narrowing,
    darts_supernet,
    enas_macro_supernet,
    enas_micro_supernet,
    nasbench201_supernet,
)

__all__ = ["CATALOG", "Entry", "entry_of", "entry_of_genotype"]


class Entry(NamedTuple):
    """All that is known of a space: the first four fields are what a space of your own must have.

    space: of a skeleton, whose cells are layers in some spaces. supernet: (skeleton, …) -> the supernet of
    `space(skeleton)`; what else it takes is how it runs. network: (arch, skeleton, space) -> its network. small_cells,
    paper_cells: of a search network, as of `Skeleton`: one that two cores of a CPU train in minutes, and that of its
    paper. The chain has no paper on CIFAR-10; it has about MobileNetV2's depth there.

    Some spaces have more. of_genotype: (genotype, skeleton) -> the space of a genotype that is none of
    `space(skeleton)`. vocabulary: what the operation ids of its graphs mean, which predictors need. together:
    (skeleton, space) -> a supernet whose paths are the networks of all architectures, to train them from scratch in one
    program. narrowing: (skeleton, operations kept, operations kept before) -> what is left of a supernet's parameters;
    the supernet then takes `keep`. operations: the options of every slot of its mixture, where all slots have the same.
    ends: the number of the node that each slot of a cell ends in, where slots are edges. keeps: how many slots of a
    group are kept, 0 for all; rivals: the number of the group that each slot is in, by default that of the node.
    derivations: other rules than the space's own to read an architecture off a mixture. Where costs add up over the
    operations, cost_table: of a skeleton; structure: space -> what an integer program needs of it.
    The table and the structure may have kinds beside those of the mixture, of options that are taken together
    (`jaxnas.hardware.together`). Then costs: (options taken, cell kind -> [P, S, O], skeleton) -> their parameters and
    multiply-adds, {"params": [P], "macs": [P]}.
    latency: (skeleton, images of a batch) -> milliseconds of each operation on this device. by_hand: name -> (the most
    multiply-adds, skeleton) -> a network that people have designed in this space, a baseline. dtypes: those of
    `Skeleton.dtype` that its networks and its supernet obey. example: shapes of a batch of the only inputs that its
    networks are for, where they do not follow the skeleton.

    >>> def supernet(skeleton, **how):
    ...     return darts_supernet(skeleton, 2, **how)
    >>> small = Entry("two_nodes", lambda skeleton: darts_space(2), supernet, darts_network)
    >>> len(small.space(Skeleton(channels=16, cells=8, image_shape=(32, 32, 3), num_classes=10)).choices)
    12
    """

    name: str
    space: Callable[[Skeleton], SearchSpace]
    supernet: Callable[..., Supernet]
    network: Callable[[Arch, Skeleton, SearchSpace], Network]
    small_cells: int = 3
    paper_cells: int = 8
    of_genotype: Callable[[Mapping[str, Any], Skeleton], SearchSpace] | None = None
    vocabulary: tuple[str, ...] = ()
    together: Callable[[Skeleton, SearchSpace], Supernet] | None = None
    narrowing: Callable[..., Callable[[Any], Any]] | None = None
    operations: tuple[str, ...] = ()
    ends: tuple[int, ...] = ()
    rivals: tuple[int, ...] = ()
    keeps: int = 0
    derivations: Mapping[str, Callable[[ArchWeights], Arch]] = MappingProxyType({})
    cost_table: Callable[[Skeleton], CostTable] | None = None
    structure: Callable[[SearchSpace], Structure] | None = None
    latency: Callable[[Skeleton, int], LatencyTable] | None = None
    by_hand: Mapping[str, Callable[[int, Skeleton], Network]] = MappingProxyType({})
    costs: Callable[[Mapping[str, np.ndarray], Skeleton], dict[str, np.ndarray]] | None = None
    dtypes: tuple[str, ...] = ("float32",)
    example: PyTree | None = None


def _of_genotype(genotype: Mapping[str, Any], skeleton: Skeleton) -> SearchSpace:
    """A genotype says all of its space."""
    return genotype_space(genotype)


_DTYPES = ("float32", "bfloat16")


CATALOG: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "darts",
            dtypes=_DTYPES,
            space=lambda skeleton: darts_space(),
            supernet=darts_supernet,
            network=darts_network,
            vocabulary=graph_operations(),
            small_cells=3,
            paper_cells=8,
            together=lambda skeleton, space: darts_supernet(
                skeleton, len(space.choices) // 6, ("none", *space.choices[1].options), affine=True
            ),
            narrowing=darts_narrowing,
            operations=DARTS_OPERATIONS,
            ends=tuple(node for node, _ in edge_table(4)),
            keeps=2,
            derivations={"argmax": discretize_argmax},
            of_genotype=_of_genotype,
            cost_table=darts_cost_table,
            structure=two_edges_a_node,
            latency=darts_latency,
        ),
        Entry(
            "nasbench201",
            dtypes=_DTYPES,
            space=lambda skeleton: nasbench201_space(),
            supernet=nasbench201_supernet,
            network=nasbench201_network,
            vocabulary=nasbench201_graph_operations(),
            operations=NASBENCH201_OPERATIONS,
            ends=tuple(node for node, _ in NASBENCH201_EDGES),
            narrowing=lambda skeleton, after, before=None: lambda tree: tree,  # what is gone keeps its parameters
            small_cells=1,
            paper_cells=5,
            of_genotype=_of_genotype,
            together=lambda skeleton, space: nasbench201_supernet(skeleton, space.choices[0].options, affine=True),
            cost_table=nasbench201_cost_table,
            structure=one_option_each,
            latency=nasbench201_latency,
        ),
        Entry(
            "enas_micro",
            dtypes=_DTYPES,
            space=lambda skeleton: enas_micro_space(),
            supernet=enas_micro_supernet,
            network=enas_micro_network,
            vocabulary=graph_operations(("none", *ENAS_MICRO_OPERATIONS)),
            operations=("none", *ENAS_MICRO_OPERATIONS),
            ends=tuple(node for node, _, _ in enas_micro_slots(5)),
            rivals=tuple(2 * node + side for node, side, _ in enas_micro_slots(5)),
            keeps=1,
            of_genotype=_of_genotype,
            small_cells=3,
            paper_cells=8,
        ),
        Entry(
            "enas_macro",
            dtypes=_DTYPES,
            space=lambda skeleton: enas_macro_space(skeleton.cells),
            supernet=enas_macro_supernet,
            network=enas_macro_network,
            vocabulary=enas_macro_graph_operations(),
            small_cells=6,
            paper_cells=12,
        ),
        Entry(
            "chain",
            dtypes=_DTYPES,
            space=lambda skeleton: chain_space(chain_depths(skeleton.cells)),
            of_genotype=_of_genotype,
            supernet=chain_supernet,
            network=chain_network,
            vocabulary=chain_graph_operations(),
            small_cells=6,
            paper_cells=12,
            cost_table=chain_cost_table,
            structure=one_option_each,
            by_hand={"mobilenetv2": mobilenetv2_within},
        ),
    )
}
"""The spaces of the library."""
CATALOG["darts_free"] = CATALOG["darts"]._replace(
    name="darts_free",
    space=lambda skeleton: darts_space(free=True),
    supernet=functools.partial(darts_supernet, free=True),
    together=lambda skeleton, space: darts_supernet(
        skeleton, len(space.choices) // 6, space.choices[1].options, affine=True, free=True
    ),
    derivations={},
    cost_table=None,
    structure=None,
    latency=None,
)


def entry_of(space: str | Entry) -> Entry:
    """The entry of a name, or the entry that is given. Raises: ValueError for a name that `CATALOG` has not got.

    >>> entry_of("chain").name
    'chain'
    >>> entry_of("darst")
    Traceback (most recent call last):
        ...
    ValueError: there is no space 'darst'; there are ...
    """
    if isinstance(space, Entry):
        return space
    if isinstance(getattr(space, "entry", None), Entry):
        raise ValueError("what a search takes of a model is its entry: give jaxnas.searchable(model, example).entry")
    if isinstance(space, SearchSpace):
        raise ValueError(
            f"a space alone has no supernet and no networks: give a name, or jaxnas.Entry({space.name!r}, space, "
            "supernet, network), each a function of a skeleton (docs/search_spaces.md)"
        )
    if not isinstance(space, str) or space not in CATALOG:
        raise ValueError(
            f"there is no space {space!r:.80}; there are {', '.join(CATALOG)}, or give an Entry of your own; a flax "
            "model with choices has one, jaxnas.searchable(model, example).entry"
        )
    return CATALOG[space]


def space_of_genotype(entry: Entry, genotype: Mapping[str, Any], skeleton: Skeleton) -> SearchSpace:
    """The space that a genotype of an entry is of: that of the entry where it can be, so that nothing else changes.

    Raises: ValueError where there is none, which names what is different.
    """
    space = entry.space(skeleton)
    if entry.of_genotype is None:
        return space
    try:
        space.from_genotype(genotype)
    except ValueError:
        own = entry.of_genotype(genotype, skeleton)
        if own.name != entry.name:
            raise ValueError(f"the genotype is one of {own.name}, and not of {entry.name}") from None
        return own
    return space


def entry_of_genotype(genotype: Mapping[str, Any]) -> Entry:
    """The entry of the library whose space has a genotype, by what it says or by its form.

    genotype: the JSON form, as of `jaxnas.spaces.read_genotype`. Where it has operations, nodes or stages that the
    space of the paper has not, the entry is made for it, and has what networks and their costs need but nothing for a
    search.

    Raises: ValueError where no space has the genotype, which names what is different.

    >>> from jaxnas.spaces import read_genotype
    >>> text = "|sep_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|"
    >>> entry = entry_of_genotype(read_genotype(text))
    >>> entry.name, entry.space(Skeleton(16, 5, (32, 32, 3), 10)).choices[0].options[-1]
    ('nasbench201', 'sep_conv_3x3')
    """
    own = genotype_space(genotype)
    entry = entry_of(own.name)
    if entry.of_genotype is None:
        return entry
    try:
        # Of these spaces the cells of a skeleton matter in the chain alone, which has a choice for each.
        entry.space(Skeleton(2, len(own.choices), (32, 32, 3), 2)).from_genotype(genotype)
    except ValueError:
        return entry._replace(
            space=functools.partial(space_of_genotype, entry, genotype), vocabulary=(), together=None, narrowing=None,
            operations=(), derivations={}, cost_table=None, structure=None, latency=None,
        )  # fmt: skip
    return entry
