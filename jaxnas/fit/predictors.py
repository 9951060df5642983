"""What predicts one-shot scores: graphs of any space, told costs where these add up."""

from __future__ import annotations

from collections.abc import Callable

import jax
import optax

from jaxnas import predictors
from jaxnas.base import Arch, Graph, Predictor, SearchSpace
from jaxnas.fit.budget import Budget
from jaxnas.predictors import Block


def graphs(space: SearchSpace, budget: Budget) -> Callable[[Arch], Graph]:
    """arch -> its graph, with the logarithms of its parameters and multiply-adds where the budget can tell them."""
    signals = budget.signals
    if signals is None:
        return space.graph
    return lambda arch: space.graph(arch)._replace(signals=signals(arch))


def _example(space: SearchSpace, budget: Budget) -> Graph:
    if not budget.vocabulary:
        raise ValueError(
            f"predictors need the operations of {space.name}: give the Entry its vocabulary, or no predictor"
        )
    return jax.eval_shape(graphs(space, budget), jax.ShapeDtypeStruct((len(space.choices),), "int32"))


def gaussian_process(space: SearchSpace, budget: Budget) -> Predictor:
    """On the operations and edges of the graph, and the costs with a quarter of their weight."""
    example = _example(space, budget)
    blocks = [Block(predictors.one_hot(len(budget.vocabulary)))]
    if example.signals is not None:
        blocks.append(Block(predictors.signals, 0.25))
    return predictors.gaussian_process(blocks, example)


def graph_network(space: SearchSpace, budget: Budget) -> Predictor:
    """Five members, AdamW, the cosine schedule over whole batches of experiments.predictor."""
    example = _example(space, budget)
    encode = None if example.signals is None else predictors.signals
    network = predictors.gnn(len(budget.vocabulary), example, width=24, encode=encode)
    epochs = 100
    schedule = optax.cosine_decay_schedule(5e-3, epochs)
    optimizer = optax.chain(optax.clip_by_global_norm(5.0), optax.adamw(schedule, weight_decay=1e-2))
    return predictors.ensemble(predictors.regression(network, optimizer, epochs=epochs), 5)


def both(space: SearchSpace, budget: Budget) -> Predictor:
    """The mean of the graph network and the Gaussian process."""
    return predictors.average(graph_network(space, budget), gaussian_process(space, budget))


PREDICTORS: dict[str, Callable[[SearchSpace, Budget], Predictor]] = {
    "gp": gaussian_process,
    "gnn": graph_network,
    "gnn_gp": both,
}
