"""What searches share once an architecture is found: train it and its baselines, test, keep the network, report."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import jax

from jaxnas import data, draw, report
from jaxnas.base import Arch, Array, Context, Key, Network, SearchSpace, Skeleton, Supernet
from jaxnas.catalog import CATALOG
from jaxnas.data import Augmentation, Dataset
from jaxnas.fit.devices import Devices, spread
from jaxnas.networks import (
    in_parts,
    tutorial_cnn,
)
from jaxnas.parallel import from_first, is_first_process, local
from jaxnas.ranges import check_ranges
from jaxnas.runfolder import RunFolder, check_folder, open_run, versions
from jaxnas.saved import form_of, save_network
from jaxnas.train import schedules
from jaxnas.train.chunk import make_chunk
from jaxnas.train.classifier import classifier, confidence_interval, make_evaluate
from jaxnas.train.loop import Leg, load
from jaxnas.train.loop import run as run_loop
from jaxnas.train.stop import stop_on_signal

Stop = Callable[[], int | None]
Made = TypeVar("Made")

_LARGEST_SIDE = 256
"""Of the images that are proposed where those of a data set are too small."""


@dataclasses.dataclass(frozen=True)
class Training:
    """How a network is trained from scratch; the values of the presets are in `experiments.darts`."""

    epochs: int
    batch_size: int
    channels: int
    cells: int
    learning_rate: float = 0.025
    schedule: Literal["cosine", "step", "plateau"] = "cosine"
    momentum: float = 0.9
    weight_decay: float = 3e-4
    clip: float = 5.0
    label_smoothing: float = 0.0
    drop_path: float = 0.2
    auxiliary: bool = False
    auxiliary_weight: float = 0.4
    parts: int = 1
    """Into how many parts, one after another, a batch that does not fit is cut (gradient accumulation)."""
    cutout: bool = True
    hold_out: float = 0.1
    """The part of the training split kept back to choose the best epoch; 0 trains on all of it and takes the last."""
    share_step: bool = True
    """Found and random networks share one compiled step, the architecture being data, where the space has such."""


class Source(Protocol):
    """Of a config, where its data and its run are."""

    @property
    def dataset(self) -> str: ...
    @property
    def data_dir(self) -> str | None: ...
    @property
    def size(self) -> tuple[int, int] | None: ...
    @property
    def workdir(self) -> str: ...


def load_data(config: Source) -> Dataset:
    """The data set of a config, which is told in one line.

    Raises: OSError or ValueError where it cannot be read, its images are too small for the baseline, or the run folder
    cannot be one.
    """
    if is_first_process():
        check_folder(config.workdir)
    dataset = data.load(config.dataset, config.data_dir, size=config.size)
    if is_first_process():
        print(dataset.told(), flush=True)
    _fitting(lambda image_shape: tutorial_cnn(image_shape, dataset.num_classes), dataset)
    return dataset


def _fitting(build: Callable[[tuple[int, int, int]], Made], dataset: Dataset) -> Made:
    """What is built for the images of a data set. Raises ValueError where they are too small, with what would do."""
    height, width, channels = dataset.image_shape
    try:
        return build((height, width, channels))
    except ValueError as error:
        for side in range(min(height, width) + 1, _LARGEST_SIDE + 1):
            with contextlib.suppress(ValueError):
                build((side, side, channels))
                break
        else:  # something else than the size is wrong
            raise
        hint = f"the smallest images that go are {side}×{side}: --size {side} makes them so"
        raise ValueError(f"{error}; {hint}") from None


def check(
    training: Training, dataset: Dataset, space: SearchSpace, seed: int, random_baselines: int, devices: Devices
) -> None:
    """Raises ValueError for settings that cannot work with the data or devices, before anything is compiled."""
    if random_baselines < 0:
        raise ValueError(f"random_baselines must not be negative, got {random_baselines}")
    check_ranges(
        "train.",
        training,
        count=("epochs", "batch_size", "channels", "cells"),
        positive=("learning_rate", "clip"),
        not_negative=("weight_decay", "auxiliary_weight"),
        share=("momentum", "label_smoothing", "drop_path", "hold_out"),
    )
    parts = data.split(dataset, seed, training.hold_out)
    if training.batch_size > len(parts.train.labels):
        raise ValueError(
            f"train.batch_size {training.batch_size} is larger than the training part, which has "
            f"{len(parts.train.labels)} images; choose a smaller one"
        )
    check_parts("train", training.parts, training.batch_size)
    spread(devices, dataset.image_shape, training.batch_size)
    _try_networks(training, dataset, space)


def _try_networks(training: Training, dataset: Dataset, space: SearchSpace) -> None:
    """Builds all networks that may be trained and runs each on a batch of shapes alone.

    Raises: ValueError where one does not go with the images, with the smallest that would do.
    """
    arch_key, key = jax.random.split(jax.random.key(0))
    arch = space.sample(arch_key)

    def build(image_shape: tuple[int, int, int]) -> list[Network | Supernet]:
        skeleton = dataclasses.replace(skeleton_of(training, dataset), image_shape=image_shape)
        entry = CATALOG[space.name]
        return [
            entry.network(arch, skeleton, space),
            *([entry.together(skeleton, space)] if training.share_step and entry.together else []),
            tutorial_cnn(image_shape, dataset.num_classes),
        ]

    networks = _fitting(build, dataset)

    def example(part: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((training.batch_size, *part.shape[1:]), part.dtype)

    batches = data.make_batches(training.batch_size, training.batch_size, dataset.augmentation, cutout=training.cutout)
    examples = data.Examples(example(dataset.train_images), example(dataset.train_labels))  # type: ignore[arg-type]

    def forward(key: Key, examples: Any, network: Network | Supernet) -> Array:
        init_key, batch_key, context = *jax.random.split(key), Context("batch")
        images = batches(batch_key, 0, examples).image
        if isinstance(network, Supernet):
            return network.apply_path(network.init(init_key), arch, images, context)[0]
        return network.apply(network.init(init_key)[0], images, context)[0]

    for network in networks:
        jax.eval_shape(functools.partial(forward, network=network), key, examples)


def check_parts(name: str, parts: int, batch_size: int) -> None:
    """Raises ValueError where a batch cannot be cut into so many parts."""
    if parts < 1 or batch_size % parts:
        raise ValueError(f"{name}.parts must be a divisor of the batch size {batch_size}, got {parts}")


def skeleton_of(training: Training, dataset: Dataset) -> Skeleton:
    """The network around the cells."""
    return Skeleton(
        training.channels, training.cells, dataset.image_shape, dataset.num_classes, auxiliary=training.auxiliary
    )


def train_all(
    run: RunFolder,
    training: Training,
    dataset: Dataset,
    space: SearchSpace,
    archs: Mapping[str, Arch],
    key: Key,
    seed: int,
    stop: Stop,
    devices: Devices,
    hand_designed: bool = True,
) -> dict[str, dict[str, Any]]:
    """Trains the named architectures and the hand-designed network under the same budget; name -> figures.

    The test split is read once for each network, after its training. The network named "found" is kept in the folder.
    """
    skeleton = skeleton_of(training, dataset)
    entry, shared = CATALOG[space.name], None
    if entry.together is not None and training.share_step and len(archs) > 1:
        shared = _Trainer(entry.together(skeleton, space), training, dataset, seed, devices)
    figures = {}
    for number, (name, arch) in enumerate(archs.items()):
        network = entry.network(arch, skeleton, space)
        trainer = shared or _Trainer(network, training, dataset, seed, devices)
        figures[name] = trainer.train(run, name, network, arch, jax.random.fold_in(key, number), stop, space)
    if hand_designed:
        network = tutorial_cnn(dataset.image_shape, dataset.num_classes)
        plain = dataclasses.replace(training, auxiliary=False, drop_path=0.0)
        trainer = _Trainer(network, plain, dataset, seed, devices)
        figures["hand-designed"] = trainer.train(
            run, "hand-designed", network, None, jax.random.fold_in(key, len(archs)), stop, None
        )
    return figures


class _Trainer:
    """One compiled step, evaluation and data, for one network or for all of a space."""

    def __init__(
        self, network: Network | Supernet, training: Training, dataset: Dataset, seed: int, devices: Devices
    ) -> None:
        self.network = network
        self.training = training
        self.dataset = dataset
        self.parts = data.split(dataset, seed, training.hold_out)
        self.steps = len(self.parts.train.labels) // training.batch_size
        schedule, then = _schedule(training, self.steps)
        optimizer = schedules.sgd(
            schedule, momentum=training.momentum, weight_decay=training.weight_decay, clip=training.clip, then=then
        )
        self.spread = spread(devices, dataset.image_shape, training.batch_size)
        self.classifier = classifier(
            _in_parts(network, training.parts),
            optimizer,
            total_steps=training.epochs * self.steps,
            auxiliary_weight=training.auxiliary_weight,
            label_smoothing=training.label_smoothing,
            drop_path=training.drop_path,
            axis_name=self.spread.axis_name,
        )
        self.init = jax.jit(self.classifier.init)
        augmentation: Augmentation = dataset.augmentation
        batches = data.make_batches(
            len(self.parts.train.labels), training.batch_size, augmentation, cutout=training.cutout
        )
        self.chunk = make_chunk(self.spread.step(self.classifier.step), batches)
        self.evaluate = make_evaluate(self.classifier.predict, augmentation, 256)

    def train(
        self, run: RunFolder, name: str, network: Network, arch: Arch | None, key: Key, stop: Stop,
        space: SearchSpace | None,
    ) -> dict[str, Any]:  # fmt: skip
        stage = run.stage(f"train-{name}")
        if stage.result is not None:
            return dict(stage.result)
        init_key, run_key = jax.random.split(key)
        takes_arch = isinstance(self.network, Supernet)
        state = self.init(init_key, arch if takes_arch else None)
        valid = self.parts.valid

        def after_round(epoch: int, state: Any) -> tuple[Any, dict[str, float]]:
            del epoch
            if valid is None:
                return state, {}
            result = self.evaluate(state, valid)
            return state, {"valid_accuracy": result.accuracy, "valid_loss": result.loss}

        outcome = run_loop(
            [Leg("train", self.chunk, self.steps, self.training.batch_size)],
            run_key,
            state,
            self.spread.place_data(self.parts.train),
            self.training.epochs,
            stage=stage,
            place=self.spread.place,
            after_round=after_round,
            best=None if valid is None else "valid_accuracy",
            stop=stop,
        )
        state = jax.tree.map(local, outcome.state) if valid is None else load(stage, outcome.state, "best")
        tested = self.evaluate(state, self.dataset.test)
        low, high = confidence_interval(tested.correct, tested.total)
        result: dict[str, Any] = {
            "test_accuracy": tested.accuracy,
            "test_interval": [low, high],
            "test_loss": tested.loss,
            "valid_accuracy": None if outcome.best is None else outcome.best.value,
            "selected_epoch": self.training.epochs if outcome.best is None else outcome.best.step // self.steps,
            **network.costs,
        }
        if space is not None and arch is not None:
            result["genotype"] = space.to_genotype(arch)
            result["notation"] = space.notation(arch)
        if (name == "found" or name.startswith("seed-")) and arch is not None and is_first_process():
            kept = run.path if name == "found" else stage.path  # of several seeds one is chosen later
            params, stats = state.params, state.stats
            if isinstance(self.network, Supernet):
                params, stats = self.network.extract(params, arch), self.network.extract_stats(stats, arch)
            save_network(
                kept, params, stats, result["genotype"], skeleton_of(self.training, self.dataset), self.dataset
            )
        result["seconds"] = outcome.seconds
        stage.finish(result)
        return result


def _in_parts(network: Network | Supernet, parts: int) -> Network | Supernet:
    if isinstance(network, Supernet):
        return network._replace(apply_path=in_parts(network.apply_path, parts))
    return network._replace(apply=in_parts(network.apply, parts))


def _schedule(training: Training, steps: int) -> tuple[Any, Any]:
    if training.schedule == "cosine":
        return schedules.per_epoch(schedules.cosine(training.learning_rate, 0.0, training.epochs), steps), None
    if training.schedule == "step":
        every = max(1, training.epochs // 3)
        return schedules.per_epoch(schedules.step_decay(training.learning_rate, 0.1, every), steps), None
    return training.learning_rate, schedules.plateau(steps, patience=max(1, training.epochs // 10))


def finish(
    run: RunFolder, figures: dict[str, dict[str, Any]], dataset: Dataset, seed: int, timing: dict[str, float],
    pictures: list[tuple[str, str, str]], tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = (),
) -> dict[str, Any]:  # fmt: skip
    """Writes result.json and the report, and prints the outcome; of several processes the first one does."""
    seconds = {f"train-{name}": entry["seconds"] for name, entry in figures.items()}
    rows = {name: {k: v for k, v in entry.items() if k != "seconds"} for name, entry in figures.items()}
    result = {
        **rows["found"],
        "dataset": dataset.name,
        "data": {**dataset.summary(), "read_as": dataclasses.asdict(form_of(dataset))},
        "seed": seed,
        "baselines": {name: row for name, row in rows.items() if name != "found"},
        "versions": versions(),
        "command": shlex.join(["python", "-m", *_command()]),
        "timing": {**timing, **seconds},
    }
    folder = run.path / "report"
    draw.draw_genotype(result["genotype"], folder / "cells.png", {k: result[k] for k in ("params", "macs")})
    draw.draw_comparison({"found": rows["found"], **result["baselines"]}, folder / "comparison.png")
    draw.draw_curves(metrics(run), folder / "curves.png")
    report.write(
        run.path,
        result,
        [
            ("The found architecture", "cells.png", "What was found, operations on the edges."),
            ("Found and baselines", "comparison.png", "Test accuracy with its 95 % interval, same training for all."),
            *pictures,
            ("Curves", "curves.png", "Losses and accuracies of every stage."),
        ],
        tables,
    )
    run.finish(result)
    tell(run.path, result)
    return result


def metrics(run: RunFolder) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in run.metrics_path.read_text(encoding="utf-8").splitlines()]


@contextlib.contextmanager
def held_run(experiment: str, config: Any, runtime: Sequence[str], **identity: Any) -> Iterator[tuple[RunFolder, Stop]]:
    """The run folder of a config, held, and what tells of a signal.

    runtime: the fields of the config that results do not depend on, paths among them. identity: what is part of the
    identity beside the other fields, such as the fingerprints of what was read from these paths.
    """
    settings = dataclasses.asdict(config)
    apart = {name: settings.pop(name) for name in runtime}
    whole = {"experiment": experiment, **settings, **identity}
    with contextlib.ExitStack() as resources:
        workdir = config.workdir
        if not is_first_process():  # It computes as the first one does, and what it writes is thrown away.
            workdir = resources.enter_context(tempfile.TemporaryDirectory()) + "/run"
        run = resources.enter_context(open_run(workdir, whole, apart, tensorboard=config.tensorboard, share=from_first))
        yield run, resources.enter_context(stop_on_signal())


def told_finished(run: RunFolder) -> bool:
    """Whether the run was finished before, which is then said, with its outcome."""
    if run.result is None:
        return False
    print(f"{run.path} is finished; another --workdir makes another run")
    tell(run.path, run.result)
    return True


def tell(path: Path, result: Mapping[str, Any]) -> None:
    """Prints the outcome of a finished run."""
    rows = {"found": result, **result["baselines"]}
    print(f"\n{'network':<16}{'test':>8}  {'95 % interval':<18}{'valid':>8}{'params':>12}{'MACs':>14}")
    for name, row in rows.items():
        low, high = row["test_interval"]
        valid = "–" if row["valid_accuracy"] is None else f"{row['valid_accuracy']:.4f}"
        print(
            f"{name:<16}{row['test_accuracy']:>8.4f}  {f'{low:.4f} to {high:.4f}':<18}{valid:>8}"
            f"{row['params']:>12,}{row['macs']:>14,}"
        )
    print(f"\n{result['notation']}\nreport: {path / 'report' / 'index.html'}")


def _command() -> list[str]:
    module = sys.modules["__main__"].__spec__
    return [module.name if module else Path(sys.argv[0]).name, *sys.argv[1:]]


def random_archs(space: SearchSpace, count: int, key: Key) -> dict[str, Arch]:
    """Baselines drawn from the space: random-1, random-2, …"""
    return {f"random-{i + 1}": space.sample(k) for i, k in enumerate(jax.random.split(key, count))}


def clock() -> Callable[[], float]:
    """Seconds since now."""
    start = time.perf_counter()
    return lambda: round(time.perf_counter() - start, 2)
