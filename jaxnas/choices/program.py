"""A traced model as a flat list of operations, the same list at several widths.

A model is traced once at its widest and a few times with other widths. All traces must have the same operations in the
same order; what differs is sizes, and numbers that come from sizes, such as the divisor of a mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from jaxnas.choices.asking import line_of_source

_ELEMENTWISE = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e bitcast_convert_type cbrt ceil
    clamp clz conj convert_element_type copy cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt
    igamma imag integer_pow is_finite le lgamma log log1p logistic lt max min mul name ne neg nextafter not
    optimization_barrier or pmax polygamma population_count pow psum psum_invariant pvary real reduce_precision
    regularized_incomplete_beta rem round rsqrt select_n sharding_constraint shift_left shift_right_arithmetic
    shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor
"""
ELEMENTWISE = frozenset(_ELEMENTWISE.split())
"""Operations of which each entry of the output is one of the entries of the inputs in the same place."""
_CALLS = frozenset({"jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2"})


class Const:
    """A number or an array in a program, of each trace."""

    __slots__ = ("values",)

    def __init__(self, values: list[Any]):
        self.values = values


Ref = int | Const
"""A variable by its number, or a constant."""


class Step(NamedTuple):
    """One operation. params: of each trace. where: the line of the model."""

    name: str
    primitive: Any
    params: list[dict[str, Any]]
    ins: tuple[Ref, ...]
    outs: tuple[int, ...]
    source: Any

    @property
    def where(self) -> str:
        """The line of the model."""
        return line_of_source(self.source)


class Program(NamedTuple):
    """shapes: of each variable, its shape in each trace; the first trace is the widest. types: dtype of each."""

    inputs: tuple[int, ...]
    steps: list[Step]
    outputs: tuple[Ref, ...]
    shapes: list[list[tuple[int, ...]]]
    types: list[Any]

    @property
    def traces(self) -> int:
        """How many there are."""
        return len(self.shapes[0]) if self.shapes else 1


class _Flat:
    """One trace, calls put in place."""

    def __init__(self, closed: ClosedJaxpr):
        self.steps: list[Any] = []
        self.avals: list[Any] = []
        jaxpr = closed.jaxpr
        self.inputs = tuple(self.new(var.aval) for var in jaxpr.invars)
        self.outputs = self.inline(jaxpr, [Const([value]) for value in closed.consts], self.inputs)

    def new(self, aval: Any) -> int:
        self.avals.append(aval)
        return len(self.avals) - 1

    def inline(self, jaxpr: Any, consts: Sequence[Ref], args: Sequence[Ref], called: Any = None) -> tuple[Ref, ...]:
        """called: where the call stands that is put in place; inside, JAX may tell where another one stood."""
        env: dict[Any, Ref] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

        def read(atom: Any) -> Ref:
            return Const([atom.val]) if isinstance(atom, Literal) else env[atom]

        for eqn in jaxpr.eqns:
            ins = tuple(map(read, eqn.invars))
            inner = _body(eqn)
            if inner is not None:
                consts = [Const([value]) for value in inner.consts]
                outs = self.inline(inner.jaxpr, consts, ins, called or eqn.source_info)
            else:
                outs = tuple(self.new(var.aval) for var in eqn.outvars)
                self.steps.append((eqn.primitive, eqn.params, ins, outs, called or eqn.source_info))
            env.update(zip(eqn.outvars, outs, strict=True))
        return tuple(map(read, jaxpr.outvars))


def _body(eqn: Any) -> ClosedJaxpr | None:
    """What stands in the place of a call; None for an operation that stays as it is."""
    name = eqn.primitive.name
    if name in _CALLS:
        inner = eqn.params["jaxpr"]
        return inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())
    if name == "custom_jvp_call" and not plain_call(eqn.params):
        return eqn.params["call_jaxpr"]
    return None


def plain_call(params: dict[str, Any]) -> bool:
    """Whether a call with a rule of its own for gradients works entry by entry, as relu: it keeps its rule."""

    def plain(jaxpr: Any) -> bool:
        return all(
            plain(eqn.params["jaxpr"].jaxpr) if eqn.primitive.name in ("jit", "pjit") else _entrywise(eqn)
            for eqn in jaxpr.eqns
        )

    return plain(params["call_jaxpr"].jaxpr)


def _entrywise(eqn: Any) -> bool:
    if eqn.primitive.name == "broadcast_in_dim":
        return all(np.ndim(getattr(v, "aval", None) or v) == 0 for v in eqn.invars)
    return eqn.primitive.name in ELEMENTWISE or eqn.primitive.name == "custom_jvp_call"


def aligned(traces: Sequence[ClosedJaxpr]) -> Program:
    """The traces as one program.

    Raises: ValueError, with the line of the model, where another width leads to other operations.
    """
    flats = [_Flat(closed) for closed in traces]
    first = flats[0]
    steps = []
    for parts in zip(*(flat.steps for flat in flats), strict=False):
        primitive, _, _, outs, source = parts[0]
        for other in parts[1:]:
            if other[0] is not primitive or other[3] != outs or _refs(other[2]) != _refs(parts[0][2]):
                raise _differs(source)
        ins = tuple(_merged([part[2][at] for part in parts]) for at in range(len(parts[0][2])))
        step = Step(primitive.name, primitive, [part[1] for part in parts], ins, outs, source)
        steps.append(step)
    for flat in flats[1:]:
        if len(flat.steps) != len(first.steps):
            longer = max(flat.steps, first.steps, key=len)
            raise _differs(longer[len(steps)][4])
    outputs = tuple(_merged([flat.outputs[at] for flat in flats]) for at in range(len(first.outputs)))
    shapes = [[tuple(flat.avals[v].shape) for flat in flats] for v in range(len(first.avals))]
    return Program(first.inputs, steps, outputs, shapes, [aval.dtype for aval in first.avals])


def _refs(ins: Sequence[Ref]) -> list[int | None]:
    return [ref if isinstance(ref, int) else None for ref in ins]


def _merged(refs: Sequence[Ref]) -> Ref:
    first = refs[0]
    if isinstance(first, int):
        return first
    return Const([ref.values[0] for ref in refs if isinstance(ref, Const)])


def _differs(source: Any) -> ValueError:
    return ValueError(
        f"{line_of_source(source)}: with another width the model computes something else here, not the same with fewer "
        "features; a supernet needs one program for all widths, so leave out Python code that depends on the width"
    )


def same_constant(const: Const) -> bool:
    """Whether a constant is the same in all traces."""
    first = const.values[0]
    if all(value is first for value in const.values):
        return True
    if isinstance(first, jax.Array) and jnp.issubdtype(first.dtype, jax.dtypes.prng_key):
        return all(np.array_equal(jax.random.key_data(first), jax.random.key_data(v)) for v in const.values)
    return all(
        np.shape(v) == np.shape(first) and np.array_equal(v, first, equal_nan=_is_float(v)) for v in const.values
    )


def _is_float(value: Any) -> bool:
    return np.issubdtype(np.asarray(value).dtype, np.floating)


def live(program: Program, wanted: Sequence[Ref]) -> list[bool]:
    """Which steps the wanted values depend on."""
    needed = {ref for ref in wanted if isinstance(ref, int)}
    alive = [False] * len(program.steps)
    for number in range(len(program.steps) - 1, -1, -1):
        step = program.steps[number]
        if needed.intersection(step.outs):
            alive[number] = True
            needed.update(ref for ref in step.ins if isinstance(ref, int))
    return alive


def needed(program: Program) -> Program:
    """Without what no output depends on."""
    alive = live(program, program.outputs)
    return program._replace(steps=[step for step, there in zip(program.steps, alive, strict=True) if there])


def bodies(params: Mapping[str, Any]) -> list[Any]:
    """The programs that an operation has among its settings."""
    found = []
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, ClosedJaxpr):
                found.append(each.jaxpr)
            elif isinstance(each, Jaxpr):
                found.append(each)
    return found
