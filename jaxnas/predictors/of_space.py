"""What a space's architectures are known by: graphs in functional form, counts of paths, statistics, numeric options.

All of it is read off the vocabulary of the space's graphs, so a space of one's own has it where its names say as much.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Array, Choice, Graph, Key, SearchSpace
from jaxnas.predictors.encodings import Encoding, concatenated, operation_counts, path_counts, path_statistics
from jaxnas.predictors.functional import functional_form
from jaxnas.predictors.gnn import levels_of

LONGEST_PATH = {"nasbench101": 5}
"""Operations of the paths that are counted, where it is not three."""
NO_CELLS = ("chain", "enas_macro", "natsbench_size")
"""Spaces with an output whose paths are all of a network, too many to be counted."""
SAMPLED = 2048
"""How many random architectures are looked at to find what is never joined in a space."""


def functional(space: SearchSpace) -> Callable[[Graph], Graph]:
    """graph -> its functional form, where it has an output: what computes nothing is contracted or masked out.

    >>> import jax
    >>> from jaxnas.spaces import nasbench201_space
    >>> space = nasbench201_space()
    >>> arch = space.from_genotype("|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|")
    >>> form = jax.jit(lambda arch: functional(space)(space.graph(arch)))(arch)
    >>> [space.vocabulary[operation] for operation in form.ops[form.mask]]
    ['input', 'output']
    """
    names = space.vocabulary
    if "output" not in names:
        return lambda graph: graph
    identities = [name for name in ("skip_connect",) if name in names]
    return functional_form(names, identities)


def function_classes(space: SearchSpace, archs: np.ndarray) -> np.ndarray:
    """What archs [P, D] compute: int [P], equal where two are one network up to the order of sums and what is unused.

    Where cells concatenate their nodes, or there is no output, it is what `canonical` tells apart.

    Classes are numbered as they first come up. Two operations of one kind with one input count as the same. So a
    network that uses one of them twice, deep inside, is taken for one that uses both.

    >>> from jaxnas.spaces import nasbench201_space
    >>> space = nasbench201_space()
    >>> cells = "|none~0|+|none~0|none~1|+|skip_connect~0|nor_conv_3x3~1|none~2|", (
    ...     "|none~0|+|skip_connect~0|none~1|+|none~0|none~1|skip_connect~2|"
    ... )
    >>> function_classes(space, np.stack([space.from_genotype(cell) for cell in cells])).tolist()
    [0, 0]
    """
    archs = np.asarray(archs)
    if "output" not in space.vocabulary or "sum" in space.vocabulary:
        canonical = jax.device_get(jax.jit(jax.vmap(space.canonical))(jnp.asarray(archs)))
        keys: list[Any] = [tuple(arch) for arch in canonical.tolist()]
    else:
        form = functional(space)
        graphs = jax.device_get(jax.jit(jax.vmap(lambda arch: form(space.graph(arch))))(jnp.asarray(archs)))
        keys = [_terms(*graph) for graph in zip(graphs.adjacency, graphs.ops, graphs.mask, strict=True)]
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys])


def _terms(adjacency: np.ndarray, ops: np.ndarray, mask: np.ndarray) -> Any:
    """Of each cell kind, the last node as its operation and what feeds it, each with the number of ways."""
    cells = []
    for edges, kinds, there in zip(adjacency, ops, mask, strict=True):
        terms: list[Any] = []
        for node, kind in enumerate(kinds.tolist()):
            before = [(int(edges[j, node]), terms[j]) for j in range(node) if there[j] and edges[j, node] > 0]
            terms.append((kind, tuple(sorted(before))))
        cells.append(terms[-1])
    return tuple(cells)


def levels(space: SearchSpace) -> list[list[int]]:
    """Groups of places that are never joined in functional forms, for `gnn`.

    They are found by what is joined in random architectures, more than enough to meet each pair that a choice or two
    can join.

    >>> from jaxnas.spaces import darts_space
    >>> levels(darts_space())  # the inputs, the operations of four nodes, the output; sums are contracted
    [[0, 1], [2, 3, 5], [6, 8], [9, 11], [12], [14]]
    """

    def joined(key: Key) -> tuple[Array, Array]:
        graphs = jax.vmap(space.graph)(jax.vmap(space.sample)(jax.random.split(key, SAMPLED)))
        return graphs.adjacency.sum((0, 1)), jax.vmap(functional(space))(graphs).mask.any((0, 1))

    adjacency, there = jax.tree.map(np.asarray, jax.jit(joined)(jax.random.key(0)))
    return levels_of(adjacency, there)


def _operations(space: SearchSpace) -> list[int]:
    """The operations that compute something."""
    no_operation = ("none", "skip_connect", "identity", "sum", "output", "stem")
    return [at for at, name in enumerate(space.vocabulary) if name not in no_operation and name[:5] != "input"]


def _groups(space: SearchSpace) -> list[list[int]]:
    """Operations with weights, those of them with more than the smallest kernel, and those without weights."""
    names = space.vocabulary
    every = _operations(space)
    pools = [at for at in every if "pool" in names[at]]
    weighted = [at for at in every if at not in pools]
    kernels = {at: max(map(int, re.findall(r"(\d+)x\d+", names[at])), default=0) for at in weighted}
    wide = [at for at in weighted if kernels[at] > min(kernels.values())]
    return [group for group in (weighted, wide, pools) if group]


def path_roots(space: SearchSpace) -> Encoding | None:
    """The square roots of path counts; None where the graphs are no cells.

    >>> from jaxnas.spaces import product_space
    >>> path_roots(product_space("tiny", {"width": (8, 16, 32)})) is None
    True
    """
    if "output" not in space.vocabulary or space.name in NO_CELLS:
        return None
    counts = path_counts(_operations(space), LONGEST_PATH.get(space.name, 3))
    return lambda graph: jnp.sqrt(counts(graph))


def shape(space: SearchSpace) -> Encoding | None:
    """Statistics of paths and counts of operations; of a plain product the values of its numeric options, None where
    there are none.

    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"depth": (1, 2, 4), "activation": ("relu", "gelu")})
    >>> shape(space)(space.graph(jnp.array([2, 0]))).tolist()
    [4.0]
    """
    if "output" not in space.vocabulary:
        return _option_values(space.choices)
    statistics = path_statistics(_groups(space))
    return concatenated(statistics, operation_counts(_operations(space)))


def _option_values(choices: Sequence[Choice]) -> Encoding | None:
    """The values of the options, where they are numbers, and their logarithms where they reach over a factor of ten."""
    values = np.zeros((sum(len(choice.options) for choice in choices), 1), np.float32)
    numeric: list[int] = []
    first = 0
    for place, choice in enumerate(choices):
        try:
            numbers = np.array([float(option) for option in choice.options])
        except ValueError:
            numbers = np.zeros(0)
        if len(numbers) > 1 and np.isfinite(numbers).all():
            numeric.append(place)
            values[first : first + len(numbers), 0] = as_signal(numbers)
        first += len(choice.options)
    if not numeric:
        return None
    at = jnp.asarray(numeric)
    return lambda graph: jnp.asarray(values)[graph.ops[0, at], 0]


def as_signal(numbers: np.ndarray) -> np.ndarray:
    """Logarithms of numbers that are positive and reach over a factor of ten, others as they are.

    >>> as_signal(np.array([1.0, 2.0, 8.0])).tolist()
    [1.0, 2.0, 8.0]
    >>> np.exp(as_signal(np.array([1.0, 1000.0]))).round().tolist()
    [1.0, 1000.0]
    """
    there = numbers[~np.isnan(numbers)]
    return np.log(numbers) if there.min() > 0 and there.max() > 10 * there.min() else numbers
