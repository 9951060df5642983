"""ENAS: Efficient Neural Architecture Search via Parameter Sharing (Pham, Guan, Zoph, Le, Dean, ICML 2018,
https://arxiv.org/abs/1802.03268), over any space with a supernet.

Two phases in turn (section 2.2). In a step of the first the policy draws one architecture, and the shared weights that
it uses descend the training loss along its path alone; all others stay as they are (`search.paths`). In a step of the
second the weights are held, some architectures are drawn, each gets a reward on the validation batch, and the policy
follows the policy gradient (`controllers`). At the end architectures are drawn and the one that scores best is kept.

Every pass normalizes by the statistics of its own batch and keeps none: the second phase leaves no trace in the child.
Rewards of one step are of the same examples, so that they differ by the architectures; the authors' programs draw other
images for each. Theirs also have dropout, drop-path and an auxiliary head in the child, which this does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import Jaxpr, jaxprs_in_params

from jaxnas.base import Arch, Array, Batch, Context, Key, Objective, Phase, PyTree, SearchAlgorithm, Supernet
from jaxnas.checks import check_choices
from jaxnas.controllers import PolicyGradient, PolicyState
from jaxnas.data.dataset import count
from jaxnas.kernels.platform import platform
from jaxnas.kernels.trees import norm, pmean
from jaxnas.objectives import CLASSIFICATION, means
from jaxnas.search.paths import path_only


class EnasState(NamedTuple):
    """params: of the supernet. weight_state: of their optimizer. policy: the controller, its optimizer and baseline."""

    params: PyTree
    weight_state: optax.OptState
    policy: PolicyState


class ChildInfo(NamedTuple):
    """Of one step of the child, float32 []: loss and metric of the drawn path before it, norm of the gradient."""

    train_loss: Array
    train_metric: Array
    weight_gradient: Array


class ControllerInfo(NamedTuple):
    """Of one step of the controller, float32 []: means over the drawn architectures, as in `PolicyInfo`.

    best_reward: the highest. entropy: of the policy, in nats.
    """

    mean_reward: Array
    best_reward: Array
    baseline: Array
    entropy: Array
    skip_divergence: Array
    controller_gradient: Array


class Reward(Protocol):
    """(params of the supernet, architecture, validation batch) -> float32 [], to be maximized; traceable."""

    def __call__(self, params: PyTree, arch: Arch, batch: Batch, /) -> Array: ...


def path_metric(
    supernet: Supernet, batches: int = 1, axis_name: str | None = None, *, objective: Objective = CLASSIFICATION
) -> Reward:
    """The metric of a path on a validation batch. The batch is cut into `batches` parts, each normalized by itself.

    The paper has one part. Several parts see more examples without a larger pass.

    Raises: ValueError where `batches` is less than 1 or, when traced, does not divide the batch.

    >>> from jaxnas.base import Aux
    >>> from jaxnas.spaces import product_space
    >>> space = product_space("two", {"scale": ("0", "1")})
    >>> scaled = lambda params, arch, inputs, context: (inputs * arch[0], Aux(()))
    >>> reward = path_metric(Supernet(space, lambda key: (), None, scaled, lambda arch: ()))
    >>> float(reward((), jnp.array([1]), Batch(jnp.eye(3), jnp.arange(3))))  # every image in its class
    1.0
    """
    if batches < 1:
        raise ValueError(f"batches must be at least 1, got {batches}")

    def reward(params: PyTree, arch: Arch, batch: Batch, /) -> Array:
        size = count(batch)
        if size % batches:
            raise ValueError(f"a validation batch of {size} examples cannot be cut into {batches}; choose a multiple")

        def metric(part: Batch) -> Array:
            outputs, _ = supernet.apply_path(params, arch, part.inputs, Context(axis_name=axis_name))
            return jnp.mean(objective.metric(outputs, part.targets))

        parts = jax.tree.map(lambda leaf: leaf.reshape(batches, -1, *leaf.shape[1:]), batch)
        return pmean(jnp.mean(jax.lax.map(metric, parts)), axis_name)

    return reward


def rewards_of(reward: Reward, params: PyTree, archs: Array, batch: Batch) -> Array:
    """The rewards of archs [P, D], float32 [P].

    One after another on a CPU, which one path keeps busy. Elsewhere side by side, in as many kernels as one path needs,
    unless a path takes a branch of its program: then all branches would be computed for every path.

    >>> rewards_of(lambda params, arch, batch: arch.sum(), None, jnp.array([[0, 1], [2, 2]]), None).tolist()
    [1, 4]
    """

    def one(arch: Arch) -> Array:
        return reward(params, arch, batch)

    if platform() != "cpu" and not _branches(jax.make_jaxpr(one)(archs[0]).jaxpr):
        return jax.vmap(one)(archs)
    return jax.lax.map(one, archs)


def _branches(program: Jaxpr) -> bool:
    """Whether anything in a program depends on a number that is data."""
    return any(
        equation.primitive.name == "cond" or any(map(_branches, jaxprs_in_params(equation.params)))
        for equation in program.eqns
    )


def enas(
    supernet: Supernet,
    policy: PolicyGradient,
    weight_optimizer: optax.GradientTransformation,
    reward: Reward | None = None,
    *,
    objective: Objective = CLASSIFICATION,
    samples: int = 10,
    candidates: int = 100,
    axis_name: str | None = None,
) -> SearchAlgorithm:
    """ENAS with the policy gradient of a controller over the choices of the supernet's space.

    weight_optimizer: any that `path_only` can hold to the path. objective: whose loss the child descends. reward: by
    default its metric, `path_metric(supernet, objective=objective)`, or a function of one's own, of a table say.
    samples: architectures of one controller step (10 in the micro, 20 in the macro search). candidates: how many
    `derive` draws; it keeps the one of the highest score, which it must be given.

    The phase "child" reads "train"; "controller" reads "valid", without augmentation. With `axis_name` a batch is
    spread over that axis and all devices, having one key, draw the same architectures.

    Raises: ValueError where a number is less than 1, or the policy is over other choices than the supernet's space.

    >>> from jaxnas.base import Skeleton
    >>> from jaxnas.controllers import adam, lstm_controller, reinforce_policy
    >>> from jaxnas.supernets import nasbench201_supernet
    >>> supernet = nasbench201_supernet(Skeleton(channels=4, cells=1, image_shape=(8, 8, 3), num_classes=10))
    >>> policy = reinforce_policy(lstm_controller(supernet.space.choices), adam())
    >>> search = enas(supernet, policy, optax.sgd(0.05, momentum=0.9))
    >>> [(phase.name, phase.reads) for phase in search.phases]
    [('child', ('train',)), ('controller', ('valid',))]
    """
    check_choices(supernet.space.choices, policy.choices, f"the supernet over {supernet.space.name!r}", "the policy")
    for name, number in (("samples", samples), ("candidates", candidates)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    reward = reward or path_metric(supernet, axis_name=axis_name, objective=objective)
    optimizer = path_only(weight_optimizer)

    def init(key: Key) -> EnasState:
        params_key, policy_key = jax.random.split(key)
        params = supernet.init(params_key)
        return EnasState(params, optimizer.init(params), policy.init(policy_key))

    def child(key: Key, state: EnasState, batch: Mapping[str, Batch]) -> tuple[EnasState, ChildInfo]:
        inputs, targets = batch["train"]
        arch = policy.sample(key, state.policy, 1).arch[0]

        def loss(params: PyTree) -> tuple[Array, Array]:
            outputs, _ = supernet.apply_path(params, arch, inputs, Context(axis_name=axis_name))
            return means(objective, outputs, targets)

        told, gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        (value, metric), gradient = pmean((told, gradient), axis_name)
        updates, weight_state = optimizer.update(gradient, state.weight_state, state.params, used=supernet.used(arch))
        params = optax.apply_updates(state.params, updates)
        return state._replace(params=params, weight_state=weight_state), ChildInfo(value, metric, norm(gradient))

    def controller(key: Key, state: EnasState, batch: Mapping[str, Batch]) -> tuple[EnasState, ControllerInfo]:
        archs = policy.sample(key, state.policy, samples).arch
        rewards = rewards_of(reward, state.params, archs, batch["valid"])
        learned, info = policy.update(state.policy, archs, rewards)
        return state._replace(policy=learned), ControllerInfo(
            info.reward, rewards.max(), info.baseline, info.entropy, info.skip_divergence, info.gradient
        )

    def draw(key: Key, state: EnasState, count: int) -> Array:
        return policy.sample(key, state.policy, count).arch

    def derive(key: Key, state: EnasState, score: Callable[[Array], Array] | None = None) -> Arch:
        if score is None:
            raise ValueError("ENAS keeps the best of what its policy draws: give a score, archs [P, D] -> [P]")
        archs = draw(key, state, candidates)
        return archs[jnp.argmax(score(archs))]

    phases = (Phase("child", child, ("train",)), Phase("controller", controller, ("valid",), plain=True))
    return SearchAlgorithm(init, phases, derive, supernet, draw)
