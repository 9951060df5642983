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
alike, and the best of them is trained beside: random search with weight sharing (Li & Talwalkar 2019,
https://arxiv.org/abs/1902.07638). For supernets over NAS-Bench-201 on CIFAR-10, Kendall's tau with the benchmark of
about 0.5 is published. The same command on the same --workdir goes on where it stopped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import cli, one_shot_pictures, one_shot_reuse
from experiments.darts import SearchParts
from experiments.devices import join, spread
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
from experiments.one_shot_budget import Budget, check_feasible, feasible_samples, make_budget, without_absent
from experiments.one_shot_config import Config, defaults, search_parts
from experiments.one_shot_latency import latency_table, network_milliseconds
from experiments.one_shot_select import (
    agreement,
    by_integer_program,
    evolution,
    guided,
    program_of,
    sampled,
    weakest,
)
from experiments.scoring import Score, with_scores
from experiments.tabular import load_benchmark, metric_column
from experiments.tabular_front import front
from jaxnas import data
from jaxnas.base import Array, Batch, Key, SearchAlgorithm, SearchSpace, Skeleton, Supernet
from jaxnas.hardware import save_latency
from jaxnas.parallel import DataParallel, is_first_process, local
from jaxnas.runfolder import RunFolder, Stage, write_atomic, write_json
from jaxnas.search import SinglePathState, fair_paths, sandwich_paths, single_path, uniform_paths
from jaxnas.search.single_path import Paths
from jaxnas.spaces import Pruned, chain_extremes, everything, prune
from jaxnas.supernets import embedded
from jaxnas.train import schedules
from jaxnas.train.chunk import make_chunk
from jaxnas.train.loop import Leg, Outcome, load
from jaxnas.train.loop import run as run_loop
from jaxnas.train.path_score import CachedScore, make_path_score, recalibrated, running


def main(config: Config) -> None:
    """Runs the whole road, or goes on with it."""
    enable_cache(config.cache_dir)
    join(config.devices)
    timer = clock()
    dataset = data.load(config.dataset, config.data_dir)
    make_space, make_supernet = SPACES[config.space]
    skeleton = Skeleton(config.one_shot.channels, config.one_shot.cells, dataset.image_shape, dataset.num_classes)
    space = make_space(skeleton)
    parts = search_parts(dataset, config)
    one_shot_reuse.check(config)
    check(config.train, dataset, space, config.seed, config.random_baselines, config.devices)
    network_skeleton, latency = skeleton_of(config.train, dataset), None
    if config.max_latency_ms is not None:
        if config.devices.coordinator is not None:
            raise ValueError("max_latency_ms is measured, by each process otherwise: leave out devices.coordinator")
        saved = Path(config.workdir) / "latency.json"
        latency = latency_table(space, network_skeleton, config.latency_batch, saved)
    limits = {"params": config.max_params, "macs": config.max_macs, "latency_ms": config.max_latency_ms}
    budget = make_budget(space, network_skeleton, limits, latency)

    def budget_of(left: SearchSpace) -> Budget:
        return without_absent(make_budget(left, network_skeleton, limits, latency), left)

    search_key, train_key, random_key, budget_key = jax.random.split(jax.random.key(config.seed), 4)
    check_feasible(space, budget, budget_key)
    if config.search == "ilp":
        program_of(space, budget)
    measured = None if config.table is None else load_measured(config, space)
    supernet = make_supernet(skeleton)
    over = spread(config.devices, config.one_shot.batch_size)
    paths_of(config.one_shot.sampling, space, skeleton)  # raises for what cannot be, before anything runs
    with held_run("one_shot", config, ("workdir", "supernet", "data_dir", "devices", "tensorboard", "cache_dir")) as (
        run,
        stop,
    ):
        if told_finished(run):
            return
        if latency is not None:
            save_latency(latency, run.path / "latency.json")
        one_shot_reuse.take(run, config)
        loading = timer()
        found = search(
            run, config, Setting(space, supernet, skeleton, budget_of, measured, over), parts, dataset, search_key, stop
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
        results = train_all(run, config.train, dataset, space, archs, train_key, config.seed, stop, config.devices)
        if not is_first_process():
            return
        apart = ("genotype", "seconds", "points", "measured", "measured_scores")
        results["found"]["selection"] = {k: v for k, v in found.items() if k not in apart}
        pictures = one_shot_pictures.draw_selection(found, budget.limits, run.path / "report")
        timing = {"load": loading, "search": found["seconds"]}
        if latency is not None:
            told = {"device": latency.device, "batch": latency.batch}
            predicted = float(budget.costs(np.asarray(arch)[None])["latency_ms"][0])
            results["found"]["selection"]["latency"] = {**told, "predicted_ms": predicted}
            timing["latency_ms"] = network_milliseconds(arch, space, network_skeleton, latency.batch)
            print(
                f"latency of a batch: {predicted:.3f} ms by the sum, {timing['latency_ms']:.3f} ms measured", flush=True
            )
        timing["total"] = timer()
        finish(run, results, dataset, config.seed, timing, pictures)


class Measured(NamedTuple):
    """Architectures of a table, int32 [P, D], and their values of a metric, float64 [P]."""

    metric: str
    archs: np.ndarray
    values: np.ndarray


class Setting(NamedTuple):
    """What a search is of. skeleton: of the supernet. budget: of the space, or of what is left of it."""

    space: SearchSpace
    supernet: Supernet
    skeleton: Skeleton
    budget: Callable[[SearchSpace], Budget]
    measured: Measured | None
    over: DataParallel


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


def build(
    config: Config, space: SearchSpace, supernet: Supernet, skeleton: Skeleton, steps: int, axis_name: str | None = None
) -> SearchAlgorithm:
    """The algorithm of a config. skeleton: of the supernet. steps: of an epoch. axis_name: see `single_path`."""
    settings = config.one_shot
    rate = schedules.cosine(settings.learning_rate, settings.last_learning_rate, settings.epochs)
    optimiser = schedules.sgd(
        schedules.per_epoch(rate, steps),
        momentum=settings.momentum, weight_decay=settings.weight_decay, clip=settings.clip, nesterov=True,
    )  # fmt: skip
    paths = paths_of(settings.sampling, space, skeleton)
    return single_path(
        supernet, paths, optimiser, space.sample, candidates=config.scoring.evaluations, axis_name=axis_name
    )


def search(
    run: RunFolder, config: Config, setting: Setting, parts: SearchParts, dataset: data.Dataset, key: Key,
    stop: Callable[[], int | None],
) -> dict[str, Any]:  # fmt: skip
    """The search stage: the found genotype and the best of the random ones, what was scored, seconds."""
    stage = run.stage("search")
    if stage.result is not None:
        return dict(stage.result)
    init_key, run_key, select_key, random_key, paths_key = jax.random.split(key, 5)
    params, pruned, pruning, seconds = train(run, config, setting, parts, dataset, init_key, run_key, stop)
    timer = clock()

    def choose(scores: Mapping[str, CachedScore]) -> dict[str, Any]:
        chosen = _selected(
            config, pruned.space, setting.budget(pruned.space), _within(scores[config.scoring.batch_norm], pruned),
            select_key, random_key,
        )  # fmt: skip
        chosen["scored_on"] = f"{len(parts.valid.labels)} validation images"
        if setting.measured is not None:
            metric, archs, values = setting.measured
            of_measured = {policy: score(archs) for policy, score in scores.items()}
            chosen["agreement"] = {policy: agreement(own, values) for policy, own in of_measured.items()}
            chosen["agreement_with"] = f"{config.table}, {metric}, {len(values)} random"
            chosen["measured"] = values.tolist()
            chosen["measured_scores"] = {policy: own.tolist() for policy, own in of_measured.items()}
        return chosen

    result = _scored(config, setting, parts, dataset, params, stage.path, paths_key, stop, choose)
    result["pruning"] = pruning
    result["seconds"] = seconds + timer()
    stage.finish(result)
    return result


def train(
    run: RunFolder, config: Config, setting: Setting, parts: SearchParts, dataset: data.Dataset, init_key: Key,
    run_key: Key, stop: Callable[[], int | None],
) -> tuple[Any, Pruned, list[dict[str, Any]], float]:  # fmt: skip
    """The supernet's parameters, what is left of the space, its sizes from stage to stage, seconds.

    Every stage but the last ends with the loss of the weakest options. The parameters stay those of the whole space: a
    path of what is left finds its own there, with their momentum, and the schedule goes on.
    """
    settings = config.one_shot
    make = data.make_batches(len(parts.train.labels), settings.batch_size, dataset.augmentation)

    def batch(key: Key, step: Array, data: Any) -> dict[str, Batch]:
        return {"train": make(key, step, data)}

    steps = len(parts.train.labels) // settings.batch_size
    stages = config.prune_stages + 1
    ends = [settings.epochs * number // stages for number in range(stages + 1)]
    part_key, weakest_key, reach_key = (jax.random.fold_in(run_key, number) for number in (1, 2, 3))

    def fit(stage: Stage, number: int, supernet: Supernet, pruned: Pruned, state: SinglePathState) -> Outcome:
        (phase,) = build(config, pruned.space, supernet, setting.skeleton, steps, setting.over.axis_name).phases
        return run_loop(
            [Leg(phase.name, make_chunk(setting.over.step(phase.step), batch), steps, settings.batch_size)],
            jax.random.fold_in(part_key, number) if number else run_key,
            state,
            setting.over.place_data(parts.train),
            ends[number + 1] - ends[number],
            stage=stage,
            place=setting.over.place,
            stop=stop,
            log_every=10,
        )

    state = jax.jit(build(config, setting.space, setting.supernet, setting.skeleton, steps).init)(init_key)
    keep = [list(row) for row in everything(setting.space)]
    sizes, seconds = [], 0.0
    for number in range(stages):
        last = number == config.prune_stages
        stage = run.stage("search" if last else f"prune-{number + 1}")
        pruned = prune(setting.space, keep)
        supernet = embedded(setting.supernet, pruned.embed)
        sizes.append(
            {
                "from_epoch": ends[number],
                **size_of(supernet, pruned.space, state.params, jax.random.fold_in(reach_key, number)),
            }
        )
        done = stage.result
        if done is None:
            outcome = fit(stage, number, supernet, pruned, state)
            state, spent = jax.tree.map(local, outcome.state), outcome.seconds
            if not last:
                timer = clock()
                paths_key, own_key = jax.random.split(jax.random.fold_in(weakest_key, number))

                def choose(scores: Mapping[str, CachedScore], pruned: Pruned = pruned, key: Key = own_key) -> Any:
                    left = weakest(
                        _within(scores[config.scoring.batch_norm], pruned),
                        pruned.space,
                        setting.budget(pruned.space),
                        key,
                        config.scoring.evaluations,
                        config.predictor if config.prune_by == "predictor" else None,
                    )
                    return [[int(option) for option in options] for options in left]

                left = _scored(
                    config, setting, parts, dataset, state.params, stage.path, paths_key, stop, choose, alone=True
                )
                keep = [[row[option] for option in options] for row, options in zip(keep, left, strict=True)]
                spent += timer()
                stage.finish({"keep": keep, "seconds": spent})
        else:
            state, keep, spent = load(stage, state, "latest"), done["keep"], done["seconds"]
        seconds += spent
    return state.params, pruned, sizes, seconds


def size_of(supernet: Supernet, space: SearchSpace, params: Any, key: Key) -> dict[str, int]:
    """Architectures of a space, and parameters of its supernet that any of 1,024 random ones reads."""
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


def _within(score: Score, pruned: Pruned) -> Score:
    """A score of the whole space's architectures as one of what is left."""
    embed = jax.jit(jax.vmap(pruned.embed))
    return lambda archs: score(embed(jnp.asarray(archs)))


def _scored(
    config: Config, setting: Setting, parts: SearchParts, dataset: data.Dataset, params: Any, folder: Path, key: Key,
    stop: Callable[[], int | None], choose: Callable[[Mapping[str, CachedScore]], Any], alone: bool = False,
) -> Any:  # fmt: skip
    """What `choose` makes of the scores, policy of batch norm -> score, which keep what they have scored in a folder.

    A killed run goes on from there; a score is of the last parameters, which the run had finished. alone: of the policy
    that selects, else of all where there is a benchmark to be compared with. Architectures are of the whole space.
    """
    scoring, augmentation, apply_path = config.scoring, dataset.augmentation, setting.supernet.apply_path
    size = scoring.batch_size
    policies: dict[str, Callable[[], Any]] = {
        "batch": lambda: None,
        "recalibrated": lambda: recalibrated(apply_path, augmentation, parts.train, scoring.batches, size, config.seed),
        "running": lambda: _shared(config, setting, parts, dataset, params, key),
    }
    devices = jax.local_devices()[: config.devices.count or None]
    names = [scoring.batch_norm] if alone or setting.measured is None else list(policies)

    def score_of(name: str) -> Score:
        score = make_path_score(apply_path, augmentation, size, policies[name](), devices if len(devices) > 1 else None)
        return lambda archs: score(params, archs, parts.valid)

    def with_known(scores: Mapping[str, Score]) -> Any:
        return choose(
            {
                name: CachedScore(score, setting.space.canonical, _known(_kept_in(folder, name)))
                for name, score in scores.items()
            }
        )

    def keep(name: str, archs: np.ndarray, values: np.ndarray) -> None:
        path = _kept_in(folder, name)
        try:
            with path.open("a", encoding="utf-8") as file:
                for entry in zip(archs.tolist(), values.tolist(), strict=True):
                    file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise OSError(f"cannot write {path}: {error.strerror}") from error

    return with_scores({name: score_of(name) for name in names}, with_known, stop, keep)


def _kept_in(folder: Path, name: str) -> Path:
    return folder / f"scores-{name}.jsonl"


def _known(path: Path) -> dict[tuple[int, ...], float]:
    """The scores that a file has, whole lines alone: a kill may have cut the last one, which is removed."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    write_atomic(path, "".join(f"{line}\n" for line in lines))
    try:
        return {tuple(arch): value for arch, value in map(json.loads, lines)}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it to score again") from error


def _shared(
    config: Config, setting: Setting, parts: SearchParts, dataset: data.Dataset, params: Any, key: Key
) -> Callable[[Any, Any], Any]:
    """Running averages over random paths, the same for every architecture."""
    size = config.scoring.batch_size
    paths = jax.jit(jax.vmap(setting.space.sample))(jax.random.split(key, config.comparison.running_paths))
    average = running(setting.supernet.apply_path, dataset.augmentation, parts.train, paths, size, config.seed)(params)
    return lambda params, arch: average


def _selected(
    config: Config, space: SearchSpace, budget: Budget, score: Score, key: Key, random_key: Key
) -> dict[str, Any]:
    """The best within the budget that the search scored, and of as many random ones."""
    scoring = config.scoring
    extra: dict[str, Any] = {}
    if config.search == "ilp":
        own, extra["additivity"] = by_integer_program(score, space, budget, key, scoring.evaluations, config.predictor)
    else:
        sampler = (
            evolution(space, scoring.evaluations, scoring.population)
            if config.search == "evolution"
            else guided(space, budget, config.predictor, scoring.evaluations, scoring.population)
        )
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
            **{name: float(value[row]) if name == "latency_ms" else int(value[row]) for name, value in costs.items()},
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
