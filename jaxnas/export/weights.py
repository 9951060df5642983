"""Weights as safetensors, with the architecture beside them as JSON: for every framework that reads the two.

Tensors are named by their places, such as "params.stem.kernel", in the order and layout of the library: kernels of
convolutions are [height, width, inputs, outputs]. A kernel in 8 bits is a tensor of int8 and its "NAME.scale".
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import PyTree
from jaxnas.export.int8 import Int8
from jaxnas.files import check_no_pipe, read_json, write_atomic, write_json
from jaxnas.saved import Loaded, applied, network_of

if TYPE_CHECKING:
    from jaxnas.catalog import Entry

WEIGHTS, ARCHITECTURE = "network.safetensors", "network.json"
"""The two files."""


def save_weights(folder: Path, state: PyTree, description: Mapping[str, Any]) -> Path:
    """Writes both files; gives the path of the weights. state: {"params", "stats"}, kernels floats or `Int8`."""
    from safetensors.numpy import save

    tensors: dict[str, np.ndarray] = {}
    for name, leaf in _named(state):
        if isinstance(leaf, Int8):
            tensors[name], tensors[f"{name}.scale"] = np.asarray(leaf.values), np.asarray(leaf.scale)
        else:
            tensors[name] = np.asarray(leaf)
    write_json(folder / ARCHITECTURE, dict(description))
    write_atomic(folder / WEIGHTS, save(tensors, {"format": "jaxnas", "architecture": ARCHITECTURE}))
    return folder / WEIGHTS


def load_weights(folder: str | os.PathLike[str], space: Entry | None = None) -> Loaded:
    """The network of the two files in a folder, as `jaxnas.load` gives that of a run.

    space: the entry of a space of your own. Kernels in 8 bits become float32 again.

    Raises: OSError where a file is missing, ValueError where one is damaged or the weights are of another network.

    docs/export.md has an example.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = Path(folder) / WEIGHTS
    check_no_pipe(path)
    try:
        tensors = load(path.read_bytes())
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); export the network again") from error
    description = read_json(Path(folder) / ARCHITECTURE)
    network = network_of(description, space)
    params, stats = jax.eval_shape(network.init, jax.random.key(0))
    target = {"params": params, "stats": stats}
    leaves = []
    for name, wanted in _named(target):
        found = tensors.get(name)
        if found is not None and f"{name}.scale" in tensors:
            found = np.asarray(Int8(found, tensors[f"{name}.scale"]).floats())
        if found is None or found.shape != wanted.shape:
            what = "is not there" if found is None else f"is {list(found.shape)}"
            raise ValueError(f"{path}: {name} of the network is {list(wanted.shape)}, and in the file it {what}")
        leaves.append(jnp.asarray(found, wanted.dtype))
    return Loaded(applied(description, network), jax.tree.unflatten(jax.tree.structure(target), leaves))


def _named(tree: PyTree) -> list[tuple[str, Any]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda leaf: isinstance(leaf, Int8))
    return [(".".join(str(getattr(p, "key", getattr(p, "idx", p))) for p in path), leaf) for path, leaf in leaves]
