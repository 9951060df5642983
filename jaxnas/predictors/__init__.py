"""Predictors: what an architecture will be worth, from its graph and some measurements."""

from jaxnas.predictors.encodings import (
    Encoding,
    concatenated,
    one_hot,
    operation_counts,
    path_counts,
    path_statistics,
    signals,
    unconnected,
)
from jaxnas.predictors.ensemble import average, ensemble
from jaxnas.predictors.functional import functional_form
from jaxnas.predictors.gaussian_process import Block, gaussian_process
from jaxnas.predictors.gnn import gnn, levels_of
from jaxnas.predictors.losses import Loss, normal_scores, pairwise_hinge, pairwise_logistic, squared
from jaxnas.predictors.mlp import mlp
from jaxnas.predictors.of_space import as_signal, function_classes, functional, levels, path_roots, shape
from jaxnas.predictors.regression import Regressor, regression

__all__ = [
    "Block",
    "Encoding",
    "Loss",
    "Regressor",
    "as_signal",
    "average",
    "concatenated",
    "ensemble",
    "function_classes",
    "functional",
    "functional_form",
    "gaussian_process",
    "gnn",
    "levels",
    "levels_of",
    "mlp",
    "normal_scores",
    "one_hot",
    "operation_counts",
    "pairwise_hinge",
    "pairwise_logistic",
    "path_counts",
    "path_roots",
    "path_statistics",
    "regression",
    "shape",
    "signals",
    "squared",
    "unconnected",
]
