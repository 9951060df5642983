"""What a profile of JAX says of the kernels that a device ran: the heaviest, how many, and how long there was none."""

from __future__ import annotations

import collections
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax


class Kernel(NamedTuple):
    """One run of a kernel, in nanoseconds."""

    name: str
    start: float
    duration: float


def traced(folder: Path) -> list[Kernel]:
    """The kernels in the profile that `jax.profiler.trace(folder)` wrote: of the streams of all GPUs, or of a CPU's
    threads, in the order of their starts.

    Raises: ValueError where the profile has none; it names what it has.
    """
    files = sorted(folder.rglob("*.xplane.pb"))
    planes = [plane for file in files for plane in jax.profiler.ProfileData.from_file(str(file)).planes]
    lines = [(plane.name, line) for plane in planes for line in plane.lines]
    kernels = [
        Kernel(event.name, event.start_ns, event.duration_ns)
        for plane, line in lines
        if plane.startswith("/device:GPU") and line.name.startswith("Stream")
        for event in line.events
    ]
    if not kernels:
        kernels = [
            Kernel(event.name, event.start_ns, event.duration_ns)
            for plane, line in lines
            if plane == "/host:CPU" and line.name.startswith("tf_XLA")
            for event in line.events
            if _is_operation(event)
        ]
    if not kernels:
        there = ", ".join(f"{plane} {line.name}" for plane, line in lines) or "nothing"
        raise ValueError(f"no kernel is in the profile {folder}, which has {there}")
    return sorted(kernels, key=lambda kernel: kernel.start)


def _is_operation(event: Any) -> bool:
    """Of a program, and not a wait of the host."""
    with warnings.catch_warnings():  # of a type in jaxlib that has no name of a module
        warnings.simplefilter("ignore", DeprecationWarning)
        return any(name == "hlo_op" for name, _ in event.stats)


def summary(kernels: Sequence[Kernel], steps: int, text: str = "", most: int = 10) -> dict[str, Any]:
    """Of a profile of some equal steps, a step: `launches`, how many kernels; `step_s`, the time from the first to the
    end of the last; `idle`, the share of it without any kernel; `heaviest`, the kernels that took most, with what the
    program's optimized HLO, if it is given, says of them; `kinds`, the same of kernels that differ in a number.
    """
    first, last = kernels[0].start, max(kernel.start + kernel.duration for kernel in kernels)
    busy = covered((kernel.start, kernel.start + kernel.duration) for kernel in kernels)
    whole = last - first
    sources = instructions(text)

    def ranked(name_of: Any) -> list[dict[str, Any]]:
        took: collections.defaultdict[str, float] = collections.defaultdict(float)
        times: collections.Counter[str] = collections.Counter()
        for kernel in kernels:
            name = name_of(kernel.name)
            took[name] += kernel.duration
            times[name] += 1
        return [
            {
                "name": name,
                "share": round(taken / whole, 4) if whole else 0.0,
                "us": round(taken / 1e3 / steps, 2),
                "launches": round(times[name] / steps, 2),
                **({"is": sources[name]} if name in sources else {}),
            }
            for name, taken in sorted(took.items(), key=lambda item: -item[1])[:most]
        ]

    return {
        "launches": round(len(kernels) / steps, 1),
        "step_s": round(whole / 1e9 / steps, 6),
        "idle": round(1 - busy / whole, 4) if whole else 0.0,
        "heaviest": ranked(lambda name: name),
        "kinds": ranked(lambda name: re.sub(r"[._]?\d+", "", name)),
    }


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals (start, end), which come in the order of their starts."""
    total, until = 0.0, float("-inf")
    for start, end in intervals:
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def instructions(text: str) -> dict[str, str]:
    """Names of kernels -> shape and origin of the instruction that each is, by the text of an optimized program.

    A kernel is called as its instruction, with lines in the place of dots.
    """
    found: dict[str, str] = {}
    for name, shape, rest in re.findall(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\S+) (.*)$", text, re.MULTILINE):
        origin = re.search(r'op_name="([^"]*)"', rest)
        told = f"{shape} {origin.group(1)}" if origin else shape
        found.setdefault(name, told[:200])
        found.setdefault(re.sub(r"[.\-]", "_", name), told[:200])
    return found
