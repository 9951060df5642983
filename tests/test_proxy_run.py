"""Proxies over a space in a run folder, beside a table, and what becomes of the scores."""

import os

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from experiments import proxies as program
from jaxnas import data, proxies
from jaxnas.benchmarks import functional_classes, make_table
from jaxnas.catalog import entry_of
from jaxnas.fit.budget import make_budget
from jaxnas.fit.filtering import proxy_score
from jaxnas.fit.select import select
from jaxnas.spaces import nasbench201_space
from jaxnas.supernets import nasbench201_supernet
from jaxnas.tabular import known, make_network, run_proxies
from jaxnas.tabular.proxies import correlations, reached, score_archs, with_scores
from jaxnas.train.stop import Stopped

SPACE = nasbench201_space()
EVERY = np.array(np.unravel_index(np.arange(5**6), (5,) * 6)).T.astype(np.int32)
CELLS = EVERY[np.random.default_rng(0).choice(len(EVERY), 30, replace=False)]
"""With edges that have no effect among them."""


@pytest.fixture(scope="module")
def network():
    names = ["layers", "params", "macs", "l2_norm"]
    return make_network(entry_of("nasbench201"), data.load_dataset("digits"), names, channels=2, cells=1, batch_size=8)


def test_reached_cells_are_those_of_the_published_figures():
    there = reached(EVERY)
    assert there.sum() == 9445
    assert not reached(np.array([[3, 0, 0, 0, 0, 0]]))[0]  # nothing reads what the edge gives


def test_scores_of_costs_are_the_cost_table_and_equal_functions_are_scored_once(network):
    scored = score_archs(network, CELLS)
    costs = [SPACE.costs(jnp.asarray(arch), network.skeleton) for arch in CELLS]
    for name in ("params", "macs"):
        np.testing.assert_array_equal(scored.scores[name], [cost[name] for cost in costs])
    classes = functional_classes(CELLS)
    for name in ("layers", "l2_norm"):
        by_class = {}
        for number, value in zip(classes, scored.scores[name], strict=True):
            assert by_class.setdefault(number, value) == value
    convolutions = np.array([2, 3])
    full = reached(CELLS)
    expected = np.isin(CELLS, convolutions).sum(axis=1) * 3 + 8  # of three stages; stem, two blocks, classifier
    np.testing.assert_array_equal(scored.scores["layers"][full], expected[full])


def test_a_run_is_correlated_taken_up_and_becomes_signals(network, tmp_path, capsys):
    value = np.asarray([SPACE.costs(jnp.asarray(arch), network.skeleton)["params"] for arch in CELLS], float) ** 2
    table = make_table("small", SPACE.choices, CELLS, {"worth": value})
    run = {"data_fingerprint": {}, "table": table, "metric": "worth"}
    first = run_proxies(tmp_path / "run", network, CELLS, **run)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "run" / "stages" / "scores").glob("*.npz")}
    assert kept
    rows = correlations(network, first, value)
    of = {(row["set"], row["proxy"]): row for row in rows}
    assert of["all", "params"]["tau"] == pytest.approx(1.0)
    assert of["all", "params"]["first"] == value.max()
    assert of["reached", "params"]["count"] == reached(CELLS).sum() < of["all", "params"]["count"] == 30
    assert of["all", "layers"]["tau"] == pytest.approx(stats.kendalltau(first.scores["layers"], value).statistic)
    again = run_proxies(tmp_path / "run", network, CELLS, **run)
    np.testing.assert_array_equal(first.scores["l2_norm"], again.scores["l2_norm"])
    assert first.seconds == again.seconds  # that of the scoring, not of the look at it
    assert (tmp_path / "run" / "report" / "proxies.png").exists()
    with pytest.raises(ValueError, match="holds a run of other settings"):
        run_proxies(tmp_path / "run", network._replace(seed=1), CELLS, **run)
    wide = with_scores(table, tmp_path / "run")
    assert set(wide.metrics) == {"worth", "layers", "params", "macs", "l2_norm"}
    order = np.argsort(np.asarray(wide.metrics["params"]), kind="stable")
    assert (np.diff(value[order]) >= 0).all()
    assert known(wide, ["params"]).signals == ("params",)
    with pytest.raises(ValueError, match="has a metric 'layers' already"):
        with_scores(wide, tmp_path / "run")
    more = make_table("more", SPACE.choices, EVERY[:40], {"worth": np.zeros(40)})
    with pytest.raises(ValueError, match="no scores of"):
        with_scores(more, tmp_path / "run" / "scores.npz")
    os.mkfifo(tmp_path / "pipe.npz")
    np.savez(tmp_path / "other.npz", cells=CELLS)
    np.savez(tmp_path / "texts.npz", archs=CELLS, scores=np.array(["much"] * len(CELLS)))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "other.npz").read_bytes()[:100])
    for name, said in (("pipe", "a pipe"), ("other", "no scores of"), ("texts", "no scores of"), ("cut", "not an npz")):
        with pytest.raises(ValueError, match=said):
            with_scores(table, tmp_path / f"{name}.npz")


def test_a_signal_stops_a_run_between_chunks_and_it_goes_on(network, tmp_path, capsys):
    calls = []

    def stop():
        calls.append(None)
        return 15 if len(calls) > 1 else None

    many = EVERY[5000:5400]
    with pytest.raises(Stopped):
        score_archs(network, many, tmp_path, stop)
    assert [path.name for path in tmp_path.glob("*.npz")] == ["00000.npz"]
    whole, resumed = score_archs(network, many), score_archs(network, many, tmp_path)
    np.testing.assert_array_equal(whole.scores["l2_norm"], resumed.scores["l2_norm"])
    part = tmp_path / "00001.npz"
    part.write_bytes(part.read_bytes()[:200])
    again = score_archs(network, many, tmp_path)
    np.testing.assert_array_equal(whole.scores["l2_norm"], again.scores["l2_norm"])
    assert "00001.npz" in capsys.readouterr().err


def test_aggregates_come_with_their_parts_and_rank_within_the_set(network):
    scores = {name: np.arange(30.0)[:: 1 if name != "macs" else -1] for name in proxies.AGGREGATES["az_nas"]}
    scores["az_nas"] = proxies.log_ranks(scores)
    names = proxies.checked_names(["az_nas"])
    scored = score_archs(network, CELLS)._replace(scores={name: scores[name] for name in names})
    rows = correlations(network._replace(names=names), scored, np.arange(30.0))
    inside = reached(CELLS)
    expected = proxies.log_ranks({name: scores[name][inside] for name in proxies.AGGREGATES["az_nas"]})
    tau = stats.kendalltau(expected, np.arange(30.0)[inside]).statistic
    (row,) = [row for row in rows if row["proxy"] == "az_nas" and row["set"] == "reached"]
    assert row["tau"] == pytest.approx(tau)


def test_a_filter_scores_what_a_proxy_ranks_first(network):
    budget = make_budget(entry_of("nasbench201"), SPACE, network.skeleton, {})
    asked = []

    def score(archs):
        asked.append(np.asarray(archs))
        return -np.asarray(archs).sum(axis=1).astype(float)

    chosen = select(
        score, SPACE, budget, by="proxy", evaluations=5, rank=lambda archs: (archs == 3).sum(axis=1) * 1.0, ranked=200
    )
    assert len(chosen.archs) == 5
    threes = (np.concatenate(asked) == 3).sum(axis=1)
    assert threes.min() >= 3, "the five of 200 with the most convolutions"
    assert chosen.value == max(chosen.scores)
    with pytest.raises(ValueError, match="needs `rank`"):
        select(score, SPACE, budget, by="proxy", evaluations=5)


def test_the_filter_of_a_search_is_the_proxy_of_its_supernet(network):
    """In chunks, of paths with random parameters."""
    digits, space = data.load_dataset("digits"), network.space
    budget = make_budget(entry_of("nasbench201"), space, network.skeleton, {})
    supernet = nasbench201_supernet(network.skeleton)
    many = EVERY[3000:3040]
    layers = proxy_score("layers", supernet, digits, digits.train, budget.costs, 0)(many)
    np.testing.assert_array_equal(layers, score_archs(network, many).scores["layers"])
    macs = proxy_score("macs", supernet, digits, digits.train, budget.costs, 0)(many)
    np.testing.assert_array_equal(macs, [space.costs(jnp.asarray(arch), network.skeleton)["macs"] for arch in many])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"proxies": "flops"}, "no proxy 'flops'"),
        ({"batch_size": 2}, "a batch has 4 to"),
        ({"sample": -1}, "sample must be"),
        ({"space": "none"}, "no space 'none'"),
        ({"space": "darts", "table": "digits201"}, "is no table over darts"),
        ({"table": "digits201", "sample": 10**6}, "more than the 15625 rows"),
    ],
)
def test_bad_input_is_told_before_any_work(given, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        program.main(program.Config(**{"proxies": "layers", **given}, workdir=str(tmp_path)))
