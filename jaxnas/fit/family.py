"""The differentiable family by name: what each method is made of, and what it asks of a supernet."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from jaxnas.base import Arch, ArchWeights, SearchSpace
from jaxnas.catalog import Entry
from jaxnas.relax import There, softmax
from jaxnas.search import (
    Variant,
    above,
    beta_darts,
    darts_minus,
    drnas,
    droppable,
    fair_darts,
    gdas,
    p_darts,
    pc_darts,
    setn,
    smooth_darts,
    snas,
)
from jaxnas.supernets.executors import default_form

Variation = Literal[
    "darts", "gdas", "snas", "pc_darts", "drnas", "fair_darts", "smooth_random", "smooth_adversarial", "p_darts",
    "darts_minus", "beta_darts", "setn",
]  # fmt: skip
VARIATIONS: tuple[str, ...] = get_args(Variation)


class Part(NamedTuple):
    """A part of a search, which is all of it where the space does not shrink.

    steps: that a method anneals over. epochs, still: of the part, and in how many of them the weights alone move.
    there: the options that are left, None for all. rate: of the dropout behind skip connections. nodes: cell kind -> of
    each slot the node it ends in, empty for a space without such. operations: the options of each slot, () where they
    differ.
    """

    steps: int
    epochs: int
    still: int = 0
    there: There | None = None
    rate: float = 0.0
    nodes: Mapping[str, Sequence[int]] = {}
    operations: tuple[str, ...] = ()


def variant_of(method: Variation, part: Part) -> Variant:
    """The variant of a method.

    Raises: ValueError where the method needs a skip connection among the options, or edges between nodes.
    """
    there = part.there
    make: dict[str, Callable[[], Variant]] = {
        "darts": lambda: Variant(softmax(there=there)),
        "gdas": lambda: gdas(part.steps, there=there),
        "snas": lambda: snas(part.steps, there=there),
        "pc_darts": lambda: pc_darts(_nodes(part), there=there),
        "drnas": lambda: drnas(there=there),
        "fair_darts": lambda: fair_darts(operations=part.operations, there=there),
        "smooth_random": lambda: smooth_darts(part.steps, "random", there=there),
        "smooth_adversarial": lambda: smooth_darts(part.steps, "adversarial", there=there),
        "p_darts": lambda: p_darts(part.rate, part.steps // part.epochs, part.epochs, part.still, there=there),
        "darts_minus": lambda: darts_minus(part.steps, part.operations, there=there),
        "beta_darts": lambda: beta_darts(part.steps, there=there),
        "setn": lambda: setn(there=there),
    }
    return make[method]()


def _nodes(part: Part) -> Mapping[str, Sequence[int]]:
    if not part.nodes:
        raise ValueError("pc_darts normalizes the edges of a node, and the slots of this space are no edges")
    return part.nodes


def can_remat(entry: Entry) -> bool:
    """Whether the supernet of a space can compute edges again that it would keep otherwise."""
    return default_form() == "staged" and "remat" in inspect.signature(entry.supernet).parameters


def supernet_options(method: Variation, entry: Entry, partial: int, remat: bool = False) -> dict[str, Any]:
    """What the supernet of a method takes beside its skeleton. partial: that of the settings, 0 being the method's.

    Raises: ValueError where the space's supernet has no such form.
    """
    accepted = inspect.signature(entry.supernet).parameters
    options: dict[str, Any] = {}
    part = partial or (4 if method == "pc_darts" else 1)
    if part > 1:
        if "partial" not in accepted:
            raise ValueError(f"the supernet over {entry.name} has no partial channels: choose another space or method")
        options["partial"] = part
    if remat:
        if not can_remat(entry):
            where = f"over {entry.name} on this device"
            raise ValueError(f"search.remat changes nothing {where}: leave it out, or take search.accumulate")
        options["remat"] = True
    # One operation a slot is computed where the supernet can; the same is found by a whole mixture, more slowly.
    if method == "gdas" and part == 1 and "sampled" in accepted:
        options["sampled"] = True
    if method == "p_darts":
        if "operations" not in accepted or "skip_connect" not in entry.operations:
            raise ValueError(
                f"p_darts drops skip connections, and the supernet over {entry.name} has no such operation"
            )
        options["operations"] = droppable(accepted["operations"].default)
    return options


def rule_of(method: Variation, entry: Entry, space: SearchSpace) -> Callable[[ArchWeights], Arch]:
    """How the method's paper reads an architecture off a mixture: by the rule of the space where it says nothing."""
    if method == "fair_darts" and entry.name == "darts_free":
        return above(space.discretize, entry.operations.index("none"))
    return space.discretize


def nodes_of(entry: Entry, template: ArchWeights) -> Mapping[str, Sequence[int]]:
    """Cell kind -> of each slot the number of the node it ends in, empty for a space whose slots are no edges."""
    return dict.fromkeys(template, entry.ends) if entry.ends else {}


def rivals_of(entry: Entry, template: ArchWeights) -> Mapping[str, Sequence[int]]:
    """Cell kind -> of each slot the number of the group of which some slots are kept, empty where all are kept."""
    return dict.fromkeys(template, entry.rivals or entry.ends) if entry.keeps else {}
