"""Make the benchmark digits201: train a network of every NAS-Bench-201 cell on noisy digits, and write one small file.

    python -m experiments.make_digits201 --workdir runs/digits201

All 15,625 cells compute 4,930 functions; one cell of each is trained from scratch, the architecture being data of one
compiled program. Checkpoints of a run are the fidelities. A second seed of some hundred classes tells the noise, and
single runs are timed for a model of the training time. Devices share the architectures: on a CPU it is faster with
XLA_FLAGS=--xla_force_host_platform_device_count=CORES, and gives the same bits. Finished parts are kept: the same
command goes on where it was stopped, and with --start from what an earlier file has. On two cores it takes about an
hour and a half.
"""

from __future__ import annotations

import dataclasses
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec
from scipy import stats

from jaxnas import command
from jaxnas.base import Arch, Array, Batch, Key, Skeleton
from jaxnas.benchmarks.digits201 import digits201_cells, digits201_costs, digits201_table, read_digits201
from jaxnas.cache import enable_cache
from jaxnas.data.augment import augment
from jaxnas.data.dataset import fingerprint, split
from jaxnas.data.digits import load_digits
from jaxnas.data.pipeline import make_batches
from jaxnas.files import write_atomic
from jaxnas.fingerprint import checksum
from jaxnas.ranges import check_ranges
from jaxnas.runfolder import RunFolder, Stage, differences, open_run, versions
from jaxnas.supernets import nasbench201_supernet
from jaxnas.train.classifier import classifier
from jaxnas.train.losses import cross_entropies
from jaxnas.train.progress import duration
from jaxnas.train.schedules import cosine, sgd
from jaxnas.train.stop import check_stop, stop_on_signal


@dataclasses.dataclass(frozen=True)
class Config:
    """Optimizer and schedule are those of NAS-Bench-201; size, noise and length make the ranking informative."""

    channels: int = 8
    cells: int = 2
    """In each of the three stages."""
    epochs: int = 8
    fidelities: tuple[int, ...] = (1, 2, 4, 8)
    """Epochs after which a run is evaluated, the last one included."""
    batch_size: int = 64
    learning_rate: float = 0.1
    """At the start; it falls to 0 along a cosine."""
    weight_decay: float = 5e-4
    shift: int = 2
    """Pixels by which an image is moved at most."""
    noise: float = 0.6
    """Of each pixel, in standard deviations of the pixels."""
    copies: int = 3
    """Of each validation and test image, each with its own shift and noise."""
    classes: int | None = None
    """Only the first so many of the functional classes."""
    second: int = 500
    """Classes that are trained a second time with another seed."""
    timed: int = 30
    """Single runs whose time is taken."""
    seed: int = 0
    part: int = 64
    """Architectures trained between two saves."""
    together: int | None = None
    """Architectures of a device computed at once under vmap: by default 1 on a CPU, all of a part elsewhere."""
    start: str | None = None
    """A file of this experiment, of the same settings: what it has is not trained again."""
    collect: bool = False
    """Train nothing more, and write a file of what is there."""
    workdir: str = "runs/digits201"
    cache_dir: str | None = None


RUNTIME = ("start", "collect", "workdir", "cache_dir", "together")
"""What the numbers do not depend on; on what was read from `start` they do."""


def identity(config: Config) -> dict[str, Any]:
    """All settings that the numbers depend on."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in RUNTIME}


class Measured(NamedTuple):
    """P runs at F fidelities: valid_correct int32 [P, F], valid_loss float32 [P, F] in nats, test_correct int32 [P]."""

    valid_correct: Any
    valid_loss: Any
    test_correct: Any


def make_trainer(config: Config) -> Callable[[Key, Array, Arch], Measured]:
    """(key of a seed, numbers [P] of the classes, archs [P, 6]) -> Measured; traceable.

    Runs of a seed see the same batches, and validation and test images are the same for all seeds. Initial parameters
    are drawn for each class, so that no class shares the luck of another.
    """
    digits = load_digits()
    train, valid_examples = split(digits, seed=0)
    augmentation = dataclasses.replace(digits.augmentation, shift=config.shift)
    steps = len(train.labels) // config.batch_size
    total = steps * config.epochs
    batches = make_batches(len(train.labels), config.batch_size, augmentation)
    schedule = cosine(config.learning_rate, 0.0, total)
    optimizer = sgd(schedule, weight_decay=config.weight_decay, clip=None, nesterov=True)
    supernet = nasbench201_supernet(_skeleton(config), affine=True)
    fit = classifier(supernet, optimizer, total_steps=total, drop_path=0.0)
    measured_after = jnp.isin(jnp.arange(1, config.epochs + 1), jnp.array(config.fidelities))

    def with_noise(key: Key, images: Array) -> Array:
        return images + config.noise * jax.random.normal(key, images.shape)

    def fixed(key: Key, examples: Any) -> Batch:
        """All examples `copies` times, [copies, N, …]."""
        images = jnp.tile(jnp.asarray(examples.images), (config.copies, 1, 1, 1))
        move_key, noise_key = jax.random.split(key)
        moved = with_noise(noise_key, augment(move_key, images, augmentation, False))
        labels = jnp.tile(jnp.asarray(examples.labels), (config.copies, 1))
        return Batch(moved.reshape(config.copies, -1, *moved.shape[1:]), labels)

    def train_many(key: Key, numbers: Array, archs: Array) -> Measured:
        valid, test = fixed(jax.random.key(1), valid_examples), fixed(jax.random.key(2), digits.test)
        init_key, batch_key, noise_key = jax.random.split(key, 3)

        train_data = jax.tree.map(jnp.asarray, train)

        def batch(step: Array) -> Batch:
            plain = batches(batch_key, step, train_data)
            return Batch(with_noise(jax.random.fold_in(noise_key, step), plain.image), plain.label)

        by_epoch = jax.lax.map(jax.vmap(batch), jnp.arange(total).reshape(config.epochs, steps))

        def evaluate(state: Any, data: Batch) -> tuple[Array, Array]:
            def part(batch: Batch) -> tuple[Array, Array]:
                logits = fit.predict(state, batch.image)
                return (jnp.argmax(logits, axis=1) == batch.label).sum(), cross_entropies(logits, batch.label).mean()

            correct, loss = jax.lax.map(part, data)
            return correct.sum(), loss.mean()

        def one(item: tuple[Array, Arch]) -> Measured:
            number, arch = item
            state = fit.init(jax.random.fold_in(init_key, number), arch)

            def step(state: Any, batch: Batch) -> tuple[Any, None]:
                return fit.step(jax.random.key(0), state, batch)[0], None  # nothing is random: no path is dropped

            def epoch(state: Any, item: tuple[Batch, Array]) -> tuple[Any, tuple[Array, Array]]:
                batches, wanted = item
                state, _ = jax.lax.scan(step, state, batches)
                nothing = (jnp.int32(0), jnp.float32(0))
                return state, jax.lax.cond(wanted, lambda s: evaluate(s, valid), lambda s: nothing, state)

            state, (correct, loss) = jax.lax.scan(epoch, state, (by_epoch, measured_after))
            at = jnp.array(config.fidelities) - 1
            return Measured(correct[at], loss[at], evaluate(state, test)[0])

        together = config.together or (1 if jax.default_backend() == "cpu" else len(numbers))
        return jax.lax.map(one, (numbers, archs), batch_size=None if together == 1 else together)

    return train_many


def representatives(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Of each functional class the cell with the fewest multiply-adds, int32 [P, 6], and those, [P]."""
    cells, classes = digits201_cells()
    _, macs = digits201_costs(_skeleton(config), cells)
    order = np.lexsort((macs, classes))  # stable: the first of equal cells
    chosen = order[np.unique(classes[order], return_index=True)[1]][: config.classes]
    return cells[chosen], macs[chosen]


def _skeleton(config: Config) -> Skeleton:
    digits = load_digits()
    return Skeleton(config.channels, config.cells, digits.image_shape, digits.num_classes)


def check(config: Config) -> None:
    """Raises ValueError for what cannot work."""
    for name in ("epochs", "batch_size", "copies", "part", "classes", "second", "timed", "together"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    ascending = tuple(sorted(set(config.fidelities)))
    if config.fidelities != ascending or not ascending or ascending[0] < 1 or ascending[-1] != config.epochs:
        raise ValueError(f"fidelities must be ascending epochs that end with {config.epochs}, got {config.fidelities}")
    if config.noise < 0 or config.shift < 0:
        raise ValueError(f"noise and shift must not be negative, got {config.noise} and {config.shift}")
    check_ranges("", config, seed=("seed",), positive=("learning_rate",), not_negative=("weight_decay",))
    if config.batch_size > (images := len(split(load_digits(), seed=0).train.labels)):
        raise ValueError(f"batch_size must be at most {images}, the images there are, got {config.batch_size}")
    if config.start is not None and not Path(config.start).is_file():
        raise OSError(f"there is no file {config.start}: leave out --start, or give a digits201.npz")
    if config.timed < 3:
        raise ValueError(f"a time model needs at least 3 timed runs, got {config.timed}")


class Job(NamedTuple):
    """Classes to be trained with one seed, and the file for what comes out."""

    file: Path
    seed: int
    numbers: np.ndarray


def main(config: Config) -> None:
    """Trains what is not there yet, then writes digits201.npz and a summary."""
    check(config)
    enable_cache(config.cache_dir)
    archs, macs = representatives(config)
    # The classes of the second seed and of the timed runs are random ones.
    shuffled = np.random.RandomState(config.seed).permutation(len(archs))
    wanted = {"first": np.arange(len(archs)), "second": np.sort(shuffled[: config.second])}
    earlier = {} if config.start is None else _read_start(config.start, config)
    runtime = {name: getattr(config, name) for name in RUNTIME}
    read = {"data": fingerprint(load_digits()), "start": start_fingerprint(earlier)}
    whole = {"experiment": "make_digits201", **identity(config), **read}
    with open_run(config.workdir, whole, runtime) as run, stop_on_signal() as stop:
        jobs = {
            name: [
                Job(run.stage(name).path / f"{piece:04d}.npz", config.seed + seed, numbers[first : first + config.part])
                for piece, first in enumerate(range(0, len(numbers), config.part))
            ]
            for seed, (name, numbers) in enumerate(wanted.items())
        }
        _take_over(earlier, jobs)
        if not config.collect:
            _train(
                [job for seed_jobs in jobs.values() for job in seed_jobs if not job.file.exists()], archs, config, stop
            )
        outcome = {name: _joined(seed_jobs, len(config.fidelities)) for name, seed_jobs in jobs.items()}
        timing = _time(run.stage("time"), make_trainer(config), archs, shuffled[: config.timed])
        _finish(run, config, outcome, wanted["second"], timing, macs)


def _train(jobs: list[Job], archs: np.ndarray, config: Config, stop: Callable[[], int | None]) -> None:
    """Does jobs one after another; all devices share the architectures of each."""
    devices = jax.devices()
    mesh = jax.make_mesh((len(devices),), ("device",), axis_types=(AxisType.Auto,))
    split = PartitionSpec("device")
    train = jax.jit(
        jax.shard_map(
            make_trainer(config), mesh=mesh, in_specs=(PartitionSpec(), split, split), out_specs=split, check_vma=False
        )
    )
    width = -(-config.part // len(devices)) * len(devices)
    begun = time.monotonic()
    for done, job in enumerate(jobs, start=1):
        check_stop(stop, done - 1, len(jobs), "part")
        padded = np.resize(job.numbers, width)
        result = jax.device_get(train(jax.random.key(job.seed), padded, archs[padded]))
        _save(job.file, {name: leaf[: len(job.numbers)] for name, leaf in result._asdict().items()})
        left = (time.monotonic() - begun) / done * (len(jobs) - done)
        print(f"part {done} of {len(jobs)}, {duration(left)} left", flush=True)


def _joined(jobs: list[Job], fidelities: int) -> Measured:
    """What the jobs gave; the loss of what was not trained is NaN."""
    parts = []
    for job in jobs:
        if job.file.exists():
            with np.load(job.file) as stored:
                parts.append(Measured(*(stored[name] for name in Measured._fields)))
        else:
            count = len(job.numbers)
            nothing = np.zeros((count, fidelities), np.int32)
            parts.append(Measured(nothing, np.full(nothing.shape, np.nan, np.float32), nothing[:, 0]))
    return Measured(*(np.concatenate(leaves) for leaves in zip(*parts, strict=True)))


def _read_start(path: str, config: Config) -> dict[str, np.ndarray]:
    """The arrays of an earlier file. Raises ValueError where it was made with other settings."""
    arrays, about = read_digits201(path)
    if differing := differences(about["config"], json.loads(json.dumps(identity(config)))):
        raise ValueError(f"{path} was made with other settings ({differing}); leave out --start or give those")
    return arrays


def start_fingerprint(arrays: dict[str, np.ndarray]) -> dict[str, Any] | None:
    """Of the arrays of an earlier file, for the identity of the run; None where there is none."""
    if not arrays:
        return None
    content = (part for name in sorted(arrays) for part in (name, arrays[name]))
    return {"classes": len(arrays["test_correct"]), "checksum": checksum(*content)}


def _take_over(arrays: dict[str, np.ndarray], jobs: dict[str, list[Job]]) -> None:
    """Writes the parts that the arrays of an earlier file have whole."""
    if not arrays:
        return
    for name, prefix in (("first", ""), ("second", "second_")):
        rows = arrays["second_classes"].tolist() if prefix else range(len(arrays["test_correct"]))
        place = {number: row for row, number in enumerate(rows)}
        for job in jobs[name]:
            at = [place[number] for number in job.numbers.tolist()]
            taken = {field: arrays[f"{prefix}{field}"][at] for field in Measured._fields}
            if not np.isnan(taken["valid_loss"]).any():
                _save(job.file, taken)


def _save(path: Path, arrays: dict[str, Any]) -> None:
    """Writes an npz in one step: a reader, or a resumed run, sees all of it or nothing."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomic(path, buffer.getvalue())


def _time(stage: Stage, train: Callable[..., Measured], archs: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
    """Seconds of single runs of the chosen classes, each the smaller of two, evaluation included."""
    if stage.result is None:
        single = jax.jit(train)
        seconds = []
        for number in [chosen[0], *chosen]:  # the first is compiled
            taken = []
            for _ in range(2):
                begun = time.perf_counter()
                jax.block_until_ready(single(jax.random.key(0), number[None], archs[number][None]))
                taken.append(time.perf_counter() - begun)
            seconds.append(min(taken))
        stage.finish({"classes": chosen.tolist(), "seconds": seconds[1:]})
    return dict(stage.result or {})


def _finish(
    run: RunFolder,
    config: Config,
    outcome: dict[str, Measured],
    second: np.ndarray,
    timing: dict[str, Any],
    macs: np.ndarray,
) -> None:
    """Writes the file, reads it again as a table, and tells how noisy and how wide the ranking is."""
    slope, constant = np.polyfit(macs[timing["classes"]], timing["seconds"], 1)
    predicted = constant + slope * macs[timing["classes"]]
    skeleton = _skeleton(config)
    about = {
        "skeleton": dataclasses.asdict(skeleton),
        "fidelities": config.fidelities,
        "images": config.copies * len(load_digits().test_labels),
        "seconds_an_epoch": [constant / config.epochs, slope / config.epochs],
        "config": identity(config),
        "versions": versions(),
    }
    arrays: dict[str, np.ndarray] = {}
    for prefix, of_seed in (("", outcome["first"]), ("second_", outcome["second"])):
        arrays[f"{prefix}valid_correct"] = of_seed.valid_correct.astype(np.uint16)
        arrays[f"{prefix}valid_loss"] = of_seed.valid_loss.astype(np.float16)
        arrays[f"{prefix}test_correct"] = of_seed.test_correct.astype(np.uint16)
    arrays |= {
        "second_classes": second.astype(np.uint16),
        "timed_classes": np.array(timing["classes"], np.uint16),
        "timed_seconds": np.array(timing["seconds"], np.float32),
    }
    file = run.path / "digits201.npz"
    _save(file, {**arrays, "about": np.array(json.dumps(about))})
    table = digits201_table(file)

    both = ~np.isnan(outcome["first"].valid_loss[second, -1] + outcome["second"].valid_loss[:, -1])
    first = Measured(*(leaf[second[both]] for leaf in outcome["first"]))
    again = Measured(*(leaf[both] for leaf in outcome["second"]))
    noise: dict[str, Any] = {}
    for name, a, b in (
        ("valid", first.valid_correct[:, -1], again.valid_correct[:, -1]),
        ("valid_loss", first.valid_loss[:, -1], again.valid_loss[:, -1]),
        ("test", first.test_correct, again.test_correct),
    ):
        if both.sum() < 3:
            continue
        noise[name] = {
            "spearman": float(stats.spearmanr(a, b).statistic),
            "kendall": float(stats.kendalltau(a, b).statistic),
        }
    spread = {
        f"{name}@{q}": float(np.nanquantile(np.asarray(table.metrics[name]).reshape(len(table.archs), -1)[:, -1], q))
        for name in ("valid", "test")
        for q in (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
    }
    residual = np.std(predicted - np.array(timing["seconds"])) / np.mean(timing["seconds"])
    result = {
        "classes": len(macs),
        "trained": int((~np.isnan(outcome["first"].valid_loss[:, -1])).sum()),
        "trained_twice": int(both.sum()),
        "seed_to_seed": noise,
        "quantiles": spread,
        "bytes": file.stat().st_size,
        "seconds_an_epoch": about["seconds_an_epoch"],
        "time_model_relative_residual": float(residual),
        "versions": versions(),
    }
    run.finish(result)
    print(json.dumps(result, indent=2))
    print(f"\nwritten: {file}")


if __name__ == "__main__":
    command.main(main, Config)
