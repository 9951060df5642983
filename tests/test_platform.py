"""What a GPU is given, run by a CPU, has the values of the CPU's forms; supernets are in test_supernets.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.base import Batch, Skeleton
from jaxnas.kernels.platform import by_platform, platform, supposing
from jaxnas.networks import darts_network
from jaxnas.ops.layers import conv
from jaxnas.parallel import many_seeds
from jaxnas.relax import softmax
from jaxnas.search import Variant, adam_l2, darts, exact, finite_difference, first_order
from jaxnas.spaces import darts_space
from jaxnas.supernets import darts_supernet
from jaxnas.supernets.executors import default_form
from jaxnas.train.schedules import sgd
from jaxnas.train.trainer import make_trainer

OPERATIONS = ("none", "skip_connect", "max_pool_3x3", "sep_conv_3x3")
METHODS = {"first": lambda tx: first_order(), "exact": exact, "difference": finite_difference}


def batch(seed):
    return Batch(jax.random.normal(jax.random.key(seed), (4, 6, 6, 2)), jnp.arange(4) % 3)


def close(ours, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=5e-3, atol=5e-3 * (np.abs(b).max() + 1e-3)), ours, expected
    )


def test_the_supposed_platform_decides_also_where_a_function_was_traced_before():
    traced = jax.jit(lambda x: by_platform(x, cpu=lambda x: x + 1, tpu=lambda x: x + 2, default=lambda x: x + 3))

    def seen():
        return platform(), float(traced(0.0)), default_form()

    assert seen() == ("cpu", 1, "wide")
    with supposing("gpu"):
        assert seen() == ("gpu", 3, "staged")
        with supposing("tpu"):
            assert seen() == ("tpu", 2, "pairs")  # of several devices
        assert seen() == ("gpu", 3, "staged")
    with pytest.raises(KeyError), supposing("gpu"):
        raise KeyError
    assert seen() == ("cpu", 1, "wide")


@pytest.mark.parametrize(("side", "stride"), [(9, 1), (9, 2), (4, 1)])
def test_a_dense_convolution_is_the_same_on_a_gpu(side, stride):
    """Of images that are small and of others, which have forms of their own; larger than those of the other tests."""
    x = jax.random.normal(jax.random.key(0), (2, side, side, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 4))
    derivatives = jax.jit(jax.value_and_grad(lambda x, kernel: jnp.sum(jnp.sin(conv(x, kernel, stride))), (0, 1)))
    expected = derivatives(x, kernel)
    with supposing("gpu"):
        close(derivatives(x, kernel), expected)


def search(method, seeds=None):
    """A step of DARTS, or of it for some seeds at once: the state after it and what it tells."""
    tx = sgd(0.05, momentum=0.9, clip=1.0)
    supernet = darts_supernet(Skeleton(2, 1, (6, 6, 2), 3), 2, OPERATIONS)
    algorithm = darts(supernet, tx, adam_l2(), method(tx), variant=Variant(softmax(1.0)))
    step, batches = algorithm.phases[0].step, {"train": batch(0), "valid": batch(1)}
    key, init = jax.random.key(0), algorithm.init
    if seeds is not None:
        key, init = jax.random.split(key, seeds.number), jax.vmap(init)
        step = seeds.lift(lambda state, key, index, data: algorithm.phases[0].step(key, state, data))
        state, info = jax.jit(step)(jax.jit(init)(key), jax.random.clone(key), jnp.int32(0), batches)
    else:
        state, info = jax.jit(step)(jax.random.key(1), jax.jit(init)(key), batches)
    # Adam's first step tells the signs of the gradients alone, also of those that are nothing but rounding. What it
    # keeps is the gradients.
    return state._replace(alpha=None), info


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_search_step_is_the_same_on_a_gpu(method):
    """Passes in turn instead of in a loop, the edges of a source together."""
    expected = search(method)
    with supposing("gpu"):
        close(search(method), expected)
    assert expected[1].alpha_gradient > 1e-3


def test_seeds_are_the_same_on_a_gpu():
    """Side by side in a GPU's forms, which is what a GPU takes, and one after another in a CPU's."""
    expected = search(METHODS["first"], many_seeds(2, "map"))
    with supposing("gpu"):
        close(search(METHODS["first"], many_seeds(2, "vmap")), expected)


def test_a_training_step_of_a_found_network_is_the_same_on_a_gpu():
    space = darts_space()
    network = darts_network(space.from_genotype("DARTS_V2"), Skeleton(2, 1, (6, 6, 2), 3), space)
    rule = make_trainer(network, sgd(0.05, momentum=0.9, clip=1.0), total_steps=10)

    def run():
        state = jax.jit(rule.init)(jax.random.key(0))
        return jax.jit(rule.step)(jax.random.key(1), state, batch(0))

    expected = run()
    with supposing("gpu"):
        close(run(), expected)
