"""The differentiable family: weights, penalties and perturbations of each method, held to closed forms."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_table import NET, SPACE, TRUTH, table

from jaxnas import data, fit
from jaxnas.base import Context
from jaxnas.relax import by_slots, softmax
from jaxnas.search import (
    Variant,
    beta_darts,
    darts,
    darts_minus,
    drnas,
    exact,
    fair_darts,
    finite_difference,
    gdas,
    single_level,
    smooth_darts,
    snas,
)
from jaxnas.search.drnas import concentration, kl_to_flat

ALPHA = {"cell": jnp.array([[0.3, -0.2, 0.9], [0.0, 1.2, -0.7]])}
STEP = jnp.int32


def fresh():
    """A key of its own for each use."""
    return jax.random.key(0)


VARIANTS = {
    "darts": Variant(),
    "gdas": gdas(100),
    "snas": snas(100),
    "drnas": drnas(),
    "fair": fair_darts(0.05),
    "minus": darts_minus(100, ("identity", "square", "sine"), "identity"),
    "beta": beta_darts(100),
    "smooth random": smooth_darts(100),
    "smooth adversarial": smooth_darts(100, "adversarial", steps=2),
}


def drawn(variant, count, step, alpha=ALPHA):
    """Weights of many keys, [N, S, O]."""
    keys = jax.random.split(fresh(), count)
    return jax.jit(jax.vmap(lambda key: variant.relaxation.weights(key, alpha, step)["cell"]))(keys)


@pytest.mark.parametrize("name", ["gdas", "drnas"])
def test_the_mean_is_the_expectation_of_the_draws(name):
    """In closed form: of a Gumbel-max sample at any temperature it is the softmax, of a Dirichlet one c / sum c."""
    variant = VARIANTS[name]
    draws = drawn(variant, 20_000, STEP(30))
    np.testing.assert_allclose(draws.sum(-1), 1.0, atol=1e-5)
    np.testing.assert_allclose(draws.mean(0), variant.relaxation.mean(ALPHA)["cell"], atol=0.012)


def test_draws_of_snas_become_one_hot_and_their_mean_the_softmax():
    assert drawn(VARIANTS["snas"], 200, STEP(0)).max(-1).mean() < 0.85
    cold = drawn(snas(100, last=1e-3), 20_000, STEP(100))
    assert cold.max(-1).mean() > 0.995
    np.testing.assert_allclose(cold.mean(0), jax.nn.softmax(ALPHA["cell"]), atol=0.012)


def test_the_gradient_of_snas_approaches_that_of_the_expectation_and_that_of_gdas_does_not():
    """Of a loss over two slots that is no sum: the expectation over the nine architectures has an exact gradient."""
    worth = jnp.array([[1.0, 0.2, 0.0], [0.1, 2.0, 0.5], [0.3, 0.0, 1.5]])

    def loss(weights):
        return jnp.square(jnp.einsum("i,ij,j->", weights[0], worth, weights[1]))

    def expected(alpha):
        p = jax.nn.softmax(alpha)
        hot = jnp.eye(3)
        return sum(
            p[0, i] * p[1, j] * loss(jnp.stack([hot[i], hot[j]])) for i, j in itertools.product(range(3), repeat=2)
        )

    target = jax.grad(expected)(ALPHA["cell"])

    def error(variant, step):
        def one(alpha, key):
            return loss(variant.relaxation.weights(key, {"cell": alpha}, STEP(step))["cell"])

        keys = jax.random.split(jax.random.key(5), 40_000)
        found = jax.jit(lambda a: jax.vmap(jax.grad(one), (None, 0))(a, keys).mean(0))(ALPHA["cell"])
        return float(jnp.abs(found - target).max())

    warm, cold = (error(snas(100, first=2.0, last=0.15), step) for step in (0, 100))
    assert cold < 0.08 < warm
    # Straight-through its bias is that of the soft function's slope at a hard point, at any temperature.
    assert min(error(gdas(100, first=10.0, last=0.5), step) for step in (0, 100)) > 2 * cold


def test_gdas_is_one_path_with_the_gradient_of_the_soft_sample():
    direction = jnp.array([[0.5, -1.0, 2.0], [1.0, 0.0, -1.0]])
    variant, step = VARIANTS["gdas"], STEP(40)

    def surrogate(alpha):
        tau = 10.0 + (0.1 - 10.0) * 0.4
        (own,) = jax.random.split(fresh(), 1)
        return jax.nn.softmax((jax.nn.log_softmax(alpha) + jax.random.gumbel(own, alpha.shape)) / tau)

    taken = variant.relaxation.weights(fresh(), ALPHA, step)["cell"]
    np.testing.assert_allclose(np.sort(taken, -1), [[0, 0, 1]] * 2, atol=1e-6)
    assert (jnp.argmax(taken, -1) == jnp.argmax(surrogate(ALPHA["cell"]), -1)).all()
    found = jax.grad(lambda a: jnp.sum(direction * variant.relaxation.weights(fresh(), {"cell": a}, step)["cell"]))
    np.testing.assert_allclose(
        found(ALPHA["cell"]), jax.grad(lambda a: jnp.sum(direction * surrogate(a)))(ALPHA["cell"]), atol=1e-6
    )


def test_dirichlet_draws_have_the_gradient_of_their_mean():
    """Pathwise: the mean of the gradients of the draws is the gradient of the mean, which has a closed form."""
    direction = jnp.array([[0.5, -1.0, 2.0], [1.0, 0.0, -1.0]])
    variant = VARIANTS["drnas"]

    def of_draw(alpha, key):
        return jnp.sum(direction * variant.relaxation.weights(key, {"cell": alpha}, STEP(0))["cell"])

    keys = jax.random.split(fresh(), 20_000)
    found = jax.jit(lambda a: jax.vmap(jax.grad(of_draw), (None, 0))(a, keys).mean(0))(ALPHA["cell"])
    exactly = jax.grad(lambda a: jnp.sum(direction * variant.relaxation.mean({"cell": a})["cell"]))(ALPHA["cell"])
    np.testing.assert_allclose(found, exactly, atol=0.02)


def test_penalties_are_their_closed_forms():
    c = np.array([[2.0, 0.5, 1.5], [1.0, 1.0, 1.0]])
    samples = np.random.default_rng(0).dirichlet(c[0], 400_000)
    log_density = np.log(samples) @ (c[0] - 1) + np.log(np.array([1.0]))  # up to the normalizers, added next
    from scipy.special import gammaln

    normalizer = gammaln(c[0].sum()) - gammaln(c[0]).sum() - gammaln(3.0)
    np.testing.assert_allclose(kl_to_flat(jnp.asarray(c)), [log_density.mean() + normalizer, 0.0], atol=4e-3)
    a = np.asarray(ALPHA["cell"])

    def penalty(name, step=50):
        variant = VARIANTS[name]
        return float(variant.penalty(ALPHA, variant.relaxation.weights(fresh(), ALPHA, STEP(step)), STEP(step)))

    assert penalty("drnas") == pytest.approx(1e-3 * float(np.mean(kl_to_flat(concentration(ALPHA["cell"])))), rel=1e-5)
    assert penalty("fair") == pytest.approx(-0.05 * np.mean((1 / (1 + np.exp(-a)) - 0.5) ** 2), rel=1e-5)
    assert penalty("beta") == pytest.approx(25 * np.mean(np.log(np.exp(a).sum(1))), rel=1e-5)
    assert penalty("beta", 0) == 0.0


def test_the_auxiliary_skip_decays_and_is_never_derived():
    relaxation = VARIANTS["minus"].relaxation
    for step, beta in ((0, 1.0), (25, 0.75), (100, 0.0), (300, 0.0)):
        added = relaxation.weights(fresh(), ALPHA, STEP(step))["cell"] - jax.nn.softmax(ALPHA["cell"])
        np.testing.assert_allclose(added, [[beta, 0, 0]] * 2, atol=1e-6)
    np.testing.assert_array_equal(relaxation.mean(ALPHA)["cell"], jax.nn.softmax(ALPHA["cell"]))


def test_perturbations_stay_within_epsilon_and_the_adversary_climbs():
    weights = softmax().mean(ALPHA)

    def loss(weights):
        return jnp.sum(jnp.array([[1.0, -2.0, 0.5], [0.3, 0.1, -1.0]]) * weights["cell"] ** 2)

    for name in ("smooth random", "smooth adversarial"):
        for step, epsilon in ((0, 0.03), (50, 0.165), (100, 0.3)):
            seen = VARIANTS[name].perturb(fresh(), jax.grad(loss), weights, STEP(step))
            moved = jnp.abs(seen["cell"] - weights["cell"])
            assert 0 < moved.max() <= epsilon + 1e-6
            assert (seen["cell"] >= 0).all()
    random, adversary = (
        VARIANTS[name].perturb(fresh(), jax.grad(loss), weights, STEP(100))
        for name in ("smooth random", "smooth adversarial")
    )
    assert loss(adversary) > max(loss(random), loss(weights))


@pytest.fixture(scope="module")
def numbers():
    return data.from_arrays(table(64, 0), table(20, 1), table(64, 2))


# Sigmoids are left out: here each map has a slope of its own, which makes up for any weight that is not 0.
@pytest.mark.parametrize("name", sorted(set(VARIANTS) - {"fair"}))
def test_every_method_finds_the_maps_of_a_table(name, numbers):
    """Under the same road; derived without a key, so that one state has one architecture."""
    bilevel = single_level() if name == "snas" else None
    algorithm = darts(
        NET, optax.sgd(0.05, momentum=0.9), optax.adam(0.05), bilevel, variant=VARIANTS[name],
        objective=numbers.objective,
    )  # fmt: skip
    found = fit.search(algorithm, numbers, epochs=75, batch_size=32)
    assert found.arch.tolist() == TRUTH
    derived = [algorithm.derive(jax.random.key(seed), found.state, None).tolist() for seed in range(3)]
    assert derived == [TRUTH] * 3


def batches(numbers):
    return {
        name: data.plain_batch(jax.tree.map(jnp.asarray, part), jnp.arange(20), None)
        for name, part in numbers.parts().items() if name != "test"
    }  # fmt: skip


# Dirichlet draws are left out: at a fixed key they jump where a proposal is rejected, and their gradient is implicit.
@pytest.mark.parametrize("name", ["darts", "fair", "minus", "beta", "snas"])
def test_second_order_is_the_numerical_derivative_at_a_fixed_key(name, numbers):
    """alpha moves by minus the hypergradient, penalty included: central differences after the inner step."""
    with jax.enable_x64(True):
        rate, variant = 0.05, VARIANTS[name]
        algorithm = darts(
            NET, optax.sgd(rate), optax.sgd(1.0), exact(optax.sgd(rate)), variant=variant, objective=numbers.objective
        )
        batch, state = (
            jax.tree.map(lambda leaf: leaf.astype(jnp.float64) if leaf.dtype == jnp.float32 else leaf, tree)
            for tree in (batches(numbers), algorithm.init(fresh())._replace(step=jnp.int32(40)))
        )
        after, _ = algorithm.phases[0].step(jax.random.key(3), state, batch)
        hypergradient = jax.tree.map(jnp.subtract, state.alpha, after.alpha)

        # The passes' keys as the bilevel splits them: inner step, outer pass, last pass.
        pass_key, penalty_key = jax.random.split(jax.random.key(3))
        inner_key, outer_key, _ = jax.random.split(pass_key, 3)

        def loss(params, alpha, part, key):
            weights = variant.relaxation.weights(jax.random.split(jax.random.clone(key), 3)[0], alpha, state.step)
            outputs, _ = NET.apply(params, weights, batch[part].inputs, Context())
            return numbers.objective.loss(outputs, batch[part].targets).mean()

        def outer(alpha):
            gradient = jax.grad(loss)(state.params, alpha, "train", inner_key)
            moved = jax.tree.map(lambda p, g: p - rate * g, state.params, gradient)
            total = loss(moved, alpha, "valid", outer_key)
            if variant.penalty is not None:
                drawn = variant.relaxation.weights(jax.random.clone(penalty_key), alpha, state.step)
                total = total + variant.penalty(alpha, drawn, state.step)
            return total

        flat, unravel = jax.flatten_util.ravel_pytree(state.alpha)
        found, _ = jax.flatten_util.ravel_pytree(hypergradient)
        for place in range(len(flat)):
            nudge = 1e-5 * jnp.eye(len(flat))[place]
            numeric = (outer(unravel(flat + nudge)) - outer(unravel(flat - nudge))) / 2e-5
            assert float(found[place]) == pytest.approx(float(numeric), rel=2e-4, abs=1e-7)


@pytest.mark.parametrize("name", ["beta", "smooth random"])
def test_the_passes_of_a_step_in_one_loop_are_those_in_turn(name, numbers):
    """Whether a pass is of the inner loss is data: the losses are one function."""
    results = []
    for loop in (True, False):
        bilevel = finite_difference(optax.sgd(0.05), loop=loop)
        algorithm = darts(
            NET, optax.sgd(0.05), optax.sgd(0.1), bilevel, variant=VARIANTS[name], objective=numbers.objective
        )
        state = algorithm.init(fresh())
        results.append(jax.jit(algorithm.phases[0].step)(jax.random.key(1), state, batches(numbers))[0])
    for one, other in zip(jax.tree.leaves(results[0]), jax.tree.leaves(results[1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_is_refused():
    for make, told in (
        (lambda: by_slots(None, None, -1.0), "scale, of the initial alpha"),
        (lambda: gdas(0), "total_steps and temperatures must be positive"),
        (lambda: snas(10, last=0.0), "total_steps and temperatures must be positive"),
        (lambda: drnas(-1.0), "of the divergence"),
        (lambda: fair_darts(-1.0), "of the zero-one loss"),
        (lambda: darts_minus(10, ("a", "b")), "needs an option 'skip_connect'; there are a, b"),
        (lambda: beta_darts(10, -1.0), "last not negative"),
        (lambda: smooth_darts(10, "wild"), 'must be "random" or "adversarial"'),
        (lambda: smooth_darts(0), "numbers must be positive"),
    ):
        with pytest.raises(ValueError, match=told):
            make()
    assert len(SPACE.choices) == 2
