"""What a method is given, and what it gives back: the contracts of the road."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from jaxnas import data
from jaxnas.base import Arch, SearchSpace, Skeleton, Supernet
from jaxnas.catalog import Entry
from jaxnas.data import Dataset
from jaxnas.fit.budget import Budget
from jaxnas.fit.devices import Devices
from jaxnas.fit.settings import Dtype, Training, image_shape_of, skeleton_of
from jaxnas.fit.truth import Truth
from jaxnas.runfolder import RunFolder

Stop = Callable[[], int | None]
"""The number of a signal, once one came."""
Picture = tuple[str, str, str]
"""Title, file in the folder of the report, caption."""


class Problem(NamedTuple):
    """What is searched, on what, and with what means.

    entry: all that belongs to the space. training: how networks are trained in the end. space: the choices of those
    networks. budget: what they may cost. truth: a table that knows what architectures are worth, or None. seeds: how
    many searches, from `seed` on. dtype: of the activations of all networks. evaluate: (seed, arch int [D]) -> the
    metric of a candidate in the place of its training, such as an entry of a table, in the same unit; several threads
    may call it. None where candidates are trained. Methods without candidates do not call it.
    """

    entry: Entry
    dataset: Dataset
    training: Training
    space: SearchSpace
    budget: Callable[[SearchSpace], Budget]
    truth: Truth | None = None
    seed: int = 0
    seeds: int = 1
    devices: Devices = Devices()
    dtype: Dtype = "float32"
    evaluate: Callable[[int, np.ndarray], float] | None = None

    @property
    def trained_skeleton(self) -> Skeleton:
        """That of the networks that are trained in the end."""
        return skeleton_of(self.training, self.dataset, self.dtype)

    def skeleton(self, channels: int, cells: int) -> Skeleton:
        """That of a search network for the data set. Data without images has (1, 1, 1), which no network reads."""
        return Skeleton(channels, cells, image_shape_of(self.dataset), self.dataset.num_outputs, dtype=self.dtype)

    def supernet(self, channels: int, cells: int, **how: Any) -> Supernet:
        """The supernet of a search network. how: what else that of the space takes.

        Raises: ValueError where its choices are not those of the networks that are trained in the end.
        """
        supernet = self.entry.supernet(self.skeleton(channels, cells), **how)
        if supernet.space.choices != self.space.choices:
            raise ValueError(
                f"search.cells {cells} and train.cells {self.training.cells} make other choices over "
                f"{self.entry.name}: give the same number"
            )
        return supernet._replace(space=self.space)  # which knows its costs


class Found(NamedTuple):
    """What one search found.

    arch: the architecture. told: what a result says of the search, in JSON's terms. beside: baselines of the method's
    own, which are trained beside it. state: the last state of the algorithm, which `fit.search` gives and a road does
    not. seconds: how long the search took.
    """

    space: SearchSpace
    arch: Arch
    told: dict[str, Any] = {}  # noqa: RUF012  nobody changes it
    beside: Mapping[str, Arch] = {}
    state: Any = None
    seconds: float = 0.0

    @property
    def genotype(self) -> dict[str, Any]:
        """The architecture in its JSON form."""
        return self.space.to_genotype(self.arch)

    @property
    def notation(self) -> str:
        """The architecture in the field's own notation."""
        return self.space.notation(self.arch)


def no_pictures(run: RunFolder, found: Mapping[str, Found], kept: str) -> Sequence[Picture]:
    """Of a method that draws nothing."""
    return []


class Prepared(NamedTuple):
    """A method that is ready to search, after everything was checked that can be checked before.

    search: (run folder, stop) -> what each seed found, by its name ("found", or "seed-0", "seed-1", …). identity:
    fingerprints of what the method read from files. pictures: (run folder, found, name of the one that is kept) -> what
    was drawn into the folder's report/.
    """

    search: Callable[[RunFolder, Stop], dict[str, Found]]
    identity: dict[str, Any] = {}  # noqa: RUF012
    pictures: Callable[[RunFolder, Mapping[str, Found], str], Sequence[Picture]] = no_pictures


class Method(Protocol):
    """A way to search: a frozen dataclass of its settings, which are a part of a run's identity.

    docs/own_method.md has two examples.

    `prepare` raises ValueError for what cannot work, before anything is compiled. `runtime` names those fields that
    numbers do not depend on, such as paths.
    """

    name: ClassVar[str]

    def prepare(self, problem: Problem) -> Prepared:
        """Makes the search of a problem."""
        ...


def check_method(method: Any) -> None:
    """Raises ValueError where something is not a `Method`."""
    whole = isinstance(getattr(method, "name", None), str) and callable(getattr(method, "prepare", None))
    if not whole or not dataclasses.is_dataclass(method) or isinstance(method, type):
        raise ValueError(
            "a method is a dataclass of its settings with `name` and `prepare`, such as jaxnas.Darts() or "
            f"jaxnas.preset('darts', 'nasbench201').method, got {method!r:.200}"
        )


def settings_of(method: Any) -> dict[str, Any]:
    """The settings of a method that numbers depend on, in JSON's terms.

    Raises: ValueError where it is not a `Method`.
    """
    check_method(method)
    settings = dataclasses.asdict(method)
    for name in getattr(method, "runtime", ()):
        settings.pop(name)
    return settings


class SearchSplit(NamedTuple):
    """The part that weights learn from and the part that the architecture does, disjoint."""

    train: data.Examples
    valid: data.Examples


def search_split(
    dataset: Dataset, seed: int, valid_part: float, limit: int, sizes: Mapping[str, tuple[str, int]], prefix: str
) -> SearchSplit:
    """The part of the training split that weights learn from and the one that the architecture does, disjoint.

    valid_part: the share of the latter, where the data set has no validation split of its own. limit: at most so many
    examples in both, 0 for all. sizes: part -> (flag, batch size) of the batches that will be drawn from it. prefix: of
    the flags, "search." say.

    Raises: ValueError where a batch, the limit or the part does not fit.
    """
    if limit < 0 or limit == 1:
        raise ValueError(f"{prefix}limit must be 0 for all, or at least 2, got {limit}")
    if not 0 < valid_part < 1:
        raise ValueError(f"{prefix}valid_part must be between 0 and 1, got {valid_part}")
    train, valid = data.split(dataset, seed, valid_part)
    if valid is None:
        raise ValueError(f"{prefix}valid_part {valid_part} leaves no image to learn the architecture from; choose more")
    if limit:
        kept = round(limit * valid_part)
        train, valid = data.limited(train, limit - kept), data.limited(valid, kept)
    parts = {"train": train, "valid": valid}
    for part, (flag, size) in sizes.items():
        there = data.count(parts[part])
        if size > there:
            raise ValueError(f"{flag} {size} is larger than its part, which has {there} examples; choose a smaller one")
    return SearchSplit(train, valid)
