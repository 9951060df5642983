"""The order in which a controller decides the choices of a space, as tables for one loop. Plain Python and NumPy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxnas.base import Choice


class Plan(NamedTuple):
    """What happens in each of T steps of the recurrent network. G decisions a step at most, N nodes, V vocabularies.

    place: int32 [T, G], the choice that is decided, D for none. allowed: bool [T, G, O], its options. vocabulary: int32
    [T], the set of options that the step's operations are from. points: bool [T], whether the decisions are among
    nodes. score: float32 [T, G, O, N], by what the scores of nodes enter those of options. reads: float32
    [T, G, O, N], 1 where an option reads a node. skips: bool [T, G], choices of whether to read. anchor: int32 [T],
    the node of which the step makes the anchor, N for none. given: bool [N], nodes that no choice makes. vocabularies:
    the different tuples of options.
    """

    place: np.ndarray
    allowed: np.ndarray
    vocabulary: np.ndarray
    points: np.ndarray
    score: np.ndarray
    reads: np.ndarray
    skips: np.ndarray
    anchor: np.ndarray
    given: np.ndarray
    vocabularies: tuple[tuple[str, ...], ...]


class _Step(NamedTuple):
    decides: tuple[int, ...] = ()
    anchor: str = ""


def make_plan(choices: tuple[Choice, ...]) -> Plan:
    """The steps for some choices, in their order.

    Raises: ValueError where there is no choice, or where `Choice.reads` does not fit the nodes.
    """
    if not choices:
        raise ValueError("there are no choices; give those of a space")
    made = {choice.node for choice in choices if choice.node}
    names = list(dict.fromkeys(name for choice in choices for option in choice.reads for name in option))
    for d, choice in enumerate(choices):
        _check(d, choice, choices)
    steps = _steps(choices, made)
    vocabularies = tuple(dict.fromkeys(choice.options for choice in choices if not choice.reads))
    nodes = list(dict.fromkeys([*names, *sorted(made)]))
    width = max(len(step.decides) for step in steps)
    options = max(len(choice.options) for choice in choices)
    shape = (len(steps), width, options)
    plan = Plan(
        place=np.full(shape[:2], len(choices), np.int32),
        allowed=np.zeros(shape, bool),
        vocabulary=np.zeros(len(steps), np.int32),
        points=np.zeros(len(steps), bool),
        score=np.zeros((*shape, len(nodes)), np.float32),
        reads=np.zeros((*shape, len(nodes)), np.float32),
        skips=np.zeros(shape[:2], bool),
        anchor=np.full(len(steps), len(nodes), np.int32),
        given=np.array([name not in made for name in nodes], bool),
        vocabularies=vocabularies,
    )
    for t, step in enumerate(steps):
        if step.anchor:
            plan.anchor[t] = nodes.index(step.anchor)
        for g, d in enumerate(step.decides):
            choice = choices[d]
            plan.place[t, g] = d
            plan.allowed[t, g, : len(choice.options)] = True
            if not choice.reads:
                plan.vocabulary[t] = vocabularies.index(choice.options)
                continue
            plan.points[t] = True
            for o, option in enumerate(choice.reads):
                for name in option:
                    plan.reads[t, g, o, nodes.index(name)] += 1
            plan.score[t, g] = plan.reads[t, g]
            if () in choice.reads:
                empty = choice.reads.index(())
                plan.skips[t, g] = True
                plan.score[t, g, empty] = -plan.reads[t, g, 1 - empty]
    return plan


def _check(d: int, choice: Choice, choices: tuple[Choice, ...]) -> None:
    if not choice.reads:
        return
    if len(choice.reads) != len(choice.options):
        raise ValueError(
            f"choice {choice.name!r} says what {len(choice.reads)} options read, but it has {len(choice.options)}"
        )
    if () in choice.reads and (len(choice.options) != 2 or choice.reads.count(()) != 1):
        raise ValueError(f"choice {choice.name!r} may read nothing, so it needs one other option, got {choice.options}")
    read = {name for option in choice.reads for name in option}
    if late := sorted({other.node for other in choices[d:]} & read):
        raise ValueError(f"choice {choice.name!r} may read {late[0]!r}, whose own choices must all come before it")


def _steps(choices: tuple[Choice, ...], made: set[str]) -> list[_Step]:
    """Groups choices of whether to read, and puts in the steps that make anchors."""

    def is_skip(d: int) -> bool:
        return () in choices[d].reads

    groups: list[tuple[int, ...]] = []
    for d, choice in enumerate(choices):
        joins = groups and is_skip(d) and is_skip(groups[-1][0]) and choices[groups[-1][0]].node == choice.node != ""
        groups[-1:] = [(*groups[-1], d)] if joins else [*groups[-1:], (d,)]
    # A node's anchor is the first state that has read what it does; whether it reads others may come in that very step.
    last = {choice.node: d for d, choice in enumerate(choices) if choice.node and not is_skip(d)}
    steps: list[_Step] = []
    known: set[str] = set()
    waiting = ""
    for group in groups:
        first = choices[group[0]]
        if waiting and not (is_skip(group[0]) and first.node == waiting):
            steps.append(_Step(anchor=waiting))
            waiting = ""
        part = (
            [choice for choice in choices if choice.node == first.node] if first.node else [choices[d] for d in group]
        )
        given = [name for choice in part for option in choice.reads for name in option if name not in made | known]
        for name in dict.fromkeys(given):
            steps.append(_Step(anchor=name))
            known.add(name)
        steps.append(_Step(group, waiting))
        waiting = first.node if last.get(first.node) == group[-1] else ""
    return steps
