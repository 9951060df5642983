"""Derived networks: their size, what they compute, and that the path of a supernet and the derived network are one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.base import Context, Skeleton
from jaxnas.networks import (
    darts_network,
    mobilenetv2_within,
    nasbench201_network,
    resnet,
    resnet_within,
    tutorial_cnn,
)
from jaxnas.networks.blocks import conv_bn, draw, equal_runs, fresh_keys
from jaxnas.networks.frame import _auxiliary
from jaxnas.networks.nasbench201 import _halve
from jaxnas.ops import layers
from jaxnas.ops.primitives import PRIMITIVES
from jaxnas.spaces import NASBENCH201_OPERATIONS, PUBLISHED, darts_space, nasbench201_space
from jaxnas.supernets import darts_supernet, nasbench201_supernet
from jaxnas.supernets.extracting import path_stats

SPACE = darts_space()
NB201 = nasbench201_space()
TINY = Skeleton(channels=4, cells=3, image_shape=(8, 8, 2), num_classes=3)
TINY_201 = Skeleton(channels=4, cells=2, image_shape=(8, 8, 2), num_classes=3)


def count(network):
    params, stats = jax.eval_shape(network.init, jax.random.key(0))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((params, stats)))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def images(skeleton, batch=6):
    return jax.random.normal(jax.random.key(7), (batch, *skeleton.image_shape))


def weighted_sum(logits):
    """Some function of all logits whose gradient to each is different."""
    return jnp.sum(logits * jnp.cos(jnp.arange(logits.size, dtype=jnp.float32)).reshape(logits.shape))


def close(a, b, rtol=1e-3, atol=1e-4):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol), a, b)


@pytest.mark.parametrize("auxiliary", [False, True])
@pytest.mark.parametrize("cells", [1, 3, 8])
def test_darts_parameters_are_the_costs(cells, auxiliary):
    skeleton = Skeleton(channels=6, cells=cells, image_shape=(34, 33, 3), num_classes=7, auxiliary=auxiliary)
    for arch in jax.vmap(SPACE.sample)(jax.random.split(jax.random.key(cells), 4)):
        network = darts_network(arch, skeleton)
        assert count(network) == network.costs["params"] == SPACE.costs(arch, skeleton)["params"]


def test_published_network_has_the_published_size():
    arch = SPACE.from_genotype("DARTS_V2")
    skeleton = Skeleton(channels=36, cells=20, image_shape=(32, 32, 3), num_classes=10)
    assert count(darts_network(arch, skeleton)) == 3_349_342
    assert len(PUBLISHED) > 1


def test_other_nodes_and_operations():
    operations = ("none", "skip_connect", "nor_conv_3x3", "avg_pool_3x3")
    space = darts_space(2, operations)
    arch = space.sample(jax.random.key(3))
    network = darts_network(arch, TINY, space)
    assert count(network) == space.costs(arch, TINY)["params"]


def test_auxiliary_head_needs_room():
    arch = SPACE.sample(jax.random.key(0))
    for size in (28, 32):
        skeleton = Skeleton(4, 3, (size, size, 3), 10, auxiliary=True)
        if size == 32:
            assert count(darts_network(arch, skeleton)) > 0
            continue
        with pytest.raises(ValueError, match="at least 8×8"):
            darts_network(arch, skeleton)
        with pytest.raises(ValueError, match="at least 8×8"):
            darts_supernet(skeleton, affine=True)


def test_parameters_are_drawn_as_the_layers_draw_them():
    """One draw for a network has each leaf's own distribution: its extremes come close to the layers' bounds."""

    def init(key):
        keys = fresh_keys(key)
        names = ("sep_conv_5x5", "skip_connect", "nor_conv_3x3")
        return [
            *[PRIMITIVES[name].init(next(keys), 32, 2, True) for name in names],
            layers.dense_init(next(keys), 50, 400),
        ]

    leading = (2,)
    drawn = draw(jax.random.key(0), init, leading)
    # Each init draws U(-b, b), with enough entries here for the largest to tell b to a few percent.
    own = jax.vmap(init)(jax.random.split(jax.random.key(1), 2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(jnp.abs(a).max(), jnp.abs(b).max(), rtol=0.06), drawn, own)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a.mean(), b.mean(), atol=0.03), drawn, own)
    values = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(drawn) if leaf.ndim > 2])
    assert len(np.unique(values)) > 0.99 * len(values)  # No leaf repeats another's numbers, up to 24-bit collisions.


def both_ways(apply):
    """Compiled: (…, x, key, drop_path) -> ((loss, (logits, auxiliary logits or None, statistics)), gradients)."""

    def loss(params, x, apply, key, probability):
        logits, aux = apply(params, x, Context("batch", key, probability))
        value = weighted_sum(logits) + (0.0 if aux.aux_logits is None else weighted_sum(aux.aux_logits))
        return value, (logits, aux.aux_logits, aux.stats)

    def run(params, *given):
        *arch, x, key, probability = given
        part = (lambda p, x, c: apply(p, *arch, x, c)) if arch else apply
        return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x, part, key, probability)

    return jax.jit(run)


@pytest.fixture(scope="module")
def trained():
    """For each space: the supernet whose paths are trained from scratch, parameters and its path's gradients."""

    def make(supernet):
        return supernet, jax.jit(supernet.init)(jax.random.key(0)), both_ways(supernet.apply_path)

    return {
        "darts": make(darts_supernet(TINY, affine=True)),
        "nasbench201": make(nasbench201_supernet(TINY_201, affine=True)),
    }


def check_that_the_path_is_the_network(supernet, params, path, arch, x):
    """Values, statistics, and gradients to parameters and images, drop-path included. Returns the logits of each."""
    network, own = supernet.network(arch), supernet.extract(params, arch)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, (own, supernet.extract_stats(path_stats(supernet), arch))) == jax.tree.map(
        jnp.shape, shapes
    )
    fixed, logits = both_ways(network.apply), []
    for probability in (0.0, 0.4):
        (_, told), gradient = fixed(own, x, jax.random.key(5), jnp.float32(probability))
        (_, (*other, all_seen)), (all_gradient, other_x) = path(
            params, arch, x, jax.random.key(5), jnp.float32(probability)
        )
        own_gradient = supernet.extract(all_gradient, arch)
        close(told, (*other, supernet.extract_stats(all_seen, arch)))
        close(gradient, (own_gradient, other_x), atol=2e-3)
        # Nothing flows to operations that are not taken.
        total, owned = (sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(g)) for g in (all_gradient, own_gradient))
        np.testing.assert_allclose(total, owned, rtol=1e-5)
        logits.append(told[0])
    assert float(jnp.abs(logits[0] - logits[1]).max()) > 0.1
    return told


# Between them these use all seven operations, with stride 1 and 2, and edges from nodes in a reducing cell.
ARCHS = {
    "DARTS_V2": ("darts", SPACE.from_genotype("DARTS_V2")),
    "mixed": ("darts", jnp.array([0, 6, 5, 1, 4, 2, 4, 0, 1, 6, 3, 5, 0, 4, 2, 2, 5, 6, 5, 3, 4, 8, 1, 0], jnp.int32)),
    "all of 201": ("nasbench201", jnp.array([3, 1, 2, 4, 0, 3], jnp.int32)),
    "empty node": ("nasbench201", jnp.array([0, 3, 2, 4, 2, 1], jnp.int32)),
}


@pytest.mark.parametrize("name", ARCHS)
def test_a_path_with_affine_norms_is_the_network(trained, name):
    space, arch = ARCHS[name]
    check_that_the_path_is_the_network(*trained[space], arch, images(TINY if space == "darts" else TINY_201))


@pytest.mark.parametrize("form", ["scan", "staged"])
def test_a_path_has_the_auxiliary_head_of_the_network(form):
    skeleton = Skeleton(2, 3, (32, 32, 1), 3, auxiliary=True)
    supernet = darts_supernet(skeleton, 1, ("skip_connect", "nor_conv_1x1"), affine=True, form=form)
    params, path = jax.jit(supernet.init)(jax.random.key(0)), both_ways(supernet.apply_path)
    arch, x = jnp.array([0, 1, 0, 0, 0, 1], jnp.int32), images(skeleton, 4)
    _, auxiliary, stats = check_that_the_path_is_the_network(supernet, params, path, arch, x)
    assert auxiliary.shape == (4, 3)
    known = {**path_stats(supernet), "auxiliary": stats["auxiliary"]}
    aux = jax.jit(lambda stats: supernet.apply_path(params, arch, x, Context(stats))[1])(known)
    assert aux.aux_logits is None
    close(aux.stats, known, rtol=0, atol=0)


def test_a_path_is_evaluated_by_given_statistics(trained):
    supernet, params, _ = trained["darts"]
    arch, x = ARCHS["mixed"][1], images(TINY)
    stats = jax.tree.map(
        lambda leaf: leaf + 0.3 + 0.2 * jnp.sin(jnp.arange(leaf.size)).reshape(leaf.shape), path_stats(supernet)
    )
    apply = jax.jit(lambda x: supernet.apply_path(params, arch, x, Context(stats)))
    logits, aux = apply(x)
    own, own_stats = supernet.extract(params, arch), supernet.extract_stats(stats, arch)
    expected, own_aux = jax.jit(supernet.network(arch).apply)(own, x, Context(own_stats))
    close(logits, expected)
    close(own_aux.stats, own_stats, rtol=0, atol=0)
    close(aux.stats, stats, rtol=0, atol=0)
    # An example's logits do not depend on the others in the batch.
    close(apply(x.at[2:].multiply(3.0))[0][:2], logits[:2])


def test_equal_cells_are_a_loop_over_the_stack():
    params = jnp.asarray([2.0, 3.0, 5.0])
    given = jnp.asarray([1.0, 10.0, 100.0])
    keys = jax.random.split(jax.random.key(0), 3)
    carry, seen = equal_runs(lambda x, i: (x * i.params + i.stats, x), jnp.float32(1.0), params, Context(given), keys)
    assert float(carry) == ((1 * 2 + 1) * 3 + 10) * 5 + 100
    np.testing.assert_array_equal(seen, [1, 3, 19])


def test_stages_with_equal_cells():
    """Twelve cells, among them pairs that share their code: parameters, keys and statistics reach each of them."""
    operations = ("none", "skip_connect", "nor_conv_1x1")
    skeleton = Skeleton(4, 12, (8, 8, 2), 3)
    arch = jnp.asarray([0, 1, 0, 0, 1, 1], jnp.int32)
    supernet = darts_supernet(skeleton, 1, operations, affine=True)
    network, params = supernet.network(arch), supernet.init(jax.random.key(0))
    own = supernet.extract(params, arch)
    assert sum(leaf.size for leaf in jax.tree.leaves(own)) == network.costs["params"]
    assert {leaf.shape[0] for leaf in jax.tree.leaves(own["cells"])} == {1, 2}

    x = images(skeleton)

    def context():
        return Context("batch", jax.random.key(2), jnp.float32(0.3))

    logits = jax.jit(lambda own: network.apply(own, x, context()))
    expected, aux = logits(own)
    other, all_aux = jax.jit(lambda params: supernet.apply_path(params, arch, x, context()))(params)
    close((expected, aux.stats), (other, supernet.extract_stats(all_aux.stats, arch)))
    for run, cells in enumerate(own["cells"]):
        for cell in range(jax.tree.leaves(cells)[0].shape[0]):
            # Not a common factor, which the batch norms would take out again.
            changed = jax.tree.map(lambda leaf, c=cell: leaf.at[c].set(jnp.flip(leaf[c]) + 0.1), cells)
            parts = [*own["cells"][:run], changed, *own["cells"][run + 1 :]]
            assert float(jnp.abs(logits({**own, "cells": parts})[0] - expected).max()) > 1e-3


def test_drop_path_spares_the_identity_and_is_off_in_evaluation():
    """A cell of skips is not touched where it does not reduce; elsewhere the rate is the one asked for."""
    skips = SPACE.from_genotype(
        {
            "normal": [("skip_connect", s) for s in (0, 1) * 4],
            "reduce": [("max_pool_3x3", s) for s in (0, 1) * 4],
            "normal_concat": [2, 3, 4, 5],
            "reduce_concat": [2, 3, 4, 5],
        }
    )
    network = darts_network(skips, TINY)
    params, stats = network.init(jax.random.key(0))
    x = images(TINY, 32)

    @jax.jit
    def logits(key, probability):
        return network.apply(params, x, Context(stats, key, probability))[0]

    plain = jax.jit(network.apply)(params, x, Context(stats))[0]
    close(logits(jax.random.key(1), jnp.float32(0.0)), plain)
    # With one path in two dropped, an image keeps all 16 pools of the two reducing cells once in 65,536.
    assert (jnp.abs(logits(jax.random.key(1), jnp.float32(0.5)) - plain).max(axis=1) > 1e-5).all()
    # Without a probability no random number is drawn.
    for probability, draws in ((0.0, False), (0.5, True)):
        program = jax.make_jaxpr(lambda key, p=probability: network.apply(params, x, Context(stats, key, p))[0])
        assert ("random_bits" in str(program(jax.random.key(1)))) == draws

    nb_skips = NB201.from_genotype("|skip_connect~0|+|skip_connect~0|skip_connect~1|+|none~0|none~1|skip_connect~2|")
    identity = nasbench201_network(nb_skips, TINY)
    params, stats = identity.init(jax.random.key(0))
    apply = jax.jit(identity.apply)
    dropped = apply(params, x, Context(stats, jax.random.key(1), jnp.float32(0.9)))[0]
    close(dropped, apply(params, x, Context(stats))[0])


def test_auxiliary_head_speaks_in_training_only():
    skeleton = Skeleton(2, 3, (32, 32, 1), 3, auxiliary=True)
    pool = ("avg_pool_3x3",) * 8
    cell = [(name, s) for name, s in zip(pool, (0, 1) * 4, strict=True)]
    arch = SPACE.from_genotype(
        {"normal": cell, "reduce": cell, "normal_concat": [2, 3, 4, 5], "reduce_concat": [2, 3, 4, 5]}
    )
    network = darts_network(arch, skeleton)
    params, stats = network.init(jax.random.key(0))
    x = images(skeleton, 4)

    @jax.jit
    def values(params):
        def loss(params):
            logits, aux = network.apply(params, x, Context())
            return weighted_sum(aux.aux_logits), (logits, aux)

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, (logits, aux)), gradient = values(params)
    # The head's loss reaches its own parameters and all before it, and nothing behind it.
    for name in ("stem", "auxiliary"):
        assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradient[name]))
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient["classifier"]))

    # The head, written out on a map of 8×8: pools of 5×5 at 0 and 3 in each direction.
    y = jax.random.normal(jax.random.key(4), (4, 8, 8, 32))
    head = params["auxiliary"]
    z = jax.nn.relu(y)
    z = jnp.stack([jnp.stack([z[:, i : i + 5, j : j + 5].mean((1, 2)) for j in (0, 3)], 1) for i in (0, 3)], 1)
    z = layers.batch_norm(layers.pointwise(z, head["squeeze"]["kernel"]), head["squeeze"]["norm"])[0]
    z = jnp.einsum("bijc,ijcd->bd", jax.nn.relu(z), head["conv"]["kernel"])[:, None, None]
    z = jax.nn.relu(layers.batch_norm(z, head["conv"]["norm"])[0])[:, 0, 0]
    expected = z @ head["classifier"]["kernel"] + head["classifier"]["bias"][None]
    close(_auxiliary(y, head, Context())[0], expected)
    assert aux.aux_logits.shape == logits.shape == (4, 3)
    assert jax.tree.structure(aux.stats) == jax.tree.structure(stats)
    _, evaluated = jax.jit(network.apply)(params, x, Context(stats))
    assert evaluated.aux_logits is None
    assert jax.tree.structure(evaluated.stats) == jax.tree.structure(stats)


def test_nasbench201_parameters_are_the_costs():
    skeleton = Skeleton(channels=6, cells=2, image_shape=(9, 8, 3), num_classes=7)
    for arch in jax.vmap(NB201.sample)(jax.random.split(jax.random.key(1), 8)):
        assert count(nasbench201_network(arch, skeleton)) == NB201.costs(arch, skeleton)["params"]
    # Two rows of the benchmark's table for CIFAR-10.
    cifar = Skeleton(channels=16, cells=5, image_shape=(32, 32, 3), num_classes=10)
    for text, params in (
        ("|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|", 129_306),
        ("|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|", 802_426),
    ):
        arch = NB201.from_genotype(text)
        assert count(nasbench201_network(arch, cifar)) == params
    with pytest.raises(ValueError, match="auxiliary"):
        nasbench201_network(arch, Skeleton(4, 1, (8, 8, 3), 3, auxiliary=True))


def test_nasbench201_nodes_add_their_edges():
    """The network equals one written out by hand for a cell with every operation and a missing edge."""
    arch = NB201.from_genotype(
        "|nor_conv_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
    )
    assert {NASBENCH201_OPERATIONS[int(o)] for o in arch} == set(NASBENCH201_OPERATIONS)
    skeleton = Skeleton(4, 1, (9, 8, 2), 3)
    network = nasbench201_network(arch, skeleton)
    params, stats = network.init(jax.random.key(0))
    x = images(skeleton)

    def normed(y, p):
        return layers.batch_norm(y, p)[0]

    def by_hand(x):
        y = normed(layers.conv(x, params["stem"]["kernel"]), params["stem"]["norm"])
        for stage in range(3):
            if stage:
                block = params["blocks"][stage - 1]
                z = normed(layers.conv(jax.nn.relu(y), block["first"]["kernel"], 2), block["first"]["norm"])
                z = normed(layers.conv(jax.nn.relu(z), block["second"]["kernel"]), block["second"]["norm"])
                y = z + layers.pointwise(_halve(y), block["shortcut"])
            # `none` has no entry: edges 0 to 3, then the last.
            conv_10, pool_20, conv_21, _, conv_32 = params["stages"][stage][0]
            one = PRIMITIVES["nor_conv_3x3"].apply(conv_10, y, 1, Context())[0]
            two = (
                PRIMITIVES["avg_pool_3x3"].apply(pool_20, y, 1, Context())[0]
                + PRIMITIVES["nor_conv_1x1"].apply(conv_21, one, 1, Context())[0]
            )
            y = y + PRIMITIVES["nor_conv_3x3"].apply(conv_32, two, 1, Context())[0]
        y = jax.nn.relu(normed(y, params["norm"])).mean((1, 2))
        return y @ params["classifier"]["kernel"] + params["classifier"]["bias"][None]

    logits, aux = jax.jit(lambda *a: network.apply(*a, Context()))(params, x)
    close(logits, jax.jit(by_hand)(x))
    assert jax.tree.structure(aux.stats) == jax.tree.structure(stats)


def test_nasbench201_without_edges_is_blind():
    network = nasbench201_network(jnp.zeros(6, jnp.int32), TINY)
    params, stats = network.init(jax.random.key(0))
    logits = jax.jit(lambda *own: network.apply(*own, Context(stats))[0])(params, images(TINY))
    close(logits, jnp.broadcast_to(logits[:1], logits.shape), atol=1e-6)


def test_halving_rounds_up_and_counts_what_is_inside():
    x = np.arange(15, dtype=np.float32).reshape(1, 3, 5, 1)
    expected = [[x[0, i : i + 2, j : j + 2, 0].mean() for j in (0, 2, 4)] for i in (0, 2)]
    np.testing.assert_allclose(_halve(jnp.asarray(x))[0, :, :, 0], expected)


@pytest.mark.parametrize(
    ("shape", "params", "macs"),
    [
        # The tutorial's own network: 456 + 2416 + 48120 + 10164 + 850 parameters.
        ((32, 32, 3), 62_006, 456 * 28 * 28 + 2416 * 10 * 10 + 48_120 + 10_164 + 850),
        # Padded, so that 8 -> 4 -> 2: 156 + 2416 + 65 * 120 + 10164 + 850.
        ((8, 8, 1), 21_386, 156 * 64 + 2416 * 16 + 7_800 + 10_164 + 850),
    ],
)
def test_tutorial_network(shape, params, macs):
    network = tutorial_cnn(shape, 10)
    assert network.costs == {"params": params, "macs": macs}
    assert count(network) == params
    values, stats = network.init(jax.random.key(0))
    logits, aux = jax.jit(lambda *own: network.apply(*own, Context(stats)))(values, jnp.ones((2, *shape)))
    assert logits.shape == (2, 10)
    assert aux.stats == ()


def test_tutorial_network_refuses_tiny_images():
    with pytest.raises(ValueError, match="4×4"):
        tutorial_cnn((3, 8, 1), 10)


@pytest.mark.parametrize(("blocks", "params"), [(3, 269_722), (9, 853_018)])
def test_resnet_has_the_parameters_of_the_paper(blocks, params):
    """ResNet-20 has 0.27 million and ResNet-56 0.85 million (He et al. 2016, table 6); exactly, by a count by hand."""
    network = resnet((32, 32, 3), 10, blocks, 16)
    assert network.costs["params"] == params == count(network)
    # Of two blocks at equal cost one halves the map and doubles the channels.
    assert network.costs["macs"] == 442_368 + 9 * 16 * 16 * 1024 * 6 * blocks - 2 * 9 * 16 * 16 * 512 + 650


def test_resnet_of_a_budget_costs_as_much_as_it_may():
    for macs in (90_000, 1_000_000, 40_600_000):
        network, blocks, channels = resnet_within(macs, (32, 32, 3), 10)
        assert network.costs["macs"] <= macs < resnet((32, 32, 3), 10, blocks, channels + 1).costs["macs"]
    assert resnet_within(41_000_000, (32, 32, 3), 10)[1:] == (3, 16)  # ResNet-20
    with pytest.raises(ValueError, match="the smallest ResNet"):
        resnet_within(10, (32, 32, 3), 10)


def test_resnet_computes_its_sums():
    """With weights of zero a block gives its shortcut: every second pixel, channels padded with zeros."""
    network = resnet((5, 5, 1), 2, 1, 2)
    params, stats = network.init(jax.random.key(0))
    params["blocks"] = jax.tree.map(jnp.zeros_like, params["blocks"])
    x = jax.random.normal(jax.random.key(1), (3, 5, 5, 1))
    logits, aux = jax.jit(network.apply)(params, x, Context(stats))
    stem = jnp.maximum(conv_bn(x, params["stem"], Context(stats["stem"]))[0], 0)
    pooled = jnp.pad(stem[:, ::4, ::4].mean((1, 2)), ((0, 0), (0, 6)))
    dense = params["classifier"]
    np.testing.assert_allclose(logits, pooled @ dense["kernel"] + dense["bias"][None], rtol=1e-5, atol=1e-6)
    assert jax.tree.structure(aux.stats) == jax.tree.structure(stats)


def test_mobilenetv2_of_a_budget():
    skeleton = Skeleton(8, 3, (8, 8, 1), 10)
    network = mobilenetv2_within(200_000, skeleton)
    assert 100_000 < network.costs["macs"] <= 200_000
    assert count(network) == network.costs["params"]
    with pytest.raises(ValueError, match="narrowest MobileNetV2"):
        mobilenetv2_within(10, skeleton)
