"""What all programs share: a command line made from a config, and wrong input told in one line with exit code 2."""

from __future__ import annotations

import functools
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NoReturn, TypeVar

import jax
import tyro
from tyro.constructors import PrimitiveConstructorSpec

from jaxnas.parallel import is_first_process, lost_process
from jaxnas.train.loop import NonFiniteError
from jaxnas.train.stop import Stopped

Config = TypeVar("Config")


def _size_of(arguments: list[str]) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)(?:[x×]([1-9]\d*))?", arguments[0])
    if match is None:
        raise ValueError(f"a size is a number of pixels or HEIGHTxWIDTH, such as 32 or 24x32, got {arguments[0]!r}")
    height, width = match[1], match[2] or match[1]
    return int(height), int(width)


def _is_size(value: Any) -> bool:
    return value is None or (isinstance(value, tuple) and len(value) == 2)


Size = Annotated[
    tuple[int, int] | None,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="N|HxW",
        instance_from_str=_size_of,
        is_instance=_is_size,
        str_from_instance=lambda size: ["None"] if size is None else ["x".join(map(str, size))],
    ),
]
"""The type of the flag --size: (height, width), written 24x32, or 32 for both; None where it is not given."""


def main(
    run: Callable[[Config], None],
    config: type[Config],
    arguments: Sequence[str] | None = None,
    presets: Mapping[str, Config] | Callable[[Callable[[str], str]], Config] | None = None,
) -> None:
    """Parses `arguments`, by default those of the process, into a frozen dataclass and runs the program with it.

    presets: configs by the value of `--preset`, which then give the defaults, or a function that makes them from
    flag -> value, "" where the flag is absent. Wrong input, which the library reports as
    ValueError or OSError, gives one line on stderr and exit code 2; a run that diverged gives one and exit code 3; a
    signal gives 75 (SIGTERM) or 130 (SIGINT). With JAXNAS_TRACEBACK=1 in the environment the traceback is shown.
    """
    module = sys.modules[run.__module__]
    name = module.__spec__.name if module.__spec__ else run.__module__
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    default: Config | None = None
    if callable(presets):
        default = presets(functools.partial(_value, arguments))
    elif presets is not None:
        default = presets.get(_value(arguments, "--preset"), next(iter(presets.values())))
    parsed = tyro.cli(
        config,
        args=arguments,
        prog=f"python -m {name}",
        description=module.__doc__,
        default=tyro.MISSING_NONPROP if default is None else default,
    )
    try:
        run(parsed)
    except BrokenPipeError:  # whoever read the output has gone, as `head` does: no error of this program's
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        line = " ".join(str(error).split())
        told = isinstance(error, (ValueError, OSError, NonFiniteError, Stopped)) or lost_process(error)
        if not told or os.environ.get("JAXNAS_TRACEBACK") == "1":
            if not jax.distributed.is_initialized():
                raise
            traceback.print_exc()
            _leave(1)
        if isinstance(error, Stopped):
            print(f"{name}: {line}", file=sys.stderr)
            sys.exit(error.exit_code)
        if lost_process(error):
            print(f"{name}: another process has ended; start all of them again to go on ({line})", file=sys.stderr)
            _leave(75)
        print(f"{name}: error: {line}", file=sys.stderr)
        if isinstance(error, NonFiniteError):  # all processes have it
            sys.exit(3)
        _leave(2)


def _leave(code: int) -> NoReturn:
    """Ends this process; of several, without the wait for the others at JAX's exit, who wait for it in a collective."""
    if not jax.distributed.is_initialized():
        sys.exit(code)
    if is_first_process():
        time.sleep(1.0)  # whose end is theirs at once: most errors are all processes', and these have a line to print
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _value(arguments: Sequence[str], flag: str) -> str:
    """What follows a flag, as "--flag value" or "--flag=value"; empty where it is absent."""
    for here, after in zip(arguments, [*arguments[1:], ""], strict=True):
        if here == flag:
            return after
        if here.startswith(f"{flag}="):
            return here.partition("=")[2]
    return ""
