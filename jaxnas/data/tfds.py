"""Image-classification data sets that TensorFlow Datasets (TFDS) has prepared on disk, read without TensorFlow.

Both record formats are read: array_record and tfrecord, which most people have. The class of TFDS that made the files
is not needed, since TFDS stores a description beside them.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnas.data.dataset import RESIZE, DataError, Dataset, Examples
from jaxnas.data.images import ImageForm, read_image, stack
from jaxnas.data.splits import assembled, parts_of
from jaxnas.data.stored import StoredImages
from jaxnas.data.tfrecord import positions, read_records
from jaxnas.files import expanded
from jaxnas.parallel import block, from_first, joined

_BLOCK = 1024
_CLASS_KEYS = ("pythonClassName", "python_class_name", "type")
_FORMS = "it must be digits, folder:PATH, or the name of a TFDS image-classification data set such as cifar10"


def load_tfds(
    name: str, data_dir: str | None = None, size: tuple[int, int] | None = None, label: str | None = None
) -> Dataset:
    """Reads "name", "name:version", "name/config" or "name/config:version" from `data_dir`, which is only read.

    Without a version the newest on disk is taken. `data_dir` None means the directory that TFDS uses by default. The
    split "validation" (or valid, val, dev, eval) is that for validation. Where there is no "test", a fixed fifth of
    "train" is kept for testing. Other splits are not read, and named in `not_read`, and so is one for validation or
    testing that has no labels. `size`, (H, W), resizes the images, which is needed where they differ in size. label:
    the feature to be learned, where there are several labels. Several processes load it together, each decoding a part;
    the images are then `StoredImages`. Raises DataError where the data is not there, damaged, or no image
    classification, or where its description names code outside TFDS.
    """
    # Half a second, which those who use other data need not wait.
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.read_only_builder import builder_from_files

    if not re.fullmatch(r"\w+(/[\w.-]+)?(:[\w.*]+)?", name):
        raise DataError(f"unknown data set {name!r}: {_FORMS}")
    directory = expanded(data_dir or tfds.core.constants.DATA_DIR)
    _check_descriptions(directory / re.split("[:/]", name)[0])
    try:
        info = builder_from_files(name, data_dir=str(directory)).info
    except tfds.core.registered.DatasetNotFoundError as error:
        raise DataError(_advice(name, directory)) from error
    # A border to another library: a damaged description gives an exception of any kind.
    except Exception as error:
        raise DataError(f"cannot read the description of {name} in {directory}: {error}") from error

    image_key, label_key = _keys(name, info, label)
    named, others = parts_of(info.splits)
    if "train" not in named:
        raise DataError(f"{name} has no split named train, only {', '.join(others)}: it cannot be trained on")
    class_names = info.features[label_key].names
    if len(class_names) < 2:
        raise DataError(f"{name} has {len(class_names)} class: take a data set with 2 classes or more")
    form = ImageForm(info.features[image_key].shape[-1] or 3, size)
    not_read = [f"split {split}" for split in others]
    for part in ("valid", "test"):
        if part in named and not _has_labels(info, named[part], label_key):
            not_read.append(f"split {named.pop(part)}, which has no labels")
    parts = {part: _read_split(info, split, image_key, label_key, form) for part, split in named.items()}
    return assembled(info.name, parts, named, class_names, not_read, info.name, info.full_name)


def _check_descriptions(folder: Path) -> None:
    """Raises DataError where a description of a data set names a class outside TFDS, which reading it would import."""
    for path in sorted([*folder.glob("*/*.json"), *folder.glob("*/*/*.json")]):
        if not path.is_file():  # a pipe would be waited for
            raise DataError(f"{path} is no file: prepare the data set again")
        if path.name != "features.json":
            continue
        try:
            named = list(_class_names(json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"cannot read the description {path}: {error}") from error
        for name in named:
            if not name.startswith("tensorflow_datasets."):
                raise DataError(
                    f"{path} names the class {name!r}, which is not of tensorflow_datasets and would be imported and "
                    "run: prepare the data set again with features of tensorflow_datasets alone"
                )


def _class_names(value: Any) -> Iterator[str]:
    """The Python classes that a description names, also in JSON inside its strings."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    if isinstance(value, list):
        for entry in value:
            yield from _class_names(entry)
    elif isinstance(value, dict):
        for key, entry in value.items():
            if key in _CLASS_KEYS and isinstance(entry, str) and "." in entry:  # without a dot nothing is imported
                yield entry
            yield from _class_names(entry)


def _advice(name: str, directory: Path) -> str:
    """What is wrong with a name that has no files, and the command that would get them."""
    import tensorflow_datasets as tfds

    base = re.split("[:/]", name)[0]
    known = ["digits", *tfds.list_builders(with_community_datasets=False)]
    on_disk = sorted(p.parent.relative_to(directory) for p in (directory / base).glob("**/features.json"))
    if on_disk:
        there = ", ".join(map(str, on_disk))
        return (
            f"{name} is not in {directory}, but {there} is: ask for NAME:VERSION or NAME/CONFIG:VERSION as it is there"
        )
    if base not in known:
        near = difflib.get_close_matches(base, known, n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        return f"unknown data set {name!r}: {hint}{_FORMS}"
    if base == "cifar10":
        return (
            f"{name} is not in {directory}; get it by: python -m experiments.prepare_cifar10 --data-dir {directory} "
            "[--archive cifar-10-binary.tar.gz]"
        )
    prepare = f"import tensorflow_datasets as tfds; tfds.builder({name!r}, data_dir={str(directory)!r})"
    return (
        f"{name} is not in {directory}; get it where tensorflow and importlib_resources are installed by: "
        f'python -c "{prepare}.download_and_prepare()"'
    )


def _keys(name: str, info: Any, wanted: str | None) -> tuple[str, str]:
    """The names of the image and of the label, by default the usual one, among the features of a data set."""
    import tensorflow_datasets as tfds

    features = dict(info.features.items())
    keys = info.supervised_keys
    images = [key for key, value in features.items() if isinstance(value, tfds.features.Image)]
    labels = sorted(key for key, value in features.items() if isinstance(value, tfds.features.ClassLabel))
    if wanted is not None and wanted not in labels:
        raise DataError(f"{name} has no label {wanted!r}; its labels are {', '.join(labels) or 'none'}")
    if not (isinstance(keys, tuple) and len(keys) == 2 and all(isinstance(key, str) for key in keys)):
        if len(images) == 1 and len(labels) > 1 and wanted is None:
            raise DataError(f"{name} has several labels: choose one by --label, of {', '.join(labels)}")
        keys = (images[0] if len(images) == 1 else None, labels[0] if labels else None)
    keys = (keys[0], wanted or keys[1])
    image, label = (features.get(key) for key in keys)
    if not isinstance(image, tfds.features.Image) or not isinstance(label, tfds.features.ClassLabel):
        raise DataError(f"{name} is no image classification: its features are {', '.join(features)}")
    if image.np_dtype != np.uint8:
        raise DataError(f"{name} has images of type {np.dtype(image.np_dtype)}; only uint8 can be read")
    return keys[0], keys[1]


def _read_split(info: Any, split: str, image_key: str, label_key: str, form: ImageForm) -> Examples:
    """One split in the order of its files, decoded once. Of several processes each decodes a block of it, and later
    what it is asked for beyond that; the labels are exchanged."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorflow_datasets.proto import tf_example_pb2

    about = info.splits[split]
    count = about.num_examples
    origin = f"{info.full_name}, split {split},"
    labels = np.zeros(count, np.int32)
    positions_of = functools.cache(positions)  # a file is asked several times where it is read as needed

    def images(numbers: np.ndarray) -> Iterator[np.ndarray]:
        first = 0
        for file, length in zip(about.filepaths, about.shard_lengths, strict=True):
            here = numbers[(numbers >= first) & (numbers < first + length)] - first
            records = _read_file(str(file), info.file_format.value, length, here, positions_of) if here.size else ()
            for i, record in zip(here, records, strict=True):
                try:
                    features = tf_example_pb2.Example.FromString(record).features.feature
                    labels[first + i] = features[label_key].int64_list.value[0]
                    yield read_image(features[image_key].bytes_list.value[0], form)
                except (DecodeError, IndexError, DataError) as error:
                    raise DataError(f"{file}: record {i} cannot be read: {error}") from error
            first += length

    if jax.process_count() == 1:
        return Examples(stack(images(np.arange(count)), count, origin), labels)
    own = np.arange(count)[block(count)]
    if not own.size:
        own = np.arange(1)  # one image at least, to tell the size
    pixels = stack(images(own), len(own), origin)
    if from_first(list(pixels.shape[1:])) != list(pixels.shape[1:]):
        raise DataError(f"{origin} has images of different sizes: {RESIZE}")
    stored = StoredImages(lambda numbers: stack(images(numbers), len(numbers), origin), count, pixels.shape[1:])
    stored.keep(own, pixels)
    return Examples(stored, joined(labels[block(count)], count))


def _has_labels(info: Any, split: str, label_key: str) -> bool:
    """Whether the first example of a split has a label: test splits of contests have -1 for all."""
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    about = info.splits[split]
    for file, length in zip(about.filepaths, about.shard_lengths, strict=True):
        if length:
            (record,) = _read_file(str(file), info.file_format.value, length, np.arange(1), positions)
            try:
                values = tf_example_pb2.Example.FromString(record).features.feature[label_key].int64_list.value
            except DecodeError as error:
                raise DataError(f"{file}: record 0 cannot be read: {error}") from error
            return len(values) == 1 and values[0] >= 0
    return False


def _read_file(
    path: str, file_format: str, length: int, numbers: np.ndarray,
    positions_of: Callable[[str], list[tuple[int, int]]],
) -> Iterator[bytes]:  # fmt: skip
    """Records of one file by their ascending numbers.

    Raises: DataError naming the file where it is missing, cut short, damaged, or has not as many records as described.
    """
    if not Path(path).is_file():
        raise DataError(f"{path} is missing: prepare the data set again")
    if file_format == "tfrecord":
        where = positions_of(path)
        _check_length(path, len(where), length)
        yield from read_records(path, numbers.tolist(), where)
        return
    if file_format != "array_record":
        raise DataError(f"{path} is in the format {file_format}; only array_record and tfrecord can be read")
    try:
        from array_record.python.array_record_data_source import ArrayRecordDataSource
    except ImportError as error:
        raise DataError(f"{path} needs the package array_record, which is not installed: {error}") from error
    try:
        with ArrayRecordDataSource([path]) as source:
            _check_length(path, len(source), length)
            for start in range(0, len(numbers), _BLOCK):
                yield from source.__getitems__(numbers[start : start + _BLOCK].tolist())
    except RuntimeError as error:
        raise DataError(f"{path} is cut short or damaged: {error}") from error


def _check_length(path: str, found: int, described: int) -> None:
    if found != described:
        raise DataError(f"{path} has {found} records, but {described} are described")
