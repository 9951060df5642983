"""P-DARTS: Progressive Differentiable Architecture Search (Chen, Xie, Wu, Tian, ICCV 2019, arXiv 1904.12760).

The search goes through stages of growing depth (5, 11, 17 cells), in each of which slots keep fewer options (8, 5, then
3; `jaxnas.search.weakest_by_alpha`) and everything else begins anew. Search space regularization (sec. 3.3):

    dropout behind skip connections of stride 1, whose rate decays within a stage;
    of the derived cell, no more than M skip connections (2 in the paper).

The rate, in the authors' program: r (E - e - 1) / E in the first epochs e of E, in which the weights alone move, then
r exp(-0.2 (e - those)), with r = 0.1, 0.4, 0.7 by stage on CIFAR-10.

Deviation: the limit is kept in every cell kind that is asked for, where the authors keep it in the normal cell. When a
skip connection is too many, the one of the smallest weight is struck out, and the cell is derived again, as there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxnas.base import Arch, ArchWeights, Array, Context, PyTree, SearchSpace
from jaxnas.ops.primitives import PRIMITIVES, Operations, Primitive
from jaxnas.relax import There, softmax
from jaxnas.search.darts import Variant

SKIP = "skip_connect"


def p_darts(rate: float, steps_per_epoch: int, epochs: int, still: int = 10, *, there: There | None = None) -> Variant:
    """The variant of one stage: softmax weights, and the rate of dropout.

    rate: of dropout at the start. epochs: of the stage. still: alpha does not move in so many epochs. there: the
    options that pruning has left. The supernet must have operations that drop: `droppable`.

    Raises: ValueError where the rate is not in [0, 1), or a number is out of its range.

    >>> variant = p_darts(rate=0.4, steps_per_epoch=100, epochs=25)
    >>> [round(float(variant.dropout(100 * epoch)), 3) for epoch in (0, 10, 15)]
    [0.384, 0.4, 0.147]
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate, of dropout, must be at least 0 and less than 1, got {rate}")
    if steps_per_epoch < 1 or epochs < 1 or not 0 <= still <= epochs:
        raise ValueError(f"epochs {epochs} of {steps_per_epoch} steps cannot have {still} without the architecture")

    def dropout(step: Array) -> Array:
        epoch = step // steps_per_epoch
        linear = (epochs - epoch - 1) / epochs
        return rate * jnp.where(epoch < still, linear, jnp.exp(-0.2 * (epoch - still)))

    return Variant(softmax(there=there), dropout=dropout)


def droppable(operations: Operations) -> tuple[str | Primitive, ...]:
    """The operations, with dropout after skip connections of stride 1, at the rate of `Context.dropout`.

    >>> none, skip = droppable(("none", "skip_connect"))
    >>> none, skip.random
    ('none', True)
    """

    def apply(params: PyTree, x: Array, stride: int, context: Context) -> tuple[Array, tuple[()]]:
        y, stats = skip.apply(params, x, stride, context)
        if stride != 1 or context.key is None:
            return y, stats
        kept = jax.random.bernoulli(context.key, 1.0 - context.dropout, y.shape)
        return jnp.where(kept, y / (1.0 - context.dropout), 0.0).astype(y.dtype), stats

    skip = PRIMITIVES[SKIP]
    dropping = skip._replace(apply=apply, random=True, family=None)
    return tuple(dropping if operation == SKIP else operation for operation in operations)


def limited_skips(
    space: SearchSpace, operations: Sequence[str], most: int, kinds: Sequence[str] | None = None
) -> Callable[[ArchWeights], Arch]:
    """Mixture weights -> the architecture of at most `most` skip connections in a cell of each kind; traceable.

    operations: the options of every slot, in turn. kinds: all cell kinds of the space by default.

    Raises: ValueError where the operations have no skip connection, or most is negative.

    >>> from jaxnas.spaces import NASBENCH201_OPERATIONS, nasbench201_space
    >>> space = nasbench201_space()
    >>> skips = space.one_hot(jnp.full(6, NASBENCH201_OPERATIONS.index("skip_connect")))
    >>> arch = limited_skips(space, NASBENCH201_OPERATIONS, most=2)(skips)
    >>> space.notation(arch).count("skip_connect")
    2
    """
    if SKIP not in operations or most < 0:
        raise ValueError(f"most must be at least 0 and {SKIP} an operation, got {most} and {', '.join(operations)}")
    place = list(operations).index(SKIP)

    def derive(weights: ArchWeights) -> Arch:
        left = dict(weights)
        for kind in sorted(left) if kinds is None else kinds:

            def taken(own: Array, kind: str = kind) -> Array:
                return space.one_hot(space.discretize({**left, kind: own}))[kind][:, place] > 0

            def too_many(own: Array, taken: Callable[[Array], Array] = taken) -> Array:
                # A slot that can take nothing but a skip has it still when it is struck out.
                skips = taken(own)
                return (jnp.sum(skips) > most) & jnp.any(skips & (own[:, place] >= 0))

            def strike(own: Array, taken: Callable[[Array], Array] = taken) -> Array:
                left_over = taken(own) & (own[:, place] >= 0)
                weakest = jnp.argmin(jnp.where(left_over, own[:, place], jnp.inf))
                return own.at[weakest, place].set(-1.0)  # less than any weight, those of what pruning took included

            left[kind] = jax.lax.while_loop(too_many, strike, left[kind])
        return space.discretize(left)

    return derive
