"""DARTS on the road with choices that lose options: stages, their sizes, and the same end when resumed."""

import json

import numpy as np

from jaxnas import data
from jaxnas.catalog import entry_of
from jaxnas.fit import Darts, Devices, Problem, Training, Watch
from jaxnas.fit.budget import make_budget
from jaxnas.fit.results import held_run
from jaxnas.fit.searching import epoch_lines
from jaxnas.fit.settings import skeleton_of
from jaxnas.spaces import darts_space


def test_a_search_shrinks_and_resumes_to_the_same(tmp_path):
    method = Darts(
        epochs=2, batch_size=30, channels=1, cells=1, limit=60, prune=(2,), alpha_learning_rate=0.1,
        watch=Watch(every=0, eigenvalue_every=0),
    )  # fmt: skip
    dataset, entry, training = data.load_dataset("digits"), entry_of("darts"), Training()

    def budget(space):
        return make_budget(entry, space, skeleton_of(training, dataset), {})

    problem = Problem(entry, dataset, training, darts_space(), budget, devices=Devices(count=1))
    prepared = method.prepare(problem)

    def searched():
        with held_run(str(tmp_path / "run"), {}, {}) as (run, stop):
            return prepared.search(run, stop)["found"], epoch_lines(run.metrics())

    found, epochs = searched()
    sizes = found.told["shrinking"]
    assert [size["from_epoch"] for size in sizes] == [0, 1]
    assert [size["operations"] for size in sizes] == [2 * 14 * 8, 2 * 14 * 2]
    assert sizes[1]["supernet_params"] < sizes[0]["supernet_params"]
    assert [line["epoch"] for line in epochs] == [1, 2]
    assert epochs[1]["step"] == 2 * epochs[0]["step"]
    for kind in ("weights_normal", "weights_reduce"):
        before, after = (np.array(line[kind]) for line in epochs)
        assert (before > 0).all()
        np.testing.assert_array_equal((after > 0).sum(axis=1), 2)
        # The two heaviest stay; the last part of the search moves what is left.
        heaviest = np.sort(np.argsort(-before, axis=1)[:, :2])
        np.testing.assert_array_equal(heaviest, [np.flatnonzero(row) for row in after])
    (tmp_path / "run" / "stages" / "search" / "done.json").unlink()
    again, rounds_again = searched()
    np.testing.assert_array_equal(again.arch, found.arch)
    assert json.dumps(rounds_again) == json.dumps(epochs)
