"""What the fields of a config may be, checked before anything is compiled."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable
from typing import Any

_RULES: dict[str, tuple[Callable[[float], bool], str]] = {
    "count": (lambda value: value >= 1, "at least 1"),
    "positive": (lambda value: 0 < value < math.inf, "positive"),
    "not_negative": (lambda value: 0 <= value < math.inf, "0 or positive"),
    "share": (lambda value: 0 <= value < 1, "at least 0 and less than 1"),
    "finite": (math.isfinite, "finite"),
    "seed": (lambda value: 0 <= value < 2**32, "0 to 4294967295, what NumPy takes"),
}

SUPERNET = {
    "count": ("epochs", "batch_size", "channels", "cells"),
    "positive": ("learning_rate", "clip"),
    "not_negative": ("last_learning_rate", "weight_decay"),
    "share": ("momentum",),
}
"""Of the settings that every training of a supernet has."""


def numbers(name: str, text: str) -> list[int]:
    """The integers of a text, rising, each once. Raises ValueError, with the name, where they are not such."""
    try:
        return sorted({int(number) for number in text.split(",")})
    except ValueError:
        raise ValueError(f"{name} are numbers with commas between them, got {text!r}") from None


def check_ranges(prefix: str, settings: Any, **fields: tuple[str, ...]) -> None:
    """Raises ValueError, naming field, range and value, for the first field of `settings` that is out of its range.

    prefix: the flag of the settings, with its dot, or "". fields: rule -> names; None is in every range.
    """
    for rule, names in fields.items():
        allowed, words = _RULES[rule]
        for name in names:
            value = getattr(settings, name)
            if value is not None and not allowed(value):
                raise ValueError(f"{prefix}{name} must be {words}, got {value}")


def check_types(name: str, settings: Any, kind: type) -> None:
    """Raises ValueError where `settings` is not of the dataclass `kind`, or the first of its fields not of its type.

    Fields that are dataclasses by their annotation are checked in the same way. An int is good for a float, and a list
    for a tuple. Numbers are those of Python, because those of NumPy cannot be written as JSON. A class whose
    annotations name what its module has not imported is taken as it is.

    name: what the settings are called in the message, "" for a list of arguments.
    """
    if not isinstance(settings, kind):
        raise ValueError(f"{name} must be {_words(kind)}, got {settings!r:.80}")
    try:
        hints = typing.get_type_hints(kind)
    except NameError:
        return
    for field in dataclasses.fields(kind):
        own, value, hint = f"{name}.{field.name}".lstrip("."), getattr(settings, field.name), hints[field.name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            check_types(own, value, hint)
        elif not _fits(value, hint):
            raise ValueError(f"{own} must be {_words(hint)}, got {value!r:.80}")


def _fits(value: Any, hint: Any) -> bool:
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


def _words(hint: Any) -> str:
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
