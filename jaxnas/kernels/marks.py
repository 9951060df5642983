"""Names for values inside a network, by which its program can be searched; a value stays as it is.

A mark is JAX's `checkpoint_name`: an equation of the traced program that compiles to nothing.
"""

from __future__ import annotations

from jax.ad_checkpoint import checkpoint_name

from jaxnas.base import Array

CELL = "cell"
"""The output of the stem, and of every cell, layer or block between two cells."""
FEATURES = "features"
"""What the global pooling reads."""


def mark(x: Array, name: str) -> Array:
    """x, which is found by this name in a traced program."""
    return checkpoint_name(x, name)
