"""The command line: wrong input is one line and exit code 2, before anything is compiled."""

import functools
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import experiments
from experiments import TUNABLE, darts, enas, one_shot, predict, retrain, with_huge_pages
from jaxnas import command
from jaxnas.files import write_json
from jaxnas.spaces import darts_space

WRONG = {
    "unknown data set": (darts, ["--dataset", "cifra10"], "cifra10"),
    "data not there": (darts, ["--dataset", "cifar10", "--data-dir", "EMPTY"], "experiments.prepare_cifar10"),
    "no channels": (darts, ["--search.channels", "0"], "channels must be at least 1, got 0"),
    "batch larger than the split": (darts, ["--search.batch-size", "5000"], "5000"),
    "more operations left than there were": (darts, ["--search.prune", "3", "5"], "fall from under 8 to 2 at least"),
    "one operation left": (darts, ["--search.prune", "1"], "fall from under 8 to 2 at least, got [1]"),
    "more parts than epochs": (
        darts,
        ["--search.prune", "5", "3", "--search.epochs", "2"],
        "more than the 2 of search",
    ),
    "parts that do not divide the batch": (
        darts,
        ["--search.accumulate", "7"],
        "a divisor of the batch size 60, got 7",
    ),
    "training batch larger than the split": (darts, ["--train.batch-size", "5000"], "5000"),
    "no room for the auxiliary head": (darts, ["--train.auxiliary"], "8×8"),
    "not a genotype": (retrain, ["--genotype", "DARTS_V9"], "DARTS_V9"),
    "genotype file not there": (retrain, ["--genotype", "EMPTY/genotype.json"], "genotype.json"),
    "folder of something else": (darts, ["--workdir", "OTHER"], "choose an empty or a new folder"),
    "unwritable folder": (darts, ["--workdir", "FILE/run"], "FILE"),
    "no run": (predict, ["--run", "EMPTY", "image.png"], "holds no trained network"),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_wrong_input_is_one_line_and_exit_code_two(case, tmp_path, capsys):
    module, arguments, expected = WRONG[case]
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    places = {"EMPTY": str(tmp_path / "empty"), "OTHER": str(tmp_path / "other"), "FILE": str(tmp_path / "file")}
    arguments = [_placed(argument, places) for argument in arguments]
    if module is not predict and "--workdir" not in arguments:
        arguments = [*arguments, "--workdir", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as stopped:
        command.main(module.main, module.Config, arguments, getattr(module, "PRESETS", None))
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.count("\n") == 1
    assert _placed(expected, places) in error


def test_a_run_folder_of_another_config_is_refused(tmp_path, capsys, monkeypatch):
    folder = str(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "tensorboardX", None)  # is asked for once the folder is there
    with pytest.raises(SystemExit):
        command.main(darts.main, darts.Config, ["--workdir", folder, "--logger", "tensorboard"], darts.PRESETS)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        command.main(darts.main, darts.Config, ["--workdir", folder, "--seed", "1"], darts.PRESETS)
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.count("\n") == 1
    assert "seed" in error


FOLDER = {
    "darts": (darts, ["--search.batch-size", "8", "--train.batch-size", "8"]),
    "enas": (enas, ["--search.batch-size", "8", "--train.batch-size", "8", "--search.controller.batch-size", "8"]),
    "one_shot": (
        one_shot,
        [
            *("--search.batch-size", "8", "--train.batch-size", "8"),
            *("--search.scoring.batch-size", "8", "--search.scoring.batches", "1"),
        ],
    ),
    "retrain": (retrain, ["--genotype", "DARTS_V2", "--train.batch-size", "8"]),
}
FINISHED = {
    **{"baselines": {}, "notation": "x", "test_accuracy": 0.5, "test_interval": [0, 1], "valid_accuracy": None},
    **{"params": 1, "macs": 1, "genotype": {}, "dataset": "x", "timing": {}, "metric": "accuracy"},
}


@pytest.fixture
def finished(monkeypatch, capsys):
    """Makes the folder of a run by its program, and calls the run finished."""

    def make(start, run):
        # The package is asked for once the folder is there.
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "tensorboardX", None)
            with pytest.raises(SystemExit):
                start("--logger", "tensorboard")
        assert "tensorboard needs the package tensorboardX" in capsys.readouterr().err
        write_json(run / "result.json", FINISHED)

    return make


@pytest.mark.parametrize("program", sorted(FOLDER))
def test_a_folder_of_images_may_move_but_not_change(program, finished, tmp_path, capsys, monkeypatch):
    module, flags = FOLDER[program]
    random = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(24):
            pixels = random.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    run = tmp_path / "run"

    def start(images, *more):
        given = ["--dataset", images, "--workdir", str(run), "--cache-dir", str(tmp_path / "cache"), *flags, *more]
        command.main(module.main, module.Config, given, module.PRESETS)

    finished(functools.partial(start, f"folder:{tmp_path / 'images'}"), run)
    (tmp_path / "images").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    start("./moved/")
    assert f"{run} is finished" in capsys.readouterr().out
    for old, new in (("ant", "x"), ("bee", "ant"), ("x", "bee")):  # labels swapped
        (tmp_path / "moved" / old).rename(tmp_path / "moved" / new)
    with pytest.raises(SystemExit) as stopped:
        start("./moved/")
    error = capsys.readouterr().err
    assert (stopped.value.code, error.count("\n")) == (2, 1)
    assert "(data: the content has changed since, its checksum is another)" in error


def test_a_genotype_may_be_given_otherwise_but_not_change(finished, tmp_path, capsys):
    run, space = tmp_path / "run", darts_space()

    def start(genotype, *more):
        given = ["--genotype", str(genotype), "--workdir", str(run), "--cache-dir", str(tmp_path / "cache"), *more]
        command.main(retrain.main, retrain.Config, given, retrain.PRESETS)

    def write(path, genotype):
        write_json(path, space.to_genotype(space.from_genotype(genotype)))
        return path

    first = write(tmp_path / "first.json", "DARTS_V2")
    finished(functools.partial(start, first), run)
    for spelling in (write(tmp_path / "second.json", "DARTS_V2"), "DARTS_V2"):
        start(spelling)
        assert f"{run} is finished" in capsys.readouterr().out
    write(first, "DARTS_V1")
    with pytest.raises(SystemExit):
        start(first)
    assert "search.genotype.reduce" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_told_and_the_run_ends_with_the_same_numbers(tmp_path, capfd):
    """The whole road of `retrain`, then again from a folder whose newest checkpoint was cut short."""
    run = tmp_path / "run"
    arguments = [
        *("--genotype", "DARTS_V2", "--train.channels", "2", "--train.cells", "1", "--train.epochs", "2"),
        *("--random-baselines", "0", "--workdir", str(run), "--cache-dir", str(tmp_path / "cache")),
    ]
    command.main(retrain.main, retrain.Config, arguments, retrain.PRESETS)
    first = json.loads((run / "result.json").read_text())
    lines = (run / "metrics.jsonl").read_text()
    assert {"found", "tutorial-cnn", "resnet"} == {"found", *first["baselines"]}
    assert (run / "report" / "index.html").stat().st_size > 1000

    (run / "result.json").unlink()
    stage = run / "stages" / "train-found"
    (stage / "done.json").unlink()
    (latest,) = (stage / "checkpoints" / "latest").iterdir()
    largest = max((f for f in latest.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    shutil.rmtree(run / "network")
    capfd.readouterr()
    command.main(retrain.main, retrain.Config, arguments, retrain.PRESETS)
    again = json.loads((run / "result.json").read_text())
    assert "is damaged" in capfd.readouterr().err
    assert {k: v for k, v in again.items() if k != "timing"} == {k: v for k, v in first.items() if k != "timing"}

    def numbers(text):
        entries = [json.loads(line) for line in text.splitlines()]
        return sorted(json.dumps({k: v for k, v in e.items() if k != "time"}, sort_keys=True) for e in entries)

    assert numbers((run / "metrics.jsonl").read_text()) == numbers(lines)


def _placed(argument, places):
    for name, path in places.items():
        argument = argument.replace(name, path)
    return argument


def test_a_program_starts_again_with_large_pages_once_and_nothing_else_does():
    assert with_huge_pages("linux", ["-m"], {"A": "1"}) == {"A": "1", "GLIBC_TUNABLES": TUNABLE}
    for platform, argv, environment in (
        ("darwin", ["-m"], {}),
        ("linux", ["pytest"], {}),
        ("linux", ["-m"], {"GLIBC_TUNABLES": TUNABLE}),
    ):
        assert with_huge_pages(platform, argv, environment) is None


def test_a_program_is_the_same_process_with_large_pages(tmp_path):
    (tmp_path / "experiments").mkdir()
    shutil.copy(experiments.__file__, tmp_path / "experiments")
    program = "import os; print(os.getpid(), os.environ['GLIBC_TUNABLES'], __name__)"
    (tmp_path / "experiments" / "told.py").write_text(program)
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    with subprocess.Popen(
        [sys.executable, "-m", "experiments.told"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        told, _ = process.communicate(timeout=60)
    assert told.split() == [str(process.pid), TUNABLE, "__main__"]
