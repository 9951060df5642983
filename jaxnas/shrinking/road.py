"""From a trained model to smaller ones: `shrink` scores alternatives, chooses under budgets, distils, and reports."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import data, saved
from jaxnas.base import Arch, Context, PyTree
from jaxnas.cache import enable_cache
from jaxnas.checkpoint import Checkpoints
from jaxnas.choices import Searchable
from jaxnas.data import Dataset, Examples
from jaxnas.files import expanded
from jaxnas.fit import results
from jaxnas.fit.budget import Budget
from jaxnas.fit.problem import Stop
from jaxnas.fit.settings import Training, skeleton_of
from jaxnas.fingerprint import checksum
from jaxnas.hardware import LatencyTable
from jaxnas.ranges import Seed, check_settings, check_used
from jaxnas.runfolder import RunFolder, Stage, check_folder
from jaxnas.shrinking import choosing, reporting
from jaxnas.shrinking.distances import Distance, Divergence, divergence_of
from jaxnas.shrinking.distilling import Pupil, Teacher, Weights
from jaxnas.shrinking.scoring import Alternatives, Scorer, falling, fisher, norms
from jaxnas.shrinking.settings import Distillation, Fitting, Shrinking
from jaxnas.shrinking.trained import check_outputs, made_searchable, weights_of
from jaxnas.train.path_score import recalibrated
from jaxnas.train.stop import check_stop
from jaxnas.train.trainer import confidence_interval

_RECALIBRATED = 8
"""Batches from which batch norms of a narrowed network get new statistics."""
_TIGHTENED = 4
"""How often a limit of latency is set lower, where no solution is within when it is measured."""


@dataclasses.dataclass(frozen=True)
class Shrunk:
    """What came out.

    own: the searchable model. result: the content of result.json; `result["budgets"]` has the networks of each budget.
    networks: budget, as it was given -> the network found for it, as (apply, params). folder: None where none was asked
    for.
    """

    own: Searchable
    result: dict[str, Any]
    networks: dict[float, saved.Loaded]
    folder: Path | None


@dataclasses.dataclass(frozen=True)
class _Seed:
    seed: Seed = 0


def shrink(
    model: Any,
    weights: Any,
    dataset: Dataset,
    settings: Shrinking | None = None,
    distillation: Distillation | None = None,
    *,
    training: Fitting | None = None,
    distance: Distance | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    cache_dir: str | None = None,
) -> Shrunk:
    """Makes smaller networks of a trained model, each within a budget.

    Units of each width are put in the order of their importance. Every alternative is put alone into the trained model,
    and scored by how far that takes the outputs on calibration data. An integer program chooses under each budget
    (Puzzle, Bercovich et al. 2024, https://arxiv.org/abs/2411.19146); its next-best solutions are scored whole. What is
    chosen learns from the trained model, as do baselines, with the same settings.

    model: a flax model with choices in it, which is trained at its widest (docs/own_model.md), or what `searchable`
    made of it. weights: what it learned: the variables of linen, {"params": …, "batch_stats": …}, an nnx module, or
    (params, statistics) as its network has them. They are not changed. None trains the model here, by `training`.
    distance: (outputs, outputs of the trained model) -> float [B], in place of the KL divergence of classes and the
    squared error of other targets. folder: where all goes; the same call on the same folder goes on where it was
    stopped. The network of the smallest budget is that of `jaxnas.load(folder, model=model)`.

    Raises: ValueError or OSError, before any long work, for what cannot work: a model without choices, weights of
    another model, data that does not fit, a budget below the smallest network, which is told.
    """
    settings = Shrinking() if settings is None else settings
    distillation = Distillation() if distillation is None else distillation
    fitting = Fitting() if training is None else training
    _check(settings, distillation, fitting, seed, dataset)
    if (weights is None) == (training is None):
        raise ValueError("give the weights of a trained model, or training, by which it is trained here; one of both")
    enable_cache(cache_dir)
    folder = None if folder is None else str(expanded(folder))
    if folder is not None:
        check_folder(folder)
    own = made_searchable(model, dataset)
    check_outputs(own, dataset)
    given = None if weights is None else weights_of(own, weights)
    work = _Work(own, dataset, settings, distillation, fitting, divergence_of(dataset, distance), seed)
    if settings.cost != "latency_ms":
        for budget in settings.budgets:
            work.budget(budget, None)
    with results.held_run(folder, work.identity(given), {"folder": folder, "dataset": dataset.name}) as (run, stop):
        if run.resumed and run.result is not None:
            print(f"{run.path} is finished; this is its result", flush=True)
        else:
            work.go(run, stop, given)
        networks = {
            budget: saved.load(run.path / "stages" / f"{work.label(budget)}-found", model=own)
            for budget in settings.budgets
        }
        result = dict(run.result)  # type: ignore[arg-type]
        reporting.tell(result, run.path if folder is not None else None)
    return Shrunk(own, result, networks, None if folder is None else Path(folder))


def _check(settings: Shrinking, distillation: Distillation, training: Fitting, seed: int, dataset: Dataset) -> None:
    for name, own, kind in (
        ("shrink", settings, Shrinking), ("distill", distillation, Distillation), ("train", training, Fitting),
        ("", _Seed(seed), _Seed),
    ):  # fmt: skip
        check_settings(name, own, kind)
    check_used("shrink", settings)
    if not settings.budgets:
        raise ValueError("shrink.budgets is empty: give at least one, 0.5 say")
    if len(set(settings.budgets)) < len(settings.budgets):
        raise ValueError(f"shrink.budgets has a budget twice: {', '.join(map(str, settings.budgets))}")
    there = data.count(dataset.train)
    for name, size in (
        ("shrink.calibration", settings.calibration), ("distill.batch_size", distillation.batch_size),
        ("train.batch_size", training.batch_size),
    ):  # fmt: skip
        if size > there:
            raise ValueError(f"{name} {size} is more than the training split of {dataset.name}, which has {there}")
    if settings.calibration_batch > settings.calibration:
        raise ValueError(
            f"shrink.calibration_batch {settings.calibration_batch} is more than shrink.calibration "
            f"{settings.calibration}; give less"
        )


class _Scored(NamedTuple):
    """What the scores gave. params: of the supernet, by the name of the order of its units."""

    params: dict[str, PyTree]
    losses: dict[str, np.ndarray]
    latency: LatencyTable | None
    told: dict[str, Any]


class _Work:
    """One run: its settings, and the steps of `go`."""

    def __init__(
        self, own: Searchable, dataset: Dataset, settings: Shrinking, distillation: Distillation, training: Fitting,
        divergence: Divergence, seed: int,
    ):  # fmt: skip
        self.own, self.dataset, self.settings, self.distillation = own, dataset, settings, distillation
        self.training, self.divergence, self.seed = training, divergence, seed
        self.whole = own.units().whole
        self.network = own.network(self.whole)
        self.keys = list(jax.random.split(jax.random.key(seed), 4))
        chosen = np.sort(np.random.RandomState(seed).permutation(data.count(dataset.train))[: settings.calibration])
        self.calibration: Examples = jax.tree.map(lambda leaf: leaf[chosen], dataset.train)
        self.scorer = Scorer(own, self.calibration, dataset.augmentation, settings.calibration_batch, divergence)
        self.milliseconds = functools.cache(
            lambda arch: choosing.timer(own, settings.latency_batch)(jnp.array(arch, jnp.int32))
        )

    def identity(self, given: Weights | None) -> dict[str, Any]:
        """What the numbers depend on."""
        leaves = [] if given is None else [np.asarray(leaf) for leaf in jax.tree.leaves(given)]
        return {
            "experiment": "shrink",
            "model": {choice.name: list(choice.options) for choice in self.own.space.choices},
            "costs": self.network.costs,
            "shrink": dataclasses.asdict(self.settings),
            "distill": dataclasses.asdict(self.distillation),
            "train": dataclasses.asdict(self.training) if given is None else None,
            "weights": None if given is None else checksum(*leaves),
            "distance": self.divergence.name,
            "seed": self.seed,
            "data": data.fingerprint(self.dataset),
        }

    def label(self, budget: float) -> str:
        """The name of a budget."""
        return f"{budget:g}"

    def limit(self, budget: float, latency: LatencyTable | None) -> float:
        """The most that a network may cost."""
        cost = self.settings.cost
        of_trained = self.network.costs[cost] if latency is None else latency.constant
        return budget * of_trained if budget <= 1 else budget

    def budget(self, budget: float, latency: LatencyTable | None) -> Budget:
        """Raises: ValueError where no network is within."""
        return choosing.budget_of(self.own, self.settings.cost, self.limit(budget, latency), latency)

    def go(self, run: RunFolder, stop: Stop, given: Weights | None) -> None:
        """All of the run, from where it was stopped."""
        clock = results.clock()
        trained, row = self.trained(run, stop, given)
        scored = self.scores(run, trained)
        check_stop(stop, 1, 2, "part")
        if scored.latency is not None:
            row["latency_ms"] = scored.latency.constant
        smallest = min(self.settings.budgets, key=lambda budget: self.limit(budget, scored.latency))
        budgets: dict[str, Any] = {}
        pupils: dict[tuple[int, ...], Pupil] = {}
        for number, budget in enumerate(self.settings.budgets):
            label = self.label(budget)
            plan = self.chosen(run.stage(f"{label}-chosen"), budget, scored, jax.random.fold_in(self.keys[2], number))
            check_stop(stop, number, len(self.settings.budgets), "budget")
            rows = {}
            for place, (name, each) in enumerate(plan["networks"].items()):
                key = jax.random.fold_in(jax.random.fold_in(self.keys[3], number), place)
                stage = run.stage(f"{label}-{name}")
                kept = [] if name != "found" else [stage.path, run.path] if budget == smallest else [stage.path]
                rows[name] = self.distilled(stage, each, scored, trained, pupils, key, stop, kept)
            budgets[label] = {**{k: v for k, v in plan.items() if k != "networks"}, "networks": rows}
        reporting.finish(run, self.dataset, self.settings, row, scored.told, budgets, clock(), self.seed)

    def trained(self, run: RunFolder, stop: Stop, given: Weights | None) -> tuple[Weights, dict[str, Any]]:
        """The trained model, and what a result says of it."""
        stage = run.stage("trained")
        pupil = Pupil(self.network, self.dataset, self.training)
        seconds = 0.0
        if given is None:
            given, seconds = pupil.fit(None, self.keys[0], stage, stop)
        if stage.result is None:
            stage.finish({**self.figures(pupil, given), **self.network.costs, "seconds": seconds})
        return given, dict(stage.result or {})

    def figures(self, pupil: Pupil, weights: Weights) -> dict[str, Any]:
        """What the test split says."""
        tested, metric = pupil.evaluate(weights), self.dataset.objective.name
        interval = None if tested.correct is None else list(confidence_interval(tested.correct, tested.total))
        return {f"test_{metric}": tested.metric, "test_interval": interval, "test_loss": tested.loss}

    def scores(self, run: RunFolder, trained: Weights) -> _Scored:
        """Orders of units, and the loss by each alternative."""
        own, stage, units = self.own, run.stage("scores"), self.own.units()
        clock = results.clock()
        params = units.embedded(trained.params, own.supernet.init(self.keys[1]))
        alternatives = Alternatives(own)
        if stage.result is None:
            by_norm = norms(own, trained)
            importance = by_norm
            if self.settings.importance == "fisher":
                importance = fisher(
                    own, trained, self.calibration, self.dataset.augmentation, self.divergence, self.keys[1]
                )
            fixed = self.scorer.keeps_order(params)
            orders = {"importance": falling(importance, fixed), "norm": falling(by_norm, fixed)}
            ordered = units.ordered(params, orders["importance"])
            values = self.scorer.distances(ordered, alternatives.archs, self.scorer.trained(ordered))
            seconds, latency = clock(), None
            if self.settings.cost == "latency_ms":
                table = choosing.latency_table(own, self.settings.latency_batch, self.of_time)
                latency = {**table._asdict(), "milliseconds": {k: v.tolist() for k, v in table.milliseconds.items()}}
            stage.finish({
                "orders": {name: [order.tolist() for order in own] for name, own in orders.items()},
                "fixed": [list(g.choices) for g, stays in zip(units.groups, fixed, strict=True) if stays],
                "losses": {name: value.tolist() for name, value in alternatives.table(values).items()},
                "latency": latency, "scored": len(values), "seconds": seconds,
            })  # fmt: skip
        told = dict(stage.result or {})
        found = {name: units.ordered(params, each) for name, each in told["orders"].items()}
        losses = {name: np.array(value) for name, value in told["losses"].items()}
        table = told["latency"] and LatencyTable(**{
            **told["latency"], "options": (),
            "milliseconds": {k: np.array(v) for k, v in told["latency"]["milliseconds"].items()},
        })  # fmt: skip
        return _Scored(found, losses, table, {name: told[name] for name in ("fixed", "losses", "scored", "seconds")})

    def of_time(self, arch: Arch) -> float:
        """Milliseconds of the network of an architecture, each measured once."""
        return self.milliseconds(tuple(np.asarray(self.own.space.canonical(arch)).tolist()))

    def chosen(self, stage: Stage, budget: float, scored: _Scored, key: Any) -> dict[str, Any]:
        """Which networks are trained for a budget. Each has an architecture and the order of units that it is cut by."""
        if stage.result is not None:
            return dict(stage.result)
        own, settings = self.own, self.settings
        clock = results.clock()
        within = self.budget(budget, scored.latency)
        best, values, times = self.best(within, scored, budget)
        found = best[int(np.argmin(values))]
        networks: dict[str, Any] = {"found": (found, "importance")}
        even = choosing.uniform(own, within) if settings.baselines else None
        if even is not None:
            networks |= {"uniform": (even, "importance"), "magnitude": (even, "norm")}
        for number, arch in enumerate(choosing.at_random(own, within, key, settings.random_baselines), 1):
            networks[f"random-{number}"] = (arch, "importance")
        if settings.baselines:
            networks["scratch"] = (found, None)
        stage.finish({
            "limit": self.limit(budget, scored.latency), "cost": settings.cost,
            "candidates": [own.space.notation(jnp.asarray(arch)) for arch in best],
            "distances": values.tolist(), "milliseconds": times, "seconds": clock(),
            "networks": {n: {"arch": np.asarray(a).tolist(), "order": order} for n, (a, order) in networks.items()},
        })  # fmt: skip
        return dict(stage.result or {})

    def best(self, within: Budget, scored: _Scored, budget: float) -> tuple[np.ndarray, np.ndarray, list[float] | None]:
        """The next-best solutions, their distances as whole networks, and their times where these are limited.

        Times do not add up exactly. Where no solution is within the limit when it is measured, a lower one is set.
        """
        own, count, asked = self.own, self.settings.candidates, self.limit(budget, scored.latency)
        params = scored.params["importance"]
        known = self.scorer.trained(params)
        limit = asked
        for _ in range(_TIGHTENED):
            best = choosing.next_best(own, scored.losses, within, count).archs
            times = None
            if scored.latency is not None:
                times = [self.of_time(jnp.asarray(arch)) for arch in best]
                inside = [time <= asked for time in times]
                if not any(inside):
                    limit *= asked / min(times)
                    within = choosing.budget_of(own, self.settings.cost, limit, scored.latency)
                    continue
                best = best[inside]
                times = [time for time, there in zip(times, inside, strict=True) if there]
            return best, self.scorer.distances(params, best, known), times
        raise ValueError(
            f"no network was measured within {asked:.4g} ms; the fastest of the last {count} took {min(times or [0]):.4g}: "
            "allow more, or measure on a device that nothing else uses"
        )

    def distilled(
        self, stage: Stage, plan: Mapping[str, Any], scored: _Scored, trained: Weights,
        pupils: dict[tuple[int, ...], Pupil], key: Any, stop: Stop, kept: Sequence[Path],
    ) -> dict[str, Any]:  # fmt: skip
        """What a result says of one network, which is trained where it was not. kept: folders that it is saved in."""
        if stage.result is not None:
            return dict(stage.result)
        own, arch = self.own, jnp.array(plan["arch"], jnp.int32)
        network = own.network(arch)
        row = tuple(plan["arch"])
        if row not in pupils:
            teacher = Teacher(
                lambda weights, x: self.network.apply(weights.params, x, Context(weights.stats))[0], trained,
                self.divergence,
            )  # fmt: skip
            pupils[row] = Pupil(network, self.dataset, self.distillation, teacher)
        pupil, start, before = pupils[row], None, {}
        metric = self.dataset.objective.name
        if plan["order"] is not None:
            start = self.cut(scored.params[plan["order"]], arch)
            before = {f"before_{metric}": pupil.evaluate(start).metric}
        weights, seconds = pupil.fit(start, key, stage, stop)
        genotype = own.space.to_genotype(arch)
        for place in kept:
            skeleton = skeleton_of(Training(), self.dataset)
            saved.save_network(place, weights.params, weights.stats, genotype, skeleton, self.dataset)
        time = {"latency_ms": self.of_time(arch)} if scored.latency is not None else {}
        stage.finish({
            **self.figures(pupil, weights), **before, **network.costs, **time, "genotype": genotype,
            "notation": own.space.notation(arch), "seconds": seconds,
        })  # fmt: skip
        return dict(stage.result or {})

    def cut(self, params: PyTree, arch: Arch) -> Weights:
        """The weights of a smaller network, with statistics of batch norms from the training split."""
        own, size = self.own, self.scorer.size
        see = recalibrated(
            own.supernet.apply_path, self.dataset.augmentation, self.calibration,
            min(_RECALIBRATED, data.count(self.calibration) // size), size,
        )  # fmt: skip
        return Weights(own.supernet.extract(params, arch), own.supernet.extract_stats(see(params, arch), arch))
