"""Samplers and predictors on tables of measured architectures: many runs, what they came to, and reports of it.

`compare` puts samplers beside each other in a few lines; `run_comparison` does it in a run folder, with pictures and a
report; `run_learning_curves` is for predictors, `run_proxies` for scores of untrained networks.
"""

from jaxnas.tabular.compare import Comparison, compare
from jaxnas.tabular.fronts import FrontSetting, hypervolume, make_front_setting, search_fronts
from jaxnas.tabular.given import GivenTable
from jaxnas.tabular.known import Known, known
from jaxnas.tabular.learning import learning_rows, measure_predictor, run_learning_curves, usual_sizes
from jaxnas.tabular.methods import METHODS, MethodSettings, Plan, make_plan
from jaxnas.tabular.outcome import Outcome, evaluations_to_best, regret_curve, summary
from jaxnas.tabular.pictures import text_table
from jaxnas.tabular.predictors import PREDICTORS, make_predictor, predictor_names
from jaxnas.tabular.proxies import (
    Scored,
    correlations,
    make_network,
    reached,
    run_proxies,
    score_archs,
    scorer,
    with_scores,
)
from jaxnas.tabular.run import run_comparison
from jaxnas.tabular.setting import Coverage, Setting, make_setting

__all__ = [
    "METHODS",
    "PREDICTORS",
    "Comparison",
    "Coverage",
    "FrontSetting",
    "GivenTable",
    "Known",
    "MethodSettings",
    "Outcome",
    "Plan",
    "Scored",
    "Setting",
    "compare",
    "correlations",
    "evaluations_to_best",
    "hypervolume",
    "known",
    "learning_rows",
    "make_front_setting",
    "make_network",
    "make_plan",
    "make_predictor",
    "make_setting",
    "measure_predictor",
    "predictor_names",
    "reached",
    "regret_curve",
    "run_comparison",
    "run_learning_curves",
    "run_proxies",
    "score_archs",
    "scorer",
    "search_fronts",
    "summary",
    "text_table",
    "usual_sizes",
    "with_scores",
]
