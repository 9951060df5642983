"""PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture Search (Xu et al., ICLR 2020, 1907.05737).

Of an edge's channels one in K goes through the mixed operation, the others pass it (eq. 1): give `darts` a supernet
with `partial=K`. What a node reads then depends on few channels, and edge normalization makes up for it (eq. 2): with
beta one number an edge, p = softmax(alpha) over operations and q = softmax(beta) over the edges that end in one node,

    weights of edge (i, j) = q_ij p_ij.

What is derived are the operations and edges of the greatest product.

The paper's settings on CIFAR-10: K = 4, batches of 256, a learning rate of 0.1 falling to 0, alpha's of 6e-4, and 15 of
50 epochs in which the weights alone move. Where an edge has stride 2, the channels that pass go through a 2 by 2 max
pool, as in the authors' program.

Deviation: in the cells of ENAS, where "none" stands for an edge that is not, the channels that pass have q_ij times 1
minus the share of "none"; in the paper, and in the other spaces, they have q_ij.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import ArchWeights, Array, Key, PyTree, Relaxation
from jaxnas.relax import There, keys_of, softmax
from jaxnas.search.darts import Variant


def pc_darts(nodes: Mapping[str, Sequence[int]], *, scale: float = 1e-3, there: There | None = None) -> Variant:
    """Softmax weights with edge normalization. nodes: cell kind -> of each slot the number of the node it ends in.

    alpha is {"operations": kind -> [S, O], "edges": kind -> [S]}, both normal with standard deviation `scale`.
    there: the options that pruning has left.

    Raises: ValueError where scale is negative, and at `init` where the space has other slots.

    >>> relaxation = pc_darts({"cell": [0, 1, 1]}).relaxation  # the second and third edge end in one node
    >>> alpha = {"operations": {"cell": jnp.zeros((3, 2))}, "edges": {"cell": jnp.zeros(3)}}
    >>> relaxation.mean(alpha)["cell"].round(2).tolist()
    [[0.5, 0.5], [0.25, 0.25], [0.25, 0.25]]
    """
    operations = softmax(scale, there=there)
    same = {kind: np.equal.outer(np.asarray(own), np.asarray(own)) for kind, own in nodes.items()}

    def init(key: Key, template: ArchWeights) -> PyTree:
        slots, given = ({kind: len(own) for kind, own in each.items()} for each in (template, nodes))
        if slots != given:
            raise ValueError(f"nodes must name one of each slot, {slots}, got {given}")
        key, edge_key = jax.random.split(key)
        edges = {k: scale * jax.random.normal(own, (slots[k],)) for k, own in keys_of(edge_key, template).items()}
        return {"operations": operations.init(key, template), "edges": edges}

    def normalized(weights: ArchWeights, edges: Mapping[str, Array]) -> ArchWeights:
        return {kind: shares(edges[kind], same[kind])[:, None] * own for kind, own in weights.items()}

    def weights(key: Key, alpha: PyTree, step: Array) -> ArchWeights:
        return normalized(operations.weights(key, alpha["operations"], step), alpha["edges"])

    def mean(alpha: PyTree) -> ArchWeights:
        return normalized(operations.mean(alpha["operations"]), alpha["edges"])

    return Variant(Relaxation(init, weights, mean))


def shares(beta: Array, same: np.ndarray) -> Array:
    """Of beta [S] the softmax over the slots that end in the same node, [S]. same: bool [S, S]."""
    inputs = jnp.where(jnp.asarray(same), beta[None, :], -jnp.inf)
    return jnp.exp(beta - jax.nn.logsumexp(inputs, axis=1))
