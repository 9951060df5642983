"""Every fast supernet against its paper's loops (`jaxnas.supernets.reference`), in double precision."""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnas import spaces, supernets
from jaxnas.base import Batch, Context, Skeleton
from jaxnas.kernels.platform import supposing
from jaxnas.search import adam_l2, darts, single_path, uniform_paths
from jaxnas.supernets import reference
from jaxnas.testing import check_space

SKELETON = Skeleton(channels=2, cells=3, image_shape=(4, 3, 2), num_classes=2, dtype="float64")
TWO = Skeleton(
    channels=2, cells=2, image_shape=(4, 3, 2), num_classes=2, dtype="float64"
)  # equal ones in each of three stages
FEW = ("none", "skip_connect", "avg_pool_3x3", "nor_conv_1x1")
MICRO = ("skip_connect", "sep_conv_3x3")
BLOCKS = ("mbconv3_3x3", "identity", "shuffle_5x5")
CHAIN = Skeleton(channels=2, cells=4, image_shape=(4, 3, 2), num_classes=2, dtype="float64")
WIDE = Skeleton(channels=4, cells=3, image_shape=(5, 3, 2), num_classes=2, dtype="float64")
WIDE_TWO = Skeleton(channels=4, cells=2, image_shape=(5, 3, 2), num_classes=2, dtype="float64")


def taken(tree, *places):
    return jax.tree.map(lambda leaf: leaf[places], tree)


def count(stack):
    return len(jax.tree.leaves(stack)[0])


def listed(cells, sources):
    """The cells of a stack of equal ones, each with the list of its edges. sources: of each slot."""
    for run in cells:
        groups = {"plain": range(len(sources))}
        if "strided" in run["edges"]:  # edges from the inputs of a cell that halves the image
            groups = {"strided": [s for s, n in enumerate(sources) if n < 2]}
            groups["plain"] = [s for s in range(len(sources)) if s not in groups["strided"]]
        for c in range(count(run["preprocess"])):
            edges = {slot: taken(run["edges"][g], c, e) for g, slots in groups.items() for e, slot in enumerate(slots)}
            yield {"preprocess": taken(run["preprocess"], c), "edges": [edges[slot] for slot in range(len(sources))]}


def darts_layout(params):
    """Parameters of the fast supernet as the lists of the reference."""
    return {**params, "cells": list(listed(params["cells"], [source for _, source in spaces.edge_table(2)]))}


def nasbench201_layout(params):
    return {
        **params,
        "stages": [[[taken(stage, c, e) for e in range(6)] for c in range(2)] for stage in params["stages"]],
    }


def enas_micro_layout(params):
    sources = [source for *_, source in spaces.enas_micro_slots(2)]
    return {**params, "cells": list(listed(params["cells"], sources))}


def enas_macro_layout(params):
    layers = [taken(stage, k) for stage in params["stages"] for k in range(count(stage))]
    reductions = [[taken(own, k) for k in range(count(own))] for own in params["reductions"]]
    return {**{name: params[name] for name in ("stem", "classifier")}, "layers": layers, "reductions": reductions}


def chain_layout(params):
    layers = [taken(run, k) for run in params["runs"] for k in range(count(run))]
    return {**{name: params[name] for name in ("stem", "head", "classifier")}, "layers": layers}


PAIRS = {
    "darts": (
        functools.partial(supernets.darts_supernet, SKELETON, 2, FEW),
        reference.darts_reference(SKELETON, 2, FEW),
        darts_layout,
    ),
    "nasbench201": (
        functools.partial(supernets.nasbench201_supernet, TWO, FEW),
        reference.nasbench201_reference(TWO, FEW),
        nasbench201_layout,
    ),
    "enas_micro": (
        functools.partial(supernets.enas_micro_supernet, SKELETON, 2, MICRO),
        reference.enas_micro_reference(SKELETON, 2, MICRO),
        enas_micro_layout,
    ),
    "enas_macro": (
        functools.partial(supernets.enas_macro_supernet, SKELETON),
        reference.enas_macro_reference(SKELETON),
        enas_macro_layout,
    ),
    "chain": (
        functools.partial(supernets.chain_supernet, CHAIN, (2, 2), BLOCKS),
        reference.chain_reference(CHAIN, (2, 2), BLOCKS),
        chain_layout,
    ),
}
PARTS = {
    "darts of parts": (
        functools.partial(supernets.darts_supernet, WIDE, 2, FEW, partial=2),
        reference.darts_reference(WIDE, 2, FEW, partial=2),
        darts_layout,
    ),
    "nasbench201 of parts": (
        functools.partial(supernets.nasbench201_supernet, WIDE_TWO, FEW, partial=2),
        reference.nasbench201_reference(WIDE_TWO, FEW, partial=2),
        nasbench201_layout,
    ),
    "enas_micro of parts": (
        functools.partial(supernets.enas_micro_supernet, WIDE, 2, MICRO, partial=2),
        reference.enas_micro_reference(WIDE, 2, MICRO, partial=2),
        enas_micro_layout,
    ),
}
PAIRS |= PARTS


def quick(function):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def told(logits):
    """A loss to which each logit counts otherwise."""
    return jnp.sum(jnp.sin(logits) * jnp.arange(1.0, logits.size + 1).reshape(logits.shape))


def loss(net, params, weights, x):
    return told(net.apply(params, weights, x, Context())[0])


def path_loss(net, params, arch, x):
    return told(net.apply_path(params, arch, x, Context())[0])


def close(found, expected):
    """To 1e-9 of the largest entry of each leaf: rounding in double precision, and nothing else."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    paths, leaves = zip(*jax.tree_util.tree_flatten_with_path(expected)[0], strict=True)
    for path, ours, theirs in zip(paths, jax.tree.leaves(found), leaves, strict=True):
        assert ours.dtype == theirs.dtype == jnp.float64
        scale = max(float(np.abs(theirs).max(initial=0)), 1e-3)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9 * scale, err_msg=jax.tree_util.keystr(path))


def sampled(weights):
    """The skip connections of ENAS are all added up."""
    return {**reference.sampled_weights(weights), **{kind: rows for kind, rows in weights.items() if kind == "skip"}}


@functools.cache
def of_the_loops(name):
    """What is given, (params of the fast supernet, weights, archs, x), and what the reference makes of it.

    The latter are value and gradients of the mixture, those of each path, as the mixture of one-hot weights, and those
    of the mixture of the greatest weights alone.
    """
    make, plain, layout = PAIRS[name]
    fast = make()
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), jax.jit(fast.init)(jax.random.key(0)))
        template = fast.space.template()
        keys = jax.random.split(jax.random.key(1), len(template))
        weights = {
            kind: jax.nn.softmax(jax.random.normal(key, rows.shape, jnp.float64))
            for key, (kind, rows) in zip(keys, template.items(), strict=True)
        }
        archs = jax.vmap(fast.space.sample)(jax.random.split(jax.random.key(3), 2))
        x = jax.random.normal(jax.random.key(2), (3, *fast.input_shape), jnp.float64)
        gradients = quick(jax.value_and_grad(functools.partial(loss, plain), (0, 1, 2)))
        one_hot = [jax.tree.map(lambda leaf: leaf.astype(jnp.float64), fast.space.one_hot(arch)) for arch in archs]
        given = (weights, sampled(weights), *one_hot)
        mixture, alone, *paths = (gradients(layout(params), taken, x) for taken in given)
    return (params, weights, archs, x), mixture, paths, alone


@pytest.mark.parametrize(
    ("name", "platform"),
    [
        *((name, platform) for name in PAIRS if name not in PARTS for platform in ("cpu", "gpu")),
        ("darts of parts", "cpu"), ("darts of parts", "gpu"), ("nasbench201 of parts", "gpu"),
        ("enas_micro of parts", "cpu"),
    ],
)  # fmt: skip
def test_mixture_and_path_and_their_gradients_are_those_of_the_loops(name, platform):
    """In the forms of the edges and of every operation that the platform is given, computed by the CPU."""
    (params, weights, archs, x), mixture, paths, _ = of_the_loops(name)
    make, _, layout = PAIRS[name]
    with jax.enable_x64(True), supposing(platform):
        fast = make()
        gradients = quick(jax.value_and_grad(functools.partial(loss, fast), (0, 1, 2)))
        value, (to_params, to_weights, to_x) = gradients(params, weights, x)
        close((value, (layout(to_params), to_weights, to_x)), mixture)
        gradients = quick(jax.value_and_grad(functools.partial(path_loss, fast), (0, 2)))
        for arch, (value, (to_params, _, to_x)) in zip(archs, paths, strict=True):
            ours, (own_params, own_x) = gradients(params, arch, x)
            close((ours, layout(own_params), own_x), (value, to_params, to_x))


@pytest.mark.parametrize("name", ["darts", "nasbench201"])
def test_two_edges_at_a_time_are_those_of_the_loops(name):
    (params, weights, _, x), mixture, _, _ = of_the_loops(name)
    make, _, layout = PAIRS[name]
    with jax.enable_x64(True):
        gradients = quick(jax.value_and_grad(functools.partial(loss, make(form="pairs")), (0, 1, 2)))
        value, (to_params, to_weights, to_x) = gradients(params, weights, x)
        close((value, (layout(to_params), to_weights, to_x)), mixture)


@pytest.mark.parametrize(
    ("name", "platform"), [("darts", "gpu"), *((name, "cpu") for name in PAIRS if name not in PARTS)]
)
def test_a_sampled_mixture_and_its_gradients_are_those_of_the_loops_with_the_greatest_weights_alone(name, platform):
    """Of weights that are no one-hot rows. A weight that is not taken has no gradient."""
    (params, weights, _, x), _, _, (expected, (expected_params, expected_weights, expected_x)) = of_the_loops(name)
    make, _, layout = PAIRS[name]
    with jax.enable_x64(True), supposing(platform):
        fast = make(sampled=True)
        gradients = quick(jax.value_and_grad(functools.partial(loss, fast), (0, 1, 2)))
        value, (to_params, to_weights, to_x) = gradients(params, weights, x)
        there = {kind: rows != 0 for kind, rows in sampled(weights).items()}
        taken = jax.tree.map(lambda gradient, own: jnp.where(own, gradient, 0), expected_weights, there)
        close((value, (layout(to_params), to_weights, to_x)), (expected, (expected_params, taken, expected_x)))


@pytest.mark.parametrize("name", PAIRS)
def test_a_reference_has_the_parameters_of_its_fast_supernet(name):
    make, plain, layout = PAIRS[name]
    fast = jax.eval_shape(lambda key: layout(make().init(key)), jax.random.key(0))
    shapes = jax.eval_shape(plain.init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, fast) == jax.tree.map(jnp.shape, shapes)


@pytest.mark.parametrize(
    ("kind", "platform"), [("whole", "cpu"), ("sampled", "cpu"), ("sampled", "gpu"), ("partial", "cpu")]
)
def test_what_a_second_order_hypergradient_takes_is_that_of_the_loops(kind, platform):
    """The derivative, along a direction of the parameters, of the gradient of the weights: of a cell that reduces."""
    one = Skeleton(channels=2, cells=1, image_shape=(4, 3, 2), num_classes=2, dtype="float64")
    parts = 2 if kind == "partial" else 1
    plain = reference.darts_reference(one, 2, FEW, partial=parts)
    _, weights, _, x = of_the_loops("darts")[0]

    def implicit(net, params, along, given=lambda weights: weights):
        gradient = jax.grad(lambda p, w: loss(net, p, given(w), x), (0, 1))
        return jax.jvp(lambda p: gradient(p, weights)[1], (params,), (along,))[1]

    with jax.enable_x64(True), supposing(platform):
        fast = supernets.darts_supernet(one, 2, FEW, sampled=kind == "sampled", partial=parts)
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), jax.jit(fast.init)(jax.random.key(0)))
        along = jax.tree.map(jnp.cos, params)
        found = quick(functools.partial(implicit, fast))(params, along)
        given = sampled if kind == "sampled" else lambda weights: weights
        expected = quick(functools.partial(implicit, plain, given=given))(darts_layout(params), darts_layout(along))
        close(found["reduce"], expected["reduce"])
        assert expected["reduce"].any()


def test_a_reference_is_a_whole_supernet():
    """With the mask that its loops give, a path leaves alone what it does not take."""
    skeleton = Skeleton(channels=2, cells=1, image_shape=(4, 4, 2), num_classes=3, dtype="float64")
    net = reference.nasbench201_reference(skeleton, ("none", "skip_connect", "nor_conv_1x1"))
    arch = jnp.array([2, 0, 1, 2, 0, 2], jnp.int32)
    mask, params = net.used(arch), jax.jit(net.init)(jax.random.key(0))

    def loss(params):
        return jnp.sum(jnp.sin(net.apply_path(params, arch, jnp.ones((2, 4, 4, 2)), Context())[0]))

    gradient = quick(jax.grad(loss))(params)
    for used, leaf in zip(jax.tree.leaves(mask), jax.tree.leaves(gradient), strict=True):
        assert used.shape == ()
        assert used or not leaf.any()
    assert not all(jax.tree.leaves(mask))


def test_the_supernet_of_ones_own_that_the_docs_show_is_searched():
    """The block of docs/search_spaces.md as it stands, and a step of DARTS and of one-shot training on it."""
    text = (Path(__file__).parents[1] / "docs" / "search_spaces.md").read_text(encoding="utf-8")
    (block,) = [part for part in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "plain_supernet(" in part]
    names = {}
    exec(block, names)
    space, supernet = names["space"], names["supernet"]
    check_space(space)
    batch = Batch(jax.random.normal(jax.random.key(0), (6, 8, 8, 1)), jnp.arange(6) % 10)
    for algorithm in (
        darts(supernet, optax.sgd(0.1), adam_l2(0.1)),
        single_path(supernet, uniform_paths(space), optax.trace(0.9)),
    ):
        state = jax.jit(algorithm.init)(jax.random.key(1))
        step = quick(algorithm.phases[0].step)
        moved, info = step(jax.random.key(2), state, {"train": batch, "valid": batch})
        assert np.isfinite(info.train_loss)
        assert float(optax.tree.norm(jax.tree.map(jnp.subtract, moved.params, state.params))) > 0
