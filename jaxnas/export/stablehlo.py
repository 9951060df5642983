"""Any function of a batch as StableHLO, in the format of `jax.export`: weights inside, a batch of any size.

The file is read by any JAX from the one that wrote it to those of six months later, on the platforms that it was
written for; `Exported.mlir_module_serialized` is the module alone, in StableHLO's portable form, for other compilers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax import export as jax_export

from jaxnas.base import PyTree
from jaxnas.files import check_no_pipe
from jaxnas.kernels.platform import Platform, supposing

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
"""What JAX lowers to."""


def to_stablehlo(
    function: Callable[[PyTree, PyTree], Any], params: PyTree, inputs: PyTree, platforms: Sequence[str] = PLATFORMS
) -> bytes:
    """A function (params, a batch of inputs) -> outputs, with these parameters, as bytes for `jax.export.deserialize`.

    inputs: one example, a pytree of arrays or of `jax.ShapeDtypeStruct`, without the axis of the batch. platforms: of
    `PLATFORMS`. A CPU is given its own forms of the layers, which take it a tenth of the time; the others are given
    one operation for each layer.

    Raises: ValueError for an unknown platform, or none.

    >>> import numpy as np
    >>> content = to_stablehlo(lambda w, x: x @ w, np.eye(3, 2, dtype="float32"), np.zeros(3, "float32"), ["cpu"])
    >>> exported = jax_export.deserialize(bytearray(content))
    >>> str(exported.in_avals[0]), exported.platforms
    ('float32[batch,3]', ('cpu',))
    """
    if not platforms or set(platforms) - set(PLATFORMS):
        raise ValueError(f"platforms must be some of {', '.join(PLATFORMS)}, got {', '.join(platforms) or 'none'}")

    def formed(form: Platform) -> Callable[[PyTree, PyTree], Any]:
        def run(params: PyTree, batch: PyTree) -> Any:
            with supposing(form):
                return function(params, batch)

        return run

    def whole(batch: PyTree) -> Any:
        return jax.lax.platform_dependent(params, batch, cpu=formed("cpu"), default=formed("plain"))

    (size,) = jax_export.symbolic_shape("batch")
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype), inputs)
    only = formed("cpu" if platforms[0] == "cpu" else "plain")
    chosen = whole if len(platforms) > 1 and "cpu" in platforms else lambda batch: only(params, batch)
    return bytes(jax_export.export(jax.jit(chosen), platforms=platforms)(shapes).serialize())


def read_stablehlo(path: str | os.PathLike[str]) -> Callable[[PyTree], Any]:
    """The function of a file: a batch of inputs -> outputs. Raises: ValueError where the file is none.

    >>> import tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "double.stablehlo")
    ...     _ = path.write_bytes(to_stablehlo(lambda w, x: w * x, 2.0, np.zeros(3, "float32")))
    ...     read_stablehlo(path)(np.ones((2, 3), "float32")).tolist()
    [[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]
    """
    check_no_pipe(path)
    content = bytearray(Path(path).read_bytes())
    try:
        return jax_export.deserialize(content).call
    except Exception as error:  # flatbuffers raises what it happens to meet
        raise ValueError(f"{path} is not what jax.export has written ({error}); export the network again") from error
