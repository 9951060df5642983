"""Cells that need nothing but an argument: the free cells of DARTS, other numbers of nodes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import hardware
from jaxnas.base import Context, Skeleton
from jaxnas.spaces import (
    DARTS_OPERATIONS,
    darts_cost_table,
    darts_space,
    discretize_free,
    enas_micro_space,
)
from jaxnas.spaces.darts import graph_operations
from jaxnas.supernets import darts_supernet
from jaxnas.testing import check_space, check_supernet

FEW = ("skip_connect", "none", "max_pool_3x3", "nor_conv_1x1")
SKELETON = Skeleton(channels=2, cells=4, image_shape=(6, 6, 2), num_classes=3)
# One input twice with one operation and with two, "none" alone and twice, a node that reads nothing else than zeros.
CELL = [("skip_connect", 0), ("skip_connect", 0), ("none", 2), ("nor_conv_1x1", 0), ("none", 1), ("none", 3)]
LATER = [("nor_conv_1x1", 1), ("max_pool_3x3", 1), ("none", 1), ("none", 0), ("nor_conv_1x1", 3), ("skip_connect", 3)]


def genotype(normal, reduce):
    concat = list(range(2, len(normal) // 2 + 2))
    return {"normal": normal, "normal_concat": concat, "reduce": reduce, "reduce_concat": concat}


@pytest.mark.parametrize(("nodes", "operations"), [(1, ("none", "skip_connect")), (2, FEW[::2]), (5, DARTS_OPERATIONS)])
def test_the_laws_of_a_free_space(nodes, operations):
    check_space(darts_space(nodes, operations, free=True), (Skeleton(4, 5, (15, 12, 1), 3),))


def test_canonical_is_one_for_each_meaning():
    """All architectures of a node: unordered pairs of edges, of which "none" has no source."""
    space = darts_space(1, FEW, free=True)
    half = [list(range(len(choice.options))) for choice in space.choices[:3]]
    archs = jnp.array([(*cell, *cell) for cell in itertools.product(*half)])
    canonical = np.asarray(jax.jit(jax.vmap(space.canonical))(archs))
    meant = set()
    for arch, same in zip(archs, canonical, strict=True):
        found, there = space.to_genotype(arch)["normal"], space.to_genotype(same)["normal"]
        meaning = tuple(sorted((name, source if name != "none" else None) for name, source in found))
        assert meaning == tuple(sorted((name, source if name != "none" else None) for name, source in there))
        meant.add(meaning)
    assert len(np.unique(canonical, axis=0)) == len(meant) == 28  # of 7 edges, two with repetition
    graphs = jax.vmap(space.graph)(canonical)
    assert len({(np.asarray(a).tobytes(), np.asarray(o).tobytes()) for a, o, *_ in zip(*graphs[:3])}) == 28  # noqa: B905


def test_a_free_genotype_is_read_and_printed_and_the_standard_space_refuses_it():
    space = darts_space(3, FEW, free=True)
    arch = space.from_genotype(genotype(CELL, LATER))
    assert space.to_genotype(arch)["normal"] == [
        ["skip_connect", 0], ["skip_connect", 0], ["none", 0], ["nor_conv_1x1", 0], ["none", 0], ["none", 0]
    ]  # fmt: skip
    assert space.to_genotype(arch)["reduce"][:2] == [["max_pool_3x3", 1], ["nor_conv_1x1", 1]]
    assert space.from_genotype(space.notation(arch)).tolist() == arch.tolist()
    assert darts_space(free=True).from_genotype("DARTS_V2").shape == (24,)
    with pytest.raises(ValueError, match=r"unknown operation 'none'; this space has skip_connect, max_pool"):
        darts_space(3, FEW).from_genotype(genotype(LATER[2:4] + LATER[2:], CELL))
    with pytest.raises(ValueError, match=r"normal node 2: both edges come from 1; .* two different inputs"):
        darts_space(1, FEW).from_genotype(genotype(LATER[:2], LATER[:2]))


def test_mixture_weights_of_a_free_cell_count_operations():
    space = darts_space(3, FEW, free=True)
    weights = space.one_hot(space.from_genotype(genotype(CELL, LATER)))
    # Slots: of node 2 the sources 0 and 1, of node 3 0 to 2, of node 4 0 to 3.
    none = [0, 1, 0, 0]
    assert weights["normal"].tolist() == [[2, 0, 0, 0], none, [0, 0, 0, 1], *[none] * 6]
    assert weights["reduce"].tolist() == [none, [0, 0, 1, 1], *[none] * 6, [1, 0, 0, 1]]


def test_the_free_rule_takes_the_two_heaviest_that_outweigh_none():
    weights = np.array([[0.3, 0.1, 0.5, 0.1], [0.4, 0.45, 0.05, 0.1], [0.1, 0.6, 0.2, 0.1]], np.float32)
    one = dict.fromkeys(("normal", "reduce"), weights[:2])
    space = darts_space(1, FEW, free=True)
    # Both from input 0, for on input 1 "none" is the heaviest.
    assert space.notation(space.discretize(one)).startswith(
        "Genotype(normal=[('skip_connect', 0), ('max_pool_3x3', 0)]"
    )
    alone = dict.fromkeys(one, weights[1:])
    assert space.notation(space.discretize(alone)).startswith("Genotype(normal=[('none', 0), ('none', 0)]")
    kept = np.delete(weights, 1, axis=1)
    assert discretize_free(dict.fromkeys(one, kept[:2]), ("a", "b", "c")).tolist() == [1, 1, 0] * 2


def test_none_is_masked_out_of_the_graph():
    space = darts_space(3, FEW, free=True)
    graph = space.graph(space.from_genotype(genotype(CELL, LATER)))
    names = [graph_operations(FEW)[o] for o in graph.ops[0].tolist()]
    assert [not there for there in graph.mask[0].tolist()] == [name == "none" for name in names]
    feeds = {(0, 2), (0, 3), (2, 4), (3, 4), (0, 6), (6, 7), (4, 11), (7, 11), (10, 11)}
    assert {tuple(edge) for edge in np.argwhere(graph.adjacency[0]).tolist()} == feeds


def test_costs_of_free_cells_are_those_of_the_table():
    space, skeleton = darts_space(3, FEW, free=True), Skeleton(7, 5, (15, 12, 1), 3)
    table = darts_cost_table(skeleton, 3, FEW)
    archs = [
        space.from_genotype(genotype(CELL, LATER)),
        *jax.vmap(space.sample)(jax.random.split(jax.random.key(0), 3)),
    ]
    for arch in archs:
        weights = jax.tree.map(lambda rows: np.asarray(rows, int), space.one_hot(arch))
        for name, each in (("params", table.params), ("macs", table.macs)):
            total = table.constant[name] + sum((each[kind] * weights[kind]).sum() for kind in each)
            assert space.costs(arch, skeleton)[name] == total
    empty = space.from_genotype(genotype([("none", 0)] * 6, [("none", 1)] * 6))
    assert space.costs(empty, skeleton) == table.constant


def test_a_program_of_zeros_and_ones_is_refused_where_a_slot_takes_more():
    with pytest.raises(ValueError, match=r"'normal node 2 inputs' .* 0,0, 0,1, 1,1"):
        hardware.two_edges_a_node(darts_space(free=True))
    for space in (darts_space(free=True), darts_space(), enas_micro_space()):
        with pytest.raises(ValueError, match="exactly one option in each slot"):
            hardware.one_option_each(space)


@pytest.fixture(scope="module")
def net():
    return darts_supernet(SKELETON, 3, FEW, free=True, form="scan")


def test_the_laws_of_a_free_supernet(net):
    space = net.space
    archs = [space.from_genotype(genotype(*cells)) for cells in ((CELL, LATER), (LATER, CELL))]
    archs.append(space.sample(jax.random.key(0)))
    check_supernet(space, net, archs=archs)


def test_a_free_path_is_the_same_in_stages(net):
    arch = net.space.from_genotype(genotype(CELL, LATER))
    params, x = jax.jit(net.init)(jax.random.key(0)), jax.random.normal(jax.random.key(1), (4, 6, 6, 2))
    staged = darts_supernet(SKELETON, 3, FEW, free=True, form="staged")
    one, other = (
        jax.jit(lambda p, each=each: each.apply_path(p, arch, x, Context())[0])(params) for each in (net, staged)
    )
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_program_over_cells_without_none_finds_the_best_of_all():
    operations = ("skip_connect", "nor_conv_1x1", "max_pool_3x3")
    space = darts_space(1, operations)
    rng = np.random.default_rng(0)
    scores = {kind: rng.normal(size=value.shape) for kind, value in space.template().items()}
    (found,) = hardware.solve(hardware.two_edges_a_node(space, 1, operations), scores)
    every = [jnp.array(entries) for entries in np.ndindex(*[len(choice.options) for choice in space.choices])]
    worth = [sum(float((space.one_hot(arch)[k] * scores[k]).sum()) for k in scores) for arch in every]
    assert found.value == pytest.approx(max(worth))
    assert found.arch.tolist() == every[int(np.argmax(worth))].tolist()
