"""Predictors: encodings against paths listed by hand, a Gaussian process against its formulas, padding that changes
nothing, and rankings learned from few cells.
"""

import itertools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from jaxnas import predictors
from jaxnas.base import Graph
from jaxnas.benchmarks import functional_classes
from jaxnas.kernels.masked_max import masked_max
from jaxnas.predictors.gaussian_process import Block
from jaxnas.spaces import NASBENCH201_EDGES, darts_space
from jaxnas.spaces.darts import graph_operations
from jaxnas.spaces.nasbench201 import nasbench201_graph_operations, nasbench201_space
from jaxnas.spaces.reading import read_genotype

VOCABULARY = nasbench201_graph_operations()
FORM = predictors.functional_form(VOCABULARY, ("skip_connect",))
CONVOLUTIONS, POOL = (2, 3), 4
ALL = np.array(list(itertools.product(range(5), repeat=6)), np.int32)
STATISTICS = predictors.path_statistics([CONVOLUTIONS, (POOL,)])


def quick(function):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module")
def space():
    return nasbench201_space()


@pytest.fixture(scope="module")
def graphs(space):
    """400 cells, in functional form; the first 160 are for training. Targets: a depth with a few convolutions."""
    archs = np.random.default_rng(0).permutation(ALL)[:400]
    return archs, quick(jax.vmap(lambda arch: FORM(space.graph(arch))))(jnp.asarray(archs))


def paths_by_hand(arch):
    """The operations on every path through a cell, skips left out."""
    operation = dict(zip(NASBENCH201_EDGES, arch, strict=True))
    found = []
    for way in ((0, 3), (0, 1, 3), (0, 2, 3), (0, 1, 2, 3)):
        taken = [operation[node, source] for source, node in itertools.pairwise(way)]
        if 0 not in taken:
            found.append(tuple(int(o) for o in taken if o != 1))
    return found


def test_encodings_are_what_the_paths_say(graphs):
    archs, given = graphs
    sequences = [way for n in range(4) for way in itertools.product((2, 3, 4), repeat=n)]
    counts = quick(jax.vmap(predictors.path_counts((2, 3, 4), 3)))(given)
    statistics = quick(jax.vmap(STATISTICS))(given)
    for arch, count, found in zip(archs[:150], np.asarray(counts), np.asarray(statistics), strict=False):
        paths = paths_by_hand(arch)
        assert count.tolist() == [paths.count(way) for way in sequences]
        numbers = np.array([[sum(o in group for o in way) for group in (CONVOLUTIONS, (POOL,))] for way in paths])
        if not paths:
            assert not found.any()
            continue
        expected = [*numbers.max(axis=0), *numbers.min(axis=0), *numbers.mean(axis=0), np.log1p(len(paths))]
        assert found == pytest.approx(expected, abs=1e-5)


def test_short_paths_leave_longer_ones_out(graphs):
    _, given = graphs
    whole = quick(jax.vmap(predictors.path_counts((2, 3, 4), 3)))(given)
    short = quick(jax.vmap(predictors.path_counts((2, 3, 4), 1)))(given)
    np.testing.assert_array_equal(short, whole[:, :4])


def test_cells_of_one_function_have_one_encoding(space):
    classes = functional_classes(ALL)
    drawn = np.random.default_rng(1).choice(len(ALL), 300, replace=False)
    _, first = np.unique(classes, return_index=True)
    encode = predictors.concatenated(predictors.path_counts((2, 3, 4), 3), STATISTICS)
    encoded = quick(jax.vmap(lambda arch: encode(FORM(space.graph(arch)))))
    archs, twins = jnp.asarray(ALL[drawn]), jnp.asarray(ALL[first[classes[drawn]]])
    assert (np.asarray(archs) != np.asarray(twins)).any()
    np.testing.assert_allclose(encoded(archs), encoded(twins), atol=1e-5)


def test_a_functional_form_keeps_what_is_on_a_way_through(space):
    arch = jnp.asarray([0, 2, 3, 1, 4, 3], jnp.int32)  # node 1 is zero: the edges 2←1 and 3←1 lead from nowhere
    graph = FORM(space.graph(arch))
    assert np.flatnonzero(graph.mask[0]).tolist() == [0, 2, 6, 7]
    assert np.argwhere(np.asarray(graph.adjacency[0])).tolist() == [[0, 2], [0, 7], [2, 6], [6, 7]]
    # Two skips in parallel and one after them: two ways from the input to the output and one more.
    graph = FORM(space.graph(jnp.asarray([1, 1, 1, 0, 0, 1], jnp.int32)))
    assert float(graph.adjacency[0, 0, 7]) == 2
    assert np.flatnonzero(graph.mask[0]).tolist() == [0, 7]


def test_normal_scores_are_those_of_the_ranks():
    targets = jnp.asarray([3.0, 9.0, 1.0, 3.0, 100.0])
    scores = predictors.normal_scores(targets, jnp.asarray([1.0, 2.0, 1.0, 1.0, 0.0]))
    assert np.asarray(scores) == pytest.approx(stats.norm.ppf([0.5, 0.875, 0.125, 0.5, 0.5]), abs=1e-5)


def test_losses_are_their_formulas():
    rng = np.random.default_rng(0)
    f, y = rng.normal(size=6), rng.integers(0, 3, 6).astype(float)
    weight = np.array([1.0, 1.0, 0.5, 2.0, 0.0, 1.0])
    pairs = [(i, j) for i in range(6) for j in range(6) if y[i] > y[j]]
    total = sum(weight[i] * weight[j] for i, j in pairs)
    cases = {
        predictors.squared: np.average((f - y) ** 2, weights=weight),
        predictors.pairwise_logistic: sum(
            weight[i] * weight[j] * np.log1p(np.exp(f[j] - f[i])) for i, j in pairs
        ) / total,
        predictors.pairwise_hinge(0.3): sum(
            weight[i] * weight[j] * max(0, 0.3 - f[i] + f[j]) for i, j in pairs
        ) / total,
    }  # fmt: skip
    for loss, expected in cases.items():
        assert float(loss(*(jnp.asarray(value, jnp.float32) for value in (f, y, weight)))) == pytest.approx(expected)


ENCODED = predictors.concatenated(STATISTICS, predictors.operation_counts((2, 3, 4)))


def make(name, example):
    def trained(network, epochs=60, loss=predictors.squared):
        return predictors.regression(network, optax.adam(1e-2), epochs=epochs, loss=loss)

    process = predictors.gaussian_process(
        [Block(predictors.path_counts((2, 3, 4), 3), 0.3, standardize=False), Block(ENCODED, 0.7)], example
    )
    small = predictors.gnn(len(VOCABULARY), example, width=8, hidden=8, rounds=2)
    return {
        "gnn": lambda: trained(small),
        "gnn_ranking": lambda: trained(small, loss=predictors.pairwise_logistic),
        "mlp": lambda: trained(predictors.mlp(ENCODED, example, (16, 16))),
        "process": lambda: process,
        "ensemble": lambda: predictors.average(
            predictors.ensemble(trained(predictors.gnn(len(VOCABULARY), example, width=8, encode=ENCODED)), 3), process
        ),
    }[name]()


def at(graphs, index):
    return jax.tree.map(lambda leaf: leaf[index], graphs)


def depth(archs):
    """What is to be learned: more convolutions on the longest path and fewer pools are better; no path is worst."""
    result = []
    for arch in archs:
        paths = paths_by_hand(arch) or [()]
        result.append(max(sum(o in CONVOLUTIONS for o in way) for way in paths) + 0.3 * (arch == 3).sum())
    return np.array(result, np.float32)


@pytest.mark.parametrize("name", ["gnn", "gnn_ranking", "mlp", "process", "ensemble"])
def test_a_predictor_ranks_what_it_has_not_seen_and_padding_changes_nothing(name, graphs):
    archs, given = graphs
    predictor = make(name, at(given, 0))
    targets, weight = jnp.asarray(depth(archs)), np.ones(160, np.float32)
    weight[120:] = 0
    fit = quick(lambda key, *data: predictor.fit(key, predictor.init(jax.random.fold_in(key, 1)), *data))
    predict = quick(predictor.predict)
    train = at(given, np.arange(160))
    mean, std = predict(fit(jax.random.key(0), train, targets[:160], jnp.asarray(weight)), given)
    assert stats.kendalltau(mean[160:], targets[160:]).statistic > 0.6
    assert mean.shape == std.shape == (400,)
    assert (np.asarray(std) >= 0).all()
    nonsense = at(given, np.r_[np.arange(120), np.arange(200, 240)])
    wrong = targets[:160].at[120:].set(1e3)
    again, std_again = predict(fit(jax.random.key(0), nonsense, wrong, jnp.asarray(weight)), given)
    assert fit._cache_size() == 1
    np.testing.assert_allclose(again, mean, atol=2e-3)
    np.testing.assert_allclose(std_again, std, atol=2e-3)


def test_a_gaussian_process_is_its_formulas(graphs):
    _, given = graphs
    train, test = at(given, np.arange(40)), at(given, np.arange(40, 60))
    encode = predictors.path_counts((2, 3, 4), 3)
    process = predictors.gaussian_process([Block(encode, 1.0, False)], at(given, 0), lengths=[0.7, 2], noises=[0.1])
    y = np.random.default_rng(0).normal(size=40) * 3 + 90
    start = process.init(jax.random.key(0))
    state = quick(process.fit)(jax.random.key(1), start, train, jnp.asarray(y, jnp.float32), jnp.ones(40))
    mean, std = quick(process.predict)(state, test)
    a, b = (np.asarray(quick(jax.vmap(encode))(part), np.float64) for part in (train, test))
    between = lambda a, b: ((a[:, None] - b[None]) ** 2).sum(axis=2) / ((a[:, None] - a[None]) ** 2).sum(2).mean()  # noqa: E731
    inner = between(a, a)
    outer = between(a, b).T
    z = (y - y.mean()) / y.std()
    evidence = {}
    for length in (0.7, 2.0):
        kernel = 1 / (1 + inner / length) + 0.1 * np.eye(40)
        scale = z @ np.linalg.solve(kernel, z) / 40
        evidence[length] = stats.multivariate_normal(cov=scale * kernel).logpdf(z), scale, kernel
    length = max(evidence, key=lambda length: evidence[length][0])
    _, scale, kernel = evidence[length]
    assert float(state.length) == pytest.approx(length)
    assert float(state.scale) == pytest.approx(scale, rel=1e-3)
    across = 1 / (1 + outer / length)
    variance = scale * (1.1 - np.einsum("ij,ji->i", across, np.linalg.solve(kernel, across.T)))
    np.testing.assert_allclose(mean, across @ np.linalg.solve(kernel, z) * y.std() + y.mean(), rtol=1e-4)
    np.testing.assert_allclose(std, np.sqrt(variance) * y.std(), rtol=1e-3)


def test_without_data_a_gaussian_process_knows_nothing(graphs):
    _, given = graphs
    process = make("process", at(given, 0))
    mean, std = quick(lambda key, graphs: process.predict(process.init(key), graphs))(
        jax.random.key(0), at(given, np.arange(5))
    )
    assert np.asarray(mean).tolist() == [0] * 5
    assert np.unique(np.asarray(std)).size == 1


def test_an_ensemble_is_its_members(graphs):
    _, given = graphs
    one = predictors.regression(predictors.mlp(STATISTICS, at(given, 0), (8,)), optax.adam(1e-2), epochs=3)
    many = predictors.ensemble(one, 3)
    targets = jnp.arange(10.0)
    start = quick(many.init)(jax.random.key(0))
    state = quick(many.fit)(jax.random.key(1), start, at(given, np.arange(10)), targets, jnp.ones(10))
    predict = quick(one.predict)
    alone = [predict(jax.tree.map(lambda leaf, i=i: leaf[i], state), given)[0] for i in range(3)]
    mean, std = quick(many.predict)(state, given)
    np.testing.assert_allclose(mean, np.mean(alone, axis=0), rtol=1e-4)
    np.testing.assert_allclose(std, np.std(alone, axis=0), rtol=1e-2, atol=1e-4)
    assert np.asarray(std).min() > 0


def test_batches(graphs):
    """One batch of all data is a step on all data. Smaller ones are steps of the schedule, and see every datum."""
    _, given = graphs
    network, rates = predictors.mlp(STATISTICS, at(given, 0), (8,)), []

    def optimizer(steps):
        rates.append(steps)
        return optax.sgd(0.1)

    def params(data, **settings):
        predictor = predictors.regression(network, optimizer, epochs=3, **settings)
        state = quick(predictor.init)(jax.random.key(0))
        return quick(predictor.fit)(jax.random.key(1), state, at(given, np.arange(10)), data, jnp.ones(10)).params

    targets = jnp.arange(10.0)
    all_at_once = params(targets)
    chex.assert_trees_all_equal(all_at_once, params(targets, batch=10), params(targets, batch=7))
    in_parts = params(targets, batch=3)
    params(targets, batch=3, least_steps=10)
    assert rates == [3, 3, 3, 9, 12]
    assert optax.tree.norm(optax.tree.sub(in_parts, all_at_once)) > 1e-3


@pytest.mark.parametrize(("batch", "most"), [(5, 4), (3, 8)])
def test_each_datum_is_seen_once_an_epoch_but_for_those_that_fill_a_batch(batch, most):
    """A parameter for each datum, whose gradient is one wherever it is seen. 3 of 10 is 3 batches of 4."""
    given = quick(jax.vmap(predictors.unconnected))(jnp.arange(10)[:, None])
    network = predictors.Regressor(
        at(given, 0), 0, lambda graph: jnp.zeros(0), lambda key: jnp.zeros(10),
        lambda params, graph, encoded: params[graph.ops[0, 0]],
    )  # fmt: skip

    def counting(predictions, targets, weight):
        return -predictions.sum()

    predictor = predictors.regression(network, optax.sgd(1.0), epochs=4, batch=batch, loss=counting)
    state = quick(predictor.init)(jax.random.key(0))
    seen = quick(predictor.fit)(jax.random.key(1), state, given, jnp.arange(10.0), jnp.ones(10)).params
    assert seen.sum() == 4 * (10 if batch == 5 else 12)
    assert seen.min() >= 4
    assert seen.max() <= most


def test_signals_are_seen(graphs):
    """What the graph does not say is learned from a signal alone."""
    _, given = graphs
    hidden = jax.random.normal(jax.random.key(3), (400, 1))
    told = given._replace(signals=hidden)
    network = predictors.gnn(len(VOCABULARY), at(told, 0), width=4, rounds=1, encode=predictors.signals)
    predictor = predictors.regression(network, optax.adam(2e-2), epochs=100)
    fit = quick(lambda key, *data: predictor.fit(key, predictor.init(jax.random.fold_in(key, 1)), *data))
    state = fit(jax.random.key(0), at(told, np.arange(200)), hidden[:200, 0], jnp.ones(200))
    mean, _ = quick(predictor.predict)(state, told)
    assert stats.kendalltau(mean[200:], hidden[200:, 0]).statistic > 0.7


def test_a_graph_network_takes_cells_of_two_kinds():
    space = darts_space()
    form = predictors.functional_form(graph_operations())
    given = quick(jax.vmap(lambda key: form(space.graph(space.sample(key)))))(jax.random.split(jax.random.key(0), 6))
    network = predictors.gnn(len(graph_operations()), at(given, 0), width=8, rounds=1)
    params = quick(network.init)(jax.random.key(1))
    value = quick(jax.vmap(lambda graph: network.apply(params, graph, jnp.zeros(0))))
    assert np.unique(np.asarray(value(given))).size == 6
    swapped = jax.tree.map(lambda leaf: leaf[:, ::-1], given)
    assert (np.abs(value(swapped) - value(given)) > 1e-5).all()  # normal and reduction cells are not the same to it
    counts = quick(jax.vmap(predictors.path_statistics([(4, 5, 6, 7)])))(given)
    assert counts.shape == (6, 2 * 4)


def test_the_order_of_nodes_is_no_matter(space):
    """The same cell in another topological order of its line graph."""
    graph = space.graph(jnp.asarray([2, 3, 0, 4, 1, 2], jnp.int32))
    order = np.array([0, 2, 1, 3, 4, 6, 5, 7])
    moved = Graph(graph.adjacency[:, order][:, :, order], graph.ops[:, order], graph.mask[:, order])
    assert np.triu(np.asarray(moved.adjacency[0]), 1).sum() == np.asarray(graph.adjacency).sum()
    network = predictors.gnn(len(VOCABULARY), graph, width=8)
    params = quick(network.init)(jax.random.key(0))
    apply = quick(network.apply)
    values = [float(apply(params, each, jnp.zeros(0))) for each in (graph, moved)]
    assert values[0] == pytest.approx(values[1], abs=1e-5)


EXAMPLE = jax.eval_shape(nasbench201_space().graph, jax.ShapeDtypeStruct((6,), jnp.int32))
MLP = predictors.mlp(STATISTICS, EXAMPLE)
WRONG = {
    "no such operation": (lambda: predictors.functional_form(VOCABULARY, ("skip",)), "'skip'"),
    "no source": (lambda: predictors.functional_form(("a", "output")), "'input'"),
    "no operations": (lambda: predictors.path_counts((), 2), "operations"),
    "an empty group": (lambda: predictors.path_statistics([(2,), ()]), "none empty"),
    "no signals": (lambda: predictors.mlp(predictors.signals, EXAMPLE), "signals="),
    "no unit": (lambda: predictors.mlp(STATISTICS, EXAMPLE, (8, 0)), "[8, 0]"),
    "no vector": (lambda: predictors.mlp(lambda graph: graph.adjacency, EXAMPLE), "vector"),
    "no epochs": (lambda: predictors.regression(MLP, optax.sgd(1.0), epochs=0), "epochs"),
    "an empty batch": (lambda: predictors.regression(MLP, optax.sgd(1.0), epochs=1, batch=0), "batch"),
    "no steps": (lambda: predictors.regression(MLP, optax.sgd(1.0), epochs=1, least_steps=0), "least_steps"),
    "no rounds": (lambda: predictors.gnn(7, EXAMPLE, rounds=0), "rounds"),
    "one member": (lambda: predictors.ensemble(predictors.regression(MLP, optax.sgd(1.0), epochs=1), 1), "got 1"),
    "nothing to average": (lambda: predictors.average(), "at least one"),
    "no block": (lambda: predictors.gaussian_process([], EXAMPLE), "block"),
    "no noise": (lambda: predictors.gaussian_process([Block(STATISTICS)], EXAMPLE, noises=[0.0]), "noises"),
    "no margin": (lambda: predictors.pairwise_hinge(0.0), "margin"),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_wrong_settings_name_the_value(case):
    build, expected = WRONG[case]
    with pytest.raises(ValueError, match=re.escape(expected)):
        build()


def test_cells_are_of_one_class_where_they_compute_the_same_and_apart_where_one_operation_is_used_twice():
    space, cells = nasbench201_space(), ALL
    classes, terms = predictors.function_classes(space, cells), functional_classes(cells)
    pairs = np.unique(np.stack([classes, terms]), axis=1)
    assert pairs.shape[1] == len(np.unique(classes))  # each lies within a class of equal terms
    assert len(np.unique(terms)) < pairs.shape[1] < 1.01 * len(np.unique(terms))
    once, twice = (
        "|none~0|+|skip_connect~0|none~1|+|nor_conv_1x1~0|none~1|nor_conv_1x1~2|",
        "|nor_conv_1x1~0|+|none~0|skip_connect~1|+|none~0|skip_connect~1|skip_connect~2|",
    )
    both = np.stack([space.from_genotype(cell) for cell in (once, twice)])
    assert predictors.function_classes(space, both).tolist() == [0, 1]
    assert functional_classes(both).tolist() == [0, 0]


def test_where_nodes_are_concatenated_it_counts_which_operations_share_one():
    space = darts_space()
    rows = "('sep_conv_3x3', 0), ('sep_conv_5x5', 1), ('skip_connect', 0), ('skip_connect', 1)"
    nodes = "range(2, 6)"
    cells = [
        f"Genotype(normal=[{rows}, {pairs}], normal_concat={nodes}, reduce=[{rows}, {rows}], reduce_concat={nodes})"
        for pairs in (
            "('sep_conv_3x3', 0), ('sep_conv_5x5', 1), ('dil_conv_3x3', 0), ('dil_conv_5x5', 1)",
            "('sep_conv_3x3', 0), ('dil_conv_5x5', 1), ('dil_conv_3x3', 0), ('sep_conv_5x5', 1)",
        )
    ]
    archs = np.stack([space.from_genotype(read_genotype(cell)) for cell in [*cells, cells[0]]])
    assert predictors.function_classes(space, archs).tolist() == [0, 1, 0]


def test_places_in_levels_change_nothing_of_the_graph_network():
    """Places that are never joined are updated together: the network is the same, with other places left out too."""
    space = darts_space(2)
    vocabulary, form = space.vocabulary, predictors.functional_form(space.vocabulary, ("skip_connect",))
    archs = jax.vmap(space.sample)(jax.random.split(jax.random.key(0), 32))
    raw = jax.vmap(space.graph)(archs)
    graphs = jax.vmap(form)(raw)
    levels = predictors.levels_of(np.asarray(raw.adjacency.sum((0, 1))), np.asarray(graphs.mask.any((0, 1))))
    assert len(levels) < len(graphs.ops[0, 0]) - 2
    for earlier, later in itertools.combinations(range(len(levels)), 2):
        assert not np.asarray(raw.adjacency)[:, :, levels[later]][..., levels[earlier]].any()
    one = jax.tree.map(lambda leaf: leaf[0], graphs)
    plain = predictors.gnn(len(vocabulary), one, width=4, hidden=4)
    short = predictors.gnn(len(vocabulary), one, width=4, hidden=4, levels=levels)
    params = plain.init(jax.random.key(1))
    nothing = jnp.zeros((32, 0))
    found = [jax.jit(jax.vmap(each.apply, (None, 0, 0)))(params, graphs, nothing) for each in (plain, short)]
    np.testing.assert_allclose(found[1], found[0], rtol=2e-5, atol=1e-6)
    assert np.std(found[0]) > 1e-3
    with pytest.raises(ValueError, match="levels hold places of 0 to"):
        predictors.gnn(len(vocabulary), one, levels=levels[:-1])


def test_the_masked_maximum_and_its_gradient():
    values = jax.random.uniform(jax.random.key(0), (2, 5, 3))
    mask = jax.random.bernoulli(jax.random.key(1), 0.5, (2, 4, 5))

    def plain(values):
        return jnp.max(jnp.where(mask[..., None], values[:, None], 0.0), axis=2)

    np.testing.assert_array_equal(masked_max(values, mask), plain(values))
    weights = jax.random.normal(jax.random.key(2), (2, 4, 3))
    ours, theirs = (
        jax.grad(lambda v, f=f: (f(v) * weights).sum())(values) for f in (lambda v: masked_max(v, mask), plain)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
