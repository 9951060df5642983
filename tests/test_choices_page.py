"""The page of one's own model runs as it stands."""

import re
from pathlib import Path

import jax
import numpy as np

from jaxnas.base import Context
from jaxnas.choices.searching import counted

PAGE = (Path(__file__).parents[1] / "docs" / "own_model.md").read_text(encoding="utf-8")


def test_the_page_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, names)
    own, arch, dataset = names["own"], names["arch"], names["dataset"]
    images = jax.random.normal(jax.random.key(2), (4, 8, 8, 1))
    path = own.supernet.apply_path(names["params"], arch, images, Context())[0]
    np.testing.assert_allclose(own.network(arch).apply(names["smaller"], images, Context())[0], path, atol=1e-4)
    vit, results = names["vit"], names["results"]
    for name, result in results.items():
        assert result.result["macs"] <= 80_000, name
        assert result.result["macs"] == counted(vit.network(result.found.arch), images)["macs"]
    assert names["logits"].shape == (5, 10)
    np.testing.assert_array_equal(
        names["logits"], results["darts"].network.apply(results["darts"].network.params, dataset.test.inputs[:5])
    )
    assert [choice.name for choice in names["small"].space.choices] == ["hidden", "layer"]
