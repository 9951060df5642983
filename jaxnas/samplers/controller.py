"""ENAS's controller as black-box search: every evaluation is a reward (Pham et al. 2018, https://arxiv.org/abs/1802.03268;
with rewards from training each architecture, Zoph & Le 2017, https://arxiv.org/abs/1611.01578).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from jaxnas.base import Array, Candidates, Key, Sampler
from jaxnas.controllers import PolicyGradient, PolicyState
from jaxnas.samplers.moves import Incumbent, better_of, single, whole


class ControllerState(NamedTuple):
    """The policy that learns, and the best architecture so far."""

    policy: PolicyState
    incumbent: Incumbent


def controller_search(policy: PolicyGradient, *, batch: int = 1) -> Sampler:
    """Samples `batch` architectures from the policy and then updates it by their values.

    policy: `reinforce_policy` or `ppo_policy` of `jaxnas.controllers`, over whose choices this searches. Values are
    the rewards, unchanged, so the `entropy_weight` of a policy is in their unit. Architectures that could not be
    evaluated are left out.

    Raises: ValueError where `batch` is less than 1.

    >>> import jax
    >>> from jaxnas.controllers import adam, lstm_controller, reinforce_policy
    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2)})
    >>> sampler = controller_search(reinforce_policy(lstm_controller(space.choices), adam()), batch=4)
    >>> jax.eval_shape(lambda key: sampler.ask(key, sampler.init(jax.random.clone(key))), jax.random.key(0)).archs.shape
    (4, 2)
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")

    def init(key: Key) -> ControllerState:
        nothing = Incumbent(jnp.zeros(len(policy.choices), jnp.int32), jnp.float32(-jnp.inf))
        return ControllerState(policy.init(key), nothing)

    def ask(key: Key, state: ControllerState) -> Candidates:
        return whole(policy.sample(key, state.policy, batch).arch)

    def tell(
        key: Key, state: ControllerState, candidates: Candidates, objectives: Array, valid: Array
    ) -> ControllerState:
        del key
        values, counted = single(candidates, objectives, valid)
        learned, _ = policy.update(state.policy, candidates.archs, jnp.where(counted, values, 0.0), counted)
        return ControllerState(learned, better_of(state.incumbent, candidates.archs, values))

    return Sampler(init, ask, tell, best=lambda state: state.incumbent.arch[None])
