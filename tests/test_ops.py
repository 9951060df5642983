"""Primitives against independent implementations: XLA's convolutions and reduce-window, and plain numpy loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from jaxnas.base import Context
from jaxnas.kernels import pooling
from jaxnas.kernels.arrays import joined, materialized
from jaxnas.kernels.depthwise import depthwise
from jaxnas.kernels.norm import channel_sums, scale_channels
from jaxnas.kernels.platform import by_platform, outlined, supposing
from jaxnas.kernels.pooling import avg_pool, max_pool
from jaxnas.kernels.trees import norm
from jaxnas.kernels.windows import spread
from jaxnas.ops import layers
from jaxnas.ops.primitives import PRIMITIVES
from jaxnas.train.schedules import clip_by_norm

SIZES = [(6, 6), (7, 5)]
STRIDES = [1, 2]


def image(seed, height, width, batch=6, channels=4):
    return jax.random.normal(jax.random.key(seed), (batch, height, width, channels))


def assert_same_function(ours, reference, *args, rtol=1e-4):
    """Values, and the vector-Jacobian products with respect to every argument, agree."""

    @jax.jit
    def both(*args):
        value, pull = jax.vjp(ours, *args)
        expected, expected_pull = jax.vjp(reference, *args)
        g = jax.random.normal(jax.random.key(99), value.shape)
        return value, expected, pull(g), expected_pull(g)

    value, expected, gradients, expected_gradients = both(*args)
    np.testing.assert_allclose(value, expected, rtol=rtol, atol=1e-5)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, expected_gradient, rtol=rtol, atol=2e-4)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize(("size", "dilation"), [(3, 1), (5, 1), (3, 2), (5, 2)])
def test_depthwise_is_grouped_convolution(height, width, stride, size, dilation):
    x, kernel = image(0, height, width), jax.random.normal(jax.random.key(1), (size, size, 4))
    pad = dilation * (size // 2)

    def grouped(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel[:, :, None],
            (stride, stride),
            ((pad, pad), (pad, pad)),
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=4,
        )

    assert_same_function(lambda x, k: depthwise(x, k, stride, dilation), grouped, x, kernel)


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_depthwise_kernel_gradient_at_any_batch_size(batch):
    x, kernel = image(0, 4, 4, batch), jax.random.normal(jax.random.key(1), (3, 3, 4))

    def plain(x, kernel):
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return sum(padded[:, i : i + 4, j : j + 4] * kernel[None, None, None, i, j] for i in range(3) for j in range(3))

    assert_same_function(depthwise, plain, x, kernel)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("stride", STRIDES)
def test_max_pool_is_reduce_window(height, width, stride):
    def reduce(x):
        return lax.reduce_window(
            x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, stride, stride, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
        )

    assert_same_function(lambda x: max_pool(x, stride), reduce, image(2, height, width))


@pytest.mark.parametrize("stride", [1, 2])
def test_max_pools_by_lookup_are_those_in_turn(stride):
    x = jnp.round(image(2, 5, 6))  # with ties
    both = [f(x, stride) for f in (pooling._max_and_tap_at_once, pooling._max_and_tap_in_turn)]
    for ours, expected in zip(*both, strict=True):
        np.testing.assert_array_equal(ours, expected)
    best, index = both[0]
    g, marks = (spread(array, 5, 6, stride) for array in (jnp.cos(best), index + jnp.int8(1)))
    np.testing.assert_allclose(pooling._routed_at_once(g, marks), pooling._routed_in_turn(g, marks), rtol=1e-5)


def test_max_pool_gives_ties_to_the_first_entry():
    x = jnp.zeros((1, 3, 3, 1))
    gradient = jax.grad(lambda x: max_pool(x)[0, 1, 1, 0])(x)
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[1, 0, 0], [0, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("stride", STRIDES)
def test_avg_pool_does_not_count_the_border(height, width, stride):
    def reduce(x):
        def total(x):
            return lax.reduce_window(
                x, 0.0, lax.add, (1, 3, 3, 1), (1, stride, stride, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
            )

        return total(x) / total(jnp.ones_like(x))

    assert_same_function(lambda x: avg_pool(x, stride), reduce, image(3, height, width))
    np.testing.assert_allclose(avg_pool(jnp.ones((1, height, width, 1)), stride), 1.0, rtol=1e-6)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_factorized_reduce_by_loops(height, width):
    x = image(4, height, width, batch=2, channels=3)
    params = layers.factorized_reduce_init(jax.random.key(5), 3, 5)
    y = layers.factorized_reduce(x, params)
    rows, columns = -(-height // 2), -(-width // 2)
    assert y.shape == (2, rows, columns, 5)
    padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    for i in range(rows):
        for j in range(columns):
            np.testing.assert_allclose(y[:, i, j, :3], padded[:, 2 * i, 2 * j] @ params["first"], rtol=1e-5)
            np.testing.assert_allclose(y[:, i, j, 3:], padded[:, 2 * i + 1, 2 * j + 1] @ params["second"], rtol=1e-5)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("stride", STRIDES)
def test_dense_convolution_by_loops(size, stride):
    x = image(6, 5, 5, batch=2, channels=2)
    params = PRIMITIVES[f"nor_conv_{size}x{size}"].init(jax.random.key(0), 2, stride, False)
    kernel = np.asarray(params["kernel"]).reshape(size, size, 2, 2)
    y, ((mean, _),) = PRIMITIVES[f"nor_conv_{size}x{size}"].apply(params, x, stride, Context())
    padded = np.pad(np.maximum(x, 0), ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    rows = -(-5 // stride)
    raw = np.zeros((2, rows, rows, 2))
    for i in range(rows):
        for j in range(rows):
            window = padded[:, i * stride : i * stride + size, j * stride : j * stride + size]
            raw[:, i, j] = np.einsum("bhwc,hwcd->bd", window, kernel)
    np.testing.assert_allclose(mean, raw.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    expected = (raw - raw.mean((0, 1, 2))) / np.sqrt(raw.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "channels", "outputs", "stride"),
    [(9, 8, 5, 1), (4, 8, 5, 1), (8, 3, 5, 1), (9, 8, 5, 2), (6, 8, 5, 2), (9, 34, 3, 1), (9, 3, 34, 1)],
)
def test_dense_convolution_has_the_derivatives_of_xlas(size, channels, outputs, stride):
    """In every form that the size and stride choose, and those of its gradient, which second order takes."""
    x, kernel = (
        image(6, size, size, batch=2, channels=channels),
        jax.random.normal(jax.random.key(1), (3, 3, channels, outputs)),
    )

    def whole(x, kernel):
        pads = ((1, 1), (1, 1))
        return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def ours(x, kernel):
        return layers.conv(x, kernel, stride)

    assert_same_function(ours, whole, x, kernel)
    tangents = image(7, size, size, batch=2, channels=channels), jax.random.normal(jax.random.key(2), kernel.shape)

    def along(form):
        gradient = jax.grad(lambda x, kernel: jnp.sin(form(x, kernel)).sum(), (0, 1))
        return jax.jit(lambda x, kernel: jax.jvp(gradient, (x, kernel), tangents)[1])(x, kernel)

    for mine, reference in zip(along(ours), along(whole), strict=True):
        np.testing.assert_allclose(mine, reference, rtol=1e-3, atol=1e-2)


def test_batch_norm_gradient_is_the_automatic_one():
    def plain(x):
        centered = x - x.mean((0, 1, 2), keepdims=True)
        return centered / jnp.sqrt(jnp.square(centered).mean((0, 1, 2), keepdims=True) + 1e-5)

    assert_same_function(lambda x: layers.batch_norm(x)[0], plain, image(7, 5, 4))


def test_batch_norm_reports_and_uses_statistics():
    x = image(8, 4, 4) * 3 + 1
    affine = {"scale": jnp.arange(1.0, 5.0), "offset": jnp.arange(4.0)}
    y, (mean, variance) = layers.batch_norm(x, affine)
    flat = np.asarray(x).reshape(-1, 4)
    np.testing.assert_allclose(mean, flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(variance, flat.var(0, ddof=1), rtol=1e-5)
    np.testing.assert_allclose(y.reshape(-1, 4).mean(0), affine["offset"], atol=1e-5)
    np.testing.assert_allclose(y.reshape(-1, 4).std(0), affine["scale"], rtol=1e-4)
    given, seen = layers.batch_norm(x[:1], affine, Context((mean, variance)))
    np.testing.assert_allclose(given, y[:1], rtol=1e-2, atol=2e-2)
    assert seen[0] is mean


@pytest.mark.parametrize("affine", [False, True])
def test_batch_norms_at_once_are_those_one_by_one(affine):
    xs = [2.0 + image(seed, 7, 5) for seed in (0, 1)]
    own = [{"scale": jnp.arange(4.0) - side, "offset": jnp.ones(4) * side} if affine else None for side in (1, 2)]
    cotangents = [image(seed, 7, 5) for seed in (2, 3)]
    expected = [jax.vjp(layers.batch_norm, x, p) for x, p in zip(xs, own, strict=True)]
    zeros = (jnp.zeros(4), jnp.zeros(4))
    with supposing("gpu"):
        (ours, seen), pull = jax.vjp(lambda xs, own: layers.batch_norms(xs, own), xs, own)
        to_xs, to_own = pull((tuple(cotangents), (zeros,) * 2))
    for side, ((y, statistics), pull_one) in enumerate(expected):
        to_x, to_affine = pull_one((cotangents[side], zeros))
        found = (ours[side], seen[side], to_xs[side], to_own[side])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            found, (y, statistics, to_x, to_affine),
        )  # fmt: skip


def test_a_batch_norm_that_knows_its_statistics_has_the_gradients_of_one_that_sums():
    """Of the same batch, normalized by the biased variance, whose unbiased one it was told."""
    x, scale = image(8, 4, 3) * 3 + 1, jnp.arange(1.0, 5.0)
    known = layers.Known(*layers.batch_norm(x)[1])
    assert layers.batch_norm(x, None, Context(known))[1] is known

    def by(context):
        return lambda x, scale: layers.batch_norm(x, {"scale": scale}, context)[0]

    assert_same_function(by(Context(known)), by(Context()), x, scale)


def test_batch_norm_over_devices_is_that_of_the_whole_batch():
    x = image(9, 4, 4, batch=8) + 0.5  # a mean near zero has no relative precision
    g = image(10, 4, 4, batch=8)

    def value_and_pull(x, g, axis_name):
        y, pull = jax.vjp(lambda x: layers.batch_norm(x, None, Context(axis_name=axis_name))[0], x)
        return y, pull(g)[0], layers.batch_norm(x, None, Context(axis_name=axis_name))[1]

    whole = value_and_pull(x, g, None)
    parts = jax.vmap(lambda x, g: value_and_pull(x, g, "device"), axis_name="device")(
        x.reshape(4, 2, 4, 4, 4), g.reshape(4, 2, 4, 4, 4)
    )
    np.testing.assert_allclose(parts[0].reshape(x.shape), whole[0], atol=1e-5)
    np.testing.assert_allclose(parts[1].reshape(x.shape), whole[1], atol=1e-5)
    for part, expected in zip(parts[2], whole[2], strict=True):
        np.testing.assert_allclose(part[0], expected, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(PRIMITIVES))
@pytest.mark.parametrize("stride", STRIDES)
def test_every_primitive_keeps_channels_and_halves_by_its_stride(name, stride):
    primitive = PRIMITIVES[name]
    params = primitive.init(jax.random.key(0), 4, stride, True)
    x = image(11, 7, 6)
    y, stats = jax.jit(lambda x: primitive.apply(params, x, stride, Context()))(x)
    assert y.shape == (6, -(-7 // stride), -(-6 // stride), 4)
    assert tuple(len(mean) for mean, _ in stats) == primitive.norms(4, stride)
    count = y[..., 0].size
    biased = [(mean, variance * (count - 1) / count) for mean, variance in stats]
    again, seen = jax.jit(lambda x, stats: primitive.apply(params, x, stride, Context(stats)))(x, biased)
    np.testing.assert_allclose(again, y, rtol=1e-3, atol=1e-4)
    assert len(seen) == len(stats)


def test_second_derivatives_of_depthwise_and_pools():
    """Forward over reverse and reverse over reverse agree with finite differences of the gradient."""
    x, kernel = image(12, 5, 5, batch=2), jax.random.normal(jax.random.key(3), (3, 3, 4))
    v = image(13, 5, 5, batch=2)

    def loss(x):
        y = depthwise(jnp.sin(x), kernel)
        return jnp.sum(jnp.square(max_pool(y)) + jnp.square(avg_pool(y, 2).sum()) / 100)

    gradient = jax.jit(jax.grad(loss))
    forward = jax.jit(lambda x: jax.jvp(jax.grad(loss), (x,), (v,))[1])(x)
    reverse = jax.jit(jax.grad(lambda x: jnp.vdot(jax.grad(loss)(x), v)))(x)
    step = 1e-3
    difference = (gradient(x + step * v) - gradient(x - step * v)) / (2 * step)
    np.testing.assert_allclose(forward, reverse, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(forward, difference, rtol=0.05, atol=0.2)


def test_drop_path_keeps_the_mean_and_drops_whole_examples():
    x = jnp.ones((2000, 1, 2, 2))
    y = layers.drop_path(x, Context(key=jax.random.key(0), drop_path=0.3))
    kept = np.asarray(y[:, 0, 0, 0]) > 0
    np.testing.assert_allclose(y[kept], 1 / 0.7, rtol=1e-6)
    assert np.all(np.asarray(y[~kept]) == 0)
    assert abs(kept.mean() - 0.7) < 0.04


def test_a_process_without_accelerators_traces_the_forms_of_a_cpu_alone():
    def never(x):
        raise AssertionError("not a form of this platform")

    assert float(by_platform(jnp.ones(()), cpu=lambda x: 2 * x, tpu=never, default=never)) == 2
    assert float(by_platform(jnp.ones(()), tpu=never, default=lambda x: 3 * x)) == 3


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3])
def test_gradients_of_kernels_only_where_they_are_wanted(size, stride):
    """Wanted, all gradients are those of the plain kernel; else the input's still are, and the kernel's are zero."""
    x = jax.random.normal(jax.random.key(0), (3, 9, 9, 4))
    dense = jax.random.normal(jax.random.key(1), (4, 4) if size == 1 else (size, size, 4, 4))
    each = [(layers.pointwise if size == 1 else layers.conv, dense)]
    if size > 1:
        each.append((layers.relu_depthwise, jax.random.normal(jax.random.key(2), (size, size, 4))))
    for function, kernel in each:

        def gradients(wanted, function=function, kernel=kernel):
            context = Context(wanted=wanted)
            return jax.grad(lambda x, k: jnp.sum(jnp.sin(function(x, k, stride, context=context))), (0, 1))(x, kernel)

        plain, wanted, unwanted = (jax.jit(gradients)(w) for w in (None, jnp.array(True), jnp.array(False)))
        for got, expected in zip(wanted, plain, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(unwanted[0], plain[0], rtol=1e-5, atol=1e-5)
        assert float(jnp.abs(plain[1]).max()) > 0
        assert not unwanted[1].any()


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_the_norm_and_the_clipping_are_those_of_optax(platform):
    """Values and, at a norm on either side of the limit, the gradient through the update."""
    tree = {"a": jnp.array([3.0, -1.0]), "b": jnp.array([[0.5, 2.0]])}
    direction = jax.tree.map(jnp.ones_like, tree)
    with supposing(platform):
        np.testing.assert_allclose(norm(tree), optax.tree.norm(tree), rtol=1e-6)
        assert float(jax.grad(lambda x: norm({"a": x}))(jnp.zeros(2)).sum()) == 0
        for most in (1.0, 100.0):
            ours, theirs = (
                jax.vjp(lambda t, make=make, most=most: make(most).update(t, optax.EmptyState())[0], tree)
                for make in (clip_by_norm, optax.clip_by_global_norm)
            )
            of_ours, of_theirs = (pull(direction) for _, pull in (ours, theirs))
            jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-6), ours[0], theirs[0])
            jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-5), of_ours, of_theirs)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 1, 7, 3), (3, 5, 5, 1)])
def test_sums_over_positions_in_parts_are_plain_sums(shape):
    """Of a number of positions that quarters divide, and of odd ones; with the derivative along a direction."""
    x, y, v = (jax.random.normal(jax.random.key(i), shape) for i in range(3))

    def sums(x):
        return channel_sums(lambda x, y: x * jnp.square(y), x, y, weight=0.5)

    value, along = jax.jit(lambda x: jax.jvp(sums, (x,), (v,)))(x)
    np.testing.assert_allclose(value, np.sum(x * y**2, (0, 1, 2)) / 2, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(along, np.sum(v * y**2, (0, 1, 2)) / 2, rtol=1e-5, atol=1e-5)


def test_scaled_channels_and_their_gradients():
    x, g = image(14, 4, 3, batch=2), image(15, 4, 3, batch=2)
    scale = jnp.array([0.5, -2.0, 0.0, 1.0])
    y, pull = jax.vjp(scale_channels, x, scale)
    to_x, to_scale = pull(g)
    np.testing.assert_allclose(y, np.asarray(x) * np.asarray(scale), rtol=1e-6)
    np.testing.assert_allclose(to_x, np.asarray(g) * np.asarray(scale), rtol=1e-6)
    np.testing.assert_allclose(to_scale, np.sum(np.asarray(x) * np.asarray(g), (0, 1, 2)), rtol=1e-5, atol=1e-5)


def test_an_outlined_function_stays_a_call_and_its_derivatives_pass_through():
    """Also forward over reverse, where its tangents are computed in the call."""

    @functools.partial(outlined, static=(1,))
    def wave(x, frequency):
        return jnp.sin(frequency * x), jnp.cos(x)

    def loss(x, wave):
        sine, cosine = wave(jnp.exp(x), 2)
        return jnp.sum(sine * cosine)

    def plain(x, frequency):
        return jnp.sin(frequency * x), jnp.cos(x)

    at, along = jnp.array([0.3, -1.0, 2.0]), jnp.array([1.0, 0.5, -2.0])
    for transformed in (
        lambda wave: lambda x: loss(x, wave),
        lambda wave: jax.grad(lambda x: loss(x, wave)),
        lambda wave: lambda x: jax.jvp(jax.grad(lambda x: loss(x, wave)), (x,), (along,))[1],
    ):
        compiled = jax.jit(transformed(wave)).lower(at).compile()
        np.testing.assert_allclose(compiled(at), transformed(plain)(at), rtol=1e-5)
        assert " call(" in compiled.as_text()
    assert " call(" not in jax.jit(lambda x: loss(x, plain)).lower(at).compile().as_text()


def test_an_array_that_is_materialized_is_the_same():
    tree = {"a": jnp.array([-jnp.inf, jnp.nan, 2.0]), "b": jnp.arange(3)}
    compiled = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, materialized(tree))).lower(tree).compile()
    jax.tree.map(lambda got, leaf: np.testing.assert_array_equal(got, leaf + 1), compiled(tree), tree)
    assert " call(" in compiled.as_text()
    assert float(jax.grad(lambda x: jnp.sin(materialized(x)))(0.5)) == pytest.approx(np.cos(0.5))


def test_nodes_are_joined_and_their_gradient_is_that_of_a_concatenation():
    states, g = jax.random.normal(jax.random.key(0), (4, 2, 3, 3, 5)), jnp.arange(2 * 9 * 5 * 4) * 0.1
    g = g.reshape(2, 3, 3, -1)
    out, pull = jax.vjp(joined, states)
    expected, plain = jax.vjp(lambda states: jnp.concatenate(list(states), -1), states)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(pull(g)[0], plain(g)[0])
