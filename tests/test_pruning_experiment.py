"""`experiments.darts` with edges that lose operations: stages, their sizes, and the same end when resumed."""

import dataclasses
import json

import jax
import numpy as np

from experiments import darts, seeds
from experiments.evaluation import held_run
from jaxnas import data
from jaxnas.base import Skeleton
from jaxnas.fit.devices import Devices
from jaxnas.spaces import darts_space


def test_a_search_shrinks_and_resumes_to_the_same(tmp_path):
    settings = darts.Search(epochs=2, batch_size=30, channels=1, cells=1, limit=60, prune=(2,), alpha_learning_rate=0.1)
    watch = darts.darts_watch.Watch(every=0, eigenvalue_every=0)
    config = dataclasses.replace(
        darts.PRESETS["tiny"], search=settings, watch=watch, workdir=str(tmp_path / "run"), devices=Devices(count=1)
    )
    dataset = data.load("digits", None)
    layout = seeds.layout(config, dataset.image_shape, settings.batch_size, side_by_side=True)
    parts, space = darts.search_parts(dataset, config), darts_space()
    skeleton = Skeleton(1, 1, dataset.image_shape, dataset.num_classes)

    def searched():
        with held_run("darts", config, ("workdir", "data_dir", "devices", "tensorboard", "cache_dir")) as (run, _):
            return darts.search(
                run, config, space, skeleton, parts, dataset, jax.random.key(0), lambda: None, layout
            ), darts.search_rounds(run)

    (arch, _, sizes, _), rounds = searched()
    assert [size["from_epoch"] for size in sizes] == [0, 1]
    assert [size["operations"] for size in sizes] == [2 * 14 * 8, 2 * 14 * 2]
    assert sizes[1]["supernet_params"] < sizes[0]["supernet_params"]
    assert [line["epoch"] for line in rounds] == [1, 2]
    assert rounds[1]["step"] == 2 * rounds[0]["step"]
    for kind in ("weights_normal", "weights_reduce"):
        before, after = (np.array(line[kind]) for line in rounds)
        assert (before > 0).all()
        np.testing.assert_array_equal((after > 0).sum(axis=1), 2)
        # The two heaviest stay; the last part of the search moves what is left.
        heaviest = np.sort(np.argsort(-before, axis=1)[:, :2])
        np.testing.assert_array_equal(heaviest, [np.flatnonzero(row) for row in after])
    (tmp_path / "run" / "stages" / "search" / "done.json").unlink()
    (again, *_), rounds_again = searched()
    np.testing.assert_array_equal(again, arch)
    assert json.dumps(rounds_again) == json.dumps(rounds)
