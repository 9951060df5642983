"""ENAS on a small supernet: what moves in which phase, what it learns, and what is scored."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnas.base import Batch, Context, Skeleton
from jaxnas.controllers import adam, lstm_controller, reinforce_policy
from jaxnas.data.dataset import Augmentation, Examples
from jaxnas.kernels.platform import supposing
from jaxnas.search import enas, path_metric
from jaxnas.search.enas import rewards_of
from jaxnas.spaces import nasbench201_space
from jaxnas.supernets import nasbench201_supernet
from jaxnas.train.path_score import make_path_score
from jaxnas.train.schedules import sgd, warm_restarts

SPACE = nasbench201_space()
NET = nasbench201_supernet(Skeleton(channels=2, cells=1, image_shape=(4, 4, 1), num_classes=3))
CONTROLLER = lstm_controller(SPACE.choices, hidden=8, tanh_constant=2.5, op_tanh_reduce=1.0)
POLICY = reinforce_policy(CONTROLLER, adam(0.02), entropy_weight=0.0)
PLAIN = Augmentation(0, False, 0, (0.5,), (0.25,))


def quick(function):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def data(count, seed):
    images, labels = jax.random.normal(jax.random.key(seed), (count, 4, 4, 1)), jnp.arange(count) % 3
    return Batch(images.at[:, 0].add(2.0 * labels[:, None, None]), labels)


BATCHES = {"train": data(18, 0), "valid": data(24, 1)}


def changed(before, after):
    return [
        bool(np.any(np.asarray(a) != np.asarray(b)))
        for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True)
    ]


@pytest.fixture(scope="module")
def searched():
    """Two epochs of three steps each: (algorithm, states, infos)."""
    chex.clear_trace_counter()
    algorithm = enas(NET, POLICY, sgd(0.1, momentum=0.9, weight_decay=1e-3), samples=3, candidates=6)
    steps = [quick(chex.assert_max_traces(phase.step, n=1)) for phase in algorithm.phases]
    states, infos = [quick(algorithm.init)(jax.random.key(0))], []
    for number in range(12):
        state, info = steps[number // 3 % 2](jax.random.key(number), states[-1], BATCHES)
        states.append(state)
        infos.append(info)
    return algorithm, states, infos


def test_each_phase_moves_its_own_part(searched):
    algorithm, states, _ = searched
    assert [(phase.name, phase.reads) for phase in algorithm.phases] == [
        ("child", ("train",)),
        ("controller", ("valid",)),
    ]
    for number, (before, after) in enumerate(itertools.pairwise(states)):
        child = number // 3 % 2 == 0
        assert any(changed(before.params, after.params)) == child
        assert any(changed(before.weight_state, after.weight_state)) == child
        assert any(changed(before.policy, after.policy)) != child


def test_a_child_step_is_along_one_path_of_the_policy(searched):
    _, states, _ = searched
    moved = jax.tree.map(lambda a, b: a != b, states[0].params, states[1].params)
    fitting = []
    stage = moved["stages"][0]
    for edge in range(6):
        here = [
            o
            for o, leaves in enumerate(stage)
            if any(np.asarray(leaf)[:, edge].any() for leaf in jax.tree.leaves(leaves))
        ]
        assert len(here) <= 1  # none for an operation without parameters
        fitting += here
    assert fitting


def test_the_reward_is_the_accuracy_of_the_path_on_the_parts_of_the_batch():
    params = quick(NET.init)(jax.random.key(0))
    arch = SPACE.sample(jax.random.key(3))
    forward = quick(lambda images: NET.apply_path(params, arch, images, Context())[0])
    batch = BATCHES["valid"]
    right = []
    for images, labels in zip(jnp.split(batch.inputs, 3), jnp.split(batch.targets, 3), strict=True):
        right.append(np.mean(np.argmax(forward(images), 1) == labels))
    assert quick(lambda: path_metric(NET, 3)(params, arch, batch))() == pytest.approx(np.mean(right))
    with pytest.raises(ValueError, match="24 examples cannot be cut into 5"):
        path_metric(NET, 5)(params, arch, batch)


def test_the_controller_learns_a_reward_that_it_is_given():
    """Of a table: how many edges have the operation 3."""
    algorithm = enas(
        NET, POLICY, optax.sgd(0.1), lambda params, arch, batch: jnp.mean(arch == 3), samples=8, candidates=20
    )
    step = quick(algorithm.phases[1].step)
    state = quick(algorithm.init)(jax.random.key(0))
    first = None
    for key in jax.random.split(jax.random.key(1), 80):
        state, info = step(key, state, BATCHES)
        first = first or info
    assert first.mean_reward < 0.4
    assert info.mean_reward > 0.7
    assert info.entropy < first.entropy
    assert info.best_reward <= 1.0


def test_derive_keeps_the_best_of_what_the_policy_draws(searched):
    algorithm, states, _ = searched
    seen = []

    def score(archs):
        seen.append(np.asarray(archs))
        return jnp.asarray([0.1, 0.5, 0.3, 0.9, 0.9, 0.2])

    arch = algorithm.derive(jax.random.key(0), states[-1], score)
    assert seen[0].shape == (6, 6)
    np.testing.assert_array_equal(arch, seen[0][3])
    with pytest.raises(ValueError, match="give a score"):
        algorithm.derive(jax.random.key(0), states[-1], None)


def test_scores_are_of_all_images_each_once(searched):
    _, states, _ = searched
    archs = jax.vmap(SPACE.sample)(jax.random.split(jax.random.key(5), 3))
    images = np.random.default_rng(0).integers(0, 256, (22, 4, 4, 1), np.uint8)
    labels = (np.arange(22) % 3).astype(np.int32)
    score = make_path_score(NET.apply_path, PLAIN, 8)
    found = score(states[-1].params, archs, Examples(images, labels))
    whole = (images / 255 - 0.5) / 0.25
    forward = quick(lambda arch, x: NET.apply_path(states[-1].params, arch, x, Context())[0])
    for arch, value in zip(archs, found, strict=True):
        right = []
        for chosen in (np.arange(8), np.arange(8, 16), np.array([*range(16, 22), 0, 1])):  # filled up from the start
            logits = forward(arch, jnp.asarray(whole[chosen], jnp.float32))
            right += (np.argmax(logits, 1) == labels[chosen]).tolist()
        assert value == pytest.approx(np.mean(right[:22]))


def test_numbers_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        enas(NET, POLICY, optax.sgd(0.1), samples=0)
    with pytest.raises(ValueError, match="candidates must be at least 1, got 0"):
        enas(NET, POLICY, optax.sgd(0.1), candidates=0)
    with pytest.raises(ValueError, match="batches must be at least 1, got 0"):
        path_metric(NET, 0)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        make_path_score(NET.apply_path, PLAIN, 0)


def test_restarts_are_half_cosines_of_growing_length():
    rate = warm_restarts(0.05, 0.0005, 10, 2)
    expected = []
    for length in (10, 20, 40):
        expected += [0.0005 + 0.02475 * (1 + np.cos(np.pi * t / length)) for t in range(length)]
    np.testing.assert_allclose([rate(t) for t in range(70)], expected, rtol=1e-4)
    equal = warm_restarts(1.0, 0.0, 4, 1)
    np.testing.assert_allclose([equal(t) for t in (0, 2, 4, 6)], [1, 0.5, 1, 0.5], atol=1e-6)
    with pytest.raises(ValueError, match="period must be at least 1, got 0"):
        warm_restarts(1.0, 0.0, 0)


def test_rewards_are_side_by_side_off_a_cpu_unless_a_path_branches():
    archs = jnp.arange(6).reshape(3, 2)

    def plain(params, arch, batch):
        return params * arch.sum() + batch

    def branching(params, arch, batch):
        return jax.lax.cond(arch[0] > 1, lambda: params * arch.sum(), lambda: batch)

    for reward, loops in ((plain, False), (branching, True)):
        expected = [reward(2.0, arch, 0.5) for arch in archs]
        with supposing("gpu"):
            program = jax.make_jaxpr(lambda reward=reward: rewards_of(reward, 2.0, archs, 0.5))()
            np.testing.assert_allclose(rewards_of(reward, 2.0, archs, 0.5), expected)
        assert any(equation.primitive.name == "scan" for equation in program.eqns) is loops
        np.testing.assert_allclose(rewards_of(reward, 2.0, archs, 0.5), expected)
