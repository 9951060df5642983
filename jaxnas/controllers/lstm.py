"""The controller of ENAS (Pham et al., "Efficient Neural Architecture Search via Parameter Sharing", ICML 2018,
https://arxiv.org/abs/1802.03268): a recurrent network that decides one choice of a space after another.

The state h of an LSTM gives the scores of the options, and what was decided is its next input. Operations, and all
options that are only names, have

    scores = W h + b,                        next input = the embedding of the option taken;

equal sets of options share W, b and embeddings. Where options are connections (`Choice.reads`) the network points at
anchors, the states in which it had made the nodes (section 2.4, in the form of the authors' programs):

    score of a node = v . tanh(W1 anchor + W2 h),     of an option: the sum over the nodes that it reads.

Reading nothing has the negative score of the other option, as the macro search has it for skip connections, which are
decided all at once, independently given h. The next input is the mean of the anchors read, for skip connections their
sum divided by one more than their number; nodes that are given have zero in place of their anchor there. All scores s
are then squashed to c tanh(s / temperature); c is `tanh_constant`, divided by `op_tanh_reduce` for operations.

Deviations from the authors' programs: the entropy is that of the whole distribution of every decision and carries its
gradient (there it has none, and in the macro search it is a single term of the sum); the divergence of skip connections
is that of their probabilities (there of sigmoids of both scores); a given node has a state of its own to point at in
the macro search too; the LSTM has biases, 0 at first, and so have the operations (in the micro search those of the
first two begin at 10; `prior` stands for that).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

from jaxnas.base import Arch, Array, Choice, Key, PyTree
from jaxnas.checks import check_arch
from jaxnas.controllers.plan import make_plan

_NEVER = -1e9
"""Score of an option that a choice does not have: finite, so that entropies have a gradient."""


class Decisions(NamedTuple):
    """One pass of a controller. arch: int32 [D]. All else float32 [].

    log_prob: of the architecture. entropy: of each decision given those before it, summed; its mean over samples is the
    entropy of the policy, in nats. skip_divergence: KL of the skip connections' probabilities from the target, summed
    over those decided at once, mean over such steps; 0 in a space without.
    """

    arch: Arch
    log_prob: Array
    entropy: Array
    skip_divergence: Array


class Controller(NamedTuple):
    """A policy over the architectures of some choices. init: key -> params. sample: (key, params) -> decisions drawn.

    score: (params, arch) -> the same for a given architecture. For many architectures use `jax.vmap`.
    """

    choices: tuple[Choice, ...]
    init: Callable[[Key], PyTree]
    sample: Callable[[Key, PyTree], Decisions]
    score: Callable[[PyTree, Arch], Decisions]


def lstm_controller(
    choices: tuple[Choice, ...],
    *,
    hidden: int = 64,
    depth: int = 1,
    temperature: float | None = None,
    tanh_constant: float | None = 1.1,
    op_tanh_reduce: float = 2.5,
    skip_target: float = 0.4,
    prior: Mapping[str, float] | None = None,
) -> Controller:
    """The controller of a space with these choices; the defaults are those of the micro search.

    The macro search has tanh_constant 1.5 and, in effect, op_tanh_reduce 1. NAS-Bench-201's ENAS has hidden 32, depth
    2, temperature 5, tanh_constant 2.5, op_tanh_reduce 1. None leaves temperature or squashing out. skip_target: the
    probability of a skip connection from which `skip_divergence` counts. prior: name of an option -> what is added to
    its score after squashing, not learned.

    Raises: ValueError where a number is out of its range, `prior` names no option, or `make_plan` raises.
    """
    for name, number in (("hidden", hidden), ("depth", depth)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    for name, value in (
        ("temperature", temperature), ("tanh_constant", tanh_constant), ("op_tanh_reduce", op_tanh_reduce)
    ):  # fmt: skip
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    if not 0 < skip_target < 1:
        raise ValueError(f"skip_target must be between 0 and 1, got {skip_target}")
    plan = make_plan(choices)
    steps, width, options = plan.allowed.shape
    nodes = len(plan.given)
    bias = np.zeros((max(len(plan.vocabularies), 1), options), np.float32)
    for name, value in (prior or {}).items():
        places = [(v, words.index(name)) for v, words in enumerate(plan.vocabularies) if name in words]
        if not places:
            raise ValueError(
                f"prior names {name!r}, which is no option; there are {sorted({*sum(plan.vocabularies, ())})}"
            )
        for place in places:
            bias[place] = value
    # Where in [T, G] each choice is decided.
    order = np.argsort(plan.place.reshape(-1), kind="stable")[: len(choices)]
    exists = plan.place < len(choices)
    skip_steps = max(int(plan.skips.any(axis=1).sum()), 1)
    log_target = np.log(np.array([1 - skip_target, skip_target], np.float32))

    def uniform(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -0.1, 0.1)

    cell = linen.OptimizedLSTMCell(hidden, kernel_init=uniform, recurrent_kernel_init=uniform)

    def init(key: Key) -> PyTree:
        keys = iter(jax.random.split(key, 6 + depth))
        empty = (jnp.zeros(hidden), jnp.zeros(hidden))
        params = {
            "lstm": [cell.init(next(keys), empty, jnp.zeros(hidden))["params"] for _ in range(depth)],
            "start": uniform(next(keys), (hidden,)),
            "embedding": uniform(next(keys), (len(bias), options, hidden)),
            "kernel": uniform(next(keys), (len(bias), hidden, options)),
            "bias": jnp.zeros((len(bias), options)),
        }
        if nodes:
            params["attention"] = {
                "anchor": uniform(next(keys), (hidden, hidden)),
                "state": uniform(next(keys), (hidden, hidden)),
                "score": uniform(next(keys), (hidden,)),
            }
        return params

    def squashed(scores: Array, constant: float | None) -> Array:
        scores = scores if temperature is None else scores / temperature
        return scores if constant is None else constant * jnp.tanh(scores)

    def run(params: PyTree, noise: Array | None, arch: Arch | None) -> Decisions:
        given = None if arch is None else jnp.concatenate([arch, jnp.zeros(1, arch.dtype)])[jnp.asarray(plan.place)]

        def step(carry: Any, at: Any) -> tuple[Any, Any]:
            states, x, anchors, projected = carry
            tables, gumbel, forced = at
            new = []
            for state, weights in zip(states, params["lstm"], strict=True):
                state, x = cell.apply({"params": weights}, state, x)
                new.append(state)
            h = x
            scores = h @ params["kernel"][tables["vocabulary"]] + params["bias"][tables["vocabulary"]]
            scores = squashed(scores, tanh_constant and tanh_constant / op_tanh_reduce) + tables["prior"]
            scores = jnp.broadcast_to(scores, (width, options))
            if nodes:
                attention = params["attention"]
                met = jnp.tanh(projected[:nodes] + (h @ attention["state"])[None]) @ attention["score"]
                pointed = squashed(jnp.einsum("gon,n->go", tables["score"], met), tanh_constant)
                scores = jnp.where(tables["points"], pointed, scores)
            log_p = jax.nn.log_softmax(jnp.where(tables["allowed"], scores, _NEVER))
            taken = jnp.argmax(log_p + gumbel, axis=1) if forced is None else forced
            p = jnp.exp(log_p)
            exists = tables["exists"]
            log_prob = jnp.where(exists, jnp.take_along_axis(log_p, taken[:, None], 1)[:, 0], 0).sum()
            entropy = jnp.where(exists, -(p * log_p).sum(1), 0).sum()
            divergence = jnp.float32(0)
            x = params["embedding"][tables["vocabulary"], taken[0]]
            if nodes:
                own = h * (1 - tables["given"])
                read = jnp.take_along_axis(tables["reads"], taken[:, None, None], 1)[:, 0]  # [G, N]
                count = read.sum() + tables["skips"].any()
                mean = (read.sum(0) @ anchors[:nodes]) / jnp.maximum(count, 1)
                x = jnp.where(tables["points"], mean, x)
                anchors = anchors.at[tables["anchor"]].set(own)
                projected = projected.at[tables["anchor"]].set(h @ attention["anchor"])
                # The last axis of reads tells which of the two options reads; the other is left out.
                yes = (p * tables["reads"].any(2)).sum(1)
                divergence = jnp.where(tables["skips"], _divergence(yes, log_target), 0).sum()
            x = jnp.where(exists.any(), x, params["start"])
            return (new, x, anchors, projected), (taken, log_prob, entropy, divergence)

        tables = {
            "vocabulary": plan.vocabulary,
            "prior": bias[plan.vocabulary],
            "points": plan.points,
            "allowed": plan.allowed,
            "exists": exists,
            "score": plan.score,
            "reads": plan.reads,
            "skips": plan.skips,
            "anchor": plan.anchor,
            "given": np.array([*plan.given, False], np.float32)[plan.anchor],
        }
        zeros = jnp.zeros((nodes + 1, hidden))  # The last row takes what is no anchor.
        start = ([(jnp.zeros(hidden), jnp.zeros(hidden))] * depth, params["start"], zeros, zeros)
        _, (taken, log_prob, entropy, divergence) = jax.lax.scan(step, start, (tables, noise, given), length=steps)
        chosen = taken.reshape(-1)[order].astype(jnp.int32) if arch is None else arch
        return Decisions(chosen, log_prob.sum(), entropy.sum(), divergence.sum() / skip_steps)

    def sample(key: Key, params: PyTree) -> Decisions:
        # The largest of scores with Gumbel noise is a sample; drawn at once, which is cheaper than a key a step.
        return run(params, jax.random.gumbel(key, (steps, width, options)), None)

    def score(params: PyTree, arch: Arch) -> Decisions:
        check_arch(choices, arch, "the controller")
        return run(params, None, arch)

    return Controller(choices, init, sample, score)


def _divergence(yes: Array, log_target: np.ndarray) -> Array:
    """KL of probabilities yes [G] of two-way choices from a target, [G]."""
    yes = jnp.clip(yes, 1e-7, 1 - 1e-7)
    return yes * (jnp.log(yes) - log_target[1]) + (1 - yes) * (jnp.log1p(-yes) - log_target[0])
