"""What a mixture adds up, against batch norms one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.kernels.mixing import Places, Terms, mixed
from jaxnas.kernels.platform import supposing
from jaxnas.ops import layers

SOURCES, TARGETS, OPERATIONS, CHANNELS = 2, 3, 5, 2
# In the first array the edges have all targets in turn, in the second target 1 has no edge of its own.
PLACES = Places(own=(tuple((target, o) for o in (0, 3) for target in range(TARGETS)), ((0, 1), (2, 1))), common=(2, 4))


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


TERMS = Terms(
    own=tuple(2 + 3 * normal(i, SOURCES, len(pairs), 4, 3, 3, CHANNELS) for i, pairs in enumerate(PLACES.own)),
    shared=(1 + normal(2, 1, SOURCES, 4, 3, 3, CHANNELS),),
    plain=(normal(3, SOURCES, 4, 3, 3, CHANNELS),),
)
WEIGHTS = jnp.broadcast_to(normal(4, SOURCES, TARGETS, OPERATIONS, 1), (SOURCES, TARGETS, OPERATIONS, CHANNELS))


def one_by_one(terms, weights):
    def norm(x):
        return layers.batch_norm(x)[0]

    outputs = []
    for target in range(TARGETS):
        total = 0.0
        for s in range(SOURCES):
            scales = jnp.broadcast_to(weights[s, target][:, None, None, None], (OPERATIONS, 4, 3, 3, CHANNELS))
            for pairs, array in zip(PLACES.own, terms.own, strict=True):
                for k, (to, o) in enumerate(pairs):
                    total += norm(array[s, k]) * scales[o] if to == target else 0.0
            total += norm(terms.shared[0][0, s]) * scales[2] + terms.plain[0][s] * scales[4]
        outputs.append(total)
    return jnp.stack(outputs)


@pytest.fixture(scope="module")
def expected():
    """The outputs, a cotangent, and what it gives."""
    outputs, pull = jax.vjp(one_by_one, TERMS, WEIGHTS)
    g = jnp.sin(3 * outputs)
    return outputs, g, pull(g)


def close(ours, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, expected)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_sums_and_gradients_are_those_of_batch_norms_one_by_one(platform, expected):
    outputs, g, pulled = expected
    with supposing(platform):
        ours, pull = jax.vjp(lambda terms, weights: mixed(PLACES, None, terms, weights), TERMS, WEIGHTS)
        close((ours, pull(g)), (outputs, pulled))


def test_gradients_of_the_arrays_alone_are_the_same(expected):
    _, g, (to_terms, _) = expected
    with supposing("gpu"):
        _, pull = jax.vjp(lambda terms: mixed(PLACES, None, terms, WEIGHTS), TERMS)
        close(pull(g)[0], to_terms)
        kept = [leaf.shape for leaf in jax.tree.leaves(pull)]
    assert TERMS.plain[0].shape not in kept  # they need not be kept for it


def test_over_several_devices_the_statistics_are_those_of_the_whole_batch(expected):
    outputs, g, (to_terms, to_weights) = expected

    def halves(array):
        return jnp.moveaxis(array.reshape(*array.shape[:-4], 2, 2, *array.shape[-3:]), -5, 0)

    def whole(array):
        array = jnp.moveaxis(array, 0, -5)
        return array.reshape(*array.shape[:-5], 4, *array.shape[-3:])

    def device(terms, g):
        ours, pull = jax.vjp(lambda terms, weights: mixed(PLACES, "devices", terms, weights), terms, WEIGHTS)
        return ours, *pull(g)

    with supposing("gpu"):
        ours, of_terms, of_weights = jax.vmap(device, axis_name="devices")(jax.tree.map(halves, TERMS), halves(g))
    close((whole(ours), jax.tree.map(whole, of_terms), of_weights.sum(0)), (outputs, to_terms, to_weights))
