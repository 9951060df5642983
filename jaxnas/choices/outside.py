"""Choices that are declared outside of a linen model, which stays as it is, with the names of its parameters."""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn

from jaxnas.choices.asking import asking, width
from jaxnas.choices.layers import call_depth


class Declared(NamedTuple):
    """A model with choices from outside, as `declared` gives it."""

    model: nn.Module
    widths: Mapping[str, tuple[int, ...]]
    optional: tuple[str, ...]

    @contextlib.contextmanager
    def asked(self) -> Iterator[set[str]]:
        """Modules that run inside ask for their choices. Gives the patterns that a module had, once they have run."""
        had: set[str] = set()

        def intercept(following: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if context.method_name != "__call__" or asking() is None:
                return following(*args, **kwargs)
            module = context.module
            place = "/".join(module.path)
            name = place.replace("/", ".")
            optional, pattern = _first(self.optional, place), _first(self.widths, place)
            had.update(own for own in (optional, pattern) if own is not None)

            def run(*args: Any, **kwargs: Any) -> Any:
                if pattern is None:
                    return following(*args, **kwargs)
                with _narrowed(module, name, self.widths[pattern], args):
                    return following(*args, **kwargs)

            if optional is None:
                return run(*args, **kwargs)
            return call_depth(f"{name}.there", [run], (0, 1), args[0], args[1:], kwargs)

        with nn.intercept_methods(intercept):
            yield had

    def check(self, had: set[str]) -> None:
        """Raises ValueError for a pattern that no module had."""
        for pattern in (*self.widths, *self.optional):
            if pattern not in had:
                raise ValueError(f"the model has no module {pattern!r}; places are such as 'Block_0/Dense_1'")


def declared(
    model: nn.Module, widths: Mapping[str, Sequence[int]] | None = None, optional: Sequence[str] = ()
) -> Declared:
    """A linen model with choices that are not written in it; `searchable` and `shrink` take it as a model.

    widths: the place of a layer in the model, "Block_0/Dense_1" -> how wide it may be, its own width among them: the
    features of a Dense or Conv, the heads of an attention, each of which keeps its size. optional: places of modules
    that may be left out, which give what they are given, and must keep its shape. A place may have * and […] as paths
    of files have; every layer that it fits has a choice of its own, and the first that fits counts. All
    names of parameters stay, so that a model that was trained before can be shrunk. The model is not changed.

    Raises: ValueError for something else than a linen module, and where nothing is declared; once the model is traced,
    for a place where there is no module, and a layer without a width, or with one that is not among the options.

    >>> import jax.numpy as jnp
    >>> from jaxnas.choices import searchable
    >>> model = nn.Sequential([nn.Dense(16), nn.relu, nn.Dense(1)])
    >>> own = searchable(declared(model, widths={"layers_0": (8, 16)}), jnp.zeros((1, 3)))
    >>> own.space.choices[0].name, own.space.choices[0].options
    ('layers_0', ('8', '16'))
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"choices are declared for a linen module, got {model!r:.200}")
    if not widths and not optional:
        raise ValueError("nothing is declared: give widths, or modules that are optional")
    return Declared(model, {name: tuple(options) for name, options in (widths or {}).items()}, tuple(optional))


_WIDTHS = ((nn.Dense, "features"), (nn.Conv, "features"), (nn.MultiHeadDotProductAttention, "num_heads"))


def _first(patterns: Sequence[str] | Mapping[str, Any], place: str) -> str | None:
    """The first pattern that fits a place, part by part."""
    parts = place.split("/")
    for pattern in patterns:
        own = pattern.split("/")
        if len(own) == len(parts) and all(map(fnmatch.fnmatchcase, parts, own)):
            return pattern
    return None


@contextlib.contextmanager
def _narrowed(module: nn.Module, name: str, options: tuple[int, ...], args: Sequence[Any]) -> Iterator[None]:
    """While it lasts, the layer is as wide as the trace asks for."""
    field = next((field for kind, field in _WIDTHS if isinstance(module, kind)), None)
    own = None if field is None else getattr(module, field)
    if field is None or max(options) != own:
        known = "has no width that is known" if field is None else f"is {own} wide, which must be the largest option"
        raise ValueError(f"the module {name}, a {type(module).__name__}, {known}; got {list(options)}")
    new = {field: width(name, options)}
    if field == "num_heads":
        every = module.qkv_features or args[0].shape[-1]
        new["qkv_features"] = every // own * new[field]
    kept = {name: getattr(module, name) for name in new}
    for name, value in new.items():
        object.__setattr__(module, name, value)
    try:
        yield
    finally:
        for name, value in kept.items():
            object.__setattr__(module, name, value)
