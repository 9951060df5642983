"""`experiments.enas` from end to end, as small as it goes: search, candidates, training, report, the network again."""

import json

import numpy as np
import pytest

import jaxnas
from experiments import enas
from jaxnas import command
from jaxnas.catalog import CATALOG

SMALL = [
    # Programs for several devices compile for longer; test_parallel has those.
    *("--devices.count", "1", "--no-hand-designed", "--random-baselines", "0"),
    *("--space", "nasbench201", "--search.epochs", "2", "--search.batch-size", "300", "--search.channels", "2"),
    *("--search.candidates", "3", "--search.controller.steps", "4", "--search.controller.samples", "2"),
    *("--search.controller.batch-size", "200"),
    *("--train.epochs", "1", "--train.channels", "2", "--train.batch-size", "500"),
]


def values_without_time(path):
    return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run and the command that made it."""
    folder = tmp_path_factory.mktemp("enas")
    arguments = [*SMALL, "--workdir", str(folder / "run"), "--cache-dir", str(folder / "cache")]
    command.main(enas.main, enas.Config, arguments, enas.PRESETS)
    return folder / "run", arguments


def test_a_run_finds_scores_trains_and_keeps_a_network_and_resumes_to_the_same(finished, capsys):
    run, arguments = finished
    result = json.loads((run / "result.json").read_text())
    assert result["genotype"]["space"] == "nasbench201"
    assert {"best-of-random"} == set(result["baselines"])
    candidates = result["candidates"]
    assert (candidates["count"], len(candidates["scores"]), len(candidates["random_scores"])) == (3, 3, 3)
    assert candidates["best_score"] == max(candidates["scores"])
    assert candidates["batch_norm"] == "statistics of each batch of 200"
    for name in ("index.html", "controller.png", "candidates.png", "cells.png"):
        assert (run / "report" / name).stat().st_size > 1000
    lines = values_without_time(run / "metrics.jsonl")
    assert {line["phase"] for line in lines if line["stage"] == "search"} >= {"child", "controller"}
    apply, params = jaxnas.load(run)
    assert np.isfinite(apply(params, np.zeros((2, 8, 8, 1), np.uint8))).all()

    # The search again, from its last checkpoint: the same candidates and scores.
    for path in (run / "result.json", run / "stages" / "search" / "done.json"):
        path.unlink()
    command.main(enas.main, enas.Config, arguments, enas.PRESETS)
    again = json.loads((run / "result.json").read_text())
    assert {k: v for k, v in again.items() if k != "timing"} == {k: v for k, v in result.items() if k != "timing"}
    assert values_without_time(run / "metrics.jsonl") == lines
    assert "error" not in capsys.readouterr().err


def test_the_first_of_two_seeds_at_once_is_the_same_search(finished, tmp_path):
    run, arguments = finished
    candidates, seeds = json.loads((run / "result.json").read_text())["candidates"], tmp_path / "seeds"
    arguments = [*SMALL, "--seeds", "2", "--workdir", str(seeds), "--cache-dir", arguments[-1]]
    command.main(enas.main, enas.Config, arguments, enas.PRESETS)
    both = json.loads((seeds / "result.json").read_text())
    first = both["baselines"]["seed-0"]
    for name in ("scores", "random_scores"):  # of 360 images
        np.testing.assert_allclose(first["candidates"][name], candidates[name], atol=0.01)
    chosen = f"seed-{both['seeds']['chosen']}"
    assert both["genotype"] == both["baselines"][chosen]["genotype"]
    assert (seeds / "genotype.json").read_text() == (seeds / f"genotype-{chosen}.json").read_text()
    assert set(both["baselines"]) == {"seed-0", "seed-1"}
    assert "two found architectures have" in (seeds / "report" / "index.html").read_text()


WRONG = {
    "batch of the search": (["--search.batch-size", "5000"], "search.batch_size 5000 is larger than its part"),
    "batch of the controller": (
        ["--search.controller.batch-size", "5000"],
        "batches of 5000 of phase 'controller' are larger than the part",
    ),
    "batches": (["--search.controller.batches", "7"], "no multiple of search.controller.batches 7"),
    "part": (["--search.valid-part", "1.5"], "search.valid_part must be between 0 and 1"),
    "temperature": (["--search.controller.temperature", "0"], "temperature must be positive"),
    "auxiliary": (["--space", "nasbench201", "--train.auxiliary"], "no auxiliary head"),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_wrong_input_is_one_line_and_exit_code_two(case, tmp_path, capsys):
    arguments, expected = WRONG[case]
    with pytest.raises(SystemExit) as stopped:
        command.main(enas.main, enas.Config, [*arguments, "--workdir", str(tmp_path / "run")], enas.PRESETS)
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.count("\n") == 1
    assert expected in error


@pytest.mark.parametrize("space", sorted(CATALOG))
@pytest.mark.parametrize("preset", ["tiny", "small", "paper"])
def test_presets_belong_to_their_space(space, preset):
    config = enas.PRESETS({"--space": space, "--preset": preset}.get)
    assert (config.space, config.preset) == (space, preset)
    assert config.dataset.startswith("digits") == (preset == "tiny")
