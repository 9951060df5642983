"""From the last state of a search by mixtures to its architecture, by the rule of its settings and within a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import data
from jaxnas.base import Arch, ArchWeights, Key, Relaxation, SearchAlgorithm, SearchSpace, Supernet
from jaxnas.fit import seeds
from jaxnas.fit.budget import Budget, feasible_samples
from jaxnas.fit.problem import Stop
from jaxnas.fit.scoring import Score, with_scores
from jaxnas.fit.searching import Epochs, run_epochs
from jaxnas.fit.sharing import candidates_within, score_of
from jaxnas.hardware import solve
from jaxnas.kernels.trees import stacked
from jaxnas.runfolder import RunFolder
from jaxnas.search import (
    DartsState,
    Projected,
    decided,
    make_projection,
    projected,
)


class Tuning(NamedTuple):
    """Of a selection by perturbation.

    algorithm: a search on states that are `Projected`, for `epochs` epochs between two of the `decisions`. nodes: as of
    `make_projection`, {} where each slot is one choice. keeps: edges that a node keeps. batch_size: of the validation
    batches, all of which a decision is by.
    """

    algorithm: SearchAlgorithm
    epochs: int
    decisions: int
    nodes: Mapping[str, Sequence[int]]
    keeps: int
    batch_size: int


_SCORE_BATCH = 250
"""Images by whose statistics a drawn architecture is normalized, when it is scored."""


def heaviest(space: SearchSpace, budget: Budget, weights: ArchWeights, key: Key, samples: int = 4096) -> Arch:
    """The architecture within a budget whose options have the greatest product of weights in the mixture.

    By the integer program over the logarithms of the weights; where costs do not add up, so that there is none, the
    heaviest of random architectures within the budget.

    Raises: ValueError where none is within it.

    >>> from jaxnas.base import Skeleton
    >>> from jaxnas.catalog import entry_of
    >>> from jaxnas.fit import make_budget
    >>> skeleton = Skeleton(channels=4, cells=1, image_shape=(8, 8, 1), num_classes=10)
    >>> entry = entry_of("nasbench201")
    >>> space = entry.space(skeleton)
    >>> budget = make_budget(entry, space, skeleton, {"macs": 100_000})
    >>> weights = {"cell": np.tile([0.05, 0.2, 0.1, 0.6, 0.05], (6, 1))}  # convolutions of 3 × 3 weigh most
    >>> arch = heaviest(space, budget, weights, jax.random.key(0))
    >>> bool(budget.costs(np.asarray(arch)[None])["macs"][0] <= 100_000), sorted(set(np.asarray(arch).tolist()))
    (True, [1, 3])
    """
    logs = {kind: np.log(np.maximum(np.asarray(value, np.float64), 1e-30)) for kind, value in weights.items()}
    if budget.structure is not None:
        return jnp.asarray(solve(budget.structure, logs, budget.constraints)[0].arch)
    archs, _ = feasible_samples(space, budget, key, samples)
    taken = jax.jit(jax.vmap(space.one_hot))(jnp.asarray(archs))
    total = sum(np.einsum("aso,so->a", np.asarray(taken[kind], np.float64), logs[kind]) for kind in logs)
    return jnp.asarray(archs[int(np.argmax(total))])


def best_drawn(
    algorithm: SearchAlgorithm, epochs: Epochs, budget: Budget, states: Sequence[DartsState], count: int,
    keys: Sequence[Key], stop: Stop,
) -> list[Arch]:  # fmt: skip
    """For each state, of `count` architectures that it draws within the budget, the one of the best validation metric.

    algorithm: one that draws, such as of `jaxnas.search.by_score`.
    """
    supernet, draw = algorithm.supernet, algorithm.draw
    if supernet is None or draw is None:
        raise ValueError("the algorithm must have its supernet, and draw architectures")
    score = score_of(supernet, epochs, min(_SCORE_BATCH, data.count(epochs.split.valid)))

    def best(state: DartsState, key: Key) -> Arch:
        archs = candidates_within(lambda own: draw(own, state, count), budget, count, key)

        def select(scores: Mapping[str, Score]) -> int:
            return int(np.argmax(scores["metric"](archs)))

        return jnp.asarray(archs[with_scores({"metric": lambda archs: score(state, archs)}, select, stop)])

    return [best(state, key) for state, key in zip(states, keys, strict=True)]


def perturbed(
    tuning: Tuning, supernet: Supernet, relaxation: Relaxation, epochs: Epochs, layout: seeds.Layout,
    states: Sequence[DartsState], keys: Sequence[Key], run: RunFolder, stop: Stop,
    name: str = "perturbation",
) -> list[ArchWeights]:  # fmt: skip
    """The weights of the mixture after all decisions, of each state: one option of weight 1 in each slot that is left.

    layout: of so many states. keys: one of each. name: of the stage, in which a stopped selection is taken up again.
    """
    template = supernet.space.template()
    batches = _batches(epochs, tuning.batch_size)
    project = jax.jit(
        make_projection(
            supernet, relaxation, tuning.nodes, edges=tuning.keeps, objective=epochs.dataset.objective
        )
    )  # fmt: skip
    several = len(states) > 1

    def decide(each: Sequence[Projected]) -> Any:
        after = [
            project(jax.random.clone(key), own, batches) for key, own in zip(decide_keys, each, strict=True)
        ]  # fmt: skip
        return layout.place(stacked(after) if several else after[0])

    def after_epoch(epoch: int, state: Any) -> tuple[Any, dict[str, Any]]:
        return (state if epoch % tuning.epochs else decide(seeds.states(len(states), state))), {}

    decide_keys, run_keys = zip(*(jax.random.split(key) for key in keys), strict=True)
    # The rate of the tuning starts at its own first step, and without the momentum of the search.
    fresh = [state._replace(weight_state=jax.tree.map(jnp.zeros_like, state.weight_state)) for state in states]
    outcome = run_epochs(
        tuning.algorithm, decide([projected(state, template) for state in fresh]), layout.keys(list(run_keys)),
        epochs, (tuning.decisions - 1) * tuning.epochs, layout=layout, seeds=len(states), stage=run.stage(name),
        stop=stop, after_epoch=after_epoch,
    )  # fmt: skip
    return [
        decided(relaxation, own.fixed, own.rows).mean(own.search.alpha)
        for own in seeds.states(len(states), outcome.state)
    ]


def _batches(epochs: Epochs, size: int) -> Any:
    """All validation batches as they are, stacked, [N, B, …]."""
    valid = epochs.split.valid
    places = np.arange(data.count(valid) // size * size).reshape(-1, size)
    return stacked(data.plain_batches(valid, places, epochs.dataset.augmentation))
