"""The differentiable family: weights, penalties and perturbations of each method, held to closed forms."""

import itertools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_table import MAPS, NET, SPACE, TRUTH, table

from jaxnas import data, fit
from jaxnas.base import Aux, Batch, Context, Objective, Supernet
from jaxnas.relax import by_slots, softmax
from jaxnas.search import (
    DartsState,
    Variant,
    above,
    beta_darts,
    by_score,
    count_decisions,
    darts,
    darts_minus,
    decided,
    drnas,
    droppable,
    exact,
    fair_darts,
    finite_difference,
    gdas,
    limited_skips,
    make_projection,
    p_darts,
    pc_darts,
    projected,
    setn,
    single_level,
    smooth_darts,
    snas,
    tuning,
)
from jaxnas.search.drnas import concentration, kl_to_flat
from jaxnas.spaces import NASBENCH201_OPERATIONS, darts_space, nasbench201_space

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
    "pc": pc_darts({"first": [0], "second": [0]}),
    "setn": setn(),
}
THERE = {"cell": np.array([[True, False, True], [True, True, True]])}
LEFT = {
    "darts": lambda: Variant(softmax(there=THERE)),
    "gdas": lambda: gdas(100, there=THERE),
    "snas": lambda: snas(100, there=THERE),
    "drnas": lambda: drnas(there=THERE),
    "fair": lambda: fair_darts(0.05, there=THERE),
    "minus": lambda: darts_minus(100, ("a", "b", "c"), "b", there=THERE),
    "beta": lambda: beta_darts(100, there=THERE),
    "smooth random": lambda: smooth_darts(100, there=THERE),
    "pc": lambda: pc_darts({"cell": [0, 0]}, there=THERE),
    "p": lambda: p_darts(0.1, 2, 10, 3, there=THERE),
    "setn": lambda: setn(there=THERE),
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


@pytest.mark.parametrize("name", sorted(LEFT))
def test_what_pruning_took_has_no_weight_no_gradient_and_makes_nothing_undefined(name):
    """Of a slot that keeps two of three options, and one that keeps all: as if the first had two."""
    variant, step = LEFT[name](), STEP(50)
    relaxation, penalty, perturb, _ = variant
    alpha = relaxation.init(jax.random.key(1), {"cell": jnp.zeros((2, 3))})
    alpha = jax.tree.map(lambda own: own + ALPHA["cell"] if own.shape == (2, 3) else own, alpha)

    def total(alpha, key):
        weights = relaxation.weights(jax.random.clone(key), alpha, step)
        seen = weights if perturb is None else perturb(jax.random.clone(key), lambda w: w, weights, step)
        value = jnp.sum(jnp.array([[1.0, 7.0, -2.0], [0.5, 1.0, 3.0]]) * weights["cell"])
        return value + (0.0 if penalty is None else penalty(alpha, weights, step)), (weights, seen)

    keys = jax.random.split(fresh(), 50)
    of_keys = jax.vmap(jax.value_and_grad(total, has_aux=True), (None, 0))
    (values, (weights, seen)), gradients = jax.jit(of_keys)(alpha, keys)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((values, weights, seen, gradients)))
    for told in (weights["cell"], seen["cell"], relaxation.mean(alpha)["cell"][None]):
        assert (told[:, 0, 1] == 0).all()
    moved = gradients["operations"]["cell"] if name == "pc" else gradients["cell"]
    assert (moved[:, 0, 1] == 0).all()
    assert jnp.abs(moved[:, 1]).sum() > 0
    if name not in ("fair", "pc"):
        np.testing.assert_allclose(relaxation.mean(alpha)["cell"].sum(-1), 1.0, atol=1e-6)


def test_penalties_of_what_is_left_are_those_of_a_smaller_slot():
    two, three = ALPHA["cell"][0, [0, 2]], ALPHA["cell"][1]
    drawn = LEFT["fair"]().relaxation.mean(ALPHA)
    found = {name: LEFT[name]().penalty(ALPHA, drawn, STEP(100)) for name in ("drnas", "beta", "fair")}
    divergences = [kl_to_flat(concentration(own)) for own in (two, three)]
    assert found["drnas"] == pytest.approx(1e-3 * np.mean(divergences), rel=1e-5)
    assert found["beta"] == pytest.approx(50 * np.mean([np.log(np.exp(own).sum()) for own in (two, three)]), rel=1e-5)
    every = np.concatenate([two, three])
    assert found["fair"] == pytest.approx(-0.05 * np.mean((1 / (1 + np.exp(-every)) - 0.5) ** 2), rel=1e-5)


def test_edges_are_normalized_over_those_of_their_node():
    variant = pc_darts({"cell": [0, 0, 1]})
    beta, operations = jnp.array([0.5, -1.0, 3.0]), jnp.array([[0.3, -0.2], [0.0, 1.2], [0.4, 0.1]])
    alpha = {"operations": {"cell": operations}, "edges": {"cell": beta}}
    expected = np.exp(operations) / np.exp(operations).sum(1, keepdims=True)
    shares_of = np.array([np.exp(0.5), np.exp(-1.0), 1.0]) / np.array([*[np.exp(0.5) + np.exp(-1.0)] * 2, 1.0])
    for weights in (variant.relaxation.mean(alpha), variant.relaxation.weights(fresh(), alpha, STEP(3))):
        np.testing.assert_allclose(weights["cell"], expected * shares_of[:, None], rtol=1e-5)
    with pytest.raises(ValueError, match=r"nodes must name one of each slot, \{'cell': 2\}, got \{'cell': 3\}"):
        variant.relaxation.init(fresh(), ALPHA)


def test_setn_trains_uniform_paths_and_draws_by_its_weights():
    relaxation, _, perturb, _ = setn()
    weights, keys = relaxation.mean(ALPHA), jax.random.split(fresh(), 20_000)
    paths = jax.jit(jax.vmap(lambda key: perturb(key, None, weights, STEP(0))["cell"]))(keys)
    np.testing.assert_array_equal(jnp.sort(paths, -1), jnp.broadcast_to(jnp.array([0.0, 0.0, 1.0]), paths.shape))
    np.testing.assert_allclose(paths.mean(0), np.full((2, 3), 1 / 3), atol=0.012)

    search = darts(NET, optax.sgd(0.1), optax.sgd(0.1), variant=setn())
    scored = by_score(search, relaxation.mean, 1000)
    alpha = {"first": ALPHA["cell"][:1], "second": ALPHA["cell"][1:]}
    state = search.init(fresh())._replace(alpha=alpha)
    archs = scored.draw(jax.random.key(1), state, 20_000)
    for choice in range(2):
        shares_of = np.bincount(archs[:, choice], minlength=3) / len(archs)
        np.testing.assert_allclose(shares_of, weights["cell"][choice], atol=0.012)
    rarest = scored.derive(jax.random.key(2), state, lambda archs: -jnp.abs(archs - jnp.array([[1, 2]])).sum(1))
    assert rarest.tolist() == [1, 2]  # of weight .017, so that it is among 1,000
    assert scored.derive(jax.random.key(2), state, None).tolist() == [2, 1]


def test_draws_keep_what_a_slot_weighs_among_others():
    """As the edges of PC-DARTS weigh: a node of three takes the two heaviest, whatever their operations are."""
    space = darts_space(2, ("none", "skip_connect", "sep_conv_3x3"))
    shares = jnp.array([0.5, 0.5, 0.02, 0.49, 0.49])  # of the edges of two nodes, whose inputs are 0, 1 and 0, 1, 2
    weights = {kind: shares[:, None] * jnp.full((5, 3), 1 / 3) for kind in space.template()}
    net = Supernet(space, lambda key: {}, lambda *_: None, lambda *_: None, lambda arch: {})
    search = by_score(darts(net, optax.sgd(0.1), optax.sgd(0.1)), lambda alpha: weights)
    state = DartsState({}, weights, (), (), STEP(0))
    archs = np.asarray(search.draw(jax.random.key(0), state, 300))
    taken = np.asarray(jax.vmap(space.one_hot)(archs)["normal"])[:, 2:, 1:].sum(-1)  # of the second node
    assert taken[:, 0].mean() < 0.1 < 0.9 < taken[:, 1].mean()


def test_dropout_of_p_darts_falls_as_in_the_authors_program_and_keeps_the_mean():
    rate = p_darts(0.4, 5, 25, 10).dropout
    for epoch in (0, 9, 10, 24):
        expected = 0.4 * ((25 - epoch - 1) / 25 if epoch < 10 else np.exp(-0.2 * (epoch - 10)))
        assert rate(STEP(5 * epoch + 4)) == pytest.approx(expected, rel=1e-5)
    skip, other = droppable(("skip_connect", "max_pool_3x3"))
    assert other == "max_pool_3x3"
    x = jnp.ones((4, 8, 8, 16))

    def drops(rate):
        return skip.apply(skip.init(fresh(), 16, 1, False), x, 1, Context(key=fresh(), dropout=rate))[0]

    y = drops(jnp.float32(0.25))
    np.testing.assert_allclose(jnp.unique(y), [0.0, 1 / 0.75], rtol=1e-6)
    assert float(y.mean()) == pytest.approx(1.0, abs=0.03)
    np.testing.assert_array_equal(drops(0.0), x)
    # A skip connection that halves the image drops nothing.
    params, image = skip.init(fresh(), 16, 2, False), jax.random.normal(fresh(), x.shape)
    halved = [skip.apply(params, image, 2, Context(key=fresh(), dropout=rate))[0] for rate in (0.0, 0.9)]
    assert np.count_nonzero(halved[0]) > 0.9 * halved[0].size
    np.testing.assert_array_equal(*halved)


def test_skips_that_are_too_many_make_way_for_the_next_best():
    """Of NAS-Bench-201's cell: the heaviest cell of those that have few enough skips, where slots are apart."""
    space = nasbench201_space()
    skips = NASBENCH201_OPERATIONS.index("skip_connect")
    weights = {"cell": jax.nn.softmax(jax.random.normal(jax.random.key(3), (6, 5)).at[:5, skips].add(3.0))}
    assert (space.discretize(weights) == skips).sum() == 5
    for most in (0, 2, 4):
        found = limited_skips(space, NASBENCH201_OPERATIONS, most)(weights)
        own = np.asarray(weights["cell"])
        kept = np.argsort(-own[:5, skips])[:most]
        expected = [skips if slot in kept else int(np.argmax(np.delete(row, skips))) for slot, row in enumerate(own)]
        places = np.delete(np.arange(5), skips)
        expected = [e if e == skips and slot in kept else int(places[e]) for slot, e in enumerate(expected)]
        assert found.tolist() == expected


def test_a_slot_that_can_take_nothing_but_a_skip_keeps_it():
    """Striking it out ends, although there are still too many; what pruning took is taken before a skip."""
    only = darts_space(2, ("none", "skip_connect"))
    weights = {kind: jnp.full((5, 2), 0.5) for kind in only.template()}
    assert limited_skips(only, ("none", "skip_connect"), 0)(weights).tolist() == only.discretize(weights).tolist()
    names = ("none", "skip_connect", "max_pool_3x3")
    space = darts_space(1, names)
    weights = {kind: jnp.array([[0.1, 0.9, 0.0], [0.2, 0.8, 0.0]]) for kind in space.template()}
    taken = space.to_genotype(limited_skips(space, names, 0)(weights))
    assert [name for name, _ in taken["normal"]] == ["max_pool_3x3"] * 2


def test_fair_darts_takes_what_is_above_the_threshold_two_of_a_node_at_most():
    """By hand: two operations on one edge, one edge alone, none at all, and the two heaviest of three."""
    names = ("none", "skip_connect", "max_pool_3x3", "sep_conv_3x3")
    space = darts_space(2, names, free=True)
    normal = jnp.array(
        [[0.9, 0.1, 0.95, 0.9], [0.2, 0.8, 0.1, 0.1], [0.9, 0.84, 0.1, 0.2], [0.1] * 4, [0.1, 0.9, 0.1, 0.1]]
    )
    reduce = jnp.array(
        [[0.99, 0.1, 0.2, 0.3], [0.99] + [0.8] * 3, [0.1, 0.9, 0.1, 0.1], [0.1, 0.1, 0.97, 0.1], [0, 0, 0, 0.92]]
    )
    arch = above(space.discretize, 0)({"normal": jnp.array(normal), "reduce": jnp.array(reduce)})
    genotype = space.to_genotype(arch)
    taken = {kind: [[tuple(edge) for edge in genotype[kind] if edge[0] != "none"]] for kind in ("normal", "reduce")}
    assert taken["normal"] == [[("max_pool_3x3", 0), ("sep_conv_3x3", 0), ("skip_connect", 2)]]
    assert taken["reduce"] == [[("max_pool_3x3", 1), ("sep_conv_3x3", 2)]]


def test_an_absent_edge_is_derived_by_fair_darts_where_all_else_is_below_a_half():
    """Whatever its own alpha: its output is zero, so that only noise and the zero-one loss could move that."""
    space = nasbench201_space()
    none = NASBENCH201_OPERATIONS.index("none")
    variant = fair_darts(2.0, NASBENCH201_OPERATIONS)
    alpha = jnp.full((6, 5), -0.1).at[:, none].set(jnp.linspace(-5.0, 5.0, 6)).at[2, 1].set(0.1)
    alpha = dict.fromkeys(space.template(), alpha)
    (weights,) = variant.relaxation.mean(alpha).values()
    arch = space.discretize(variant.relaxation.mean(alpha))
    np.testing.assert_array_equal(arch, np.where(np.arange(6) == 2, 1, none))

    def loss(alpha):
        return variant.penalty(alpha, variant.relaxation.weights(fresh(), alpha, STEP(0)), STEP(0))

    others = np.delete(np.asarray(weights), none, 1)
    np.testing.assert_allclose(loss(alpha), -2.0 * np.square(others - 0.5).mean(), rtol=1e-5)
    (slope,) = jax.grad(loss)(alpha).values()
    assert not np.asarray(slope)[:, none].any()
    assert np.delete(np.asarray(slope), none, 1).all()
    left = {kind: np.arange(5)[None] != none + np.zeros((6, 1), int) for kind in alpha}
    (weights,) = fair_darts(2.0, NASBENCH201_OPERATIONS, there=left).relaxation.mean(alpha).values()
    assert not np.asarray(weights)[:, none].any()


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


WORTH = {
    kind: jnp.asarray(np.random.default_rng(seed).permutation(20).reshape(5, 4) / 10.0)
    for seed, kind in enumerate(("normal", "reduce"))
}


def linear_supernet():
    """Over a DARTS space of two nodes, whose output is a sum over the mixture: what an option is worth is known."""
    space = darts_space(2, ("none", "skip_connect", "max_pool_3x3", "sep_conv_3x3"))

    def apply(params, weights, inputs, context):
        return inputs + sum(jnp.sum(weights[kind] * WORTH[kind]) for kind in WORTH), Aux(())

    return Supernet(space, lambda key: {}, apply, lambda *_: None, lambda arch: {})


def test_perturbation_takes_what_is_missed_most_and_the_edges_that_are():
    """Options of the greatest worth but "none", which no architecture has; then of a node's edges the two best."""
    net, objective = linear_supernet(), Objective(lambda y, _: -y, lambda y, _: y, "sum")
    nodes = dict.fromkeys(WORTH, (0, 0, 1, 1, 1))
    template = net.space.template()
    assert count_decisions(template, nodes) == 6
    assert count_decisions(template) == 5
    search = darts(net, optax.sgd(0.1), optax.sgd(0.1), objective=objective)
    state = projected(search.init(fresh()), template)
    project = jax.jit(make_projection(net, softmax(), nodes, objective=objective))
    batches = Batch(jnp.zeros((2, 3)), jnp.zeros((2, 3)))
    for decision in range(6):
        assert all(int(own.sum()) == min(decision, 5) for own in state.fixed.values())
        state = project(jax.random.key(4), state, batches)
    weights = decided(softmax(), state.fixed, state.rows).mean(state.search.alpha)
    for kind, worth in WORTH.items():
        best = 1 + np.argmax(np.asarray(worth)[:, 1:], axis=1)
        kept = np.ones(5, bool)
        kept[2 + np.argmin(np.asarray(worth)[np.arange(5), best][2:])] = False
        np.testing.assert_array_equal(weights[kind], np.eye(4)[best] * kept[:, None])


def test_slots_that_are_decided_stay_so_while_the_others_are_searched_on(numbers):
    def make(variant):
        return darts(NET, optax.sgd(0.05), optax.adam(0.05), variant=variant, objective=numbers.objective)

    search = tuning(make, drnas())
    state = search.init(fresh())
    state = state._replace(
        fixed={**state.fixed, "first": jnp.array([True])}, rows={**state.rows, "first": jnp.array([[1.0, 0.0, 0.0]])}
    )
    after, _ = jax.jit(search.phases[0].step)(jax.random.key(1), state, batches(numbers))
    assert after.search.alpha["second"].tolist() != state.search.alpha["second"].tolist()
    moved = jax.tree.map(jnp.subtract, after.search.params["slopes"], state.search.params["slopes"])
    assert (np.asarray(moved[0]) != 0).tolist() == [True, False, False]
    assert search.derive(fresh(), after, None).tolist()[0] == 0


def test_the_variant_of_the_docs_runs_as_it_stands(capsys):
    page = pathlib.Path(__file__).parents[1] / "docs" / "tutorials" / "own_variant.md"
    defined, run, *_ = re.findall(r"```{code-cell} python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    names = {}
    exec(defined + run.replace("epochs=2", "epochs=1, limit=128"), names)
    assert capsys.readouterr().out.count("~") == 6
    weights = names["sharper"](10, last=1.0).relaxation.weights(fresh(), ALPHA, STEP(10))
    np.testing.assert_allclose(weights["cell"], jax.nn.softmax(2 * ALPHA["cell"]), rtol=1e-6)


def test_what_cannot_be_is_refused():
    for make, told in (
        (lambda: by_slots(None, None, -1.0), "scale, of the initial alpha"),
        (lambda: gdas(0), "total_steps and temperatures must be positive"),
        (lambda: snas(10, last=0.0), "total_steps and temperatures must be positive"),
        (lambda: drnas(-1.0), "of the divergence"),
        (lambda: fair_darts(-1.0), "of the zero-one loss"),
        (lambda: above(None, 0, 1.0), "threshold must be more than 0 and less than 1, got 1.0"),
        (lambda: darts_minus(10, ("a", "b")), "needs an option 'skip_connect'; there are a, b: take a space"),
        (lambda: beta_darts(10, -1.0), "last not negative"),
        (lambda: smooth_darts(10, "wild"), 'must be "random" or "adversarial"'),
        (lambda: smooth_darts(0), "numbers must be positive"),
        (lambda: p_darts(1.0, 1, 1, 0), "less than 1, got 1.0"),
        (lambda: p_darts(0.1, 1, 2, 3), "cannot have 3 without"),
        (lambda: by_score(darts(NET, optax.sgd(0.1), optax.sgd(0.1)), softmax().mean, 0), "count must be at least 1"),
        (lambda: limited_skips(SPACE, tuple(MAPS), 1), "skip_connect an operation, got 1 and identity"),
    ):
        with pytest.raises(ValueError, match=told):
            make()
    assert len(SPACE.choices) == 2
