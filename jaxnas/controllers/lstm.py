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

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Arch, Array, Choice, Key, PyTree
from jaxnas.checks import check_arch
from jaxnas.controllers.plan import Plan, make_plan

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

    hidden: the units of a layer of the LSTM. depth: its layers. The equations in the module have the other numbers.
    The macro search has tanh_constant 1.5 and, in effect, op_tanh_reduce 1. NAS-Bench-201's ENAS has hidden 32, depth
    2, temperature 5, tanh_constant 2.5, op_tanh_reduce 1. None leaves temperature or squashing out. skip_target: the
    probability of a skip connection that `skip_divergence` measures the distance from. prior: name of an option -> a
    constant that is added to its score after squashing.

    Raises: ValueError where a number is out of its range, `prior` names no option, or `make_plan` raises.

    >>> controller = lstm_controller((Choice("width", ("8", "16", "32")), Choice("depth", ("1", "2"))), hidden=8)
    >>> params = jax.eval_shape(controller.init, jax.random.key(0))
    >>> decisions = jax.eval_shape(controller.sample, jax.random.key(1), params)
    >>> decisions.arch.shape, decisions.log_prob.shape
    ((2,), ())
    """
    _check_numbers(hidden, depth, temperature, tanh_constant, op_tanh_reduce, skip_target)
    plan = make_plan(choices)
    net = _Network(
        choices,
        plan,
        hidden=hidden,
        depth=depth,
        prior=_prior_scores(prior or {}, plan),
        temperature=temperature,
        node_constant=tanh_constant,
        operation_constant=tanh_constant and tanh_constant / op_tanh_reduce,
        log_target=np.log(np.array([1 - skip_target, skip_target], np.float32)),
    )

    def sample(key: Key, params: PyTree) -> Decisions:
        # The largest of scores with Gumbel noise is a sample; drawn at once, which is cheaper than a key a step.
        return _score(net, params, _draw(net, params, jax.random.gumbel(key, plan.allowed.shape)))

    def score(params: PyTree, arch: Arch) -> Decisions:
        check_arch(choices, arch, "the controller")
        return _score(net, params, arch)

    return Controller(choices, functools.partial(_init, net), sample, score)


class _Network(NamedTuple):
    """What makes a controller; the letters of shapes are those of `Plan`.

    hidden: units of a layer of the LSTM, of which there are `depth`. prior: float32 [V, O], added to the scores of
    operations. temperature and the constants: of the squashing of scores, None for none. log_target: float32 [2],
    logarithms of the probabilities of leaving out and of taking a skip connection.
    """

    choices: tuple[Choice, ...]
    plan: Plan
    hidden: int
    depth: int
    prior: np.ndarray
    temperature: float | None
    node_constant: float | None
    operation_constant: float | None
    log_target: np.ndarray


class _Memory(NamedTuple):
    """What a step leaves to the next. c, h: states of the LSTM, a row a layer, [L, H].

    anchors: [N, H], 0 for nodes not made yet and for given ones.
    """

    c: Array
    h: Array
    anchors: Array


class _Taken(NamedTuple):
    """What taken options mean for the next input, of one step or of all, [T, ...]: base + mean @ anchors.

    base: [H]. mean: [N, 1], the share of each anchor.
    """

    base: Array
    mean: Array


def _check_numbers(
    hidden: int,
    depth: int,
    temperature: float | None,
    tanh_constant: float | None,
    op_tanh_reduce: float,
    skip_target: float,
) -> None:
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


def _prior_scores(prior: Mapping[str, float], plan: Plan) -> np.ndarray:
    """What is added to the scores of each set of options, float32 [V, O]; one row of zeros where there is no set."""
    scores = np.zeros((max(len(plan.vocabularies), 1), plan.allowed.shape[-1]), np.float32)
    for name, value in prior.items():
        places = [(v, words.index(name)) for v, words in enumerate(plan.vocabularies) if name in words]
        if not places:
            raise ValueError(
                f"prior names {name!r}, which is no option; there are {sorted({*sum(plan.vocabularies, ())})}"
            )
        for place in places:
            scores[place] = value
    return scores


def _uniform(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    return jax.random.uniform(key, shape, dtype, -0.1, 0.1)


def _init(net: _Network, key: Key) -> PyTree:
    hidden = net.hidden
    vocabularies, options = net.prior.shape
    keys = iter(jax.random.split(key, 6 + net.depth))
    params = {
        # Of a layer's input and its own state, side by side, for the gates i, f, g and o.
        "lstm": [
            {"kernel": _uniform(next(keys), (2 * hidden, 4 * hidden)), "bias": jnp.zeros(4 * hidden)}
            for _ in range(net.depth)
        ],
        "start": _uniform(next(keys), (hidden,)),
        "embedding": _uniform(next(keys), (vocabularies, options, hidden)),
        "kernel": _uniform(next(keys), (vocabularies, hidden, options)),
        "bias": jnp.zeros((vocabularies, options)),
    }
    if len(net.plan.given):
        params["attention"] = {
            "anchor": _uniform(next(keys), (hidden, hidden)),
            "state": _uniform(next(keys), (hidden, hidden)),
            "score": _uniform(next(keys), (hidden,)),
        }
    return params


def _started(layers: PyTree, nodes: int) -> _Memory:
    hidden = len(layers[0]["bias"]) // 4
    zeros = jnp.zeros((len(layers), hidden))
    return _Memory(zeros, zeros, jnp.zeros((nodes, hidden)))


def _draw(net: _Network, params: PyTree, noise: Array) -> Arch:
    """An architecture, int32 [D], by Gumbel noise [T, G, O]. Each decision is taken before the next state is known."""
    plan = net.plan
    # All that is made of a state is one product: what anchors are compared with, what an anchor is compared by, and the
    # scores of all sets of options.
    parts = [params["attention"][name] for name in ("state", "anchor")] if "attention" in params else []
    kernels = jnp.concatenate([*parts, *params["kernel"]], 1)

    def step(carry: tuple[_Memory, Array, _Taken], number: Array) -> tuple[tuple[_Memory, Array, _Taken], Array]:
        memory, projected, before = carry
        memory, _ = _advanced(params["lstm"], memory, before, _marks(net, own=True)[number])
        here: Plan = jax.tree.map(lambda rows: jnp.asarray(rows)[number], _rows(plan))
        made = memory.h[-1] @ kernels
        met = None
        if parts:
            met = jnp.tanh(projected + made[None, : net.hidden])
            anchor, made = made[net.hidden : 2 * net.hidden], made[2 * net.hidden :]
            projected = projected + _marks(net, own=False)[number] * anchor[None]
        named = (made.reshape(params["bias"].shape) + params["bias"])[here.vocabulary]
        scores = _scores(net, params, here, named, met)
        taken = jnp.argmax(jnp.where(here.allowed, scores, _NEVER) + noise[number], axis=1)
        return (memory, projected, _of_taken(net, params, here, taken)), taken

    start = _started(params["lstm"], len(plan.given))
    first = _Taken(params["start"], jnp.zeros((len(plan.given), 1)))
    _, taken = jax.lax.scan(step, (start, jnp.zeros_like(start.anchors), first), jnp.arange(len(plan.place)))
    # Where in [T, G] each choice is decided.
    order = np.argsort(plan.place.reshape(-1), kind="stable")[: len(net.choices)]
    return taken.reshape(-1)[order].astype(jnp.int32)


def _score(net: _Network, params: PyTree, arch: Arch) -> Decisions:
    """All that is to be known of an architecture. Its options are known, so that a step is the LSTM's alone, and the
    scores of all steps are computed at once: a GPU starts few kernels."""
    plan, count = net.plan, len(net.choices)
    # The options of the architecture where its choices are decided, [T, G], and 0 where there is no decision.
    told = jnp.concatenate([arch, jnp.zeros(1, arch.dtype)])[jnp.asarray(plan.place)]
    rows = _rows(plan)
    taken = jax.vmap(functools.partial(_of_taken, net, params))(rows, told)
    # A step's input is what was taken in the one before.
    inputs = _Taken(
        jnp.concatenate([params["start"][None], taken.base[:-1]]),
        jnp.concatenate([jnp.zeros_like(taken.mean[:1]), taken.mean[:-1]]),
    )
    h = _recurrence(params["lstm"], inputs, _marks(net, own=True))
    met = None
    if "attention" in params:
        # The step in which each node is anchored; no node is read before.
        anchored = np.array([next(iter(np.flatnonzero(plan.anchor == n)), 0) for n in range(len(plan.given))])
        projected = h[anchored] @ params["attention"]["anchor"]
        met = jnp.tanh(projected[None] + (h @ params["attention"]["state"])[:, None])
    named = jnp.einsum("th,vho->tvo", h, params["kernel"]) + params["bias"][None]
    named = named[np.arange(len(plan.vocabulary)), plan.vocabulary]
    scores = jax.vmap(functools.partial(_scores, net, params))(rows, named, met)
    log_p = jax.nn.log_softmax(jnp.where(plan.allowed, scores, _NEVER))
    p, exists = jnp.exp(log_p), plan.place < count
    log_prob = jnp.where(exists, jnp.take_along_axis(log_p, told[..., None], 2)[..., 0], 0).sum()
    entropy = jnp.where(exists, -(p * log_p).sum(2), 0).sum()
    # The last axis of reads tells which of the two options reads; the other is left out.
    reading = (p * plan.reads.any(3)).sum(2)
    divergence = jnp.where(plan.skips, _divergence(reading, net.log_target), 0).sum()
    return Decisions(arch, log_prob, entropy, divergence / max(int(plan.skips.any(axis=1).sum()), 1))


def _rows(plan: Plan) -> Plan:
    """The plan, all of whose leaves have a row for each step."""
    return plan._replace(given=plan.place, vocabularies=())


def _marks(net: _Network, *, own: bool) -> Array:
    """Which node each step makes the anchor of, float32 [T, N, 1].

    own: without nodes that are given, whose anchors are 0.
    """
    plan = net.plan
    marks = plan.anchor[:, None] == np.arange(len(plan.given))[None]
    return jnp.asarray(marks & ~(plan.given & own)[None], jnp.float32)[..., None]


def _advanced(
    layers: PyTree, memory: _Memory, taken: _Taken, anchored: Array, nudge: Array | None = None
) -> tuple[_Memory, Array]:
    """The memory after one more step, and what the gates of each layer were made of, [L, 2 H].

    taken: what the step's input is. anchored: [N, 1], the node that the step makes the anchor of, as `_marks` says.
    nudge: [L, 4 H], is added to the gates.
    """
    below = taken.base + (taken.mean * memory.anchors).sum(0)
    c, h, met = [], [], []
    for number, layer in enumerate(layers):
        met.append(jnp.concatenate([below, memory.h[number]]))
        gates = met[-1] @ layer["kernel"] + layer["bias"]
        new, below = _cell(gates if nudge is None else gates + nudge[number], memory.c[number])
        c.append(new)
        h.append(below)
    return _Memory(jnp.stack(c), jnp.stack(h), memory.anchors + anchored * below[None]), jnp.stack(met)


@jax.checkpoint
def _cell(gates: Array, c: Array) -> tuple[Array, Array]:
    """(c, h) of an LSTM (Hochreiter and Schmidhuber, 1997; with a forget gate). gates: [4 H]. c: [H]."""
    i, f, g, o = jnp.split(gates, 4)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return c, jax.nn.sigmoid(o) * jnp.tanh(c)


@jax.custom_vjp
def _recurrence(layers: PyTree, inputs: _Taken, anchored: Array) -> Array:
    """The states of the last layer after all steps, [T, H]; inputs and anchored have a leading axis [T].

    The gradients of kernels and biases are one product over all steps, outside of the loop.
    """
    return _states(layers, inputs, anchored)[0]


def _states(layers: PyTree, inputs: _Taken, anchored: Array, nudges: Array | None = None) -> tuple[Array, Array]:
    """The states of the last layer, [T, H], and what the gates of all layers were made of, [T, L, 2 H]."""

    def step(memory: _Memory, item: tuple[_Taken, Array, Array | None]) -> tuple[_Memory, tuple[Array, Array]]:
        memory, met = _advanced(layers, memory, *item)
        return memory, (memory.h[-1], met)

    start = _started(layers, anchored.shape[1])
    return jax.lax.scan(step, start, (inputs, anchored, nudges))[1]


def _recurrence_forward(layers: PyTree, inputs: _Taken, anchored: Array) -> tuple[Array, Any]:
    zeros = jnp.zeros((len(anchored), len(layers), len(layers[0]["bias"])))
    h, pull, met = jax.vjp(lambda *own: _states(layers, own[0], anchored, own[1]), inputs, zeros, has_aux=True)
    return h, (pull, met)


def _recurrence_backward(kept: Any, g: Array) -> tuple[PyTree, _Taken, None]:
    pull, met = kept
    of_inputs, of_gates = pull(g)
    of_layers = [
        {"kernel": met[:, number].T @ of_gates[:, number], "bias": of_gates[:, number].sum(0)}
        for number in range(met.shape[1])
    ]
    return of_layers, of_inputs, None


_recurrence.defvjp(_recurrence_forward, _recurrence_backward)


def _scores(net: _Network, params: PyTree, step: Plan, named: Array, met: Array | None) -> Array:
    """The scores of the options of a step's decisions, [G, O].

    step: a row of the plan. named: [O], the scores of options that are names, before squashing. met: [N, H], tanh of
    what the state makes of each anchor.
    """

    def squashed(scores: Array, constant: float | None) -> Array:
        scores = scores if net.temperature is None else scores / net.temperature
        return scores if constant is None else constant * jnp.tanh(scores)

    scores = squashed(named, net.operation_constant) + jnp.asarray(net.prior)[step.vocabulary]
    scores = jnp.broadcast_to(scores, step.allowed.shape)
    if "attention" not in params:
        return scores
    pointed = jnp.einsum("gon,n->go", step.score, met @ params["attention"]["score"])
    return jnp.where(step.points, squashed(pointed, net.node_constant), scores)


def _of_taken(net: _Network, params: PyTree, step: Plan, taken: Array) -> _Taken:
    """step: a row of the plan. taken: the options of its decisions, int [G]."""
    decides, points = (step.place < len(net.choices)).any(), step.points
    base = jnp.where(decides, params["embedding"][step.vocabulary, taken[0]], params["start"])
    read = jnp.take_along_axis(jnp.asarray(step.reads), taken[:, None, None], 1)[:, 0]  # [G, N]
    count = read.sum() + jnp.any(step.skips)
    mean = (read.sum(0) / jnp.maximum(count, 1))[:, None]
    return _Taken(jnp.where(points & decides, 0, base), jnp.where(points & decides, mean, 0))


def _divergence(yes: Array, log_target: np.ndarray) -> Array:
    """KL of probabilities yes [G] of two-way choices from a target, [G]."""
    yes = jnp.clip(yes, 1e-7, 1 - 1e-7)
    return yes * (jnp.log(yes) - log_target[1]) + (1 - yes) * (jnp.log1p(-yes) - log_target[0])
