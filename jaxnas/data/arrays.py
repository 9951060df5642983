"""Data sets of arrays in memory: of images, tables, sequences, of anything that is a pytree of numbers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxnas.base import Objective, PyTree
from jaxnas.data.dataset import (
    Augmentation,
    DataError,
    Dataset,
    Examples,
    check_lengths,
    check_numbers,
    forms,
    is_classes,
    is_images,
    usual_augmentation,
)
from jaxnas.data.splits import with_test_split
from jaxnas.objectives import classification, regression

Pair = tuple[Any, Any]
"""(inputs, targets), pytrees of arrays [N, …]."""


def from_arrays(
    train: Pair,
    test: Pair | None = None,
    valid: Pair | None = None,
    *,
    name: str = "arrays",
    class_names: Sequence[str] | None = None,
    objective: Objective | None = None,
    augmentation: Augmentation | None = None,
) -> Dataset:
    """The data set of arrays, each part a pair (inputs, targets).

    Inputs that are one array uint8 [N, H, W, C], channels last, are images, which get the `augmentation`, by default
    `usual_augmentation` without flips. All other inputs, any pytree of arrays [N, …] of numbers, go to the network as
    they are: standardize columns first. Targets that are integers [N] are classes 0 … K - 1, by default named by their
    numbers and learned by `classification()`. One array of floats is learned by `regression()`; anything else needs an
    `objective`. Floats become float32 and integers int32. Without `test` always the same fifth of train is kept for
    testing; without `valid` a part of train is for validation, as `jaxnas.data.split` divides it.

    Raises: ValueError, of which DataError is a kind, where lengths, structure, types or values do not fit.

    >>> table = from_arrays(({"age": np.arange(10.0)}, np.arange(10) % 2))
    >>> table.num_classes, table.objective.name
    (2, 'accuracy')
    >>> len(table.train.targets), len(table.test.targets)  # a fifth is kept for testing
    (8, 2)
    """
    given = {"train": train, "test": test, "valid": valid}
    parts = {part: _examples(part, pair) for part, pair in given.items() if pair is not None}
    first, origins = parts["train"], {}
    if is_classes(first.targets):
        class_names = _numbered(first.targets) if class_names is None else class_names
    elif class_names is not None:
        raise ValueError(f"class_names belong to integer targets [N], got {', '.join(forms(first.targets))}")
    if objective is None:
        objective = _usual_objective(first.targets)
    if is_images(first.inputs):
        augmentation = augmentation or usual_augmentation("", first.inputs)
    elif augmentation is not None:
        raise ValueError(f"an augmentation is for images uint8 [N, H, W, C], got {', '.join(forms(first.inputs))}")
    if "test" not in parts:
        parts["train"], parts["test"] = with_test_split(first)
        origins = {"train": "train but for a fifth", "test": "a fifth of train"}
    return Dataset(
        name=name,
        train=parts["train"],
        test=parts["test"],
        valid=parts.get("valid"),
        class_names=tuple(class_names or ()),
        augmentation=augmentation,
        objective=objective,
        source="arrays",
        origins=origins,
    )


def _examples(part: str, pair: Pair) -> Examples:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ValueError(f"{part} must be a pair (inputs, targets), got {type(pair).__name__}")

    arrays = jax.tree.map(np.asarray, Examples(*pair))
    check_numbers(part, arrays)
    check_lengths(part, arrays)
    inputs, targets = jax.tree_util.tree_map_with_path(functools.partial(_as_stored, part), arrays)
    # Two classes, which a network is taught as such.
    return Examples(inputs, targets.astype(np.int32) if _is(targets, "b") and targets.ndim == 1 else targets)


def _as_stored(part: str, path: Any, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # infinity is refused, as that which was given
            return array.astype(np.float32)
    if array.dtype.kind == "b" or (array.dtype == np.uint8 and array.ndim > 1):
        return array
    whole = np.iinfo(np.int32)
    if not whole.min <= array.min() <= array.max() <= whole.max:
        raise DataError(
            f"{part}{jax.tree_util.keystr(path)} has integers of {array.min()} to {array.max()}, beyond int32: number "
            "them anew, or give floats"
        )
    return array.astype(np.int32)


def _is(tree: PyTree, kind: str) -> bool:
    """Whether a pytree is one array, of this kind of NumPy's types."""
    return isinstance(tree, np.ndarray) and tree.dtype.kind == kind


def _numbered(targets: np.ndarray) -> tuple[str, ...]:
    """Names of the classes of the training split, which must be 0, 1, … without a gap."""
    labels = np.unique(targets)
    if len(labels) < 2 or labels.tolist() != list(range(len(labels))):
        some = ", ".join(map(str, labels[:5])) + (", …" if len(labels) > 5 else "")
        raise DataError(
            f"the classes of train must be 0, 1, … with an example of each, at least two, got {some}: number them by "
            "np.unique(y, return_inverse=True)[1], give class_names, or make numbers to be predicted floats"
        )
    return tuple(map(str, labels))


def _usual_objective(targets: PyTree) -> Objective:
    if is_classes(targets):
        return classification()
    if _is(targets, "f"):
        return regression()
    raise ValueError(
        f"targets {', '.join(forms(targets))} are neither classes, integers [N], nor one array of floats: give an "
        "objective"
    )
