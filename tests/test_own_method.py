"""Methods from outside the package, as docs/own_method.md has them, on the whole road."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import jaxnas
from jaxnas.benchmarks.digits201 import digits201_cells, digits201_costs

ROOT = Path(__file__).parents[1]
TRAINING = jaxnas.Training(epochs=1, batch_size=500, channels=2, cells=1, drop_path=0.0)
ROAD = {
    "training": TRAINING, "table": "digits201", "random_baselines": 1, "hand_designed": False,
    "devices": jaxnas.Devices(count=1),
}  # fmt: skip


def block(name):
    """What the block of the page that makes a class of that name leaves."""
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "own_method.md").read_text(encoding="utf-8"), re.DOTALL
    )
    (text,) = [text for text in blocks if f"class {name}:" in text]
    assert len([line for line in text.splitlines() if line.strip()]) <= 60
    names = {"__name__": "own"}
    exec(text, names)
    return names[name]


def without_time(result):
    return {k: v for k, v in result.items() if k not in ("timing", "command")}


def test_an_algorithm_of_ones_own_goes_the_whole_road_and_resumes_to_the_same(tmp_path):
    method, folder = block("Bandit")(epochs=1, channels=2), tmp_path / "run"
    _, macs = digits201_costs(jaxnas.Skeleton(2, 1, (8, 8, 1), 10), digits201_cells()[0])
    limit = int(np.quantile(macs, 0.1))

    def go():
        limits = jaxnas.Limits(macs=limit)
        return jaxnas.run(method, "nasbench201", "digits", folder=str(folder), limits=limits, **ROAD)

    done = go()
    assert {"best-of-random", "random-1"} == set(done.result["baselines"])
    searched = ("best-of-random", "random-1")
    assert max(row["macs"] for row in (done.result, *map(done.result["baselines"].get, searched))) <= limit
    assert done.result["candidates"]["best_score"] == max(done.result["candidates"]["scores"])
    truth = done.result["truth"]
    value = jaxnas.rank("digits201", done.found.space, done.found.arch)["value"]
    assert truth["value"] == value <= truth["best"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(40 < line["true_value"] < truth["best"] for line in lines if "true_value" in line)
    assert sum("true_value" in line for line in lines) == 1
    for page in ("index.html", "truth.png", "comparison.png"):
        assert (folder / "report" / page).stat().st_size > 1000
    assert done.network.apply(done.network.params, np.zeros((2, 8, 8, 1), np.uint8)).shape == (2, 10)
    (folder / "result.json").unlink()
    (folder / "stages" / "search" / "done.json").unlink()
    assert without_time(go().result) == without_time(done.result)
    with pytest.raises(ValueError, match=r"search\.epochs: 1 there, 2 now"):
        jaxnas.run(
            block("Bandit")(epochs=2, channels=2), "nasbench201", "digits", folder=str(folder),
            limits=jaxnas.Limits(macs=limit), **ROAD,
        )  # fmt: skip


def test_a_sampler_of_ones_own_trains_its_candidates_for_several_seeds(tmp_path):
    method = block("SmallPopulation")(evaluations=3, epochs=1)
    done = jaxnas.run(method, "nasbench201", "digits", folder=str(tmp_path / "run"), seeds=2, **ROAD)
    assert {"seed-0", "seed-1", "random-1"} == set(done.result["baselines"])
    chosen = done.result["baselines"][f"seed-{done.result['seeds']['chosen']}"]
    assert done.result["genotype"] == chosen["genotype"]
    assert chosen["candidates"]["evaluations"] == 3
    kept = (tmp_path / "run" / "stages" / "search" / "seed-0" / "evaluations.jsonl").read_text().splitlines()
    values = [json.loads(line)["values"][0] for line in kept if "values" in line]
    assert done.result["baselines"]["seed-0"]["candidates"]["best_valid"] == max(values)
