"""Black-box search with Python functions: as simulated on a table, stopped anywhere, failing, in other processes."""

import functools
import itertools
import json
import multiprocessing
import os
import re
import signal
import threading
import time
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import black_box_worker
import jax
import numpy as np
import pytest

from jaxnas import samplers
from jaxnas.benchmarks import make_table
from jaxnas.fit.black_box import search_black_box
from jaxnas.samplers import simulate
from jaxnas.spaces import product_space
from jaxnas.testing import check_sampler
from jaxnas.train.stop import Stopped, asked_to_stop

SPACE = product_space("small", {"a": range(3), "b": ["one"], "c": range(4), "d": range(2)})
ARCHS = np.array(list(itertools.product(range(3), range(1), range(4), range(2))), np.int32)
BEST = [2, 0, 3, 0]
EVOLUTION = samplers.evolution(SPACE, population=6, sample_size=2, batch=3)
ONE_BY_ONE = samplers.evolution(SPACE, population=6, sample_size=2)
RANDOM = samplers.random_search(SPACE, batch=2)


def value(arch):
    return black_box_worker.value(arch)


def same(found, other):
    arrays = zip(found[:-1], other[:-1], strict=True)
    return all(np.array_equal(a, b, equal_nan=True) for a, b in arrays) and found.errors == other.errors


def lines(folder):
    """The lines of the file, without their times."""
    found = map(json.loads, (folder / "evaluations.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name != "time"} for line in found]


def test_a_serial_search_is_the_one_that_is_simulated_on_a_table():
    table = make_table("t", SPACE.choices, ARCHS, {"value": [value(arch) for arch in ARCHS]})
    _, trace = jax.jit(simulate(EVOLUTION, table, "value", steps=20))(jax.random.key(3))
    asked = ARCHS[np.asarray(trace.rows).reshape(-1)]
    found = search_black_box(EVOLUTION, value, 60, seed=3, repeats=True)
    assert found.archs.tolist() == asked.tolist()
    assert found.values.tolist() == np.asarray(trace.objectives, np.float64).reshape(-1, 1).tolist()
    assert found.arch.tolist() == ARCHS[trace.best[-1]].tolist()
    # Without repeats: the same asks, of which each architecture is evaluated once and told again.
    distinct = list(dict.fromkeys(map(tuple, asked.tolist())))
    assert 10 < len(distinct) < 60
    assert list(map(tuple, search_black_box(EVOLUTION, value, 10, seed=3).archs.tolist())) == distinct[:10]


def test_a_search_ends_where_nothing_new_is_asked_for():
    found = search_black_box(RANDOM, value, 100, space=SPACE)
    assert sorted(found.archs.tolist()) == ARCHS.tolist()
    assert found.arch.tolist() == found.front[0].tolist() == BEST
    assert found.objectives == found.values.max() == value(np.array(BEST))
    # Up to `canonical`: the third choice changes nothing.
    found = search_black_box(RANDOM, lambda arch: arch[0], 100, canonical=lambda arch: arch * np.array([1, 1, 0, 1]))
    assert len(found.archs) == len(np.unique(found.archs[:, [0, 3]], axis=0)) == 6


def test_a_run_stopped_anywhere_ends_as_one_that_was_not(tmp_path):
    def fails_somewhere(arch):
        if arch[2] == 1:
            raise RuntimeError(f"{arch.tolist()} does not train")
        return value(arch)

    def run(folder):
        return search_black_box(EVOLUTION, fails_somewhere, 7, space=SPACE, folder=folder, settings={"population": 6})

    undisturbed = run(tmp_path / "whole")
    text = (tmp_path / "whole" / "evaluations.jsonl").read_text()
    result = json.loads((tmp_path / "whole" / "result.json").read_text())
    assert result["notation"] == SPACE.notation(undisturbed.arch)
    assert result["failed"] == sum(error is not None for error in undisturbed.errors) > 0
    ends = np.cumsum([0, *map(len, text.splitlines(keepends=True))])
    for number, end in enumerate(ends):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "config.json").write_text((tmp_path / "whole" / "config.json").read_text())
        (folder / "evaluations.jsonl").write_text(text[: end + 9])  # with the beginning of a next line
        assert same(run(folder), undisturbed)
        assert lines(folder) == lines(tmp_path / "whole")
    with pytest.raises(ValueError, match=r"settings\.population: 6 there, 7 now"):
        search_black_box(EVOLUTION, value, 7, space=SPACE, folder=tmp_path / "whole", settings={"population": 7})


def test_a_finished_run_is_read_back_and_one_of_another_search_refused(tmp_path):
    found = search_black_box(RANDOM, value, 4, folder=tmp_path)
    assert same(search_black_box(RANDOM, None, 4, folder=tmp_path), found)
    file = tmp_path / "evaluations.jsonl"
    good = file.read_text()
    for old, new in (('"evaluation": 1,', '"evaluation": 9,'), ('"arch": [', '"arch": [7, '), ('{"ask"', '["ask"')):
        file.write_text(good.replace(old, new, 1))
        with pytest.raises(ValueError, match=r"line \d .*(does not fit|damaged|not readable)"):
            search_black_box(RANDOM, value, 4, folder=tmp_path)


def test_a_signal_ends_a_run_between_two_evaluations(tmp_path):
    calls = []

    def interrupted(arch):
        calls.append(arch.tolist())
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            while not asked_to_stop():  # another thread may have got it
                time.sleep(0.01)
        return value(arch)

    with pytest.raises(Stopped, match="SIGTERM after evaluation 3 of 6, saved"):
        search_black_box(RANDOM, interrupted, 6, folder=tmp_path)
    found = search_black_box(RANDOM, interrupted, 6, folder=tmp_path)
    assert calls == found.archs.tolist()
    assert same(found, search_black_box(RANDOM, value, 6))


def test_a_stop_keeps_what_threads_are_computing_and_begins_nothing_else(tmp_path):
    begun, signaled = threading.Barrier(3), threading.Event()

    def slow(arch):
        begun.wait(20)
        assert signaled.wait(20)
        time.sleep(1.5)  # a search looks every second whether it is to stop
        return value(arch)

    def stop():
        return signal.SIGTERM if signaled.is_set() else None

    def told():
        begun.wait(20)
        signaled.set()

    teller = threading.Thread(target=told)
    teller.start()
    sampler = samplers.random_search(SPACE, batch=6)
    with ThreadPoolExecutor(2) as pool, pytest.raises(Stopped, match="after evaluation 2 of 6"):
        search_black_box(sampler, slow, 6, executor=pool, in_flight=6, folder=tmp_path, stop=stop)
    teller.join()
    assert [line["evaluation"] for line in lines(tmp_path) if "values" in line] == [0, 1]
    found = search_black_box(sampler, value, 6, folder=tmp_path)
    assert same(found, search_black_box(sampler, value, 6))


def test_failures_are_tried_again_told_as_invalid_and_kept(tmp_path):
    tries = []

    def flaky(arch):
        tries.append(tuple(arch.tolist()))
        if arch[0] == 2:
            return np.nan
        if arch[0] == 1 and tries.count(tries[-1]) < 3:
            raise SystemExit("out of luck")
        return value(arch)

    found = search_black_box(RANDOM, flaky, 24, retries=2, folder=tmp_path)
    assert found.arch.tolist() == [1, 0, 3, 0]
    for arch, (came,), error in zip(found.archs.tolist(), found.values, found.errors, strict=True):
        assert tries.count(tuple(arch)) == (3 if arch[0] else 1)
        assert error == ("it returned nan" if arch[0] == 2 else None)
        assert np.isnan(came) if error else came == value(np.array(arch))
    kept = [line for line in lines(tmp_path) if "error" in line]
    assert len(kept) == 8
    assert {line["tries"] for line in kept} == {3}
    with pytest.raises(ValueError, match=r"none of 3 evaluations gave a value; the last one: ValueError: invalid"):
        search_black_box(RANDOM, lambda arch: int("no"), 3)
    with pytest.raises(ValueError, match=r"must return 2 numbers, one for each objective; it returned 1.0"):
        search_black_box(RANDOM, lambda arch: 1.0, 3, objectives=2)
    with pytest.raises(ValueError, match="must return one number; it returned None"):
        search_black_box(RANDOM, lambda arch: None, 3)
    with pytest.raises(ValueError, match="choice 'a' has options 0 to 1, got 2"):
        search_black_box(RANDOM, value, 24, space=product_space("s", {"a": "xy", "b": "x", "c": "wxyz", "d": "xy"}))


def test_two_objectives_have_a_front_and_a_page(tmp_path):
    sampler = samplers.nondominated(SPACE, 2, population=6)
    found = search_black_box(
        sampler, lambda arch: (arch[0], -arch[0] - arch[2]), 30, objectives=2, space=SPACE, folder=tmp_path
    )
    assert sorted({(a, c) for a, _, c, _ in found.front.tolist()}) == [(0, 0), (1, 0), (2, 0)]
    page = (tmp_path / "report" / "index.html").read_text()
    assert "The ten best by objective 1" in page
    assert page.count("<tr><td>") == 10
    assert "<td>2</td><td>-2</td><td>a=2 b=one c=0 d=" in page
    assert (tmp_path / "report" / "evaluations.png").stat().st_size > 1000


def test_a_sampler_that_needs_its_batch_waits_for_it():
    """Halving with evaluations ahead is halving without: a rung is asked for when the one before is known."""
    halving = samplers.halving(SPACE, 2 * samplers.hyperband(range(3), 2))

    def trained(arch, fidelity):
        return value(arch) + 0.5 * arch[2] * (2 - fidelity)

    alone = search_black_box(halving, trained, 100, seed=1)
    assert set(alone.fidelities) == {0, 1, 2}
    assert alone.objectives == trained(alone.arch, 2)
    with ThreadPoolExecutor(3) as pool:
        assert same(search_black_box(halving, trained, 100, seed=1, executor=pool, in_flight=4), alone)


def test_a_straggler_holds_nobody_up():
    others, enough = [], threading.Event()

    def slow_first(arch):
        if not others:
            others.append(None)
            assert enough.wait(60)
        else:
            others.append(arch.tolist())
            if len(others) == 10:
                enough.set()
        return value(arch)

    with ThreadPoolExecutor(2) as pool:
        found = search_black_box(ONE_BY_ONE, slow_first, 14, executor=pool, in_flight=2)
    assert len(others) == len(found.archs) == 14
    assert found.values[:, 0].tolist() == [value(arch) for arch in found.archs]
    assert found.objectives == found.values.max()


def test_a_signal_that_a_worker_got_too_is_no_failure():
    """Ctrl-C reaches every process of a terminal: what a pool was doing then is done again."""
    calls = []

    def interrupted(arch):
        calls.append(arch)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return value(arch)

    with ThreadPoolExecutor(1) as pool:
        found = search_black_box(RANDOM, interrupted, 4, retries=0, executor=pool)
    assert same(found, search_black_box(RANDOM, value, 4))
    assert len(calls) == 5


class Lost(Executor):
    """An executor of threads that is lost after so many submissions, as one whose machine has gone."""

    def __init__(self, pool, lasts):
        self.pool, self.left = pool, lasts

    def submit(self, function, /, *arguments, **named):
        self.left -= 1
        if self.left < 0:
            raise OSError("no route to the scheduler")
        return self.pool.submit(function, *arguments, **named)


def test_a_lost_executor_is_one_error_and_what_was_done_is_kept(tmp_path):
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(BrokenExecutor, match=r"no more work \(OSError: no route.*\); 4 of 6 .* done, run again"):
            search_black_box(RANDOM, value, 6, folder=tmp_path, executor=Lost(pool, 4))
        found = search_black_box(RANDOM, value, 6, folder=tmp_path, executor=pool)
        assert same(found, search_black_box(RANDOM, value, 6))
        # A function that makes executors is asked for another one.
        found = search_black_box(RANDOM, value, 6, executor=lambda: Lost(pool, 4))
        assert same(found, search_black_box(RANDOM, value, 6))


def test_futures_of_another_kind_are_looked_at():
    """Jobs of a scheduler have `done` and `result`, but call nobody."""

    class Job:
        def __init__(self, future):
            self.done, self.result = future.done, future.result

    class Jobs:
        def submit(self, function, *arguments):
            future = Future()
            threading.Timer(0.05, lambda: future.set_result(function(*arguments))).start()
            return Job(future)

    found = search_black_box(RANDOM, value, 2, executor=Jobs(), in_flight=2)
    assert same(found, search_black_box(RANDOM, value, 2))


def processes():
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))


def test_processes_get_no_jax_and_one_that_is_killed_harms_no_other(tmp_path):
    alone = search_black_box(RANDOM, value, 6)
    killed = functools.partial(black_box_worker.value_or_killed, alone.archs[3].tolist())
    with processes() as pool:
        assert same(search_black_box(RANDOM, black_box_worker.value_without_jax, 6, executor=pool, in_flight=3), alone)
        with pytest.raises(BrokenExecutor, match="of 6 evaluations are done, run again"):
            search_black_box(RANDOM, killed, 6, folder=tmp_path, executor=pool)
    found = search_black_box(RANDOM, killed, 6, folder=tmp_path, executor=processes, in_flight=5)
    assert np.isnan(found.values[:, 0]).tolist() == [False, False, False, True, False, False]
    assert found.errors[3].startswith("BrokenProcessPool: ")
    assert (np.delete(found.values, 3, axis=0) == np.delete(alone.values, 3, axis=0)).all()


def test_dask_and_a_worker_that_is_killed(tmp_path):
    import distributed

    alone = search_black_box(RANDOM, value, 6)
    marker = str(tmp_path / "killed")
    killed = functools.partial(black_box_worker.value_or_killed_once, alone.archs[2].tolist(), marker)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        found = search_black_box(RANDOM, killed, 6, executor=client.get_executor(pure=False), in_flight=3)
    assert os.path.exists(marker)
    assert same(found, alone)


def blocks():
    text = (Path(__file__).parents[1] / "docs" / "black_box.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_space_and_function_of_ones_own_that_the_docs_show_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in blocks() if "product_space" in block]
    assert len(block.splitlines()) <= 40
    names = {"__name__": "__main__"}
    exec(block, names)
    found = names["found"]
    assert found.objectives == found.values.max() > np.median(found.values)
    assert (tmp_path / "runs" / "tiny" / "report" / "index.html").exists()


def test_the_sampler_of_ones_own_that_the_docs_show_climbs():
    (block,) = [block for block in blocks() if "def climber" in block]
    assert len(block.splitlines()) <= 60
    names = {}
    exec(block, names)
    sampler = names["climber"](SPACE)
    check_sampler(sampler, SPACE.choices)
    assert search_black_box(sampler, value, 24, space=SPACE).arch.tolist() == BEST


def test_numbers_out_of_range_are_refused():
    for wrong in ({"evaluations": 0}, {"retries": -1}, {"in_flight": 0}, {"objectives": 0}, {"in_flight": 2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            search_black_box(RANDOM, value, **({"evaluations": 1} | wrong))
