"""The steps of `shrink`: order and score, choose, distil, report. Each is a stage of the run folder."""

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
from jaxnas.choices import Searchable
from jaxnas.data import Dataset, Examples
from jaxnas.fingerprint import checksum
from jaxnas.fit import results
from jaxnas.fit.budget import Budget
from jaxnas.fit.problem import Stop
from jaxnas.fit.settings import Training, skeleton_of
from jaxnas.hardware import LatencyTable
from jaxnas.runfolder import RunFolder, Stage
from jaxnas.shrinking import choosing, reporting
from jaxnas.shrinking.distances import Divergence
from jaxnas.shrinking.distilling import Pupil, Teacher, Weights
from jaxnas.shrinking.filling import filled
from jaxnas.shrinking.scoring import Alternatives, Scorer, falling, fisher, norms
from jaxnas.shrinking.settings import Distillation, Fitting, Shrinking
from jaxnas.train.path_score import recalibrated
from jaxnas.train.stop import check_stop
from jaxnas.train.trainer import confidence_interval

_RECALIBRATED = 8
"""Batches from which batch norms of a narrowed network get new statistics."""
_TIGHTENED = 4
"""How often a limit of latency is set lower, where no solution is within when it is measured."""


class Scored(NamedTuple):
    """What the scores gave. params: of the supernet, by the name of the order of its units."""

    params: dict[str, PyTree]
    losses: dict[str, np.ndarray]
    latency: LatencyTable | None
    told: dict[str, Any]


class Work:
    """One run: its settings, and the steps of `go`."""

    def __init__(
        self, own: Searchable, dataset: Dataset, settings: Shrinking, distillation: Distillation, training: Fitting,
        divergence: Divergence, seed: int,
    ):  # fmt: skip
        self.own, self.dataset, self.settings, self.distillation = own, dataset, settings, distillation
        self.training, self.divergence, self.seed = training, divergence, seed
        self.whole = own.units().whole
        self.network = own.network(self.whole)
        self.keys = list(jax.random.split(jax.random.key(seed), 6))
        known = data.split(dataset, 0, 0.0).train
        chosen = np.sort(np.random.RandomState(seed).permutation(data.count(known))[: settings.calibration])
        self.calibration: Examples = jax.tree.map(lambda leaf: leaf[chosen], known)
        self.scorer = Scorer(own, self.calibration, dataset.augmentation, settings.calibration_batch, divergence)
        self.alternatives = Alternatives(own)
        timer = choosing.timer(own, settings.latency_batch)
        self.milliseconds = functools.cache(lambda arch: timer(jnp.array(arch, jnp.int32)))
        size = self.scorer.size
        self.statistics = recalibrated(
            own.supernet.apply_path, dataset.augmentation, self.calibration,
            min(_RECALIBRATED, data.count(self.calibration) // size), size,
        )  # fmt: skip

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
        return choosing.budget_of(self.own, self.settings.cost, self.limit(budget, latency), latency, budget)

    def go(self, run: RunFolder, stop: Stop, given: Weights | None) -> None:
        """All of the run, from where it was stopped."""
        clock = results.clock()
        trained, row = self.trained(run, stop, given)
        scored = self.scores(run, trained, stop)
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
        return given, _done(stage)

    def figures(self, pupil: Pupil, weights: Weights) -> dict[str, Any]:
        """What the test split says."""
        tested, metric = pupil.evaluate(weights), self.dataset.objective.name
        interval = None if tested.correct is None else list(confidence_interval(tested.correct, tested.total))
        return {f"test_{metric}": tested.metric, "test_interval": interval, "test_loss": tested.loss}

    def ordered(self, run: RunFolder, trained: Weights, stop: Stop) -> dict[str, PyTree]:
        """The supernet's parameters, which are those of the trained model, by the name of the order of its units."""
        own, stage, units = self.own, run.stage("order"), self.own.units()
        params = units.embedded(trained.params, own.supernet.init(self.keys[4]))
        if stage.result is None:
            clock = results.clock()
            by_norm = norms(own, trained)
            importance = by_norm
            if self.settings.importance == "fisher":
                importance = fisher(
                    own, trained, self.calibration, self.dataset.augmentation, self.divergence, self.keys[1]
                )
            fixed = self.scorer.keeps_order(params)
            orders = {"importance": falling(importance, fixed), "norm": falling(by_norm, fixed)}
            stage.finish({
                "orders": {name: [order.tolist() for order in each] for name, each in orders.items()},
                "fixed": [list(g.choices) for g, stays in zip(units.groups, fixed, strict=True) if stays],
                "seconds": clock(),
            })  # fmt: skip
        found = {name: units.ordered(params, each) for name, each in _done(stage)["orders"].items()}
        found["importance"] = filled(
            own, found["importance"], self.alternatives.archs, self.dataset, self.distillation, self.divergence,
            self.keys[5], run.stage("new-layers"), stop,
        )  # fmt: skip
        return found

    def scores(self, run: RunFolder, trained: Weights, stop: Stop) -> Scored:
        """The loss by each alternative, and its time where that is limited."""
        params, stage, alternatives = self.ordered(run, trained, stop), run.stage("scores"), self.alternatives
        if stage.result is None:
            clock, own = results.clock(), params["importance"]
            values = self.scorer.distances(own, alternatives.archs, self.scorer.trained(own))
            seconds, latency = clock(), None
            if self.settings.cost == "latency_ms":
                table = choosing.latency_table(self.own, alternatives, self.settings.latency_batch, self.of_time)
                latency = {**table._asdict(), "milliseconds": {k: v.tolist() for k, v in table.milliseconds.items()}}
            stage.finish({
                "losses": {name: value.tolist() for name, value in alternatives.table(values).items()},
                "latency": latency, "scored": len(values), "seconds": seconds,
            })  # fmt: skip
        told = _done(stage)
        losses = {name: np.array(value) for name, value in told["losses"].items()}
        fixed = _done(run.stage("order"))["fixed"]
        return Scored(params, losses, _table(told["latency"]), {**told, "fixed": fixed})

    def of_time(self, arch: Arch) -> float:
        """Milliseconds of the network of an architecture, each measured once."""
        return self.milliseconds(tuple(np.asarray(self.own.space.canonical(arch)).tolist()))

    def chosen(self, stage: Stage, budget: float, scored: Scored, key: Any) -> dict[str, Any]:
        """Which networks are trained for a budget: architectures, and the order of units by which each is cut."""
        if stage.result is not None:
            return _done(stage)
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
        return _done(stage)

    def best(self, within: Budget, scored: Scored, budget: float) -> tuple[np.ndarray, np.ndarray, list[float] | None]:
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
                    within = choosing.budget_of(own, self.settings.cost, limit, scored.latency, budget)
                    continue
                best = best[inside]
                times = [time for time, there in zip(times, inside, strict=True) if there]
            return best, self.scorer.distances(params, best, known), times
        raise ValueError(
            f"no network was measured within {asked:.4g} ms; the fastest of the last {count} took "
            f"{min(times or [0]):.4g}: allow more, or measure on a device that nothing else uses"
        )

    def distilled(
        self, stage: Stage, plan: Mapping[str, Any], scored: Scored, trained: Weights,
        pupils: dict[tuple[int, ...], Pupil], key: Any, stop: Stop, kept: Sequence[Path],
    ) -> dict[str, Any]:  # fmt: skip
        """What a result says of one network, which is trained where it was not. kept: folders that it is saved in."""
        if stage.result is not None:
            return _done(stage)
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
        return _done(stage)

    def cut(self, params: PyTree, arch: Arch) -> Weights:
        """The weights of a smaller network, with statistics of batch norms from the training split."""
        supernet = self.own.supernet
        stats = self.statistics(params, arch)
        return Weights(supernet.extract(params, arch), supernet.extract_stats(stats, arch))


def _done(stage: Stage) -> dict[str, Any]:
    """The result of a finished stage."""
    return dict(stage.result or {})


def _table(kept: dict[str, Any] | None) -> LatencyTable | None:
    """A table of latencies as a stage has kept it."""
    if kept is None:
        return None
    times = {name: np.array(value) for name, value in kept["milliseconds"].items()}
    return LatencyTable(kept["device"], kept["batch"], (), times, kept["constant"])
