"""A signal ends every experiment with its code and loses nothing: those without a training loop, and scoring."""

import csv
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import predictor, tabular
from jaxnas import command
from jaxnas.benchmarks import digits201_table, make_table, save_table
from jaxnas.fit.scoring import with_scores
from jaxnas.train.stop import Stopped, stop_on_signal


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """A table of 60 cells of the shipped benchmark."""
    table = digits201_table()
    rows = np.random.default_rng(0).choice(len(table.archs), 60, replace=False)
    metrics = {name: np.asarray(value)[rows] for name, value in table.metrics.items()}
    path = tmp_path_factory.mktemp("cells") / "cells.npz"
    save_table(make_table("few", table.choices, np.asarray(table.archs)[rows], metrics, {}, table.fidelities), path)
    return str(path)


def signal_when(path, number):
    """Signals this process once a file is there."""

    def wait():
        end = time.monotonic() + 200
        while time.monotonic() < end:
            if path.exists():
                os.kill(os.getpid(), number)
                return
            time.sleep(0.002)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


CASES = {
    "tabular": (
        tabular,
        ["--methods", "random,evolution,local", "--seeds", "6", "--evaluations", "20"],
        "random",
        "method",
        ("method", "mean", "std", "mean_regret", "evaluations"),
    ),
    "predictor": (
        predictor,
        ["--methods", "gp,gp_paths", "--sizes", "10,20", "--draws", "1", "--table", "CELLS"],
        "gp-10",
        "point of the curves",
        ("method", "size", "tau", "rho", "regret"),
    ),
}


@pytest.mark.parametrize(
    ("name", "number", "code"), [("tabular", signal.SIGINT, 130), ("predictor", signal.SIGTERM, 75)]
)
def test_a_signal_ends_between_two_parts_and_the_run_ends_with_the_same_numbers(
    name, number, code, cells, tmp_path, capsys
):
    module, arguments, first, unit, columns = CASES[name]
    before = jax.config.jax_compilation_cache_dir

    def go(folder):
        places = ["--workdir", str(tmp_path / folder), "--cache-dir", str(tmp_path / "cache")]
        words = [cells if word == "CELLS" else word for word in arguments]
        command.main(module.main, module.Config, [*words, *places])
        with open(tmp_path / folder / "table.csv", newline="", encoding="utf-8") as file:
            return [[row[column] for column in columns] for row in csv.DictReader(file)]

    try:
        thread = signal_when(tmp_path / "stopped" / "stages" / first / "done.json", number)
        with pytest.raises(SystemExit) as stopped:
            go("stopped")
        thread.join()
        assert stopped.value.code == code
        assert f"stopped by {number.name} after {unit}" in capsys.readouterr().err
        assert not (tmp_path / "stopped" / "result.json").exists()
        assert go("stopped") == go("whole")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_scoring_asks_between_slices_and_changes_no_score():
    scored = []

    def score(archs):
        scored.extend(archs[:, 0].tolist())
        return archs.sum(axis=1).astype(float)

    def values(stop):
        return with_scores({"sum": score}, lambda scores: scores["sum"](archs).tolist(), stop, keep=kept)

    def kept(name, some, values):
        assert name == "sum"
        np.testing.assert_array_equal(values, some.sum(axis=1))
        told.extend(some[:, 0].tolist())

    archs, told = np.arange(60).reshape(20, 3), []
    np.testing.assert_array_equal(values(lambda: None), archs.sum(axis=1))
    assert scored == told == archs[:, 0].tolist()
    scored.clear()
    told.clear()
    with pytest.raises(Stopped, match="stopped by SIGTERM after score 8 of 20, saved"):
        values(lambda: signal.SIGTERM if len(scored) == 8 else None)
    assert scored == told == archs[:8, 0].tolist()


ENDLESS = """
import jax
import jax.numpy as jnp
from jaxnas.train.stop import stop_on_signal
forever = jax.jit(lambda x: jax.lax.while_loop(lambda x: x > -2, jnp.sin, x))
with stop_on_signal(grace=1.0):
    print("ready", flush=True)
    forever(1.0).block_until_ready()
"""
SLOW_SAVE = """
import time
from jaxnas.train.stop import saving, stop_on_signal
with stop_on_signal(grace=0.5) as stop:
    print("ready", flush=True)
    while stop() is None:
        time.sleep(0.01)
    with saving():
        time.sleep(2)
    time.sleep(0.1)
print("saved")
time.sleep(0.7)
"""


COMPILING = """
import threading
import jax
import jax.numpy as jnp
from jaxnas.train.stop import stop_on_signal
def long(x):
    for n in range(2000):
        x = jnp.sin(x) * jnp.cos(x + n)
    return x
lowered = jax.jit(long).lower(jnp.ones(4))
def compiled():
    lowered.compile()
    jax.jit(lambda x: long(x + 1)).lower(jnp.ones(4)).compile()
with stop_on_signal(grace=60.0, compile_grace=0.5):
    print("ready", flush=True)
    thread = threading.Thread(target=compiled)  # as a search of several seeds at once does
    thread.start()
    thread.join()
print("compiled")
"""


def test_one_signal_ends_a_program_in_a_call_that_does_not_return_and_cuts_no_save():
    running = []
    for program in (ENDLESS, ENDLESS, SLOW_SAVE, COMPILING):
        # A shell that ignores SIGHUP, such as that of nohup, hands that on.
        program = f"import signal\nsignal.signal(signal.SIGHUP, signal.SIG_DFL)\n{program}"
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[1], **pipes))
        assert running[-1].stdout.readline() == "ready\n"
    for process, number in zip(running, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGHUP), strict=True):
        process.send_signal(number)
    begin = time.monotonic()
    told = [process.communicate(timeout=20) for process in running]
    assert time.monotonic() - begin < 10
    assert [process.returncode for process in running] == [75, 130, 0, 75]
    for (_, err), name in zip(told, ("SIGTERM", "SIGINT"), strict=False):
        assert f"{name}: the run saves and ends once the current part of its work is done. If that takes" in err
        assert "longer than 1 s (7 s while a program compiles), it ends without saving." in err
        assert f"{name}: no part of the work ended in 1 s; ended without saving, and the same command goes on" in err
    assert told[2][0] == "saved\n"
    assert "SIGHUP: a program is being compiled; ended without saving, and the same command goes on" in told[3][1]


def test_the_grace_ends_a_program_within_half_a_minute_and_a_compilation_within_ten_seconds():
    parameters = inspect.signature(stop_on_signal).parameters
    assert parameters["grace"].default <= 25
    assert parameters["compile_grace"].default <= 9


def test_a_program_that_was_started_to_ignore_a_lost_terminal_does():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.05)
            assert stop() is None
    finally:
        signal.signal(signal.SIGHUP, before)
