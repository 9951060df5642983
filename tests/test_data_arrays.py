"""Data sets of arrays in memory: what they become, how they are divided and drawn, and what is refused."""

import jax
import numpy as np
import pytest

from jaxnas import data
from jaxnas.objectives import regression

RANDOM = np.random.default_rng(0)
ROWS = {"numbers": RANDOM.normal(size=(40, 3)), "kind": RANDOM.integers(0, 5, 40)}
TARGETS = 2.0 * ROWS["numbers"][:, 0] + ROWS["kind"]
CLASSES = np.repeat(np.arange(2), 20)


def rows(chosen=slice(None)):
    return {name: array[chosen] for name, array in ROWS.items()}


def test_any_pytree_of_numbers_is_a_data_set():
    made = data.from_arrays((rows(), TARGETS), (rows(slice(7)), TARGETS[:7]), name="table")
    assert (made.objective.name, made.num_outputs, made.augmentation) == (regression().name, 1, None)
    assert {leaf.dtype for leaf in jax.tree.leaves(made.train)} == {np.dtype(np.float32), np.dtype(np.int32)}
    assert made.summary() == {
        "examples": {"train": 40, "test": 7},
        "origins": {"train": "train", "test": "test"},
        "not_read": [],
        "targets": ["float32 []"],
        "inputs": ["['kind'] int32 []", "['numbers'] float32 [3]"],
    }
    assert made.told() == (
        "table: examples 40 train (train), 7 test (test), validation is a part of train; targets float32 [], inputs "
        "['kind'] int32 [], ['numbers'] float32 [3]"
    )
    for wrong in ("image_shape", "num_classes"):
        with pytest.raises(ValueError, match="table has no"):
            getattr(made, wrong)
    batch = data.make_batches(40, 40, made.augmentation)(jax.random.key(0), 0, made.train)
    np.testing.assert_allclose(batch.targets, 2.0 * batch.inputs["numbers"][:, 0] + batch.inputs["kind"], rtol=1e-5)
    assert batch.inputs["kind"].dtype == np.int32
    np.testing.assert_array_equal(np.sort(batch.targets), np.sort(made.train.targets))


def test_integers_are_classes_and_uint8_images_are_images():
    made = data.from_arrays((rows(), CLASSES))
    assert (made.class_names, made.objective.name, made.num_outputs) == (("0", "1"), "accuracy", 2)
    parts = made.parts()
    assert {part: np.bincount(own.targets).tolist() for part, own in parts.items()} == {
        "train": [16] * 2,
        "test": [4] * 2,
    }
    assert made.origins["test"] == "a fifth of train"
    pixels = RANDOM.integers(0, 256, (40, 8, 8, 3), np.uint8)
    images = data.from_arrays((pixels, CLASSES == 1), (pixels, CLASSES == 1), class_names=["no", "yes"])
    assert (images.image_shape, images.num_classes) == ((8, 8, 3), 2)
    assert (images.augmentation.shift, images.augmentation.flip, images.augmentation.cutout) == (1, False, 4)
    assert images.summary()["images"] == {"train": 40, "test": 40}
    numbers = data.from_arrays((pixels, np.zeros((40, 2))), (pixels, np.zeros((40, 2))))  # of images, two numbers each
    assert (numbers.objective.name, numbers.num_outputs, numbers.image_shape) == (regression().name, 2, (8, 8, 3))


def test_examples_without_classes_are_divided_and_limited_at_random():
    ordered = np.arange(40.0)
    made = data.from_arrays((ordered[:, None], ordered), (ordered[:, None], ordered))
    train, valid = data.split(made, 0, 0.25)
    assert (data.count(train), data.count(valid)) == (30, 10)
    assert sorted([*train.targets, *valid.targets]) == ordered.tolist()
    np.testing.assert_array_equal(valid.inputs[:, 0], valid.targets)
    for few in (valid, data.limited(made.train, 10)):
        assert 10 < few.targets.mean() < 29  # not the first ones of an order
    with pytest.raises(
        data.DataError, match="40 training examples: 0 of them cannot be kept for validation with an example"
    ):
        data.split(made, 0, 0.01)


def test_every_value_name_and_form_is_in_the_fingerprint():
    def checked(change=None, names=("a", "b")):
        inputs, targets = jax.tree.map(np.copy, (rows(), CLASSES))
        if change:
            change(inputs, targets)
        made = data.from_arrays((inputs, targets), (inputs, targets), class_names=names)
        return data.fingerprint(made)

    first = checked()
    assert first == checked()
    assert (first["train_examples"], first["valid_examples"], first["classes"]) == (40, 0, ["a", "b"])

    def number(inputs, targets):
        inputs["kind"][3] += 1

    def target(inputs, targets):
        targets[3] = 1

    def form(inputs, targets):
        inputs["kind"] = inputs["kind"].astype(np.float32)

    for changed in (checked(number), checked(target), checked(form), checked(names=("a", "c"))):
        assert changed != first


def _with(name, value):
    array = ROWS["numbers"].copy()
    array[5, 1] = value
    return {**rows(), name: array}


X, SHORT = ROWS["numbers"], TARGETS[:30]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((X, SHORT),), "all arrays of train must have one number of examples, at least 1, got 40, 30"),
        (((X[:0], TARGETS[:0]),), "at least 1, got 0, 0"),
        (((_with("numbers", np.nan), TARGETS),), r"train.inputs\['numbers'\] has NaN or infinity in 1 of 32"),
        (((X, TARGETS), (X[:, :2], TARGETS)), r"test must have the arrays of train, .inputs float32 \[3\], .*got"),
        (((X, TARGETS), (rows(), TARGETS)), "test must have the arrays of train"),
        (((X, CLASSES), (X, CLASSES + 1)), "the test split has label 2, outside 0 … 1"),
        (((X, CLASSES + 1),), r"must be 0, 1, … with an example of each, at least two, got 1, 2: number them by"),
        (((X.astype(str), TARGETS),), "train inputs must be an array of numbers .* text must be numbered first"),
        ((([[1.0], [2.0]], TARGETS),), "np.asarray makes one of a list"),
        (((X, CLASSES.astype(np.int64) << 40),), "beyond int32"),
        (((X, np.tile(CLASSES[:, None], 2)),), "neither classes, integers .* give an objective"),
        ((X,), r"train must be a pair \(inputs, targets\), got ndarray"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.from_arrays(*arguments)


def test_what_belongs_to_other_data_is_refused():
    augmentation = data.Augmentation(shift=0, flip=False, cutout=0, mean=(0.5,), std=(0.5,))
    with pytest.raises(ValueError, match="an augmentation is for images"):
        data.from_arrays((X, TARGETS), augmentation=augmentation)
    with pytest.raises(ValueError, match="class_names belong to integer targets"):
        data.from_arrays((X, TARGETS), class_names=["a", "b"])
    examples = data.Examples(X, CLASSES.astype(np.int32))
    with pytest.raises(ValueError, match="are classes: give class_names"):
        data.Dataset("x", examples, examples)
    images = data.Examples(np.zeros((40, 8, 8, 1), np.uint8), examples.targets)
    with pytest.raises(ValueError, match="which an augmentation must normalize"):
        data.Dataset("x", images, images, ("a", "b"))
