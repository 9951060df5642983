"""How each operation of JAX carries the axes of its inputs to those of its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxnas.choices.axes import Axis, Conflict, grouped, joined, product, same
from jaxnas.choices.program import ELEMENTWISE, Const, Program, Step, bodies, plain_call

Axes = list[Axis]
"""Of one array."""

REDUCTIONS = frozenset(
    {"reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "reduce_and", "reduce_or", "argmax", "argmin"}
)


class Following:
    """The axes of every variable of a program, made by following its operations."""

    def __init__(self, program: Program):
        self.program = program
        self.of: dict[int, Axes] = {v: self.fresh(v) for v in program.inputs}
        self.constants: list[tuple[Const, Step, Axes]] = []
        self._known: dict[int, Axes] = {}
        for step in program.steps:
            try:
                self.follow(step)
            except Conflict as conflict:
                raise ValueError(
                    f"{step.where}: {conflict}, in `{step.name}`; a supernet cannot follow this width here. Write the "
                    "step with the layers of flax, or give each number of features a width of its own"
                ) from None

    def fresh(self, variable: int) -> Axes:
        """Axes of their own."""
        return [Axis(sizes) for sizes in zip(*self.program.shapes[variable], strict=True)]

    def ins(self, step: Step) -> list[Axes]:
        """Of the inputs; those of a constant are new."""
        return [self.constant(ref, step) if isinstance(ref, Const) else self.of[ref] for ref in step.ins]

    def constant(self, const: Const, step: Step) -> Axes:
        """The axes of a constant, which the step reads."""
        known = self._known.get(id(const))
        if known is None:
            shapes = [getattr(value, "shape", ()) for value in const.values]
            known = self._known[id(const)] = [Axis(sizes) for sizes in zip(*shapes, strict=True)]
            self.constants.append((const, step, known))
        return known

    def follow(self, step: Step) -> None:
        """Enters the axes of the outputs."""
        if marked(step.params[0]):
            raise ValueError(
                f"{step.where}: a choice is asked for inside `{step.name}`, where it cannot be followed; write the "
                "loop in Python"
            )
        ins = self.ins(step)
        outs = [self.fresh(v) for v in step.outs]
        rule = _RULES.get(step.name)
        if rule is not None:
            found = rule(self, step, ins, outs)
        elif step.name in ELEMENTWISE or (step.name == "custom_jvp_call" and plain_call(step.params[0])):
            found = _entrywise(ins, outs)
        else:
            found = _unknown(step, ins, outs)
        for variable, made, shape in zip(step.outs, found, outs, strict=True):
            self.of[variable] = [self.checked(own, plain) for own, plain in zip(made, shape, strict=True)]

    @staticmethod
    def checked(made: Axis, plain: Axis) -> Axis:
        """The axis that a rule gave. Raises Conflict where it has other sizes, or grows beyond the widest."""
        if made.root.sizes != plain.sizes:
            raise Conflict(f"{made.root} has not the sizes {list(plain.sizes)}")
        if max(plain.sizes) > plain.sizes[0]:
            raise Conflict("features become more where a width becomes less")
        return made

    def piece(self, axis: Axis, starts: tuple[int, ...], ends: tuple[int, ...]) -> Axis:
        """A slice of an axis, [starts, ends) in each trace."""
        own = axis.root
        if all(s == 0 for s in starts) and ends == own.sizes:
            return own
        length = [e - s for s, e in zip(starts, ends, strict=True)]
        if not own.varies and not own.parts:
            return Axis(length)
        if not own.parts:
            before, behind = starts, [n - e for n, e in zip(own.sizes, ends, strict=True)]
            own.made, own.parts = "joined", tuple(Axis(s) for s in (before, length, behind) if any(s))
        if own.made != "joined":
            raise Conflict("a slice is cut out of a product of axes")
        at = [0] * len(starts)
        found = []
        for part in own.parts:
            end = [a + n for a, n in zip(at, part.root.sizes, strict=True)]
            if all(s <= a and b <= e for s, a, b, e in zip(starts, at, end, ends, strict=True)):
                found.append(part)
            elif all(s <= a and e >= b for s, a, b, e in zip(at, starts, ends, end, strict=True)):
                inner = self.piece(
                    part, tuple(s - a for s, a in zip(starts, at, strict=True)),
                    tuple(e - a for e, a in zip(ends, at, strict=True)),
                )  # fmt: skip
                return inner
            at = end
        whole = joined(found) if len(found) != 1 else found[0]
        if list(whole.root.sizes) != length:
            raise Conflict("a slice cuts through what another one keeps whole")
        return whole


def marked(params: Mapping[str, Any]) -> bool:
    """Whether a choice stands in a program among the settings of an operation, as in that of a loop."""
    return any(
        eqn.primitive.name in ("choose", "gate") or marked(eqn.params) for body in bodies(params) for eqn in body.eqns
    )


def _entrywise(ins: Sequence[Axes], outs: Sequence[Axes]) -> list[Axes]:
    found = list(outs)
    for place, out in enumerate(outs):
        for own in ins:
            if len(own) != len(out):  # a number
                continue
            for axis, other in zip(own, out, strict=True):
                if axis.root.sizes == other.root.sizes:
                    same(axis, other)
        found[place] = out
    return found


def _unknown(step: Step, ins: Sequence[Axes], outs: Sequence[Axes]) -> list[Axes]:
    """An operation that is not known is run as it is, where no axis of it changes."""
    if any(_changes(axis) for own in (*ins, *outs) for axis in own):
        raise Conflict("an operation that is not known reads features of a width")
    return list(outs)


def _changes(axis: Axis) -> bool:
    own = axis.root
    return own.varies or any(_changes(part) for part in own.parts)


def _broadcast(self: Following, step: Step, ins: list[Axes], outs: list[Axes]) -> list[Axes]:
    (out,) = outs
    for axis, place in zip(ins[0], step.params[0]["broadcast_dimensions"], strict=True):
        if axis.root.sizes == out[place].sizes:
            same(axis, out[place])
    return [out]


def _reshape(self: Following, step: Step, ins: list[Axes], outs: list[Axes]) -> list[Axes]:
    own, (out,) = [axis.root for axis in ins[0]], outs
    groups = grouped([axis.sizes for axis in own], [axis.sizes for axis in out]) if own and out else []
    if groups is None:
        if any(_changes(axis) for axis in (*own, *out)):
            raise Conflict("a reshape mixes the features of a width with others")
        return outs
    for left, right in groups:
        mine, other = [own[i] for i in left], [out[j] for j in right]
        if len(mine) == 1 and len(other) == 1:
            same(mine[0], other[0])
        elif any(_changes(axis) for axis in (*mine, *other)):
            kept = [[axis for axis in side if axis.sizes != (1,) * len(axis.sizes)] for side in (mine, other)]
            if len(kept[0]) == len(kept[1]):
                for a, b in zip(*kept, strict=True):
                    same(a, b)
            elif len(kept[0]) == 1:
                same(kept[0][0], product(kept[1]))
            elif len(kept[1]) == 1:
                same(kept[1][0], product(kept[0]))
            else:
                raise Conflict("a reshape mixes the features of a width with others")
    return [out]


def _transpose(self: Following, step: Step, ins: list[Axes], outs: list[Axes]) -> list[Axes]:
    return [[ins[0][place] for place in step.params[0]["permutation"]]]


def _squeeze(self: Following, step: Step, ins: list[Axes], outs: list[Axes]) -> list[Axes]:
    gone = step.params[0]["dimensions"]
    return [[axis for place, axis in enumerate(ins[0]) if place not in gone]]


def _expand(self: Following, step: Step, ins: list[Axes], outs: list[Axes]) -> list[Axes]:
    new, rest = step.params[0]["dimensions"], iter(ins[0])
    return [[axis if place in new else next(rest) for place, axis in enumerate(outs[0])]]


def _dot(self: Following, step: Step, ins: list[Axes], outs: list[Axes]) -> list[Axes]:
    (left, right), (left_batch, right_batch) = step.params[0]["dimension_numbers"]
    for a, b in (*zip(left, right, strict=True), *zip(left_batch, right_batch, strict=True)):
        same(ins[0][a], ins[1][b])
    free = [
        [axis for place, axis in enumerate(own) if place not in (*contracted, *batch)]
        for own, contracted, batch in ((ins[0], left, left_batch), (ins[1], right, right_batch))
    ]
    return [[*(ins[0][place] for place in left_batch), *free[0], *free[1]]]


def _conv(self: Following, step: Step, ins: list[Axes], outs: list[Axes]) -> list[Axes]:
    numbers, (x, kernel), (out,) = step.params[0]["dimension_numbers"], ins, outs
    features, inputs, outputs = (
        x[numbers.lhs_spec[1]], kernel[numbers.rhs_spec[1]], kernel[numbers.rhs_spec[0]]
    )  # fmt: skip
    groups = [params["feature_group_count"] for params in step.params]
    if any(count != 1 for count in groups) and any(_changes(a) for a in (features, inputs, outputs)):
        each = Axis(groups)
        behind = [n // g for n, g in zip(outputs.root.sizes, groups, strict=True)]
        same(features, product([each, inputs]))
        same(outputs, product([each, Axis(behind)]))
    elif groups[0] == 1:
        same(features, inputs)
    made = list(out)
    made[numbers.out_spec[0]] = x[numbers.lhs_spec[0]]
    made[numbers.out_spec[1]] = outputs
    for place in numbers.lhs_spec[2:]:
        if _changes(x[place]):
            raise Conflict("a convolution runs along the features of a width")
    return [made]


def _reduce(self: Following, step: Step, ins: list[Axes], outs: list[Axes]) -> list[Axes]:
    gone = step.params[0]["axes"]
    return [[axis for place, axis in enumerate(ins[0]) if place not in gone]]


def _window(self: Following, step: Step, ins: list[Axes], outs: list[Axes]) -> list[Axes]:
    window = step.params[0]["window_dimensions"]
    made = []
    for axis, out, size in zip(ins[0], outs[0], window, strict=True):
        if size > 1 and _changes(axis):
            raise Conflict("a pool runs along the features of a width")
        made.append(axis if size == 1 and axis.root.sizes == out.sizes else out)
    return [made]


def _along(self: Following, step: Step, ins: list[Axes], outs: list[Axes]) -> list[Axes]:
    """Cumulative sums and sorts: entry by entry along all other axes."""
    place = int(step.params[0].get("axis", step.params[0].get("dimension", 0)))
    if any(_changes(own[place]) for own in ins):
        raise Conflict("it runs along the features of a width")
    return _entrywise(ins, outs)


def _concatenate(self: Following, step: Step, ins: list[Axes], outs: list[Axes]) -> list[Axes]:
    at, (out,) = step.params[0]["dimension"], outs
    made = list(out)
    for own in ins:
        for place, axis in enumerate(own):
            if place != at:
                made[place] = same(axis, made[place])
    parts = [own[at] for own in ins]
    made[at] = joined(parts) if any(_changes(part) for part in parts) else out[at]
    return [made]


def _split(self: Following, step: Step, ins: list[Axes], outs: list[Axes]) -> list[Axes]:
    at = step.params[0]["axis"]
    found, starts = [], [0] * len(step.params)
    for number, out in enumerate(outs):
        ends = [s + int(p["sizes"][number]) for s, p in zip(starts, step.params, strict=True)]
        own = [*ins[0]]
        own[at] = self.piece(ins[0][at], tuple(starts), tuple(ends)) if _changes(ins[0][at]) else out[at]
        found.append(own)
        starts = ends
    return found


def _slice(self: Following, step: Step, ins: list[Axes], outs: list[Axes]) -> list[Axes]:
    made = []
    for place, (axis, out) in enumerate(zip(ins[0], outs[0], strict=True)):
        strides = {params["strides"][place] if params["strides"] else 1 for params in step.params}
        starts = tuple(int(params["start_indices"][place]) for params in step.params)
        ends = tuple(int(params["limit_indices"][place]) for params in step.params)
        if strides != {1}:
            if _changes(axis):
                raise Conflict("a slice takes every so many-th feature of a width")
            made.append(out)
        else:
            made.append(self.piece(axis, starts, ends) if _changes(axis) else _cut(axis, starts, out))
    return [made]


def _cut(axis: Axis, starts: tuple[int, ...], out: Axis) -> Axis:
    if out.varies and any(starts):
        raise Conflict("a slice that does not start at 0 has a width as its length")
    return axis if axis.root.sizes == out.sizes else out


def _pad(self: Following, step: Step, ins: list[Axes], outs: list[Axes]) -> list[Axes]:
    made = []
    for place, (axis, out) in enumerate(zip(ins[0], outs[0], strict=True)):
        configs = [params["padding_config"][place] for params in step.params]
        if all(tuple(config) == (0, 0, 0) for config in configs):
            made.append(axis)
        elif _changes(axis) or out.varies:
            if any(low < 0 or high < 0 or inner for low, high, inner in configs):
                raise Conflict("a padding runs through the features of a width")
            parts = [Axis([c[0] for c in configs]), axis, Axis([c[1] for c in configs])]
            made.append(joined([part for part in parts if any(part.root.sizes)]))
        else:
            made.append(out)
    return [made]


def _gather(self: Following, step: Step, ins: list[Axes], outs: list[Axes]) -> list[Axes]:
    """Rows of a table, as of an embedding: axes that are taken whole go on."""
    params, made = step.params[0], list(outs[0])
    numbers = params["dimension_numbers"]
    gone = {*numbers.collapsed_slice_dims, *getattr(numbers, "operand_batching_dims", ())}
    left = [place for place in range(len(ins[0])) if place not in gone]
    for place, out in zip(left, numbers.offset_dims, strict=True):
        if ins[0][place].root.sizes == outs[0][out].sizes and place not in numbers.start_index_map:
            made[out] = ins[0][place]
        elif _changes(ins[0][place]) or outs[0][out].varies:
            raise Conflict("an index runs along the features of a width")
    if any(_changes(ins[0][place]) for place in gone):
        raise Conflict("an index runs along the features of a width")
    rest = [place for place in range(len(made)) if place not in numbers.offset_dims]
    for axis, out in zip(ins[1][:-1], rest, strict=True):
        made[out] = axis
    return [made]


def _rolled(self: Following, step: Step, ins: list[Axes], outs: list[Axes]) -> list[Axes]:
    """A reversal of axes that are whole."""
    for place in step.params[0]["dimensions"]:
        if _changes(ins[0][place]):
            raise Conflict("it turns around the features of a width")
    return [list(ins[0])]


def _new(self: Following, step: Step, ins: list[Axes], outs: list[Axes]) -> list[Axes]:
    return outs


def _gate(self: Following, step: Step, ins: list[Axes], outs: list[Axes]) -> list[Axes]:
    at = step.params[0]["axis"]
    made = list(ins[0])
    made[at] = Axis(outs[0][at].sizes, "gate", (ins[0][at],))
    return [made]


def _choose(self: Following, step: Step, ins: list[Axes], outs: list[Axes]) -> list[Axes]:
    for start in range(0, len(ins), max(1, len(outs))):
        slot = ins[start : start + len(outs)]
        for own, out in zip(slot, outs, strict=True):
            for axis, other in zip(own, out, strict=True):
                same(axis, other)
    return outs


def _key(self: Following, step: Step, ins: list[Axes], outs: list[Axes]) -> list[Axes]:
    """Operations on keys. Raises: Conflict where their number is a width."""
    if any(_changes(axis) for own in outs for axis in own):
        raise Conflict("as many keys are drawn as a width has features")
    return outs


_RULES: dict[str, Callable[[Following, Step, list[Axes], list[Axes]], list[Axes]]] = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "expand_dims": _expand,
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "concatenate": _concatenate,
    "split": _split,
    "slice": _slice,
    "pad": _pad,
    "gather": _gather,
    "rev": _rolled,
    "iota": _new,
    "random_bits": _new,
    "choose": _choose,
    "gate": _gate,
    **dict.fromkeys(("random_fold_in", "random_split", "random_wrap", "random_unwrap", "random_seed"), _key),
    **dict.fromkeys(REDUCTIONS, _reduce),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "sort"), _along),
    **dict.fromkeys(("reduce_window_sum", "reduce_window_max", "reduce_window_min", "select_and_gather_add"), _window),
}
