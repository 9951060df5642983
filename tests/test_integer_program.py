"""Integer programs against every architecture of NAS-Bench-201, and against all of a small DARTS space."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import hardware
from jaxnas.base import Skeleton
from jaxnas.hardware import Constraint, budget, cost_budget, count_between, forbidden, pareto, solve
from jaxnas.hardware.additive import AdditiveFit, one_hots
from jaxnas.spaces import darts_cost_table, darts_space, nasbench201_cost_table, nasbench201_space

SPACE = nasbench201_space()
ALL = np.array(list(itertools.product(range(5), repeat=6)), np.int32)
STRUCTURE = hardware.one_option_each(SPACE)
SKELETON = Skeleton(16, 5, (32, 32, 3), 10)
COSTS = nasbench201_cost_table(SKELETON)
NONE, SKIP, CONV1, CONV3, POOL = range(5)


def added(scores, archs=ALL):
    """The sum for each cell."""
    return sum(np.asarray(scores["cell"])[slot][archs[:, slot]] for slot in range(6))


def draw(seed):
    rng = np.random.default_rng(seed)
    return {"cell": rng.normal(size=(6, 5))}, {"cell": rng.random((6, 5))}


@pytest.mark.parametrize("seed", range(10))
def test_the_best_under_two_budgets_is_that_of_all_cells(seed):
    """Twenty random programs: of parameters and of a made-up latency, each seed with a tight and a loose limit."""
    scores, latency = draw(seed)
    params = added(COSTS.params) + COSTS.constant["params"]
    value, time = added(scores), added(latency) + 0.5
    for quantile in (0.02, 0.4):
        limits = np.quantile(params, quantile), np.quantile(time, quantile + 0.1)
        meets = (params <= limits[0]) & (time <= limits[1])
        constraints = [cost_budget(COSTS, "params", limits[0]), budget("latency", latency, limits[1], 0.5)]
        if not meets.any():
            with pytest.raises(hardware.InfeasibleError):
                solve(STRUCTURE, scores, constraints)
            continue
        found = solve(STRUCTURE, scores, constraints, count=3)
        order = np.flatnonzero(meets)[np.argsort(-value[meets])][:3]
        assert [np.asarray(each.arch).tolist() for each in found] == ALL[order].tolist()
        for each, row in zip(found, order, strict=True):
            assert each.value == pytest.approx(value[row])
            assert each.uses["params"] + COSTS.constant["params"] == params[row]
            assert each.uses["latency"] + 0.5 == pytest.approx(time[row])


def test_a_budget_met_exactly_is_met():
    scores, _ = draw(20)
    params = added(COSTS.params) + COSTS.constant["params"]
    for limit in np.unique(params)[::3]:
        best = added(scores)[params <= limit].max()
        assert solve(STRUCTURE, scores, [cost_budget(COSTS, "params", limit)])[0].value == pytest.approx(best)


def test_a_latency_met_exactly_is_met():
    scores, latency = draw(21)
    value, time = added(scores), added(latency)
    for row in np.random.default_rng(0).choice(len(ALL), 20, replace=False):
        best = value[time <= time[row] + 1e-12].max()
        assert solve(STRUCTURE, scores, [budget("latency", latency, time[row])])[0].value == pytest.approx(best)


def test_constraints_of_structure_are_what_they_say():
    scores, _ = draw(30)
    scores["cell"][:, SKIP] += 3
    value = added(scores)
    taken = np.eye(5, dtype=int)[ALL]
    cases = {
        "at most two skips": (
            [count_between(STRUCTURE, "cell", [SKIP], upper=2)], taken[:, :, SKIP].sum(axis=1) <= 2,
        ),
        "three convolutions": (
            [count_between(STRUCTURE, "cell", [CONV1, CONV3], 3)], taken[:, :, [CONV1, CONV3]].sum(axis=(1, 2)) >= 3,
        ),
        "a forbidden pair": (
            [forbidden(STRUCTURE, ("cell", 0, SKIP), ("cell", 5, SKIP))], (ALL[:, 0] != SKIP) | (ALL[:, 5] != SKIP),
        ),
    }  # fmt: skip
    for constraints, meets in cases.values():
        assert not meets[value.argmax()]
        row = np.flatnonzero(meets)[value[meets].argmax()]
        assert np.asarray(solve(STRUCTURE, scores, constraints)[0].arch).tolist() == ALL[row].tolist()


def test_after_the_last_architecture_there_is_none():
    scores, _ = draw(40)
    fixed = [count_between(STRUCTURE, "cell", [NONE], 5), count_between(STRUCTURE, "cell", [CONV3], 1)]
    found = solve(STRUCTURE, scores, fixed, count=50)
    assert len(found) == 6
    values = [each.value for each in found]
    assert values == sorted(values, reverse=True)
    assert len({tuple(np.asarray(each.arch).tolist()) for each in found}) == 6


def test_an_infeasible_budget_says_what_could_be_met():
    scores, latency = draw(50)
    smallest = added(COSTS.params).min() + COSTS.constant["params"]
    convolutions = count_between(STRUCTURE, "cell", [CONV3], 3)
    with pytest.raises(hardware.InfeasibleError) as error:
        solve(STRUCTURE, scores, [cost_budget(COSTS, "params", smallest - 1)])
    assert error.value.conflicts == ("params",)
    assert f"the smallest feasible is {smallest - COSTS.constant['params']}" in str(error.value)
    # Two that conflict, and a third that has nothing to do with it.
    three = 3 * COSTS.params["cell"][0, CONV3]
    limit = three + COSTS.constant["params"] - 1
    loose = budget("latency", latency, 100.0)
    with pytest.raises(hardware.InfeasibleError) as error:
        solve(STRUCTURE, scores, [loose, cost_budget(COSTS, "params", limit), convolutions])
    assert error.value.conflicts == ("params", convolutions.name)
    assert f"the smallest feasible is {three} beside the other" in str(error.value)
    assert "the greatest feasible is 2 beside the other" in str(error.value)
    assert hardware.reachable(STRUCTURE, convolutions, [cost_budget(COSTS, "params", limit)]) == (0, 2)


def test_the_pareto_front_is_that_of_all_cells():
    rng = np.random.default_rng(60)
    scores = {"cell": rng.normal(size=(6, 5))}
    value, cost = added(scores), added(COSTS.params)
    front = []
    for row in np.lexsort((-value, cost)):
        if not front or value[row] > value[front[-1]] + 1e-9:
            front.append(row)
    found = pareto(STRUCTURE, scores, COSTS.params)
    assert [each.uses["cost"] for each in found] == cost[front[::-1]].tolist()
    assert [each.value for each in found] == pytest.approx(value[front[::-1]].tolist())
    assert len(pareto(STRUCTURE, scores, COSTS.params, points=2)) == 2


@pytest.mark.parametrize("limit", [0.05, 0.5, 1.0])
def test_darts_cells_have_two_edges_a_node(limit):
    """Two nodes, three operations: 2,304 architectures, all counted."""
    operations = ("none", "skip_connect", "sep_conv_3x3")
    space = darts_space(2, operations)
    sizes = [len(choice.options) for choice in space.choices]
    archs = np.array(list(itertools.product(*map(range, sizes))), np.int32)
    table = darts_cost_table(Skeleton(8, 6, (16, 16, 3), 10), 2, operations)
    rng = np.random.default_rng(1)
    scores = {kind: rng.normal(size=value.shape) for kind, value in table.params.items()}
    taken = one_hots(space, archs)
    present = {kind: value * (np.array(operations) != "none") for kind, value in taken.items()}
    value = sum(np.einsum("aso,so->a", present[kind], scores[kind]) for kind in scores)
    macs = sum(np.einsum("aso,so->a", taken[kind], table.macs[kind]) for kind in scores) + table.constant["macs"]
    meets = macs <= np.quantile(macs, limit)
    structure = hardware.two_edges_a_node(space, 2, operations)
    found = solve(structure, scores, [cost_budget(table, "macs", float(np.quantile(macs, limit)))], count=2)
    order = np.flatnonzero(meets)[np.argsort(-value[meets])][:2]
    assert [np.asarray(each.arch).tolist() for each in found] == archs[order].tolist()
    assert found[0].value == pytest.approx(value[order[0]])


def test_an_additive_fit_finds_what_adds_up_and_tells_what_does_not():
    scores, _ = draw(70)
    rng = np.random.default_rng(0)
    rows = rng.choice(len(ALL), 200, replace=False)
    others = np.setdiff1d(np.arange(len(ALL)), rows)
    fit = hardware.fit_additive(SPACE, ALL[rows], 7 + added(scores)[rows])
    np.testing.assert_allclose(hardware.sums(SPACE, fit, ALL[others]), 7 + added(scores)[others], atol=1e-6)
    exact = hardware.additivity(SPACE, fit, ALL[others], 7 + added(scores)[others])
    assert exact == pytest.approx((1.0, 1.0))
    noise = rng.normal(size=len(ALL)) * added(scores).std()
    noisy = hardware.additivity(SPACE, fit, ALL[others], (7 + added(scores) + noise)[others])
    assert noisy.r2 == pytest.approx(0.5, abs=0.03)
    assert noisy.tau == pytest.approx(2 / np.pi * np.arcsin(np.sqrt(0.5)), abs=0.02)  # of a normal pair


def test_what_is_fitted_can_be_maximized():
    scores, _ = draw(80)
    fit = hardware.fit_additive(SPACE, ALL[::17], added(scores)[::17])
    assert isinstance(fit, AdditiveFit)
    best = solve(STRUCTURE, fit.scores)[0]
    assert np.asarray(best.arch).tolist() == ALL[added(scores).argmax()].tolist()
    assert best.value + fit.constant == pytest.approx(added(scores).max())


def test_latencies_are_sums_over_cells_and_come_back_from_a_file(tmp_path):
    """With a made-up clock: one that says how many values an operation reads."""

    def timer(operation, channels, stride, size):
        return 0.0 if operation == "none" else len(operation) + channels * size[0] * size[1] / stride

    skeleton = Skeleton(4, 2, (8, 8, 3), 10)
    table = hardware.nasbench201_latency(skeleton, 32, timer)
    each = 2 * sum(len("avg_pool_3x3") + (4 << stage) * (8 >> stage) ** 2 for stage in range(3))
    assert table.milliseconds["cell"][:, POOL].tolist() == [each] * 6
    assert not table.milliseconds["cell"][:, NONE].any()
    hardware.save_latency(table, tmp_path / "latency.json")
    again = hardware.load_latency(tmp_path / "latency.json")
    assert again[:3] == table[:3]
    np.testing.assert_array_equal(again.milliseconds["cell"], table.milliseconds["cell"])
    darts = hardware.darts_latency(Skeleton(4, 3, (8, 8, 3), 10), 32, timer, 1, ("none", "max_pool_3x3"))
    # Cell 0 is normal, of 4 channels at 8×8; cells 1 and 2 reduce, of 8 channels at 8×8 and of 16 at 4×4, stride 2.
    assert darts.milliseconds["normal"][:, 1].tolist() == [12 + 4 * 64] * 2
    assert darts.milliseconds["reduce"][:, 1].tolist() == [12 + 8 * 32 + 12 + 16 * 8] * 2


def test_an_operation_is_timed_warm():
    timer = hardware.operation_timer(2, repeats=3)
    first = timer("nor_conv_1x1", 4, 1, (4, 4))
    assert first > 0
    assert timer("nor_conv_1x1", 4, 1, (4, 4)) == first  # measured once
    assert timer("none", 4, 1, (4, 4)) == timer("skip_connect", 4, 1, (4, 4)) == 0
    calls = []
    milliseconds = hardware.median_milliseconds(lambda x: calls.append(x), 5, repeats=4, warm=2)
    assert len(calls) == 6
    assert milliseconds >= 0


WRONG = {
    "shapes": (lambda: solve(STRUCTURE, {"cell": np.zeros((6, 4))}), "(6, 5)"),
    "a missing score": (lambda: solve(STRUCTURE, {"cell": np.full((6, 5), np.nan)}), "not finite"),
    "a constraint of another space": (
        lambda: solve(STRUCTURE, draw(0)[0], [Constraint("mine", {"normal": np.zeros((6, 5))})]), "mine",
    ),
    "no solution": (lambda: solve(STRUCTURE, draw(0)[0], count=0), "count"),
    "missing values": (lambda: hardware.fit_additive(SPACE, ALL[:3], [1.0, np.nan, 2.0]), "1 values are missing"),
    "a value too few": (lambda: hardware.fit_additive(SPACE, ALL[:3], [1.0, 2.0]), "[3]"),
    "no repeats": (lambda: hardware.median_milliseconds(len, (), repeats=0), "repeat"),
    "an empty batch": (lambda: hardware.operation_timer(0), "batch"),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(WRONG))
def test_wrong_input_names_the_value(case):
    call, expected = WRONG[case]
    with pytest.raises(ValueError, match=re.escape(expected)):
        call()


@pytest.mark.parametrize(
    "text", ["", "[]", '{"device": "a", "batch": 1, "options": ["x"], "milliseconds": {"c": [1]}}']
)
def test_a_damaged_table_of_latencies_is_named(text, tmp_path):
    (tmp_path / "broken.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"broken\.json.*write it with save_latency"):
        hardware.load_latency(tmp_path / "broken.json")


def test_taken_options_become_the_architecture():
    arch = jnp.asarray([0, 1, 2, 3, 4, 0], jnp.int32)
    taken = {kind: np.asarray(value) for kind, value in SPACE.one_hot(arch).items()}
    assert jax.numpy.array_equal(STRUCTURE.to_arch(taken), arch)


def test_the_best_of_pairs_is_that_of_all_cells():
    """Random scores of all pairs, with a limit that has pairs too, against enumeration."""
    pairs = hardware.all_pairs(SPACE)
    structure = hardware.together(STRUCTURE, pairs)
    rng = np.random.default_rng(7)
    scores, latency = ({kind: rng.normal(size=shape) for kind, shape in structure.shapes.items()} for _ in range(2))
    value, time = (
        hardware.pairwise_sums(SPACE, hardware.PairwiseFit(0.5, each, 0.0), ALL, pairs) for each in (scores, latency)
    )
    limit = np.quantile(time, 0.1)
    meets = time <= limit
    found = solve(structure, scores, [budget("latency", latency, limit, 0.5)], count=3)
    order = np.flatnonzero(meets)[np.argsort(-value[meets])][:3]
    assert [np.asarray(each.arch).tolist() for each in found] == ALL[order].tolist()
    assert found[0].value + 0.5 == pytest.approx(value[order[0]])


def test_what_of_two_slots_is_taken_together_where_slots_may_be_empty():
    """Of DARTS cells, whose edges may have no operation: against every cell of two nodes and two operations."""
    operations = ("skip_connect", "sep_conv_3x3")
    space = darts_space(nodes=2, operations=operations)
    pairs = [(("normal", 0), ("normal", 1)), (("normal", 0), ("reduce", 3)), (("normal", 2), ("normal", 4))]
    structure = hardware.together(hardware.two_edges_a_node(space, 2, operations), pairs)
    rng = np.random.default_rng(8)
    scores = {kind: rng.normal(size=shape) for kind, shape in structure.shapes.items()}
    archs = np.array(list(itertools.product(*(range(len(choice.options)) for choice in space.choices))), np.int32)
    values = hardware.pairwise_sums(space, hardware.PairwiseFit(0.0, scores, 0.0), archs, pairs)
    found = solve(structure, scores, count=2)
    assert [each.value for each in found] == pytest.approx(np.unique(values.round(9))[::-1][:2])


def test_a_fit_of_pairs_finds_those_that_act_together_and_only_where_there_are_any():
    pairs = hardware.all_pairs(SPACE)
    rng = np.random.default_rng(9)
    archs = ALL[rng.choice(len(ALL), 300, replace=False)]
    one, two = rng.normal(size=(6, 5)), rng.normal(size=(5, 5))

    def worth(archs, share):
        return one[np.arange(6), archs].sum(axis=1) + share * two[archs[:, 1], archs[:, 4]]

    assert hardware.strongest_pairs(SPACE, archs, worth(archs, 1.0), 1) == [(("cell", 1), ("cell", 4))]
    fit = hardware.fit_pairwise(SPACE, archs, worth(archs, 1.0), pairs[:0] + [(("cell", 1), ("cell", 4))])
    np.testing.assert_allclose(
        hardware.pairwise_sums(SPACE, fit, ALL, [(("cell", 1), ("cell", 4))]), worth(ALL, 1.0), atol=0.02
    )
    # Noise of variance 1 on a sum: what leaving one out says is about what the others have, and pairs do not spoil it.
    noisy = worth(archs, 0.0) + rng.normal(size=300)
    fit = hardware.fit_pairwise(SPACE, archs, noisy, pairs)
    others = hardware.pairwise_sums(SPACE, fit, ALL, pairs) - worth(ALL, 0.0)
    assert 0.9 < fit.error < 1.2
    assert others.std() < 0.5


def test_the_error_of_a_fit_is_that_of_leaving_one_out():
    rng = np.random.default_rng(10)
    archs, values = ALL[rng.choice(len(ALL), 40, replace=False)], rng.normal(size=40)
    error = []
    for row in range(40):
        rest = np.arange(40) != row
        fit = hardware.fit_additive(SPACE, archs[rest], values[rest])
        error.append(hardware.sums(SPACE, fit, archs[row : row + 1])[0] - values[row])
    assert hardware.fit_pairwise(SPACE, archs, values, []).error == pytest.approx(np.square(error).mean() ** 0.5)
