"""Factorizations against numpy's in float64, and that no program run over seeds calls LAPACK."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import predictors, proxies, samplers
from jaxnas.base import Aux, Batch, Choice
from jaxnas.benchmarks import make_table
from jaxnas.cholesky import LARGEST_BLOCK, whiten
from jaxnas.objectives import CLASSIFICATION
from jaxnas.spaces import nasbench201_space

SPACE = nasbench201_space()
SEEDS = 3
CHOICES = tuple(Choice(name, tuple("01234")) for name in "abcdef")
TABLE = make_table("small", CHOICES, np.eye(6, dtype=int), {"value": np.arange(6.0)})


def covariance(size, noise, seed=0):
    """As a Gaussian process has it: points of the plane, of which many are near to others."""
    points = np.random.default_rng(seed).normal(size=(size, 2))
    squares = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    return 1 / (1 + squares / 3) + noise * np.eye(size)


@pytest.mark.parametrize("size", [1, 7, LARGEST_BLOCK, LARGEST_BLOCK + 1, 156])
def test_columns_are_whitened_as_in_float64(size):
    columns = np.random.default_rng(1).normal(size=(size, 2))
    for noise in (0.02, 0.15):
        matrix = covariance(size, noise)
        factor = np.linalg.cholesky(matrix)
        found, pivots = jax.jit(whiten)(
            jnp.asarray(matrix, jnp.float32), jnp.asarray(columns, jnp.float32), jnp.float32(noise)
        )
        expected = np.linalg.solve(factor, columns)
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
        np.testing.assert_allclose(pivots, np.diag(factor) ** 2, rtol=1e-3)


def test_many_at_once_are_each_alone():
    matrices = jnp.asarray(np.stack([covariance(90, 0.05, seed) for seed in range(SEEDS)]), jnp.float32)
    columns = jnp.ones((90, 1))
    together, _ = jax.jit(jax.vmap(whiten, (0, None, None)))(matrices, columns, 0.05)
    for matrix, found in zip(matrices, together, strict=True):
        np.testing.assert_allclose(found, jax.jit(whiten)(matrix, columns, 0.05)[0], atol=1e-4)


def test_a_pivot_that_rounding_takes_below_the_least_is_the_least():
    """All rows are equal: all eigenvalues but one are the noise, which is less than float32 tells apart."""
    matrix = jnp.ones((60, 60)) + 1e-9 * jnp.eye(60)
    white, pivots = jax.jit(whiten)(matrix, jnp.ones((60, 1)), 1e-9)
    assert (np.asarray(pivots) >= np.float32(1e-9)).all()
    assert np.isfinite(np.asarray(white)).all()


def rectified(params, arch, x, context):
    return jax.nn.relu(x.reshape(len(x), -1)) @ params[arch[0]], Aux(())


def lapack_calls(function, *arguments):
    """The names of the calls of LAPACK in a function mapped over seeds."""
    text = jax.jit(jax.vmap(function)).lower(*arguments).as_text()
    return sorted(set(re.findall(r"lapack_\w+", text)))


def process():
    example = jax.eval_shape(predictors.unconnected, jax.ShapeDtypeStruct((6,), jnp.int32))
    return predictors.gaussian_process([predictors.Block(predictors.one_hot(5))], example)


def fit_and_predict(key):
    archs = jax.vmap(SPACE.sample)(jax.random.split(key, 8))
    graphs = jax.vmap(predictors.unconnected)(archs)
    state = process().fit(key, None, graphs, jnp.arange(8.0), jnp.ones(8))
    return process().predict(state, graphs)


def guided_search(key):
    sampler = samplers.predictor_search(TABLE.moves, process(), predictors.unconnected, capacity=8, start=2)
    return samplers.simulate(sampler, TABLE, "value", steps=2)(key)[1].best


def proxy(made):
    of = proxies.Subject(rectified, None, CLASSIFICATION, (proxies.Leaf(1, True, True),))

    def score(key):
        batch = Batch(jax.random.normal(key, (4, 2, 2, 1)), jnp.arange(4) % 3)
        archs = jnp.zeros((2, 1), jnp.int32)
        return proxies.over_architectures({"it": made}, of)(jnp.ones((2, 4, 3)), archs, batch)

    return score


PROGRAMS = {
    "a Gaussian process": fit_and_predict,
    "a search by a predictor": guided_search,
    "the options that an additive fit reads": lambda key: SPACE.one_hot(SPACE.sample(key)),
    **{
        made.__name__: proxy(made)
        for made in (proxies.naswot, proxies.swap, proxies.zico, proxies.synflow, proxies.jacobian_covariance)
    },
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_program_over_seeds_calls_lapack(name):
    calls = lapack_calls(PROGRAMS[name], jax.random.split(jax.random.key(0), SEEDS))
    assert not calls, f"{name} calls {calls} for many seeds at once; use jaxnas.cholesky"


def test_the_calls_of_lapack_are_seen():
    """Else the test above could not fail."""
    matrices = jnp.stack([jnp.eye(3)] * SEEDS)
    assert lapack_calls(jnp.linalg.cholesky, matrices)
    assert lapack_calls(lambda a: jax.scipy.linalg.solve_triangular(a, a), matrices)
