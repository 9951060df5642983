"""The gradients of a bilevel step; hypergradients: of the outer loss at the inner parameters after one step.

    minimise over a   L_outer(w'(a), a),      w'(a) = w + update(grad_w L_inner(w, a))

`update` is an optax transformation, at its current state: what it contains (momentum, weight decay, clipping, a
schedule) is differentiated through, what it does not contain is left out. With w' the inner parameters after that step,
v = grad_w' L_outer and u = J^T v, where J is the derivative of the update with respect to the gradient that it gets,

    d L_outer / d a  =  grad_a L_outer(w', a)  +  d/da <u, grad_w L_inner(w, a)>.

`exact` computes the last term by forward over reverse differentiation: it is the derivative of grad_a L_inner along u.
`finite_difference` takes two such gradients at w +- eps u, as in DARTS (Liu et al. 2019, eqs. 7 and 8), and divides by
2 eps. `first_order` drops the term and the inner step (xi = 0 there).

The paper's program does not differentiate through its update: it takes u = -learning_rate v whatever the optimiser. For
SGD with momentum and coupled weight decay the two are the same; clipping makes them differ where it acts.

A second-order step needs the gradient of a whole network three times: at (w, a), at (w', a), and at (w, a) again when
`a` has moved. Where the two losses are one function, the three are iterations of one loop, so that it is compiled once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxnas.base import Array, Key, PyTree
from jaxnas.ops.layers import pmean

Loss = Callable[[PyTree, PyTree, Any, Key], tuple[Array, Any]]
"""(w, a, batch, key) -> (loss, what it tells beside); the key is the randomness of the pass."""


Move = Callable[[PyTree], tuple[PyTree, Any]]
"""The hypergradient -> (`a` moved by it, what else the caller wants of that)."""


class BilevelStep(NamedTuple):
    """outer: L_outer where the hypergradient was taken, outer_told what that loss tells. hypergradient: as `a`.

    moved: what `move` gave. inner: L_inner at (w, a moved), inner_told what it tells, gradient: its gradient as `w`.
    """

    outer: Array
    outer_told: Any
    hypergradient: PyTree
    moved: tuple[PyTree, Any]
    inner: Array
    inner_told: Any
    gradient: PyTree


class Bilevel(Protocol):
    """How to compute a step: the hypergradient moves `a`; then the gradient of the inner loss, which is to move `w`.

    opt_state: of the optimiser of `w`. The randomness of the outer pass and of the last inner pass is their own; the
    passes of the hypergradient's inner step share theirs, on both sides of a difference.
    """

    def __call__(
        self,
        inner: Loss,
        outer: Loss,
        w: PyTree,
        a: PyTree,
        opt_state: optax.OptState,
        inner_batch: Any,
        outer_batch: Any,
        key: Key,
        move: Move,
    ) -> BilevelStep: ...


def first_order(axis_name: str | None = None) -> Bilevel:
    """The gradient at the present parameters, as if they did not depend on `a`."""

    def step(
        inner: Loss,
        outer: Loss,
        w: PyTree,
        a: PyTree,
        opt_state: optax.OptState,
        inner_batch: Any,
        outer_batch: Any,
        key: Key,
        move: Move,
    ) -> BilevelStep:
        del opt_state  # no inner step
        outer_key, last_key = jax.random.split(key)
        (value, told), hypergradient = jax.value_and_grad(outer, argnums=1, has_aux=True)(w, a, outer_batch, outer_key)
        hypergradient = pmean(hypergradient, axis_name)
        moved = move(hypergradient)
        (inner_value, inner_told), gradient = jax.value_and_grad(inner, has_aux=True)(
            w, moved[0], inner_batch, last_key
        )
        return BilevelStep(value, told, hypergradient, moved, inner_value, inner_told, pmean(gradient, axis_name))

    return step


def exact(update: optax.GradientTransformation, axis_name: str | None = None) -> Bilevel:
    """The whole gradient, the second term by forward over reverse differentiation."""

    def along(alpha_gradient: Callable[[PyTree], PyTree], w: PyTree, u: PyTree) -> PyTree:
        return jax.jvp(alpha_gradient, (w,), (u,))[1]

    return _second_order(update, along, axis_name)


def finite_difference(
    update: optax.GradientTransformation, epsilon: float = 0.01, axis_name: str | None = None
) -> Bilevel:
    """The second term by a central difference of step epsilon / |u|; the paper's epsilon is 0.01."""
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")

    def along(alpha_gradient: Callable[[PyTree], PyTree], w: PyTree, u: PyTree) -> PyTree:
        norm = optax.tree.norm(u)
        step = epsilon / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny)
        both = lax.map(  # one loop body for the two
            lambda sign: alpha_gradient(jax.tree.map(lambda p, q: p + sign * step * q, w, u)),
            jnp.array([1, -1], norm.dtype),
        )
        return jax.tree.map(lambda g: (g[0] - g[1]) / (2 * step), both)

    return _second_order(update, along, axis_name)


class _Carry(NamedTuple):
    """Where the next gradient is taken, and what is kept of those before."""

    w: PyTree
    a: PyTree
    gradient: PyTree
    hypergradient: PyTree


def _second_order(
    update: optax.GradientTransformation,
    along: Callable[[Callable[[PyTree], PyTree], PyTree, PyTree], PyTree],
    axis_name: str | None,
) -> Bilevel:
    def step(
        inner: Loss,
        outer: Loss,
        w: PyTree,
        a: PyTree,
        opt_state: optax.OptState,
        inner_batch: Any,
        outer_batch: Any,
        key: Key,
        move: Move,
    ) -> BilevelStep:
        w, a = jax.tree.map(jnp.asarray, (w, a))
        keys = jax.random.split(key, 3)
        difference_key = jax.random.clone(keys)[0]

        def inner_step(g: PyTree) -> PyTree:
            return optax.apply_updates(w, update.update(g, opt_state, w)[0])

        def alpha_gradient(w: PyTree) -> PyTree:
            # With respect to w too, and thrown away: a layer with a reverse rule of its own is only then replaced by
            # that rule, and the rule can be differentiated forward. What is not used is not computed.
            def loss(w: PyTree, a: PyTree) -> Array:
                return inner(w, a, inner_batch, jax.random.clone(difference_key))[0]

            return jax.grad(loss, (0, 1))(w, a)[1]

        def after_inner(carry: _Carry, to_w: PyTree, to_a: PyTree) -> _Carry:
            del to_a
            return carry._replace(w=inner_step(to_w), gradient=to_w)

        def after_outer(carry: _Carry, to_w: PyTree, to_a: PyTree) -> _Carry:
            (u,) = jax.vjp(inner_step, carry.gradient)[1](to_w)
            implicit = pmean(along(alpha_gradient, w, u), axis_name)
            hypergradient = jax.tree.map(jnp.add, to_a, implicit)
            return carry._replace(w=w, a=move(hypergradient)[0], hypergradient=hypergradient)

        def after_last(carry: _Carry, to_w: PyTree, to_a: PyTree) -> _Carry:
            del to_a
            return carry._replace(gradient=to_w)

        links = (after_inner, after_outer, after_last)
        carry = _Carry(w, a, jax.tree.map(jnp.zeros_like, w), jax.tree.map(jnp.zeros_like, a))

        def evaluate(loss: Loss, carry: _Carry, batch: Any, key: Key) -> tuple[Any, PyTree]:
            told, gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(carry.w, carry.a, batch, key)
            return told, pmean(gradients, axis_name)

        def body(carry: _Carry, at: tuple[Array, Any, Key]) -> tuple[_Carry, Any]:
            index, batch, key = at
            told, gradients = evaluate(inner, carry, batch, key)
            return lax.switch(index, links, carry, *gradients), told

        losses = (inner, outer, inner)
        batches = (inner_batch, outer_batch, inner_batch)
        if inner is outer and _alike(inner_batch, outer_batch):
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
            carry, told = lax.scan(body, carry, (jnp.arange(3), stacked, keys))
            _, at_outer, at_last = [jax.tree.map(lambda leaf, i=i: leaf[i], told) for i in range(3)]
        else:
            tolds = []
            for index, (loss, link, batch) in enumerate(zip(losses, links, batches, strict=True)):
                told, gradients = evaluate(loss, carry, batch, keys[index])
                carry = link(carry, *gradients)
                tolds.append(told)
            _, at_outer, at_last = tolds
        moved = move(carry.hypergradient)
        return BilevelStep(at_outer[0], at_outer[1], carry.hypergradient, moved, at_last[0], at_last[1], carry.gradient)

    return step


def _alike(one: PyTree, other: PyTree) -> bool:
    """Whether two pytrees have the same structure, shapes and types, so that they can be stacked."""

    def described(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), tree)

    return bool(described(one) == described(other))
