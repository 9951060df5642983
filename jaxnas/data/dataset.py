"""What a data set is: images and labels in memory, its augmentation, and how its training split is divided.

Shapes: N examples, H W C image, K classes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnas.data.stored import is_stored, rows
from jaxnas.fingerprint import checksum, row_checksums
from jaxnas.parallel import block, joined

RESIZE = "bring them to one size by --size 32, or size=32 of jaxnas.data.load"
"""The remedy for images of different sizes."""


class DataError(ValueError):
    """Data that is not there, cannot be read, or does not fit; the message is one line with the remedy."""


class Examples(NamedTuple):
    """images: [N, H, W, C] uint8, `StoredImages` in one of several processes, or float32. labels: [N] int32.

    Images in float32 are final: they are normalized already, and no training augments them.
    """

    images: np.ndarray
    labels: np.ndarray


class Split(NamedTuple):
    """The two disjoint parts of a training split; `valid` is None where nothing was kept back."""

    train: Examples
    valid: Examples | None


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What may be done to the images of a data set without changing their class, and how they are normalized.

    shift: pixels of zero padding on each side before the random crop, 0 for no crop. flip: mirror left to right with
    probability one half. cutout: side of the square that is zeroed in the final training, 0 for none; a search leaves
    it out. mean, std: one number for each channel, of intensities in [0, 1]. noise: standard deviation of the Gaussian
    noise that each pixel of a training image gets after it is normalized, at every step anew.
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
    """Images of one size and their labels, all in memory or, in one of several processes, read as they are needed.

    *_images: [N, H, W, C] uint8, or float32 where they are final (`Examples`). *_labels: [N] int32 in 0 … K - 1.
    valid_* are there only where the data set comes with a validation split of its own. source: what it is, wherever it
    lies: "digits", "folder", or its name in TFDS with config and version. origins: what of the source each part is,
    such as {"valid": "val", "test": "a fifth of train"}; a part that is not named has the name of its split. not_read:
    what the source has beside these, in words. computed_from: the data set whose images these were computed from, where
    they were; by its content `fingerprint` knows these, since the last bits of computed numbers differ between devices.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    augmentation: Augmentation
    valid_images: np.ndarray | None = None
    valid_labels: np.ndarray | None = None
    source: str = ""
    origins: Mapping[str, str] = dataclasses.field(default_factory=dict)
    not_read: tuple[str, ...] = ()
    computed_from: Dataset | None = None

    def __post_init__(self) -> None:
        if (self.valid_images is None) != (self.valid_labels is None):
            raise ValueError("valid_images and valid_labels must be given together")
        for part in ("train", "valid", "test"):
            images, labels = getattr(self, f"{part}_images"), getattr(self, f"{part}_labels")
            if images is None:
                continue
            if images.dtype not in (np.uint8, np.float32) or images.ndim != 4:
                raise ValueError(
                    f"{part}_images must be uint8 [N, H, W, C], or float32 where they are normalized, got "
                    f"{images.dtype} {images.shape}"
                )
            if images.shape[1:] != self.image_shape:
                raise DataError(
                    f"{self.name}: {part} images are {images.shape[1:]} and train images {self.image_shape}; {RESIZE}"
                )
            if labels.dtype != np.int32 or labels.shape != images.shape[:1] or not len(labels):
                raise ValueError(
                    f"{part}_labels must be int32 [{len(images)}], not empty, got {labels.dtype} {labels.shape}"
                )
            if labels.min() < 0 or labels.max() >= self.num_classes:
                raise DataError(
                    f"{self.name}: the {part} split has label {labels.min() if labels.min() < 0 else labels.max()}, "
                    f"outside 0 … {self.num_classes - 1}: it is not labeled for {self.num_classes} classes"
                )
        if len(self.augmentation.mean) != self.image_shape[2]:
            raise ValueError(f"{self.image_shape[2]} channels need as many means, got {self.augmentation.mean}")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        height, width, channels = self.train_images.shape[1:]
        return height, width, channels

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @property
    def test(self) -> Examples:
        """The test split, to be read once, at the end."""
        return Examples(self.test_images, self.test_labels)

    def summary(self) -> dict[str, Any]:
        """What was read, for the result of a run: images of each part and where they are from, classes, shape."""
        labels = {"train": self.train_labels, "valid": self.valid_labels, "test": self.test_labels}
        parts = {part: len(own) for part, own in labels.items() if own is not None}
        return {
            "images": parts,
            "origins": {part: self.origins.get(part, part) for part in parts},
            "not_read": list(self.not_read),
            "classes": self.num_classes,
            "image_shape": list(self.image_shape),
        }

    def told(self) -> str:
        """The summary in one line."""
        summary, (height, width, channels) = self.summary(), self.image_shape
        parts = [f"{count} {part} ({summary['origins'][part]})" for part, count in summary["images"].items()]
        if "valid" not in summary["images"]:
            parts.append("validation is a part of train")
        unread = f"; not read: {', '.join(self.not_read)}" if self.not_read else ""
        return (
            f"{self.name}: images {', '.join(parts)}; {self.num_classes} classes, {height}×{width}×{channels}{unread}"
        )


def hold_out(labels: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (kept, held out) of a stratified choice of `count` examples, both int32 and ascending.

    labels: [N] int. Each class gives its share of `count`, rounded by largest remainders, so that the total is exact,
    but never its last example.
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
    """Divides the training split into disjoint, stratified train and validation parts.

    `fraction` of it becomes the validation part: 0.5 for a search, 0.1 or 0 for the final training; with 0 all of it is
    for training and `valid` is None. A data set with a validation split of its own (such as digits) keeps its two parts
    whatever the seed and the fraction; only with fraction 0 are they joined for training. Raises DataError where a
    part would be without an image of a class, or where images that are final (`Examples`) would be joined with others.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction of the training split to keep for validation must be in [0, 1), got {fraction}")
    images, labels = dataset.train_images, dataset.train_labels
    if dataset.valid_images is not None and dataset.valid_labels is not None:
        if fraction:
            return Split(Examples(images, labels), Examples(dataset.valid_images, dataset.valid_labels))
        if dataset.valid_images.dtype != images.dtype:
            raise DataError(
                f"{dataset.name} has validation images that are final and training images that are not: they cannot be "
                f"joined for training; give a fraction for validation (train.hold_out) above 0, got {fraction}"
            )
        images = np.concatenate([np.asarray(images), np.asarray(dataset.valid_images)])
        return Split(Examples(images, np.concatenate([labels, dataset.valid_labels])), None)
    if not fraction:
        return Split(Examples(images, labels), None)
    count, classes = round(len(labels) * fraction), len(np.unique(labels))
    if not 0 < count <= len(labels) - classes:
        raise DataError(
            f"{dataset.name} has {len(labels)} training images of {classes} classes: {count} of them cannot be kept "
            f"for validation with an image of every class left; add images, a validation split, or keep another part "
            f"than {fraction}"
        )
    train, valid = hold_out(labels, count, seed)
    return Split(Examples(rows(images, train), labels[train]), Examples(rows(images, valid), labels[valid]))


def with_test_split(images: np.ndarray, labels: np.ndarray) -> tuple[Examples, Examples]:
    """(train, test) for data that comes without a test split: always the same stratified fifth is kept for testing.

    Raises DataError where a class would be left without an image for training.
    """
    count, classes = max(1, round(len(labels) / 5)), len(np.unique(labels))
    if count > len(labels) - classes:
        raise DataError(
            f"there is no test split, and a fifth of the {len(labels)} training images cannot be kept for testing with "
            f"an image of each of the {classes} classes left: give each class 2 images or more, or add a test split"
        )
    train, test = hold_out(labels, count, seed=0)
    return Examples(rows(images, train), labels[train]), Examples(rows(images, test), labels[test])


def assembled(
    name: str, parts: Mapping[str, Examples], named: Mapping[str, str], class_names: Sequence[str],
    not_read: Sequence[str], known_as: str, source: str,
) -> Dataset:  # fmt: skip
    """The data set of the parts that were read, "train" and where they are there "valid" and "test".

    named: part -> its split. known_as: what `usual_augmentation` knows it by. source: see `Dataset`.
    """
    origins, train, valid, test = dict(named), parts["train"], parts.get("valid"), parts.get("test")
    if test is None:
        train, test = with_test_split(*train)
        origins |= {"train": f"{named['train']} but for a fifth", "test": f"a fifth of {named['train']}"}
    return Dataset(
        name=name,
        train_images=train.images,
        train_labels=train.labels,
        valid_images=valid.images if valid else None,
        valid_labels=valid.labels if valid else None,
        test_images=test.images,
        test_labels=test.labels,
        class_names=tuple(class_names),
        augmentation=usual_augmentation(known_as, train.images),
        source=source,
        origins=origins,
        not_read=tuple(not_read),
    )


def limited(examples: Examples, count: int) -> Examples:
    """At most `count` examples: the first ones, or, where the labels ascend, as many of each class in proportion.

    Raises DataError where a class would be left without an example.
    """
    images, labels = examples
    if count < 1:
        raise DataError(f"a limit leaves {count} of {len(labels)} images: allow more")
    if count >= len(labels):
        return examples
    chosen = np.arange(count)
    if (np.diff(labels) >= 0).all() and labels[0] != labels[-1]:
        classes = len(np.unique(labels))
        if count < classes:
            raise DataError(f"a limit of {count} images cannot have one of each of the {classes} classes: allow more")
        # Those that are kept have at least one of each class.
        chosen = hold_out(labels, len(labels) - count, seed=0)[0]
    return Examples(rows(images, chosen), labels[chosen])


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

    One changed pixel, label or name of a class makes another. Several processes share out the images that are
    `StoredImages`, and call this at the same point. Of images that were computed it is the content of those that they
    were computed from. CIFAR-10 takes a fifth of a second.
    """
    counts: dict[str, int] = {}
    content: list[np.ndarray] = []
    read = dataset.computed_from or dataset
    for part in ("train", "valid", "test"):
        images, labels = getattr(read, f"{part}_images"), getattr(read, f"{part}_labels")
        own = getattr(dataset, f"{part}_labels")
        counts[f"{part}_images"] = 0 if own is None else len(own)
        if images is not None:
            content += [_image_checksums(images), labels]
    return {
        "source": dataset.source,
        **counts,
        "shape": list(dataset.image_shape),
        "classes": list(dataset.class_names),
        "checksum": checksum(*content),
    }


def _image_checksums(images: np.ndarray) -> np.ndarray:
    """uint8 [N, 32]."""
    if not is_stored(images):
        return row_checksums(images)
    return joined(row_checksums(np.asarray(images[block(len(images))])), len(images))


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
