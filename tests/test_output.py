"""Whatever becomes of standard output and standard error, a program does its work and ends with the code of that."""

import importlib.util
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import darts
from jaxnas import command
from jaxnas.console import put, tell
from jaxnas.fit import Watch
from jaxnas.train.progress import Progress

ROOT = Path(__file__).parents[1]

# Prints 4 kB a part; a pipe takes 16 of them.
PROGRAM = """
import dataclasses, os, sys
from pathlib import Path
import jax.numpy as jnp
from jaxnas import command
from jaxnas.train.stop import check_stop, stop_on_signal

@dataclasses.dataclass(frozen=True)
class Config:
    folder: Path
    parts: int = 3

def main(config):
    with open(config.folder / "result", "w") as file, stop_on_signal() as stop:
        try:
            for part in range(config.parts):
                print("out", part, "é" * 1000)
                print("err", part, "é" * 1000, file=sys.stderr)
                if "LIBRARY" in os.environ:
                    os.write(2, b"a library")
                (config.folder / "begun").touch()
                check_stop(stop, part, config.parts, "part")
            file.write(f"sum {float(jnp.arange(4).sum())}")
        except BaseException:
            file.write("saved")
            raise

command.main(main, Config, printed="PRINTED" in os.environ)
"""


def start(folder, *arguments, shell='exec "$@"', **options):
    folder.mkdir()
    words = [sys.executable, "-c", PROGRAM, "--folder", str(folder), *arguments]
    environment = {**os.environ, **options.pop("environment", {})}
    return subprocess.Popen(["bash", "-c", f"set -o pipefail; {shell}", "bash", *words], cwd=ROOT, env=environment,
                            **options)  # fmt: skip


FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the full device of Linux")


@FULL
def test_a_run_goes_on_to_its_end_without_readers_on_a_full_disk_and_with_closed_streams(tmp_path):
    ways = ['"$@" 2>&1 | true', '"$@" 2>&1 | head -c 1 > /dev/null', '"$@" > /dev/full 2>&1', '"$@" <&- >&- 2>&-']
    running = [start(tmp_path / str(number), shell=way) for number, way in enumerate(ways[:-1])]
    running.append(start(tmp_path / "3", shell=ways[3], environment={"LIBRARY": "1"}))
    for number, process in enumerate(running):
        assert process.wait(timeout=100) == 0, ways[number]
        assert (tmp_path / str(number) / "result").read_text() == "sum 6.0", ways[number]


@FULL
def test_a_program_that_only_prints_fails_where_its_output_is_lost(tmp_path):
    environment = {"PRINTED": "1", "PYTHONIOENCODING": "ascii"}
    ways = {"full": ('"$@" > /dev/full', 2), "closed": ('"$@" >&-', 2), "gone": ('"$@" | true', 0)}
    running = {
        name: start(tmp_path / name, shell=way, environment=environment, stderr=subprocess.PIPE, text=True)
        for name, (way, _) in ways.items()
    }
    for name, process in running.items():
        err = process.communicate(timeout=100)[1]
        assert process.returncode == ways[name][1], err
        assert ("error: cannot write to standard output: " in err) == (ways[name][1] == 2)
        assert r"err 0 \xe9\xe9" in err


def wait_for(path):
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.01)


@FULL
def test_a_signal_saves_and_ends_with_its_code_without_a_reader_with_one_that_sleeps_and_on_a_full_disk(tmp_path):
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    many = ("--parts", "1000000000")
    gone, asleep = start(tmp_path / "gone", *many, **pipe), start(tmp_path / "asleep", *many, **pipe)
    with open("/dev/full", "w") as full:
        filled = start(tmp_path / "full", *many, stdout=full, stderr=full)
    for name in ("gone", "asleep", "full"):
        wait_for(tmp_path / name / "begun")
    gone.stdout.close()
    time.sleep(0.5)  # The pipe of the second is full by now.
    for process, number in ((gone, signal.SIGINT), (asleep, signal.SIGTERM), (filled, signal.SIGTERM)):
        process.send_signal(number)
    assert [process.wait(timeout=20) for process in (gone, asleep, filled)] == [130, 75, 75]
    asleep.stdout.close()
    for name in ("gone", "asleep", "full"):
        assert (tmp_path / name / "result").read_text() == "saved"


def test_progress_and_messages_raise_nothing_and_wait_for_nobody(monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    closed = io.StringIO()
    closed.close()
    receive, send = os.pipe()
    with os.fdopen(send, "w") as pipe:
        os.set_blocking(send, False)
        while put_all(pipe):
            pass
        os.set_blocking(send, True)
        for output in (None, closed, Full(), pipe):
            progress = Progress("search", [("search", 2, 0)], [0], output)
            progress.report(0, 1, 0.5, "1/1", None)
            progress.report(0, 1, 0.5, "1/1", None)
            progress.close()
        os.close(receive)
        put("no reader", pipe)
        with pytest.raises(BrokenPipeError):
            pipe.close()
    for output in (None, closed, Full()):
        monkeypatch.setattr(sys, "stderr", output)
        tell("a line")


def put_all(pipe):
    """Whether a write into a pipe that does not wait was taken."""
    try:
        return os.write(pipe.fileno(), b"x" * 512)
    except BlockingIOError:
        return 0


def run_in_process(main, capsys, *arguments):
    main.__module__ = darts.__name__
    with pytest.raises(SystemExit) as stopped:
        command.main(main, darts.Config, arguments, darts.PRESETS)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return stopped.value.code, error


ALLOCATIONS = {
    "XLA": lambda: jnp.zeros((1 << 24, 1 << 24)).block_until_ready(),
    "Python": lambda: bytearray(1 << 60),
}


@pytest.mark.parametrize("who", sorted(ALLOCATIONS))
def test_out_of_memory_is_one_line_with_the_flags_that_need_less(who, capsys):
    def main(config):
        ALLOCATIONS[who]()

    code, error = run_in_process(main, capsys)
    assert code == 2
    assert "out of memory" in error
    assert "give less for --train.batch-size, --train.channels, --search.batch-size, --search.channels" in error
    assert "give 2 or more for --train.accumulate, --search.accumulate" in error


def test_a_device_that_is_not_there_is_one_line(tmp_path):
    platforms = ["nonsense"] if importlib.util.find_spec("jax_cuda13_plugin") else ["nonsense", "cuda"]
    running = [
        start(tmp_path / name, "--parts", "1", environment={"JAX_PLATFORMS": name}, stderr=subprocess.PIPE, text=True)
        for name in platforms
    ]
    for name, process in zip(platforms, running, strict=True):
        lines = process.communicate(timeout=100)[1].splitlines()
        assert process.returncode == 2
        assert f"error: JAX finds none of the devices that JAX_PLATFORMS={name} asks for" in lines[-1]
        assert "JAX_PLATFORMS=cpu" in lines[-1]
        assert not any("Traceback" in line for line in lines)


def test_programs_compute_in_32_bits_and_say_so(capsys):
    def main(config):
        raise ValueError(f"it was {jnp.zeros(1).dtype} and {jnp.asarray(np.arange(2)).dtype}")

    jax.config.update("jax_enable_x64", True)
    try:
        main.__module__ = darts.__name__
        with pytest.raises(SystemExit):
            command.main(main, darts.Config, [], darts.PRESETS)
    finally:
        jax.config.update("jax_enable_x64", False)
    told, error = capsys.readouterr().err.splitlines()
    assert "computes in 32 bits, whatever JAX_ENABLE_X64 says" in told
    assert "it was float32 and int32" in error


def test_the_help_of_a_program_has_no_examples_in_python_and_docstrings_keep_theirs(capsys):
    with pytest.raises(SystemExit):
        command.parse("experiments.darts", darts.__doc__, darts.Config, ["--help"])
    shown = capsys.readouterr().out
    assert "What is measured to see a collapse" in shown
    assert ">>>" not in shown
    assert ">>>" in Watch.__doc__
