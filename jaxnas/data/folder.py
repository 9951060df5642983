"""A folder that holds one folder of images for each class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxnas.data.dataset import DataError, Dataset, Examples
from jaxnas.data.images import SUFFIXES, ImageForm, is_gray, is_of_system, read_image, stack
from jaxnas.data.splits import assembled, parts_of
from jaxnas.files import expanded


def load_folder(path: str | Path, size: tuple[int, int] | None = None) -> Dataset:
    """Reads train/CLASS/*.png, valid/CLASS/*.png and test/CLASS/*.png, or CLASS/*.png alone.

    The validation folder may be called val, validation, dev or eval too, training and testing have their long names,
    and letters may be large. Without a test folder the same stratified fifth of the training images, whatever the seed,
    is kept for testing. The classes are the folders of the training split, sorted by name. Images are gray only if all
    are. `size`, (H, W), resizes them; without it they must be of one size. What a system adds (names that begin with a
    dot or two underscores) is passed over; what else is not read, the data set names in `not_read`. Raises DataError.
    """
    root = expanded(path)
    if not root.is_dir():
        raise DataError(f"{root} is no folder: give the folder that holds one folder of images for each class")
    named, others = parts_of(_folders(root))
    if "train" in named:
        folders = {part: root / name for part, name in named.items()}
    elif named and all(_folders(root / name) for name in named.values()):
        there = ", ".join(named.values())
        raise DataError(f"{root} has {there}, but no folder train: call the folder of the training split so")
    else:
        folders, named, others = {"train": root}, {"train": "all"}, []
    classes = _folders(folders["train"])
    if len(classes) < 2:
        raise DataError(
            f"{folders['train']} must hold one folder of images for each of 2 or more classes, has {len(classes)}"
        )
    files, not_read = {}, [f"{name}/" for name in others]
    for part, folder in folders.items():
        files[part], passed = _files(folder, classes)
        not_read += [f"{what} in {folder}" for what in passed]
    form = ImageForm(1 if all(is_gray(file) for listed in files.values() for file, _ in listed) else 3, size)
    parts = {
        part: Examples(
            stack((read_image(file, form) for file, _ in listed), len(listed), str(folders[part])),
            np.array([label for _, label in listed], np.int32),
        )
        for part, listed in files.items()
    }
    return assembled(root.resolve().name, parts, named, classes, not_read, "folder", "folder")


def _visible(root: Path) -> list[Path]:
    """What is in a folder, sorted by name, but for what systems add: ._image.png, .DS_Store, __MACOSX."""
    return sorted(entry for entry in root.iterdir() if not is_of_system(entry.name))


def _folders(root: Path) -> list[str]:
    return [entry.name for entry in _visible(root) if entry.is_dir()]


def _files(root: Path, classes: Sequence[str]) -> tuple[list[tuple[Path, int]], list[str]]:
    """(all images of one split with their labels, class by class and sorted by name; what else there is, in words)."""
    if unknown := sorted(set(_folders(root)) - set(classes)):
        raise DataError(f"{root} has classes that the training split has not: {', '.join(unknown)}")
    listed = []
    passed = Counter(
        f"{entry.suffix} outside of a class" for entry in _visible(root) if entry.suffix.lower() in SUFFIXES
    )
    for label, name in enumerate(classes):
        folder = root / name
        entries = _visible(folder) if folder.is_dir() else []
        images = [entry for entry in entries if entry.suffix.lower() in SUFFIXES]
        if not images:
            raise DataError(f"{folder} has no images ({', '.join(s[1:] for s in SUFFIXES)})")
        listed += [(image, label) for image in images]
        others = (entry for entry in entries if entry not in images)
        passed.update("folder" if entry.is_dir() else entry.suffix or "without a suffix" for entry in others)
    return listed, [f"{count} {kind}" for kind, count in sorted(passed.items())]
