"""What was found beside random architectures: of equal cost, on a table small enough to do by hand, and trained."""

import itertools

import numpy as np
import pytest

from jaxnas import fit
from jaxnas.benchmarks import make_table
from jaxnas.fit import equal_cost
from jaxnas.fit.equal_cost import peers, told
from jaxnas.fit.results import verdict
from jaxnas.spaces import product_space

# Two choices of three options: the value is ten times the first and the second, the cost 100 times the first.
ARCHS = np.array(list(itertools.product(range(3), range(3))))
SPACE = product_space("two", {"first": ["a", "b", "c"], "second": ["a", "b", "c"]})


def truth(macs):
    values = {"test": 10.0 * ARCHS[:, 0] + ARCHS[:, 1]}
    table = make_table("two", SPACE.choices, ARCHS, {**values, **({} if macs is None else {"macs": macs})})
    return fit.truth_of(table, SPACE, "test")


def compared(known, archs):
    return equal_cost.compared(known, archs, peers(known, archs))


def test_equal_cost_is_by_the_multiply_adds_of_the_table():
    known = truth(100.0 + 100.0 * ARCHS[:, 0])
    assert [sorted(own) for own in peers(known, [[1, 2], [2, 0]])] == [[10, 11, 12], [20, 21, 22]]
    near = truth(100.0 + np.array([0, 9, 10, 11, 12, 13, 14, 15, 16.0]))
    assert sorted(peers(near, [[0, 0]])[0]) == [0, 1, 2]  # 10 % more is still equal


def test_the_best_of_three_for_two_seeds_has_the_chance_of_one_in_nine():
    found = compared(truth(100.0 + 100.0 * ARCHS[:, 0]), [[0, 2], [2, 2]])
    assert (found["found"], found["random"]) == (12.0, 11.0)
    assert found["p"] == pytest.approx(1 / 9, abs=0.01)
    # Student's t of two values 20 apart: 12.7062 times their standard error, 10.
    np.testing.assert_allclose(found["found_interval"], [12 - 127.062, 12 + 127.062], atol=0.001)
    assert found["random_interval"] == [10.0, 12.0]  # of nine means the least and the greatest have 1/9 each
    assert "2 seeds" in told(found)


def test_one_seed_has_no_interval_and_a_table_without_costs_no_peers():
    assert compared(truth(None), [[0, 2]]) is None
    found = compared(truth(100.0 + 0.0 * ARCHS[:, 0]), [[2, 2]])
    assert (found["found_interval"], found["random_interval"]) == (None, None)
    assert found["p"] == pytest.approx(1 / 9, abs=0.01)
    assert told(found).startswith(
        "The cell found has 22.0 in the table. Random ones of equal cost (multiply-adds within 10%)"
    )


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ([0.91, 0.95], "what was found is better"),
        ([0.85, 0.95], "do not tell the search from chance"),
        ([0.50, 0.69], "worse than a random one"),
    ],
)
def test_a_report_says_whether_the_found_network_beat_the_best_random_one(interval, said):
    def row(value, interval):
        return {"test_accuracy": value, "test_interval": interval}

    random = {"random-1": row(0.6, [0.55, 0.65]), "random-2": row(0.8, [0.7, 0.9]), "resnet": row(0.99, [0.98, 1.0])}
    text = verdict({**row(sum(interval) / 2, interval), "metric": "accuracy", "baselines": random})
    assert said in text
    assert "the best of 2 random architectures" in text
    assert "80.00%" in text
    assert verdict({**row(0.5, [0.4, 0.6]), "metric": "accuracy", "baselines": {"resnet": random["resnet"]}}) is None


def test_a_report_says_first_what_a_table_knows():
    found = compared(truth(100.0 + 0.0 * ARCHS[:, 0]), [[2, 2]])
    result = {"metric": "accuracy", "baselines": {}, "truth": {"equal_cost": found}}
    assert verdict(result) == told(found)
