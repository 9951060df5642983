"""Hypergradients of a bilevel problem: the gradient of the outer loss at the inner parameters after one step.

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
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from jaxnas.base import Array, Key, PyTree
from jaxnas.ops.layers import pmean

Loss = Callable[[PyTree, PyTree, Any, Key], tuple[Array, Any]]
"""(w, a, batch, key) -> (loss, what it tells beside); the key is the randomness of the pass."""


class Hypergradient(NamedTuple):
    """outer: L_outer where it was taken. told: what the outer loss tells. gradient: in the form of `a`."""

    outer: Array
    told: Any
    gradient: PyTree


class HypergradientFn(Protocol):
    """How to get the gradient of the outer loss with respect to `a`.

    keys: of the outer and of the inner pass. All inner passes share one: the same randomness on every side of a
    difference.
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
        keys: tuple[Key, Key],
    ) -> Hypergradient: ...


def first_order(axis_name: str | None = None) -> HypergradientFn:
    """The gradient at the present parameters, as if they did not depend on `a`."""

    def hypergradient(
        inner: Loss,
        outer: Loss,
        w: PyTree,
        a: PyTree,
        opt_state: optax.OptState,
        inner_batch: Any,
        outer_batch: Any,
        keys: tuple[Key, Key],
    ) -> Hypergradient:
        del inner, opt_state, inner_batch  # no inner step
        (value, told), gradient = jax.value_and_grad(outer, argnums=1, has_aux=True)(w, a, outer_batch, keys[0])
        return Hypergradient(value, told, pmean(gradient, axis_name))

    return hypergradient


def exact(update: optax.GradientTransformation, axis_name: str | None = None) -> HypergradientFn:
    """The whole gradient, the second term by forward over reverse differentiation."""

    def along(alpha_gradient: Callable[[PyTree], PyTree], w: PyTree, u: PyTree) -> PyTree:
        return jax.jvp(alpha_gradient, (w,), (u,))[1]

    return _second_order(update, along, axis_name)


def finite_difference(
    update: optax.GradientTransformation, epsilon: float = 0.01, axis_name: str | None = None
) -> HypergradientFn:
    """The second term by a central difference of step epsilon / |u|; the paper's epsilon is 0.01."""
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")

    def along(alpha_gradient: Callable[[PyTree], PyTree], w: PyTree, u: PyTree) -> PyTree:
        norm = optax.tree.norm(u)
        step = epsilon / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny)
        plus = alpha_gradient(jax.tree.map(lambda p, q: p + step * q, w, u))
        minus = alpha_gradient(jax.tree.map(lambda p, q: p - step * q, w, u))
        return jax.tree.map(lambda p, m: (p - m) / (2 * step), plus, minus)

    return _second_order(update, along, axis_name)


def _second_order(
    update: optax.GradientTransformation,
    along: Callable[[Callable[[PyTree], PyTree], PyTree, PyTree], PyTree],
    axis_name: str | None,
) -> HypergradientFn:
    def hypergradient(
        inner: Loss,
        outer: Loss,
        w: PyTree,
        a: PyTree,
        opt_state: optax.OptState,
        inner_batch: Any,
        outer_batch: Any,
        keys: tuple[Key, Key],
    ) -> Hypergradient:
        outer_key, inner_key = keys
        gradient_key, difference_key = jax.random.clone(inner_key), jax.random.clone(inner_key)
        g = pmean(jax.grad(inner, has_aux=True)(w, a, inner_batch, gradient_key)[0], axis_name)

        def step(g: PyTree) -> PyTree:
            return optax.apply_updates(w, update.update(g, opt_state, w)[0])

        w_after, pull = jax.vjp(step, g)
        (value, told), (v, direct) = jax.value_and_grad(outer, argnums=(0, 1), has_aux=True)(
            w_after, a, outer_batch, outer_key
        )
        (u,) = pull(pmean(v, axis_name))

        def alpha_gradient(w: PyTree) -> PyTree:
            # With respect to w too, and thrown away: a layer with a reverse rule of its own is only then replaced by
            # that rule, and the rule can be differentiated forward. What is not used is not computed.
            return jax.grad(lambda w, a: inner(w, a, inner_batch, difference_key)[0], (0, 1))(w, a)[1]

        implicit = along(alpha_gradient, w, u)
        return Hypergradient(value, told, pmean(jax.tree.map(jnp.add, direct, implicit), axis_name))

    return hypergradient
