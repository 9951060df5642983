"""Training and evaluating a fixed network: losses, schedules, the optimizer's order, statistics, whole splits."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnas.base import Aux, Batch, Context, Network, Skeleton
from jaxnas.data.augment import normalize
from jaxnas.data.dataset import Augmentation, Examples
from jaxnas.networks import tutorial_cnn
from jaxnas.objectives import classification
from jaxnas.ops import layers
from jaxnas.supernets import darts_supernet
from jaxnas.train import schedules
from jaxnas.train.trainer import confidence_interval, make_evaluate, make_trainer


def small_network(auxiliary=False):
    """Conv, batch norm, ReLU, mean, dense; the auxiliary head, if any, halves the logits."""

    def init(key):
        conv, dense = jax.random.split(key)
        params = {"conv": layers.conv_init(conv, 3, 2, 5), "norm": layers.affine_init(5)}
        return {**params, "dense": layers.dense_init(dense, 5, 3)}, layers.initial_stats(5)

    def apply(params, x, context):
        y, seen = layers.batch_norm(layers.conv(x, params["conv"]), params["norm"], context)
        y = layers.drop_path(y, context)
        logits = layers.dense(jax.nn.relu(y).mean((1, 2)), params["dense"])
        return logits, Aux(seen, logits / 2 if auxiliary else None)

    return Network(init, apply, {})


def random_batch(seed, count=8):
    image, label = jax.random.split(jax.random.key(seed))
    return Batch(jax.random.normal(image, (count, 6, 6, 2)), jax.random.randint(label, (count,), 0, 3))


def test_schedules_are_their_formulas():
    by_step, by_epoch = schedules.cosine(0.025, 0.001, 50), schedules.per_epoch(schedules.cosine(0.025, 0.001, 50), 7)
    for step in (0, 1, 25, 49, 50, 80):
        expected = 0.001 + 0.5 * 0.024 * (1 + math.cos(math.pi * min(step, 50) / 50))
        np.testing.assert_allclose(by_step(step), expected, rtol=1e-5)
        for within in (0, 6):
            np.testing.assert_allclose(by_epoch(jnp.int32(7 * step + within)), expected, rtol=1e-5)
    decay = schedules.step_decay(0.1, 0.97, 3)
    np.testing.assert_allclose([decay(s) for s in (0, 2, 3, 6)], [0.1, 0.1, 0.097, 0.09409], rtol=1e-5)
    for make in (
        lambda: schedules.cosine(1.0, 0.0, 0),
        lambda: schedules.step_decay(1.0, 0.5, 0),
        lambda: schedules.step_decay(1.0, 1.5, 1),
        lambda: schedules.per_epoch(by_step, 0),
        lambda: schedules.plateau(0),
        lambda: schedules.sgd(0.1, clip=0.0),
        lambda: schedules.sgd(0.1, momentum=1.0),
        lambda: schedules.sgd(0.1, weight_decay=-1.0),
    ):
        with pytest.raises(ValueError, match="must"):
            make()


def test_sgd_has_the_order_of_pytorch():
    """Clip, add decay, momentum, minus the rate: six steps written out in numpy, some clipped and some not."""
    random = np.random.default_rng(0)
    values = {"a": random.normal(size=(3, 2)), "b": random.normal(size=4)}
    gradients = [
        {k: s * random.normal(size=v.shape) for k, v in values.items()} for s in (9.0, 0.1, 7.0, 0.2, 1.0, 30.0)
    ]
    rate, decay, momentum, clip = schedules.cosine(0.2, 0.0, 6), 0.05, 0.9, 2.0
    for nesterov in (False, True):
        tx = schedules.sgd(rate, momentum=momentum, weight_decay=decay, clip=clip, nesterov=nesterov)
        params = jax.tree.map(jnp.asarray, jax.tree.map(np.float32, values))
        state = tx.init(params)
        expected = {k: v.copy() for k, v in values.items()}
        buffers = {k: np.zeros_like(v) for k, v in values.items()}
        clipped = []
        for step, gradient in enumerate(gradients):
            updates, state = tx.update(jax.tree.map(jnp.float32, gradient), state, params)
            params = optax.apply_updates(params, updates)
            norm = math.sqrt(sum((g**2).sum() for g in gradient.values()))
            clipped.append(norm > clip)
            for k, g in gradient.items():
                d = g * min(1.0, clip / norm) + decay * expected[k]
                buffers[k] = momentum * buffers[k] + d
                d = d + momentum * buffers[k] if nesterov else buffers[k]
                expected[k] = expected[k] - 0.1 * (1 + math.cos(math.pi * step / 6)) * d
        assert set(clipped) == {True, False}
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), params, expected)


def test_plateau_lowers_the_rate_after_epochs_without_progress():
    # Epochs of two steps with mean losses 2, 1, 1, 1, 0.5: the second epoch in a row that is no better lowers the rate.
    tx = schedules.sgd(
        1.0, momentum=0.0, weight_decay=0.0, clip=None, then=schedules.plateau(2, factor=0.5, patience=2)
    )
    params = jnp.zeros(())
    state, scales = tx.init(params), []
    for loss in (3.0, 1.0, 1.5, 0.5, 0.0, 2.0, 0.9, 1.1, 0.5, 0.5):
        updates, state = tx.update(jnp.ones(()), state, params, value=jnp.float32(loss))
        scales.append(-float(updates))
    assert scales == [1.0] * 7 + [0.5] * 3


def test_running_statistics_are_the_moving_average():
    network = small_network()
    trainer = make_trainer(network, schedules.sgd(0.05), total_steps=4, drop_path=0.0)
    state = trainer.init(jax.random.key(0))
    step = jax.jit(trainer.step)
    mean, variance = np.zeros(5), np.ones(5)
    for n in range(4):
        batch = random_batch(n)
        y = np.asarray(layers.conv(batch.inputs, state.params["conv"]), np.float64).reshape(-1, 5)
        mean, variance = 0.9 * mean + 0.1 * y.mean(0), 0.9 * variance + 0.1 * y.var(0, ddof=1)
        state, info = step(jax.random.key(n), state, batch)
        assert all(jnp.isfinite(value) for value in info)
    assert int(state.step) == 4
    np.testing.assert_allclose(state.stats[0], mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(state.stats[1], variance, rtol=1e-4)
    expected = network.apply(state.params, batch.inputs, Context(state.stats))[0]
    np.testing.assert_allclose(trainer.predict(state, batch.inputs), expected, rtol=1e-5)


def test_step_minimizes_what_it_reports():
    """One plain gradient step on the auxiliary-weighted, smoothed loss; info names that loss, metric and norm."""
    network = small_network(auxiliary=True)
    trainer = make_trainer(
        network, optax.sgd(0.1), total_steps=1, auxiliary_weight=0.7, objective=classification(0.2), drop_path=0.0
    )
    state, batch = trainer.init(jax.random.key(0)), random_batch(0)

    def objective(params):
        logits, _ = network.apply(params, batch.inputs, Context())
        smooth = 0.8 * jax.nn.one_hot(batch.targets, 3) + 0.2 / 3
        both = jax.nn.log_softmax(logits) + 0.7 * jax.nn.log_softmax(logits / 2)
        return -(smooth * both).sum(1).mean(), (logits.argmax(1) == batch.targets).mean()

    (loss, accuracy), gradient = jax.jit(jax.value_and_grad(objective, has_aux=True))(state.params)
    after, info = jax.jit(trainer.step)(jax.random.key(1), state, batch)
    np.testing.assert_allclose(info, (loss, accuracy, optax.tree.norm(gradient)), rtol=1e-4)
    jax.tree.map(
        lambda new, old, g: np.testing.assert_allclose(new, old - 0.1 * g, rtol=1e-4, atol=1e-6),
        after.params,
        state.params,
        gradient,
    )


def test_drop_path_grows_with_the_steps():
    """At step 0 nothing is dropped whatever the key; later keys matter."""
    trainer = make_trainer(small_network(), optax.sgd(0.0), total_steps=2, drop_path=0.8)
    state, batch = trainer.init(jax.random.key(0)), random_batch(0)
    step = jax.jit(trainer.step)
    first = [float(step(jax.random.key(k), state, batch)[1].loss) for k in range(3)]
    later = [float(step(jax.random.key(k), state._replace(step=jnp.int32(1)), batch)[1].loss) for k in range(3)]
    assert len(set(first)) == 1
    assert len(set(later)) == 3


def test_spread_over_an_axis_it_is_the_same_step():
    batch = random_batch(3, 8)
    plain = make_trainer(small_network(), schedules.sgd(0.1), total_steps=5, drop_path=0.0)
    spread = make_trainer(small_network(), schedules.sgd(0.1), total_steps=5, drop_path=0.0, axis_name="data")
    state = plain.init(jax.random.key(0))
    expected = plain.step(jax.random.key(1), state, batch)
    halves = jax.tree.map(lambda leaf: leaf.reshape(2, 4, *leaf.shape[1:]), batch)
    got = jax.vmap(spread.step, (None, None, 0), axis_name="data")(jax.random.key(1), state, halves)
    for device in (0, 1):
        jax.tree.map(lambda a, b, d=device: np.testing.assert_allclose(a[d], b, rtol=1e-4, atol=1e-5), got, expected)


@pytest.mark.parametrize(
    "wrong",
    [
        {"total_steps": 0},
        {"total_steps": 1, "auxiliary_weight": -1.0},
        {"total_steps": 1, "drop_path": 1.0},
        {"total_steps": 1, "momentum": 0.0},
    ],
)
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="must"):
        make_trainer(small_network(), optax.sgd(0.1), **wrong)


def test_evaluation_counts_every_example_once_and_compiles_once():
    augmentation = Augmentation(shift=1, flip=True, cutout=2, mean=(0.4,), std=(0.3,))
    random = np.random.default_rng(0)

    def split(count):
        images = random.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)
        return Examples(images, random.integers(0, 4, count).astype(np.int32))

    network = tutorial_cnn((8, 8, 1), 4)
    traces = []

    def predict(params, x):
        traces.append(x.shape)
        return network.apply(params, x, Context(()))[0]

    params = network.init(jax.random.key(0))[0]
    apply = jax.jit(lambda x: network.apply(params, x, Context(()))[0])
    evaluate = make_evaluate(predict, augmentation, 16)
    for data in (split(37), split(16), split(5)):
        result = evaluate(params, data)
        logits = apply(normalize(jnp.asarray(data.inputs), (0.4,), (0.3,)))
        correct = int((np.argmax(logits, 1) == data.targets).sum())
        assert (result.correct, result.total) == (correct, len(data.targets))
        assert result.metric == correct / len(data.targets)
        loss = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), data.targets[:, None], 1).mean()
        np.testing.assert_allclose(result.loss, loss, rtol=1e-5)
    assert traces == [(16, 8, 8, 1)]
    with pytest.raises(ValueError, match="batch_size"):
        make_evaluate(predict, augmentation, 0)


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17:857, table I, the score method without continuity correction.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 1 - 0.1611, 1.0),
    ],
)
def test_confidence_interval_is_wilsons(correct, total, low, high):
    np.testing.assert_allclose(confidence_interval(correct, total), (low, high), atol=5e-5)


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (3, 2), (-1, 2)])
def test_confidence_interval_of_nothing_is_refused(correct, total):
    with pytest.raises(ValueError, match="correct"):
        confidence_interval(correct, total)


def test_one_compiled_step_teaches_several_architectures():
    """Two paths of a supernet each learn 32 random images by heart."""
    operations = ("skip_connect", "max_pool_3x3", "sep_conv_3x3", "nor_conv_1x1")
    network = darts_supernet(Skeleton(4, 3, (8, 8, 1), 4), 2, operations, affine=True)
    trainer = make_trainer(network, schedules.sgd(0.1, weight_decay=0.0), total_steps=1000, drop_path=0.0)
    traces = []

    @jax.jit
    def step(state, batch):
        traces.append(state)
        return trainer.step(jax.random.key(0), state, batch)

    image, label = jax.random.split(jax.random.key(5))
    batch = Batch(jax.random.normal(image, (32, 8, 8, 1)), jax.random.randint(label, (32,), 0, 4))
    init = jax.jit(trainer.init)
    for seed in (0, 1):
        arch = network.space.sample(jax.random.key(seed))
        state = init(jax.random.key(2), arch)
        for _ in range(120):
            state, info = step(state, batch)
        assert float(info.metric) == 1.0, (seed, info)
        np.testing.assert_array_equal(state.arch, arch)
    assert len(traces) == 1
    with pytest.raises(ValueError, match="architecture"):
        trainer.init(jax.random.key(0))
    with pytest.raises(ValueError, match="architecture"):
        make_trainer(small_network(), optax.sgd(0.1), total_steps=1).init(jax.random.key(0), arch)
