"""Samplers against brute force on small tables, closed forms, and by hand what `simulate` does in one scan."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from jaxnas import samplers
from jaxnas.base import Candidates, Choice
from jaxnas.benchmarks import make_table, measured, only_rows
from jaxnas.controllers import adam, lstm_controller, reinforce_policy
from jaxnas.predictors import Block, gaussian_process, one_hot, unconnected
from jaxnas.samplers.nondominated import crowding, dominates, fronts
from jaxnas.samplers.simulate import over_seeds, simulate
from jaxnas.spaces import nasbench201_space
from jaxnas.spaces.product import product
from jaxnas.testing import check_sampler

SIZES = (3, 1, 4, 2)
CHOICES = tuple(Choice(f"c{d}", tuple("abcd"[:size])) for d, size in enumerate(SIZES))
MOVES = product(CHOICES)
ARCHS = np.array(list(itertools.product(*map(range, SIZES))))
SEEDS = 16


def small_table(gaps=()):
    """24 architectures; fidelities of "value" agree more and more with the last, "seconds" are 1, 2 and 4 or so."""
    rng = np.random.default_rng(3)
    last = sum(rng.normal(size=size)[ARCHS[:, d]] for d, size in enumerate(SIZES)) + 0.3 * rng.normal(size=len(ARCHS))
    value = last[:, None] + rng.normal(size=(len(ARCHS), 3)) * np.array([0.3, 0.1, 0.0])
    value[list(gaps)] = np.nan
    seconds = (1 + rng.random(len(ARCHS)))[:, None] * np.array([1.0, 2.0, 4.0])
    return make_table(
        "small", CHOICES, ARCHS, {"value": value, "seconds": seconds, "cost": rng.normal(size=len(ARCHS))}
    )


TABLE = small_table()
VALUES = np.asarray(TABLE.metrics["value"])
SECONDS = np.asarray(TABLE.metrics["seconds"])


def quick(function):
    """Compiled without much optimization, which tests would wait for."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def keys(count=SEEDS, seed=0):
    return jax.random.split(jax.random.key(seed), count)


SINGLE = {
    "random": (samplers.random_search(MOVES), 200),
    "random_batch": (samplers.random_search(MOVES, batch=4), 50),
    "evolution": (samplers.evolution(MOVES, population=6, sample_size=2), 300),
    "evolution_batch": (samplers.evolution(MOVES, population=6, sample_size=2, batch=4), 80),
    "local": (samplers.local_search(MOVES), 200),
    "annealing": (samplers.simulated_annealing(MOVES, temperature=1.0, cooling=0.99), 300),
    "reinforce": (samplers.reinforce(CHOICES, optax.adam(0.05)), 300),
    "reinforce_batch": (samplers.reinforce(CHOICES, optax.adam(0.1), batch=4), 100),
    "controller": (
        samplers.controller_search(reinforce_policy(lstm_controller(CHOICES, hidden=8), adam(0.02)), batch=4),
        60,
    ),
    "halving": (samplers.halving(MOVES, 8 * samplers.hyperband(range(3), 2)), 8 * 6),
}


@pytest.mark.parametrize("name", SINGLE)
def test_the_laws(name):
    check_sampler(SINGLE[name][0], CHOICES)


def test_the_laws_of_a_sampler_of_two_objectives():
    check_sampler(samplers.nondominated(MOVES, 2, population=8), CHOICES, objectives=2)


@pytest.mark.parametrize("name", SINGLE)
def test_every_sampler_finds_the_optimum_of_a_small_space(name):
    sampler, steps = SINGLE[name]
    state, trace = over_seeds(simulate(sampler, TABLE, "value", steps=steps))(keys())
    assert (np.asarray(trace.best[:, -1]) == VALUES[:, -1].argmax()).all()
    assert (np.asarray(jax.vmap(sampler.best)(state)) == ARCHS[VALUES[:, -1].argmax()]).all()


@pytest.mark.parametrize("name", ["evolution_batch", "annealing", "halving"])
def test_the_scan_is_what_a_loop_of_ask_and_tell_does(name):
    sampler, _ = SINGLE[name]
    steps = 12
    state, trace = quick(simulate(sampler, TABLE, "value", steps=steps, time="seconds"))(jax.random.key(5))
    init_key, ask_key, tell_key = jax.random.split(jax.random.key(5), 3)
    by_hand = sampler.init(init_key)
    ask, tell = quick(sampler.ask), quick(sampler.tell)
    total = 0.0
    for step in range(steps):
        candidates = ask(jax.random.fold_in(ask_key, step), by_hand)
        rows = [int(TABLE.index(arch)) for arch in candidates.archs]
        at = np.asarray(candidates.fidelity)
        wanted = np.asarray(candidates.wanted)
        key, values = jax.random.fold_in(tell_key, step), jnp.asarray(VALUES[rows, at])[:, None]
        by_hand = tell(key, by_hand, candidates, values, candidates.wanted)
        total += SECONDS[rows, at][wanted].sum()
        assert np.asarray(trace.rows[step]).tolist() == np.where(wanted, rows, -1).tolist()
        assert trace.seconds[step] == pytest.approx(total, rel=1e-5)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), state, by_hand))


def test_a_run_under_vmap_is_the_run_alone():
    search = simulate(SINGLE["evolution"][0], TABLE, "value", steps=40)
    _, together = over_seeds(search)(keys(3))
    _, alone = quick(search)(keys(3)[1])
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.array_equal(a[1], b, equal_nan=True)), together, alone))


@pytest.mark.parametrize("name", ["evolution_batch", "local", "reinforce", "halving"])
def test_what_cannot_be_evaluated_is_never_found_nor_counted(name):
    sampler, steps = SINGLE[name]
    gaps = np.argsort(VALUES[:, -1])[-6:]
    table = small_table(gaps)
    _, trace = over_seeds(simulate(sampler, table, "value", steps=steps))(keys())
    values = np.nan_to_num(np.asarray(table.metrics["value"])[:, -1], nan=-np.inf)
    assert not np.isin(np.asarray(trace.rows), gaps).any()
    assert (np.asarray(trace.evaluations[:, -1]) == (np.asarray(trace.rows) >= 0).sum(axis=(1, 2))).all()
    assert (np.asarray(trace.best[:, -1]) == values.argmax()).mean() > 0.8


def sparse_table():
    """Nine of the 24 architectures, one of them without a value, one without a neighbor."""
    rows = [0, 1, 2, 3, 5, 8, 10, 17, 23]
    values = VALUES[rows, -1].copy()
    values[4] = np.nan
    return make_table("sparse", CHOICES, ARCHS[rows], {"value": values, "cost": values})


SPARSE = sparse_table()
THERE = only_rows(SPARSE, measured(SPARSE, ["value"]))


def guided(moves):
    example = jax.eval_shape(unconnected, jax.ShapeDtypeStruct((len(SIZES),), jnp.int32))
    process = gaussian_process([Block(one_hot(4))], example)
    return samplers.predictor_search(moves, process, unconnected, capacity=5, start=4, batch=1, pool=60)


ON_GAPS = {
    "random": (samplers.random_search(THERE.moves, batch=3), 12),
    "evolution": (samplers.evolution(THERE.moves, population=4, sample_size=2), 12),
    "local": (samplers.local_search(THERE.moves), 12),
    "annealing": (samplers.simulated_annealing(THERE.moves, temperature=1.0, cooling=0.9), 12),
    "reinforce": (samplers.reinforce(CHOICES, optax.adam(0.05)), 12),
    "halving": (samplers.halving(THERE.moves, (samplers.successive_halving(12, [0]),)), 12),
    "nondominated": (samplers.nondominated(THERE.moves, 1, population=3), 12),
    "predictor": (guided(THERE.moves), 5),
}


@pytest.mark.parametrize("name", ON_GAPS)
def test_on_a_table_with_gaps_every_method_measures_as_many_rows(name):
    sampler, count = ON_GAPS[name]
    _, trace = quick(jax.vmap(simulate(sampler, THERE, "value", steps=count, evaluations=count)))(keys(6))
    assert np.asarray(trace.evaluations[:, -1]).tolist() == [count] * 6
    rows = np.asarray(trace.rows)
    assert ((rows >= 0).sum(axis=(1, 2)) == count).all()
    values = np.asarray(THERE.metrics["value"])
    np.testing.assert_array_equal(np.asarray(trace.objectives)[rows >= 0, 0], values[rows[rows >= 0]])


def test_a_search_that_names_nothing_of_the_table_ends():
    table = make_table("one", CHOICES, ARCHS[:1], {"value": [1.0]})
    elsewhere = Candidates(jnp.asarray(ARCHS[-1:], jnp.int32), jnp.full(1, -1, jnp.int32), jnp.ones(1, bool))
    always = samplers.random_search(MOVES)._replace(ask=lambda key, state: elsewhere)
    _, trace = quick(simulate(always, table, "value", steps=3, evaluations=3))(jax.random.key(0))
    assert np.asarray(trace.evaluations).tolist() == [0, 0, 0]
    assert np.asarray(trace.best).tolist() == [-1, -1, -1]


def test_moves_on_a_table_with_gaps_lead_to_its_rows():
    moves, there = SPARSE.moves, {tuple(arch) for arch in np.asarray(SPARSE.archs).tolist()}
    drawn = np.asarray(quick(jax.vmap(moves.sample))(keys(900)))
    found, counts = np.unique(drawn, axis=0, return_counts=True)
    assert {tuple(arch) for arch in found.tolist()} == there
    assert stats.chisquare(counts).pvalue > 1e-3
    for arch in SPARSE.archs:
        near, valid = quick(moves.neighbors)(arch)
        expected = [other for other in there if (np.array(other) != np.asarray(arch)).sum() == 1]
        assert sorted(map(tuple, np.asarray(near)[np.asarray(valid)].tolist())) == sorted(expected)
        mutants = {
            tuple(arch) for arch in np.asarray(quick(jax.vmap(moves.mutate, (0, None)))(keys(60), arch)).tolist()
        }
        assert mutants == set(expected) if expected else mutants <= there
    pairs = jnp.asarray(drawn[:100]), jnp.asarray(drawn[100:200])
    children = np.asarray(quick(jax.vmap(moves.crossover))(keys(100), *pairs)).tolist()
    assert {tuple(arch) for arch in children} <= there


def test_a_table_without_gaps_is_left_as_it_is():
    assert only_rows(TABLE, measured(TABLE, ["value", "-cost", "value@0"])) is TABLE
    with pytest.raises(ValueError, match="no row of sparse"):
        only_rows(SPARSE, measured(SPARSE, ["value"])[:0])


def test_the_oldest_leaves_the_population():
    sampler = samplers.evolution(MOVES, population=5, sample_size=2, batch=3)
    state = sampler.init(jax.random.key(0))
    ask, tell = quick(sampler.ask), quick(sampler.tell)
    rng = np.random.default_rng(0)
    history = []
    for step, key in enumerate(keys(9)):
        candidates = ask(key, state)
        warm = np.arange(3 * step, 3 * step + 3) < 5 if step < 2 else np.zeros(3, bool)
        valid = rng.random(3) < 0.6
        values = rng.normal(size=3).astype(np.float32)
        state = tell(jax.random.key(step), state, candidates, jnp.asarray(values)[:, None], jnp.asarray(valid))
        for arch, value, counts, there in zip(np.asarray(candidates.archs), values, valid | warm, valid, strict=True):
            if counts:
                history.append((tuple(arch.tolist()), float(value) if there else -np.inf))
    archs = [tuple(arch) for arch in np.asarray(state.archs).tolist()]
    found = sorted(zip(archs, np.asarray(state.values).tolist(), strict=True))
    assert found == sorted(history[-5:])
    assert int(state.born) == len(history)


def test_a_parent_is_the_best_of_a_sample_with_replacement():
    population, sample_size = 4, 3
    moves = product(tuple(Choice(str(d), tuple("abcd")) for d in range(6)))
    sampler = samplers.evolution(moves, population=population, sample_size=sample_size)
    archs = jnp.tile(jnp.arange(4, dtype=jnp.int32)[:, None], (1, 6))
    values = jnp.asarray([3.0, 1.0, 4.0, 2.0])
    state = sampler.init(jax.random.key(0))._replace(archs=archs, values=values, born=jnp.int32(7))
    children = quick(jax.vmap(lambda key: sampler.ask(key, state).archs[0]))(keys(4000))
    distance = (np.asarray(children)[:, None] != np.asarray(archs)[None]).sum(axis=2)
    assert (distance.min(axis=1) == 1).all()
    parents = np.array([1, 3, 0, 2])[distance.argmin(axis=1)]  # by rank, the best first
    expected = [(1 - r / population) ** sample_size - (1 - (r + 1) / population) ** sample_size for r in range(4)]
    assert np.bincount(parents, minlength=4) / len(parents) == pytest.approx(expected, abs=0.04)


def test_local_search_climbs_as_the_paper_has_it():
    """Replayed: all neighbors of a center but those known, then the best of them; again where none is better."""
    table = make_table("rugged", CHOICES, ARCHS, {"value": np.random.default_rng(1).normal(size=len(ARCHS))})
    values = np.asarray(table.metrics["value"])
    _, trace = quick(simulate(samplers.local_search(MOVES), table, "value", steps=120))(jax.random.key(2))
    rows = np.asarray(trace.rows[:, 0]).tolist()
    around = [{b for b in range(24) if (ARCHS[a] != ARCHS[b]).sum() == 1} for a in range(24)]
    climbs = 0
    while rows:
        center, known = rows.pop(0), set()
        while rows:
            todo = around[center] - known
            if not todo:
                break
            seen, rows = rows[: len(todo)], rows[len(todo) :]
            if len(seen) < len(todo):
                break
            assert set(seen) == todo
            best = max(seen, key=lambda row: values[row])
            if values[best] <= values[center]:
                climbs += 1
                assert values[center] == max(values[row] for row in {center, *around[center]})
                break
            known, center = {center, *around[center]}, best
    assert climbs > 3


def walk(trace, run):
    """The rows that one run of simulated annealing evaluated, with their values."""
    rows = np.asarray(trace.rows)[run, :, 0]
    return rows, VALUES[rows, -1]


def distance(a, b):
    return int((ARCHS[a] != ARCHS[b]).sum())


def annealed(temperature, cooling=1.0, steps=60):
    search = simulate(
        samplers.simulated_annealing(MOVES, temperature=temperature, cooling=cooling), TABLE, "value", steps=steps
    )
    return over_seeds(search)(keys())


def test_annealing_without_heat_accepts_none_that_is_worse_and_climbs_to_a_summit():
    state, trace = annealed(1e-12)
    for run in range(SEEDS):
        rows, values = walk(trace, run)
        at = 0
        for step in range(1, len(rows)):
            assert distance(rows[at], rows[step]) == 1  # a neighbor of the best so far
            at = step if values[step] >= values[at] else at
        assert np.array_equal(state.current.arch[run], ARCHS[rows[at]])
        summit = [row for row in range(24) if distance(row, rows[at]) == 1 and VALUES[row, -1] > values[at]]
        assert not summit


def test_annealing_of_great_heat_is_a_random_walk():
    _, trace = annealed(1e12, steps=200)
    drops, moves = 0, []
    for run in range(SEEDS):
        rows, values = walk(trace, run)
        assert all(distance(a, b) == 1 for a, b in itertools.pairwise(rows))  # each is accepted
        drops += (np.diff(values) < 0).sum()
        moves.extend(rows[8::8].tolist())  # far enough apart to be nearly independent
    assert drops > 0.4 * 200 * SEEDS
    counts = np.bincount(moves, minlength=24)
    assert stats.chisquare(counts).pvalue > 1e-3
    assert len({tuple(row) for row in np.asarray(trace.rows)[..., 0].tolist()}) == SEEDS  # no seed is like another


def test_annealing_accepts_as_metropolis_says_and_cools():
    sampler = samplers.simulated_annealing(MOVES, temperature=2.0, cooling=0.5)
    there = samplers.random_search(MOVES).ask(jax.random.key(0), None)
    before = sampler.init(jax.random.key(0))
    values = jnp.asarray([[[5.0]], [[4.0]], [[4.0]]])
    valid = jnp.asarray([[True], [False], [True]])

    def told(key):
        first, second, third, fourth = jax.random.split(key, 4)
        state = sampler.tell(first, before, there, values[0], valid[0])
        state = sampler.tell(second, state, there, values[1], valid[1])  # not measured: nothing happens
        cold = state._replace(temperature=jnp.float32(0))  # where the factors of cooling end
        equal = sampler.tell(fourth, cold, there._replace(archs=1 - there.archs), values[0], valid[0])
        return state, sampler.tell(third, state, there, values[2], valid[2]), equal

    state, after, equal = quick(jax.vmap(told))(keys(4000))
    assert (np.asarray(equal.current.arch) == 1 - np.asarray(there.archs)).all()
    assert (np.asarray(state.current.value) == 5).all()
    assert (np.asarray(state.temperature) == 2).all()
    assert (np.asarray(after.temperature) == 1).all()
    assert (np.asarray(after.current.value) == 4).mean() == pytest.approx(np.exp(-1 / 2), abs=0.03)
    assert (np.asarray(after.incumbent.value) == 5).all()


@pytest.mark.parametrize("batch", [1, 5])
def test_reinforce_follows_the_gradient_of_its_loss(batch):
    sampler = samplers.reinforce(CHOICES, optax.sgd(0.7), ema=0.8, batch=batch)
    state = sampler.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    rewards = []
    for step, key in enumerate(keys(4)):
        candidates = sampler.ask(key, state)
        assert (np.asarray(candidates.archs) < np.array(SIZES)).all()
        valid = np.arange(batch) != 1
        reward = rng.normal(size=batch)
        rewards.append(reward[valid].mean())
        weights = 0.8 ** np.arange(step, -1, -1)
        baseline = (weights * rewards).sum() / weights.sum()

        def loss(logits, archs=candidates.archs, advantage=reward - baseline, valid=valid):
            rows = [jax.nn.log_softmax(logits[d, :size])[archs[:, d]] for d, size in enumerate(SIZES)]
            return jnp.mean((-jnp.asarray(advantage) * sum(rows))[jnp.asarray(np.flatnonzero(valid))])

        expected = state.logits - 0.7 * jax.grad(loss)(state.logits)
        told = jnp.asarray(reward, jnp.float32)[:, None]
        state = sampler.tell(jax.random.key(step), state, candidates, told, jnp.asarray(valid))
        np.testing.assert_allclose(state.logits, expected, atol=1e-6)
    unchanged = sampler.tell(jax.random.key(9), state, candidates, jnp.ones((batch, 1)), jnp.zeros(batch, bool))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), unchanged, state))


def test_reinforce_samples_from_its_policy():
    sampler = samplers.reinforce(CHOICES, optax.sgd(1.0), batch=20_000)
    logits = jax.random.normal(jax.random.key(1), (4, 4))
    archs = np.asarray(sampler.ask(jax.random.key(2), sampler.init(jax.random.key(0))._replace(logits=logits)).archs)
    for d, size in enumerate(SIZES):
        expected = np.asarray(jax.nn.softmax(logits[d, :size]))
        assert np.bincount(archs[:, d], minlength=size) / len(archs) == pytest.approx(expected, abs=0.02)


def test_hyperband_has_the_brackets_of_the_paper():
    brackets = samplers.hyperband(range(5), 3)
    assert [[rung.size for rung in bracket] for bracket in brackets] == [
        [81, 27, 9, 3, 1], [34, 11, 3, 1], [15, 5, 1], [8, 2], [5],
    ]  # fmt: skip
    assert [[rung.fidelity for rung in bracket] for bracket in brackets] == [list(range(s, 5)) for s in range(5)]


@pytest.mark.parametrize("brackets", [(samplers.successive_halving(12, range(3), 2),), samplers.hyperband(range(3), 3)])
def test_halving_spends_exactly_its_budget_and_promotes_the_best(brackets):
    sampler = samplers.halving(MOVES, brackets)
    steps = samplers.rungs(brackets)
    _, trace = over_seeds(simulate(sampler, TABLE, "value", steps=steps + 3, time="seconds"))(keys(8))
    rungs = [rung for bracket in brackets for rung in bracket]
    budget = samplers.evaluations(brackets)
    assert sum(budget.values()) == sum(rung.size for rung in rungs)
    rows = np.asarray(trace.rows)
    assert ((rows >= 0).sum(axis=2)[:, :steps] == [rung.size for rung in rungs]).all()
    assert (rows[:, steps:] == -1).all()
    assert (np.asarray(trace.evaluations[:, -1]) == sum(budget.values())).all()
    for run, seconds in zip(rows, np.asarray(trace.seconds[:, -1]), strict=True):
        spent = sum(SECONDS[run[s][run[s] >= 0], rung.fidelity].sum() for s, rung in enumerate(rungs))
        assert seconds == pytest.approx(spent, rel=1e-5)
        for step in range(1, steps):
            if rungs[step].fidelity > rungs[step - 1].fidelity and rungs[step].size < rungs[step - 1].size:
                before = run[step - 1][run[step - 1] >= 0]
                ranked = np.sort(VALUES[before, rungs[step - 1].fidelity])[::-1]
                promoted = run[step][run[step] >= 0]
                assert np.sort(VALUES[promoted, rungs[step - 1].fidelity])[::-1].tolist() == (
                    ranked[: rungs[step].size].tolist()
                )


def test_the_best_of_halving_is_that_of_the_highest_fidelity():
    sampler = samplers.halving(MOVES, ((samplers.Rung(2, 0), samplers.Rung(1, 2)), (samplers.Rung(2, 0),)))
    state = sampler.init(jax.random.key(0))
    told = [([9.0, 8.0], None), ([1.0, 0.0], 0), ([7.0, 6.0], 0)]
    wanted = None
    for (values, _), key in zip(told, keys(3), strict=True):
        candidates = sampler.ask(key, state)
        state = sampler.tell(jax.random.clone(key), state, candidates, jnp.asarray(values)[:, None], jnp.ones(2, bool))
        if wanted is None or int(candidates.fidelity[0]) == 2:
            wanted = candidates.archs[0]
        assert jnp.array_equal(sampler.best(state)[0], wanted)


def brute_front(points):
    return {i for i, a in enumerate(points) if not any((b >= a).all() and (b > a).any() for b in points)}


def test_fronts_and_crowding_are_those_of_the_definition():
    points = np.random.default_rng(0).integers(0, 5, (30, 3)).astype(np.float32)
    there = np.arange(30) % 7 != 0
    found = np.asarray(quick(fronts)(points, jnp.asarray(there)))
    left, front = set(np.flatnonzero(there)), 0
    while left:
        rows = sorted(left)
        best = {rows[i] for i in brute_front(points[rows])}
        assert {i for i in left if found[i] == front} == best
        left, front = left - best, front + 1
    line = jnp.asarray([[0.0, 10.0], [1.0, 8.0], [4.0, 5.0], [10.0, 0.0]])
    assert not dominates(line).any()
    inner = [(4 - 0) / 10 + (10 - 5) / 10, (10 - 1) / 10 + (8 - 0) / 10]
    assert np.asarray(crowding(line, jnp.zeros(4, jnp.int32))).tolist() == pytest.approx([np.inf, *inner, np.inf])


def test_nondominated_finds_the_whole_front():
    sampler = samplers.nondominated(MOVES, 2, population=16)
    state, trace = over_seeds(simulate(sampler, TABLE, ("value", "-cost"), steps=20))(keys())
    points = np.stack([VALUES[:, -1], -np.asarray(TABLE.metrics["cost"])], axis=1)
    front = brute_front(points)
    assert 3 <= len(front) <= 16
    for archs in np.asarray(quick(jax.vmap(sampler.best))(state)):
        assert {int(np.flatnonzero((arch == ARCHS).all(axis=1))[0]) for arch in archs} == front
    rows, told = np.asarray(trace.rows), np.asarray(trace.objectives)
    np.testing.assert_array_equal(told, points[rows].astype(np.float32))


def test_an_evaluation_that_exceeds_the_time_is_not_made():
    sampler = samplers.random_search(MOVES, batch=4)
    search = over_seeds(simulate(sampler, TABLE, "value", steps=12, time="seconds", budget=60.0))
    free = over_seeds(simulate(sampler, TABLE, "value", steps=12, time="seconds"))
    _, trace = search(keys())
    _, unbound = free(keys())
    for rows, whole, seconds in zip(
        np.asarray(trace.rows), np.asarray(unbound.rows), np.asarray(trace.seconds), strict=True
    ):
        cost = np.cumsum(SECONDS[whole.reshape(-1), -1])
        count = (cost <= 60).sum()
        assert rows.reshape(-1).tolist() == [*whole.reshape(-1)[:count], *[-1] * (48 - count)]
        assert seconds[-1] == pytest.approx(cost[count - 1], rel=1e-5)
    assert (np.asarray(trace.evaluations[:, -1]) < 30).all()


def test_evaluations_end_within_a_batch():
    _, trace = over_seeds(simulate(SINGLE["random_batch"][0], TABLE, "value", steps=5, evaluations=10))(keys(3))
    assert np.asarray(trace.evaluations).tolist() == [[4, 8, 10, 10, 10]] * 3
    assert ((np.asarray(trace.rows) >= 0).sum(axis=2) == [4, 4, 2, 0, 0]).all()
    seen = np.maximum.accumulate(np.where(np.asarray(trace.rows) < 0, -np.inf, VALUES[trace.rows, -1]).max(axis=2), 1)
    assert (VALUES[np.asarray(trace.best), -1] == seen).all()


def test_a_metric_with_a_label_is_that_fidelity():
    _, trace = quick(simulate(SINGLE["random"][0], TABLE, "value@0", steps=9))(jax.random.key(0))
    rows = np.asarray(trace.rows[:, 0])
    assert np.asarray(trace.objectives[:, 0, 0]).tolist() == VALUES[rows, 0].tolist()


def test_samplers_take_a_space_as_they_take_its_moves():
    space = nasbench201_space()
    sampler = samplers.evolution(space, population=4, sample_size=2)
    archs = sampler.ask(jax.random.key(1), sampler.init(jax.random.key(0))).archs
    assert archs.shape == (1, 6)


WRONG = {
    "no population": (lambda: samplers.evolution(MOVES, population=0), "population"),
    "sample larger than the population": (lambda: samplers.evolution(MOVES, population=4, sample_size=5), "got 5"),
    "no batch": (lambda: samplers.random_search(MOVES, batch=0), "batch"),
    "ema": (lambda: samplers.reinforce(CHOICES, optax.sgd(1.0), ema=1.0), "ema"),
    "no choices": (lambda: samplers.reinforce((), optax.sgd(1.0)), "choices"),
    "rungs die out": (lambda: samplers.successive_halving(8, range(4), 3), "at least one"),
    "fidelities fall": (lambda: samplers.halving(MOVES, ((samplers.Rung(3, 1), samplers.Rung(1, 0)),)), "rise"),
    "rungs grow": (lambda: samplers.halving(MOVES, ((samplers.Rung(3, 0), samplers.Rung(4, 1)),)), "larger"),
    "temperature": (lambda: samplers.simulated_annealing(MOVES, temperature=0.0, cooling=0.9), "finite, got 0.0"),
    "cooling": (lambda: samplers.simulated_annealing(MOVES, temperature=1.0, cooling=1.1), "at most 1, got 1.1"),
    "no brackets": (lambda: samplers.halving(MOVES, ()), "brackets"),
    "eta": (lambda: samplers.hyperband(range(3), 1.0), "eta"),
    "population of one": (lambda: samplers.nondominated(MOVES, 2, population=1), "population"),
    "no steps": (lambda: simulate(SINGLE["random"][0], TABLE, "value", steps=0), "steps"),
    "no metric": (lambda: simulate(SINGLE["random"][0], TABLE, "valeu", steps=1), "valeu"),
    "no time metric": (lambda: simulate(SINGLE["random"][0], TABLE, "value", steps=1, budget=5.0), "time metric"),
    "two objectives for one": (
        lambda: jax.eval_shape(simulate(SINGLE["random"][0], TABLE, ("value", "cost"), steps=1), jax.random.key(0)),
        "nondominated",
    ),
    "three objectives for two": (
        lambda: samplers.nondominated(MOVES, 2, population=4).tell(
            jax.random.key(1),
            samplers.nondominated(MOVES, 2, population=4).init(jax.random.key(0)),
            Candidates(jnp.zeros((4, 4), jnp.int32), jnp.zeros(4, jnp.int32), jnp.ones(4, bool)),
            jnp.zeros((4, 3)),
            jnp.ones(4, bool),
        ),
        "[4, 2]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(WRONG))
def test_wrong_settings_name_the_value(case):
    make, expected = WRONG[case]
    with pytest.raises(ValueError, match=re.escape(expected)):
        make()
