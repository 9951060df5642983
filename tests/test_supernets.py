"""The laws of supernets, for every space: mixture, path and derived network compute one function."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.base import Context, Skeleton
from jaxnas.kernels.platform import supposing
from jaxnas.ops import costs
from jaxnas.ops.primitives import Primitive
from jaxnas.spaces import (
    DARTS_OPERATIONS,
    chain_space,
    darts_space,
    enas_macro_space,
    enas_micro_space,
    nasbench201_space,
)
from jaxnas.supernets import (
    chain_supernet,
    darts_supernet,
    enas_macro_supernet,
    enas_micro_supernet,
    nasbench201_supernet,
)
from jaxnas.testing import check_supernet

MICRO = ("skip_connect", "max_pool_3x3", "dil_conv_3x3")
FEW = ("none", "skip_connect", "max_pool_3x3", "nor_conv_1x1")


def gain_apply(params, x, stride, context):
    return jnp.concatenate([x[:, ::stride, ::stride]] * stride, -1) * params["gain"][None, None, None], ()


GAIN = Primitive(
    "gain",
    lambda key, channels, stride, affine: {"gain": jax.random.normal(key, (stride * channels,))},
    gain_apply,
    lambda channels, stride, size: costs.Cost(params=stride * channels),
)
"""An operation of one's own, which multiplies the channels by its stride, as blocks do."""
BLOCKS = ("mbconv3_3x3", "identity", GAIN, "shuffle_5x5")
MACRO_OPERATIONS = ("sep_conv_3x3", GAIN, "max_pool_3x3", "conv_5x5")
MACRO = Skeleton(channels=4, cells=4, image_shape=(6, 6, 2), num_classes=3)
DARTS = Skeleton(channels=4, cells=3, image_shape=(6, 6, 2), num_classes=3)
NB201 = Skeleton(channels=4, cells=2, image_shape=(6, 6, 2), num_classes=3)
SPACES = {
    "darts": (darts_space(2, FEW), functools.partial(darts_supernet, DARTS, 2, FEW)),
    "enas_micro": (enas_micro_space(2, MICRO), functools.partial(enas_micro_supernet, DARTS, 2, MICRO)),
    "enas_macro": (
        enas_macro_space(4, MACRO_OPERATIONS),
        lambda form: enas_macro_supernet(MACRO, MACRO_OPERATIONS),  # of one form
    ),
    "nasbench201": (nasbench201_space(FEW), functools.partial(nasbench201_supernet, NB201, FEW)),
    "chain": (chain_space((2, 2), BLOCKS), lambda form: chain_supernet(MACRO, (2, 2), BLOCKS)),  # of one form
}
X = jax.random.normal(jax.random.key(1), (64, 6, 6, 2))


@pytest.fixture(scope="module", params=sorted(SPACES))
def built(request):
    """(space, how its supernet is made, parameters, architectures, what its path computes in the form `scan`)."""
    space, make = SPACES[request.param]
    net = make(form="scan")
    params = jax.jit(net.init)(jax.random.key(0))
    archs = jax.vmap(space.sample)(jax.random.split(jax.random.key(2)))
    return space, make, params, archs, paths(net, params, archs)


def quick(function):
    """Compiled without much optimization, which tests would wait for."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def paths(net, params, archs, statistics=None):
    """Of each path what it computes by the batch, and of some of the batch by what statistics it told, or others."""
    by_batch = quick(lambda arch: net.apply_path(params, arch, X, Context()))
    given = quick(lambda arch, stats: net.apply_path(params, arch, X[:8], Context(stats)))
    whole = [by_batch(arch) for arch in archs]
    statistics = [aux.stats for _, aux in whole] if statistics is None else statistics
    return [(*each, *given(arch, stats)) for arch, each, stats in zip(archs, whole, statistics, strict=True)]


def test_the_laws(built):
    space, make, *_ = built
    check_supernet(space, make(form="scan"))


def close(ours, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3 * (np.abs(b).max() + 1e-3)), ours, expected
    )


def test_a_path_tells_and_takes_the_same_statistics_on_a_gpu(built):
    """Values and gradients by the batch are those of the loops, in test_reference.py."""
    _, make, params, archs, expected = built
    with supposing("gpu"):
        close(paths(make(form=None), params, archs, [aux.stats for _, aux, *_ in expected]), expected)


def test_a_path_has_no_branch_on_a_gpu(built):
    """Its host would wait for the number of one."""
    space, make, params, *_ = built

    def gradient(net):
        loss = lambda params, arch: jnp.sum(net.apply_path(params, arch, X[:2], Context())[0])  # noqa: E731
        return str(jax.make_jaxpr(jax.grad(loss))(params, jnp.zeros(len(space.choices), jnp.int32)))

    assert " cond[" in gradient(make(form="scan"))
    with supposing("gpu"):
        assert " cond[" not in gradient(make(form=None))


def test_given_statistics_reproduce_the_batch(built):
    """Normalizing by the statistics that a large batch showed gives nearly its output again, for any part of it."""
    *_, expected = built
    for logits, aux, again, seen in expected:
        close(seen.stats, aux.stats)
        # Reported unbiased, and the batch is normalized by biased ones: one part in 200 at least for each batch norm.
        np.testing.assert_allclose(again, logits[:8], atol=0.1 * float(np.abs(logits).max()))


def test_recomputing_edges_changes_nothing():
    skeleton = Skeleton(channels=2, cells=1, image_shape=(4, 4, 2), num_classes=3)
    nets = [nasbench201_supernet(skeleton, FEW, form="staged", remat=remat) for remat in (False, True)]
    params, x = quick(nets[0].init)(jax.random.key(0)), X[:4, :4, :4]
    weights = jax.nn.softmax(jax.random.normal(jax.random.key(3), (6, len(FEW))))

    def loss(net, weights):
        return jnp.sum(jnp.square(net.apply(params, {"cell": weights}, x, Context())[0]))

    one, other = (quick(jax.grad(functools.partial(loss, net)))(weights) for net in nets)
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_a_mixture_refuses_statistics(built):
    space, make, params, *_ = built
    with pytest.raises(ValueError, match="batch statistics"):
        make(form="scan").apply(params, space.template(), X, Context(bn=()))


def test_factories_refuse_what_they_cannot_build():
    with pytest.raises(ValueError, match="unknown operation 'sep_conv_9x9'"):
        darts_supernet(DARTS, 2, ("none", "sep_conv_9x9"))
    with pytest.raises(ValueError, match="auxiliary"):
        darts_supernet(Skeleton(4, 3, (8, 8, 1), 3, auxiliary=True))
    with pytest.raises(ValueError, match="form must be"):
        nasbench201_supernet(NB201, form="fast")
    with pytest.raises(ValueError, match="leave out remat"):
        darts_supernet(DARTS, form="scan", remat=True)
    assert len(DARTS_OPERATIONS) == 8
