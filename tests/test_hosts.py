"""Processes on one machine that talk over loopback: the search of one process with as many devices."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from hosts_worker import search

from jaxnas.parallel import data_parallel, join_hosts

ROOT = Path(__file__).parent.parent


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def start():
    """Starts processes, and leaves none of them behind."""
    started = []

    def one_group(*given):
        group = processes_of(*given)
        started.extend(group)
        return group

    yield one_group
    for process in started:
        process.kill()
        process.communicate()


def processes_of(folder, processes, way, end):
    """All processes of a search of three epochs, of which the first one has the run folder."""
    at = f"127.0.0.1:{free_port()}"
    flags = ["--folder", folder, "--way", way, "--epochs", 3, "--at", at, "--processes", processes, "--end", end]
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.hosts_worker", *map(str, [*flags, "--process", number])],
            cwd=ROOT, env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(processes)
    ]  # fmt: skip


def ended(processes):
    """(what each told, their exit codes, what they wrote to stderr)."""
    outputs = [process.communicate(timeout=240) for process in processes]
    assert all(out for out, _ in outputs), outputs
    told = [json.loads(out.splitlines()[-1]) for out, _ in outputs]
    return told, [process.returncode for process in processes], [err for _, err in outputs]


def test_two_and_four_processes_go_on_from_one_and_are_one_process_with_as_many_devices(tmp_path, start):
    """At the end a signal to one of four ends all, and a kill of one of two ends the other at once."""
    for name in ("two", "four"):
        (tmp_path / name).mkdir()
    search(tmp_path / "two" / "run", data_parallel("sharded", jax.devices()[:1]), 1)
    shutil.copytree(tmp_path / "two" / "run", tmp_path / "four" / "run")
    four = start(tmp_path / "four", 4, "shard_map", "signal")
    two = start(tmp_path / "two", 2, "sharded", "killed")
    one = search(tmp_path / "one", data_parallel("sharded"), 3)
    told, codes, errors = ended(four)
    assert codes == [75] * 4
    assert all("stopped by SIGTERM after score 64 of 1000" in error for error in errors)
    of_two, (code, killed), (error, _) = ended(two)
    assert (code, killed) == (75, -signal.SIGKILL)
    assert "another process has ended; start all of them again to go on" in error
    for group, share in ((told, 10), (of_two, 20)):
        first, *others = group
        assert first["steps"] == [1, 2, 3, 4, 5, 6]
        for other in others:
            assert other["steps"] == [3, 4, 5, 6]  # it reads no file: what it goes on from was sent to it
        for each in group:
            assert (each["alpha"], each["arch"]) == (first["alpha"], first["arch"])
            assert each["scores"] == first["scores"]
            assert each["scored"] == share
        assert first["arch"] == one["arch"]
        np.testing.assert_allclose(first["scores"], one["scores"], atol=1 / 32)
        for kind, alpha in one["alpha"].items():
            np.testing.assert_allclose(first["alpha"][kind], alpha, rtol=1e-4, atol=1e-5)
    assert len(set(one["scores"])) > 1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("somewhere", 2, 0), "host:port, got 'somewhere'"),
        (("127.0.0.1:80", None, 0), "from 0 to processes - 1; got None and 0"),
        (("127.0.0.1:80", 2, 2), "got 2 and 2"),
    ],
)
def test_wrong_coordinates_are_told(given, told):
    with pytest.raises(ValueError, match=told):
        join_hosts(*given)
