"""Shrinking a trained model: orders of units, scores, the integer program, budgets, resumes, and what is refused."""

import dataclasses
import itertools
import json
import re
import signal
from pathlib import Path

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import own_models
import pytest

import jaxnas
from experiments import shrink as program
from jaxnas import choices, data
from jaxnas.base import Context
from jaxnas.shrinking import Distillation, Fitting, Shrinking
from jaxnas.shrinking.choosing import at_random, budget_of, next_best, uniform
from jaxnas.shrinking.distances import divergence_of, kl
from jaxnas.shrinking.distilling import Weights
from jaxnas.shrinking.filling import filled, new_layers
from jaxnas.shrinking.scoring import Alternatives, Scorer, falling, fisher, norms
from jaxnas.shrinking.trained import weights_of
from jaxnas.train.stop import Stopped


class Net(nn.Module):
    """Widths with and without a batch norm, a block that need not be there with a width inside, a cheaper layer."""

    @nn.compact
    def __call__(self, x, train=False):
        wide = choices.width("wide", (2, 4, 6))
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Dense(wide)(x)))

        def block(x):
            return x + nn.Dense(wide)(nn.relu(nn.Dense(choices.width("inner", (1, 3, 5)))(x)))

        def cheap(x):
            return nn.Dense(wide)(nn.relu(nn.Dense(1)(x)))

        x = choices.depth("block", [block], (0, 1))(x)
        x = choices.one_of("layer", {"full": nn.Dense(wide), "cheap": cheap, "skip": choices.skip})(x)
        return nn.Dense(3)(nn.relu(x))


def table(seed=0, count=192):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 4)).astype("float32")
    return x, (x[:, 0] > 0).astype("int32") + (x[:, 1] * x[:, 2] > 0)


def moved(params):
    """Parameters with random numbers everywhere, so that nothing is equal by chance."""
    leaves, form = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(4), len(leaves))
    return jax.tree.unflatten(
        form, [leaf + 0.3 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    )


@pytest.fixture(scope="module")
def dataset():
    return data.from_arrays(table(0), table(1), name="table")


@pytest.fixture(scope="module")
def own():
    return jaxnas.searchable(Net(), jnp.zeros((1, 4)))


@pytest.fixture(scope="module")
def trained(own):
    params, stats = own.network(own.units().whole).init(jax.random.key(3))
    return Weights(moved(params), jax.tree.map(lambda leaf: leaf + 0.1, stats))


@pytest.fixture(scope="module")
def supernet_params(own, trained):
    return own.units().embedded(trained.params, own.supernet.init(jax.random.key(5)))


@pytest.fixture(scope="module")
def scorer(own, dataset):
    return Scorer(own, jax.tree.map(lambda leaf: leaf[:64], dataset.train), None, 32, divergence_of(dataset))


@pytest.mark.parametrize(
    ("model", "example"),
    [
        (own_models.ConvNet(), own_models.IMAGES),
        (own_models.Fused(), own_models.SEQUENCE),
        (lambda rngs: own_models.NnxNet(rngs), own_models.IMAGES),
    ],
    ids=["convnet", "fused", "nnx"],
)
def test_another_order_of_units_changes_nothing_that_the_model_computes(model, example):
    own = choices.searchable(model, example)
    units = own.units()
    assert units.groups
    network = own.network(units.whole)
    plain = moved(network.init(jax.random.key(0))[0])
    params = units.embedded(plain, own.supernet.init(jax.random.key(1)))
    kept = own.supernet.extract(params, units.whole)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(plain), strict=True))
    rng = np.random.default_rng(0)
    orders = [np.roll(np.arange(group.size), rng.integers(1, group.size)) for group in units.groups]
    turned = own.supernet.extract(units.ordered(params, orders), units.whole)
    changed = [not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(turned), strict=True)]
    assert sum(changed) >= len(units.groups)
    x = jax.random.normal(jax.random.key(2), (3, *example.shape[1:]))
    apply = jax.jit(lambda params: network.apply(params, x, Context())[0])
    np.testing.assert_allclose(apply(plain), apply(turned), rtol=2e-4, atol=2e-5)
    # What is summed by units is in the order of the units.
    sums = zip(units.sums(params), units.sums(units.ordered(params, orders)), orders, strict=True)
    for before, after, order in sums:
        np.testing.assert_allclose(after, before[order], rtol=1e-3, atol=1e-4)
        assert len(np.unique(np.asarray(before).round(3))) > 1


def test_every_weight_counts_for_its_own_units(own, trained):
    """Sums over the units of "inner" are those of the rows and columns that it has, by hand."""
    units = own.units()
    sums = dict(zip((group.choices for group in units.groups), norms(own, trained), strict=True))
    inner = [leaf for leaf in jax.tree.leaves(trained.params["Depth_0"]) if 5 in leaf.shape]
    by_hand = sum((leaf**2).sum(tuple(a for a, n in enumerate(leaf.shape) if n != 5)) for leaf in inner)
    np.testing.assert_allclose(sums[("inner",)], by_hand, rtol=1e-5)


def test_importance_is_what_removal_does_to_the_outputs(own, trained, dataset):
    """To second order: for a unit that is scaled by 1 - e the divergence is e² / 2 times the Fisher information."""
    units = own.units()
    assert [group.choices for group in units.groups].count(("inner",)) == 1
    number = [group.choices for group in units.groups].index(("inner",))
    examples = jax.tree.map(lambda leaf: leaf[:128], dataset.train)
    often = jax.tree.map(lambda leaf: np.concatenate([leaf] * 12), examples)
    found = fisher(own, trained, often, None, divergence_of(dataset), jax.random.key(0))[number]
    network, step = own.network(units.whole), 0.03
    x = jnp.asarray(examples.inputs)
    plain = network.apply(trained.params, x, Context(trained.stats))[0]

    def scaled(unit):
        """The weights that lead out of the unit, whose row they are."""

        def of(leaf):
            return leaf.at[unit].mul(1 - step) if leaf.ndim == 2 and leaf.shape[0] == 5 else leaf

        params = {**trained.params, "Depth_0": jax.tree.map(of, trained.params["Depth_0"])}
        return kl(network.apply(params, x, Context(trained.stats))[0], plain, 1.0).sum()

    by_hand = np.array([2 * scaled(unit) / step**2 for unit in range(5)])
    # A rectified unit has the derivative once by what leads in, once by what leads out; and each batch has 4 draws.
    np.testing.assert_allclose(found / (4 * 4 * 12), by_hand, rtol=0.35, atol=0.05 * by_hand.max())


def test_the_first_so_many_units_are_the_most_important():
    orders = falling([np.array([1.0, 5.0, 3.0]), np.array([1.0, 2.0])], [False, True])
    assert [order.tolist() for order in orders] == [[1, 2, 0], [0, 1]]


def test_units_whose_order_the_model_reads_stay_where_they_are():
    class Cut(nn.Module):
        @nn.compact
        def __call__(self, x):
            first = nn.tanh(nn.Dense(4)(x))
            own = choices.narrow(first, choices.width("cut", (2, 4)))
            return nn.Dense(3)(own) + nn.Dense(3)(nn.relu(nn.Dense(choices.width("free", (2, 3)))(x)))

    own = choices.searchable(Cut(), jnp.zeros((1, 4)))
    dataset = data.from_arrays(table(), name="table")
    scorer = Scorer(own, dataset.train, None, 32, divergence_of(dataset))
    fixed = dict(zip(own.units().groups, scorer.keeps_order(own.supernet.init(jax.random.key(0))), strict=True))
    assert {group.choices: stays for group, stays in fixed.items()} == {("cut",): True, ("free",): False}


def test_scores_are_those_of_the_networks_cut_out(own, supernet_params, scorer, dataset):
    alternatives = Alternatives(own)
    known = scorer.trained(supernet_params)
    values = scorer.distances(supernet_params, alternatives.archs, known)
    x = jnp.asarray(dataset.train.inputs[:64]).reshape(2, 32, 4)

    def outputs(arch):
        network = own.network(arch)
        params = own.supernet.extract(supernet_params, arch)
        return jax.vmap(lambda x: network.apply(params, x, Context())[0])(x).reshape(64, 3)

    plain = jax.nn.log_softmax(outputs(own.units().whole))
    by_hand = []
    for arch in alternatives.archs:
        other = jax.nn.log_softmax(outputs(own.space.canonical(jnp.asarray(arch))))
        by_hand.append((jnp.exp(plain) * (plain - other)).sum(-1).mean())
    np.testing.assert_allclose(values, by_hand, rtol=1e-3, atol=1e-6)
    losses = alternatives.table(values)
    assert all(losses[name][0, own.units().whole[place]] == 0 for place, name in enumerate(losses))
    assert min(losses["wide"][0, 0], losses["block"][0, 0], losses["layer"][0, 2]) > 1e-3


def test_the_integer_program_is_brute_force(own):
    rng = np.random.default_rng(1)
    whole = np.asarray(own.units().whole)
    losses = {}
    for place, choice in enumerate(own.space.choices):
        losses[choice.name] = rng.uniform(0.1, 1, (1, len(choice.options)))
        losses[choice.name][0, whole[place]] = 0
    losses["inner"] /= 1e3  # so that what a left-out block has inside would come among the best
    every = np.array(list(itertools.product(*(range(len(choice.options)) for choice in own.space.choices))), np.int32)
    costs = own.costs(every)["macs"]
    limit = 0.6 * own.network(own.units().whole).costs["macs"]
    canonical = np.asarray(jax.vmap(own.space.canonical)(jnp.asarray(every)))
    best = {}
    for arch, own_canonical, cost in zip(every, canonical, costs, strict=True):
        if cost <= limit:
            key = tuple(own_canonical.tolist())
            loss = sum(losses[choice.name][0, arch[place]] for place, choice in enumerate(own.space.choices))
            best[key] = min(loss, best.get(key, np.inf))
    ranked = sorted(best.items(), key=lambda item: item[1])[:6]
    found = next_best(own, losses, budget_of(own, "macs", limit, None), 6)
    np.testing.assert_allclose(found.predicted, [loss for _, loss in ranked], rtol=1e-9)
    assert [tuple(arch) for arch in found.archs.tolist()] == [arch for arch, _ in ranked]


def test_uniform_narrowing_takes_all_widths_alike_and_uses_the_budget(own):
    budget = budget_of(own, "macs", 0.5 * own.network(own.units().whole).costs["macs"], None)
    arch = uniform(own, budget)
    costs = own.costs(np.asarray(arch)[None])["macs"][0]
    assert costs <= budget.limits["macs"]
    taken = own.space.to_genotype(arch)
    assert (taken["block"], taken["layer"]) == ("1", "full")
    assert uniform(own, budget_of(own, "params", 30, None)) is None  # only by leaving layers out


SETTINGS = Shrinking(budgets=(0.6, 60), calibration=64, calibration_batch=32, candidates=3)
SHORT = Distillation(epochs=1, batch_size=32)


@pytest.fixture(scope="module")
def run(own, trained, dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    before = jax.tree.map(np.array, trained)
    result = jaxnas.shrink(own, trained, dataset, SETTINGS, SHORT, folder=folder)
    same = jax.tree.map(np.array_equal, before, jax.tree.map(np.asarray, trained))
    assert all(jax.tree.leaves(same))  # what was given is as it was
    return result


def test_every_network_is_within_its_budget_and_is_saved(run, own, dataset):
    whole = own.network(own.units().whole).costs
    for label, limit in (("0.6", 0.6 * whole["macs"]), ("60", 60)):
        rows = run.result["budgets"][label]["networks"]
        assert {"found", "random-1", "scratch"} <= rows.keys()
        for row in rows.values():
            network = own.network(own.space.from_genotype(row["genotype"]))
            assert network.costs == {"params": row["params"], "macs": row["macs"]}
            assert row["macs"] <= limit
            low, high = row["test_interval"]
            assert low <= row["test_accuracy"] <= high
    apply, params = jaxnas.load(run.folder, model=Net())
    right = (np.argmax(apply(params, dataset.test.inputs), -1) == dataset.test.targets).mean()
    assert run.result["test_accuracy"] == pytest.approx(right)
    assert run.result["genotype"] == run.result["budgets"]["60"]["networks"]["found"]["genotype"]
    larger = run.networks[0.6]
    assert sum(map(np.size, jax.tree.leaves(larger.params["params"]))) == rows_of(run, "0.6")["found"]["params"]
    assert (run.folder / "report" / "shrink.png").exists()
    page = (run.folder / "report" / "index.html").read_text()
    assert "units by weight norm" in page
    assert "from random parameters" in page


def rows_of(run, label):
    return run.result["budgets"][label]["networks"]


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(run, own, trained, dataset, tmp_path, monkeypatch):
    from jaxnas.shrinking import work

    asked, check = [], work.check_stop

    def stop_once(stop, done, total, unit):
        asked.append(unit)
        check((lambda: signal.SIGTERM) if len(asked) == 3 else stop, done, total, unit)

    monkeypatch.setattr(work, "check_stop", stop_once)
    with pytest.raises(Stopped):
        jaxnas.shrink(own, trained, dataset, SETTINGS, SHORT, folder=tmp_path / "run")
    again = jaxnas.shrink(own, trained, dataset, SETTINGS, SHORT, folder=tmp_path / "run")
    timed = {"timing", "command"}

    def plain(result):
        kept = {name: value for name, value in result.items() if name not in timed}
        return json.loads(json.dumps(kept), object_hook=lambda o: {k: v for k, v in o.items() if k != "seconds"})

    assert plain(again.result) == plain(run.result)
    for budget, network in again.networks.items():
        same = jax.tree.map(np.array_equal, network.params, run.networks[budget].params)
        assert all(jax.tree.leaves(same))


def test_new_layers_learn_and_nothing_else_does(run, own, supernet_params, scorer, dataset):
    """The cheap layer has no trained parameters: it is trained alone, and then comes nearer to the trained model."""
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(supernet_params)]
    fresh = {name for name, new in zip(names, new_layers(own), strict=True) if new}
    assert fresh
    assert all("cheap" in name for name in fresh)
    assert (run.folder / "stages" / "new-layers" / "checkpoints").exists()
    settings = dataclasses.replace(SHORT, epochs=10, learning_rate=1e-2)
    alternatives = Alternatives(own)
    after = filled(
        own, supernet_params, alternatives.archs, dataset, settings, divergence_of(dataset), jax.random.key(0), None,
        lambda: None,
    )  # fmt: skip
    leaves = zip(new_layers(own), jax.tree.leaves(supernet_params), jax.tree.leaves(after), strict=True)
    assert all(np.array_equal(a, b) != new for new, a, b in leaves)
    losses = [
        alternatives.table(scorer.distances(params, alternatives.archs, scorer.trained(params)))
        for params in (supernet_params, after)
    ]
    assert losses[1]["layer"][0, 1] < 0.9 * losses[0]["layer"][0, 1]
    assert losses[1]["layer"][0, 2] == losses[0]["layer"][0, 2]


def test_a_choice_inside_an_option_that_is_not_taken_is_scored_beside_that_option():
    class Nested(nn.Module):
        @nn.compact
        def __call__(self, x):
            def wide(x):
                return nn.Dense(3)(nn.relu(nn.Dense(choices.width("inner", (2, 4)))(x)))

            return choices.one_of("layer", {"plain": nn.Dense(3), "wide": wide})(x)

    own = choices.searchable(Nested(), jnp.zeros((1, 4)))
    alternatives = Alternatives(own)
    values = {(0, 1): 0.0, (0, 0): 0.0, (1, 1): 5.0, (1, 0): 7.0}
    named = {choice.name: place for place, choice in enumerate(own.space.choices)}
    known = np.array([values[arch[named["layer"]], arch[named["inner"]]] for arch in alternatives.archs.tolist()])
    table = alternatives.table(known)
    assert table["inner"].tolist() == [[2.0, 0.0]]
    assert table["layer"].tolist() == [[0.0, 5.0]]


def test_a_regression_and_a_distance_of_ones_own(tmp_path):
    class Curve(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(nn.tanh(nn.Dense(choices.width("hidden", (1, 2, 4)))(x)))[:, 0]

    x = np.random.default_rng(0).normal(size=(128, 2)).astype("float32")
    dataset = data.from_arrays((x, x[:, 0] ** 2))
    settings = dataclasses.replace(SETTINGS, cost="params", budgets=(0.6,), baselines=False, random_baselines=0)
    found = jaxnas.shrink(
        Curve(), None, dataset, settings, SHORT, training=Fitting(epochs=1, batch_size=32),
        distance=lambda outputs, trained: jnp.abs(outputs - trained), folder=tmp_path / "run",
    )  # fmt: skip
    assert found.result["metric"] == "negative_squared_error"
    assert list(found.result["budgets"]["0.6"]["networks"]) == ["found"]
    assert found.result["params"] == 9
    assert found.result["test_interval"] is None


def test_milliseconds_are_measured_and_limited(own, trained, dataset, tmp_path, monkeypatch):
    """By a clock that counts parameters, and one more for each option that is not the widest."""
    from jaxnas.shrinking import choosing

    def timer(own, batch):
        whole = np.asarray(own.units().whole)
        return lambda arch: own.network(arch).costs["params"] + float((np.asarray(arch) != whole).sum())

    monkeypatch.setattr(choosing, "timer", timer)
    settings = dataclasses.replace(SETTINGS, cost="latency_ms", budgets=(0.6,), baselines=False, random_baselines=0)
    found = jaxnas.shrink(own, trained, dataset, settings, SHORT, folder=tmp_path / "run")
    most = own.network(own.units().whole).costs["params"]
    assert found.result["latency_ms"] <= 0.6 * most
    assert found.result["trained"]["latency_ms"] == most


REFUSED = {
    "a share below the smallest": (
        {"settings": dataclasses.replace(SETTINGS, budgets=(0.001,))},
        r"^budget 0\.001, \S+ macs, is below the smallest network, which has 14 macs: .* up to 1 is a share",
    ),
    "a number below the smallest": (
        {"settings": dataclasses.replace(SETTINGS, budgets=(2,))},
        "^budget 2 is below the smallest network, which has 14 macs: .* up to 1 is a share",
    ),
    "an unknown unit": ({"settings": dataclasses.replace(SETTINGS, cost="watts")}, "shrink.cost"),
    "no budget": ({"settings": dataclasses.replace(SETTINGS, budgets=())}, "at least one"),
    "a budget twice": ({"settings": dataclasses.replace(SETTINGS, budgets=(0.5, 0.5))}, "twice"),
    "more calibration than there is": (
        {"settings": dataclasses.replace(SETTINGS, calibration=999)},
        "999 is more than",
    ),
    "neither weights nor training": ({"weights": None}, "give the weights"),
    "weights of another model": ({"weights": {"params": {"Dense_0": {"kernel": np.zeros((4, 5))}}}}, "another model"),
    "no weights at all": ({"weights": 3}, "weights are"),
    "a model without choices": ({"model": nn.Dense(3)}, r"no choice.* or .*declare them by jaxnas\.choices\.declared"),
    "too few logits": (
        {"model": nn.Sequential([lambda x: nn.Dense(choices.width("w", (1, 2)))(x), lambda x: nn.Dense(2)(x)])},
        "2 logits",
    ),
}


@pytest.mark.parametrize(("given", "told"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_work_is_refused_before_anything_is_written(given, told, own, trained, dataset, tmp_path):
    every = {"model": own, "weights": trained, "settings": SETTINGS, **given}
    with pytest.raises(ValueError, match=told) as caught:
        jaxnas.shrink(every["model"], every["weights"], dataset, every["settings"], SHORT, folder=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_data_of_another_shape_is_refused(own, trained, tmp_path):
    x, y = table()
    with pytest.raises(ValueError, match=r"inputs float32 \[4\].*float32 \[3\]"):
        jaxnas.shrink(own, trained, data.from_arrays((x[:, :3], y)), SETTINGS, SHORT)


def test_data_may_be_given_by_its_name(own, trained):
    with pytest.raises(ValueError, match=r"inputs float32 \[4\].*digits has float32 \[8, 8, 1\]"):
        jaxnas.shrink(own, trained, "digits", SETTINGS, SHORT)
    with pytest.raises(ValueError, match="calibration_batch 32 is more than"):  # before data is looked for
        jaxnas.shrink(own, trained, "nowhere", dataclasses.replace(SETTINGS, calibration=16), SHORT)


def test_weights_are_taken_as_frameworks_have_them(own, trained):
    linen = {"params": trained.params, "batch_stats": trained.stats}
    for given in (linen, (trained.params, trained.stats)):
        same = jax.tree.map(np.array_equal, weights_of(own, given), trained)
        assert all(jax.tree.leaves(same))
    kernel = trained.params["Dense_0"]["kernel"]
    params = {**trained.params, "Dense_0": {**trained.params["Dense_0"], "kernel": kernel.at[1, 2].set(jnp.nan)}}
    with pytest.raises(ValueError, match=r"the parameter \['Dense_0'\]\['kernel'\] has NaN or infinity"):
        weights_of(own, {**linen, "params": params})
    from flax import nnx

    module = own_models.NnxNet(nnx.Rngs(0))
    of_nnx = choices.searchable(lambda rngs: own_models.NnxNet(rngs), own_models.IMAGES)
    found = weights_of(of_nnx, module)
    np.testing.assert_array_equal(found.params["stem"]["kernel"], module.stem.kernel[...])


class Block(nn.Module):
    """As people write it, without any choice."""

    @nn.compact
    def __call__(self, x, train=False):
        y = nn.MultiHeadDotProductAttention(2, qkv_features=6)(nn.LayerNorm()(x))
        y = nn.Dropout(0.1, deterministic=not train)(y)
        return x + nn.Dense(x.shape[-1])(nn.gelu(nn.Dense(8)(y)))


class Plain(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        for _ in range(2):
            x = Block()(x, train)
        return nn.Dense(3)(x.mean(1))


def test_choices_declared_outside_leave_the_model_as_it_is():
    own = choices.searchable(
        choices.declared(
            Plain(), {"Block_?/Dense_1": (2, 8), "*/MultiHead*": (1, 2)}, optional=["Block_1"]
        ),
        own_models.SEQUENCE,
    )  # fmt: skip
    assert {choice.name: choice.options for choice in own.space.choices} == {
        "Block_0.MultiHeadDotProductAttention_0": ("1", "2"),
        "Block_0.Dense_1": ("2", "8"),
        "Block_1.MultiHeadDotProductAttention_0": ("1", "2"),
        "Block_1.Dense_1": ("2", "8"),
        "Block_1.there": ("0", "1"),
    }
    made = choices.searchable(lambda: choices.declared(Plain(), {"Block_?/Dense_1": (2, 8)}), own_models.SEQUENCE)
    assert [choice.name for choice in made.space.choices] == ["Block_0.Dense_1", "Block_1.Dense_1"]
    variables = Plain().init(jax.random.key(0), own_models.SEQUENCE)
    weights = weights_of(own, variables)
    x = jax.random.normal(jax.random.key(1), own_models.SEQUENCE.shape)
    whole = own.network(own.units().whole)
    kept = whole.apply(weights.params, x, Context(weights.stats))[0]
    np.testing.assert_allclose(kept, Plain().apply(variables, x), rtol=1e-5, atol=1e-6)
    arch = own.space.from_genotype(
        {**own.space.to_genotype(own.units().whole), "Block_1.there": "0", "Block_0.Dense_1": "2"}
    )
    small = own.network(arch).init(jax.random.key(0))[0]
    assert "Block_1" not in small
    assert small["Block_0"]["Dense_1"]["kernel"].shape == (3, 2)
    assert small["Block_0"]["MultiHeadDotProductAttention_0"]["query"]["kernel"].shape == (3, 2, 3)


@pytest.mark.parametrize(
    ("widths", "optional", "told"),
    [
        ({"Block_9/Dense_0": (2, 8)}, (), "no module 'Block_9/Dense_0'"),
        ({"Block_0/Dense_1": (2, 4)}, (), "is 8 wide"),
        ({"Block_0/LayerNorm_0": (1, 3)}, (), "no width that is known"),
        ({}, ("Blocks",), "no module 'Blocks'"),
        ({}, (), "nothing is declared"),
    ],
)
def test_what_cannot_be_declared_is_refused(widths, optional, told):
    with pytest.raises(ValueError, match=told):
        choices.searchable(choices.declared(Plain(), widths, optional), own_models.SEQUENCE)


def test_the_program_reads_weights_and_refuses_others(run, own, trained, tmp_path):
    file = tmp_path / "net.msgpack"
    file.write_bytes(flax.serialization.to_bytes({"params": trained.params, "batch_stats": trained.stats}))
    found = weights_of(own, program._weights(program.Config(weights=str(file)), own))
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, found, trained)))
    file.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="is no file of flax"):
        program._weights(program.Config(weights=str(file)), own)
    with pytest.raises(ValueError, match="not the model at its widest"):
        program._weights(program.Config(run=str(run.folder)), own)
    with pytest.raises(ValueError, match="give one"):
        program.main(program.Config(run="a", weights="b"))
    for name in ("nothing", "no_module:Net", "experiments.models:Nothing"):
        with pytest.raises(ValueError, match="--model"):
            program._model(name)


def test_the_page_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "shrink.md").read_text(encoding="utf-8")
    names = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    rows, whole = names["networks"], jaxnas.searchable(names["Net"](), jnp.zeros((1, 8, 8, 1)))
    assert 0 < rows["found"]["macs"] <= 0.5 * whole.network(whole.units().whole).costs["macs"]
    assert rows.keys() == {"found", "uniform", "magnitude", "random-1", "scratch"}
    assert names["logits"].shape == (5, 10)
    assert list(names["shrunk"].result["budgets"]["0.5"]["networks"]) == ["found", "random-1"]


def test_a_width_before_a_batch_norm_means_nothing_where_its_block_is_left_out():
    class Left(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            def block(x):
                y = nn.BatchNorm(use_running_average=not train)(nn.Dense(choices.width("inner", (2, 4)))(x))
                return x + nn.Dense(3)(nn.relu(y))

            return choices.depth("block", [block], (0, 1))(nn.Dense(3)(x))

    own = choices.searchable(Left(), jnp.zeros((2, 4)))
    every = itertools.product(range(2), range(2))
    assert len({tuple(np.asarray(own.space.canonical(jnp.array(arch))).tolist()) for arch in every}) == 3


def test_random_choices_use_the_budget(own):
    limit = 0.7 * own.network(own.units().whole).costs["macs"]
    archs = np.array(at_random(own, budget_of(own, "macs", limit, None), jax.random.key(0), 6))
    assert len(np.unique(archs, axis=0)) > 1
    costs = own.costs(archs)["macs"]
    assert costs.max() <= limit
    assert np.median(costs) >= 0.8 * limit
