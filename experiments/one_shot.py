"""One-shot search, the whole road: a supernet along single paths, architectures chosen by its scores within a budget,
and the chosen one and its baselines trained and tested.

    python -m experiments.one_shot                                            digits, a few minutes on 2 CPU cores
    python -m experiments.one_shot --max-macs 400000 --search ilp             within a budget, by an integer program
    python -m experiments.one_shot --table digits201                          also: scores beside a benchmark's values
    python -m experiments.one_shot --space darts                              also enas_micro, enas_macro, chain
    python -m experiments.one_shot --space chain --one-shot.sampling sandwich the largest and the smallest every step
    python -m experiments.one_shot --preset small --data-dir DIR              CIFAR-10, cut down for a CPU
    python -m experiments.one_shot --preset paper --data-dir DIR              for a GPU

Budgets are of the networks that are trained in the end. As many random architectures within the budget are scored
alike, and the best of them is trained beside: random search with weight sharing (Li & Talwalkar 2019,
https://arxiv.org/abs/1902.07638). For supernets over NAS-Bench-201 on CIFAR-10, Kendall's tau with the benchmark of
about 0.5 is published. The same command on the same --workdir goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import cli, one_shot_pictures
from experiments.darts import SearchParts
from experiments.enas import SPACES
from experiments.evaluation import (
    check,
    clock,
    enable_cache,
    finish,
    held_run,
    random_archs,
    skeleton_of,
    told_finished,
    train_all,
)
from experiments.one_shot_budget import Budget, check_feasible, feasible_samples, make_budget
from experiments.one_shot_config import Config, defaults, search_parts
from experiments.one_shot_select import SAMPLERS, agreement, by_integer_program, program_of, sampled
from experiments.tabular import load_benchmark, metric_column
from experiments.tabular_front import front
from jaxnas import data
from jaxnas.base import Array, Batch, Key, SearchAlgorithm, SearchSpace, Skeleton, Supernet
from jaxnas.runfolder import RunFolder, Stage, write_atomic, write_json
from jaxnas.search import fair_paths, sandwich_paths, single_path, uniform_paths
from jaxnas.search.single_path import Paths
from jaxnas.spaces import chain_extremes
from jaxnas.train import schedules
from jaxnas.train.chunk import make_chunk
from jaxnas.train.loop import Leg
from jaxnas.train.loop import run as run_loop
from jaxnas.train.path_score import CachedScore, make_path_score, recalibrated, running


def main(config: Config) -> None:
    """Runs the whole road, or goes on with it."""
    enable_cache(config.cache_dir)
    timer = clock()
    dataset = data.load(config.dataset, config.data_dir)
    make_space, make_supernet = SPACES[config.space]
    skeleton = Skeleton(config.one_shot.channels, config.one_shot.cells, dataset.image_shape, dataset.num_classes)
    space = make_space(skeleton)
    parts = search_parts(dataset, config)
    check(config.train, dataset, space, config.seed, config.random_baselines)
    limits = {"params": config.max_params, "macs": config.max_macs}
    budget = make_budget(space, skeleton_of(config.train, dataset), limits)
    search_key, train_key, random_key, budget_key = jax.random.split(jax.random.key(config.seed), 4)
    check_feasible(space, budget, budget_key)
    if config.search == "ilp":
        program_of(space, budget)
    measured = None if config.table is None else load_measured(config, space)
    supernet = make_supernet(skeleton)
    algorithm = build(config, space, supernet, skeleton, len(parts.train.labels) // config.one_shot.batch_size)
    with held_run("one_shot", config, ("workdir", "data_dir", "tensorboard", "cache_dir")) as (run, stop):
        if told_finished(run):
            return
        loading = timer()
        found = search(
            run, config, Setting(space, supernet, algorithm, budget, measured), parts, dataset, search_key, stop
        )
        arch = space.from_genotype(found["genotype"])
        write_json(run.path / "genotype.json", found["genotype"])
        print(f"found: {space.notation(arch)}", flush=True)
        for policy, figures in found.get("agreement", {}).items():
            print(f"{policy}: " + ", ".join(f"{name} {value:.3f}" for name, value in figures.items()), flush=True)
        archs = {
            "found": arch,
            "best-of-random": space.from_genotype(found["random_genotype"]),
            **random_archs(space, config.random_baselines, random_key),
        }
        results = train_all(run, config.train, dataset, space, archs, train_key, config.seed, stop)
        apart = ("genotype", "seconds", "points", "measured", "measured_scores")
        results["found"]["selection"] = {k: v for k, v in found.items() if k not in apart}
        pictures = one_shot_pictures.draw_selection(found, budget.limits, run.path / "report")
        timing = {"load": loading, "search": found["seconds"], "total": timer()}
        finish(run, results, dataset, config.seed, timing, pictures)


class Measured(NamedTuple):
    """Architectures of a table, int32 [P, D], and their values of a metric, float64 [P]."""

    metric: str
    archs: np.ndarray
    values: np.ndarray


class Setting(NamedTuple):
    """What a search is of."""

    space: SearchSpace
    supernet: Supernet
    algorithm: SearchAlgorithm
    budget: Budget
    measured: Measured | None


def load_measured(config: Config, space: SearchSpace) -> Measured:
    """Random rows of the table; raises ValueError where it is not of this space or has not so many."""
    table, usual = load_benchmark(config.table or "")
    if [choice.options for choice in table.choices] != [choice.options for choice in space.choices]:
        raise ValueError(f"--table {config.table} is not over the choices of {space.name}; use --space nasbench201")
    metric = config.comparison.metric or usual.get("search")
    if metric is None:
        raise ValueError(f"name a metric by --comparison.metric: {', '.join(table.metrics)}")
    values = metric_column(table, metric)
    rows = np.flatnonzero(~np.isnan(values))
    count = config.comparison.architectures
    if not 2 <= count <= len(rows):
        raise ValueError(f"comparison.architectures must be 2 to {len(rows)}, what the table has, got {count}")
    rows = np.random.RandomState(config.seed).permutation(rows)[:count]
    return Measured(metric, np.asarray(table.archs)[rows], values[rows])


def paths_of(sampling: str, space: SearchSpace, skeleton: Skeleton) -> Paths:
    """The paths of a step; raises ValueError where the space has no largest and smallest for a sandwich."""
    if sampling == "uniform":
        return uniform_paths(space.sample)
    if sampling == "fair":
        return fair_paths(space.choices)
    if space.name != "chain":
        raise ValueError(
            f"a sandwich needs a largest and a smallest architecture, which {space.name} has not got: "
            "--space chain, or another --one-shot.sampling"
        )
    return sandwich_paths(*chain_extremes(space, skeleton), space.sample)


def build(config: Config, space: SearchSpace, supernet: Supernet, skeleton: Skeleton, steps: int) -> SearchAlgorithm:
    """The algorithm of a config. skeleton: of the supernet. steps: of an epoch."""
    settings = config.one_shot
    rate = schedules.cosine(settings.learning_rate, settings.last_learning_rate, settings.epochs)
    optimiser = schedules.sgd(
        schedules.per_epoch(rate, steps),
        momentum=settings.momentum, weight_decay=settings.weight_decay, clip=settings.clip, nesterov=True,
    )  # fmt: skip
    paths = paths_of(settings.sampling, space, skeleton)
    return single_path(supernet, paths, optimiser, space.sample, candidates=config.scoring.evaluations)


def search(
    run: RunFolder, config: Config, setting: Setting, parts: SearchParts, dataset: data.Dataset, key: Key,
    stop: Callable[[], int | None],
) -> dict[str, Any]:  # fmt: skip
    """The search stage: the found genotype and the best of the random ones, what was scored, seconds."""
    stage = run.stage("search")
    if stage.result is not None:
        return dict(stage.result)
    settings = config.one_shot
    make = data.make_batches(len(parts.train.labels), settings.batch_size, dataset.augmentation)

    def batch(key: Key, step: Array, data: Any) -> dict[str, Batch]:
        return {"train": make(key, step, data)}

    (phase,) = setting.algorithm.phases
    steps = len(parts.train.labels) // settings.batch_size
    init_key, run_key, select_key, random_key, paths_key = jax.random.split(key, 5)
    outcome = run_loop(
        [Leg(phase.name, make_chunk(phase.step, batch), steps, settings.batch_size)],
        run_key,
        jax.jit(setting.algorithm.init)(init_key),
        parts.train,
        settings.epochs,
        stage=stage,
        stop=stop,
        log_every=10,
    )
    timer = clock()
    scores = _scores(config, setting, parts, dataset, outcome.state.params, stage, paths_key)
    result = _selected(config, setting, scores[config.scoring.batch_norm], select_key, random_key)
    result["scored_on"] = f"{len(parts.valid.labels)} validation images"
    if setting.measured is not None:
        result["agreement"] = {
            policy: agreement(score(setting.measured.archs), setting.measured.values)
            for policy, score in scores.items()
        }
        result["agreement_with"] = f"{config.table}, {setting.measured.metric}, {len(setting.measured.values)} random"
        result["measured"] = setting.measured.values.tolist()
        result["measured_scores"] = {policy: score(setting.measured.archs).tolist() for policy, score in scores.items()}
    result["seconds"] = outcome.seconds + timer()
    stage.finish(result)
    return result


def _scores(
    config: Config, setting: Setting, parts: SearchParts, dataset: data.Dataset, params: Any, stage: Stage, key: Key
) -> dict[str, CachedScore]:
    """Policy of batch norm -> score, which keeps what it has scored in the stage's folder.

    A killed run goes on from there; a score is of the last parameters, which the run had finished.
    """
    scoring, augmentation, apply_path = config.scoring, dataset.augmentation, setting.supernet.apply_path
    size = scoring.batch_size
    policies: dict[str, Callable[[], Any]] = {
        "batch": lambda: None,
        "recalibrated": lambda: recalibrated(apply_path, augmentation, parts.train, scoring.batches, size, config.seed),
        "running": lambda: _shared(config, setting, parts, dataset, params, key),
    }
    names = list(policies) if setting.measured is not None else [scoring.batch_norm]

    def kept(name: str) -> CachedScore:
        path = stage.path / f"scores-{name}.jsonl"
        # Whole lines alone: a kill may have cut the last one.
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        write_atomic(path, "".join(f"{line}\n" for line in lines))
        score = make_path_score(apply_path, augmentation, size, policies[name]())

        def scored(archs: Array) -> np.ndarray:
            values = score(params, archs, parts.valid)
            with path.open("a", encoding="utf-8") as file:
                for entry in zip(np.asarray(archs).tolist(), values.tolist(), strict=True):
                    file.write(json.dumps(entry) + "\n")
            return values

        known = {tuple(arch): value for arch, value in map(json.loads, lines)}
        return CachedScore(scored, setting.space.canonical, known)

    return {name: kept(name) for name in names}


def _shared(
    config: Config, setting: Setting, parts: SearchParts, dataset: data.Dataset, params: Any, key: Key
) -> Callable[[Any, Any], Any]:
    """Running averages over random paths, the same for every architecture."""
    size = config.scoring.batch_size
    paths = jax.jit(jax.vmap(setting.space.sample))(jax.random.split(key, config.comparison.running_paths))
    average = running(setting.supernet.apply_path, dataset.augmentation, parts.train, paths, size, config.seed)(params)
    return lambda params, arch: average


def _selected(config: Config, setting: Setting, score: CachedScore, key: Key, random_key: Key) -> dict[str, Any]:
    """The best within the budget that the search scored, and of as many random ones."""
    space, budget, scoring = setting.space, setting.budget, config.scoring
    extra: dict[str, Any] = {}
    if config.search == "ilp":
        own, extra["additivity"] = by_integer_program(score, space, budget, key, scoring.evaluations)
    else:
        sampler = SAMPLERS[config.search](space, scoring.evaluations, scoring.population)
        own = sampled(sampler, score, space, budget, key, scoring.evaluations)
    if not own:
        raise ValueError(f"--search {config.search} found nothing within the budget; allow more, or --search ilp")
    drawn, walked = feasible_samples(space, budget, random_key, len(own))
    archs, values = np.array(list(own), np.int32), np.array(list(own.values()))
    random_values = score(drawn)
    everything, all_values = np.concatenate([archs, drawn]), np.concatenate([values, random_values])
    costs = budget.costs(everything)
    edge = front(np.stack([-costs["macs"], all_values], axis=1))

    def told(row: int) -> dict[str, Any]:
        arch = jnp.asarray(everything[row])
        return {
            "notation": space.notation(arch),
            "score": float(all_values[row]),
            **{name: int(value[row]) for name, value in costs.items()},
        }

    best, best_random = int(np.argmax(values)), int(np.argmax(random_values))
    return {
        "genotype": space.to_genotype(jnp.asarray(archs[best])),
        "random_genotype": space.to_genotype(jnp.asarray(drawn[best_random])),
        "search": config.search,
        "batch_norm": scoring.batch_norm,
        "evaluations": len(own),
        "random_evaluations": len(drawn),
        "random_by_walking": walked,
        "best_score": float(values.max()),
        "mean_score": float(values.mean()),
        "best_random_score": float(random_values.max()),
        "mean_random_score": float(random_values.mean()),
        "front": [told(int(row)) for row in edge],
        "points": {
            "search": {"macs": costs["macs"][: len(own)].tolist(), "scores": values.tolist()},
            "random": {"macs": costs["macs"][len(own) :].tolist(), "scores": random_values.tolist()},
        },
        **extra,
    }


if __name__ == "__main__":
    cli.main(main, Config, presets=defaults)
