"""The road from a search to a tested network, as functions: `run` goes all of it, the others go a part."""

from jaxnas.fit.black_box import BlackBoxFound
from jaxnas.fit.budget import Budget, make_budget
from jaxnas.fit.candidates import BlackBox, Finalists, train_candidates
from jaxnas.fit.darts import Darts
from jaxnas.fit.deriving import heaviest
from jaxnas.fit.devices import Devices
from jaxnas.fit.enas import Enas, EnasController
from jaxnas.fit.fixed import Fixed
from jaxnas.fit.one_shot import OneShot
from jaxnas.fit.presets import Preset, preset
from jaxnas.fit.problem import Found, Method, Prepared, Problem
from jaxnas.fit.road import Result, run
from jaxnas.fit.scores import ScoreComparison, Scoring, score
from jaxnas.fit.searches import search
from jaxnas.fit.select import Selected, select
from jaxnas.fit.settings import Limits, Training
from jaxnas.fit.sharing import Sharing, weight_sharing
from jaxnas.fit.training import Trained, evaluate, train
from jaxnas.fit.truth import Truth, rank, truth_of
from jaxnas.fit.watch import Watch

__all__ = [
    "BlackBox",
    "BlackBoxFound",
    "Budget",
    "Darts",
    "Devices",
    "Enas",
    "EnasController",
    "Finalists",
    "Fixed",
    "Found",
    "Limits",
    "Method",
    "OneShot",
    "Prepared",
    "Preset",
    "Problem",
    "Result",
    "ScoreComparison",
    "Scoring",
    "Selected",
    "Sharing",
    "Trained",
    "Training",
    "Truth",
    "Watch",
    "evaluate",
    "heaviest",
    "make_budget",
    "preset",
    "rank",
    "run",
    "score",
    "search",
    "select",
    "train",
    "train_candidates",
    "truth_of",
    "weight_sharing",
]
