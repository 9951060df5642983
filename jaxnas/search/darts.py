"""DARTS: Differentiable Architecture Search (Liu, Simonyan, Yang, ICLR 2019, https://arxiv.org/abs/1806.09055).

Algorithm 1: in turn, the architecture descends the validation loss (by a first- or second-order hypergradient), then
the weights descend the training loss, at the new architecture and on the batch that the hypergradient's inner step saw.
Weights and architecture are disjoint pytrees with an optimizer each: decay, momentum and clipping of one never reach
the other.

Deviations from the authors' program: no batch norm keeps running statistics during the search, so that the passes of
the hypergradient leave no trace in them; the inner step is differentiated through the optimizer that is given, clipping
included where it is part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxnas.base import (
    Arch,
    ArchWeights,
    Array,
    Batch,
    Context,
    Key,
    Objective,
    Phase,
    PyTree,
    Relaxation,
    SearchAlgorithm,
    Supernet,
)
from jaxnas.kernels.trees import norm, pmean
from jaxnas.objectives import CLASSIFICATION, means
from jaxnas.relax import softmax
from jaxnas.search.bilevel import Bilevel, Loss, first_order
from jaxnas.search.health import entropy


class DartsState(NamedTuple):
    """params: of the supernet. alpha: kind -> [S, O]. The states of the two optimizers. step: int32, steps done."""

    params: PyTree
    alpha: ArchWeights
    weight_state: optax.OptState
    alpha_state: optax.OptState
    step: Array


class DartsInfo(NamedTuple):
    """Losses and metrics of the two batches, before the weights' step; norms of the two gradients.

    entropy: of the mixture's weights, in nats, mean over slots: log O at the start, 0 when every slot is decided.
    """

    train_loss: Array
    train_metric: Array
    valid_loss: Array
    valid_metric: Array
    weight_gradient: Array
    alpha_gradient: Array
    entropy: Array


def adam_l2(learning_rate: float = 3e-4, weight_decay: float = 1e-3) -> optax.GradientTransformation:
    """The paper's optimizer of the architecture: Adam, betas (0.5, 0.999), the decay added to the gradient."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(learning_rate, b1=0.5, b2=0.999))


def darts(
    supernet: Supernet,
    weight_optimizer: optax.GradientTransformation,
    alpha_optimizer: optax.GradientTransformation,
    bilevel: Bilevel | None = None,
    *,
    relaxation: Relaxation = softmax,
    objective: Objective = CLASSIFICATION,
    warmup_steps: int = 0,
    alpha_scale: float = 1e-3,
    axis_name: str | None = None,
) -> SearchAlgorithm:
    """DARTS over the space of any supernet that has a mixture.

    bilevel: `first_order()` (the default), `exact(update)` or `finite_difference(update)`, where `update` is
    `weight_optimizer` or another optimizer with the same state (say, one without clipping). objective: whose loss both
    levels descend. warmup_steps: during the first steps only the weights move. alpha_scale: standard deviation of the
    initial architecture parameters. Its one phase reads "train" and "valid". `derive` discretizes the mixture by the
    rule of the space, without a score; for another rule give
    `supernet._replace(space=supernet.space._replace(discretize=…))`.
    """
    space = supernet.space
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps must not be negative, got {warmup_steps}")
    if not alpha_scale >= 0:
        raise ValueError(f"alpha_scale must not be negative, got {alpha_scale}")
    bilevel = bilevel or first_order(axis_name)

    def mixture(key: Key | None, alpha: ArchWeights, step: Array) -> ArchWeights:
        keys = [None] * len(alpha) if key is None else list(jax.random.split(key, len(alpha)))
        return {kind: relaxation(k, alpha[kind], step) for kind, k in zip(sorted(alpha), keys, strict=True)}

    def loss_at(step: Array) -> Loss:
        def loss(
            params: PyTree, alpha: ArchWeights, batch: Batch, key: Key, wanted: Array | None
        ) -> tuple[Array, Array]:
            relax_key, pass_key = jax.random.split(key)
            weights = mixture(relax_key, alpha, step)
            context = Context(key=pass_key, axis_name=axis_name, wanted=wanted)
            outputs, _ = supernet.apply(params, weights, batch.inputs, context)
            return means(objective, outputs, batch.targets)

        return loss

    def init(key: Key) -> DartsState:
        params_key, alpha_key = jax.random.split(key)
        params = supernet.init(params_key)
        template = space.template()
        keys = jax.random.split(alpha_key, len(template))
        alpha = {
            kind: alpha_scale * jax.random.normal(k, template[kind].shape)
            for kind, k in zip(sorted(template), keys, strict=True)
        }
        return DartsState(
            params, alpha, weight_optimizer.init(params), alpha_optimizer.init(alpha), jnp.zeros((), jnp.int32)
        )

    def step(key: Key, state: DartsState, batch: Mapping[str, Batch]) -> tuple[DartsState, DartsInfo]:
        pass_key, entropy_key = jax.random.split(key)
        loss = loss_at(state.step)

        def move(gradient: PyTree) -> tuple[ArchWeights, optax.OptState]:
            updates, alpha_state = alpha_optimizer.update(gradient, state.alpha_state, state.alpha)
            moved = optax.apply_updates(state.alpha, updates), alpha_state
            warm = state.step >= warmup_steps
            return jax.tree.map(lambda new, old: jnp.where(warm, new, old), moved, (state.alpha, state.alpha_state))

        taken = bilevel(
            loss, loss, state.params, state.alpha, state.weight_state, batch["train"], batch["valid"],
            pass_key, move,
        )  # fmt: skip
        alpha, alpha_state = taken.moved
        updates, weight_state = weight_optimizer.update(taken.gradient, state.weight_state, state.params)
        params = optax.apply_updates(state.params, updates)

        weights = mixture(entropy_key, alpha, state.step)
        train_loss, train_metric, valid_loss, valid_metric = pmean(
            (taken.inner, taken.inner_told, taken.outer, taken.outer_told), axis_name
        )
        info = DartsInfo(
            train_loss,
            train_metric,
            valid_loss,
            valid_metric,
            norm(taken.gradient),
            norm(taken.hypergradient),
            entropy(weights),
        )
        return DartsState(params, alpha, weight_state, alpha_state, state.step + 1), info

    def derive(key: Key, state: DartsState, score: Callable[[Array], Array] | None = None) -> Arch:
        del score  # the mixture decides
        return space.discretize(mixture(key, state.alpha, state.step))

    return SearchAlgorithm(init, (Phase("search", step, ("train", "valid")),), derive, supernet)
