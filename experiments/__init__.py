"""Programs that run from a clone: `python -m experiments.NAME --help`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

TUNABLE = "glibc.malloc.hugetlb=1"


def with_huge_pages(platform: str, argv: Sequence[str], environment: Mapping[str, str]) -> dict[str, str] | None:
    """The environment in which a program is to be started again, or None where it is to go on.

    A step's temporary arrays come from the system anew each time. In pages of 4 kB that took up to half of a training
    step on a CPU; glibc asks for large ones only if its environment says so at the start of a process. argv: as Python
    has it while `python -m` looks for the program. An environment that has tunables already is left as it is.
    """
    if platform != "linux" or list(argv[:1]) != ["-m"] or "GLIBC_TUNABLES" in environment:
        return None
    return {**environment, "GLIBC_TUNABLES": TUNABLE}


_environment = with_huge_pages(sys.platform, sys.argv, os.environ)
if _environment is not None:
    os.execve(
        sys.executable, [sys.executable, *sys.orig_argv[1:]], _environment
    )  # the same process, with the same number
