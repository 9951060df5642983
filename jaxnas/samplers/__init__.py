"""Black-box search: samplers as pure `init`, `ask`, `tell`, and whole searches on a table."""

from jaxnas.samplers.annealing import simulated_annealing
from jaxnas.samplers.controller import controller_search
from jaxnas.samplers.evolution import evolution
from jaxnas.samplers.halving import Bracket, Rung, evaluations, halving, hyperband, rungs, successive_halving
from jaxnas.samplers.local_search import local_search
from jaxnas.samplers.moves import Moves
from jaxnas.samplers.nondominated import nondominated
from jaxnas.samplers.optuna_bridge import from_optuna, to_optuna
from jaxnas.samplers.predictor_front import predictor_front
from jaxnas.samplers.predictor_search import (
    Acquisition,
    expected_improvement,
    predictor_search,
    thompson,
    upper_confidence,
)
from jaxnas.samplers.random_search import random_search
from jaxnas.samplers.reinforce import reinforce
from jaxnas.samplers.rows import onto_rows
from jaxnas.samplers.simulate import Search, Trace, over_seeds, simulate

__all__ = [
    "Acquisition",
    "Bracket",
    "Moves",
    "Rung",
    "Search",
    "Trace",
    "controller_search",
    "evaluations",
    "evolution",
    "expected_improvement",
    "from_optuna",
    "halving",
    "hyperband",
    "local_search",
    "nondominated",
    "onto_rows",
    "over_seeds",
    "predictor_front",
    "predictor_search",
    "random_search",
    "reinforce",
    "rungs",
    "simulate",
    "simulated_annealing",
    "successive_halving",
    "thompson",
    "to_optuna",
    "upper_confidence",
]
