"""The gradients of a bilevel step; hypergradients: of the outer loss at the inner parameters after one step.

    minimize over a   L_outer(w'(a), a),      w'(a) = w + update(grad_w L_inner(w, a))

`update` is an optax transformation, at its current state: what it contains (momentum, weight decay, clipping, a
schedule) is differentiated through, what it does not contain is left out. With w' the inner parameters after that step,
v = grad_w' L_outer and u = J^T v, where J is the derivative of the update with respect to the gradient that it gets,

    d L_outer / d a  =  grad_a L_outer(w', a)  +  d/da <u, grad_w L_inner(w, a)>.

`exact` computes the last term by forward over reverse differentiation: it is the derivative of grad_a L_inner along u.
`finite_difference` takes two such gradients at w +- eps u, as in DARTS (Liu et al. 2019, eqs. 7 and 8), and divides by
2 eps. `first_order` drops the term and the inner step (xi = 0 there).

The paper's program does not differentiate through its update: it takes u = -learning_rate v whatever the optimizer. For
SGD with momentum and coupled weight decay the two are the same; clipping makes them differ where it acts.

A step needs the gradient of a whole network several times: for `a`, and at (w, a) for `w` when `a` has moved; in second
order also for the inner step, and for a difference at w +- eps u. Where the two losses are one function, all of these
passes can be iterations of one loop, so that the network is compiled once. `loop` says whether they are. None: on all
but a GPU, whose host waits at the branch that follows each iteration; it takes them in turn, a longer program of fewer
kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxnas.base import Array, Key, PyTree
from jaxnas.kernels.platform import platform
from jaxnas.kernels.trees import norm, pmean, stacked, times, unstacked

Loss = Callable[[PyTree, PyTree, Any, Key, Array | None], tuple[Array, Any]]
"""(w, a, batch, key, wanted) -> (loss, what it tells beside); the key is the randomness of the pass.

wanted: bool [], or None for true: whether the gradient with respect to w will be used. It may be left zero where not.
"""


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
    """How to compute a step. The hypergradient moves `a`; then the gradient of the inner loss is taken, for `w`.

    opt_state: of the optimizer of `w`. The randomness of the outer pass and of the last inner pass is their own; the
    passes of the hypergradient's inner step share theirs, on both sides of a difference.

    Raises: ValueError where a loop was asked for, and the losses are two functions or the batches differ in form.
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


class _Carry(NamedTuple):
    """Where the next gradient is taken, and what is kept of those before; `along` is a method's own."""

    w: PyTree
    a: PyTree
    gradient: PyTree
    hypergradient: PyTree
    along: Any = ()


class _Pass(NamedTuple):
    """A gradient of a network: of which loss, with which of the step's keys, what the link reads of it.

    link: (carry, gradient to w, to a) -> the carry of the next pass.
    """

    loss: Literal["inner", "outer"]
    key: int
    reads: Literal["w", "a", "both"]
    link: Callable[[_Carry, PyTree, PyTree], _Carry]

    @property
    def wanted(self) -> bool:
        """Whether the gradient to w is."""
        return self.reads != "a"


def first_order(axis_name: str | None = None, *, loop: bool | None = None) -> Bilevel:
    """The gradient at the present parameters, as if they did not depend on `a`.

    axis_name: the mapped axis over which gradients are averaged. loop: whether the two passes are iterations of one
    loop; None chooses for the platform.

    >>> inner = lambda w, a, batch, key, wanted: ((w - a) ** 2 / 2, None)
    >>> outer = lambda w, a, batch, key, wanted: (w**2 / 2 + 3 * a, None)
    >>> told = first_order()(inner, outer, 2.0, 0.0, None, None, None, jax.random.key(0), lambda g: (-g, None))
    >>> float(told.hypergradient)  # what `a` does to the next w is left out
    3.0
    """

    def passes(w: PyTree, a: PyTree, inner_step: Any, inner: Any, move: Move) -> list[_Pass]:
        del w, a, inner_step, inner

        def after_outer(carry: _Carry, to_w: PyTree, to_a: PyTree) -> _Carry:
            del to_w
            return carry._replace(a=move(to_a)[0], hypergradient=to_a)

        return [_Pass("outer", 1, "a", after_outer), _Pass("inner", 2, "w", _keep)]

    return _bilevel(None, passes, axis_name, loop)


def single_level(axis_name: str | None = None) -> Bilevel:
    """Both `w` and `a` descend the inner loss, on one batch and from one pass. The outer loss is only reported.

    This is the one-level problem of SNAS (Xie et al. 2019). The gradient for `w` is taken before `a` has moved.
    axis_name: the mapped axis over which gradients are averaged.

    >>> loss = lambda w, a, batch, key, wanted: ((w - a) ** 2 / 2, None)
    >>> told = single_level()(loss, loss, 2.0, 0.0, None, None, None, jax.random.key(0), lambda g: (-g, None))
    >>> float(told.gradient), float(told.hypergradient)
    (2.0, -2.0)
    """

    def step(
        inner: Loss, outer: Loss, w: PyTree, a: PyTree, opt_state: optax.OptState, inner_batch: Any, outer_batch: Any,
        key: Key, move: Move,
    ) -> BilevelStep:  # fmt: skip
        del opt_state
        inner_key, outer_key = jax.random.split(key)
        both = jax.value_and_grad(inner, argnums=(0, 1), has_aux=True)
        (value, told), gradients = both(w, a, inner_batch, inner_key, None)
        to_w, to_a = pmean(gradients, axis_name)
        outer_value, outer_told = outer(w, a, outer_batch, outer_key, None)
        return BilevelStep(outer_value, outer_told, to_a, move(to_a), value, told, to_w)

    return step


def exact(update: optax.GradientTransformation, axis_name: str | None = None, *, loop: bool | None = None) -> Bilevel:
    """The whole gradient, the second term by forward over reverse differentiation.

    update: the optimizer of `w`. axis_name: the mapped axis over which gradients are averaged. loop: whether the passes
    are iterations of one loop; None chooses for the platform.

    >>> inner = lambda w, a, batch, key, wanted: ((w - a) ** 2 / 2, None)
    >>> outer = lambda w, a, batch, key, wanted: (w**2 / 2 + 3 * a, None)
    >>> sgd = optax.sgd(0.5)
    >>> told = exact(sgd)(inner, outer, 2.0, 0.0, sgd.init(2.0), None, None, jax.random.key(0), lambda g: (-g, None))
    >>> float(told.hypergradient)  # 3 + w' dw'/da with w' = 2 - 0.5 (2 - a)
    3.5
    """

    def passes(w: PyTree, a: PyTree, inner_step: InnerStep, inner: AlphaGradient, move: Move) -> list[_Pass]:
        def after_outer(carry: _Carry, to_w: PyTree, to_a: PyTree) -> _Carry:
            (u,) = jax.vjp(inner_step, carry.gradient)[1](to_w)
            # XLA would find the inner pass in this one, and keep all of its arrays until then.
            at, u = lax.optimization_barrier((w, u))
            implicit = pmean(jax.jvp(lambda w: inner(w, a), (at,), (u,))[1], axis_name)
            hypergradient = jax.tree.map(jnp.add, to_a, implicit)
            return carry._replace(w=w, a=move(hypergradient)[0], hypergradient=hypergradient)

        return [
            _Pass("inner", 0, "w", _stepped(inner_step)),
            _Pass("outer", 1, "both", after_outer),
            _Pass("inner", 2, "w", _keep),
        ]

    return _bilevel(update, passes, axis_name, loop)


def finite_difference(
    update: optax.GradientTransformation,
    epsilon: float = 0.01,
    axis_name: str | None = None,
    *,
    loop: bool | None = None,
) -> Bilevel:
    """The second term by a central difference of step epsilon / |u|; the paper's epsilon is 0.01.

    update: the optimizer of `w`. axis_name: the mapped axis over which gradients are averaged. loop: whether the passes
    are iterations of one loop; None chooses for the platform.

    Raises: ValueError where epsilon is not positive.

    >>> inner = lambda w, a, batch, key, wanted: ((w - a) ** 2 / 2, None)
    >>> outer = lambda w, a, batch, key, wanted: (w**2 / 2 + 3 * a, None)
    >>> sgd = optax.sgd(0.5)
    >>> step = finite_difference(sgd)
    >>> told = step(inner, outer, 2.0, 0.0, sgd.init(2.0), None, None, jax.random.key(0), lambda g: (-g, None))
    >>> round(float(told.hypergradient), 2)
    3.5
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")

    def passes(w: PyTree, a: PyTree, inner_step: InnerStep, inner: AlphaGradient, move: Move) -> list[_Pass]:
        del a, inner

        def away(direction: PyTree, sign: int) -> PyTree:
            return jax.tree.map(lambda p, d: p + sign * d, w, direction)

        def after_outer(carry: _Carry, to_w: PyTree, to_a: PyTree) -> _Carry:
            (u,) = jax.vjp(inner_step, carry.gradient)[1](to_w)
            size = norm(u)
            step = epsilon / jnp.maximum(size, jnp.finfo(size.dtype).tiny)
            direction = times(u, step)
            along = carry.along._replace(step=step, direction=direction)
            return carry._replace(w=away(direction, 1), hypergradient=to_a, along=along)

        def after_plus(carry: _Carry, to_w: PyTree, to_a: PyTree) -> _Carry:
            del to_w
            return carry._replace(w=away(carry.along.direction, -1), along=carry.along._replace(plus=to_a))

        def after_minus(carry: _Carry, to_w: PyTree, to_a: PyTree) -> _Carry:
            del to_w
            implicit = jax.tree.map(lambda p, q: (p - q) / (2 * carry.along.step), carry.along.plus, to_a)
            hypergradient = jax.tree.map(jnp.add, carry.hypergradient, implicit)
            return carry._replace(w=w, a=move(hypergradient)[0], hypergradient=hypergradient)

        return [
            _Pass("inner", 0, "w", _stepped(inner_step)),
            _Pass("outer", 1, "both", after_outer),
            _Pass("inner", 0, "a", after_plus),
            _Pass("inner", 0, "a", after_minus),
            _Pass("inner", 2, "w", _keep),
        ]

    def start(w: PyTree, a: PyTree) -> _Difference:
        return _Difference(jnp.zeros((), norm(w).dtype), w, a)

    return _bilevel(update, passes, axis_name, loop, start)


class _Difference(NamedTuple):
    """step: epsilon / |u|. direction: step u, as w. plus: the gradient to a at w + direction."""

    step: Array
    direction: PyTree
    plus: PyTree


InnerStep = Callable[[PyTree], PyTree]
"""The gradient of the inner loss -> w after the update that it gives."""

AlphaGradient = Callable[[PyTree, PyTree], PyTree]
"""(w, a) -> the gradient of the inner loss with respect to a, with the randomness of the inner step."""


def _keep(carry: _Carry, to_w: PyTree, to_a: PyTree) -> _Carry:
    del to_a
    return carry._replace(gradient=to_w)


def _stepped(inner_step: InnerStep) -> Callable[[_Carry, PyTree, PyTree], _Carry]:
    def after_inner(carry: _Carry, to_w: PyTree, to_a: PyTree) -> _Carry:
        del to_a
        return carry._replace(w=inner_step(to_w), gradient=to_w)

    return after_inner


def _bilevel(
    update: optax.GradientTransformation | None,
    passes: Callable[[PyTree, PyTree, InnerStep, AlphaGradient, Move], list[_Pass]],
    axis_name: str | None,
    loop: bool | None,
    start: Callable[[PyTree, PyTree], Any] = lambda w, a: (),
) -> Bilevel:
    """A step made of passes, of which the last outer and the last inner one are told of. start: the carry's `along`."""

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
        shared = jax.random.clone(keys)[0]

        def inner_step(g: PyTree) -> PyTree:
            return optax.apply_updates(w, update.update(g, opt_state, w)[0])  # type: ignore[union-attr]

        inner_gradients, inner_to_w = _gradients(inner), _gradients_to_w(inner)
        outer_gradients = inner_gradients if outer is inner else _gradients(outer)

        def alpha_gradient(w: PyTree, a: PyTree) -> PyTree:
            # With respect to w too, and thrown away: a layer with a reverse rule of its own is only then replaced by
            # that rule, and the rule can be differentiated forward. What is not used is not computed.
            return inner_gradients(w, a, inner_batch, jax.random.clone(shared), None)[1][1]

        plan = passes(w, a, inner_step, alpha_gradient, move)
        each = keys[jnp.array([pass_.key for pass_ in plan])]
        batches = [outer_batch if pass_.loss == "outer" else inner_batch for pass_ in plan]
        selective = not all(pass_.wanted for pass_ in plan)

        def evaluate(of: _Gradients, carry: _Carry, batch: Any, key: Key, wanted: Array | None) -> tuple[Any, PyTree]:
            told, gradients = of(carry.w, carry.a, batch, key, wanted)
            return told, pmean(gradients, axis_name)

        def body(carry: _Carry, at: tuple[Array, Array, Any, Key]) -> tuple[_Carry, Any]:
            index, wanted, batch, key = at
            told, gradients = evaluate(inner_gradients, carry, batch, key, wanted if selective else None)
            return lax.switch(index, [pass_.link for pass_ in plan], carry, *gradients), told

        carry = _Carry(w, a, w, a, start(w, a))  # in the place of gradients, which are written before they are read
        alike = inner is outer and _alike(inner_batch, outer_batch)
        if loop and not alike:
            raise ValueError(
                "passes can be one loop where the two losses are one function of batches of one form: leave out loop"
            )
        if alike and (platform() != "gpu" if loop is None else loop):
            wanted = jnp.array([pass_.wanted for pass_ in plan])
            carry, told = lax.scan(body, carry, (jnp.arange(len(plan)), wanted, stacked(batches), each))
            tolds = unstacked(told)
        else:
            tolds = []
            for pass_, batch, own in zip(plan, batches, each, strict=True):
                # Of what depends on `a` nothing need be kept where its gradient is not read.
                inner_of = inner_to_w if pass_.reads == "w" else inner_gradients
                of = outer_gradients if pass_.loss == "outer" else inner_of
                told, gradients = evaluate(of, carry, batch, own, None if pass_.wanted else jnp.array(False))
                carry = pass_.link(carry, *gradients)
                tolds.append(told)
        ((outer_value, outer_told),) = [told for told, pass_ in zip(tolds, plan, strict=True) if pass_.loss == "outer"]
        moved = move(carry.hypergradient)
        inner_value, inner_told = tolds[-1]
        return BilevelStep(outer_value, outer_told, carry.hypergradient, moved, inner_value, inner_told, carry.gradient)

    return step


_Gradients = Callable[..., tuple[tuple[Array, Any], tuple[PyTree, PyTree]]]


def _gradients(loss: Loss) -> _Gradients:
    """Arguments of the loss -> ((loss, what it tells), gradients to w and a); traced once, however often taken."""
    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True), inline=True)


def _gradients_to_w(loss: Loss) -> _Gradients:
    """As `_gradients`, with None in the place of the gradient to a."""

    def gradients(*arguments: Any) -> tuple[tuple[Array, Any], tuple[PyTree, None]]:
        told, to_w = jax.value_and_grad(loss, has_aux=True)(*arguments)
        return told, (to_w, None)

    return jax.jit(gradients, inline=True)


def _alike(one: PyTree, other: PyTree) -> bool:
    """Whether two pytrees have the same structure, shapes and types, so that they can be stacked."""

    def described(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), tree)

    return bool(described(one) == described(other))
