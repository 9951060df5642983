"""The form of an operation that suits the platform it is compiled for."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
from jax.experimental.xla_metadata import set_xla_metadata

Platform = Literal["cpu", "gpu", "tpu", "plain"]
"""plain: no device, but forms for other programs to read: each layer one operation of XLA, where there is one."""

_supposed: Platform | None = None


def platform() -> str:
    """What programs are made for: the platform of the default backend, or the one that is supposed."""
    return _supposed or jax.default_backend()


@contextlib.contextmanager
def supposing(other: Platform) -> Iterator[None]:
    """Inside, programs are made in the forms of that platform, wherever they are compiled and run.

    So a device that is not there can be compiled for (`benchmarks.aot`), and a CPU can run what a GPU is given. What
    was traced before is forgotten on entering and on leaving, because it has the forms of another platform.
    """
    global _supposed
    before, _supposed = _supposed, other
    jax.clear_caches()
    try:
        yield
    finally:
        _supposed = before
        jax.clear_caches()


def by_platform(*operands: Any, default: Callable[..., Any], **forms: Callable[..., Any]) -> Any:
    """The form of the platform, cpu=… or tpu=…, or the default one, which is a GPU's, of the operands.

    All forms compute the same. That of the platform alone is traced: `jax.lax.platform_dependent` would trace all of
    them, in about twice the time, so that a program could also be lowered for another platform.
    """
    return forms.get(platform(), default)(*operands)


def outlined(function: Callable[..., Any], static: tuple[int, ...] = ()) -> Callable[..., Any]:
    """The function, which stays one in a CPU's program: a call, into which and out of which nothing is fused.

    static: numbers of the arguments that are no arrays.
    """
    jitted = jax.jit(function, static_argnums=static)

    @functools.wraps(function)
    def run(*arguments: Any) -> Any:
        if platform() != "cpu":
            return function(*arguments)
        return jax.tree.map(lambda leaf: set_xla_metadata(leaf, inlineable="false"), jitted(*arguments))

    return run
