"""What belongs to one space and meets something of another is refused when it is traced, in one line that names both.

JAX itself says nothing: an index beyond the end is clamped, a missing row is broadcast, and the result is a wrong
architecture. Shapes are known while tracing; where an architecture is concrete, its entries are checked as well.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import (
    Arch,
    ArchWeights,
    Array,
    Aux,
    Choice,
    Context,
    Graph,
    Key,
    Predictor,
    PyTree,
    SearchSpace,
    Supernet,
    no_parameters,
)


def check_arch(choices: Sequence[Choice], arch: Any, owner: str) -> None:
    """Raises ValueError where `arch` is not int [D] for these choices.

    owner: what has the choices, for the message, in the singular.
    """
    given = arch if hasattr(arch, "dtype") else _array(arch)
    if given.shape != (len(choices),) or given.dtype.kind not in "iu":
        raise ValueError(
            f"{owner} has {len(choices)} choices, so its architectures are integers [{len(choices)}]; "
            f"got {given.dtype} {list(given.shape)}"
        )
    if isinstance(given, jax.core.Tracer) or not getattr(given, "is_fully_addressable", True):
        return
    for value, choice in zip(np.asarray(given).tolist(), choices, strict=True):
        if not 0 <= value < len(choice.options):
            raise ValueError(
                f"{owner}: choice {choice.name!r} has options 0 to {len(choice.options) - 1}, got {value}; "
                "the architecture is of another space"
            )


def _array(arch: Any) -> Any:
    try:
        return np.asarray(arch)
    except jax.errors.TracerArrayConversionError:  # a list of numbers that are traced
        return jnp.asarray(arch)


def check_choices(choices: Sequence[Choice], others: Sequence[Choice], owner: str, other: str) -> None:
    """Raises ValueError where two things that must be over one space have different choices.

    owner, other: what they are called in the message, in the singular or the plural.
    """
    if len(choices) != len(others):
        raise ValueError(
            f"there are {len(choices)} choices in {owner}, but {len(others)} in {other}; both must be of one space"
        )
    for mine, theirs in zip(choices, others, strict=True):
        if mine.options != theirs.options:
            raise ValueError(
                f"choice {mine.name!r} of {owner} has the options {', '.join(mine.options)}, but in {other} "
                f"{theirs.name!r} has {', '.join(theirs.options)}; both must be of one space"
            )


def check_weights(template: Mapping[str, Any], weights: Mapping[str, Any], owner: str) -> None:
    """Raises ValueError where mixture weights (or architecture parameters) are not laid out as the template is.

    owner: what has the template, for the message, in the singular.
    """
    wanted, given = ({kind: list(np.shape(value)) for kind, value in each.items()} for each in (template, weights))
    if wanted != given:
        raise ValueError(
            f"{owner} has mixture weights {_listed(wanted)}, got {_listed(given)}, which are of another space"
        )


def check_tree(expected: PyTree, tree: PyTree, what: str, owner: str) -> None:
    """Raises ValueError where a pytree has not the structure and shapes of `expected`. what: its name in the plural."""
    wanted, given = (_shapes(each) for each in (expected, tree))
    if wanted == given:
        return
    for path in (*wanted, *given):
        if wanted.get(path) != given.get(path):
            mine, theirs = (str(list(each[path])) if path in each else "absent" for each in (wanted, given))
            raise ValueError(f"the {what} given are not those of {owner}: {path} is {theirs}, and {mine} there")


def check_graphs(example: Graph, graphs: Graph, owner: str) -> None:
    """Raises ValueError where graphs, batched by a leading axis, are not of the space of the example."""
    wanted, given = (_shapes(each) for each in (example, graphs))
    if wanted != {path: shape[1:] for path, shape in given.items()}:
        raise ValueError(
            f"{owner} was made for graphs of the shapes {_listed(wanted)}, got, with a leading axis, {_listed(given)}; "
            "they are of another space"
        )


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): tuple(np.shape(leaf)) for path, leaf in leaves}


def _listed(shapes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()) or "nothing"


def checked_space(space: SearchSpace) -> SearchSpace:
    """The space with functions that refuse architectures and weights of another one, by ValueError.

    Raises: ValueError where two of its choices have one name.
    """
    owner = f"the space {space.name!r}"
    names = [choice.name for choice in space.choices]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{owner} has two choices of the name {twice[0]!r}: give each its own")

    def of_archs(function: Callable[..., Any], *places: int) -> Callable[..., Any]:
        """The function with a check of the arguments at these places."""

        @functools.wraps(function)
        def checked(*arguments: Any) -> Any:
            for place in places:
                check_arch(space.choices, arguments[place], owner)
            return function(*arguments)

        return checked

    def discretize(weights: ArchWeights) -> Arch:
        check_weights(jax.eval_shape(space.template), weights, owner)
        return space.discretize(weights)

    return space._replace(
        mutate=of_archs(space.mutate, 1),
        crossover=of_archs(space.crossover, 1, 2),
        neighbors=of_archs(space.neighbors, 0),
        canonical=of_archs(space.canonical, 0),
        one_hot=of_archs(space.one_hot, 0),
        discretize=discretize,
        graph=of_archs(space.graph, 0),
        costs=of_archs(space.costs, 0),
        to_genotype=of_archs(space.to_genotype, 0),
        notation=of_archs(space.notation, 0),
    )


def inputs_form(supernet: Supernet, batch: int) -> PyTree:
    """The shapes and types of the inputs that a supernet was made for, of a batch of examples."""
    one = supernet.input_shape
    if isinstance(one, tuple) and all(isinstance(side, int) for side in one):
        one = jax.ShapeDtypeStruct(one, jnp.float32)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((batch, *leaf.shape), leaf.dtype), one)


def _anywhere(shapes: PyTree) -> PyTree:
    """Shapes and types alone: those that are kept must not name the mesh under which they were asked for first."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), shapes)


def checked_supernet(supernet: Supernet) -> Supernet:
    """The supernet with functions that refuse what belongs to another space, network or image shape, by ValueError.

    Statistics are compared with those that a path of this supernet tells, of which one more trace is made.
    """
    space = supernet.space
    owner = f"the supernet over {space.name!r}"
    wanted = {path: shape[1:] for path, shape in _shapes(inputs_form(supernet, 1)).items()}

    @functools.cache
    def params_shapes() -> PyTree:
        return _anywhere(jax.eval_shape(supernet.init, jax.random.key(0)))

    @functools.cache
    def stats_shapes() -> PyTree:
        x = inputs_form(supernet, 2)
        arch = jax.ShapeDtypeStruct((len(space.choices),), jnp.int32)
        told = jax.eval_shape(
            lambda params, arch, x: supernet.apply_path(params, arch, x, Context())[1].stats, params_shapes(), arch, x
        )
        return _anywhere(told)

    def check_data(params: PyTree, x: PyTree) -> None:
        check_tree(params_shapes(), params, "parameters", owner)
        given = _shapes(x)
        # Images may be of any height and width.
        if {path: (len(shape), shape[-1:]) for path, shape in wanted.items()} != {
            path: (len(shape) - 1, shape[1:][-1:]) for path, shape in given.items()
        }:
            made_for = ", ".join(
                f"{path} [{', '.join(map(str, ('B', *shape)))}]".strip() for path, shape in wanted.items()
            )
            raise ValueError(f"{owner} was made for examples {made_for}, got {_listed(given).strip()}")

    def apply(params: PyTree, weights: ArchWeights, x: PyTree, context: Context) -> tuple[Any, Aux]:
        check_data(params, x)
        check_weights(jax.eval_shape(space.template), weights, owner)
        if not isinstance(context.bn, str):
            raise ValueError("a mixture is normalized by batch statistics: give Context(bn='batch')")
        return supernet.apply(params, weights, x, context)

    def apply_path(params: PyTree, arch: Arch, x: PyTree, context: Context) -> tuple[Any, Aux]:
        check_data(params, x)
        check_arch(space.choices, arch, owner)
        if not isinstance(context.bn, str):
            check_tree(stats_shapes(), context.bn, "statistics", owner)
        return supernet.apply_path(params, arch, x, context)

    def used(arch: Arch) -> PyTree:
        check_arch(space.choices, arch, owner)
        return supernet.used(arch)

    def extract(params: PyTree, arch: Arch) -> PyTree:
        check_tree(params_shapes(), params, "parameters", owner)
        check_arch(space.choices, arch, owner)
        return supernet.extract(params, arch)

    def extract_stats(stats: PyTree, arch: Arch) -> PyTree:
        check_tree(stats_shapes(), stats, "statistics", owner)
        check_arch(space.choices, arch, owner)
        return supernet.extract_stats(stats, arch)

    bare = supernet.extract is no_parameters  # kept, by which others know
    return supernet._replace(
        apply=apply,
        apply_path=apply_path,
        used=used,
        extract=no_parameters if bare else extract,
        extract_stats=no_parameters if bare else extract_stats,
    )


def checked_predictor(predictor: Predictor, example: Graph) -> Predictor:
    """The predictor with functions that refuse graphs of another space than that of the example, by ValueError."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), example)

    def fit(key: Key, state: Any, graphs: Graph, targets: Array, weight: Array) -> Any:
        check_graphs(shapes, graphs, "the predictor")
        return predictor.fit(key, state, graphs, targets, weight)

    def predict(state: Any, graphs: Graph) -> tuple[Array, Array]:
        check_graphs(shapes, graphs, "the predictor")
        return predictor.predict(state, graphs)

    return predictor._replace(fit=fit, predict=predict)
