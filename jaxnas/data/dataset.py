"""What a data set is: examples in memory, what they are to teach, and the augmentation of images.

Shapes: N examples, H W C image, K classes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnas.base import Batch, Objective, PyTree
from jaxnas.console import printable
from jaxnas.data.stored import is_stored
from jaxnas.fingerprint import checksum, row_checksums
from jaxnas.objectives import CLASSIFICATION
from jaxnas.parallel import block, joined

RESIZE = "bring them to one size by --size 32, or size=32 of jaxnas.data.load_dataset"
"""The remedy for images of different sizes."""

IN_MEMORY = ("", "arrays")
"""Sources of data sets that were arrays when they were given, which nothing here resizes."""


class DataError(ValueError):
    """Data that is not there, cannot be read, or does not fit; the message is one line with the remedy."""


class Examples(NamedTuple):
    """Pytrees of arrays [N, …] with one N for all, as they are stored.

    inputs: images are one array uint8 [N, H, W, C], or `StoredImages` in one of several processes; images in float32
    are final: they are normalized already, and no training augments them. Other data are any arrays of numbers.
    targets: classes are one array int32 [N].

    >>> examples = Examples(inputs={"age": np.array([31.0, 27.0])}, targets=np.array([1, 0]))
    >>> count(examples)
    2
    """

    inputs: PyTree
    targets: PyTree


def count(examples: Examples | Batch) -> int:
    """How many examples there are, N; `len` would give 2, the number of the fields.

    >>> count(Examples(np.zeros((7, 8, 8, 1), np.uint8), np.zeros(7, np.int32)))
    7
    """
    return int(jax.tree.leaves(examples)[0].shape[0])


def is_images(inputs: PyTree) -> bool:
    """Whether the inputs of some examples are images: one array uint8 [N, H, W, C]."""
    return getattr(inputs, "ndim", 0) == 4 and inputs.dtype == np.uint8


def noun(examples: Examples) -> str:
    """What a message calls them."""
    return "images" if getattr(examples.inputs, "ndim", 0) == 4 else "examples"


def forms(tree: PyTree) -> list[str]:
    """Place, type and shape of one example of each array of some inputs or targets: "['age'] float32 []"."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [f"{jax.tree_util.keystr(path)} {leaf.dtype} {list(leaf.shape[1:])}".strip() for path, leaf in leaves]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What may be done to the images of a data set without changing their class, and how they are normalized.

    shift: pixels of zero padding on each side before the random crop, 0 for no crop. flip: mirror left to right with
    probability one half. cutout: side of the square that is zeroed in the final training, 0 for none; a search leaves
    it out. mean, std: one number for each channel, of intensities in [0, 1]. noise: standard deviation of the Gaussian
    noise that each pixel of a training image gets after it is normalized, at every step anew.

    >>> gray = Augmentation(shift=1, flip=False, cutout=0, mean=(0.3,), std=(0.4,))
    >>> dataclasses.replace(gray, std=(0.0,))
    Traceback (most recent call last):
        ...
    ValueError: std must be positive, got (0.0,)
    """

    shift: int
    flip: bool
    cutout: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    noise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("shift", "cutout"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 pixels or more, got {getattr(self, name)}")
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(f"mean and std need one number for each channel, got {self.mean} and {self.std}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"noise must be 0 or positive, got {self.noise}")


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Examples all in memory or, in one of several processes, images that are read as they are needed.

    valid is there only where the data set comes with a validation split of its own. class_names: of the K classes that
    the targets, int32 [N] in 0 … K - 1, are of; () where the targets are something else. augmentation: of images, whose
    inputs are [N, H, W, C] of one size, uint8 or final (`Examples`); None for all other data, whose inputs go to the
    network as they are, in float32 where they are floats. objective: what a network is to learn. source: what it is,
    wherever it lies: "digits", "folder", "arrays", or its name in TFDS with config and version. origins: what of the
    source each part is, such as {"valid": "val", "test": "a fifth of train"}; a part that is not named has the name of
    its split. not_read: what the source has beside these, in words. computed_from: the data set whose images these were
    computed from, where they were; by its content `fingerprint` knows these, since the last bits of computed numbers
    differ between devices.

    Raises: ValueError, of which DataError is a kind, where these do not fit together.

    >>> examples = Examples(np.zeros((4, 8, 8, 1), np.uint8), np.array([0, 1, 1, 0], np.int32))
    >>> augmentation = Augmentation(shift=1, flip=False, cutout=0, mean=(0.5,), std=(0.5,))
    >>> dataset = Dataset("mine", examples, examples, ("cat", "dog"), augmentation)
    >>> dataset.image_shape, dataset.num_classes
    ((8, 8, 1), 2)
    """

    name: str
    train: Examples
    test: Examples
    class_names: tuple[str, ...] = ()
    augmentation: Augmentation | None = None
    valid: Examples | None = None
    objective: Objective = CLASSIFICATION
    source: str = ""
    origins: Mapping[str, str] = dataclasses.field(default_factory=dict)
    not_read: tuple[str, ...] = ()
    computed_from: Dataset | None = None

    def __post_init__(self) -> None:
        for part, examples in self.parts().items():
            check_numbers(part, examples)
            if self.augmentation is not None:
                self._check_images(part, examples.inputs)
            elif is_images(examples.inputs):
                raise ValueError(
                    f"{part} inputs are images, uint8 {list(examples.inputs.shape)}, which an augmentation must "
                    "normalize: give one, or make them floats"
                )
            self._check_targets(part, examples)
            check_lengths(part, examples)
            self._check_form(part, examples)
            _check_values(self.name, part, examples)
        if self.augmentation is not None and len(self.augmentation.mean) != self.image_shape[2]:
            raise ValueError(f"{self.image_shape[2]} channels need as many means, got {self.augmentation.mean}")

    def parts(self) -> dict[str, Examples]:
        """The parts that there are, in the order of "train", "valid" and "test"."""
        every = {"train": self.train, "valid": self.valid, "test": self.test}
        return {part: examples for part, examples in every.items() if examples is not None}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C). Raises ValueError where the inputs are no images and no floats [N, H, W, C]."""
        inputs = self.train.inputs
        if getattr(inputs, "ndim", 0) != 4:
            raise ValueError(f"{self.name} has no images: its inputs are {', '.join(forms(inputs))} for each example")
        height, width, channels = inputs.shape[1:]
        return height, width, channels

    @property
    def num_classes(self) -> int:
        """K. Raises ValueError where the targets are no classes."""
        if not self.class_names:
            raise ValueError(f"{self.name} has no classes; num_outputs says how many numbers are predicted")
        return len(self.class_names)

    @property
    def num_outputs(self) -> int:
        """How many numbers a network gives for an example: K logits, or as many as a target has.

        Raises ValueError where the targets do not tell: it is then for the network and the objective to say.
        """
        if self.class_names:
            return self.num_classes
        shape: tuple[int, ...] = getattr(self.train.targets, "shape", ())
        if len(shape) not in (1, 2):
            told = ", ".join(forms(self.train.targets))
            raise ValueError(f"the targets of {self.name}, {told}, do not tell how many outputs a network has")
        return shape[1] if len(shape) == 2 else 1

    def summary(self) -> dict[str, Any]:
        """What was read, for the result of a run: how many of each part and where they are from, classes, shape."""
        parts = {part: count(examples) for part, examples in self.parts().items()}
        return {
            noun(self.train): parts,
            "origins": {part: self.origins.get(part, part) for part in parts},
            "not_read": list(self.not_read),
            **({"lacking": lacking} if (lacking := self._lacking()) else {}),
            **({"classes": self.num_classes} if self.class_names else {"targets": forms(self.train.targets)}),
            **(
                {"inputs": forms(self.train.inputs)}
                if self.augmentation is None
                else {"image_shape": list(self.image_shape)}
            ),
        }

    def told(self) -> str:
        """The summary in one line."""
        summary, things = self.summary(), noun(self.train)
        parts = [f"{number} {part} ({summary['origins'][part]})" for part, number in summary[things].items()]
        if "valid" not in summary[things]:
            parts.append("validation is a part of train")
        unread = f"; not read: {', '.join(self.not_read)}" if self.not_read else ""
        targets = f"{self.num_classes} classes" if self.class_names else f"targets {', '.join(summary['targets'])}"
        inputs = (
            f"inputs {', '.join(summary['inputs'])}"
            if self.augmentation is None
            else "×".join(map(str, self.image_shape))
        )
        lacking = "".join(
            f"; no {things[:-1]} of {', '.join(names)} in {part}" for part, names in summary.get("lacking", {}).items()
        )
        return printable(f"{self.name}: {things} {', '.join(parts)}; {targets}, {inputs}{unread}{lacking}")

    def _lacking(self) -> dict[str, list[str]]:
        """Part -> the classes of which it has no example: one that has a single example is for training alone."""
        if not self.class_names:
            return {}
        there = {part: np.unique(np.asarray(examples.targets)) for part, examples in self.parts().items()}
        lacking = {
            part: [name for label, name in enumerate(self.class_names) if label not in labels]
            for part, labels in there.items()
        }
        return {part: names for part, names in lacking.items() if names}

    def _check_images(self, part: str, images: Any) -> None:
        if getattr(images, "ndim", 0) != 4 or images.dtype not in (np.uint8, np.float32):
            raise ValueError(
                f"{part}_images must be uint8 [N, H, W, C], or float32 where they are normalized, got {_form(images)}"
            )
        if images.shape[1:] != self.image_shape:
            remedy = "give arrays [N, H, W, C], channels last, of one size" if self.source in IN_MEMORY else RESIZE
            raise DataError(
                f"{self.name}: {part} images are {images.shape[1:]} and train images {self.image_shape}; {remedy}"
            )

    def _check_form(self, part: str, examples: Examples) -> None:
        """Raises ValueError where a part has other arrays than the training split; images were compared before."""
        both = [each if self.augmentation is None else each.targets for each in (self.train, examples)]
        structures: list[Any] = [jax.tree.structure(each) for each in both]
        there, own = (", ".join(forms(each)) for each in both)
        if structures[0] != structures[1] or there != own:
            raise ValueError(f"{part} must have the arrays of train, {there}, got {own}")

    def _check_targets(self, part: str, examples: Examples) -> None:
        labels, number = examples.targets, count(examples)
        if not self.class_names:
            if is_classes(labels):
                raise ValueError(
                    f"{part} targets are integers, {_form(labels)}, which are classes: give class_names, or floats "
                    "where they are numbers to be predicted"
                )
            return
        if not is_classes(labels) or labels.dtype != np.int32 or labels.shape[0] != number or not number:
            raise ValueError(f"{part}_labels must be int32 [{number}], not empty, got {_form(labels)}")
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise DataError(
                f"{self.name}: the {part} split has label {labels.min() if labels.min() < 0 else labels.max()}, "
                f"outside 0 … {self.num_classes - 1}: it is not labeled for {self.num_classes} classes"
            )


def is_classes(targets: PyTree) -> bool:
    """Whether the targets of some examples are classes: one array of integers [N]."""
    return getattr(targets, "ndim", 0) == 1 and np.issubdtype(targets.dtype, np.integer)


def _form(tree: PyTree) -> str:
    leaves = jax.tree.leaves(tree)
    return " and ".join(f"{leaf.dtype} {leaf.shape}" for leaf in leaves) or "nothing"


def check_numbers(part: str, examples: Examples) -> None:
    """Raises ValueError where a leaf of the examples is no array of numbers [N, …]."""
    for field, tree in examples._asdict().items():
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        if not leaves:
            raise ValueError(f"{part} {field} must be arrays [N, …], got none")
        for path, leaf in leaves:
            if not getattr(leaf, "ndim", 0) or leaf.dtype.kind not in "biuf":
                got = f"{leaf.dtype} {leaf.shape}" if hasattr(leaf, "dtype") else repr(leaf)
                raise ValueError(
                    f"{part} {field}{jax.tree_util.keystr(path)} must be an array of numbers [N, …], got {got}; "
                    "np.asarray makes one of a list, and text must be numbered first"
                )


def check_lengths(part: str, examples: Examples) -> None:
    """Raises ValueError where the arrays of the examples differ in N, or N is 0."""
    lengths = [leaf.shape[0] for leaf in jax.tree.leaves(examples)]
    if len(set(lengths)) > 1 or 0 in lengths:
        raise ValueError(
            f"all arrays of {part} must have one number of examples, at least 1, got {', '.join(map(str, lengths))}"
        )


def _check_values(name: str, part: str, examples: Examples) -> None:
    """Raises DataError where a value is missing."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(examples)[0]:
        if leaf.dtype.kind == "f" and (missing := int((~np.isfinite(leaf)).reshape(len(leaf), -1).any(axis=1).sum())):
            raise DataError(
                f"{name}: {part}{jax.tree_util.keystr(path)} has NaN or infinity in {missing} of {len(leaf)} examples: "
                "fill them in, or leave these examples out"
            )


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, intensities in [0, 1], to four digits.

    images: [N, H, W, C] uint8. Counted in integers, so the same on every machine. A constant channel has std 1.
    `StoredImages` are shared out among the processes.
    """
    means, stds = [], []
    values = np.arange(256)
    shared = is_stored(images)
    own = np.asarray(images[block(len(images))]) if shared else images
    counted = np.array([np.bincount(own[..., c].ravel(), minlength=256) for c in range(images.shape[-1])])
    if shared:
        counted = joined(counted[None], jax.process_count()).sum(0)
    for counts in counted:
        mean = (counts * values).sum() / counts.sum()
        variance = (counts * (values - mean) ** 2).sum() / counts.sum()
        means.append(round(float(mean) / 255, 4))
        stds.append(round(float(variance) ** 0.5 / 255, 4) or 1.0)
    return tuple(means), tuple(stds)


def fingerprint(dataset: Dataset) -> dict[str, Any]:
    """What was read, for the identity of a run: the same wherever the data lies, and for any number of processes.

    One changed pixel, number, label or name of a class makes another. Several processes share out the images that are
    `StoredImages`, and call this at the same point. Of images that were computed it is the content of those that they
    were computed from. CIFAR-10 takes a fifth of a second.

    >>> from jaxnas.data import load_dataset
    >>> read = fingerprint(load_dataset("digits"))
    >>> read["source"], read["train_images"], read["shape"]
    ('digits', 1077, [8, 8, 1])
    """
    things, parts = noun(dataset.train), dataset.parts()
    counts = {f"{part}_{things}": count(parts[part]) if part in parts else 0 for part in ("train", "valid", "test")}
    content: list[np.ndarray] = []
    for inputs, targets in (dataset.computed_from or dataset).parts().values():
        content += [_image_checksums(inputs)] if getattr(inputs, "ndim", 0) == 4 else jax.tree.leaves(inputs)
        content += jax.tree.leaves(targets)
    return {
        "source": dataset.source,
        **counts,
        **(
            {"inputs": forms(dataset.train.inputs)}
            if dataset.augmentation is None
            else {"shape": list(dataset.image_shape)}
        ),
        **({} if dataset.class_names else {"targets": forms(dataset.train.targets)}),
        "classes": list(dataset.class_names),
        "checksum": checksum(*content),
    }


def _image_checksums(images: np.ndarray) -> np.ndarray:
    """uint8 [N, 32]."""
    if not is_stored(images):
        return row_checksums(images)
    return joined(row_checksums(np.asarray(images[block(len(images))])), len(images))


_SURVIVES_FLIP = ("cifar10", "cifar100", "fashion_mnist", "imagenet_resized", "stl10", "tf_flowers")


def usual_augmentation(name: str, images: np.ndarray) -> Augmentation:
    """Shift by an eighth of the side, cutout of half of it, as is usual for CIFAR; flips only where known to be safe.

    images: [N, H, W, C], those of the training split. For 32x32 images this is a shift of 4 and a cutout of 16
    (DeVries and Taylor 2017, arXiv 1708.04552). Gray images (digits, letters, clothes) get a shift alone.
    """
    side = min(images.shape[1:3])
    mean, std = channel_statistics(images)
    cutout = side // 2 if images.shape[3] > 1 else 0
    return Augmentation(shift=side // 8, flip=name in _SURVIVES_FLIP, cutout=cutout, mean=mean, std=std)
