"""From a trained model to smaller ones: `shrink` scores alternatives, chooses under budgets, distils, and reports."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from jaxnas import data, saved
from jaxnas.cache import enable_cache
from jaxnas.choices import Searchable
from jaxnas.data import Dataset
from jaxnas.files import expanded
from jaxnas.fit import results
from jaxnas.ranges import Seed, check_settings, check_used
from jaxnas.runfolder import check_folder
from jaxnas.shrinking import reporting
from jaxnas.shrinking.distances import Distance, divergence_of
from jaxnas.shrinking.settings import Distillation, Fitting, Shrinking
from jaxnas.shrinking.trained import check_outputs, made_searchable, weights_of
from jaxnas.shrinking.work import Work


@dataclasses.dataclass(frozen=True)
class Shrunk:
    """What came out.

    own: the searchable model. result: the content of result.json; `result["budgets"]` has the networks of each budget.
    networks: budget, as it was given -> the network found for it, as (apply, params). folder: None where none was asked
    for.
    """

    own: Searchable
    result: dict[str, Any]
    networks: dict[float, saved.Loaded]
    folder: Path | None


@dataclasses.dataclass(frozen=True)
class _Seed:
    seed: Seed = 0


def shrink(
    model: Any,
    weights: Any,
    dataset: str | Dataset,
    settings: Shrinking | None = None,
    distillation: Distillation | None = None,
    *,
    training: Fitting | None = None,
    distance: Distance | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    cache_dir: str | None = None,
) -> Shrunk:
    """Makes smaller networks of a trained model, each within a budget.

    Units of each width are put in the order of their importance. Every alternative is put alone into the trained model,
    and scored by how far that takes the outputs on calibration data. An integer program chooses under each budget
    (Puzzle, Bercovich et al. 2024, https://arxiv.org/abs/2411.19146); its next-best solutions are scored whole. What is
    chosen learns from the trained model, as do baselines, with the same settings.

    model: a flax model with choices in it, which is trained at its widest (docs/own_model.md), or what `searchable`
    made of it. weights: what it learned: the variables of linen, {"params": …, "batch_stats": …}, an nnx module, or
    (params, statistics) as its network has them. They are not changed. None trains the model here, by `training`.
    dataset: a data set, or the name of one, as of `jaxnas.data.load_dataset`. distance: (outputs, outputs of the
    trained model) -> float [B], in place of the KL divergence of classes and the squared error of other targets.
    folder: where all goes; the same call on the same folder goes on where it was stopped. The network of the smallest
    budget is that of `jaxnas.load(folder, model=model)`.

    Raises: ValueError or OSError, before any long work, for what cannot work: a model without choices, weights of
    another model, data that does not fit, a budget below the smallest network, which is told.

    docs/shrink.md has an example.
    """
    settings = Shrinking() if settings is None else settings
    distillation = Distillation() if distillation is None else distillation
    fitting = Fitting() if training is None else training
    _check(settings, distillation, fitting, seed)
    if (weights is None) == (training is None):
        raise ValueError("give the weights of a trained model, or training, by which it is trained here; one of both")
    enable_cache(cache_dir)
    folder = None if folder is None else str(expanded(folder))
    if folder is not None:
        check_folder(folder)
    if isinstance(dataset, str):
        dataset = data.load_dataset(dataset)
        print(dataset.told(), flush=True)
    _check_sizes(settings, distillation, fitting, dataset)
    own = made_searchable(model, dataset)
    check_outputs(own, dataset)
    given = None if weights is None else weights_of(own, weights)
    work = Work(own, dataset, settings, distillation, fitting, divergence_of(dataset, distance), seed)
    if settings.cost != "latency_ms":
        for budget in settings.budgets:
            work.budget(budget, None)
    with results.held_run(folder, work.identity(given), {"folder": folder, "dataset": dataset.name}) as (run, stop):
        if run.resumed and run.result is not None:
            print(f"{run.path} is finished; this is its result", flush=True)
        else:
            work.go(run, stop, given)
        networks = {
            budget: saved.load(run.path / "stages" / f"{work.label(budget)}-found", model=own)
            for budget in settings.budgets
        }
        result = dict(run.result)  # type: ignore[arg-type]
        reporting.tell(result, run.path if folder is not None else None)
    return Shrunk(own, result, networks, None if folder is None else Path(folder))


def _check(settings: Shrinking, distillation: Distillation, training: Fitting, seed: int) -> None:
    """Raises: ValueError for settings that cannot work with any data."""
    for name, own, kind in (
        ("shrink", settings, Shrinking), ("distill", distillation, Distillation), ("train", training, Fitting),
        ("", _Seed(seed), _Seed),
    ):  # fmt: skip
        check_settings(name, own, kind)
    check_used("shrink", settings)
    if not settings.budgets:
        raise ValueError("shrink.budgets is empty: give at least one, 0.5 say")
    if len(set(settings.budgets)) < len(settings.budgets):
        raise ValueError(f"shrink.budgets has a budget twice: {', '.join(map(str, settings.budgets))}")
    if settings.calibration_batch > settings.calibration:
        raise ValueError(
            f"shrink.calibration_batch {settings.calibration_batch} is more than shrink.calibration "
            f"{settings.calibration}; give less"
        )


def _check_sizes(settings: Shrinking, distillation: Distillation, training: Fitting, dataset: Dataset) -> None:
    """Raises: ValueError for settings that need more examples than the data has."""
    there = data.count(data.split(dataset, 0, 0.0).train)
    for name, size in (
        ("shrink.calibration", settings.calibration), ("distill.batch_size", distillation.batch_size),
        ("train.batch_size", training.batch_size),
    ):  # fmt: skip
        if size > there:
            raise ValueError(f"{name} {size} is more than the training split of {dataset.name}, which has {there}")
