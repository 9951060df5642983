"""What happens inside a network, found in its traced program: its rectifiers, and the values that it marks.

So every network can be watched, also one of a user, and none knows of it. A rectifier is what it computes, the greater
of an array and the number 0, however it is written. Marks are those of `jaxnas.kernels.marks`. Loops, branches and
functions with gradient rules are looked into where there is something to see; the rest of the program stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from jaxnas.base import Array, PyTree
from jaxnas.jaxprs import scan_counts

See = Callable[[Array, Array], tuple[Array, PyTree]]
"""(what a rectifier reads, what it gives) -> (what it gives from now on, what is added up)."""


class Watched(NamedTuple):
    """outputs: of the function. total: the sum of what its rectifiers told. kept: the marked values, in turn."""

    outputs: Any
    total: PyTree
    kept: list[Array]


class _Watch(NamedTuple):
    see: See | None
    mark: str | None
    cut: bool


def watch(
    function: Callable[..., Any],
    *arguments: Any,
    see: See | None = None,
    zero: PyTree = (),
    mark: str | None = None,
    pushes: Sequence[Array] | None = None,
) -> Watched:
    """Calls a traceable function of arrays and tells what was seen. Differentiable, also by what `see` closes over.

    see: called for every rectifier of floats of two axes or more, in a branch for those of the branch that is taken.
    zero: what the sum starts from. mark: the name of the values that are kept. pushes: one for each of these; then
    every marked value is cut off from what was before it, and its push is added. So the gradient of a kept value by the
    pushes is that of one cell alone.

    Raises: ValueError for a rectifier in a loop of unknown length and for a mark in a branch.

    >>> count = lambda x, y: (y, (x > 0).sum())
    >>> seen = watch(jax.nn.relu, jnp.array([[1.0, -1.0, 2.0]]), see=count, zero=0)
    >>> seen.outputs.tolist(), int(seen.total)
    ([[1.0, 0.0, 2.0]], 2)
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    given = None if pushes is None else iter(pushes)
    watch = _Watch(see, mark, pushes is not None)
    zero = jax.tree.map(jnp.asarray, zero)
    leaves = jax.tree.leaves(arguments)
    outputs, total, kept = _evaluate(watch, closed.jaxpr, closed.consts, leaves, zero, given)
    return Watched(jax.tree.unflatten(jax.tree.structure(shape), outputs), total, kept)


def _rectified(eqn: Any) -> int | None:
    """Which operand of an equation is rectified, None where none is."""
    if eqn.primitive.name != "max":
        return None
    zero = [isinstance(one, Literal) and np.ndim(one.val) == 0 and float(one.val) == 0.0 for one in eqn.invars]
    if zero not in ([False, True], [True, False]):
        return None
    place = zero.index(False)
    array = eqn.invars[place].aval
    return place if array.ndim >= 2 and jnp.issubdtype(array.dtype, jnp.floating) else None


def _is_marked(watch: _Watch, eqn: Any) -> bool:
    return watch.mark is not None and eqn.primitive.name == "name" and eqn.params["name"] == watch.mark


def _programs(eqn: Any) -> Iterator[tuple[Jaxpr, Sequence[Any]]]:
    """The programs within an equation, and their constants."""
    for value in eqn.params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, ClosedJaxpr):
                yield one.jaxpr, one.consts
            elif isinstance(one, Jaxpr):
                yield one, ()


def _count(watch: _Watch, jaxpr: Jaxpr) -> tuple[int, int]:
    """How many rectifiers that are watched, and how many marks, a program has."""
    seen = marks = 0
    for eqn in jaxpr.eqns:
        seen += watch.see is not None and _rectified(eqn) is not None
        marks += _is_marked(watch, eqn)
        for inner, _ in _programs(eqn):
            more = _count(watch, inner)
            seen, marks = seen + more[0], marks + more[1]
    return seen, marks


def _evaluate(
    watch: _Watch, jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[Any], total: PyTree, given: Any
) -> tuple[list[Any], PyTree, list[Array]]:
    """given: an iterator over the pushes, None where there are none."""
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, arguments, strict=True))
    kept: list[Array] = []

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else values[variable]

    for eqn in jaxpr.eqns:
        outputs, total, own = _step(watch, eqn, [read(v) for v in eqn.invars], total, given)
        kept += own
        values.update(zip(eqn.outvars, outputs, strict=True))
    return [read(v) for v in jaxpr.outvars], total, kept


def _step(watch: _Watch, eqn: Any, inputs: list[Any], total: PyTree, given: Any) -> tuple[Any, PyTree, list[Array]]:
    """One equation: (outputs, the sum, what was kept)."""
    if _is_marked(watch, eqn):
        cut = lax.stop_gradient(inputs[0]) + next(given) if watch.cut else inputs[0]
        return [cut], total, [inputs[0]]
    programs = list(_programs(eqn))
    counts = [_count(watch, jaxpr) for jaxpr, _ in programs]
    if not any(seen or marks for seen, marks in counts):
        outputs = _bind(eqn, inputs)
        place = _rectified(eqn)
        if watch.see is not None and place is not None:
            outputs[0], told = watch.see(inputs[place], outputs[0])
            total = jax.tree.map(jnp.add, total, told)
        return outputs, total, []
    name = eqn.primitive.name
    if name == "scan":
        return _scan(watch, eqn, inputs, total, given, counts[0][1])
    if name == "cond":
        if any(marks for _, marks in counts):
            raise ValueError(f"a value marked {watch.mark!r} is within a branch, where it may not come to be")
        branches = [_branch(watch, jaxpr, consts) for jaxpr, consts in programs]
        return *lax.switch(inputs[0], branches, inputs[1:], total), []
    if name == "while":
        raise ValueError("a rectifier or a marked value is within a loop of unknown length, where it cannot be watched")
    jaxpr, consts = programs[0]
    return _evaluate(watch, jaxpr, consts, inputs, total, given)


def _bind(eqn: Any, inputs: list[Any]) -> list[Any]:
    given = eqn.primitive.get_bind_params(eqn.params)
    functions, params = given if isinstance(given, tuple) else ((), given)  # JAX has had both
    with eqn.ctx.manager:
        outputs = eqn.primitive.bind(*functions, *inputs, **params)
    return list(outputs) if eqn.primitive.multiple_results else [outputs]


def _branch(watch: _Watch, jaxpr: Jaxpr, consts: Sequence[Any]) -> Callable[[list[Any], PyTree], tuple[Any, PyTree]]:
    def run(operands: list[Any], total: PyTree) -> tuple[Any, PyTree]:
        return _evaluate(watch, jaxpr, consts, operands, total, None)[:2]

    return run


def _scan(
    watch: _Watch, eqn: Any, inputs: list[Any], total: PyTree, given: Any, marks: int
) -> tuple[list[Any], PyTree, list[Array]]:
    params, body = eqn.params, eqn.params["jaxpr"]
    fixed, carried = scan_counts(params)
    state, length = fixed + carried, params["length"]
    own = None
    if given is not None:  # in the order in which they are kept: step by step
        each = [[next(given) for _ in range(marks)] for _ in range(length)]
        own = [jnp.stack(steps) for steps in zip(*each, strict=True)]

    def step(carry: tuple[list[Any], PyTree], item: tuple[list[Any], Any]) -> Any:
        (values, total), (items, pushes) = carry, item
        outputs, total, kept = _evaluate(
            watch, body.jaxpr, body.consts, [*inputs[:fixed], *values, *items], total,
            None if pushes is None else iter(pushes),
        )  # fmt: skip
        return (outputs[:carried], total), (outputs[carried:], kept)

    (values, total), (outputs, stacked) = lax.scan(
        step, (inputs[fixed:state], total), (inputs[state:], own), length=length, reverse=params["reverse"]
    )
    order = reversed(range(length)) if params["reverse"] else range(length)
    return [*values, *outputs], total, [kept[number] for number in order for kept in stacked]
