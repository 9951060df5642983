"""Whether a model goes with a data set, told from shapes alone."""

from __future__ import annotations

from typing import Any

import jax

from jaxnas.base import PyTree
from jaxnas.data import Dataset, network_inputs


def example_of(dataset: Dataset, count: int = 1) -> PyTree:
    """The shapes of a batch of inputs, as a network is given them."""

    def of(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((count, *leaf.shape[1:]), jax.dtypes.canonicalize_dtype(leaf.dtype))

    return jax.eval_shape(lambda x: network_inputs(x, dataset.augmentation), jax.tree.map(of, dataset.train.inputs))


def check_inputs(example: PyTree, dataset: Dataset) -> None:
    """Raises ValueError where a model was made searchable for inputs of other shapes than those of a data set.

    example: shapes of a batch, of any number of examples, for which it was made.
    """
    own = example_of(dataset)
    wanted, given = ([(leaf.shape[1:], leaf.dtype) for leaf in jax.tree.leaves(tree)] for tree in (example, own))
    if wanted != given or str(jax.tree.structure(example)) != str(jax.tree.structure(own)):
        raise ValueError(
            f"the model was made searchable for inputs {_told(wanted)} of an example, and {dataset.name} has "
            f"{_told(given)}: give it an example of this data"
        )


def check_outputs(outputs: PyTree, dataset: Dataset) -> None:
    """Raises ValueError where the outputs of a model are no logits [B, K] of the K classes of a data set."""
    if not hasattr(outputs, "shape"):
        raise ValueError(
            f"the model gives a {type(outputs).__name__}, and {dataset.name} needs one array of logits: give it alone, "
            "or the data an objective that reads what the model gives"
        )
    if outputs.shape[1:] != (dataset.num_classes,):
        given = f"{outputs.shape[1]} logits" if len(outputs.shape) == 2 else f"outputs {list(outputs.shape)}"
        raise ValueError(
            f"the model gives {given}, and {dataset.name} has {dataset.num_classes} classes: make the last layer as "
            "wide, and its outputs [B, K]"
        )


def _told(forms: Any) -> str:
    return ", ".join(f"{dtype} {list(shape)}" for shape, dtype in forms)
