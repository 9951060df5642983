"""Weight sharing: the phases of a search algorithm, run on the parts of a data set for some epochs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jaxnas import data
from jaxnas.base import Array, Batch, Key, Phase, PyTree, SearchAlgorithm
from jaxnas.data import Dataset
from jaxnas.fit.memory import Lighter, divisors, memory_check
from jaxnas.fit.problem import SearchSplit, Stop
from jaxnas.fit.seeds import Layout
from jaxnas.runfolder import Stage
from jaxnas.train.chunk import Chunk
from jaxnas.train.loop import AfterEpoch, Outcome, PhaseSteps
from jaxnas.train.loop import run as run_loop


class Epochs(NamedTuple):
    """What an epoch of a search is made of.

    split: the parts that phases read, "train" and "valid". batch_sizes: phase -> images of a batch of each part that it
    reads. steps: phase -> steps of it in an epoch; a phase that is not named goes once through the first part that it
    reads, and through the others as often as that takes. size_names: phase -> the setting that is its batch size, for
    messages.
    """

    dataset: Dataset
    split: SearchSplit
    batch_sizes: Mapping[str, int]
    steps: Mapping[str, int] = {}
    size_names: Mapping[str, str] = {}

    def count(self, phase: Phase) -> int:
        """Steps of a phase in an epoch."""
        first = data.count(getattr(self.split, phase.reads[0]))
        return self.steps.get(phase.name, first // self.batch_sizes[phase.name])


def batches_of(phase: Phase, epochs: Epochs) -> Callable[[Key, Array, Mapping[str, data.Examples]], dict[str, Batch]]:
    """(key, step, parts) -> a batch of each part that the phase reads, augmented unless it wants images as they are."""
    size = epochs.batch_sizes[phase.name]
    make = {
        name: data.make_batches(
            data.count(getattr(epochs.split, name)), size, epochs.dataset.augmentation, train=not phase.plain
        )
        for name in phase.reads
    }

    def batch(key: Key, step: Array, parts: Mapping[str, data.Examples]) -> dict[str, Batch]:
        keys = [key] if len(make) == 1 else list(jax.random.split(key, len(make)))
        return {name: own(k, step, parts[name]) for (name, own), k in zip(make.items(), keys, strict=True)}

    return batch


def _both(algorithm: SearchAlgorithm, epochs: Epochs) -> tuple[SearchAlgorithm, Epochs]:
    return algorithm, epochs


class Other(NamedTuple):
    """Other settings of a search, as of `jaxnas.fit.memory.Lighter`. make: what the search is with them."""

    said: str
    make: Callable[[], tuple[SearchAlgorithm, Epochs]]
    parts: int = 1


Others = Callable[[str], Iterator[Other]]
"""The name of a phase -> settings with which its steps need less memory."""


def smaller_batches(algorithm: SearchAlgorithm, epochs: Epochs, shares: int) -> Others:
    """The same algorithm on batches of a half, a third, … of the images. shares: over how many devices they go."""

    def others(phase: str) -> Iterator[Other]:
        size, name = epochs.batch_sizes[phase], epochs.size_names.get(phase, f"a batch size of phase {phase!r} of")
        for parts in divisors(size // shares):
            smaller = epochs._replace(batch_sizes={**epochs.batch_sizes, phase: size // parts})
            yield Other(f"{name} {size // parts}", functools.partial(_both, algorithm, smaller), parts)

    return others


def run_epochs(
    algorithm: SearchAlgorithm,
    state: PyTree,
    keys: Key,
    epochs: Epochs,
    count: int,
    *,
    layout: Layout,
    seeds: int = 1,
    stage: Stage | None = None,
    stop: Stop = lambda: None,
    after_epoch: AfterEpoch | None = None,
    ended: Callable[[PyTree], bool] = lambda state: False,
    log_every: int = 50,
    others: Others | None = None,
) -> Outcome:
    """Runs the phases of an algorithm in turn, `count` epochs long, from a state or the latest checkpoint of a stage.

    keys: those of `layout.keys`. others: what is tried where a step does not fit into memory, by default smaller
    batches. The other arguments are those of `jaxnas.train.loop.run`.

    Raises: ValueError for a step that does not fit, with what would.
    """
    others = others or smaller_batches(algorithm, epochs, layout.shares)

    def chunk_of(phase: Phase, epochs: Epochs) -> Chunk:
        return layout.chunk(phase.step, batches_of(phase, epochs))

    def lighten(name: str) -> Iterator[Lighter]:
        for other in others(name):

            def make(other: Other = other) -> Chunk:
                algorithm, epochs = other.make()
                return chunk_of(next(phase for phase in algorithm.phases if phase.name == name), epochs)

            yield Lighter(other.said, make, other.parts)

    phases = [
        PhaseSteps(
            phase.name,
            chunk_of(phase, epochs),
            epochs.count(phase),
            epochs.batch_sizes[phase.name] * len(phase.reads) * seeds,
        )
        for phase in algorithm.phases
    ]
    # A part that no phase reads stays on the host.
    read = {name: getattr(epochs.split, name) for phase in algorithm.phases for name in phase.reads}
    return run_loop(
        phases,
        keys,
        state,
        layout.place_data(read),
        count,
        stage=stage,
        place=layout.place,
        fits=memory_check(lighten, layout.devices, layout.memory_gb),
        after_epoch=after_epoch,
        stop=stop,
        ended=ended,
        log_every=log_every,
    )


def epoch_lines(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The lines of the metrics that the epochs of a search gave, numbered over all its stages.

    A search whose space shrinks has several: "search-1", "search-2", … and "search".
    """
    found: list[dict[str, Any]] = []
    epoch = step = 0
    for line in lines:
        if line["stage"].split("-")[0] == "search" and line["phase"] == "epoch":
            if found and line["stage"] != found[-1]["stage"]:
                epoch, step = found[-1]["epoch"], found[-1]["step"]
            found.append({**line, "epoch": epoch + line["epoch"], "step": step + line["step"]})
    return found


def ends_of(epochs: int, stages: int) -> list[int]:
    """The epochs in which equal parts of a search begin, and its end: [0, …, epochs]."""
    return [epochs * number // stages for number in range(stages + 1)]
