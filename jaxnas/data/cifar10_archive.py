"""CIFAR-10 from its original archive to the files of TFDS `cifar10/3.0.2`, without TensorFlow.

TFDS's own preparation of this data set needs TensorFlow to unpack the archive and to encode PNG. The archive holds, in
`cifar-10-batches-bin`, files of records of 1 label byte and 3 x 32 x 32 pixel bytes. Source of data: Krizhevsky,
Learning Multiple Layers of Features from Tiny Images, 2009.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image

from jaxnas.data.dataset import DataError, Examples
from jaxnas.data.tfrecord import write_records
from jaxnas.files import expanded, open_new

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
"""The checksum of the archive that TFDS has registered for this URL."""
_PREFIX = "cifar-10-batches-bin/"
_FILES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
_NAMES = "batches.meta.txt"
_MOST_BYTES = 1 << 29
"""The original unpacks to 185 MB."""
_RECORD = 1 + 3 * 32 * 32


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(target: Path, report: Callable[[str], None], url: str = URL) -> None:
    """Fetches the archive to `target`, which appears only when it is complete and its checksum is right."""
    part = target.with_name(target.name + ".part")
    try:
        with urllib.request.urlopen(url, timeout=60) as source, open_new(part) as file:
            total, done = int(source.headers.get("Content-Length") or 0), 0
            while block := source.read(1 << 20):
                file.write(block)
                if total and done * 10 // total != (done + len(block)) * 10 // total:
                    report(f"{(done + len(block)) * 100 // total} % of {total / 1e6:.0f} MB")
                done += len(block)
        if (found := sha256(part)) != SHA256:
            raise DataError(f"{url} gave a file with SHA-256 {found}, not {SHA256}: try again later")
        part.rename(target)
    except OSError as error:
        raise DataError(f"cannot download {url}: {error}; get the file elsewhere and give it by --archive") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def original(archive: Path | None, downloads: Path, allow_other_checksum: bool, report: Callable[[str], None]) -> Path:
    """The archive, with its checksum verified; where None is given it is downloaded to `downloads`, once.

    allow_other_checksum: a given archive is taken though it is not the original. report: gets lines on the download.
    Raises DataError where the archive is not there, cannot be downloaded, or is another one.
    """
    if archive is None:
        if allow_other_checksum:
            raise DataError("--allow-other-checksum is for a local archive: give --archive")
        archive = downloads / "cifar-10-binary.tar.gz"
        if not archive.exists():
            downloads.mkdir(parents=True, exist_ok=True)
            download(archive, report)
    else:
        archive = expanded(archive)
        if not archive.is_file():
            raise DataError(f"there is no archive {archive}")
    if not allow_other_checksum and (found := sha256(archive)) != SHA256:
        raise DataError(
            f"{archive} has SHA-256 {found}, not {SHA256} of the original: remove it and get it again, "
            "or give --allow-other-checksum if it is meant to differ"
        )
    return archive


def read_archive(path: Path) -> tuple[dict[str, Examples], tuple[str, ...]]:
    """({"train": …, "test": …}, class names), in the order of the archive; nothing is unpacked to disk.

    Raises DataError where the archive is damaged or holds something else.
    """
    wanted = {_PREFIX + name for name in (*_FILES["train"], *_FILES["test"], _NAMES)}
    found: dict[str, bytes] = {}
    unpacked = 0
    try:
        with tarfile.open(path, "r:gz") as archive:
            # In the archive's own order, since going back in a compressed file means to start again.
            for member in archive:
                unpacked += member.size
                if unpacked > _MOST_BYTES:  # before it is passed over, for which it would be unpacked
                    raise DataError(f"{path} unpacks to over {_MOST_BYTES:,} bytes: it is not cifar-10-binary.tar.gz")
                name = member.name.removeprefix("./")
                if name in wanted and member.isreg() and (file := archive.extractfile(member)) is not None:
                    found[name] = file.read()
    except FileNotFoundError:
        raise DataError(f"there is no archive {path}") from None
    except DataError:
        raise
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError, OverflowError) as error:
        raise DataError(f"{path} is cut short, damaged or no .tar.gz archive: {error}") from error
    if missing := sorted(wanted - found.keys()):
        raise DataError(f"{path} is not cifar-10-binary.tar.gz: it has no {', '.join(missing)}")
    names = tuple(found[_PREFIX + _NAMES].decode(errors="replace").split())
    parts = {}
    for part, files in _FILES.items():
        data = b"".join(found[_PREFIX + file] for file in files)
        if not data or any(len(found[_PREFIX + file]) % _RECORD for file in files):
            raise DataError(f"{path}: the {part} files are no whole number of records of {_RECORD} bytes")
        records = np.frombuffer(data, np.uint8).reshape(-1, _RECORD)
        labels = records[:, 0].astype(np.int32)
        if labels.max() >= len(names):
            raise DataError(f"{path}: the {part} files have label {labels.max()}, but there are {len(names)} classes")
        parts[part] = Examples(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels)
    return parts, names


def prepare(
    parts: dict[str, Examples], names: tuple[str, ...], data_dir: Path, file_format: Literal["array_record", "tfrecord"]
) -> Path:
    """Writes `data_dir`/cifar10/3.0.2 as TFDS would, and returns that directory, which appears only when complete."""
    # TFDS asks for its data sets' modules only when used, and takes half a second.
    from tensorflow_datasets.image_classification.cifar import Cifar10

    class LocalCifar10(Cifar10, skip_registration=True):  # type: ignore[call-arg]
        """The stock data set, with examples from memory instead of from a download."""

        name = "cifar10"
        # TFDS would look these up with a package that it does not declare; nothing is downloaded here.
        url_infos: ClassVar[dict[str, Any]] = {}

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
            self.info.features["label"].names = list(names)
            return {part: _tfds_examples(part, examples) for part, examples in parts.items()}

    # The description names the module, by which TFDS finds the stock class again.
    LocalCifar10.__module__ = Cifar10.__module__
    target = data_dir / "cifar10" / str(Cifar10.VERSION)
    data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".cifar10-", dir=data_dir) as work:
        builder = LocalCifar10(data_dir=work, file_format="array_record")
        builder.download_and_prepare()
        made = Path(builder.data_dir)
        if file_format == "tfrecord":
            _to_tfrecord(made)
        target.parent.mkdir(exist_ok=True)
        os.rename(made, target)
    return target


def _tfds_examples(part: str, examples: Examples) -> Iterator[tuple[int, dict[str, Any]]]:
    """What the stock builder yields, but with images as PNG files: arrays would need TensorFlow to be encoded."""
    for i, (image, label) in enumerate(zip(*examples, strict=True)):
        png = io.BytesIO()
        Image.fromarray(image).save(png, "PNG")
        png.seek(0)
        yield i, {"id": f"{part}_{i:05d}", "image": png, "label": int(label)}


def _to_tfrecord(directory: Path) -> None:
    """Turns the array_record files of a prepared data set into tfrecord files, for which TFDS needs TensorFlow."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    for file in sorted(directory.glob("*.array_record-*")):
        with ArrayRecordDataSource([str(file)]) as source:
            write_records(file.with_name(file.name.replace(".array_record-", ".tfrecord-")), source)
        file.unlink()
    description = directory / "dataset_info.json"
    info = json.loads(description.read_text())
    info["fileFormat"] = "tfrecord"
    description.write_text(json.dumps(info, indent=2))
