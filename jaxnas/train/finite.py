"""Values that are not finite: which step gave the first one, and the error that names it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import PyTree
from jaxnas.parallel import local
from jaxnas.train.chunk import Infos


class NonFiniteError(RuntimeError):
    """A step gave NaN or infinity. `step` counts the steps of the stage, from 1; `quantity` is a field of its Info."""

    def __init__(self, quantity: str, value: float, step: int, where: str) -> None:
        super().__init__(f"{quantity} is {value} at step {step} ({where}); checkpoints from before this step are kept")
        self.step = step
        self.quantity = quantity


def named(infos: Infos) -> list[tuple[str, np.ndarray]]:
    """The fields of an Info by their names, those of nested ones joined by dots."""
    leaves = jax.tree_util.tree_flatten_with_path(infos)[0]
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves]


def first_non_finite(infos: Infos) -> tuple[int, str, float] | None:
    """(index, quantity, value) of the first step of a chunk with a value that is not finite."""
    found = None
    for name, leaf in named(infos):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue
        values = leaf.reshape(len(leaf), -1).astype(np.float64)
        wrong = np.argwhere(~np.isfinite(values))
        if len(wrong) and (found is None or wrong[0, 0] < found[0]):
            found = (int(wrong[0, 0]), name, float(values[tuple(wrong[0])]))
    return found


def check_no_nan(state: PyTree, done: int) -> None:
    """Raises NonFiniteError for a NaN in a state after `done` steps.

    A loss may be finite at the step that makes a parameter NaN. Infinity is left: some states begin with it.
    """
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and np.isnan(np.asarray(local(leaf))).any():
            raise NonFiniteError(f"state{jax.tree_util.keystr(path)}", float("nan"), done, "the state")
