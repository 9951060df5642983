"""The form of an operation that suits the platform it is compiled for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

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


def outlined(function: Callable[..., Any], static: tuple[int, ...] = ()) -> Callable[..., Any]:
    """The function, which stays one in a CPU's program: a call, into which and out of which nothing is fused.

    static: numbers of the arguments that are no arrays.
    """
    jitted = jax.jit(function, static_argnums=static)

    def called(*arguments: Any) -> Any:
        return jax.tree.map(lambda leaf: set_xla_metadata(leaf, inlineable="false"), jitted(*arguments))

    @functools.wraps(function)
    def run(*arguments: Any) -> Any:
        operands = [argument for i, argument in enumerate(arguments) if i not in static]

        def given(form: Callable[..., Any]) -> Callable[..., Any]:
            def with_static(*operands: Any) -> Any:
                left = iter(operands)
                return form(*(argument if i in static else next(left) for i, argument in enumerate(arguments)))

            return with_static

        return by_platform(*operands, cpu=given(called), default=given(function))

    return run
