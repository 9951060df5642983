"""Every primitive, and one written as a user would, in every form of an edge: values, gradients, a whole supernet."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.base import Context, Skeleton
from jaxnas.kernels.platform import supposing
from jaxnas.ops import costs, layers
from jaxnas.ops.chain import BLOCKS
from jaxnas.ops.macro import MACRO_PRIMITIVES
from jaxnas.ops.primitives import PRIMITIVES, Case, Primitive, skip_connect
from jaxnas.spaces import darts_cost_table, darts_space, nasbench201_space
from jaxnas.supernets import chain_supernet, darts_supernet, enas_macro_supernet, nasbench201_supernet
from jaxnas.supernets.executors import Edges, Layout, edges_init, executor
from jaxnas.testing import check_space, check_supernet

CELL = Layout(inputs=1, nodes=2, ends=((0, 0), (0, 1), (1, 1)))
CHANNELS = 3


def excite_init(key, channels, stride, affine):
    first, second = jax.random.split(key)
    return {
        "squeeze": layers.dense_init(first, channels, channels),
        "excite": layers.dense_init(second, channels, channels),
    }


def excite_apply(params, x, stride, context):
    """Squeeze and excitation (Hu et al. 2018), by the library's own dense layers."""
    x = x[:, ::stride, ::stride]
    squeezed = jax.nn.relu(layers.dense(jnp.mean(x, (1, 2)), params["squeeze"]))
    return x * jax.nn.sigmoid(layers.dense(squeezed, params["excite"]))[:, None, None], ()


def excite_cost(channels, stride, size):
    """Its multiplications do not grow with the image."""
    return costs.linear(channels, channels) + costs.linear(channels, channels)


def dropout_apply(params, x, stride, context):
    """A skip connection that loses half of its entries where there is a key to draw from."""
    y, seen = skip_connect().apply(params, x, stride, context)
    if context.key is None:
        return y, seen
    return jnp.where(jax.random.bernoulli(context.key, 0.5, y.shape), 2 * y, 0), seen


EXCITE = Primitive("excite", excite_init, excite_apply, excite_cost)
DROPOUT = skip_connect()._replace(
    name="dropout", apply=dropout_apply, scaled=Primitive._field_defaults["scaled"], random=True
)
OPERATIONS = (*PRIMITIVES.values(), EXCITE)


def quick(function):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def told(node):
    """A loss to which each entry counts otherwise."""
    return jnp.sum(jnp.square(node) * jnp.cos(jnp.arange(node.size)).reshape(node.shape))


def mixture(form, primitives, params, weights, x, context):
    return executor(form, primitives).mixture(CELL, {"plain": params}, weights, x[None], context)[-1]


@pytest.fixture(scope="module")
def given():
    """(params, weights, x) and the loss of plain sums over edges and operations, with its gradients."""
    params = edges_init(OPERATIONS, CELL, jax.random.key(0), CHANNELS, (), affine=False)["plain"]
    weights = jax.nn.softmax(jax.random.normal(jax.random.key(1), (3, len(OPERATIONS))))
    x = jax.random.normal(jax.random.key(2), (4, 5, 4, CHANNELS))

    def plain(params, weights, x):
        nodes = [x, 0.0, 0.0]
        for e, (source, node) in enumerate(CELL.ends):
            for o, primitive in enumerate(OPERATIONS):
                own = jax.tree.map(lambda leaf, e=e: leaf[e], params[o])
                nodes[1 + node] += weights[e, o] * primitive.apply(own, nodes[source], 1, Context())[0]
        return told(nodes[2])

    return (params, weights, x), quick(jax.value_and_grad(plain, (0, 1, 2)))


def close(found, expected):
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-3 * (np.abs(theirs).max() + 1e-3))


@pytest.mark.parametrize("form", ["scan", "staged"])
def test_a_mixture_of_all_has_the_gradients_of_plain_sums(given, form):
    """Where gradients of kernels are not wanted, a CPU leaves them out: of all operations but the one of one's own."""
    arguments, plain = given
    value, (to_params, to_weights, to_x) = plain(*arguments)

    def loss(params, weights, x, wanted):
        return told(mixture(form, OPERATIONS, params, weights, x, Context(wanted=wanted)))

    gradients = quick(jax.value_and_grad(loss, (0, 1, 2)))
    close(gradients(*arguments, jnp.array(True)), (value, (to_params, to_weights, to_x)))
    if form == "scan":
        found, (params, weights, x) = gradients(*arguments, jnp.array(False))
        close((found, weights, x), (value, to_weights, to_x))
        close(params[-1], to_params[-1])
        assert not any(leaf.any() for leaf in jax.tree.leaves(params[:-1]))
        assert all(leaf.any() for leaf in jax.tree.leaves(to_params))


@pytest.mark.parametrize("form", ["scan", "staged"])
def test_a_path_of_each_has_the_gradients_of_its_one_hot_mixture(given, form):
    (params, _, x), plain = given
    sources, nodes = zip(*CELL.ends, strict=True)

    def loss(params, operations, x, wanted):
        edges = Edges(jnp.arange(3), jnp.array(sources), operations, nodes)
        return told(
            executor(form, OPERATIONS).path(CELL, edges, {"plain": params}, x[None], Context(wanted=wanted))[0][-1]
        )

    gradients = quick(jax.value_and_grad(loss, (0, 2)))
    for first in range(0, len(OPERATIONS), 3):
        operations = jnp.arange(first, first + 3) % len(OPERATIONS)
        value, (to_params, _, to_x) = plain(params, jax.nn.one_hot(operations, len(OPERATIONS)), x)
        close(gradients(params, operations, x, jnp.array(True)), (value, (to_params, to_x)))


@pytest.mark.parametrize("form", ["scan", "staged"])
def test_a_random_primitive_draws_in_a_mixture_where_there_is_a_key(form):
    primitives = (PRIMITIVES["nor_conv_1x1"], DROPOUT)
    params = edges_init(primitives, CELL, jax.random.key(0), CHANNELS, (), affine=False)["plain"]
    weights, x = jnp.array([[0.0, 1.0], [0.0, 0.0], [0.5, 0.0]]), jnp.ones((2, 8, 8, CHANNELS))

    def run(primitives, key):
        """Node 0: dropout of ones alone."""
        nodes = executor(form, primitives).mixture(CELL, {"plain": params}, weights, x[None], Context(key=key))
        return nodes[0]

    np.testing.assert_array_equal(run(primitives, None), x)
    one, other, again = (run(primitives, jax.random.key(seed)) for seed in (1, 2, 1))
    assert set(np.unique(one)) == {0.0, 2.0}
    assert 0.3 < float((one > 0).mean()) < 0.7
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    for others, draws in ((primitives, True), ((primitives[0], PRIMITIVES["skip_connect"]), False)):
        assert ("random_bits" in str(jax.make_jaxpr(functools.partial(run, others))(jax.random.key(1)))) == draws


def test_every_edge_draws_for_itself_and_a_gradient_goes_where_the_value_came_from():
    """The scan computes an edge again on its way back: with the same draw."""
    primitives, x = (PRIMITIVES["none"], DROPOUT), jnp.ones((1, 4, 4, 2))
    params, weights = [{}, {}], jnp.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    for form in ("scan", "staged"):

        def nodes(x, form=form):
            context = Context(key=jax.random.key(3))
            return executor(form, primitives).mixture(CELL, {"plain": params}, weights, x[None], context)

        first, second = nodes(x)
        assert (first != second).any()
        np.testing.assert_array_equal(jax.grad(lambda x, nodes=nodes: nodes(x)[0].sum())(x), first)


SEVEN = ("none", "skip_connect", "avg_pool_3x3", "max_pool_3x3", "nor_conv_1x1", EXCITE, DROPOUT)


@pytest.mark.parametrize("form", ["scan", "staged"])
def test_operations_of_ones_own_in_nasbench201(form):
    skeleton = Skeleton(2, 1, (4, 4, 2), 2)
    supernet = nasbench201_supernet(skeleton, SEVEN, form=form)
    if form == "scan":
        check_space(supernet.space, (skeleton,))
    check_supernet(nasbench201_space(SEVEN), supernet)


@pytest.mark.parametrize("form", ["scan", "staged"])
def test_a_darts_space_without_none(form):
    operations, skeleton = ("skip_connect", EXCITE), Skeleton(4, 3, (6, 6, 2), 3)
    space = darts_space(1, operations)
    if form == "scan":
        check_space(space, (skeleton,))
        table = darts_cost_table(skeleton, 1, operations)
        # 20 parameters and multiply-adds for 4 channels in each dense layer, in the one normal cell.
        assert table.params["normal"][0, 1] == table.macs["normal"][0, 1] == 2 * 20
    check_supernet(space, darts_supernet(skeleton, 1, operations, form=form))


@pytest.mark.parametrize(("table", "stride"), [(BLOCKS, 1), (BLOCKS, 2), (MACRO_PRIMITIVES, 1)])
def test_a_larger_operation_computes_each_of_its_cases(table, stride):
    """Outputs and statistics by the batch, in the channels that the case has."""
    primitives = [primitive for primitive in table.values() if isinstance(primitive.family, Case)]
    cases = [primitive.family.case for primitive in primitives]
    whole = primitives[0].family.largest(tuple(cases))
    x = jax.random.normal(jax.random.key(0), (3, 5, 4, 4))
    params = quick(lambda keys: [p.init(k, 4, stride, False) for p, k in zip(primitives, keys, strict=True)])(
        jax.random.split(jax.random.key(1), len(primitives))
    )
    alone = quick(
        lambda params: [p.apply(own, x, stride, Context()) for p, own in zip(primitives, params, strict=True)]
    )
    computed = quick(lambda embedded: whole.apply(embedded, x, stride, Context()))
    for case, own, (expected, told) in zip(cases, params, alone(params), strict=True):
        y, seen = computed(whole.embed(case, own, 4, stride))
        np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-4)
        mine = [[leaf[: len(told[n][0])] for leaf in seen[at]] for n, at in enumerate(whole.norms(case, 4, stride))]
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), mine, list(map(list, told)))
        assert tuple(len(mean) for mean, _ in seen) == whole.widths(4, stride)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: chain_supernet(Skeleton(2, 3, (4, 4, 2), 2), (3,), (DROPOUT, "identity")),
        lambda: enas_macro_supernet(Skeleton(2, 3, (4, 4, 2), 2), (DROPOUT, PRIMITIVES["skip_connect"])),
    ],
)
def test_a_random_operation_of_a_layer_draws_what_it_draws_in_the_network(make, platform):
    with supposing(platform):
        net = make()
        arch = jnp.zeros(len(net.space.choices), jnp.int32)
        params, x = quick(net.init)(jax.random.key(0)), jax.random.normal(jax.random.key(1), (2, 4, 4, 2))
        network, own = net.network(arch), net.extract(params, arch)
        path = quick(lambda key: net.apply_path(params, arch, x, Context(key=key))[0])
        derived = quick(lambda key: network.apply(own, x, Context(key=key))[0])
        one, other = path(jax.random.key(2)), path(jax.random.key(3))
        np.testing.assert_allclose(one, derived(jax.random.key(2)), rtol=1e-3, atol=1e-4)
        assert np.abs(one - other).max() > 1e-3
        mixture = quick(lambda key: net.apply(params, net.space.one_hot(arch), x, Context(key=key))[0])
        assert np.abs(mixture(jax.random.key(2)) - mixture(jax.random.key(3))).max() > 1e-3
