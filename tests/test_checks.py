"""What is of one space and meets something of another is refused when it is traced, naming both."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec

from jaxnas import hardware, predictors, samplers
from jaxnas.base import Batch, Context, Skeleton
from jaxnas.benchmarks import make_table
from jaxnas.checks import checked_space
from jaxnas.controllers import adam, lstm_controller, reinforce_policy
from jaxnas.networks import darts_network, nasbench201_network
from jaxnas.relax import by_slots
from jaxnas.search import Variant, adam_l2, darts, enas, fair_paths, single_path, uniform_paths, weakest_by_alpha
from jaxnas.spaces import (
    chain_extremes,
    chain_space,
    darts_cost_table,
    darts_space,
    discretize_argmax,
    nasbench201_space,
    product_space,
    prune,
)
from jaxnas.spaces.darts import darts_edges
from jaxnas.spaces.enas_macro import enas_macro_skips
from jaxnas.spaces.nasbench201 import nasbench201_live
from jaxnas.supernets import chain_supernet, darts_supernet, embedded, nasbench201_supernet

SKELETON = Skeleton(channels=2, cells=3, image_shape=(6, 6, 1), num_classes=3)
FEW = ("none", "skip_connect", "nor_conv_1x1")
SMALL = darts_supernet(SKELETON, 1, FEW)
NB201 = nasbench201_supernet(Skeleton(channels=2, cells=1, image_shape=(6, 6, 1), num_classes=3))
X = jax.ShapeDtypeStruct((4, 6, 6, 1), jnp.float32)
KEY = jax.random.key(0)


def shapes(function, *arguments):
    """What would be computed, without computing it: a refusal comes while tracing."""
    return jax.eval_shape(function, *arguments)


def params_of(net):
    return shapes(net.init, KEY)


# Of the space of the supernet in every respect but one: nodes, operations fewer and more, a smaller cell.
OTHERS = {
    "more nodes": darts_space(2, FEW),
    "more operations": darts_space(1, (*FEW, "sep_conv_3x3")),
    "one node more, operations fewer": darts_space(2, FEW[:2]),
    "cells of another kind": nasbench201_space(),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=list(OTHERS))
def test_weights_of_another_space_are_refused_by_supernet_and_space(other):
    weights = other.template()
    with pytest.raises(ValueError, match=r"supernet over 'darts' has mixture weights normal \[2, 3\].* got"):
        shapes(lambda p, x: SMALL.apply(p, weights, x, Context())[0], params_of(SMALL), X)
    with pytest.raises(ValueError, match=r"space 'darts' has mixture weights normal \[2, 3\].* got"):
        SMALL.space.discretize(weights)


def test_a_relaxation_that_drops_a_row_is_refused():
    short = by_slots(lambda key, alpha, step: jax.nn.softmax(alpha)[:-1], lambda alpha: jax.nn.softmax(alpha)[:-1])
    algorithm = darts(SMALL, optax.sgd(0.1), adam_l2(), variant=Variant(short))
    batch = Batch(X, jax.ShapeDtypeStruct((4,), jnp.int32))
    state = shapes(algorithm.init, KEY)
    with pytest.raises(ValueError, match=r"normal \[2, 3\], reduce \[2, 3\], got normal \[1, 3\]"):
        shapes(algorithm.phases[0].step, KEY, state, {"train": batch, "valid": batch})
    with pytest.raises(ValueError, match=r"got normal \[1, 3\]"):
        shapes(lambda state: algorithm.derive(KEY, state, None), state)


@pytest.mark.parametrize(
    ("arch", "said"),
    [
        (np.zeros(12, np.int32), r"'nasbench201' has 6 choices.*got int32 \[12\]"),
        (np.zeros(6, np.float32), r"'nasbench201' has 6 choices.*got float32 \[6\]"),
        (np.array([0, 0, 0, 0, 0, 5], np.int32), r"'nasbench201': choice 'edge 3←2' has options 0 to 4, got 5"),
        (np.array([-1, 0, 0, 0, 0, 0], np.int32), r"'nasbench201': choice 'edge 1←0' has options 0 to 4, got -1"),
    ],
)
def test_architectures_of_another_space_are_refused(arch, said):
    space, table = NB201.space, make_table("a", nasbench201_space().choices, np.eye(6, dtype=int), {"v": np.arange(6)})
    for function in (space.one_hot, space.graph, space.neighbors, space.to_genotype, NB201.used):
        with pytest.raises(ValueError, match=said):
            function(arch)
    with pytest.raises(ValueError, match=said):
        shapes(lambda p, x: NB201.apply_path(p, arch, x, Context())[0], params_of(NB201), X)
    with pytest.raises(ValueError, match=said):
        nasbench201_network(arch, SKELETON)
    for function in (table.index, lambda arch: table.query(arch, "v")):
        with pytest.raises(ValueError, match=said.replace("'nasbench201'", "table 'a'")):
            function(arch)


def test_a_population_of_another_space_is_refused_under_vmap():
    population = jax.ShapeDtypeStruct((5, 12), jnp.int32)
    for function in (NB201.used, NB201.space.canonical, NB201.space.mutate):
        arguments = [jax.random.split(KEY, 5)] if function is NB201.space.mutate else []
        with pytest.raises(ValueError, match=r"has 6 choices.*got int32 \[12\]"):
            shapes(jax.vmap(function), *arguments, population)


def test_parameters_statistics_and_images_of_another_network_are_refused():
    wide = nasbench201_supernet(Skeleton(channels=4, cells=1, image_shape=(6, 6, 1), num_classes=3))
    arch = jnp.array([3, 3, 3, 3, 3, 3])
    with pytest.raises(ValueError, match=r"parameters given are not those of the supernet over 'nasbench201'"):
        shapes(lambda p, x: NB201.apply_path(p, arch, x, Context())[0], params_of(wide), X)
    stats = shapes(lambda p, x: wide.apply_path(p, arch, x, Context())[1].stats, params_of(wide), X)
    with pytest.raises(
        ValueError, match=r"statistics given are not those of the supernet .* is \[8\], and \[4\] there"
    ):
        shapes(lambda p, x, s: NB201.apply_path(p, arch, x, Context(s))[0], params_of(NB201), X, stats)
    with pytest.raises(ValueError, match=r"made for examples \[B, 6, 6, 1\], got \[4, 6, 6, 3\]"):
        shapes(
            lambda p, x: NB201.apply_path(p, arch, x, Context())[0],
            params_of(NB201),
            jax.ShapeDtypeStruct((4, 6, 6, 3), X.dtype),
        )


def test_a_policy_and_paths_are_of_the_space_of_the_supernet():
    """Also where all shapes are equal and only the order of the operations differs."""
    turned = nasbench201_space()
    choices = tuple(choice._replace(options=choice.options[::-1]) for choice in turned.choices)
    policy = reinforce_policy(lstm_controller(choices, hidden=4), adam())
    said = r"choice 'edge 1←0' of the supernet over 'nasbench201' has the options none, skip.*but in the"
    with pytest.raises(ValueError, match=said + " policy"):
        enas(NB201, policy, optax.sgd(0.1))
    for paths in (fair_paths(choices), uniform_paths(turned._replace(choices=choices))):
        with pytest.raises(ValueError, match=said + " paths"):
            single_path(NB201, paths, optax.sgd(0.1))
    with pytest.raises(ValueError, match="6 choices in the supernet over 'nasbench201', but 3 in the paths;"):
        single_path(NB201, uniform_paths(chain_space((1, 1, 1))), optax.sgd(0.1))


def test_a_controller_refuses_architectures_of_other_choices():
    policy = reinforce_policy(lstm_controller(NB201.space.choices, hidden=4), adam())
    state = shapes(policy.init, KEY)
    archs, rewards = jax.ShapeDtypeStruct((3, 5), jnp.int32), jax.ShapeDtypeStruct((3,), jnp.float32)
    with pytest.raises(ValueError, match=r"the controller has 6 choices.*got int32 \[5\]"):
        shapes(policy.update, state, archs, rewards)


def test_a_search_on_a_table_of_other_choices_is_refused():
    mine, other = (product_space(name, {"a": "xy", "b": values}) for name, values in (("one", "xyz"), ("two", "xy")))
    table = make_table("small", other.choices, [[0, 0], [1, 1]], {"v": [0.0, 1.0]})
    wider = product_space("three", {"a": "xy", "b": "xy", "c": "xy"})
    with pytest.raises(ValueError, match=r"the table 'small' has 2 choices.*got int32 \[3\]"):
        shapes(samplers.simulate(samplers.random_search(wider), table, "v", steps=2), KEY)
    with pytest.raises(ValueError, match=r"the table 'small': choice 'b' has options 0 to 1, got 2"):
        table.index(mine.from_genotype("a=x b=z"))


def test_a_predictor_refuses_graphs_of_another_space():
    space, other = nasbench201_space(), darts_space(1, FEW)
    example = shapes(space.graph, jax.ShapeDtypeStruct((6,), jnp.int32))
    process = predictors.gaussian_process([predictors.Block(predictors.one_hot(7))], example)
    network = predictors.regression(predictors.gnn(7, example, width=4), optax.sgd(0.1), epochs=1)
    graphs = shapes(jax.vmap(other.graph), jax.ShapeDtypeStruct((4, 6), jnp.int32))
    values = jax.ShapeDtypeStruct((4,), jnp.float32)
    said = r"made for graphs of the shapes .*\[1, 8, 8\].*of another space"
    for predictor in (process, network):
        state = shapes(predictor.init, KEY)
        with pytest.raises(ValueError, match=said):
            shapes(predictor.predict, state, graphs)
        with pytest.raises(ValueError, match=said):
            shapes(predictor.fit, KEY, state, graphs, values, values)


def test_what_is_left_of_a_space_is_not_the_space():
    pruned = prune(nasbench201_space(), [(0, 1)] * 6)
    net = embedded(NB201, pruned)
    assert net.space.choices == pruned.space.choices
    with pytest.raises(ValueError, match=r"what is left of the space 'nasbench201': choice .* 0 to 1, got 3"):
        net.used(np.full(6, 3, np.int32))
    with pytest.raises(ValueError, match="but in the paths"):
        single_path(net, uniform_paths(nasbench201_space()), optax.sgd(0.1))


def test_skeletons_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="cells"):
        chain_supernet(Skeleton(4, 3, (8, 8, 1), 3), (2, 2))
    with pytest.raises(ValueError, match="'darts' has 6 choices"):
        darts_network(jnp.zeros(5, jnp.int32), SKELETON, SMALL.space)


def test_a_checked_space_gives_what_the_space_gives():
    space = nasbench201_space()
    twice, arch = checked_space(space), space.sample(jax.random.key(0))
    assert twice.notation(arch) == space.notation(arch)
    assert jnp.array_equal(twice.discretize(twice.one_hot(arch)), arch)


def macro(layers):
    return jnp.zeros(layers * (layers + 1) // 2, jnp.int32)


NONSENSE = {
    "scores of another space": (
        lambda: hardware.sums(
            NB201.space, hardware.AdditiveFit(0.0, {"cell": np.zeros((6, 4))}), np.zeros((2, 6), int)
        ),
        r"space 'nasbench201' has mixture weights cell \[6, 5\], got cell \[6, 4\]",
    ),
    "an integer program of other cells": (
        lambda: hardware.two_edges_a_node(darts_space(2)),
        "12 choices in the space 'darts', but 24 in those cells;",
    ),
    "a budget of another space": (
        lambda: hardware.solve(
            hardware.one_option_each(NB201.space),
            {"cell": np.zeros((6, 5))},
            [hardware.cost_budget(darts_cost_table(SKELETON, 1, FEW), "macs", 1e9)],
        ),
        "macs: expected numbers of shape",
    ),
    "a fit to other architectures": (
        lambda: hardware.fit_additive(NB201.space, np.zeros((3, 12), int), np.arange(3.0)),
        "'nasbench201' has 6 choices",
    ),
    "pruning by weights of another space": (
        lambda: weakest_by_alpha({"cell": np.zeros((2, 3))}, {"normal": np.ones((2, 3), bool)}, 2),
        r"kept before has mixture weights normal \[2, 3\], got cell",
    ),
    "edges of another space": (lambda: darts_edges(jnp.zeros(7, jnp.int32)), "6 choices .* got 7 choices in all"),
    "a rule for other cells": (
        lambda: discretize_argmax({"normal": jnp.zeros((3, 8))}),
        r"cell of 2 nodes has .* got normal \[3, 8\]",
    ),
    "layers of another network": (lambda: enas_macro_skips(macro(3), 4), r"4 layers have 10 choices, got .* \[6\]"),
    "extremes of no chain": (
        lambda: chain_extremes(NB201.space, SKELETON),
        "of a chain space, got .*nasbench201",
    ),
    "live edges of another cell": (lambda: nasbench201_live(macro(2)), r"'nasbench201' has 6 choices.*got int32 \[3\]"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_what_is_made_of_parts_of_two_spaces_is_refused(name):
    call, said = NONSENSE[name]
    with pytest.raises(ValueError, match=said):
        call()


def test_a_supernet_may_be_traced_under_one_mesh_and_then_under_another():
    """As in a search over devices whose candidates are then shared out: the shapes that are kept name no mesh."""
    net = nasbench201_supernet(Skeleton(channels=2, cells=1, image_shape=(6, 6, 1), num_classes=3))
    arch = jax.ShapeDtypeStruct((len(net.space.choices),), jnp.int32)

    def trained(params, arch, x):
        return net.apply_path(params, arch, x, Context())[0]

    def scored(params, arch, x):
        stats = net.apply_path(params, arch, x, Context())[1].stats
        return net.apply_path(params, arch, x, Context(bn=stats))[0]

    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params_of(NB201))
    for name, function in (("batch", trained), ("population", scored)):
        mesh = Mesh(np.array(jax.devices()[:2]), (name,))
        specs = (PartitionSpec(), PartitionSpec(), PartitionSpec(name))
        over = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(name), check_vma=False)
        assert shapes(over, params, arch, X).shape == (4, 3)
