"""Hypergradients against a bilevel problem solved by hand, against each other, and on a real cell."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnas.search import exact, finite_difference, first_order

RNG = np.random.default_rng(0)
A = RNG.normal(size=(5, 5))
A = A @ A.T / 5 + np.eye(5)
B = RNG.normal(size=(5, 3))
TARGET = RNG.normal(size=5)
W, ALPHA = {"w": RNG.normal(size=5)}, {"a": RNG.normal(size=3)}


def inner(w, a, batch, key, wanted):
    """Half w'Aw + w'Ba: its gradient is Aw + Ba."""
    del key, wanted
    return batch * (0.5 * w["w"] @ A @ w["w"] + w["w"] @ B @ a["a"]), None


def outer(w, a, batch, key, wanted):
    """Half |w - target|^2 + half |a|^2."""
    del key, wanted
    return batch * (0.5 * jnp.sum(jnp.square(w["w"] - TARGET)) + 0.5 * jnp.sum(jnp.square(a["a"]))), None


def optimizer(decay=0.0, momentum=None, clip=None, rate=0.1):
    parts = [] if clip is None else [optax.clip_by_global_norm(clip)]
    return optax.chain(*parts, optax.add_decayed_weights(decay), optax.sgd(rate, momentum=momentum))


def hypergradient(method, update):
    """At a state that has seen some steps, so that momentum and schedules are not at rest."""
    w = jax.tree.map(jnp.asarray, W)
    state = update.init(w)
    for _ in range(3):
        g = jax.grad(inner, has_aux=True)(w, ALPHA, 1.0, None, None)[0]
        updates, state = update.update(g, state, w)
        w = optax.apply_updates(w, updates)
    result = jax.jit(lambda: method(inner, outer, w, ALPHA, state, 1.0, 1.0, jax.random.key(0), stay))()
    return result, w, state


def stay(gradient):
    return ALPHA, gradient


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("momentum", [None, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_second_order_is_the_closed_form(momentum, decay):
    """w' = w - r (Aw + Ba + decay w + momentum m), so dL/da = a - r B'(w' - target)."""
    update = optimizer(decay, momentum)
    for method in (exact(update), finite_difference(update)):
        result, w, state = hypergradient(method, update)
        g = A @ w["w"] + B @ ALPHA["a"] + decay * w["w"]
        if momentum is not None:
            g = g + momentum * optax.tree.get(state, "trace")["w"]
        after = w["w"] - 0.1 * g
        expected = ALPHA["a"] - 0.1 * B.T @ (after - TARGET)
        np.testing.assert_allclose(result.hypergradient["a"], expected, rtol=1e-9)
        np.testing.assert_allclose(result.outer, outer({"w": after}, ALPHA, 1.0, None, None)[0], rtol=1e-12)


@pytest.mark.parametrize(
    "update",
    [
        optimizer(0.1, 0.9, clip=0.5),
        optimizer(0.1, 0.9, rate=optax.cosine_decay_schedule(0.5, 10)),
        optax.adamw(0.05),
    ],
    ids=["clip", "schedule", "adamw"],
)
def test_second_order_is_the_derivative_of_the_whole_step(update):
    """Differentiating L_outer(w'(a), a) by finite differences in `a` knows nothing of the method."""
    methods = {"exact": exact(update), "difference": finite_difference(update)}
    results = {name: hypergradient(method, update) for name, method in methods.items()}
    _, w, state = results["exact"]

    def whole(a):
        g = jax.grad(inner, has_aux=True)(w, {"a": a}, 1.0, None, None)[0]
        after = optax.apply_updates(w, update.update(g, state, w)[0])
        return outer(after, {"a": a}, 1.0, None, None)[0]

    step = 1e-6
    expected = [(whole(ALPHA["a"] + step * e) - whole(ALPHA["a"] - step * e)) / (2 * step) for e in jnp.eye(3)]
    for result, _, _ in results.values():
        np.testing.assert_allclose(result.hypergradient["a"], expected, rtol=1e-6, atol=1e-8)


def test_excluding_clipping_is_an_explicit_choice():
    """The update given may lack the clipping that the weights get, as in the paper's program; the states agree."""
    clipped = optimizer(0.1, 0.9, clip=0.05)
    rest = optimizer(0.1, 0.9)

    def without(updates, state, params=None):
        inner_updates, _ = rest.update(updates, state[1:], params)
        return inner_updates, state

    update = optax.GradientTransformation(clipped.init, without)
    included, w, state = hypergradient(exact(clipped), clipped)
    excluded = exact(update)(inner, outer, w, ALPHA, state, 1.0, 1.0, jax.random.key(0), stay)
    g = A @ w["w"] + B @ ALPHA["a"] + 0.1 * w["w"] + 0.9 * optax.tree.get(state, "trace")["w"]
    expected = ALPHA["a"] - 0.1 * B.T @ (w["w"] - 0.1 * g - TARGET)
    np.testing.assert_allclose(excluded.hypergradient["a"], expected, rtol=1e-9)
    assert np.abs(excluded.hypergradient["a"] - included.hypergradient["a"]).max() > 1e-3


def both(w, a, batch, key, wanted):
    """One loss for both levels, with a third of the batch's value from `key`."""
    scale = batch * (1 + 0.1 * jax.random.uniform(key))
    return scale * (jnp.sum(jnp.cos(w["w"]) * (B @ a["a"])) + jnp.sum(jnp.square(w["w"]))), scale


MAKERS = {"first": lambda update, loop: first_order(loop=loop)} | {
    make.__name__: lambda update, loop, make=make: make(update, loop=loop) for make in (exact, finite_difference)
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_passes_in_one_loop_are_passes_in_turn(make):
    """One loss for both levels is evaluated in a loop if that is wanted, two different ones always in turn."""
    update = optimizer(0.1, 0.9, clip=1.0)
    w = jax.tree.map(jnp.asarray, W)

    def move(gradient):
        return {"a": ALPHA["a"] - 0.5 * gradient["a"]}, jnp.sum(gradient["a"])

    def run(outer, loop):
        method = make(update, loop)
        return jax.jit(lambda: method(both, outer, w, ALPHA, update.init(w), 1.0, 2.0, jax.random.key(0), move))

    def other(*arguments):
        return both(*arguments)

    rolled = run(both, True)()
    for straight in (run(both, False), run(other, None)):
        assert "scan" not in str(straight.trace().jaxpr)
        jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-12), rolled, straight())
    assert "scan" in str(run(both, None).trace().jaxpr)  # on a CPU
    with pytest.raises(ValueError, match="the two losses are one function"):
        run(other, True)()
    (value, scale), gradient = jax.value_and_grad(both, has_aux=True)(
        w, rolled.moved[0], 1.0, jax.random.split(jax.random.key(0), 3)[2], None
    )
    np.testing.assert_allclose(rolled.inner, value, rtol=1e-12)
    np.testing.assert_allclose(rolled.inner_told, scale, rtol=1e-12)
    np.testing.assert_allclose(rolled.gradient["w"], gradient["w"], rtol=1e-12)
    assert 2.0 < rolled.outer_told < 2.2


def test_first_order_is_the_limit_of_no_inner_step():
    update = optimizer(rate=0.0)
    first, _, _ = hypergradient(first_order(), update)
    second, _, _ = hypergradient(exact(update), update)
    np.testing.assert_allclose(first.hypergradient["a"], second.hypergradient["a"], rtol=1e-12)
    np.testing.assert_allclose(first.hypergradient["a"], ALPHA["a"], rtol=1e-12)


def test_the_factor_of_the_difference():
    """The known bug of dividing by two and multiplying by epsilon would scale the second term by epsilon squared."""
    update = optimizer()
    second, _, _ = hypergradient(finite_difference(update), update)
    first, _, _ = hypergradient(first_order(), update)
    implicit = np.linalg.norm(second.hypergradient["a"] - first.hypergradient["a"])
    result, _, _ = hypergradient(exact(update), update)
    np.testing.assert_allclose(implicit, np.linalg.norm(result.hypergradient["a"] - ALPHA["a"]), rtol=1e-9)
    with pytest.raises(ValueError, match="epsilon must be positive, got 0"):
        finite_difference(update, 0)
