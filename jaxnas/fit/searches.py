"""`search`: of a search algorithm on a data set, or of a sampler on a function that evaluates architectures."""

from __future__ import annotations

from typing import Any, overload

from jaxnas.base import Sampler, SearchAlgorithm
from jaxnas.data import Dataset
from jaxnas.fit.black_box import BlackBoxFound, search_black_box
from jaxnas.fit.evaluations import Evaluate
from jaxnas.fit.problem import Found
from jaxnas.fit.sharing import search_shared


@overload
def search(searcher: SearchAlgorithm, on: Dataset, **settings: Any) -> Found: ...
@overload
def search(searcher: Sampler, on: Evaluate, **settings: Any) -> BlackBoxFound: ...
def search(searcher: Any, on: Any, **settings: Any) -> Any:
    """Searches, and nothing more: no training, no baselines, no report of a network (`run` does all of it).

    searcher, on: a search algorithm and the data set that it learns from; settings are then those of
    `jaxnas.fit.sharing.search_shared`, of which epochs and batch_size must be given. Or a sampler and a Python function
    that evaluates an architecture; settings are then those of `jaxnas.fit.black_box.search_black_box`: evaluations must
    be given, executor and folder may be.

    Raises: ValueError for another pair, and what the two raise.

    >>> from jaxnas.samplers import local_search
    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2)})
    >>> found = search(local_search(space), lambda arch: float(arch.sum()), evaluations=6, space=space)
    >>> space.notation(found.arch), found.objectives.tolist()
    ('width=32 depth=2', [3.0])
    """
    if isinstance(searcher, SearchAlgorithm) and isinstance(on, Dataset):
        return search_shared(searcher, on, **settings)
    if isinstance(searcher, Sampler) and callable(on):
        return search_black_box(searcher, on, **settings)
    raise ValueError(
        "search takes a search algorithm and a data set, or a sampler and a function that evaluates an architecture; "
        f"got {type(searcher).__name__} and {type(on).__name__}"
    )
