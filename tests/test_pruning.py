"""Smaller spaces, the supernets of what is left, and what is dropped; the laws of the spaces are in test_spaces.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.base import Batch, Context, Skeleton
from jaxnas.benchmarks.digits201 import digits201_cells
from jaxnas.relax import softmax
from jaxnas.search import Variant, adam_l2, carried, darts, weakest_by_alpha, weakest_by_marginal
from jaxnas.spaces import darts_space, everything, nasbench201_space, prune
from jaxnas.supernets import darts_narrowing, darts_supernet, embedded, nasbench201_supernet
from jaxnas.train import schedules

SPACE = nasbench201_space()
KEEP = ((0, 3), (1, 2, 3), (4,), (0, 1, 2, 3, 4), (2, 3), (0, 4))
OPERATIONS = ("none", "skip_connect", "max_pool_3x3", "sep_conv_3x3")
SKELETON = Skeleton(channels=3, cells=5, image_shape=(6, 6, 2), num_classes=3)
DARTS = darts_space(2, OPERATIONS)
X = jax.random.normal(jax.random.key(1), (4, 6, 6, 2))


def quick(function):
    """Compiled without much optimization, which tests would wait for."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def halves(seed, least=1):
    """About half of the operations of each slot, at least one of them not "none"."""
    random = np.random.default_rng(seed)
    keep = {kind: random.random(value.shape) < 0.5 for kind, value in DARTS.template().items()}
    for value in keep.values():
        value[np.arange(len(value)), random.integers(1, 4, len(value))] = True
        value[:, 2] &= value[:, [1, 3]].sum(axis=1) < 1  # few pools, so that some group has none
    return keep


def test_embedding_and_restricting_are_inverse_and_options_are_the_named_ones():
    space, embed, restrict = prune(SPACE, KEEP)
    archs = jax.vmap(space.sample)(jax.random.split(jax.random.key(0), 64))
    whole = np.asarray(jax.vmap(embed)(archs))
    np.testing.assert_array_equal(jax.vmap(restrict)(whole), archs)
    for column, left in enumerate(KEEP):
        assert set(whole[:, column]) == set(left)
    for arch, full in zip(archs, whole, strict=True):
        assert space.to_genotype(arch) == SPACE.to_genotype(full)
        assert [c.options[o] for c, o in zip(space.choices, arch, strict=True)] == [
            c.options[o] for c, o in zip(SPACE.choices, full, strict=True)
        ]


def test_discretizing_takes_the_heaviest_of_what_is_left():
    space, embed, _ = prune(SPACE, KEEP)
    weights = jax.random.normal(jax.random.key(0), (50, 6, 5))
    found = jax.vmap(lambda w: embed(space.discretize({"cell": w})))(weights)
    masked = np.full((6, 5), -np.inf)
    for column, left in enumerate(KEEP):
        masked[column, list(left)] = 0
    np.testing.assert_array_equal(found, np.argmax(np.asarray(weights) + masked, axis=2))


def test_the_rule_of_the_space_stands_where_what_it_takes_is_left():
    whole = darts_space(3)
    keep = list(everything(whole))
    keep[6], keep[9] = (0, 2), (0,)
    space, embed, _ = prune(whole, keep)
    shapes = {kind: value.shape for kind, value in whole.template().items()}
    outside = 0
    by_rule, by_pruned = jax.jit(whole.discretize), jax.jit(lambda weights: embed(space.discretize(weights)))
    for seed in range(30):
        keys = jax.random.split(jax.random.key(seed))
        weights = {kind: jax.random.normal(key, shape) for key, (kind, shape) in zip(keys, shapes.items(), strict=True)}
        rule, found = np.asarray(by_rule(weights)), np.asarray(by_pruned(weights))
        assert all(option in left for option, left in zip(found, keep, strict=True))
        inside = [option in left for option, left in zip(rule, keep, strict=True)]
        np.testing.assert_array_equal(found[inside], rule[inside])
        outside += not all(inside)
    assert 3 < outside < 30


def test_what_cannot_be_left_is_refused():
    with pytest.raises(
        ValueError, match="'avg_pool_3x3' of 'edge 1←0' was taken out of the space; left are none, nor_"
    ):
        prune(SPACE, KEEP).space.from_genotype(SPACE.to_genotype(jnp.array([4, 1, 4, 0, 2, 0])))
    with pytest.raises(ValueError, match="'edge 1←0' has options 0 to 4; keep at least one of them, each once, got"):
        prune(SPACE, [(0, 5), *KEEP[1:]])
    with pytest.raises(ValueError, match="single architecture"):
        prune(SPACE, [(0,)] * 6)
    with pytest.raises(ValueError, match="keep must have 6 entries"):
        prune(SPACE, KEEP[1:])
    with pytest.raises(ValueError, match="normal slot 0 keeps no operation"):
        darts_supernet(SKELETON, 2, OPERATIONS, keep=halves(0) | {"normal": np.eye(5, 4, dtype=bool)})
    with pytest.raises(ValueError, match="keep must be true or false in the shapes"):
        darts_supernet(SKELETON, 2, OPERATIONS, keep={"normal": np.ones((5, 4))})
    with pytest.raises(ValueError, match="on edges that have not got them any more"):
        darts_narrowing(SKELETON, halves(1), halves(0), 2, OPERATIONS)
    with pytest.raises(ValueError, match="at least 2 options in a slot, got 1"):
        weakest_by_alpha({}, {}, 1)


def test_a_supernet_of_the_whole_space_runs_the_paths_of_what_is_left():
    pruned = prune(SPACE, KEEP)
    space, embed, _ = pruned
    whole = nasbench201_supernet(Skeleton(2, 1, (6, 6, 2), 3))
    net = embedded(whole, pruned)
    params = jax.jit(net.init)(jax.random.key(0))
    path = quick(lambda arch: net.apply_path(params, arch, X, Context())[0])
    expected = quick(lambda arch: whole.apply_path(params, arch, X, Context())[0])
    archs = jax.vmap(space.sample)(jax.random.split(jax.random.key(2), 256))
    for arch in archs[:2]:
        np.testing.assert_array_equal(path(arch), expected(embed(arch)))
    used = jax.tree.map(lambda masks: masks.any(axis=0), jax.vmap(net.used)(archs))
    for stage in used["stages"]:
        for operation, stack in enumerate(stage):
            for mask in jax.tree.leaves(stack):
                np.testing.assert_array_equal(mask.reshape(-1), [operation in left for left in KEEP])


@pytest.fixture(scope="module")
def half():
    """A supernet of all operations, and one of about half of them with the parameters of the former."""
    whole = darts_supernet(SKELETON, 2, OPERATIONS, form="scan")
    params = jax.jit(whole.init)(jax.random.key(0))
    keep = halves(3)
    return whole, params, keep, darts_narrowing(SKELETON, keep, None, 2, OPERATIONS)(params)


def value_and_gradients(net, params, weights):
    def loss(params, weights):
        return jnp.sum(jnp.square(net.apply(params, weights, X, Context())[0]))

    return quick(jax.value_and_grad(loss, (0, 1)))(params, weights)


@pytest.fixture(scope="module")
def whole_gradients(half):
    """Weights of a mixture of what is left, and the loss and gradients of the whole supernet with them."""
    whole, params, keep, _ = half
    keys = jax.random.split(jax.random.key(3))
    weights = {
        kind: jax.nn.softmax(jnp.where(there, jax.random.normal(key, there.shape), -jnp.inf))
        for key, (kind, there) in zip(keys, keep.items(), strict=True)
    }
    return weights, value_and_gradients(whole, params, weights)


@pytest.mark.parametrize("form", ["scan", "staged"])
def test_what_is_left_computes_what_the_whole_does_with_weights_of_zero(half, whole_gradients, form):
    _, _, keep, narrow_params = half
    net = darts_supernet(SKELETON, 2, OPERATIONS, keep=keep, form=form)
    assert jax.tree.structure(jax.eval_shape(net.init, jax.random.key(0))) == jax.tree.structure(narrow_params)
    weights, (value, (to_params, to_weights)) = whole_gradients
    found, (found_params, found_weights) = value_and_gradients(net, narrow_params, weights)
    np.testing.assert_allclose(found, value, rtol=1e-5)
    expected = darts_narrowing(SKELETON, keep, None, 2, OPERATIONS)(to_params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), found_params, expected)
    for kind, there in keep.items():
        there = there & (np.arange(4) > 0)  # "none" has no gradient either way
        np.testing.assert_allclose(found_weights[kind][there], to_weights[kind][there], rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(np.asarray(found_weights[kind])[~there], 0)


def test_paths_that_are_left_are_as_before_and_less_is_held(half):
    whole, params, keep, narrow_params = half
    net = darts_supernet(SKELETON, 2, OPERATIONS, keep=keep)
    arch = DARTS.discretize({kind: jnp.asarray(there, jnp.float32) for kind, there in keep.items()})
    taken = DARTS.one_hot(arch)
    assert all((np.asarray(taken[kind])[:, 1:] <= keep[kind][:, 1:]).all() for kind in keep)
    before = quick(lambda p: whole.apply_path(p, arch, X, Context())[0])(params)
    after = quick(lambda p: net.apply_path(p, arch, X, Context())[0])(narrow_params)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(tree["cells"])) for tree in (params, narrow_params)]
    assert sizes[1] < 0.8 * sizes[0]
    masks = net.used(arch)
    assert jax.tree.structure(masks) == jax.tree.structure(narrow_params)
    jax.tree.map(lambda mask, leaf: np.broadcast_to(mask, leaf.shape), masks, narrow_params)


def test_narrowing_in_two_stages_is_narrowing_once(half):
    _, params, keep, narrow_params = half
    first = {kind: there | halves(4)[kind] for kind, there in keep.items()}
    between = darts_narrowing(SKELETON, first, None, 2, OPERATIONS)(params)
    twice = darts_narrowing(SKELETON, keep, first, 2, OPERATIONS)(between)
    jax.tree.map(np.testing.assert_array_equal, twice, narrow_params)


def test_a_search_goes_on_from_the_state_that_is_carried_over(half):
    """One step of what is left, from a state with momentum: as one by hand on the survivors."""
    whole, _, keep, _ = half
    weight_optimizer = schedules.sgd(lambda step: 0.1 / (1 + step), momentum=0.9, weight_decay=1e-3, clip=5.0)
    alpha_optimizer = adam_l2(0.1)
    batch = Batch(X, jnp.array([0, 1, 2, 0]))

    def step_of(algorithm):
        return quick(lambda key, state: algorithm.phases[0].step(key, state, {"train": batch, "valid": batch}))

    # The other way: nothing is narrowed, but the weights of what is gone are zero.
    masked = darts(whole, weight_optimizer, alpha_optimizer, variant=Variant(softmax(there=keep)))
    masked_step = step_of(masked)
    state, _ = masked_step(jax.random.key(1), masked.init(jax.random.key(0)))
    narrow = darts_narrowing(SKELETON, keep, None, 2, OPERATIONS)
    start = carried(state, narrow)
    other = start._replace(params=state.params, weight_state=state.weight_state)
    expected, _ = masked_step(jax.random.key(2), other)
    net = darts_supernet(SKELETON, 2, OPERATIONS, keep=keep)
    shrunk = darts(net, weight_optimizer, alpha_optimizer, variant=Variant(softmax(there=keep)))
    assert jax.tree.structure(jax.eval_shape(shrunk.init, jax.random.key(0))) == jax.tree.structure(start)
    found, info = step_of(shrunk)(jax.random.key(2), start)
    assert int(found.step) == 2
    for kind, there in keep.items():
        np.testing.assert_allclose(found.alpha[kind], expected.alpha[kind], atol=1e-3)
        assert (np.asarray(softmax(there=keep).mean(found.alpha)[kind])[~there] == 0).all()
    assert 0 < info.entropy < np.log(4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), found.params, narrow(expected.params))
    arch = shrunk.derive(jax.random.key(0), found, None)
    taken = DARTS.one_hot(arch)
    assert all((np.asarray(taken[kind])[:, 1:] <= keep[kind][:, 1:]).all() for kind in keep)


def test_marginals_of_a_sum_are_its_terms():
    worth = np.random.default_rng(0).normal(size=(6, 5))
    cells, _ = digits201_cells()
    cells = np.unique(np.concatenate([cells, np.indices((5,) * 6).reshape(6, -1).T]), axis=0)  # all 15,625
    scores = worth[np.arange(6), cells].sum(axis=1)
    for left in (1, 3, 5, 9):
        expected = [tuple(sorted(np.argsort(-row)[:left])) for row in worth]
        assert list(weakest_by_marginal(SPACE.choices, cells, scores, left)) == expected


def test_an_option_that_none_has_counts_as_the_mean_and_ties_go_to_the_earlier():
    archs, scores = np.array([[0], [0], [1], [3], [4]]), [4.0, 0.0, 1.0, 2.0, 3.0]  # means 2, 1, (2), 2, 3
    choices = SPACE.choices[:1]
    assert weakest_by_marginal(choices, archs, scores, 3) == ((0, 2, 4),)
    assert weakest_by_marginal(choices, archs, scores, 4) == ((0, 2, 3, 4),)
    with pytest.raises(ValueError, match="1 scores are missing"):
        weakest_by_marginal(choices, archs, [4.0, 0.0, np.nan, 2.0, 3.0], 3)
    with pytest.raises(ValueError, match=r"expected archs \[P, 6\]"):
        weakest_by_marginal(SPACE.choices, archs, scores, 3)


def test_the_heaviest_stay_of_those_that_were_there():
    keep = {"cell": np.array([[1, 1, 1, 0], [1, 1, 1, 1], [0, 1, 0, 1]], bool)}
    weights = {"cell": [[0.1, 0.2, 0.1, 0.9], [0.3, 0.1, 0.3, 0.3], [0.5, 0.0, 0.6, 0.0]]}
    found = weakest_by_alpha(weights, keep, 2)["cell"]
    np.testing.assert_array_equal(found, [[1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1]])
