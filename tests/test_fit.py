"""The road and its parts as functions, on problems whose answer is known."""

import dataclasses
import json
import threading

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_table import NET, SPACE, TRUTH, table

import jaxnas
from jaxnas import choices, data, fit, samplers
from jaxnas.base import Network, Phase, SearchAlgorithm
from jaxnas.benchmarks import digits201_table, make_table
from jaxnas.benchmarks.digits201 import digits201_cells, digits201_costs
from jaxnas.catalog import CATALOG, Entry, entry_of
from jaxnas.fit.problem import SearchSplit
from jaxnas.fit.scores import Scores, Scoring, kept_scores
from jaxnas.fit.searching import Epochs, batches_of, ends_of, epoch_lines
from jaxnas.fit.sharing import candidates_within
from jaxnas.fit.training import Trainer
from jaxnas.runfolder import open_run
from jaxnas.search import darts, single_path, uniform_paths
from jaxnas.spaces import enas_macro_space, nasbench201_space
from jaxnas.train.stop import stop_on_signal

CELLS, _ = digits201_cells()
NASBENCH201 = nasbench201_space()


def path_network(arch, skeleton, space):
    """The path of the toy supernet as a network of its own."""

    def apply(params, inputs, context):
        return NET.apply_path(params, jnp.asarray(arch), inputs, context)

    return Network(lambda key: (NET.init(key), ()), apply, {"params": 9, "macs": 2})


SHARED = NET._replace(extract=lambda params, arch: params, extract_stats=lambda stats, arch: stats)
TABLE = Entry("table", space=lambda skeleton: SPACE, supernet=lambda skeleton: NET, network=path_network)


@pytest.fixture(scope="module")
def numbers():
    return data.from_arrays(table(64, 0), table(20, 1), table(64, 2))


def test_darts_over_a_table_of_numbers_goes_the_whole_road(numbers, tmp_path):
    method = fit.Darts(
        epochs=75, batch_size=32, learning_rate=0.05, last_learning_rate=0.05, weight_decay=0.0,
        alpha_learning_rate=0.05, watch=fit.Watch(every=0, eigenvalue_every=0),
    )  # fmt: skip
    training = fit.Training(epochs=20, batch_size=32, learning_rate=0.05, drop_path=0.0)
    done = fit.run(method, TABLE, numbers, training, folder=str(tmp_path / "run"), random_baselines=1)
    assert done.found.arch.tolist() == TRUTH
    metric = done.result["metric"]
    assert metric == numbers.objective.name != "accuracy"
    other = done.result["baselines"]["random-1"]
    assert set(done.result["baselines"]) == {"random-1"}  # no hand-designed network for what is no image
    assert done.result[f"test_{metric}"] >= other[f"test_{metric}"]
    assert done.result["test_interval"] is None
    assert f"test {metric}".replace("_", " ") in (tmp_path / "run" / "report" / "index.html").read_text().lower()
    outputs = done.network.apply(done.network.params, numbers.test.inputs)
    error = -float(np.mean((np.asarray(outputs) - numbers.test.targets) ** 2))
    assert error == pytest.approx(done.result[f"test_{metric}"], rel=1e-4)


@pytest.mark.parametrize("method", ["gdas", "drnas", "fair_darts", "smooth_adversarial"])
def test_the_methods_after_darts_go_the_road_for_several_seeds_and_resume_to_the_same(method, numbers, tmp_path):
    settings = fit.Darts(method=method, epochs=4, batch_size=32, watch=fit.Watch(every=0, eigenvalue_every=0))
    training = fit.Training(epochs=1, batch_size=32, drop_path=0.0)
    run = tmp_path / "run"

    def go():
        return fit.run(settings, TABLE, numbers, training, folder=str(run), seeds=2, random_baselines=0)

    def lines():
        text = (run / "metrics.jsonl").read_text().splitlines()
        return sorted(str({k: v for k, v in json.loads(line).items() if k != "time"}) for line in text)

    done, before = go(), lines()
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if '"weights_first"' in line][
        -1
    ]
    weights = np.array(last["weights_first"])
    assert weights.shape == (2, 1, 3)
    assert (method == "fair_darts") != np.allclose(weights.sum(-1), 1.0)
    # What is derived is what is reported, not what was drawn last.
    for name, own in zip(("seed-0", "seed-1"), weights, strict=True):
        taken = SPACE.from_genotype(done.result["baselines"][name]["genotype"])
        assert int(taken[0]) == int(own[0].argmax())
    for path in (run / "result.json", run / "stages" / "search" / "done.json"):
        path.unlink()
    assert go().result["baselines"].keys() == done.result["baselines"].keys()
    assert lines() == before


def test_search_alone_finds_with_an_algorithm_and_with_a_sampler(numbers):
    algorithm = darts(NET, optax.sgd(0.05, momentum=0.9), optax.adam(0.05), objective=numbers.objective)
    found = fit.search(algorithm, numbers, epochs=75, batch_size=32)
    assert found.arch.tolist() == TRUTH
    assert found.state.step == 75 * 2
    drawing = single_path(NET, uniform_paths(SPACE, 3), optax.sgd(0.01), objective=numbers.objective)
    assert fit.search(drawing, numbers, epochs=75, batch_size=32, candidates=60).arch.tolist() == TRUTH
    box = fit.search(samplers.random_search(SPACE), lambda arch: -abs(arch - TRUTH).sum(), evaluations=9, space=SPACE)
    assert box.arch.tolist() == TRUTH
    with pytest.raises(ValueError, match="a search algorithm and a data set, or a sampler and a function"):
        fit.search(algorithm, lambda arch: 0.0, epochs=1)


def test_candidates_of_seeds_at_once_are_those_of_each_seed_alone(numbers, tmp_path, monkeypatch):
    training = fit.Training(epochs=1, batch_size=32, drop_path=0.0)
    entry = TABLE._replace(together=lambda skeleton, space: SHARED)
    monkeypatch.setattr(fit.devices, "_cores", lambda: 2)  # however many there are
    threads, fits = set(), Trainer.fit

    def noted(*arguments):
        threads.add(threading.get_ident())
        return fits(*arguments)

    monkeypatch.setattr(Trainer, "fit", noted)

    problem = fit.Problem(entry, numbers, training, SPACE, lambda space: fit.make_budget(TABLE, space, None, {}))

    def evaluations(folder, **seeds):
        method = fit.BlackBox(sampler="evolution", evaluations=6, epochs=2, population=3)
        with open_run(tmp_path / folder, {}, {}) as run:
            names = method.prepare(problem._replace(**seeds)).search(run, lambda: None)
            files = [run.stage("search").path / name / "evaluations.jsonl" for name in names]
        lines = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
        return [[{name: value for name, value in line.items() if name != "time"} for line in own] for own in lines]

    several = evaluations("all", seeds=2)
    assert len(threads) == 2
    assert several == [evaluations(f"alone-{seed}", seed=seed)[0] for seed in range(2)]
    assert [sum("values" in line for line in own) for own in several] == [6, 6]


def test_of_finalists_the_best_by_validation_is_taken_and_a_stopped_run_trains_those_that_are_missing(
    numbers, tmp_path, monkeypatch
):
    finalists = fit.Finalists(9, epochs=30)
    scoring = fit.Scoring("batch", batch_size=8, evaluations=16, population=4, limit=10)
    method = fit.OneShot(epochs=1, batch_size=32, learning_rate=1e-6, clip=None, scoring=scoring, finalists=finalists)
    training = fit.Training(epochs=1, batch_size=32, learning_rate=0.05, drop_path=0.0)

    def negated(params, arch, inputs, context):
        outputs, aux = NET.apply_path(params, arch, inputs, context)
        return -outputs, aux

    # The supernet scores the right maps lowest.
    entry = TABLE._replace(
        supernet=lambda skeleton: NET._replace(apply_path=negated), together=lambda skeleton, space: SHARED
    )
    problem = fit.Problem(entry, numbers, training, SPACE, lambda space: fit.make_budget(TABLE, space, None, {}))
    monkeypatch.setattr(fit.devices, "_cores", lambda: 2)

    def search():
        with open_run(tmp_path, {}, {}) as run:
            return method.prepare(problem).search(run, lambda: None)["found"]

    found = search()
    told = found.told["selection"]["finalists"]
    assert found.arch.tolist() == TRUTH
    assert len(set(told["notations"])) == 9
    assert found.told["selection"]["scored_on"] == "10 validation images"
    assert told["taken"] == int(np.argmax(told["valid"])) > 0
    kept = tmp_path / "stages" / "search" / "finalists" / "evaluations.jsonl"
    lines = kept.read_text().splitlines(keepends=True)
    kept.write_text("".join(lines[:5]))
    for path in (tmp_path / "stages" / "search" / "done.json", kept.with_name("result.json")):
        path.unlink()
    assert search().told["selection"]["finalists"] == told
    for wrong, why in (
        (fit.Finalists(17), r"search\.finalists\.count must be at most the 16 of search\.scoring\.evaluations, got 17"),
        (fit.Finalists(0, 5), r"search\.finalists\.epochs 5 has an effect only with search\.finalists\.count"),
    ):
        with pytest.raises(ValueError, match=why):
            dataclasses.replace(method, finalists=wrong).prepare(problem)
    assert kept.read_text().startswith("".join(lines[:5]))


def test_a_network_is_trained_and_evaluated(numbers):
    training = fit.Training(epochs=30, batch_size=32, learning_rate=0.05, drop_path=0.0)
    trained = fit.train(path_network(TRUTH, None, SPACE), numbers, training)
    again = fit.evaluate(trained.network, trained.params, trained.stats, numbers, numbers.test)
    assert (again.metric, again.loss) == (trained.test_metric, trained.test_loss)
    assert trained.test_loss < 0.2 < np.var(numbers.test.targets)
    assert trained.valid_metric is not None
    with pytest.raises(ValueError, match=r"label_smoothing 0\.1 is for classes"):
        fit.train(path_network(TRUTH, None, SPACE), numbers, fit.Training(label_smoothing=0.1, batch_size=32))


def test_a_network_is_trained_on_data_by_its_name():
    network = path_network(TRUTH, None, SPACE)
    with pytest.raises(ValueError, match=r"train\.batch_size 5000 is larger than the training part, which has 1437"):
        fit.train(network, "digits", fit.Training(batch_size=5000, hold_out=0.0))
    with pytest.raises(ValueError, match=r"train\.epochs"):  # before data is looked for
        fit.train(network, "nowhere", fit.Training(epochs=0))


def test_the_ground_truth_ranks_as_counted(tmp_path):
    truth = fit.truth_of("digits201", NASBENCH201)
    rows = [0, 4321, 15624]
    for row in rows:
        told = truth.told(CELLS[row])
        value = truth.values[row]
        assert told["value"] == value
        assert told["rank"] == 1 + sum(truth.values > value)
        better, equal = (truth.values > value).sum(), (truth.values == value).sum()
        assert told["percentile"] == pytest.approx(100 * (1 - (better + equal / 2) / len(CELLS)))
    best = truth.summary()
    assert truth.told(best["best_architecture"])["rank"] == 1
    assert best["best"] == digits201_table().metrics["test"].max()
    few = make_table("few", NASBENCH201.choices, CELLS[:3], {"score": np.array([1.0, np.nan, 3.0])})
    part = fit.truth_of(few, NASBENCH201, "score")
    assert part.told(CELLS[2]) == {"value": 3.0, "rank": 1, "percentile": 75.0}
    assert part.told(CELLS[1]) == part.told(CELLS[7]) == {"value": None, "rank": None, "percentile": None}
    assert part.now(CELLS[1]) == {}
    alike = NASBENCH201._replace(canonical=lambda arch: jnp.asarray(CELLS[2]))
    by_form = fit.truth_of(few, alike, "score")
    assert by_form.of(CELLS[[0, 7]]).tolist() == [1.0, 3.0]  # a row of its own comes first
    with pytest.raises(ValueError, match="has options 0 to 4, got 9"):
        fit.rank(few, NASBENCH201, [9, 0, 0, 0, 0, 0], "score")
    assert part.now(CELLS[[0, 2]])["true_value"].tolist() == [1.0, 3.0]
    with pytest.raises(ValueError, match="few is not over the choices of table"):
        fit.truth_of(few, SPACE, "score")
    with pytest.raises(ValueError, match="few has no usual metric: name one of score"):
        fit.truth_of(few, NASBENCH201)


@pytest.mark.parametrize("limits", [{}, {"macs": 40_000}])
def test_the_heaviest_architecture_within_a_budget_is_that_of_enumeration(limits):
    skeleton = jaxnas.Skeleton(4, 1, (8, 8, 1), 10)
    budget = fit.make_budget(CATALOG["nasbench201"], NASBENCH201, skeleton, limits)
    weights = {"cell": jax.nn.softmax(jax.random.normal(jax.random.key(1), (6, 5)))}
    logs = np.log(np.asarray(weights["cell"]))[np.arange(6), CELLS].sum(1)
    _, macs = digits201_costs(skeleton, CELLS)
    within = macs <= limits.get("macs", np.inf)
    best = CELLS[within][np.argmax(logs[within])]
    assert fit.heaviest(NASBENCH201, budget, weights, jax.random.key(0)).tolist() == best.tolist()
    # Without a program of integers the heaviest of samples: at most as heavy, and within.
    sampled = fit.heaviest(NASBENCH201, budget._replace(structure=None), weights, jax.random.key(0), 500)
    row = int((5 ** np.arange(5, -1, -1) * np.asarray(sampled)).sum())
    assert within[row]
    assert logs[row] <= logs[within].max() + 1e-6


@pytest.mark.parametrize("by", ["evolution", "ilp"])
def test_select_finds_the_best_within_a_budget_where_scores_add_up(by):
    skeleton = jaxnas.Skeleton(4, 1, (8, 8, 1), 10)
    worth = np.random.default_rng(0).normal(size=(6, 5))

    def score(archs):
        return worth[np.arange(6), np.asarray(archs)].sum(1)

    _, macs = digits201_costs(skeleton, CELLS)
    limit = int(np.quantile(macs, 0.5))
    budget = fit.make_budget(CATALOG["nasbench201"], NASBENCH201, skeleton, {"macs": limit})
    chosen = fit.select(score, NASBENCH201, budget, by=by, predictor="gp", evaluations=120, population=20)
    assert len(chosen.archs) == len(chosen.scores) <= 120
    assert chosen.value == chosen.scores.max() == pytest.approx(score(chosen.arch[None])[0])
    reached = (score(CELLS[macs <= limit]) <= chosen.value + 1e-9).mean()
    assert reached == 1.0 if by == "ilp" else reached > 0.99


def test_what_is_over_the_budget_is_never_found_though_all_that_is_within_is_worth_less_than_nothing():
    found = fit.search(
        samplers.random_search(SPACE), lambda arch: -5.0 - float(arch.sum()), evaluations=4, space=SPACE,
        excess=lambda arch: 0.0 if arch[0] == 2 else 0.1,
    )  # fmt: skip
    assert set(found.archs[:, 0].tolist()) == {2}
    assert found.arch.tolist() == [2, 0]
    assert found.objectives.tolist() == [-7.0]


def test_the_candidates_an_algorithm_draws_are_those_within_the_budget_and_all_draws_without_one():
    skeleton = jaxnas.Skeleton(4, 1, (8, 8, 1), 10)
    _, macs = digits201_costs(skeleton, CELLS)
    limit = float(np.quantile(macs, 0.1))

    def uniform(key):
        return jax.vmap(NASBENCH201.sample)(jax.random.split(key, 20))

    def drawn(limits, count, draw=uniform):
        return candidates_within(
            draw, fit.make_budget(CATALOG["nasbench201"], NASBENCH201, skeleton, limits), count, jax.random.key(0)
        )

    within = drawn({"macs": limit}, 20)  # about 2 of 20 draws are within: it takes many rounds
    assert within.shape == (20, len(NASBENCH201.choices))
    assert digits201_costs(skeleton, within)[1].max() <= limit
    assert len(np.unique(within, axis=0)) > 10
    np.testing.assert_array_equal(drawn({}, 20), uniform(jax.random.key(0)))
    largest = np.full((20, len(NASBENCH201.choices)), NASBENCH201.choices[0].options.index("nor_conv_3x3"), np.int32)
    with pytest.raises(ValueError, match="nothing within the budget in 1000 draws"):
        drawn({"macs": limit}, 20, lambda key: largest)


def test_a_given_genotype_is_held_to_the_budget_and_candidates_to_one_process(numbers):
    digits, entry, skeleton = data.load_dataset("digits"), CATALOG["nasbench201"], jaxnas.Skeleton(4, 1, (8, 8, 1), 10)

    def budget(space):
        return fit.make_budget(entry, space, skeleton, {"macs": 40_000})

    problem = fit.Problem(entry, digits, fit.Training(cells=1), NASBENCH201, budget)
    text = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
    with pytest.raises(ValueError, match=r"the genotype has [\d,]+ macs, over the budget of 40,000"):
        fit.Fixed(text).prepare(problem)
    assert fit.Fixed(text.replace("nor_conv_3x3", "skip_connect")).prepare(problem).identity["search"]["genotype"]
    with pytest.raises(ValueError, match=r"search\.genotype must be text or an object in JSON, got 5"):
        fit.Fixed(5).prepare(problem)
    with pytest.raises(ValueError, match="limits are of params, macs and latency_ms, got one of 'flops'"):
        fit.make_budget(entry, NASBENCH201, skeleton, {"flops": 3})
    several = problem._replace(devices=fit.Devices(coordinator="host:1"))
    with pytest.raises(ValueError, match="candidates are trained by one process"):
        fit.BlackBox().prepare(several)
    with pytest.raises(ValueError, match="by must be one of evolution, predictor, ilp"):
        fit.select(lambda archs: np.ones(len(archs)), NASBENCH201, budget(NASBENCH201), by="chance")
    with pytest.raises(ValueError, match="batch_norm must be batch or recalibrated, got 'running'"):
        fit.score(NET, None, [TRUTH], None, numbers, batch_norm="running")


def test_a_space_that_tells_no_costs_has_those_of_its_networks_and_what_it_lacks_is_told(numbers):
    skeleton = jaxnas.Skeleton(1, 1, (1, 1, 1), 1)
    budget = fit.make_budget(TABLE, SPACE, skeleton, {"macs": 3})
    assert budget.costs(np.array([TRUTH]))["params"].tolist() == [9.0]
    problem = fit.Problem(TABLE, numbers, fit.Training(), SPACE, lambda space: budget)
    scoring = fit.Scoring(batch_size=8, batches=1, evaluations=16)
    with pytest.raises(ValueError, match="predictors need the operations of table: give the Entry its vocabulary"):
        fit.OneShot(batch_size=8, by="predictor", scoring=scoring).prepare(problem)
    bare = TABLE._replace(supernet=lambda skeleton: NET._replace(apply=None))
    with pytest.raises(ValueError, match="the supernet over table has no `apply`"):
        fit.Darts(batch_size=8).prepare(problem._replace(entry=bare))


def test_images_may_have_numbers_as_targets():
    images = np.random.default_rng(0).integers(0, 255, (20, 8, 8, 1), dtype=np.uint8)
    pair = (images, images.mean((1, 2, 3)).astype(np.float32))
    dataset = data.from_arrays(pair, pair, augmentation=data.load_dataset("digits").augmentation)
    training = fit.Training(batch_size=4, channels=2, cells=1, share_step=False)
    fit.training.check_networks(CATALOG["nasbench201"], NASBENCH201, training, dataset, "float32")
    assert fit.training.tutorial_cnn(dataset.image_shape, dataset.num_outputs).costs["params"] > 0


def test_a_phase_is_given_the_parts_that_it_reads_augmented_or_as_they_are():
    digits = data.load_dataset("digits")
    split = SearchSplit(digits.train, digits.valid)
    epochs = Epochs(digits, split, {"a": 100, "b": 90}, {"b": 7})
    both = Phase("a", lambda *_: None, ("train", "valid"))
    plain = Phase("b", lambda *_: None, ("valid",), plain=True)
    assert (epochs.count(both), epochs.count(plain)) == (10, 7)  # once through the 1,077 that are first
    parts = {"train": jax.tree.map(jnp.asarray, split.train), "valid": jax.tree.map(jnp.asarray, split.valid)}
    drawn = batches_of(both, epochs)(jax.random.key(0), jnp.int32(0), parts)
    assert {name: batch.targets.shape for name, batch in drawn.items()} == {"train": (100,), "valid": (100,)}
    as_they_are = batches_of(plain, epochs)(jax.random.key(0), jnp.int32(0), parts)["valid"]
    whole = np.asarray(data.plain_batch(split.valid, np.arange(360), digits.augmentation).inputs)
    flat = {image.tobytes() for image in whole}
    assert all(np.asarray(image).tobytes() in flat for image in as_they_are.inputs)
    assert not all(np.asarray(image).tobytes() in flat for image in drawn["valid"].inputs)


def test_epochs_are_numbered_over_the_stages_of_a_search():
    lines = [
        {"stage": stage, "phase": phase, "epoch": epoch, "step": step}
        for stage, phase, epoch, step in [
            ("search-1", "search", 1, 5), ("search-1", "epoch", 1, 10), ("search", "epoch", 1, 10),
            ("search", "epoch", 2, 20), ("train-found", "epoch", 1, 3),
        ]
    ]  # fmt: skip
    assert [(line["epoch"], line["step"]) for line in epoch_lines(lines)] == [(1, 10), (2, 20), (3, 30)]
    assert ends_of(10, 3) == [0, 3, 6, 10]


@pytest.mark.parametrize("space", sorted(CATALOG))
@pytest.mark.parametrize("method", sorted(fit.presets.PRESETS))
def test_every_method_has_settings_for_every_space(method, space):
    for size in fit.presets.SIZES:
        found = fit.preset(method, space, size)
        assert found.method.name == method
        assert found.dataset.startswith("digits") == (size == "tiny")
        # Where the truth is known of every cell, networks are trained as those of the table were.
        assert (found.table == found.dataset == "digits201") == (size == "tiny" and space == "nasbench201")
        cells = getattr(found.method, "cells", found.training.cells)
        if space in ("enas_macro", "chain"):  # whose choices depend on the depth
            assert cells == found.training.cells


def test_what_there_is_not_is_told():
    with pytest.raises(ValueError, match="there is no space 'mine'; there are darts, nasbench201"):
        entry_of("mine")
    with pytest.raises(ValueError, match="no preset of 'magic'"):
        fit.preset("magic", "darts")
    with pytest.raises(ValueError, match="a method is a dataclass of its settings"):
        fit.problem.settings_of(fit.Darts)
    macro, digits = CATALOG["enas_macro"], data.load_dataset("digits")
    problem = fit.Problem(macro, digits, fit.Training(cells=4), enas_macro_space(4), lambda space: None)
    with pytest.raises(ValueError, match=r"search\.cells 3 and train\.cells 4 make other choices over enas_macro"):
        problem.supernet(2, 3)
    stateless = SearchAlgorithm(lambda key: (), (), lambda key, state, score: None)
    with pytest.raises(ValueError, match="does not say its supernet"):
        fit.search(stateless, digits, epochs=1, batch_size=8)


def test_prune_and_derive_of_darts_are_for_the_spaces_that_have_them(numbers):
    digits = data.load_dataset("digits")
    entry = CATALOG["nasbench201"]
    problem = fit.Problem(entry, digits, fit.Training(cells=1), NASBENCH201, lambda space: None)
    for change, told in (
        ({"method": "snas", "order": "second"}, "search.order second is for two levels"),
        ({"prune": (5,)}, "search.prune must fall from under 5 to 2 at least"),
        ({"derive": "argmax"}, "search.derive must be paper or perturbation or score over nasbench201, got 'argmax'"),
    ):
        with pytest.raises(ValueError, match=told):
            fit.Darts(channels=2, cells=1, **change).prepare(problem)
    chain = CATALOG["chain"]
    space = chain.space(fit.settings.skeleton_of(fit.Training(cells=6), digits))
    with pytest.raises(ValueError, match=r"search\.prune shrinks no supernet over chain"):
        fit.Darts(channels=8, cells=6, prune=(3,)).prepare(
            fit.Problem(chain, digits, fit.Training(cells=6), space, lambda space: None)
        )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"method": "darts"},
            r"such as jaxnas.Darts\(\) or jaxnas.preset\(.*, got 'darts'",
        ),
        ({"method": fit.Darts}, "a method is a dataclass of its settings"),
        ({"method": fit.preset("darts", "darts")}, "a method is a dataclass of its settings"),
        ({"method": fit.Darts(order="third")}, "search.order must be one of first, second, second-fd, got 'third'"),
        ({"method": fit.Darts(epochs=1.5)}, "search.epochs must be int, got 1.5"),
        ({"method": fit.Darts(prune=3)}, "search.prune must be a tuple of int, got 3"),
        ({"method": fit.Darts(watch=None)}, "search.watch must be Watch, got None"),
        (
            {"method": fit.OneShot(by="chance")},
            "search.by must be one of evolution, predictor, ilp, proxy, got 'chance'",
        ),
        (
            {"method": fit.OneShot(scoring=fit.Scoring("running"))},
            "search.scoring.batch_norm must be one of batch, rec",
        ),
        ({"method": fit.BlackBox(sampler="magic")}, "search.sampler must be one of random"),
        (
            {"space": SPACE},
            r"a space alone has no supernet .* or jaxnas.Entry\('table'",
        ),
        ({"space": 3}, "there is no space 3; there are darts, .* a flax model with choices has one"),
        ({"dataset": ([0.0], [1])}, r"dataset must be str or Dataset, got \(\[0.0\], \[1\]\)"),
        ({"training": {"epochs": 1}}, "train must be Training, got {'epochs': 1}"),
        ({"training": fit.Training(schedule="none")}, "train.schedule must be one of cosine, step, plateau"),
        ({"limits": fit.Limits(macs="3")}, "max_macs must be int or None, got '3'"),
        ({"seeds": 1.5}, "seeds must be int, got 1.5"),
        ({"table": 3}, "table must be str or PathLike or Table or None, got 3"),
        ({"metric": "test"}, "metric 'test' is one of a table: give table too"),
        ({"devices": 1}, "devices must be Devices, got 1"),
        ({}, r"networks of nasbench201 cannot read the inputs of arrays, which are no images"),
        ({"size": (8, 8)}, "data_dir, size and label are for a data set that is given by name"),
    ],
)
def test_what_is_of_another_type_or_name_is_told_before_anything_is_done(numbers, change, told):
    call = {"method": fit.Darts(), "space": "nasbench201", "dataset": numbers, **change}
    with pytest.raises(ValueError, match=told):
        fit.run(**call)


def test_phases_that_an_algorithm_has_not_and_ways_that_it_does_not_know_are_told(numbers):
    algorithm = single_path(NET, uniform_paths(SPACE), optax.sgd(0.1), objective=numbers.objective)
    for change, told in (
        ({"steps": {"controller": 3}}, "steps: the algorithm has no phase 'controller'; it has supernet"),
        ({"batch_sizes": {"supernet": 0}}, "batch_sizes of supernet must be at least 1, got 0"),
        ({"devices": fit.Devices(way="pmap")}, "know no devices.way pmap"),
        ({"candidates": 0}, "candidates must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=told):
            fit.search(algorithm, numbers, **{"epochs": 1, "batch_size": 8, **change})


def test_scores_of_other_parameters_by_the_same_programs_are_theirs(tmp_path):
    """Running averages are of the parameters, and are made anew."""

    class Tiny(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            x = nn.Dense(choices.width("hidden", (4, 8)))(x)
            return nn.Dense(3)(nn.relu(nn.BatchNorm(use_running_average=not train)(x)))

    rng = np.random.default_rng(0)
    examples = [(rng.normal(size=(64, 5)).astype(np.float32), rng.integers(3, size=64)) for _ in range(3)]
    dataset = data.from_arrays(*examples)
    supernet = jaxnas.searchable(Tiny(), jnp.zeros((1, 5))).supernet
    archs = np.array([[0], [1]])

    def scored(params, made, folder):
        given = Scores(
            supernet, params, data.split(dataset, 0), dataset, Scoring(batch_size=8, batches=2, evaluations=2), 0,
            tmp_path / folder, jax.local_devices()[:1], made,
        )  # fmt: skip
        policies = ("batch", "recalibrated", "running")
        with stop_on_signal() as stop:
            return kept_scores(
                given, policies, lambda by: {name: by[name](archs) for name in by}, stop, (jax.random.key(5), 4)
            )

    both, made = [supernet.init(jax.random.key(seed)) for seed in (0, 1)], {}
    shared = [scored(params, made, f"shared{number}") for number, params in enumerate(both)]
    assert sorted(made) == ["batch", "recalibrated"]
    for number, params in enumerate(both):
        chex.assert_trees_all_equal(shared[number], scored(params, {}, f"alone{number}"))
    assert any((shared[0][name] != shared[1][name]).any() for name in shared[0])
