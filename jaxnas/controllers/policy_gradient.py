"""How a controller learns from rewards: REINFORCE (Williams 1992) as ENAS has it, and the clipped update of PPO
(Schulman et al. 2017, https://arxiv.org/abs/1707.06347).

To be maximized is J = E[R(arch)] + e H, H being the entropy of the policy and e its weight. With H_m the sum of the
entropies of the decisions on the way to sample m,

    grad J = E[ (R_m + e H_m - b) grad log p(arch_m) + e grad H_m ],

exact for every b that does not depend on the sample: the second factor of the entropy's gradient, which the authors'
programs leave out, is that of the distribution of each decision. The baseline b is an exponential moving average of
R + e H over the samples before this one, without bias towards zero; every sample enters it, and the first of all
samples, which has no baseline, teaches nothing but the entropy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from jaxnas.base import Array, Choice, Key, PyTree
from jaxnas.controllers.lstm import Controller, Decisions


class PolicyState(NamedTuple):
    """params: of the controller. total, weight: float32 [], the baseline is total / weight."""

    params: PyTree
    optimizer: optax.OptState
    total: Array
    weight: Array


class PolicyInfo(NamedTuple):
    """Of one update, float32 [], means over its samples: the reward, the baseline after it, entropy in nats.

    skip_divergence: of skip connections from the target. gradient: the norm of the (first) gradient.
    """

    reward: Array
    baseline: Array
    entropy: Array
    skip_divergence: Array
    gradient: Array


class Update(Protocol):
    """(state, archs [P, D], rewards [P], valid bool [P] or None for all) -> (state, info).

    Architectures that are not valid are left out. Where none is valid, the state stays as it is.
    """

    def __call__(
        self, state: PolicyState, archs: Array, rewards: Array, valid: Array | None = None
    ) -> tuple[PolicyState, PolicyInfo]: ...


class PolicyGradient(NamedTuple):
    """A controller that learns. choices: those of the controller. init: key -> state.

    sample: (key, state, count) -> decisions with a leading axis [count]. update: `Update`.
    """

    choices: tuple[Choice, ...]
    init: Callable[[Key], PolicyState]
    sample: Callable[[Key, PolicyState, int], Decisions]
    update: Update


def adam(learning_rate: float | optax.Schedule = 0.0035) -> optax.GradientTransformation:
    """The optimizer of ENAS's controllers: Adam with betas (0, 0.999), epsilon 1e-3; macro has learning rate 0.001.

    >>> optimizer = adam(learning_rate=0.1)
    >>> updates, _ = optimizer.update(jnp.array([1.0, 0.001]), optimizer.init(jnp.zeros(2)))
    >>> [round(update, 2) for update in updates.tolist()]  # a gradient of epsilon moves half as far
    [-0.1, -0.05]
    """
    return optax.adam(learning_rate, b1=0.0, b2=0.999, eps=1e-3)


def reinforce_policy(
    controller: Controller,
    optimizer: optax.GradientTransformation,
    *,
    ema: float = 0.99,
    entropy_weight: float = 1e-4,
    skip_weight: float = 0.8,
) -> PolicyGradient:
    """One step of the optimizer on the mean over the samples of -(R + e H - b) log p - e H + skip_weight · divergence.

    optimizer: of the controller's parameters, such as `adam()`. ema: the decay of the baseline b. entropy_weight: e.
    skip_weight: of the divergence of skip connections from their target.

    Raises: ValueError where `ema` is not in [0, 1) or a weight is negative.

    >>> from jaxnas.controllers import lstm_controller
    >>> choices = (Choice("width", ("8", "16", "32")), Choice("depth", ("1", "2")))
    >>> policy = reinforce_policy(lstm_controller(choices, hidden=8), adam())
    >>> state = jax.eval_shape(policy.init, jax.random.key(0))
    >>> jax.eval_shape(lambda key, state: policy.sample(key, state, 10), jax.random.key(1), state).arch.shape
    (10, 2)
    """

    def loss(now: Decisions, before: Decisions, advantages: Array) -> Array:
        del before  # one step on fresh samples: it is `now`
        return -advantages * now.log_prob

    return _policy_gradient(controller, optimizer, loss, 1, ema, entropy_weight, skip_weight)


def ppo_policy(
    controller: Controller,
    optimizer: optax.GradientTransformation,
    *,
    clip: float = 0.2,
    passes: int = 4,
    ema: float = 0.99,
    entropy_weight: float = 1e-4,
    skip_weight: float = 0.8,
) -> PolicyGradient:
    """Several steps on the same samples; beyond a factor of 1 ± clip a change of their probability is not rewarded.

    passes: how many steps. The other arguments are those of `reinforce_policy`.

    In place of (R + e H - b) log p, with A the same advantage and r the ratio of probabilities to those when sampled,
    min(r A, clipped r A) (PPO, equation 7). Its first step is that of `reinforce_policy`.

    Raises: ValueError where `clip` is not in (0, 1), `passes` is under 1, or as `reinforce_policy`.

    >>> from jaxnas.controllers import lstm_controller
    >>> choices = (Choice("width", ("8", "16", "32")), Choice("depth", ("1", "2")))
    >>> policy = ppo_policy(lstm_controller(choices, hidden=8), adam(), clip=0.1)
    >>> state = jax.eval_shape(policy.init, jax.random.key(0))
    >>> _, info = jax.eval_shape(policy.update, state, jnp.zeros((10, 2), jnp.int32), jnp.zeros(10))
    >>> info.entropy.shape
    ()
    """
    if not 0 < clip < 1:
        raise ValueError(f"clip must be between 0 and 1, got {clip}")
    if passes < 1:
        raise ValueError(f"passes must be at least 1, got {passes}")

    def loss(now: Decisions, before: Decisions, advantages: Array) -> Array:
        ratio = jnp.exp(now.log_prob - before.log_prob)
        return -jnp.minimum(ratio * advantages, jnp.clip(ratio, 1 - clip, 1 + clip) * advantages)

    return _policy_gradient(controller, optimizer, loss, passes, ema, entropy_weight, skip_weight)


def baselines(total: Array, weight: Array, rewards: Array, valid: Array, ema: float) -> tuple[Array, Array, Array]:
    """The moving average through rewards [P] in turn: (advantages [P], total, weight).

    An advantage is that over the average before its sample: 0 where there is none yet, and where the sample is not
    valid, which does not enter.
    """

    # Each sample maps an average's sum x to decay · x + added; a chain of such maps is one again.
    decay, added = (jnp.where(valid, part, other) for part, other in ((ema, 1.0), ((1 - ema) * rewards, 0.0)))

    def after(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
        return first[0] * second[0], second[0] * first[1] + second[1]

    def moved(before: Array, added: Array) -> Array:
        """Before each sample and after the last, [P + 1]."""
        factors, sums = jax.lax.associative_scan(after, (decay, added))
        return jnp.concatenate([before[None], factors * before + sums])

    totals, weights = moved(total, added), moved(weight, 1 - decay)
    known = valid & (weights[:-1] > 0)
    advantages = jnp.where(known, rewards - totals[:-1] / jnp.where(weights[:-1] > 0, weights[:-1], 1.0), 0.0)
    return advantages, totals[-1], weights[-1]


def _policy_gradient(
    controller: Controller,
    optimizer: optax.GradientTransformation,
    loss: Callable[[Decisions, Decisions, Array], Array],
    passes: int,
    ema: float,
    entropy_weight: float,
    skip_weight: float,
) -> PolicyGradient:
    if not 0 <= ema < 1:
        raise ValueError(f"ema must be at least 0 and less than 1, got {ema}")
    for name, value in (("entropy_weight", entropy_weight), ("skip_weight", skip_weight)):
        if not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value}")

    def init(key: Key) -> PolicyState:
        params = controller.init(key)
        return PolicyState(params, optimizer.init(params), jnp.float32(0), jnp.float32(0))

    def sample(key: Key, state: PolicyState, count: int) -> Decisions:
        return jax.vmap(controller.sample, (0, None))(jax.random.split(key, count), state.params)

    def update(
        state: PolicyState, archs: Array, rewards: Array, valid: Array | None = None
    ) -> tuple[PolicyState, PolicyInfo]:
        valid = jnp.ones(len(archs), bool) if valid is None else valid
        count = valid.sum()
        score = jax.vmap(controller.score, (None, 0))

        def mean(values: Array) -> Array:
            return jnp.where(valid, values, 0.0).sum() / jnp.maximum(count, 1)

        rewards = jnp.where(valid, rewards, 0.0).astype(jnp.float32)
        # The first pass knows what the samples were worth when they were drawn.
        drawn, pull = jax.vjp(lambda params: score(params, archs)[1:], state.params)
        before = Decisions(archs, *drawn)
        advantages, total, weight = baselines(
            state.total, state.weight, rewards + entropy_weight * before.entropy, valid, ema
        )

        def objective(now: Sequence[Array]) -> Array:
            found = Decisions(archs, *now)
            spread = skip_weight * found.skip_divergence - entropy_weight * found.entropy
            return mean(loss(found, before, advantages) + spread)

        def moved(params: PyTree, optimizer_state: Any, gradient: PyTree) -> tuple[PyTree, Any]:
            updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
            return optax.apply_updates(params, updates), optimizer_state

        def one(carry: tuple[PyTree, Any], _: None) -> tuple[tuple[PyTree, Any], None]:
            gradient = jax.grad(lambda params: objective(score(params, archs)[1:]))(carry[0])
            return moved(*carry, gradient), None

        (gradient,) = pull(jax.grad(objective)(drawn))
        start = moved(state.params, state.optimizer, gradient)
        (params, optimizer_state), _ = jax.lax.scan(one, start, length=passes - 1)
        new = PolicyState(params, optimizer_state, total, weight)
        new = jax.tree.map(lambda a, b: jnp.where(count > 0, a, b), new, state)
        baseline = new.total / jnp.where(new.weight > 0, new.weight, 1.0)
        size = optax.tree.norm(gradient)
        info = PolicyInfo(mean(rewards), baseline, mean(before.entropy), mean(before.skip_divergence), size)
        return new, info

    return PolicyGradient(controller.choices, init, sample, update)
