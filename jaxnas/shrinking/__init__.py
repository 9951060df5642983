"""From a trained model to smaller ones within budgets: alternatives scored, an integer program, distillation."""

from jaxnas.shrinking.distances import Distance
from jaxnas.shrinking.road import Shrunk, shrink
from jaxnas.shrinking.settings import Distillation, Fitting, Shrinking

__all__ = ["Distance", "Distillation", "Fitting", "Shrinking", "Shrunk", "shrink"]
