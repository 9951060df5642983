"""The leaderboard: what a line is known by, which seeds are left, and that its page has what was found."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from scipy import stats

from benchmarks import leaderboard
from benchmarks.leaderboard import BOARDS, METHODS, ByTable, groups, of_table, rows, searched, table, told
from benchmarks.leaderboard_page import by_skips, curve_of, edges_table, epochs_table
from jaxnas import fit
from jaxnas.benchmarks import named_table
from jaxnas.catalog import entry_of
from jaxnas.data import load_dataset
from jaxnas.fit.candidates import make_finalists
from jaxnas.spaces import nasbench201_space

DOCS = pathlib.Path(__file__).parents[1] / "docs"


def test_seeds_that_are_left_are_searched_in_runs():
    assert groups([0, 1, 2, 3, 7, 8, 11], 3) == [(0, 3), (3, 1), (7, 2), (11, 1)]
    assert groups([], 3) == []


def test_a_line_counts_for_its_method_its_settings_and_its_seed():
    method = METHODS["drnas"]
    other = dataclasses.replace(method, epochs=3)
    assert told(method) != told(other)
    assert "drnas" in told(method)
    assert len({told(method) for method in METHODS.values()}) == len(METHODS)
    lines = [
        {"method": "drnas", "seed": seed, "settings": told(own), "beside": {"random": {"value": 1.0}}, "seconds": 2.0}
        for own, seed in ((method, 0), (method, 5), (other, 1), (method, 1))
    ]
    found = rows({"drnas": method, "gdas": METHODS["gdas"]}, lines, range(2))
    assert [line["seed"] for line in found["drnas"]] == [0, 1]
    assert found["drnas: random"] == [{"value": 1.0, "seconds": 2.0}] * 2
    assert found["gdas"] == []


def test_the_page_has_the_tables_of_the_searches_that_are_kept():
    lines = [json.loads(line) for line in (DOCS / "leaderboard" / "digits201.jsonl").read_text().splitlines()]
    every = np.asarray(named_table("digits201")[0].metrics["test"])
    found = rows(METHODS, lines, range(20))
    page = (DOCS / "leaderboard.md").read_text()
    found = {name: own for name, own in found.items() if own}
    for made in (table(found, every), epochs_table(found, every), edges_table(found)):
        assert made.strip() in page
    values = [line["value"] for line in found["darts_minus"]]
    assert stats.mannwhitneyu(values, every, alternative="greater").pvalue < 1e-6
    assert all(len(own) == 20 for own in found.values())


def test_a_search_that_ended_early_holds_what_it_found():
    own = [{"curve": [1.0, 2.0, 3.0], "value": 3.0}, {"curve": [4.0], "value": 5.0}]
    assert curve_of(own).tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 5.0]]


def test_the_page_has_what_was_found_on_cifar10():
    lines = [json.loads(line) for line in (DOCS / "leaderboard" / "cifar10_small.jsonl").read_text().splitlines()]
    methods = BOARDS["cifar10_small"].methods
    page = (DOCS / "leaderboard.md").read_text()
    shown = {name: own for name, own in rows(methods, lines, range(4)).items() if own}
    assert len(shown) >= 5
    for name, own in shown.items():
        values = np.array([line["value"] for line in own])
        error = values.std(ddof=1) / np.sqrt(len(values))
        assert f"| {name} | {len(own)} | {values.mean():.2f} ± {error:.2f} |" in page
    assert edges_table(shown).strip().splitlines()[-1] in page


def test_the_page_has_the_means_of_cells_by_their_skip_connections():
    space, truth = nasbench201_space(), fit.truth_of("digits201", nasbench201_space())
    counts = np.array([str(space.to_genotype(arch)).count("skip_connect") for arch in np.asarray(truth.table.archs)])
    means = by_skips(truth)
    assert len(means) == 7
    for count, mean in enumerate(means):
        assert mean == pytest.approx(truth.values[counts == count].mean(), abs=1e-3)
    none, one, two, three = (f"{mean:.1f}" for mean in means[:4])
    page = " ".join((DOCS / "leaderboard.md").read_text().split())
    assert f"a mean of {none}, those with one {one}, with two {two}, with three {three}" in page


class Long(fit.Truth):
    """A table whose trainings take far longer than any search."""

    def column(self, metric):
        return super().column(metric) * (1e6 if metric == "seconds" else 1)


def test_finalists_are_looked_up_and_cost_what_their_trainings_take_by_the_table():
    truth = Long(*fit.truth_of("digits201", nasbench201_space()))
    method = fit.OneShot(
        epochs=1, batch_size=64, channels=2, cells=1, valid_part=0.2,
        scoring=fit.Scoring("batch", 90, 2, evaluations=16, population=8, limit=90), finalists=fit.Finalists(3, 8),
    )  # fmt: skip
    asked = []

    def noted(values):
        look_up = of_table(values)

        def look(seed, arch):
            asked.append(arch)
            return look_up(seed, arch)

        return look

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaderboard, "of_table", noted)
        (line,) = searched(ByTable(method), 0, 1, load_dataset("digits201"), truth, "float32")
    row = truth.rows(np.stack(asked))
    assert len(set(row.tolist())) == 3
    best = row[truth.column("valid")[row].argmax()]
    assert line["value"] == truth.values[best]
    assert line["seconds"] > truth.column("seconds")[row].sum()
    assert line["beside"] == {}


def test_values_that_were_looked_up_and_trainings_do_not_come_into_one_folder(tmp_path):
    truth, space, finalists = fit.truth_of("digits201", nasbench201_space()), nasbench201_space(), fit.Finalists(2, 8)
    training = fit.preset("darts", "nasbench201").training
    problem = fit.Problem(
        entry_of("nasbench201"), load_dataset("digits201"), training, space, None, evaluate=of_table(truth)
    )
    archs = np.asarray(truth.table.archs)[[5, 900]]
    found = make_finalists(problem, finalists)(archs, 0, tmp_path, lambda: None, "finalist")
    np.testing.assert_array_equal(found, truth.column("valid")[[5, 900]] / 100)
    with pytest.raises(ValueError, match="trained"):
        make_finalists(problem._replace(evaluate=None), finalists)(archs, 0, tmp_path, lambda: None, "finalist")
