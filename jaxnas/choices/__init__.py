"""Choices inside one's own flax model, which make it a search space (docs/own_model.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxnas.choices import linen, nnx
from jaxnas.choices.asking import asking, check_options, line, value, width
from jaxnas.choices.layers import call_join, check_depth, check_join, narrow, skip
from jaxnas.choices.outside import declared
from jaxnas.choices.searching import Searchable, searchable

__all__ = ["Searchable", "declared", "depth", "join", "narrow", "one_of", "searchable", "skip", "value", "width"]


def one_of(name: str, layers: Mapping[str, Any]) -> Any:
    """A layer among several.

    layers: option -> a flax module, or a function of the inputs, which may make modules; `skip` gives back its
    input. All must give outputs of one shape. Each option has parameters of its own, and so has each place where a
    choice of one name stands.

    Returns: a layer, which is called as the options are. Outside of a search it is the first option.

    Raises: ValueError, with the line of the model, for layers without names, less than one option, or one
    layer in two options.

    >>> import flax.linen as nn
    >>> import jax.numpy as jnp
    >>> def model():
    ...     return nn.Sequential([one_of("layer", {"dense": nn.Dense(3), "skip": skip}), nn.Dense(1)])
    >>> own = searchable(model, jnp.zeros((1, 3)))
    >>> [own.network(jnp.array([entry])).costs["params"] for entry in (0, 1)]
    [16, 4]
    """
    if not isinstance(layers, Mapping):
        raise ValueError(
            f"{line()}: the layers of {name!r} are a {type(layers).__name__}: give a dictionary of name -> layer"
        )
    check_options(name, tuple(layers))
    modules = _modules(layers.values())
    if len({id(layer) for layer in modules}) < len(modules):
        raise ValueError(f"{line()}: two options of {name!r} are one layer, and would share parameters; make two")
    return nnx.OneOf(name, layers) if _of_nnx(modules) else linen.one_of(name, layers)


def depth(name: str, layers: Sequence[Any], options: Sequence[int] | None = None) -> Any:
    """The first so many of some layers, one after another: whether, and how often, a block is there.

    layers: flax modules or functions, each of which gives what the next one takes. options: how many there may be; by
    default 0 to all of them.

    Returns: a layer. Outside of a search it has as many as the largest option.

    Raises: ValueError, with the line of the model, for numbers that there are not.

    >>> import flax.linen as nn
    >>> import jax.numpy as jnp
    >>> def model():
    ...     return nn.Sequential([depth("blocks", [nn.Dense(3), nn.Dense(3)], (0, 1, 2)), nn.Dense(1)])
    >>> own = searchable(model, jnp.zeros((1, 3)))
    >>> [own.network(jnp.array([entry])).costs["params"] for entry in (0, 1, 2)]
    [4, 16, 28]
    """
    given = check_depth(name, layers, options)
    modules = _modules(layers)
    if len({id(layer) for layer in modules}) < len(modules):
        raise ValueError(f"{line()}: two blocks of {name!r} are one layer, and would share parameters; make two")
    return nnx.Depth(name, layers, given) if _of_nnx(modules) else linen.depth(name, layers, given)


def join(
    name: str, inputs: Mapping[str, Any], options: Sequence[str] | None = None, *, how: str = "sum", axis: int = -1
) -> Any:
    """Which of some inputs are joined, and so which connections there are.

    inputs: name -> array, or a function () -> array, whose layers are left out where it is not joined. options: each
    names the inputs that it joins, with "+" between them, as "a" and "a+b"; by default each input alone, and all of
    them. how: "sum", "mean", or "concat" along `axis`, a layer behind which then has fewer inputs where fewer are
    joined.

    Returns: what is joined; outside of a search that of the last option.

    Raises: ValueError, with the line of the model, for an option that names something else, another `how`, or inputs
    of other shapes.

    >>> import jax.numpy as jnp
    >>> inputs = {"a": jnp.ones((1, 2)), "b": jnp.ones((1, 3))}
    >>> join("inputs", inputs, ("a", "a+b"), how="concat").shape  # outside of a search: the last option
    (1, 5)
    """
    given = check_join(name, inputs, options, how)
    if any(callable(x) for x in inputs.values()) and not _of_nnx(()):
        return linen.join(name, inputs, given, how, axis)
    return call_join(name, inputs, given, how, axis)


def _modules(layers: Iterable[Any]) -> list[Any]:
    return [layer for layer in layers if linen.is_layer(layer) or nnx.is_layer(layer)]


def _of_nnx(modules: Sequence[Any]) -> bool:
    """Whether layers are of nnx; where none is a module, whether the model that is traced is."""
    trace = asking()
    return any(map(nnx.is_layer, modules)) or (not modules and trace is not None and trace.framework == "nnx")
