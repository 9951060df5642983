"""The first filter of a one-shot search: what the supernet's paths are worth by a proxy before anything is trained."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import data
from jaxnas.base import Supernet
from jaxnas.fit.scoring import Score
from jaxnas.proxies import AGGREGATES, PROXIES, checked_names, log_ranks, over_architectures, subject

CHUNK = 32
"""Paths in one call of a program."""
EXAMPLES = 64
"""Of the batch that proxies read, at most."""
Costs = Callable[[np.ndarray], dict[str, np.ndarray]]


def proxy_score(
    name: str, supernet: Supernet, dataset: data.Dataset, train: data.Examples, costs: Costs, seed: int
) -> Score:
    """archs int [P, D] -> float [P]: the proxy or aggregate of that name of paths with random parameters.

    train: of which a random batch is read. costs: archs -> "params" and "macs", float [P], which aggregates may want.
    An aggregate is of ranks among the architectures of one call.

    Raises: ValueError for a name that there is not.
    """
    names = checked_names([name])
    chosen = {part: PROXIES[part] for part in names if part in PROXIES}
    program = jax.jit(over_architectures(chosen, subject(supernet, dataset.objective)))
    params = jax.jit(supernet.init)(jax.random.key(seed))
    count = data.count(train)
    rows = np.random.default_rng(seed).choice(count, min(EXAMPLES, count), replace=False)
    batch = data.plain_batch(train, jnp.asarray(rows), dataset.augmentation)

    def score(archs: np.ndarray) -> np.ndarray:
        archs = np.asarray(archs, np.int32)
        columns: dict[str, np.ndarray] = {cost: np.asarray(value, float) for cost, value in costs(archs).items()}
        parts = []
        for first in range(0, len(archs) if chosen else 0, CHUNK):
            own = archs[first : first + CHUNK]
            filled = np.concatenate([own, np.repeat(own[:1], CHUNK - len(own), axis=0)])
            found = program(params, jnp.asarray(filled), batch)
            parts.append({part: np.asarray(value, float)[: len(own)] for part, value in found.items()})
        columns |= {part: np.concatenate([one[part] for one in parts]) for part in chosen}
        if name in AGGREGATES:
            return log_ranks({part: columns[part] for part in AGGREGATES[name]})
        return columns[name]

    return score
