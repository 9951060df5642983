"""Settings of methods for each space: those of the papers, and two that are cut down for two cores of a CPU.

The smallest ones over NAS-Bench-201's space are for the data of digits201, where the truth is known of every cell: the
supernets are as large as its networks, and what is trained in the end is trained as they were. docs/leaderboard.md has
what the searches find there.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

from jaxnas.catalog import Entry, entry_of
from jaxnas.fit.candidates import BlackBox
from jaxnas.fit.darts import Darts
from jaxnas.fit.enas import Enas, EnasController
from jaxnas.fit.one_shot import OneShot
from jaxnas.fit.scores import ScoreComparison, Scoring
from jaxnas.fit.settings import Training
from jaxnas.fit.watch import Watch

Size = Literal["tiny", "small", "paper"]
SIZES: tuple[Size, ...] = ("tiny", "small", "paper")


class Preset(NamedTuple):
    """A method with its settings, how networks are trained in the end, the data set and the number of baselines.

    table: of measured architectures over the same space, where there is one for the data set.
    """

    method: Any
    training: Training
    dataset: str
    random_baselines: int
    table: str | None = None


# The program of NAS-Bench-201 for ENAS (batch norm apart), and its training of a network.
_NASBENCH201 = (
    Enas(
        epochs=250, batch_size=128, channels=16, cells=5, weight_decay=2.5e-4, clip=5.0, valid_part=0.5,
        controller=EnasController(
            steps=50, samples=20, batch_size=512, learning_rate=0.001, hidden=32, depth=2, temperature=5.0,
            tanh_constant=2.5, op_tanh_reduce=1.0,
        ),
    ),
    Training(
        epochs=200, batch_size=256, channels=16, cells=5, learning_rate=0.1, nesterov=True, weight_decay=5e-4,
        drop_path=0.0, cutout=False, hold_out=0.0, share_step=False,
    ),
)  # fmt: skip
# The authors' separable convolutions begin at a bias of 10, which the squashing makes a constant 1.1 / 2.5.
_MICRO = (
    Enas(controller=EnasController(prior=0.44)),
    Training(
        epochs=630, batch_size=144, channels=36, cells=17, learning_rate=0.05, weight_decay=4e-4, drop_path=0.4,
        auxiliary=True, hold_out=0.0, share_step=False,
    ),
)  # fmt: skip
# The paper's final macro network has 24 layers, the found ones twice; here the found network itself is trained.
_MACRO = (
    Enas(
        epochs=310, batch_size=128, channels=36, cells=12, weight_decay=5e-4,
        controller=EnasController(
            steps=50, samples=20, batch_size=128, learning_rate=0.001, tanh_constant=1.5, op_tanh_reduce=1.0
        ),
    ),
    Training(
        epochs=310, batch_size=100, channels=96, cells=12, learning_rate=0.05, weight_decay=4e-4, drop_path=0.0,
        hold_out=0.0, share_step=False,
    ),
)  # fmt: skip
# No paper has this space on CIFAR-10: the search of NAS-Bench-201, on a network of about MobileNetV2's width there.
_CHAIN = (
    dataclasses.replace(_NASBENCH201[0], channels=32, cells=12),
    Training(
        epochs=300, batch_size=128, channels=32, cells=12, learning_rate=0.05, weight_decay=3e-4, drop_path=0.1,
        hold_out=0.0, share_step=False,
    ),
)  # fmt: skip
_PAPER = {"nasbench201": _NASBENCH201, "darts": _MICRO, "enas_micro": _MICRO, "enas_macro": _MACRO, "chain": _CHAIN}
"""For ENAS and for training; a space that is not here has those of NAS-Bench-201."""
_DARTS = Training(epochs=600, batch_size=96, channels=36, cells=20, auxiliary=True, hold_out=0.0, share_step=False)
"""The training of the DARTS paper."""

_DIGITS201 = Training(
    epochs=8, batch_size=64, channels=8, cells=2, learning_rate=0.1, nesterov=True, weight_decay=5e-4, drop_path=0.0,
    cutout=False,
)  # fmt: skip
"""How the networks of the table of digits201 were trained."""


def _has_table(entry: Entry, size: Size) -> bool:
    return entry.name == "nasbench201" and size == "tiny"


def _on_digits201(method: Any) -> Preset:
    return Preset(method, _DIGITS201, "digits201", random_baselines=2, table="digits201")


def darts_preset(space: str | Entry = "darts", size: Size = "tiny") -> Preset:
    """Of DARTS. "paper" over another space than its own has the paper's search and the training of that space.

    The smallest over NAS-Bench-201's space is of DARTS-, which is better on its data than DARTS (docs/leaderboard.md).
    """
    entry = entry_of(space)
    cells = entry.small_cells
    if _has_table(entry, size):
        method = Darts(
            "darts_minus", epochs=40, batch_size=64, channels=8, cells=2, learning_rate=0.05, alpha_learning_rate=3e-3,
            watch=Watch(batches=3, eigenvalue_every=0),
        )  # fmt: skip
        return _on_digits201(method)
    if size == "paper":
        training = _DARTS if entry.name == "darts" else _paper(entry)[1]
        return Preset(Darts(cells=entry.paper_cells), training, "cifar10", 0)
    if size == "small":
        cells = 5 if entry.name == "darts" else cells
        method = Darts(
            epochs=4, batch_size=64, channels=8, cells=cells, alpha_learning_rate=3e-3, warmup_epochs=1, limit=10_000
        )
        training = Training(
            epochs=2, batch_size=96, channels=12, cells=cells, learning_rate=0.05, drop_path=0.0, share_step=False
        )
        return Preset(method, training, "cifar10", 3)
    method = Darts(
        epochs=12, batch_size=60, channels=8, cells=cells, learning_rate=0.05, alpha_learning_rate=3e-3,
        # Compiling the Hessian's products alone would take a good part of this run's time.
        watch=Watch(batches=3, eigenvalue_every=0),
    )  # fmt: skip
    training = Training(
        epochs=30, batch_size=64, channels=12, cells=cells, learning_rate=0.05, drop_path=0.05, cutout=False
    )
    return Preset(method, training, "digits", 2)


def enas_preset(space: str | Entry = "enas_micro", size: Size = "tiny") -> Preset:
    """Of ENAS."""
    entry = entry_of(space)
    method, training = _paper(entry)
    cells = entry.small_cells
    if size == "paper":
        return Preset(method, training, "cifar10", 0)
    controller = dataclasses.replace(method.controller, steps=4, samples=5, batch_size=120, prior=0.0)
    small = dataclasses.replace(method, channels=8, cells=cells, clip=1.0, controller=controller)
    if size == "small":
        method = dataclasses.replace(
            small, epochs=8, batch_size=64, valid_part=0.2, candidates=50, limit=10_000
        )  # fmt: skip
        return Preset(method, _small(training, cells), "cifar10", 1)
    method = dataclasses.replace(small, epochs=60, batch_size=60, period=60, valid_part=0.3, candidates=30)
    if _has_table(entry, size):
        return _on_digits201(dataclasses.replace(method, cells=2))
    return Preset(method, _tiny(training, cells), "digits", 0)


def one_shot_preset(space: str | Entry = "nasbench201", size: Size = "tiny") -> Preset:
    """Of one-shot search. Sizes and the final training are those of ENAS."""
    entry = entry_of(space)
    sizes, training = _paper(entry)
    cells = entry.small_cells
    if size == "paper":
        return Preset(OneShot(channels=sizes.channels, cells=sizes.cells), training, "cifar10", 0)
    scoring = Scoring(batch_size=120, batches=4, evaluations=60, population=20)
    if size == "small":
        method = OneShot(
            epochs=12, batch_size=64, channels=8, cells=cells, valid_part=0.2, limit=10_000,
            scoring=dataclasses.replace(scoring, batch_size=200),
            comparison=ScoreComparison(architectures=100, running_paths=200),
        )  # fmt: skip
        return Preset(method, _small(training, cells), "cifar10", 1)
    # A layer of the chain has eleven options, each of which a random path takes in one step of eleven.
    method = OneShot(
        epochs=200 if entry.name == "chain" else 60, batch_size=64, channels=8, cells=cells, valid_part=0.3,
        scoring=scoring, comparison=ScoreComparison(architectures=60, running_paths=200),
    )  # fmt: skip
    if _has_table(entry, size):
        scoring = Scoring(batch_size=360, batches=2, evaluations=200, population=40)
        return _on_digits201(dataclasses.replace(method, cells=2, scoring=scoring))
    return Preset(method, _tiny(training, cells), "digits", 0)


def black_box_preset(space: str | Entry = "nasbench201", size: Size = "tiny") -> Preset:
    """Of black-box search: the final training is that of ENAS, that of a candidate its first epochs."""
    entry = entry_of(space)
    training, cells = _paper(entry)[1], entry.small_cells
    if size == "paper":
        method = BlackBox(evaluations=100, epochs=12)
        return Preset(method, dataclasses.replace(training, hold_out=0.1), "cifar10", 0)
    if size == "small":
        return Preset(BlackBox(evaluations=10, epochs=1), _small(training, cells), "cifar10", 1)
    if _has_table(entry, size):
        return _on_digits201(BlackBox(sampler="predictor", evaluations=16, epochs=8))
    return Preset(BlackBox(), _tiny(training, cells), "digits", 1)


def _paper(entry: Entry) -> tuple[Enas, Training]:
    return _PAPER.get(entry.name, _NASBENCH201)


def _small(training: Training, cells: int) -> Training:
    return dataclasses.replace(
        training, epochs=2, batch_size=96, channels=12, cells=cells, learning_rate=0.05, drop_path=0.0,
        auxiliary=False, hold_out=0.1, share_step=False,
    )  # fmt: skip


def _tiny(training: Training, cells: int) -> Training:
    return dataclasses.replace(
        training, epochs=30, batch_size=64, channels=12, cells=cells, learning_rate=0.05, drop_path=0.05,
        auxiliary=False, cutout=False, hold_out=0.1, share_step=True,
    )  # fmt: skip


PRESETS = {"darts": darts_preset, "enas": enas_preset, "one_shot": one_shot_preset, "black_box": black_box_preset}
"""Method -> (space, size) -> `Preset`."""


def preset(method: str, space: str | Entry, size: Size = "tiny") -> Preset:
    """The settings of a method over a space.

    Raises: ValueError for a method, a space or a size that there is not.

    >>> method, training, dataset, baselines, table = preset("darts", "nasbench201")
    >>> method.name, method.method, dataset, table
    ('darts', 'darts_minus', 'digits201', 'digits201')
    >>> preset("enas", "enas_micro", "paper").training.epochs
    630
    """
    if method not in PRESETS or size not in SIZES:
        known = f"methods are {', '.join(PRESETS)}, sizes {', '.join(SIZES)}"
        raise ValueError(f"there is no preset of {method!r} of size {size!r}: {known}")
    return PRESETS[method](space, size)
