"""What architectures of one's own model cost: parameters and multiply-adds, exact.

Parameters are counted in the shapes of arrays. Multiply-adds are those of products of matrices and of convolutions, for
one example, as they stand in the traced program; additions, norms and activations count 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnas.base import SearchSpace
from jaxnas.choices.axes import Axis, Layouts
from jaxnas.choices.program import Const, Program, Step, bodies
from jaxnas.choices.quantities import Quantity
from jaxnas.choices.regions import Region
from jaxnas.choices.running import Plan
from jaxnas.hardware import AdditiveFit, Structure, fit_additive, kind_of, one_option_each, sums, together
from jaxnas.ops.costs import CostTable

Condition = frozenset[tuple[str, frozenset[int]]]
"""Options of some choices, of all of which one must be taken."""


def count_macs(jaxpr: Any) -> int:
    """Multiply-adds of a program: its products and convolutions, those of a loop as often as it runs."""
    total = 0
    for eqn in jaxpr.eqns:
        own = own_macs(eqn.primitive.name, eqn.params, [v.aval.shape for v in (*eqn.invars, *eqn.outvars)])
        times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
        inner = [count_macs(body) for body in bodies(eqn.params)]
        total += own + times * (max(inner, default=0) if eqn.primitive.name == "cond" else sum(inner))
    return total


def own_macs(name: str, params: Mapping[str, Any], shapes: Sequence[Sequence[Any]]) -> int:
    """Multiply-adds of one operation. shapes: of its inputs and its output."""
    return math.prod(factors(name, params, shapes))


def factors(name: str, params: Mapping[str, Any], axes: Sequence[Sequence[Any]]) -> list[Any]:
    """What is multiplied to give the multiply-adds: axes of the output and those that are summed over; 0 for others."""
    if name == "dot_general":
        (left, _), _ = params["dimension_numbers"]
        return [*axes[2], *(axes[0][place] for place in left)]
    if name == "conv_general_dilated":
        kernel = params["dimension_numbers"].rhs_spec
        return [*axes[2], *(axes[1][place] for place in kernel[1:])]
    return [0]


class Term(NamedTuple):
    """number x the sizes of some axes, where one of the conditions holds."""

    number: int
    axes: tuple[Axis, ...]
    conditions: frozenset[Condition]


class Costs:
    """Parameters and multiply-adds of any architecture, as sums of products of sizes. places: choice -> its number."""

    def __init__(self, terms: Mapping[str, Sequence[Term]], layouts: Layouts, places: Mapping[str, int]):
        self.terms = {name: _merged(own) for name, own in terms.items()}
        self.layouts = layouts
        self.places = places

    def __call__(self, archs: Any) -> dict[str, np.ndarray]:
        """Of archs [P, D]: int64 [P] of each name."""
        rows = np.asarray(archs, np.int64)
        return {name: self.total(terms, rows) for name, terms in self.terms.items()}

    def by_choices(self, cost: str) -> dict[tuple[str, ...], list[Term]]:
        """Terms by the choices that they depend on."""
        found: dict[tuple[str, ...], list[Term]] = {}
        for own in self.terms[cost]:
            names = {name for condition in own.conditions for name, _ in condition}
            names.update(*(self.layouts.names(axis) for axis in own.axes))
            found.setdefault(tuple(sorted(names, key=self.places.__getitem__)), []).append(own)
        return found

    def total(self, terms: Sequence[Term], archs: np.ndarray) -> np.ndarray:
        """Of some terms, int64 [P]."""
        total = np.zeros(len(archs), np.int64)
        known: dict[int, Any] = {}

        def of(size: Quantity) -> np.ndarray:
            return np.rint(size.of_archs(archs, self.places)).astype(np.int64)

        for number, axes, conditions in terms:
            value = np.full(len(archs), number, np.int64)
            for axis in axes:
                if id(axis) not in known:
                    known[id(axis)] = self.layouts.size(axis, of)
                value *= known[id(axis)]
            total += np.where(holds(conditions, archs, self.places), value, 0)
        return total


def holds(conditions: frozenset[Condition], archs: np.ndarray, places: Mapping[str, int]) -> np.ndarray:
    """Whether one of the conditions holds, bool [P]."""
    found = np.zeros(len(archs), bool)
    for condition in conditions:
        own = np.ones(len(archs), bool)
        for name, options in condition:
            own &= np.isin(archs[:, places[name]], list(options))
        found |= own
    return found


def _merged(terms: Sequence[Term]) -> list[Term]:
    """Terms that differ in their number alone, as one."""
    known: dict[Any, Term] = {}
    for term in terms:
        if not term.number:
            continue
        key = (tuple(sorted(map(id, term.axes))), term.conditions)
        before = known.get(key)
        known[key] = term if before is None else before._replace(number=before.number + term.number)
    return list(known.values())


def term(axes: Sequence[Axis | int], plan: Plan, conditions: frozenset[Condition]) -> Term:
    """The product of the sizes of some axes, and of numbers."""
    number, changing = 1, []
    for axis in axes:
        if isinstance(axis, int):
            number *= axis
        elif plan.layouts.changes(axis):
            changing.append(axis.root)
        else:
            number *= axis.root.sizes[0]
    return Term(number, tuple(changing), conditions)


def under(regions: Sequence[Region]) -> Condition:
    """The condition of a region."""
    return frozenset((region.choice, region.options) for region in regions)


def macs_of(plan: Plan) -> list[Term]:
    """Of all operations of a program, which was traced for one example."""
    terms = []
    for number, step in enumerate(plan.program.steps):
        region = plan.regions.of[number]
        if region is None:
            continue
        conditions = frozenset([under(plan.regions.path(region))])
        if step.name in ("dot_general", "conv_general_dilated"):
            axes = [_axes(ref, plan) for ref in step.ins[:2]] + [plan.axes[step.outs[0]]]
            terms.append(term(factors(step.name, step.params[0], axes), plan, conditions))
        elif inner := _inner(step):
            terms.append(Term(inner, (), conditions))
    return terms


def _inner(step: Step) -> int:
    times = step.params[0].get("length", 1) if step.name == "scan" else 1
    inner = [count_macs(body) for body in bodies(step.params[0])]
    return times * (max(inner, default=0) if step.name == "cond" else sum(inner))


def _axes(ref: Any, plan: Plan) -> Sequence[Any]:
    return plan.const_axes[id(ref)] if isinstance(ref, Const) else plan.axes[ref]


def counts_of(steps: Sequence[Step], program: Program, params: int) -> dict[str, int]:
    """Of one traced network, of which these steps matter. params: how many of the inputs are parameters."""
    read = {ref for step in steps for ref in step.ins if isinstance(ref, int)}
    macs = 0
    for step in steps:
        shapes = [np.shape(ref.values[0]) if isinstance(ref, Const) else program.shapes[ref][0] for ref in step.ins]
        macs += own_macs(step.name, step.params[0], [*shapes[:2], program.shapes[step.outs[0]][0]]) + _inner(step)
    kept = [variable for variable in program.inputs[:params] if variable in read]
    return {"params": sum(math.prod(program.shapes[variable][0]) for variable in kept), "macs": macs}


def cost_table(space: SearchSpace, costs: Costs, samples: int = 512) -> tuple[CostTable, dict[str, float]]:
    """Costs as a sum over the options taken, and the largest relative error of the sum on random architectures.

    An option counts by how much more the network costs with it than with the first option, beside the first options of
    all other choices. Where that is not exact, as where a block has a width and need not be there, it is a fit by least
    squares to the costs of the same architectures.
    """
    archs = np.asarray(jax.vmap(space.sample)(jax.random.split(jax.random.key(0), samples)))
    true, first = costs(archs), np.zeros((1, len(space.choices)), np.int32)
    constant = {name: int(value[0]) for name, value in costs(first).items()}
    tables: dict[str, Any] = {name: {} for name in true}
    for place, choice in enumerate(space.choices):
        alone = np.repeat(first, len(choice.options), axis=0)
        alone[:, place] = np.arange(len(choice.options))
        for name, value in costs(alone).items():
            tables[name][choice.name] = (value - constant[name])[None]
    errors = {}
    for name, values in true.items():
        fit = AdditiveFit(float(constant[name]), tables[name])
        errors[name] = _error(space, fit, archs, values)
        if errors[name] > 0:
            better = fit_additive(space, archs, values)
            errors[name] = _error(space, better, archs, values)
            constant[name], tables[name] = better.constant, better.scores  # type: ignore[assignment]
    return CostTable(constant, tables["params"], tables["macs"]), errors


def _error(space: SearchSpace, fit: AdditiveFit, archs: np.ndarray, values: np.ndarray) -> float:
    return float((np.abs(sums(space, fit, archs) - values) / np.maximum(values, 1)).max())


MOST_TOGETHER = 4096
"""Combinations of options that an integer program may have for one product of sizes."""


def exact_program(space: SearchSpace, costs: Costs) -> tuple[CostTable, Callable[[SearchSpace], Structure] | None]:
    """The costs as a sum over options and over combinations of options, and the structure that has these.

    The structure is None where a product of sizes has too many combinations.
    """
    places = costs.places
    sizes = {choice.name: len(choice.options) for choice in space.choices}
    constant = dict.fromkeys(costs.terms, 0)
    tables: dict[str, dict[str, np.ndarray]] = {
        name: {choice: np.zeros((1, size), np.int64) for choice, size in sizes.items()} for name in costs.terms
    }
    groups: dict[str, tuple[tuple[str, int], ...]] = {}
    for cost in costs.terms:
        for names, own in costs.by_choices(cost).items():
            counts = [sizes[name] for name in names]
            if np.prod(counts) > MOST_TOGETHER:
                return CostTable(constant, {}, {}), None
            grid = np.zeros((int(np.prod(counts)), len(sizes)), np.int64)
            if names:
                grid[:, [places[name] for name in names]] = np.indices(counts).reshape(len(counts), -1).T
            values = costs.total(own, grid)
            if not names:
                constant[cost] += int(values[0])
            elif len(names) == 1:
                tables[cost][names[0]] += values[None]
            else:
                group = tuple((name, 0) for name in names)
                groups[kind_of(group)] = group
                tables[cost][kind_of(group)] = values[None]
    for cost in costs.terms:
        for kind, group in groups.items():
            count = int(np.prod([sizes[name] for name, _ in group]))
            tables[cost].setdefault(kind, np.zeros((1, count), np.int64))
    table = CostTable(constant, tables["params"], tables["macs"])
    return table, lambda left: together(one_option_each(left), tuple(groups.values()))
