"""Which operations belong to one option of a choice alone, so that a path that takes another one leaves them out.

A region is a slot of a mark: all that leads to nothing but that slot. Regions are nested as choices are. An operation
belongs to the innermost region that holds all that read it. What leads to running statistics alone, as in batch norms,
belongs where its inputs are.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

from jaxnas.choices.program import Program, Ref, live

ROOT = 0


class Region(NamedTuple):
    """choice: its name. options: those that lead here. parent: the number of the region around."""

    parent: int
    depth: int
    choice: str
    options: frozenset[int]


class Regions(NamedTuple):
    """regions: the first is the whole program. of: of each step its region, None where nothing needs it.

    slots: number of a marked step -> the regions of its slots. stats: of each statistic the region that computes it.
    reads: of each variable the regions that read it.
    """

    regions: list[Region]
    of: list[int | None]
    slots: dict[int, list[int]]
    stats: list[int]
    reads: dict[int, set[int]]

    def inside(self, region: int, outer: int) -> bool:
        """Whether a region is the other one, or is somewhere within it."""
        while self.regions[region].depth > self.regions[outer].depth:
            region = self.regions[region].parent
        return region == outer

    def path(self, region: int) -> list[Region]:
        """The regions around and with it, but for the whole."""
        found = []
        while region != ROOT:
            found.append(self.regions[region])
            region = self.regions[region].parent
        return found


def find_regions(program: Program, outputs: Sequence[Ref], stats: Sequence[Ref]) -> Regions:
    """outputs: what must be computed whatever the architecture. stats: new running statistics."""
    regions = [Region(-1, 0, "", frozenset())]
    of: list[int | None] = [None] * len(program.steps)
    slots: dict[int, list[int]] = {}
    reads: dict[int, set[int]] = {ref: {ROOT} for ref in outputs if isinstance(ref, int)}

    def common(a: int, b: int) -> int:
        while a != b:
            if regions[a].depth < regions[b].depth:
                b = regions[b].parent
            else:
                a = regions[a].parent
        return a

    def read(ref: Ref, region: int) -> None:
        if isinstance(ref, int):
            reads.setdefault(ref, set()).add(region)

    for number in range(len(program.steps) - 1, -1, -1):
        step = program.steps[number]
        readers = [region for v in step.outs for region in reads.get(v, ())]
        if not readers:
            continue
        own = functools.reduce(common, readers)
        of[number] = own
        if step.name != "choose":
            for ref in step.ins:
                read(ref, own)
            continue
        params = step.params[0]
        slots[number] = []
        for slot in range(params["slots"]):
            taking = frozenset(option for option, to in enumerate(params["select"]) if to == slot)
            regions.append(Region(own, regions[own].depth + 1, params["choice"], taking))
            slots[number].append(len(regions) - 1)
            for ref in step.ins[slot * len(step.outs) : (slot + 1) * len(step.outs)]:
                read(ref, slots[number][-1])
    made = {v: of[number] for number, step in enumerate(program.steps) for v in step.outs}
    for number, needed in enumerate(live(program, stats)):
        if not needed or of[number] is not None:
            continue
        step = program.steps[number]
        sources = [made.get(ref) for ref in step.ins if isinstance(ref, int)]
        around = [region for region in sources if region is not None]
        own = max(around, key=lambda region: regions[region].depth, default=ROOT)
        of[number] = own
        made.update(dict.fromkeys(step.outs, own))
    owners = [made.get(ref) or ROOT if isinstance(ref, int) else ROOT for ref in stats]
    return Regions(regions, of, slots, owners, reads)
