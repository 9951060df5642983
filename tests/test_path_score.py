"""What a path is normalized by when it is scored, and that nothing is scored twice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.base import Aux
from jaxnas.data.dataset import Augmentation, Examples
from jaxnas.train.path_score import CachedScore, make_path_score, recalibrated, running

PLAIN = Augmentation(0, False, 0, (0.5,), (0.25,))
RANDOM = np.random.default_rng(0)
DATA = Examples(RANDOM.integers(0, 256, (24, 4, 4, 1), np.uint8), (np.arange(24) % 3).astype(np.int32))


def toy_path(params, arch, x, context):
    """Two options, images plus or minus; one norm for each; class 1 where the normalized mean is positive."""
    taken = jnp.where(arch[0] == 0, 1.0, -1.0) * params
    values = taken * x.mean((1, 2))  # [B, 1]
    given = None if isinstance(context.bn, str) else context.bn
    seen = (values.mean(0), values.var(0, ddof=1))
    own = seen if given is None else jax.tree.map(lambda *pair: jnp.stack(pair)[arch[0]], *given)
    y = (values - own[0][None]) / jnp.sqrt(own[1][None])
    idle = (jnp.zeros(1), jnp.ones(1))
    stats = [jax.tree.map(lambda a, b, o=o: jnp.where(arch[0] == o, a, b), seen, idle) for o in range(2)]
    return jnp.concatenate([-y, y], 1), Aux(stats if given is None else given)


def toy_values(rows):
    return (DATA.inputs[rows].astype(np.float64) / 255 - 0.5).mean((1, 2, 3)) / 0.25


def chosen(batches, size, seed=0):
    return np.random.RandomState(seed).permutation(24)[: batches * size].reshape(batches, size)


def test_recalibrated_statistics_are_the_mean_of_those_of_the_batches():
    found = recalibrated(toy_path, PLAIN, DATA, 3, 8)(jnp.float32(2.0), jnp.array([1], jnp.int32))
    values = [-2.0 * toy_values(rows) for rows in chosen(3, 8)]
    mean, variance = np.mean([v.mean() for v in values]), np.mean([v.var(ddof=1) for v in values])
    np.testing.assert_allclose(found[1], [[mean], [variance]], rtol=1e-4)
    np.testing.assert_allclose(found[0], [[0.0], [1.0]])  # did not run


def test_running_averages_move_only_what_ran():
    archs = jnp.array([[0], [1], [0], [0]], jnp.int32)
    first, second = running(toy_path, PLAIN, DATA, archs, 8, momentum=0.25)(jnp.float32(2.0))
    values = [2.0 * toy_values(rows) for rows in chosen(3, 8)]
    mean, variance = 0.0, 1.0
    for value in (values[0], values[2], values[0]):  # the first batch again after the last
        mean += 0.25 * (value.mean() - mean)
        variance += 0.25 * (value.var(ddof=1) - variance)
    np.testing.assert_allclose(first, [[mean], [variance]], rtol=1e-4)
    np.testing.assert_allclose(second, [[-0.25 * values[1].mean()], [0.75 + 0.25 * values[1].var(ddof=1)]], rtol=1e-4)


def test_a_score_is_by_the_statistics_that_it_is_given():
    params, archs = jnp.float32(1.0), jnp.array([[0], [1]], jnp.int32)
    labels = (np.arange(24) % 2).astype(np.int32)
    data = Examples(DATA.inputs, labels)
    values = toy_values(np.arange(24))

    def right(center):  # of option 0; option 1 says the opposite
        return np.mean((values > center) == labels)

    whole = make_path_score(toy_path, PLAIN, 24)(params, archs, data)
    np.testing.assert_allclose(whole, [right(values.mean()), 1 - right(values.mean())])
    given = [(jnp.full(1, 0.1), jnp.ones(1)), (jnp.full(1, 0.2), jnp.ones(1))]
    shared = make_path_score(toy_path, PLAIN, 7, lambda params, arch: given)(params, archs, data)
    np.testing.assert_allclose(shared, [right(0.1), 1 - right(-0.2)])
    # Statistics of the very images that are scored, once as the batch's, once recalibrated.
    again = make_path_score(toy_path, PLAIN, 5, recalibrated(toy_path, PLAIN, data, 1, 24))(params, archs, data)
    np.testing.assert_allclose(again, whole)


@pytest.mark.parametrize("kind", ["batch", "recalibrated", "given"])
def test_devices_that_share_the_architectures_find_the_same(kind):
    statistics = {
        "batch": None,
        "recalibrated": recalibrated(toy_path, PLAIN, DATA, 3, 8),
        "given": lambda params, arch: [(jnp.full(1, 0.1), jnp.ones(1)), (jnp.full(1, 0.2), jnp.ones(1))],
    }[kind]
    archs = np.arange(135)[:, None] % 2  # more than a portion of all four
    archs[7] = 1
    params, data = jnp.float32(2.0), Examples(DATA.inputs, (np.arange(24) % 2).astype(np.int32))
    expected = make_path_score(toy_path, PLAIN, 7, statistics)(params, archs[:8], data)
    score = make_path_score(toy_path, PLAIN, 7, statistics, jax.devices()[:4])
    np.testing.assert_allclose(score(params, archs[:8], data), expected)
    np.testing.assert_allclose(score(params, archs, data), expected[archs[:, 0]])
    np.testing.assert_allclose(score(params, archs[:1], data), expected[:1])
    elsewhere = jax.device_put(params, jax.devices()[1])  # as a training over devices leaves them
    np.testing.assert_allclose(score(elsewhere, archs[:1], data), expected[:1])
    assert expected[0] != expected[1]


def test_nothing_is_scored_twice():
    asked = []

    def score(archs):
        asked.append(np.asarray(archs).tolist())
        return np.asarray(archs).sum(axis=1) / 10

    # Canonical: the entries in order, so that two spellings are one architecture.
    cached = CachedScore(score, jnp.sort, {(0, 0): 7.0})
    np.testing.assert_allclose(cached([[2, 1], [1, 2], [0, 0], [3, 3]]), [0.3, 0.3, 7.0, 0.6])
    np.testing.assert_allclose(cached([[3, 3], [2, 1]]), [0.6, 0.3])
    assert asked == [[[1, 2], [3, 3]]]
    assert cached.values == {(0, 0): 7.0, (1, 2): 0.3, (3, 3): 0.6}


def test_numbers_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="4 batches of 8 images are more than the 24 there are"):
        recalibrated(toy_path, PLAIN, DATA, 4, 8)
    with pytest.raises(ValueError, match="batches must be at least 1, got 0"):
        recalibrated(toy_path, PLAIN, DATA, 0, 8)
    with pytest.raises(ValueError, match="devices must be at least one"):
        make_path_score(toy_path, PLAIN, 8, None, [])
    with pytest.raises(ValueError, match="momentum must be in"):
        running(toy_path, PLAIN, DATA, jnp.zeros((1, 1), jnp.int32), 8, momentum=0.0)
