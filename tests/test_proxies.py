"""Zero-cost proxies against closed forms, on networks small enough to have them, and against plain loops."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import proxies
from jaxnas.base import PLAIN, Aux, Batch, Skeleton, Supernet
from jaxnas.catalog import CATALOG
from jaxnas.kernels.marks import CELL, FEATURES, mark
from jaxnas.objectives import CLASSIFICATION
from jaxnas.ops.layers import batch_norm
from jaxnas.proxies import Passes, over_architectures, subject, watch
from jaxnas.proxies.az_nas import _entropy, _flow
from jaxnas.proxies.passes import he_uniform
from jaxnas.proxies.patterns import log_determinant, no_patterns, see_patterns
from jaxnas.spaces import product_space
from jaxnas.supernets import nasbench201_supernet

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(6, 4)).astype(np.float32)
LABELS = np.arange(6) % 3
BATCH = Batch(jnp.asarray(X), jnp.asarray(LABELS))
SPACE = product_space("toy", {"first": ("a", "b")})
ARCHS = jnp.array([[0], [1]], jnp.int32)
ROOT6 = np.sqrt(6.0)


def init(key):
    del key
    random = np.random.default_rng(1)
    return {
        "first": jnp.asarray(random.normal(size=(2, 4, 5)), jnp.float32),  # two options
        "second": jnp.asarray(random.normal(size=(5, 3)), jnp.float32),
    }


PARAMS = init(None)


def used(arch):
    return {"first": (jnp.arange(2) == arch[0])[:, None, None], "second": jnp.array(True)}


def supernet(apply_path):
    return Supernet(SPACE, init, None, apply_path, used)


def linear(params, arch, x, context):
    """Two matrices, the first chosen by the architecture."""
    return x @ params["first"][arch[0]] @ params["second"], Aux(())


def rectified(params, arch, x, context):
    """A rectifier between them."""
    return jax.nn.relu(x @ params["first"][arch[0]]) @ params["second"], Aux(())


def by_hand(option):
    """(first, second, their gradients of the mean cross-entropy), in double precision, at He's variance."""
    first, second = (np.asarray(PARAMS[name], np.float64) * ROOT6 for name in ("first", "second"))
    first = first[option]
    logits = X @ first @ second
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    wrong = (p - np.eye(3)[LABELS]) / 6
    return first, second, X.T @ wrong @ second.T, (X @ first).T @ wrong


def scores(proxy, apply_path=linear, batch=BATCH):
    program = jax.jit(over_architectures({"it": proxy}, subject(supernet(apply_path))))
    return np.asarray(program(PARAMS, ARCHS, batch)["it"])


def passes(apply_path, batch=BATCH, option=0):
    return Passes(subject(supernet(apply_path)), PARAMS, ARCHS[option], batch)


def test_layers_are_told_apart_by_what_is_used():
    first, second = subject(supernet(linear)).leaves
    assert (first.stacked, first.searched) == (1, True)
    assert (second.stacked, second.searched) == (0, False)


def test_proxies_of_weights_and_gradients_of_a_linear_network():
    """Of the searched layer alone, but plain, which has both."""
    norms, sensitivities, weights, both = [], [], [], []
    for option in (0, 1):
        first, second, d_first, d_second = by_hand(option)
        norms.append(np.linalg.norm(d_first))
        sensitivities.append(np.abs(first * d_first).sum())
        weights.append(np.linalg.norm(first))
        both.append((first * d_first).sum() + (second * d_second).sum())
    np.testing.assert_allclose(scores(proxies.grad_norm), norms, rtol=1e-4)
    np.testing.assert_allclose(scores(proxies.snip), sensitivities, rtol=1e-4)
    np.testing.assert_allclose(scores(proxies.l2_norm), weights, rtol=1e-4)
    np.testing.assert_allclose(scores(proxies.plain), both, rtol=1e-4)
    np.testing.assert_array_equal(scores(proxies.layers), [2, 2])


def normed(params, arch, x, context):
    hidden, seen = batch_norm((x @ params["first"][arch[0]])[:, None, None], None, context.at(0))
    hidden = jax.nn.relu(hidden[:, 0, 0])
    return hidden @ params["second"], Aux([seen])


def test_before_a_batch_norm_grasp_is_the_squared_gradient_and_plain_is_that_of_the_head():
    of = passes(normed)
    squared = jnp.square(of.gradient["first"][0]).sum()
    np.testing.assert_allclose(proxies.grasp(of), squared, rtol=2e-3)
    np.testing.assert_allclose(proxies.plain(of), jnp.sum(of.gradient["second"] * of.params["second"]), rtol=1e-4)


def test_synflow_is_the_flow_of_ones_once_for_each_layer_and_norms_do_not_count():
    def passed_on(params, arch, x, context):
        hidden, seen = batch_norm((x @ params["first"][arch[0]])[:, None, None], None, context.at(0))
        return hidden[:, 0, 0] @ params["second"], Aux([seen])

    flow = [np.abs(by_hand(o)[0]).sum(0) @ np.abs(by_hand(o)[1]).sum(1) for o in (0, 1)]
    for network in (linear, passed_on):
        np.testing.assert_allclose(scores(proxies.synflow, network), np.log(2 * np.array(flow)), rtol=1e-4)


def test_fisher_is_of_what_rectifiers_give():
    first, second, _, _ = by_hand(0)
    on = np.maximum(X @ first, 0)
    logits = on @ second
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    back = (p - np.eye(3)[LABELS]) / 6 @ second.T
    assert scores(proxies.fisher, rectified)[0] == pytest.approx(0.5 * ((on * back) ** 2).mean(axis=0).sum(), rel=1e-4)


def test_zico_of_known_gradients():
    """Of the halves of the batch, which have gradients of their own."""
    total = 0.0
    of = passes(linear)
    for name in ("first", "second"):
        one, two = (np.asarray(half[name], np.float64) for half in of.halves)
        one, two = (one[0], two[0]) if name == "first" else (one, two)
        pair = np.stack([one, two])
        total += np.log((np.abs(pair).mean(axis=0) / pair.std(axis=0)).sum())
    assert proxies.zico(of) == pytest.approx(total, rel=1e-4)
    same = Batch(jnp.concatenate([BATCH.inputs[:3]] * 2), jnp.concatenate([BATCH.targets[:3]] * 2))
    np.testing.assert_array_equal(scores(proxies.zico, linear, same), [0, 0])  # no deviation


def test_naswot_is_the_determinant_of_patterns_in_common_and_swap_counts_patterns():
    batch = Batch(BATCH.inputs[2:], BATCH.targets[2:])
    on = X[2:] @ by_hand(0)[0] > 0
    alike = (on[:, None] == on[None]).sum(axis=2)
    assert len(np.unique(on, axis=0)) == 4, "the example has to have a determinant"
    assert scores(proxies.naswot, rectified, batch)[0] == pytest.approx(np.linalg.slogdet(alike)[1], rel=1e-3)
    assert scores(proxies.swap, rectified, batch)[0] == len(np.unique(on, axis=1).T)
    twice = BATCH._replace(inputs=BATCH.inputs.at[1].set(BATCH.inputs[0]))
    assert scores(proxies.naswot, rectified, twice)[0] == -np.inf


def test_jacobian_covariance_of_equal_and_of_uncorrelated_gradients():
    """A linear network has one gradient for all examples; that of a square is the example itself, here a row of
    Hadamard's matrix."""
    k = 1e-5
    equal = -(np.log(6 + k) + 1 / (6 + k)) - 5 * (np.log(k) + 1 / k)
    np.testing.assert_allclose(scores(proxies.jacobian_covariance), [equal, equal], rtol=0.1)  # 1e5 of rounding
    rows = jnp.array([[1.0, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]])
    square = passes(lambda params, arch, x, context: (jnp.square(x).sum(1), Aux(())), Batch(rows, jnp.arange(3)))
    assert proxies.jacobian_covariance(square) == pytest.approx(-3 * (np.log(1 + k) + 1 / (1 + k)), rel=1e-4)


def test_epe_nas_adds_up_the_correlations_within_classes():
    square = passes(lambda params, arch, x, context: ((x**3).sum(1), Aux(())))
    logs = np.log(np.abs(np.corrcoef(3 * X.astype(np.float64) ** 2)) + 1e-5)
    expected = sum(abs(logs[np.ix_(label == LABELS, label == LABELS)].sum()) for label in range(3))
    assert proxies.epe_nas(square) == pytest.approx(expected, rel=1e-3)


def test_watched_sees_rectifiers_in_loops_and_in_the_branch_that_is_taken():
    def network(x, which):
        x = jax.lax.scan(lambda x, _: (jax.nn.relu(x) - 1.0, None), x, length=3)[0]
        x = jax.lax.cond(which, lambda x: jnp.maximum(jnp.maximum(0.0, x), 0), lambda x: 2.0 * x, x)
        return jax.checkpoint(jax.nn.relu)(x)

    def see(x, y):
        return y, jnp.ones(())

    x = jnp.asarray(X)
    for which, count in ((True, 6), (False, 4)):
        seen = jax.jit(lambda x, which: watch(network, x, which, see=see, zero=jnp.zeros(())))(x, which)
        assert seen.total == count
        np.testing.assert_allclose(seen.outputs, network(x, which), rtol=1e-6)


def test_watched_keeps_marked_values_in_turn_and_cuts_between_them():
    def network(x):
        x = mark(x * 2.0, CELL)
        x = jax.lax.scan(lambda x, scale: (mark(x * scale, CELL), None), x, jnp.array([3.0, 5.0]))[0]
        return mark(x * 7.0, FEATURES)

    x = jnp.asarray(X)
    kept = watch(network, x, mark=CELL).kept
    np.testing.assert_allclose(jnp.stack(kept), X[None] * np.array([2.0, 6.0, 30.0])[:, None, None], rtol=1e-6)
    pushes = [jnp.zeros_like(x)] * 3
    _, pull = jax.vjp(lambda pushes: watch(network, x, mark=CELL, pushes=pushes).kept, pushes)
    back = pull([jnp.ones_like(x)] * 3)[0]  # of each by the one before it alone
    np.testing.assert_allclose([float(one[0, 0]) for one in back], [3.0, 5.0, 0.0])


def test_watched_refuses_what_it_cannot_follow():
    def marked(x):
        return jax.lax.cond(x.sum() > 0, lambda x: mark(x, CELL), lambda x: x, x)

    def loop(x):
        return jax.lax.while_loop(lambda x: x.sum() > 0, lambda x: jax.nn.relu(x) - 1, x)

    with pytest.raises(ValueError, match="within a branch"):
        watch(marked, jnp.ones((2, 2)), mark=CELL)
    with pytest.raises(ValueError, match="unknown length"):
        watch(loop, jnp.ones((2, 2)), see=lambda x, y: (y, ()))


def test_expressivity_is_the_logarithm_of_equal_directions_and_trainability_of_a_scaling():
    corners = np.array(list(itertools.product((-1.0, 1.0), repeat=3)), np.float32)  # covariance: the identity
    assert _entropy(jnp.asarray(corners).reshape(8, 1, 1, 3)) == pytest.approx(np.log(3), abs=1e-4)
    assert _entropy(jnp.ones((8, 1, 1, 3))) == -np.inf
    signs = jnp.asarray(corners).reshape(8, 1, 1, 3)
    for scale in (0.5, 3.0):
        assert _flow(scale * signs, signs) == pytest.approx(2 - scale - 1 / scale, abs=1e-4)
    assert _flow(signs, signs) == -np.inf
    fine = jnp.zeros((8, 2, 2, 3)).at[:, 0, 0].set(3.0 * signs[:, 0, 0])
    assert _flow(fine, signs) == pytest.approx(2 - 3 - 1 / 3, abs=1e-4)  # blocks of pixels are channels


def test_log_ranks_are_of_ranks_alone_and_the_worst_of_all_is_last():
    column = np.array([3.0, -np.inf, 8.0, 5.0])
    np.testing.assert_allclose(proxies.log_ranks({"it": column}), np.log(np.array([2, 1, 4, 3]) / 4))
    other = np.array([1.0, 2.0, np.nan, 0.0])
    both = proxies.log_ranks({"it": column, "other": other})
    np.testing.assert_allclose(both, proxies.log_ranks({"it": np.exp(column), "other": other * 7}))
    np.testing.assert_allclose(proxies.rank_scores(column), proxies.rank_scores(np.exp(column)))
    assert np.isfinite(proxies.rank_scores(other)).all()
    with pytest.raises(ValueError, match="no proxy 'flops'; there are params"):
        proxies.checked_names(["flops"])
    assert set(proxies.checked_names(["az_nas"])) == {*proxies.AGGREGATES["az_nas"], "az_nas"}


SKELETON = Skeleton(channels=4, cells=1, image_shape=(8, 8, 3), num_classes=3)
CELLS = np.array([[3, 2, 4, 1, 0, 3], [1, 3, 2, 4, 3, 2]], np.int32)
"""Every operation is there."""


@pytest.fixture(scope="module")
def cells():
    """(supernet, its parameters, the batch, scores of the two cells by one program)."""
    net = nasbench201_supernet(SKELETON, affine=True)
    params = net.init(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (6, 8, 8, 3))
    batch = Batch(images, jnp.arange(6) % 3)
    chosen = {name: proxies.PROXIES[name] for name in ("layers", "grad_norm", "zico", "naswot", "swap", "zen")}
    program = jax.jit(over_architectures(chosen, subject(net)))
    return net, params, batch, jax.tree.map(np.asarray, program(params, jnp.asarray(CELLS), batch))


def test_paths_have_the_scores_of_the_networks_themselves(cells):
    """By a loop over the leaves of a network that was made for the architecture, whose parameters are not stacked."""
    net, params, batch, found = cells
    for row, arch in enumerate(CELLS):
        network = net.network(jnp.asarray(arch))
        own = net.extract(he_uniform(params), jnp.asarray(arch))

        def loss(own, batch, network=network):
            return CLASSIFICATION.loss(network.apply(own, batch.inputs, PLAIN)[0], batch.targets).mean()

        halves = [jax.tree.map(lambda leaf, s=s: leaf[s : s + 3], batch) for s in (0, 3)]
        slope = jax.jit(jax.grad(loss))
        leaves, others = (jax.tree_util.tree_leaves_with_path(slope(own, part)) for part in halves)
        norm, zico, count = 0.0, 0.0, 0
        for (path, first), (_, second) in zip(leaves, others, strict=True):
            if getattr(path[-1], "key", "kernel") in ("scale", "offset", "bias"):
                continue
            count += 1
            norm += float(jnp.linalg.norm((first + second) / 2)) if getattr(path[0], "key", "") == "stages" else 0.0
            pair = np.stack([first, second]).astype(np.float64)
            spread = pair.std(axis=0)
            zico += np.log((np.abs(pair).mean(axis=0)[spread > 0] / spread[spread > 0]).sum())
        assert found["layers"][row] == count
        assert found["grad_norm"][row] == pytest.approx(norm, rel=1e-3)
        assert found["zico"][row] == pytest.approx(zico, rel=1e-2)


def test_a_shipped_network_can_be_watched_and_has_the_patterns_of_its_path(cells):
    net, params, batch, found = cells
    arch = jnp.asarray(CELLS[0])
    network, own = net.network(arch), net.extract(he_uniform(params), arch)

    def seen(own, x):
        def apply(own, x):
            return network.apply(own, x, PLAIN)

        return watch(apply, own, x, see=see_patterns, zero=no_patterns(6)).total

    seen = jax.jit(seen)(own, batch.inputs)
    assert log_determinant(seen.alike, seen.units) == pytest.approx(found["naswot"][0], rel=1e-4)
    assert (seen.found > 0).sum() == found["swap"][0]


def test_zen_does_not_know_the_scale_of_kernels(cells):
    """They are brought to one: twice the kernels, the same score."""
    net, params, batch, found = cells
    doubled = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if getattr(path[-1], "key", "") in ("scale", "offset") else 2 * leaf, params
    )
    again = jax.jit(over_architectures({"zen": proxies.zen}, subject(net)))(doubled, jnp.asarray(CELLS), batch)
    np.testing.assert_allclose(again["zen"], found["zen"], rtol=1e-4)


@pytest.mark.parametrize("name", ["darts", "enas_micro", "enas_macro", "chain"])
def test_rectifiers_and_cells_are_found_in_every_space(name):
    """Traced and not compiled."""
    entry = CATALOG[name]
    skeleton = Skeleton(4, entry.small_cells, (8, 8, 3), 3)
    net = entry.supernet(skeleton)
    arch = jnp.zeros(len(net.space.choices), jnp.int32)
    shapes = jax.eval_shape(net.init, jax.random.key(0))

    def seen(params, arch, x):
        def apply(params, arch, x):
            return net.apply_path(params, arch, x, PLAIN)[0]

        found = watch(apply, params, arch, x, see=see_patterns, zero=no_patterns(4), mark=CELL)
        return found.total, found.kept

    total, kept = jax.eval_shape(seen, shapes, arch, jnp.zeros((4, 8, 8, 3)))
    assert total.alike.shape == (4, 4)
    assert len(kept) == 1 + entry.small_cells  # the stem and each cell or layer
    assert any(leaf.searched for leaf in subject(net).leaves)
