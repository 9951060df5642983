"""The form of an operation that suits the platform it is compiled for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

_every = False


def trace_every_platform() -> None:
    """From now on all forms are traced, as is needed to compile for a device that is not there (`benchmarks.aot`).

    Otherwise a process without accelerators traces those of a CPU alone, in about half the time.
    """
    global _every
    _every = True


def by_platform(*operands: Any, default: Callable[..., Any], **forms: Callable[..., Any]) -> Any:
    """As `jax.lax.platform_dependent`: the form of the platform, such as cpu=…, or the default one, of the operands."""
    if jax.default_backend() == "cpu" and not _every:
        return forms.get("cpu", default)(*operands)
    return lax.platform_dependent(*operands, default=default, **forms)
