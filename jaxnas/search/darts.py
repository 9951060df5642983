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
    """params: of the supernet. alpha: of the relaxation, kind -> [S, O] for all of this library.

    weight_state, alpha_state: of the two optimizers. step: int32, steps done.
    """

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


Penalty = Callable[[PyTree, ArchWeights, Array], Array]
"""(alpha, the weights of a pass, step) -> float32 [], which the architecture descends beside the outer loss."""
Perturb = Callable[[Key, Callable[[ArchWeights], ArchWeights], ArchWeights, Array], ArchWeights]
"""(key, slope, the weights of the pass, step) -> what the inner loss sees instead.

slope: weights -> the gradient of the inner loss with respect to them; each call is a pass of the network."""


class Variant(NamedTuple):
    """What a differentiable method has of its own: its weights, what it adds to the loss, what the inner loss sees.

    relaxation: the softmax by default. penalty: a term that is added to the outer loss. perturb: changes the weights in
    the passes of the inner loss alone; no gradient goes through it. dropout: step -> the rate of dropout in operations
    that have one (`Context.dropout`).

    >>> flat = Variant(penalty=lambda alpha, weights, step: -0.01 * entropy(weights))
    >>> weights = flat.relaxation.mean({"cell": jnp.zeros((6, 5))})
    >>> round(float(flat.penalty(None, weights, 0)), 3)  # -0.01 ln 5
    -0.016
    """

    relaxation: Relaxation = softmax()
    penalty: Penalty | None = None
    perturb: Perturb | None = None
    dropout: Callable[[Array], Array] | None = None


def adam_l2(learning_rate: float = 3e-4, weight_decay: float = 1e-3) -> optax.GradientTransformation:
    """The paper's optimizer of the architecture: Adam, betas (0.5, 0.999), the decay added to the gradient.

    >>> optimizer, alpha = adam_l2(learning_rate=0.1), jnp.array([2.0, -2.0])
    >>> updates, _ = optimizer.update(jnp.zeros(2), optimizer.init(alpha), alpha)
    >>> [round(update, 3) for update in updates.tolist()]  # without a gradient the decay alone moves alpha
    [-0.1, 0.1]
    """
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(learning_rate, b1=0.5, b2=0.999))


def _loss_of(
    supernet: Supernet, variant: Variant, objective: Objective, axis_name: str | None
) -> Callable[[Array], Loss]:
    """step -> the loss of both levels; a batch comes with a bool [], whether the pass is one of the inner loss."""
    relaxation, _, perturb, dropout = variant

    def loss_at(step: Array) -> Loss:
        rate = 0.0 if dropout is None else dropout(step)

        def loss(
            params: PyTree, alpha: PyTree, batch: tuple[Batch, Array], key: Key, wanted: Array | None
        ) -> tuple[Array, Array]:
            (inputs, targets), is_inner = batch
            relax_key, pass_key, perturb_key = jax.random.split(key, 3)
            weights = relaxation.weights(relax_key, alpha, step)

            def at(params: PyTree, weights: ArchWeights, wanted: Array | None) -> tuple[Array, Array]:
                context = Context(key=jax.random.clone(pass_key), axis_name=axis_name, wanted=wanted, dropout=rate)
                outputs, _ = supernet.apply(params, weights, inputs, context)
                return means(objective, outputs, targets)

            if perturb is not None:
                still, now = jax.lax.stop_gradient((params, weights))

                def slope(weights: ArchWeights) -> ArchWeights:
                    return pmean(jax.grad(lambda weights: at(still, weights, None)[0])(weights), axis_name)

                def perturbed(now: ArchWeights) -> ArchWeights:
                    return perturb(perturb_key, slope, now, step)

                # Whether the pass is one of the inner loss is data, so that all passes are one program.
                seen = jax.lax.stop_gradient(jax.lax.cond(is_inner, perturbed, lambda now: now, now))
                weights = jax.tree.map(lambda own, new, old: own + (new - old), weights, seen, now)
            return at(params, weights, wanted)

        return loss

    return loss_at


def darts(
    supernet: Supernet,
    weight_optimizer: optax.GradientTransformation,
    alpha_optimizer: optax.GradientTransformation,
    bilevel: Bilevel | None = None,
    *,
    variant: Variant | None = None,
    objective: Objective = CLASSIFICATION,
    warmup_steps: int = 0,
    axis_name: str | None = None,
) -> SearchAlgorithm:
    """DARTS over the space of any supernet that has a mixture.

    bilevel: `first_order()` (the default), `exact(update)` or `finite_difference(update)`, where `update` is
    `weight_optimizer` or another optimizer with the same state (say, one without clipping). objective: whose loss both
    levels descend. variant: one of the methods that came after, such as `gdas(…)`; the softmax by default.
    warmup_steps: during the first steps only the weights move. Its one phase reads "train" and "valid". `derive`
    discretizes the mean of the relaxation by the rule of the space; it uses neither its key nor its score. For another
    rule give `supernet._replace(space=supernet.space._replace(discretize=…))`.

    Raises: ValueError where warmup_steps is negative.

    >>> from jaxnas.base import Skeleton
    >>> from jaxnas.supernets import nasbench201_supernet
    >>> supernet = nasbench201_supernet(Skeleton(channels=4, cells=1, image_shape=(8, 8, 3), num_classes=10))
    >>> search = darts(supernet, optax.sgd(0.025, momentum=0.9), adam_l2())
    >>> jax.eval_shape(search.init, jax.random.key(0)).alpha["cell"].shape
    (6, 5)
    >>> [(phase.name, phase.reads) for phase in search.phases]
    [('search', ('train', 'valid'))]
    """
    space = supernet.space
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps must not be negative, got {warmup_steps}")
    bilevel = bilevel or first_order(axis_name)
    variant = variant or Variant()
    relaxation, penalty = variant.relaxation, variant.penalty
    loss_at = _loss_of(supernet, variant, objective, axis_name)

    def init(key: Key) -> DartsState:
        params_key, alpha_key = jax.random.split(key)
        params = supernet.init(params_key)
        alpha = relaxation.init(alpha_key, space.template())
        return DartsState(
            params, alpha, weight_optimizer.init(params), alpha_optimizer.init(alpha), jnp.zeros((), jnp.int32)
        )

    def step(key: Key, state: DartsState, batch: Mapping[str, Batch]) -> tuple[DartsState, DartsInfo]:
        pass_key, penalty_key = jax.random.split(key)
        loss = loss_at(state.step)

        def penalized(alpha: PyTree) -> Array:
            weights = relaxation.weights(jax.random.clone(penalty_key), alpha, state.step)
            return jnp.zeros(()) if penalty is None else penalty(alpha, weights, state.step)

        def move(gradient: PyTree) -> tuple[PyTree, optax.OptState]:
            if penalty is not None:  # it depends on no batch, and so is no part of the passes of the network
                gradient = jax.tree.map(jnp.add, gradient, jax.grad(penalized)(state.alpha))
            updates, alpha_state = alpha_optimizer.update(gradient, state.alpha_state, state.alpha)
            moved = optax.apply_updates(state.alpha, updates), alpha_state
            warm = state.step >= warmup_steps
            return jax.tree.map(lambda new, old: jnp.where(warm, new, old), moved, (state.alpha, state.alpha_state))

        taken = bilevel(
            loss, loss, state.params, state.alpha, state.weight_state, (batch["train"], jnp.array(True)),
            (batch["valid"], jnp.array(False)), pass_key, move,
        )  # fmt: skip
        alpha, alpha_state = taken.moved
        updates, weight_state = weight_optimizer.update(taken.gradient, state.weight_state, state.params)
        params = optax.apply_updates(state.params, updates)

        weights = relaxation.mean(alpha)
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
        del key, score  # the mixture decides
        return space.discretize(relaxation.mean(state.alpha))

    return SearchAlgorithm(init, (Phase("search", step, ("train", "valid")),), derive, supernet)
