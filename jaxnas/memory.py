"""Out of memory, as Python, the system and XLA tell of it."""

from __future__ import annotations

import errno

import jax


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, on the host or on a device."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower().replace("_", " ")
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
