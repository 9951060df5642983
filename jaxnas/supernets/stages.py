"""The edges of a cell in stages, those of one stage together: how an accelerator runs them.

The sources of a stage are complete when it begins, and have edges to the same targets: the two inputs of a cell of
DARTS are one stage, each node is another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Array

Slots = tuple[tuple[int, ...], ...]
"""Of each of S sources the numbers of its E edges, in the order of their targets."""

Together = Callable[[Any, Any, Array, Any], tuple[Array, Any]]
"""(params, weights or operations, statistics: leaves [S, E, ...], x [S, B, H, W, C] before the last) ->
(the sums over sources [E, B, h, w, C], statistics seen [S, E, ...])."""


class Stage(NamedTuple):
    """sources: [S]. slots: [S][E]. targets: [E]."""

    sources: tuple[int, ...]
    slots: Slots
    targets: tuple[int, ...]


def stages(edges: Sequence[tuple[int, int]], within: bool) -> list[Stage]:
    """The edges (source, target) in stages. within: sources are nodes as well, in an order in which they complete."""
    result: list[Stage] = []
    for source in sorted({source for source, _ in edges}):
        slots = tuple(slot for slot, (start, _) in enumerate(edges) if start == source)
        targets = tuple(edges[slot][1] for slot in slots)
        last = result[-1] if result else None
        if last and last.targets == targets and not (within and source in targets):
            result[-1] = Stage((*last.sources, source), (*last.slots, slots), targets)
        else:
            result.append(Stage((source,), (slots,), targets))
    return result


def run_stages(
    together: Callable[[Slots], Together],
    inputs: Array | None,
    nodes: Array,
    edges: Sequence[tuple[int, int]],
    params: Any,
    selection: Array,
    stats: Any,
) -> tuple[Array, Any]:
    """As `edges.run_edges`. together: how to compute the edges of one stage, told which they are."""
    plan = stages(edges, inputs is None)
    order = tuple(stage.slots for stage in plan)
    leaves, tree = jax.tree.flatten((params, selection, stats))
    dealt = [_dealt(leaf, order) if jnp.issubdtype(leaf.dtype, jnp.floating) else _of(leaf, order) for leaf in leaves]
    values, seen = list(nodes), []
    for stage, *own in zip(plan, *dealt, strict=True):
        p, s, given = jax.tree.unflatten(tree, own)
        x = jnp.stack([(values if inputs is None else inputs)[source] for source in stage.sources])
        outputs, told = together(stage.slots)(p, s, x, given)
        for output, target in zip(apart(outputs), stage.targets, strict=True):
            values[target] = values[target] + output
        seen.append(told)
    return jnp.stack(values), jax.tree.map(lambda *parts: _gathered(parts, order), *seen)


def _of(leaf: Array, order: tuple[Slots, ...]) -> tuple[Array, ...]:
    return tuple(leaf[np.array(slots)] for slots in order)


def _gathered(parts: Sequence[Array], order: tuple[Slots, ...]) -> Array:
    """[S, E, ...] of each stage -> [E of all, ...] in the order of the edges."""
    place = np.argsort(np.concatenate([np.ravel(slots) for slots in order]))
    return jnp.concatenate([part.reshape(-1, *part.shape[2:]) for part in parts])[place]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _dealt(leaf: Array, order: tuple[Slots, ...]) -> tuple[Array, ...]:
    """[E of all, ...] -> [S, E, ...] of each stage. The gradient is put together once, not added up by stages."""
    return _of(leaf, order)


_dealt.defvjp(lambda leaf, order: (_of(leaf, order), None), lambda order, _, g: (_gathered(g, order),))


@jax.custom_vjp
def apart(array: Array) -> tuple[Array, ...]:
    """The entries along the first axis. The gradient is stacked once, not added up."""
    return tuple(array)


apart.defvjp(lambda array: (tuple(array), None), lambda _, g: (jnp.stack(g),))
