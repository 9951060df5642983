"""What docs/reliability.md says of disks and files, where no test of a single part says it."""

import gc
import io
import json
import re
import resource
import shutil
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_loop import Info, bits, metrics

from experiments import predict
from jaxnas import command
from jaxnas.checkpoint import Checkpoints, abstract
from jaxnas.draw import has_curves
from jaxnas.runfolder import open_run
from jaxnas.train.chunk import make_chunk
from jaxnas.train.loop import NonFiniteError, PhaseSteps, run
from jaxnas.train.stop import Stopped


def state_of(seed):
    """Random numbers, which no compression makes small: 80 kB."""
    return {"w": jax.random.normal(jax.random.key(seed), (20_000,)), "step": jnp.int32(seed)}


def step(key, state, batch):
    del batch
    w = 0.9 * state["w"] + jax.random.normal(key, state["w"].shape)
    return {"w": w, "step": state["step"] + 1}, Info(jnp.mean(w), jnp.int32(0))


LEG = PhaseSteps("walk", make_chunk(step, lambda key, step, data: data), 2)


def go(folder, stop=lambda: None):
    with open_run(folder, {}, {}) as held:
        end = run([LEG], jax.random.key(1), state_of(0), jnp.zeros(1), 5, stage=held.stage("s"), stop=stop,
                  chunk_seconds=0, save_seconds=0, log_every=1, output=io.StringIO())  # fmt: skip
    return bits(end.state), metrics(folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return go(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def collected():
    """What Orbax leaves of a save that failed may complain when it is collected: here, and in no later test."""
    yield
    gc.collect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("collected")
def test_a_full_disk_is_one_line_and_the_run_goes_on_from_the_checkpoint_before(undisturbed, tmp_path):
    """Files larger than a limit cannot be written from the fourth step on, the checkpoints' among them."""
    limit, ceiling = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    asked = []

    def fill():
        asked.append(1)
        if len(asked) == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, ceiling))

    try:
        with pytest.raises(OSError, match="cannot save the checkpoint of step 4 in") as error:
            go(tmp_path, fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, ceiling))
        signal.signal(signal.SIGXFSZ, handler)
    assert "\n" not in str(error.value)
    latest = tmp_path / "stages" / "s" / "checkpoints" / "latest"
    assert {"2", "3"} <= {path.name for path in latest.iterdir()}
    assert go(tmp_path) == undisturbed
    assert not [path for path in latest.iterdir() if "tmp" in path.name]


def test_a_stage_whose_checkpoints_are_gone_starts_anew_with_its_metrics(undisturbed, tmp_path):
    calls = []

    def stop():
        calls.append(1)
        return signal.SIGTERM if len(calls) == 5 else None

    with pytest.raises(Stopped):
        go(tmp_path, stop)
    assert len(metrics(tmp_path)) == 5
    shutil.rmtree(tmp_path / "stages" / "s" / "checkpoints")
    assert go(tmp_path) == undisturbed


def test_a_stage_whose_metrics_are_gone_goes_on(undisturbed, tmp_path):
    calls = []

    def stop():
        calls.append(1)
        return signal.SIGTERM if len(calls) == 5 else None

    with pytest.raises(Stopped):
        go(tmp_path, stop)
    (tmp_path / "metrics.jsonl").unlink()
    state, lines = go(tmp_path)
    assert state == undisturbed[0]
    assert lines == undisturbed[1][5:]
    assert has_curves(lines) == has_curves(undisturbed[1])
    assert not has_curves([])


def test_whichever_file_of_a_checkpoint_is_missing_what_is_restored_is_whole(tmp_path, capsys):
    """Either the file is not needed, or the checkpoint before serves; no half of a state ever comes back."""
    with Checkpoints(tmp_path / "saved") as checkpoints:
        for number in (10, 20):
            checkpoints.save(number, state_of(number), {})
    files = [path.relative_to(tmp_path / "saved") for path in (tmp_path / "saved" / "latest" / "20").rglob("*")]
    steps = []
    for number, file in enumerate(files):
        copy = tmp_path / str(number)
        shutil.copytree(tmp_path / "saved", copy)
        if (copy / file).is_dir():
            shutil.rmtree(copy / file)
        else:
            (copy / file).unlink()
        with Checkpoints(copy) as checkpoints:
            state, _, found = checkpoints.restore(abstract(state_of(0)))
        assert bits(state) == bits(state_of(found))
        steps.append(found)
    assert set(steps) <= {10, 20}
    assert steps.count(10) > 3
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", ['{"init_timestamp_nsecs": "x", "metrics": {"": 1}}', "[1]", '{"performance_metrics": {"x": 1}}']
)
@pytest.mark.parametrize("listed", [True, False])
def test_what_orbax_keeps_beside_a_checkpoint_in_another_shape_is_damage(content, listed, tmp_path, capfd):
    with Checkpoints(tmp_path) as checkpoints:
        for number in (10, 20):
            checkpoints.save(number, state_of(number), {})
    (tmp_path / "latest" / "20" / "_CHECKPOINT_METADATA").write_text(content)
    if not listed:
        (tmp_path / "latest" / "20" / "files.json").unlink()
    with Checkpoints(tmp_path) as checkpoints:
        state, _, found = checkpoints.restore(abstract(state_of(0)))
    assert bits(state) == bits(state_of(found))
    assert found == 10 or not listed
    told = capfd.readouterr().err
    assert ("is damaged" in told) == (found == 10)
    assert "absl" not in told


def test_exit_codes_are_those_of_the_documentation(capsys):
    def raised_by(error):
        def main(config):
            raise error

        main.__module__ = predict.__name__
        with pytest.raises(SystemExit) as stopped:
            command.main(main, predict.Config, ["--run", "here", "image.png"])
        assert capsys.readouterr().err.count("\n") == 1
        return stopped.value.code

    assert raised_by(ValueError("wrong\ninput")) == 2
    assert raised_by(OSError("no space left")) == 2
    assert raised_by(NonFiniteError("loss", float("nan"), 3, "here")) == 3
    assert raised_by(Stopped(signal.SIGTERM, 1, 2, saved=True)) == 75
    assert raised_by(Stopped(signal.SIGINT, 1, 2, saved=True)) == 130


def test_files_of_a_run_cut_short_are_named(tmp_path, capsys):
    """All JSON files are read by one function, here those of a finished run that `predict` reads."""
    (tmp_path / "network").mkdir()
    whole = json.dumps({"genotype": {}, "skeleton": {"image_shape": [8, 8, 1]}, "class_names": ["a"]})
    (tmp_path / "network" / "network.json").write_text(whole[: len(whole) // 2])
    with pytest.raises(SystemExit) as stopped:
        command.main(predict.main, predict.Config, ["--run", str(tmp_path), "image.png"])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert "network.json is not readable as JSON" in error
    assert error.count("\n") == 1


def test_a_picture_cut_short_is_named(tmp_path, capsys):
    from PIL import Image

    (tmp_path / "network").mkdir()
    skeleton = {"channels": 1, "cells": 1, "image_shape": [8, 8, 1], "num_classes": 2}
    description = {"genotype": {}, "skeleton": skeleton, "class_names": ["a", "b"], "mean": [0.5], "std": [0.5]}
    (tmp_path / "network" / "network.json").write_text(json.dumps(description))
    picture = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(picture)
    content = picture.read_bytes()
    for kept in (10, len(content) // 2):
        picture.write_bytes(content[:kept])
        with pytest.raises(SystemExit) as stopped:
            command.main(predict.main, predict.Config, ["--run", str(tmp_path), str(picture)])
        error = capsys.readouterr().err
        assert stopped.value.code == 2
        assert str(picture) in error
        assert error.count("\n") == 1


def test_every_line_of_the_documentation_names_tests_that_there_are():
    here = Path(__file__).parent
    rows = [
        row.rsplit("|", 2)[1]
        for row in (here.parent / "docs" / "reliability.md").read_text(encoding="utf-8").splitlines()
        if row.startswith("| ") and row.count("|") == 4 and not row.startswith(("| What happens", "| ---"))
    ]
    assert len(rows) > 50
    for row in rows:
        named, file = set(), ""
        for own, test in re.findall(r"`(test_\w+\.py)?(?:::(test_\w+))?`", row):
            file = own or file
            named.add(file)
            assert not test or f"def {test}(" in (here / file).read_text(encoding="utf-8"), (file, test)
        assert named or "The same tests" in row, row
        assert all((here / file).is_file() for file in named)
