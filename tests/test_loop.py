"""The loop: chunks, stops and kills do not change a number, and what goes wrong is named."""

import io
import itertools
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.parallel import data_parallel
from jaxnas.runfolder import open_run
from jaxnas.train.chunk import make_chunk
from jaxnas.train.loop import NonFiniteError, PhaseSteps, load, run
from jaxnas.train.progress import Progress, duration
from jaxnas.train.stop import Stopped, stop_on_signal

ROOT = Path(__file__).parents[1]
DATA = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)


class State(NamedTuple):
    w: jax.Array
    momentum: jax.Array
    key: jax.Array


class Info(NamedTuple):
    loss: jax.Array
    count: jax.Array


def init():
    return State(jnp.ones(5), jnp.zeros(5), jax.random.key(7))


def batch(key, step, data):
    return data[jax.random.randint(jax.random.fold_in(key, step), (8,), 0, len(data))]


def step(key, state, x):
    loss, gradient = jax.value_and_grad(lambda w: jnp.mean((x @ w - 1) ** 2))(state.w)
    momentum = 0.9 * state.momentum + gradient + 0.01 * jax.random.normal(key, (5,))
    after = State(state.w - 0.01 * momentum, momentum, jax.random.fold_in(state.key, 1))
    return after, Info(loss, jnp.int32(len(x)))


def bits(tree):
    def to_bits(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        return np.asarray(leaf).tobytes()

    return [to_bits(leaf) for leaf in jax.tree.leaves(tree)]


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "time"} for line in lines]


def fresh():
    return jax.tree.map(lambda leaf: leaf.copy(), init())


@pytest.mark.parametrize("loop", ["device", "host"])
def test_chunks_of_any_length_give_the_same_bits_from_one_trace(loop):
    chex.clear_trace_counter()
    chunk = make_chunk(chex.assert_max_traces(step, 1), chex.assert_max_traces(batch, 1), max_steps=40, loop=loop)
    key, data = jax.random.key(0), jnp.asarray(DATA)

    def through(*cuts):
        state, infos = fresh(), []
        for first, stop in itertools.pairwise(cuts):
            state, info = chunk.run(state, key, first, stop, data)
            assert len(info.loss) == stop - first
            infos.append(info)
        return bits(state), bits(jax.tree.map(lambda *parts: np.concatenate(parts), *infos))

    whole = through(0, 40)
    assert through(0, 1, 2, 9, 40) == whole
    assert through(*range(41)) == whole
    assert len(set(np.frombuffer(whole[1][0], np.float32))) == 40
    with pytest.raises(ValueError, match="1 to 40 steps"):
        chunk.run(fresh(), key, 0, 41, data)


def test_device_and_host_loops_agree():
    key, data = jax.random.key(0), jnp.asarray(DATA)
    ends = [make_chunk(step, batch, loop=loop).run(fresh(), key, 3, 20, data) for loop in ("device", "host")]
    chex.assert_trees_all_close(ends[0][0]._replace(key=0), ends[1][0]._replace(key=0), rtol=1e-5)
    chex.assert_trees_all_close(ends[0][1], ends[1][1], rtol=1e-5)


@pytest.mark.parametrize("loop", ["device", "host"])
def test_a_state_that_changes_its_form_is_named(loop):
    def widen(key, state, x):
        return state._replace(w=jnp.zeros(6)), Info(x.sum(), jnp.int32(0))

    with pytest.raises(TypeError, match=r"\.w is float32\[5\] before and float32\[6\] after"):
        make_chunk(widen, batch, loop=loop).run(fresh(), jax.random.key(0), 0, 1, jnp.asarray(DATA))


def evaluate(epoch, state):
    return state, {"score": -float(jnp.abs(state.w).sum()), "w": state.w}


def two_legs(examples=0):
    """A phase of three steps and one of two, with steps of their own."""

    def shrink(key, state, x):
        return state._replace(w=state.w * 0.99), Info(jnp.max(x), jnp.int32(1))

    return [
        PhaseSteps("weights", make_chunk(step, batch), 3, examples),
        PhaseSteps("shrink", make_chunk(shrink, batch), 2),
    ]


def test_legs_take_turns_and_each_counts_its_own_steps():
    seen = []

    def recording(name):
        def chunk(state, key, first, stop, data):
            seen.extend((name, index) for index in range(first, stop))
            return state, Info(np.zeros(stop - first), np.zeros(stop - first, np.int32))

        return make_chunk(step, batch)._replace(run=chunk)

    phases = [PhaseSteps("a", recording("a"), 3), PhaseSteps("b", recording("b"), 2)]
    run(phases, jax.random.key(0), init(), DATA, 2, output=io.StringIO())
    first = [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1)]
    assert seen == first + [(name, index + {"a": 3, "b": 2}[name]) for name, index in first]


def test_the_state_given_is_not_used_up_and_the_length_of_chunks_does_not_matter(tmp_path):
    phases, state, ends = two_legs(), init(), []
    for name, seconds in (("short", 0.0), ("long", 100.0)):
        with open_run(tmp_path / name, {}, {}) as folder:
            ends.append(
                run(phases, jax.random.key(1), state, DATA, 6, stage=folder.stage("s"), after_epoch=evaluate,
                    best="score", chunk_seconds=seconds, log_every=7, output=io.StringIO())
            )  # fmt: skip
    assert bits(ends[0].state) == bits(ends[1].state)
    assert ends[0].best == ends[1].best
    assert bits(state) == bits(init())
    lines = metrics(tmp_path / "short")
    assert lines == metrics(tmp_path / "long")
    assert [line["step"] for line in lines if line["phase"] != "epoch"] == [7, 14, 21, 28, 30]
    assert [line["step"] for line in lines if line["phase"] == "epoch"] == [5, 10, 15, 20, 25, 30]
    assert lines[-1]["w"] == np.asarray(ends[0].state.w).tolist()
    assert lines[1] == {"stage": "s", "phase": "weights", "step": 7, "epoch": 2, "loss": lines[1]["loss"], "count": 8}


def test_a_run_traces_each_step_once_also_from_weakly_typed_values():
    chex.clear_trace_counter()

    def count(key, state, x):
        return {"n": state["n"] + 1}, Info(jnp.max(x), jnp.int32(0))

    phase = PhaseSteps("count", make_chunk(chex.assert_max_traces(count, 1), batch), 20)
    start = {"n": jnp.asarray(2.0)}
    assert start["n"].weak_type
    assert run([phase], jax.random.key(0), start, DATA, 2, output=io.StringIO()).state["n"] == 42


def test_a_finished_stage_runs_nothing_again_and_the_best_state_is_kept(tmp_path):
    phases, states = two_legs(), []

    def keep(epoch, state):
        states.append(bits(state))
        return state, {"score": [0.1, 0.7, 0.7, 0.2][epoch - 1]}

    def go():
        with open_run(tmp_path, {}, {}) as folder:
            stage = folder.stage("s")
            end = run(phases, jax.random.key(1), init(), DATA, 4, stage=stage, after_epoch=keep, best="score",
                      output=io.StringIO())  # fmt: skip
            return end, bits(load(stage, init(), "best")), bits(load(stage, init(), "latest"))

    end, best, latest = go()
    assert end.best == (0.7, 10)
    assert best == states[1]
    assert latest == states[3] == bits(end.state)
    with open_run(tmp_path, {}, {}) as folder, pytest.raises(ValueError, match="at step 20, beyond the 5 steps"):
        run(phases, jax.random.key(1), init(), DATA, 1, stage=folder.stage("s"), output=io.StringIO())
    again, best, latest = go()
    assert len(states) == 4
    assert (bits(again.state), again.best, best, latest) == (bits(end.state), end.best, states[1], states[3])


def test_a_run_that_needs_no_more_rounds_ends_and_stays_at_its_end(tmp_path):
    epochs = []

    def count(epoch, state):
        epochs.append(epoch)
        return state, {"score": float(epoch)}

    def go(name, stop=lambda: None, ended=lambda state: float(jnp.abs(state.w).sum()) < 4.2):
        with open_run(tmp_path / name, {}, {}) as folder:
            end = run(two_legs(), jax.random.key(1), init(), DATA, 50, stage=folder.stage("s"), after_epoch=count,
                      ended=ended, stop=stop, chunk_seconds=0, output=io.StringIO())  # fmt: skip
            return bits(end.state), bits(load(folder.stage("s"), init(), "latest")), metrics(tmp_path / name)

    whole = go("whole")
    done = len(epochs)
    assert 1 < done < 50
    assert whole[0] == whole[1]
    assert go("whole") == whole  # Resumed at its end, it does no step more.
    assert len(epochs) == done
    chunks = itertools.count(1)
    with pytest.raises(Stopped):
        go("stopped", lambda: signal.SIGTERM if next(chunks) == 7 else None)
    assert go("stopped") == whole


def test_a_loss_that_is_not_finite_stops_with_its_step_and_name_and_the_checkpoint_before(tmp_path):
    def counting(key, state, x):
        after = state._replace(w=state.w * 0.5, momentum=state.momentum + 1)
        return after, Info(jnp.where(after.momentum[0] >= 18, jnp.inf, after.momentum[0]), jnp.int32(0))

    with open_run(tmp_path, {}, {}) as folder:
        stage = folder.stage("s")
        with pytest.raises(NonFiniteError, match=r"loss is inf at step 18 \(count, epoch 4\)") as error:
            run([PhaseSteps("count", make_chunk(counting, batch), 5)], jax.random.key(1), init(), DATA, 9, stage=stage,
                save_seconds=0, log_every=1, chunk_seconds=100, output=io.StringIO())  # fmt: skip
        assert (error.value.step, error.value.quantity) == (18, "loss")
        saved = load(stage, init(), "latest").momentum
    assert 0 < saved[0] < 18
    assert [line["loss"] for line in metrics(tmp_path)] == list(range(1, 18))


def test_a_nan_in_the_state_or_an_evaluation_is_not_saved(tmp_path):
    def spoil(key, state, x):
        return state._replace(w=state.w.at[2].set(jnp.nan)), Info(jnp.float32(1), jnp.int32(0))

    def go(name, one_step, **options):
        with open_run(tmp_path / name, {}, {}) as folder:
            stage = folder.stage("s")
            with pytest.raises(NonFiniteError) as error:
                run([PhaseSteps("x", make_chunk(one_step, batch), 2)], jax.random.key(1), init(), DATA, 1, stage=stage,
                    output=io.StringIO(), **options)  # fmt: skip
            with pytest.raises(OSError, match="no whole checkpoint"):
                load(stage, init(), "latest")
        return error.value.quantity, error.value.step

    assert go("state", spoil) == ("state.w", 2)
    assert go("value", step, after_epoch=lambda epoch, state: (state, {"score": float("nan")})) == ("score", 2)


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(tmp_path, capsys):
    phases = two_legs()

    def go(name, stop=lambda: None):
        with open_run(tmp_path / name, {}, {}) as folder:
            end = run(phases, jax.random.key(1), init(), DATA, 6, stage=folder.stage("s"), after_epoch=evaluate,
                      best="score", stop=stop, chunk_seconds=0, save_seconds=0, output=io.StringIO())  # fmt: skip
        return bits(end.state), end.best, metrics(tmp_path / name)

    whole = go("whole")
    chunks = itertools.count(1)
    with pytest.raises(Stopped, match="after step 13 of 30, saved"):
        go("damaged", lambda: signal.SIGTERM if next(chunks) == 13 else None)
    latest = tmp_path / "damaged" / "stages" / "s" / "checkpoints" / "latest"
    assert sorted(path.name for path in latest.iterdir()) == ["12", "13"]
    largest = max(
        (path for path in (latest / "13" / "state").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    largest.write_bytes(largest.read_bytes()[:-20])
    assert go("damaged") == whole
    assert "latest/13 is damaged" in capsys.readouterr().err


def test_wrong_arguments_are_named():
    phases = two_legs()

    def go(phases=phases, epochs=1, **options):
        return run(phases, jax.random.key(0), init(), DATA, epochs, output=io.StringIO(), **options)

    with pytest.raises(ValueError, match="at least 1 step"):
        go([])
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        go(epochs=0)
    with pytest.raises(ValueError, match="log_every must be at least 1, got 0"):
        go(log_every=0)
    with pytest.raises(ValueError, match="needs an after_epoch"):
        go(best="score")
    with pytest.raises(ValueError, match=r"best='accuracy' is not among .* \['score'\]"):
        go(best="accuracy", after_epoch=evaluate)
    with pytest.raises(ValueError, match="max_steps must be at least 1, got 0"):
        make_chunk(step, batch, max_steps=0)
    with pytest.raises(ValueError, match="loop must be"):
        make_chunk(step, batch, loop="gpu")


def test_progress_is_lines_in_a_file_and_one_renewed_line_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    info = Info(np.array([1.0, 2.0]), np.array([8, 8]))
    for output in (io.StringIO(), Terminal()):
        progress = Progress("search", [("weights", 8, 64), ("shrink", 2, 0)], [0, 0], output)
        for _ in range(4):
            progress.report(0, 2, 0.5, "1/1", info)
        progress.report(1, 2, 0.5, "1/1", info)
        progress.close()
        text = output.getvalue()
        if output.isatty():
            assert text.count("\n") == 1
            assert text.count("\r") == 5
            bar = "[########------------]"
            assert f"search weights  {bar}  step 4/10  epoch 1/1  loss 1.5  count 8  256 examples/s  1.5 s left" in text
        else:
            lines = text.splitlines()
            assert lines[0] == "search weights  step 2/10  epoch 1/1  loss 1.5  count 8  first step after 0.5 s"
            assert "step 10/10" in lines[-1]
            assert len(lines) == 2
    assert [duration(seconds) for seconds in (4.24, 59.6, 200, 7500)] == [
        "4.2 s",
        "1 min 00 s",
        "3 min 20 s",
        "2 h 05 min",
    ]


# What the next tests run in a process of its own: epochs last some 20 ms, so that there is time to stop it.
PROGRAM = """
import sys, time
sys.path.insert(0, "tests")
import jax
import test_loop as t
from jaxnas.runfolder import open_run
from jaxnas.train.loop import run
from jaxnas.train.stop import Stopped, stop_on_signal

def after_epoch(epoch, state):
    time.sleep(0.02)
    return t.evaluate(epoch, state)

with open_run(sys.argv[1], {"seed": 1}, {}) as folder, stop_on_signal() as stop:
    stage = folder.stage("search")
    try:
        end = run(t.two_legs(), jax.random.key(1), t.init(), t.DATA, 60, stage=stage, after_epoch=after_epoch,
                  best="score", stop=stop, chunk_seconds=0.001, save_seconds=0.1, log_every=4)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.exit_code)
    w = [x.hex() for x in end.state.w.tolist()]
    stage.finish({"w": w, "key": jax.random.key_data(end.state.key).tolist(), "best": end.best})
"""


def start(folder):
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder)], cwd=ROOT, stderr=subprocess.PIPE, text=True)


def finish(folder):
    process = start(folder)
    assert process.wait() == 0, process.stderr.read()
    process.stderr.close()
    done = json.loads((folder / "stages" / "search" / "done.json").read_text())
    return done, metrics(folder)


def wait_for_a_line(folder, more_than=0):
    path, end = folder / "metrics.jsonl", time.monotonic() + 60
    while time.monotonic() < end:
        if path.exists() and path.read_text().count("\n") > more_than:
            return
        time.sleep(0.005)
    raise AssertionError("the program wrote no metrics")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return finish(tmp_path_factory.mktemp("undisturbed"))


def test_killed_at_random_moments_and_resumed_ends_with_the_same_bits(undisturbed, tmp_path):
    for _ in range(2):
        process = start(tmp_path)
        wait_for_a_line(tmp_path)
        time.sleep(random.uniform(0, 0.8))
        process.kill()
        process.wait()
        process.stderr.close()
        assert process.returncode == -signal.SIGKILL
    assert finish(tmp_path) == undisturbed


def test_a_signal_saves_and_exits_with_its_code_and_the_run_goes_on_later(undisturbed, tmp_path):
    lines = 0
    for number, code in ((signal.SIGTERM, 75), (signal.SIGINT, 130)):
        process = start(tmp_path)
        wait_for_a_line(tmp_path, more_than=lines)
        process.send_signal(number)
        _, err = process.communicate()
        assert process.returncode == code, err
        assert f"stopped by {number.name} after step" in err
        assert "the same command goes on from here" in err
        lines = len(metrics(tmp_path))
    assert finish(tmp_path) == undisturbed


def test_a_second_signal_ends_the_process_at_once():
    program = """
import time, jax
from jaxnas.train.stop import stop_on_signal
with stop_on_signal() as stop:
    print("ready", flush=True)
    for _ in range(60):
        time.sleep(1)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.stderr.readline()
    assert "A second signal ends it at once" in process.stderr.readline()
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 143
    assert time.monotonic() - begin < 5


def test_signals_are_as_before_afterwards_and_a_stop_tells_how_to_go_on():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with stop_on_signal() as stop:
        assert stop() is None
        signal.raise_signal(signal.SIGTERM)
        end = time.monotonic() + 10
        while stop() is None and time.monotonic() < end:
            time.sleep(0.01)
        assert stop() == signal.SIGTERM
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    with pytest.raises(Stopped, match="stopped by SIGTERM after step 1 of 5, not saved"):
        run(two_legs(), jax.random.key(0), init(), DATA, 1, stop=lambda: signal.SIGTERM, output=io.StringIO())


def test_over_several_devices_what_comes_after_a_round_is_given_one_copy():
    ways = data_parallel("sharded", jax.devices()[:2])
    seen = []

    def halve(epoch, state):
        seen.extend(len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state))
        return (state if epoch == 1 else state._replace(w=state.w * 0.5)), {}

    def end(**settings):
        return run(two_legs(), jax.random.key(1), init(), DATA, 3, after_epoch=halve, **settings).state

    alone = end()
    seen.clear()
    both = end(place=ways.place)
    assert set(seen) == {1}
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(both)} == {2}
    chex.assert_trees_all_close(both._replace(key=0), alone._replace(key=0), rtol=1e-6)
