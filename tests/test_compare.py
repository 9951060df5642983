"""`experiments.compare` on run folders as the experiments leave them."""

import csv
import json

import jax
import numpy as np
import pytest
from pages import check_links

from experiments import compare
from experiments import report as report_program
from jaxnas import command
from jaxnas.fit.comparing import _escaped
from jaxnas.fit.seeds import share_equal_by_chance
from jaxnas.runfolder import open_run
from jaxnas.spaces import darts_space, nasbench201_space

SPACES = {"darts": darts_space(), "nasbench201": nasbench201_space()}


def make_run(folder, arch, accuracy=0.9, seed=0, experiment="darts", space="darts", dataset="digits", **settings):
    """A finished run that found an architecture, without the training."""
    of = SPACES[space]
    genotype = of.to_genotype(arch)
    read = {"data": {"source": dataset, "train_images": 1077, "checksum": "c0ffee"}}
    identity = {"experiment": experiment, "seed": seed, "search": {"epochs": 12}, **read, **settings}
    result = {
        "test_accuracy": accuracy, "test_interval": [accuracy - 0.02, accuracy + 0.02], "valid_accuracy": None,
        "params": 12345, "macs": 678901, "genotype": genotype, "notation": of.notation(arch), "dataset": dataset,
        "seed": seed, "timing": {"search": 61.0},
    }  # fmt: skip
    skeleton = {"channels": 4, "cells": 3, "image_shape": [8, 8, 1], "num_classes": 10, "auxiliary": False}
    (folder / "network").mkdir(parents=True)
    (folder / "network" / "network.json").write_text(json.dumps({"genotype": genotype, "skeleton": skeleton}))
    (folder / "config.json").write_text(json.dumps({"identity": identity, "runtime": {}}))
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def archs(count, space="darts"):
    return [SPACES[space].sample(key) for key in jax.random.split(jax.random.key(7), count)]


def go(*arguments):
    command.main(compare.main, compare.Config, [str(argument) for argument in arguments])


def test_seeds_are_one_method_with_mean_std_and_agreement(tmp_path, capsys):
    found = archs(3)
    values = (0.90, 0.94, 0.95)
    runs = [make_run(tmp_path / f"s{i}", found[i], values[i], seed=i, order="first") for i in range(3)]
    other = make_run(tmp_path / "second", found[0], 0.93, order="second", supernet={"step": 9, "checksum": "a1"})
    go(*runs, other, "--out", tmp_path / "out")
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert lines[1].split()[:4] == ["s0", "darts", "order=first", "0.9000"]
    assert "0.9300" in lines[4]  # the mean
    assert f"± {np.std(values, ddof=1):.4f}" in lines[4]
    assert lines[5].split()[:3] == ["second", "darts", "order=second"]
    canonical = [np.asarray(SPACES["darts"].canonical(arch)) for arch in found]
    equal = np.mean([np.mean(canonical[a] == canonical[b]) for a, b in ((0, 1), (0, 2), (1, 2))])
    assert f"two found architectures have {equal:.0%} of their choices in common" in printed
    with open(tmp_path / "out" / "table.csv", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [float(row["test_accuracy"]) for row in table] == [*values, 0.93]
    lines = (tmp_path / "out" / "table.tex").read_text().splitlines()
    assert lines[0] == r"\begin{tabular}{lrrrr}"
    mean, std = 100 * np.mean(values), 100 * np.std(values, ddof=1)
    assert lines[4:6] == [
        rf"darts order=first & 3 & ${mean:.2f} \pm {std:.2f}$ & 12,345 & 678,901 \\",
        r"darts order=second & 1 & $93.00$ & 12,345 & 678,901 \\",
    ]
    check_links(tmp_path / "out" / "report" / "index.html", {"table": 4})
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    assert "order=second" in page
    assert "choices in common" in page
    for name in ("comparison.png", "cells-0.png", "cells-3.png"):
        assert (tmp_path / "out" / "report" / name).read_bytes().startswith(b"\x89PNG")
        assert name in page


def test_equal_cells_agree_wholly_and_chance_is_that_of_the_options(tmp_path, capsys):
    (arch,) = archs(1, "nasbench201")
    runs = [
        make_run(tmp_path / "a" / "run", arch, seed=0, experiment="enas", space="nasbench201"),
        make_run(tmp_path / "b" / "run", arch, seed=1, experiment="enas", space="nasbench201"),
    ]
    go(*runs)
    printed = capsys.readouterr().out
    assert "have 100% of their choices in common" in printed
    assert str(runs[0]) in printed  # Both are called "run".
    assert share_equal_by_chance(SPACES["nasbench201"]) == pytest.approx(1 / 5, abs=0.02)


def test_wrong_folders_are_one_line_and_exit_code_two(tmp_path, capsys):
    good = make_run(tmp_path / "good", archs(1)[0])
    table = make_run(tmp_path / "table", archs(1)[0], experiment="tabular")
    (table / "result.json").write_text(json.dumps({"dataset": "digits201", "methods": []}))
    unfinished = make_run(tmp_path / "unfinished", archs(1)[0], seed=2)
    (unfinished / "result.json").unlink()
    damaged = make_run(tmp_path / "damaged", archs(1)[0], seed=3)
    (damaged / "result.json").write_text('{"test_acc')
    lacking = make_run(tmp_path / "lacking", archs(1)[0], seed=4)
    (lacking / "result.json").write_text("{}")
    elsewhere = make_run(tmp_path / "elsewhere", archs(1)[0], dataset="cifar10")
    edited = {"source": "digits", "train_images": 1077, "checksum": "decade"}
    edited = make_run(tmp_path / "edited", archs(1)[0], data=edited)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    cases = [
        ([], "no run given"),
        ([tmp_path / "absent"], "there is no folder"),
        ([tmp_path / "empty"], "is no run (no config.json)"),
        ([good, unfinished], "is not finished: run its command again"),
        ([damaged], "is not readable as JSON"),
        ([lacking], "has no 'test_accuracy'"),
        ([table], "is a run of tabular, which trains no found network"),
        ([good, good], "is given twice"),
        ([good, elsewhere], f"{elsewhere} is on other data than {good} (data.source: 'digits' in good, 'cifar10' in e"),
        ([good, edited], f"{edited} is on other data than {good} (data: the content has changed"),
        ([good, "--out", good], "is the folder of a run"),
        ([good, "--out", tmp_path / "file" / "x"], "cannot make the folder"),
    ]
    for arguments, expected in cases:
        with pytest.raises(SystemExit) as stopped:
            go(*arguments)
        error = capsys.readouterr().err
        assert stopped.value.code == 2, error
        assert expected in error
        assert error.count("\n") == 1


def test_latex_has_no_character_with_a_meaning():
    assert _escaped(r"100 % of a_b & {c} \\ ~^") == (
        r"100 \% of a\_b \& \{c\} \textbackslash{}\textbackslash{} \textasciitilde{}\textasciicircum{}"
    )


def test_all_runs_below_a_folder_are_on_one_page_with_their_states(tmp_path, capsys):
    root = tmp_path / "runs"
    made = {"a/first": 0.91, "second <b>": 0.95}
    for name, accuracy in made.items():
        folder = make_run(root / name, archs(1)[0], accuracy)
        (folder / ".lock").touch()
        (folder / "report").mkdir()
        (folder / "report" / "index.html").touch()
    (root / "empty").mkdir()
    (root / "second <b>" / "inside").mkdir()
    (root / "second <b>" / "inside" / "config.json").write_text("{}")
    damaged = root / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_text("{")
    (damaged / ".lock").touch()
    with open_run(root / "now", {"experiment": "enas", "seed": 3}, {}) as run:
        run.stage("search").log("epoch", 1, {"loss": 2.0})
        command.main(report_program.main, report_program.Config, [str(root)])
        printed = capsys.readouterr().out.splitlines()
        assert sorted(printed[0].removeprefix("finished: ").split(", ")) == sorted(made)
        assert printed[1:] == ["running: now", "stopped: damaged", f"report: {root / 'index.html'}"]
    page = check_links(root / "index.html", {"table": 1})
    assert {"91.00%", "95.00%", "running", "second <b>", "enas"} <= set(page.texts)
    assert sorted(page.links) == [
        "a/first/report/index.html",
        "now/report/index.html",
        "second%20%3Cb%3E/report/index.html",
    ]
    command.main(report_program.main, report_program.Config, [str(root)])
    assert "stopped: now, damaged" in capsys.readouterr().out
    for folder, error in ((root / "empty", "there is no run below"), (root / "now", "is itself a run"),
                          (root / "nowhere", "there is no folder")):  # fmt: skip
        with pytest.raises(SystemExit) as stopped:
            command.main(report_program.main, report_program.Config, [str(folder)])
        assert stopped.value.code == 2
        assert error in capsys.readouterr().err
