"""Memory: how much there is, what a program needs, and errors that say that it is not enough."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import jax

GIGABYTE = 1e9


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


def available_memory() -> int | None:
    """Bytes that this machine, or this process's control group, has left; None where the system does not tell."""
    found = [left for left in (_left_of_machine(), _left_of_group()) if left is not None]
    return min(found) if found else None


def _left_of_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None


def _left_of_group() -> int | None:
    """Files that the system keeps in memory count as left, because it gives them up."""
    group = Path("/sys/fs/cgroup")
    try:
        most, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, most - used + int(counts.get("inactive_file", 0)))
    except (OSError, ValueError):  # no such group, or "max"
        return None


def free_memory(devices: int = 1) -> int | None:
    """Bytes that each of this process's first `devices` devices has left; None where that is not known.

    The devices of a CPU share the memory of the machine in equal parts.
    """
    own = jax.local_devices()[: max(1, devices)]
    if own[0].platform == "cpu":
        left = available_memory()
        return None if left is None else left // len(own)
    stats = [device.memory_stats() or {} for device in own]
    if any("bytes_limit" not in told for told in stats):
        return None
    return int(min(told["bytes_limit"] - told.get("bytes_in_use", 0) for told in stats))


def needed_memory(compiled: jax.stages.Compiled) -> int | None:
    """Bytes that a compiled program needs on each device beside its arguments, which are there before it starts.

    XLA's own count: temporaries, results that are not written over arguments, and the program. None where XLA has none.
    """
    told = compiled.memory_analysis()
    if told is None:
        return None
    written = max(0, told.output_size_in_bytes - told.alias_size_in_bytes)
    return int(told.temp_size_in_bytes + written + told.generated_code_size_in_bytes)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, on the host or on a device."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower().replace("_", " ")
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
