"""Activations in bfloat16: what is narrow, what stays float32, and how near the outputs are."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

import jaxnas
from jaxnas import data, fit, saved
from jaxnas.base import Context, Skeleton, Supernet
from jaxnas.catalog import CATALOG
from jaxnas.data.digits import load_digits
from jaxnas.fit.fixed import Fixed
from jaxnas.kernels.arrays import add_at
from jaxnas.kernels.platform import supposing
from jaxnas.networks import resnet, tutorial_cnn
from jaxnas.objectives import CLASSIFICATION
from jaxnas.supernets import darts_supernet

CELLS = {"darts": 3, "nasbench201": 1, "enas_micro": 3, "enas_macro": 3, "chain": 4}
SHAPE, CLASSES = (8, 8, 3), 3
X = jax.random.normal(jax.random.key(0), (32, *SHAPE))
LABELS = jnp.arange(32) % CLASSES


def skeleton(name, dtype):
    return Skeleton(4, CELLS[name], SHAPE, CLASSES, dtype=dtype)


def supernet(name, dtype="bfloat16", **how):
    return CATALOG[name].supernet(skeleton(name, dtype), **how)


def network(name, dtype="bfloat16"):
    if name == "resnet":
        return resnet(SHAPE, CLASSES, 1, 4, dtype)
    if name == "tutorial_cnn":
        return tutorial_cnn(SHAPE, CLASSES, dtype)
    own, space = skeleton(name, dtype), CATALOG[name].space(skeleton(name, dtype))
    return CATALOG[name].network(space.sample(jax.random.key(1)), own, space)


def loss(net, arch, params, weights):
    """(loss, (logits, statistics)) of a mixture, of a path where there is an architecture, or of a network."""
    if not isinstance(net, Supernet):
        logits, aux = net.apply(params, X, Context())
    elif arch is None:
        logits, aux = net.apply(params, weights, X, Context())
    else:
        logits, aux = net.apply_path(params, arch, X, Context())
    return CLASSIFICATION.loss(logits, LABELS).mean(), (logits, aux.stats)


def given(net):
    if not isinstance(net, Supernet):
        return net.init(jax.random.key(2))[0], {}
    weights = {
        kind: jax.nn.softmax(zeros + jnp.cos(1.0 + jnp.arange(zeros.shape[1]))[None])
        for kind, zeros in net.space.template().items()
    }
    return net.init(jax.random.key(2)), weights


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


PROGRAMS = [
    *((name, "mixture", {}, "cpu") for name in CELLS),
    ("darts", "mixture", {"partial": 2}, "cpu"),
    *((name, "path", {}, "cpu") for name in ("nasbench201", "enas_macro", "chain")),
    *((name, "network", {}, "cpu") for name in ("darts", "chain", "resnet", "tutorial_cnn")),
    ("darts", "mixture", {}, "gpu"),
    ("nasbench201", "mixture", {"partial": 2}, "gpu"),
    ("enas_micro", "path", {}, "gpu"),
]


@pytest.mark.parametrize(("name", "what", "how", "platform"), PROGRAMS)
def test_activations_are_narrow_and_sums_over_positions_are_not(name, what, how, platform):
    with supposing(platform):
        net = network(name) if what == "network" else supernet(name, **how)
        arch = net.space.sample(jax.random.key(1)) if what == "path" else None
        params, weights = jax.eval_shape(functools.partial(given, net))
        step = jax.value_and_grad(functools.partial(loss, net, arch), (0, 1), has_aux=True)
        program, out = jax.make_jaxpr(step, return_shape=True)(params, weights)
    (value, (logits, stats)), gradients = out
    kept = jax.tree.leaves((value, logits, stats, gradients))
    assert {leaf.dtype for leaf in kept} == {jnp.dtype("float32")}
    every = list(equations(program.jaxpr))
    marked = [v.aval for e in every if e.primitive.name == "name" for v in e.outvars]
    if what != "mixture" and name != "tutorial_cnn" and name != "resnet":
        assert len(marked) > 1
    assert {aval.dtype for aval in marked} <= {jnp.dtype("bfloat16")}
    kernels = [e for e in every if e.primitive.name in ("dot_general", "conv_general_dilated")]
    narrow = [e for e in kernels if all(v.aval.dtype == jnp.bfloat16 for v in e.invars)]
    assert narrow
    for e in every:
        if e.primitive.name in ("reduce_sum", "cumsum") and e.invars[0].aval.dtype == jnp.bfloat16:
            before, after = e.invars[0].aval.size, e.outvars[0].aval.size
            assert before // after < 32, f"a sum of {before // after} numbers in bfloat16: {e}"
        if e.primitive.name in ("exp", "log", "rsqrt", "logistic", "tanh") and name != "chain":
            assert e.invars[0].aval.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(("name", "what"), [("darts", "mixture"), ("nasbench201", "path"), ("resnet", "network")])
def test_outputs_and_gradients_are_those_of_float32_to_rounding(name, what):
    def of(dtype):
        if what == "mixture":
            net = darts_supernet(skeleton(name, dtype), 1, ("none", "skip_connect", "dil_conv_3x3"))
        else:
            net = network(name, dtype) if what == "network" else supernet(name, dtype)
        arch = net.space.sample(jax.random.key(1)) if what == "path" else None
        step = jax.value_and_grad(functools.partial(loss, net, arch), (0, 1), has_aux=True)
        quick = jax.jit(step, compiler_options={"xla_backend_optimization_level": 0})
        return quick(*jax.jit(functools.partial(given, net))())

    ((value, (logits, stats)), (to_params, to_weights)), wide = of("bfloat16"), of("float32")
    (wide_value, (wide_logits, wide_stats)), (wide_params, wide_weights) = wide

    def flat(tree):
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])

    def difference(ours, theirs):
        return np.linalg.norm(flat(ours) - flat(theirs)) / np.linalg.norm(flat(theirs))

    def cosine(ours, theirs):
        return flat(ours) @ flat(theirs) / (np.linalg.norm(flat(ours)) * np.linalg.norm(flat(theirs)))

    # bfloat16 has 8 bits: one rounding is up to 2^-9 of a number, and a network of some layers rounds some dozen times.
    assert 0 < difference(logits, wide_logits) < 0.06
    assert difference(stats, wide_stats) < 0.06 if jax.tree.leaves(stats) else True
    # What a batch norm gives back is a small difference of large numbers, so that gradients of this net agree less.
    assert cosine(to_params, wide_params) > 0.9
    if what == "mixture":
        assert cosine(to_weights, wide_weights) > 0.9
    assert abs(float(value - wide_value)) < 0.05


def test_an_update_of_nodes_widens_one_image_and_not_all_of_them():
    """For each image XLA:CPU widened all nodes of a cell and narrowed them again: a step took ten times as long."""

    def updated(nodes, value):
        return jax.lax.fori_loop(0, 3, lambda n, nodes: add_at(nodes, n, value), nodes)

    nodes, value, *tangents = (
        jax.random.normal(key, shape).astype(jnp.bfloat16)
        for key, shape in zip(jax.random.split(jax.random.key(0), 4), 2 * [(3, 5, 2, 2, 7), (5, 2, 2, 7)], strict=True)
    )
    program = jax.jit(updated).lower(nodes, value).compile().as_text()
    assert "bf16[3,5,2,2,7]" in program
    assert "f32[3,5,2,2,7]" not in program
    y, to_y = jax.jvp(jax.jit(updated), (nodes, value), tuple(tangents))
    np.testing.assert_array_equal(y, nodes + value[None])
    np.testing.assert_array_equal(to_y, tangents[0] + tangents[1][None])
    to_nodes, to_value = jax.vjp(updated, nodes, value)[1](tangents[0])
    np.testing.assert_array_equal(to_nodes, tangents[0])
    np.testing.assert_allclose(to_value.astype(float), tangents[0].astype(float).sum(0), rtol=0.02, atol=0.02)


def test_a_skeleton_has_no_other_types():
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, float64, got 'float16'"):
        dataclasses.replace(skeleton("darts", "float32"), dtype="float16")


@pytest.fixture(scope="module")
def few():
    digits = load_digits()
    parts = [(part.inputs[:40], part.targets[:40]) for part in (digits.train, digits.test, digits.valid)]
    return data.from_arrays(*parts)


def test_a_run_keeps_its_type_and_a_resumed_one_has_it_again(few, tmp_path):
    space = CATALOG["nasbench201"].space(skeleton("nasbench201", "float32"))
    method = Fixed(space.to_genotype(jnp.array([2, 0, 1, 0, 0, 2])))
    training = fit.Training(epochs=1, batch_size=20, channels=4, cells=1, drop_path=0.0)
    go = functools.partial(
        fit.run, method, "nasbench201", few, training, random_baselines=0, hand_designed=False,
        folder=str(tmp_path / "run"),
    )  # fmt: skip
    done = go(dtype="bfloat16")
    assert saved.describe(done.folder)["skeleton"]["dtype"] == "bfloat16"
    images = few.test.inputs
    own, wide = (jaxnas.load(done.folder), saved.load(done.folder, dtype="float32"))
    a, b = own.apply(own.params, images), wide.apply(wide.params, images)
    assert a.dtype == jnp.float32
    assert 0 < np.abs(a - b).max() < 0.1 * np.abs(b).max()
    with pytest.raises(ValueError, match="dtype"):
        go(dtype="float32")


class Layers(nn.Module):
    """A model whose layers have a type of their own."""

    @nn.compact
    def __call__(self, x):
        y = nn.Dense(jaxnas.width("width", (4, 8)), dtype=jnp.bfloat16)(x.reshape(len(x), -1))
        return nn.Dense(CLASSES)(nn.relu(y).astype(jnp.float32))


def test_a_model_of_ones_own_has_the_type_of_its_layers(few):
    found = jaxnas.searchable(Layers(), X[:1])
    params = found.supernet.init(jax.random.key(0))
    for arch in ([0], [1]):
        logits = found.supernet.apply_path(params, jnp.array(arch), X, Context())[0]
        assert logits.dtype == jnp.float32
        assert np.isfinite(logits).all()
    with pytest.raises(ValueError, match=r"dtype bfloat16: the networks over .* are computed in float32"):
        fit.run(fit.Darts(epochs=2), found.entry, few, fit.Training(epochs=1, batch_size=20), dtype="bfloat16")
