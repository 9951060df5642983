"""An architecture that is known already, as a method of the road: it is trained beside its baselines, and reported."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jaxnas.files import read_json
from jaxnas.fit import seeds
from jaxnas.fit.problem import Found, Prepared, Problem


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Searches nothing: `genotype` is in the JSON form of the space, or in the field's notation."""

    name: ClassVar[str] = "retrain"

    genotype: Any = "DARTS_V2"

    def prepare(self, problem: Problem) -> Prepared:
        """Raises ValueError where the genotype is not one of the space, or over the budget."""
        seeds.check(problem, {"a genotype that is given": True})
        if not isinstance(self.genotype, str | Mapping):
            raise ValueError(f"search.genotype must be text or an object in JSON, got {self.genotype!r}")
        arch = problem.space.from_genotype(self.genotype)
        budget = problem.budget(problem.space)
        costs = budget.costs(np.asarray(arch)[None]) if budget.limits else {}
        for name, limit in budget.limits.items():
            if costs[name][0] > limit:
                raise ValueError(f"the genotype has {costs[name][0]:,.6g} {name}, over the budget of {limit:,.6g}")
        # A name, a file and a text of one architecture are one run.
        identity = {"search": {"genotype": problem.space.to_genotype(arch)}}
        return Prepared(lambda run, stop: {seeds.ONE: Found(problem.space, arch)}, identity)


def read_genotype(text: str) -> tuple[Any, str | None]:
    """(genotype, the name of its space or None) of what a person gives.

    text: the folder of a run, a genotype.json, a published name (DARTS_V2), or the field's notation. Only JSON says its
    space.

    Raises: OSError where a file or the run's genotype is not there, ValueError where it is damaged.
    """
    path = Path(text)
    if path.is_dir():
        path /= "genotype.json"
    elif not text.endswith(".json"):
        return text, None
    if not path.is_file():
        raise OSError(
            f"there is no file {path}: give the folder of a run, its genotype.json, or a published name (DARTS_V2)"
        )
    genotype = read_json(path)
    if not isinstance(genotype, dict):
        raise ValueError(f"{path} is no genotype in JSON: it must be an object, got {type(genotype).__name__}")
    return genotype, genotype.get("space", "darts")
