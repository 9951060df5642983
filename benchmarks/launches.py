"""How many things a compiled program starts, by the text of its optimised HLO."""

from __future__ import annotations

import collections
import functools
import re

FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"}
"""What starts nothing."""


def launches(text: str) -> collections.Counter[str]:
    """How often each kind of instruction of an optimised program is started, by its HLO text."""
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        if match := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            name = match.group(2)
            bodies[name] = []
            entry = name if match.group(1) else entry
        elif name and (match := re.match(r"\s+(?:ROOT )?%?[\w.\-]+ = (.*)$", line)):
            bodies[name].append(match.group(1))

    def called(instruction: str, *attributes: str) -> list[str]:
        found = [re.search(rf"\b{a}=\{{?([^}},]+(?:, *%[^}},]+)*)", instruction) for a in attributes]
        return [n.strip().lstrip("%") for match in found if match for n in match.group(1).split(",")]

    @functools.cache
    def count(computation: str) -> collections.Counter[str]:
        total: collections.Counter[str] = collections.Counter()
        for instruction in bodies[computation]:
            match = re.search(r"(?:^|[\s)}\]])([a-z][a-z0-9\-]*)\(", instruction)
            kind = match.group(1) if match else ""
            if kind in FREE or kind.endswith("-done"):
                continue
            if kind == "while":
                trips = re.search(r'known_trip_count":\{"n":"(\d+)"', instruction)
                for inner, number in count(*called(instruction, "body")).items():
                    total[inner] += number * (int(trips.group(1)) if trips else 1)
                total["unknown loop"] += trips is None
            elif kind in ("call", "async-start"):
                total += count(*called(instruction, "calls", "to_apply"))
            elif kind == "conditional":
                branches = called(instruction, "branch_computations", "true_computation", "false_computation")
                total += count(max(branches, key=lambda branch: sum(count(branch).values())))
                total["conditional"] += 1
            else:
                total[kind] += 1
        return total

    return count(entry)
