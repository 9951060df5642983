"""Budgets, and choices by scores, against enumeration, without any network."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.base import Skeleton
from jaxnas.benchmarks.digits201 import digits201_cells, digits201_costs, digits201_table
from jaxnas.catalog import entry_of
from jaxnas.fit import budget as budgets
from jaxnas.fit import latency as latencies
from jaxnas.fit.budget import check_feasible, excess, feasible_samples, without_absent
from jaxnas.fit.programs import by_integer_program, climbed, fitted
from jaxnas.fit.select import agreement, evolution, guided, sampled, sampler_of, select, weakest
from jaxnas.hardware import LatencyTable, reachable, save_latency, two_edges_a_node
from jaxnas.samplers.nondominated import front
from jaxnas.spaces import (
    NASBENCH201_OPERATIONS,
    chain_cost_table,
    chain_space,
    darts_cost_table,
    darts_space,
    enas_macro_space,
    nasbench201_space,
    prune,
)

SPACE = nasbench201_space()
SKELETON = Skeleton(channels=4, cells=1, image_shape=(8, 8, 1), num_classes=10)
CELLS, _ = digits201_cells()
PARAMS, MACS = digits201_costs(SKELETON, CELLS)
WORTH = np.random.default_rng(0).normal(size=(6, 5))


def make_budget(space, *rest):
    return budgets.make_budget(entry_of(space.name), space, *rest)


def latency_table(space, *rest):
    return latencies.latency_table(entry_of(space.name), space, *rest)


def worth(archs):
    return WORTH[np.arange(6), np.asarray(archs)].sum(axis=1)


def test_costs_are_those_of_the_space():
    for space, skeleton in ((SPACE, SKELETON), (darts_space(), Skeleton(4, 4, (8, 8, 1), 10))):
        budget = make_budget(space, skeleton, {})
        archs = np.asarray(jax.vmap(space.sample)(jax.random.split(jax.random.key(0), 4)))
        costs = budget.costs(archs)
        for row, arch in enumerate(archs):
            assert {name: int(value[row]) for name, value in costs.items()} == space.costs(jnp.asarray(arch), skeleton)
        assert not excess(budget, archs).any()


def test_the_excess_is_relative_and_summed():
    budget = make_budget(SPACE, SKELETON, {"params": int(PARAMS.max()) // 2, "macs": int(MACS.min())})
    rows = CELLS[[0, 9000]]
    expected = [max(PARAMS[row] / (PARAMS.max() // 2) - 1, 0) + max(MACS[row] / MACS.min() - 1, 0) for row in (0, 9000)]
    np.testing.assert_allclose(excess(budget, rows), expected, rtol=1e-12)


def test_samples_within_a_tight_budget_are_within_and_say_how_they_were_found():
    space, skeleton = darts_space(), Skeleton(4, 3, (8, 8, 1), 10)
    (constraint,) = make_budget(space, skeleton, {"macs": 1}).constraints
    table = darts_cost_table(skeleton)
    least = table.constant["macs"] + reachable(two_edges_a_node(space), constraint)[0]
    tight = make_budget(space, skeleton, {"params": None, "macs": int(least)})  # pools alone, or nearly
    archs, walked = feasible_samples(space, tight, jax.random.key(0), 8)
    assert 1 <= len(archs) == walked <= 8
    assert not excess(tight, archs).any()
    loose = make_budget(SPACE, SKELETON, {"macs": int(np.median(MACS))})
    archs, walked = feasible_samples(SPACE, loose, jax.random.key(1), 16)
    assert (len(archs), walked) == (16, 0)
    assert not excess(loose, archs).any()


def test_what_cannot_be_is_explained():
    least = int(MACS.min())
    with pytest.raises(ValueError, match=f"max_macs {least - 1:,}, where the smallest possible is {least:,}:"):
        check_feasible(SPACE, make_budget(SPACE, SKELETON, {"macs": least - 1}), jax.random.key(0))
    check_feasible(SPACE, make_budget(SPACE, SKELETON, {"macs": least}), jax.random.key(0))
    macro = enas_macro_space(3)
    with pytest.raises(ValueError, match=r"no architecture within 1 params was found; the nearest has .* params"):
        check_feasible(macro, make_budget(macro, Skeleton(2, 3, (8, 8, 1), 10), {"params": 1}), jax.random.key(0))
    with pytest.raises(ValueError, match="max_macs must be positive, got 0"):
        make_budget(SPACE, SKELETON, {"macs": 0})


LATENCY = LatencyTable("a clock", 1, NASBENCH201_OPERATIONS, {"cell": np.tile([0, 0.5, 1, 4, 0.25], (6, 1))}, 2.0)


def test_latency_is_a_cost_like_the_others():
    budget = make_budget(SPACE, SKELETON, {"macs": None, "latency_ms": 6.3}, LATENCY)
    cells = CELLS[:: len(CELLS) // 500]
    expected = 2.0 + np.array([0, 0.5, 1, 4, 0.25])[cells].sum(axis=1)
    np.testing.assert_allclose(budget.costs(cells)["latency_ms"], expected)
    np.testing.assert_array_equal(excess(budget, cells) > 0, expected > 6.3)
    found, _ = by_integer_program(worth, SPACE, budget, jax.random.key(0), 20, "gp")
    assert (budget.costs(np.array(list(found)))["latency_ms"] <= 6.3 + 1e-9).all()
    with pytest.raises(ValueError, match=r"max_latency_ms 1\.9, where the smallest possible is 2:"):
        check_feasible(SPACE, make_budget(SPACE, SKELETON, {"latency_ms": 1.9}, LATENCY), jax.random.key(0))
    macro = enas_macro_space(3)
    with pytest.raises(ValueError, match="needs the latency of the options of enas_macro"):
        make_budget(macro, Skeleton(2, 3, (8, 8, 1), 10), {"latency_ms": 1.0})


def test_latency_is_measured_once_and_read_afterwards(tmp_path):
    path = tmp_path / "latency.json"
    table = latency_table(SPACE, SKELETON, 2, path)
    assert (table.milliseconds["cell"] >= 0).all()
    assert table.milliseconds["cell"][0, 3] > 0
    save_latency(table, path)
    again = latency_table(SPACE, SKELETON, 2, path)
    np.testing.assert_array_equal(again.milliseconds["cell"], table.milliseconds["cell"])
    assert again[:3] + again[4:] == table[:3] + table[4:]
    with pytest.raises(ValueError, match=r"is of batches of 2 on .*, but this is .* and batches of 4"):
        latency_table(SPACE, SKELETON, 4, path)


def test_signals_are_the_logarithms_of_the_costs():
    budget = make_budget(SPACE, SKELETON, {})
    for arch in CELLS[[5, 7000]]:
        costs = SPACE.costs(jnp.asarray(arch), SKELETON)
        np.testing.assert_allclose(budget.signals(jnp.asarray(arch)), np.log(list(costs.values())), rtol=1e-5)


@pytest.mark.parametrize("predictor", [None, "gp"])
def test_the_weakest_options_go_and_a_program_of_what_is_left_takes_none_of_them(predictor):
    budget = make_budget(SPACE, SKELETON, {})
    keep = weakest(worth, SPACE, budget, jax.random.key(1), 4000 if predictor is None else 150, 4, predictor)
    assert [len(left) for left in keep] == [4] * 6
    for row, left in zip(WORTH, keep, strict=True):
        assert np.argmin(row) not in left
    pruned = prune(SPACE, [left[:2] for left in keep])
    assert (
        weakest(lambda archs: np.arange(len(archs)), pruned.space, budget, jax.random.key(1), 4, 2, None)
        == ((0, 1),) * 6
    )
    left = without_absent(make_budget(pruned.space, SKELETON, {}), pruned.space)

    def score(archs):
        return worth(np.asarray(jax.vmap(pruned.embed)(jnp.asarray(archs))))

    found, _ = by_integer_program(score, pruned.space, left, jax.random.key(0), 32, "gp")
    best = sum(max(WORTH[column, option] for option in row[:2]) for column, row in enumerate(keep))
    assert max(found.values()) == pytest.approx(best)


def test_a_climb_reaches_the_best_within_the_limit():
    """What adds up has one peak without a limit. With a limit, brute force over all cells says what is best."""
    start = CELLS[np.random.default_rng(0).choice(len(CELLS), 40, replace=False)]
    for limit in (int(MACS.max()), int(np.quantile(MACS, 0.3))):
        budget = make_budget(SPACE, SKELETON, {"macs": limit})
        inside = ~excess(budget, CELLS).astype(bool)

        def within(archs, budget=budget):
            return excess(budget, archs) == 0.0

        found, expected = climbed(SPACE, within, worth, start[within(start)], worth(start[within(start)]))
        assert within(found).all()
        assert len(np.unique(found, axis=0)) == len(found)
        np.testing.assert_array_equal(expected, np.sort(worth(found))[::-1])
        np.testing.assert_allclose(expected[0], worth(CELLS[inside]).max())
        assert set(map(tuple, start[within(start)].tolist())) <= set(map(tuple, found.tolist()))


SAMPLERS = {
    "evolution": lambda budget: evolution(SPACE, 40, 10),
    "predictor": lambda budget: guided(SPACE, budget, "gp", 40, 10),
}


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_a_sampler_has_only_scored_what_is_within_and_finds_something_good(name):
    asked = []

    def score(archs):
        asked.extend(np.asarray(archs).tolist())
        return worth(archs)

    limit = int(np.quantile(MACS, 0.2))
    budget = make_budget(SPACE, SKELETON, {"macs": limit})
    found = sampled(SAMPLERS[name](budget), score, SPACE, budget, jax.random.key(0), 40)
    assert sorted(found) == sorted(map(tuple, asked))
    assert len(set(found)) == len(asked) == 40
    assert not excess(budget, np.array(asked)).any()
    assert max(found.values()) > np.quantile(worth(CELLS[~excess(budget, CELLS).astype(bool)]), 0.9)


def test_selections_that_share_a_sampler_trace_it_once():
    budget = make_budget(SPACE, SKELETON, {})
    settings = {"evaluations": 20, "population": 10}
    sampler, traces = sampler_of("evolution", SPACE, budget, "gp", 20, 10), []

    def ask(key, state):
        traces.append(state)
        return sampler.ask(key, state)

    counted = sampler._replace(ask=ask)
    for seed in range(2):
        shared = select(worth, SPACE, budget, key=jax.random.key(seed), sampler=counted, **settings)
        alone = select(worth, SPACE, budget, key=jax.random.key(seed), **settings)
        np.testing.assert_array_equal(shared.archs, alone.archs)
    assert len(traces) == 1


def test_a_graph_network_told_costs_learns_what_costs_explain():
    """As many graphs as a search has when it is asked first; the worth is mostly that of convolutions."""
    budget = make_budget(SPACE, SKELETON, {})
    archs = CELLS[np.random.default_rng(1).permutation(len(CELLS))[:80]]
    values = np.log(MACS[np.random.default_rng(1).permutation(len(CELLS))[:80]])
    predict = fitted(SPACE, budget, "gnn", archs[:40], values[:40], jax.random.key(0))
    found = agreement(predict(archs[40:]), values[40:])
    assert found["kendall"] > 0.8


@pytest.mark.parametrize("share", [1.0, 0.0])
def test_the_integer_program_finds_the_best_where_scores_add_up(share):
    """Without a limit, and under the least one, which leaves the cells without a convolution."""
    budget = make_budget(SPACE, SKELETON, {"macs": int(np.quantile(MACS, share))})
    kept = CELLS[excess(budget, CELLS) == 0]
    found, told = by_integer_program(worth, SPACE, budget, jax.random.key(3), 88, "gp")
    assert not excess(budget, np.array(list(found))).any()
    assert told["tau"] > 0.99
    assert max(found.values()) == pytest.approx(worth(kept).max())


def test_agreement_is_as_counted_by_hand():
    told = agreement(np.array([0.9, 0.9, 0.5, 0.1]), np.array([3.0, 7.0, 5.0, 1.0]), tops=(1, 2, 10))
    # Of six pairs one is tied in the scores, four are in order, one is not.
    assert told["kendall"] == pytest.approx((4 - 1) / np.sqrt(5 * 6))
    assert told["spearman"] == pytest.approx(np.corrcoef([3.5, 3.5, 2, 1], [2, 4, 3, 1])[0, 1])
    assert (told["regret_top_1"], told["regret_top_2"]) == (4.0, 0.0)
    assert "regret_top_10" not in told
    assert "kendall" not in agreement(np.full(3, 0.1), np.arange(3.0))


def test_the_front_is_what_nothing_dominates():
    random = np.random.default_rng(1)
    scores, costs = random.integers(0, 6, 40).astype(float), random.integers(0, 6, 40).astype(float)
    found = front(np.stack([-costs, scores], axis=1))
    points = {(scores[row], costs[row]) for row in found}
    expected = {
        (s, c)
        for s, c in zip(scores, costs, strict=True)
        if not any((t >= s and d <= c) and (t > s or d < c) for t, d in zip(scores, costs, strict=True))
    }
    assert points == expected
    assert len(points) == len(found)
    assert (np.diff(costs[found]) > 0).all()


def test_the_integer_program_finds_what_is_good_where_scores_do_not_add_up():
    """Accuracies of digits201 under a limit: the pick is among the best thousandth, beyond all that were random."""
    table = digits201_table()
    values = np.asarray(table.metrics["valid"], np.float64)[:, -1]
    rows = {tuple(arch): value for arch, value in zip(np.asarray(table.archs).tolist(), values, strict=True)}
    asked = []

    def score(archs):
        found = [rows[tuple(arch)] for arch in np.asarray(archs).tolist()]
        asked.extend(found)
        return np.array(found)

    budget = make_budget(SPACE, SKELETON, {"macs": int(np.quantile(MACS, 0.5))})
    found, _ = by_integer_program(score, SPACE, budget, jax.random.key(1), 80, "gp")
    within = values[excess(budget, np.asarray(table.archs)) == 0]
    assert len(asked) == len(found) <= 80
    assert max(asked[:60]) < max(found.values())
    assert (within > max(found.values())).mean() < 0.001


@pytest.mark.parametrize("left", [1, 2, 4])
def test_an_integer_program_over_next_to_nothing_scores_all_of_it(left):
    """Of a chain with four architectures the limit leaves one, two, or all."""
    blocks = ("shuffle_3x3", "identity")
    space = chain_space((1, 1, 2), blocks)
    entry = entry_of("chain")._replace(cost_table=functools.partial(chain_cost_table, blocks=blocks))
    archs = np.array(list(itertools.product(*(range(len(choice.options)) for choice in space.choices))), np.int32)
    skeleton = Skeleton(2, 4, (8, 8, 1), 10)
    macs = np.sort([space.costs(arch, skeleton)["macs"] for arch in archs])
    budget = budgets.make_budget(entry, space, skeleton, {"macs": int(macs[left - 1])})
    found, _ = by_integer_program(lambda archs: archs.sum(axis=1) * 1.0, space, budget, jax.random.key(0), 12, "gp")
    assert len(found) == (macs <= macs[left - 1]).sum()
