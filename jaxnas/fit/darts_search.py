"""The search of DARTS and its family as a stage of the road: one seed or several, in parts where the space shrinks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnas import data, draw
from jaxnas.base import Arch, ArchWeights, Key, Relaxation, SearchAlgorithm, SearchSpace, Supernet
from jaxnas.fit import seeds, watch
from jaxnas.fit.deriving import Tuning, best_drawn, heaviest, perturbed
from jaxnas.fit.family import Part, can_remat, nodes_of, rivals_of, rule_of, variant_of
from jaxnas.fit.memory import divisors
from jaxnas.fit.problem import Found, Picture, Problem, Stop
from jaxnas.fit.results import clock
from jaxnas.fit.searching import Epochs, Other, Others, ends_of, epoch_lines, run_epochs
from jaxnas.fit.settings import image_shape_of
from jaxnas.networks import accumulated
from jaxnas.parallel import local
from jaxnas.runfolder import RunFolder, Stage
from jaxnas.search import (
    DartsState,
    EarlyStop,
    Variant,
    WatchedState,
    adam_l2,
    by_score,
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

Keep = dict[str, np.ndarray]
"""Cell kind -> bool [S, O], the options that are left."""
Measure = Callable[[int, WatchedState], tuple[WatchedState, dict[str, Any]]]
"""(epoch, state) -> (state with what was measured, values for the metrics)."""


class DartsSearch(NamedTuple):
    """A search that was checked.

    settings: a `jaxnas.fit.Darts`, resolved. options: what the supernet takes beside its skeleton.
    """

    settings: Any
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
        entry, settings = self.problem.entry, self.settings
        rule = entry.derivations.get(settings.derive) or rule_of(settings.method, entry, self.space)
        if settings.most_skips is not None:
            rule = limited_skips(self.space._replace(discretize=rule), entry.operations, settings.most_skips)
        return rule(weights)

    def part(self, number: int, keep: Keep | None) -> Part:
        """What a variant is made of in a part of the search. keep: the options that are left, None for all."""
        settings = self.settings
        alone = self.ends[number + 1] - self.ends[number] if settings.depths else settings.epochs
        rate = settings.skip_dropout[number] if settings.skip_dropout else 0.0
        nodes = nodes_of(self.problem.entry, self.space.template())
        operations = self.problem.entry.operations
        return Part(alone * self.steps, alone, settings.warmup_epochs, keep, rate, nodes, operations)

    def relaxation(self, part: Part) -> Relaxation:
        """That of the method in a part of the search."""
        return variant_of(self.settings.method, part).relaxation

    def supernet(self, number: int, keep: Keep | None, *, whole: bool = False) -> Supernet:
        """That of a part of the search. whole: its mixtures are not sampled; parameters are the same."""
        settings = self.settings
        cells = settings.depths[number] if settings.depths else settings.cells
        how = {name: value for name, value in self.options.items() if not (whole and name == "sampled")}
        return self.problem.supernet(settings.channels, cells, **how, **({} if keep is None else {"keep": keep}))

    def algorithm(
        self, supernet: Supernet, part: Part, rate: float = 1.0, epochs: int | None = None,
        variant: Variant | None = None,
    ) -> SearchAlgorithm:  # fmt: skip
        """The algorithm over a supernet.

        rate: by which the learning rate is multiplied. epochs: over which it falls, without a warm-up: those of a
        selection. variant: that of the method by default.
        """
        settings, problem = self.settings, self.problem
        ruled = supernet._replace(
            apply=accumulated(supernet.apply, settings.accumulate),
            space=supernet.space._replace(discretize=self.derived),
        )
        first, last = rate * settings.learning_rate, settings.last_learning_rate
        fall = schedules.cosine(first, last if epochs is None else min(first, last), epochs or part.epochs)
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

    def others(self, made: Callable[[DartsSearch], SearchAlgorithm]) -> Others:
        """What a step that does not fit into memory may be instead. made: the algorithm of another search."""
        settings = self.settings

        def made_with(other: DartsSearch) -> Callable[[], tuple[SearchAlgorithm, Epochs]]:
            return lambda: (made(other), other.epochs)

        def others(phase: str) -> Iterator[Other]:
            if can_remat(self.problem.entry) and not settings.remat:
                yield Other("search.remat", made_with(self._replace(options={**self.options, "remat": True})))
            size, done = settings.batch_size, settings.accumulate
            for parts in divisors(size // done // self.layout.shares):
                changed = dataclasses.replace(settings, accumulate=done * parts)
                said = f"search.accumulate {done * parts} (or, no more, search.batch_size {size // parts})"
                yield Other(said, made_with(self._replace(settings=changed)), parts)

        return others


def search(this: DartsSearch, run: RunFolder, stop: Stop) -> dict[str, Found]:
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


def _several(this: DartsSearch, run: RunFolder, stage: Stage, stop: Stop) -> tuple[list[dict[str, Any]], float]:
    """All seeds at once, without a watch."""
    part, supernet, count = this.part(0, None), this.supernet(0, None), this.problem.seeds
    algorithm = this.algorithm(supernet, part)
    init_keys, run_keys, derive_keys, budget_keys = seeds.search_keys(this.problem, 4)
    told = _tell_weights(this, part, several=True)
    outcome = run_epochs(
        algorithm, this.layout.start(algorithm.init, init_keys), this.layout.keys(run_keys), this.epochs,
        this.settings.epochs, layout=this.layout, seeds=count, stage=stage, stop=stop,
        after_epoch=lambda epoch, state: (state, told(state.alpha)),
        others=this.others(lambda other: other.algorithm(other.supernet(0, None), part)),
    )  # fmt: skip
    states = seeds.states(count, outcome.state)
    whole = this.supernet(0, None, whole=True)
    archs, seconds = _derive(this, run, stop, whole, supernet, part, states, derive_keys, budget_keys, "perturbation")
    return [{"genotype": this.space.to_genotype(arch), "told": {}} for arch in archs], outcome.seconds + seconds


def _one(
    this: DartsSearch, run: RunFolder, stage: Stage, stop: Stop, suffix: str = ""
) -> tuple[list[dict[str, Any]], float]:
    """One seed. Where slots lose options, every part of the epochs but the last is a stage of its own before.

    suffix: of the names of other stages.
    """
    settings, problem = this.settings, this.problem
    rule = _rule(this)
    init_key, run_key, derive_key, watch_key = (keys[0] for keys in seeds.search_keys(problem, 4))
    several = bool(suffix)

    def watching(supernet: Supernet, part: Part, of: DartsSearch = this) -> SearchAlgorithm:
        return watched(of.algorithm(supernet, part), watch.measurements(settings.watch, settings.epochs), rule)

    def measure_of(whole: Supernet, part: Part) -> Measure:
        if several:
            return lambda epoch, state: (state, {})
        return watch.make_measure(
            settings.watch, this.space._replace(discretize=this.derived), whole, this.epochs.split.valid,
            problem.dataset.augmentation, settings.batch_size, watch_key, problem.dataset.objective,
            this.relaxation(part).mean,
        )  # fmt: skip

    def fit(
        stage: Stage, number: int, left: Keep | None, supernet: Supernet, part: Part, state: WatchedState
    ) -> Outcome:
        measure, told = measure_of(this.supernet(number, left, whole=True), part), _tell_weights(this, part)

        def after_epoch(epoch: int, state: WatchedState) -> tuple[WatchedState, dict[str, Any]]:
            state, measured = measure(epoch, state)
            return state, {**measured, **told(state.search.alpha)}

        return run_epochs(
            watching(supernet, part), state, jax.random.fold_in(run_key, number) if number else run_key, this.epochs,
            this.ends[number + 1] - this.ends[number], layout=this.layout, stage=stage, stop=stop,
            after_epoch=after_epoch, ended=lambda state: watch.stopped(state, rule, settings.watch) is not None,
            others=this.others(lambda other: watching(other.supernet(number, left), part, other)),
        )  # fmt: skip

    part, supernet = this.part(0, None), this.supernet(0, None)
    state = jax.jit(watching(supernet, part).init)(init_key)
    keep: Keep = {kind: np.ones(value.shape, bool) for kind, value in this.space.template().items()}
    sizes, seconds = [_size(0, keep, state)], 0.0
    for number, left in enumerate(settings.prune):
        earlier = run.stage(f"search-{number + 1}{suffix}")
        done = earlier.result
        if done is None:
            done = {"seconds": fit(earlier, number, keep if number else None, supernet, part, state).seconds}
            earlier.finish(done)
        state = load(earlier, state, "latest")
        seconds += done["seconds"]
        before, keep = keep, weakest_by_alpha(this.relaxation(part).mean(state.search.alpha), keep, left)
        part, supernet = this.part(number + 1, keep), this.supernet(number + 1, keep)
        if settings.depths:
            state = jax.jit(watching(supernet, part).init)(jax.random.fold_in(init_key, number + 1))
        else:
            state = state._replace(search=carried(state.search, _narrowing(this, keep, before)))
        sizes.append(_size(this.ends[number + 1], keep, state))
    last = len(settings.prune)
    outcome = fit(stage, last, keep if last else None, supernet, part, state)
    found: DartsState = outcome.state.search._replace(alpha=kept_alpha(outcome.state, rule))
    whole = this.supernet(last, keep if last else None, whole=True)
    (arch,), spent = _derive(
        this, run, stop, whole, supernet, part, [jax.tree.map(local, found)], [derive_key], [watch_key],
        f"perturbation{suffix}",
    )  # fmt: skip
    # A process that took the search up where it had ended has no metrics of it: the first one has.
    lines = epoch_lines(run.metrics())
    health = watch.told(lines, watch.stopped(outcome.state, rule, settings.watch)) if lines and not several else {}
    result = {"health": health, **({"shrinking": sizes} if settings.prune else {})}
    seconds += outcome.seconds + spent
    return [{"genotype": this.space.to_genotype(arch), "told": result}], seconds


def _rule(this: DartsSearch) -> EarlyStop | None:
    return watch.rule_of(this.settings.watch, this.settings.early_stop, this.settings.epochs)


def _narrowing(this: DartsSearch, keep: Keep, before: Keep) -> Callable[[Any], Any]:
    narrowing = this.problem.entry.narrowing
    if narrowing is None:
        raise ValueError(f"the supernet over {this.space.name} loses no operations")
    return narrowing(this.problem.skeleton(this.settings.channels, this.settings.cells), keep, before)


def _derive(
    this: DartsSearch, run: RunFolder, stop: Stop, whole: Supernet, supernet: Supernet, part: Part,
    states: Sequence[DartsState], keys: Sequence[Key], budget_keys: Sequence[Key], stage: str,
) -> tuple[list[Arch], float]:  # fmt: skip
    """The architecture of each last state, and the seconds that a selection took. whole: as of `supernet`, by which a
    selection by perturbation decides."""
    settings, timer = this.settings, clock()
    relaxation, budget = this.relaxation(part), this.problem.budget(this.space)
    if settings.derive == "score":
        drawing = by_score(this.algorithm(supernet, part), relaxation.mean, settings.candidates)
        return best_drawn(drawing, this.epochs, budget, states, settings.candidates, keys, stop), timer()
    if settings.derive == "perturbation":
        entry = this.problem.entry
        nodes = rivals_of(entry, this.space.template())
        decisions = count_decisions(this.space.template(), nodes, entry.keeps)
        tuned = max(1, (decisions - 1) * settings.tune_epochs)

        def make(variant: Variant) -> SearchAlgorithm:
            return this.algorithm(supernet, part, 0.1, tuned, variant)

        algorithm = tuning(make, variant_of(settings.method, part))
        by = Tuning(algorithm, settings.tune_epochs, decisions, nodes, entry.keeps, settings.batch_size)
        weights = perturbed(by, whole, relaxation, this.epochs, this.layout, states, keys, run, stop, stage)
    else:
        weights = [relaxation.mean(state.alpha) for state in states]
    if not budget.limits:
        derive = jax.jit(this.derived)
        return [derive(own) for own in weights], timer()
    own_keys = zip(weights, budget_keys, strict=True)
    return [heaviest(this.space, budget, own, key) for own, key in own_keys], timer()


def _tell_weights(this: DartsSearch, part: Part, several: bool = False) -> Callable[[ArchWeights], dict[str, Any]]:
    """alpha -> the mixture's weights for the metrics, and what the architecture of that moment is truly worth."""
    each = jax.vmap if several else (lambda function: function)
    mixture, derive = jax.jit(each(this.relaxation(part).mean)), jax.jit(each(this.derived))
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


def pictures(this: DartsSearch, run: RunFolder, found: Mapping[str, Found], kept: str) -> list[Picture]:
    """The mixture's weights over the epochs, and the signs of a collapse where they were watched."""
    lines, folder = epoch_lines(run.metrics()), run.path / "report"
    one_by_one = this.problem.seeds > 1 and bool(this.settings.prune)
    if one_by_one:
        lines = [line for line in lines if line["stage"].endswith(f"-{kept}")]
    kinds = list(this.space.template())
    lines = [line for line in lines if all(f"weights_{kind}" in line for kind in kinds)]
    if not lines:  # somebody took the metrics away
        return []
    history = {kind: np.array([line[f"weights_{kind}"] for line in lines]) for kind in kinds}
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
