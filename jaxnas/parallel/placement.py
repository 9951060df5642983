"""Where the leaves of a pytree lie: laid out over the devices of a mesh, or taken back from one of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jaxnas.base import Array


def is_key(leaf: Any) -> bool:
    """Whether a leaf is an array of typed random keys."""
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def put(leaf: Any, sharding: NamedSharding) -> Array:
    """A leaf whose value every process has, laid out over the devices of all of them."""
    if is_key(leaf):
        data = put(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return leaf  # laid out already
    value = np.asarray(leaf)
    # Each process fills the devices that it has and sends nothing.
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def divide(leaf: Any, sharding: NamedSharding) -> Array:
    """A leaf [N, ...] divided along its first axis over the devices of a mesh.

    The axis is filled up with the first rows to a multiple of the number of devices. Of what is no array in memory a
    process asks for the rows of its own devices alone.
    """
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return leaf  # laid out already

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None  # the array is divided
        return np.asarray(leaf[np.arange(filled)[index[0]] % len(leaf)])

    filled = -(-len(leaf) // sharding.num_devices) * sharding.num_devices
    return jax.make_array_from_callback((filled, *leaf.shape[1:]), sharding, part)


def local(leaf: Any) -> Any:
    """A leaf that is the same on several devices, as one of this process has it; any other leaf as it is.

    What is computed from the leaf would otherwise be computed by all of them, which is lost time where they share the
    cores of a CPU.
    """
    if isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1 and leaf.is_fully_replicated:
        return leaf.addressable_data(0)
    return leaf
