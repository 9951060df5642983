"""The differentiable family on the road: parts that begin anew, selections after the search, and what cannot be."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import data
from jaxnas.base import Context, Skeleton
from jaxnas.catalog import CATALOG, entry_of
from jaxnas.fit import Darts, Devices, Problem, Training, Watch
from jaxnas.fit.budget import make_budget
from jaxnas.fit.family import VARIATIONS, supernet_options
from jaxnas.fit.results import held_run
from jaxnas.fit.searching import epoch_lines
from jaxnas.fit.settings import skeleton_of
from jaxnas.ops.primitives import PRIMITIVES
from jaxnas.search import projected
from jaxnas.train.loop import load

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

    this = method.checked(problem)
    keys = jax.random.split(jax.random.key(0), 2)
    state = jax.eval_shape(jax.vmap(this.algorithm(this.supernet(0, None), this.part(0, None)).init), keys)
    tuned = jax.eval_shape(jax.vmap(lambda own: projected(own, this.space.template())), state)
    with held_run(str(tmp_path / "run"), {}, {}) as (run, _):
        before = load(run.stage("search"), state, "latest")
        after = load(run.stage("perturbation"), tuned, "latest").search
    counts = [leaf for leaf in jax.tree.leaves(after.weight_state) if jnp.issubdtype(leaf.dtype, jnp.integer)]
    assert [own.tolist() for own in counts] == [[5 * this.steps] * 2]  # a schedule of its own, for five epochs
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), after.params, before.params)
    assert max(jax.tree.leaves(moved)) > 1e-4


def test_what_looks_at_the_mixture_of_gdas_sees_all_of_it(digits):
    """The search computes the strongest option of a slot alone. A selection without each of the others needs them."""
    this = dataclasses.replace(SMALL, method="gdas").checked(problem_of(digits))
    assert this.options == {"sampled": True}
    part, sampled, whole = this.part(0, None), this.supernet(0, None), this.supernet(0, None, whole=True)
    params, weights = jax.jit(sampled.init)(jax.random.key(0)), this.relaxation(part).mean(this.space.template())
    x = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    one, every = (jax.jit(lambda w, net=net: net.apply(params, w, x, Context())[0]) for net in (sampled, whole))
    least = {kind: rows.at[:, 4].multiply(0.5) for kind, rows in weights.items()}  # of the last option, not the first
    np.testing.assert_array_equal(one(weights), one(least))
    assert np.abs(every(weights) - every(least)).max() > 1e-3


def test_the_slots_of_which_some_are_kept_are_the_rivals_of_a_space():
    """As the architectures of the space have them: in each group at most, and in some just, as many as are kept."""
    seen = set()
    for entry in CATALOG.values():
        if not entry.keeps:
            continue
        space = entry.space(Skeleton(4, 3, (8, 8, 3), 10))
        archs = jax.vmap(space.sample)(jax.random.split(jax.random.key(0), 100))
        groups = np.array(entry.rivals or entry.ends)
        for rows in jax.vmap(space.one_hot)(archs).values():
            edges = np.asarray(rows)[:, :, [o for o, name in enumerate(entry.operations) if name != "none"]].sum(-1)
            for group in np.unique(groups):
                assert edges[:, groups == group].sum(-1).max() == entry.keeps
        seen.add(entry.name)
    assert seen == {"darts", "darts_free", "enas_micro"}


def test_a_limit_of_skips_keeps_the_rule_of_the_method(digits):
    """Of Fair DARTS over `darts_free`: what no sigmoid says is left out."""
    method = dataclasses.replace(SMALL, method="fair_darts", most_skips=8, partial=1)
    this = method.checked(problem_of(digits, "darts_free"))
    weights = jax.tree.map(lambda rows: jnp.full(rows.shape, 0.5), this.space.template())
    assert not any(rows[:, 1:].any() for rows in this.space.one_hot(this.derived(weights)).values())


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
        ({"most_skips": 1, "derive": "score"}, "search.most_skips is for search.derive paper, got score: leave it out"),
        ({"most_skips": 1, "method": "setn"}, "paper, got score, which setn has by default: leave it out"),
        ({"order": "second", "method": "setn"}, "those of setn are trained by random paths"),
        (
            {"derive": "score", "method": "fair_darts"},
            "draws by weights that add up to one, and those of fair",
        ),
        (
            {"early_stop": True, "method": "p_darts", "epochs": 60, "watch": Watch()},
            "take another search.method than p_darts",
        ),
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
