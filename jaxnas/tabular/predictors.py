"""The predictors that can be learned from a table, by name; their settings are those of docs/results.md.

Cells of NAS-Bench-201's space are known as graphs. Of other tables nothing is known but which option each choice has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas import predictors
from jaxnas.base import Arch, Array, Graph, Predictor
from jaxnas.benchmarks import Table, functional_classes, metric_column
from jaxnas.predictors import Block, Encoding, Regressor
from jaxnas.spaces import nasbench201_graph_operations, nasbench201_space


class Known(NamedTuple):
    """What predictors may know of a table's architectures before any is measured.

    graph: arch -> Graph in functional form, traceable. one_hot: of its nodes and edges. paths and shape: of the graph,
    the square roots of path counts, and statistics of paths with counts of operations; None where there are no paths.
    vocabulary: how many operations a graph may have. classes: int [A], rows of one class are the same function.
    example: one graph, for its shape. signals: the metrics that graphs are given beside.
    """

    graph: Callable[[Arch], Graph]
    one_hot: Encoding
    paths: Encoding | None
    shape: Encoding | None
    vocabulary: int
    classes: np.ndarray
    example: Graph
    signals: tuple[str, ...]


def known(table: Table, signals: Sequence[str] = ()) -> Known:
    """What predictors may know of a table's architectures.

    signals: metrics that are known of every architecture before any is trained, costs above all, which graphs are given
    beside. Those that are positive and reach over a factor of ten are given as logarithms.

    Raises: ValueError for a signal that is unknown or that a row lacks.
    """
    with_signals = _with_signals(table, signals)
    arch = jax.ShapeDtypeStruct((len(table.choices),), jnp.int32)
    space = nasbench201_space()
    if [choice.options for choice in table.choices] != [choice.options for choice in space.choices]:
        size = max(len(choice.options) for choice in table.choices)
        graph = with_signals(predictors.unconnected)
        return Known(
            graph=graph,
            one_hot=predictors.one_hot(size),
            paths=None,
            shape=None,
            vocabulary=size,
            classes=np.arange(len(table.archs)),
            example=jax.eval_shape(graph, arch),
            signals=tuple(signals),
        )
    names = nasbench201_graph_operations()
    form = predictors.functional_form(names, ("skip_connect",))
    point, wide, pool = (names.index(name) for name in ("nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"))
    counts = predictors.path_counts((point, wide, pool), 3)
    graph = with_signals(lambda arch: form(space.graph(arch)))
    return Known(
        graph=graph,
        one_hot=predictors.one_hot(len(names)),
        paths=lambda graph: jnp.sqrt(counts(graph)),
        shape=predictors.concatenated(
            predictors.path_statistics([(point, wide), (wide,), (pool,)]),
            predictors.operation_counts((point, wide, pool)),
        ),
        vocabulary=len(names),
        classes=functional_classes(table.archs),
        example=jax.eval_shape(graph, arch),
        signals=tuple(signals),
    )


def _with_signals(table: Table, metrics: Sequence[str]) -> Callable[[Callable[[Arch], Graph]], Callable[[Arch], Graph]]:
    if not metrics:
        return lambda graph: graph
    signals = _signals(table, metrics)
    return lambda graph: lambda arch: graph(arch)._replace(signals=signals[table.index(arch)])


def _signals(table: Table, metrics: Sequence[str]) -> Array:
    """float32 [A, F]."""
    columns = []
    for metric in metrics:
        column = metric_column(table, metric)
        if np.isnan(column).any():
            raise ValueError(f"the signal {metric!r} is missing for {int(np.isnan(column).sum())} architectures")
        wide = column.min() > 0 and column.max() > 10 * column.min()
        columns.append(np.log(column) if wide else column)
    return jnp.asarray(np.stack(columns, axis=1), jnp.float32)


def _there(encoding: Encoding | None) -> Encoding:
    if encoding is None:
        raise ValueError("what is known of this table's architectures has no paths; methods for it are gp, mlp")
    return encoding


def _network(network: Regressor, epochs: int, learning_rate: float) -> Predictor:
    """AdamW with a cosine schedule over whole batches."""
    schedule = optax.cosine_decay_schedule(learning_rate, epochs)
    optimizer = optax.chain(optax.clip_by_global_norm(5.0), optax.adamw(schedule, weight_decay=1e-2))
    return predictors.regression(network, optimizer, epochs=epochs)


def _gp(of: Known) -> Predictor:
    """On the paths and their statistics, or on the options where there are none."""
    blocks = [Block(of.one_hot)]
    if of.paths is not None and of.shape is not None:
        blocks = [Block(of.paths, 0.2, standardize=False), Block(of.shape, 0.8)]
    if of.signals:
        blocks.append(Block(predictors.signals, 0.25))
    return predictors.gaussian_process(blocks, of.example)


def _gp_paths(of: Known) -> Predictor:
    """On path counts alone."""
    return predictors.gaussian_process([Block(_there(of.paths), standardize=False)], of.example)


def _mlp(of: Known) -> Predictor:
    return predictors.ensemble(_network(predictors.mlp(of.one_hot, of.example), 200, 5e-3), 5)


def _mlp_paths(of: Known) -> Predictor:
    return predictors.ensemble(_network(predictors.mlp(_there(of.paths), of.example), 200, 5e-3), 5)


def _gnn(of: Known) -> Predictor:
    encode = _there(of.shape)
    if of.signals:
        encode = predictors.concatenated(encode, predictors.signals)
    network = predictors.gnn(of.vocabulary, of.example, encode=encode)
    return predictors.ensemble(_network(network, 100, 5e-3), 5)


def _gnn_alone(of: Known) -> Predictor:
    """Without the statistics of paths: what message passing finds for itself."""
    _there(of.shape)
    return predictors.ensemble(_network(predictors.gnn(of.vocabulary, of.example), 100, 5e-3), 5)


def _gnn_gp(of: Known) -> Predictor:
    return predictors.average(_gnn(of), _gp(of))


PREDICTORS: dict[str, Callable[[Known], Predictor]] = {
    "gnn_gp": _gnn_gp,
    "gnn": _gnn,
    "gnn_alone": _gnn_alone,
    "gp": _gp,
    "gp_paths": _gp_paths,
    "mlp_paths": _mlp_paths,
    "mlp": _mlp,
}
"""Name -> what makes it from what is known; ensembles are of five."""


def make_predictor(name: str, of: Known) -> Predictor:
    """The predictor of that name. Raises ValueError where there is none, or none for what is known."""
    if name not in PREDICTORS:
        raise ValueError(f"there is no method {name!r}; there are {', '.join(PREDICTORS)}")
    return PREDICTORS[name](of)
