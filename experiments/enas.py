"""ENAS, the whole road: a controller over shared weights, then the found network and its baselines trained and tested.

    python -m experiments.enas --space enas_micro                      digits, about 3 minutes on 2 CPU cores
    python -m experiments.enas --space darts                           also nasbench201, enas_macro, chain
    python -m experiments.enas --space nasbench201 --preset small --data-dir DIR      CIFAR-10, cut down for a CPU
    python -m experiments.enas --space enas_micro --preset paper --data-dir DIR       the paper's settings, for a GPU

The paper reports 2.89 % test error on CIFAR-10 for its micro space, with cutout, and 3.87 % for its macro space (Pham
et al. 2018, table 1). Candidates are scored on the whole validation part by the statistics of its batches; the best of
as many random ones, scored alike, is trained beside, but not with several seeds (--seeds 8). The same command on the
same --workdir goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments import enas_pictures, seeds
from experiments.darts import SearchParts
from experiments.evaluation import (
    Training,
    check,
    clock,
    finish,
    held_run,
    load_data,
    metrics,
    random_archs,
    told_finished,
    train_all,
)
from experiments.scoring import Score, with_scores
from jaxnas import command, data
from jaxnas.base import Arch, Array, Batch, Key, SearchAlgorithm, SearchSpace, Skeleton, Supernet
from jaxnas.cache import enable_cache
from jaxnas.catalog import CATALOG
from jaxnas.controllers import adam, lstm_controller, ppo, reinforce
from jaxnas.fit.devices import Devices, join
from jaxnas.parallel import is_first_process
from jaxnas.ranges import SUPERNET, check_ranges
from jaxnas.runfolder import RunFolder
from jaxnas.search import EnasState, enas, path_accuracy
from jaxnas.train import schedules
from jaxnas.train.loop import Leg
from jaxnas.train.loop import run as run_loop
from jaxnas.train.path_score import make_path_score


@dataclasses.dataclass(frozen=True)
class Controller:
    """The controller and how it learns; the defaults are those of the micro search."""

    update: Literal["reinforce", "ppo"] = "reinforce"
    steps: int = 30
    """In every epoch."""
    samples: int = 10
    """Architectures of a step."""
    batch_size: int = 160
    """Validation images of a step."""
    batches: int = 1
    """Into how many parts, normalized apart, they are cut."""
    learning_rate: float = 0.0035
    hidden: int = 64
    depth: int = 1
    temperature: float | None = None
    tanh_constant: float = 1.1
    op_tanh_reduce: float = 2.5
    entropy_weight: float = 1e-4
    ema: float = 0.99
    skip_target: float = 0.4
    skip_weight: float = 0.8
    prior: float = 0.0
    """Added to the scores of separable convolutions."""


@dataclasses.dataclass(frozen=True)
class Search:
    """The settings of the search; the defaults are those of the micro search."""

    epochs: int = 150
    batch_size: int = 160
    channels: int = 20
    cells: int = 8
    learning_rate: float = 0.05
    last_learning_rate: float = 0.0005
    period: int = 10
    """Epochs until the rate starts again, each time twice as many."""
    momentum: float = 0.9
    weight_decay: float = 2e-4
    clip: float | None = None
    valid_part: float = 0.1
    """The part of the training split that the controller learns from."""
    candidates: int = 100
    """Drawn from the policy at the end, and as many at random."""
    limit: int = 0
    """Search on at most this many images of the training split; 0 is all."""


@dataclasses.dataclass(frozen=True)
class Config:
    """The preset and the space set every default that follows."""

    space: Literal["nasbench201", "darts", "enas_micro", "enas_macro", "chain"] = "enas_micro"
    preset: Literal["tiny", "small", "paper"] = "tiny"
    dataset: str = "digits"
    """digits, a TFDS image-classification data set by name (cifar10), or a folder of images per class."""
    data_dir: str | None = None
    """Where TFDS data sets are."""
    size: command.Size = None
    """Images of the data set are resized to this when they are read, which is needed where they differ in size."""
    workdir: str = "runs/enas"
    """The run folder."""
    random_baselines: int = 1
    """How many random architectures are trained beside the found one and the best of the random candidates."""
    seed: int = 0
    seeds: int = 1
    """Searches this many seeds at once, from `seed` on, trains what each found, and keeps the best by validation."""
    search: Search = Search()
    controller: Controller = Controller()
    train: Training = Training(epochs=630, batch_size=144, channels=36, cells=17)
    devices: Devices = Devices()
    tensorboard: bool = False
    """Metrics also go to the run folder's tensorboard/ (needs tensorboardX)."""
    cache_dir: str | None = None
    """Where compiled programs are kept between runs; the user's cache folder by default."""


# The program of NAS-Bench-201 for ENAS (batch norm apart), and its training of a network.
_NASBENCH201 = (
    Search(epochs=250, batch_size=128, channels=16, cells=5, weight_decay=2.5e-4, clip=5.0, valid_part=0.5),
    Controller(
        steps=50, samples=20, batch_size=512, learning_rate=0.001, hidden=32, depth=2, temperature=5.0,
        tanh_constant=2.5, op_tanh_reduce=1.0,
    ),
    Training(
        epochs=200, batch_size=256, channels=16, cells=5, learning_rate=0.1, weight_decay=5e-4, drop_path=0.0,
        cutout=False, hold_out=0.0, share_step=False,
    ),
)  # fmt: skip
# The authors' separable convolutions begin at a bias of 10, which the squashing makes a constant 1.1 / 2.5.
_MICRO = (
    Search(),
    Controller(prior=0.44),
    Training(
        epochs=630, batch_size=144, channels=36, cells=17, learning_rate=0.05, weight_decay=4e-4, drop_path=0.4,
        auxiliary=True, hold_out=0.0, share_step=False,
    ),
)  # fmt: skip
# The paper's final macro network has 24 layers, the found ones twice; here the found network itself is trained.
_MACRO = (
    Search(epochs=310, batch_size=128, channels=36, cells=12, weight_decay=5e-4),
    Controller(steps=50, samples=20, batch_size=128, learning_rate=0.001, tanh_constant=1.5, op_tanh_reduce=1.0),
    Training(
        epochs=310, batch_size=100, channels=96, cells=12, learning_rate=0.05, weight_decay=4e-4, drop_path=0.0,
        hold_out=0.0, share_step=False,
    ),
)  # fmt: skip
# No paper has this space on CIFAR-10: the search of NAS-Bench-201, on a network of about MobileNetV2's width there.
_CHAIN = (
    dataclasses.replace(_NASBENCH201[0], channels=32, cells=12),
    _NASBENCH201[1],
    Training(
        epochs=300, batch_size=128, channels=32, cells=12, learning_rate=0.05, weight_decay=3e-4, drop_path=0.1,
        hold_out=0.0, share_step=False,
    ),
)  # fmt: skip
PAPER = {"darts": _MICRO, "enas_micro": _MICRO, "nasbench201": _NASBENCH201, "enas_macro": _MACRO, "chain": _CHAIN}


def defaults(flag: Callable[[str], str]) -> Config:
    """The defaults of a space and a preset; "tiny" and "small" are cut down for two CPU cores."""
    # What is neither is left to the parser, which says so.
    space = flag("--space") if flag("--space") in PAPER else Config.space
    preset = flag("--preset") or Config.preset
    search, controller, train = PAPER.get(space, _MICRO)
    cells = CATALOG[space].small_cells
    if preset == "paper":
        return Config(space, preset, "cifar10", random_baselines=0, search=search, controller=controller, train=train)  # type: ignore[arg-type]
    controller = dataclasses.replace(controller, steps=4, samples=5, batch_size=120, prior=0.0)
    if preset == "small":
        search = dataclasses.replace(
            search,
            epochs=8,
            batch_size=64,
            channels=8,
            cells=cells,
            clip=1.0,
            valid_part=0.2,
            candidates=50,
            limit=10_000,
        )
        train = dataclasses.replace(
            train, epochs=2, batch_size=96, channels=12, cells=cells, learning_rate=0.05, drop_path=0.0,
            auxiliary=False, hold_out=0.1, share_step=False,
        )  # fmt: skip
        return Config(space, "small", "cifar10", search=search, controller=controller, train=train)  # type: ignore[arg-type]
    search = dataclasses.replace(
        search,
        epochs=60,
        batch_size=60,
        channels=8,
        cells=cells,
        period=60,
        clip=1.0,
        valid_part=0.3,
        candidates=30,
    )
    train = dataclasses.replace(
        train, epochs=30, batch_size=64, channels=12, cells=cells, learning_rate=0.05, drop_path=0.05,
        auxiliary=False, cutout=False, hold_out=0.1, share_step=True,
    )  # fmt: skip
    return Config(space, random_baselines=0, search=search, controller=controller, train=train)  # type: ignore[arg-type]


def main(config: Config) -> None:
    """Runs the whole road, or goes on with it."""
    enable_cache(config.cache_dir)
    join(config.devices)
    timer = clock()
    dataset = load_data(config)
    entry = CATALOG[config.space]
    skeleton = Skeleton(config.search.channels, config.search.cells, dataset.image_shape, dataset.num_classes)
    space = entry.space(skeleton)
    parts = search_parts(dataset, config)
    supernet = entry.supernet(skeleton)
    seeds.check(config, {})
    layout = seeds.layout(
        config, dataset.image_shape, config.search.batch_size, config.controller.batch_size, side_by_side=False
    )
    algorithm = build(config, space, supernet, len(parts.train.labels) // config.search.batch_size, layout.axis_name)
    check(config.train, dataset, space, config.seed, config.random_baselines, config.devices)
    runtime = ("workdir", "dataset", "data_dir", "devices", "tensorboard", "cache_dir", *seeds.runtime(config))
    with held_run("enas", config, runtime, data=data.fingerprint(dataset)) as (run, stop):
        if told_finished(run):
            return
        _, train_key, random_key = jax.random.split(jax.random.key(config.seed), 3)
        loading = timer()
        told, seconds = search(run, config, space, supernet, algorithm, layout, parts, dataset, stop)
        found = {name: space.from_genotype(each["genotype"]) for name, each in told.items()}
        seeds.write_genotypes(run, space, found)
        archs = dict(found)
        if config.seeds == 1:
            archs["best-of-random"] = space.from_genotype(told[seeds.ONE]["random_genotype"])
        archs |= random_archs(space, config.random_baselines, random_key)
        figures = train_all(run, config.train, dataset, space, archs, train_key, config.seed, stop, config.devices)
        if not is_first_process():
            return
        for name, each in told.items():
            figures[name]["candidates"] = {k: v for k, v in each.items() if k not in ("genotype", "seconds")}
        figures, chosen = seeds.choose(run, config, space, found, figures)
        pictures = enas_pictures.draw_controller(
            metrics(run), figures[seeds.ONE]["candidates"], run.path / "report", chosen
        )
        timing = {"load": loading, "search": seconds, "total": timer()}
        finish(run, figures, dataset, config.seed, timing, pictures, seeds.tables(found, figures))


def search_parts(dataset: data.Dataset, config: Config) -> SearchParts:
    """The part that the weights learn from and the part that the controller does, disjoint.

    Raises: ValueError where a batch, the limit or the part does not fit.
    """
    settings = config.search
    if settings.limit < 0:
        raise ValueError(f"search.limit must be 0 for all, or positive, got {settings.limit}")
    check_ranges("", config, seed=("seed",))
    check_ranges("search.", settings, **SUPERNET)
    check_ranges("search.", settings, count=("period", "candidates"))
    check_ranges(
        "controller.",
        config.controller,
        count=("steps", "samples", "batch_size", "batches", "hidden", "depth"),
        positive=("learning_rate",),
        finite=("prior",),
    )
    if not 0 < settings.valid_part < 1:
        raise ValueError(f"search.valid_part must be between 0 and 1, got {settings.valid_part}")
    train, valid = data.split(dataset, config.seed, settings.valid_part)
    if valid is None:
        raise ValueError(f"search.valid_part {settings.valid_part} leaves no image to the controller; choose more")
    if settings.limit:
        kept = round(settings.limit * settings.valid_part)
        valid = data.limited(valid, kept)
        train = data.limited(train, settings.limit - kept)
    sizes = {"search": (settings.batch_size, train), "controller": (config.controller.batch_size, valid)}
    for name, (size, part) in sizes.items():
        if size > len(part.labels):
            raise ValueError(f"{name}.batch_size {size} is larger than its part, which has {len(part.labels)} images")
    if config.controller.batch_size % config.controller.batches:
        raise ValueError(
            f"controller.batch_size {config.controller.batch_size} is no multiple of controller.batches "
            f"{config.controller.batches}"
        )
    return SearchParts(train, valid)


def build(
    config: Config, space: SearchSpace, supernet: Supernet, steps: int, axis_name: str | None = None
) -> SearchAlgorithm:
    """The algorithm of a config. steps: of an epoch. axis_name: where each device runs the step on a part."""
    settings, chosen = config.search, config.controller
    rate = schedules.warm_restarts(settings.learning_rate, settings.last_learning_rate, settings.period)
    optimizer = schedules.sgd(
        schedules.per_epoch(rate, steps),
        momentum=settings.momentum, weight_decay=settings.weight_decay, clip=settings.clip, nesterov=True,
    )  # fmt: skip
    options = {name for choice in space.choices for name in choice.options}
    controller = lstm_controller(
        space.choices,
        hidden=chosen.hidden,
        depth=chosen.depth,
        temperature=chosen.temperature,
        tanh_constant=chosen.tanh_constant,
        op_tanh_reduce=chosen.op_tanh_reduce,
        skip_target=chosen.skip_target,
        prior={name: chosen.prior for name in options if name.startswith("sep_conv")} if chosen.prior else None,
    )
    update = {"reinforce": reinforce, "ppo": ppo}[chosen.update]
    policy = update(
        controller,
        adam(chosen.learning_rate),
        ema=chosen.ema,
        entropy_weight=chosen.entropy_weight,
        skip_weight=chosen.skip_weight,
    )
    return enas(
        supernet,
        policy,
        optimizer,
        path_accuracy(supernet, chosen.batches, axis_name),
        samples=chosen.samples,
        candidates=settings.candidates,
        axis_name=axis_name,
    )


def search(
    run: RunFolder, config: Config, space: SearchSpace, supernet: Supernet, algorithm: SearchAlgorithm,
    layout: seeds.Layout, parts: SearchParts, dataset: data.Dataset, stop: Callable[[], int | None],
) -> tuple[dict[str, dict[str, Any]], float]:  # fmt: skip
    """The search stage: (for each seed the found genotype, the best of the random ones and their scores, seconds)."""
    stage, names = run.stage("search"), seeds.names(config)
    if stage.result is not None:
        done = dict(stage.result)
        return done.get("seeds", {seeds.ONE: done}), done["seconds"]
    settings, chosen = config.search, config.controller
    sizes = {"train": settings.batch_size, "valid": chosen.batch_size}
    splits = {"train": parts.train, "valid": parts.valid}
    legs = []
    for phase, steps in zip(
        algorithm.phases, (len(parts.train.labels) // settings.batch_size, chosen.steps), strict=True
    ):
        (name,) = phase.reads
        # Rewards are of images as they are.
        make = data.make_batches(len(splits[name].labels), sizes[name], dataset.augmentation, train=name == "train")

        def batch(
            key: Key, step: Array, splits: dict[str, Any], name: str = name, make: Any = make
        ) -> dict[str, Batch]:
            return {name: make(key, step, splits[name])}

        legs.append(Leg(phase.name, layout.chunk(phase.step, batch), steps, sizes[name] * config.seeds))
    init_keys, run_keys, derive_keys, random_keys = seeds.search_keys(config, 3, 4)
    outcome = run_loop(
        legs,
        layout.keys(run_keys),
        layout.start(algorithm.init, init_keys),
        layout.place_data(splits),
        settings.epochs,
        stage=stage,
        place=layout.place,
        stop=stop,
        log_every=10,
    )
    timer = clock()
    score_paths = make_path_score(supernet.apply_path, dataset.augmentation, chosen.batch_size)

    def best_of(state: EnasState, derive_key: Key, random_key: Key) -> dict[str, Any]:
        def select(by: Mapping[str, Score]) -> dict[str, Any]:
            scores: list[np.ndarray] = []

            def score(archs: Array) -> Array:
                scores.append(by["accuracy"](archs))
                return jnp.asarray(scores[-1])

            arch = algorithm.derive(derive_key, state, score)
            drawn = jax.vmap(space.sample)(jax.random.split(random_key, settings.candidates))
            best: Arch = drawn[int(np.argmax(score(drawn)))]
            return {
                "genotype": space.to_genotype(arch),
                "random_genotype": space.to_genotype(best),
                "count": settings.candidates,
                "scored_on": f"{len(parts.valid.labels)} validation images",
                "batch_norm": f"statistics of each batch of {chosen.batch_size}",
                "best_score": float(scores[0].max()),
                "mean_score": float(scores[0].mean()),
                "best_random_score": float(scores[1].max()),
                "mean_random_score": float(scores[1].mean()),
                "scores": scores[0].tolist(),
                "random_scores": scores[1].tolist(),
            }

        return with_scores({"accuracy": lambda archs: score_paths(state.params, archs, parts.valid)}, select, stop)

    each = map(best_of, seeds.states(config, outcome.state), derive_keys, random_keys)
    found = dict(zip(names, each, strict=True))
    seconds = outcome.seconds + timer()
    stage.finish({**(found[seeds.ONE] if config.seeds == 1 else {"seeds": found}), "seconds": seconds})
    return found, seconds


if __name__ == "__main__":
    command.main(main, Config, presets=defaults)
