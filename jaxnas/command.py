"""What all programs share: a command line made from a config, and one line and an exit code for what goes wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import os
import re
import sys
import time
import traceback
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NoReturn, TypeVar

import jax
import tyro
from tyro.constructors import PrimitiveConstructorSpec

from jaxnas.console import printable
from jaxnas.memory import out_of_memory
from jaxnas.parallel import is_first_process, lost_process
from jaxnas.streams import style_streams, take_standard_streams
from jaxnas.train.finite import NonFiniteError
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
    printed: bool = False,
) -> None:
    """Parses `arguments`, by default those of the process, into a frozen dataclass and runs the program with it.

    presets: configs by the value of `--preset`, which then give the defaults, or a function that makes them from
    flag -> value, "" where the flag is absent. printed: what the program prints is all that it makes, so that it has
    failed where standard output cannot be written; other programs end as their work does, whatever becomes of it.

    What a user can cause (`line_of`) gives one line on stderr and exit code 2; a run that diverged gives one and exit
    code 3; a signal gives 75 (SIGTERM, SIGHUP) or 130 (SIGINT). With JAXNAS_TRACEBACK=1 in the environment the
    traceback is shown.
    """
    output = take_standard_streams()
    module = sys.modules[run.__module__]
    name = _name_of(module.__spec__.name if module.__spec__ else run.__module__)
    parsed: Config | None = None
    try:
        style_streams(True)
        parsed = parse(name, module.__doc__, config, sys.argv[1:] if arguments is None else list(arguments), presets)
        style_streams(False)
        _compute_in_32_bits(name)
        run(parsed)
        if printed and output is not None and output.error is not None and output.error.errno != errno.EPIPE:
            raise OSError(f"cannot write to standard output: {output.error.strerror}")
    except KeyboardInterrupt:  # before the run folder was open
        print(f"{name}: stopped by SIGINT before there was anything to save", file=sys.stderr)
        _leave(130)
    except Exception as error:
        _end(name, error, parsed)


def parse(
    name: str,
    about: str | None,
    config: type[Config],
    arguments: Sequence[str],
    presets: Mapping[str, Config] | Callable[[Callable[[str], str]], Config] | None = None,
) -> Config:
    """The config that the arguments of a program say, as of `main`; nothing is checked but the types of its fields.

    Raises: SystemExit for a flag that there is not, or a value of another type, which it tells; what `presets` raises.
    """
    default: Config | None = None
    if callable(presets):
        default = presets(functools.partial(_value, arguments))
    elif presets is not None:
        default = presets.get(_value(arguments, "--preset"), next(iter(presets.values())))
    with _without_examples(config):
        return tyro.cli(
            config,
            args=arguments,
            prog=name if name.startswith("jaxnas ") else f"python -m {name}",
            description=about,
            default=tyro.MISSING_NONPROP if default is None else default,
        )


@contextlib.contextmanager
def _without_examples(config: type) -> Iterator[None]:
    """Docstrings of a config and of those within it are without examples in Python: they are texts of --help."""
    texts = {each: each.__doc__ for each in _configs(config)}
    try:
        for each, text in texts.items():
            each.__doc__ = (text or "").partition(">>> ")[0].rstrip()
        yield
    finally:
        for each, text in texts.items():
            each.__doc__ = text


def _configs(config: type) -> Iterator[type]:
    """A dataclass, and those that its fields hold."""
    yield config
    for hint in typing.get_type_hints(config).values():
        for kind in (hint, *typing.get_args(hint)):
            if isinstance(kind, type) and dataclasses.is_dataclass(kind):
                yield from _configs(kind)


def _name_of(module: str) -> str:
    """How a program is called: by its module in a clone, by the command where it is installed."""
    return module.replace("jaxnas.programs.", "jaxnas ")


def _compute_in_32_bits(name: str) -> None:
    """Turns JAX's 64 bits off: in part of the arrays alone they would make another, slower computation."""
    if getattr(jax.config, "jax_enable_x64", False):
        print(f"{name}: computes in 32 bits, whatever JAX_ENABLE_X64 says", file=sys.stderr)
        jax.config.update("jax_enable_x64", False)


def _end(name: str, error: Exception, config: Any) -> NoReturn:
    """Tells of an error in one line and leaves with its exit code; raises one that is a fault of the program."""
    lost = lost_process(error)
    line = str(error) if lost or isinstance(error, (NonFiniteError, Stopped)) else line_of(error, config)
    if line is None or os.environ.get("JAXNAS_TRACEBACK") == "1":
        if not jax.distributed.is_initialized():
            raise error
        traceback.print_exc()
        _leave(1)
    line = printable(" ".join(line.split()))
    if isinstance(error, Stopped):
        print(f"{name}: {line}", file=sys.stderr)
        sys.exit(error.exit_code)
    if lost:
        print(f"{name}: another process has ended; start all of them again to go on ({line})", file=sys.stderr)
        _leave(75)
    print(f"{name}: error: {line}", file=sys.stderr)
    if isinstance(error, NonFiniteError):  # all processes have it
        sys.exit(3)
    _leave(2)


def line_of(error: Exception, config: Any = None) -> str | None:
    """What a user is told of an error that input, files, memory, devices or packages can cause, with the remedy.

    None for an error of another kind, which is a fault of the program and keeps its traceback.
    """
    if line := _memory_line(error, config) or _device_line(error):
        return line
    if isinstance(error, ValueError | OSError):
        return str(error) or type(error).__name__
    if isinstance(error, RecursionError):
        return "what was given is nested too deeply to be read: give something flatter"
    if isinstance(error, OverflowError):
        return f"a number is too large to compute with ({error}): give a smaller one"
    if isinstance(error, ImportError):
        return f"a package is missing or broken ({error}): install it"
    if isinstance(error, RuntimeError):  # of JAX, of an executor, of a library
        return f"{str(error) or type(error).__name__} (JAXNAS_TRACEBACK=1 in the environment shows where)"
    return None


def _memory_line(error: Exception, config: Any) -> str | None:
    """What to do against too little memory, by the flags that the program has; None for another error."""
    if not out_of_memory(error):
        return None
    flags = list(_flags(config)) if dataclasses.is_dataclass(config) else []
    smaller = [flag for flag, field in flags if field in _SMALLER]
    more = [flag for flag, field in flags if field == "accumulate"]
    remedies = [f"give less for {', '.join(smaller)}"] if smaller else []
    remedies += [f"give 2 or more for {', '.join(more)}"] if more else []
    return f"out of memory ({error}): {', or '.join([*remedies, 'take a device or a machine with more'])}"


_SMALLER = ("batch_size", "channels", "part")
"""Fields of configs with which memory grows."""


def _flags(config: Any, prefix: str = "--") -> Iterator[tuple[str, str]]:
    """(flag, name of the field) of a config and of those within it."""
    for field in dataclasses.fields(config):
        flag, value = prefix + field.name.replace("_", "-"), getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _flags(value, f"{flag}.")
        else:
            yield flag, field.name


def _device_line(error: Exception) -> str | None:
    """What to do where JAX has no device at all; None where it has."""
    if not isinstance(error, _NO_DEVICE):
        return None
    try:
        jax.devices()
    except _NO_DEVICE as reason:
        why = str(reason).partition(" (set JAX_PLATFORMS")[0] or "its plugin is not installed"
        wanted = getattr(jax.config, "jax_platforms", None)
        return (
            f"JAX finds none of the devices that JAX_PLATFORMS={wanted} asks for: {why}; leave it "
            "out or give JAX_PLATFORMS=cpu, or install JAX for them, as in pip install 'jaxnas[cuda]'"
        )
    return None


_NO_DEVICE = (RuntimeError, AssertionError)
"""What JAX raises then; the second, without a word, for a platform that it knows and has no plugin for."""


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
    for here, after in zip(arguments, [*arguments, ""][1:], strict=True):
        if here == flag:
            return after
        if here.startswith(f"{flag}="):
            return here.partition("=")[2]
    return ""
