"""What all programs share: a command line made from a config, and wrong input told in one line with exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

Config = TypeVar("Config")


def main(run: Callable[[Config], None], config: type[Config], arguments: Sequence[str] | None = None) -> None:
    """Parses `arguments`, by default those of the process, into a frozen dataclass and runs the program with it.

    Wrong input, which the library reports as ValueError or OSError, gives one line on stderr and exit code 2. With
    JAXNAS_TRACEBACK=1 in the environment the whole traceback is shown instead.
    """
    module = sys.modules[run.__module__]
    name = module.__spec__.name if module.__spec__ else run.__module__
    parsed = tyro.cli(config, args=arguments, prog=f"python -m {name}", description=module.__doc__)
    try:
        run(parsed)
    except (ValueError, OSError) as error:
        if os.environ.get("JAXNAS_TRACEBACK") == "1":
            raise
        print(f"{name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
