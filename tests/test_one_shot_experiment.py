"""`experiments.one_shot` from end to end, as small as it goes, and what it refuses before anything is trained."""

import dataclasses
import functools
import json
import shutil
import sys

import jax
import numpy as np
import pytest

import jaxnas
from experiments import one_shot
from experiments.one_shot import PRESETS as defaults
from experiments.one_shot import Config
from jaxnas import command, data
from jaxnas.base import Skeleton
from jaxnas.benchmarks import load_table, make_table, save_table
from jaxnas.benchmarks.digits201 import digits201_cells
from jaxnas.catalog import CATALOG
from jaxnas.fit import Problem, reuse
from jaxnas.hardware import load_latency
from jaxnas.runfolder import open_run
from jaxnas.spaces import chain_cost_table, chain_space, nasbench201_space
from jaxnas.supernets import chain_supernet

SMALL = [
    # Programs for several devices compile for longer; test_parallel has those.
    *("--devices.count", "1", "--no-hand-designed", "--random-baselines", "0", "--search.epochs", "3"),
    *("--search.batch-size", "300", "--search.channels", "2", "--search.scoring.evaluations", "16"),
    *("--search.scoring.population", "5", "--search.scoring.batch-size", "360", "--search.scoring.batches", "1"),
    *("--train.epochs", "1", "--train.channels", "2", "--train.batch-size", "500", "--max-macs", "14000"),
]
COMPARED = ["--search.comparison.architectures", "4", "--search.comparison.running-paths", "3"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table of some cells, whose values are made up."""
    cells = np.random.default_rng(0).permutation(digits201_cells()[0])[:40]
    path = tmp_path_factory.mktemp("table") / "cells.npz"
    save_table(make_table("cells", nasbench201_space().choices, cells, {"valid": cells.sum(axis=1)}), path)
    return str(path)


def test_a_run_trains_scores_chooses_within_the_budget_and_resumes_to_the_same(tmp_path, capsys, table):
    run = tmp_path / "run"
    arguments = [*SMALL, *COMPARED, "--table", table, "--workdir", str(run), "--cache-dir", str(tmp_path / "cache")]
    arguments += ["--search.prune", "4", "--max-latency-ms", "1e6", "--latency-batch", "2"]
    command.main(one_shot.main, Config, arguments, defaults)
    result = json.loads((run / "result.json").read_text())
    assert {"best-of-random"} == set(result["baselines"])
    assert max(result["macs"], result["baselines"]["best-of-random"]["macs"]) <= 14000
    selection = result["selection"]
    assert (selection["search"], selection["batch_norm"], selection["evaluations"]) == ("evolution", "recalibrated", 16)
    assert selection["front"][-1]["score"] == max(selection["best_score"], selection["best_random_score"])
    assert all(point["macs"] <= 14000 for point in selection["front"])
    assert set(selection["agreement"]) == {"batch", "recalibrated", "running"}
    assert all("regret_top_1" in figures for figures in selection["agreement"].values())
    whole, left = selection["pruning"]
    assert (whole["from_epoch"], whole["architectures"]) == (0, 5**6)
    assert (left["from_epoch"], left["architectures"]) == (1, 4**6)
    assert left["supernet_params"] <= whole["supernet_params"]
    kept = json.loads((run / "stages" / "search-1" / "done.json").read_text())["keep"]
    for arch in (result["genotype"], result["baselines"]["best-of-random"]["genotype"]):
        space = nasbench201_space()
        assert all(option in row for option, row in zip(space.from_genotype(arch).tolist(), kept, strict=True))
    table_of_times = load_latency(run / "latency.json")
    assert result["latency"]["predicted_ms"] >= table_of_times.constant
    assert result["timing"]["latency_ms"] > 0
    for name in ("index.html", "front.png", "agreement.png", "cells.png"):
        assert (run / "report" / name).stat().st_size > 1000
    apply, params = jaxnas.load(run)
    assert np.isfinite(apply(params, np.zeros((2, 8, 8, 1), np.uint8))).all()

    # The table in another place is the same to the run, and one of other values is not.
    shutil.copy(table, tmp_path / "moved.npz")
    moved = [*arguments, "--table", str(tmp_path / "moved.npz")]
    command.main(one_shot.main, Config, moved, defaults)
    assert f"{run} is finished" in capsys.readouterr().out
    cells = load_table(table)
    changed = make_table("cells", cells.choices, cells.archs, {"valid": -cells.metrics["valid"]})
    save_table(changed, tmp_path / "moved.npz")
    with pytest.raises(SystemExit):
        command.main(one_shot.main, Config, moved, defaults)
    assert "(table: the content has changed since" in capsys.readouterr().err

    # Killed in the middle of a line of scores: those before it are read, the others made again, to the same end.
    kept = run / "stages" / "search" / "scores-recalibrated.jsonl"
    lines = kept.read_text()
    kept.write_text(lines[: len(lines) // 2])
    for path in (run / "result.json", run / "stages" / "search" / "done.json"):
        path.unlink()
    command.main(one_shot.main, Config, arguments, defaults)
    again = json.loads((run / "result.json").read_text())
    assert {k: v for k, v in again.items() if k != "timing"} == {k: v for k, v in result.items() if k != "timing"}
    assert sorted(kept.read_text().splitlines()) == sorted(lines.splitlines())
    assert "error" not in capsys.readouterr().err


def test_a_chain_is_trained_by_sandwiches_and_chosen_by_an_integer_program(tmp_path, monkeypatch, capsys):
    """Of depths alone: all blocks would take minutes to compile."""
    blocks = ("shuffle_3x3", "identity")
    space = chain_space((1, 1, 2), blocks)
    changed = CATALOG["chain"]._replace(
        space=lambda skeleton: space,
        supernet=functools.partial(chain_supernet, blocks=blocks),
        cost_table=functools.partial(chain_cost_table, blocks=blocks),
    )
    monkeypatch.setitem(CATALOG, "chain", changed)
    run = tmp_path / "run"
    arguments = [
        *(
            "--space",
            "chain",
            "--search.sampling",
            "sandwich",
            "--search.by",
            "ilp",
            "--search.scoring.batch-norm",
            "batch",
        ),
        *("--search.cells", "4", "--train.cells", "4"),
        *(*SMALL, "--max-macs", "4700", "--workdir", str(run), "--cache-dir", str(tmp_path / "cache")),
    ]
    command.main(one_shot.main, Config, arguments, defaults)
    result = json.loads((run / "result.json").read_text())
    skeleton = Skeleton(2, 4, (8, 8, 1), 10)
    everything = [space.costs(np.array(arch), skeleton)["macs"] for arch in np.ndindex(2, 1, 1, 2)]
    assert min(everything) <= result["macs"] <= 4700 < max(everything)
    assert result["selection"]["search"] == "ilp"
    assert result["selection"]["evaluations"] <= sum(macs <= 4700 for macs in everything)
    assert (run / "report" / "cells.png").stat().st_size > 1000
    apply, params = jaxnas.load(run)
    assert np.isfinite(apply(params, np.zeros((2, 8, 8, 1), np.uint8))).all()

    # The supernet of a run for a search within another budget: what the run has learnt and scored is there.
    (folder,) = (run / "stages/search/checkpoints/latest").iterdir()
    parsed = []
    another = [*arguments, "--search.supernet", str(run), "--max-macs", "4300", "--search.finalists.count", "2"]
    command.main(lambda config: parsed.append(config), Config, another, defaults)
    (config,) = parsed
    problem = Problem(CATALOG["chain"], data.load_dataset("digits"), config.train, space, lambda space: None)
    assert reuse.check(config.search, problem)["step"] == 9
    with open_run(tmp_path / "other", {}, {}) as other:
        reuse.take(other, config.search)
        steps = [line["step"] for line in other.metrics()]
    assert steps == [9]
    for path in ("checkpoints/latest/" + folder.name, "scores-batch.jsonl"):
        taken, there = (at / "stages/search" / path for at in (tmp_path / "other", run))
        assert taken.is_dir() or taken.read_text() == there.read_text()
    fewer_images = dataclasses.replace(config.search.scoring, limit=100)
    with open_run(tmp_path / "limited", {}, {}) as limited:
        reuse.take(limited, dataclasses.replace(config.search, scoring=fewer_images))
        assert not list(limited.path.glob("stages/search/scores-*.jsonl"))  # those are of all images
    with pytest.raises(ValueError, match=r"another supernet than this run \(seed: 0 there, 1 now\)"):
        reuse.check(config.search, problem._replace(seed=1))
    told = r"another supernet than this run \(data\.train_images: 1077 there, 1076 now"
    fewer = dataclasses.replace(problem.dataset, train=jax.tree.map(lambda leaf: leaf[1:], problem.dataset.train))
    with pytest.raises(ValueError, match=told):
        reuse.check(config.search, problem._replace(dataset=fewer))

    # The same supernet in another place is the same to a run, and one whose parameters are others is not.
    def refused(supernet):
        given = [
            *another,
            "--search.supernet",
            str(supernet),
            "--workdir",
            str(tmp_path / "third"),
            "--logger",
            "tensorboard",
        ]
        with pytest.raises(SystemExit):
            command.main(one_shot.main, Config, given, defaults)
        return capsys.readouterr().err

    monkeypatch.setitem(sys.modules, "tensorboardX", None)  # is asked for once the folder of the run is there
    assert "tensorboardX" in refused(run)
    shutil.move(run, tmp_path / "moved")
    assert "tensorboardX" in refused(tmp_path / "moved")
    folder = tmp_path / "moved/stages/search/checkpoints/latest" / folder.name
    largest = max((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1] + b"?")
    assert "(supernet: the content has changed since" in refused(tmp_path / "moved")


WRONG = {
    "proxy": (["--search.by", "proxy", "--search.proxy", "flops"], "there is no proxy 'flops'"),
    "filter": (["--search.by", "proxy", "--search.proxy-from", "5"], "search.proxy_from must be at least the"),
    "budget": (["--max-macs", "10"], "max_macs 10, where the smallest possible is"),
    "program": (["--space", "enas_macro", "--search.by", "ilp"], "there is no integer program"),
    "table": (["--space", "darts", "--table", "TABLE"], "is not over the choices of darts"),
    "metric": (["--table", "TABLE", "--metric", "speed"], "there is no metric 'speed'"),
    "batch of the search": (["--search.batch-size", "5000"], "search.batch_size 5000 is larger than its part"),
    "recalibration": (["--search.scoring.batches", "50"], "search.scoring.batches 50 of 360 images are more than"),
    "sandwich": (
        ["--search.sampling", "sandwich"],
        "a largest and a smallest architecture, which nasbench201 has not",
    ),
    "evaluations": (["--search.scoring.evaluations", "3"], "evaluations must be at least 16"),
    "latency": (["--space", "enas_macro", "--max-latency-ms", "5"], "there is no table of latencies for enas_macro"),
    "stages": (["--search.prune", "1"], "search.prune must fall to 2 at least"),
    "supernet": (["--search.supernet", "nowhere"], "nowhere is no run folder"),
    "supernet and stages": (
        ["--search.supernet", "nowhere", "--search.prune", "4"],
        "leave out search.prune, or search.supernet",
    ),
    "part": (["--search.valid-part", "1.5"], "search.valid_part must be between 0 and 1"),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_wrong_input_is_one_line_and_exit_code_two(case, tmp_path, capsys, table):
    arguments, expected = WRONG[case]
    arguments = [table if word == "TABLE" else word for word in arguments]
    with pytest.raises(SystemExit) as stopped:
        command.main(one_shot.main, Config, [*arguments, "--workdir", str(tmp_path / "run")], defaults)
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.count("\n") == 1
    assert expected in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("space", ["chain", "darts", "enas_macro", "enas_micro", "nasbench201"])
@pytest.mark.parametrize("preset", ["tiny", "small", "paper"])
def test_presets_belong_to_their_space(space, preset):
    config = defaults({"--space": space, "--preset": preset}.get)
    assert (config.space, config.preset) == (space, preset)
    assert config.dataset.startswith("digits") == (preset == "tiny")
