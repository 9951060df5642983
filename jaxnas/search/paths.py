"""Training one path of a supernet: an optimizer that moves only what the path used.

A step along one architecture gives every other parameter a gradient of zero, which is not the same as leaving it alone:
an optimizer would still decay it, and move it by the momentum of steps along other paths. As if only the path had been
built (Pham et al. 2018, section 2.2; Guo et al. 2020, section 3.1, whose programs leave out what has no gradient), here
it gets neither decay, nor momentum, nor an update, and its part of the optimizer's state stays as it was.

`optax.masked` cannot do this: its masks are of whole leaves and fixed, those of a path are of slices and data.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxnas.base import Array, PyTree


def path_only(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """The optimizer on the used slices alone: `update(gradients, state, params, used=supernet.used(arch))`.

    used: a bool pytree of the form of the parameters. Each leaf broadcasts against its parameter, and is true where the
    path reads it, or where gradients are summed over several paths, where any of them does. The gradient of the
    rest is taken as zero, so that a clip by the global norm sees the path alone; its update is zero. Of the state, what
    has the form of the parameters (momentum, averages of squares) changes only in used slices; the rest (counts of
    steps, hence schedules and Adam's correction of its averages) moves on with every step.

    The optimizer must act on each number for itself or by norms of the gradient, as SGD and Adam do, decay and clipping
    included; one that takes norms of whole parameters (LARS) would see slices that are not used.

    >>> optimizer = path_only(optax.chain(optax.add_decayed_weights(0.5), optax.sgd(1.0)))
    >>> params, used = jnp.ones(2), jnp.array([True, False])
    >>> updates, _ = optimizer.update(jnp.ones(2), optimizer.init(params), params, used=used)
    >>> updates.tolist()
    [-1.5, 0.0]
    """
    inner = optax.with_extra_args_support(optimizer)

    def update(
        gradients: PyTree, state: optax.OptState, params: PyTree | None = None, *, used: PyTree, **extra: Any
    ) -> tuple[PyTree, optax.OptState]:
        updates, moved = inner.update(_where(used, gradients), state, params, **extra)
        # The masks in the form of the state; True for what is not of the form of the parameters.
        masks = optax.tree_map_params(inner, lambda _, mask: mask, state, used, transform_non_params=lambda _: True)
        kept = jax.tree.map(
            lambda mask, new, old: new if mask is True else _selected(mask, new, old), masks, moved, state
        )
        return _where(used, updates), kept

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _where(used: PyTree, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda mask, leaf: _selected(mask, leaf, jnp.zeros_like(leaf)), used, tree)


def _selected(mask: Array, new: Array, old: Array) -> Array:
    return jnp.where(mask, new, old)
