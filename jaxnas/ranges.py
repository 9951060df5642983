"""What numbers of a config may be, checked before anything is compiled."""

from __future__ import annotations

import math
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
