"""A sampler whose architectures are brought to the nearest row of a sparse table."""

from __future__ import annotations

from collections.abc import Callable

import jax

from jaxnas.base import Arch, Candidates, Key, PyTree, Sampler


def onto_rows(sampler: Sampler, nearest: Callable[[Arch], Arch]) -> Sampler:
    """The sampler, told of the rows that were measured in place of what it asked for.

    For samplers that draw from all of a space, such as a policy: of a space of 10^11 architectures with 5,000 rows it
    would meet none. nearest: arch -> the architecture of a row, as of `Table.nearest`.

    >>> from jaxnas.samplers import random_search
    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2)})
    >>> sampler = onto_rows(random_search(space, batch=3), lambda arch: arch.at[0].set(1))  # width 16 was measured
    >>> sampler.ask(jax.random.key(1), sampler.init(jax.random.key(0))).archs[:, 0].tolist()
    [1, 1, 1]
    """

    def ask(key: Key, state: PyTree) -> Candidates:
        candidates = sampler.ask(key, state)
        return candidates._replace(archs=jax.vmap(nearest)(candidates.archs))

    return sampler._replace(ask=ask)
