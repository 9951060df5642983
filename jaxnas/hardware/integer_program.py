"""The best architecture under budgets as an integer linear program, solved by HiGHS (`scipy.optimize.milp`).

A binary x[kind, slot, option] says what is taken. With scores c that add up,

    maximize Σ c x   subject to   the structure of the space,   lower ≤ Σ a x ≤ upper for each constraint,

as in MathNAS (Qin et al. 2023) and LANA (Molchanov et al. 2022, https://arxiv.org/abs/2107.10624). A budget of
parameters, multiply-adds or latency is a constraint, and so is "at most two skips". Solutions are checked in double
precision against the constraints as they were given: what HiGHS lets pass by its tolerance is cut away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from jaxnas.base import Arch, SearchSpace
from jaxnas.checks import check_choices
from jaxnas.hardware.additive import Scores
from jaxnas.ops.costs import CostTable
from jaxnas.spaces import DARTS_OPERATIONS, edge_table
from jaxnas.spaces.darts import darts_choices

_EXACT = 1e-9  # Relative; sums of double precision are no better.
_STEP = 1e-5  # Of the largest coefficient: ten times the tolerance of HiGHS, within which it may err either way.


class Constraint(NamedTuple):
    """lower ≤ Σ coefficients · x ≤ upper; infinite where there is no bound.

    >>> Constraint("at most one deep stage", {"depth": np.array([[0.0, 1.0], [0.0, 1.0]])}, upper=1).lower
    -inf
    """

    name: str
    coefficients: Scores
    lower: float = -np.inf
    upper: float = np.inf


class Structure(NamedTuple):
    """Which x are architectures of a space. shapes: cell kind -> (S, O). rules: constraints that are never given up.

    to_arch: cell kind -> 0 or 1 [S, O] -> architecture. beside: kinds of options that are taken together (`together`),
    which scores, and the coefficients of a constraint, may leave out.
    """

    shapes: dict[str, tuple[int, int]]
    rules: tuple[Constraint, ...]
    to_arch: Callable[[Scores], Arch]
    beside: frozenset[str] = frozenset()


class Solution(NamedTuple):
    """taken: cell kind -> 0 or 1 [S, O]. value: the sum of scores. uses: name of a constraint -> its sum."""

    arch: Arch
    taken: Scores
    value: float
    uses: dict[str, float]


class InfeasibleError(ValueError):
    """No architecture meets all constraints. conflicts: those of a smallest set that cannot be met together."""

    def __init__(self, message: str, conflicts: tuple[str, ...]) -> None:
        super().__init__(message)
        self.conflicts = conflicts


def one_option_each(space: SearchSpace) -> Structure:
    """Each slot takes exactly one option, as on the edges of NAS-Bench-201; of a pruned space it may have lost some.

    Raises: ValueError where the choices of the space are not the slots of its mixture weights.

    >>> from jaxnas.spaces import nasbench201_space
    >>> structure = one_option_each(nasbench201_space())
    >>> structure.shapes, len(structure.rules)
    ({'cell': (6, 5)}, 6)
    """
    shapes = {kind: (value.shape[0], value.shape[1]) for kind, value in space.template().items()}
    if sum(slots for slots, _ in shapes.values()) != len(space.choices):
        raise ValueError(
            f"the space {space.name!r} does not take exactly one option in each slot of its mixture weights"
        )
    rules = []
    for kind, (slots, _) in shapes.items():
        for slot in range(slots):
            row = _zeros(shapes)
            row[kind][slot] = 1
            rules.append(Constraint(f"{kind} slot {slot}: one option", row, 1, 1))
    return Structure(shapes, tuple(rules), _to_arch(space))


def together(structure: Structure, groups: Sequence[tuple[tuple[str, int], ...]]) -> Structure:
    """A structure that also knows which options of several slots are taken together.

    groups: of slots (kind, slot), each of which takes at most one option. A group is one more kind, `kind_of(group)`,
    of shape [1, O1 * O2 * …], with the options of the last slot running fastest; it takes nothing where one of its
    slots takes nothing. So what is a product of what slots say is a sum again, exactly (Glover & Woolsey 1974,
    https://doi.org/10.1287/opre.22.1.180).

    >>> from jaxnas.spaces import nasbench201_space
    >>> pairs = together(one_option_each(nasbench201_space()), [(("cell", 0), ("cell", 5))])
    >>> pairs.shapes
    {'cell': (6, 5), 'cell 0 & cell 5': (1, 25)}
    """
    shapes, rules = dict(structure.shapes), []
    for group in groups:
        counts = [structure.shapes[kind][1] for kind, _ in group]
        shapes[kind_of(group)] = (1, int(np.prod(counts)))
    for group in groups:
        name = kind_of(group)
        counts = [structure.shapes[kind][1] for kind, _ in group]
        places = np.indices(counts).reshape(len(counts), -1)
        all_taken = {name: np.ones((1, places.shape[1]))}
        for (kind, slot), own in zip(group, places, strict=True):
            all_taken.setdefault(kind, np.zeros(structure.shapes[kind]))[slot] -= 1
            for option in range(structure.shapes[kind][1]):
                row = {name: (own == option).astype(np.float64)[None], kind: np.zeros(structure.shapes[kind])}
                row[kind][slot, option] = -1
                rules.append(Constraint(f"{kind} slot {slot} option {option} in {name}", row, upper=0))
        rules.append(Constraint(f"{name}: taken where all of them are", all_taken, lower=1 - len(group)))

    def to_arch(taken: Scores) -> Arch:
        return structure.to_arch({kind: taken[kind] for kind in structure.shapes})

    beside = structure.beside | {kind_of(group) for group in groups}
    return Structure(shapes, (*structure.rules, *rules), to_arch, beside)


def kind_of(group: tuple[tuple[str, int], ...]) -> str:
    """The name of the kind of a group of slots.

    >>> kind_of((("cell", 0), ("cell", 5)))
    'cell 0 & cell 5'
    """
    return " & ".join(f"{kind} {slot}" for kind, slot in group)


def two_edges_a_node(space: SearchSpace, nodes: int = 4, operations: tuple[str, ...] = DARTS_OPERATIONS) -> Structure:
    """Of the edges into each node two are taken, each with one operation but "none": the cells of `darts_space`.

    Raises: ValueError where the space is not `darts_space(nodes, operations)`. The free one is not either: a slot that
    takes an option twice has no place in a program of zeros and ones.

    >>> from jaxnas.spaces import darts_space
    >>> structure = two_edges_a_node(darts_space())
    >>> structure.shapes
    {'normal': (14, 8), 'reduce': (14, 8)}
    """
    check_choices(space.choices, darts_choices(nodes, operations), f"the space {space.name!r}", "those cells")
    shapes = {kind: (value.shape[0], value.shape[1]) for kind, value in space.template().items()}
    rules = []
    for kind in shapes:
        if "none" in operations:
            absent = _zeros(shapes)
            absent[kind][:, operations.index("none")] = 1
            rules.append(Constraint(f"{kind}: none is no option", absent, 0, 0))
        for node in range(nodes):
            row = _zeros(shapes)
            for slot, (target, _) in enumerate(edge_table(nodes)):
                if target == node:
                    row[kind][slot] = 1
                    edge = _zeros(shapes)
                    edge[kind][slot] = 1
                    rules.append(Constraint(f"{kind} slot {slot}: at most one operation", edge, upper=1))
            rules.append(Constraint(f"{kind} node {node}: two edges", row, 2, 2))
    return Structure(shapes, tuple(rules), _to_arch(space))


def _to_arch(space: SearchSpace) -> Callable[[Scores], Arch]:
    discretize = jax.jit(space.discretize)
    return lambda taken: discretize({kind: jnp.asarray(value, jnp.float32) for kind, value in taken.items()})


def budget(name: str, costs: Scores, limit: float, constant: float = 0.0) -> Constraint:
    """constant + Σ costs · x ≤ limit. costs: cell kind -> [S, O], what each option of a slot adds.

    >>> limit = budget("milliseconds", {"depth": np.array([[1.0, 2.0]])}, limit=10.0, constant=4.0)
    >>> limit.upper  # what is left for the options
    6.0
    """
    return Constraint(name, costs, upper=limit - constant)


def cost_budget(table: CostTable, name: str, limit: float) -> Constraint:
    """At most `limit` of "params" or "macs", which `name` says, in the whole network.

    table: of a space and a skeleton, such as `nasbench201_cost_table(skeleton)`.

    >>> from jaxnas.base import Skeleton
    >>> from jaxnas.spaces import nasbench201_cost_table
    >>> skeleton = Skeleton(channels=16, cells=5, image_shape=(32, 32, 3), num_classes=10)
    >>> cost_budget(nasbench201_cost_table(skeleton), "params", 500_000).coefficients["cell"].shape
    (6, 5)
    """
    return budget(name, {"params": table.params, "macs": table.macs}[name], limit, table.constant[name])


def count_between(
    structure: Structure, kind: str, options: Sequence[int], lower: float = 0, upper: float = np.inf
) -> Constraint:
    """How many slots of a cell kind may take one of these options: at most two skips, at least one convolution.

    options: their numbers.

    >>> from jaxnas.spaces import NASBENCH201_OPERATIONS, nasbench201_space
    >>> structure = one_option_each(nasbench201_space())
    >>> skips = count_between(structure, "cell", [NASBENCH201_OPERATIONS.index("skip_connect")], upper=2)
    >>> worth = {"cell": np.array([[0.0, 3.0, 1.0, 2.0, 0.0]] * 6)}  # skip connections look best
    >>> solve(structure, worth, [skips])[0].value  # two of them, and four of 1x1
    14.0
    """
    row = _zeros(structure.shapes)
    row[kind][:, list(options)] = 1
    return Constraint(f"{kind}: options {list(options)} between {lower:g} and {upper:g} times", row, lower, upper)


def forbidden(structure: Structure, *taken: tuple[str, int, int]) -> Constraint:
    """These (kind, slot, option) are not all taken together.

    >>> from jaxnas.spaces import product_space
    >>> structure = one_option_each(product_space("two", {"a": ("small", "large"), "b": ("small", "large")}))
    >>> worth = {"a": np.array([[0.0, 3.0]]), "b": np.array([[0.0, 2.0]])}
    >>> solve(structure, worth, [forbidden(structure, ("a", 0, 1), ("b", 0, 1))])[0].arch.tolist()
    [1, 0]
    """
    row = _zeros(structure.shapes)
    for kind, slot, option in taken:
        row[kind][slot, option] = 1
    return Constraint(f"not together: {', '.join(map(str, taken))}", row, upper=len(taken) - 1)


def solve(
    structure: Structure, scores: Mapping[str, np.ndarray], constraints: Sequence[Constraint] = (), count: int = 1
) -> list[Solution]:
    """The architectures of the `count` greatest sums, the best first; fewer where there are no more.

    structure: of the space. scores: cell kind -> [S, O], what each option of a slot adds. constraints: all are met.

    Raises: InfeasibleError, a ValueError, where not even one meets the constraints, naming a smallest set of
    constraints that cannot be met together and what each of them could reach beside the others. ValueError where shapes
    do not fit.

    >>> from jaxnas.spaces import product_space
    >>> structure = one_option_each(product_space("two", {"a": ("small", "large"), "b": ("small", "large")}))
    >>> worth = {"a": np.array([[0.0, 3.0]]), "b": np.array([[0.0, 2.0]])}
    >>> cost = {"a": np.array([[1.0, 9.0]]), "b": np.array([[1.0, 4.0]])}
    >>> best = solve(structure, worth, [budget("cost", cost, 10.0)])[0]
    >>> best.arch.tolist(), best.value, best.uses
    ([1, 0], 3.0, {'cost': 10.0})
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    _check(structure, "scores", scores)
    for constraint in constraints:
        _check(structure, constraint.name, constraint.coefficients)
    found: list[Solution] = []
    for taken in _descending(structure, scores, constraints):
        uses = {each.name: _total(each.coefficients, taken) for each in constraints}
        found.append(Solution(structure.to_arch(taken), taken, _total(scores, taken), uses))
        if len(found) == count:
            return found
    if not found:
        raise _explained(structure, constraints)
    return found


def pareto(
    structure: Structure,
    scores: Mapping[str, np.ndarray],
    costs: Mapping[str, np.ndarray],
    constraints: Sequence[Constraint] = (),
    points: int = 1000,
) -> list[Solution]:
    """All trade-offs of score and cost that no other one dominates, the dearest first; at most `points`.

    Each is the greatest score within the cost, and of those the least cost; then the budget falls below that, by a
    hundred-thousandth of the dearest option: what differs by less counts as equal. uses["cost"] is the cost.

    >>> from jaxnas.spaces import product_space
    >>> structure = one_option_each(product_space("two", {"a": ("small", "large"), "b": ("small", "large")}))
    >>> worth = {"a": np.array([[0.0, 3.0]]), "b": np.array([[0.0, 2.0]])}
    >>> cost = {"a": np.array([[1.0, 9.0]]), "b": np.array([[1.0, 4.0]])}
    >>> [(each.value, each.uses["cost"]) for each in pareto(structure, worth, cost)]
    [(5.0, 13.0), (3.0, 10.0), (2.0, 5.0), (0.0, 2.0)]
    """
    front: list[Solution] = []
    limit = np.inf
    step = _STEP * max(float(np.abs(value).max()) for value in costs.values())
    cheap = {kind: -np.asarray(value) for kind, value in costs.items()}
    while len(front) < points:
        within = (*constraints, Constraint("cost", dict(costs), upper=limit))
        try:
            best = solve(structure, scores, within)[0]
        except InfeasibleError:
            if not front:
                raise
            break
        floor = best.value - _EXACT * max(abs(best.value), 1)
        least = solve(structure, cheap, (*within, Constraint("score", dict(scores), lower=floor)))[0]
        cost = _total(costs, least.taken)
        front.append(least._replace(value=_total(scores, least.taken), uses={**least.uses, "cost": cost}))
        limit = cost - step
    return front


def reachable(
    structure: Structure, constraint: Constraint, constraints: Sequence[Constraint] = ()
) -> tuple[float, float] | None:
    """The least and the greatest sum of a constraint where the others are met; None where they cannot be.

    >>> from jaxnas.spaces import product_space
    >>> structure = one_option_each(product_space("two", {"a": ("small", "large"), "b": ("small", "large")}))
    >>> cost = {"a": np.array([[1.0, 9.0]]), "b": np.array([[1.0, 4.0]])}
    >>> reachable(structure, budget("cost", cost, 10.0))
    (2.0, 13.0)
    """
    ends = []
    for sign in (-1.0, 1.0):
        toward = {kind: sign * np.asarray(value) for kind, value in constraint.coefficients.items()}
        taken = next(_descending(structure, toward, constraints), None)
        if taken is None:
            return None
        ends.append(_total(constraint.coefficients, taken))
    return ends[0], ends[1]


def _explained(structure: Structure, constraints: Sequence[Constraint]) -> InfeasibleError:
    """By deletion: what can go without making the rest feasible goes; what stays is a smallest set of conflicts."""
    conflict = list(constraints)
    for constraint in constraints:
        others = [each for each in conflict if each is not constraint]
        if next(_descending(structure, _zeros(structure.shapes), others), None) is None:
            conflict = others
    if not conflict:
        return InfeasibleError("the structure itself allows no architecture", ())
    lines = []
    for constraint in conflict:
        others = [each for each in conflict if each is not constraint]
        ends = reachable(structure, constraint, others)
        beside = " beside the other" + ("s" if len(others) > 1 else "") if others else ""
        if ends is None:  # cannot be: without it the rest is feasible
            continue
        low, high = ends
        asked = f"at most {constraint.upper:.10g}" if low > constraint.upper else f"at least {constraint.lower:.10g}"
        end = (
            f"the smallest feasible is {low:.10g}"
            if low > constraint.upper
            else f"the greatest feasible is {high:.10g}"
        )
        lines.append(f"{constraint.name}: {asked} was asked for, {end}{beside}")
    names = tuple(constraint.name for constraint in conflict)
    together = " together" if len(names) > 1 else ""
    return InfeasibleError(f"no architecture meets these{together}: {'; '.join(lines)}", names)


def _descending(
    structure: Structure, scores: Mapping[str, np.ndarray], constraints: Sequence[Constraint]
) -> Iterator[Scores]:
    """Every architecture that meets the constraints, in falling order of its sum.

    What is taken together follows from what the slots take. So it is not said to be whole, and not cut away, which
    saves HiGHS much of its time.
    """
    shapes = structure.shapes
    objective = _flat(shapes, scores)
    own = _flat(shapes, {kind: np.full(shape, kind not in structure.beside) for kind, shape in shapes.items()})
    rows, lower, upper = [], [], []
    for each in (*structure.rules, *constraints):
        row = _flat(shapes, each.coefficients)
        scale = max(np.abs(row).max(initial=0), 1e-300)  # the tolerance of HiGHS, 1e-6, is absolute
        rows.append(sparse.csr_array(row[None] / scale))
        lower.append(each.lower / scale)
        upper.append(each.upper / scale)
    scale = max(np.abs(objective).max(initial=0), 1e-300)
    while True:
        result = milp(
            -objective / scale,
            integrality=own,
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(sparse.vstack(rows, "csr"), np.array(lower), np.array(upper)),
            options={"mip_rel_gap": 0.0},
        )
        if result.status == 2:  # infeasible
            return
        if result.x is None:
            raise ValueError(f"HiGHS could not solve the program: {result.message}")
        x = np.round(result.x)
        taken = _split(shapes, x)
        if all(_meets(each, taken) for each in constraints):
            yield taken
        # Not this one again: Σ over ones (1 - x) + Σ over zeros x ≥ 1.
        rows.append(sparse.csr_array((own * (1 - 2 * x))[None]))
        lower.append(1 - (own * x).sum())
        upper.append(np.inf)


def _meets(constraint: Constraint, taken: Scores) -> bool:
    total = _total(constraint.coefficients, taken)
    slack = _EXACT * max(abs(total), 1)
    return bool(constraint.lower - slack <= total <= constraint.upper + slack)


def _total(scores: Mapping[str, np.ndarray], taken: Scores) -> float:
    return float(sum((np.asarray(scores[kind], np.float64) * taken[kind]).sum() for kind in scores))


def _zeros(shapes: Mapping[str, tuple[int, int]]) -> Scores:
    return {kind: np.zeros(shape) for kind, shape in shapes.items()}


def _flat(shapes: Mapping[str, tuple[int, int]], scores: Mapping[str, np.ndarray]) -> np.ndarray:
    every = [scores[kind] if kind in scores else np.zeros(shape) for kind, shape in shapes.items()]
    return np.concatenate([np.asarray(value, np.float64).reshape(-1) for value in every])


def _split(shapes: Mapping[str, tuple[int, int]], x: np.ndarray) -> Scores:
    ends = np.cumsum([slots * options for slots, options in shapes.values()])[:-1]
    return {kind: part.reshape(shapes[kind]) for kind, part in zip(shapes, np.split(x, ends), strict=True)}


def _check(structure: Structure, name: str, scores: Mapping[str, np.ndarray]) -> None:
    shapes = {kind: tuple(np.shape(value)) for kind, value in scores.items()}
    wanted = {kind: shape for kind, shape in structure.shapes.items() if kind in shapes or kind not in structure.beside}
    if shapes != wanted:
        raise ValueError(f"{name}: expected numbers of shape {structure.shapes}, got {shapes}")
    for kind, value in scores.items():
        if not np.isfinite(np.asarray(value, np.float64)).all():
            raise ValueError(f"{name}, {kind}: a value is not finite; forbid an option by a constraint instead")
