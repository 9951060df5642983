"""Choices as modules of flax nnx, and an nnx model as functions of its parameters."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxnas.choices.asking import asking
from jaxnas.choices.layers import call_depth, call_one_of
from jaxnas.choices.model import Traced, call_flag, check_stats


class OneOf(nnx.Module):
    """What `one_of` gives. In the network of an architecture it holds the one option alone."""

    def __init__(self, choice: str, layers: Mapping[str, Any]):
        self.choice = choice
        self.names = tuple(layers)
        trace = asking()
        kept = self.names
        if trace is not None:
            number = trace.number(trace.ask("one_of", choice, self.names))
            kept = self.names if trace.mode == "all" else self.names[number : number + 1]
        for name in kept:
            setattr(self, f"option_{name}", layers[name])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        calls = {name: getattr(self, f"option_{name}", None) for name in self.names}
        return call_one_of(self.choice, calls, args, kwargs)  # type: ignore[arg-type]


class Depth(nnx.Module):
    """What `depth` gives. In the network of an architecture it holds its blocks alone."""

    def __init__(self, choice: str, layers: Sequence[Any], options: tuple[int, ...]):
        self.choice = choice
        self.options = options
        trace = asking()
        count = max(options)
        if trace is not None:
            found = trace.ask("depth", choice, options)
            count = count if trace.mode == "all" else found.options[trace.number(found)]
        self.count = count
        for number, layer in enumerate(layers[:count]):
            setattr(self, f"block_{number}", layer)

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        calls = [getattr(self, f"block_{number}") for number in range(self.count)]
        return call_depth(self.choice, calls, self.options, x, args, kwargs)


def is_layer(layer: Any) -> bool:
    """Whether something is an nnx module."""
    return isinstance(layer, nnx.Module)


def nnx_model(make: Callable[..., nnx.Module]) -> Traced:
    """An nnx model as functions. make: (rngs) -> the model, called inside the trace."""

    def made(key: Any) -> nnx.Module:
        return make(rngs=nnx.Rngs(key))

    def init(key: Any, inputs: Any) -> tuple[Any, Any]:
        _, params, stats, _, others = _parts(made(key))
        kept = {type(leaf).__name__: leaf for _, leaf in nnx.to_flat_state(others)}
        check_stats(nnx.to_pure_dict(stats), kept)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

    def apply(params: Any, stats: Any, key: Any, inputs: Any, train: bool, axis_name: str | None) -> tuple[Any, Any]:
        abstract = nnx.eval_shape(lambda: made(jax.random.key(0)))  # of a new function, or it would be that of before
        definition, own_params, own_stats, rngs, others = _parts(abstract)
        nnx.replace_by_pure_dict(own_params, params)
        nnx.replace_by_pure_dict(own_stats, stats)
        model = nnx.merge(definition, own_params, own_stats, _keyed(rngs, key), others)
        (model.train if train else model.eval)()
        for _, module in nnx.iter_modules(model):
            if isinstance(module, nnx.BatchNorm):  # it tells the statistics of the batch, not a running mean
                module.momentum = 0.0
                module.axis_name = module.axis_name or axis_name
            if key is None and hasattr(module, "deterministic"):
                module.deterministic = True
        flag = call_flag(inspect.signature(type(model).__call__))
        outputs = model(inputs, **({} if flag is None else {flag[0]: train == flag[1]}))
        return outputs, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)) if train else stats

    return Traced("nnx", init, apply)


def _parts(model: nnx.Module) -> Sequence[Any]:
    """Definition, parameters, statistics of batch norms, generators, and what else a model keeps."""
    return nnx.split(model, nnx.Param, nnx.BatchStat, nnx.RngState, ...)


def _keyed(rngs: Any, key: Any) -> Any:
    """The state of all generators: a key that is that of the layer's place alone, and a count of 0."""
    key = jax.random.key(0) if key is None else key
    pure = nnx.to_pure_dict(rngs)

    def fill(path: Any, leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.fold_in(key, zlib.crc32(jax.tree_util.keystr(path).encode()))
        return jnp.zeros(leaf.shape, leaf.dtype)

    nnx.replace_by_pure_dict(rngs, jax.tree_util.tree_map_with_path(fill, pure))
    return rngs


def is_made_with_rngs(make: Any) -> bool:
    """Whether something is a function of random generators, or a class of nnx."""
    if isinstance(make, type):
        return issubclass(make, nnx.Module)
    return callable(make) and "rngs" in inspect.signature(make).parameters


def variables_of(model: nnx.Module) -> tuple[Any, Any]:
    """Copies of the parameters and statistics of a module, in the form of its network."""
    _, params, stats, _, _ = _parts(model)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
