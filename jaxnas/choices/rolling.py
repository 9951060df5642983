"""Blocks that a model writes in a plain Python loop, found in its program and run in a loop again.

A loop in Python leaves as many copies of its body in the program as it has rounds, and XLA compiles each. Where the
copies are the same but for their parameters, constants and choices, one copy is compiled, in a `lax.scan` over these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnas.choices.program import Const, Program, Ref, Step
from jaxnas.choices.regions import ROOT, Regions

LEAST = 3
"""Rounds of a loop, at least."""


class Roll(NamedTuple):
    """The steps [start, start + period x rounds) of a program as a loop.

    body: of the first round. Its variables `carried` are given by the round before, `apart` by what differs from round
    to round. first: what the first round is given; gives: what a round gives to the next, or leaves at the end. apart:
    for each the values of all rounds. left: variables of the program that are the last round's `gives`, in its order.
    choices: name in the body -> the names in all rounds.
    """

    start: int
    period: int
    rounds: int
    body: Program
    carried: tuple[int, ...]
    first: tuple[Ref | None, ...]
    gives: tuple[int, ...]
    apart: tuple[tuple[int, tuple[Ref, ...]], ...]
    left: tuple[int | None, ...]
    choices: dict[str, tuple[str, ...]]

    @property
    def end(self) -> int:
        """The step behind."""
        return self.start + self.period * self.rounds


def find_rolls(program: Program, regions: Regions, kept: Sequence[Ref], simple: Callable[[Step], bool]) -> list[Roll]:
    """The loops of a program whose rounds each end in a choice.

    kept: references that are needed at the end. simple: whether a step may be in a loop: nothing of it changes with a
    width.
    """
    steps = program.steps
    ends = [number for number in sorted(regions.slots) if regions.of[number] == ROOT]
    signs = [_sign(step, program) if simple(step) else None for step in steps]
    rolls: list[Roll] = []
    place = 0
    while place < len(ends):
        found = _longest(steps, signs, ends, place, rolls[-1].end if rolls else 0)
        roll = None if found is None else _roll(program, regions, *found, kept)
        if roll is None:
            place += 1
            continue
        rolls.append(roll)
        place = next((p for p in range(place, len(ends)) if ends[p] >= roll.end), len(ends))
    return rolls


def _longest(
    steps: Sequence[Step], signs: Sequence[Any], ends: Sequence[int], place: int, least: int
) -> tuple[int, int, int] | None:
    """(start, period, rounds) of the loop whose first round ends at a choice, None where there is none."""
    for ahead in range(1, min(4, len(ends) - place)):
        period = ends[place + ahead] - ends[place]
        start = ends[place] + 1 - period
        if start < least or None in signs[start : start + period]:
            continue
        rounds = 1
        while signs[start + rounds * period : start + (rounds + 1) * period] == signs[start : start + period]:
            rounds += 1
        if rounds >= LEAST:
            return start, period, rounds
    return None


def _sign(step: Step, program: Program) -> Any:
    """What must be the same in all rounds."""
    params = {name: value for name, value in step.params[0].items() if name != "choice"}
    told = "" if step.name == "custom_jvp_call" else repr(sorted(params.items(), key=lambda item: item[0]))
    if step.name == "custom_jvp_call":
        told = str(params["call_jaxpr"])
    ins = tuple(
        (program.shapes[ref][0], program.types[ref])
        if isinstance(ref, int)
        else (np.shape(ref.values[0]), getattr(ref.values[0], "dtype", type(ref.values[0])))
        for ref in step.ins
    )
    return step.name, told, ins, tuple(program.shapes[v][0] for v in step.outs)


def _roll(program: Program, regions: Regions, start: int, period: int, rounds: int, kept: Sequence[Ref]) -> Roll | None:
    """The loop, where what its rounds read is alike; with fewer rounds where only those are."""
    steps, end = program.steps, start + period * rounds
    made = {v: (number - start, at) for number in range(start, end) for at, v in enumerate(steps[number].outs)}
    inputs = set(program.inputs)
    shapes, types = [[shape[0]] for shape in program.shapes], [*program.types]
    mapped: dict[Any, int] = {}
    carried: list[int] = []
    first: list[Ref | None] = []
    gives: list[int] = []
    apart: list[tuple[int, tuple[Ref, ...]]] = []

    def fresh(shape: Any, kind: Any) -> int:
        shapes.append([shape])
        types.append(kind)
        return len(shapes) - 1

    def alike(refs: tuple[Ref, ...]) -> Ref | None:
        """What stands in the body for what all rounds read in one place."""
        places = [made.get(ref) if isinstance(ref, int) else None for ref in refs]
        inner = [None if place is None else (place[0] % period, place[1]) for place in places]
        own = [place is not None and place[0] // period == number for number, place in enumerate(places)]
        if all(own) and len(set(inner)) == 1:
            return refs[0]
        before = [place is not None and place[0] // period == k for k, place in enumerate(places[1:])]
        if places[0] is None and all(before) and len(set(inner[1:])) == 1:
            key = ("carried", refs[0] if isinstance(refs[0], int) else id(refs[0]), inner[1])
            if key not in mapped:
                offset, at = inner[1]  # type: ignore[misc]
                source = steps[start + offset].outs[at]
                mapped[key] = fresh(program.shapes[source][0], program.types[source])
                carried.append(mapped[key])
                first.append(refs[0])
                gives.append(source)
            return mapped[key]
        if any(place is not None for place in places):
            return None
        if isinstance(refs[0], int):
            if all(ref == refs[0] for ref in refs):
                return refs[0]
            if not all(isinstance(ref, int) and ref in inputs for ref in refs):
                return None
            if refs not in mapped:
                mapped[refs] = fresh(program.shapes[refs[0]][0], program.types[refs[0]])
                apart.append((mapped[refs], refs))
            return mapped[refs]
        values = [ref.values[0] for ref in refs if isinstance(ref, Const)]
        if len(values) < len(refs):
            return None
        if all(np.array_equal(value, values[0]) for value in values):
            return Const(values[:1])
        variable = fresh(np.shape(values[0]), np.asarray(values[0]).dtype)
        apart.append((variable, refs))
        return variable

    body = []
    choices: dict[str, tuple[str, ...]] = {}
    for offset in range(period):
        every = [steps[start + number * period + offset] for number in range(rounds)]
        ins = []
        for at in range(len(every[0].ins)):
            ref = alike(tuple(step.ins[at] for step in every))
            if ref is None:
                return _roll(program, regions, start, period, rounds - 1, kept) if rounds > LEAST else None
            ins.append(ref)
        body.append(every[0]._replace(ins=tuple(ins), params=every[0].params[:1]))
        if every[0].name == "choose":
            names = tuple(step.params[0]["choice"] for step in every)
            if choices.setdefault(names[0], names) != names:
                return None
    read = {ref for number in range(end, len(steps)) for ref in steps[number].ins if isinstance(ref, int)}
    read.update(ref for ref in kept if isinstance(ref, int))
    needed = [v for v in made if v in read]
    if any(made[v][0] // period != rounds - 1 for v in needed) or any(_is_key(types[c]) for c, _ in apart):
        return None
    left: list[int | None] = [None] * len(gives)
    for v in needed:
        offset, at = made[v]
        source = steps[start + offset % period].outs[at]
        if source in gives and left[gives.index(source)] is None:
            left[gives.index(source)] = v
        else:
            carried.append(fresh(program.shapes[source][0], program.types[source]))
            first.append(None)
            gives.append(source)
            left.append(v)
    outs = {v for step in body for v in step.outs}
    given = dict.fromkeys(ref for step in body for ref in step.ins if isinstance(ref, int) and ref not in outs)
    inner = Program(tuple(given), body, tuple(gives), shapes, types)
    return Roll(
        start, period, rounds, inner, tuple(carried), tuple(first), tuple(gives), tuple(apart), tuple(left), choices
    )


def _is_key(kind: Any) -> bool:
    return jax.dtypes.issubdtype(kind, jax.dtypes.prng_key)  # type: ignore[attr-defined]
