"""Mixtures of one sampled operation a slot, and of partial channels; test_reference.py holds them to the loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from jaxnas import supernets
from jaxnas.base import Context, Skeleton, no_parameters
from jaxnas.supernets import darts_narrowing, darts_supernet, enas_micro_supernet, nasbench201_supernet
from jaxnas.supernets.executors.partial import passing_part, shuffled
from jaxnas.testing import check_supernet

SKELETON = Skeleton(channels=4, cells=1, image_shape=(5, 5, 2), num_classes=2)
FEW = ("none", "skip_connect", "avg_pool_3x3", "nor_conv_1x1")
X = jax.random.normal(jax.random.key(7), (4, 5, 5, 2))
FORMS = ("scan", "staged")
KINDS = ({"sampled": True}, {"partial": 2})


def quick(function):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def loss(net, params, weights):
    logits = net.apply(params, weights, X, Context())[0]
    return jnp.sum(jnp.sin(logits + jnp.arange(logits.size).reshape(logits.shape)))


def nearly(ours, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), ours, expected)


def mixed_weights(net):
    return {
        kind: jax.nn.softmax(2 * jax.random.normal(jax.random.key(len(rows)), rows.shape))
        for kind, rows in net.space.template().items()
    }


@pytest.mark.parametrize("form", FORMS)
def test_of_one_hot_weights_a_sampled_mixture_has_the_value_and_the_gradients_of_the_whole(form):
    """Those of GDAS, which have the gradient of a softmax; and that of a weight where it is taken alone."""
    sampled, whole = (nasbench201_supernet(SKELETON, FEW, form=form, sampled=s) for s in (True, False))
    params, arch = jax.jit(whole.init)(jax.random.key(0)), jnp.array([3, 1, 2, 3, 3, 1], jnp.int32)
    weights = whole.space.one_hot(arch)
    (value, (ours, own)), (expected, (theirs, other)) = (
        quick(jax.value_and_grad(functools.partial(loss, net), (0, 1)))(params, weights) for net in (sampled, whole)
    )
    nearly((value, ours), (expected, theirs))
    nearly(own["cell"], other["cell"] * weights["cell"])
    assert np.count_nonzero(other["cell"]) > np.count_nonzero(own["cell"]) > 0


def conditionals(jaxpr):
    """How many branches there are in a program, in whatever it calls."""
    count = 0
    for equation in jaxpr.eqns:
        count += equation.primitive.name == "cond"
        count += sum(conditionals(inner) for inner in jaxprs_in_params(equation.params))
    return count


@pytest.mark.parametrize("remat", [False, True])
def test_a_sampled_mixture_of_the_staged_form_has_no_branch(remat):
    def branches(**arguments):
        net = nasbench201_supernet(SKELETON, FEW, sampled=True, **arguments)
        params = jax.eval_shape(net.init, jax.random.key(0))
        gradient = jax.grad(functools.partial(loss, net), (0, 1))
        return conditionals(jax.make_jaxpr(gradient)(params, mixed_weights(net)).jaxpr)

    assert branches(form="staged", remat=remat) == 0
    assert branches(form="scan") > 0


@pytest.mark.parametrize("form", [*FORMS, "pairs"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_a_slot_has_lost_counts_as_a_weight_of_zero(kind, form):
    """It is never sampled, and no channels go past it; nor in a path."""
    template = darts_supernet(SKELETON, 1, FEW).space.template()
    keep = {name: np.array([[0, 1, 0, 1], [1, 1, 1, 0]], bool) for name in template}
    whole, left = (darts_supernet(SKELETON, 1, FEW, form=form, keep=k, **kind) for k in (None, keep))
    params = jax.jit(whole.init)(jax.random.key(0))
    narrow = darts_narrowing(SKELETON, keep, None, 1, FEW)
    weights = {name: jnp.array([[0.5, 0.1, 0.1, 0.3], [0.2, 0.1, 0.3, 0.4]]) for name in template}
    zeroed = {name: rows * keep[name] for name, rows in weights.items()}
    value, (ours, own) = quick(jax.value_and_grad(functools.partial(loss, left), (0, 1)))(narrow(params), weights)
    expected, (theirs, other) = quick(jax.value_and_grad(functools.partial(loss, whole), (0, 1)))(params, zeroed)
    nearly((value, ours), (expected, narrow(theirs)))
    nearly(own, {name: rows * keep[name] for name, rows in other.items()})
    assert all(np.any(rows) for rows in [own["reduce"]])
    arch = jnp.array([0, 2, 0, 0, 2, 0], jnp.int32)  # of each cell the last operation of slot 0, the first of slot 1
    path = quick(lambda p: left.apply_path(p, arch, X, Context())[0])(narrow(params))
    nearly(path, quick(lambda p: left.apply(p, left.space.one_hot(arch), X, Context())[0])(narrow(params)))


@pytest.mark.parametrize(("kind", "form"), [({"sampled": True}, "staged"), ({"partial": 2}, "scan")])
def test_the_laws_of_supernets_hold(kind, form):
    net = nasbench201_supernet(SKELETON, FEW, form=form, **kind)
    check_supernet(net.space, net)
    if "partial" in kind:
        assert net.extract is net.extract_stats is no_parameters
        assert net.network(jnp.full(6, 3, jnp.int32)).costs["params"] > 0


def test_used_is_what_a_path_reads_where_an_operation_gets_one_channel():
    """No shuffle moves it then: past a slot of "none" nothing comes to the operations."""
    net = nasbench201_supernet(SKELETON, FEW, partial=4)
    archs = jnp.array([[0, 3, 3, 3, 3, 3], [3, 3, 3, 0, 3, 0]], jnp.int32)
    check_supernet(net.space, net, archs=list(archs))


def test_past_the_edges_that_a_path_of_darts_has_not_go_channels_only_where_none_is_an_operation():
    for operations in (FEW, FEW[1:]):
        net = darts_supernet(SKELETON, 2, operations, form="scan", partial=2)
        params, arch = jax.jit(net.init)(jax.random.key(0)), jnp.zeros(12, jnp.int32)
        path = quick(lambda p, net=net, arch=arch: net.apply_path(p, arch, X, Context())[0])(params)
        rows = net.space.one_hot(arch)
        assert ((rows["reduce"].sum(1) == 1).sum() == len(rows["reduce"])) == ("none" in operations)
        nearly(path, quick(lambda p, net=net, rows=rows: net.apply(p, rows, X, Context())[0])(params))


def test_one_part_is_all_channels_and_zeros_let_nothing_past():
    params = jax.jit(nasbench201_supernet(SKELETON, FEW).init)(jax.random.key(0))
    weights = mixed_weights(nasbench201_supernet(SKELETON, FEW))
    values = [
        quick(functools.partial(loss, nasbench201_supernet(SKELETON, FEW, **given)))(params, weights)
        for given in ({}, {"partial": 1})
    ]
    assert values[0] == values[1]
    net = nasbench201_supernet(SKELETON, FEW, partial=2)
    params = jax.jit(net.init)(jax.random.key(0))
    nothing = jax.tree.map(jnp.zeros_like, weights)
    logits = quick(lambda p: net.apply(p, nothing, X, Context())[0])(params)
    np.testing.assert_array_equal(logits, np.broadcast_to(logits[:1], logits.shape))


def test_channels_are_shuffled_as_the_authors_do_and_halved_to_the_larger_half():
    mixed, passed = jnp.arange(2.0)[None], jnp.arange(2.0, 6)[None]
    np.testing.assert_array_equal(shuffled(mixed, passed), [[0, 2, 4, 1, 3, 5]])
    x = jnp.stack([jnp.zeros((3, 5)), -1 - jnp.arange(15.0).reshape(3, 5)], -1)[None]
    np.testing.assert_array_equal(passing_part(x, 2, 2)[0, ..., 0], [[-1, -3, -5], [-11, -13, -15]])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"partial": 0}, "got 0"),
        ({"partial": 3}, "partial=3"),
        ({"partial": 2, "sampled": True}, "partial=2"),
        ({"partial": 2, "affine": True}, "affine"),
        ({"sampled": True, "affine": True}, "affine"),
        ({"sampled": True, "form": "scan", "remat": True}, "remat"),
    ],
)
def test_mixtures_that_cannot_be_are_refused(arguments, told):
    makers = [nasbench201_supernet, darts_supernet] + ([] if "affine" in arguments else [enas_micro_supernet])
    for make in makers:
        with pytest.raises(ValueError, match=told):
            make(SKELETON, **arguments)


def test_a_supernet_of_parts_has_no_free_space_and_gives_no_parameters():
    with pytest.raises(ValueError, match="partial=2"):
        supernets.darts_supernet(SKELETON, 1, FEW, free=True, partial=2)
    net = darts_supernet(SKELETON, 1, FEW, partial=2)
    for function in (net.extract, net.extract_stats):
        with pytest.raises(ValueError, match="partial channels"):
            function({}, jnp.zeros(6, jnp.int32))
