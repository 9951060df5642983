"""Memory: how much there is, and errors that say that it is not enough, as Python, the system and XLA tell of it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import jax


def machine_memory() -> int | None:
    """Bytes that this machine has or this process's control group may use; None where the system does not tell."""
    try:
        most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            most = min(most, int(Path(path).read_text()))
        except (OSError, ValueError):  # another system, or "max"
            continue
    return most


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, on the host or on a device."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower().replace("_", " ")
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
