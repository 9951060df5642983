"""Which parameters and statistics of a supernet an architecture has: for optimizers, for costs, and to cut them out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Context
from jaxnas.choices.costing import Condition, Costs, Term, macs_of, term, under
from jaxnas.choices.program import live
from jaxnas.choices.quantities import Quantity
from jaxnas.choices.running import Plan


class Parts:
    """Of the model as it is in training, on one example."""

    def __init__(self, source: Any):
        self.source = source
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), source.example)
        self.plan: Plan = source.plan(source.form(one, Context()))[0]
        params, stats = source.forms[0]
        count, told = len(jax.tree.leaves(params)), len(jax.tree.leaves(stats))
        inputs = self.plan.program.inputs
        self.variables = {"params": inputs[:count], "stats": inputs[count : count + told]}
        self.paths = {
            name: {jax.tree_util.keystr(path): at for at, (path, _) in enumerate(_leaves(tree))}
            for name, tree in (("params", params), ("stats", stats))
        }
        self.conditions = [self._conditions(variable) for variable in self.variables["params"]]
        for (path, _), variable in zip(_leaves(params), self.variables["params"], strict=True):
            self._check_shared(jax.tree_util.keystr(path), variable)

    def _conditions(self, variable: int) -> frozenset[Condition]:
        regions = self.plan.regions
        found = {under(regions.path(region)) for region in regions.reads.get(variable, ())}
        return frozenset({frozenset()}) if frozenset() in found else frozenset(found)

    def _check_shared(self, path: str, variable: int) -> None:
        """Raises ValueError, with the line of the model, where two options of one choice read a parameter."""
        regions = self.plan.regions
        reading = regions.reads.get(variable, ())
        for number, slots in regions.slots.items():
            within = [slot for slot in slots if any(regions.inside(region, slot) for region in reading)]
            if len(within) > 1:
                step = self.plan.program.steps[number]
                raise ValueError(
                    f"{step.where}: two options of {step.params[0]['choice']!r} share the parameter {path}; make a "
                    "layer for each option"
                )

    def matters(self) -> dict[str, set[Condition]]:
        """Choice -> the options of others under which it changes what the model gives, for each place where it does."""
        plan = self.plan
        found: dict[str, set[Condition]] = {}
        told = live(plan.program, plan.outputs)  # what leads to running statistics alone gives nothing
        for number, region in enumerate(plan.regions.of):
            if region is None or not told[number]:
                continue
            step = plan.program.steps[number]
            names = {step.params[0]["choice"]} if step.name == "choose" else set()
            for ref in (*step.outs, *step.ins):
                if isinstance(ref, int):
                    names.update(*(plan.layouts.names(axis) for axis in plan.axes[ref] if plan.layouts.changes(axis)))
                elif isinstance(own := plan.numbers.get(id(ref)), Quantity):
                    names.update(own.names)
            for name in names:
                found.setdefault(name, set()).add(under(plan.regions.path(region)))
        return found

    def changed_outputs(self) -> set[str]:
        """The choices that the shape of what the model gives depends on."""
        layouts = self.plan.layouts
        axes = [axis for ref in self.plan.outputs if isinstance(ref, int) for axis in self.plan.axes[ref]]
        return set().union(*(layouts.names(axis) for axis in axes if layouts.changes(axis)))

    def used(self, taken: Mapping[str, Any]) -> list[Any]:
        """Of each parameter a mask that broadcasts against it; traceable."""
        layouts = self.plan.layouts

        def prefix(sizes: Quantity, n: int) -> Any:
            return (jnp.arange(n) < sizes.of_path(taken)).astype(jnp.float32)

        masks: list[Any] = []
        holding = {own: _holds(own, taken, self.source.found) for own in set(self.conditions)}
        along: dict[int, Any] = {}
        for variable, conditions in zip(self.variables["params"], self.conditions, strict=True):
            axes = self.plan.axes[variable]
            mask: Any = holding[conditions].reshape((1,) * len(axes))
            for place, axis in enumerate(axes):
                if layouts.changes(axis):
                    if id(axis.root) not in along:
                        along[id(axis.root)] = layouts.mask(axis, prefix, lambda share: share.of_path(taken), jnp) > 0
                    own = along[id(axis.root)]
                    mask = mask & own.reshape([-1 if at == place else 1 for at in range(len(axes))])
            masks.append(mask)
        return masks

    def cut(self, tree: Any, shapes: Any, taken: dict[str, int], name: str) -> Any:
        """The leaves of the network of an architecture. shapes: its form. name: params or stats."""
        leaves = jax.tree.leaves(tree)

        def of(path: Any, shape: Any) -> Any:
            place = self.paths[name].get(jax.tree_util.keystr(path))
            if place is None:
                raise ValueError(
                    f"the network has {jax.tree_util.keystr(path)}, which the supernet has not: the model must name "
                    "its layers alike whatever its choices are"
                )
            leaf = leaves[place]
            for at, axis in enumerate(self.plan.axes[self.variables[name][place]]):
                if self.plan.layouts.changes(axis):
                    leaf = jnp.take(leaf, np.asarray(self.plan.layouts.used(axis, taken)), axis=at)
            if leaf.shape != shape.shape:
                raise ValueError(
                    f"{jax.tree_util.keystr(path)} is {list(shape.shape)} in the network and {list(leaf.shape)} in the "
                    "path of the supernet; this model cannot be followed"
                )
            return leaf

        return jax.tree_util.tree_map_with_path(of, shapes)

    def costs(self) -> Costs:
        """Of the networks of all architectures."""
        plan = self.plan
        pairs = zip(self.variables["params"], self.conditions, strict=True)
        params: list[Term] = [term(plan.axes[variable], plan, conditions) for variable, conditions in pairs]
        return Costs({"params": params, "macs": macs_of(plan)}, plan.layouts, self.source.places)


def _leaves(tree: Any) -> Any:
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def _holds(conditions: frozenset[Condition], taken: Mapping[str, Any], found: Mapping[str, Any]) -> Any:
    result = jnp.array(False)
    for condition in conditions:
        own = jnp.array(True)
        for name, options in condition:
            table = np.zeros(len(found[name].options), bool)
            table[list(options)] = True
            own = own & jnp.asarray(table)[taken[name]]
        result = result | own
    return result
