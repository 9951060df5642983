"""What all supernets need to give the parameters of a derived network: cut out, put together, batch norms filled in."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxnas.base import Arch, Context, Network, PyTree, Stats, Supernet, no_parameters
from jaxnas.checks import inputs_form


def as_network(network: Callable[[Arch], Network], params: PyTree, arch: Arch) -> PyTree:
    """Parameters in the form of the derived network's; where they have no affine batch norm, scale 1 and offset 0."""
    shapes = jax.eval_shape(network(arch).init, jax.random.key(0))[0]
    return _filled(params, shapes)


def _filled(params: PyTree, shapes: PyTree) -> PyTree:
    if params is None and isinstance(shapes, dict):
        return {
            name: (jnp.ones if name == "scale" else jnp.zeros)(leaf.shape, leaf.dtype) for name, leaf in shapes.items()
        }
    if isinstance(shapes, dict):
        return {name: _filled(params.get(name), each) for name, each in shapes.items()}
    if isinstance(shapes, list | tuple):
        return type(shapes)(_filled(*each) for each in zip(params, shapes, strict=True))
    return params


def of_channels(supernet: Supernet, partial: int) -> Supernet:
    """The supernet, whose parameters are those of no network where it mixes a part of the channels."""
    if partial == 1:
        return supernet
    return supernet._replace(extract=no_parameters, extract_stats=no_parameters)


def path_stats(supernet: Supernet) -> Stats:
    """The running statistics of a supernet's paths before any batch: of all batch norms mean 0 and variance 1."""
    params = jax.eval_shape(supernet.init, jax.random.key(0))
    arch = jax.ShapeDtypeStruct((len(supernet.space.choices),), jnp.int32)
    x = inputs_form(supernet, 2)
    shapes = jax.eval_shape(lambda p, a, x: supernet.apply_path(p, a, x, Context())[1].stats, params, arch, x)
    leaves, tree = jax.tree.flatten(shapes)  # means and variances in turn
    fills = (jnp.zeros, jnp.ones)
    return jax.tree.unflatten(tree, [fills[i % 2](leaf.shape, leaf.dtype) for i, leaf in enumerate(leaves)])
