"""Latency on this device: of each option, scaled to that of whole networks."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Arch, Context, Network, PyTree, SearchSpace, Skeleton
from jaxnas.catalog import CATALOG, Entry
from jaxnas.files import expanded
from jaxnas.hardware import (
    AdditiveFit,
    LatencyTable,
    device_name,
    load_latency,
    median_milliseconds,
    read_latency_table,
    sums,
)


def latency_table(
    entry: Entry, space: SearchSpace, skeleton: Skeleton, batch: int, path: Path | None = None
) -> LatencyTable:
    """The table in the file, where there is one, or one that is measured now, which takes some seconds.

    An operation by itself takes longer than as a part of a program, and networks have more than operations. So times
    are scaled, and a constant put beside, such that of some random networks those of the least and of the greatest sum
    take what they are measured to take.

    Raises: ValueError where there is no such table, or the file is of another device, batch size or space.
    """
    measure = entry.latency
    if measure is None:
        known = [entry.name for entry in CATALOG.values() if entry.latency is not None]
        raise ValueError(f"there is no table of latencies for {space.name}: --max-latency-ms is for {', '.join(known)}")
    if path is not None and path.exists():
        table = load_latency(path)
        if (table.device, table.batch) != (device_name(), batch):
            raise ValueError(
                f"{path} is of batches of {table.batch} on {table.device}, but this is {device_name()} and batches of "
                f"{batch}; go on there, or choose another --workdir"
            )
        shapes = [
            {kind: np.shape(value) for kind, value in each.items()} for each in (table.milliseconds, space.template())
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{path} is of other operations than those of {space.name}; choose another --workdir")
        return table
    table = measure(skeleton, batch)
    archs = jax.vmap(space.sample)(jax.random.split(jax.random.key(0), 256))
    totals = sums(space, AdditiveFit(0.0, table.milliseconds), archs)
    ends = [int(np.argmin(totals)), int(np.argmax(totals))]
    least, greatest = (network_milliseconds(entry, archs[end], space, skeleton, batch) for end in ends)
    scale = float((greatest - least) / max(totals[ends[1]] - totals[ends[0]], 1e-9))
    if not scale > 0:  # a clock that is too coarse, or a busy device
        return table
    times = {kind: scale * value for kind, value in table.milliseconds.items()}
    return table._replace(milliseconds=times, constant=float(least - scale * totals[ends[0]]))


def given_latency_table(entry: Entry, space: SearchSpace, path: str) -> LatencyTable:
    """The table of a file of any user. Raises: OSError; ValueError where it is none, or costs of the space do not add
    up."""
    if entry.structure is None or entry.cost_table is None:
        known = [entry.name for entry in CATALOG.values() if entry.structure is not None]
        raise ValueError(f"latencies do not add up in {space.name}: --latency-table is for {', '.join(known)}")
    return read_latency_table(expanded(path), space)


def network_milliseconds(entry: Entry, arch: Arch, space: SearchSpace, skeleton: Skeleton, batch: int) -> float:
    """Of the whole network of an architecture, in evaluation, as its options were timed."""
    network = entry.network(arch, skeleton, space)
    return milliseconds_of(network, jnp.ones((batch, *skeleton.image_shape)))


def milliseconds_of(network: Network, inputs: PyTree) -> float:
    """Of a network with random parameters for a batch of inputs, in evaluation, on this device."""
    params, stats = jax.jit(network.init)(jax.random.key(0))
    call = jax.jit(lambda params, stats, x: network.apply(params, x, Context(stats))[0])
    return median_milliseconds(call, params, stats, inputs)
