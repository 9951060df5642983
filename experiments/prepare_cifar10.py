"""Prepares CIFAR-10 for TFDS (`cifar10/3.0.2`) from the original archive, without TensorFlow.

python -m experiments.prepare_cifar10 --data-dir ~/tensorflow_datasets --archive cifar-10-binary.tar.gz

Without --archive the archive (170 MB) is downloaded from its original address. Its checksum is verified. Needs about
300 MB under the data directory; takes about half a minute on one core, download apart.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Literal

from jaxnas import command
from jaxnas.data.cifar10_archive import original, prepare, read_archive
from jaxnas.files import expanded


@dataclasses.dataclass(frozen=True)
class Config:
    """Where the archive is and where the data set goes."""

    data_dir: Path
    """Directory for data sets of TFDS; its own default is ~/tensorflow_datasets."""
    archive: Path | None = None
    """A local cifar-10-binary.tar.gz; downloaded to DATA_DIR/downloads where not given."""
    file_format: Literal["array_record", "tfrecord"] = "array_record"
    """Format of the files."""
    allow_other_checksum: bool = False
    """Take a local archive though its checksum is not that of the original."""


def run(config: Config) -> None:
    """Prepares the data set, or says that it is there already."""
    data_dir = expanded(config.data_dir)
    target = data_dir / "cifar10" / "3.0.2"
    if target.exists():
        print(f"{target} is there already; remove it to prepare it again")
        return
    archive = original(config.archive, data_dir / "downloads", config.allow_other_checksum, _report)
    parts, names = read_archive(archive)
    made = prepare(parts, names, data_dir, config.file_format)
    print(f"{made}: {len(parts['train'].targets)} train and {len(parts['test'].targets)} test images")


def _report(line: str) -> None:
    print(f"download: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    command.main(run, Config)
