"""Any search algorithm with shared weights as a method of the road: run, scored, resumed, over seeds and devices.

`weight_sharing` is what a method of your own calls; ENAS is one. `search_shared` is the same for one algorithm without
a road: no run folder, no baselines.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import data
from jaxnas.base import Array, Key, SearchAlgorithm, Supernet
from jaxnas.cache import enable_cache
from jaxnas.data import Dataset
from jaxnas.fit import seeds
from jaxnas.fit.budget import Budget, excess, feasible_samples
from jaxnas.fit.devices import Devices, join, spread
from jaxnas.fit.problem import Found, Picture, Prepared, Problem, Stop, no_pictures, search_split
from jaxnas.fit.results import clock
from jaxnas.fit.scoring import Score, with_scores
from jaxnas.fit.searching import Epochs, run_epochs
from jaxnas.fit.settings import image_shape_of
from jaxnas.parallel import local
from jaxnas.ranges import Between, Count, Depth, Limit, Width, check_settings
from jaxnas.runfolder import RunFolder, Stage
from jaxnas.train.loop import AfterEpoch
from jaxnas.train.path_score import make_path_score

Build = Callable[[Supernet, int, str | None], SearchAlgorithm]
"""(supernet, steps of an epoch, axis_name) -> algorithm. axis_name: None unless `Sharing.per_device`, and then the axis
over which devices that run the step on a part of the batch take means."""
_ROUNDS = 50
"""How many times candidates are drawn until there are enough within a budget."""
_SHOWN = 32
"""Draws that the ground truth of a moment is a mean of."""


@dataclasses.dataclass(frozen=True)
class Sharing:
    """What a search with shared weights is, beside its algorithm.

    channels, cells: of the search network. batch_size: images of a step of the weights. batch_sizes, steps: phase ->
    images of a batch and steps in an epoch, where they are others; by default a phase goes once through the first part
    that it reads. valid_part, limit: as of `Darts`. candidates: drawn at the end by an algorithm with `draw`, and as
    many at random. score_batch: images of the validation batches by whose statistics candidates are scored.

    side_by_side: whether several seeds gain by `vmap`, which single paths do not. per_device: whether the step averages
    over an axis_name. Then each device can run it on a part of the batch, which is faster on a CPU. Otherwise XLA's
    partitioner spreads the batch, and the step needs to know nothing of devices.

    >>> sharing = Sharing(epochs=40, batch_size=64, batch_sizes={"controller": 32})  # that phase has smaller batches
    >>> sharing.valid_part, sharing.candidates
    (0.5, 100)
    """

    epochs: Count
    batch_size: Count
    channels: Width = 8
    cells: Depth = 1
    batch_sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    steps: Mapping[str, int] = dataclasses.field(default_factory=dict)
    valid_part: Between = 0.5
    limit: Limit = 0
    candidates: Count = 100
    score_batch: Count = 250
    side_by_side: bool = False
    per_device: bool = False
    log_every: Count = 50


def weight_sharing(
    problem: Problem, sharing: Sharing, build: Build,
    pictures: Callable[[RunFolder, Mapping[str, Found], str], Sequence[Picture]] = no_pictures,
) -> Prepared:  # fmt: skip
    """The search of a problem by an algorithm over shared weights, for a method's `prepare`.

    An algorithm with `draw` has its candidates scored by their accuracy on the validation part, by the statistics of
    its batches; the best of as many random ones is a baseline. One without is asked to `derive`.

    Raises: ValueError for what cannot work with the space, the data or the devices.

    docs/own_method.md has an example.
    """
    check_settings("search", sharing, Sharing)
    seeds.check(problem, {})
    if not sharing.per_device:
        problem = problem._replace(devices=_any_step(problem.devices))
    train = {"train": ("search.batch_size", sharing.batch_size)}
    split = search_split(problem.dataset, problem.seed, sharing.valid_part, sharing.limit, train, "search.")
    every = (sharing.batch_size, *sharing.batch_sizes.values())
    layout = seeds.layout(problem, image_shape_of(problem.dataset), *every, side_by_side=sharing.side_by_side)
    supernet = problem.supernet(sharing.channels, sharing.cells)
    algorithm = build(supernet, data.count(split.train) // sharing.batch_size, layout.axis_name)
    sizes = _sizes(algorithm, sharing.batch_size, sharing.batch_sizes, sharing.steps)
    for phase in algorithm.phases:
        for part in phase.reads:
            there = data.count(getattr(split, part))
            if sizes[phase.name] > there:
                raise ValueError(
                    f"batches of {sizes[phase.name]} of phase {phase.name!r} are larger than the part {part!r}, which "
                    f"has {there} examples; choose smaller ones"
                )
    if algorithm.draw is None and problem.budget(supernet.space).limits:
        raise ValueError("this algorithm derives from its state alone, which no budget limits: leave out the budget")
    epochs = Epochs(problem.dataset, split, sizes, sharing.steps, _size_names(algorithm, sharing))
    this = _Search(sharing, problem, supernet, epochs, layout, algorithm)
    return Prepared(lambda run, stop: _search(this, run, stop), pictures=pictures)


def _any_step(devices: Devices) -> Devices:
    """The devices for steps that know no axis, which XLA's partitioner spreads. Raises ValueError for another way."""
    check_settings("devices", devices, Devices)
    if devices.way not in (None, "sharded"):
        raise ValueError(f"the steps of this algorithm know no devices.way {devices.way}: leave it out, or sharded")
    return dataclasses.replace(devices, way="sharded")


def _sizes(
    algorithm: SearchAlgorithm, batch_size: int, batch_sizes: Mapping[str, int], steps: Mapping[str, int]
) -> dict[str, int]:
    """Phase -> images of a batch. Raises ValueError for a phase that there is not, and for less than 1."""
    names = [phase.name for phase in algorithm.phases]
    for what, given in (("batch_sizes", batch_sizes), ("steps", steps)):
        for name, number in given.items():
            if name not in names:
                raise ValueError(f"{what}: the algorithm has no phase {name!r}; it has {', '.join(names)}")
            if number < 1:
                raise ValueError(f"{what} of {name} must be at least 1, got {number}")
    return {name: batch_sizes.get(name, batch_size) for name in names}


def _size_names(algorithm: SearchAlgorithm, sharing: Sharing) -> dict[str, str]:
    """Phase -> the setting that is its batch size: one of its own as the methods of the library name it."""
    phases = [phase.name for phase in algorithm.phases]
    return {
        name: f"search.{name}.batch_size" if name in sharing.batch_sizes else "search.batch_size" for name in phases
    }


class _Search(NamedTuple):
    """A search that was checked."""

    sharing: Sharing
    problem: Problem
    supernet: Supernet
    epochs: Epochs
    layout: seeds.Layout
    algorithm: SearchAlgorithm


def _search(this: _Search, run: RunFolder, stop: Stop) -> dict[str, Found]:
    """The search stage: what each seed found, and the best of as many random candidates."""
    problem, layout = this.problem, this.layout

    def each(stage: Stage) -> tuple[list[dict[str, Any]], float]:
        init_keys, run_keys, derive_keys, random_keys = seeds.search_keys(problem, 4)
        outcome = run_epochs(
            this.algorithm, layout.start(this.algorithm.init, init_keys), layout.keys(run_keys), this.epochs,
            this.sharing.epochs, layout=layout, seeds=problem.seeds, stage=stage, stop=stop,
            log_every=this.sharing.log_every, after_epoch=_tell_truth(this),
        )  # fmt: skip
        timer = clock()
        states = seeds.states(problem.seeds, outcome.state)
        found = [_chosen(this, *own, stop) for own in zip(states, derive_keys, random_keys, strict=True)]
        return found, outcome.seconds + timer()

    return seeds.searched(run, problem, this.supernet.space, each)


def _tell_truth(this: _Search) -> AfterEpoch | None:
    """After an epoch: what is truly worth what the algorithm holds then, the mean of some draws where it draws.

    None without a table, and for several seeds, whose states are stacked.
    """
    truth, algorithm = this.problem.truth, this.algorithm
    if truth is None or this.problem.seeds > 1:
        return None
    key = jax.random.key(this.problem.seed)

    @jax.jit
    def held(key: Key, state: Any) -> Array:
        return (
            algorithm.derive(key, state, None)[None] if algorithm.draw is None else algorithm.draw(key, state, _SHOWN)
        )

    def after_epoch(epoch: int, state: Any) -> tuple[Any, dict[str, Any]]:
        told = truth.now(held(jax.random.fold_in(key, epoch), state))
        return state, {name: float(np.mean(value)) for name, value in told.items()}

    return after_epoch


def _chosen(this: _Search, state: Any, derive_key: Key, random_key: Key, stop: Stop) -> dict[str, Any]:
    """What is derived of one seed's last state, in JSON's terms."""
    space, draw = this.supernet.space, this.algorithm.draw
    if draw is None:
        arch = this.algorithm.derive(derive_key, state, None)
        return {"genotype": space.to_genotype(arch), "told": {}}
    valid, size, count = this.epochs.split.valid, this.sharing.score_batch, this.sharing.candidates
    score, budget = score_of(this.supernet, this.epochs, size), this.problem.budget(space)

    def select(by: Mapping[str, Score]) -> dict[str, Any]:
        drawn = {
            "": candidates_within(lambda key: draw(key, state, count), budget, count, derive_key),
            "random_": feasible_samples(space, budget, random_key, count)[0],
        }
        scores = {name: by["metric"](archs) for name, archs in drawn.items()}
        best = {name: jnp.asarray(archs[int(np.argmax(scores[name]))]) for name, archs in drawn.items()}
        told: dict[str, Any] = {
            "count": count,
            "scored_on": f"{data.count(valid)} validation images",
            "batch_norm": f"statistics of each batch of {size}",
        }
        for name, own in scores.items():
            told |= {f"best_{name}score": float(own.max()), f"mean_{name}score": float(own.mean())}
            told |= {f"{name}scores": own.tolist()}
        return {
            "genotype": space.to_genotype(best[""]),
            "told": {"candidates": told},
            "beside": {"best-of-random": space.to_genotype(best["random_"])},
        }

    return with_scores({"metric": lambda archs: score(state, archs)}, select, stop)


def score_of(supernet: Supernet, epochs: Epochs, size: int) -> Callable[[Any, Any], np.ndarray]:
    """(state, archs [P, D]) -> the metric of paths on the validation part, by the statistics of its batches."""
    of_paths = make_path_score(
        supernet.apply_path, epochs.dataset.augmentation, size, objective=epochs.dataset.objective
    )  # fmt: skip
    return lambda state, archs: of_paths(state.params, archs, epochs.split.valid)


def candidates_within(draw: Callable[[Key], Array], budget: Budget, count: int, key: Key) -> np.ndarray:
    """What an algorithm draws at the end, within the budget: int32 [P, D], P being `count` or less.

    draw: key -> archs [count, D].

    Raises: ValueError where it draws nothing within the budget.
    """
    if not budget.limits:
        return np.asarray(draw(key))
    within: list[np.ndarray] = []
    for number in range(_ROUNDS):
        drawn = np.asarray(draw(jax.random.fold_in(key, number)))
        within.extend(drawn[excess(budget, drawn) == 0.0])
        if len(within) >= count:
            break
    if not within:
        raise ValueError(f"nothing within the budget in {_ROUNDS * count} draws; allow more, or search by one_shot")
    return np.stack(within[:count])


def search_shared(
    algorithm: SearchAlgorithm, dataset: Dataset, *, epochs: int, batch_size: int,
    batch_sizes: Mapping[str, int] | None = None, steps: Mapping[str, int] | None = None, valid_part: float = 0.5,
    limit: int = 0, candidates: int = 100, seed: int = 0, devices: Devices | None = None,
    score: Callable[[Any, Array], Any] | None = None, after_epoch: AfterEpoch | None = None,
    stage: Stage | None = None, stop: Stop = lambda: None,
) -> Found:  # fmt: skip
    """Runs the phases of an algorithm for some epochs, and derives an architecture.

    dataset: its training split is divided by `valid_part`; the test split is not read. batch_size, batch_sizes, steps,
    candidates: as of `Sharing`. score: (state, archs [P, D]) -> [P], for an algorithm that draws candidates; by default
    their accuracy on the validation part, by the statistics of its batches. after_epoch, stage, stop: as of
    `jaxnas.train.loop.run`; without a stage nothing is written.

    Returns: what was found, with the last state.

    Raises: ValueError for what cannot work, before anything is compiled.
    """
    enable_cache(None)
    devices = _any_step(Devices() if devices is None else devices)
    join(devices)
    sharing = Sharing(epochs, batch_size, valid_part=valid_part, limit=limit, candidates=candidates)
    check_settings("", sharing, Sharing)
    if algorithm.supernet is None:
        raise ValueError("the algorithm does not say its supernet: give SearchAlgorithm(…, supernet=…)")
    supernet, space = algorithm.supernet, algorithm.supernet.space
    sizes = _sizes(algorithm, batch_size, batch_sizes or {}, steps or {})
    wanted = {
        part: (f"the batch of {phase.name}", sizes[phase.name]) for phase in algorithm.phases for part in phase.reads
    }
    split = search_split(dataset, seed, valid_part, limit, wanted, "")
    layout = seeds.layout_over(spread(devices, image_shape_of(dataset), *sizes.values()), devices.memory_gb)
    init_key, run_key, derive_key = jax.random.split(jax.random.key(seed), 3)
    reads = Epochs(dataset, split, sizes, steps or {})
    outcome = run_epochs(
        algorithm, layout.start(algorithm.init, [init_key]), run_key, reads, epochs, layout=layout, stage=stage,
        stop=stop, after_epoch=after_epoch,
    )  # fmt: skip
    state = jax.tree.map(local, outcome.state)
    if algorithm.draw is None:
        arch = algorithm.derive(derive_key, state, None)
    else:
        score = score or score_of(supernet, reads, sharing.score_batch)
        archs = algorithm.draw(derive_key, state, candidates)
        arch = archs[int(np.argmax(np.asarray(score(state, archs))))]
    return Found(space, arch, state=state, seconds=outcome.seconds)
