"""One-shot search as a method of the road: a supernet trained along single paths, and a choice by its scores."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import data
from jaxnas.base import Array, Key, Sampler, SearchAlgorithm, SearchSpace, Skeleton, Supernet
from jaxnas.fit import reuse, seeds
from jaxnas.fit.budget import Budget
from jaxnas.fit.candidates import Finalists, TrainFinalists, check_finalists, make_finalists
from jaxnas.fit.filtering import proxy_score
from jaxnas.fit.predictors import PREDICTORS, with_vocabulary
from jaxnas.fit.problem import Found, Picture, Prepared, Problem, SearchSplit, Stop, search_split
from jaxnas.fit.programs import program_of
from jaxnas.fit.results import clock
from jaxnas.fit.scores import Measured, ScoreComparison, Scores, Scoring, kept_scores, within
from jaxnas.fit.scoring import Score
from jaxnas.fit.searching import Epochs, ends_of, run_epochs
from jaxnas.fit.select import PREDICTOR, Way, agreement, sampler_of, selected, weakest
from jaxnas.fit.selection_pictures import draw_selection
from jaxnas.fit.settings import image_shape_of
from jaxnas.fit.truth import Truth, curve, held
from jaxnas.parallel import local
from jaxnas.predictors import function_classes
from jaxnas.proxies import checked_names
from jaxnas.ranges import (
    Between,
    Count,
    Depth,
    Limit,
    Natural,
    NotNegative,
    Positive,
    Share,
    UsedWith,
    Width,
    check_settings,
)
from jaxnas.runfolder import RunFolder, Stage
from jaxnas.search import Paths, SinglePathState, fair_paths, sandwich_paths, single_path, uniform_paths
from jaxnas.spaces import Pruned, chain_extremes, everything, prune
from jaxnas.supernets import embedded
from jaxnas.train import schedules
from jaxnas.train.loop import load
from jaxnas.train.path_score import CachedScore


@dataclasses.dataclass(frozen=True)
class OneShot:
    """Trains one supernet along single paths, and searches by its scores (Guo et al. 2020, https://arxiv.org/abs/1904.00420).

    The defaults are those of NAS-Bench-201. As many random architectures within the budget are scored in the same way.
    In a search with one seed, the best of them is a baseline: random search with weight sharing (Li & Talwalkar 2019,
    https://arxiv.org/abs/1902.07638).

    >>> from jaxnas.fit import Scoring
    >>> method = OneShot(by="predictor", predictor="gp", scoring=Scoring(evaluations=200))
    >>> method.scoring.evaluations, method.sampling
    (200, 'uniform')
    """

    name: ClassVar[str] = "one_shot"
    runtime: ClassVar[tuple[str, ...]] = ("supernet",)

    sampling: Literal["uniform", "fair", "sandwich"] = "uniform"
    """uniform: a step trains one random path. fair: a step trains one path for each option of the largest choice, so
    that every option is trained once, and sums their gradients. Such a step takes longer in proportion. sandwich: a
    step trains the largest, the smallest and two random architectures; only the chain has it."""
    epochs: Count = 250
    batch_size: Count = 128
    channels: Width = 16
    cells: Depth = 5
    learning_rate: Positive = 0.05
    last_learning_rate: NotNegative = 0.0
    momentum: Share = 0.9
    weight_decay: NotNegative = 2.5e-4
    clip: Positive | None = 5.0
    valid_part: Between = 0.5
    """The share of the training split on which architectures are scored, where there is no validation split."""
    limit: Limit = 0
    """The search uses at most this many images of the training split; 0 is all."""
    prune: tuple[Natural, ...] = ()
    """How many options every choice keeps at most. N numbers cut the epochs into N + 1 equal parts; after each part but
    the last, the weakest options go. 4 3 keeps four, then three. Parameters are carried over."""
    prune_by: Annotated[Literal["marginal", "predictor"], UsedWith("prune")] = "marginal"
    """Which options are the weakest. marginal: those with the lowest mean score over the scored architectures that have
    them. predictor: the same over many more architectures, with scores that a predictor estimates."""
    by: Way = "evolution"
    """How an architecture is selected. evolution: by evolution. predictor: a predictor says what is scored next.
    ilp: by an integer program over scores that add up over options. proxy: a proxy ranks random architectures, and only
    the first of them are scored."""
    predictor: PREDICTOR = "gnn_gp"
    """gp is a Gaussian process, gnn a graph network, gnn_gp the mean of both. They know the parameters and
    multiply-adds of an architecture. For by "predictor" they say what is scored next. For by "ilp" they rank the best
    solutions of the integer program before these are scored."""
    proxy: str = "vkdnw_agg"
    """For by "proxy": a proxy of jaxnas.proxies, or an aggregate of several, with random parameters."""
    proxy_from: Count = 1000
    """For by "proxy": how many random architectures within the budget it ranks."""
    supernet: str | None = None
    """The run folder of a finished search, whose supernet is used without training. So you can search again with
    another budget, or select in another way."""
    scoring: Scoring = Scoring()
    finalists: Finalists = Finalists()
    comparison: ScoreComparison = ScoreComparison()

    def prepare(self, problem: Problem) -> Prepared:
        """Raises ValueError for settings that cannot work with the space, the data or the devices."""
        check_settings("search", self, type(self))
        self._check()
        alone = {"search.prune": bool(self.prune), "search.supernet": self.supernet is not None}
        seeds.check(problem, alone)
        sizes = {"train": ("search.batch_size", self.batch_size), "valid": ("search.valid_part", 1)}
        split = search_split(problem.dataset, problem.seed, self.valid_part, self.limit, sizes, "search.")
        scored = self.scoring.batches * self.scoring.batch_size
        if scored > data.count(split.train):
            raise ValueError(
                f"search.scoring.batches {self.scoring.batches} of {self.scoring.batch_size} images are more than the "
                f"{data.count(split.train)} that the supernet learns from"
            )
        layout = seeds.layout(problem, image_shape_of(problem.dataset), self.batch_size, side_by_side=False)
        supernet, skeleton = problem.supernet(self.channels, self.cells), problem.skeleton(self.channels, self.cells)
        paths_of(self.sampling, supernet.space, skeleton)  # raises for what cannot be
        check_finalists(problem, self.finalists)
        if self.by == "proxy":
            checked_names([self.proxy])
            if problem.devices.coordinator is not None:
                raise ValueError(
                    "search.by proxy is for one process: leave out devices.coordinator, or take another way"
                )
        if self.by == "ilp":
            program_of(supernet.space, problem.budget(supernet.space))
        if self.by != "evolution" or (self.prune and self.prune_by == "predictor"):
            PREDICTORS[self.predictor](supernet.space, problem.budget(supernet.space))  # raises for what cannot be
        measured = None if problem.truth is None else _measured(self.comparison, problem.truth, problem.seed)
        epochs = Epochs(
            problem.dataset, split, {"supernet": self.batch_size}, size_names={"supernet": "search.batch_size"}
        )
        try:
            valid = data.limited(split.valid, self.scoring.limit) if self.scoring.limit else split.valid
        except ValueError as error:
            raise ValueError(f"search.scoring.limit {self.scoring.limit}: {error}") from error
        scored_split = split._replace(valid=valid)
        this = _Search(self, problem, supernet, skeleton, epochs, scored_split, layout, measured, {})
        taken = reuse.check(self, problem)
        return Prepared(
            lambda run, stop: search(this, run, stop),
            {"supernet": taken},
            lambda run, found, kept: pictures(this, run, found, kept),
        )

    def _check(self) -> None:
        guided = self.by != "evolution" or (self.prune and self.prune_by == "predictor")
        if self.predictor != OneShot.predictor and not guided:
            raise ValueError(
                f"search.predictor {self.predictor} has an effect only with search.by predictor or ilp, or "
                "search.prune_by predictor: leave it out, or give that"
            )
        if self.scoring.evaluations < 16:
            raise ValueError(f"search.scoring.evaluations must be at least 16, got {self.scoring.evaluations}")
        if self.finalists.count > self.scoring.evaluations:
            raise ValueError(
                f"search.finalists.count must be at most the {self.scoring.evaluations} of search.scoring.evaluations, "
                f"got {self.finalists.count}"
            )
        if self.by == "proxy" and self.proxy_from < self.scoring.evaluations:
            raise ValueError(
                f"search.proxy_from must be at least the {self.scoring.evaluations} of search.scoring.evaluations, got "
                f"{self.proxy_from}"
            )
        falling = all(2 <= left < before for before, left in zip((math.inf, *self.prune), self.prune, strict=False))
        if not falling or len(self.prune) >= self.epochs:
            raise ValueError(
                f"search.prune must fall to 2 at least, and be fewer than the {self.epochs} of search.epochs, got "
                f"{list(self.prune)}"
            )


class _Search(NamedTuple):
    """A search that was checked. skeleton: of the supernet. scored: the images that give statistics, and those that
    architectures are scored on. made: as of `Scores`, for all seeds."""

    settings: OneShot
    problem: Problem
    supernet: Supernet
    skeleton: Skeleton
    epochs: Epochs
    scored: SearchSplit
    layout: seeds.Layout
    measured: Measured | None
    made: dict[str, Any]

    @property
    def space(self) -> SearchSpace:
        return self.supernet.space

    def scores(self, params: Any, stage: Stage, name: str = seeds.ONE) -> Scores:
        """Of the paths of a trained supernet, kept in the folder of a stage."""
        folder = stage.path if name == seeds.ONE else stage.path / name
        devices = jax.local_devices()[: self.problem.devices.count or None]
        return Scores(
            self.supernet, params, self.scored, self.problem.dataset, self.settings.scoring,
            self.problem.seed, folder, devices, self.made,
        )  # fmt: skip


def _measured(comparison: ScoreComparison, truth: Truth, seed: int) -> Measured:
    """Random rows of the table; raises ValueError where it has not so many."""
    metric = comparison.metric or truth.search_metric or truth.metric
    values = truth.column(metric)
    rows = np.flatnonzero(~np.isnan(values))
    count = comparison.architectures
    if not 2 <= count <= len(rows):
        raise ValueError(f"search.comparison.architectures must be 2 to {len(rows)}, what the table has, got {count}")
    rows = np.random.RandomState(seed).permutation(rows)[:count]
    return Measured(truth.table.name, metric, np.asarray(truth.table.archs)[rows], values[rows])


def paths_of(sampling: str, space: SearchSpace, skeleton: Skeleton) -> Paths:
    """The paths of a step; raises ValueError where the space has no largest and smallest for a sandwich."""
    if sampling == "uniform":
        return uniform_paths(space)
    if sampling == "fair":
        return fair_paths(space.choices)
    if space.name != "chain":
        raise ValueError(
            f"a sandwich needs a largest and a smallest architecture, which {space.name} has not got: "
            "--space chain, or another --search.sampling"
        )
    return sandwich_paths(space, *chain_extremes(space, skeleton))


def algorithm_of(this: _Search, supernet: Supernet) -> SearchAlgorithm:
    """The algorithm over a supernet, whose space may have lost options."""
    settings, steps = this.settings, data.count(this.epochs.split.train) // this.settings.batch_size
    rate = schedules.cosine(settings.learning_rate, settings.last_learning_rate, settings.epochs)
    optimizer = schedules.sgd(
        schedules.per_epoch(rate, steps),
        momentum=settings.momentum, weight_decay=settings.weight_decay, clip=settings.clip, nesterov=True,
    )  # fmt: skip
    paths = paths_of(settings.sampling, supernet.space, this.skeleton)
    return single_path(
        supernet, paths, optimizer, objective=this.problem.dataset.objective, candidates=settings.scoring.evaluations,
        axis_name=this.layout.axis_name,
    )  # fmt: skip


def search(this: _Search, run: RunFolder, stop: Stop) -> dict[str, Found]:
    """The search stage: what each seed found, and the best of as many random architectures."""
    problem = this.problem

    def each(stage: Stage) -> tuple[list[dict[str, Any]], float]:
        reuse.take(run, this.settings)
        init_keys, run_keys, *rest = seeds.search_keys(problem, 5)
        state, pruned, sizes, seconds = _train(this, run, init_keys, run_keys, stop)
        timer = clock()
        budget, scoring = problem.budget(pruned.space), this.settings.scoring
        sampler = sampler_of(
            this.settings.by, pruned.space, budget, this.settings.predictor, scoring.evaluations, scoring.population
        )
        found = []
        finals = make_finalists(problem, this.settings.finalists) if this.settings.finalists.count else None
        each_seed = zip(seeds.names(problem), seeds.states(problem.seeds, state), *rest, strict=True)
        for number, (name, own, *keys) in enumerate(each_seed):
            chosen = {**_best_of(this, stage, name, own, pruned, budget, sampler, keys, stop), "pruning": sizes}
            best = np.array(chosen.pop("best"), np.int32)
            if finals is not None:
                _finals(this, finals, stage, name, problem.seed + number, best, chosen, stop)
            genotype, beside = chosen.pop("genotype"), {"best-of-random": chosen.pop("random_genotype")}
            found.append({"genotype": genotype, "told": {"selection": chosen}, "beside": beside})
        return found, seconds + timer()

    return seeds.searched(run, problem, this.space, each)


def _best_of(
    this: _Search, stage: Stage, name: str, state: SinglePathState, pruned: Pruned, budget: Budget,
    sampler: Sampler | None, keys: list[Key], stop: Stop,
) -> dict[str, Any]:  # fmt: skip
    """What the scores of one seed's supernet choose. keys: of the selection, of random ones, of running averages."""
    select_key, random_key, paths_key = keys
    settings, truth = this.settings, this.problem.truth

    def whole(archs: np.ndarray) -> np.ndarray:
        return np.asarray(jax.vmap(pruned.embed)(jnp.asarray(archs)))

    def choose(scores: Mapping[str, CachedScore]) -> dict[str, Any]:
        score = within(scores[settings.scoring.batch_norm], pruned)
        chosen, order, ranked = selected(
            settings.by, settings.predictor, settings.scoring, pruned.space, budget, score, select_key, random_key,
            _filter(this, pruned, budget) if settings.by == "proxy" else None, settings.proxy_from,
            sampler,
        )  # fmt: skip
        chosen["best"] = _finalists(this, budget, whole(ranked)).tolist()
        chosen["scored_on"] = f"{data.count(this.scored.valid)} validation images"
        if truth is not None:
            chosen["truth_curve"] = curve(truth, whole(order))
        if this.measured is not None:
            of_measured = {policy: score(this.measured.archs) for policy, score in scores.items()}
            values = this.measured.values
            chosen["agreement"] = {policy: agreement(own, values) for policy, own in of_measured.items()}
            chosen["agreement_with"] = f"{this.measured.table}, {this.measured.metric}, {len(values)} random"
            chosen["measured"] = values.tolist()
            chosen["measured_scores"] = {policy: own.tolist() for policy, own in of_measured.items()}
        return chosen

    policies = ("batch", "recalibrated", "running") if this.measured is not None else (settings.scoring.batch_norm,)
    running = (paths_key, settings.comparison.running_paths)
    chosen = kept_scores(this.scores(state.params, stage, name), policies, choose, stop, running)
    for policy, figures in chosen.get("agreement", {}).items():
        values = ", ".join(f"{quantity} {value:.3f}" for quantity, value in figures.items())
        print(f"{name}, scores by {policy}: {values}", flush=True)
    return chosen


def _finalists(this: _Search, budget: Budget, ranked: np.ndarray) -> np.ndarray:
    """The first of archs [N, D] of the whole space that differ in what they compute, as many as the settings say."""
    if not this.settings.finalists.count:
        return ranked[:0]
    # Classes are numbered as they first come up.
    _, first = np.unique(function_classes(with_vocabulary(this.space, budget), ranked), return_index=True)
    return ranked[first[: this.settings.finalists.count]]


def _finals(
    this: _Search, train: TrainFinalists, stage: Stage, name: str, seed: int, archs: np.ndarray, chosen: dict[str, Any],
    stop: Stop,
) -> None:  # fmt: skip
    """Trains the best by score, int [K, D] of the whole space, and puts what validation says into what was chosen."""
    problem, settings = this.problem, this.settings.finalists
    folder = (stage.path if name == seeds.ONE else stage.path / name) / "finalists"
    called = "finalist" if name == seeds.ONE else f"{name} finalist"
    values = train(archs, seed, folder, stop, called)
    taken = int(np.nanargmax(values))
    chosen["genotype"] = this.space.to_genotype(jnp.asarray(archs[taken]))
    chosen["finalists"] = {
        "epochs": settings.epochs,
        "notations": [this.space.notation(jnp.asarray(arch)) for arch in archs],
        "valid": [None if np.isnan(value) else float(value) for value in values],
        "taken": taken,
    }
    if problem.truth is not None:
        for column, then in curve(problem.truth, archs[held(values)]).items():
            chosen["truth_curve"][column] += then
    print(f"{name}: of {len(archs)} finalists, number {taken + 1} by score is the best by validation", flush=True)


def _filter(this: _Search, pruned: Pruned, budget: Budget) -> Score:
    """The proxy of the settings, of what is left of the space."""
    own, problem = this.settings.proxy, this.problem
    supernet = embedded(this.supernet, pruned)
    return proxy_score(own, supernet, problem.dataset, this.epochs.split.train, budget.costs, problem.seed)


def _train(
    this: _Search, run: RunFolder, init_keys: list[Key], run_keys: list[Key], stop: Stop
) -> tuple[SinglePathState, Pruned, list[dict[str, Any]], float]:
    """The last state, what is left of the space, its sizes from stage to stage, seconds.

    Keys are of each seed, and with several the state has an axis of them. With one, the space may be pruned: every
    stage but the last ends with the loss of the weakest options. The parameters stay those of the whole space: a path
    of what is left finds its own there, with their momentum, and the schedule goes on.
    """
    settings, layout = this.settings, this.layout
    ends = ends_of(settings.epochs, len(settings.prune) + 1)
    # Stages are of a search with one seed.
    part_key, weakest_key, reach_key = (jax.random.fold_in(run_keys[0], number) for number in (1, 2, 3))
    state = layout.start(algorithm_of(this, this.supernet).init, init_keys)
    shapes = jax.eval_shape(this.supernet.init, jax.random.key(0))
    keep = [list(row) for row in everything(this.space)]
    sizes, seconds = [], 0.0
    for number, left in enumerate((*settings.prune, None)):
        stage = run.stage("search" if left is None else f"search-{number + 1}")
        pruned = prune(this.space, keep)
        supernet = embedded(this.supernet, pruned)
        size = size_of(supernet, pruned.space, shapes, jax.random.fold_in(reach_key, number))
        sizes.append({"from_epoch": ends[number], **size})
        done = stage.result
        if done is None:
            outcome = run_epochs(
                algorithm_of(this, supernet), state,
                jax.random.fold_in(part_key, number) if number else layout.keys(run_keys), this.epochs,
                ends[number + 1] - ends[number], layout=layout, seeds=this.problem.seeds, stage=stage, stop=stop,
                log_every=10,
            )  # fmt: skip
            state, spent = outcome.state, outcome.seconds
            if left is not None:
                state, timer = jax.tree.map(local, state), clock()
                own_key = jax.random.fold_in(weakest_key, number)
                keep = _weakest(this, stage, state, pruned, keep, left, own_key, stop)
                spent += timer()
                stage.finish({"keep": keep, "seconds": spent})
        else:
            state, keep, spent = load(stage, state, "latest"), done["keep"], done["seconds"]
        seconds += spent
    return state, pruned, sizes, seconds


def _weakest(
    this: _Search, stage: Stage, state: SinglePathState, pruned: Pruned, keep: list[list[int]], left: int, key: Key,
    stop: Stop,
) -> list[list[int]]:  # fmt: skip
    """What is left of every choice, in the options of the whole space, when the weakest are lost."""
    settings = this.settings
    predictor = settings.predictor if settings.prune_by == "predictor" else None

    def choose(scores: Mapping[str, CachedScore]) -> list[list[int]]:
        score: Score = within(scores[settings.scoring.batch_norm], pruned)
        budget = this.problem.budget(pruned.space)
        rows = weakest(score, pruned.space, budget, key, settings.scoring.evaluations, left, predictor)
        return [[int(option) for option in options] for options in rows]

    rows = kept_scores(this.scores(state.params, stage), (settings.scoring.batch_norm,), choose, stop)
    return [[row[option] for option in options] for row, options in zip(keep, rows, strict=True)]


def size_of(supernet: Supernet, space: SearchSpace, params: Any, key: Key) -> dict[str, int]:
    """Architectures of a space, and parameters of its supernet that any of 1,024 random ones reads.

    params: of the supernet, or their shapes.
    """
    archs = jax.vmap(space.sample)(jax.random.split(key, 1024))

    @jax.jit
    def read(archs: Array) -> Any:
        def also(seen: Any, arch: Array) -> tuple[Any, None]:
            return jax.tree.map(jnp.logical_or, seen, supernet.used(arch)), None

        return jax.lax.scan(also, supernet.used(archs[0]), archs)[0]

    masks = jax.tree.leaves(read(archs))
    count = sum(
        int(np.broadcast_to(mask, leaf.shape).sum()) for mask, leaf in zip(masks, jax.tree.leaves(params), strict=True)
    )
    return {"architectures": math.prod(len(choice.options) for choice in space.choices), "supernet_params": count}


def pictures(this: _Search, run: RunFolder, found: Mapping[str, Found], kept: str) -> list[Picture]:
    """What was scored against its cost, and scores against a table."""
    limits = this.problem.budget(this.space).limits
    return draw_selection(
        found[kept].told["selection"], limits, run.path / "report", this.problem.dataset.objective.name
    )
