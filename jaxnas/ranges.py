"""What the fields of settings may be, declared in their annotations and checked before any work.

    epochs: Count = 30
    momentum: Share = 0.9
    tune_epochs: Annotated[Count, UsedWith("derive", "perturbation")] = 5

A command line and a call in Python are checked by the same declarations. Bounds are far above what any search needs:
what is beyond would compute for ever, or fail hours later for want of memory.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any


@dataclasses.dataclass(frozen=True)
class Within:
    """The range of a number, both ends included. lowest, highest: how a message says them. None is in every range."""

    least: float
    most: float
    lowest: str
    highest: str

    def refusal(self, value: float) -> str | None:
        """What `value` must be, None where it is in the range."""
        if self.least <= value <= self.most:
            return None
        return self.highest if value > self.most and value != math.inf else self.lowest


def _up_to(least: float, most: int, lowest: str) -> Within:
    return Within(least, most, lowest, f"at most {most:,}")


_TINY, _BELOW_1 = math.nextafter(0, 1), math.nextafter(1, 0)

Count = Annotated[int, _up_to(1, 1_000_000, "at least 1")]
"""How many there are, or how often something is done."""
Natural = Annotated[int, _up_to(0, 1_000_000, "0 or positive")]
"""The same, where none are allowed too."""
Width = Annotated[int, _up_to(1, 16_384, "at least 1")]
"""Channels of a network, units of a layer."""
Depth = Annotated[int, _up_to(1, 500, "at least 1")]
"""Cells or layers of a network: each is a part of the compiled program."""
Some = Annotated[int, _up_to(1, 10_000, "at least 1")]
"""How many searches, trainings or drawings are made, each of which takes seconds or more."""
SomeOrNone = Annotated[int, _up_to(0, 10_000, "0 or positive")]
"""The same, where none are allowed too."""
Bound = Annotated[int, _up_to(1, 10**15, "positive")]
"""The most parameters or multiply-adds."""
Limit = Annotated[int, _up_to(0, 10**9, "0 for all, or at least 2")]
"""How many examples are used."""
Few = Annotated[int, _up_to(1, 1_000, "at least 1")]
"""How often something large is kept in memory."""
Positive = Annotated[float, _up_to(_TINY, 1_000_000, "positive")]
"""Rates and weights: beyond, float32 overflows in a step or two."""
NotNegative = Annotated[float, _up_to(0, 1_000_000, "0 or positive")]
Share = Annotated[float, Within(0, _BELOW_1, *["at least 0 and less than 1"] * 2)]
"""A part of a whole, never all of it."""
Between = Annotated[float, Within(_TINY, _BELOW_1, *["between 0 and 1"] * 2)]
"""A part of a whole that leaves something on both sides."""
Fraction = Annotated[float, Within(0, 1, *["between 0 and 1"] * 2)]
"""None to all of it."""
Finite = Annotated[float, Within(-1e6, 1e6, *["-1,000,000 to 1,000,000"] * 2)]
Seed = Annotated[int, Within(0, 2**32 - 1, *["0 to 4294967295, what NumPy takes"] * 2)]


@dataclasses.dataclass(frozen=True, init=False)
class UsedWith:
    """For a field that has an effect only where another one, of the same settings, is one of `values`.

    Without values: where the other one is true, that is, neither False, 0, None nor empty.
    """

    other: str
    values: tuple[Any, ...]

    def __init__(self, other: str, *values: Any) -> None:
        object.__setattr__(self, "other", other)
        object.__setattr__(self, "values", values)

    def holds(self, settings: Any) -> bool:
        """Whether the field has an effect in these settings."""
        there = getattr(settings, self.other)
        return there in self.values if self.values else bool(there)

    def words(self, prefix: str) -> str:
        """What is to be given for the field to have an effect."""
        values = f" {' or '.join(map(str, self.values))}" if self.values else ""
        return f"{prefix}{self.other}{values}"


def numbers(name: str, text: str) -> list[int]:
    """The integers of a text, rising, each once. Raises ValueError, with the name, where they are not such."""
    try:
        return sorted({int(number) for number in text.split(",")})
    except ValueError:
        raise ValueError(f"{name} are numbers with commas between them, got {text!r:.80}") from None


def check_settings(name: str, settings: Any, kind: type, names: Mapping[str, str] | None = None) -> None:
    """Raises ValueError where `settings` is not of the dataclass `kind`, or for the first of its fields that is not of
    its type or not in its range; the message names the field, what it must be, and its value.

    Fields that are dataclasses by their annotation are checked in the same way. An int is good for a float, and a list
    for a tuple. Numbers are those of Python, because those of NumPy cannot be written as JSON. A class whose
    annotations name what its module has not imported is taken as it is.

    name: what the settings are called in the message, "" for a list of arguments. names: field -> what it is called,
    where that is not the name of the settings, a dot and its own.
    """
    if not isinstance(settings, kind):
        raise ValueError(f"{name} must be {_words(kind)}, got {settings!r:.80}")
    for field, hint in _hints(kind).items():
        own, value = (names or {}).get(field) or f"{name}.{field}".lstrip("."), getattr(settings, field)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            check_settings(own, value, hint)
        elif not _fits(value, hint):
            raise ValueError(f"{own} must be {_words(hint)}, got {_shown(value)}")
        elif refusal := _refusal(value, hint):
            raise ValueError(f"{own} must be {refusal}, got {_shown(value)}")


def check_used(name: str, settings: Any, usual: Sequence[Any] = ()) -> None:
    """Raises ValueError for the first field of a dataclass that has no effect (`UsedWith`) and yet was given.

    It counts as given where it has not its default, nor the value that it has in one of `usual`, such as presets.
    """
    prefix = f"{name}." if name else ""
    kind = type(settings)
    for field, hint in _hints(kind).items():
        value, others = getattr(settings, field), [getattr(each, field) for each in (*_defaults(kind), *usual)]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            check_used(f"{prefix}{field}", value, others)
        for used in (each for each in getattr(hint, "__metadata__", ()) if isinstance(each, UsedWith)):
            if value not in others and not used.holds(settings):
                raise ValueError(
                    f"{prefix}{field} {_shown(value)} has an effect only with {used.words(prefix)}: leave it out, or "
                    "give that"
                )


def _defaults(kind: type) -> list[Any]:
    """The settings by default; none where some field has no default."""
    try:
        return [kind()]
    except TypeError:
        return []


def _hints(kind: type) -> dict[str, Any]:
    """Field -> its annotation, with what is declared there."""
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except NameError:
        return {}
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _plain(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def _fits(value: Any, hint: Any) -> bool:
    hint = _plain(hint)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return value in inner
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is tuple:
        kinds = inner[:1] * len(value) if inner[1:] == (...,) and isinstance(value, tuple | list) else inner
        return (
            isinstance(value, tuple | list)
            and len(value) == len(kinds)
            and all(_fits(each, kind) for each, kind in zip(value, kinds, strict=True))
        )
    if hint in (int, float):
        return not isinstance(value, bool) and isinstance(value, int | float if hint is float else int)
    try:
        return isinstance(value, origin or hint)
    except TypeError:  # Any, type variables, protocols: whatever it is
        return True


def _refusal(value: Any, hint: Any) -> str | None:
    """What a value of the right type must be, where it is out of its range."""
    if value is None:
        return None
    if typing.get_origin(hint) is Annotated:
        ranges = [each for each in hint.__metadata__ if isinstance(each, Within)]
        refusals = [each.refusal(value) for each in ranges if isinstance(value, int | float)]
        return next(filter(None, refusals), None) or _refusal(value, _plain(hint))
    inner = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(filter(None, (_refusal(value, each) for each in inner if _fits(value, each))), None)
    if typing.get_origin(hint) is tuple:
        kinds = inner[:1] * len(value) if inner[1:] == (...,) else inner
        return next(filter(None, (_refusal(each, kind) for each, kind in zip(value, kinds, strict=True))), None)
    return None


def _shown(value: Any) -> str:
    if isinstance(value, int) and abs(value) >= 10**30:  # Python refuses to print thousands of digits
        return f"an integer of {int(math.log10(abs(value))) + 1} digits"
    text = str(value) if isinstance(value, int | float) else repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _words(hint: Any) -> str:
    hint = _plain(hint)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_words, inner))
    if origin is tuple:
        return f"a tuple of {_words(inner[0])}"
    if hint is type(None):
        return "None"
    return str(getattr(origin or hint, "__name__", hint))
