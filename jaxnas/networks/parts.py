"""Gradient accumulation: a batch that does not fit goes through a network in parts.

Any pass `(…, x, context) -> (logits, Aux)` becomes one over parts, one after another, of which nothing but the input is
kept for the way back: the gradient then runs each part once more, sums what the parts give, and needs the memory of one
part, for about a third more time. It is a change of the pass and not of an algorithm, so that it serves every step, of
first and second order. Batch norm sees one part at a time, as in smaller batches on several devices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas.base import Array, Aux

Pass = Callable[..., tuple[Array, Aux]]


def accumulated(apply: Pass, parts: int) -> Pass:
    """The pass of a Network or a Supernet over `parts` equal parts of x [B, H, W, C].

    apply: the pass, (…, x, context) -> (logits, Aux). parts: into how many the batch is cut.

    Returns: a pass of the same arguments. Logits come in the order of the batch; statistics are means over the parts.

    Raises: ValueError where parts is less than 1 or, when traced, does not divide the batch.

    >>> from jaxnas.base import PLAIN
    >>> from jaxnas.networks import tutorial_cnn
    >>> network = tutorial_cnn((8, 8, 1), num_classes=10)
    >>> params, stats = jax.eval_shape(network.init, jax.random.key(0))
    >>> apply = accumulated(network.apply, parts=3)
    >>> jax.eval_shape(lambda p: apply(p, jnp.zeros((12, 8, 8, 1)), PLAIN)[0], params).shape
    (12, 10)
    """
    if parts < 1:
        raise ValueError(f"parts must be at least 1, got {parts}")
    if parts == 1:
        return apply

    def whole(*given: Any) -> tuple[Array, Aux]:
        *others, x, context = given
        if len(x) % parts:
            raise ValueError(f"a batch of {len(x)} cannot be cut into {parts} parts; choose a divisor")
        # Every parts-th image, so that of a batch divided over devices each device has its share of every part.
        cut = jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)
        keys = None if context.key is None else jax.random.split(context.key, parts)

        @jax.checkpoint
        def one(others: tuple[Any, ...], x: Array, key: Any) -> tuple[Array, Aux]:
            return apply(*others, x, context._replace(key=key))

        def part(at: tuple[Array, Any]) -> tuple[Array, Aux]:
            return one(tuple(others), *at)

        logits, aux = jax.lax.map(part, (cut, keys))

        def joined(values: Array) -> Array:
            return jnp.moveaxis(values, 0, 1).reshape(-1, *values.shape[2:])

        aux_logits = None if aux.aux_logits is None else joined(aux.aux_logits)
        return joined(logits), Aux(jax.tree.map(lambda leaf: leaf.mean(0), aux.stats), aux_logits)

    return whole
