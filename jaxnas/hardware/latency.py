"""Latency of every option as measured on this device, to be added up under a budget.

Each operation is compiled by itself at the shapes that it has in the network, called until warm, and timed; its time is
the median. Whole networks take less than the sum of their parts where the compiler fuses them and devices overlap
them: how well sums do is to be measured on whole networks, by `jaxnas.hardware.additivity`.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Context, Skeleton
from jaxnas.files import expanded, read_json, write_atomic
from jaxnas.hardware.additive import Scores
from jaxnas.ops.costs import strided
from jaxnas.ops.primitives import PRIMITIVES, initial_stats
from jaxnas.spaces import (
    CELL_KINDS,
    DARTS_OPERATIONS,
    NASBENCH201_EDGES,
    NASBENCH201_OPERATIONS,
    edge_table,
)
from jaxnas.spaces.darts import darts_cells
from jaxnas.spaces.nasbench201 import nasbench201_stages

Timer = Callable[[str, int, int, tuple[int, int]], float]
"""(operation, channels, stride, size (height, width) of its input) -> milliseconds."""


class LatencyTable(NamedTuple):
    """Milliseconds for a batch of images, of all cells of a kind together. device: the name of where it was measured.

    milliseconds: cell kind -> float64 [S, O], as in `CostTable`; options: the O names. constant: of what every network
    has beside its choices, where that was measured.

    >>> from jaxnas.hardware import budget
    >>> times = {"cell": np.array([[0.0, 0.1]] * 6)}
    >>> table = LatencyTable("my board", 1, ("none", "skip_connect"), times, constant=2.0)
    >>> budget("milliseconds", table.milliseconds, 2.5, table.constant).upper
    0.5
    """

    device: str
    batch: int
    options: tuple[str, ...]
    milliseconds: Scores
    constant: float = 0.0


def device_name() -> str:
    """Platform and kind of the first device.

    >>> device_name().split()[0] == jax.default_backend()
    True
    """
    device = jax.devices()[0]
    return f"{device.platform} {device.device_kind}"


def median_milliseconds(function: Callable[..., Any], *arguments: Any, repeats: int = 20, warm: int = 3) -> float:
    """The median time of a call, of `repeats` after `warm` others; each is waited for.

    Raises: ValueError where there is no repeat.

    >>> median_milliseconds(jax.jit(jnp.sum), jnp.ones(1000), repeats=3) > 0
    True
    """
    if repeats < 1 or warm < 1:
        raise ValueError(f"a time needs at least one repeat, and one call before, got {repeats} and {warm}")
    for _ in range(warm):
        jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def operation_timer(batch: int, *, repeats: int = 20, dtype: str = "float32") -> Timer:
    """Times the operations of `PRIMITIVES` in evaluation, with affine batch norm on fixed statistics, each shape once.

    dtype: of the activations. "none" takes no time: a network without it does not compute it.

    Raises: ValueError where the batch is empty.

    >>> timer = operation_timer(batch=1)
    >>> timer("none", 16, 1, (32, 32))  # a network without it does not compute it
    0.0
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    known: dict[tuple[str, int, int, tuple[int, int]], float] = {}

    def timer(operation: str, channels: int, stride: int, size: tuple[int, int]) -> float:
        case = (operation, channels, stride, size)
        if operation == "none" or (operation == "skip_connect" and stride == 1):
            return 0.0
        if case not in known:
            primitive = PRIMITIVES[operation]
            params = primitive.init(jax.random.key(0), channels, stride, True)
            x = jnp.ones((batch, *size, channels), dtype)
            stats = initial_stats(primitive, channels, stride)
            call = jax.jit(lambda params, x, stats: primitive.apply(params, x, stride, Context(stats))[0])
            known[case] = median_milliseconds(call, params, x, stats, repeats=repeats)
        return known[case]

    return timer


def nasbench201_latency(skeleton: Skeleton, batch: int, timer: Timer | None = None) -> LatencyTable:
    """Of each operation on an edge of NAS-Bench-201, over all cells; the same on every edge.

    timer: by default `operation_timer(batch, dtype=skeleton.dtype)`.

    >>> skeleton = Skeleton(channels=16, cells=5, image_shape=(32, 32, 3), num_classes=10)
    >>> timer = lambda operation, channels, stride, size: float(operation != "none")  # in place of a clock
    >>> nasbench201_latency(skeleton, batch=1, timer=timer).milliseconds["cell"][0].tolist()  # of 3 stages of 5 cells
    [0.0, 15.0, 15.0, 15.0, 15.0]
    """
    timer = timer or operation_timer(batch, dtype=skeleton.dtype)
    each = [
        sum(skeleton.cells * timer(operation, channels, 1, size) for channels, size in nasbench201_stages(skeleton))
        for operation in NASBENCH201_OPERATIONS
    ]
    table = np.tile(np.array(each), (len(NASBENCH201_EDGES), 1))
    return LatencyTable(device_name(), batch, NASBENCH201_OPERATIONS, {"cell": table})


def darts_latency(
    skeleton: Skeleton,
    batch: int,
    timer: Timer | None = None,
    nodes: int = 4,
    operations: tuple[str, ...] = DARTS_OPERATIONS,
) -> LatencyTable:
    """Of each operation on each edge of DARTS cells, over all cells of a kind; preprocessing is not in it.

    timer: by default `operation_timer(batch, dtype=skeleton.dtype)`.

    >>> skeleton = Skeleton(channels=16, cells=8, image_shape=(32, 32, 3), num_classes=10)
    >>> timer = lambda operation, channels, stride, size: 1.0  # in place of a clock
    >>> table = darts_latency(skeleton, batch=1, timer=timer)
    >>> {kind: float(values[0, 1]) for kind, values in table.milliseconds.items()}  # of 6 and 2 cells
    {'normal': 6.0, 'reduce': 2.0}
    """
    timer = timer or operation_timer(batch, dtype=skeleton.dtype)
    table = {kind: np.zeros((len(edge_table(nodes)), len(operations))) for kind in CELL_KINDS}
    for cell in darts_cells(skeleton, nodes):
        for slot, (_, source) in enumerate(edge_table(nodes)):
            # Edges from the inputs of a reducing cell have stride 2, all later ones see its result.
            reduces = cell.kind == "reduce"
            stride = 2 if reduces and source < 2 else 1
            size = strided(cell.size, 2) if reduces and source >= 2 else cell.size
            for o, operation in enumerate(operations):
                table[cell.kind][slot, o] += timer(operation, cell.channels, stride, size)
    return LatencyTable(device_name(), batch, operations, table)


def save_latency(table: LatencyTable, path: str | os.PathLike[str]) -> None:
    """Writes a table as JSON that `load_latency` gives back.

    >>> import tempfile
    >>> table = LatencyTable("my board", 1, ("none", "skip_connect"), {"cell": np.array([[0.0, 0.1]])})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_latency(table, f"{folder}/latency.json")
    ...     print(load_latency(f"{folder}/latency.json").device)
    my board
    """
    content = table._asdict() | {"milliseconds": {kind: value.tolist() for kind, value in table.milliseconds.items()}}
    write_atomic(Path(path), json.dumps(content, indent=1) + "\n")


def load_latency(path: str | os.PathLike[str]) -> LatencyTable:
    """Raises: OSError; ValueError, naming the file, where it is no table of latencies.

    >>> import tempfile
    >>> table = LatencyTable("my board", 1, ("none", "skip_connect"), {"cell": np.array([[0.0, 0.1]])})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_latency(table, f"{folder}/latency.json")
    ...     load_latency(f"{folder}/latency.json").milliseconds["cell"].tolist()
    [[0.0, 0.1]]
    """
    content = read_json(expanded(path), _LatencyFile, "write it with save_latency")
    times = {kind: np.array(value, np.float64) for kind, value in content["milliseconds"].items()}
    options = tuple(content["options"])
    if not times or any(value.ndim != 2 or value.shape[1] != len(options) for value in times.values()):
        raise ValueError(
            f"{path} is no table of latencies (times must be [S, {len(options)}]); write it with save_latency"
        )
    return LatencyTable(content["device"], content["batch"], options, times, content.get("constant", 0.0))


class _LatencyFile(TypedDict):
    device: str
    batch: int
    options: list[str]
    milliseconds: dict[str, list[list[float]]]
    constant: NotRequired[float]
