"""A batch in parts: the mean of what the parts give alone, in the memory of one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnas.base import Batch, Context, Skeleton
from jaxnas.networks import accumulated
from jaxnas.search import adam_l2, darts, exact
from jaxnas.spaces import darts_space
from jaxnas.supernets import darts_supernet

OPERATIONS = ("none", "skip_connect", "dil_conv_3x3")
SPACE = darts_space(1, OPERATIONS)
NET = darts_supernet(Skeleton(4, 1, (8, 8, 1), 3), 1, OPERATIONS)
X = jax.random.normal(jax.random.key(0), (12, 8, 8, 1))
LABEL = jnp.arange(12) % 3


@pytest.fixture(scope="module")
def given():
    params = jax.jit(NET.init)(jax.random.key(1))
    weights = {kind: jax.random.uniform(jax.random.key(2), zeros.shape) for kind, zeros in SPACE.template().items()}
    return params, weights


def loss(apply, params, weights, x, label):
    logits, _ = apply(params, weights, x, Context())
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, label).mean()


def test_gradients_are_the_mean_of_those_of_the_parts(given):
    gradient = jax.jit(jax.value_and_grad(loss, (1, 2)), static_argnums=0)
    whole = gradient(accumulated(NET.apply, 3), *given, X, LABEL)
    alone = [gradient(NET.apply, *given, X[part::3], LABEL[part::3]) for part in range(3)]
    expected = jax.tree.map(lambda *leaves: sum(leaves) / 3, *alone)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), whole, expected)


def test_logits_keep_their_order_and_statistics_are_means(given):
    logits, aux = accumulated(NET.apply, 3)(*given, X, Context())
    alone = [NET.apply(*given, X[part::3], Context()) for part in range(3)]
    for part, (own, _) in enumerate(alone):
        np.testing.assert_allclose(logits[part::3], own, rtol=1e-4, atol=1e-5)
    expected = jax.tree.map(lambda *leaves: sum(leaves) / 3, *[own.stats for _, own in alone])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), aux.stats, expected)


def test_a_second_order_step_in_parts_needs_less_memory():
    def temporaries(net):
        algorithm = darts(net, optax.sgd(0.1), adam_l2(), exact(optax.sgd(0.1)))
        x = jnp.zeros((64, 8, 8, 1))
        half = Batch(x, jnp.zeros(64, jnp.int32))
        step = jax.jit(algorithm.phases[0].step, compiler_options={"xla_backend_optimization_level": 0})
        state = jax.eval_shape(algorithm.init, jax.random.key(0))
        program = step.lower(jax.random.key(0), state, {"train": half, "valid": half}).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert temporaries(NET._replace(apply=accumulated(NET.apply, 8))) < 0.5 * temporaries(NET)


def test_wrong_parts_are_told(given):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        accumulated(NET.apply, 0)
    with pytest.raises(ValueError, match="a batch of 12 cannot be cut into 5 parts"):
        accumulated(NET.apply, 5)(*given, X, Context())
