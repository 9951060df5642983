"""The shape of JSON that is read back: what somebody edited, copied or cut is refused in one line, and not met later.

A shape is a type: int, float, str, bool, None, dict, dict[str, X], list, list[X], Any, a union, or a TypedDict;
tuple[X, Y] is a list of just these two.
`Annotated[X, Bounds(…)]` bounds a number, or the length of a list or a text. Of an object in a TypedDict's shape more
entries than the TypedDict names are allowed.
"""

from __future__ import annotations

import math
import types
import typing
from typing import Annotated, Any, NamedTuple, NotRequired


class Bounds(NamedTuple):
    """The least and the most that a number, or the length of a list or a text, may be."""

    least: float
    most: float


def check_shape(value: Any, shape: Any, what: str) -> None:
    """Raises ValueError where a value of JSON has not the shape; the message is "`what`: place must be …, got …"."""
    fault = _fault(value, shape, "")
    if fault is not None:
        place, wanted, found = fault
        raise ValueError(f"{what}: {place or 'it'} must be {wanted}, got {shown(found)}")


def shown(value: Any, longest: int = 60) -> str:
    """A value for a message: the beginning of its text."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or an integer of thousands of digits
        text = f"something of type {type(value).__name__}"
    return text if len(text) <= longest else f"{text[:longest]}…"


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


def _fault(value: Any, shape: Any, place: str) -> tuple[str, str, Any] | None:
    """(where, what must be there, what is there) of the first fault."""
    origin, inner = typing.get_origin(shape), typing.get_args(shape)
    if shape is Any:
        return None
    if origin is Annotated:
        (bounds,) = shape.__metadata__
        size = len(value) if isinstance(value, list | str) else value
        if fault := _fault(value, inner[0], place):
            return fault
        if bounds.least <= size <= bounds.most:
            return None
        between = f"{bounds.least:g}" if bounds.least == bounds.most else f"{bounds.least:g} to {bounds.most:g}"
        return place, f"a list of {between}" if isinstance(value, list) else between, value
    if typing.is_typeddict(shape):
        return _object_fault(value, shape, place)
    if origin in (typing.Union, types.UnionType):
        faults = [_fault(value, each, place) for each in inner]
        if None in faults:
            return None
        # That of the alternative that fits at first sight tells more.
        deeper = [fault for fault in faults if fault is not None and fault[0] != place]
        return deeper[0] if deeper else (place, " or ".join(map(_words, inner)), value)
    if not _is(value, origin or shape):
        return place, _words(shape), value
    if origin is tuple:
        if len(value) != len(inner):
            return place, f"a list of {len(inner)}", value
        parts = zip(value, inner, strict=True)
        return next(filter(None, (_fault(part, hint, f"{place}[{n}]") for n, (part, hint) in enumerate(parts))), None)
    if origin is list:
        return next(
            filter(None, (_fault(entry, inner[0], f"{place}[{number}]") for number, entry in enumerate(value))), None
        )
    if origin is dict:
        return next(
            filter(None, (_fault(entry, inner[1], f"{place}.{key}".lstrip(".")) for key, entry in value.items())), None
        )
    return None


def _object_fault(value: Any, shape: Any, place: str) -> tuple[str, str, Any] | None:
    if not isinstance(value, dict):
        return place, "an object", value
    for key, hint in typing.get_type_hints(shape, include_extras=True).items():
        within = f"{place}.{key}".lstrip(".")
        optional = typing.get_origin(hint) is NotRequired
        hint = typing.get_args(hint)[0] if optional else hint
        if key not in value:
            if optional:
                continue
            return within, _words(hint), _Missing()
        if fault := _fault(value[key], hint, within):
            return fault
    return None


def _is(value: Any, kind: Any) -> bool:
    if kind is None or kind is types.NoneType:
        return value is None
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and _finite(value)
    return isinstance(value, list if kind is tuple else kind)


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that is no float
        return False


def _words(shape: Any) -> str:
    names = {int: "an integer", float: "a number", str: "a text", bool: "true or false", dict: "an object"}
    if typing.get_origin(shape) is Annotated:
        shape = typing.get_args(shape)[0]
    origin = typing.get_origin(shape) or shape
    if typing.is_typeddict(origin):
        return "an object"
    if origin in (list, tuple):
        return "a list"
    if origin in (None, types.NoneType):
        return "null"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_words, typing.get_args(shape)))
    return names.get(origin, "something")
