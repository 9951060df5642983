"""Runs a traced model as a mixture or as one path: the same operations, with masks where features are not all used.

What a path does not use holds some numbers all the same. They are taken out where an operation would mix them with
others: sums, products of matrices, convolutions, greatest values. So a mean is over the used features alone, and
numbers that come from sizes, as the divisor of a mean, are those of the path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.choices.axes import Axis, Layouts, Number
from jaxnas.choices.program import Program, Ref, Step
from jaxnas.choices.quantities import Quantity
from jaxnas.choices.regions import ROOT, Regions
from jaxnas.choices.rolling import Roll
from jaxnas.choices.rules import REDUCTIONS

Env = dict[int, Any]


class Plan(NamedTuple):
    """A program with all that is known of it.

    axes: of each variable. numbers: id of a constant that depends on widths -> what it is. outputs, stats: references
    of what the model gives, and of its new running statistics; old_stats: the inputs that they replace.
    """

    program: Program
    axes: Mapping[int, Sequence[Axis]]
    const_axes: Mapping[int, Sequence[Axis]]
    layouts: Layouts
    numbers: Mapping[int, Quantity | Number]
    regions: Regions
    order: Mapping[int, Sequence[int]]
    outputs: tuple[Ref, ...]
    stats: tuple[Ref, ...]
    old_stats: tuple[int, ...]
    loops: tuple[tuple[Roll, Any], ...] = ()
    """Blocks that are run in a loop, and the plan of one round."""


class Run:
    """One pass. Of a path `taken` is name -> int32 []; of a mixture `weights` is name -> float [O]."""

    def __init__(self, plan: Plan, taken: Mapping[str, Any] | None, weights: Mapping[str, Any] | None):
        self.plan = plan
        self.taken, self.weights = taken, weights
        self._masks: dict[int, Any] = {}

    def __call__(self, inputs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The outputs, and the running statistics."""
        plan = self.plan
        env: Env = dict(zip(plan.program.inputs, inputs, strict=True))
        if self.taken is None:
            self.steps([number for number, region in enumerate(plan.regions.of) if region is not None], env)
        else:
            self.region(ROOT, env)
        return [self.read(ref, env) for ref in plan.outputs], self.stats(env, range(len(plan.stats)))

    def stats(self, env: Env, chosen: Sequence[int]) -> list[Any]:
        """New statistics where they were computed, the old ones elsewhere."""
        plan = self.plan
        found = []
        for number in chosen:
            ref = plan.stats[number]
            there = not isinstance(ref, int) or ref in env
            found.append(self.read(ref if there else plan.old_stats[number], env))
        return found

    def region(self, region: int, env: Env) -> None:
        """Computes what belongs to a region, of choices in it one slot each."""
        self.steps(self.plan.order.get(region, ()), env)

    def steps(self, numbers: Sequence[int], env: Env) -> None:
        """Computes some operations, and loops of them."""
        loops, behind = self.plan.loops, 0
        for number in numbers:
            if number < behind:
                continue
            loop = next((loop for loop in loops if loop[0].start <= number < loop[0].end), None)
            if loop is None:
                self.step(number, env)
            else:
                self.loop(*loop, env)
                behind = loop[0].end

    def loop(self, roll: Roll, inner: Plan, env: Env) -> None:
        """Computes all rounds of a loop."""
        types = roll.body.types
        start = [
            jnp.zeros(roll.body.shapes[v][0], types[v]) if ref is None else jnp.asarray(self.read(ref, env), types[v])
            for v, ref in zip(roll.carried, roll.first, strict=True)
        ]
        apart = [jnp.stack([jnp.asarray(self.read(ref, env)) for ref in refs]) for _, refs in roll.apart]
        known = self.weights if self.taken is None else self.taken
        chosen = {name: jnp.stack([known[own] for own in names]) for name, names in roll.choices.items()}  # type: ignore[index]

        def round_of(carry: list[Any], given: Any) -> tuple[list[Any], None]:
            arrays, now = given
            there = dict(env)
            there.update(zip(roll.carried, carry, strict=True))
            there.update(zip((v for v, _ in roll.apart), arrays, strict=True))
            every = {**known, **now}  # type: ignore[dict-item]
            run = Run(inner, None if self.taken is None else every, every if self.taken is None else None)
            run.steps(range(roll.period) if self.taken is None else inner.order.get(ROOT, ()), there)
            return [jnp.asarray(there[v], types[c]) for v, c in zip(roll.gives, roll.carried, strict=True)], None

        final, _ = jax.lax.scan(round_of, start, (apart, chosen))
        env.update({v: value for v, value in zip(roll.left, final, strict=True) if v is not None})

    def read(self, ref: Ref, env: Env) -> Any:
        if isinstance(ref, int):
            return env[ref]
        number = self.plan.numbers.get(id(ref))
        if number is None:
            return ref.values[0]
        if isinstance(number, Number):
            size = self.plan.layouts.size(number.axis, self.quantity)
            found = number.factor * jnp.asarray(size, jnp.float32) ** number.power
        else:
            found = self.quantity(number)
        return jnp.asarray(found, np.asarray(ref.values[0]).dtype)

    def quantity(self, quantity: Quantity) -> Any:
        """What it is in this path, or its mean in this mixture."""
        return quantity.of_mixture(self.weights) if self.taken is None else quantity.of_path(self.taken)  # type: ignore[arg-type]

    def mask(self, axis: Axis) -> Any:
        """Of an axis, float [n]; None where all of it is used."""
        own = axis.root
        layouts = self.plan.layouts
        if not layouts.changes(own):
            return None
        if id(own) not in self._masks:
            self._masks[id(own)] = layouts.mask(own, self.prefix, self.quantity, jnp)
        return self._masks[id(own)]

    def prefix(self, sizes: Quantity, n: int) -> Any:
        """The mask of the first so many of n; of a mixture the mean of such masks."""
        if self.taken is not None:
            return (jnp.arange(n) < sizes.of_path(self.taken)).astype(jnp.float32)
        return sizes.mapped(lambda size: np.arange(n) < size).of_mixture(self.weights)  # type: ignore[arg-type]

    def over(self, x: Any, axes: Sequence[Axis], places: Sequence[int]) -> Any:
        """The product of the masks of some axes, in a shape that broadcasts against x; None where there is none."""
        found = None
        for place in places:
            mask = self.mask(axes[place])
            if mask is not None:
                mask = mask.reshape([-1 if at == place else 1 for at in range(x.ndim)])
                found = mask if found is None else found * mask
        return found

    def masked(self, x: Any, axes: Sequence[Axis], places: Sequence[int]) -> Any:
        """x, 0 where it is not used. In a mixture, features are weighted as they are used."""
        mask = self.over(x, axes, places)
        if mask is None:
            return x
        if self.taken is None and jnp.issubdtype(x.dtype, jnp.inexact):
            return jnp.where(mask > 0, x * mask.astype(x.dtype), 0)
        return jnp.where(mask > 0, x, jnp.zeros((), x.dtype))

    def step(self, number: int, env: Env) -> None:
        """Computes one operation."""
        step = self.plan.program.steps[number]
        if step.name == "choose":
            outs = self.choose(number, step, env)
        else:
            ins = [self.read(ref, env) for ref in step.ins]
            axes = [self.axes(ref) for ref in step.ins]
            outs = self.operation(step, ins, axes)
        env.update(zip(step.outs, outs, strict=True))

    def axes(self, ref: Ref) -> Sequence[Axis]:
        return self.plan.axes[ref] if isinstance(ref, int) else self.plan.const_axes[id(ref)]

    def operation(self, step: Step, ins: list[Any], axes: Sequence[Sequence[Axis]]) -> Sequence[Any]:
        """An operation of JAX, with the features that are not used taken out before it mixes them."""
        params = step.params[0]
        if step.name == "gate":
            return [ins[0]]
        if step.name == "dot_general":
            (left, _), _ = params["dimension_numbers"]
            ins[0] = self.masked(ins[0], axes[0], left)
        elif step.name == "conv_general_dilated":
            numbers = params["dimension_numbers"]
            if self.plan.layouts.changes(axes[1][numbers.rhs_spec[1]]):  # else no sum is over features
                ins[0] = self.masked(ins[0], axes[0], [numbers.lhs_spec[1]])
        elif step.name in REDUCTIONS:
            ins[0] = self.neutral(step.name, ins[0], axes[0], params["axes"])
        elif step.name == "random_bits" and self.taken is not None:
            drawn = self.bits(ins[0], step)
            if drawn is not None:
                return [drawn]
        elif step.name == "iota":
            mask = self.mask(self.plan.axes[step.outs[0]][params["dimension"]])
            if mask is not None:
                rank = (jnp.cumsum(mask > 0) - 1).astype(params["dtype"])
                return [jax.lax.broadcast_in_dim(rank, params["shape"], (params["dimension"],))]
        subfuns, bind_params = _bind_params(step, params)
        found = step.primitive.bind(*subfuns, *ins, **bind_params)
        return found if step.primitive.multiple_results else [found]

    def neutral(self, name: str, x: Any, axes: Sequence[Axis], places: Sequence[int]) -> Any:
        """x, with what changes nothing in the place of what is not used."""
        if name == "reduce_sum":
            return self.masked(x, axes, places)
        mask = self.over(x, axes, places)
        if mask is None:
            return x
        least, most = _ends(x.dtype)
        fill = {"reduce_max": least, "argmax": least, "reduce_min": most, "argmin": most}.get(
            name, {"reduce_prod": 1, "reduce_and": most, "reduce_or": least}.get(name)
        )
        return jnp.where(mask > 0, x, jnp.asarray(fill, x.dtype))

    def bits(self, key: Any, step: Step) -> Any:
        """Random bits whose used entries are those that the network of the path draws; None where all are used.

        Of the generator threefry, entry i of an array is the XOR of the two words of `fold_in(key, i)`, whatever the
        shape; i counts the used entries alone.
        """
        params, axes = step.params[0], self.plan.axes[step.outs[0]]
        masks = [self.mask(axis) for axis in axes]
        plain = (
            getattr(jax.config, "jax_threefry_partitionable", False) and str(jax.random.key_impl(key)) == "threefry2x32"
        )
        if all(mask is None for mask in masks) or not plain or key.ndim or params["bit_width"] > 32:
            return None
        index, stride = jnp.zeros((), jnp.uint32), jnp.ones((), jnp.uint32)
        for place in reversed(range(len(masks))):
            mask, size = masks[place], params["shape"][place]
            rank = jnp.arange(size) if mask is None else jnp.cumsum(mask > 0) - 1
            along = [-1 if at == place else 1 for at in range(len(masks))]
            index = index + rank.astype(jnp.uint32).reshape(along) * stride
            stride = stride * (jnp.uint32(size) if mask is None else jnp.sum(mask > 0).astype(jnp.uint32))
        words = jax.random.key_data(jax.vmap(lambda i: jax.random.fold_in(key, i))(index.reshape(-1)))
        drawn = (words[:, 0] ^ words[:, 1]).reshape(params["shape"])
        return drawn.astype({8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32}[params["bit_width"]])

    def choose(self, number: int, step: Step, env: Env) -> Sequence[Any]:
        """Where options meet: the sum of all by their weights, or the one of the path, and nothing else computed."""
        params, count = step.params[0], len(step.outs)
        slots = [step.ins[s * count : (s + 1) * count] for s in range(params["slots"])]
        select, name = jnp.asarray(params["select"]), params["choice"]
        if self.taken is None:
            weights = self.weights[name]  # type: ignore[index]
            shares = jnp.zeros(len(slots), weights.dtype).at[select].add(weights)
            arrays = [[self.read(ref, env) for ref in slot] for slot in slots]
            return [_weighed(shares, [own[at] for own in arrays], name) for at in range(count)]
        regions = self.plan.regions
        mine = regions.slots[number]
        here = [k for k, own in enumerate(regions.stats) if any(regions.inside(own, slot) for slot in mine)]

        def branch(slot: int) -> Any:
            def compute() -> tuple[list[Any], list[Any]]:
                inner = dict(env)
                run = Run(self.plan, self.taken, None)
                run._masks = dict(self._masks)  # what is made inside stays there
                run.region(mine[slot], inner)
                outs = [jnp.asarray(run.read(ref, inner)) for ref in slots[slot]]
                return outs, [jnp.asarray(value) for value in run.stats(inner, here)]

            return compute

        outs, stats = jax.lax.switch(select[self.taken[name]], [branch(slot) for slot in range(len(slots))])
        for k, value in zip(here, stats, strict=True):
            ref = self.plan.stats[k]
            if isinstance(ref, int):
                env[ref] = value
        return outs


def _weighed(shares: Any, arrays: Sequence[Any], name: str) -> Any:
    if not jnp.issubdtype(arrays[0].dtype, jnp.inexact):
        raise ValueError(f"the options of {name!r} give {arrays[0].dtype}, which a mixture cannot weigh: give floats")
    return sum(shares[slot].astype(array.dtype) * array for slot, array in enumerate(arrays))


def _ends(dtype: Any) -> tuple[Any, Any]:
    """The least and the greatest value of a type."""
    if dtype == jnp.bool_:
        return False, True
    if jnp.issubdtype(dtype, jnp.inexact):
        return -jnp.inf, jnp.inf
    return jnp.iinfo(dtype).min, jnp.iinfo(dtype).max


def _bind_params(step: Step, params: Mapping[str, Any]) -> tuple[Sequence[Any], dict[str, Any]]:
    if step.name in ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"):
        found = step.primitive.get_bind_params(params)
        if isinstance(found, tuple):  # of older versions of JAX
            return found
        return (), dict(found)
    return (), dict(params)
