"""The controller against enumeration of a small space and against the papers' loops; gradients against exact ones."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnas import spaces
from jaxnas.base import Choice
from jaxnas.controllers import PolicyState, lstm_controller, policy_gradient, ppo_policy, reinforce_policy

# A node of each kind: x is an operation, y also points at what it reads, z chooses what it adds; then mere names.
CHOICES = (
    Choice("x does", ("p", "q"), "x"),
    Choice("y reads", ("in", "x"), "y", (("in",), ("x",))),
    Choice("y does", ("p", "q"), "y"),
    Choice("z adds in", ("no", "yes"), "z", ((), ("in",))),
    Choice("z adds both", ("yes", "no"), "z", (("x", "y"), ())),
    Choice("rest", ("u", "v", "w")),
    Choice("only", ("u",)),
)
ARCHS = np.array(list(itertools.product(*(range(len(choice.options)) for choice in CHOICES))), np.int32)
REWARDS = jnp.asarray(np.random.default_rng(0).random(len(ARCHS)), jnp.float32)
CONTROLLER = lstm_controller(CHOICES, hidden=6, temperature=0.7, tanh_constant=2.0, prior={"q": 0.5})


def quick(function):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module")
def params():
    """Far from uniform: ten times what a controller begins with."""
    return quick(lambda key: jax.tree.map(lambda leaf: 10 * leaf, CONTROLLER.init(key)))(jax.random.key(0))


def everything(params):
    return jax.vmap(CONTROLLER.score, (None, 0))(params, ARCHS)


@pytest.fixture(scope="module")
def scored(params):
    return quick(everything)(params)


def test_probabilities_of_all_architectures_sum_to_one(scored):
    p = np.exp(scored.log_prob)
    assert p.sum() == pytest.approx(1, abs=1e-5)
    assert p.max() > 5 / len(p)  # and are not all alike


def test_samples_have_the_probabilities_that_are_scored(params, scored):
    count = 30_000
    drawn = quick(jax.vmap(CONTROLLER.sample, (0, None)))(jax.random.split(jax.random.key(1), count), params)
    index = {tuple(arch): i for i, arch in enumerate(ARCHS.tolist())}
    rows = np.array([index[tuple(arch)] for arch in np.asarray(drawn.arch).tolist()])
    for name in ("log_prob", "entropy", "skip_divergence"):
        np.testing.assert_allclose(getattr(drawn, name), np.asarray(getattr(scored, name))[rows], rtol=1e-4, atol=1e-5)
    expected = count * np.exp(np.asarray(scored.log_prob))
    enough = expected > 5
    observed = np.bincount(rows, minlength=len(ARCHS))
    chi = (np.square(observed - expected) / expected)[enough].sum()
    assert chi < enough.sum() + 5 * np.sqrt(2 * enough.sum())


def test_the_mean_of_the_entropies_on_the_way_is_that_of_the_policy(scored):
    p = np.exp(scored.log_prob)
    np.testing.assert_allclose((p * scored.entropy).sum(), -(p * scored.log_prob).sum(), rtol=1e-4)


def test_skip_connections_diverge_from_the_target_as_their_probabilities_do():
    choices = (Choice("x", ("p", "q"), "x"), Choice("z adds x", ("no", "yes"), "z", ((), ("x",))))
    controller = lstm_controller(choices, hidden=4, depth=2, skip_target=0.3)

    @quick
    def score(key):
        params = jax.tree.map(lambda leaf: 20 * leaf, controller.init(key))
        return jax.vmap(controller.score, (None, 0))(params, jnp.array([[0, 0], [0, 1]]))

    found = score(jax.random.key(0))
    p = np.exp(found.log_prob)
    p = p / p.sum()
    expected = (p * np.log(p / np.array([0.7, 0.3]))).sum()
    np.testing.assert_allclose(found.skip_divergence, expected, rtol=1e-4)


def lstm(weights, state, x):
    """Hochreiter & Schmidhuber with gates i, f, g, o."""
    (c, h) = state
    kernels, biases = jnp.split(weights["kernel"], 4, 1), jnp.split(weights["bias"], 4)
    gate = {
        k: x @ kernel[: len(x)] + h @ kernel[len(x) :] + bias
        for k, kernel, bias in zip("ifgo", kernels, biases, strict=True)
    }
    c = jax.nn.sigmoid(gate["f"]) * c + jax.nn.sigmoid(gate["i"]) * jnp.tanh(gate["g"])
    return c, jax.nn.sigmoid(gate["o"]) * jnp.tanh(c)


def micro_log_prob(params, arch, cells, nodes):
    """As the micro sampler of the paper's program goes, over cells of two inputs: 1.1 and 2.5."""
    states, log_prob = [(jnp.zeros(5), jnp.zeros(5)) for _ in params["lstm"]], 0.0
    arch = iter(arch)
    attention = params["attention"]

    def after(x):
        for number, weights in enumerate(params["lstm"]):
            states[number] = lstm(weights, states[number], x)
            x = states[number][1]
        return x

    for _ in range(cells):
        values, keys = [], []
        for _ in range(2):
            keys.append(after(params["start"]) @ attention["anchor"])
            values.append(jnp.zeros(5))
        for _ in range(nodes):
            x = params["start"]
            for _ in range(2):
                score = jnp.tanh(jnp.stack(keys) + (after(x) @ attention["state"])[None]) @ attention["score"]
                taken = next(arch)
                log_prob += jax.nn.log_softmax(1.1 * jnp.tanh(score))[taken]
                x = jnp.stack(values)[taken]
            for _ in range(2):
                score = after(x) @ params["kernel"][0] + params["bias"][0]
                taken = next(arch)
                log_prob += jax.nn.log_softmax(1.1 / 2.5 * jnp.tanh(score))[taken]
                x = params["embedding"][0, taken]
            values.append(after(x))
            keys.append(values[-1] @ attention["anchor"])
    return log_prob


@pytest.mark.parametrize(("depth", "cells"), [(1, "nr"), (2, "n")])
def test_it_is_the_micro_sampler_of_the_paper_and_so_are_its_gradients(depth, cells):
    choices, nodes = [], 2
    for kind, node in itertools.product(cells, range(2, 2 + nodes)):
        sources = tuple((f"{kind}{s}",) for s in range(node))
        options = tuple(map(str, range(node)))
        choices += [Choice(f"{kind}{node} {side}", options, f"{kind}{node}", sources) for side in "ab"]
        choices += [Choice(f"{kind}{node} op {side}", ("s3", "s5", "id"), f"{kind}{node}") for side in "ab"]
    controller = lstm_controller(tuple(choices), hidden=5, depth=depth)
    params = jax.tree.map(lambda leaf: 10 * leaf, quick(controller.init)(jax.random.key(0)))
    archs = jnp.array([[1, 0, 2, 1, 2, 0, 0, 1], [0, 1, 0, 0, 1, 2, 2, 2]])
    archs = jnp.tile(archs, len(cells))

    def of_both(log_prob):
        return quick(lambda params: jax.vmap(jax.value_and_grad(log_prob), (None, 0))(params, archs))(params)

    found = of_both(lambda params, arch: controller.score(params, arch).log_prob)
    expected = of_both(lambda params, arch: micro_log_prob(params, arch, len(cells), nodes))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), found, expected)


def macro_log_prob(params, arch, layers):
    """As the macro sampler goes, with a state to point at for the stem: 1.5, operations too."""
    state, log_prob, arch = (jnp.zeros(5), jnp.zeros(5)), 0.0, iter(arch)
    attention = params["attention"]
    values, keys = [], []
    x = params["start"]
    for layer in range(layers):
        if layer == 1:  # The stem is first read here.
            state = lstm(params["lstm"][0], state, x)
            stem = state[1] @ attention["anchor"]
            x = params["start"]
        state = lstm(params["lstm"][0], state, x)
        taken = next(arch)
        log_prob += jax.nn.log_softmax(1.5 * jnp.tanh(state[1] @ params["kernel"][0]))[taken]
        state = lstm(params["lstm"][0], state, params["embedding"][0, taken])
        x = params["start"]
        if layer > 0:
            met = jnp.stack([stem, *keys[:-1]])
            score = jnp.tanh(met + (state[1] @ attention["state"])[None]) @ attention["score"]
            skips = jnp.array([next(arch) for _ in range(layer)])
            log_prob += sum(
                jax.nn.log_softmax(1.5 * jnp.tanh(jnp.array([-s, s])))[skip]
                for s, skip in zip(score, skips, strict=True)
            )
            x = (skips @ jnp.stack([jnp.zeros(5), *values[:-1]])) / (1 + skips.sum())
        values.append(state[1])
        keys.append(state[1] @ attention["anchor"])
    return log_prob


def test_it_is_the_macro_sampler_of_the_paper():
    choices, layers = [], 4
    for layer in range(layers):
        choices.append(Choice(f"{layer}", ("c3", "c5", "max"), f"state {layer + 1}"))
        for state in range(layer):
            reads = ((), (f"state {state}",))
            choices.append(Choice(f"{layer} adds {state}", ("no", "yes"), f"state {layer + 1}", reads))
    controller = lstm_controller(tuple(choices), hidden=5, tanh_constant=1.5, op_tanh_reduce=1.0)
    params = jax.tree.map(lambda leaf: 10 * leaf, quick(controller.init)(jax.random.key(0)))
    archs = jnp.array([[1, 0, 1, 2, 1, 0, 1, 0, 1, 1], [0, 1, 0, 1, 0, 1, 2, 1, 0, 0]])
    found = quick(jax.vmap(controller.score, (None, 0)))(params, archs).log_prob
    for arch, value in zip(archs, found, strict=True):
        assert value == pytest.approx(float(macro_log_prob(params, arch, layers)), rel=1e-4)


@pytest.mark.parametrize("name", ["darts", "nasbench201", "enas_micro", "enas_macro", "chain"])
def test_every_space_of_the_library_has_a_controller(name):
    """Its samples are architectures of the space, and pointing needs no set of options of its own for each node."""
    space = {
        "darts": spaces.darts_space, "nasbench201": spaces.nasbench201_space, "enas_micro": spaces.enas_micro_space,
        "enas_macro": lambda: spaces.enas_macro_space(6), "chain": lambda: spaces.chain_space((2, 3)),
    }[name]()  # fmt: skip
    controller = lstm_controller(space.choices, hidden=4)

    @quick
    def some(key):
        keys = jax.random.split(key)
        params = controller.init(keys[0])
        drawn = jax.vmap(controller.sample, (0, None))(jax.random.split(keys[1], 400), params)
        return params, drawn, jax.vmap(controller.score, (None, 0))(params, drawn.arch[:5])

    params, drawn, scored = some(jax.random.key(0))
    sizes = np.array([len(choice.options) for choice in space.choices])
    assert drawn.arch.dtype == jnp.int32
    np.testing.assert_array_equal(drawn.arch.max(axis=0), sizes - 1)
    assert (np.asarray(drawn.arch) >= 0).all()
    np.testing.assert_allclose(scored.log_prob, drawn.log_prob[:5], rtol=1e-4)
    assert len(params["kernel"]) == (2 if name == "chain" else 1)  # with the identity and without
    # At first it is nearly uniform.
    uniform = np.log(sizes).sum()
    assert abs(float(drawn.entropy.mean()) - uniform) < 0.05 * uniform


def flat(tree):
    return np.asarray(jax.flatten_util.ravel_pytree(tree)[0])


@pytest.fixture(scope="module")
def exact(params):
    """The gradient of the mean reward and of the policy's entropy, by enumeration."""

    def mean_reward(params):
        return jnp.exp(everything(params).log_prob) @ REWARDS

    def entropy(params):
        log_prob = everything(params).log_prob
        return -jnp.exp(log_prob) @ log_prob

    return quick(lambda p: (jax.grad(mean_reward)(p), jax.grad(entropy)(p)))(params)


def ascent(make, state, archs, rewards, valid=None):
    """How far one update by plain gradient descent at rate 1 moves the parameters."""
    new, _ = make.update(state, archs, rewards, valid)
    return jax.tree.map(jnp.subtract, new.params, state.params)


def test_an_update_is_in_expectation_the_exact_gradient_whatever_the_baseline(params, scored, exact):
    """Every architecture once, by its probability: no sampling error."""
    method = reinforce_policy(CONTROLLER, optax.sgd(1.0), entropy_weight=0.3, skip_weight=0.0)
    state = quick(method.init)(jax.random.key(0))._replace(params=params, weight=jnp.float32(1.0))

    @quick
    def expectation(baseline):
        before = state._replace(total=baseline)
        moves = jax.vmap(lambda arch, reward: ascent(method, before, arch[None], reward[None]))(ARCHS, REWARDS)
        return jax.tree.map(lambda move: jnp.tensordot(jnp.exp(scored.log_prob), move, 1), moves)

    of_reward, of_entropy = map(flat, exact)
    assert np.abs(of_entropy).max() > 0.01 < np.abs(of_reward).max()
    for baseline in (0.0, 0.9, -7.0):
        np.testing.assert_allclose(flat(expectation(baseline)), of_reward + 0.3 * of_entropy, atol=2e-5)


def test_a_large_batch_of_samples_comes_near_the_exact_gradient(params, exact):
    """With the baseline moving from sample to sample, as in use."""
    method = reinforce_policy(CONTROLLER, optax.sgd(1.0), ema=0.9, entropy_weight=0.0, skip_weight=0.0)
    state = quick(method.init)(jax.random.key(0))._replace(params=params)
    index = {tuple(arch): i for i, arch in enumerate(ARCHS.tolist())}
    sample, move = (
        quick(lambda key: method.sample(key, state, 512).arch),
        quick(lambda a, r: ascent(method, state, a, r)),
    )
    moves = []
    for key in jax.random.split(jax.random.key(2), 24):
        archs = sample(key)
        rows = np.array([index[tuple(arch)] for arch in np.asarray(archs).tolist()])
        moves.append(flat(move(archs, REWARDS[rows])))
    error = np.mean(moves, 0) - flat(exact[0])
    allowed = 5 * np.std(moves, 0) / np.sqrt(len(moves)) + 1e-5
    assert (np.abs(error) < allowed).all()
    assert np.linalg.norm(error) < 0.15 * np.linalg.norm(flat(exact[0]))


def test_the_baseline_is_the_average_before_each_sample():
    rewards, valid = np.array([3.0, 5.0, 100.0, 1.0]), np.array([True, True, False, True])
    advantages, total, weight = policy_gradient.baselines(
        jnp.float32(0), jnp.float32(0), jnp.asarray(rewards, jnp.float32), jnp.asarray(valid), 0.8
    )
    second = (0.8 * 3 + 5) / 1.8
    np.testing.assert_allclose(advantages, [0, 2, 0, 1 - second], rtol=1e-6)
    np.testing.assert_allclose(total / weight, (0.64 * 3 + 0.8 * 5 + 1) / (0.64 + 0.8 + 1), rtol=1e-6)


def test_what_is_not_valid_counts_nothing(params):
    method = reinforce_policy(CONTROLLER, optax.sgd(1.0))
    state = quick(method.init)(jax.random.key(0))
    state = state._replace(params=params, total=jnp.float32(0.5), weight=jnp.float32(1))
    archs, rewards = jnp.asarray(ARCHS[[3, 80, 41]]), jnp.array([0.2, jnp.nan, 0.9])
    update = quick(method.update)
    some, _ = update(state, archs, rewards, jnp.array([True, False, True]))
    # The same two in other places, beside another that does not count.
    two, _ = update(state, archs[jnp.array([1, 0, 2])], jnp.array([7.0, 0.2, 0.9]), jnp.array([False, True, True]))
    np.testing.assert_allclose(flat(some), flat(two), atol=1e-6)
    assert np.abs(flat(some.params) - flat(state.params)).max() > 1e-3
    none, _ = update(state, archs, rewards, jnp.zeros(3, bool))
    np.testing.assert_array_equal(flat(none), flat(state))


def test_the_first_step_of_ppo_is_that_of_reinforce_and_later_ones_are_clipped(params):
    archs, rewards = jnp.asarray(ARCHS[[3, 80, 41]]), jnp.array([0.2, 0.1, 2.9])

    def after(make, **more):
        method = make(CONTROLLER, optax.sgd(0.001), entropy_weight=0.1, skip_weight=0.2, **more)

        def updated(params):
            state = PolicyState(params, optax.sgd(0.001).init(params), jnp.float32(0.5), jnp.float32(1))
            return method.update(state, archs, rewards)[0].params

        return quick(updated)(params)

    first = after(reinforce_policy)
    scores = quick(lambda p: jax.vmap(CONTROLLER.score, (None, 0))(p, archs))
    before = scores(params)
    ratios = np.exp(scores(first).log_prob - before.log_prob)
    clip = float(np.sort(np.abs(ratios - 1))[:2].mean())  # so that the first step goes beyond it with some

    average, advantages = (0.5, 1.0), []
    for reward, entropy in zip(np.asarray(rewards), np.asarray(before.entropy), strict=True):
        value = reward + 0.1 * entropy
        advantages.append(value - average[0] / average[1])
        average = (0.99 * average[0] + 0.01 * value, 0.99 * average[1] + 0.01)
    # Where the ratio has gone too far in the wanted direction there is nothing more to gain.
    free = np.where(np.array(advantages) > 0, ratios < 1 + clip, ratios > 1 - clip)
    assert 0 < free.sum() < 3

    def loss(now):
        decisions = jax.vmap(CONTROLLER.score, (None, 0))(now, archs)
        gain = jnp.where(free, jnp.exp(decisions.log_prob - before.log_prob) * jnp.array(advantages, jnp.float32), 0.0)
        return jnp.mean(-gain - 0.1 * decisions.entropy + 0.2 * decisions.skip_divergence)

    expected = jax.tree.map(lambda p, g: p - 0.001 * g, first, quick(jax.grad(loss))(first))
    np.testing.assert_allclose(flat(after(ppo_policy, passes=2, clip=clip)), flat(expected), atol=2e-6)
    np.testing.assert_allclose(flat(after(ppo_policy, passes=1, clip=clip)), flat(first), atol=1e-6)


WRONG = {
    "no choices": (lambda: lstm_controller(()), "no choices"),
    "temperature": (lambda: lstm_controller(CHOICES, temperature=0.0), "temperature must be positive, got 0.0"),
    "hidden": (lambda: lstm_controller(CHOICES, hidden=0), "hidden must be at least 1"),
    "target": (lambda: lstm_controller(CHOICES, skip_target=1.0), "skip_target"),
    "prior": (lambda: lstm_controller(CHOICES, prior={"r": 1.0}), "'r', which is no option"),
    "reads of other options": (
        lambda: lstm_controller((Choice("a", ("p", "q"), "a", (("in",),)),)), "says what 1 options read, but it has 2"
    ),
    "reads nothing of three": (
        lambda: lstm_controller((Choice("a", ("p", "q", "r"), "a", (("in",), (), ())),)), "one other option"
    ),
    "reads what comes later": (
        lambda: lstm_controller((Choice("a", ("p", "q"), "a", (("in",), ("b",))), Choice("b", ("p",), "b"))),
        "'b', whose own choices must all come before",
    ),
    "ema": (lambda: reinforce_policy(CONTROLLER, optax.sgd(1.0), ema=1.0), "ema"),
    "entropy": (lambda: reinforce_policy(CONTROLLER, optax.sgd(1.0), entropy_weight=-1.0), "entropy_weight"),
    "clip": (lambda: ppo_policy(CONTROLLER, optax.sgd(1.0), clip=0.0), "clip"),
    "passes": (lambda: ppo_policy(CONTROLLER, optax.sgd(1.0), passes=0), "passes"),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(WRONG))
def test_wrong_settings_name_the_value(case):
    make, expected = WRONG[case]
    with pytest.raises(ValueError, match=expected):
        make()
