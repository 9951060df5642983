"""What a user gives: a model, its data and its weights, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Context, PyTree
from jaxnas.checks import inputs_form
from jaxnas.choices import Searchable, searchable
from jaxnas.choices import nnx as of_nnx
from jaxnas.data import Dataset
from jaxnas.fit import matching
from jaxnas.fit.matching import check_inputs, example_of
from jaxnas.shrinking.distilling import Weights


def made_searchable(model: Any, dataset: Dataset) -> Searchable:
    """A model that is searchable on this data. Raises: ValueError where it is not, or was made for other data."""
    example = example_of(dataset)
    if not isinstance(model, Searchable):
        return searchable(model, example)
    check_inputs(inputs_form(model.supernet, 1), dataset)
    return model


def check_outputs(own: Searchable, dataset: Dataset) -> None:
    """Raises ValueError where the outputs of a model do not fit the targets of a data set."""
    network = own.network(own.units().whole)
    example = example_of(dataset, 2)
    targets = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape[1:]), leaf.dtype), dataset.train.targets)

    def losses(key: Any, x: Any, targets: Any) -> Any:
        outputs = network.apply(network.init(key)[0], x, Context())[0]
        if dataset.class_names:
            matching.check_outputs(outputs, dataset)
        return dataset.objective.loss(outputs, targets)

    jax.eval_shape(losses, jax.random.key(0), example, targets)


def weights_of(own: Searchable, given: Any) -> Weights:
    """The weights of a trained model: variables of linen, an nnx module, or (params, statistics).

    Raises: ValueError where they are not those of the model at its widest, naming the first that differs, or are not
    all finite, naming the first that is not.
    """
    wanted = jax.eval_shape(own.network(own.units().whole).init, jax.random.key(0))
    if of_nnx.is_layer(given):  # which holds all options, also those that it does not call
        given = tuple(_part(tree, form) for tree, form in zip(of_nnx.variables_of(given), wanted, strict=True))
    elif isinstance(given, Mapping):
        if "params" not in given:
            raise ValueError(f"weights are the variables of a model, with 'params', got {', '.join(map(str, given))}")
        given = (given["params"], given.get("batch_stats", given.get("stats", {})))
    try:
        params, stats = given
    except (TypeError, ValueError):
        raise ValueError(
            f"weights are variables, a module, or (params, statistics), got {type(given).__name__}"
        ) from None
    for name, form, tree in (("parameter", wanted[0], params), ("statistic", wanted[1], stats)):
        _check_same(name, _shapes(form), _shapes(tree))
    weights = Weights(*jax.tree.map(lambda form, leaf: jnp.asarray(leaf, form.dtype), wanted, (params, stats)))
    for name, tree in (("parameter", weights.params), ("statistic", weights.stats)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if not jnp.isfinite(leaf).all():
                raise ValueError(
                    f"the weights are not finite: the {name} {jax.tree_util.keystr(path)} has NaN or infinity in it; "
                    "give those of a training that did not diverge"
                )
    return weights


def _part(tree: Any, form: Any) -> Any:
    """What a tree of dictionaries has of a smaller one."""
    if not isinstance(tree, Mapping) or not isinstance(form, Mapping):
        return tree
    return {name: _part(tree[name], own) for name, own in form.items() if name in tree}


def _check_same(name: str, wanted: dict[str, tuple[int, ...]], given: dict[str, tuple[int, ...]]) -> None:
    for path in (*wanted, *given):
        here, there = wanted.get(path), given.get(path)
        if here != there:
            told = [f"of the shape {list(shape)}" if shape is not None else "absent" for shape in (there, here)]
            raise ValueError(
                f"the weights are of another model: the {name} {path} is {told[0]}, and {told[1]} in the model at its "
                "widest"
            )


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path): tuple(np.shape(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
