"""DARTS as a method of the road: a mixture over any space, watched for a collapse, its space shrunk on the way."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import numpy as np

from jaxnas import data, draw
from jaxnas.base import Arch, ArchWeights, Key, SearchAlgorithm, SearchSpace, Supernet
from jaxnas.fit import seeds, watch
from jaxnas.fit.deriving import Tuning, best_drawn, heaviest, perturbed
from jaxnas.fit.family import Part, Variation, nodes_of, supernet_options, variant_of
from jaxnas.fit.problem import Found, Picture, Prepared, Problem, Stop, search_split
from jaxnas.fit.results import clock, metrics
from jaxnas.fit.searching import Epochs, ends_of, epoch_lines, run_epochs
from jaxnas.fit.settings import check_accumulate, image_shape_of
from jaxnas.networks import accumulated
from jaxnas.parallel import local
from jaxnas.ranges import SUPERNET, check_ranges
from jaxnas.runfolder import RunFolder, Stage
from jaxnas.search import (
    DartsState,
    EarlyStop,
    Variant,
    WatchedState,
    above,
    adam_l2,
    carried,
    count_decisions,
    darts,
    exact,
    finite_difference,
    first_order,
    kept_alpha,
    limited_skips,
    single_level,
    tuning,
    watched,
    weakest_by_alpha,
)
from jaxnas.train import schedules
from jaxnas.train.loop import Outcome, load


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
    """How an architecture is read off the mixture. "paper": as the method's paper does, which is "score" for setn, and
    else the rule of the space for the mean weights. "perturbation": by what the supernet loses without each option
    (DARTS-PT), after any method. "score": of `candidates` that the mixture draws, the best on the validation part. In
    the DARTS space also "argmax". A budget derives the heaviest architecture within it."""
    partial: int = 0
    """One in so many channels goes through the mixed operations (PC-DARTS). 0: 4 of pc_darts, else all do."""
    most_skips: int | None = None
    """At most so many skip connections in a derived cell. None: 2 of p_darts, else there is no limit."""
    candidates: int = 100
    """Of derive "score"."""
    tune_epochs: int = 5
    """Of derive "perturbation": epochs between two decisions, at a tenth of the learning rate."""
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
    """How many options every slot still has after each of the equal parts of the epochs, "none" counted. Parameters go
    on; by default nothing is lost, but 8, 5, then 3 of p_darts over the DARTS space."""
    depths: tuple[int, ...] = ()
    """The cells of the supernet in each part of the epochs, one more than `prune` has numbers; every part then begins
    anew, with schedules and `warmup_epochs` of its own. By default parts go on, but those of p_darts have c, 2 c + 1
    and 3 c + 2 cells, c being `cells`."""
    skip_dropout: tuple[float, ...] = ()
    """Of p_darts: the rate of dropout behind skip connections at the start of each part; by default 0.1, 0.4, 0.7."""
    watch: watch.Watch = watch.Watch()

    def prepare(self, problem: Problem) -> Prepared:
        """Raises ValueError for settings that cannot work with the space, the data or the devices."""
        entry = problem.entry
        options = supernet_options(self.method, entry, self.partial)
        supernet = problem.supernet(self.channels, self.cells, **options)
        if not callable(supernet.apply):
            raise ValueError(f"DARTS needs a mixture, and the supernet over {supernet.space.name} has no `apply`")
        space = supernet.space
        settings = self.resolved(len(entry.operations))
        settings._check(problem, space)
        alone = {"search.early_stop": self.early_stop, "search.prune": bool(self.prune and not settings.depths)}
        seeds.check(problem, alone)
        sizes = dict.fromkeys(("train", "valid"), ("search.batch_size", self.batch_size))
        split = search_split(problem.dataset, problem.seed, self.valid_part, self.limit, sizes, "search.")
        layout = seeds.layout(problem, image_shape_of(problem.dataset), self.batch_size, side_by_side=True)
        epochs = Epochs(problem.dataset, split, {"search": self.batch_size})
        this = _Search(settings, problem, space, epochs, layout, options)
        variant_of(self.method, this.part(0, None))  # raises for a space that the method is not for
        return Prepared(
            lambda run, stop: search(this, run, stop),
            pictures=lambda run, found, kept: pictures(this, run, found, kept),
        )

    def resolved(self, options: int) -> Darts:
        """With what the method's paper has where nothing else is asked for. options: of a slot."""
        if self.method == "setn" and self.derive == "paper":
            return dataclasses.replace(self, derive="score")
        if self.method != "p_darts":
            return self
        cells = (self.cells, 2 * self.cells + 1, 3 * self.cells + 2)
        shares = tuple(max(2, round(options * share)) for share in (5 / 8, 3 / 8))
        return dataclasses.replace(
            self,
            prune=self.prune or shares,
            depths=self.depths or cells,
            skip_dropout=self.skip_dropout or (0.1, 0.4, 0.7),
            most_skips=2 if self.most_skips is None else self.most_skips,
        )

    def _check(self, problem: Problem, space: SearchSpace) -> None:
        check_ranges("search.", self, **SUPERNET)
        check_ranges(
            "search.", self, positive=("alpha_learning_rate",), count=("candidates", "tune_epochs"),
            not_negative=("alpha_weight_decay", "warmup_epochs", "partial", "most_skips"),
        )  # fmt: skip
        part = self.epochs // (len(self.prune) + 1) if self.depths else self.epochs
        if self.warmup_epochs >= part:
            raise ValueError(
                f"search.warmup_epochs {self.warmup_epochs} leaves the architecture none of the {part} epochs to move "
                f"in{' of each part' if self.depths else ''}; choose fewer, or more search.epochs"
            )
        check_accumulate("search", self.accumulate, self.batch_size)
        watch.rule_of(self.watch, self.early_stop, self.epochs)
        rules = ("paper", "perturbation", "score", *problem.entry.derivations)
        if self.derive not in rules:
            raise ValueError(f"search.derive must be {' or '.join(rules)} over {space.name}, got {self.derive!r}")
        if self.most_skips is not None:
            if self.derive != "paper":
                raise ValueError(f"search.most_skips is for search.derive paper, got {self.derive}: leave one out")
            limited_skips(space, problem.entry.operations, self.most_skips)  # raises where there are none
        if self.method == "snas" and self.order != "first":
            raise ValueError(f"search.order {self.order} is for two levels, and snas has one: leave it out")
        self._check_parts(problem, space)

    def _check_parts(self, problem: Problem, space: SearchSpace) -> None:
        if self.skip_dropout and self.method != "p_darts":
            raise ValueError(f"search.skip_dropout is of p_darts, and {self.method} drops nothing: leave it out")
        if not all(0 <= rate < 1 for rate in self.skip_dropout):
            raise ValueError(f"search.skip_dropout must be at least 0 and less than 1, got {list(self.skip_dropout)}")
        for name in ("depths", "skip_dropout"):
            given = getattr(self, name)
            if given and len(given) != len(self.prune) + 1:
                raise ValueError(
                    f"search.{name} must have {len(self.prune) + 1} numbers, one more than search.prune, "
                    f"got {list(given)}"
                )
        if any(depth < 1 for depth in self.depths):
            raise ValueError(f"search.depths must be at least 1, got {list(self.depths)}")
        if not self.prune:
            return
        if problem.entry.narrowing is None:
            raise ValueError(f"search.prune shrinks no supernet over {space.name}: leave it out, or take --space darts")
        most = max(value.shape[1] for value in space.template().values())
        if any(not 2 <= left < before for before, left in itertools.pairwise((most, *self.prune))):
            raise ValueError(f"search.prune must fall from under {most} to 2 at least, got {list(self.prune)}")
        if self.early_stop:
            raise ValueError("search.early_stop compares eigenvalues of one mixture: leave it out, or search.prune")
        if len(self.prune) >= self.epochs:
            raise ValueError(f"search.epochs must be more than the {len(self.prune)} of search.prune")


Keep = dict[str, np.ndarray]
"""Cell kind -> bool [S, O], the options that are left."""


class _Search(NamedTuple):
    """A search that was checked. settings: resolved. options: what the supernet takes beside its skeleton."""

    settings: Darts
    problem: Problem
    space: SearchSpace
    epochs: Epochs
    layout: seeds.Layout
    options: Mapping[str, Any]

    @property
    def steps(self) -> int:
        """In an epoch."""
        return data.count(self.epochs.split.train) // self.settings.batch_size

    @property
    def ends(self) -> list[int]:
        """The epochs in which the parts of the search begin, and its end."""
        return ends_of(self.settings.epochs, len(self.settings.prune) + 1)

    def derived(self, weights: ArchWeights) -> Arch:
        """The architecture of a mixture without a budget; traceable."""
        if self.settings.most_skips is not None:
            return limited_skips(self.space, self.problem.entry.operations, self.settings.most_skips)(weights)
        entry = self.problem.entry
        if self.settings.method == "fair_darts" and entry.name == "darts_free":
            return above(self.space.discretize, entry.operations.index("none"))(weights)
        return entry.derivations.get(self.settings.derive, self.space.discretize)(weights)

    def part(self, number: int, keep: Keep | None) -> Part:
        """What a variant is made of in a part of the search. keep: the options that are left, None for all."""
        settings = self.settings
        alone = self.ends[number + 1] - self.ends[number] if settings.depths else settings.epochs
        rate = settings.skip_dropout[number] if settings.skip_dropout else 0.0
        nodes = nodes_of(self.problem.entry, self.space.template())
        operations = self.problem.entry.operations
        return Part(alone * self.steps, alone, settings.warmup_epochs, keep, rate, nodes, operations)

    def supernet(self, number: int, keep: Keep | None) -> Supernet:
        """That of a part of the search."""
        settings = self.settings
        cells = settings.depths[number] if settings.depths else settings.cells
        how = self.options if keep is None else {**self.options, "keep": keep}
        return self.problem.supernet(settings.channels, cells, **how)._replace(space=self.space)

    def algorithm(
        self, supernet: Supernet, part: Part, rate: float = 1.0, epochs: int | None = None,
        variant: Variant | None = None,
    ) -> SearchAlgorithm:  # fmt: skip
        """The algorithm over a supernet.

        rate: by which the learning rate is multiplied. epochs: over which it falls to 0 instead of the last rate,
        without a warm-up: those of a selection. variant: that of the method by default.
        """
        settings, problem = self.settings, self.problem
        ruled = supernet._replace(
            apply=accumulated(supernet.apply, settings.accumulate),
            space=supernet.space._replace(discretize=self.derived),
        )
        last = settings.last_learning_rate if epochs is None else 0.0
        fall = schedules.cosine(rate * settings.learning_rate, last, epochs or part.epochs)
        optimizer = schedules.sgd(
            schedules.per_epoch(fall, self.steps),
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
            variant=variant or variant_of(settings.method, part),
            objective=problem.dataset.objective,
            warmup_steps=0 if epochs is not None else settings.warmup_epochs * self.steps,
            axis_name=axis_name,
        )


def search(this: _Search, run: RunFolder, stop: Stop) -> dict[str, Found]:
    """The search stage: what each seed found."""
    problem = this.problem

    def each(stage: Stage) -> tuple[list[dict[str, Any]], float]:
        if problem.seeds == 1:
            return _one(this, run, stage, stop)
        if not this.settings.prune:
            return _several(this, run, stage, stop)
        # What a supernet has lost is its form, which seeds do not share: one after another.
        found: list[dict[str, Any]] = []
        seconds = 0.0
        for number, name in enumerate(seeds.names(problem)):
            alone = problem._replace(seed=problem.seed + number, seeds=1)
            size = this.settings.batch_size
            layout = seeds.layout(alone, image_shape_of(problem.dataset), size, side_by_side=True)
            own = this._replace(problem=alone, layout=layout)
            told, spent = _one(own, run, run.stage(f"search-{name}"), stop, f"-{name}")
            found, seconds = [*found, *told], seconds + spent
        return found, seconds

    return seeds.searched(run, problem, this.space, each)


def _several(this: _Search, run: RunFolder, stage: Stage, stop: Stop) -> tuple[list[dict[str, Any]], float]:
    """All seeds at once, without a watch."""
    part, supernet, count = this.part(0, None), this.supernet(0, None), this.problem.seeds
    algorithm = this.algorithm(supernet, part)
    init_keys, run_keys, derive_keys, budget_keys = seeds.search_keys(this.problem, 4)
    told = _tell_weights(this, part, several=True)
    outcome = run_epochs(
        algorithm, this.layout.start(algorithm.init, init_keys), this.layout.keys(run_keys), this.epochs,
        this.settings.epochs, layout=this.layout, seeds=count, stage=stage, stop=stop,
        after_epoch=lambda epoch, state: (state, told(state.alpha)),
    )  # fmt: skip
    states = seeds.states(count, outcome.state)
    archs, seconds = _derive(this, run, stop, supernet, part, states, derive_keys, budget_keys, "perturbation")
    return [{"genotype": this.space.to_genotype(arch), "told": {}} for arch in archs], outcome.seconds + seconds


def _one(
    this: _Search, run: RunFolder, stage: Stage, stop: Stop, suffix: str = ""
) -> tuple[list[dict[str, Any]], float]:
    """One seed. Where slots lose options, every part of the epochs but the last is a stage of its own before.

    suffix: of the names of other stages.
    """
    settings, problem = this.settings, this.problem
    rule = _rule(this)
    init_key, run_key, derive_key, watch_key = (keys[0] for keys in seeds.search_keys(problem, 4))
    several = bool(suffix)

    def watching(supernet: Supernet, part: Part) -> SearchAlgorithm:
        return watched(this.algorithm(supernet, part), watch.measurements(settings.watch, settings.epochs), rule)

    def fit(stage: Stage, number: int, supernet: Supernet, part: Part, state: WatchedState) -> Outcome:
        space = this.space._replace(discretize=this.derived)
        mean, told = variant_of(settings.method, part).relaxation.mean, _tell_weights(this, part)
        measure = watch.make_measure(
            settings.watch, space, supernet, this.epochs.split.valid, problem.dataset.augmentation,
            settings.batch_size, watch_key, problem.dataset.objective, mean,
        )  # fmt: skip

        def after_epoch(epoch: int, state: WatchedState) -> tuple[WatchedState, dict[str, Any]]:
            if several:
                return state, told(state.search.alpha)
            state, measured = measure(epoch, state)
            return state, {**measured, **told(state.search.alpha)}

        return run_epochs(
            watching(supernet, part), state, jax.random.fold_in(run_key, number) if number else run_key, this.epochs,
            this.ends[number + 1] - this.ends[number], layout=this.layout, stage=stage, stop=stop,
            after_epoch=after_epoch, ended=lambda state: watch.stopped(state, rule, settings.watch) is not None,
        )  # fmt: skip

    part, supernet = this.part(0, None), this.supernet(0, None)
    state = jax.jit(watching(supernet, part).init)(init_key)
    keep: Keep = {kind: np.ones(value.shape, bool) for kind, value in this.space.template().items()}
    sizes, seconds = [_size(0, keep, state)], 0.0
    for number, left in enumerate(settings.prune):
        earlier = run.stage(f"search-{number + 1}{suffix}")
        done = earlier.result
        if done is None:
            done = {"seconds": fit(earlier, number, supernet, part, state).seconds}
            earlier.finish(done)
        state = load(earlier, state, "latest")
        seconds += done["seconds"]
        weights = variant_of(settings.method, part).relaxation.mean(state.search.alpha)
        before, keep = keep, weakest_by_alpha(weights, keep, left)
        part, supernet = this.part(number + 1, keep), this.supernet(number + 1, keep)
        if settings.depths:
            state = jax.jit(watching(supernet, part).init)(jax.random.fold_in(init_key, number + 1))
        else:
            state = state._replace(search=carried(state.search, _narrowing(this, keep, before)))
        sizes.append(_size(this.ends[number + 1], keep, state))
    outcome = fit(stage, len(settings.prune), supernet, part, state)
    found: DartsState = outcome.state.search._replace(alpha=kept_alpha(outcome.state, rule))
    (arch,), spent = _derive(
        this, run, stop, supernet, part, [jax.tree.map(local, found)], [derive_key], [watch_key],
        f"perturbation{suffix}",
    )  # fmt: skip
    # A process that took the search up where it had ended has no metrics of it: the first one has.
    lines = epoch_lines(metrics(run))
    health = watch.told(lines, watch.stopped(outcome.state, rule, settings.watch)) if lines and not several else {}
    result = {"health": health, **({"shrinking": sizes} if settings.prune else {})}
    seconds += outcome.seconds + spent
    return [{"genotype": this.space.to_genotype(arch), "told": result}], seconds


def _rule(this: _Search) -> EarlyStop | None:
    return watch.rule_of(this.settings.watch, this.settings.early_stop, this.settings.epochs)


def _narrowing(this: _Search, keep: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray]) -> Callable[[Any], Any]:
    narrowing = this.problem.entry.narrowing
    if narrowing is None:
        raise ValueError(f"the supernet over {this.space.name} loses no operations")
    return narrowing(this.problem.skeleton(this.settings.channels, this.settings.cells), keep, before)


def _derive(
    this: _Search, run: RunFolder, stop: Stop, supernet: Supernet, part: Part, states: Sequence[DartsState],
    keys: Sequence[Key], budget_keys: Sequence[Key], stage: str,
) -> tuple[list[Arch], float]:  # fmt: skip
    """The architecture of each last state, and the seconds that a selection took."""
    settings, timer = this.settings, clock()
    relaxation = variant_of(settings.method, part).relaxation
    budget = this.problem.budget(this.space)
    if settings.derive == "score":
        algorithm = this.algorithm(supernet, part)
        count = settings.candidates
        archs = [
            best_drawn(algorithm, relaxation.mean, this.epochs, budget, state, count, key, stop)
            for state, key in zip(states, keys, strict=True)
        ]
        return archs, timer()
    if settings.derive == "perturbation":
        entry = this.problem.entry
        nodes = nodes_of(entry, this.space.template()) if entry.keeps else {}
        decisions = count_decisions(this.space.template(), nodes, entry.keeps)
        tuned = max(1, (decisions - 1) * settings.tune_epochs)

        def make(variant: Variant) -> SearchAlgorithm:
            return this.algorithm(supernet, part, 0.1, tuned, variant)

        algorithm = tuning(make, variant_of(settings.method, part))
        by = Tuning(algorithm, settings.tune_epochs, nodes, entry.keeps, settings.batch_size)
        weights = perturbed(by, supernet, relaxation, this.epochs, this.layout, states, keys, run, stop, stage)
    else:
        weights = [relaxation.mean(state.alpha) for state in states]
    if not budget.limits:
        derive = jax.jit(this.derived)
        return [derive(own) for own in weights], timer()
    own_keys = zip(weights, budget_keys, strict=True)
    return [heaviest(this.space, budget, own, key) for own, key in own_keys], timer()


def _tell_weights(this: _Search, part: Part, several: bool = False) -> Callable[[ArchWeights], dict[str, Any]]:
    """alpha -> the mixture's weights for the metrics, and what the architecture of that moment is truly worth."""
    mixture = jax.jit(variant_of(this.settings.method, part).relaxation.mean)
    if several:
        mixture = jax.jit(jax.vmap(variant_of(this.settings.method, part).relaxation.mean))
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
    one_by_one = this.problem.seeds > 1 and bool(this.settings.prune)
    if one_by_one:
        lines = [line for line in lines if line["stage"].endswith(f"-{kept}")]
    history = {kind: np.array([line[f"weights_{kind}"] for line in lines]) for kind in this.space.template()}
    if this.problem.seeds > 1 and not one_by_one:
        number = list(found).index(kept)
        history = {kind: weights[:, number] for kind, weights in history.items()}
    draw.draw_mixture(history, this.problem.entry.operations, [line["step"] for line in lines], folder / "weights.png")
    drawn: list[Picture] = [
        ("Architecture weights", "weights.png", "The mixture in every slot over the steps of the search.")
    ]
    if this.problem.seeds == 1:
        drawn += watch.draw_health(lines, found[kept].told["health"], folder, this.problem.dataset.objective.name)
    return drawn
