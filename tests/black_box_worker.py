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


class Killed:
    """Kills its process, once for all processes, where it meets an architecture; else `value`."""

    def __init__(self, arch, folder):
        self.arch, self.marker = list(arch), str(Path(folder) / "killed")

    def __call__(self, arch):
        if arch.tolist() == self.arch and not os.path.exists(self.marker):
            Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return value(arch)
