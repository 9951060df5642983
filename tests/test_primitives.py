"""Every primitive, and one written as a user would, in every form of an edge: values, gradients, a whole supernet."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.base import Skeleton
from jaxnas.ops import costs, layers
from jaxnas.ops.primitives import PRIMITIVES, Primitive
from jaxnas.spaces import darts_cost_table, darts_space
from jaxnas.supernets import darts_supernet
from jaxnas.supernets import edges as mixed
from jaxnas.testing import check_space, check_supernet

EDGES = [(0, 1), (0, 2), (1, 2)]  # of node 0, which is given, and two more
CHANNELS = 3


def excite_init(key, channels, stride, affine):
    first, second = jax.random.split(key)
    return {
        "squeeze": layers.dense_init(first, channels, channels),
        "excite": layers.dense_init(second, channels, channels),
    }


def excite_apply(params, x, stride=1, stats=None, axis_name=None):
    """Squeeze and excitation (Hu et al. 2018), by the library's own dense layers."""
    x = x[:, ::stride, ::stride]
    squeezed = jax.nn.relu(layers.dense(jnp.mean(x, (1, 2)), params["squeeze"]))
    return x * jax.nn.sigmoid(layers.dense(squeezed, params["excite"]))[:, None, None], ()


def excite_cost(channels, stride, size):
    """Its multiplications do not grow with the image."""
    return costs.linear(channels, channels) + costs.linear(channels, channels)


EXCITE = Primitive(excite_init, excite_apply, lambda stride: 0)
OPERATIONS = {**PRIMITIVES, "excite": EXCITE}
NONE = list(OPERATIONS).index("none")


def quick(function):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def cell(form, edge, selection, stats, wanted, params, weights, x):
    """A loss of the last node of a small cell."""
    nodes = jnp.concatenate([x[None], jnp.zeros((2, *x.shape))])
    chosen = weights if selection is None else selection
    nodes, _ = mixed.run_edges(form, edge, None, nodes, EDGES, params, chosen, stats, wanted)
    return jnp.sum(jnp.square(nodes[2]) * jnp.cos(jnp.arange(x.size)).reshape(x.shape))


@pytest.fixture(scope="module")
def given():
    """(params, weights, x) and what plain sums over edges and operations give: (loss, gradients)."""
    primitives = tuple(OPERATIONS.values())
    params = jax.vmap(lambda key: mixed.edge_init(primitives, key, CHANNELS, 1))(jax.random.split(jax.random.key(0), 3))
    weights = jax.nn.softmax(jax.random.normal(jax.random.key(1), (3, len(primitives))))
    x = jax.random.normal(jax.random.key(2), (4, 5, 4, CHANNELS))

    def plain(params, weights, x):
        nodes = [x, 0.0, 0.0]
        for e, (source, target) in enumerate(EDGES):
            for o, primitive in enumerate(primitives):
                own = jax.tree.map(lambda leaf, e=e: leaf[e], params[o])
                nodes[target] += weights[e, o] * primitive.apply(own, nodes[source])[0]
        return jnp.sum(jnp.square(nodes[2]) * jnp.cos(jnp.arange(x.size)).reshape(x.shape))

    return (params, weights, x), quick(jax.value_and_grad(plain, (0, 1, 2)))(params, weights, x)


def close(found, expected):
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-3 * (np.abs(theirs).max() + 1e-3))


@pytest.mark.parametrize("form", ["scan", "batch"])
def test_a_mixture_of_all_has_the_gradients_of_plain_sums(given, form):
    arguments, (value, (to_params, to_weights, to_x)) = given
    edge = mixed.mixed_edge(tuple(OPERATIONS.values()), NONE, 1, None)
    # "none" has weight to lose, but its gradient is left out: it is zero in the sum as well.
    for wanted in (None, jnp.array(True)):
        run = functools.partial(cell, form, edge, None, ())
        found = quick(jax.value_and_grad(lambda p, w, x, run=run, wanted=wanted: run(wanted, p, w, x), (0, 1, 2)))(
            *arguments
        )
        close(found, (value, (to_params, to_weights, to_x)))


def test_a_gradient_that_is_not_wanted_may_be_left_out_where_a_primitive_asks_for_that_alone(given):
    """Of the library's kernels it is; a primitive that asks for nothing gets arrays and has its gradient."""
    arguments, (value, (to_params, to_weights, to_x)) = given
    edge = mixed.mixed_edge(tuple(OPERATIONS.values()), NONE, 1, None)
    run = functools.partial(cell, "scan", edge, None, (), jnp.array(False))
    found, (params, weights, x) = quick(jax.value_and_grad(run, (0, 1, 2)))(*arguments)
    close((found, weights, x), (value, to_weights, to_x))
    for name, ours, theirs in zip(OPERATIONS, params, to_params, strict=True):
        for leaf, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(leaf, expected * (not OPERATIONS[name].selective), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("form", ["scan", "batch"])
@pytest.mark.parametrize("wanted", [None, True])
def test_a_path_of_each_has_the_gradients_of_its_one_hot_mixture(given, form, wanted):
    (params, _, x), _ = given
    primitives = tuple(OPERATIONS.values())
    mixture, path = mixed.mixed_edge(primitives, NONE, 1, None), mixed.path_edge(primitives, 1, None, given=False)
    stats = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), mixed.edge_stats(primitives, CHANNELS, 1))
    wanted = None if wanted is None else jnp.array(wanted)

    def of_path(params, operations, x):
        return cell(form, path, operations, stats, wanted, params, None, x)

    def of_mixture(params, operations, x):
        return cell("scan", mixture, None, (), None, params, jax.nn.one_hot(operations, len(primitives)), x)

    by_path, by_mixture = (quick(jax.value_and_grad(f, (0, 2))) for f in (of_path, of_mixture))
    for first in range(0, len(primitives), 3):
        operations = jnp.arange(first, first + 3) % len(primitives)
        close(by_path(params, operations, x), by_mixture(params, operations, x))


@pytest.mark.parametrize("form", ["scan", "batch"])
def test_a_primitive_of_ones_own_is_an_entry_and_its_cost(monkeypatch, form):
    monkeypatch.setitem(PRIMITIVES, "excite", EXCITE)
    monkeypatch.setitem(costs.PRIMITIVE_COSTS, "excite", excite_cost)
    names, skeleton = ("none", "skip_connect", "excite"), Skeleton(4, 3, (6, 6, 2), 3)
    space = darts_space(1, names)
    if form == "scan":
        check_space(space, (skeleton,))
        table = darts_cost_table(skeleton, 1, names)
        # 20 parameters and multiply-adds for 4 channels in each dense layer, in the one normal cell.
        assert table.params["normal"][0, 2] == table.macs["normal"][0, 2] == 2 * 20
    check_supernet(space, darts_supernet(skeleton, 1, names, form=form))
