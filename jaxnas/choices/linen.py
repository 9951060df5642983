"""Choices as modules of flax linen, and a linen model as functions of its parameters."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from jaxnas.choices.asking import asking, line
from jaxnas.choices.layers import call_depth, call_join, call_one_of
from jaxnas.choices.model import Traced, call_flag, check_stats
from jaxnas.choices.outside import Declared


class Layers:
    """Layers that a module holds without flax taking them for its own."""

    def __init__(self, layers: Mapping[str, Any]):
        self.layers = {name: _alone(layer) for name, layer in layers.items()}


def _alone(layer: Any) -> Any:
    """A copy that belongs to no other module, so that it gets a place in the one that calls it."""
    if not isinstance(layer, nn.Module):
        return layer
    if layer.scope is not None and layer.parent is None:
        raise ValueError(f"{line()}: a layer of a choice is bound already; give it as it was made, `nn.Dense(8)` say")
    return layer.clone(parent=None, name=None)


class Called(nn.Module):
    """A function of its inputs, which may make layers of its own."""

    layer: Any

    @nn.compact
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer(*args, **kwargs)


class OneOf(nn.Module):
    """What `one_of` gives."""

    choice: str
    layers: Layers

    @nn.compact
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return call_one_of(self.choice, calls(self, self.layers.layers), args, kwargs)


class Depth(nn.Module):
    """What `depth` gives."""

    choice: str
    layers: Layers
    options: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        blocks = list(calls(self, self.layers.layers).values())
        return call_depth(self.choice, blocks, self.options, x, args, kwargs)


class Join(nn.Module):
    """What `join` runs where inputs are functions, so that layers have the same names whichever of them are called."""

    choice: str
    layers: Layers
    options: tuple[str, ...]
    how: str
    axis: int

    @nn.compact
    def __call__(self, inputs: Mapping[str, Any]) -> Any:
        functions = calls(self, self.layers.layers)
        every = {name: functions.get(name, x) for name, x in inputs.items()}
        return call_join(self.choice, every, self.options, self.how, self.axis)


def calls(module: nn.Module, layers: Mapping[str, Any]) -> dict[str, Callable[..., Any]]:
    """The layers as functions, which make them where they are called, inside a module."""

    def call(name: str, layer: Any) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            own = layer.clone(parent=module, name=name) if isinstance(layer, nn.Module) else Called(layer, name=name)
            return own(*args, **kwargs)

        return run

    return {name: call(name, layer) for name, layer in layers.items()}


def one_of(name: str, layers: Mapping[str, Any]) -> OneOf:
    """A linen module."""
    return OneOf(name, Layers(layers))


def depth(name: str, layers: Sequence[Any], options: tuple[int, ...]) -> Depth:
    """A linen module."""
    return Depth(name, Layers({f"block_{number}": layer for number, layer in enumerate(layers)}), options)


def join(name: str, inputs: Mapping[str, Any], options: tuple[str, ...], how: str, axis: int) -> Any:
    """What is joined of inputs, some of which are functions."""
    functions = {part: x for part, x in inputs.items() if callable(x)}
    arrays = {part: None if callable(x) else x for part, x in inputs.items()}
    return Join(name, Layers(functions), options, how, axis)(arrays)


def is_layer(layer: Any) -> bool:
    """Whether something is a linen module."""
    return isinstance(layer, nn.Module)


def linen_model(make: Callable[[], nn.Module | Declared]) -> Traced:
    """A linen model as functions. make: gives the model, inside the trace, or one with choices from outside of it."""
    flag: list[Any] = []

    def made() -> tuple[nn.Module, Declared | None]:
        model = make()
        return (model.model, model) if isinstance(model, Declared) else (model, None)

    @contextlib.contextmanager
    def asked(declared: Declared | None) -> Iterator[None]:
        if declared is None:
            yield
            return
        with declared.asked() as had:
            yield
        if (trace := asking()) is not None and trace.mode == "all":
            declared.check(had)

    def call(model: nn.Module, train: bool) -> dict[str, Any]:
        if not flag:
            flag.append(call_flag(inspect.signature(type(model).__call__)))
        return {} if flag[0] is None else {flag[0][0]: train == flag[0][1]}

    def init(key: Any, inputs: Any) -> tuple[Any, Any]:
        model, declared = made()
        with _as_asked(None, dropout=False), asked(declared):
            variables = dict(model.init({"params": key, "dropout": key}, inputs, **call(model, True)))
        params, stats = variables.pop("params", {}), variables.pop("batch_stats", {})
        check_stats(stats, variables)
        return params, stats

    def apply(params: Any, stats: Any, key: Any, inputs: Any, train: bool, axis_name: str | None) -> tuple[Any, Any]:
        model, declared = made()
        variables = {"params": params, **({"batch_stats": stats} if stats else {})}
        rngs = {} if key is None else {"dropout": key}
        with _as_asked(axis_name, dropout=key is not None), asked(declared):
            outputs, changed = model.apply(
                variables, inputs, rngs=rngs, mutable=["batch_stats"] if train else [], **call(model, train)
            )
        return outputs, changed.get("batch_stats", {}) if train and stats else stats

    return Traced("linen", init, apply)


@contextlib.contextmanager
def _as_asked(axis_name: str | None, dropout: bool) -> Iterator[None]:
    """Batch norms tell the statistics of the batch, not a running mean; nothing is dropped where there is no key."""

    def intercept(following: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if context.method_name != "__call__":
            return following(*args, **kwargs)
        if isinstance(module, nn.BatchNorm):
            kept = module.momentum, module.axis_name
            object.__setattr__(module, "momentum", 0.0)
            object.__setattr__(module, "axis_name", module.axis_name or axis_name)
            try:
                return following(*args, **kwargs)
            finally:
                object.__setattr__(module, "momentum", kept[0])
                object.__setattr__(module, "axis_name", kept[1])
        if not dropout and isinstance(module, nn.Dropout):
            return args[0] if args else kwargs["inputs"]
        if not dropout and isinstance(module, nn.MultiHeadDotProductAttention):
            kwargs = {**kwargs, "deterministic": True}
        return following(*args, **kwargs)

    with nn.intercept_methods(intercept):
        yield


def is_model(model: Any) -> bool:
    """Whether something is a model of linen."""
    return isinstance(model, nn.Module)


def shapes_of(tree: Any) -> Any:
    """The shapes and types of arrays."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
