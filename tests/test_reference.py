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

SKELETON = Skeleton(channels=3, cells=3, image_shape=(6, 5, 2), num_classes=3)
RUNS = Skeleton(channels=3, cells=7, image_shape=(6, 5, 2), num_classes=3)  # normal cells: 2, and 1 and 2 after others
ONE = Skeleton(channels=3, cells=1, image_shape=(6, 5, 2), num_classes=3)  # in each of three stages
FEW = ("none", "skip_connect", "max_pool_3x3", "nor_conv_1x1")
MICRO = ("skip_connect", "max_pool_3x3", "sep_conv_3x3")
BLOCKS = ("mbconv3_3x3", "identity", "shuffle_5x5")


def taken(tree, *places):
    return jax.tree.map(lambda leaf: leaf[places], tree)


def darts_layout(params):
    """Parameters of the fast supernet as the lists of the reference."""
    cells = []
    for run in params["runs"]:
        for cell, pair in enumerate(run["preprocess"]):
            # The stacks hold the edges from a cell's inputs first, those of a reduction cell apart.
            stacks = [run["edges"][name] for name in ("strided", "plain") if name in run["edges"]]
            listed = [taken(stack, cell, e) for stack in stacks for e in range(jax.tree.leaves(stack)[0].shape[1])]
            order = sorted(range(5), key=lambda slot: spaces.edge_table(2)[slot][1] >= 2)
            edges = [listed[order.index(slot)] for slot in range(5)]
            cells.append({"preprocess": tuple(pair), "edges": edges})
    return {"stem": params["stem"], "cells": cells, "classifier": params["classifier"]}


def nasbench201_layout(params):
    return {**params, "stages": [[[taken(stage, 0, e) for e in range(6)]] for stage in params["stages"]]}


def enas_micro_layout(params):
    cells, skip = [], 1 + MICRO.index("skip_connect")
    for run in params["cells"]:
        for c in range(len(jax.tree.leaves(run)[0])):
            edges = [taken(run["edges"], c, slot) for slot in range(len(spaces.enas_micro_slots(2)))]
            # A reduction cell has room for the parameters of a strided identity on every edge.
            for edge, (*_, source) in zip(edges, spaces.enas_micro_slots(2), strict=True):
                edge[skip] = edge[skip] if source < 2 else {}
            cells.append({"preprocess": list(taken(run["preprocess"], c)), "edges": edges})
    return {**params, "cells": cells}


def enas_macro_layout(params):
    layers = [taken(stage, k) for stage in params["stages"] for k in range(len(jax.tree.leaves(stage)[0]))]
    reductions = [[taken(own, k) for k in range(len(jax.tree.leaves(own)[0]))] for own in params["reductions"]]
    return {**{name: params[name] for name in ("stem", "classifier")}, "layers": layers, "reductions": reductions}


def chain_layout(params):
    layers = [taken(run, k) for run in params["runs"] for k in range(len(jax.tree.leaves(run)[0]))]
    return {**{name: params[name] for name in ("stem", "head", "classifier")}, "layers": layers}


PAIRS = {
    "darts": (
        functools.partial(supernets.darts_supernet, RUNS, 2, FEW),
        reference.darts_reference(RUNS, 2, FEW),
        darts_layout,
    ),
    "nasbench201": (
        functools.partial(supernets.nasbench201_supernet, ONE),
        reference.nasbench201_reference(ONE),
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
        functools.partial(supernets.chain_supernet, Skeleton(4, 4, (6, 5, 2), 3), (2, 2), BLOCKS),
        reference.chain_reference(Skeleton(4, 4, (6, 5, 2), 3), (2, 2), BLOCKS),
        chain_layout,
    ),
}


def quick(function):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def loss(net, params, weights, x):
    logits = net.apply(params, weights, x, Context())[0]
    return jnp.sum(jnp.sin(logits) * jnp.arange(1.0, logits.size + 1).reshape(logits.shape))


def close(found, expected):
    """To 1e-9 of the largest entry of each leaf: rounding in double precision, and nothing else."""
    paths, leaves = zip(*jax.tree_util.tree_flatten_with_path(expected)[0], strict=True)
    for path, ours, theirs in zip(paths, jax.tree.leaves(found), leaves, strict=True):
        assert ours.dtype == theirs.dtype == jnp.float64
        scale = max(float(np.abs(theirs).max(initial=0)), 1e-3)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9 * scale, err_msg=jax.tree_util.keystr(path))


@functools.cache
def of_the_loops(name):
    """(weights, x, parameters of the fast supernet in the form `scan`, what the reference makes of them)."""
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
        x = jax.random.normal(jax.random.key(2), (4, *fast.input_shape), jnp.float64)
        gradients = jax.value_and_grad(functools.partial(loss, plain), (0, 1, 2))
        return params, weights, x, quick(gradients)(layout(params), weights, x)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("name", PAIRS)
def test_the_mixture_and_its_gradients_are_those_of_the_loops(name, platform):
    """In the forms of the edges and of every operation that the platform is given, computed by the CPU."""
    params, weights, x, expected = of_the_loops(name)
    with jax.enable_x64(True), supposing(platform):
        gradients = jax.value_and_grad(functools.partial(loss, PAIRS[name][0](dtype=jnp.float64)), (0, 1, 2))
        value, (to_params, to_weights, to_x) = quick(gradients)(params, weights, x)
        close((value, (PAIRS[name][2](to_params), to_weights, to_x)), expected)


@pytest.mark.parametrize("name", PAIRS)
def test_a_path_is_the_mixture_of_its_one_hot_weights_in_the_loops(name):
    params, _, x, _ = of_the_loops(name)
    _, plain, layout = PAIRS[name]
    fast = PAIRS[name][0](dtype=jnp.float64)
    archs = jax.vmap(fast.space.sample)(jax.random.split(jax.random.key(3), 2))
    with jax.enable_x64(True):
        path = quick(lambda arch: fast.apply_path(params, arch, x, Context())[0])
        slow = quick(lambda arch: plain.apply_path(layout(params), arch, x, Context())[0])
        for arch in archs:
            close(path(arch), slow(arch))


def test_what_a_second_order_hypergradient_takes_is_that_of_the_loops():
    """The derivative, along a direction of the parameters, of the gradient of the weights."""
    params, weights, x, _ = of_the_loops("darts")
    _, plain, layout = PAIRS["darts"]

    def implicit(net, params, along):
        gradient = jax.grad(functools.partial(loss, net), (0, 1))
        return jax.jvp(lambda p: gradient(p, weights, x)[1], (params,), (along,))[1]

    with jax.enable_x64(True):
        along = jax.tree.map(jnp.cos, params)
        found = quick(functools.partial(implicit, PAIRS["darts"][0](dtype=jnp.float64)))(params, along)
        close(found, quick(functools.partial(implicit, plain))(layout(params), layout(along)))


def test_a_reference_is_a_whole_supernet():
    """With the mask that its loops give, a path leaves alone what it does not take."""
    net = reference.nasbench201_reference(Skeleton(channels=2, cells=1, image_shape=(4, 4, 2), num_classes=3))
    arch = jnp.array([3, 0, 1, 2, 4, 3], jnp.int32)
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
