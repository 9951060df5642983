"""Proxies of gradients and weights.

Collected by Abdelfattah et al. ("Zero-Cost Proxies for Lightweight NAS", ICLR 2021, https://arxiv.org/abs/2101.08134),
whose programs add up layers as it is done here.

Sums run over the kernels of the layers that are searched, but where it is said: the programs of the papers add the
fixed layers as well, which in a small network outweigh them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxnas.base import Array, Context
from jaxnas.proxies.passes import Passes


def layers(of: Passes) -> Array:
    """The number of trainable layers: kernels of convolutions and of the classifier that the output depends on.

    >>> from jaxnas.base import Batch
    >>> from jaxnas.proxies import passes_of
    >>> apply = lambda params, x: x @ params["kernel"] + params["bias"]
    >>> params = {"kernel": jnp.ones((1, 3)), "bias": jnp.zeros((1, 3))}
    >>> float(layers(passes_of(apply, params, Batch(jnp.ones((2, 1)), jnp.arange(2)))))
    1.0
    """
    return of.summed(jnp.max, of.used, searched=False)


def l2_norm(of: Passes) -> Array:
    """Σ ‖θ‖ over layers that the output depends on.

    >>> from jaxnas.base import Batch
    >>> from jaxnas.proxies import passes_of
    >>> of = passes_of(lambda w, x: x @ w, jnp.array([[3.0, 4.0]]), Batch(jnp.ones((2, 1)), jnp.arange(2)))
    >>> float(l2_norm(of))
    5.0
    """
    return of.summed(lambda used, theta: jnp.linalg.norm(used * theta), of.used, of.params)


def grad_norm(of: Passes) -> Array:
    """Σ ‖∂L/∂θ‖ over layers.

    >>> from jaxnas.base import Batch
    >>> from jaxnas.objectives import regression
    >>> from jaxnas.proxies import passes_of
    >>> batch = Batch(jnp.ones(2), jnp.zeros(2))
    >>> of = passes_of(lambda w, x: w * x, jnp.array([2.0]), batch, objective=regression())
    >>> float(grad_norm(of))  # of the loss w^2
    4.0
    """
    return of.summed(jnp.linalg.norm, of.gradient)


def snip(of: Passes) -> Array:
    """Σ |θ · ∂L/∂θ|, what the loss would change by without each weight (Lee et al. 2019,
    https://arxiv.org/abs/1810.02340, its sensitivity before it is normalized).

    >>> from jaxnas.base import Batch
    >>> from jaxnas.objectives import regression
    >>> from jaxnas.proxies import passes_of
    >>> batch = Batch(jnp.ones(2), jnp.zeros(2))
    >>> of = passes_of(lambda w, x: w * x, jnp.array([-2.0]), batch, objective=regression())
    >>> float(snip(of))  # of the loss w^2: |w * 2 w|
    8.0
    """
    return of.summed(lambda theta, g: jnp.sum(jnp.abs(theta * g)), of.params, of.gradient)


def plain(of: Passes) -> Array:
    """Σ θ · ∂L/∂θ over all layers, the fixed ones as well.

    A layer before a batch norm gives exactly 0, since the loss does not depend on its scale. What is left are rounding
    and the classifier.

    >>> from jaxnas.base import Batch
    >>> from jaxnas.objectives import regression
    >>> from jaxnas.proxies import passes_of
    >>> batch = Batch(jnp.ones(2), jnp.ones(2))
    >>> of = passes_of(lambda w, x: w * x, jnp.array([-2.0]), batch, objective=regression())
    >>> float(plain(of))  # of the loss (w - 1)^2: w * 2 (w - 1)
    12.0
    """
    return of.summed(lambda theta, g: jnp.sum(theta * g), of.params, of.gradient, searched=False)


def grasp(of: Passes) -> Array:
    """-Σ θ · H ∂L/∂θ, H the Hessian by all kernels (Wang et al. 2020, https://arxiv.org/abs/2002.07376, with the sign
    of Abdelfattah et al.).

    Where every layer has a batch norm behind it, this is the squared norm of the gradient: the loss is homogeneous of
    degree 0 in them, so that H θ = -∂L/∂θ.

    >>> from jaxnas.base import Batch
    >>> from jaxnas.objectives import regression
    >>> from jaxnas.proxies import passes_of
    >>> batch = Batch(jnp.ones(2), jnp.zeros(2))
    >>> of = passes_of(lambda w, x: w * x, jnp.array([2.0]), batch, objective=regression())
    >>> float(grasp(of))  # of the loss w^2: -w * 2 * 2 w
    -16.0
    """
    fixed = jax.lax.stop_gradient(of.gradient)
    keep = [leaf.kernel for leaf in of.of.leaves]

    def along(params: object) -> Array:
        gradient = jax.tree.map(lambda leaf: leaf.mean(axis=0), of.gradients(params))
        parts = zip(jax.tree.leaves(gradient), jax.tree.leaves(fixed), keep, strict=True)
        return sum((jnp.sum(g * f) for g, f, kernel in parts if kernel), start=jnp.zeros(()))

    return -of.summed(lambda theta, hg: jnp.sum(theta * hg), of.params, jax.grad(along)(of.params))


def synflow(of: Passes) -> Array:
    """log Σ |θ · ∂R/∂θ| at the absolute values of all θ, R the sum of the outputs for an example of ones (Tanaka et al.
    2020, https://arxiv.org/abs/2006.05467).

    Over all kernels: the gradient of the fixed ones is as much of the architecture. Batch norms pass on what they are
    given, up to the small number that is added to the variance: mean 0, variance 1. -inf where nothing comes through.
    Grows with depth and width: at He's variance beyond float32 in networks of some 30 layers.

    >>> from jaxnas.base import Batch
    >>> from jaxnas.proxies import passes_of
    >>> of = passes_of(lambda w, x: x @ w, jnp.array([[1.0, -3.0]]), Batch(jnp.zeros((2, 1)), jnp.arange(2)))
    >>> round(float(jnp.exp(synflow(of))), 3)
    4.0
    """
    batch = of.batch
    ones = jax.tree.map(lambda leaf: jnp.ones((1, *leaf.shape[1:]), leaf.dtype), batch.inputs)
    seen = jax.eval_shape(lambda: of.outputs(of.params, ones)[1].stats)
    leaves, form = jax.tree.flatten(seen)  # pairs of mean and variance
    fixed = [jnp.full(leaf.shape, number % 2, leaf.dtype) for number, leaf in enumerate(leaves)]
    context = Context(jax.tree.unflatten(form, fixed))
    positive = jax.tree.map(jnp.abs, of.params)
    gradient = jax.grad(lambda p: jnp.sum(of.of.apply_path(p, of.arch, ones, context)[0]))(positive)
    return jnp.log(of.summed(lambda theta, g: jnp.sum(theta * g), positive, gradient, searched=False))


def fisher(of: Passes) -> Array:
    """Σ ½ mean (Σ a · ∂L/∂a)² over the channels of the rectifiers: a are the activations of a channel of an example,
    the inner sum is over positions, the mean over examples (Theis et al. 2018, https://arxiv.org/abs/1801.05787; Turner
    et al. 2020, https://arxiv.org/abs/1906.04113). Of the outputs of rectifiers, the stem's and the head's as well.

    >>> from jaxnas.base import Batch
    >>> from jaxnas.objectives import regression
    >>> from jaxnas.proxies import passes_of
    >>> batch = Batch(jnp.ones((2, 1)), jnp.zeros(2))
    >>> of = passes_of(lambda w, x: jax.nn.relu(x @ w), jnp.array([[2.0]]), batch, objective=regression())
    >>> float(fisher(of))  # the activation 2 times its gradient 2, squared and halved
    8.0
    """

    def loss(slot: Array) -> Array:
        seen = of.watched(of.batch.inputs, see=lambda x, y: (_tap(y, slot), ()))
        return of.of.objective.loss(seen.outputs[0], of.batch.targets).mean()

    return jax.grad(loss)(jnp.zeros(()))


@jax.custom_vjp
def _tap(y: Array, slot: Array) -> Array:
    """y. The gradient by the slot is what Fisher's information says of y; those of several taps add up."""
    return y


def _tap_forward(y: Array, slot: Array) -> tuple[Array, Array]:
    return y, y


def _tap_backward(y: Array, g: Array) -> tuple[Array, Array]:
    positions = tuple(range(1, y.ndim - 1))
    return g, 0.5 * jnp.square((y * g).sum(axis=positions)).mean(axis=0).sum()


_tap.defvjp(_tap_forward, _tap_backward)


def zico(of: Passes, *, searched: bool = False) -> Array:
    """Σ log Σ mean |∂L/∂θ| / std ∂L/∂θ: the outer sum over layers, the inner over their weights, mean and standard
    deviation over two batches, which are the halves of the batch (Li et al. 2023, https://arxiv.org/abs/2301.11300,
    equation 17, two batches as in the paper). Weights without deviation are left out, layers without any other count
    nothing.

    searched: of the searched layers alone; the paper has all, and so is the default.

    >>> from jaxnas.base import Batch
    >>> from jaxnas.objectives import regression
    >>> from jaxnas.proxies import passes_of
    >>> batch = Batch(jnp.array([1.0, 3.0]), jnp.zeros(2))
    >>> of = passes_of(lambda w, x: w * x, jnp.array([2.0]), batch, objective=regression())
    >>> round(float(jnp.exp(zico(of))), 3)  # gradients 4 and 36: mean 20, deviation 16
    1.25
    """

    def layer(first: Array, second: Array) -> Array:
        spread = jnp.abs(first - second) / 2
        there = spread > 0
        ratios = jnp.where(there, (jnp.abs(first) + jnp.abs(second)) / 2 / jnp.where(there, spread, 1.0), 0.0)
        total = ratios.sum()
        return jnp.where(total > 0, jnp.log(jnp.where(total > 0, total, 1.0)), 0.0)

    return of.summed(layer, *of.halves, searched=searched)
