"""Splits, batches as a function of (key, step), and augmentation on the device."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import data
from jaxnas.data.pipeline import permuted
from jaxnas.parallel import data_parallel

IDENTITY = data.Augmentation(shift=0, flip=False, cutout=0, mean=(0.0,), std=(1.0,))


def numbered(size):
    """A split whose images hold their own number, in two bytes."""
    number = np.arange(size)
    images = np.stack([number // 256, number % 256], axis=1).astype(np.uint8).reshape(size, 1, 2, 1)
    return data.Examples(images, number.astype(np.int32))


def small_dataset(valid=False):
    labels = np.repeat(np.arange(3), [100, 50, 30]).astype(np.int32)
    examples = numbered(len(labels))
    part = data.Examples(examples.inputs, labels)
    own = data.Examples(part.inputs[:9], labels[:9]) if valid else None
    return data.Dataset("x", part, part, ("a", "b", "c"), IDENTITY, own)


@pytest.mark.parametrize(("fraction", "counts"), [(0.5, [50, 25, 15]), (0.1, [10, 5, 3]), (0.25, [25, 12, 8])])
def test_split_is_disjoint_and_stratified(fraction, counts):
    dataset = small_dataset()
    train, valid = data.split(dataset, 7, fraction)
    kept, held = ({tuple(i.ravel().tolist()) for i in part.inputs} for part in (train, valid))
    assert not kept & held
    assert len(kept | held) == 180
    assert abs(np.bincount(valid.targets) - counts).max() <= 1
    assert len(valid.targets) == round(180 * fraction)
    for part in (train, valid):
        number = part.inputs[:, 0, 0, 0].astype(int) * 256 + part.inputs[:, 0, 1, 0]
        np.testing.assert_array_equal(part.targets, dataset.train.targets[number])


def test_split_is_seeded():
    dataset = small_dataset()
    one, same, other = (data.split(dataset, seed).valid.inputs for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_split_of_a_set_with_its_own_validation_part():
    dataset = small_dataset(valid=True)
    for seed, fraction in ((0, 0.5), (1, 0.1)):
        train, valid = data.split(dataset, seed, fraction)
        assert train.inputs is dataset.train.inputs
        assert valid.inputs is dataset.valid.inputs
    train, valid = data.split(dataset, 0, 0)
    assert (len(train.targets), valid) == (189, None)
    assert data.split(small_dataset(), 0, 0).valid is None
    with pytest.raises(ValueError, match=r"in \[0, 1\), got 1"):
        data.split(dataset, 0, 1.0)


def test_hold_out_leaves_each_class_one():
    labels = np.array([0, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2])
    for count in range(1, 10):
        kept, held = data.hold_out(labels, count, 0)
        assert len(held) == count
        assert sorted([*kept, *held]) == list(range(12))
        assert set(labels[kept]) == {0, 1, 2}
    with pytest.raises(ValueError, match=r"can hold out 1 to 9 of 12 examples, .* got 10"):
        data.hold_out(labels, 10, 0)


def test_a_limit_takes_the_first_or_of_classes_in_turn_a_share_of_each():
    examples = numbered(60)
    mixed = examples._replace(targets=np.arange(60, dtype=np.int32) % 3)
    assert data.limited(mixed, 60) is mixed
    np.testing.assert_array_equal(data.limited(mixed, 7).inputs, mixed.inputs[:7])
    sorted_by_class = examples._replace(targets=np.repeat(np.arange(3), [30, 20, 10]).astype(np.int32))
    found = data.limited(sorted_by_class, 12)
    assert np.bincount(found.targets).tolist() == [6, 4, 2]
    np.testing.assert_array_equal(found.targets, sorted_by_class.targets[found.inputs[:, 0, 1, 0]])
    with pytest.raises(data.DataError, match="a limit of 2 images cannot have one of each of the 3 classes"):
        data.limited(sorted_by_class, 2)
    with pytest.raises(data.DataError, match="leaves 0 of 60 images"):
        data.limited(mixed, 0)


@pytest.mark.parametrize("size", [1, 2, 3, 37, 256])
def test_permuted_is_a_permutation(size):
    keys = jax.random.split(jax.random.key(0), 5)
    found = jax.vmap(lambda key: permuted(key, jnp.arange(size), size))(keys)
    np.testing.assert_array_equal(np.sort(found, axis=1), np.tile(np.arange(size), (5, 1)))


def test_permutations_are_equally_likely():
    size, draws = 4, 24_000
    keys = jax.random.split(jax.random.key(1), draws)
    found = np.asarray(jax.jit(jax.vmap(lambda key: permuted(key, jnp.arange(size), size)))(keys))
    _, counts = np.unique(found, axis=0, return_counts=True)
    assert len(counts) == 24
    # Chi-square with 23 degrees of freedom exceeds 58 with probability 1e-4.
    assert ((counts - draws / 24) ** 2 / (draws / 24)).sum() < 58


def test_permutation_keeps_no_neighbors():
    size = 1000
    keys = jax.random.split(jax.random.key(2), 50)
    found = np.asarray(jax.vmap(lambda key: permuted(key, jnp.arange(size), size))(keys))
    # 49,950 differences of neighbors in 10 equal bins: six standard deviations of the binomial are 402.
    counts = np.histogram(np.diff(found, axis=1) % size, bins=10, range=(1, size))[0]
    assert np.abs(counts - 4995).max() < 400
    assert abs((found == np.arange(size)).sum() / 50 - 1) < 1


def test_each_epoch_visits_every_example_once():
    size, batch_size = 24, 8
    step = jax.jit(chex.assert_max_traces(lambda key, step: data.indices(key, step, size, batch_size), n=1))
    key = jax.random.key(3)
    epochs = [np.concatenate([step(key, 3 * epoch + i) for i in range(3)]) for epoch in range(3)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(size))
    assert (epochs[0] != epochs[1]).any()
    assert (epochs[1] != epochs[2]).any()


def test_rest_of_an_epoch_is_left_out_and_never_twice():
    chosen = np.concatenate([data.indices(jax.random.key(4), i, 10, 4) for i in range(2)])
    assert len(set(chosen.tolist())) == 8


def test_batches_depend_on_key_and_step_alone():
    examples = numbered(12)
    augmentation = data.Augmentation(shift=1, flip=True, cutout=0, mean=(0.2,), std=(0.5,))
    batches = jax.jit(data.make_batches(12, 4, augmentation))
    on_device = data.Examples(*map(jnp.asarray, examples))
    key = jax.random.key(5)
    run = [batches(key, step, on_device) for step in range(6)]
    again = batches(jax.random.key(5), jnp.int32(4), on_device)
    chex.assert_trees_all_equal(run[4], again)
    assert run[4].inputs.dtype == jnp.float32
    assert run[4].targets.dtype == jnp.int32
    labels = np.stack([batch.targets for batch in run]).reshape(2, 12)
    np.testing.assert_array_equal(np.sort(labels, axis=1), np.tile(np.arange(12), (2, 1)))
    assert (batches(jax.random.key(6), 4, on_device).targets != again.targets).any()


def test_64_bits_by_default_change_no_batch():
    augmentation = data.Augmentation(shift=1, flip=True, cutout=2, mean=(0.2,), std=(0.5,))
    batches = data.make_batches(12, 4, augmentation, cutout=True)
    on_device = data.Examples(*map(jnp.asarray, numbered(12)))
    found = batches(jax.random.key(5), 4, on_device)
    with jax.enable_x64(True):
        again = batches(jax.random.key(5), 4, on_device)
    chex.assert_trees_all_equal(found, again)
    chex.assert_trees_all_equal_dtypes(found, again)


def test_scan_over_steps_gives_the_same_batches():
    batches = data.make_batches(12, 4, IDENTITY)
    on_device = data.Examples(*map(jnp.asarray, numbered(12)))
    key = jax.random.key(7)
    scanned = jax.lax.scan(lambda c, step: (c, batches(key, step, on_device)), None, jnp.arange(4))[1]
    for step in range(4):
        chex.assert_trees_all_equal(jax.tree.map(lambda x, i=step: x[i], scanned), batches(key, step, on_device))


def test_batches_without_augmentation_have_matching_images_and_labels():
    on_device = data.Examples(*map(jnp.asarray, numbered(300)))
    batch = data.make_batches(300, 64, IDENTITY, train=False)(jax.random.key(8), 0, on_device)
    number = np.round(np.asarray(batch.inputs) * 255).astype(int)
    np.testing.assert_array_equal(number[:, 0, 0, 0] * 256 + number[:, 0, 1, 0], batch.targets)


def test_what_fills_a_split_up_for_its_devices_is_not_drawn():
    placed = data_parallel("sharded").place_data(numbered(10))
    assert len(placed.targets) == 12
    batch = jax.jit(data.make_batches(10, 5, IDENTITY))
    for step in range(2):
        found = batch(jax.random.key(0), step, placed)
        chex.assert_trees_all_equal(*map(jax.device_get, (found, batch(jax.random.key(0), step, numbered(10)))))


def test_wrong_batches():
    with pytest.raises(ValueError, match="batch_size 13 is larger than the split, which has 12 examples"):
        data.make_batches(12, 13, IDENTITY)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        data.make_batches(12, 0, IDENTITY)
    with pytest.raises(ValueError, match="cutout"):
        data.make_batches(12, 4, IDENTITY, train=False, cutout=True)
    with pytest.raises(ValueError, match="for a split of 12 examples, got 10"):
        data.make_batches(12, 4, IDENTITY)(jax.random.key(0), 0, numbered(10))


@pytest.mark.parametrize(("size", "batch_size", "count"), [(10, 4, 3), (8, 4, 2), (3, 5, 1)])
def test_evaluation_counts_each_example_once(size, batch_size, count):
    chosen, weights = data.eval_batches(size, batch_size)
    assert chosen.shape == weights.shape == (count, batch_size)
    np.testing.assert_array_equal(np.bincount(chosen.ravel(), weights.ravel(), minlength=size), np.ones(size))


def test_crop_against_a_loop():
    images = np.random.RandomState(0).randint(1, 256, (40, 5, 7, 2)).astype(np.uint8)
    found = np.asarray(data.random_crop(jax.random.key(0), jnp.asarray(images), 2))
    assert found.dtype == np.uint8
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    corners = []
    for image, crop in zip(padded, found, strict=True):
        windows = [(y, x) for y in range(5) for x in range(5) if (image[y : y + 5, x : x + 7] == crop).all()]
        assert len(windows) == 1
        corners += windows
    rows, columns = zip(*corners, strict=True)
    assert set(rows) == set(columns) == set(range(5))
    assert rows != columns


def test_flip_is_per_image_and_fair():
    images = np.random.RandomState(1).randint(0, 256, (1000, 2, 3, 1)).astype(np.uint8)
    found = np.asarray(data.random_flip(jax.random.key(1), jnp.asarray(images)))
    same = (found == images).all(axis=(1, 2, 3))
    mirrored = (found == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same | mirrored).all()
    assert 420 < mirrored.sum() < 580


@pytest.mark.parametrize("size", [1, 3, 4])
def test_cutout_zeroes_one_square_with_its_centre_in_the_image(size):
    height, width = 6, 5
    found = np.asarray(data.cutout(jax.random.key(2), jnp.ones((600, height, width, 2)), size))
    np.testing.assert_array_equal(found[..., 0], found[..., 1])
    allowed = {}
    for y in range(height):
        for x in range(width):
            expected = np.ones((height, width), np.float32)
            top, left = y - size // 2, x - size // 2
            expected[max(0, top) : top + size, max(0, left) : left + size] = 0
            allowed.setdefault(expected.tobytes(), 0)
            allowed[expected.tobytes()] += 1
    seen = [image.tobytes() for image in found[..., 0]]
    # Every center comes, those at the borders with a square that is cut off.
    assert set(seen) == set(allowed)
    for mask, ways in allowed.items():
        assert abs(seen.count(mask) - 20 * ways) < 6 * (20 * ways) ** 0.5


def test_normalize_closed_form():
    images = jnp.asarray([0, 51, 255, 102], jnp.uint8).reshape(1, 1, 2, 2)
    found = data.normalize(images, (0.2, 0.5), (0.5, 0.25))
    assert found.dtype == jnp.float32
    expected = np.array([[(0 - 0.2) / 0.5, (0.2 - 0.5) / 0.25], [(1 - 0.2) / 0.5, (0.4 - 0.5) / 0.25]])
    np.testing.assert_allclose(found[0, 0], expected, rtol=1e-6)


def test_augment_applies_what_the_data_set_allows():
    images = jnp.full((16, 8, 8, 1), 255, jnp.uint8)
    augmentation = data.Augmentation(shift=2, flip=True, cutout=4, mean=(0.5,), std=(0.5,))
    plain = data.augment(jax.random.key(3), images, augmentation, cutout=False)
    # White images: one inside, minus one where black padding came in, zero only by cutout.
    assert set(np.unique(plain)) == {-1.0, 1.0}
    cut = data.augment(jax.random.key(3), images, augmentation, cutout=True)
    zeros = (np.asarray(cut) == 0).sum(axis=(1, 2, 3))
    assert zeros.min() >= 4
    assert zeros.max() <= 16
    np.testing.assert_array_equal(np.where(cut == 0, plain, cut), plain)
    untouched = data.augment(jax.random.key(3), images, IDENTITY, cutout=True)
    np.testing.assert_array_equal(untouched, np.ones((16, 8, 8, 1)))


@pytest.mark.parametrize("wrong", [{"shift": -1}, {"cutout": -2}, {"std": (0.0,)}, {"mean": (0.1, 0.2)}])
def test_wrong_augmentation(wrong):
    with pytest.raises(ValueError, match=r"must be|need"):
        data.Augmentation(**{"shift": 0, "flip": False, "cutout": 0, "mean": (0.0,), "std": (1.0,)} | wrong)
