"""The benchmark that comes with the package: every NAS-Bench-201 cell trained from scratch on noisy digits.

4,930 networks, one for each functional class of the 15,625 cells (`functional_classes`), on handwritten digits made
harder: each image is moved by up to two pixels and gets Gaussian noise, so that networks differ and no ranking is
saturated. The data is `jaxnas.data.load_dataset("digits201")`, and `jaxnas.making` is how the networks were trained;
`python -m experiments.make_digits201` made the file.
"""

from __future__ import annotations

import zipfile
import zlib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np

from jaxnas.base import Skeleton
from jaxnas.benchmarks.nasbench201 import functional_classes
from jaxnas.benchmarks.table import Table, make_table
from jaxnas.files import check_unpacked, parse_json
from jaxnas.shapes import Bounds, check_shape
from jaxnas.spaces.nasbench201 import NASBENCH201_OPERATIONS, nasbench201_cost_table, nasbench201_space

DIGITS201_DESCRIPTIONS = {
    "valid": "validation accuracy in %, after so many epochs of one run",
    "valid_loss": "validation cross-entropy in nats, after so many epochs of one run; smaller is better",
    "test": "TEST accuracy in %, after the last epoch of the same run",
    "valid_second": "validation accuracy in % of a second run, with another seed; some cells only",
    "valid_loss_second": "validation cross-entropy in nats of the second run; smaller is better",
    "test_second": "TEST accuracy in % of the second run",
    "params": "parameters of the network of this very cell",
    "macs": "multiply-adds of the network of this very cell, for one image",
    "seconds": "simulated seconds of training for so many epochs, a model of the multiply-adds",
}
"""The metrics of `digits201_table`."""


def digits201_cells() -> tuple[np.ndarray, np.ndarray]:
    """All cells, int32 [15625, 6], in the order of their numbers to base 5, and the functional class of each."""
    digits = 5 ** np.arange(5, -1, -1)
    cells = (np.arange(5**6)[:, None] // digits % len(NASBENCH201_OPERATIONS)).astype(np.int32)
    return cells, functional_classes(cells)


def digits201_costs(skeleton: Skeleton, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(params [A], MACs [A]) of the networks of cells [A, 6]."""
    table = nasbench201_cost_table(skeleton)
    edges = np.arange(cells.shape[1])
    params, macs = (
        table.constant[name] + part["cell"][edges, cells].sum(axis=1)
        for name, part in (("params", table.params), ("macs", table.macs))
    )
    return params, macs


def read_digits201(path: str | Path | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What is in a file of the benchmark, by default ours: arrays of each class, and how they were made.

    Raises: OSError, or ValueError where the file is not one of this benchmark.
    """
    source = resources.files("jaxnas.benchmarks").joinpath("digits201.npz") if path is None else Path(path)
    if path is not None:
        check_unpacked(Path(path))
    with source.open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            about = parse_json(str(arrays.pop("about")), "what it is about", "make it again")
            check_shape(about, _About, "what it is about")
            _check_arrays(arrays, len(about["fidelities"]))
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{source} is not a file of digits201: {error}") from error
    return arrays, about


class _Skeleton(TypedDict):
    channels: int
    cells: int
    image_shape: list[int]
    num_classes: int
    auxiliary: bool


class _About(TypedDict):
    """The shape of how the arrays were made."""

    skeleton: _Skeleton
    fidelities: list[int]
    images: Annotated[int, Bounds(1, 1 << 40)]
    seconds_an_epoch: tuple[float, float]
    config: dict[str, Any]


def _check_arrays(arrays: dict[str, np.ndarray], fidelities: int) -> None:
    """Raises ValueError where an array is missing, or not of numbers of each class."""
    for prefix in ("", "second_"):
        count = len(np.atleast_1d(arrays[f"{prefix}test_correct"]))
        for name, shape in (
            ("test_correct", (count,)), ("valid_correct", (count, fidelities)), ("valid_loss", (count, fidelities)),
        ):  # fmt: skip
            array = arrays[f"{prefix}{name}"]
            if array.shape != shape or array.dtype.kind not in "uif":
                raise ValueError(f"{prefix}{name} must be numbers {list(shape)}, got {array.dtype} {list(array.shape)}")
    second = arrays["second_classes"]
    whole = second.dtype.kind in "ui" and second.shape == arrays["second_test_correct"].shape
    if not whole or (second.size and not 0 <= second.min() <= second.max() < 5**6):
        raise ValueError(f"second_classes must be numbers of classes, got {second.dtype} {list(second.shape)}")


def digits201_table(path: str | Path | None = None) -> Table:
    """The benchmark as a table over all 15,625 cells; `path` is a file that the experiment wrote, by default ours.

    A file of the first classes only gives a table of their cells.

    "valid" and "valid_loss" have several fidelities, checkpoints of one run; "seconds" has the same. What was measured
    is equal in a functional class; "params", "macs" and "seconds" are those of each cell.

    Raises: OSError, or ValueError where the file is not one of this benchmark.

    >>> table = digits201_table()
    >>> table.archs.shape, table.fidelities["valid"][-1]
    ((15625, 6), '8')
    >>> bool(table.metrics["test"].max() < 81)
    True
    """
    arrays, about = read_digits201(path)
    cells, classes = digits201_cells()
    count, images = len(arrays["test_correct"]), about["images"]
    cells, classes = cells[classes < count], classes[classes < count]
    valid, loss, test = _percent(arrays, "", images)
    second = np.full((count, 3), np.nan)
    valid_again, loss_again, test_again = _percent(arrays, "second_", images)
    second[arrays["second_classes"]] = np.stack([valid_again[:, -1], loss_again[:, -1], test_again], axis=1)
    params, macs = digits201_costs(Skeleton(**about["skeleton"]), cells)
    constant, slope = about["seconds_an_epoch"]
    labels = [str(epoch) for epoch in about["fidelities"]]
    metrics = {
        "valid": valid[classes],
        "valid_loss": loss[classes],
        "test": test[classes],
        "valid_second": second[classes, 0],
        "valid_loss_second": second[classes, 1],
        "test_second": second[classes, 2],
        "params": params,
        "macs": macs,
        "seconds": (constant + slope * macs)[:, None] * np.array(about["fidelities"]),
    }
    fidelities = dict.fromkeys(("valid", "valid_loss", "seconds"), labels)
    return make_table("digits201", nasbench201_space(), cells, metrics, DIGITS201_DESCRIPTIONS, fidelities)


def _percent(arrays: dict[str, np.ndarray], prefix: str, images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(validation accuracy in %, loss, test accuracy in %) of each class; NaN where it was not trained."""
    loss = arrays[f"{prefix}valid_loss"].astype(np.float32)
    untrained = np.isnan(loss)
    valid = np.where(untrained, np.nan, arrays[f"{prefix}valid_correct"] / images * 100)
    return valid, loss, np.where(untrained[:, -1], np.nan, arrays[f"{prefix}test_correct"] / images * 100)
