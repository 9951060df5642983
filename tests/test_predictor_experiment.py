"""The experiment on predictors: what it writes and shows, and wrong input; search by a predictor as a method."""

import csv
import re
import shutil

import jax
import numpy as np
import pytest
from scipy.stats import kendalltau

from experiments import predictor
from jaxnas import command
from jaxnas.base import Predictor
from jaxnas.benchmarks import digits201_table, functional_classes, load_table, make_table, named_table, save_table
from jaxnas.files import read_json
from jaxnas.spaces import darts_space, nasbench201_space
from jaxnas.tabular import (
    MethodSettings,
    compare,
    known,
    make_plan,
    make_predictor,
    make_setting,
    measure_predictor,
    predictor_names,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """300 cells of the shipped benchmark and a table whose choices are known by number alone."""
    folder = tmp_path_factory.mktemp("predictor")
    table = digits201_table()
    rows = np.random.default_rng(0).choice(len(table.archs), 300, replace=False)
    metrics = {name: np.asarray(value)[rows] for name, value in table.metrics.items()}
    cells = make_table("few cells", table.choices, np.asarray(table.archs)[rows], metrics, {}, table.fidelities)
    save_table(cells, folder / "cells.npz")
    archs = np.stack(np.meshgrid(range(4), range(3), range(5), indexing="ij"), -1).reshape(-1, 3)
    lines = [f"{a},{b},{c},{2 * a - b + 0.1 * c}" for a, b, c in archs]
    (folder / "plain.csv").write_text("\n".join(["a,b,c,good", *lines]) + "\n", encoding="utf-8")
    return folder


def test_a_run_writes_curves_and_is_taken_up_again(folder, capsys):
    arguments = [
        *("--table", str(folder / "cells.npz"), "--methods", "gp,mlp,gp_paths", "--sizes", "20,60"),
        *("--draws", "2", "--signals", "seconds@4,test"),
        *("--workdir", str(folder / "run"), "--cache-dir", str(folder / "cache")),
    ]
    before = jax.config.jax_compilation_cache_dir
    try:
        command.main(predictor.main, predictor.Config, arguments)
        first = capsys.readouterr().out
        command.main(predictor.main, predictor.Config, arguments)
        assert capsys.readouterr().out == first
        # Of another place the same table is the same, and one that tells other signals is not.
        shutil.copy(folder / "cells.npz", folder / "moved.npz")
        moved = [*arguments, "--table", str(folder / "moved.npz")]
        command.main(predictor.main, predictor.Config, moved)
        assert capsys.readouterr().out == first
        table = load_table(folder / "cells.npz")
        metrics = {**table.metrics, "seconds": 2 * table.metrics["seconds"]}
        cells = make_table(table.name, table.choices, table.archs, metrics, {}, table.fidelities)
        save_table(cells, folder / "moved.npz")
        with pytest.raises(SystemExit):
            command.main(predictor.main, predictor.Config, moved)
        assert "(table: the content has changed since" in capsys.readouterr().err
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    with open(folder / "run" / "table.csv", newline="", encoding="utf-8") as file:
        rows = {(row["method"], row["size"]): row for row in csv.DictReader(file)}
    assert len(rows) == 6
    for (method, size), row in rows.items():
        stage = read_json(folder / "run" / "stages" / f"{method}-{size}" / "done.json")
        assert float(row["tau"]) == pytest.approx(np.mean(stage["tau"]))
        assert min(stage["regret"]) >= 0
    # The signal "test" is what is to be predicted: a method that sees it has it, one that does not has not.
    assert float(rows["gp", "60"]["tau"]) > 0.6 > float(rows["gp_paths", "60"]["tau"])
    page = (folder / "run" / "report" / "index.html").read_text(encoding="utf-8")
    assert "curves.png" in page
    assert (folder / "run" / "report" / "curves.png").stat().st_size > 5000


def test_twins_of_what_was_shown_are_left_out(folder):
    """A predictor that only knows what it was shown has nothing on cells of other functions."""
    table, _ = named_table(str(folder / "cells.npz"))
    of = known(table)
    classes = functional_classes(table.archs)
    assert len(set(classes.tolist())) < len(classes)
    np.testing.assert_array_equal(of.classes, classes)


def test_a_table_of_plain_choices_has_predictors_too(folder):
    table, _ = named_table(str(folder / "plain.csv"), "a,b,c")
    of = known(table)
    graphs = jax.vmap(of.graph)(table.archs)
    values = np.asarray(table.metrics["good"], np.float64)
    found = measure_predictor(make_predictor("gp", of), of, graphs, values, 20, draws=2)
    assert min(found["tau"]) > 0.7
    assert predictor_names(of) == ["gnn_gp", "gnn", "gp", "mlp"]
    with pytest.raises(ValueError, match="methods for it are gnn_gp, gnn, gp, mlp"):
        make_predictor("gp_paths", of)


def depth(edges):
    """Of a DARTS cell as [(operation, from)], two for each node: the most convolutions on a path to a node."""
    found = [0, 0]
    for first, second in zip(edges[::2], edges[1::2], strict=True):
        found.append(max(found[int(source)] + ("conv" in name) for name, source in (first, second)))
    return max(found)


def test_darts_cells_of_a_users_table_are_known_by_their_structure(tmp_path):
    """What they are worth is how deep they are. Counts of operations say little about that, graphs all of it."""
    space = darts_space(free=True)
    archs = jax.jit(jax.vmap(space.sample))(jax.random.split(jax.random.key(0), 300))
    texts = [space.notation(arch) for arch in np.asarray(archs)]
    edges = [re.findall(r"\('(\w+)', (\d)\)", text) for text in texts]
    values = [depth(each[:8]) + depth(each[8:]) / 2 for each in edges]
    with open(tmp_path / "cells.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["cell", "worth"], *zip(texts, values, strict=True)])
    table = load_table(tmp_path / "cells.csv", "darts", architecture="cell")
    of = known(table)
    graphs = jax.jit(jax.vmap(of.graph))(table.archs)
    found = measure_predictor(make_predictor("gp", of), of, graphs, table.metrics["worth"], 100, draws=1)["tau"][0]
    convolutions = [sum("conv" in name for name, _ in each) for each in edges]
    assert found > kendalltau(convolutions, values).statistic + 0.2


def test_a_known_table_given_by_its_space_is_known_as_by_its_name(folder, tmp_path):
    table, _ = named_table(str(folder / "cells.npz"))
    values = np.asarray(table.metrics["valid"])[:, -1]
    texts = [nasbench201_space().notation(arch) for arch in np.asarray(table.archs)]
    with open(tmp_path / "t.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["arch_str", "valid"], *zip(texts, values.tolist(), strict=True)])
    given = load_table(tmp_path / "t.csv", "nasbench201", architecture="arch_str")
    taus = []
    for each in (table, given):
        of = known(each)
        graphs = jax.jit(jax.vmap(of.graph))(each.archs)
        taus.append(measure_predictor(make_predictor("gp", of), of, graphs, values, 60, draws=1)["tau"][0])
    np.testing.assert_array_equal(given.archs, table.archs)
    assert taus[0] == pytest.approx(taus[1], abs=1e-6)
    assert taus[0] > 0.4


def test_twins_of_what_was_shown_are_left_out_of_tau_and_not_of_tau_all():
    """With a predictor that says the signal it is told, of the cells whose numbers one knows."""
    table = digits201_table()
    of = known(table, ["params"])
    graphs, values = jax.jit(jax.vmap(of.graph))(table.archs), np.asarray(table.metrics["test"])
    says = Predictor(lambda key: 0, lambda key, state, *data: state, lambda state, graphs: (graphs.signals[:, 0],) * 2)
    found = measure_predictor(says, of, graphs, values, 500, draws=1, seed=3)
    shown = np.random.default_rng([3, 0]).choice(len(values), 500, replace=False)
    classes, told = functional_classes(table.archs), np.asarray(table.metrics["params"])
    unseen = np.delete(np.arange(len(values)), shown)
    others = unseen[~np.isin(classes[unseen], classes[shown])]
    assert len(others) < 0.7 * len(unseen)
    for name, rows in (("tau_all", unseen), ("tau", others)):
        assert found[name] == pytest.approx([kendalltau(told[rows], values[rows]).statistic], abs=1e-6)


def test_search_by_a_predictor_is_a_method():
    table, budget = digits201_table(), {"search": "test", "report": "test", "evaluations": 40}
    setting = make_setting(table, **budget)
    plans = {name: make_plan(name, setting, MethodSettings()) for name in ("random", "predictor")}
    random, predicted = compare(table, plans, **budget, seeds=4).rows
    assert predicted["evaluations"] == 40
    assert predicted["mean"] > random["mean"]


WRONG = {
    "no such method": (["--methods", "gp,svm"], "'svm'"),
    "no such metric": (["--metric", "tset"], "'tset'"),
    "no such signal": (["--signals", "tset"], "'tset'"),
    "sizes that are none": (["--sizes", "1 %"], "'1 %'"),
    "more than half": (["--sizes", "10,8000"], "half of the 15625"),
    "no draws": (["--draws", "0"], "draws must be at least 1, got 0"),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_wrong_input_is_one_line_and_exit_code_two(case, tmp_path, capsys, monkeypatch):
    given, expected = WRONG[case]
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(SystemExit) as stopped:
        command.main(predictor.main, predictor.Config, [*given, "--workdir", str(tmp_path / "run")])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.count("\n") == 1
    assert expected in error
