"""Neural architecture search as pure functions in JAX.

The names below and the subpackages are loaded when they are first asked for, so that `import jaxnas` costs nothing.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxnas.base import (
        ArchWeights,
        Batch,
        Choice,
        Context,
        Network,
        Phase,
        Predictor,
        Sampler,
        SearchAlgorithm,
        SearchSpace,
        Skeleton,
        Supernet,
    )
    from jaxnas.catalog import CATALOG, Entry
    from jaxnas.choices import depth, join, one_of, searchable, width
    from jaxnas.fit import (
        BlackBox,
        Darts,
        Devices,
        Enas,
        Found,
        Limits,
        Method,
        OneShot,
        Problem,
        Training,
        preset,
        rank,
        run,
    )
    from jaxnas.saved import load
    from jaxnas.search import darts, enas, single_path
    from jaxnas.shrinking import shrink

_NAMES = {
    "base": (
        "ArchWeights", "Batch", "Choice", "Context", "Network", "Phase", "Predictor", "Sampler", "SearchAlgorithm",
        "SearchSpace", "Skeleton", "Supernet",
    ),
    "catalog": ("CATALOG", "Entry"),
    "choices": ("depth", "join", "one_of", "searchable", "width"),
    "fit": (
        "BlackBox", "Darts", "Devices", "Enas", "Found", "Limits", "Method", "OneShot", "Problem", "Training",
        "preset", "rank", "run",
    ),
    "saved": ("load",),
    "search": ("darts", "enas", "single_path"),
    "shrinking": ("shrink",),
}  # fmt: skip
"""Module -> the names of it that stand here."""
_HOME = {name: module for module, names in _NAMES.items() for name in names}
_PACKAGES = (
    "benchmarks", "catalog", "choices", "controllers", "data", "draw", "export", "fit", "hardware", "networks", "ops",
    "parallel",
    "predictors", "proxies", "relax", "samplers", "search", "shrinking", "spaces", "supernets", "testing", "train",
)  # fmt: skip

__all__ = [
    "CATALOG",
    "ArchWeights",
    "Batch",
    "BlackBox",
    "Choice",
    "Context",
    "Darts",
    "Devices",
    "Enas",
    "Entry",
    "Found",
    "Limits",
    "Method",
    "Network",
    "OneShot",
    "Phase",
    "Predictor",
    "Problem",
    "Sampler",
    "SearchAlgorithm",
    "SearchSpace",
    "Skeleton",
    "Supernet",
    "Training",
    "darts",
    "depth",
    "enas",
    "join",
    "load",
    "one_of",
    "preset",
    "rank",
    "run",
    "searchable",
    "shrink",
    "single_path",
    "width",
]
__version__ = metadata.version("jaxnas")


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"jaxnas.{_HOME[name]}"), name)
    if name in _PACKAGES:
        return importlib.import_module(f"jaxnas.{name}")
    raise AttributeError(f"module 'jaxnas' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})
