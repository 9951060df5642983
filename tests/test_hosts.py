"""Processes on one machine that talk over loopback: the search of one process with as many devices."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxnas.parallel import join_hosts

ROOT = Path(__file__).parent.parent


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def search(folder, processes, devices, way, rounds):
    """What each process prints; all of them work at once, and the first has the run folder."""
    folder.mkdir(exist_ok=True)
    at = "alone" if processes == 1 else f"127.0.0.1:{free_port()}"
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.hosts_worker", *map(str, (folder, devices, at, processes, i, way, rounds))],
            cwd=ROOT, env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(processes)
    ]  # fmt: skip
    told = []
    for process in started:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        told.append(json.loads(out.splitlines()[-1]))
    return told


def test_two_processes_go_on_from_one_and_are_one_process_with_two_devices(tmp_path):
    search(tmp_path / "run", 1, 1, "shard_map", 1)
    first, second = search(tmp_path / "run", 2, 1, "sharded", 3)
    assert first["alpha"] == second["alpha"]
    assert sorted(set(first["steps"])) == [1, 2, 3, 4, 5, 6]
    assert sorted(set(second["steps"])) == [3, 4, 5, 6]  # it reads no file: what it goes on from was sent to it
    (one,) = search(tmp_path / "one", 1, 2, "sharded", 3)
    assert first["arch"] == one["arch"]
    for kind, alpha in one["alpha"].items():
        np.testing.assert_allclose(first["alpha"][kind], alpha, rtol=1e-4, atol=1e-5)


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
