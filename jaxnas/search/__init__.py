"""Search by weight sharing: one paper a file."""

from jaxnas.search.bilevel import exact, finite_difference, first_order
from jaxnas.search.darts import DartsInfo, DartsState, adam_l2, darts
from jaxnas.search.enas import ChildInfo, ControllerInfo, EnasState, enas, path_accuracy
from jaxnas.search.health import (
    Curvature,
    EarlyStop,
    Gap,
    History,
    WatchedState,
    collapsed,
    entropy,
    largest_eigenvalue,
    make_curvature,
    make_gap,
    make_hessian_product,
    record,
    skip_connections,
    softmax_mixture,
    start_history,
    watched,
)
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
    "Curvature",
    "DartsInfo",
    "DartsState",
    "EarlyStop",
    "EnasState",
    "Gap",
    "History",
    "SinglePathInfo",
    "SinglePathState",
    "WatchedState",
    "adam_l2",
    "carried",
    "collapsed",
    "darts",
    "enas",
    "entropy",
    "exact",
    "fair_paths",
    "finite_difference",
    "first_order",
    "largest_eigenvalue",
    "make_curvature",
    "make_gap",
    "make_hessian_product",
    "path_accuracy",
    "path_only",
    "record",
    "sandwich_paths",
    "single_path",
    "skip_connections",
    "softmax_mixture",
    "start_history",
    "uniform_paths",
    "watched",
    "weakest_by_alpha",
    "weakest_by_marginal",
]
