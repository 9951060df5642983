"""A branch of a program by a number that is data, differentiated without what all the others would have to keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax

from jaxnas.base import Array, PyTree, Stats


def switch(
    branches: Sequence[Callable[..., tuple[Array, Stats]]],
    index: Array,
    params: PyTree,
    sources: tuple[Array, ...],
    others: Any,
) -> tuple[Array, Stats]:
    """`lax.switch` whose backward pass computes the taken branch again.

    Differentiated by itself it would save, in the place of what each branch not taken had to keep, zeros. branches:
    (params, sources, others) -> (y, statistics), of which neither the statistics nor `others` have a gradient.
    """

    @jax.custom_vjp
    def call(index: Array, params: PyTree, sources: tuple[Array, ...], others: Any) -> tuple[Array, Stats]:
        return lax.switch(index, branches, params, sources, others)

    def forward(index: Array, params: PyTree, sources: tuple[Array, ...], others: Any) -> tuple[Any, Any]:
        # Not the call itself, nor the operations, which have rules of their own: neither has a forward-mode derivative,
        # which a second-order hypergradient takes of this pass.
        def by_rules(branch: Callable[..., tuple[Array, Stats]]) -> Callable[..., tuple[Array, Stats]]:
            def run(params: PyTree, sources: tuple[Array, ...], others: Any) -> tuple[Array, Stats]:
                y, _, seen = jax.vjp(lambda p, s: branch(p, s, others), params, sources, has_aux=True)
                return y, seen

            return run

        told = lax.switch(index, [by_rules(branch) for branch in branches], params, sources, others)
        return told, (index, params, sources, others)

    def backward(residuals: Any, cotangent: Any) -> Any:
        index, params, sources, others = residuals

        def pullback(branch: Callable[..., tuple[Array, Stats]]) -> Callable[..., Any]:
            def back(g: Array, params: PyTree, sources: tuple[Array, ...], others: Any) -> Any:
                return jax.vjp(lambda p, s: branch(p, s, others)[0], params, sources)[1](g)

            return back

        each = [pullback(branch) for branch in branches]
        return None, *lax.switch(index, each, cotangent[0], params, sources, others), None

    call.defvjp(forward, backward)
    return call(index, params, sources, others)
