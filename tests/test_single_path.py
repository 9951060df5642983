"""One-shot training: how often options are taken, what a step moves and by how much."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnas.base import Aux, Batch, Choice, Context, Skeleton, Supernet
from jaxnas.search import Paths, fair_paths, sandwich_paths, single_path, uniform_paths
from jaxnas.spaces import chain_extremes, chain_space, nasbench201_space, product_space

SPACE = nasbench201_space()
TOY = product_space("toy", {"first": "abc", "second": "abc"})
CHOICES = TOY.choices
BATCH = {"train": Batch(jax.random.normal(jax.random.key(0), (8, 4)), jnp.arange(8) % 3)}


def toy_supernet():
    """Two slots of three options that scale four features, and a head that all paths share."""

    def init(key):
        slots_key, head_key = jax.random.split(key)
        return {"slots": jax.random.normal(slots_key, (2, 3, 4)), "head": jax.random.normal(head_key, (4, 3))}

    def apply_path(params, arch, x, context):
        scales = jnp.take_along_axis(params["slots"], arch[:, None, None], axis=1)[:, 0]
        return jnp.tanh(x * scales[:1] + scales[1:]) @ params["head"], Aux(None)

    def used(arch):
        return {"slots": jax.nn.one_hot(arch, 3, dtype=bool)[:, :, None], "head": jnp.array(True)}

    return Supernet(TOY, init, lambda *_: None, apply_path, used)


NET = toy_supernet()


def quick(function):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def counts(archs, choices):
    """How often each option of each choice is taken in archs [K, D]."""
    return [np.bincount(archs[:, d], minlength=len(choice.options)) for d, choice in enumerate(choices)]


def test_a_fair_update_takes_every_option_exactly_once():
    updates = np.asarray(quick(jax.vmap(fair_paths(CHOICES).draw))(jax.random.split(jax.random.key(1), 50)))
    assert updates.shape == (50, 3, 2)
    for archs in updates:
        assert all((count == 1).all() for count in counts(archs, CHOICES))
    # Columns are independent: beside each option of one choice every option of another one is seen.
    assert len({(int(a), int(b)) for archs in updates for a, b in archs}) == 9


def test_choices_of_unequal_size_are_as_fair_as_can_be_and_equal_in_the_mean():
    choices = tuple(Choice(str(size), tuple(map(str, range(size)))) for size in (1, 2, 3, 7))
    updates = np.asarray(quick(jax.vmap(fair_paths(choices).draw))(jax.random.split(jax.random.key(2), 600)))
    assert updates.shape == (600, 7, 4)
    total = [np.zeros(len(choice.options)) for choice in choices]
    for archs in updates:
        for d, count in enumerate(counts(archs, choices)):
            assert count.max() - count.min() <= (1 if 7 % len(count) else 0)
            assert count.sum() == 7
            total[d] += count
    for count in total:
        mean = 600 * 7 / len(count)
        assert np.abs(count - mean).max() <= 5 * np.sqrt(600)  # of a sum of 600 numbers that vary by less than one


def test_uniform_paths_are_draws_of_the_space():
    archs = np.asarray(quick(uniform_paths(SPACE, 2000).draw)(jax.random.key(3)))
    assert archs.shape == (2000, 6)
    for count in counts(archs, SPACE.choices):
        assert np.abs(count - 400).max() < 5 * np.sqrt(2000 * 0.2 * 0.8)


def test_a_sandwich_is_the_largest_the_smallest_and_random_ones():
    space = chain_space((2, 2))
    largest, smallest = chain_extremes(space, Skeleton(4, 4, (8, 8, 1), 3))
    paths = sandwich_paths(space, largest, smallest, 3)
    updates = np.asarray(quick(jax.vmap(paths.draw))(jax.random.split(jax.random.key(4), 400)))
    assert updates.shape == (400, 5, 4)
    assert (updates[:, 0] == np.asarray(largest)).all()
    assert (updates[:, 1] == np.asarray(smallest)).all()
    for archs in (updates[:, 2:].reshape(-1, 4), updates[:, 2]):
        for count in counts(archs, space.choices):
            mean = len(archs) / len(count)
            assert np.abs(count - mean).max() < 5 * np.sqrt(mean)
    assert (updates[:, 2] != updates[:, 3]).any(axis=1).mean() > 0.99  # drawn apart


@pytest.fixture(scope="module")
def stepped():
    """Two paths given, one step of plain descent at rate 1: (archs, state before, state after, info)."""
    archs = jnp.array([[0, 1], [2, 1]], jnp.int32)
    chex.clear_trace_counter()
    algorithm = single_path(NET, Paths(CHOICES, lambda key: archs), optax.trace(0.9))
    (phase,) = algorithm.phases
    assert (phase.name, phase.reads) == ("supernet", ("train",))
    step = quick(chex.assert_max_traces(phase.step, n=1))
    state = quick(algorithm.init)(jax.random.key(0))
    after, info = step(jax.random.key(1), state, BATCH)
    return archs, state, after, info, step


def test_a_step_applies_the_sum_of_the_gradients_of_its_paths(stepped):
    archs, state, after, info, _ = stepped

    @quick
    def gradient(arch):
        def loss(params):
            logits, _ = NET.apply_path(params, arch, BATCH["train"].inputs, Context())
            return optax.losses.softmax_cross_entropy_with_integer_labels(logits, BATCH["train"].targets).mean()

        return jax.value_and_grad(loss)(state.params)

    (first, one), (second, other) = map(gradient, archs)
    total = jax.tree.map(jnp.add, one, other)
    assert np.abs(total["slots"][1, 1] - one["slots"][1, 1]).max() > 1e-3  # the option of both gets both
    moved = jax.tree.map(jnp.subtract, after.params, state.params)  # `optax.trace` ascends at rate 1
    chex.assert_trees_all_close(moved, total, rtol=1e-3, atol=1e-5)
    assert float(info.train_loss) == pytest.approx(float(first + second) / 2, rel=1e-4)
    assert float(info.weight_gradient) == pytest.approx(float(optax.tree.norm(total)), rel=1e-3)


def test_what_no_path_used_stays_bit_for_bit_in_parameters_and_momentum(stepped):
    archs, state, after, _, step = stepped
    again, _ = step(jax.random.key(2), after, BATCH)
    masks = [NET.used(arch) for arch in archs]
    used = jax.tree.map(lambda a, b: a | b, *masks)
    for before, now in ((state.params, again.params), (state.opt_state.trace, again.opt_state.trace)):
        for old, new, mask in zip(*map(jax.tree.leaves, (before, now, used)), strict=True):
            changed = np.asarray(old) != np.asarray(new)
            assert not changed[~np.broadcast_to(mask, old.shape)].any()
    assert int(used["slots"].sum()) == 3  # of six


def test_spread_over_an_axis_it_is_the_same_step(stepped):
    archs, state, after, info, _ = stepped
    spread = single_path(NET, Paths(CHOICES, lambda key: archs), optax.trace(0.9), axis_name="data").phases[0].step
    halves = jax.tree.map(lambda leaf: leaf.reshape(2, -1, *leaf.shape[1:]), BATCH)
    found, told = quick(jax.vmap(spread, (None, None, 0), axis_name="data"))(jax.random.key(1), state, halves)
    for half in range(2):
        mine = jax.tree.map(lambda leaf, h=half: leaf[h], (found, told))
        chex.assert_trees_all_close(mine, (after, info), rtol=2e-3, atol=1e-4)


def test_derive_keeps_the_best_by_a_score_that_it_must_be_given():
    algorithm = single_path(NET, uniform_paths(TOY), optax.sgd(0.1), candidates=40)
    seen = []

    def score(archs):
        seen.append(np.asarray(archs))
        return jnp.sum(archs == 2, axis=1)

    best = algorithm.derive(jax.random.key(0), None, score)
    assert seen[0].shape == (40, 2)
    assert np.sum(np.asarray(best) == 2) == (seen[0] == 2).sum(axis=1).max()
    with pytest.raises(ValueError, match="give a score"):
        algorithm.derive(jax.random.key(0), None, None)


def test_numbers_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        uniform_paths(TOY, 0)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        sandwich_paths(TOY, jnp.array([1, 1]), jnp.array([0, 0]), 0)
    with pytest.raises(ValueError, match=r"must differ, got twice \[1, 1\]"):
        sandwich_paths(TOY, jnp.array([1, 1]), jnp.array([1, 1]))
    with pytest.raises(ValueError, match="at least one choice"):
        fair_paths(())
    with pytest.raises(ValueError, match="candidates must be at least 1, got 0"):
        single_path(NET, uniform_paths(TOY), optax.sgd(0.1), candidates=0)
