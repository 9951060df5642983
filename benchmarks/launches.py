"""How many things a compiled program starts and how much they read and write, by the text of its optimized HLO."""

from __future__ import annotations

import collections
import functools
import math
import re

FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"}
"""What starts nothing."""


def size(kind: str, shape: str) -> int:
    """Bytes of a shape as HLO writes it, that of a tuple too. The work space of a library call is not counted."""
    arrays = re.findall(r"\b(pred|bf|[a-z])(\d*)\w*\[([\d,]*)\]", shape)
    return sum(
        max(int(bits or 8), 8) // 8 * math.prod(int(n) for n in numbers.split(",") if n)
        for letter, bits, numbers in arrays
        if not (kind == "custom-call" and letter in "su" and bits == "8")
    )


def launches(text: str) -> collections.Counter[str]:
    """How often each kind of instruction is started.

    Also "bytes", the sizes of all operands and results of what is started, which is more than moves where a kernel
    reads a part of an operand; "conditional", of which the largest branch counts, or each once in a loop of as many
    turns as it has branches; and "unknown loop", of unknown trips, whose body counts once.
    """
    bodies: dict[str, list[tuple[str, str, str, str]]] = {}
    entry = name = ""
    for line in text.splitlines():
        if match := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            name = match.group(2)
            bodies[name] = []
            entry = name if match.group(1) else entry
        elif name and (
            match := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*?)(?:^|(?<=[\s)}\]]))([a-z][a-z0-9\-]*)\((.*)$", line)
        ):
            bodies[name].append((match.group(1), match.group(2), match.group(3), match.group(4)))

    def called(rest: str, *attributes: str) -> list[str]:
        found = [re.search(rf"\b{a}=\{{?([^}},]+(?:, *%[^}},]+)*)", rest) for a in attributes]
        return [n.strip().lstrip("%") for match in found if match for n in match.group(1).split(",")]

    def trips(rest: str) -> int | None:
        """Of a loop: what the compiler knows, or else where its condition ends, if it counts from zero as JAX does."""
        if known := re.search(r'known_trip_count":\{"n":"(\d+)"', rest):
            return int(known.group(1))
        condition = [body for name in called(rest, "condition") for body in bodies.get(name, [])]
        if not condition or condition[-1][2] != "compare" or "direction=LT" not in condition[-1][3]:
            return None
        constants = {result: value.split(")")[0] for result, _, kind, value in condition if kind == "constant"}
        ends = [constants[name] for name in re.findall(r"%([\w.\-]+)", condition[-1][3]) if name in constants]
        return int(ends[0]) if ends else None

    @functools.cache
    def count(computation: str, times: int, turns: int | None) -> collections.Counter[str]:
        """Of that many runs of a computation; turns: how many of them are one loop."""
        total: collections.Counter[str] = collections.Counter()
        sizes = {}
        for result, shape, kind, rest in bodies[computation]:
            sizes[result] = size(kind, shape)
            if kind in FREE or kind.endswith("-done"):
                continue
            if kind == "while":
                own = trips(rest)
                for body in called(rest, "body"):
                    total += count(body, times * (own or 1), own)
                total["unknown loop"] += times * (own is None)
            elif kind in ("call", "async-start"):
                for body in called(rest, "calls", "to_apply"):
                    total += count(body, times, turns)
            elif kind == "conditional":
                branches = called(rest, "branch_computations", "true_computation", "false_computation")
                each_once = turns is not None and len(branches) == turns
                counts = [count(branch, times // len(branches) if each_once else times, None) for branch in branches]
                for branch in counts if each_once else [max(counts, key=lambda counted: counted["bytes"])]:
                    total += branch
                total["conditional"] += times
            else:
                total[kind] += times
                operands = re.findall(r"%([\w.\-]+)", rest.split(")")[0])
                total["bytes"] += times * (sizes[result] + sum(sizes.get(operand, 0) for operand in operands))
        return total

    return count(entry, 1, None)
