"""DARTS, the whole road: search a cell, train the found network and its baselines, test, draw, report.

    python -m experiments.darts                                        digits, about 3 minutes on 2 CPU cores
    python -m experiments.darts --search.prune 5 3                     edges lose their weakest operations on the way
    python -m experiments.darts --preset small --data-dir DIR          CIFAR-10, about an hour on 2 cores
    python -m experiments.darts --preset paper --order second --data-dir DIR      the paper's settings, for a GPU

The paper reports 3.00 ± 0.14 % test error on CIFAR-10 by first and 2.76 ± 0.09 % by second order (Liu et al. 2019,
table 1). The same command on the same --workdir goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from experiments import darts_seeds, darts_watch, seeds
from experiments.evaluation import (
    Training,
    check,
    check_parts,
    clock,
    finish,
    held_run,
    load_data,
    metrics,
    random_archs,
    told_finished,
    train_all,
)
from jaxnas import command, data, draw
from jaxnas.base import Arch, Array, Batch, Key, SearchAlgorithm, SearchSpace, Skeleton, Supernet
from jaxnas.cache import enable_cache
from jaxnas.fit.devices import Devices, join
from jaxnas.networks import in_parts
from jaxnas.parallel import is_first_process
from jaxnas.ranges import SUPERNET, check_ranges
from jaxnas.runfolder import RunFolder, Stage
from jaxnas.search import (
    WatchedState,
    adam_l2,
    carried,
    darts,
    exact,
    finite_difference,
    first_order,
    softmax_mixture,
    watched,
    weakest_by_alpha,
)
from jaxnas.spaces import CELL_KINDS, DARTS_OPERATIONS, darts_space, discretize_argmax
from jaxnas.supernets import darts_narrowing, darts_supernet
from jaxnas.train import schedules
from jaxnas.train.loop import Leg, Outcome, load
from jaxnas.train.loop import run as run_loop


@dataclasses.dataclass(frozen=True)
class Search:
    """The settings of the search; the defaults are the paper's."""

    epochs: int = 50
    batch_size: int = 64
    channels: int = 16
    cells: int = 8
    learning_rate: float = 0.025
    last_learning_rate: float = 0.001
    momentum: float = 0.9
    weight_decay: float = 3e-4
    clip: float = 5.0
    alpha_learning_rate: float = 3e-4
    alpha_weight_decay: float = 1e-3
    parts: int = 1
    """Into how many parts, one after another, a batch that does not fit is cut (gradient accumulation)."""
    warmup_epochs: int = 0
    """Epochs in which only the weights move."""
    limit: int = 0
    """Search on at most this many images of the training split; 0 is all."""
    early_stop: bool = False
    """End before a collapse, as watch.window and the others say (DARTS-ES)."""
    prune: tuple[int, ...] = ()
    """How many operations every edge still has after each of the equal parts of the epochs, "none" counted: 5 3 is
    P-DARTS's 8, 5, then 3. Parameters go on; by default nothing is lost."""


@dataclasses.dataclass(frozen=True)
class Config:
    """The preset sets every default that follows."""

    preset: Literal["tiny", "small", "paper"] = "tiny"
    dataset: str = "digits"
    """digits, a TFDS image-classification data set by name (cifar10), or a folder of images per class."""
    data_dir: str | None = None
    """Where TFDS data sets are."""
    size: command.Size = None
    """Images of the data set are resized to this when they are read, which is needed where they differ in size."""
    workdir: str = "runs/darts"
    """The run folder."""
    order: Literal["first", "second", "second-fd"] = "first"
    """Hypergradient: first order, exact second order, or second order by the paper's finite difference."""
    derive: Literal["paper", "argmax"] = "paper"
    """How the cell is read off the mixture: the paper's rule, or plain argmax."""
    random_baselines: int = 2
    """How many random architectures are trained beside the found one."""
    seed: int = 0
    seeds: int = 1
    """Searches this many seeds at once, from `seed` on, trains what each found, and keeps the best by validation."""
    search: Search = Search()
    watch: darts_watch.Watch = darts_watch.Watch()
    train: Training = Training(epochs=600, batch_size=96, channels=36, cells=20)
    devices: Devices = Devices()
    tensorboard: bool = False
    """Metrics also go to the run folder's tensorboard/ (needs tensorboardX)."""
    cache_dir: str | None = None
    """Where compiled programs are kept between runs; the user's cache folder by default."""


PRESETS = {
    "tiny": Config(
        search=Search(epochs=12, batch_size=60, channels=8, cells=3, learning_rate=0.05, alpha_learning_rate=3e-3),
        # Compiling the Hessian's products alone would take a good part of this run's time.
        watch=darts_watch.Watch(batches=3, eigenvalue_every=0),
        train=Training(
            epochs=30, batch_size=64, channels=12, cells=3, learning_rate=0.05, drop_path=0.05, cutout=False
        ),
    ),
    "small": Config(
        preset="small",
        dataset="cifar10",
        random_baselines=3,
        search=Search(
            epochs=4, batch_size=64, channels=8, cells=5, alpha_learning_rate=3e-3, warmup_epochs=1, limit=10_000
        ),
        train=Training(
            epochs=2, batch_size=96, channels=12, cells=5, learning_rate=0.05, drop_path=0.0, share_step=False
        ),
    ),
    "paper": Config(
        preset="paper",
        dataset="cifar10",
        random_baselines=0,
        search=Search(),
        train=Training(
            epochs=600, batch_size=96, channels=36, cells=20, auxiliary=True, hold_out=0.0, share_step=False
        ),
    ),
}
"""The preset "paper" is the paper's; the others are cut down for two CPU cores."""


def main(config: Config) -> None:
    """Runs the whole road, or goes on with it."""
    enable_cache(config.cache_dir)
    join(config.devices)
    timer = clock()
    dataset = load_data(config)
    space = darts_space()
    if config.derive == "argmax":
        space = space._replace(discretize=discretize_argmax)
    parts = search_parts(dataset, config)
    supernet_skeleton = Skeleton(config.search.channels, config.search.cells, dataset.image_shape, dataset.num_classes)
    seeds.check(config, {"search.early_stop": config.search.early_stop, "search.prune": bool(config.search.prune)})
    layout = seeds.layout(config, dataset.image_shape, config.search.batch_size, side_by_side=True)
    check(config.train, dataset, space, config.seed, config.random_baselines, config.devices)
    runtime = ("workdir", "dataset", "data_dir", "devices", "tensorboard", "cache_dir")
    with held_run("darts", config, runtime, data=data.fingerprint(dataset)) as (run, stop):
        if told_finished(run):
            return
        search_key, train_key, random_key = jax.random.split(jax.random.key(config.seed), 3)
        loading = timer()
        if config.seeds > 1:
            steps = len(parts.train.labels) // config.search.batch_size
            algorithm = build(config, space, darts_supernet(supernet_skeleton), steps)
            batch = paired_batches(parts, config.search.batch_size, dataset)
            found, seconds = darts_seeds.search(run, config, space, algorithm, layout, batch, parts, stop)
        else:
            arch, health, sizes, seconds = search(
                run, config, space, supernet_skeleton, parts, dataset, search_key, stop, layout
            )
            found = {"found": arch}
        seeds.write_genotypes(run, space, found)
        archs = {**found, **random_archs(space, config.random_baselines, random_key)}
        figures = train_all(run, config.train, dataset, space, archs, train_key, config.seed, stop, config.devices)
        if not is_first_process():
            return
        figures, chosen = seeds.choose(run, config, space, found, figures)
        if chosen is not None:
            pictures = draw_weights(run, chosen)
        else:
            figures["found"]["health"] = health
            if config.search.prune:
                figures["found"]["shrinking"] = sizes
            pictures = [*draw_weights(run), *darts_watch.draw_health(search_rounds(run), health, run.path / "report")]
        timing = {"load": loading, "search": seconds, "total": timer()}
        finish(run, figures, dataset, config.seed, timing, pictures, seeds.tables(found, figures))


class SearchParts(NamedTuple):
    """The part that the weights learn from and the part that the architecture does."""

    train: data.Examples
    valid: data.Examples


def search_parts(dataset: data.Dataset, config: Config) -> SearchParts:
    """The two disjoint parts of the search, halves where the data set has no validation split.

    Raises ValueError where a batch or the limit does not fit.
    """
    settings = config.search
    if settings.limit < 0 or settings.limit == 1:
        raise ValueError(f"search.limit must be 0 for all, or at least 2, got {settings.limit}")
    check_ranges("", config, seed=("seed",))
    check_ranges("search.", settings, **SUPERNET)
    check_ranges(
        "search.",
        settings,
        positive=("alpha_learning_rate",),
        not_negative=("alpha_weight_decay", "warmup_epochs"),
    )
    if settings.warmup_epochs >= settings.epochs:
        raise ValueError(
            f"search.warmup_epochs {settings.warmup_epochs} leaves the architecture none of the {settings.epochs} "
            "search.epochs to move in; choose fewer"
        )
    check_parts("search", settings.parts, settings.batch_size)
    darts_watch.rule_of(config.watch, settings.early_stop, settings.epochs)
    most = (len(DARTS_OPERATIONS), *settings.prune)
    if any(not 2 <= left < before for before, left in itertools.pairwise(most)):
        raise ValueError(f"search.prune must fall from under {most[0]} to 2 at least, got {list(settings.prune)}")
    if settings.prune and settings.early_stop:
        raise ValueError("search.early_stop compares eigenvalues of one mixture: leave it out, or search.prune")
    if len(settings.prune) >= settings.epochs:
        raise ValueError(f"search.epochs must be more than the {len(settings.prune)} of search.prune")
    parts = data.split(dataset, config.seed, 0.5)
    train, valid = (part for part in parts if part is not None)
    if settings.limit:
        train, valid = (data.limited(part, settings.limit // 2) for part in (train, valid))
    for name, part in (("weights learn", train), ("architecture learns", valid)):
        if settings.batch_size > len(part.labels):
            raise ValueError(
                f"search.batch_size {settings.batch_size} is larger than the part that the {name} from, which has "
                f"{len(part.labels)} images; choose a smaller one"
            )
    return SearchParts(train, valid)


def search(
    run: RunFolder, config: Config, space: SearchSpace, skeleton: Skeleton, parts: SearchParts, dataset: data.Dataset,
    key: Key, stop: Callable[[], int | None], layout: seeds.Layout,
) -> tuple[Arch, dict[str, Any], list[dict[str, int]], float]:  # fmt: skip
    """The search stage: (architecture, what the watch for a collapse saw, sizes of the supernet, seconds).

    Where edges lose operations, every part of the epochs but the last is a stage of its own before.
    """
    stage = run.stage("search")
    if stage.result is not None:
        arch = space.from_genotype(stage.result["genotype"])
        return arch, stage.result["health"], stage.result["sizes"], stage.result["seconds"]
    settings = config.search
    train, valid = parts.train, parts.valid
    steps = len(train.labels) // settings.batch_size
    rule = darts_watch.rule_of(config.watch, settings.early_stop, settings.epochs)
    batch = paired_batches(parts, settings.batch_size, dataset)
    weights = jax.jit(softmax_mixture)

    init_key, run_key, derive_key, watch_key = jax.random.split(key, 4)

    def watched_darts(supernet: Supernet) -> SearchAlgorithm:
        algorithm = build(config, space, supernet, steps, layout.axis_name)
        return watched(algorithm, darts_watch.measurements(config.watch, settings.epochs), rule)

    def fit(stage: Stage, number: int, supernet: Supernet, state: WatchedState, epochs: int) -> Outcome:
        measure = darts_watch.make_measure(
            config.watch, space, supernet, valid, dataset.augmentation, settings.batch_size, watch_key
        )

        def after_round(epoch: int, state: WatchedState) -> tuple[WatchedState, dict[str, Any]]:
            state, measured = measure(epoch, state)
            return state, {**measured, **{f"weights_{kind}": w for kind, w in weights(state.search.alpha).items()}}

        (phase,) = watched_darts(supernet).phases
        return run_loop(
            [Leg("search", layout.chunk(phase.step, batch), steps, 2 * settings.batch_size)],
            jax.random.fold_in(run_key, number) if number else run_key,
            state,
            layout.place_data(parts),
            epochs,
            stage=stage,
            place=layout.place,
            after_round=after_round,
            stop=stop,
            ended=lambda state: darts_watch.stopped(state, rule, config.watch) is not None,
        )

    supernet = darts_supernet(skeleton)
    state = jax.jit(watched_darts(supernet).init)(init_key)
    keep = {kind: np.ones(value.shape, bool) for kind, value in space.template().items()}
    sizes, seconds = [_size(0, keep, state)], 0.0
    ends = [settings.epochs * number // (len(settings.prune) + 1) for number in range(len(settings.prune) + 2)]
    for number, left in enumerate(settings.prune):
        part = run.stage(f"search-{number + 1}")
        done = part.result
        if done is None:
            done = {"seconds": fit(part, number, supernet, state, ends[number + 1] - ends[number]).seconds}
            part.finish(done)
        state = load(part, state, "latest")
        seconds += done["seconds"]
        before, keep = keep, weakest_by_alpha(state.search.alpha, keep, left)
        state = state._replace(search=carried(state.search, darts_narrowing(skeleton, keep, before), keep))
        supernet = darts_supernet(skeleton, keep=keep)
        sizes.append(_size(ends[number + 1], keep, state))
    outcome = fit(stage, len(settings.prune), supernet, state, ends[-1] - ends[-2])
    seconds += outcome.seconds
    arch = jax.jit(watched_darts(supernet).derive, static_argnums=2)(derive_key, outcome.state, None)
    # A process that took the search up where it had ended has no metrics of it: the first one has.
    rounds = search_rounds(run)
    health = darts_watch.told(rounds, darts_watch.stopped(outcome.state, rule, config.watch)) if rounds else {}
    stage.finish({"genotype": space.to_genotype(arch), "health": health, "sizes": sizes, "seconds": seconds})
    return arch, health, sizes, seconds


def build(
    config: Config, space: SearchSpace, supernet: Supernet, steps: int, axis_name: str | None = None
) -> SearchAlgorithm:
    """The algorithm of a config. steps: of an epoch. axis_name: where each device runs the step on a part."""
    settings = config.search
    supernet = supernet._replace(apply=in_parts(supernet.apply, settings.parts))
    rate = schedules.cosine(settings.learning_rate, settings.last_learning_rate, settings.epochs)
    optimizer = schedules.sgd(
        schedules.per_epoch(rate, steps),
        momentum=settings.momentum, weight_decay=settings.weight_decay, clip=settings.clip,
    )  # fmt: skip
    bilevel = {
        "first": lambda: first_order(axis_name),
        "second": lambda: exact(optimizer, axis_name),
        "second-fd": lambda: finite_difference(optimizer, axis_name=axis_name),
    }[config.order]()
    return darts(
        supernet,
        optimizer,
        adam_l2(settings.alpha_learning_rate, settings.alpha_weight_decay),
        bilevel,
        warmup_steps=settings.warmup_epochs * steps,
        axis_name=axis_name,
    )


def paired_batches(
    parts: SearchParts, batch_size: int, dataset: data.Dataset
) -> Callable[[Key, Array, SearchParts], dict[str, Batch]]:
    """(key, step, parts) -> a batch of each half."""
    batches = {
        name: data.make_batches(len(getattr(parts, name).labels), batch_size, dataset.augmentation)
        for name in ("train", "valid")
    }

    def batch(key: Key, step: Array, parts: SearchParts) -> dict[str, Batch]:
        keys = dict(zip(batches, jax.random.split(key), strict=True))
        return {name: make(keys[name], step, getattr(parts, name)) for name, make in batches.items()}

    return batch


def _size(epoch: int, keep: Mapping[str, np.ndarray], state: WatchedState) -> dict[str, int]:
    """What the supernet has from an epoch on."""
    return {
        "from_epoch": epoch,
        "operations": int(sum(there.sum() for there in keep.values())),
        "supernet_params": sum(leaf.size for leaf in jax.tree.leaves(state.search.params)),
    }


def search_rounds(run: RunFolder) -> list[dict[str, Any]]:
    """The lines of the metrics that the epochs of the search gave, numbered over all its stages."""
    lines: list[dict[str, Any]] = []
    epoch = step = 0
    for line in metrics(run):
        if line["stage"].split("-")[0] == "search" and line["phase"] == "round":
            if lines and line["stage"] != lines[-1]["stage"]:
                epoch, step = lines[-1]["epoch"], lines[-1]["step"]
            lines.append({**line, "epoch": epoch + line["epoch"], "step": step + line["step"]})
    return lines


def draw_weights(run: RunFolder, seed: int | None = None) -> list[tuple[str, str, str]]:
    """Pictures of the mixture's weights over the epochs, from the metrics. seed: which of several, from 0."""
    rounds = search_rounds(run)
    history = {kind: np.array([line[f"weights_{kind}"] for line in rounds]) for kind in CELL_KINDS}
    if seed is not None:
        history = {kind: weights[:, seed] for kind, weights in history.items()}
    path = run.path / "report" / "weights.png"
    draw.draw_alpha(history, DARTS_OPERATIONS, [line["step"] for line in rounds], path)
    return [("Architecture weights", "weights.png", "The mixture on every edge over the steps of the search.")]


if __name__ == "__main__":
    command.main(main, Config, presets=PRESETS)
