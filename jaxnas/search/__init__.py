"""Search by weight sharing: one paper a file."""

from jaxnas.search.bilevel import exact, finite_difference, first_order
from jaxnas.search.darts import DartsInfo, DartsState, adam_l2, darts
from jaxnas.search.enas import ChildInfo, ControllerInfo, EnasState, enas, path_accuracy
from jaxnas.search.paths import path_only
from jaxnas.search.shrinking import carried, weakest_by_alpha, weakest_by_marginal
from jaxnas.search.single_path import (
    SinglePathInfo,
    SinglePathState,
    fair_paths,
    sandwich_paths,
    single_path,
    uniform_paths,
)

__all__ = [
    "ChildInfo",
    "ControllerInfo",
    "DartsInfo",
    "DartsState",
    "EnasState",
    "SinglePathInfo",
    "SinglePathState",
    "adam_l2",
    "carried",
    "darts",
    "enas",
    "exact",
    "fair_paths",
    "finite_difference",
    "first_order",
    "path_accuracy",
    "path_only",
    "sandwich_paths",
    "single_path",
    "uniform_paths",
    "weakest_by_alpha",
    "weakest_by_marginal",
]
