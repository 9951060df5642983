"""The maximum over the entries that a mask lets through, with a gradient rule of its own.

The gradient that JAX derives divides it among equal entries, for which it keeps and reads arrays of the size of all
pairs; here every entry that is the maximum gets it whole, computed again in one pass. Entries that are equal by chance
are rare, and where all are 0 after a ReLU, no gradient goes on.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxnas.base import Array


@jax.custom_vjp
def masked_max(values: Array, mask: Array) -> Array:
    """[…, I, W], the maximum over J of values [J, W] where mask [I, J] is, and 0; values are not negative."""
    return jnp.max(jnp.where(mask[..., None], values[..., None, :, :], 0.0), axis=-2)


def _forward(values: Array, mask: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    most = masked_max(values, mask)
    return most, (values, mask, most)


def _backward(kept: tuple[Array, Array, Array], gradient: Array) -> tuple[Array, None]:
    values, mask, most = kept
    is_most = mask[..., None] & (values[..., None, :, :] == most[..., :, None, :])
    return jnp.where(is_most, gradient[..., :, None, :], 0.0).sum(axis=-3), None


masked_max.defvjp(_forward, _backward)
