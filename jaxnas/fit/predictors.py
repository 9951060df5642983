"""What predicts one-shot scores: graphs of any space, what their paths are like, and costs where these add up."""

from __future__ import annotations

from collections.abc import Callable

import jax

from jaxnas import predictors
from jaxnas.base import Arch, Graph, Predictor, SearchSpace
from jaxnas.fit.budget import Budget
from jaxnas.predictors import Block, Encoding
from jaxnas.predictors.regression import decaying_adamw


def graphs(space: SearchSpace, budget: Budget) -> Callable[[Arch], Graph]:
    """arch -> its graph in functional form. Where the budget can tell them, the graph has the logarithms of parameters
    and multiply-adds as signals.
    """
    form, signals = predictors.functional(with_vocabulary(space, budget)), budget.signals
    if signals is None:
        return lambda arch: form(space.graph(arch))
    return lambda arch: form(space.graph(arch))._replace(signals=signals(arch))


def with_vocabulary(space: SearchSpace, budget: Budget) -> SearchSpace:
    """The space with a vocabulary: its own, or that of the budget where it has none."""
    return space if space.vocabulary else space._replace(vocabulary=budget.vocabulary)


def _example(space: SearchSpace, budget: Budget) -> Graph:
    if not budget.vocabulary:
        raise ValueError(
            f"predictors need the operations of {space.name}: give the Entry its vocabulary, or no predictor"
        )
    return jax.eval_shape(graphs(space, budget), jax.ShapeDtypeStruct((len(space.choices),), "int32"))


def _shape(space: SearchSpace, budget: Budget) -> Encoding | None:
    """What is known of cells and networks by their paths; None of a product of plain choices."""
    named = with_vocabulary(space, budget)
    return predictors.shape(named) if "output" in named.vocabulary else None


def gaussian_process(space: SearchSpace, budget: Budget) -> Predictor:
    """On statistics of paths, counts of paths, and a little on single operations and edges; costs add nothing to those.

    Where there are no paths it is on operations and edges, and the costs with a quarter of their weight. The shares
    were chosen on digits201.
    """
    example, shape, named = _example(space, budget), _shape(space, budget), with_vocabulary(space, budget)
    paths = predictors.path_roots(named)
    nodes = predictors.one_hot(len(budget.vocabulary))
    if shape is not None and paths is not None:
        blocks = [Block(nodes, 0.1), Block(shape, 0.7), Block(paths, 0.2, standardize=False)]
        return predictors.gaussian_process(blocks, example)
    blocks = [Block(nodes)] if shape is None else [Block(nodes, 0.5), Block(shape, 0.5)]
    if example.signals is not None:
        blocks.append(Block(predictors.signals, 0.25))
    return predictors.gaussian_process(blocks, example)


def graph_network(space: SearchSpace, budget: Budget) -> Predictor:
    """Five members, AdamW, a cosine schedule, batches of about 128; told what paths are like."""
    example, shape = _example(space, budget), _shape(space, budget)
    encodings = [] if shape is None else [shape]
    if example.signals is not None:
        encodings.append(predictors.signals)
    encode = predictors.concatenated(*encodings) if encodings else None
    levels = predictors.levels(with_vocabulary(space, budget))
    network = predictors.gnn(len(budget.vocabulary), example, width=24, encode=encode, levels=levels)
    one = predictors.regression(network, decaying_adamw, epochs=30, batch=128, least_steps=100)
    return predictors.ensemble(one, 5)


def both(space: SearchSpace, budget: Budget) -> Predictor:
    """The mean of the graph network and the Gaussian process."""
    return predictors.average(graph_network(space, budget), gaussian_process(space, budget))


PREDICTORS: dict[str, Callable[[SearchSpace, Budget], Predictor]] = {
    "gp": gaussian_process,
    "gnn": graph_network,
    "gnn_gp": both,
}
