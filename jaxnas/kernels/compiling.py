"""What XLA is told for programs that train networks on a CPU."""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

_PROCESSOR = Path("/proc/cpuinfo")
_LOCATIONS = 10
"""What JAX has by default: frames of the stack."""


def top_level_jit(function: Callable[..., Any], **arguments: Any) -> Any:
    """`jax.jit` with `compiler_options`; as those of XLA, not for a function that is called inside another one."""

    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with _garbage_kept():
            return function(*args, **kwargs)

    return jax.jit(traced, compiler_options=compiler_options(), **arguments)


@contextlib.contextmanager
def _garbage_kept() -> Iterator[None]:
    """Tracing makes millions of objects that stay, which Python's collector would go through again and again."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def without_locations() -> None:
    """Leaves out of programs which lines of Python their operations come from, unless the user has said how many.

    XLA carries them through all of its passes: a sixth of the time in which a large program is compiled. Names of
    functions stay, which is what profiles show.
    """
    if getattr(jax.config, "jax_traceback_in_locations_limit", None) == _LOCATIONS:
        jax.config.update("jax_traceback_in_locations_limit", 0)


@functools.cache
def compiler_options() -> dict[str, Any]:
    """Those that suit the default backend and that its XLA knows; measured in docs/appendix_performance.md.

    A CPU's library of reductions and small products is left out: the sums of `jaxnas.ops` are faster without it, and
    XLA takes a time of the square of the program to load one with it. Vectors are as wide as the processor's. The
    verifier of XLA's own passes, which changes nothing, runs between them 21 times.
    """
    if jax.default_backend() != "cpu":
        return {}
    wanted: dict[str, Any] = {"xla_cpu_experimental_ynn_fusion_type": "", "xla_disable_hlo_passes": "hlo-verifier"}
    if has_wide_vectors(_PROCESSOR.read_text() if _PROCESSOR.exists() else ""):
        wanted["xla_cpu_prefer_vector_width"] = 512
    return known_options(wanted)


def has_wide_vectors(processor: str) -> bool:
    """Whether a processor has vectors of 512 bits, by what Linux says of it."""
    return any("avx512f" in line.split() for line in processor.splitlines() if line.startswith("flags"))


def known_options(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What XLA takes of the options that are wanted; another version may have others."""

    def known(name: str, value: Any) -> bool:
        try:
            jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
        except jax.errors.JaxRuntimeError:
            return False
        return True

    return {name: value for name, value in wanted.items() if known(name, value)}
