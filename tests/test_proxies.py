"""Zero-cost proxies against closed forms, on networks small enough to have them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.base import Aux, Batch
from jaxnas.ops.layers import batch_norm
from jaxnas.proxies import grad_norm, jacobian_covariance, naswot, over_architectures, snip, synflow

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(6, 4)).astype(np.float32)
LABELS = np.arange(6) % 3
BATCH = Batch(jnp.asarray(X).reshape(6, 2, 2, 1), jnp.asarray(LABELS))
PARAMS = {
    "first": jnp.asarray(RANDOM.normal(size=(2, 4, 5)), jnp.float32),  # two options
    "second": jnp.asarray(RANDOM.normal(size=(5, 3)), jnp.float32),
}
ARCHS = jnp.array([[0], [1]], jnp.int32)


def linear(params, arch, x, context):
    """Two matrices, the first chosen by the architecture."""
    return x.reshape(len(x), -1) @ params["first"][arch[0]] @ params["second"], Aux(())


def by_hand(option):
    """(first, second, their gradients of the mean cross-entropy) in double precision."""
    first, second = (np.asarray(PARAMS[name], np.float64) for name in ("first", "second"))
    first = first[option]
    logits = X @ first @ second
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    wrong = (p - np.eye(3)[LABELS]) / 6
    return first, second, X.T @ wrong @ second.T, (X @ first).T @ wrong


def scores(proxy):
    return np.asarray(jax.jit(over_architectures(proxy))(PARAMS, ARCHS, BATCH))


def test_grad_norm_and_snip_of_a_linear_network():
    expected = []
    for option in (0, 1):
        first, second, d_first, d_second = by_hand(option)
        expected.append(
            (
                np.sqrt((d_first**2).sum() + (d_second**2).sum()),
                np.abs(first * d_first).sum() + np.abs(second * d_second).sum(),
            )
        )
    norms, sensitivities = np.transpose(expected)
    np.testing.assert_allclose(scores(grad_norm(linear)), norms, rtol=1e-4)
    np.testing.assert_allclose(scores(snip(linear)), sensitivities, rtol=1e-4)


def test_synflow_is_the_flow_of_ones_once_for_each_layer_and_norms_do_not_count():
    def normed(params, arch, x, context):
        hidden = x.reshape(len(x), -1) @ params["first"][arch[0]]
        hidden, seen = batch_norm(hidden[:, None, None], None, context.at(0))
        return hidden[:, 0, 0] @ params["second"], Aux([seen])

    flow = [np.abs(by_hand(o)[0]).sum(0) @ np.abs(by_hand(o)[1]).sum(1) for o in (0, 1)]
    np.testing.assert_allclose(scores(synflow(linear)), 2 * np.array(flow), rtol=1e-4)
    np.testing.assert_allclose(scores(synflow(normed)), 2 * np.array(flow), rtol=1e-4)


def test_jacobian_covariance_of_equal_and_of_uncorrelated_gradients():
    """A linear network has one gradient for all images; that of a square is the image itself, here a row of Hadamard's
    matrix."""
    k = 1e-5
    equal = -(np.log(6 + k) + 1 / (6 + k)) - 5 * (np.log(k) + 1 / k)
    np.testing.assert_allclose(scores(jacobian_covariance(linear)), [equal, equal], rtol=0.1)  # 1e5 of rounding
    rows = jnp.array([[1.0, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]])
    batch = Batch(rows.reshape(3, 2, 2, 1), jnp.arange(3))
    square = jacobian_covariance(lambda params, arch, x, context: (jnp.square(x).sum((1, 2)), Aux(())))
    assert jax.jit(square)(PARAMS, ARCHS[0], batch) == pytest.approx(-3 * (np.log(1 + k) + 1 / (1 + k)), rel=1e-4)


def test_naswot_is_the_determinant_of_codes_in_common():
    codes = np.array([[1, 1, 0, 0, 1], [1, 0, 0, 1, 1], [0, 0, 1, 1, 1]], bool)
    alike = (codes[:, None] == codes[None]).sum(axis=2)
    found = naswot(lambda params, arch, x: jnp.asarray(codes))(None, ARCHS[0], BATCH)
    assert found == pytest.approx(np.log(np.linalg.det(alike)), rel=1e-4)
    one = naswot(lambda params, arch, x: jnp.ones((2, 5), bool))(None, ARCHS[0], BATCH)
    assert one == -np.inf
