"""Signs of a collapse: eigenvalues against whole Hessians, the rule of the early stop against its definition."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from jaxnas.base import Aux, Batch, Context, Skeleton, Supernet
from jaxnas.data import Augmentation, Examples
from jaxnas.fit import watch as darts_watch
from jaxnas.objectives import CLASSIFICATION, classification
from jaxnas.search import (
    EarlyStop,
    WatchedState,
    adam_l2,
    collapsed,
    darts,
    entropy,
    make_curvature,
    make_gap,
    record,
    skip_connections,
    start_history,
    watched,
)
from jaxnas.search.health import largest_eigenvalue, make_hessian_product, softmax_mixture
from jaxnas.spaces import darts_space, nasbench201_space
from jaxnas.supernets import darts_supernet
from jaxnas.train.schedules import sgd

OPERATIONS = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3")
SPACE = darts_space(1, OPERATIONS)
SKELETON = Skeleton(channels=4, cells=2, image_shape=(6, 6, 1), num_classes=3)
NET = darts_supernet(SKELETON, 1, OPERATIONS)


def batch(seed=5, dtype=jnp.float32):
    image_key, label_key = jax.random.split(jax.random.key(seed))
    return Batch(jax.random.normal(image_key, (8, 6, 6, 1), dtype), jax.random.randint(label_key, (8,), 0, 3))


def some_alpha(dtype=jnp.float32):
    return {
        k: jax.random.normal(jax.random.key(i), v.shape, dtype) for i, (k, v) in enumerate(SPACE.template().items())
    }


@pytest.fixture(scope="module")
def params():
    return jax.jit(NET.init)(jax.random.key(0))


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_lanczos_finds_the_largest_eigenvalue_and_bounds_its_error(scale):
    random = np.random.default_rng(3)
    basis = np.linalg.qr(random.normal(size=(40, 40)))[0]
    values = scale * np.concatenate([[-9.0, 4.0, 3.9], np.linspace(-1, 1, 37)])
    matrix = basis @ np.diag(values) @ basis.T
    start = random.normal(size=40)
    exact = largest_eigenvalue(lambda v: matrix @ v, start, 40, 0.0)
    np.testing.assert_allclose(exact.eigenvalue, 4.0 * scale, rtol=1e-10)
    for products in range(1, 20):
        found = largest_eigenvalue(lambda v: matrix @ v, start, products, 0.0)
        assert found.products == products
        assert np.abs(values - found.eigenvalue).min() <= found.error + 1e-9 * scale
    early = largest_eigenvalue(lambda v: matrix @ v, start, 40, 0.05)
    assert early.products < 25
    assert abs(early.eigenvalue - 4.0 * scale) < 0.2 * scale


def test_lanczos_ends_where_a_subspace_is_complete():
    """Of a projection, every vector's second image lies in the space of itself and its first."""
    matrix = np.diag([1.0] * 3 + [0.0] * 7)
    found = largest_eigenvalue(lambda v: matrix @ v, np.ones(10), 10, 1e-6)
    assert found.products == 2
    np.testing.assert_allclose(found.eigenvalue, 1.0, rtol=1e-12)
    nothing = largest_eigenvalue(np.zeros_like, np.ones(10), 10, 1e-6)
    assert (nothing.eigenvalue, nothing.products) == (0.0, 1)


def toy():
    """Logits [B, 3] that mix four maps of the pixels: its Hessian can be had whole."""

    def apply(params, weights, x, context):
        return jnp.einsum("bp,opk,so->bk", x.reshape(len(x), -1), params, weights["normal"]) * 2, Aux(None)

    def init(key):
        return jax.random.normal(key, (4, 36, 3))

    return Supernet(SPACE, init, apply, lambda *a: None, lambda arch: None)


def test_the_eigenvalue_of_a_small_problem_is_that_of_its_whole_hessian():
    net, alpha, data = toy(), {"normal": jax.random.normal(jax.random.key(1), (5, 4))}, [batch(1), batch(2)]
    params = net.init(jax.random.key(2))

    def loss(flat):
        weights = {"normal": jax.nn.softmax(flat.reshape(5, 4), axis=-1)}
        return (
            sum(classification().loss(net.apply(params, weights, b.inputs, None)[0], b.targets).mean() for b in data)
            / 2
        )

    values = np.linalg.eigvalsh(jax.jit(jax.hessian(loss))(alpha["normal"].ravel()))
    found = make_curvature(net, most_products=20, tolerance=1e-4)(jax.random.key(3), params, alpha, data)
    np.testing.assert_allclose(found.eigenvalue, values[-1], rtol=1e-3)


def test_the_eigenvalue_of_a_real_supernet_is_that_of_differences_of_its_gradient():
    """In double precision, against central differences of the reverse-mode gradient of alpha alone."""
    with jax.enable_x64(True):
        skeleton = dataclasses.replace(SKELETON, cells=3, dtype="float64")  # a normal cell as well
        net = darts_supernet(skeleton, 1, OPERATIONS)
        params = jax.tree.map(lambda p: p.astype(jnp.float64), jax.jit(net.init)(jax.random.key(0)))
        alpha, data = some_alpha(jnp.float64), batch(7, jnp.float64)
        flat, unravel = ravel_pytree(alpha)

        @jax.jit
        def gradient(flat):
            def loss(flat):
                weights = softmax_mixture(unravel(flat))
                logits, _ = net.apply(params, weights, data.inputs, Context())
                return optax.softmax_cross_entropy_with_integer_labels(logits, data.targets).mean()

            return jax.grad(loss)(flat)

        steps = 1e-7 * np.eye(len(flat))
        hessian = np.stack([(gradient(flat + s) - gradient(flat - s)) / 2e-7 for s in steps])
        np.testing.assert_allclose(hessian, hessian.T, atol=1e-7)
        found = make_curvature(net, tolerance=1e-9, most_products=len(flat))(jax.random.key(1), params, alpha, [data])
        np.testing.assert_allclose(found.eigenvalue, np.linalg.eigvalsh(hessian)[-1], rtol=1e-6)
        column = jax.jit(make_hessian_product(net))(params, alpha, data, unravel(jnp.eye(len(flat))[3]))
        np.testing.assert_allclose(ravel_pytree(column)[0], hessian[3], rtol=1e-5, atol=1e-8)


def test_the_gap_is_of_the_mixture_and_of_the_derived_path(params):
    data, alpha = [batch(1), batch(2)], some_alpha()
    gap = make_gap(SPACE, NET)
    found = gap(params, alpha, data)
    arch = SPACE.discretize(softmax_mixture(alpha))
    path = jax.jit(lambda image: NET.apply_path(params, arch, image, Context())[0])
    logits = [path(b.inputs) for b in data]
    losses = [classification().loss(y, b.targets).mean() for y, b in zip(logits, data, strict=True)]
    right = [(jnp.argmax(y, -1) == b.targets).mean() for y, b in zip(logits, data, strict=True)]
    np.testing.assert_allclose(found.path_loss, np.mean(losses), rtol=1e-4)
    np.testing.assert_allclose(found.path_metric, np.mean(right), rtol=1e-6)
    assert abs(found.mixture_loss - found.path_loss) > 1e-3
    # Where nothing is left undecided there is no gap.
    decided = {kind: 200.0 * value for kind, value in SPACE.one_hot(arch).items()}
    closed = gap(params, decided, data)
    np.testing.assert_allclose(closed.mixture_loss, closed.path_loss, rtol=1e-5)


def test_skip_connections_are_counted_by_cell():
    space = darts_space()
    assert skip_connections(space.to_genotype(space.from_genotype("DARTS_V1"))) == {"normal": 3, "reduce": 3}
    assert skip_connections(space.to_genotype(space.from_genotype("DARTS_V2"))) == {"normal": 2, "reduce": 3}
    nb201 = nasbench201_space()
    assert list(skip_connections(nb201.to_genotype(jnp.array([1, 0, 1, 2, 1, 4]))).values()) == [3]


def test_entropy_is_that_of_the_slots():
    weights = {"a": jnp.array([[0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]), "b": jnp.full((2, 4), 3.0)}
    np.testing.assert_allclose(entropy(weights), (np.log(2) + 0 + 2 * np.log(4)) / 4, rtol=1e-6)


def by_definition(eigenvalues, rule):
    """The measurement to return to after these, or -1."""
    last = len(eigenvalues) - 1

    def mean(end):
        return np.mean(eigenvalues[max(0, end - rule.window + 1) : end + 1])

    back = last - rule.window // 2 - rule.lag
    return back if back >= rule.first and mean(last - rule.lag) < rule.ratio * mean(last) else -1


@pytest.mark.parametrize(
    "rule", [EarlyStop(), EarlyStop(5, 3, 0.75, 0), EarlyStop(1, 1, 0.8, 2), EarlyStop(4, 2, 1, 1)]
)
def test_the_rule_of_the_early_stop_is_its_definition(rule):
    random = np.random.default_rng(1)
    ask = jax.jit(lambda history: collapsed(history, rule))
    decisions = []
    for growth in (0.0, 0.05, 0.2):
        values = np.exp(np.cumsum(random.normal(growth, 0.2, size=30))).astype(np.float32)
        history = start_history({"a": jnp.zeros((1, 2))}, 30)
        for number, value in enumerate(values):
            history = record(history, value, {"a": jnp.full((1, 2), float(number))})
            decisions.append(int(ask(history)))
            assert decisions[-1] == by_definition(values[: number + 1], rule)
            if decisions[-1] >= 0:
                assert history.alphas["a"][decisions[-1], 0, 0] == decisions[-1]
    assert min(decisions) == -1 < max(decisions)


def test_a_flat_or_falling_eigenvalue_never_stops_and_a_full_history_takes_no_more():
    history = start_history({"a": jnp.zeros((1, 1))}, 12)
    for value in np.geomspace(4, 1, 12):
        history = record(history, value, {"a": jnp.ones((1, 1))})
        assert collapsed(history, EarlyStop(first=0)) == -1
    full = record(history, 99.0, {"a": jnp.zeros((1, 1))})
    np.testing.assert_array_equal(full.eigenvalues, history.eigenvalues)
    np.testing.assert_array_equal(full.alphas["a"], history.alphas["a"])


def test_a_watched_search_derives_what_the_rule_returns_to():
    inner = darts(NET, sgd(0.1), adam_l2())
    state = jax.jit(watched(inner, 3).init)(jax.random.key(0))
    assert state.history.eigenvalues.shape == (3,)
    archs = [SPACE.sample(jax.random.key(i)) for i in range(3)]
    alphas = [{k: 5 * w for k, w in SPACE.one_hot(arch).items()} for arch in archs]
    history = state.history
    for alpha, value in zip(alphas, (1.0, 1.0, 3.0), strict=True):
        history = record(history, value, alpha)
    state = WatchedState(state.search._replace(alpha=alphas[2]), history)
    rule = EarlyStop(window=1, lag=1, ratio=0.75, first=0)
    derived = {r: watched(inner, 3, r).derive(jax.random.key(0), state, None) for r in (None, rule)}
    np.testing.assert_array_equal(derived[rule], SPACE.canonical(archs[1]))
    np.testing.assert_array_equal(derived[None], SPACE.canonical(archs[2]))
    assert not np.array_equal(*derived.values())


def test_bad_values_are_named():
    inner = darts(NET, sgd(0.1), adam_l2())
    for rule, message in (
        (EarlyStop(window=0), "window must be at least 1, got 0"),
        (EarlyStop(lag=-2), "lag must be at least 1, got -2"),
        (EarlyStop(ratio=1.5), "ratio must be above 0 and at most 1, got 1.5"),
        (EarlyStop(first=-1), "first must not be negative, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            watched(inner, 3, rule)
    with pytest.raises(ValueError, match="measurements must be at least 1, got 0"):
        watched(inner, 0)
    with pytest.raises(ValueError, match="most_products must be at least 1, got 0"):
        make_curvature(NET, most_products=0)


def test_a_measurement_gives_the_same_bits_twice_and_is_drawn(params, tmp_path):
    """What a resumed search measures again: the metrics are to be the same."""
    random = np.random.default_rng(0)
    valid = Examples(random.integers(0, 255, (20, 6, 6, 1), dtype=np.uint8), random.integers(0, 3, 20).astype(np.int32))
    watch = darts_watch.Watch(every=1, eigenvalue_every=2, batches=9, products=4)
    augmentation = Augmentation(0, False, 0, mean=(0.5,), std=(0.25,))
    inner = darts(NET, sgd(0.1), adam_l2())
    state = jax.jit(watched(inner, darts_watch.measurements(watch, 5)).init)(jax.random.key(0))
    measure = darts_watch.make_measure(watch, SPACE, NET, valid, augmentation, 8, jax.random.key(1), CLASSIFICATION)
    epochs = []
    for _ in range(2):
        once, seen = state, []
        for epoch in (1, 2):
            once, values = measure(epoch, once)
            seen.append({"epoch": epoch, **jax.tree.map(float, values)})
        epochs.append(seen)
    assert epochs[0] == epochs[1]
    assert "eigenvalue" not in epochs[0][0]
    assert once.history.made == 1
    assert once.history.eigenvalues[0] == np.float32(epochs[0][1]["eigenvalue"])
    health = darts_watch.told(epochs[0], None)
    assert health["largest_eigenvalue"] == epochs[0][1]["eigenvalue"]
    ((_, name, caption),) = darts_watch.draw_health(epochs[0], health, tmp_path)
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert "Skip connections at the end" in caption
    assert darts_watch.draw_health([{"epoch": 1}], darts_watch.told([{"epoch": 1}], None), tmp_path) == []
