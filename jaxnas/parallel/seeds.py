"""One step for S seeds at once: S keys, S states, one data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnas.base import Array, Key, PyTree
from jaxnas.parallel.placement import put

SeedStep = Callable[[PyTree, Key, Array, PyTree], tuple[PyTree, Any]]
"""(state, key, number of the step, data) -> (state, info)."""

_AXIS = "seeds"


class Seeds(NamedTuple):
    """number: S. lift: makes a step of one seed that of all: state, key and info get a leading axis S.

    place: a pytree with that leading axis as it must be before the first call. place_data: a data set's arrays.
    """

    number: int
    lift: Callable[[SeedStep], SeedStep]
    place: Callable[[PyTree], PyTree]
    place_data: Callable[[PyTree], PyTree]


def many_seeds(count: int, how: Literal["vmap", "map"] = "vmap", devices: Sequence[jax.Device] | None = None) -> Seeds:
    """`count` seeds at once on each of `devices` in equal shares, by default on the default device.

    how: "vmap" computes the seeds of a device side by side. A step that takes one path by a conditional, whose index
    differs from seed to seed, would then compute every branch: "map" runs the seeds of a device one after another, in
    one program, and gains by several devices alone.

    Raises: ValueError where the devices do not divide the count, or it is less than 1.
    """
    if how not in ("vmap", "map"):
        raise ValueError(f'how must be "vmap" or "map", got {how!r}')
    devices = list(devices or jax.devices()[:1])
    if count < 1 or count % len(devices):
        raise ValueError(f"{count} seeds cannot be divided over {len(devices)} devices; choose a positive multiple")
    mesh = Mesh(np.asarray(devices), (_AXIS,), axis_types=(AxisType.Auto,))

    def lift(step: SeedStep) -> SeedStep:
        def some(states: PyTree, keys: Key, index: Array, data: PyTree) -> tuple[PyTree, Any]:
            if how == "vmap":
                return jax.vmap(step, (0, 0, None, None))(states, keys, index, data)
            return jax.lax.map(lambda own: step(own[0], own[1], index, data), (states, keys))

        if len(devices) == 1:
            return some
        return jax.shard_map(
            some, mesh=mesh, in_specs=(P(_AXIS), P(_AXIS), P(), P()), out_specs=P(_AXIS), check_vma=False
        )

    def place(spec: P) -> Callable[[PyTree], PyTree]:
        if len(devices) == 1:
            return jax.device_put
        return lambda tree: jax.tree.map(lambda leaf: put(leaf, NamedSharding(mesh, spec)), tree)

    return Seeds(count, lift, place(P(_AXIS)), place(P()))
