"""How examples are divided: into training and validation, a test split for data without one, a limited number of them.

Shapes: N examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxnas.data.dataset import DataError, Dataset, Examples, count, forms, is_classes, noun, usual_augmentation
from jaxnas.data.stored import rows


class Split(NamedTuple):
    """The two disjoint parts of a training split; `valid` is None where nothing was kept back."""

    train: Examples
    valid: Examples | None


def hold_out(labels: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (kept, held out) of a stratified choice of `count` examples, both int32 and ascending.

    labels: [N] int. Each class gives its share of `count`, rounded by largest remainders, so that the total is exact,
    but never its last example. A seed means the same choice on every machine.

    Raises: ValueError where so many cannot be held out.

    >>> labels = np.array([0] * 6 + [1] * 3)
    >>> kept, held_out = hold_out(labels, 3, seed=0)
    >>> np.bincount(labels[kept]).tolist(), np.bincount(labels[held_out]).tolist()
    ([4, 2], [2, 1])
    """
    classes, sizes = np.unique(labels, return_counts=True)
    if not 0 < count <= len(labels) - len(classes):
        raise ValueError(
            f"can hold out 1 to {len(labels) - len(classes)} of {len(labels)} examples, so that each of the "
            f"{len(classes)} classes keeps one, got {count}"
        )
    # RandomState: NumPy freezes its stream, so that a seed means the same split with every version of NumPy.
    random = np.random.RandomState(seed)
    share = sizes * count / len(labels)
    quota = np.floor(share).astype(int)
    order = np.argsort(-(share - quota), kind="stable")
    while missing := count - quota.sum():  # once, but for classes that have no more to give
        quota[order[quota[order] < sizes[order] - 1][:missing]] += 1
    chosen = np.zeros(len(labels), bool)
    for label, n in zip(classes, quota, strict=True):
        chosen[random.permutation(np.flatnonzero(labels == label))[:n]] = True
    return np.flatnonzero(~chosen).astype(np.int32), np.flatnonzero(chosen).astype(np.int32)


def split(dataset: Dataset, seed: int, fraction: float = 0.5) -> Split:
    """Divides the training split into disjoint train and validation parts, stratified where the targets are classes.

    `fraction` of it becomes the validation part: 0.5 for a search, 0.1 or 0 for the final training; with 0 all of it is
    for training and `valid` is None. A data set with a validation split of its own (such as digits) keeps its two parts
    whatever the seed and the fraction; only with fraction 0 are they joined for training.

    Raises: ValueError for a fraction that is none; DataError where a part would be without an example of a class, or
    where images that are final (`Examples`) would be joined with others.

    >>> from jaxnas.data import from_arrays
    >>> rows = (np.arange(40.0), np.arange(40) % 2)
    >>> parts = split(from_arrays(rows, test=rows), seed=0, fraction=0.25)
    >>> count(parts.train), count(parts.valid)
    (30, 10)
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction of the training split to keep for validation must be in [0, 1), got {fraction}")
    if dataset.valid is not None:
        if fraction:
            return Split(dataset.train, dataset.valid)
        if forms(dataset.train.inputs) != forms(dataset.valid.inputs):
            raise DataError(
                f"{dataset.name} has validation images that are final and training images that are not: they cannot be "
                f"joined for training; give a fraction for validation (train.hold_out) above 0, got {fraction}"
            )
        return Split(jax.tree.map(lambda *both: np.concatenate(both), dataset.train, dataset.valid), None)
    if not fraction:
        return Split(dataset.train, None)
    strata, things = _strata(dataset.train), noun(dataset.train)
    kept, classes = round(len(strata) * fraction), len(np.unique(strata))
    if not 0 < kept <= len(strata) - classes:
        of, left = (
            (f" of {classes} classes", f"with an {things[:-1]} of every class left")
            if dataset.class_names
            else ("", f"with an {things[:-1]} left")
        )
        raise DataError(
            f"{dataset.name} has {len(strata)} training {things}{of}: {kept} of them cannot be kept for validation "
            f"{left}; add {things}, a validation split, or keep another part than {fraction}"
        )
    train, valid = hold_out(strata, kept, seed)
    return Split(_chosen(dataset.train, train), _chosen(dataset.train, valid))


def with_test_split(examples: Examples) -> tuple[Examples, Examples]:
    """(train, test) for data that comes without a test split: always the same fifth is kept for testing, stratified
    where the targets are classes.

    Raises DataError where a class would be left without an example for training.
    """
    strata, things = _strata(examples), noun(examples)
    kept, classes = max(1, round(len(strata) / 5)), len(np.unique(strata))
    if kept > len(strata) - classes:
        raise DataError(
            f"there is no test split, and a fifth of the {len(strata)} training {things} cannot be kept for testing "
            f"with an {things[:-1]} of each of the {classes} classes left: give each class 2 {things} or more, or add "
            "a test split"
        )
    train, test = hold_out(strata, kept, seed=0)
    return _chosen(examples, train), _chosen(examples, test)


def _strata(examples: Examples) -> np.ndarray:
    """What a division keeps the shares of, int [N]: the classes, or one and the same for all examples."""
    return np.asarray(examples.targets) if is_classes(examples.targets) else np.zeros(count(examples), np.int32)


def _chosen(examples: Examples, numbers: np.ndarray) -> Examples:
    """The examples of these numbers, int [M]; of stored images nothing is read yet."""
    return jax.tree.map(lambda leaf: rows(leaf, numbers), examples)


def assembled(
    name: str, parts: Mapping[str, Examples], named: Mapping[str, str], class_names: Sequence[str],
    not_read: Sequence[str], known_as: str, source: str,
) -> Dataset:  # fmt: skip
    """The data set of the images that were read, with its parts "train" and where they are there "valid" and "test".

    named: part -> its split. known_as: what `usual_augmentation` knows it by. source: see `Dataset`.
    """
    origins, train, valid, test = dict(named), parts["train"], parts.get("valid"), parts.get("test")
    if test is None:
        train, test = with_test_split(train)
        origins |= {"train": f"{named['train']} but for a fifth", "test": f"a fifth of {named['train']}"}
    return Dataset(
        name=name,
        train=train,
        valid=valid,
        test=test,
        class_names=tuple(class_names),
        augmentation=usual_augmentation(known_as, train.inputs),
        source=source,
        origins=origins,
        not_read=tuple(not_read),
    )


def limited(examples: Examples, most: int) -> Examples:
    """At most `most` examples. Of classes they are the first ones or, where the labels ascend, as many of each class in
    proportion; of other targets, which may be in any order, always the same ones at random.

    Raises: DataError where a class would be left without an example.

    >>> examples = Examples(np.arange(9.0), np.array([0] * 6 + [1] * 3, np.int32))
    >>> limited(examples, 3).targets.tolist()  # as many of each class, in proportion
    [0, 0, 1]
    """
    strata, things = _strata(examples), noun(examples)
    if most < 1:
        raise DataError(f"a limit leaves {most} of {len(strata)} {things}: allow more")
    if most >= len(strata):
        return examples
    mixed = is_classes(examples.targets) and ((np.diff(strata) < 0).any() or strata[0] == strata[-1])
    if mixed:
        return _chosen(examples, np.arange(most))
    classes = len(np.unique(strata))
    if most < classes:
        raise DataError(f"a limit of {most} {things} cannot have one of each of the {classes} classes: allow more")
    # Those that are kept have at least one of each class.
    return _chosen(examples, hold_out(strata, len(strata) - most, seed=0)[0])


SPLITS = {
    "train": ("train", "training"),
    "valid": ("valid", "val", "validation", "dev", "eval"),
    "test": ("test", "testing"),
}
"""Part of a data set -> what its split may be called, in any case of letters."""


def parts_of(names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """(part -> the split that it is read from, the splits that are not read), of the names of all splits."""
    left = {name.lower(): name for name in sorted(names)}
    found = {part: next((left.pop(name) for name in known if name in left), None) for part, known in SPLITS.items()}
    return {part: name for part, name in found.items() if name is not None}, list(left.values())
