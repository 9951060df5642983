"""What predictors may know of a table's architectures before any is measured: graphs, encodings of them, signals."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import predictors
from jaxnas.base import Arch, Array, Graph, SearchSpace
from jaxnas.benchmarks import Table, functional_classes
from jaxnas.benchmarks.named import metric_column
from jaxnas.predictors import Encoding
from jaxnas.spaces import nasbench201_space, product_space


class Known(NamedTuple):
    """What predictors may know of a table's architectures before any is measured.

    graph: arch -> Graph in functional form, traceable. one_hot: of its nodes and edges. paths: the square roots of path
    counts, None where architectures have one path alone. shape: of cells and networks with skips, statistics of paths
    with counts of operations, of a plain product the values of its numeric options; None where there are none.
    vocabulary: how many operations a graph may have. classes: int [A], rows of one class are the same function.
    example: one graph, for its shape. signals: the metrics that graphs are given beside. levels: () -> groups of places
    that are never joined, for `predictors.gnn`.
    """

    graph: Callable[[Arch], Graph]
    one_hot: Encoding
    paths: Encoding | None
    shape: Encoding | None
    vocabulary: int
    classes: np.ndarray
    example: Graph
    signals: tuple[str, ...]
    levels: Callable[[], list[list[int]]]


def known(table: Table, signals: Sequence[str] = ()) -> Known:
    """What predictors may know of a table's architectures.

    Those of a space of the library are known as its graphs; those of a plain product as the options one after another,
    of which numbers are also known as numbers.

    signals: metrics that are known before any architecture is trained, costs above all, which graphs are given beside.
    Those that are positive and reach over a factor of ten are given as logarithms. One with gaps is given with its mean
    there, and beside it whether it is there.

    Raises: ValueError for a signal that is unknown or that no row has, and a space without a vocabulary.

    >>> from jaxnas.benchmarks import make_table
    >>> from jaxnas.spaces import product_space
    >>> space = product_space("tiny", {"width": (8, 16, 32), "depth": (1, 2, 3)})
    >>> archs = np.indices((3, 3)).reshape(2, -1).T
    >>> table = make_table("tiny", space, archs, {"valid": archs.sum(axis=1), "macs": archs[:, 0]})
    >>> of = known(table, signals=["macs"])
    >>> of.graph(table.archs[0]).signals.shape, of.paths is None  # options one after another are a single path
    ((1,), True)
    """
    space = table.space or _space_of(table)
    if not space.vocabulary:
        raise ValueError(
            f"predictors need the operations of {space.name}: give the space its `vocabulary`, what the operation ids "
            "of its graphs mean"
        )
    names = space.vocabulary
    form = predictors.functional(space)
    values = _signals(table, signals) if signals else None

    def graph(arch: Arch) -> Graph:
        found = form(space.graph(arch))
        return found if values is None else found._replace(signals=values[table.index(arch)])

    return Known(
        graph=graph,
        one_hot=predictors.one_hot(len(names)),
        paths=predictors.path_roots(space),
        shape=predictors.shape(space),
        vocabulary=len(names),
        classes=_classes(table, space),
        example=jax.eval_shape(graph, jax.ShapeDtypeStruct((len(table.choices),), jnp.int32)),
        signals=tuple(signals),
        levels=functools.partial(predictors.levels, space),
    )


def _space_of(table: Table) -> SearchSpace:
    """NAS-Bench-201's where the options are its, otherwise the plain product."""
    space = nasbench201_space()
    if [choice.options for choice in table.choices] == [choice.options for choice in space.choices]:
        return space
    return product_space(table.name, {choice.name: choice.options for choice in table.choices})


def _classes(table: Table, space: SearchSpace) -> np.ndarray:
    own = nasbench201_space()
    if [choice.options for choice in table.choices] == [choice.options for choice in own.choices]:
        return functional_classes(table.archs)
    return np.arange(len(table.archs))


def _signals(table: Table, metrics: Sequence[str]) -> Array:
    """float32 [A, F]."""
    columns = []
    for metric in metrics:
        column = _as_signal_column(metric, metric_column(table, metric))
        gap = np.isnan(column)
        columns.append(np.where(gap, column[~gap].mean(), column))
        if gap.any():
            columns.append(1.0 - gap)
    return jnp.asarray(np.stack(columns, axis=1), jnp.float32)


def _as_signal_column(metric: str, column: np.ndarray) -> np.ndarray:
    if np.isnan(column).all():
        raise ValueError(f"the signal {metric!r} is missing for all {len(column)} architectures")
    return predictors.as_signal(column)
