"""A graph network that runs along the cell as the cell's data do.

Nodes are visited in topological order, once forward and once along reversed edges, as in D-VAE (Zhang et al. 2019,
https://arxiv.org/abs/1904.11088); an operation acts on what comes in by a gate, as in GATES (Ning et al. 2020,
https://arxiv.org/abs/2004.01899). With A the adjacency, o(i) the operation of node i and x(i) its state of the round
before,

    h(i) = relu(W [Σ_j A(j, i) h(j); max_{j → i} h(j)] ⊙ gate[o(i)] + bias[o(i)] + U x(i)).

A sum alone cannot tell a deep cell from a wide one; a maximum can, since it computes longest paths. Each round has its
own parameters and its x are both directions' states of the round before. Read out are the state of the last node
forward, that of the first ones backward, and the sum over nodes of the product of both, to which only nodes on a way
through the cell have much to give; these, of all cell kinds, and whatever is not learned go to dense layers.

One pass costs N node updates whatever the depth; all architectures go through it at once, with dense adjacency. Places
that are never joined are updated together, which makes the pass as long as the deepest cell and not as its places.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Array, Graph, Key
from jaxnas.kernels.masked_max import masked_max
from jaxnas.predictors.encodings import Encoding
from jaxnas.predictors.mlp import dense_apply, dense_init, encoded_size
from jaxnas.predictors.regression import Regressor


def gnn(
    vocabulary: int,
    example: Graph,
    *,
    width: int = 32,
    rounds: int = 2,
    hidden: int = 32,
    encode: Encoding | None = None,
    levels: Sequence[Sequence[int]] | None = None,
) -> Regressor:
    """The graph network, to be fitted by `regression`.

    vocabulary: the number of operation ids. example: any graph of the space, for its shape. width: W, of a state.
    rounds: of passes forward and backward. hidden: units of the dense layer behind them. encode: an encoding or
    `signals` that the dense layers see beside the graph's state. levels: groups of places of which no two are joined in
    any graph, and which are fed by earlier groups alone, as of `levels_of`; places that are in none are never there.
    The last place must be in one. By default each place is a level.

    Raises: ValueError where a number is less than 1, or the levels are not such groups.

    >>> from jaxnas.predictors import regression
    >>> from jaxnas.spaces import nasbench201_space
    >>> space = nasbench201_space()
    >>> example = space.graph(jnp.zeros(6, jnp.int32))
    >>> network = gnn(len(space.vocabulary), example, width=8)
    >>> params = jax.eval_shape(network.init, jax.random.key(0))
    >>> jax.eval_shape(network.apply, params, example, jnp.zeros(network.features)).shape
    ()
    """
    for name, number in (("vocabulary", vocabulary), ("width", width), ("rounds", rounds), ("hidden", hidden)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    encoding = (lambda graph: jnp.zeros(0)) if encode is None else encode
    features = encoded_size(encoding, example)
    kinds, count = example.ops.shape
    order, ends = _in_order(count, levels)
    output = int(np.flatnonzero(order == count - 1)[0])

    def init(key: Key) -> dict[str, Any]:
        *round_keys, dense_key = jax.random.split(key, rounds + 1)
        return {
            "rounds": [_init_round(key, first=not r) for r, key in enumerate(round_keys)],
            "scale": jnp.full(width, 0.3),
            "dense": dense_init(dense_key, (kinds * 3 * width + features, hidden, 1)),
        }

    def _init_round(key: Key, first: bool) -> dict[str, Array]:
        """Leading axes: 2 directions, and G cell kinds for what belongs to an operation."""
        weight_key, gate_key, bias_key, before_key = jax.random.split(key, 4)
        params = {
            "weight": jax.random.normal(weight_key, (2, 2 * width, width)) * (0.5 / width) ** 0.5,
            "gate": 1 + 0.3 * jax.random.normal(gate_key, (2, kinds, vocabulary, width)),
            "bias": 0.3 * jax.random.normal(bias_key, (2, kinds, vocabulary, width)),
        }
        if not first:
            params["before"] = jax.random.normal(before_key, (2, 2 * width, width)) * (0.5 / width) ** 0.5
        return params

    def apply(params: dict[str, Any], graph: Graph, encoded: Array) -> Array:
        mask = graph.mask[:, order]
        edges = graph.adjacency[:, order[:, None], order[None]] * (mask[:, :, None] & mask[:, None])
        # Products with ones and zeros in place of gathers, whose gradients would add entry by entry.
        kind = vocabulary * np.arange(kinds)[:, None]
        ops = jax.nn.one_hot(graph.ops[:, order] + kind, kinds * vocabulary)
        states = [jnp.zeros(0)] * 2
        for r, each in enumerate(params["rounds"]):
            after = []
            for direction, backward in enumerate((False, True)):
                gate, bias = (ops @ each[name][direction].reshape(-1, width) for name in ("gate", "bias"))
                if r:
                    bias += jnp.concatenate(states, axis=2) @ each["before"][direction]
                after.append(_flow(each["weight"][direction], edges, gate, bias, mask, ends, backward))
            states = after
        forward, backward_states = states
        starts = backward_states * (mask & ~(edges > 0).any(axis=1))[:, :, None]
        through = (forward * backward_states).sum(axis=1) * params["scale"][None]
        read = jnp.concatenate([forward[:, output], starts.sum(axis=1), through], axis=1)
        return dense_apply(params["dense"], jnp.concatenate([read.reshape(-1), encoded]))[0]

    return Regressor(example, features, encoding, init, apply)


def levels_of(adjacency: np.ndarray, there: np.ndarray) -> list[list[int]]:
    """Groups of places for `gnn`. adjacency: [N, N], not 0 where a place may feed another; of a graph, or the sum of
    many. there: bool [N], places that some graph has.

    A place is as far on as the longest way to it, by way of places of any kind, so that it stays right where some of
    these are contracted.

    >>> diamond = np.array([[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]])
    >>> levels_of(diamond, np.ones(4, bool))
    [[0], [1, 2], [3]]
    """
    far = np.zeros(len(adjacency), int)
    for place in range(len(adjacency)):
        before = np.flatnonzero(adjacency[:place, place])
        far[place] = 1 + max(far[before], default=-1)
    found = [[int(place) for place in np.flatnonzero((far == level) & there)] for level in range(int(far.max()) + 1)]
    return [level for level in found if level]


def _in_order(count: int, levels: Sequence[Sequence[int]] | None) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """(places int [N] level by level, where each level begins and ends among them)."""
    levels = [[place] for place in range(count)] if levels is None else levels
    order = [place for level in levels for place in level]
    if len(set(order)) < len(order) or not set(order) <= set(range(count)) or count - 1 not in order:
        raise ValueError(f"levels hold places of 0 to {count - 1}, each once and the last one, got {list(levels)}")
    ends = np.cumsum([0, *map(len, levels)]).tolist()
    return np.array(order), list(itertools.pairwise(ends))


def _flow(
    weight: Array, edges: Array, gate: Array, bias: Array, mask: Array, ends: list[tuple[int, int]], backward: bool
) -> Array:
    """States [G, N, W] of all nodes in one direction, level by level. edges [G, N, N], gate and bias [G, N, W]."""
    states: list[Array] = []
    for start, end in reversed(ends) if backward else ends:
        state = bias[:, start:end]
        if states:
            before = jnp.concatenate(states[::-1] if backward else states, axis=1)
            incoming = edges[:, start:end, end:] if backward else edges[:, :start, start:end].transpose(0, 2, 1)
            most = masked_max(before, incoming > 0)
            state += jnp.concatenate([incoming @ before, most], axis=2) @ weight * gate[:, start:end]
        states.append(jnp.where(mask[:, start:end, None], jax.nn.relu(state), 0.0))
    return jnp.concatenate(states[::-1] if backward else states, axis=1)
