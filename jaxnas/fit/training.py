"""Networks trained from scratch and tested: one of your own, or those that a search found beside their baselines."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO, TypeVar

import jax

from jaxnas import data
from jaxnas.base import Arch, Array, Context, Key, Network, Objective, PyTree, SearchSpace, Skeleton, Stats, Supernet
from jaxnas.cache import enable_cache
from jaxnas.catalog import Entry
from jaxnas.data import Dataset, Examples
from jaxnas.data.dataset import IN_MEMORY
from jaxnas.fit.devices import Devices, join, spread
from jaxnas.fit.matching import check_inputs, check_outputs
from jaxnas.fit.memory import Lighter, divisors, memory_check
from jaxnas.fit.problem import Problem, Stop
from jaxnas.fit.settings import Dtype, Training, check_accumulate, has_images, image_shape_of, skeleton_of
from jaxnas.networks import accumulated, resnet_within, tutorial_cnn
from jaxnas.objectives import classification, takes_logits
from jaxnas.parallel import is_first_process, local
from jaxnas.ranges import check_settings
from jaxnas.runfolder import RunFolder, Stage
from jaxnas.saved import save_network
from jaxnas.train import schedules
from jaxnas.train.chunk import Chunk, make_chunk
from jaxnas.train.loop import Outcome, PhaseSteps, load
from jaxnas.train.loop import run as run_loop
from jaxnas.train.trainer import Evaluation, TrainState, confidence_interval, make_evaluate, make_trainer

Made = TypeVar("Made")

_LARGEST_SIDE = 256
"""Of the images that are proposed where those of a data set are too small."""
_EVALUATED = 256
"""Images of a batch that is evaluated."""


class Trained(NamedTuple):
    """A network after its training, with what the test split says, which was read once.

    params, stats: those of the last epoch, or of the best by validation where a part was held out. test_interval: the
    95 % interval of an accuracy, None for another metric. valid_metric: the best, None where nothing was held out. The
    metric is that of the data set's objective.
    """

    network: Network
    params: PyTree
    stats: Stats
    test_metric: float
    test_interval: tuple[float, float] | None
    test_loss: float
    valid_metric: float | None
    selected_epoch: int
    seconds: float

    def apply(self, x: PyTree) -> PyTree:
        """Inputs as the network is given them, such as normalized images [B, H, W, C], -> its outputs."""
        return self.network.apply(self.params, x, Context(bn=self.stats))[0]


def train(
    network: Network,
    dataset: str | Dataset,
    training: Training | None = None,
    *,
    seed: int = 0,
    devices: Devices | None = None,
    stage: Stage | None = None,
    stop: Stop = lambda: None,
) -> Trained:
    """Trains a network from scratch and tests it once.

    dataset: a data set, or the name of one, as of `jaxnas.data.load_dataset`. training: its channels and cells are
    those of `network`, which is made already, and are not read. stage: where checkpoints and metrics go, so that a
    killed training goes on; by default nothing is written.

    Raises: ValueError for settings that do not go with the data, before anything is compiled.

    >>> import flax.linen as nn
    >>> import numpy as np
    >>> from jaxnas import choices, data
    >>> class Tiny(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         return nn.Dense(2)(nn.relu(nn.Dense(choices.width("hidden", (2, 4)))(x)))
    >>> own = choices.searchable(Tiny(), np.zeros((1, 3), "float32"))
    >>> rows = np.ones((16, 3), "float32"), np.arange(16) % 2
    >>> dataset = data.from_arrays(rows, rows, rows)
    >>> trained = train(own.network(np.array([0])), dataset, Training(epochs=1, batch_size=16))
    >>> trained.apply(np.zeros((5, 3), "float32")).shape
    (5, 2)
    """
    enable_cache(None)
    training, devices = Training() if training is None else training, Devices() if devices is None else devices
    check_settings("devices", devices, Devices)
    join(devices)
    if isinstance(dataset, str):
        check_settings("train", training, Training)  # before the data is read, which takes time
        dataset = data.load_dataset(dataset)
    check_training(training, dataset, seed, devices)
    return Trainer(network, training, dataset, seed, devices).train(network, None, jax.random.key(seed), stage, stop)


def evaluate(network: Network, params: PyTree, stats: Stats, dataset: Dataset, examples: Examples) -> Evaluation:
    """The metric and the loss of a trained network on all examples, each counted once.

    params, stats: of the network. dataset: it has the objective and the normalization. examples: one of its splits.

    >>> import numpy as np
    >>> from jaxnas.base import Aux
    >>> from jaxnas.data import from_arrays
    >>> rows = np.eye(2, dtype="float32")[[0, 1, 1]], np.array([0, 1, 0])
    >>> dataset = from_arrays(rows, rows, rows)
    >>> inputs_alone = Network(lambda key: ((), ()), lambda params, x, context: (x, Aux(())), {})  # they are the logits
    >>> evaluate(inputs_alone, (), (), dataset, dataset.test).correct  # the third row has another target
    2
    """

    def predict(state: tuple[PyTree, Stats], x: Array) -> Array:
        return network.apply(state[0], x, Context(bn=state[1]))[0]

    return make_evaluate(predict, dataset.augmentation, _EVALUATED, dataset.objective)((params, stats), examples)


def check_training(training: Training, dataset: Dataset, seed: int, devices: Devices) -> None:
    """Raises ValueError for settings that cannot work with the data or devices, before anything is compiled."""
    check_settings("train", training, Training)
    parts = data.split(dataset, seed, training.hold_out)
    if training.batch_size > data.count(parts.train):
        raise ValueError(
            f"train.batch_size {training.batch_size} is larger than the training part, which has "
            f"{data.count(parts.train)} examples; choose a smaller one"
        )
    check_accumulate("train", training.accumulate, training.batch_size)
    objective_of(training, dataset)
    spread(devices, image_shape_of(dataset), training.batch_size)


def objective_of(training: Training, dataset: Dataset) -> Objective:
    """What training minimizes. Raises ValueError for label smoothing where targets are no classes."""
    if not training.label_smoothing:
        return dataset.objective
    if not dataset.class_names:
        raise ValueError(
            f"train.label_smoothing {training.label_smoothing} is for classes, which {dataset.name} has not"
        )
    return dataset.objective._replace(loss=classification(training.label_smoothing).loss)


def check_networks(
    entry: Entry, space: SearchSpace, training: Training, dataset: Dataset, dtype: Dtype, hand_designed: bool = True
) -> None:
    """Builds all networks of a space that may be trained and runs each on a batch of shapes alone.

    dtype: of their activations. hand_designed: whether the smallest of `by_hand` is trained too.

    Raises: ValueError where one does not go with the images, with the smallest that would do, or with the dtype, and
    where a model of one's own was made searchable for other inputs or gives no logits of the classes.
    """
    if dtype not in entry.dtypes:
        raise ValueError(
            f"dtype {dtype}: the networks over {entry.name} are computed in {' or '.join(entry.dtypes)}; leave it out, "
            "and give the layers of a model of your own their dtype"
        )
    if entry.example is not None:
        check_inputs(entry.example, dataset)
    arch_key, key = jax.random.split(jax.random.key(0))
    arch = space.sample(arch_key)

    def build(image_shape: tuple[int, int, int]) -> list[Network | Supernet]:
        skeleton = dataclasses.replace(skeleton_of(training, dataset, dtype), image_shape=image_shape)
        return [
            entry.network(arch, skeleton, space),
            *([entry.together(skeleton, space)] if training.share_step and entry.together else []),
            *([tutorial_cnn(image_shape, dataset.num_outputs, dtype)] if hand_designed and has_images(dataset) else []),
        ]

    networks = fitting(build, dataset)

    def example(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((training.batch_size, *leaf.shape[1:]), leaf.dtype)

    batches = data.make_batches(training.batch_size, training.batch_size, dataset.augmentation, cutout=training.cutout)
    examples = jax.tree.map(example, dataset.train)

    def forward(key: Key, examples: Examples, network: Network | Supernet) -> Array:
        init_key, batch_key, context = *jax.random.split(key), Context("batch")
        inputs, targets = batches(batch_key, 0, examples)
        if isinstance(network, Supernet):
            outputs = network.apply_path(network.init(init_key), arch, inputs, context)[0]
        else:
            outputs = network.apply(network.init(init_key)[0], inputs, context)[0]
        if takes_logits(dataset.objective):
            check_outputs(outputs, dataset)
        return dataset.objective.loss(outputs, targets)

    for network in networks:
        try:
            jax.eval_shape(functools.partial(forward, network=network), key, examples)
        except (AttributeError, IndexError, TypeError) as error:
            if has_images(dataset):
                raise
            raise ValueError(
                f"the networks of {entry.name} cannot read the inputs of {dataset.name}, which are no images; "
                f"give an Entry whose networks read them ({error})"
            ) from error


def fitting(build: Callable[[tuple[int, int, int]], Made], dataset: Dataset) -> Made:
    """What is built for the images of a data set. Raises ValueError where they are too small, with what would do."""
    if not has_images(dataset):
        return build(image_shape_of(dataset))
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
        if dataset.source in IN_MEMORY:
            hint = (
                "images are [N, H, W, C], channels last (np.moveaxis(images, 1, -1) brings them there), and the "
                f"smallest that go are {side}×{side}: give such arrays"
            )
        raise ValueError(f"{error}; {hint}") from None


def by_hand(problem: Problem, macs: int) -> dict[str, Network]:
    """Networks that people designed, for the images of a problem: name -> network.

    "tutorial-cnn" is what many begin with, and small. The others are as wide or deep as so many multiply-adds allow:
    "resnet", and what the entry of the space has ("mobilenetv2" of the chain). One that does not fit is left out.
    """
    dataset = problem.dataset
    if not has_images(dataset):
        return {}
    shape, outputs = dataset.image_shape, dataset.num_outputs
    skeleton = dataclasses.replace(problem.trained_skeleton, auxiliary=False)
    networks = {"tutorial-cnn": tutorial_cnn(shape, outputs, problem.dtype)}
    made: dict[str, Callable[[], Network]] = {"resnet": lambda: resnet_within(macs, shape, outputs, problem.dtype)[0]}
    for name, within in problem.entry.by_hand.items():
        made[name] = functools.partial(within, macs, skeleton)
    for name, make in made.items():
        with contextlib.suppress(ValueError):
            networks[name] = make()
    return networks


def train_all(
    run: RunFolder, problem: Problem, archs: Mapping[str, Arch], key: Key, stop: Stop, hand_designed: bool = True
) -> dict[str, dict[str, Any]]:
    """Trains the named architectures and networks designed by hand under the same budget; name -> figures.

    The test split is read once for each network, after its training. The network named "found" is kept in the folder,
    those of several seeds each in that of its stage. What is designed by hand has the multiply-adds of the network
    found, of several seeds the most (`by_hand`).
    """
    training, dataset, space, entry = problem.training, problem.dataset, problem.space, problem.entry
    skeleton, shared = problem.trained_skeleton, None
    if entry.together is not None and training.share_step and len(archs) > 1:
        shared = Trainer(entry.together(skeleton, space), training, dataset, problem.seed, problem.devices)
    figures, macs = {}, 0
    for number, (name, arch) in enumerate(archs.items()):
        network = entry.network(arch, skeleton, space)
        trainer = shared or Trainer(network, training, dataset, problem.seed, problem.devices)
        kept = run.path if name == "found" else run.stage(f"train-{name}").path if name.startswith("seed-") else None
        if name == "found" or name.startswith("seed-"):
            macs = max(macs, int(network.costs["macs"]))
        figures[name] = trainer.figures(
            run.stage(f"train-{name}"), network, arch, jax.random.fold_in(key, number), stop, space,
            None if kept is None else (kept, skeleton),
        )  # fmt: skip
    plain = dataclasses.replace(training, auxiliary=False, drop_path=0.0)
    for number, (name, network) in enumerate(by_hand(problem, macs).items() if hand_designed else ()):
        trainer = Trainer(network, plain, dataset, problem.seed, problem.devices)
        own_key = jax.random.fold_in(key, len(archs) + number)
        figures[name] = trainer.figures(run.stage(f"train-{name}"), network, None, own_key, stop)
    return figures


class Trainer:
    """One compiled step, evaluation and data, for one network or for all of a space."""

    def __init__(
        self, network: Network | Supernet, training: Training, dataset: Dataset, seed: int, devices: Devices
    ) -> None:
        self.network, self.seed, self.devices = network, seed, devices
        self.training = training
        self.dataset = dataset
        self.parts = data.split(dataset, seed, training.hold_out)
        self.steps = data.count(self.parts.train) // training.batch_size
        schedule, then = _schedule(training, self.steps)
        optimizer = schedules.sgd(
            schedule, momentum=training.momentum, nesterov=training.nesterov, weight_decay=training.weight_decay,
            clip=training.clip, then=then,
        )  # fmt: skip
        self.spread = spread(devices, image_shape_of(dataset), training.batch_size)
        self.trainer = make_trainer(
            _accumulated(network, training.accumulate),
            optimizer,
            total_steps=training.epochs * self.steps,
            auxiliary_weight=training.auxiliary_weight,
            objective=objective_of(training, dataset),
            drop_path=training.drop_path,
            axis_name=self.spread.axis_name,
        )
        self.init = jax.jit(self.trainer.init)
        batches = data.make_batches(
            data.count(self.parts.train), training.batch_size, dataset.augmentation, cutout=training.cutout
        )
        self.chunk = make_chunk(self.spread.step(self.trainer.step), batches)
        self.evaluate = make_evaluate(self.trainer.predict, dataset.augmentation, _EVALUATED, dataset.objective)

    def _lighter(self, phase: str) -> Iterator[Lighter]:
        """Trainings whose steps work on a part of the batch at a time."""
        training = self.training
        for parts in divisors(training.batch_size // training.accumulate // self.spread.devices):
            changed = dataclasses.replace(training, accumulate=training.accumulate * parts)
            size = training.batch_size // parts
            said = f"train.accumulate {changed.accumulate} (or, no more, train.batch_size {size})"
            yield Lighter(said, functools.partial(self._chunk_with, changed), parts)

    def _chunk_with(self, training: Training) -> Chunk:
        return Trainer(self.network, training, self.dataset, self.seed, self.devices).chunk

    def fit(
        self, arch: Arch | None, key: Key, stage: Stage | None, stop: Stop, output: TextIO | None = None
    ) -> tuple[TrainState, Outcome]:
        """The state that is kept, and the outcome of all epochs. output: where progress is told."""
        init_key, run_key = jax.random.split(key)
        state = self.init(init_key, arch if isinstance(self.network, Supernet) else None)
        valid, epochs, name = self.parts.valid, self.training.epochs, self.dataset.objective.name
        best: Any = None

        def after_epoch(epoch: int, state: Any) -> tuple[Any, dict[str, float]]:
            nonlocal best
            del epoch
            if valid is None:
                return state, {}
            result = self.evaluate(state, valid)
            if stage is None and (best is None or result.metric > best[0]):  # the next chunk uses the state up
                best = (result.metric, jax.tree.map(lambda leaf: leaf.copy(), state))
            return state, {f"valid_{name}": result.metric, "valid_loss": result.loss}

        outcome = run_loop(
            [PhaseSteps("train", self.chunk, self.steps, self.training.batch_size)],
            run_key,
            state,
            self.spread.place_data(self.parts.train),
            epochs,
            stage=stage,
            place=self.spread.place,
            fits=memory_check(self._lighter, self.spread.devices // jax.process_count(), self.devices.memory_gb),
            after_epoch=after_epoch,
            best=None if valid is None else f"valid_{name}",
            stop=stop,
            output=output,
        )
        if valid is None:
            return jax.tree.map(local, outcome.state), outcome
        return best[1] if stage is None else load(stage, outcome.state, "best"), outcome

    def train(self, network: Network, arch: Arch | None, key: Key, stage: Stage | None, stop: Stop) -> Trained:
        """network: the one of the architecture, which the result is of."""
        state, outcome = self.fit(arch, key, stage, stop)
        tested = self.evaluate(state, self.dataset.test)
        params, stats = state.params, state.stats
        if isinstance(self.network, Supernet) and arch is not None:
            params, stats = self.network.extract(params, arch), self.network.extract_stats(stats, arch)
        return Trained(
            network,
            params,
            stats,
            tested.metric,
            None if tested.correct is None else confidence_interval(tested.correct, tested.total),
            tested.loss,
            None if outcome.best is None else outcome.best.value,
            self.training.epochs if outcome.best is None else outcome.best.step // self.steps,
            outcome.seconds,
        )

    def figures(
        self, stage: Stage, network: Network, arch: Arch | None, key: Key, stop: Stop, space: SearchSpace | None = None,
        kept: tuple[Path, Skeleton] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """What a result says of a training, which is not done again. kept: the folder that the network goes to, and
        its skeleton."""
        if stage.result is not None:
            return dict(stage.result)
        trained = self.train(network, arch, key, stage, stop)
        metric = self.dataset.objective.name
        result: dict[str, Any] = {
            f"test_{metric}": trained.test_metric,
            "test_interval": trained.test_interval and list(trained.test_interval),
            "test_loss": trained.test_loss,
            f"valid_{metric}": trained.valid_metric,
            "selected_epoch": trained.selected_epoch,
            **network.costs,
        }
        if space is not None and arch is not None:
            result |= {"genotype": space.to_genotype(arch), "notation": space.notation(arch)}
            if kept is not None and is_first_process():
                folder, skeleton = kept
                save_network(folder, trained.params, trained.stats, result["genotype"], skeleton, self.dataset)
        result["seconds"] = trained.seconds
        stage.finish(result)
        return result


def _accumulated(network: Network | Supernet, parts: int) -> Network | Supernet:
    if isinstance(network, Supernet):
        return network._replace(apply_path=accumulated(network.apply_path, parts))
    return network._replace(apply=accumulated(network.apply, parts))


def _schedule(training: Training, steps: int) -> tuple[Any, Any]:
    if training.schedule == "cosine":
        return schedules.per_epoch(schedules.cosine(training.learning_rate, 0.0, training.epochs), steps), None
    if training.schedule == "step":
        every = max(1, training.epochs // 3)
        return schedules.per_epoch(schedules.step_decay(training.learning_rate, 0.1, every), steps), None
    return training.learning_rate, schedules.plateau(steps, patience=max(1, training.epochs // 10))
