"""The network of a run, written in the formats that are asked for and compared with what was written."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from jaxnas.base import PyTree
from jaxnas.export.int8 import dequantize, quantize
from jaxnas.export.stablehlo import PLATFORMS, read_stablehlo, to_stablehlo
from jaxnas.export.weights import load_weights, save_weights
from jaxnas.files import write_atomic
from jaxnas.saved import describe, load

if TYPE_CHECKING:
    from jaxnas.catalog import Entry

FORMATS = {"stablehlo": ("flatbuffers",), "onnx": ("onnx", "onnxruntime"), "safetensors": ("safetensors",)}
"""Name -> the packages that writing and reading it takes."""
TOLERANCE = 1e-4
"""Of the largest output: how far what was written may be off."""
_CHECKED = 4
"""Images on which what was written is compared with the network."""


class Written(NamedTuple):
    """A file. difference: how far its outputs are from the network's on random images, as a share of the largest; None
    of StableHLO for other platforms than this one."""

    path: Path
    difference: float | None


def export_run(
    run: str | os.PathLike[str],
    formats: Sequence[str],
    folder: str | os.PathLike[str] | None = None,
    *,
    int8: bool = False,
    platforms: Sequence[str] = PLATFORMS,
    space: Entry | None = None,
) -> dict[str, Written]:
    """Writes the found, trained network of a run in some formats, each read again and compared with the network.

    formats: of `FORMATS`. folder: by default `run`/export. What is written takes images uint8 [B, H, W, C] of 0 to 255,
    normalizes them as in training, and gives logits [B, K], all in float32. int8: kernels in 8 bits
    (`jaxnas.export.int8`); then the comparison is with the network whose kernels are rounded. platforms: of StableHLO.
    space: the entry of a space of your own.

    Raises: ValueError for a format that is not known or lacks its package, for a network that does not read images, and
    where a file computes something else than the network; OSError where there is no network, or nothing can be written.

    docs/export.md has an example.
    """
    check_formats(formats)
    description = describe(run)
    if "inputs" in description:
        raise ValueError(
            f"{run} has a network of {', '.join(description['inputs'])}, not of images: export a function of yours by "
            "jaxnas.export.onnx_model.to_onnx or jaxnas.export.to_stablehlo"
        )
    shape, dtype = tuple(description["skeleton"]["image_shape"]), np.uint8
    loaded = load(run, space, dtype="float32")
    state = {**loaded.params, "params": quantize(loaded.params["params"])} if int8 else loaded.params

    def apply(state: PyTree, images: Any) -> Any:
        return loaded.apply(_floats(state), images)

    target = Path(run) / "export" if folder is None else Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, (_CHECKED, *shape), dtype)
    wanted = np.asarray(jax.jit(apply)(state, images))
    example = jax.ShapeDtypeStruct(shape, dtype)
    written = {}
    for name in formats:
        if name == "stablehlo":
            path = target / "network.stablehlo"
            write_atomic(path, to_stablehlo(apply, state, example, platforms))
            own = "cuda" if jax.default_backend() == "gpu" else jax.default_backend()
            found = read_stablehlo(path)(images) if own in platforms else None
        elif name == "onnx":
            path = target / "network.onnx"
            found = _write_onnx(path, lambda batch: apply(state, batch), example, int8, description, images)
        else:
            path = save_weights(target, state, description)
            same = jax.tree.map(np.array_equal, load_weights(target, space).params, _floats(state))
            found = wanted if all(jax.tree.leaves(same)) else np.nan * wanted
        written[name] = Written(path, None if found is None else _share(np.asarray(found), wanted, path))
    return written


def _floats(state: PyTree) -> PyTree:
    return {**state, "params": dequantize(state["params"])}


def _write_onnx(
    path: Path, function: Callable[[Any], Any], example: Any, int8: bool, description: Mapping[str, Any], images: Any
) -> np.ndarray:
    from jaxnas.export.onnx_model import run_onnx, to_onnx

    about = {name: json.dumps(description[name]) for name in ("class_names", "genotype")}
    content = to_onnx(function, example, int8=int8, about=about).SerializeToString()
    write_atomic(path, content)
    return run_onnx(content, images)


def _share(found: np.ndarray, wanted: np.ndarray, path: Path) -> float:
    difference = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    if not difference <= TOLERANCE:
        raise ValueError(
            f"{path} gives other outputs than the network, by {difference:.2g} of the largest: do not use it, and "
            "report this as a fault of jaxnas"
        )
    return difference


def check_formats(formats: Sequence[str]) -> None:
    """Raises ValueError for a format that is not known, or whose package is not installed.

    >>> check_formats(["tensorflow"])
    Traceback (most recent call last):
        ...
    ValueError: there is no format 'tensorflow'; there are stablehlo, onnx, safetensors
    """
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"there is no format {name!r}; there are {', '.join(FORMATS)}")
        if lacking := [package for package in FORMATS[name] if importlib.util.find_spec(package) is None]:
            raise ValueError(f"{name} needs the package {lacking[0]}: pip install 'jaxnas[export]'")
