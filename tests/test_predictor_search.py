"""Search by a predictor: what it asks for, what it learns from, and that it needs fewer evaluations than chance."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from jaxnas import predictors, samplers
from jaxnas.base import Choice, Predictor
from jaxnas.benchmarks import make_table
from jaxnas.samplers.nondominated import front
from jaxnas.samplers.simulate import simulate
from jaxnas.spaces.product import product

SIZES = (3, 4, 4, 4)
CHOICES = tuple(Choice(f"c{d}", tuple("abcd"[:size])) for d, size in enumerate(SIZES))
MOVES = product(CHOICES)
ARCHS = np.array(list(itertools.product(*map(range, SIZES))))  # 192
RNG = np.random.default_rng(0)
VALUES = sum(RNG.normal(size=size)[ARCHS[:, d]] for d, size in enumerate(SIZES)) + 0.1 * RNG.normal(size=len(ARCHS))
GAPS = np.flatnonzero(np.arange(len(ARCHS)) % 5 == 3)


def table_of(values):
    return make_table("additive", CHOICES, ARCHS, {"value": values})


def quick(function):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def search(**settings):
    example = jax.eval_shape(predictors.unconnected, jax.ShapeDtypeStruct((len(SIZES),), jnp.int32))
    process = predictors.gaussian_process([predictors.Block(predictors.one_hot(4))], example)
    return samplers.predictor_search(
        MOVES, process, predictors.unconnected, **{"capacity": 60, "start": 12, "batch": 4, "pool": 80, **settings}
    )


@pytest.fixture(scope="module")
def runs():
    """32 searches of 15 steps on a table that lacks every fifth value."""
    values = np.where(np.isin(np.arange(len(ARCHS)), GAPS), np.nan, VALUES)
    run = quick(jax.vmap(simulate(search(), table_of(values), "value", steps=18)))
    state, trace = run(jax.random.split(jax.random.key(0), 32))
    return values, jax.device_get(state), jax.device_get(trace)


def test_it_finds_the_best_with_few_evaluations(runs):
    values, state, trace = runs
    best = np.nanargmax(values)
    assert (trace.best[:, -1] == best).all()
    needed = (trace.rows.reshape(32, -1) == best).argmax(axis=1)
    assert np.median(needed) < 30  # at random, without repeats: half of 153
    assert (state.incumbent.arch == ARCHS[best]).all()


def test_nothing_is_asked_for_twice_and_nothing_beyond_the_capacity(runs):
    values, state, trace = runs
    assert (state.used == 60).all()
    assert (trace.rows[:, 15:] == -1).all()
    assert (trace.evaluations[:, -1] < 60).all()
    for archs, told, rows in zip(state.archs, state.values, trace.rows, strict=True):
        assert len({tuple(arch) for arch in archs[12:].tolist()}) == 48
        first = {tuple(arch) for arch in archs[:12].tolist()}
        assert not first & {tuple(arch) for arch in archs[12:].tolist()}
        at = [int(np.flatnonzero((arch == ARCHS).all(axis=1))[0]) for arch in archs]
        np.testing.assert_array_equal(told, np.where(np.isnan(values[at]), -np.inf, values[at]).astype(np.float32))
        assert rows.reshape(-1)[:60].tolist() == [-1 if np.isnan(values[row]) else row for row in at]


def test_the_predictor_is_given_what_was_measured_and_the_highest_scores_are_asked_for():
    """With a predictor that says the sum of options, less so for what it was told."""

    def fit(key, state, graphs, targets, weight):
        return jnp.sum(weight), jnp.sum(weight * targets)

    def predict(state, graphs):
        total = graphs.ops[:, 0].sum(axis=1).astype(jnp.float32)
        return total + state[0], jnp.ones_like(total)

    sampler = samplers.predictor_search(
        MOVES,
        Predictor(lambda key: (jnp.float32(0), jnp.float32(0)), fit, predict),
        predictors.unconnected,
        capacity=40, start=4, batch=4, pool=400, acquisition=samplers.upper_confidence(0.0),
    )  # fmt: skip
    state = sampler.init(jax.random.key(0))
    ask, tell = quick(sampler.ask), quick(sampler.tell)
    asked = ask(jax.random.key(1), state)
    state = tell(jax.random.key(3), state, asked, jnp.zeros((4, 1)), jnp.ones(4, bool))
    before = {tuple(arch) for arch in np.asarray(state.archs[:4]).tolist()}
    asked = np.asarray(ask(jax.random.key(2), state).archs)
    # Of 400, half of them random, the pool has nearly all of the 192: the best sums are 11, then 10, of which are 4.
    assert sorted(asked.sum(axis=1).tolist()) == [10, 10, 10, 11]
    assert not before & {tuple(arch) for arch in asked.tolist()}


def test_acquisitions_are_what_they_are_called():
    mean, std = jnp.asarray([0.3, -1.0, 2.0]), jnp.asarray([0.5, 2.0, 0.1])
    found = samplers.expected_improvement(jax.random.key(0), mean, std, jnp.float32(0.7))
    for value, m, s in zip(np.asarray(found), np.asarray(mean), np.asarray(std), strict=True):
        expected = integrate.quad(lambda y, m=m, s=s: (y - 0.7) * stats.norm.pdf(y, m, s), 0.7, m + 10 * s)[0]
        assert value == pytest.approx(max(expected, 0), abs=1e-5)
    assert np.asarray(samplers.upper_confidence(2.0)(jax.random.key(0), mean, std, mean[0])).tolist() == pytest.approx(
        [1.3, 3.0, 2.2]
    )
    draws = jax.vmap(lambda key: samplers.thompson(key, mean, std, mean[0]))(jax.random.split(jax.random.key(1), 4000))
    assert np.asarray(draws.mean(axis=0)) == pytest.approx(np.asarray(mean), abs=0.1)
    assert np.asarray(draws.std(axis=0)) == pytest.approx(np.asarray(std), rel=0.05)


WRONG = {
    "no batch": ({"batch": 0}, "batch"),
    "a small pool": ({"pool": 7}, "got 7"),
    "a small capacity": ({"capacity": 11}, "got 11"),
    "no parents": ({"parents": 0}, "parents"),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_wrong_settings_name_the_value(case):
    settings, expected = WRONG[case]
    with pytest.raises(ValueError, match=re.escape(expected)):
        search(**settings)


COSTS = sum(RNG.uniform(size=size)[ARCHS[:, d]] for d, size in enumerate(SIZES)) + (VALUES - VALUES.min()) / 4
WITH_GAPS = np.where(np.isin(np.arange(len(ARCHS)), GAPS), np.nan, VALUES)
FRONT = make_table("front", CHOICES, ARCHS, {"value": WITH_GAPS, "cost": COSTS})


def for_fronts(**settings):
    example = jax.eval_shape(predictors.unconnected, jax.ShapeDtypeStruct((len(SIZES),), jnp.int32))
    process = predictors.gaussian_process([predictors.Block(predictors.one_hot(4))], example)
    return samplers.predictor_front(
        MOVES, process, predictors.unconnected, **{"objectives": 2, "capacity": 60, "start": 12, "batch": 4, **settings}
    )


def test_a_front_is_found_with_fewer_evaluations_than_by_chance():
    """Of two objectives that add up; a fifth of the architectures cannot be evaluated."""
    points = np.stack([WITH_GAPS, -COSTS], axis=1)
    true = set(front(points).tolist())
    assert 8 < len(true) < 40
    run = quick(jax.vmap(simulate(for_fronts(), FRONT, ["value", "-cost"], steps=17)))
    state, trace = jax.device_get(run(jax.random.split(jax.random.key(0), 16)))
    parts, at_random = [], []
    best = quick(jax.vmap(for_fronts().best))(state)
    for number, rows in enumerate(trace.rows.reshape(16, -1)):
        assert (rows[60:] == -1).all()
        seen = rows[rows >= 0]
        assert not np.isin(seen, GAPS).any()
        archs = state.archs[number]
        assert len({tuple(arch) for arch in archs[12:].tolist()}) == 48  # nothing twice
        # The best are the front of what was evaluated, by brute force.
        own = seen[front(points[seen])]
        assert {tuple(arch) for arch in ARCHS[own].tolist()} == {tuple(arch) for arch in best[number].tolist()}
        parts.append(len(true & set(seen.tolist())) / len(true))
        drawn = np.random.default_rng(number).choice(192, 60, replace=False)
        at_random.append(len(true & set(drawn.tolist())) / len(true))
    assert np.mean(parts) > 0.8 > 2 * np.mean(at_random)


def test_one_objective_alone_is_followed_to_its_best():
    run = quick(jax.vmap(simulate(for_fronts(objectives=1), FRONT, ["value"], steps=15)))
    _, trace = jax.device_get(run(jax.random.split(jax.random.key(0), 8)))
    best = np.nanargmax(WITH_GAPS)
    assert (trace.rows.reshape(8, -1) == best).any(axis=1).all()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"objectives": 0}, "objectives must be at least 1, got 0"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"parents": 0}, "parents must be at least 1, got 0"),
        ({"start": 0}, "start must be at least 1, got 0"),
        ({"pool": 7}, "at least twice the batch of 4, got 7"),
        ({"capacity": 3}, "at least the start of 12, got 3"),
    ],
)
def test_settings_of_a_search_for_fronts_that_cannot_be(settings, told):
    with pytest.raises(ValueError, match=told):
        for_fronts(**settings)
