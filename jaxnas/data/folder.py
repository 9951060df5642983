"""A folder that holds one folder of images for each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxnas.data.dataset import DataError, Dataset, Examples, usual_augmentation, with_test_split
from jaxnas.data.images import decode, is_grey, stack

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")


def load_folder(path: str | Path, size: int | None = None) -> Dataset:
    """Reads train/CLASS/*.png and test/CLASS/*.png, or CLASS/*.png alone.

    valid/CLASS/*.png, where it is there, is the data set's own validation split. Without a test folder the same
    stratified fifth of the images, whatever the seed, is kept for testing. The classes are the folders of the training
    split, sorted by name. Images are grey only if all are. `size` resizes them to size x size; without it they must be
    of one size. Raises DataError.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DataError(f"{root} is no folder: give the folder that holds one folder of images for each class")
    train_root = root / "train" if (root / "train").is_dir() else root
    parts = {"train": train_root}
    if train_root != root:
        parts |= {part: root / part for part in ("valid", "test") if (root / part).is_dir()}
    classes = _folders(train_root)
    if len(classes) < 2:
        raise DataError(
            f"{train_root} must hold one folder of images for each of 2 or more classes, has {len(classes)}"
        )
    files = {part: _files(folder, classes) for part, folder in parts.items()}
    channels = 1 if all(is_grey(file) for listed in files.values() for file, _ in listed) else 3
    examples = {
        part: Examples(
            stack((decode(file, channels, size) for file, _ in listed), len(listed), str(parts[part])),
            np.array([label for _, label in listed], np.int32),
        )
        for part, listed in files.items()
    }
    train = examples["train"]
    train, test = (train, examples["test"]) if "test" in examples else with_test_split(*train)
    valid = examples.get("valid")
    return Dataset(
        name=root.resolve().name,
        train_images=train.images,
        train_labels=train.labels,
        valid_images=valid.images if valid else None,
        valid_labels=valid.labels if valid else None,
        test_images=test.images,
        test_labels=test.labels,
        class_names=tuple(classes),
        augmentation=usual_augmentation("folder", train.images),
        source="folder",
    )


def _folders(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files(root: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """All images of one split with their labels, class by class and sorted by name."""
    if unknown := sorted(set(_folders(root)) - set(classes)):
        raise DataError(f"{root} has classes that the training split has not: {', '.join(unknown)}")
    listed = []
    for label, name in enumerate(classes):
        folder = root / name
        images = sorted(f for f in folder.iterdir() if f.suffix.lower() in _SUFFIXES) if folder.is_dir() else []
        if not images:
            raise DataError(f"{folder} has no images ({', '.join(s[1:] for s in _SUFFIXES)})")
        listed += [(image, label) for image in images]
    return listed
