"""Two marks in the traced program of a model: where the options of a choice meet, and which inputs are there.

They are operations of JAX that nothing but this package computes (`running.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

choose_p = Primitive("choose")
"""Operands: those of the slots, one slot after another. choice: its name. select: option -> slot. slots: how many."""
choose_p.multiple_results = True
gate_p = Primitive("gate")
"""An array that is there, or has no entries on an axis. choice: its name. options: those under which it is there."""


def _of_slot(operands: Sequence[Any], slots: int) -> list[Any]:
    return list(operands[: len(operands) // slots])


@choose_p.def_impl
def _choose(*operands: Any, slots: int, **_: Any) -> list[Any]:
    return _of_slot(operands, slots)


@choose_p.def_abstract_eval
def _choose_form(*operands: Any, slots: int, **_: Any) -> list[Any]:
    return _of_slot(operands, slots)


def _choose_batch(operands: Any, axes: Any, **params: Any) -> tuple[list[Any], list[int]]:
    size = next(x.shape[a] for x, a in zip(operands, axes, strict=True) if a is not None)
    moved = [
        jnp.broadcast_to(x, (size, *x.shape)) if a is None else jnp.moveaxis(x, a, 0)
        for x, a in zip(operands, axes, strict=True)
    ]
    outs = choose_p.bind(*moved, **params)
    return outs, [0] * len(outs)


def _choose_jvp(operands: Any, tangents: Any, **params: Any) -> Any:
    full = [ad.instantiate_zeros(t) for t in tangents]
    return choose_p.bind(*operands, **params), choose_p.bind(*full, **params)


batching.primitive_batchers[choose_p] = _choose_batch
ad.primitive_jvps[choose_p] = _choose_jvp


def choose(name: str, select: Sequence[int], slots: Sequence[Any], labels: Sequence[str], where: str) -> Any:
    """Marks what the slots of a choice computed, pytrees of one form; gives one such.

    Raises: ValueError, with the line of the model, where slots are of other shapes or types.
    """
    leaves, trees = zip(*(jax.tree.flatten(slot) for slot in slots), strict=True)
    forms = [[(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in own] for own in leaves]
    for label, tree, form in zip(labels, trees, forms, strict=True):
        if (tree, form) != (trees[0], forms[0]):
            raise ValueError(
                f"{where}: the options of {name!r} give outputs of other shapes: {labels[0]} gives {_told(forms[0])}, "
                f"{label} gives {_told(form)}; make them alike, by a layer behind the option"
            )
    operands = [jnp.asarray(leaf) for own in leaves for leaf in own]
    outs = choose_p.bind(*operands, choice=name, select=tuple(select), slots=len(slots))
    return jax.tree.unflatten(trees[0], outs)


def _told(form: Sequence[Any]) -> str:
    return ", ".join(f"{dtype} {list(shape)}" for shape, dtype in form) or "nothing"


@gate_p.def_impl
def _gate(x: Any, *, there: bool, axis: int, **_: Any) -> Any:
    return x if there else jax.lax.slice_in_dim(x, 0, 0, axis=axis)


@gate_p.def_abstract_eval
def _gate_form(x: Any, *, there: bool, axis: int, **_: Any) -> Any:
    shape = tuple(size if there or at != axis else 0 for at, size in enumerate(x.shape))
    return x.update(shape=shape)


def gate(name: str, options: frozenset[int], there: bool, x: Any, axis: int) -> Any:
    """Marks an array that is there under some options of a choice alone. there: in this trace."""
    return gate_p.bind(x, choice=name, options=tuple(sorted(options)), there=there, axis=axis % x.ndim)
