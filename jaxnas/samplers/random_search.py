"""Random search: uniform samples, with replacement; the baseline of every comparison (Li & Talwalkar 2019,
https://arxiv.org/abs/1902.07638).
"""

from __future__ import annotations

from jaxnas.base import Array, Candidates, Key, Sampler
from jaxnas.samplers.moves import Incumbent, Moves, better_of, no_incumbent, samples, single, whole


def random_search(moves: Moves, *, batch: int = 1) -> Sampler:
    """Samples `batch` architectures at a time; its state is the best so far. moves: a space, or the moves of a table.

    Raises: ValueError where `batch` is less than 1.

    >>> import jax
    >>> from jaxnas.spaces import product_space
    >>> sampler = random_search(product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2)}), batch=4)
    >>> init_key, ask_key, tell_key = jax.random.split(jax.random.key(0), 3)
    >>> state = sampler.init(init_key)
    >>> candidates = sampler.ask(ask_key, state)
    >>> worth = candidates.archs.sum(axis=1, keepdims=True) * 1.0
    >>> state = sampler.tell(tell_key, state, candidates, worth, candidates.wanted)
    >>> bool(sampler.best(state)[0].sum() == worth.max())
    True
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")

    def init(key: Key) -> Incumbent:
        del key
        return no_incumbent(moves)

    def ask(key: Key, state: Incumbent) -> Candidates:
        del state
        return whole(samples(moves, key, batch))

    def tell(key: Key, state: Incumbent, candidates: Candidates, objectives: Array, valid: Array) -> Incumbent:
        del key
        values, _ = single(candidates, objectives, valid)
        return better_of(state, candidates.archs, values)

    return Sampler(init, ask, tell, best=lambda state: state.arch[None])
