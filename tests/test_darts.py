"""DARTS on a small real supernet."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.base import Batch, Context, Skeleton
from jaxnas.search import adam_l2, darts, exact, finite_difference
from jaxnas.spaces import darts_space
from jaxnas.supernets import darts_supernet
from jaxnas.train.schedules import cosine, sgd

OPERATIONS = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3")
SPACE = darts_space(1, OPERATIONS)
SKELETON = Skeleton(channels=4, cells=2, image_shape=(6, 6, 1), num_classes=3)
OPTIMIZER = sgd(cosine(0.1, 0.0, 20), momentum=0.9, weight_decay=1e-2, clip=1.0)


def batches(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(5), 4)
    return {
        name: Batch(
            jax.random.normal(keys[2 * i], (8, 6, 6, 1), dtype), jax.random.randint(keys[2 * i + 1], (8,), 0, 3)
        )
        for i, name in enumerate(("train", "valid"))
    }


def test_exact_and_difference_agree_on_a_real_cell_in_double_precision():
    with jax.enable_x64(True):
        net = darts_supernet(dataclasses.replace(SKELETON, dtype="float64"), 1, OPERATIONS, form="scan")
        params = jax.tree.map(lambda p: p.astype(jnp.float64), jax.jit(net.init)(jax.random.key(0)))
        alpha = {k: jax.random.normal(jax.random.key(i), v.shape) for i, (k, v) in enumerate(SPACE.template().items())}
        data = batches(jnp.float64)

        def loss(params, alpha, batch, key, wanted):
            del key, wanted
            weights = {k: jax.nn.softmax(a) for k, a in alpha.items()}
            logits, _ = net.apply(params, weights, batch.inputs, Context())
            return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), batch.targets[:, None], 1)), None

        state = OPTIMIZER.init(params)

        @jax.jit
        def both(params, alpha, state):
            methods = (exact(OPTIMIZER), finite_difference(OPTIMIZER, 1e-6))
            return [
                m(
                    loss,
                    loss,
                    params,
                    alpha,
                    state,
                    data["train"],
                    data["valid"],
                    jax.random.key(9),
                    lambda g: (alpha, ()),
                ).hypergradient
                for m in methods
            ]

        one, other = both(params, alpha, state)
        for kind in one:
            np.testing.assert_allclose(one[kind], other[kind], rtol=1e-5, atol=1e-8)


@pytest.fixture(scope="module")
def searched():
    algorithm = darts(
        darts_supernet(SKELETON, 1, OPERATIONS),
        OPTIMIZER,
        adam_l2(0.1),
        warmup_steps=2,
    )
    state = jax.jit(algorithm.init)(jax.random.key(0))
    step = jax.jit(algorithm.phases[0].step)
    states, infos = [state], []
    for i in range(12):
        state, info = step(jax.random.key(i + 1), state, batches())
        states.append(state)
        infos.append(info)
    return algorithm, states, infos


def test_warmup_moves_the_weights_alone(searched):
    _, states, _ = searched
    for kind in states[0].alpha:
        np.testing.assert_array_equal(states[2].alpha[kind], states[0].alpha[kind])
        assert np.abs(states[3].alpha[kind] - states[2].alpha[kind]).max() > 1e-3
    assert np.abs(states[1].params["classifier"]["kernel"] - states[0].params["classifier"]["kernel"]).max() > 0


def test_a_search_learns_and_decides(searched):
    algorithm, states, infos = searched
    assert infos[-1].train_loss < infos[0].train_loss
    np.testing.assert_allclose(infos[0].entropy, np.log(len(OPERATIONS)), atol=1e-3)
    assert infos[-1].entropy < infos[0].entropy
    arch = algorithm.derive(jax.random.key(0), states[-1], None)
    expected = SPACE.discretize({k: jax.nn.softmax(a) for k, a in states[-1].alpha.items()})
    np.testing.assert_array_equal(arch, expected)


def test_the_factory_refuses_bad_values():
    net = darts_supernet(SKELETON, 1, OPERATIONS)
    with pytest.raises(ValueError, match="warmup_steps must not be negative, got -1"):
        darts(net, OPTIMIZER, adam_l2(), warmup_steps=-1)
