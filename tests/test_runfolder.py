"""The run folder: refuses what would mix two runs, and is never half written."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxnas.files import read_json, write_atomic, write_json
from jaxnas.runfolder import differences, open_run, versions

ROOT = Path(__file__).parents[1]
IDENTITY = {"seed": 1, "channels": 16, "shape": (32, 32, 3)}


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_second_run_of_the_same_identity_goes_on_with_a_new_runtime(tmp_path):
    with open_run(tmp_path / "a" / "b", IDENTITY, {"devices": 1}) as run:
        assert not run.resumed
    with open_run(tmp_path / "a" / "b", IDENTITY, {"devices": 2}) as run:
        assert run.resumed
    config = read_json(tmp_path / "a" / "b" / "config.json")
    assert config == {"identity": {"seed": 1, "channels": 16, "shape": [32, 32, 3]}, "runtime": {"devices": 2}}


def test_another_identity_is_refused_with_each_difference_and_the_remedy(tmp_path):
    open_run(tmp_path, IDENTITY, {}).close()
    other = {"seed": 2, "shape": (32, 32, 3), "cells": 8}
    with pytest.raises(ValueError, match="choose another folder") as error:
        open_run(tmp_path, other, {})
    message = str(error.value)
    assert "seed: 1 there, 2 now" in message
    assert "channels: 16 there, '(absent)' now" in message
    assert "cells: '(absent)' there, 8 now" in message
    assert "shape" not in message
    assert "\n" not in message
    assert read_json(tmp_path / "config.json")["identity"]["seed"] == 1
    open_run(tmp_path, IDENTITY, {}).close()  # The refusal released the lock.


def test_a_run_of_another_program_is_told_before_all_else_that_differs(tmp_path):
    open_run(tmp_path, {"experiment": "one_shot", "data": {"classes": 10}, "seed": 1}, {}).close()
    with pytest.raises(ValueError, match=r"holds a run of 'one_shot', and this is 'darts'; choose another folder$"):
        open_run(tmp_path, {"experiment": "darts", "data": {"classes": 20}, "seed": 1}, {})


@pytest.mark.parametrize(
    ("identity", "runtime", "told"),
    [
        ({"seed": 1, "search": {"layers": (1, {"activation": abs})}}, {}, r"search\.layers\[1\]\.activation: <built"),
        ({"search": {"rate": float("nan")}}, {}, r"search\.rate: nan cannot be kept as JSON"),
        ({"search": {(1, 2): 3}}, {}, r"search: \{\(1, 2\): 3\} cannot"),
        ({"seed": 1}, {"table": {3}}, r"table: \{3\} cannot be kept as JSON .* give the name of anything else"),
    ],
)
def test_a_setting_that_json_cannot_hold_is_named_before_anything_is_written(identity, runtime, told, tmp_path):
    with pytest.raises(ValueError, match=f"^{told}"):
        open_run(tmp_path / "run", identity, runtime)
    assert not (tmp_path / "run").exists()


def test_what_was_read_is_identity_and_its_path_is_not(tmp_path):
    table = {"rows": 3, "metrics": ["good"], "checksum": "aa"}
    open_run(tmp_path, {"table": table}, {"benchmark": "t.csv"}).close()
    with open_run(tmp_path, {"table": table}, {"benchmark": "/elsewhere/t.csv"}) as run:
        assert run.resumed
    for changed, told in (
        ({"checksum": "bb"}, "(table: the content has changed since, its checksum is another)"),
        ({"rows": 4, "checksum": "bb"}, "(table.rows: 3 there, 4 now)"),
    ):
        with pytest.raises(ValueError, match="or give the run what it was started with") as error:
            open_run(tmp_path, {"table": {**table, **changed}}, {})
        assert told in str(error.value)


def test_differences_are_told_entry_by_entry():
    classes = [f"class-{number}" for number in range(100)]
    there = {"search": {"epochs": 12, "prune": [5, 3]}, "data": {"classes": classes}, "limits": [1, 2], "table": None}
    now = {
        "search": {"epochs": 50, "prune": [5, 2]},
        "data": {"classes": [*classes[:70], "wasp", *classes[71:]]},
        "limits": [1],
        "table": {"metrics": classes},
    }
    *told, table = differences(there, now).split("; ")
    assert told == [
        "data.classes[70]: 'class-70' there, 'wasp' now",
        "limits: [1, 2] there, [1] now",
        "search.epochs: 12 there, 50 now",
        "search.prune[1]: 3 there, 2 now",
    ]
    assert table.startswith("table: None there, {'metrics': ['class-0'")
    assert len(table) < 150
    assert differences(now, now) == ""
    assert differences({"a": [0] * 20}, {"a": [1] * 20}).endswith("a[7]: 0 there, 1 now and 12 more")


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match=r"holds 'thesis.tex' but no run"):
        open_run(tmp_path, IDENTITY, {})


@pytest.mark.parametrize("content", ['{"identity": {"se', "[]"])
def test_a_damaged_configuration_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config.json(:| is not)"):
        open_run(tmp_path, IDENTITY, {})


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot make the folder") as error:
        open_run(tmp_path / "file" / "run", IDENTITY, {})
    assert "\n" not in str(error.value)


HOLD = """
import sys, time
from jaxnas.runfolder import open_run
run = open_run(sys.argv[1], {}, {})
print("held", flush=True)
time.sleep(60)
"""


def test_two_processes_are_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError, match=f"in use by process {holder.pid}"):
            open_run(tmp_path, {}, {})
        holder.kill()
    open_run(tmp_path, {}, {}).close()


def test_an_interrupted_write_leaves_the_old_content(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"accuracy": 0.5})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"accuracy": float("nan")})
    assert read_json(path) == {"accuracy": 0.5}
    limit, ceiling = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, ceiling))  # Stands for a full disk.
        with pytest.raises(OSError, match=r"cannot write .*result\.json"):
            write_atomic(path, "x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, ceiling))
        signal.signal(signal.SIGXFSZ, handler)
    assert read_json(path) == {"accuracy": 0.5}
    assert os.listdir(tmp_path) == ["result.json"]


WRITE = """
import sys
from pathlib import Path
from jaxnas.files import write_json
print("go", flush=True)
while True:
    for value in range(10):
        write_json(Path(sys.argv[1]), [value] * 20_000)
"""


def test_a_reader_never_sees_a_part_even_of_a_killed_writer(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, [0] * 20_000)
    writer = subprocess.Popen([sys.executable, "-c", WRITE, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with writer:
        assert writer.stdout.readline() == "go\n"
        seen = set()
        end = time.monotonic() + 1
        while time.monotonic() < end:
            value = read_json(path)
            assert value == [value[0]] * 20_000
            seen.add(value[0])
        writer.kill()
    assert len(seen) > 1
    assert len(read_json(path)) == 20_000


def test_metrics_are_cut_back_to_a_step_of_one_stage(tmp_path):
    with open_run(tmp_path, {}, {}) as run:
        search, train = run.stage("search"), run.stage("train-found")
        for step in (1, 2, 3):
            search.log("weights", step, {"loss": 1 / step})
        train.log("train", 1, {"loss": 0.5})
        train.log("train", 2, {"loss": 0.25})
        train.truncate_metrics(1)
        train.log("train", 2, {"loss": 0.125})
    assert [(line["stage"], line["step"], line["loss"]) for line in lines(tmp_path)] == [
        ("search", 1, 1.0),
        ("search", 2, 0.5),
        ("search", 3, 1 / 3),
        ("train-found", 1, 0.5),
        ("train-found", 2, 0.125),
    ]
    assert all(isinstance(line["time"], float) for line in lines(tmp_path))


def test_a_last_line_that_was_cut_short_is_dropped_and_a_damaged_one_named(tmp_path):
    with open_run(tmp_path, {}, {}) as run:
        run.stage("search").log("weights", 1, {})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"stage": "search", "st')
    with open_run(tmp_path, {}, {}) as run:
        run.stage("search").log("weights", 2, {})
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write("{}}\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 3 is damaged"):
        open_run(tmp_path, {}, {})


def test_a_finished_stage_and_a_finished_run_say_so_later(tmp_path):
    with open_run(tmp_path, {}, {}) as run:
        assert run.stage("search").result is None
        assert run.result is None
        run.stage("search").finish({"genotype": "x"})
        run.finish({"test_accuracy": 0.9})
    with open_run(tmp_path, {}, {}) as run:
        assert run.stage("search").result == {"genotype": "x"}
        assert run.stage("train-found").result is None
        assert run.result == {"test_accuracy": 0.9}
        with pytest.raises(ValueError, match="name of a folder"):
            run.stage("../search")


def test_tensorboard_is_written_or_its_package_asked_for(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tensorboardX", None)
        with pytest.raises(ValueError, match=r"pip install 'jaxnas\[tensorboard\]'"):
            open_run(tmp_path, {}, {}, loggers=["tensorboard"])
    with open_run(tmp_path, {}, {}, loggers=["tensorboard"]) as run:
        run.stage("search").log("weights", 1, {"loss": 0.5})
    assert b"search/loss" in b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())


def test_versions_name_what_numbers_depend_on():
    found = versions()
    assert {
        "python",
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax-checkpoint",
        "numpy",
        "jaxnas",
        "devices",
    } <= found.keys()
    assert "cpu" in found["devices"]


OTHERS = {
    "link": lambda path, victim: path.symlink_to(victim),
    "dangling": lambda path, victim: path.symlink_to(victim.with_name("absent")),
    "folder": lambda path, victim: path.mkdir(),
    "pipe": lambda path, victim: os.mkfifo(path),
}


@pytest.fixture
def victim(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    return tmp_path / "thesis.tex"


@pytest.mark.parametrize("kind", sorted(OTHERS))
@pytest.mark.parametrize("name", [".lock", "metrics.jsonl"])
def test_what_is_no_file_at_a_name_that_a_run_appends_to_is_refused(kind, name, tmp_path, victim):
    run = tmp_path / "run"
    open_run(run, {}, {}).close()
    (run / name).unlink()
    OTHERS[kind](run / name, victim)
    with pytest.raises(ValueError, match=rf"run/{name} is a link, a folder or a pipe, and no file of a run; remove it"):
        open_run(run, {}, {})
    assert victim.read_text() == ""
    assert not victim.with_name("absent").exists()


@pytest.mark.parametrize("kind", sorted(OTHERS))
def test_what_is_no_file_at_the_name_of_a_part_is_replaced_or_refused(kind, tmp_path, victim):
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "result.json"
    OTHERS[kind](path.with_name(".result.json.part"), victim)
    if kind == "folder":
        with pytest.raises(OSError, match=r"cannot write .*/\.result\.json\.part is in the way .*; remove it"):
            write_json(path, [1])
    else:
        write_json(path, [1])
        assert read_json(path) == [1]
        assert os.listdir(path.parent) == ["result.json"]
    assert victim.read_text() == ""
    assert not victim.with_name("absent").exists()


def test_what_is_written_in_one_step_takes_the_place_of_a_link_and_no_pipe_is_waited_for(tmp_path, victim):
    for name in ("result.json", "config.json"):
        (tmp_path / name).symlink_to(victim)
        write_json(tmp_path / name, [1])
        assert not (tmp_path / name).is_symlink()
    assert victim.read_text() == ""
    (tmp_path / "config.json").unlink()
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ValueError, match=r"config\.json is no file"):
        open_run(tmp_path, {}, {})
