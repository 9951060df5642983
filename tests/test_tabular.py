"""The experiment and the benchmark on tables: what they write, what they show, and wrong input."""

import csv
import itertools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from benchmarks import tabular_search
from experiments import tabular
from jaxnas import command
from jaxnas.base import Candidates, Choice, Sampler
from jaxnas.benchmarks import digits201_table, make_table, named_table, save_table
from jaxnas.files import read_json
from jaxnas.samplers import Trace, evolution, over_seeds, random_search, simulate
from jaxnas.samplers.nondominated import front
from jaxnas.tabular import Plan, compare, hypervolume, make_setting, run_comparison, text_table
from jaxnas.tabular.outcome import evaluations_to_best, quantiles_to_best, regret_curve
from jaxnas.testing import check_sampler

METHODS = ("random", "annealing", "hyperband")


@pytest.fixture(scope="module")
def table():
    return digits201_table()


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tabular")
    return [
        *("--methods", ",".join(METHODS), "--seeds", "60", "--evaluations", "80", "--time-budget", "2000"),
        *("--front-metrics", "valid,-macs"),
        *("--workdir", str(folder / "run"), "--cache-dir", str(folder / "cache")),
    ]


def test_a_run_writes_table_curves_and_report_and_is_taken_up_again(arguments, table, tmp_path, capsys):
    config_dir = arguments[arguments.index("--workdir") + 1]
    before = jax.config.jax_compilation_cache_dir
    try:
        command.main(tabular.main, tabular.Config, arguments)
        first = capsys.readouterr().out
        command.main(tabular.main, tabular.Config, arguments)
        again = capsys.readouterr().out
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert again == first
    folder = type(tmp_path)(config_dir)
    result = read_json(folder / "result.json")
    test = np.asarray(table.metrics["test"], np.float64)
    assert result["optimum"] == test.max()
    with open(folder / "table.csv", newline="", encoding="utf-8") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert tuple(rows) == METHODS
    for name, row in rows.items():
        stage = read_json(folder / "stages" / name / "done.json")
        final = np.array(stage["final"])
        assert np.isin(final, test).all()
        assert float(row["mean"]) == pytest.approx(final.mean())
        assert float(row["q25"]) == pytest.approx(np.quantile(final, 0.25))
        assert float(row["mean_regret"]) == pytest.approx(test.max() - final.mean())
        assert float(row["seconds"]) <= 2000
        assert float(row["evaluations"]) <= 80
        met = [number for number in stage["evaluations_to_best"] if number is not None]
        assert float(row["met_best"]) == len(met) / 60
        assert all(1 <= number <= 80 for number in met)
        for curve in stage["curves"].values():
            low, mean, high = (np.array(curve[part]) for part in ("low", "mean", "high"))
            assert (low <= mean).all()
            assert (mean <= high).all()
            # The grid ends where the budget does, and with it the last value is that of the table.
            assert mean[-1] == pytest.approx(test.max() - final.mean(), abs=1e-6)
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    shares = {name: found["mean"] for name, found in result["front"]["methods"].items()}
    assert 0.5 < shares["random"] < shares["nondominated"] <= 1
    for picture in ("table.png", "regret_evaluations.png", "regret_seconds.png", "front.png"):
        assert picture in page
        assert (folder / "report" / picture).stat().st_size > 5000
    for name in METHODS:
        assert f"{name}: {float(rows[name]['mean']):.4g} ± " in page


def test_the_evaluation_that_met_the_best_is_counted_as_by_hand():
    searched = np.array([1.0, 5.0, np.nan, 5.0, 2.0])
    rows = np.array([[[0, -1], [4, 1], [3, 0]], [[-1, -1], [1, 0], [4, -1]], [[2, 4], [0, 0], [-1, 4]]])
    objectives = np.where(rows < 0, np.nan, searched[rows])[..., None]
    objectives[1, 1, 0] = 4.0  # the best row, of a lower fidelity
    trace = Trace(rows, objectives, None, None, None)
    np.testing.assert_array_equal(evaluations_to_best(trace, searched), [3, np.inf, np.inf])
    objectives[1, 1, 0] = 5.0
    np.testing.assert_array_equal(evaluations_to_best(trace, searched), [3, 1, np.inf])


def test_quantiles_beyond_what_was_met_are_none():
    told = quantiles_to_best([3, None, 9, None, 5])
    assert (told["met_best"], told["to_best_q25"], told["to_best_median"], told["to_best_q75"]) == (0.6, 5, 9, None)


def test_a_curve_is_the_last_value_that_was_paid_for():
    spent = np.array([[1.0, 3.0, 6.0], [2.0, 4.0, 5.0]])
    regret = np.array([[9.0, 5.0, 1.0], [7.0, 7.0, 3.0]])
    curve = regret_curve(spent, regret, np.array([1.0, 2.0, 3.0, 5.0, 6.0, 7.0]))
    assert curve["x"] == [2.0, 3.0, 5.0, 6.0]  # at 1 one has nothing yet; at 7 there is no more
    assert curve["mean"] == [8.0, 6.0, 4.0, 2.0]
    half = 1.96 * np.std([9.0, 7.0], ddof=1) / np.sqrt(2)
    assert curve["high"][0] - curve["mean"][0] == pytest.approx(half)


def test_evolution_beats_random_and_plain_python_finds_the_same(table):
    config = tabular_search.Config(runs=300, evaluations=120, population=20, sample_size=5)
    test = np.asarray(table.metrics["test"])
    archs = [tuple(arch) for arch in np.asarray(table.archs).tolist()]
    values = dict(zip(archs, np.asarray(table.metrics["valid"])[:, -1].tolist(), strict=True))
    reported = dict(zip(archs, test.tolist(), strict=True))
    rng = random.Random(1)
    plain = np.array([reported[tabular_search.plain(values, [5] * 6, config, rng)] for _ in range(config.runs)])
    sampler = evolution(table.moves, population=20, sample_size=5)
    run = over_seeds(simulate(sampler, table, "valid", steps=120))
    ours = test[np.asarray(run(jax.random.split(jax.random.key(0), 300))[1].best[:, -1])]
    error = np.sqrt((plain.var(ddof=1) + ours.var(ddof=1)) / 300)
    assert abs(plain.mean() - ours.mean()) < 4 * error
    draw = np.random.default_rng(0)
    drawn = draw.integers(0, len(archs), (300, 120))
    valid = np.asarray(table.metrics["valid"])[:, -1]
    at_random = test[drawn[np.arange(300), valid[drawn].argmax(axis=1)]]
    assert stats.mannwhitneyu(ours, at_random, alternative="greater").pvalue < 1e-10


@pytest.fixture(scope="module")
def own():
    """A table of one's own: 12 architectures of two choices; the best by "guess" is the third best by "truth"."""
    choices = (Choice("kernel", ("3", "5", "7")), Choice("width", ("8", "16", "32", "64")))
    archs = np.array(list(itertools.product(range(3), range(4))))
    guess = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 7, 8], float)
    truth = np.array([2, 7, 1, 8, 2, 8.25, 1, 8.75, 2, 0.5, 5, 8.5])
    return make_table("own", choices, archs, {"guess": guess, "truth": truth, "hours": 1 + guess / 10})


def in_turn(table, first):
    """A sampler of one's own, without chance: the rows one after another."""

    def ask(key, state):
        return Candidates(table.archs[state[0] % 12][None], jnp.full(1, -1, jnp.int32), jnp.ones(1, bool))

    def tell(key, state, candidates, objectives, valid):
        at, arch, value = state
        better = valid[0] & (objectives[0, 0] > value)
        return at + 1, jnp.where(better, candidates.archs[0], arch), jnp.where(better, objectives[0, 0], value)

    def init(key):
        return jnp.int32(first), table.archs[0], jnp.float32(-jnp.inf)

    return Sampler(init, ask, tell, best=lambda state: state[1][None])


def test_samplers_of_ones_own_are_compared_in_a_few_lines(own, tmp_path, capsys):
    check_sampler(in_turn(own, 0), own.choices)
    samplers = {"random": random_search(own.moves), "early": in_turn(own, 4), "late": in_turn(own, 6)}
    found = compare(own, samplers, search="guess", report="truth", evaluations=5, seeds=30, time="hours")
    random, early, late = found.rows
    assert (early["mean"], early["std"], early["to_best_median"], early["met_best"]) == (8.25, 0, 2, 1)
    assert early["seconds"] == pytest.approx(5 + (5 + 9 + 2 + 6 + 5) / 10)
    assert early["mean_regret"] == 0.5
    assert (late["mean"], late["met_best"], late["to_best_median"]) == (5, 0, None)  # of rows 6 to 10 by "guess"
    assert early["p_against_random"] < 0.5 < 0.99 < late["p_against_random"]
    assert random["std"] > 1
    text = text_table(found.rows)
    assert [line.split()[0] for line in text.splitlines()] == ["method", "random", "early", "late"]
    # The same in a folder, where a sampler may join those that have run.
    setting = make_setting(own, search="guess", report="truth", evaluations=5, time="hours")
    run_comparison(tmp_path, setting, {"random": samplers["random"]}, seeds=30)
    capsys.readouterr()
    assert run_comparison(tmp_path, setting, samplers, seeds=30).rows == found.rows
    assert text in capsys.readouterr().out


def test_a_sampler_that_wants_less_than_it_asks_for_has_a_plan(own):
    sampler = random_search(own.moves, batch=4)
    half = sampler._replace(ask=lambda key, state: sampler.ask(key, state)._replace(wanted=jnp.arange(4) < 2))
    samplers = {"alone": half, "planned": Plan(half, 6, "it was planned so")}
    found = compare(own, samplers, search="guess", report="truth", evaluations=13, seeds=2)
    assert [row["evaluations"] for row in found.rows] == [8, 12]
    assert found.notes[1] == "planned measured 12 rows a run and 12 in one, not 13: it was planned so"


def test_what_cannot_be_compared_is_refused(own):
    lacking = make_table("lacking", own.choices, own.archs, {**own.metrics, "truth": np.full(12, np.nan)})
    one = {"random": random_search(own.moves)}
    for table, samplers, changed, expected in (
        (own, {}, {}, "at least one sampler"),
        (own, one, {"seeds": 0}, "seeds must be positive, got 0"),
        (own, one, {"search": "gess"}, "'gess'"),
        (own, one, {"time_budget": 3.0}, "needs a time metric"),
        (lacking, one, {}, "12 architectures that can be found by 'guess' have no 'truth'"),
    ):
        with pytest.raises(ValueError, match=expected):
            compare(table, samplers, **{"search": "guess", "report": "truth", "evaluations": 5, **changed})


def test_on_a_table_with_gaps_coverage_is_said_first_and_budgets_are_equal(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    cells = [(a, b, c) for a in (3, 5, 7) for b in "xyz" for c in (1, 2) if ((a + c) % 4 and b != "z") or a == 7]
    lines = [f"{a},{b},{c},{a * c + len(b)},{'' if (a, b) == (7, 'z') else c}" for a, b, c in cells]
    (tmp_path / "sparse.csv").write_text("\n".join(["a,b,c,good,seen", *lines]), encoding="utf-8")
    before = jax.config.jax_compilation_cache_dir
    try:
        given = ("--table", str(tmp_path / "sparse.csv"), "--encoding", "a,b,c", "--search-metric", "seen")
        budget = ("--report-metric", "good", "--methods", "random,reinforce,predictor", "--seeds", "4")
        more = ("--evaluations", "25", "--front-metrics", "seen,-good", "--workdir", str(tmp_path / "run"))
        command.main(tabular.main, tabular.Config, [*given, *budget, *more])
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    said = capsys.readouterr().out
    there = sum(not line.endswith(",") for line in lines)
    assert said.startswith(f"sparse: {len(cells)} of the 18 architectures are in the table, {there} (")
    result = read_json(tmp_path / "run" / "result.json")
    assert result["coverage"] == {"space": 18, "rows": len(cells), "measured": there, "sparse": False}
    counts = {row["method"]: row["evaluations"] for row in result["methods"]}
    assert counts.pop("predictor") < 25  # it measures none twice after its start, and there are fewer
    assert set(counts.values()) == {25}
    assert len(result["notes"]) == 1
    assert result["notes"][0] in said
    page = (tmp_path / "run" / "report" / "index.html").read_text(encoding="utf-8")
    assert f"{len(cells)} of the 18 architectures" in page


WRONG = {
    "no such benchmark": (["--table", "digits2001"], "digits2001"),
    "no such method": (["--methods", "random,bohb"], "'bohb'"),
    "no such metric": (["--search-metric", "vaild"], "'vaild'"),
    "no such time": (["--time-metric", "hours", "--time-budget", "5"], "'hours'"),
    "no seeds": (["--seeds", "0"], "seeds must be at least 1, got 0"),
    "no time for anything": (["--methods", "random", "--seeds", "2", "--time-budget", "0.5"], "allow more"),
    "a front of one": (["--front-metrics", "valid"], "two metrics"),
    "one fidelity": (["--methods", "halving", "--search-metric", "valid@4"], "several fidelities"),
    "a table without usual metrics": (["--table", "OTHER", "--encoding", "a,b"], "--search-metric: good"),
    "a table that does not say what it holds": (["--table", "OTHER"], "--encoding"),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_wrong_input_is_one_line_and_exit_code_two(case, tmp_path, capsys, monkeypatch):
    given, expected = WRONG[case]
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    other = tmp_path / "other.csv"
    other.write_text("a,b,good\n0,0,1\n0,1,2\n1,0,3\n", encoding="utf-8")
    given = [str(other) if argument == "OTHER" else argument for argument in given]
    with pytest.raises(SystemExit) as stopped:
        command.main(tabular.main, tabular.Config, [*given, "--workdir", str(tmp_path / "run")])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.count("\n") == 1
    assert expected in error


def test_a_file_is_a_benchmark_too(table, tmp_path):
    save_table(table, tmp_path / "mine.npz")
    found, usual = named_table(str(tmp_path / "mine.npz"))
    assert usual == {"search": "valid", "report": "test", "time": "seconds"}
    np.testing.assert_array_equal(found.metrics["valid"], table.metrics["valid"])


def test_a_table_may_be_called_otherwise_but_not_change_between_two_starts(tmp_path, capsys, monkeypatch):
    rows = ["0,0,1", "0,1,2", "1,0,8", "1,1,3"]

    def write(path, rows):
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(["a,b,good", *rows, ""]), encoding="utf-8")

    def start(benchmark):
        given = ["--table", benchmark, "--encoding", "a,b", "--methods", "random", "--seeds", "2"]
        given += ["--search-metric", "good", "--report-metric", "good", "--evaluations", "4"]
        command.main(tabular.main, tabular.Config, [*given, "--workdir", "run"])
        return capsys.readouterr().out

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    write(tmp_path / "t.csv", rows)
    first = start("t.csv")
    done = (tmp_path / "run" / "stages" / "random" / "done.json").read_bytes()
    assert "the best of t has 8.0000" in first
    (tmp_path / "link.csv").symlink_to("t.csv")
    for spelling in ("./t.csv", str(tmp_path / "t.csv"), "link.csv"):
        assert "has 8.0000" in start(spelling)
    write(tmp_path / "elsewhere" / "cells.csv", [row.replace(",", ", ") for row in rows])
    assert "the best of cells has 8.0000" in start("elsewhere/cells.csv")
    assert (tmp_path / "run" / "stages" / "random" / "done.json").read_bytes() == done
    for edited, told in (
        ([*rows[:2], "1,0,0.8", rows[3]], "(table: the content has changed since, its checksum is another)"),
        (rows[:3], "(table.rows: 4 there, 3 now)"),
    ):
        write(tmp_path / "t.csv", edited)
        with pytest.raises(SystemExit) as stopped:
            start("t.csv")
        assert stopped.value.code == 2
        assert told in capsys.readouterr().err


def test_front_and_hypervolume_by_brute_force():
    points = np.random.default_rng(3).integers(0, 12, (40, 2)).astype(float)
    points[7] = np.nan
    there = np.delete(points, 7, axis=0)
    best = {tuple(p) for p in there if not ((there >= p).all(axis=1) & (there > p).any(axis=1)).any()}
    found = points[front(points)]
    assert [tuple(p) for p in found] == sorted(best, reverse=True)
    # Unit squares of the grid above the reference that some point covers.
    squares = sum((there > [x, y]).all(axis=1).any() for x in range(1, 12) for y in range(1, 12))
    assert hypervolume(found, np.array([1.0, 1.0])) == squares
    assert hypervolume(there, np.array([1.0, 1.0])) == squares
