"""Choices among layers, whatever they are made of: what each option computes is called, and marked.

`linen.py` and `nnx.py` have the modules that hold the layers. This module knows functions alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas.choices.asking import Asking, asking, check_options, line
from jaxnas.choices.marks import choose, gate

Call = Callable[..., Any]


def skip(x: Any, *_: Any, **__: Any) -> Any:
    """The option of `one_of` that gives back its first input.

    >>> skip(jnp.arange(3)).tolist()
    [0, 1, 2]
    """
    return x


def call_one_of(name: str, calls: Mapping[str, Call], args: Any, kwargs: Any) -> Any:
    """What a choice among named functions of the same arguments computes."""
    trace = asking()
    if trace is None:
        return next(iter(calls.values()))(*args, **kwargs)
    found = trace.ask("one_of", name, tuple(calls))
    if trace.mode == "one":
        number = trace.number(found)
        with trace.under(name, [number]):
            return calls[found.options[number]](*args, **kwargs)
    slots = []
    for number, option in enumerate(found.options):
        with trace.under(name, [number]):
            slots.append(calls[option](*args, **kwargs))
    return choose(name, range(len(slots)), slots, found.labels, line())


def call_depth(name: str, calls: Sequence[Call], options: Sequence[int], x: Any, args: Any, kwargs: Any) -> Any:
    """The first so many of functions, one after another."""
    trace = asking()
    if trace is None:
        for call in calls[: max(options)]:
            x = call(x, *args, **kwargs)
        return x
    found = trace.ask("depth", name, options)
    if trace.mode == "one":
        count = found.options[trace.number(found)]
        for number, call in enumerate(calls[:count]):
            with trace.under(name, _deeper(options, number)):
                x = call(x, *args, **kwargs)
        return x
    for number, call in enumerate(calls[: max(options)]):
        there = _deeper(options, number)
        with trace.under(name, there):
            y = call(x, *args, **kwargs)
        if len(there) == len(options):
            x = y
            continue
        select = [int(option in there) for option in range(len(options))]
        x = choose(name, select, [x, y], [f"block {number - 1}", f"block {number}"], line())
    return x


def _deeper(options: Sequence[int], number: int) -> list[int]:
    """The options of a depth under which block `number` is there."""
    return [option for option, count in enumerate(options) if count > number]


def check_depth(name: str, layers: Sequence[Any], options: Sequence[int] | None) -> tuple[int, ...]:
    """The numbers of blocks, by default all. Raises ValueError, with the line of the model, for others."""
    given = tuple(range(len(layers) + 1)) if options is None else tuple(options)
    check_options(name, given)
    if any(not isinstance(count, int) or not 0 <= count <= len(layers) for count in given):
        raise ValueError(f"{line()}: the depth {name!r} has {len(layers)} blocks, so it cannot be {list(given)}")
    return given


def check_join(name: str, inputs: Mapping[str, Any], options: Sequence[str] | None, how: str) -> tuple[str, ...]:
    """The options of a join. Raises ValueError, with the line of the model, for what there is not."""
    given = tuple(options) if options is not None else tuple(dict.fromkeys((*inputs, "+".join(inputs))))
    check_options(name, given)
    for option in given:
        if unknown := [part for part in option.split("+") if part not in inputs]:
            raise ValueError(
                f"{line()}: the option {option!r} of {name!r} joins {', '.join(unknown)}; there are {', '.join(inputs)}"
            )
    if how not in ("sum", "mean", "concat"):
        raise ValueError(f"{line()}: how must be sum, mean or concat, got {how!r}")
    return given


def call_join(name: str, inputs: Mapping[str, Any], options: Sequence[str], how: str, axis: int) -> Any:
    """What a join computes. inputs: name -> array, or a function () -> array."""
    parts = [option.split("+") for option in options]
    trace = asking()
    if trace is None:
        return _joined([_array(x) for part, x in inputs.items() if part in parts[-1]], how, axis)
    found = trace.ask("join", name, options)
    if trace.mode == "one":
        number = trace.number(found)
        with trace.under(name, [number]):
            return _joined([_array(x) for part, x in inputs.items() if part in parts[number]], how, axis)
    arrays = []
    for part, x in inputs.items():
        there = frozenset(number for number, own in enumerate(parts) if part in own)
        with trace.under(name, there):
            arrays.append(_present(name, there, len(parts), _array(x)))
    if how == "concat":
        members = [frozenset(n for n, own in enumerate(parts) if part in own) for part in inputs]
        return jnp.concatenate(
            [gate(name, own, _there(trace, name, own), x, axis) for own, x in zip(members, arrays, strict=True) if own],
            axis,
        )
    slots = [_joined([x for part, x in zip(inputs, arrays, strict=True) if part in own], how, axis) for own in parts]
    return choose(name, range(len(slots)), slots, found.labels, line())


def _array(x: Any) -> Any:
    return jnp.asarray(x() if callable(x) else x)


def _present(name: str, options: frozenset[int], count: int, x: Any) -> Any:
    """x under some options, and zeros, for which nothing is computed, under the others."""
    if len(options) in (0, count):
        return x
    select = [int(option in options) for option in range(count)]
    return choose(name, select, [jnp.zeros_like(x), x], ["zeros", "input"], line())


def _there(trace: Asking, name: str, options: frozenset[int]) -> bool:
    """Whether an input is there in this trace; all are where nothing is taken."""
    return name not in trace.taken or trace.taken[name] in options


def _joined(arrays: Sequence[Any], how: str, axis: int) -> Any:
    if how == "concat":
        return jnp.concatenate(arrays, axis)
    total = functools.reduce(jnp.add, arrays)
    return total / len(arrays) if how == "mean" else total


def narrow(x: Any, size: int, axis: int = -1) -> Any:
    """The first so many entries of an array along an axis. size: a `width`, or any number.

    Raises: ValueError, with the line of the model, where there are fewer.

    >>> from jaxnas.choices import width
    >>> narrow(jnp.ones((4, 16)), width("features", (4, 8))).shape  # outside of a search: the largest
    (4, 8)
    """
    if size > x.shape[axis]:
        raise ValueError(f"{line()}: a width of {size} is larger than the layer, which has {x.shape[axis]} features")
    return jax.lax.slice_in_dim(x, 0, size, axis=axis % x.ndim)
