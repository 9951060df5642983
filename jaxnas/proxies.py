"""Zero-cost proxies: what a network that was never trained tells about its architecture from one batch.

Each factory makes (params, arch, batch) -> float32 [], higher is better, from the `apply_path` of a supernet or of
anything alike; `over_architectures` maps one over a population. What a path does not read has a gradient of zero and
counts nothing. Collected by Abdelfattah et al. ("Zero-Cost Proxies for Lightweight NAS", ICLR 2021,
https://arxiv.org/abs/2101.08134), whose programs these follow but where it is said.

Shapes: B examples, U units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from jaxnas.base import Arch, Array, Aux, Batch, Context, Objective, PyTree
from jaxnas.cholesky import dot, whiten
from jaxnas.objectives import CLASSIFICATION

ApplyPath = Callable[[PyTree, Arch, Any, Context], tuple[Any, Aux]]


class Proxy(Protocol):
    """(params, arch, batch) -> float32 []; traceable."""

    def __call__(self, params: PyTree, arch: Arch, batch: Batch, /) -> Array: ...


def over_architectures(proxy: Proxy) -> Callable[[PyTree, Array, Batch], Array]:
    """(params, archs [P, D], batch) -> [P], all with the same parameters and batch, one architecture after another.

    Under `vmap` every operation of every architecture would be computed.
    """
    return lambda params, archs, batch: jax.lax.map(lambda arch: proxy(params, arch, batch), archs)


def grad_norm(apply_path: ApplyPath, objective: Objective = CLASSIFICATION) -> Proxy:
    """The Euclidean norm of the gradient of the objective's loss.

    Of the whole gradient; the paper's program adds up the norms of layers, but a supernet stacks equal layers in one
    array.
    """

    def proxy(params: PyTree, arch: Arch, batch: Batch, /) -> Array:
        return optax.tree.norm(_gradient(apply_path, objective, params, arch, batch))

    return proxy


def snip(apply_path: ApplyPath, objective: Objective = CLASSIFICATION) -> Proxy:
    """Σ |θ · ∂L/∂θ|, what the loss would change by without each weight (Lee et al. 2019,
    https://arxiv.org/abs/1810.02340, its sensitivity before it is normalized)."""

    def proxy(params: PyTree, arch: Arch, batch: Batch, /) -> Array:
        gradient = _gradient(apply_path, objective, params, arch, batch)
        return optax.tree.sum(jax.tree.map(lambda p, g: jnp.sum(jnp.abs(p * g)), params, gradient))

    return proxy


def synflow(apply_path: ApplyPath) -> Proxy:
    """Σ θ · ∂R/∂θ at the absolute values of all θ, R the sum of the outputs for an example of ones (Tanaka et al. 2020,
    https://arxiv.org/abs/2006.05467).

    Reads of the batch its shape alone. Batch norms pass on what they are given, up to the small number that is added to
    the variance: mean 0, variance 1. Grows with depth and width beyond float32 in networks of some 50 layers: compare
    it in narrow ones.
    """

    def proxy(params: PyTree, arch: Arch, batch: Batch, /) -> Array:
        ones = jax.tree.map(lambda leaf: jnp.ones((1, *leaf.shape[1:]), leaf.dtype), batch.inputs)
        seen = jax.eval_shape(lambda: apply_path(params, arch, ones, Context())[1].stats)
        leaves, form = jax.tree.flatten(seen)  # pairs of mean and variance
        fixed = [jnp.full(leaf.shape, number % 2, leaf.dtype) for number, leaf in enumerate(leaves)]
        context = Context(jax.tree.unflatten(form, fixed))
        positive = jax.tree.map(jnp.abs, params)
        gradient = jax.grad(lambda p: jnp.sum(apply_path(p, arch, ones, context)[0]))(positive)
        return optax.tree.sum(jax.tree.map(lambda p, g: jnp.sum(p * g), positive, gradient))

    return proxy


def jacobian_covariance(apply_path: ApplyPath) -> Proxy:
    """-Σ (log(λ + k) + 1 / (λ + k)) over the eigenvalues λ of the correlations between the gradients of the summed
    outputs by the inputs; k = 1e-5 (Mellor et al., first version, https://arxiv.org/abs/2006.04647v1).

    High where the network sees every example its own way. A gradient that is zero or constant correlates with nothing.
    The inputs are arrays of floats.
    """
    k = 1e-5

    def proxy(params: PyTree, arch: Arch, batch: Batch, /) -> Array:
        by_input = jax.grad(lambda inputs: jnp.sum(apply_path(params, arch, inputs, Context())[0]))(batch.inputs)
        rows = jnp.concatenate([leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(by_input)], axis=1)
        centered = rows - rows.mean(axis=1, keepdims=True)
        length = jnp.linalg.norm(centered, axis=1, keepdims=True)
        unit = centered / jnp.where(length > 0, length, 1.0)
        # Both sums without eigenvalues: log |det M| and the trace of M⁻¹ = Σ (L⁻¹)², of M = correlations + k = L Lᵀ.
        diagonal = jnp.eye(len(rows), dtype=unit.dtype)
        inverse, pivots = whiten(dot(unit, unit.T) + k * diagonal, diagonal, k)
        return -(jnp.sum(jnp.log(pivots)) + jnp.sum(inverse**2))

    return proxy


def naswot(codes: Callable[[PyTree, Arch, Any], Array]) -> Proxy:
    """log |det K|, K[i, j] the number of units that examples i and j switch alike (Mellor et al., "Neural Architecture
    Search without Training", ICML 2021, https://arxiv.org/abs/2006.04647).

    codes: (params, arch, inputs) -> bool [B, U], which rectified units are on. An `apply_path` does not tell
    them, so the network must. -inf where two examples have one code.
    """

    def proxy(params: PyTree, arch: Arch, batch: Batch, /) -> Array:
        on = codes(params, arch, batch.inputs).astype(jnp.float32)
        alike = on @ on.T + (1.0 - on) @ (1.0 - on).T
        examples, units = on.shape
        # What rounding can do to a pivot, so the least that is told from 0.
        _, pivots = whiten(alike, on[:, :0], units * examples * float(jnp.finfo(on.dtype).eps))
        same = (alike == units) & ~jnp.eye(examples, dtype=bool)
        return jnp.where(same.any(), -jnp.inf, jnp.sum(jnp.log(pivots)))

    return proxy


def _gradient(apply_path: ApplyPath, objective: Objective, params: PyTree, arch: Arch, batch: Batch) -> PyTree:
    def loss(params: PyTree) -> Array:
        outputs, _ = apply_path(params, arch, batch.inputs, Context())
        return objective.loss(outputs, batch.targets).mean()

    return jax.grad(loss)(params)
