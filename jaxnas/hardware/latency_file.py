"""A latency table of any user: a CSV of choice, option and milliseconds, measured wherever the network is to run."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxnas.base import SearchSpace
from jaxnas.benchmarks.cells import read_numbers
from jaxnas.benchmarks.columns import Columns, read_columns
from jaxnas.hardware.additive import Scores
from jaxnas.hardware.latency import LatencyTable
from jaxnas.spaces.darts import edge_table
from jaxnas.spaces.literals import shown

COLUMNS = ("choice", "option", "milliseconds")
FREE = ("none", "skip_connect", "identity")
"""Options that take no time where a table does not name them."""

_Slot = tuple[str, int]
"""Cell kind, and the slot in it."""


def read_latency_table(path: str | os.PathLike[str], space: SearchSpace) -> LatencyTable:
    """The table of a file with the columns choice, option and milliseconds, over the mixture weights of a space.

    A choice is one of the space by its name, as "edge 3←0" of NAS-Bench-201 or "stage 0 layer 1" of a chain; an edge of
    a DARTS cell as "normal 3←0"; all slots of a cell kind, "normal"; or "*", all. A later row counts for what it names
    more closely or again. A row of the choice "constant" without an option is what every network takes beside. Options
    in `FREE` take no time where no row has them. The batch is that of the measurement, and not known here: 0.

    Raises: OSError, or ValueError naming the row of what the space has not, or what no row has.

    >>> import tempfile
    >>> from jaxnas.spaces import product_space
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "board.csv")
    ...     size = path.write_text("choice,option,milliseconds\\nwidth,8,1.5\\nwidth,16,2.5\\n")
    ...     read_latency_table(path, product_space("tiny", {"width": (8, 16)})).milliseconds["width"].tolist()
    [[1.5, 2.5]]
    """
    source = read_columns(path)
    source.check(COLUMNS)
    times = read_numbers(source, "milliseconds")
    slots, options = slots_of(space)
    found: Scores = {kind: np.full(np.shape(value), np.nan) for kind, value in space.template().items()}
    constant = 0.0
    rows = sorted(range(len(times)), key=lambda row: _closeness(str(source.columns["choice"][row]).strip(), options))
    for row in rows:
        choice, option = (str(source.columns[name][row]).strip() for name in COLUMNS[:2])
        if not (math.isfinite(times[row]) and times[row] >= 0):
            raise source.error(row, "milliseconds", f"a time is 0 or positive, got {times[row]:g}")
        if choice == "constant":
            constant = float(times[row])
            continue
        named = _named(source, row, choice, slots, options)
        taken = [(kind, slot) for kind, slot in named if option in options[kind]]
        if not taken:
            kinds = {kind for kind, _ in named}
            known = ", ".join(dict.fromkeys(name for kind in kinds for name in options[kind]))
            raise source.error(row, "option", f"no option {shown(option)} of {choice!r}; there are {known}")
        for kind, slot in taken:
            found[kind][slot, options[kind].index(option)] = times[row]
    for kind, table in found.items():
        for at, option in enumerate(options[kind]):
            if option in FREE:
                table[:, at] = np.where(np.isnan(table[:, at]), 0.0, table[:, at])
        lacking = np.argwhere(np.isnan(table))
        if len(lacking):
            slot, at = (int(number) for number in lacking[0])
            name = next(name for name, place in slots.items() if place == (kind, slot))
            raise ValueError(
                f"{source.path} has no time of {options[kind][at]} for {name!r}, and of {len(lacking) - 1} more; write "
                'a row for each, or one with the choice "*"'
            )
    names = tuple(dict.fromkeys(name for kind in options for name in options[kind]))
    return LatencyTable(Path(path).stem, 0, names, found, constant)


def slots_of(space: SearchSpace) -> tuple[dict[str, _Slot], dict[str, tuple[str, ...]]]:
    """(name of a slot -> its place in the mixture weights; cell kind -> the names of its options).

    Raises: ValueError where the slots are neither the choices of the space nor the edges of DARTS cells.
    """
    template = {kind: np.shape(value) for kind, value in space.template().items()}
    if sum(slots for slots, _ in template.values()) == len(space.choices):
        slots: dict[str, _Slot] = {}
        options: dict[str, tuple[str, ...]] = {}
        first = np.zeros(len(space.choices), np.int32)
        base = {kind: np.asarray(value) for kind, value in space.one_hot(jnp.asarray(first)).items()}
        for d, choice in enumerate(space.choices):
            if len(choice.options) < 2:
                continue
            other = first.copy()
            other[d] = 1
            moved = {kind: np.asarray(value) for kind, value in space.one_hot(jnp.asarray(other)).items()}
            kind = next(kind for kind in base if (base[kind] != moved[kind]).any())
            slots[choice.name] = kind, int(np.flatnonzero((base[kind] != moved[kind]).any(axis=1))[0])
            options[kind] = choice.options
        return slots, options
    nodes = len(space.choices) // 6
    if space.name == "darts" and all(shape[0] == len(edge_table(nodes)) for shape in template.values()):
        places = {
            f"{kind} {node + 2}←{source}": (kind, slot)
            for kind in template
            for slot, (node, source) in enumerate(edge_table(nodes))
        }
        return places, {kind: space.vocabulary[: shape[1]] for kind, shape in template.items()}
    raise ValueError(f"latencies of {space.name} are no sum over its choices: there is no table of them")


def _closeness(choice: str, options: Mapping[str, tuple[str, ...]]) -> int:
    return 0 if choice == "*" else 1 if choice in options else 2


def _named(
    source: Columns, row: int, choice: str, slots: Mapping[str, _Slot], options: Mapping[str, tuple[str, ...]]
) -> list[_Slot]:
    """The slots that a choice names. Raises ValueError where it names none."""
    plain = choice.replace("<-", "←")
    if plain in slots:
        return [slots[plain]]
    named = [place for place in slots.values() if choice in ("*", place[0])]
    if not named:
        known = ", ".join([*slots, *options, "*"][:12])
        raise source.error(row, "choice", f"no choice {shown(choice)}; there are {known}, …")
    return named
