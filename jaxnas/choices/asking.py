"""What a model asks for while it is traced: which choices it has, and what each of them is in this trace.

A model is plain Python. What `width`, `one_of` and the others give back depends on who runs the model:

- nobody in particular: the widest, the first option, all blocks. The model then is an ordinary one;
- the trace that finds the choices, and those that a supernet is made of ("all"): every option of a layer is computed,
  and a mark (`marks.choose`) says which of them belong to one choice;
- the network of one architecture ("one"): only what it has.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import os
import re
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax

Kind = Literal["one_of", "width", "depth", "join", "value"]


class Size(int):
    """A width that was asked for while nobody listened: the widest, with the name of its choice."""

    choice: str = ""


@dataclasses.dataclass
class Found:
    """A choice of a model. where: the line of the model that asked first.

    conditions: for each place of the choice, the options of other choices under which it matters there.
    """

    name: str
    kind: Kind
    options: tuple[Any, ...]
    where: str
    conditions: set[frozenset[tuple[str, frozenset[int]]]] = dataclasses.field(default_factory=set)

    @property
    def labels(self) -> tuple[str, ...]:
        """The options as text."""
        return tuple(map(str, self.options))

    @property
    def whole(self) -> int:
        """The option in which all others are contained: the widest, the most blocks."""
        if self.kind in ("width", "depth"):
            return max(range(len(self.options)), key=lambda o: self.options[o])
        return 0


@dataclasses.dataclass
class Asking:
    """One trace of a model.

    taken: name of a choice -> number of its option; the whole of a choice not named. closed: all choices are known.
    """

    mode: Literal["all", "one"]
    framework: str
    taken: Mapping[str, int] = dataclasses.field(default_factory=dict)
    found: dict[str, Found] = dataclasses.field(default_factory=dict)
    closed: bool = False
    stack: list[tuple[str, frozenset[int]]] = dataclasses.field(default_factory=list)

    def ask(self, kind: Kind, name: str, options: Sequence[Any]) -> Found:
        """The choice of that name, which is entered where it is new.

        Raises: ValueError, with the lines of the model, where there is another choice of that name.
        """
        new = Found(check_name(name), kind, tuple(options), line())
        if self.closed and name not in self.found:
            raise ValueError(
                f"{new.where}: the choice {name!r} is not reached when the model is traced at its widest; ask for it "
                "whatever other choices are"
            )
        known = self.found.setdefault(name, new)
        if (known.kind, known.labels) != (kind, new.labels):
            raise ValueError(
                f"{new.where}: the choice {name!r} is {kind} of {_listed(new)}, but at {known.where} it is "
                f"{known.kind} of {_listed(known)}; give one of them another name, or both the same options"
            )
        if not self.closed:
            known.conditions.add(frozenset(self.stack))
        return known

    def number(self, found: Found) -> int:
        """The option of this trace."""
        return self.taken.get(found.name, found.whole)

    @contextlib.contextmanager
    def under(self, name: str, options: Iterable[int]) -> Iterator[None]:
        """What is asked for inside matters only where the choice has one of these options."""
        self.stack.append((name, frozenset(options)))
        try:
            yield
        finally:
            self.stack.pop()


_NOW: contextvars.ContextVar[Asking | None] = contextvars.ContextVar("jaxnas_choices", default=None)


def asking() -> Asking | None:
    """The trace in progress, None where a model is run for itself."""
    return _NOW.get()


@contextlib.contextmanager
def listening(trace: Asking) -> Iterator[Asking]:
    """Choices of models that run inside ask this trace.

    Raises: ValueError, with the line of the model, where Python code of the model depends on data.
    """
    token = _NOW.set(trace)
    try:
        yield trace
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
        raise ValueError(
            f"{line_of(traceback.extract_tb(error.__traceback__))}: Python code of the model depends on data, so the "
            "choices behind it cannot be found; use jnp.where or jax.lax.cond, or decide it before"
        ) from error
    finally:
        _NOW.reset(token)


@contextlib.contextmanager
def tracing(trace: Asking) -> Iterator[Asking]:
    """`listening`, of a trace with some widths, which arrays of a right model fit.

    Raises: ValueError, with the line of the model and the widths, where arrays do not fit each other.
    """
    try:
        with listening(trace):
            yield trace
    except TypeError as error:
        sizes = {
            found.name: found.options[trace.number(found)]
            for found in trace.found.values()
            if found.kind == "width" and len(found.options) > 1
        }
        there = set(re.findall(r"\d+", str(error)))
        named = {name: size for name, size in sizes.items() if str(size) in there}
        if not named and trace.closed:  # the widest went well, so that it is the widths, or what is made of them
            named = sizes
        if "shape" not in str(error) or not named:
            raise
        told = ", ".join(f"{name}={size}" for name, size in named.items())
        raise ValueError(
            f"{line_of(traceback.extract_tb(error.__traceback__))}: arrays of other widths meet ({told}): "
            f"{' '.join(str(error).rstrip('.').split())}; give layers that are added one width name, and take other "
            "sizes from the shapes of arrays"
        ) from error


_OWN = os.path.dirname(os.path.abspath(__file__))
_INSTALLED = tuple(
    os.path.join(path, "") for path in {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")} if path
)


def _of_user(file: str) -> bool:
    return not (file.startswith(_OWN) or file.startswith("<frozen") or file.startswith(_INSTALLED))


def line() -> str:
    """ "file.py:12", the line of the user's code that runs now."""
    return line_of(traceback.extract_stack())


def line_of(frames: Sequence[traceback.FrameSummary]) -> str:
    """The innermost line that is neither of this package nor of an installed one."""
    for frame in reversed(frames):
        if _of_user(frame.filename):
            return f"{os.path.basename(frame.filename)}:{frame.lineno}"
    return "the model"


def line_of_source(source: Any) -> str:
    """The same of an operation of a traced program."""
    frames = getattr(getattr(source, "traceback", None), "frames", ())
    for frame in frames:
        if _of_user(frame.file_name):
            return f"{os.path.basename(frame.file_name)}:{frame.line_num}"
    return "the model"


def check_name(name: Any) -> str:
    """The name of a choice or of an option. Raises ValueError where it cannot be read back from a notation."""
    text = str(name)
    if not text or set(text) & set("=/|'\"") or text != "".join(text.split()):
        raise ValueError(f"{line()}: a name is not empty, without spaces, quotes and any of =/|, got {text!r}")
    return text


def check_options(name: str, options: Sequence[Any], least: int = 1) -> None:
    """Raises ValueError, with the line of the model, for less than `least` options, and for one that is there twice."""
    check_name(name)
    labels = [check_name(option) for option in options]
    if len(labels) < least:
        raise ValueError(f"{line()}: the choice {name!r} has {len(labels)} options; give at least {least}")
    if len(set(labels)) < len(labels):
        raise ValueError(f"{line()}: the choice {name!r} has an option twice: {', '.join(labels)}")


def _listed(found: Found) -> str:
    return ", ".join(found.labels)


def width(name: str, options: Sequence[int]) -> int:
    """The number of features of a layer: channels, the expansion of a block, heads, the size of a head.

    Write it where the layer takes a number: `nn.Dense(width("hidden", (32, 64, 128)))`. Give it inside the model's
    `__call__` or `setup`, or in the function that makes the model. Layers that read those features need nothing: they
    take the number from what they read. The same name in several places is one choice.

    In a supernet the layer has the most features, and a path uses the first so many: of the parameters, and of all
    that is computed from them. Norms, means and softmax are over those alone. A network of an architecture is really so
    narrow.

    options: positive integers. Returns: an int; outside of a search the largest.

    Raises: ValueError, with the line of the model, for options that are no such numbers, or are others than before.

    >>> width("hidden", (32, 64, 128)) == 128  # outside of a search
    True
    """
    check_options(name, options)
    if any(not isinstance(option, int) or isinstance(option, bool) or option < 1 for option in options):
        raise ValueError(f"{line()}: the width {name!r} must have positive integers, got {list(options)}")
    trace = asking()
    if trace is None:
        size = Size(max(options))
        size.choice = name
        return size
    found = trace.ask("width", name, options)
    return int(found.options[trace.number(found)])


def value(name: str, options: Sequence[Any]) -> Any:
    """A plain Python value, such as a kernel size or the name of an activation: the first outside of a search.

    No supernet holds such a choice, as each value is another program. So it is for black-box search alone, which trains
    the network of each architecture by itself (`jaxnas.BlackBox`); other methods refuse the model.

    options: known by their `str`. Raises: ValueError, with the line of the model, for options that are others than
    before.

    >>> value("kernel", (3, 5))  # outside of a search
    3
    """
    check_options(name, options)
    trace = asking()
    if trace is None:
        return options[0]
    found = trace.ask("value", name, options)
    return found.options[trace.number(found)]
