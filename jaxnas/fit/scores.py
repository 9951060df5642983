"""Scores of the paths of a trained supernet, by a stated policy of batch norm, kept in files as they come."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import data
from jaxnas.base import Key, PyTree, Supernet
from jaxnas.files import open_to_append, read_json_lines, write_atomic
from jaxnas.fit.problem import SearchSplit, Stop
from jaxnas.fit.scoring import Score, with_scores
from jaxnas.ranges import Count, Limit
from jaxnas.spaces import Pruned
from jaxnas.train.path_score import CachedScore, make_path_score, recalibrated, running


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How architectures are scored.

    >>> scoring = Scoring(batch_norm="batch", evaluations=200)  # `jaxnas.OneShot(scoring=scoring)`
    >>> scoring.batch_size
    250
    """

    batch_norm: Literal["batch", "recalibrated"] = "recalibrated"
    """Which batch norm statistics a path uses. batch: those of each validation batch. recalibrated: those of the same
    path on some training batches."""
    batch_size: Count = 250
    batches: Count = 8
    """For recalibrated: how many training batches give the statistics."""
    evaluations: Count = 1000
    """How many architectures the search scores; as many random ones are scored for comparison."""
    population: Count = 50
    """The population of an evolution, or the random start of a selection by a predictor."""
    limit: Limit = 0
    """Architectures are scored on at most this many validation images; 0 is all."""


@dataclasses.dataclass(frozen=True)
class ScoreComparison:
    """How scores are compared with a table of measured architectures.

    >>> comparison = ScoreComparison(metric="test", architectures=100)  # `jaxnas.OneShot(comparison=comparison)`
    >>> comparison.running_paths
    1000
    """

    metric: str | None = None
    """The metric of the table; by default the one that searches on this table use, such as a validation accuracy."""
    architectures: Count = 500
    """How many architectures are drawn at random from the table, and scored with each kind of batch norm statistics."""
    running_paths: Count = 1000
    """How many random paths give the running averages of batch norm statistics; each path sees one training batch."""


class Measured(NamedTuple):
    """Architectures of a table, int32 [P, D], and their values of a metric, float64 [P]."""

    table: str
    metric: str
    archs: np.ndarray
    values: np.ndarray


class Scores(NamedTuple):
    """Of which supernet scores are, on which data, and where they are kept.

    split: statistics are of "train", scores of "valid". seed: of the batches for statistics. devices: these share the
    architectures. made: policy of batch norm -> its compiled program, which is filled here: the scores of other
    parameters of the same supernet on the same data compile nothing anew.
    """

    supernet: Supernet
    params: PyTree
    split: SearchSplit
    dataset: data.Dataset
    scoring: Scoring
    seed: int
    folder: Path
    devices: Sequence[jax.Device]
    made: dict[str, Callable[[PyTree, Any, data.Examples], np.ndarray]]


def score(
    supernet: Supernet, params: PyTree, archs: Any, split: SearchSplit, dataset: data.Dataset, *,
    batch_norm: Literal["batch", "recalibrated"] = "recalibrated", batch_size: int = 250, batches: int = 8,
    seed: int = 0, devices: Sequence[jax.Device] | None = None,
) -> np.ndarray:  # fmt: skip
    """The metric of paths of a trained supernet on all of a validation part, float64 [P].

    archs: int [P, D]. dataset: that the parts are of. batch_norm: by the statistics of each validation batch of
    `batch_size` examples, or by those of `batches` training batches along the same path; running averages over other
    paths mean nothing to any one. seed: of the choice of these batches. devices: these share the architectures.

    Raises: ValueError for another batch_norm, where a number is out of its range, or the training part has not so many
    examples.

    >>> import flax.linen as nn
    >>> from jaxnas import choices, data
    >>> class Tiny(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         return nn.Dense(2)(nn.relu(nn.Dense(choices.width("hidden", (2, 4)))(x)))
    >>> own = choices.searchable(Tiny(), jnp.zeros((1, 3)))
    >>> rows = np.ones((16, 3), "float32"), np.arange(16) % 2
    >>> dataset = data.from_arrays(rows, rows, rows)
    >>> params = own.supernet.init(jax.random.key(0))
    >>> archs = np.array([[0], [1]])
    >>> values = score(own.supernet, params, archs, data.split(dataset, 0), dataset, batch_norm="batch", batch_size=16)
    >>> values.tolist()  # all examples are alike, and half of them are of each class
    [0.5, 0.5]
    """
    if batch_norm not in ("batch", "recalibrated"):
        raise ValueError(f"batch_norm must be batch or recalibrated, got {batch_norm!r}")
    augmentation, statistics = dataset.augmentation, None
    if batch_norm == "recalibrated":
        statistics = recalibrated(supernet.apply_path, augmentation, split.train, batches, batch_size, seed)
    of_paths = make_path_score(
        supernet.apply_path, augmentation, batch_size, statistics, devices, objective=dataset.objective
    )
    return of_paths(params, archs, split.valid)


def within(score: Score, pruned: Pruned) -> Score:
    """A score of the whole space's architectures as one of what is left."""
    embed = jax.jit(jax.vmap(pruned.embed))
    return lambda archs: score(embed(jnp.asarray(archs)))


def kept_scores(
    scores: Scores, policies: Sequence[str], choose: Callable[[Mapping[str, CachedScore]], Any], stop: Stop,
    averaged: tuple[Key, int] | None = None,
) -> Any:  # fmt: skip
    """What `choose` makes of the scores, policy of batch norm -> score, which keep what they have scored in a folder.

    A killed run goes on from there; a score is of the last parameters, which the run had finished. policies: of
    "batch", "recalibrated" and "running"; averaged: of the last, a key and the number of random paths. Architectures
    are of the whole space.
    """
    apply_path, augmentation = scores.supernet.apply_path, scores.dataset.augmentation
    size, count = scores.scoring.batch_size, scores.scoring.batches
    space, train = scores.supernet.space, scores.split.train

    def shared() -> Callable[[Any, Any], Any]:
        """Running averages over random paths, the same for every architecture."""
        if averaged is None:
            raise ValueError("running averages need a key and a number of paths")
        paths = jax.jit(jax.vmap(space.sample))(jax.random.split(*averaged))
        average = running(apply_path, augmentation, train, paths, size, scores.seed)(scores.params)
        return lambda params, arch: average

    statistics: dict[str, Callable[[], Any]] = {
        "batch": lambda: None,
        "recalibrated": lambda: recalibrated(apply_path, augmentation, train, count, size, scores.seed),
        "running": shared,
    }

    def score_of(name: str) -> Score:
        devices = scores.devices if len(scores.devices) > 1 else None
        objective = scores.dataset.objective
        score = scores.made.get(name) or make_path_score(
            apply_path, augmentation, size, statistics[name](), devices, objective=objective
        )
        if name != "running":  # those averages are of these parameters
            scores.made[name] = score
        return lambda archs: score(scores.params, archs, scores.split.valid)

    def with_known(by: Mapping[str, Score]) -> Any:
        known = {name: _known(_kept_in(scores.folder, name)) for name in by}
        return choose({name: CachedScore(score, space.canonical, known[name]) for name, score in by.items()})

    scores.folder.mkdir(exist_ok=True)

    def keep(name: str, archs: np.ndarray, values: np.ndarray) -> None:
        path = _kept_in(scores.folder, name)
        try:
            with open_to_append(path) as file:
                for entry in zip(archs.tolist(), values.tolist(), strict=True):
                    file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise OSError(f"cannot write {path}: {error.strerror}") from error

    return with_scores({name: score_of(name) for name in policies}, with_known, stop, keep)


def _kept_in(folder: Path, name: str) -> Path:
    return folder / f"scores-{name}.jsonl"


def _known(path: Path) -> dict[tuple[int, ...], float]:
    """The scores that a file has, whole lines alone: a kill may have cut the last one, which is removed."""
    entries = read_json_lines(path, tuple[list[int], float], "remove it to score again")
    write_atomic(path, "".join(json.dumps(entry) + "\n" for entry in entries))
    return {tuple(arch): value for arch, value in entries}
