"""Search by weight sharing: one paper a file."""

from jaxnas.search.beta_darts import beta_darts
from jaxnas.search.bilevel import exact, finite_difference, first_order, single_level
from jaxnas.search.darts import DartsInfo, DartsState, Variant, adam_l2, darts
from jaxnas.search.darts_minus import darts_minus
from jaxnas.search.drnas import drnas
from jaxnas.search.enas import ChildInfo, ControllerInfo, EnasState, enas, path_metric
from jaxnas.search.fair_darts import fair_darts
from jaxnas.search.gdas import gdas
from jaxnas.search.health import (
    Curvature,
    EarlyStop,
    Gap,
    History,
    WatchedState,
    collapsed,
    entropy,
    kept_alpha,
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
    Paths,
    SinglePathInfo,
    SinglePathState,
    fair_paths,
    sandwich_paths,
    single_path,
    uniform_paths,
)
from jaxnas.search.smooth_darts import smooth_darts
from jaxnas.search.snas import snas

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
    "Paths",
    "SinglePathInfo",
    "SinglePathState",
    "Variant",
    "WatchedState",
    "adam_l2",
    "beta_darts",
    "carried",
    "collapsed",
    "darts",
    "darts_minus",
    "drnas",
    "enas",
    "entropy",
    "exact",
    "fair_darts",
    "fair_paths",
    "finite_difference",
    "first_order",
    "gdas",
    "kept_alpha",
    "largest_eigenvalue",
    "make_curvature",
    "make_gap",
    "make_hessian_product",
    "path_metric",
    "path_only",
    "record",
    "sandwich_paths",
    "single_level",
    "single_path",
    "skip_connections",
    "smooth_darts",
    "snas",
    "softmax_mixture",
    "start_history",
    "uniform_paths",
    "watched",
    "weakest_by_alpha",
    "weakest_by_marginal",
]
