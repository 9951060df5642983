"""The laws of supernets, for every space: mixture, path and derived network compute one function."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.base import Context, Skeleton
from jaxnas.kernels.platform import supposing
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

OPERATIONS = ("none", "skip_connect", "max_pool_3x3", "dil_conv_3x3")
FEW = ("none", "skip_connect", "max_pool_3x3", "nor_conv_1x1")
BLOCKS = ("mbconv3_3x3", "identity", "shuffle_5x5")
MACRO = Skeleton(channels=4, cells=4, image_shape=(6, 6, 2), num_classes=3)
DARTS = Skeleton(channels=4, cells=3, image_shape=(6, 6, 2), num_classes=3)
LOOPS = Skeleton(channels=4, cells=7, image_shape=(6, 6, 2), num_classes=3)  # normal ones: 2, and 1 and 2 after others
NB201 = Skeleton(channels=4, cells=2, image_shape=(6, 6, 2), num_classes=3)
SPACES = {
    "darts": (darts_space(2, FEW), functools.partial(darts_supernet, LOOPS, 2, FEW)),
    "enas_micro": (
        enas_micro_space(2, OPERATIONS[1:]),
        functools.partial(enas_micro_supernet, DARTS, 2, OPERATIONS[1:]),
    ),
    "enas_macro": (enas_macro_space(4), lambda form: enas_macro_supernet(MACRO)),  # of one form
    "nasbench201": (nasbench201_space(), functools.partial(nasbench201_supernet, NB201)),
    "chain": (chain_space((2, 2), BLOCKS), lambda form: chain_supernet(MACRO, (2, 2), BLOCKS)),  # of one form
}
X = jax.random.normal(jax.random.key(1), (4, 6, 6, 2))


@pytest.fixture(scope="module", params=sorted(SPACES))
def built(request):
    space, make = SPACES[request.param]
    net = make(form="scan")
    params = jax.jit(net.init)(jax.random.key(0))
    archs = jax.vmap(space.sample)(jax.random.split(jax.random.key(2)))
    return space, make, net, params, archs


def random_weights(space):
    template = space.template()
    keys = jax.random.split(jax.random.key(3), len(template))
    return {
        k: jax.nn.softmax(jax.random.normal(key, w.shape)) for key, (k, w) in zip(keys, template.items(), strict=True)
    }


def quick(function):
    """Compiled without much optimisation, which tests would wait for."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def test_the_laws(built):
    space, _, net, _, _ = built
    check_supernet(space, net)


def close(ours, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3 * (np.abs(b).max() + 1e-3)), ours, expected
    )


def test_a_path_is_the_same_on_a_gpu(built):
    """Output, gradients and statistics by the batch's own statistics; output by those of another batch."""
    _, make, net, params, archs = built

    def runs(net, statistics):
        def loss(params, arch):
            logits, aux = net.apply_path(params, arch, X, Context())
            return jnp.sum(jnp.square(logits)), (logits, aux.stats)

        by_batch = quick(jax.grad(loss, has_aux=True))
        given = quick(lambda arch, stats: net.apply_path(params, arch, X, Context(stats))[0])
        whole = [by_batch(params, arch) for arch in archs]
        return whole, [given(arch, seen) for arch, seen in zip(archs, statistics or stats_of(whole), strict=True)]

    def stats_of(whole):
        return [stats for _, (_, stats) in whole]

    expected = runs(net, None)
    with supposing("gpu"):
        close(runs(make(form=None), stats_of(expected[0])), expected)


def test_recomputing_edges_changes_nothing():
    space = nasbench201_space()
    skeleton = Skeleton(channels=2, cells=1, image_shape=(4, 4, 2), num_classes=3)
    nets = [nasbench201_supernet(skeleton, form="batch", remat=remat) for remat in (False, True)]
    params = quick(nets[0].init)(jax.random.key(0))
    x, weights = X[:, :4, :4], random_weights(space)["cell"]

    def loss(net, weights):
        return jnp.sum(jnp.square(net.apply(params, {"cell": weights}, x, Context())[0]))

    one, other = (quick(jax.grad(functools.partial(loss, net)))(weights) for net in nets)
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_given_statistics_reproduce_the_batch(built):
    """Normalising by the statistics that a large batch showed gives nearly its output again, for any part of it."""
    _, _, net, params, archs = built
    x = jax.random.normal(jax.random.key(7), (128, 6, 6, 2))
    logits, aux = quick(lambda a: net.apply_path(params, a, x, Context()))(archs[0])
    again, seen = quick(lambda a, s, x: net.apply_path(params, a, x, Context(bn=s)))(archs[0], aux.stats, x[:8])
    assert jax.tree.structure(seen.stats) == jax.tree.structure(aux.stats)
    # statistics are reported unbiased and the batch is normalised by biased ones: one part in 500 for each batch norm
    np.testing.assert_allclose(again, logits[:8], atol=0.05 * float(np.abs(logits).max()))


def test_a_mixture_refuses_statistics(built):
    space, _, net, params, _ = built
    with pytest.raises(ValueError, match="batch statistics"):
        net.apply(params, space.template(), X, Context(bn=()))


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
