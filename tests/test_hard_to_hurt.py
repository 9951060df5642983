"""What users, systems and other people's files can do to a run: refused in one line, survived, or told."""

import errno
import fcntl
import json
import os

import numpy as np
import pytest
from test_compare import archs, make_run

from experiments import compare, darts
from jaxnas import command, fit
from jaxnas.benchmarks import named_table
from jaxnas.benchmarks.digits201 import read_digits201
from jaxnas.benchmarks.natsbench import nats_records
from jaxnas.console import printable, printable_text
from jaxnas.files import check_unpacked, expanded, read_json, read_json_lines
from jaxnas.fit.settings import Training
from jaxnas.ranges import check_settings, check_used
from jaxnas.runfolder import Config, check_folder, open_run
from jaxnas.shapes import check_shape
from jaxnas.streams import Output, Text


def content(folder):
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes() if path.is_file() else None, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
    }


def raises(*call):
    with pytest.raises((ValueError, OSError)) as error:
        call[0](*call[1:])
    assert "\n" not in str(error.value)
    return str(error.value)


# The run folder ---------------------------------------------------------------------------------------------------


def test_a_refused_folder_is_left_as_it_was(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".bashrc").write_text("x")
    with open_run(tmp_path / "run", {"seed": 1}, {}) as run:
        run.stage("search").log("epoch", 1, {"loss": 1.0})
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("[1")
    before = content(tmp_path)
    assert "holds '.bashrc' but no run" in raises(open_run, tmp_path / "home", {}, {})
    assert "holds '.bashrc' but no run" in raises(check_folder, tmp_path / "home")
    assert "seed: 1 there, 2 now" in raises(open_run, tmp_path / "run", {"seed": 2}, {})
    assert "not readable as JSON" in raises(open_run, tmp_path / "damaged", {}, {})
    assert content(tmp_path) == before


def test_the_removal_of_a_lock_is_noticed(tmp_path, capsys):
    with open_run(tmp_path, {}, {}) as run:
        stage = run.stage("search")
        (tmp_path / ".lock").unlink()
        stage.finish({})  # nobody else came: it is made again
        assert "was removed while this process works there" in capsys.readouterr().err
        assert "in use by process" in raises(open_run, tmp_path, {}, {})
        (tmp_path / ".lock").unlink()
        open_run(tmp_path, {}, {}).close()
        assert "another process has worked in the folder since" in raises(stage.finish, {})


def test_without_flock_processes_know_each_other_by_the_file(tmp_path, monkeypatch, capsys):
    def no_flock(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_flock)
    for holder, told in (
        (f"{os.getppid()} {os.uname().nodename}", f"in use by process {os.getppid()};"),
        ("7 another-host", "in use by process 7 on another-host; "),
    ):
        (tmp_path / ".lock").write_text(holder)
        assert told in raises(open_run, tmp_path, {}, {})
    (tmp_path / ".lock").write_text(f"999999999 {os.uname().nodename}")  # it has ended
    open_run(tmp_path, {}, {}).close()
    assert "has no flock: processes know each other by" in capsys.readouterr().err
    open_run(tmp_path, {}, {}).close()


def test_what_was_logged_is_on_the_disk_before_a_stage_ends(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.readlink(f"/proc/self/fd/{number}")))
    with open_run(tmp_path, {}, {}) as run:
        run.stage("search").log("epoch", 1, {})
        synced.clear()
        run.stage("search").finish({})
    assert [os.path.basename(path) for path in synced] == ["metrics.jsonl", ".done.json.part", "search"]


@pytest.mark.parametrize("change", ['{"seconds": 2}', "[]", "null", '"x"', "[" * 100_000, '{"seconds": 1}'])
def test_a_result_of_a_stage_that_was_changed_is_named(change, tmp_path):
    with open_run(tmp_path, {}, {}) as run:
        stage = run.stage("search")
        stage.finish({"seconds": 1})
        assert stage.result == {"seconds": 1}
        (stage.path / "done.json").write_text(change)
        assert "stages/search/done.json" in raises(lambda: stage.result)
        assert f"remove {stage.path} to do that part again" in raises(lambda: stage.result)


@pytest.mark.parametrize(
    "line", ["[]", "{}", '{"stage": 3, "phase": "x", "step": 1}', '{"stage": "a", "phase": "b", "step": "c"}']
)
def test_a_line_of_the_metrics_of_another_shape_is_named(line, tmp_path):
    open_run(tmp_path, {}, {}).close()
    (tmp_path / "metrics.jsonl").write_text(line + "\n")
    assert "metrics.jsonl, line 1 is damaged" in raises(open_run, tmp_path, {}, {})


# Shapes, settings, paths ------------------------------------------------------------------------------------------


def test_shapes(tmp_path):
    check_shape({"identity": {}, "runtime": {}, "more": 1}, Config, "it")
    for value, told in (
        ([], "it: it must be an object, got []"),
        ({"identity": {}}, "it: runtime must be an object, got nothing"),
        ({"identity": [1], "runtime": {}}, "it: identity must be an object, got [1]"),
    ):
        assert told == raises(check_shape, value, Config, "it")
    assert raises(check_shape, [[1], "x"], tuple[list[int], float], "it") == "it: [1] must be a number, got 'x'"
    assert raises(check_shape, [True], list[int], "it") == "it: [0] must be an integer, got True"
    assert "must be a number" in raises(check_shape, float("nan"), float, "it")
    (tmp_path / "deep.json").write_text('{"a":' * 100_000)
    assert "deep.json is not readable as JSON (it is nested too deeply)" in raises(read_json, tmp_path / "deep.json")
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n{"a": ')
    assert read_json_lines(tmp_path / "a.jsonl") == [{"a": 1}]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"epochs": 99999999999999}, "train.epochs must be at most 1,000,000, got 99999999999999"),
        ({"channels": 10**6}, "train.channels must be at most 16,384, got 1000000"),
        ({"cells": 10**5000}, "train.cells must be at most 500, got an integer of 5001 digits"),
        ({"learning_rate": 1e300}, "train.learning_rate must be at most 1,000,000, got 1e+300"),
        ({"learning_rate": float("inf")}, "train.learning_rate must be positive, got inf"),
        ({"hold_out": float("nan")}, "train.hold_out must be at least 0 and less than 1, got nan"),
    ],
)
def test_what_would_compute_for_ever_is_refused(change, told):
    assert raises(check_settings, "train", Training(**change), Training) == told


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--train.auxiliary-weight 0.3", "train.auxiliary_weight 0.3 has an effect only with train.auxiliary"),
        ("--search.tune-epochs 3", "search.tune_epochs 3 has an effect only with search.derive perturbation"),
        ("--search.candidates 9", "search.candidates 9 are for search.derive score"),
        ("--search.watch.window 3", "search.watch.window is of search.early_stop"),
        ("--search.watch.products 5", "search.watch.products 5 has an effect only with search.watch.eigenvalue_every"),
        ("--latency-batch 8", "latency_batch 8 has an effect only with max_latency_ms"),
        ("--devices.processes 2", "devices.processes 2 has an effect only with devices.coordinator"),
        ("--workdir ~nobody-here/run", "Could not determine home directory"),
    ],
)
def test_flags_without_effect_and_homes_that_are_not_there_are_refused(flags, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        command.main(darts.main, darts.Config, flags.split(), darts.PRESETS)
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert told in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_presets_have_no_setting_without_effect():
    for method in ("darts", "enas", "one_shot", "black_box"):
        for size in ("tiny", "small", "paper"):
            found = fit.preset(method, "darts" if method == "darts" else "nasbench201", size)
            check_used("search", found.method, [found.method])
            check_used("train", found.training, [found.training])


def test_a_home_is_put_in(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/run") == tmp_path / "run"
    with open_run("~/run", {}, {}) as run:
        assert run.path == tmp_path / "run"
    assert "cannot hold the character 0" in raises(expanded, "a\0b")


def test_an_archive_of_arrays_that_unpacks_to_gigabytes_is_refused_by_its_directory(tmp_path):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, a=np.zeros(1000))
    content = bytearray(path.read_bytes())
    directory = content.rindex(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = (0xFFFF0000).to_bytes(4, "little")  # the size that it says
    path.write_bytes(content)
    assert "unpacks to 4,294,901,760 bytes" in raises(check_unpacked, path)
    assert "unpacks to 4,294,901,760 bytes" in raises(read_digits201, path)
    np.savez(path, about=np.array('{"fidelities": [1]}'))
    assert "is not a file of digits201" in raises(read_digits201, path)
    path.write_bytes(b"PK")
    assert "is no npz archive" in raises(read_digits201, path)


@pytest.mark.parametrize("suffix", [".csv", ".json", ".npz", ".jsonl", ".pickle.pbz2", ""])
def test_a_pipe_in_place_of_a_table_is_not_waited_for(suffix, tmp_path):
    path = tmp_path / f"table{suffix}"
    os.mkfifo(path)
    for read in (named_table, read_digits201, lambda path: list(nats_records(path))):
        assert str(path) in raises(read, str(path))


# Errors and what is printed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("INTERNAL: x\ny"), "INTERNAL: x y (JAXNAS_TRACEBACK=1 in the environment shows where)"),
        (RecursionError("maximum"), "nested too deeply"),
        (OverflowError("int too large"), "a number is too large to compute with (int too large): give a smaller one"),
        (MemoryError(), "out of memory"),
        (ImportError("No module named 'x'"), "a package is missing or broken"),
        (FileNotFoundError(2, "No such file", "\x1b[31mname"), r"\x1b[31mname"),
        (ValueError(), "ValueError"),
    ],
)
def test_every_error_that_a_user_can_cause_is_one_line(error, told, capsys):
    def main(config):
        raise error

    main.__module__ = darts.__name__
    with pytest.raises(SystemExit) as stopped:
        command.main(main, darts.Config, [], darts.PRESETS)
    line = capsys.readouterr().err
    assert stopped.value.code == 2
    assert told in line
    assert line.count("\n") == 1
    assert "\x1b" not in line


def test_an_interrupt_before_the_run_begins_and_a_fault_of_the_program(capsys):
    def main(config):
        raise error

    main.__module__ = darts.__name__
    error = KeyboardInterrupt()
    with pytest.raises(SystemExit) as stopped:
        command.main(main, darts.Config, [], darts.PRESETS)
    assert stopped.value.code == 130
    assert capsys.readouterr().err.count("\n") == 1
    error = KeyError("a fault")
    with pytest.raises(KeyError):
        command.main(main, darts.Config, [], darts.PRESETS)


def test_what_steers_a_terminal_is_written_out():
    assert printable("a\x1b[2Jb\nc\x9bd\u202ee") == r"a\x1b[2Jb\nc\x9bd\u202ee"
    assert printable_text("\r\x1b[Kepoch 1\tof 2\n") == "\r\x1b[Kepoch 1\tof 2\n"
    assert printable_text("\x1b[1mbold\x1b[0m", styled=True) == "\x1b[1mbold\x1b[0m"
    assert printable_text("\x1b[1mbold\rX") == r"\x1b[1mbold\rX"
    receive, send = os.pipe()
    with Text(Output(send), "utf-8", line_buffering=True) as stream:
        print("class \x1b]0;title\x07 é", file=stream)
    os.close(send)
    with open(receive, "rb") as pipe:
        assert pipe.read().decode() == "class \\x1b]0;title\\x07 é\n"


# Comparisons ------------------------------------------------------------------------------------------------------


def go(*arguments):
    command.main(compare.main, compare.Config, [str(argument) for argument in arguments])


def test_a_comparison_overwrites_what_it_wrote_alone(tmp_path, capsys):
    run, other = (make_run(tmp_path / name, arch) for name, arch in zip("ab", archs(2), strict=True))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "table.csv").write_text("mine")
    with pytest.raises(SystemExit):
        go(run, "--out", tmp_path / "out")
    assert "holds 'table.csv' and no comparison: choose an empty or a new folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["table.csv"]
    for _ in range(2):
        go(run, "--out", tmp_path / "new")
    capsys.readouterr()
    (tmp_path / "new" / "report" / "cells-1.png").write_text("mine")
    with pytest.raises(SystemExit):
        go(run, other, "--out", tmp_path / "new")
    assert "holds 'report/cells-1.png', which no comparison wrote" in capsys.readouterr().err
    assert (tmp_path / "new" / "report" / "cells-1.png").read_text() == "mine"


def test_a_copy_of_a_run_is_counted_once(tmp_path, capsys):
    first, second = archs(2)
    runs = [make_run(tmp_path / "a", first, 0.9, seed=0), make_run(tmp_path / "b", second, 0.8, seed=1)]
    copy = make_run(tmp_path / "copy", first, 0.9, seed=0)
    go(*runs, copy)
    told = capsys.readouterr()
    assert "copy has the settings, the seed and the numbers of" in told.err
    assert "2 seeds" in told.out
    assert "0.8500" in told.out
    (tmp_path / "link").symlink_to(runs[0])
    with pytest.raises(SystemExit):
        go(*runs, tmp_path / "link")
    assert "is given twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "path", "value"),
    [
        ("config.json", ["identity"], []),
        ("config.json", ["identity", "seed"], "x"),
        ("config.json", ["identity", "experiment"], None),
        ("result.json", [], [1]),
        ("result.json", ["test_interval"], [0.1]),
        ("result.json", ["test_accuracy"], "high"),
        ("result.json", ["params"], None),
        ("result.json", ["timing"], 3),
        ("result.json", ["genotype"], "x"),
        ("result.json", ["notation"], {}),
    ],
)
def test_files_of_another_shape_are_named(file, path, value, tmp_path, capsys):
    run = make_run(tmp_path / "run", archs(1)[0])
    whole = json.loads((run / file).read_text())
    tree = whole
    for key in path[:-1]:
        tree = tree[key]
    if path:
        tree[path[-1]] = value
    (run / file).write_text(json.dumps(whole if path else value))
    with pytest.raises(SystemExit) as stopped:
        go(run)
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert f"run/{file}" in error
    assert ".".join(path) in error
    assert error.count("\n") == 1
