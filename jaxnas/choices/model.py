"""What this package needs of a model, whatever it is made of."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax


class Traced(NamedTuple):
    """A model as functions, run anew in each trace.

    init: (key, inputs) -> (params, statistics before any batch). apply: (params, stats, key or None, inputs, train,
    axis_name) -> (outputs, stats): where it trains, outputs are by the statistics of the batch, and these are told;
    elsewhere they are by the given ones. Nothing is dropped without a key.
    """

    framework: str
    init: Callable[[Any, Any], tuple[Any, Any]]
    apply: Callable[..., tuple[Any, Any]]


_FLAGS = {
    "train": True, "training": True, "is_training": True, "deterministic": False, "use_running_average": False,
}  # fmt: skip
"""Arguments by which a model is told that it trains, and their value then."""


def call_flag(signature: inspect.Signature) -> tuple[str, bool] | None:
    """The argument by which a model is told that it trains, and its value then; None where it has no such."""
    return next(((name, value) for name, value in _FLAGS.items() if name in signature.parameters), None)


def check_stats(stats: Any, others: Mapping[str, Any]) -> None:
    """Raises ValueError for state that is not that of batch norms. others: name of a kind -> state."""
    kept = [name for name in others if name != "intermediates"]  # what a model tells on its way
    if kept:
        raise ValueError(
            f"the model keeps state in {', '.join(map(repr, kept))}; only parameters and the statistics of batch "
            "norms can be kept in a supernet"
        )
    for path, _ in jax.tree_util.tree_flatten_with_path(stats)[0]:
        last = str(getattr(path[-1], "key", getattr(path[-1], "name", path[-1])))
        if last not in ("mean", "var"):
            raise ValueError(
                f"the model keeps {jax.tree_util.keystr(path)} among the statistics of batch norms, which are means "
                "and variances; other state cannot be kept in a supernet"
            )


def forms_of(traced: Traced, inputs: Any) -> tuple[Any, Any]:
    """Shapes of the parameters and statistics in the trace in progress.

    JAX would give those of an earlier trace for the same function, so that it is a new one each time.
    """
    return jax.eval_shape(lambda key, inputs: traced.init(key, inputs), jax.random.key(0), inputs)
