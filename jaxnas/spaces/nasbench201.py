"""The NAS-Bench-201 cell space (Dong & Yang 2020, https://arxiv.org/abs/2001.00326), NATS-Bench's topology space.

One cell of four nodes, of which node 0 is the input and node 3 the output; every pair of nodes has an edge with one of
five operations, and a node adds its incoming edges. Slots, choices and the architecture string have one order: 1←0,
2←0, 2←1, 3←0, 3←1, 3←2. All 15,625 architectures are valid; different ones may compute the same function, and
`canonical` leaves them apart, as the benchmark does.

The network: a 3×3 stem, three stages of `cells` cells with C, 2C and 4C channels, a residual block of stride 2 before
the second and third stage, then batch norm, ReLU, global pooling and a classifier.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Arch, ArchWeights, Array, Choice, Graph, SearchSpace, Skeleton
from jaxnas.checks import check_arch, checked_space
from jaxnas.ops import costs as cost
from jaxnas.ops.primitives import Operations, Primitive, named, names_of, none_index
from jaxnas.spaces import genotypes
from jaxnas.spaces.literals import shown
from jaxnas.spaces.product import entries, product
from jaxnas.spaces.reading import read_genotype

NASBENCH201_OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
"""In the official order."""
NASBENCH201_EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))
"""The (node, source) of each slot."""


def nasbench201_choices(operations: Operations = NASBENCH201_OPERATIONS) -> tuple[Choice, ...]:
    """One choice an edge, in the order of the edges."""
    return tuple(Choice(f"edge {node}←{source}", names_of(operations)) for node, source in NASBENCH201_EDGES)


def nasbench201_graph_operations(operations: Operations = NASBENCH201_OPERATIONS) -> tuple[str, ...]:
    """What the operation ids of `graph` mean: the operations, then "input", "output"."""
    return (*names_of(operations), "input", "output")


def nasbench201_stages(skeleton: Skeleton) -> list[tuple[int, tuple[int, int]]]:
    """(channels, (height, width)) of each stage; the size is halved, rounding up."""
    size = skeleton.image_shape[:2]
    return [(skeleton.channels << stage, cost.strided(size, 1 << stage)) for stage in range(3)]


def nasbench201_live(arch: Arch, operations: Operations = NASBENCH201_OPERATIONS) -> Array:
    """Which edges, bool [6], lie on a way from the input to the output of the cell; traceable.

    An edge that does not is computed for nothing: what it reads is zero, or nothing reads what it gives.
    """
    check_arch(nasbench201_choices(operations), arch, "the space 'nasbench201'")
    present = [arch[slot] != none_index(names_of(operations)) for slot in range(len(NASBENCH201_EDGES))]
    fed, read = [jnp.array(node == 0) for node in range(4)], [jnp.array(node == 3) for node in range(4)]
    for (node, source), there in zip(NASBENCH201_EDGES, present, strict=True):
        fed[node] |= there & fed[source]
    for (node, source), there in zip(reversed(NASBENCH201_EDGES), reversed(present), strict=True):
        read[source] |= there & read[node]
    ends = zip(NASBENCH201_EDGES, present, strict=True)
    return jnp.stack([there & fed[source] & read[node] for (node, source), there in ends])


def nasbench201_cost_table(skeleton: Skeleton, operations: Operations = NASBENCH201_OPERATIONS) -> cost.CostTable:
    """What each operation on each edge adds to the network, over all cells.

    operations: those of `nasbench201_space`.

    Raises: ValueError where an auxiliary head is asked for.

    >>> table = nasbench201_cost_table(Skeleton(channels=1, cells=1, image_shape=(4, 4, 3), num_classes=10))
    >>> dict(zip(NASBENCH201_OPERATIONS, table.params["cell"][0].tolist(), strict=True))
    {'none': 0, 'skip_connect': 0, 'nor_conv_1x1': 35, 'nor_conv_3x3': 203, 'avg_pool_3x3': 0}
    """
    constant = _constant(skeleton)
    each = [_edge_cost(skeleton, primitive) for primitive in named(operations)]
    params, macs = (
        {"cell": np.tile(np.array(row, np.int64), (len(NASBENCH201_EDGES), 1))}
        for row in ([item.params for item in each], [item.macs for item in each])
    )
    return cost.CostTable({"params": constant.params, "macs": constant.macs}, params, macs)


def nasbench201_space(operations: Operations = NASBENCH201_OPERATIONS) -> SearchSpace:
    """The space of the benchmark's cells; D = 6, one operation for each edge.

    operations: names, or `jaxnas.ops.primitives.Primitive` objects.

    `discretize` takes the heaviest operation of each edge, "none" included, the first among equals. Its graph has eight
    places: the input, the six edges, the output; edges with "none" are masked out.

    Raises: ValueError where an operation is unknown or given twice, or there is one alone.

    >>> space = nasbench201_space()
    >>> arch = space.from_genotype("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|")
    >>> arch.tolist()
    [3, 0, 1, 0, 0, 2]
    >>> space.costs(arch, Skeleton(channels=16, cells=5, image_shape=(32, 32, 3), num_classes=10))
    {'params': 344346, 'macs': 47104650}
    """
    primitives = named(operations)
    names, choices = names_of(operations), nasbench201_choices(operations)

    def template() -> ArchWeights:
        return {"cell": jnp.zeros((len(choices), len(names)), jnp.float32)}

    def costs(arch: Arch, skeleton: Skeleton) -> dict[str, int]:
        total = _constant(skeleton)
        for entry in entries(choices, arch):
            total += _edge_cost(skeleton, primitives[entry])
        return {"params": total.params, "macs": total.macs}

    def edges(arch: Arch) -> list[genotypes.Edge]:
        taken = zip(entries(choices, arch), NASBENCH201_EDGES, strict=True)
        return [(names[entry], source) for entry, (_, source) in taken]

    def from_genotype(genotype: Mapping[str, Any] | str) -> Arch:
        found = read_genotype(genotype, lambda text: {"cell": genotypes.parse_nasbench201(text)})
        if "arc" in found:
            raise ValueError(
                "integers are no cell of NAS-Bench-201: programs number its operations and edges in different ways; "
                "write |op~0|+|op~0|op~1|+|op~0|op~1|op~2|"
            )
        genotypes.check_space(found, "nasbench201", genotype)
        if "cell" not in found:
            raise ValueError(f"the genotype has no 'cell'; it needs the 6 edges there, got {shown(list(found))}")
        checked = genotypes.check_nasbench201(found["cell"], names)
        return jnp.asarray([names.index(operation) for operation, _ in checked], jnp.int32)

    space = SearchSpace(
        name="nasbench201",
        choices=choices,
        **product(choices)._asdict(),
        canonical=lambda arch: arch,
        template=template,
        one_hot=lambda arch: {"cell": jax.nn.one_hot(arch, len(names), dtype=jnp.float32)},
        discretize=lambda weights: jnp.argmax(weights["cell"], axis=1).astype(jnp.int32),
        graph=lambda arch: _graph(arch, names),
        costs=costs,
        to_genotype=lambda arch: {"space": "nasbench201", "cell": [list(edge) for edge in edges(arch)]},
        from_genotype=from_genotype,
        notation=lambda arch: genotypes.print_nasbench201(edges(arch)),
        vocabulary=nasbench201_graph_operations(operations),
    )
    return checked_space(space)


def _graph(arch: Arch, names: tuple[str, ...]) -> Graph:
    places = len(NASBENCH201_EDGES) + 2
    ends = [(0, 0), *NASBENCH201_EDGES, (4, 3)]  # (node, source): the input ends at 0, the output starts at 3.
    line = np.array([[float(a < b and ends[a][0] == ends[b][1]) for b in range(places)] for a in range(places)])
    present = jnp.concatenate([jnp.ones(1, bool), arch != none_index(names), jnp.ones(1, bool)])
    adjacency = jnp.asarray(line, jnp.float32) * (present[:, None] & present[None, :])
    first, last = len(names), len(names) + 1
    ops = jnp.concatenate([jnp.full(1, first, jnp.int32), arch, jnp.full(1, last, jnp.int32)])
    return Graph(adjacency[None], ops[None], present[None])


def _edge_cost(skeleton: Skeleton, primitive: Primitive) -> cost.Cost:
    """One edge, over all cells of the network."""
    stages = [primitive.cost(channels, 1, size) for channels, size in nasbench201_stages(skeleton)] * skeleton.cells
    return sum(stages, cost.Cost())


def _constant(skeleton: Skeleton) -> cost.Cost:
    """Stem, residual blocks, last batch norm and classifier."""
    if skeleton.auxiliary:
        raise ValueError("NAS-Bench-201 networks have no auxiliary head; use auxiliary=False")
    stages = nasbench201_stages(skeleton)
    total = cost.conv_bn(skeleton.image_shape[2], skeleton.channels, 3, skeleton.image_shape[:2])
    for (before, _), (after, size) in itertools.pairwise(stages):
        total += cost.basic_block(before, after, size)
    return total + cost.batch_norm(stages[-1][0]) + cost.linear(stages[-1][0], skeleton.num_classes)
