"""The contract of a search space, for every space, and what is particular to each."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import spaces
from jaxnas.base import Choice, Skeleton
from jaxnas.spaces.darts import darts_edges
from jaxnas.spaces.product import product
from jaxnas.testing import check_space

TINY = ("none", "skip_connect", "sep_conv_3x3")
CHAIN = ("shuffle_3x3", "identity", "mbconv3_3x3")


def pruned(space, changed):
    return spaces.prune(space, [changed.get(d, row) for d, row in enumerate(spaces.everything(space))]).space


SPACES = {
    "darts": spaces.darts_space,
    "darts_tiny": lambda: spaces.darts_space(2, TINY),
    "darts_none_last": lambda: spaces.darts_space(3, ("sep_conv_3x3", "max_pool_3x3", "none")),
    "nasbench201": spaces.nasbench201_space,
    "enas_micro": spaces.enas_micro_space,
    "enas_macro": spaces.enas_macro_space,
    "enas_micro_tiny": lambda: spaces.enas_micro_space(2, ("skip_connect", "sep_conv_3x3")),
    "chain": lambda: spaces.chain_space((2, 2, 3)),
    "chain_tiny": lambda: spaces.chain_space((1, 2), CHAIN),
    "darts_pruned": lambda: pruned(spaces.darts_space(3, TINY), {1: (0,), 3: (2, 0), 6: (1, 4, 5), 8: (1,)}),
    "nasbench201_pruned": lambda: pruned(spaces.nasbench201_space(), {0: (3,), 2: (4, 1, 2), 5: (0, 3)}),
    "enas_macro_pruned": lambda: pruned(spaces.enas_macro_space(4), {0: (5, 1), 2: (1,), 4: (0,)}),
    "product": lambda: spaces.product_space("mine", {"kernel": (3, 5, 7), "activation": ("relu", "gelu")}),
    "chain_pruned": lambda: pruned(spaces.chain_space((1, 2), CHAIN), {0: (2, 1), 1: (1,)}),
}
SKELETONS = (Skeleton(7, 5, (15, 12, 1), 3), Skeleton(4, 1, (8, 8, 3), 2))
# The spaces whose costs are a sum over slots: table of a skeleton, and skeletons.
TABLES = {
    "darts": (spaces.darts_cost_table, SKELETONS),
    "darts_tiny": (lambda skeleton: spaces.darts_cost_table(skeleton, 2, TINY), SKELETONS),
    "darts_none_last": (
        lambda skeleton: spaces.darts_cost_table(skeleton, 3, ("sep_conv_3x3", "max_pool_3x3", "none")),
        SKELETONS,
    ),
    "nasbench201": (spaces.nasbench201_cost_table, SKELETONS),
    "chain": (spaces.chain_cost_table, (Skeleton(6, 7, (15, 12, 1), 3),)),
    "chain_tiny": (lambda skeleton: spaces.chain_cost_table(skeleton, (1, 2), CHAIN), (Skeleton(4, 3, (8, 8, 3), 2),)),
}


@pytest.fixture(params=SPACES, scope="module")
def name(request):
    return request.param


@pytest.fixture(scope="module")
def space(name):
    return SPACES[name]()


@pytest.fixture(scope="module")
def archs(space):
    return jax.jit(jax.vmap(space.sample))(jax.random.split(jax.random.key(0), 2048))


def sizes(space):
    return np.array([len(choice.options) for choice in space.choices])


def test_the_laws(name, space):
    check_space(space, SKELETONS if name in ("darts", "nasbench201", "enas_micro") else ())


def test_sample_is_uniform_over_the_options(space, archs):
    assert archs.dtype == jnp.int32
    for column, size in zip(np.asarray(archs).T, sizes(space), strict=True):
        counts = np.bincount(column, minlength=size)
        assert len(counts) == size
        expected = len(archs) / size
        assert (abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_mutation_is_uniform_over_the_neighbors(space, archs):
    found = np.asarray(space.neighbors(archs[0])[0])
    index = {tuple(row): m for m, row in enumerate(found)}
    keys = jax.random.split(jax.random.key(1), 64 * len(found))
    mutants = np.asarray(jax.jit(jax.vmap(space.mutate, (0, None)))(keys, archs[0]))
    counts = np.bincount([index[tuple(row)] for row in mutants], minlength=len(found))
    # Chi squared with M - 1 degrees of freedom, five standard deviations.
    assert ((counts - 64) ** 2 / 64).sum() < len(found) + 5 * np.sqrt(2 * len(found))


def test_crossover_takes_each_entry_from_either_parent(space):
    low = jnp.zeros(len(space.choices), jnp.int32)
    high = jnp.asarray(sizes(space) - 1, jnp.int32)
    keys = jax.random.split(jax.random.key(2), 1024)
    children = np.asarray(jax.jit(jax.vmap(space.crossover, (0, None, None)))(keys, low, high))
    assert children.dtype == np.int32
    assert ((children == np.asarray(low)) | (children == np.asarray(high))).all()
    from_high = (children == np.asarray(high)).mean(axis=0)[sizes(space) > 1]
    assert (abs(from_high - 0.5) < 5 * 0.5 / np.sqrt(1024)).all()


@pytest.mark.parametrize("name", TABLES, indirect=True)
def test_the_cost_table_adds_up_to_the_costs(name, space, archs):
    make, skeletons = TABLES[name]
    for skeleton in skeletons:
        table = make(skeleton)
        for arch in archs[:5]:
            weights = space.one_hot(arch)
            costs = space.costs(arch, skeleton)
            for key, each in (("params", table.params), ("macs", table.macs)):
                assert {kind: value.shape for kind, value in each.items()} == {k: w.shape for k, w in weights.items()}
                total = table.constant[key] + sum((each[kind] * np.asarray(weights[kind], int)).sum() for kind in each)
                assert costs[key] == total
                assert type(costs[key]) is int


def test_a_choice_with_one_option_is_never_mutated_and_a_space_of_one_is_refused():
    moves = product((Choice("fixed", ("a",)), Choice("free", ("a", "b"))))
    assert moves.neighbors(jnp.array([0, 1]))[0].tolist() == [[0, 0]]
    assert moves.mutate(jax.random.key(0), jnp.array([0, 1])).tolist() == [0, 0]
    with pytest.raises(ValueError, match="single architecture"):
        product((Choice("fixed", ("a",)),))
    with pytest.raises(ValueError, match="'empty' has no options"):
        product((Choice("empty", ()), Choice("free", ("a", "b"))))


# DARTS.


def test_darts_choices():
    space = spaces.darts_space()
    assert len(space.choices) == 24
    reads = (("normal 0", "normal 1"), ("normal 0", "normal 2"), ("normal 1", "normal 2"))
    assert space.choices[3] == Choice("normal node 3 inputs", ("0,1", "0,2", "1,2"), "normal 3", reads)
    assert space.choices[4].options[0] == "max_pool_3x3"
    assert {kind: weights.shape for kind, weights in space.template().items()} == {"normal": (14, 8), "reduce": (14, 8)}
    # The paper counts (Π (k+1)k/2 · 7²)² cells, node 2 to 5: about 10^18.
    assert math.prod(sizes(space).tolist()) == (1 * 3 * 6 * 10 * 49**4) ** 2


def test_every_architecture_of_a_tiny_darts_space():
    space = SPACES["darts_tiny"]()
    archs = np.array(list(itertools.product(*map(range, sizes(space)))), np.int32)
    assert len(archs) == (1 * 2 * 2 * 3 * 2 * 2) ** 2
    again = jax.jit(jax.vmap(lambda arch: space.discretize(space.one_hot(arch))))(archs)
    np.testing.assert_array_equal(again, archs)
    written = [space.notation(arch) for arch in archs]
    assert len(set(written)) == len(archs)
    np.testing.assert_array_equal(np.stack([np.asarray(space.from_genotype(text)) for text in written]), archs)
    graph = jax.jit(jax.vmap(space.graph))(archs)
    flat = np.concatenate([np.asarray(graph.adjacency).reshape(len(archs), -1), graph.ops.reshape(len(archs), -1)], 1)
    assert len(np.unique(flat, axis=0)) == len(archs)


def paper_rule(weights, nodes, none, argmax=False):
    """Section 2.4 of the paper in plain Python; with `argmax`, edges where "none" wins go last."""
    arch = []
    for kind in ("normal", "reduce"):
        slot = 0
        for node in range(nodes):
            rows = [[float(w) for w in row] for row in weights[kind][slot : slot + node + 2]]
            slot += node + 2
            others = [[w for o, w in enumerate(row) if o != none] for row in rows]
            dead = [argmax and row.index(max(row)) == none for row in rows]
            best = sorted(range(node + 2), key=lambda j: (dead[j], -max(others[j]), j))[:2]
            pairs = [(a, b) for a in range(node + 2) for b in range(a + 1, node + 2)]
            arch += [pairs.index(tuple(sorted(best))), *(others[j].index(max(others[j])) for j in sorted(best))]
    return arch


@pytest.mark.parametrize("argmax", [False, True])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("operations", [spaces.DARTS_OPERATIONS, ("skip_connect", "none", "sep_conv_3x3")])
def test_discretize_follows_the_rule(argmax, ties, operations):
    nodes = 4
    shape = (200, len(spaces.edge_table(nodes)), len(operations))
    keys = jax.random.split(jax.random.key(3), 2)
    draw = (lambda key: jax.random.randint(key, shape, 0, 3)) if ties else (lambda key: jax.random.normal(key, shape))
    weights = {kind: draw(key).astype(jnp.float32) for kind, key in zip(("normal", "reduce"), keys, strict=True)}
    rule = spaces.discretize_argmax if argmax else spaces.discretize_paper
    found = np.asarray(jax.jit(jax.vmap(lambda weights: rule(weights, operations)))(weights))
    weights = jax.tree.map(np.asarray, weights)
    for index, arch in enumerate(found.tolist()):
        one = {kind: value[index] for kind, value in weights.items()}
        assert arch == paper_rule(one, nodes, operations.index("none"), argmax)


def test_the_two_rules_differ_where_none_wins():
    """Edge 0 has the heaviest operation, but "none" is heavier still: only the paper's rule keeps it."""
    space = SPACES["darts_tiny"]()
    weights = jax.tree.map(np.array, space.template())
    for value in weights.values():
        value[:] = [0, 0.2, 0.1]
        value[2] = [0.5, 0.0, 0.4]  # Into the second node, from input 0.
    assert np.asarray(spaces.discretize_paper(weights, TINY)[3:6]).tolist() == [0, 1, 0]
    assert np.asarray(spaces.discretize_argmax(weights, TINY)[3:6]).tolist() == [2, 0, 0]


def test_darts_edges_point_where_the_genotype_says():
    space = spaces.darts_space()
    arch = space.from_genotype("PC_DARTS_cifar")
    genotype = space.to_genotype(arch)
    table = spaces.edge_table(4)
    for kind, edges in darts_edges(arch).items():
        taken = zip(edges.slot.tolist(), edges.source.tolist(), edges.operation.tolist(), strict=True)
        for e, (slot, source, operation) in enumerate(taken):
            assert table[slot] == (e // 2, source)
            assert genotype[kind][e] == [spaces.DARTS_OPERATIONS[operation], source]


def test_the_darts_graph_is_the_cell():
    space = spaces.darts_space()
    arch = space.from_genotype("DARTS_V2")
    genotype = space.to_genotype(arch)
    graph = space.graph(arch)
    assert graph.adjacency.shape == (2, 15, 15)
    for g, kind in enumerate(("normal", "reduce")):
        names = [space.vocabulary[o] for o in graph.ops[g].tolist()]
        expected_names, feeds = ["input_0", "input_1"], []
        value = [0, 1]
        for node in range(4):
            for name, source in genotype[kind][2 * node : 2 * node + 2]:
                feeds += [(value[source], len(expected_names)), (len(expected_names), 4 + 3 * node)]
                expected_names.append(name)
            value.append(len(expected_names))
            expected_names.append("sum")
        feeds += [(at, 14) for at in value[2:]]
        assert names == [*expected_names, "output"]
        assert {tuple(edge) for edge in np.argwhere(graph.adjacency[g]).tolist()} == set(feeds)


def test_published_genotypes_are_read_and_printed():
    space = spaces.darts_space()
    for name in spaces.PUBLISHED:
        arch = space.from_genotype(name)
        np.testing.assert_array_equal(space.from_genotype(name.upper()), arch)
        printed = space.notation(arch)
        assert printed.startswith("Genotype(normal=[('")
        assert printed.endswith("], reduce_concat=range(2, 6))")
        np.testing.assert_array_equal(space.from_genotype(printed), arch)


def test_the_paper_prints_the_same_cell_in_another_order():
    """The printed form orders a node's edges by weight; lists and ranges, line breaks and positions are all read."""
    space = spaces.darts_space()
    text = """
    Genotype(normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 0), ('sep_conv_3x3', 1),
      ('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 2)], normal_concat=[2, 3, 4, 5],
      reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 0),
      ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('avg_pool_3x3', 0)], reduce_concat=range(2, 6))
    """
    arch = space.from_genotype(text)
    np.testing.assert_array_equal(arch, space.from_genotype("DARTS_V1"))
    positional = space.notation(arch)
    for field in ("normal_concat=", "normal=", "reduce_concat=", "reduce="):
        positional = positional.replace(field, "")
    np.testing.assert_array_equal(space.from_genotype(positional), arch)


GOOD = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1), ('skip_connect', 0), ('sep_conv_3x3', 2)], "
    "normal_concat=range(2, 4), reduce=[('skip_connect', 0), ('skip_connect', 1), ('skip_connect', 0), "
    "('skip_connect', 1)], reduce_concat=range(2, 4))"
)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sep_conv_3x3', 0", "sep_conv_7x7', 0", "normal edge 0, .*'sep_conv_7x7'; .*skip_connect, sep_conv_3x3$"),
        ("sep_conv_3x3', 0", "none', 0", "normal edge 0, .*'none'"),
        ("('skip_connect', 1)]", "('skip_connect', 3)]", "reduce edge 3, into node 3: source 3 .* must be 0 to 2"),
        ("('skip_connect', 1)]", "('skip_connect', 0)]", "reduce node 3: both edges come from 0; .* different inputs"),
        ("('skip_connect', 1)]", "'skip_connect']", r"reduce edge 3, .* \(operation, source\), got 'skip_connect'"),
        (", ('skip_connect', 1)]", "]", "reduce has 3 edges; a cell of 2 nodes has 4"),
        ("normal_concat=range(2, 4)", "normal_concat=[2]", r"normal_concat is \[2\]; .* must be \[2, 3\]"),
        ("normal_concat=range(2, 4)", "normal_concat=4", "normal_concat must be a list, got 4"),
        ("normal_concat=range(2, 4), ", "", "has no 'normal_concat'"),
        ("normal_concat=range(2, 4)", "normal_concat=exit(2)", r"normal_concat: cannot read 'exit\(2\)'"),
        ("normal_concat=range(2, 4)", "normal_concat=range(10**9)", "normal_concat: cannot read"),
        ("normal_concat=range(2, 4)", "normal=[]", "'normal' twice or unasked"),
        ("normal_concat=", "wrong=", "'wrong' twice or unasked"),
        ("reduce_concat=range(2, 4))", "reduce_concat=range(2, 4)", "not a genotype: .*never closed"),
        ("Genotype(", "Phenotype(", "not a genotype; write Genotype"),
        (GOOD, "DARTS_V3", "unknown genotype 'DARTS_V3'; .* DARTS_V2"),
        (GOOD, "DARTS_V2", "normal has 8 edges; a cell of 2 nodes has 4"),
    ],
)
def test_a_bad_darts_genotype_gives_one_clear_line(old, new, message):
    space = SPACES["darts_tiny"]()
    space.from_genotype(GOOD)
    with pytest.raises(ValueError, match=message) as error:
        space.from_genotype(GOOD.replace(old, new, 1) if "reduce" not in message else new.join(GOOD.rsplit(old, 1)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("nodes", "operations", "message"),
    [
        (0, spaces.DARTS_OPERATIONS, "at least one node, got 0"),
        (4, ("none", "sep_conv_9x9"), "unknown operation 'sep_conv_9x9'; known are avg_pool_3x3, "),
        (4, ("none", "skip_connect", "skip_connect"), "must have different names"),
        (4, ("none",), "at least one beside 'none'"),
    ],
)
def test_darts_space_refuses_what_it_cannot_be(nodes, operations, message):
    with pytest.raises(ValueError, match=message):
        spaces.darts_space(nodes, operations)


# NAS-Bench-201.

STRING = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|none~1|skip_connect~2|"


def test_nasbench201_strings():
    space = spaces.nasbench201_space()
    arch = space.from_genotype(STRING)
    assert arch.tolist() == [3, 3, 4, 1, 0, 1]
    assert space.notation(arch) == STRING
    assert math.prod(sizes(space).tolist()) == 15625
    assert space.to_genotype(arch)["cell"][2] == ["avg_pool_3x3", 1]


def test_nasbench201_discretize_takes_the_first_heaviest_with_none():
    weights = np.tile(np.array([[0.0, 0.3, 0.3, 0.1, 0.2]], np.float32), (6, 1))
    weights[4] = [0.4, 0.3, 0.1, 0.1, 0.1]
    assert spaces.nasbench201_space().discretize({"cell": weights}).tolist() == [1, 1, 1, 1, 0, 1]


def test_the_nasbench201_graph_is_the_line_graph():
    space = spaces.nasbench201_space()
    graph = space.graph(space.from_genotype(STRING))
    names = [space.vocabulary[o] for o in graph.ops[0].tolist()]
    assert names[0] == "input"
    assert names[1:7] == [edge.split("~")[0] for edge in STRING.replace("+", "").split("|") if edge]
    assert names[7] == "output"
    assert graph.mask[0].tolist() == [True] * 5 + [False] + [True] * 2
    feeds = {(0, 1), (0, 2), (0, 4), (1, 3), (2, 6), (3, 6), (4, 7), (6, 7)}
    assert {tuple(edge) for edge in np.argwhere(graph.adjacency[0]).tolist()} == feeds


@pytest.mark.parametrize(
    ("genotype", "message"),
    [
        (
            STRING.replace("avg_pool", "max_pool"),
            "edge 2, into node 2: unknown operation 'max_pool_3x3'; .* avg_pool_3x3",
        ),
        (
            STRING.replace("~2", "~3"),
            "edge 5, into node 3: source 3 of skip_connect is out of range; it must be 0 to 2",
        ),
        (STRING.replace("~2", "~0"), "edge 5, into node 3: it must come from 2, got 0"),
        (STRING.replace("~2", "~x"), "edge 5, into node 3: source 'x'"),
        (STRING.replace("~2", ""), "node 3: 'skip_connect' is no edge; write operation~source"),
        (STRING.replace("avg_pool_3x3~1|", ""), r"node 2 is '\|nor_conv_3x3~0\|'; it has 2 edges"),
        (STRING.rsplit("+", 1)[0], "has 2 nodes; write three joined by"),
        ("DARTS_V2", "'DARTS_V2' is a genotype of the space 'darts'"),
        ({"space": "darts"}, "is of the space 'darts', not of 'nasbench201'"),
        ({"space": "nasbench201"}, "has no 'cell'"),
        ({"cell": [["none", 0]] * 5}, "a list of 6 edges"),
    ],
)
def test_a_bad_nasbench201_genotype_gives_one_clear_line(genotype, message):
    with pytest.raises(ValueError, match=message) as error:
        spaces.nasbench201_space().from_genotype(genotype)
    assert "\n" not in str(error.value)
