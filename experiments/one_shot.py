"""One-shot search, the whole road: a supernet along single paths, architectures chosen by its scores within a budget,
and the chosen one and its baselines trained and tested.

    python -m experiments.one_shot                                            digits, a few minutes on 2 CPU cores
    python -m experiments.one_shot --max-macs 400000 --search ilp             within a budget, by an integer program
    python -m experiments.one_shot --max-latency-ms 5 --search predictor      on this device, guided by a graph network
    python -m experiments.one_shot --prune-stages 2                           the weakest options go during the training
    python -m experiments.one_shot --max-macs 300000 --supernet runs/one_shot --workdir runs/smaller    trained once
    python -m experiments.one_shot --table digits201                          also: scores beside a benchmark's values
    python -m experiments.one_shot --space darts                              also enas_micro, enas_macro, chain
    python -m experiments.one_shot --space chain --one-shot.sampling sandwich the largest and the smallest every step
    python -m experiments.one_shot --preset small --data-dir DIR              CIFAR-10, cut down for a CPU
    python -m experiments.one_shot --preset paper --data-dir DIR              for a GPU

Budgets are of the networks that are trained in the end. As many random architectures within the budget are scored
alike, and the best of them is trained beside, but not with several seeds (--seeds 8): random search with weight sharing
(Li & Talwalkar 2019, https://arxiv.org/abs/1902.07638). For supernets over NAS-Bench-201 on CIFAR-10, Kendall's tau
with the benchmark of about 0.5 is published. The same command on the same --workdir goes on where it stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import one_shot_pictures, one_shot_reuse, seeds
from experiments.darts import SearchParts
from experiments.evaluation import (
    check,
    clock,
    finish,
    held_run,
    load_data,
    random_archs,
    skeleton_of,
    told_finished,
    train_all,
)
from experiments.one_shot_budget import Budget, check_feasible, make_budget, without_absent
from experiments.one_shot_config import Config, defaults, search_parts
from experiments.one_shot_latency import latency_table, network_milliseconds
from experiments.one_shot_scores import Measured, Setting, scored, selected, within
from experiments.one_shot_select import agreement, program_of, weakest
from jaxnas import command, data
from jaxnas.base import Array, Batch, Key, SearchAlgorithm, SearchSpace, Skeleton, Supernet
from jaxnas.benchmarks import fingerprint, metric_column, named_table
from jaxnas.cache import enable_cache
from jaxnas.catalog import CATALOG
from jaxnas.fit.devices import join
from jaxnas.hardware import save_latency
from jaxnas.parallel import is_first_process, local
from jaxnas.runfolder import RunFolder, Stage
from jaxnas.search import SinglePathState, fair_paths, sandwich_paths, single_path, uniform_paths
from jaxnas.search.single_path import Paths
from jaxnas.spaces import Pruned, chain_extremes, everything, prune
from jaxnas.supernets import embedded
from jaxnas.train import schedules
from jaxnas.train.loop import Leg, Outcome, load
from jaxnas.train.loop import run as run_loop
from jaxnas.train.path_score import CachedScore


def main(config: Config) -> None:
    """Runs the whole road, or goes on with it."""
    enable_cache(config.cache_dir)
    join(config.devices)
    timer = clock()
    dataset = load_data(config)
    entry = CATALOG[config.space]
    skeleton = Skeleton(config.one_shot.channels, config.one_shot.cells, dataset.image_shape, dataset.num_classes)
    space = entry.space(skeleton)
    parts = search_parts(dataset, config)
    read: dict[str, Any] = {"data": data.fingerprint(dataset)}
    read["supernet"] = one_shot_reuse.check(config, read["data"])
    seeds.check(config, {"prune_stages": config.prune_stages > 0, "supernet": config.supernet is not None})
    layout = seeds.layout(config, dataset.image_shape, config.one_shot.batch_size, side_by_side=False)
    paths_of(config.one_shot.sampling, space, skeleton)  # raises for what cannot be
    measured = None if config.table is None else load_measured(config, space)
    read["table"] = None if measured is None else measured.fingerprint
    check(config.train, dataset, space, config.seed, config.random_baselines, config.devices)
    network_skeleton, latency = skeleton_of(config.train, dataset), None
    if config.max_latency_ms is not None:  # last: it takes time
        if config.devices.coordinator is not None:
            raise ValueError("max_latency_ms is measured, by each process otherwise: leave out devices.coordinator")
        saved = Path(config.workdir) / "latency.json"
        latency = latency_table(space, network_skeleton, config.latency_batch, saved)
    limits = {"params": config.max_params, "macs": config.max_macs, "latency_ms": config.max_latency_ms}
    budget = make_budget(space, network_skeleton, limits, latency)

    def budget_of(left: SearchSpace) -> Budget:
        return without_absent(make_budget(left, network_skeleton, limits, latency), left)

    _, train_key, random_key, budget_key = jax.random.split(jax.random.key(config.seed), 4)
    check_feasible(space, budget, budget_key)
    if config.search == "ilp":
        program_of(space, budget)
    supernet = entry.supernet(skeleton)
    paths = ("workdir", "dataset", "data_dir", "supernet", "table")
    runtime = (*paths, "devices", "tensorboard", "cache_dir", *seeds.runtime(config))
    with held_run("one_shot", config, runtime, **read) as (run, stop):
        if told_finished(run):
            return
        if latency is not None:
            save_latency(latency, run.path / "latency.json")
        one_shot_reuse.take(run, config)
        loading = timer()
        setting = Setting(space, supernet, skeleton, budget_of, measured, layout)
        told, seconds = search(run, config, setting, parts, dataset, stop)
        found = {name: space.from_genotype(each["genotype"]) for name, each in told.items()}
        seeds.write_genotypes(run, space, found)
        for name, each in told.items():
            for policy, figures in each.get("agreement", {}).items():
                values = ", ".join(f"{quantity} {value:.3f}" for quantity, value in figures.items())
                print(f"{name}, scores by {policy}: {values}", flush=True)
        archs = dict(found)
        if config.seeds == 1:
            archs["best-of-random"] = space.from_genotype(told[seeds.ONE]["random_genotype"])
        archs |= random_archs(space, config.random_baselines, random_key)
        results = train_all(run, config.train, dataset, space, archs, train_key, config.seed, stop, config.devices)
        if not is_first_process():
            return
        apart = ("genotype", "seconds", "points", "measured", "measured_scores")
        for name, each in told.items():
            results[name]["selection"] = {k: v for k, v in each.items() if k not in apart}
        results, chosen = seeds.choose(run, config, space, found, results)
        kept = seeds.names(config)[chosen or 0]
        pictures = one_shot_pictures.draw_selection(told[kept], budget.limits, run.path / "report")
        timing = {"load": loading, "search": seconds}
        if latency is not None:
            device = {"device": latency.device, "batch": latency.batch}
            predicted = float(budget.costs(np.asarray(found[kept])[None])["latency_ms"][0])
            results[seeds.ONE]["selection"]["latency"] = {**device, "predicted_ms": predicted}
            timing["latency_ms"] = network_milliseconds(found[kept], space, network_skeleton, latency.batch)
            print(
                f"latency of a batch: {predicted:.3f} ms by the sum, {timing['latency_ms']:.3f} ms measured", flush=True
            )
        timing["total"] = timer()
        finish(run, results, dataset, config.seed, timing, pictures, seeds.tables(found, results))


def load_measured(config: Config, space: SearchSpace) -> Measured:
    """Random rows of the table; raises ValueError where it is not of this space or has not so many."""
    table, usual = named_table(config.table or "")
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
    return Measured(table.name, fingerprint(table), metric, np.asarray(table.archs)[rows], values[rows])


def paths_of(sampling: str, space: SearchSpace, skeleton: Skeleton) -> Paths:
    """The paths of a step; raises ValueError where the space has no largest and smallest for a sandwich."""
    if sampling == "uniform":
        return uniform_paths(space)
    if sampling == "fair":
        return fair_paths(space.choices)
    if space.name != "chain":
        raise ValueError(
            f"a sandwich needs a largest and a smallest architecture, which {space.name} has not got: "
            "--space chain, or another --one-shot.sampling"
        )
    return sandwich_paths(space, *chain_extremes(space, skeleton))


def build(
    config: Config, space: SearchSpace, supernet: Supernet, skeleton: Skeleton, steps: int, axis_name: str | None = None
) -> SearchAlgorithm:
    """The algorithm of a config. skeleton: of the supernet. steps: of an epoch. axis_name: see `single_path`."""
    settings = config.one_shot
    rate = schedules.cosine(settings.learning_rate, settings.last_learning_rate, settings.epochs)
    optimizer = schedules.sgd(
        schedules.per_epoch(rate, steps),
        momentum=settings.momentum, weight_decay=settings.weight_decay, clip=settings.clip, nesterov=True,
    )  # fmt: skip
    paths = paths_of(settings.sampling, space, skeleton)
    return single_path(supernet, paths, optimizer, candidates=config.scoring.evaluations, axis_name=axis_name)


def search(
    run: RunFolder, config: Config, setting: Setting, parts: SearchParts, dataset: data.Dataset,
    stop: Callable[[], int | None],
) -> tuple[dict[str, dict[str, Any]], float]:  # fmt: skip
    """The search stage: (of each seed the found genotype, the best of the random ones, what was scored; seconds)."""
    stage, names = run.stage("search"), seeds.names(config)
    if stage.result is not None:
        done = dict(stage.result)
        return done.get("seeds", {seeds.ONE: done}), done["seconds"]
    init_keys, run_keys, select_keys, random_keys, paths_keys = seeds.search_keys(config, 4, 5)
    state, pruned, pruning, seconds = train(run, config, setting, parts, dataset, init_keys, run_keys, stop)
    timer = clock()

    def best_of(name: str, state: SinglePathState, select_key: Key, random_key: Key, paths_key: Key) -> dict[str, Any]:
        def choose(scores: Mapping[str, CachedScore]) -> dict[str, Any]:
            chosen = selected(
                config, pruned.space, setting.budget(pruned.space), within(scores[config.scoring.batch_norm], pruned),
                select_key, random_key,
            )  # fmt: skip
            chosen["scored_on"] = f"{len(parts.valid.labels)} validation images"
            if setting.measured is not None:
                table, _, metric, archs, values = setting.measured
                of_measured = {policy: score(archs) for policy, score in scores.items()}
                chosen["agreement"] = {policy: agreement(own, values) for policy, own in of_measured.items()}
                chosen["agreement_with"] = f"{table}, {metric}, {len(values)} random"
                chosen["measured"] = values.tolist()
                chosen["measured_scores"] = {policy: own.tolist() for policy, own in of_measured.items()}
            return chosen

        folder = stage.path if name == seeds.ONE else stage.path / name
        found = scored(config, setting, parts, dataset, state.params, folder, paths_key, stop, choose)
        return {**found, "pruning": pruning}

    each = map(best_of, names, seeds.states(config, state), select_keys, random_keys, paths_keys)
    found = dict(zip(names, each, strict=True))
    seconds += timer()
    stage.finish({**(found[seeds.ONE] if config.seeds == 1 else {"seeds": found}), "seconds": seconds})
    return found, seconds


def train(
    run: RunFolder, config: Config, setting: Setting, parts: SearchParts, dataset: data.Dataset,
    init_keys: Sequence[Key], run_keys: Sequence[Key], stop: Callable[[], int | None],
) -> tuple[SinglePathState, Pruned, list[dict[str, Any]], float]:  # fmt: skip
    """The last state, what is left of the space, its sizes from stage to stage, seconds.

    Keys are of each seed, and with several the state has an axis of them. With one, the space may be pruned: every
    stage but the last ends with the loss of the weakest options. The parameters stay those of the whole space: a path
    of what is left finds its own there, with their momentum, and the schedule goes on.
    """
    settings = config.one_shot
    make = data.make_batches(len(parts.train.labels), settings.batch_size, dataset.augmentation)

    def batch(key: Key, step: Array, data: Any) -> dict[str, Batch]:
        return {"train": make(key, step, data)}

    steps = len(parts.train.labels) // settings.batch_size
    stages = config.prune_stages + 1
    ends = [settings.epochs * number // stages for number in range(stages + 1)]
    # Stages are of a search with one seed.
    part_key, weakest_key, reach_key = (jax.random.fold_in(run_keys[0], number) for number in (1, 2, 3))
    layout = setting.layout

    def fit(stage: Stage, number: int, supernet: Supernet, pruned: Pruned, state: SinglePathState) -> Outcome:
        (phase,) = build(config, pruned.space, supernet, setting.skeleton, steps, layout.axis_name).phases
        return run_loop(
            [Leg(phase.name, layout.chunk(phase.step, batch), steps, settings.batch_size * config.seeds)],
            jax.random.fold_in(part_key, number) if number else layout.keys(run_keys),
            state,
            layout.place_data(parts.train),
            ends[number + 1] - ends[number],
            stage=stage,
            place=layout.place,
            stop=stop,
            log_every=10,
        )

    state = layout.start(build(config, setting.space, setting.supernet, setting.skeleton, steps).init, init_keys)
    shapes = jax.eval_shape(setting.supernet.init, jax.random.key(0))
    keep = [list(row) for row in everything(setting.space)]
    sizes, seconds = [], 0.0
    for number in range(stages):
        last = number == config.prune_stages
        stage = run.stage("search" if last else f"prune-{number + 1}")
        pruned = prune(setting.space, keep)
        supernet = embedded(setting.supernet, pruned)
        sizes.append(
            {
                "from_epoch": ends[number],
                **size_of(supernet, pruned.space, shapes, jax.random.fold_in(reach_key, number)),
            }
        )
        done = stage.result
        if done is None:
            outcome = fit(stage, number, supernet, pruned, state)
            state, spent = outcome.state, outcome.seconds
            if not last:
                state = jax.tree.map(local, state)
                timer = clock()
                paths_key, own_key = jax.random.split(jax.random.fold_in(weakest_key, number))

                def choose(scores: Mapping[str, CachedScore], pruned: Pruned = pruned, key: Key = own_key) -> Any:
                    left = weakest(
                        within(scores[config.scoring.batch_norm], pruned),
                        pruned.space,
                        setting.budget(pruned.space),
                        key,
                        config.scoring.evaluations,
                        config.predictor if config.prune_by == "predictor" else None,
                    )
                    return [[int(option) for option in options] for options in left]

                left = scored(
                    config, setting, parts, dataset, state.params, stage.path, paths_key, stop, choose, alone=True
                )
                keep = [[row[option] for option in options] for row, options in zip(keep, left, strict=True)]
                spent += timer()
                stage.finish({"keep": keep, "seconds": spent})
        else:
            state, keep, spent = load(stage, state, "latest"), done["keep"], done["seconds"]
        seconds += spent
    return state, pruned, sizes, seconds


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


if __name__ == "__main__":
    command.main(main, Config, presets=defaults)
