"""An architecture that is known already, as a method of the road: it is trained beside its baselines, and reported."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jaxnas import spaces
from jaxnas.catalog import CATALOG, Entry, entry_of_genotype
from jaxnas.files import expanded
from jaxnas.fit import seeds
from jaxnas.fit.problem import Found, Prepared, Problem
from jaxnas.spaces.genotypes import spaces_of
from jaxnas.spaces.literals import shown


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Searches nothing: `genotype` is what `from_genotype` of the space reads; `read_genotype` says which space.

    >>> method = Fixed("DARTS_V1")  # `jaxnas.run(method, "darts", …)` trains this cell and tests it
    >>> method.name, method.genotype
    ('retrain', 'DARTS_V1')
    """

    name: ClassVar[str] = "retrain"

    genotype: Any = "DARTS_V2"

    def prepare(self, problem: Problem) -> Prepared:
        """Raises ValueError where the genotype is not one of the space, or over the budget."""
        seeds.check(problem, {"a genotype that is given": True})
        if not isinstance(self.genotype, str | Mapping | os.PathLike):
            raise ValueError(f"search.genotype must be text or an object in JSON, got {self.genotype!r}")
        given = os.fspath(self.genotype) if isinstance(self.genotype, os.PathLike) else self.genotype
        arch = problem.space.from_genotype(given)
        budget = problem.budget(problem.space)
        costs = budget.costs(np.asarray(arch)[None]) if budget.limits else {}
        for name, limit in budget.limits.items():
            if costs[name][0] > limit:
                raise ValueError(f"the genotype has {costs[name][0]:,.6g} {name}, over the budget of {limit:,.6g}")
        # A name, a file and a text of one architecture are one run.
        identity = {"search": {"genotype": problem.space.to_genotype(arch)}}
        return Prepared(lambda run, stop: {seeds.ONE: Found(problem.space, arch)}, identity)


def read_genotype(text: str, space: str = "") -> tuple[Any, Entry]:
    """(a genotype, the entry of its space) of what a person gives.

    text: the folder of a run, or what `jaxnas.spaces.read_genotype` reads. space: the name of the space where it is
    known; a genotype that does not say it may be of several.

    Raises: OSError where a file or the run's genotype is not there, ValueError where it is damaged, of another space or
    of none.
    """
    given: Any = text
    if text.startswith("~"):
        given = text = str(expanded(text))
    if os.path.isdir(text):
        given = os.path.join(text, "genotype.json")
    elif os.path.isfile(text):
        given = Path(text)
    known = space in CATALOG
    form = spaces.read_genotype(given, (lambda unread: {}) if known else None)
    if known and not form:
        return given, CATALOG[space]  # a notation that the space alone reads, or says what is wrong with
    may_be = spaces_of(form)
    if known and may_be and space not in may_be:
        raise ValueError(
            f"the genotype is one of {' or '.join(map(shown, may_be))}, not of --space {space}: leave out --space"
        )
    if known and may_be:
        form = {"space": space, **form}
    return form, entry_of_genotype(form)


def layers_of(genotype: Any) -> int | None:
    """How many cells the skeleton of a genotype's network must have; None where it may have any number."""
    if isinstance(genotype, Mapping) and spaces_of(genotype) in (("chain",), ("enas_macro",)):
        choices = len(spaces.genotype_space(genotype).choices)
        # Of the macro space layer k, from 0, has 1 + k choices.
        return choices if "chain" in spaces_of(genotype) else math.isqrt(2 * choices)
    return None
