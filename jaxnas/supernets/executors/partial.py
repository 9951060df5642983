"""Edges that mix a part of the channels: PC-DARTS (Xu et al., ICLR 2020, https://arxiv.org/abs/1907.05737, equation 1).

The first C / K channels of a source go through the mixed operation, the others past it, unchanged or, where the stride
is 2, through a maximum of 2x2. Both are joined, the operation's first, and the channels shuffled in K groups. What goes
past has the sum of the slot's weights: 1 of a softmax, and of weights times an edge's beta that beta, as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxnas.base import Array
from jaxnas.kernels.norm import widened
from jaxnas.supernets.executors.edge import Edge
from jaxnas.supernets.executors.layout import Edges


def checked_mixture(channels: Sequence[int], *, partial: int, sampled: bool = False, affine: bool = False) -> None:
    """Raises ValueError for a kind of mixture that cannot be. channels: of every cell."""
    if partial < 1:
        raise ValueError(f"partial must be 1 or more, got {partial}")
    if wrong := [c for c in channels if c % partial]:
        raise ValueError(f"channels must be divisible by partial={partial}, got a cell of {wrong[0]} channels")
    if partial > 1 and sampled:
        raise ValueError(f"a mixture is sampled or of a part of the channels, got sampled=True and partial={partial}")
    if affine and (sampled or partial > 1):
        raise ValueError(
            "affine is for networks of fixed architectures, sampled and partial are for a search: "
            f"got affine=True with sampled={sampled} and partial={partial}"
        )


def weights_past(weights: Array, keep: np.ndarray | None, absent: int | None) -> Array:
    """What goes past the operations of slots of weights [S, O], [S]; others as of `edges_past`."""
    slots, operations = weights.shape
    counted = _counted(slots, operations, keep, absent)
    return jnp.sum(jnp.where(counted, weights, 0), 1)


def edges_past(edges: Edges, slots: int, operations: int, keep: np.ndarray | None, absent: int | None) -> Array:
    """Whether anything goes past the operation of an edge of a path, bool [E]: past one that there is not, nothing.

    keep: bool [S, O], the options that the slots have, or None for all. absent: the number of an option that stands for
    no edge at all, if there is one.
    """
    table = np.pad(_counted(slots, operations, keep, absent), ((0, 0), (0, 1)))
    return jnp.asarray(table)[edges.slot, jnp.minimum(edges.operation, operations)]


def _counted(slots: int, operations: int, keep: np.ndarray | None, absent: int | None) -> np.ndarray:
    result = np.ones((slots, operations), bool) if keep is None else keep
    return result if absent is None else result & (np.arange(operations) != absent)


def mixed_part(x: Array, parts: int) -> Array:
    """The channels of [..., C] that the operations get."""
    return x[..., : x.shape[-1] // parts]


def passing_part(x: Array, parts: int, stride: int) -> Array:
    """The other channels of [..., H, W, C], in the size that the operations give."""
    rest = x[..., x.shape[-1] // parts :]
    return rest if stride == 1 else _halved(rest)


def _halved(x: Array) -> Array:
    """The maximum of 2x2 by steps of 2, [..., ceil(H / 2), ceil(W / 2), C]; the first of equals takes the gradient."""
    height, width = x.shape[-3:-1]
    around = [(0, 0)] * (x.ndim - 3) + [(0, height % 2), (0, width % 2), (0, 0)]
    padded = jnp.pad(x, around, constant_values=-jnp.inf)
    best = padded[..., ::2, ::2, :]
    for row, column in ((0, 1), (1, 0), (1, 1)):
        other = padded[..., row::2, column::2, :]
        best = jnp.where(best >= other, best, other)
    return best


def shuffled(mixed: Array, passed: Array) -> Array:
    """[..., C / K] and [..., C - C / K] joined, then [K, C / K] of them read by columns."""
    width = mixed.shape[-1]
    groups = passed.reshape(*passed.shape[:-1], -1, width)
    return jnp.stack([mixed, *jnp.moveaxis(groups, -2, 0)], -1).reshape(*mixed.shape[:-1], -1)


def passing_op(op: Edge, stride: int, parts: int) -> Edge:
    """An edge that gives `op` its part. weights: those of `op`, then that of what goes past it."""

    def edge(
        params: object, weights: Array, x: Array, each: object, known: object, wanted: Array | None
    ) -> tuple[Array, object]:
        y, seen = op(params, weights[:-1], mixed_part(x, parts), each, known, wanted)
        passed = passing_part(x, parts, stride)
        return shuffled(y, (widened(passed) * weights[-1]).astype(x.dtype)), seen

    return edge
