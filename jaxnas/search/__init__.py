"""Search by weight sharing: one paper a file."""

from jaxnas.search.beta_darts import beta_darts
from jaxnas.search.bilevel import exact, finite_difference, first_order, single_level
from jaxnas.search.darts import DartsInfo, DartsState, Variant, adam_l2, darts
from jaxnas.search.darts_minus import darts_minus
from jaxnas.search.darts_pt import Projected, count_decisions, decided, make_projection, projected, tuning
from jaxnas.search.drnas import drnas
from jaxnas.search.enas import ChildInfo, ControllerInfo, EnasState, enas, path_metric
from jaxnas.search.fair_darts import above, fair_darts
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
    make_curvature,
    make_gap,
    record,
    skip_connections,
    start_history,
    watched,
)
from jaxnas.search.p_darts import droppable, limited_skips, p_darts
from jaxnas.search.paths import path_only
from jaxnas.search.pc_darts import pc_darts
from jaxnas.search.setn import by_score, setn
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
    "Projected",
    "SinglePathInfo",
    "SinglePathState",
    "Variant",
    "WatchedState",
    "above",
    "adam_l2",
    "beta_darts",
    "by_score",
    "carried",
    "collapsed",
    "count_decisions",
    "darts",
    "darts_minus",
    "decided",
    "drnas",
    "droppable",
    "enas",
    "entropy",
    "exact",
    "fair_darts",
    "fair_paths",
    "finite_difference",
    "first_order",
    "gdas",
    "kept_alpha",
    "limited_skips",
    "make_curvature",
    "make_gap",
    "make_projection",
    "p_darts",
    "path_metric",
    "path_only",
    "pc_darts",
    "projected",
    "record",
    "sandwich_paths",
    "setn",
    "single_level",
    "single_path",
    "skip_connections",
    "smooth_darts",
    "snas",
    "start_history",
    "tuning",
    "uniform_paths",
    "watched",
    "weakest_by_alpha",
    "weakest_by_marginal",
]
