"""Samplers and predictors on tables of measured architectures: many runs, what they came to, and reports of it.

`compare` puts samplers beside each other in a few lines; `run_comparison` does it in a run folder, with pictures and a
report; `run_learning_curves` is for predictors, `run_proxies` for scores of untrained networks.
"""

from jaxnas.tabular.compare import Comparison, compare
from jaxnas.tabular.fronts import FrontSetting, hypervolume, make_front_setting
from jaxnas.tabular.given import GivenTable
from jaxnas.tabular.known import Known, known
from jaxnas.tabular.learning import measure_predictor, run_learning_curves, usual_sizes
from jaxnas.tabular.methods import METHODS, MethodSettings, Plan, make_plan
from jaxnas.tabular.outcome import Outcome
from jaxnas.tabular.pictures import text_table
from jaxnas.tabular.predictors import PREDICTORS, make_predictor, predictor_names
from jaxnas.tabular.proxies import make_network, run_proxies, scorer
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
    "Setting",
    "compare",
    "hypervolume",
    "known",
    "make_front_setting",
    "make_network",
    "make_plan",
    "make_predictor",
    "make_setting",
    "measure_predictor",
    "predictor_names",
    "run_comparison",
    "run_learning_curves",
    "run_proxies",
    "scorer",
    "text_table",
    "usual_sizes",
]
