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

One pass costs N node updates whatever the depth; all architectures go through it at once, with dense adjacency.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxnas.base import Array, Graph, Key
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
) -> Regressor:
    """vocabulary: the number of operation ids. example: any graph of the space, for its shape. encode: an encoding or
    `signals` that the dense layers see beside the graph's state.

    Raises: ValueError where a number is less than 1.
    """
    for name, number in (("vocabulary", vocabulary), ("width", width), ("rounds", rounds), ("hidden", hidden)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    encoding = (lambda graph: jnp.zeros(0)) if encode is None else encode
    features = encoded_size(encoding, example)
    kinds = example.ops.shape[0]

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
        # Both directions of all cell kinds are one batch: [2, G, N, …], the second with nodes in reversed order.
        edges = jnp.stack([graph.adjacency, graph.adjacency.transpose(0, 2, 1)[:, ::-1, ::-1]])
        ops = jnp.stack([graph.ops, graph.ops[:, ::-1]])
        mask = jnp.stack([graph.mask, graph.mask[:, ::-1]])
        states = jnp.zeros((2, *graph.ops.shape, 0))
        for r, each in enumerate(params["rounds"]):
            index = (jnp.arange(2)[:, None, None], jnp.arange(kinds)[None, :, None], ops)
            gate, bias = each["gate"][index], each["bias"][index]
            if r:
                forward, backward = states[0], states[1, :, ::-1]
                both = jnp.concatenate([forward, backward], axis=2)
                bias += jnp.einsum("dgni,dio->dgno", jnp.stack([both, both[:, ::-1]]), each["before"])
            along_kinds = jax.vmap(_flow, (None, 0, 0, 0, 0))
            states = jax.vmap(along_kinds)(each["weight"], edges, gate, bias, mask)
        forward, backward = states[0], states[1, :, ::-1]
        starts = backward * (graph.mask & ~(graph.adjacency > 0).any(axis=1))[:, :, None]
        through = (forward * backward).sum(axis=1) * params["scale"][None]
        read = jnp.concatenate([forward[:, -1], starts.sum(axis=1), through], axis=1)
        return dense_apply(params["dense"], jnp.concatenate([read.reshape(-1), encoded]))[0]

    return Regressor(example, features, encoding, init, apply)


def _flow(weight: Array, edges: Array, gate: Array, bias: Array, mask: Array) -> Array:
    """States [N, W] of all nodes in one direction. edges [N, N], gate and bias [N, W], mask [N]."""
    count, width = gate.shape

    def visit(states: Array, node: tuple[Array, ...]) -> tuple[Array, None]:
        place, incoming, gate, bias, there = node
        # States are not negative and 0 where nothing was visited yet, so that a plain product masks the maximum.
        most = jnp.max((incoming > 0)[:, None] * states, axis=0)
        state = jax.nn.relu(jnp.concatenate([incoming @ states, most]) @ weight * gate + bias)
        return states.at[place].set(jnp.where(there, state, 0.0)), None

    return jax.lax.scan(visit, jnp.zeros((count, width)), (jnp.arange(count), edges.T, gate, bias, mask))[0]
