"""A supernet, and the networks of its architectures, from one traced model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Arch, ArchWeights, Aux, Context, Network, PyTree, SearchSpace, Supernet
from jaxnas.checks import checked_supernet
from jaxnas.choices.asking import Asking, Found, tracing
from jaxnas.choices.axes import Axis, Conflict, Layouts, Number, number_of
from jaxnas.choices.model import Traced, forms_of
from jaxnas.choices.parts import Parts
from jaxnas.choices.program import Const, Program, Step, aligned, needed, same_constant
from jaxnas.choices.quantities import Design, Quantity, make_design
from jaxnas.choices.regions import find_regions
from jaxnas.choices.rolling import find_rolls
from jaxnas.choices.rules import Following
from jaxnas.choices.running import Plan, Run


class Form(NamedTuple):
    """What a pass depends on beside its numbers: one program for each."""

    inputs: Any
    """The tree of the inputs, and the shape and type of each array."""
    train: bool
    key: Any
    """The type of a key, None where nothing is dropped."""
    axis_name: str | None


class Source:
    """A model, its choices, and its programs, which are made when they are first asked for.

    example: shapes of a batch of inputs. widest: shapes of the parameters and statistics of the widest model.
    """

    def __init__(self, traced: Traced, found: Mapping[str, Found], example: Any, widest: Any):
        self.traced = traced
        self.example = example
        self.widest = widest
        self.found = found
        self.names = tuple(found)
        self.places = {name: place for place, name in enumerate(self.names)}
        sized = {n: c for n, c in found.items() if c.kind in ("width", "join") and len(c.options) > 1}
        whole = {n: c.whole if c.kind == "width" else -1 for n, c in sized.items()}
        self.design: Design = make_design({n: len(c.options) for n, c in sized.items()}, whole)
        self.traces = 1 if not sized else len(next(iter(self.design.codes.values())))
        self._plans: dict[Form, tuple[Plan, Any]] = {}

    def listen(self, number: int) -> Any:
        """One of the traces that are compared."""
        taken = {name: option for name, option in self.design.taken(number).items() if option >= 0}
        return tracing(Asking("all", self.traced.framework, taken, dict(self.found), True))

    @functools.cached_property
    def forms(self) -> list[Any]:
        """Shapes of parameters and statistics in each trace."""
        found = [self.widest]
        for number in range(1, self.traces):
            with self.listen(number):
                found.append(forms_of(self.traced, self.example))
        return found

    def init(self, key: Any) -> tuple[Any, Any]:
        """Parameters of the widest, with all options."""
        with self.listen(0):
            return self.traced.init(key, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), self.example))

    def plan(self, form: Form) -> tuple[Plan, Any]:
        """The program for a form of pass, with all that is known of it, and the tree of its outputs."""
        if form not in self._plans:
            self._plans[form] = self._make(form)
        return self._plans[form]

    def _make(self, form: Form) -> tuple[Plan, Any]:
        tree, leaves = form.inputs
        inputs = jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(*leaf) for leaf in leaves])
        key = None if form.key is None else jax.ShapeDtypeStruct((), form.key)

        closed: list[Any] = []
        shapes: Any = None
        for params, stats in self.forms:
            with self.listen(len(closed)):
                jaxpr, shapes = jax.make_jaxpr(  # of a new function, or JAX would give the trace before
                    lambda p, s, k, x: self.traced.apply(p, s, k, x, form.train, form.axis_name), return_shape=True
                )(params, stats, key, inputs)
                closed.append(jaxpr)
        program = needed(aligned(closed))
        params, stats = self.forms[0]
        count, told = len(jax.tree.leaves(params)), len(jax.tree.leaves(stats))
        old = program.inputs[count : count + told]
        split = len(program.outputs) - told
        plan = planned(program, self.design, program.outputs[:split], program.outputs[split:], old)
        return plan, jax.tree.structure(shapes[0])

    def form(self, inputs: Any, context: Context) -> Form:
        """That of a pass."""
        leaves, tree = jax.tree.flatten(inputs)
        train = isinstance(context.bn, str)
        kept = tuple((tuple(jnp.shape(leaf)), jnp.result_type(leaf)) for leaf in leaves)
        key = context.key if train else None
        return Form((tree, kept), train, None if key is None else key.dtype, context.axis_name)


def planned(program: Program, design: Design, outputs: Sequence[Any], stats: Sequence[Any], old: Sequence[int]) -> Plan:
    """A program with axes, numbers and regions found.

    Raises: ValueError, with the line of the model, for what cannot be followed.
    """
    following = Following(program)
    layouts = Layouts(design)
    regions = find_regions(program, outputs, stats)
    order: dict[int, list[int]] = {}
    for number, region in enumerate(regions.of):
        if region is not None:
            order.setdefault(region, []).append(number)
    numbers: dict[int, Quantity | Number] = {}
    const_axes: dict[int, Sequence[Axis]] = {}
    for const, step, axes in following.constants:
        const_axes[id(const)] = axes
        if same_constant(const):
            continue
        if any(axis.root.varies for axis in axes):
            _check_rows(const, axes, layouts, step.where)
            continue
        found = number_of(const.values, layouts, _varying(following, step))
        if found is None:
            raise ValueError(
                f"{step.where}: a number of the model depends on several widths in a way that cannot be followed "
                f"({', '.join(f'{np.asarray(v).flat[0]:.4g}' for v in const.values[:4])}, …)"
            )
        numbers[id(const)] = found
    for variable, own in following.of.items():
        for axis in own:
            try:
                layouts.names(axis)
            except Conflict as conflict:
                raise ValueError(f"the model has {conflict}: {program.shapes[variable]}") from None

    def simple(step: Step) -> bool:
        """Whether nothing of a step changes with a width. XLA's convolutions are slow in a loop on a CPU."""
        refs = (*step.ins, *step.outs)
        axes = [axis for ref in refs for axis in (following.of[ref] if isinstance(ref, int) else const_axes[id(ref)])]
        changing = any(map(layouts.changes, axes)) or any(id(ref) in numbers for ref in refs)
        return not changing and step.name not in ("conv_general_dilated", "gate")

    rolls = find_rolls(program, regions, (*outputs, *stats), simple)
    loops = tuple((roll, planned(roll.body, Design({}, {}), roll.gives, (), ())) for roll in rolls)
    return Plan(
        program, following.of, const_axes, layouts, numbers, regions, order, tuple(outputs), tuple(stats), tuple(old),
        loops,
    )  # fmt: skip


def _varying(following: Following, step: Step) -> list[Axis]:
    """All axes of a program that change, those that the step reads or makes first, and those before it from its end."""
    steps = following.program.steps
    at = next(number for number, own in enumerate(steps) if own is step)
    variables = [v for own in (step, *reversed(steps[:at])) for v in (*own.ins, *own.outs) if isinstance(v, int)]
    found = {id(axis.root): axis.root for v in variables for axis in following.of[v] if axis.root.varies}
    return list(found.values())


def _check_rows(const: Const, axes: Sequence[Axis], layouts: Layouts, where: str) -> None:
    """Raises ValueError where a constant of a narrower model is not a part of that of the widest."""
    whole = np.asarray(const.values[0])
    for number, value in enumerate(const.values[1:], 1):
        taken = layouts.design.taken(number)
        rows = np.ix_(*(layouts.used(axis, taken) for axis in axes))
        if not np.array_equal(whole[rows], np.asarray(value)):
            raise ValueError(
                f"{where}: an array of the model has other numbers, not only fewer, where a width is less; make it of "
                "jax.numpy inside the model, or a parameter"
            )


def make_supernet(source: Source, space: SearchSpace, network: Callable[[Arch], Network]) -> Supernet:
    """The supernet of a model. network: arch -> the network of an architecture."""
    params_form, stats_form = source.forms[0]
    names = source.names

    def run(params: PyTree, inputs: Any, context: Context, taken: Any, weights: Any) -> tuple[Any, Aux]:
        plan, tree = source.plan(source.form(inputs, context))
        given = initial_stats(stats_form) if isinstance(context.bn, str) else context.bn
        key = context.key if isinstance(context.bn, str) else None
        outputs, stats = Run(plan, taken, weights)(jax.tree.leaves((params, given, key, inputs)))
        told = jax.tree.unflatten(jax.tree.structure(stats_form), stats) if isinstance(context.bn, str) else given
        return jax.tree.unflatten(tree, outputs), Aux(told)

    def apply(params: PyTree, weights: ArchWeights, inputs: Any, context: Context) -> tuple[Any, Aux]:
        return run(params, inputs, context, None, {name: weights[name][0] for name in names})

    def apply_path(params: PyTree, arch: Arch, inputs: Any, context: Context) -> tuple[Any, Aux]:
        taken = dict(zip(names, jnp.asarray(arch, jnp.int32), strict=True))
        return run(params, inputs, context, taken, None)

    parts = functools.cache(lambda: Parts(source))

    def used(arch: Arch) -> PyTree:
        taken = dict(zip(names, jnp.asarray(arch, jnp.int32), strict=True))
        return jax.tree.unflatten(jax.tree.structure(params_form), parts().used(taken))

    def extract(params: PyTree, arch: Arch) -> PyTree:
        shapes = jax.eval_shape(network(arch).init, jax.random.key(0))[0]
        return parts().cut(params, shapes, numbers_of(names, arch), "params")

    def extract_stats(stats: PyTree, arch: Arch) -> PyTree:
        shapes = jax.eval_shape(network(arch).init, jax.random.key(0))[1]
        return parts().cut(stats, shapes, numbers_of(names, arch), "stats")

    def init(key: Any) -> PyTree:
        return source.init(key)[0]

    supernet = Supernet(
        space, init, apply, apply_path, used, network, extract, extract_stats, shape_of_one(source.example)
    )
    return checked_supernet(supernet)


def numbers_of(names: Sequence[str], arch: Any) -> dict[str, int]:
    """Name of a choice -> number of its option, of a concrete architecture."""
    return {name: int(number) for name, number in zip(names, np.asarray(arch), strict=True)}


def initial_stats(form: PyTree) -> PyTree:
    """Mean 0 and variance 1, in the form of a model's statistics."""

    def fill(path: Any, leaf: Any) -> Any:
        last = str(getattr(path[-1], "key", getattr(path[-1], "name", path[-1])))
        return (jnp.ones if last == "var" else jnp.zeros)(leaf.shape, leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, form)


def shape_of_one(example: Any) -> Any:
    """Of one example: its shape where inputs are one array of floats, else shapes and types."""
    leaves = jax.tree.leaves(example)
    if isinstance(example, jax.ShapeDtypeStruct) and example.dtype == jnp.float32:
        return tuple(leaves[0].shape[1:])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), example)
