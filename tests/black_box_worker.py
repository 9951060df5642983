"""What test_black_box sends to other processes: functions that need nothing of JAX."""

import os
import signal
import sys
from pathlib import Path

WEIGHTS = (3.0, 0.0, 1.25, -2.5)


def value(arch):
    """Exact in float32; no two architectures of the tests have the same but by the choice with one option."""
    return sum(weight * entry for weight, entry in zip(WEIGHTS, arch.tolist(), strict=True))


def value_without_jax(arch):
    if "jax" in sys.modules:
        raise ImportError("JAX came along")
    return value(arch)


def value_or_killed(bad, arch):
    """Kills its process where it meets an architecture."""
    if arch.tolist() == bad:
        os.kill(os.getpid(), signal.SIGKILL)
    return value(arch)


def value_or_killed_once(bad, marker, arch):
    """The same, once for all processes."""
    if arch.tolist() == bad and not os.path.exists(marker):
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return value(arch)
