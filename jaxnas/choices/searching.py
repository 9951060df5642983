"""`searchable`: the search space, the supernet and the networks of one's own model."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Arch, Aux, Context, Network, PyTree, SearchSpace, Skeleton, Supernet
from jaxnas.catalog import Entry
from jaxnas.checks import check_arch
from jaxnas.choices import linen, nnx
from jaxnas.choices.asking import Asking, Found, Size, listening, tracing
from jaxnas.choices.costing import Costs, cost_table, counts_of, exact_program
from jaxnas.choices.model import Traced, forms_of
from jaxnas.choices.outside import Declared
from jaxnas.choices.parts import Parts
from jaxnas.choices.program import aligned, live
from jaxnas.choices.space import choice_space
from jaxnas.choices.supernet import Source, initial_stats, make_supernet, numbers_of, shape_of_one
from jaxnas.choices.units import Units
from jaxnas.ops.costs import CostTable


class Searchable(NamedTuple):
    """What a model with choices is to a search.

    space: the product of its choices. supernet: all of its architectures in one, whose `apply_path` may stand in any
    training loop. network: arch -> the network of one, really as small as it is. entry: what `jaxnas.run` takes.
    costs: archs [P, D] -> {"params": int64 [P], "macs": int64 [P]}, exact, for one example: what the outputs depend on.
    cost_table: () -> costs as a sum over the options taken, and the largest relative error of the sum on 512 random
    architectures; 0 where costs do add up. units: () -> what is cut where a width is narrowed.
    """

    space: SearchSpace
    supernet: Supernet
    network: Callable[[Arch], Network]
    entry: Entry
    costs: Callable[[Any], dict[str, np.ndarray]]
    cost_table: Callable[[], tuple[CostTable, dict[str, float]]]
    units: Callable[[], Units]


def searchable(model: Any, example: PyTree, *, name: str = "own") -> Searchable:
    """Makes a search space of a model that has choices in it (docs/own_model.md).

    model: a linen module, or what `declared` gives, or a function that makes one of them, () -> model; or a function
    that makes an nnx module, (rngs) -> model. Its `__call__` takes the inputs of a batch as one argument, and may take
    `train`, `training` or `deterministic`, as a flag. It is not changed. example: a batch of inputs, arrays or
    `jax.ShapeDtypeStruct`, whose first axis is that of the examples. name: of the space, which genotypes have.

    Raises: ValueError, with the line of the model, for choices that contradict each other, that change nothing, or that
    a supernet cannot follow, and for outputs whose shape depends on a choice; and for an example that is no such batch.

    >>> import flax.linen as nn
    >>> from jaxnas.choices import width
    >>> def model():
    ...     return nn.Sequential([nn.Dense(width("hidden", (8, 16))), nn.relu, nn.Dense(1)])
    >>> own = searchable(model, jnp.zeros((1, 3)))
    >>> own.network(own.space.from_genotype("hidden=8")).costs
    {'params': 41, 'macs': 32}
    """
    example = _form_of(example)
    traced = traced_model(model)
    trace = Asking("all", traced.framework)
    with tracing(trace):
        params, stats = forms_of(traced, example)
        jax.eval_shape(lambda p, s, x: traced.apply(p, s, None, x, True, None), params, stats, example)
    if not any(len(found.options) > 1 for found in trace.found.values()):
        raise ValueError(
            "the model has no choice between two options; write one_of, width, depth, join or value in its __call__, "
            "or leave a linen model as it is, also one that is trained, and declare them by jaxnas.choices.declared"
        )
    source = Source(traced, trace.found, example, (params, stats))
    values = [found for found in trace.found.values() if found.kind == "value"]
    if values:
        return _without_supernet(source, values[0], name)
    parts = Parts(source)
    _enter_conditions(trace.found, parts)
    _check_outputs(trace.found, parts.changed_outputs())
    costs = parts.costs()

    def of_one(arch: Arch) -> dict[str, int]:
        return {cost: int(value[0]) for cost, value in costs(np.asarray(arch)[None]).items()}

    space = choice_space(name, trace.found, of_one)
    network = _networks(source, space, of_one)
    supernet = make_supernet(source, space, network)
    table = functools.cache(lambda: cost_table(space, costs))
    units = functools.cache(lambda: Units(parts))
    entry = _entry(space, supernet, network, costs, example)
    return Searchable(space, supernet, network, entry, costs, table, units)


def _form_of(example: PyTree) -> PyTree:
    """Shapes and types of a batch of inputs. Raises ValueError where a leaf is no array with an axis of examples."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(example):
        if not getattr(leaf, "shape", ()):
            raise ValueError(
                "the example is a batch of inputs, arrays whose first axis is that of the examples, got "
                f"{jax.tree_util.keystr(path)} {leaf!r:.80}; give jnp.zeros((1, 8, 8, 1)) for images of 8x8, say"
            )
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.result_type(leaf)), example)


def traced_model(model: Any) -> Traced:
    """A model, or a function that makes one, as functions. Raises ValueError for something else."""
    if isinstance(model, Declared):
        return linen.linen_model(lambda: model)
    if linen.is_model(model):
        _check_fields(model)
        return linen.linen_model(lambda: model)
    if nnx.is_layer(model):
        raise ValueError(
            "an nnx model is made with its widths: give searchable a function that makes it, "
            f"lambda rngs: {type(model).__name__}(…, rngs=rngs)"
        )
    if not callable(model):
        raise ValueError(f"a model is a flax module, or a function that makes one, got {model!r:.200}")
    return nnx.nnx_model(model) if nnx.is_made_with_rngs(model) else linen.linen_model(model)


def _check_fields(model: Any) -> None:
    for field in dataclasses.fields(model):
        own = getattr(model, field.name, None)
        if isinstance(own, Size):
            raise ValueError(
                f"{field.name}: the width {own.choice!r} was asked for before the model is traced, so it is a plain "
                "number there; give searchable a function that makes the model, `lambda: Model(…)`"
            )


def _enter_conditions(found: Mapping[str, Found], parts: Parts) -> None:
    """Enters where choices matter. Raises ValueError, with the line of the model, for one that matters nowhere."""
    matters = parts.matters()
    for choice in found.values():
        if choice.name in matters:
            choice.conditions = matters[choice.name]
        elif len(choice.options) > 1:
            raise ValueError(
                f"{choice.where}: the choice {choice.name!r} changes nothing that the model gives; use what it gives, "
                "or leave it out"
            )


def _check_outputs(found: Mapping[str, Found], changing: set[str]) -> None:
    """Raises ValueError, with the line of the model, where the form of what it gives depends on a choice."""
    for choice in found.values():
        if choice.name in changing:
            raise ValueError(
                f"{choice.where}: the shape of the outputs depends on the {choice.kind} {choice.name!r}; give the last "
                "layer a fixed number of features"
            )


def _networks(
    source: Source, space: SearchSpace, costs: Callable[[Arch], dict[str, int]] | None
) -> Callable[[Arch], Network]:
    """Makes arch -> its network, which runs the model itself, with the options of the architecture."""
    traced = source.traced

    def network(arch: Arch) -> Network:
        check_arch(space.choices, arch, f"the space {space.name!r}")
        taken = numbers_of(source.names, space.canonical(arch))

        def listen() -> Any:
            return listening(Asking("one", traced.framework, taken, dict(source.found), True))

        def init(key: Any) -> tuple[PyTree, PyTree]:
            with listen():
                params, stats = traced.init(key, _zeros(source.example))
            return params, initial_stats(stats)

        def apply(params: PyTree, inputs: Any, context: Context) -> tuple[Any, Aux]:
            train = isinstance(context.bn, str)
            with listen():
                form = forms_of(traced, source.example)[1] if train else context.bn
                given = initial_stats(form) if train else context.bn
                key = context.key if train else None
                outputs, stats = traced.apply(params, given, key, inputs, train, context.axis_name)
            return outputs, Aux(stats if train else given)

        plain = Network(init, apply, {})
        return plain._replace(costs=counted(plain, source.example) if costs is None else costs(arch))

    return network


def counted(network: Network, example: PyTree) -> dict[str, int]:
    """Parameters and multiply-adds of one network, by a trace of it for one example.

    What its outputs do not depend on counts nothing. example: shapes of a batch of inputs.
    """
    params, stats = jax.eval_shape(network.init, jax.random.key(0))
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), example)
    program = aligned([jax.make_jaxpr(lambda p, s, x: network.apply(p, x, Context(s))[0])(params, stats, one)])
    steps = itertools.compress(program.steps, live(program, program.outputs))
    return counts_of(list(steps), program, len(jax.tree.leaves(params)))


def _zeros(form: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), form)


def _without_supernet(source: Source, value: Found, name: str) -> Searchable:
    """Of a model with Python values: a space and networks."""
    _check_outputs(source.found, _changed_outputs(source))
    space: SearchSpace

    def costs(archs: Any) -> dict[str, np.ndarray]:
        each = [network(jnp.asarray(arch)).costs for arch in np.asarray(archs)]
        return {name: np.array([own[name] for own in each], np.int64) for name in ("params", "macs")}

    space = choice_space(name, source.found, lambda arch: network(arch).costs)
    network = _networks(source, space, None)

    def refuse(*_: Any, **__: Any) -> Any:
        raise ValueError(
            f"{value.where}: the choice {value.name!r} is a Python value, and no supernet can hold it: search the "
            "model by jaxnas.BlackBox, or make it a one_of"
        )

    supernet = Supernet(space, refuse, refuse, refuse, refuse, network, refuse, refuse, shape_of_one(source.example))
    entry = Entry(
        name, lambda skeleton: space, refuse, lambda arch, skeleton, own: network(arch), vocabulary=vocabulary(space),
        example=source.example,
    )  # fmt: skip
    return Searchable(space, supernet, network, entry, costs, refuse, refuse)


def _changed_outputs(source: Source) -> set[str]:
    """The choices of which one option alone changes the form of what the widest network gives."""
    traced = source.traced

    def given(taken: Mapping[str, int]) -> Any:
        with tracing(Asking("one", traced.framework, taken, dict(source.found), True)):
            params, stats = forms_of(traced, source.example)
            return jax.eval_shape(
                lambda p, s, x: traced.apply(p, s, None, x, True, None)[0], params, stats, source.example
            )

    whole = given({})
    return {c.name for c in source.found.values() for o in range(len(c.options)) if given({c.name: o}) != whole}


def vocabulary(space: SearchSpace) -> tuple[str, ...]:
    """What the operation ids of the graphs mean: the options of all choices."""
    return tuple(f"{choice.name}={option}" for choice in space.choices for option in choice.options)


def _entry(
    space: SearchSpace, supernet: Supernet, network: Callable[[Arch], Network], costs: Costs, example: PyTree
) -> Entry:
    """What the road takes. Its skeletons are not read: the model says all of itself, for inputs as the example."""
    program, structure = exact_program(space, costs)

    def of_taken(taken: Mapping[str, np.ndarray], skeleton: Skeleton) -> dict[str, np.ndarray]:
        return costs(np.stack([np.argmax(taken[choice.name][:, 0], axis=-1) for choice in space.choices], axis=-1))

    return Entry(
        space.name,
        space=lambda skeleton: space,
        supernet=lambda skeleton: supernet,
        network=lambda arch, skeleton, own: network(arch),
        vocabulary=vocabulary(space),
        cost_table=None if structure is None else lambda skeleton: program,
        structure=structure,
        costs=of_taken,
        example=example,
    )
