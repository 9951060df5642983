"""Which networks are trained for digits201, and how: many runs as one compiled program, the architecture being data.

Shapes: P classes, F fidelities, B batch, H W C image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Arch, Array, Batch, Key, Skeleton
from jaxnas.benchmarks.digits201 import digits201_cells, digits201_costs
from jaxnas.data.augment import noisy
from jaxnas.data.dataset import Dataset, count
from jaxnas.data.digits import load_digits
from jaxnas.data.digits201 import load_digits201
from jaxnas.data.pipeline import make_batches
from jaxnas.objectives import classification, cross_entropies
from jaxnas.ranges import Count, Depth, Few, Natural, NotNegative, Positive, Seed, Width, check_settings
from jaxnas.supernets import nasbench201_supernet
from jaxnas.train import trainer
from jaxnas.train.schedules import cosine, sgd


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the numbers depend on.

    Optimizer and schedule are those of NAS-Bench-201; size, noise and length make the ranking informative.
    """

    channels: Width = 8
    cells: Depth = 2
    """Cells in each of the three stages."""
    epochs: Count = 8
    fidelities: tuple[int, ...] = (1, 2, 4, 8)
    """Epochs after which a run is evaluated, the last one included."""
    batch_size: Count = 64
    learning_rate: Positive = 0.1
    """The learning rate at the start; it falls to 0 along a cosine."""
    weight_decay: NotNegative = 5e-4
    shift: Natural = 2
    """The most pixels by which an image is moved."""
    noise: NotNegative = 0.6
    """The noise of each pixel, in standard deviations of the pixels."""
    copies: Few = 3
    """Copies of each validation and test image, each with its own shift and noise."""
    classes: Count | None = None
    """Train only this many of the functional classes, the first ones."""
    second: Count = 500
    """Classes that are trained a second time with another seed."""
    timed: Count = 30
    """Single runs that are timed."""
    seed: Seed = 0
    part: Count = 64
    """Architectures trained between two saves."""


def run_identity(settings: Settings) -> dict[str, Any]:
    """The settings by name, without those that a subclass adds."""
    return {field.name: getattr(settings, field.name) for field in dataclasses.fields(Settings)}


def check_making(settings: Settings) -> None:
    """Raises ValueError for what cannot work."""
    check_settings("", settings, type(settings))
    fidelities, epochs = settings.fidelities, settings.epochs
    ascending = tuple(sorted(set(fidelities)))
    if fidelities != ascending or not ascending or ascending[0] < 1 or ascending[-1] != epochs:
        raise ValueError(f"fidelities must be ascending epochs that end with {epochs}, got {fidelities}")
    if settings.batch_size > (images := count(load_digits().train)):
        raise ValueError(f"batch_size must be at most {images}, the images there are, got {settings.batch_size}")
    if settings.timed < 3:
        raise ValueError(f"a time model needs at least 3 timed runs, got {settings.timed}")


def skeleton(settings: Settings) -> Skeleton:
    """What the cells are put into."""
    digits = load_digits()
    return Skeleton(settings.channels, settings.cells, digits.image_shape, digits.num_classes)


def representatives(settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Of each functional class the cell with the fewest multiply-adds, int32 [P, 6], and those, [P]."""
    cells, classes = digits201_cells()
    _, macs = digits201_costs(skeleton(settings), cells)
    order = np.lexsort((macs, classes))  # stable: the first of equal cells
    chosen = order[np.unique(classes[order], return_index=True)[1]][: settings.classes]
    return cells[chosen], macs[chosen]


class Measured(NamedTuple):
    """P runs at F fidelities: valid_correct int32 [P, F], valid_loss float32 [P, F] in nats, test_correct int32 [P]."""

    valid_correct: Any
    valid_loss: Any
    test_correct: Any


def training_batches(dataset: Dataset, batch_size: int) -> Callable[[Key, Key, Array], Batch]:
    """Makes (key of order and shifts, key of the noise, step) -> a training batch of the data set.

    The noise has a key of its own because the shipped file was made so. With `fold_in(key, 2)` as the second one the
    batches are those of `jaxnas.data.make_batches` with `key`.
    """
    train, augmentation = dataset.train, dataset.augmentation
    assert augmentation is not None  # they are images
    without = dataclasses.replace(augmentation, noise=0.0)
    batches = make_batches(count(train), batch_size, without)

    def batch(key: Key, noise_key: Key, step: Array) -> Batch:
        images, labels = batches(key, step, jax.tree.map(jnp.asarray, train))
        return Batch(noisy(jax.random.fold_in(noise_key, step), images, augmentation.noise), labels)

    return batch


def make_trainer(settings: Settings, together: int | None = None) -> Callable[[Key, Array, Arch], Measured]:
    """(key of a seed, numbers [P] of the classes, archs [P, 6]) -> Measured; traceable.

    Runs of a seed see the same batches, and validation and test images are the same for all seeds. Initial parameters
    are drawn for each class, so that no class shares the luck of another. together: architectures computed at once
    under vmap, by default 1 on a CPU and all elsewhere.
    """
    dataset = load_digits201(settings.shift, settings.noise, settings.copies)
    steps = count(dataset.train) // settings.batch_size
    total = steps * settings.epochs
    draw = training_batches(dataset, settings.batch_size)
    schedule = cosine(settings.learning_rate, 0.0, total)
    optimizer = sgd(schedule, weight_decay=settings.weight_decay, clip=None, nesterov=True)
    # The shipped file was made by this form of the cross-entropy, whose last bits are its own.
    objective = classification()._replace(loss=cross_entropies)
    supernet = nasbench201_supernet(skeleton(settings), affine=True)
    fit = trainer.make_trainer(supernet, optimizer, total_steps=total, objective=objective, drop_path=0.0)
    measured_after = jnp.isin(jnp.arange(1, settings.epochs + 1), jnp.array(settings.fidelities))

    def by_copy(part: str) -> Batch:
        """All images of a part, [copies, N, …]."""
        leaves = dataset.parts()[part]
        return Batch(*(jnp.asarray(leaf).reshape(settings.copies, -1, *leaf.shape[1:]) for leaf in leaves))

    def evaluate(state: Any, data: Batch) -> tuple[Array, Array]:
        def part(batch: Batch) -> tuple[Array, Array]:
            logits = fit.predict(state, batch.inputs)
            return (jnp.argmax(logits, axis=1) == batch.targets).sum(), cross_entropies(logits, batch.targets).mean()

        correct, loss = jax.lax.map(part, data)
        return correct.sum(), loss.mean()

    def train_many(key: Key, numbers: Array, archs: Array) -> Measured:
        valid, test = by_copy("valid"), by_copy("test")
        init_key, batch_key, noise_key = jax.random.split(key, 3)
        numbered = jnp.arange(total).reshape(settings.epochs, steps)
        by_epoch = jax.lax.map(jax.vmap(lambda step: draw(batch_key, noise_key, step)), numbered)

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
            at = jnp.array(settings.fidelities) - 1
            return Measured(correct[at], loss[at], evaluate(state, test)[0])

        at_once = together or (1 if jax.default_backend() == "cpu" else len(numbers))
        return jax.lax.map(one, (numbers, archs), batch_size=None if at_once == 1 else at_once)

    return train_many
