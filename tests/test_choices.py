"""Choices inside one's own model: the laws of its supernet, and that networks cut out of it compute what paths do."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import own_models
import pytest

from jaxnas import choices
from jaxnas.base import Context, Skeleton
from jaxnas.choices import supernet
from jaxnas.choices.rolling import find_rolls
from jaxnas.choices.searching import counted
from jaxnas.hardware import Constraint, solve
from jaxnas.testing import check_space, check_supernet

MODELS = {
    "convnet": (own_models.ConvNet, own_models.IMAGES),
    "vit": (own_models.ViT, own_models.IMAGES),
    "fused": (own_models.Fused, own_models.SEQUENCE),
    "table": (own_models.Table, own_models.ROWS),
    "nnx": (lambda: own_models.NnxNet, own_models.IMAGES),
}
QUICK = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None


@pytest.fixture(scope="module")
def searched():
    return {name: choices.searchable(model(), example) for name, (model, example) in MODELS.items()}


def drawn(example):
    def draw(leaf):
        if leaf.dtype == jnp.int32:
            return jnp.arange(leaf.size).reshape(leaf.shape) % 3
        return jax.random.normal(jax.random.key(leaf.ndim), leaf.shape)

    return jax.tree.map(draw, example)


def jitted(function):
    return jax.jit(function, compiler_options=QUICK)


def near(a, b, tolerance=2e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


@pytest.mark.parametrize("name", MODELS)
def test_a_network_computes_what_its_path_does_in_training_with_dropout_and_in_evaluation(searched, name):
    own, x, context = searched[name], drawn(MODELS[name][1]), Context(key=jax.random.key(5))
    params = own.supernet.init(jax.random.key(0))
    train = jitted(lambda params, arch: own.supernet.apply_path(params, arch, x, context))
    evaluate = jitted(lambda params, arch, stats: own.supernet.apply_path(params, arch, x, Context(stats))[0])
    archs = (
        own.space.sample(jax.random.key(1)),
        own.space.mutate(jax.random.key(2), own.space.sample(jax.random.key(3))),
    )
    outputs = []
    for arch in archs:
        network = own.network(arch)
        y, aux = train(params, arch)
        outputs.append(y)
        cut, stats = own.supernet.extract(params, arch), own.supernet.extract_stats(aux.stats, arch)
        assert jax.tree.map(jnp.shape, (cut, stats)) == jax.tree.map(
            jnp.shape, jax.eval_shape(network.init, jax.random.key(0))
        )
        same, told = jitted(lambda p, network=network: network.apply(p, x, context))(cut)
        near((same, told.stats), (y, stats))
        near(
            jitted(lambda p, s, network=network: network.apply(p, x, Context(s))[0])(cut, stats),
            evaluate(params, arch, aux.stats),
        )
        assert network.costs == counted(network, MODELS[name][1])
    assert any(np.abs(a - outputs[0]).max() > 1e-3 for a in outputs[1:])


@pytest.mark.parametrize("name", MODELS)
def test_it_is_a_space(searched, name):
    check_space(searched[name].space, draws=128)


@pytest.mark.parametrize("name", ["convnet", "table"])
def test_its_supernet_obeys_the_laws(searched, name):
    own = searched[name]
    check_supernet(own.space, own.supernet, inputs=drawn(MODELS[name][1]))


def test_an_integer_program_is_exact_where_costs_are_products(searched):
    """Of all 288 architectures the best sum of scores within a budget, in which depth and widths multiply."""
    own, skeleton = searched["vit"], Skeleton(1, 1, (8, 8, 2), 5)
    table, structure = own.entry.cost_table(skeleton), own.entry.structure(own.space)
    archs = np.array(list(itertools.product(*(range(len(choice.options)) for choice in own.space.choices))))
    macs, rng = own.costs(archs)["macs"], np.random.RandomState(0)
    scores = {choice.name: rng.rand(1, len(choice.options)) for choice in own.space.choices}
    sums = sum(scores[choice.name][0][archs[:, place]] for place, choice in enumerate(own.space.choices))
    for share in (0.1, 0.9):
        limit = np.quantile(macs, share)
        (best,) = solve(structure, scores, [Constraint("macs", table.macs, upper=limit - table.constant["macs"])])
        np.testing.assert_allclose(best.value, sums[macs <= limit].max())
        assert best.uses["macs"] + table.constant["macs"] == own.costs(np.asarray(best.arch)[None])["macs"][0]
    assert own.cost_table()[1]["macs"] > 0.1  # a sum over options alone is far from that


def test_nothing_of_the_user_is_changed():
    """The model runs as it is beside a search: at its widest, with the first option, all blocks, and its own state."""
    model = own_models.ConvNet()
    variables = jitted(model.init)(jax.random.key(0), own_models.IMAGES)
    before = jax.tree.map(jnp.copy, variables)
    choices.searchable(model, own_models.IMAGES)
    assert variables["params"]["Conv_0"]["kernel"].shape == (3, 3, 2, 8)
    assert list(variables["params"]["OneOf_0"]) == ["inverted"]
    assert list(variables["params"]["Depth_0"]) == ["block_0", "block_1"]
    near(variables, before, 0)
    apply = functools.partial(model.apply, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(1)})
    outputs, told = jitted(apply)(variables, 1 + own_models.IMAGES)
    assert outputs.shape == (4, 5)
    # Running statistics of the user move by a part of the batch's, as flax has it: 0.99 of 1, and a little.
    assert (told["batch_stats"]["BatchNorm_0"]["var"] >= 0.99).all()


class Deep(nn.Module):
    """Four blocks in a plain loop, between other layers; the first and the last are one choice."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4)(x)
        for number in range(4):
            y = nn.LayerNorm()(x)
            layers = {"linear": nn.Dense(4), "gelu": lambda y: nn.Dense(4)(nn.gelu(y)), "skip": choices.skip}
            x = x + choices.one_of(f"block{number % 3}", layers)(y)
        return nn.Dense(2)(x)


def test_blocks_of_a_python_loop_are_one_program_and_compute_the_same(monkeypatch):
    x = jax.random.normal(jax.random.key(0), (3, 5))
    found, results = [], []

    def watched(*arguments):
        rolls = find_rolls(*arguments)
        found.extend(rolls)
        return rolls

    for find in (watched, lambda *arguments: []):
        monkeypatch.setattr(supernet, "find_rolls", find)
        own = choices.searchable(Deep(), x)
        params, weights = jitted(own.supernet.init)(jax.random.key(1)), own.space.template()
        weights = jax.tree.map(lambda zeros: jax.nn.softmax(zeros + jnp.arange(3.0)[None]), weights)
        arch = jnp.array([1, 0, 2])

        def outputs(params, weights, own=own, arch=arch):
            path = own.supernet.apply_path(params, arch, x, Context())[0]
            mixed = own.supernet.apply(params, weights, x, Context())[0]
            return jnp.sum(jnp.sin(path) + jnp.cos(mixed)), (path, mixed)

        results.append(jitted(jax.value_and_grad(outputs, (0, 1), has_aux=True))(params, weights))
    near(*results)
    assert [(roll.rounds, roll.choices["block0"]) for roll in found[:1]] == [
        (4, ("block0", "block1", "block2", "block0"))
    ]
