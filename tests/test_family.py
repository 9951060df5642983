"""The differentiable family on the road: parts that begin anew, selections after the search, and what cannot be."""

import dataclasses

import numpy as np
import pytest

from jaxnas import data
from jaxnas.catalog import CATALOG, entry_of
from jaxnas.fit import Darts, Devices, Problem, Training, Watch
from jaxnas.fit.budget import make_budget
from jaxnas.fit.family import VARIATIONS, supernet_options
from jaxnas.fit.results import held_run
from jaxnas.fit.searching import epoch_lines
from jaxnas.fit.settings import skeleton_of
from jaxnas.ops.primitives import PRIMITIVES

SMALL = Darts(
    epochs=1, batch_size=30, channels=4, cells=1, limit=60, alpha_learning_rate=0.1,
    watch=Watch(every=0, eigenvalue_every=0),
)  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    return data.load_dataset("digits")


def problem_of(digits, space="nasbench201", seeds=1):
    entry, training = entry_of(space), Training(cells=1)
    skeleton = skeleton_of(training, digits)

    def budget(space):
        return make_budget(entry, space, skeleton, {})

    return Problem(
        entry, digits, training, entry.space(skeleton), budget, seed=3, seeds=seeds, devices=Devices(count=1)
    )


def searched(method, problem, folder):
    """What is found, and the stages that are left."""
    prepared = method.prepare(problem)
    with held_run(str(folder), {}, {}) as (run, stop):
        return prepared.search(run, stop), epoch_lines(run.metrics())


def again(method, problem, folder):
    """The same after the end of the search was forgotten, from the last checkpoints of its stages."""
    (folder / "stages" / "search" / "done.json").unlink()
    return searched(method, problem, folder)


def test_parts_of_p_darts_begin_anew_and_deeper_for_each_seed(digits, tmp_path):
    """Seeds come one after another, because what a supernet has lost is its form."""
    method = dataclasses.replace(SMALL, method="p_darts", epochs=2, prune=(3,), depths=(1, 2), skip_dropout=(0.0, 0.3))
    found, lines = searched(method, problem_of(digits, seeds=2), tmp_path / "run")
    assert list(found) == ["seed-3", "seed-4"]
    for own in found.values():
        first, second = own.told["shrinking"]
        assert (first["operations"], second["operations"]) == (6 * 5, 6 * 3)
        assert second["supernet_params"] > 1.5 * first["supernet_params"]  # two cells a stage
        assert own.notation.count("skip_connect") <= 2
    weights = np.array([line["weights_cell"] for line in lines])  # of two parts of two seeds
    assert ((weights > 0).sum(-1) == np.array([5, 3, 5, 3])[:, None]).all()


def test_a_selection_by_perturbation_decides_every_slot_and_resumes_to_the_same(digits, tmp_path):
    """After another method than DARTS, for two seeds at once."""
    method = dataclasses.replace(SMALL, method="drnas", derive="perturbation", tune_epochs=1)
    problem = problem_of(digits, seeds=2)
    found, _ = searched(method, problem, tmp_path / "run")
    assert (tmp_path / "run" / "stages" / "perturbation").is_dir()
    same, _ = again(method, problem, tmp_path / "run")
    assert [own.arch.tolist() for own in same.values()] == [own.arch.tolist() for own in found.values()]


def test_supernets_have_the_form_that_a_method_asks_for():
    every = {name: {m: supernet_options(m, entry, 0) for m in VARIATIONS if (name, m) not in REFUSED}
             for name, entry in CATALOG.items()}  # fmt: skip
    assert all(own["gdas"] == {"sampled": True} for own in every.values())
    for name in ("darts", "darts_free", "nasbench201", "enas_micro"):
        assert every[name]["pc_darts"] == {"partial": 4}
        dropping = every[name]["p_darts"]["operations"]
        changed = [own for own in dropping if not isinstance(own, str)]
        assert [own.name for own in changed] == ["skip_connect"]
        assert (changed[0].random, PRIMITIVES["skip_connect"].random) == (True, False)
        assert supernet_options("drnas", CATALOG[name], 2) == {"partial": 2}
        assert supernet_options("gdas", CATALOG[name], 2) == {"partial": 2}
    for (name, method), told in REFUSED.items():
        with pytest.raises(ValueError, match=told):
            supernet_options(method, CATALOG[name], 0)


REFUSED = {
    (name, method): told
    for name in ("chain", "enas_macro")
    for method, told in (("pc_darts", "has no partial channels"), ("p_darts", "has no such operation"))
}


def test_settings_that_cannot_work_are_refused_before_anything_is_compiled(digits):
    for changes, told in (
        ({"derive": "wish"}, "search.derive must be paper or perturbation or score over nasbench201"),
        ({"most_skips": 1, "derive": "score"}, "search.most_skips is for search.derive paper"),
        ({"skip_dropout": (0.1,)}, "search.skip_dropout is of p_darts, and darts drops nothing"),
        ({"depths": (1, 2)}, "search.depths must have 1 numbers, one more than search.prune"),
        ({"prune": (3,), "depths": (1, 0), "epochs": 2}, "search.depths must be at least 1"),
        ({"prune": (5,), "epochs": 2}, "search.prune must fall from under 5"),
        ({"method": "p_darts", "epochs": 6, "warmup_epochs": 2}, "none of the 2 search.epochs of each part to move in"),
        ({"partial": 3}, "channels must be divisible by partial=3"),
        ({"tune_epochs": 0}, "search.tune_epochs must be"),
        ({"candidates": 0}, "search.candidates must be"),
    ):
        with pytest.raises(ValueError, match=told):
            dataclasses.replace(SMALL, **changes).prepare(problem_of(digits))
