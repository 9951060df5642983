"""REINFORCE on an independent softmax for each choice (Williams 1992; as a baseline of NAS-Bench-201, Dong & Yang 2020,
https://arxiv.org/abs/2001.00326).

Logits theta [D, O], one row a choice; an architecture has probability prod_d softmax(theta_d)[arch_d]. Of a batch with
rewards r the loss is mean(-(r - b) log p(arch)), b being an exponential moving average of the rewards without bias
towards zero, which the batch has entered. As in the benchmark's own program; there the logits begin at 1e-3 N(0, 1),
here at 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas.base import Array, Candidates, Choice, Key, Sampler
from jaxnas.samplers.moves import Incumbent, better_of, single, whole


class ReinforceState(NamedTuple):
    """logits: float32 [D, O]. total, weight: float32 [], the moving average is total / weight."""

    logits: Array
    optimizer: Any
    total: Array
    weight: Array
    incumbent: Incumbent


def reinforce(
    choices: tuple[Choice, ...], optimizer: optax.GradientTransformation, *, ema: float = 0.9, batch: int = 1
) -> Sampler:
    """Samples `batch` architectures from the policy, then takes one step of `optimizer` on their loss.

    NAS-Bench-201 has `optax.adam(0.5)` and ema 0.9, NATS-Bench `optax.adam(0.01)`. A choice with fewer than O options
    takes only options that it has. Architectures that could not be evaluated are left out. Where none was evaluated,
    no step is taken.

    Raises: ValueError where there is no choice, `batch` is less than 1 or `ema` not in [0, 1).

    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2)})
    >>> sampler = reinforce(space.choices, optax.adam(0.5), batch=4)
    >>> state = sampler.init(jax.random.key(0))
    >>> state.logits.shape, jax.eval_shape(sampler.ask, jax.random.key(1), state).archs.shape
    ((2, 3), (4, 2))
    """
    if not choices:
        raise ValueError("there are no choices; give those of a space")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    if not 0 <= ema < 1:
        raise ValueError(f"ema must be at least 0 and less than 1, got {ema}")
    sizes = np.array([len(choice.options) for choice in choices])
    allowed = np.arange(sizes.max())[None] < sizes[:, None]

    def init(key: Key) -> ReinforceState:
        del key
        logits = jnp.zeros(allowed.shape, jnp.float32)
        nothing = Incumbent(jnp.zeros(len(sizes), jnp.int32), jnp.float32(-jnp.inf))
        return ReinforceState(logits, optimizer.init(logits), jnp.float32(0), jnp.float32(0), nothing)

    def probabilities(logits: Array) -> Array:
        return jax.nn.softmax(jnp.where(allowed, logits, -jnp.inf), axis=1)

    def ask(key: Key, state: ReinforceState) -> Candidates:
        below = jnp.cumsum(probabilities(state.logits), axis=1)[None]
        # By the inverse of the distribution function: one draw a choice. Rounding may leave its end below 1.
        drawn = jax.random.uniform(key, (batch, len(sizes), 1)) >= below
        return whole(jnp.minimum(drawn.sum(axis=2, dtype=jnp.int32), jnp.asarray(sizes - 1, jnp.int32)[None]))

    def tell(
        key: Key, state: ReinforceState, candidates: Candidates, objectives: Array, valid: Array
    ) -> ReinforceState:
        del key
        values, counted = single(candidates, objectives, valid)
        count = counted.sum()
        rewards = jnp.where(counted, values, 0.0)
        total = ema * state.total + (1 - ema) * rewards.sum() / jnp.maximum(count, 1)
        weight = ema * state.weight + (1 - ema)
        advantages = jnp.where(counted, rewards - total / weight, 0.0)
        # The gradient of the loss, written out: for each choice (p - one_hot(arch)) times the advantage.
        taken = jax.nn.one_hot(candidates.archs, allowed.shape[1], dtype=jnp.float32)
        away = probabilities(state.logits)[None] - taken
        gradient = (advantages[:, None, None] * away).sum(axis=0) / jnp.maximum(count, 1)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.logits)
        logits = jnp.asarray(optax.apply_updates(state.logits, updates))
        incumbent = better_of(state.incumbent, candidates.archs, values)
        new = ReinforceState(logits, optimizer_state, total, weight, incumbent)
        return jax.tree.map(lambda a, b: jnp.where(count > 0, a, b), new, state)

    return Sampler(init, ask, tell, best=lambda state: state.incumbent.arch[None])
