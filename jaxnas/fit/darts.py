"""DARTS as a method of the road: a mixture over any space, watched for a collapse, its space shrunk on the way."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import data, draw
from jaxnas.base import Arch, ArchWeights, Key, SearchAlgorithm, SearchSpace, Supernet
from jaxnas.fit import seeds, watch
from jaxnas.fit.budget import Budget, feasible_samples
from jaxnas.fit.problem import Found, Picture, Prepared, Problem, Stop, search_split
from jaxnas.fit.results import metrics
from jaxnas.fit.searching import Epochs, ends_of, epoch_lines, run_epochs
from jaxnas.fit.settings import check_accumulate, image_shape_of
from jaxnas.hardware import solve
from jaxnas.networks import accumulated
from jaxnas.ranges import SUPERNET, check_ranges
from jaxnas.runfolder import RunFolder, Stage
from jaxnas.search import (
    EarlyStop,
    Variant,
    WatchedState,
    adam_l2,
    beta_darts,
    carried,
    darts,
    darts_minus,
    drnas,
    exact,
    fair_darts,
    finite_difference,
    first_order,
    gdas,
    kept_alpha,
    single_level,
    smooth_darts,
    snas,
    watched,
    weakest_by_alpha,
)
from jaxnas.train import schedules
from jaxnas.train.loop import Outcome, load

Variation = Literal[
    "darts", "gdas", "snas", "drnas", "fair_darts", "darts_minus", "beta_darts", "smooth_random", "smooth_adversarial"
]


def variant_of(method: Variation, total_steps: int, operations: Sequence[str]) -> Variant:
    """The variant of a method, annealed over `total_steps`. operations: the options of each slot, () where they differ.

    Raises: ValueError where the method needs a skip connection among them.
    """
    make: dict[str, Callable[[], Variant]] = {
        "darts": Variant,
        "gdas": lambda: gdas(total_steps),
        "snas": lambda: snas(total_steps),
        "drnas": drnas,
        "fair_darts": fair_darts,
        "darts_minus": lambda: darts_minus(total_steps, operations),
        "beta_darts": lambda: beta_darts(total_steps),
        "smooth_random": lambda: smooth_darts(total_steps, "random"),
        "smooth_adversarial": lambda: smooth_darts(total_steps, "adversarial"),
    }
    return make[method]()


@dataclasses.dataclass(frozen=True)
class Darts:
    """Differentiable search (Liu et al. 2019, https://arxiv.org/abs/1806.09055); the defaults are the paper's."""

    name: ClassVar[str] = "darts"

    method: Variation = "darts"
    """DARTS, or a method after it, each with the settings of its paper: `jaxnas.search` has a file for each."""
    order: Literal["first", "second", "second-fd"] = "first"
    """Hypergradient: first order, exact second order, or second order by the paper's finite difference. SNAS has one
    level, and none."""
    derive: str = "paper"
    """How an architecture is read off the mixture: by the rule of the space ("paper"), or in the DARTS space by
    "argmax". A budget derives the heaviest architecture within it."""
    epochs: int = 50
    batch_size: int = 64
    channels: int = 16
    cells: int = 8
    learning_rate: float = 0.025
    last_learning_rate: float = 0.001
    momentum: float = 0.9
    weight_decay: float = 3e-4
    clip: float | None = 5.0
    alpha_learning_rate: float = 3e-4
    alpha_weight_decay: float = 1e-3
    accumulate: int = 1
    """Into how many parts, one after another, a batch that does not fit is cut (gradient accumulation)."""
    warmup_epochs: int = 0
    """Epochs in which only the weights move."""
    valid_part: float = 0.5
    """The part of the training split that the architecture learns from, where there is no validation split."""
    limit: int = 0
    """Search on at most this many images of the training split; 0 is all."""
    early_stop: bool = False
    """End before a collapse, as watch.window and the others say (DARTS-ES)."""
    prune: tuple[int, ...] = ()
    """How many options every choice still has after each of the equal parts of the epochs, "none" counted: 5 3 is
    P-DARTS's 8, 5, then 3. Parameters go on; by default nothing is lost."""
    watch: watch.Watch = watch.Watch()

    def prepare(self, problem: Problem) -> Prepared:
        """Raises ValueError for settings that cannot work with the space, the data or the devices."""
        supernet = problem.supernet(self.channels, self.cells)
        if not callable(supernet.apply):
            raise ValueError(f"DARTS needs a mixture, and the supernet over {supernet.space.name} has no `apply`")
        space = supernet.space
        self._check(problem, space)
        sizes = dict.fromkeys(("train", "valid"), ("search.batch_size", self.batch_size))
        split = search_split(problem.dataset, problem.seed, self.valid_part, self.limit, sizes, "search.")
        alone = {"search.early_stop": self.early_stop, "search.prune": bool(self.prune)}
        seeds.check(problem, alone)
        layout = seeds.layout(problem, image_shape_of(problem.dataset), self.batch_size, side_by_side=True)
        epochs = Epochs(problem.dataset, split, {"search": self.batch_size})
        total = self.epochs * (data.count(split.train) // self.batch_size)
        variant = variant_of(self.method, total, problem.entry.operations)
        this = _Search(self, problem, space, epochs, layout, variant)
        return Prepared(
            lambda run, stop: search(this, run, stop),
            pictures=lambda run, found, kept: pictures(this, run, found, kept),
        )

    def _check(self, problem: Problem, space: SearchSpace) -> None:
        check_ranges("search.", self, **SUPERNET)
        check_ranges(
            "search.", self, positive=("alpha_learning_rate",), not_negative=("alpha_weight_decay", "warmup_epochs")
        )
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"search.warmup_epochs {self.warmup_epochs} leaves the architecture none of the {self.epochs} "
                "search.epochs to move in; choose fewer"
            )
        check_accumulate("search", self.accumulate, self.batch_size)
        watch.rule_of(self.watch, self.early_stop, self.epochs)
        rules = ("paper", *problem.entry.derivations)
        if self.derive not in rules:
            raise ValueError(f"search.derive must be {' or '.join(rules)} over {space.name}, got {self.derive!r}")
        if self.method == "snas" and self.order != "first":
            raise ValueError(f"search.order {self.order} is for two levels, and snas has one: leave it out")
        if not self.prune:
            return
        if self.method == "drnas":
            raise ValueError("search.prune leaves Dirichlet weights of no concentration: leave it out, or drnas")
        if problem.entry.narrowing is None:
            raise ValueError(f"search.prune shrinks no supernet over {space.name}: leave it out, or take --space darts")
        most = max(value.shape[1] for value in space.template().values())
        if any(not 2 <= left < before for before, left in itertools.pairwise((most, *self.prune))):
            raise ValueError(f"search.prune must fall from under {most} to 2 at least, got {list(self.prune)}")
        if self.early_stop:
            raise ValueError("search.early_stop compares eigenvalues of one mixture: leave it out, or search.prune")
        if len(self.prune) >= self.epochs:
            raise ValueError(f"search.epochs must be more than the {len(self.prune)} of search.prune")


class _Search(NamedTuple):
    """A search that was checked."""

    settings: Darts
    problem: Problem
    space: SearchSpace
    epochs: Epochs
    layout: seeds.Layout
    variant: Variant

    def derived(self, weights: ArchWeights) -> Arch:
        """The architecture of a mixture without a budget; traceable."""
        rule = self.problem.entry.derivations.get(self.settings.derive, self.space.discretize)
        return rule(weights)

    def algorithm(self, supernet: Supernet) -> SearchAlgorithm:
        """The algorithm over a supernet, which may have lost operations."""
        settings, steps = self.settings, data.count(self.epochs.split.train) // self.settings.batch_size
        ruled = supernet._replace(
            apply=accumulated(supernet.apply, settings.accumulate),
            space=supernet.space._replace(discretize=self.derived),
        )
        rate = schedules.cosine(settings.learning_rate, settings.last_learning_rate, settings.epochs)
        optimizer = schedules.sgd(
            schedules.per_epoch(rate, steps),
            momentum=settings.momentum, weight_decay=settings.weight_decay, clip=settings.clip,
        )  # fmt: skip
        axis_name = self.layout.axis_name
        bilevel = {
            "first": lambda: first_order(axis_name),
            "second": lambda: exact(optimizer, axis_name),
            "second-fd": lambda: finite_difference(optimizer, axis_name=axis_name),
        }[settings.order]()
        return darts(
            ruled,
            optimizer,
            adam_l2(settings.alpha_learning_rate, settings.alpha_weight_decay),
            single_level(axis_name) if settings.method == "snas" else bilevel,
            variant=self.variant,
            objective=self.problem.dataset.objective,
            warmup_steps=settings.warmup_epochs * steps,
            axis_name=axis_name,
        )


def search(this: _Search, run: RunFolder, stop: Stop) -> dict[str, Found]:
    """The search stage: what each seed found."""

    def each(stage: Stage) -> tuple[list[dict[str, Any]], float]:
        return _several(this, stage, stop) if this.problem.seeds > 1 else _one(this, run, stage, stop)

    return seeds.searched(run, this.problem, this.space, each)


def _several(this: _Search, stage: Stage, stop: Stop) -> tuple[list[dict[str, Any]], float]:
    """All seeds at once, without a watch."""
    algorithm = this.algorithm(_supernet(this))
    init_keys, run_keys, derive_keys, budget_keys = seeds.search_keys(this.problem, 4)
    told = _tell_weights(this, several=True)
    outcome = run_epochs(
        algorithm, this.layout.start(algorithm.init, init_keys), this.layout.keys(run_keys), this.epochs,
        this.settings.epochs, layout=this.layout, seeds=this.problem.seeds, stage=stage, stop=stop,
        after_epoch=lambda epoch, state: (state, told(state.alpha)),
    )  # fmt: skip
    states = seeds.states(this.problem, outcome.state)
    archs = [
        _derive(this, algorithm, state, *keys) for state, *keys in zip(states, derive_keys, budget_keys, strict=True)
    ]
    return [{"genotype": this.space.to_genotype(arch), "told": {}} for arch in archs], outcome.seconds


def _one(this: _Search, run: RunFolder, stage: Stage, stop: Stop) -> tuple[list[dict[str, Any]], float]:
    """One seed. Where choices lose options, every part of the epochs but the last is a stage of its own before."""
    settings, problem = this.settings, this.problem
    rule = _rule(this)
    init_key, run_key, derive_key, watch_key = (keys[0] for keys in seeds.search_keys(problem, 4))
    told = _tell_weights(this)

    def watching(supernet: Supernet) -> SearchAlgorithm:
        return watched(this.algorithm(supernet), watch.measurements(settings.watch, settings.epochs), rule)

    def fit(stage: Stage, number: int, supernet: Supernet, state: WatchedState, epochs: int) -> Outcome:
        space = this.space._replace(discretize=this.derived)
        measure = watch.make_measure(
            settings.watch, space, supernet, this.epochs.split.valid, problem.dataset.augmentation,
            settings.batch_size, watch_key, problem.dataset.objective, this.variant.relaxation.mean,
        )  # fmt: skip

        def after_epoch(epoch: int, state: WatchedState) -> tuple[WatchedState, dict[str, Any]]:
            state, measured = measure(epoch, state)
            return state, {**measured, **told(state.search.alpha)}

        return run_epochs(
            watching(supernet), state, jax.random.fold_in(run_key, number) if number else run_key, this.epochs, epochs,
            layout=this.layout, stage=stage, stop=stop, after_epoch=after_epoch,
            ended=lambda state: watch.stopped(state, rule, settings.watch) is not None,
        )  # fmt: skip

    supernet = _supernet(this)
    state = jax.jit(watching(supernet).init)(init_key)
    keep = {kind: np.ones(value.shape, bool) for kind, value in this.space.template().items()}
    sizes, seconds, ends = [_size(0, keep, state)], 0.0, ends_of(settings.epochs, len(settings.prune) + 1)
    for number, left in enumerate(settings.prune):
        part = run.stage(f"search-{number + 1}")
        done = part.result
        if done is None:
            done = {"seconds": fit(part, number, supernet, state, ends[number + 1] - ends[number]).seconds}
            part.finish(done)
        state = load(part, state, "latest")
        seconds += done["seconds"]
        before, keep = keep, weakest_by_alpha(state.search.alpha, keep, left)
        state = state._replace(search=carried(state.search, _narrowing(this, keep, before), keep))
        supernet = _supernet(this, keep=keep)
        sizes.append(_size(ends[number + 1], keep, state))
    outcome = fit(stage, len(settings.prune), supernet, state, ends[-1] - ends[-2])
    arch = _derive(this, watching(supernet), outcome.state, derive_key, watch_key)
    # A process that took the search up where it had ended has no metrics of it: the first one has.
    lines = epoch_lines(metrics(run))
    health = watch.told(lines, watch.stopped(outcome.state, rule, settings.watch)) if lines else {}
    result = {"health": health, **({"shrinking": sizes} if settings.prune else {})}
    return [{"genotype": this.space.to_genotype(arch), "told": result}], seconds + outcome.seconds


def _rule(this: _Search) -> EarlyStop | None:
    return watch.rule_of(this.settings.watch, this.settings.early_stop, this.settings.epochs)


def _supernet(this: _Search, **how: Any) -> Supernet:
    return this.problem.supernet(this.settings.channels, this.settings.cells, **how)


def _narrowing(this: _Search, keep: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray]) -> Callable[[Any], Any]:
    narrowing = this.problem.entry.narrowing
    if narrowing is None:
        raise ValueError(f"the supernet over {this.space.name} loses no operations")
    return narrowing(this.problem.skeleton(this.settings.channels, this.settings.cells), keep, before)


def _derive(this: _Search, algorithm: SearchAlgorithm, state: Any, key: Key, budget_key: Key) -> Arch:
    """The architecture of a last state, the heaviest within the budget where there is one."""
    budget = this.problem.budget(this.space)
    if not budget.limits:
        return jax.jit(algorithm.derive, static_argnums=2)(key, state, None)
    alpha = kept_alpha(state, _rule(this)) if isinstance(state, WatchedState) else state.alpha
    return heaviest(this.space, budget, this.variant.relaxation.mean(alpha), budget_key)


def heaviest(space: SearchSpace, budget: Budget, weights: ArchWeights, key: Key, samples: int = 4096) -> Arch:
    """The architecture within a budget whose options have the greatest product of weights in the mixture.

    By the integer program over the logarithms of the weights; where costs do not add up, so that there is none, the
    heaviest of random architectures within the budget.

    Raises: ValueError where none is within it.
    """
    logs = {kind: np.log(np.maximum(np.asarray(value, np.float64), 1e-30)) for kind, value in weights.items()}
    if budget.structure is not None:
        return jnp.asarray(solve(budget.structure, logs, budget.constraints)[0].arch)
    archs, _ = feasible_samples(space, budget, key, samples)
    taken = jax.jit(jax.vmap(space.one_hot))(jnp.asarray(archs))
    total = sum(np.einsum("aso,so->a", np.asarray(taken[kind], np.float64), logs[kind]) for kind in logs)
    return jnp.asarray(archs[int(np.argmax(total))])


def _tell_weights(this: _Search, several: bool = False) -> Callable[[ArchWeights], dict[str, Any]]:
    """alpha -> the mixture's weights for the metrics, and what the architecture of that moment is truly worth."""
    mixture = jax.jit(this.variant.relaxation.mean)
    derive = jax.jit(jax.vmap(this.derived) if several else this.derived)
    truth = this.problem.truth

    def told(alpha: ArchWeights) -> dict[str, Any]:
        weights = mixture(alpha)
        values: dict[str, Any] = {f"weights_{kind}": value for kind, value in weights.items()}
        return values if truth is None else {**values, **truth.now(derive(weights))}

    return told


def _size(epoch: int, keep: Mapping[str, np.ndarray], state: WatchedState) -> dict[str, int]:
    """What the supernet has from an epoch on."""
    return {
        "from_epoch": epoch,
        "operations": int(sum(there.sum() for there in keep.values())),
        "supernet_params": sum(leaf.size for leaf in jax.tree.leaves(state.search.params)),
    }


def pictures(this: _Search, run: RunFolder, found: Mapping[str, Found], kept: str) -> list[Picture]:
    """The mixture's weights over the epochs, and the signs of a collapse where they were watched."""
    lines, folder = epoch_lines(metrics(run)), run.path / "report"
    history = {kind: np.array([line[f"weights_{kind}"] for line in lines]) for kind in this.space.template()}
    if this.problem.seeds > 1:
        number = list(found).index(kept)
        history = {kind: weights[:, number] for kind, weights in history.items()}
    draw.draw_mixture(history, this.problem.entry.operations, [line["step"] for line in lines], folder / "weights.png")
    drawn: list[Picture] = [
        ("Architecture weights", "weights.png", "The mixture in every slot over the steps of the search.")
    ]
    if this.problem.seeds == 1:
        drawn += watch.draw_health(lines, found[kept].told["health"], folder, this.problem.dataset.objective.name)
    return drawn
