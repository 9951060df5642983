"""One-shot scores of architectures and the choice by them, for `experiments.one_shot`: all of it after the training.

Scores are kept in files, from which a killed run goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import seeds
from experiments.darts import SearchParts
from experiments.one_shot_budget import Budget, feasible_samples
from experiments.one_shot_config import Config
from experiments.one_shot_select import by_integer_program, evolution, guided, sampled
from experiments.scoring import Score, with_scores
from experiments.tabular_front import front
from jaxnas import data
from jaxnas.base import Key, SearchSpace, Skeleton, Supernet
from jaxnas.files import open_to_append, write_atomic
from jaxnas.spaces import Pruned
from jaxnas.train.path_score import CachedScore, make_path_score, recalibrated, running


class Measured(NamedTuple):
    """Architectures of a table, int32 [P, D], and their values of a metric, float64 [P].

    table: its name. fingerprint: of the whole table.
    """

    table: str
    fingerprint: dict[str, Any]
    metric: str
    archs: np.ndarray
    values: np.ndarray


class Setting(NamedTuple):
    """What a search is of, and where its steps run.

    skeleton: of the supernet. budget: of the space, or of what is left of it.
    """

    space: SearchSpace
    supernet: Supernet
    skeleton: Skeleton
    budget: Callable[[SearchSpace], Budget]
    measured: Measured | None
    layout: seeds.Layout


def within(score: Score, pruned: Pruned) -> Score:
    """A score of the whole space's architectures as one of what is left."""
    embed = jax.jit(jax.vmap(pruned.embed))
    return lambda archs: score(embed(jnp.asarray(archs)))


def scored(
    config: Config, setting: Setting, parts: SearchParts, dataset: data.Dataset, params: Any, folder: Path, key: Key,
    stop: Callable[[], int | None], choose: Callable[[Mapping[str, CachedScore]], Any], alone: bool = False,
) -> Any:  # fmt: skip
    """What `choose` makes of the scores, policy of batch norm -> score, which keep what they have scored in a folder.

    A killed run goes on from there; a score is of the last parameters, which the run had finished. alone: of the policy
    that selects, else of all where there is a benchmark to be compared with. Architectures are of the whole space.
    """
    scoring, augmentation, apply_path = config.scoring, dataset.augmentation, setting.supernet.apply_path
    size = scoring.batch_size
    policies: dict[str, Callable[[], Any]] = {
        "batch": lambda: None,
        "recalibrated": lambda: recalibrated(apply_path, augmentation, parts.train, scoring.batches, size, config.seed),
        "running": lambda: _shared(config, setting, parts, dataset, params, key),
    }
    devices = jax.local_devices()[: config.devices.count or None]
    names = [scoring.batch_norm] if alone or setting.measured is None else list(policies)

    def score_of(name: str) -> Score:
        score = make_path_score(apply_path, augmentation, size, policies[name](), devices if len(devices) > 1 else None)
        return lambda archs: score(params, archs, parts.valid)

    def with_known(scores: Mapping[str, Score]) -> Any:
        return choose(
            {
                name: CachedScore(score, setting.space.canonical, _known(_kept_in(folder, name)))
                for name, score in scores.items()
            }
        )

    folder.mkdir(exist_ok=True)

    def keep(name: str, archs: np.ndarray, values: np.ndarray) -> None:
        path = _kept_in(folder, name)
        try:
            with open_to_append(path) as file:
                for entry in zip(archs.tolist(), values.tolist(), strict=True):
                    file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise OSError(f"cannot write {path}: {error.strerror}") from error

    return with_scores({name: score_of(name) for name in names}, with_known, stop, keep)


def _kept_in(folder: Path, name: str) -> Path:
    return folder / f"scores-{name}.jsonl"


def _known(path: Path) -> dict[tuple[int, ...], float]:
    """The scores that a file has, whole lines alone: a kill may have cut the last one, which is removed."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    write_atomic(path, "".join(f"{line}\n" for line in lines))
    try:
        return {tuple(arch): value for arch, value in map(json.loads, lines)}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it to score again") from error


def _shared(
    config: Config, setting: Setting, parts: SearchParts, dataset: data.Dataset, params: Any, key: Key
) -> Callable[[Any, Any], Any]:
    """Running averages over random paths, the same for every architecture."""
    size = config.scoring.batch_size
    paths = jax.jit(jax.vmap(setting.space.sample))(jax.random.split(key, config.comparison.running_paths))
    average = running(setting.supernet.apply_path, dataset.augmentation, parts.train, paths, size, config.seed)(params)
    return lambda params, arch: average


def selected(
    config: Config, space: SearchSpace, budget: Budget, score: Score, key: Key, random_key: Key
) -> dict[str, Any]:
    """The best within the budget that the search scored, and of as many random ones."""
    scoring = config.scoring
    extra: dict[str, Any] = {}
    if config.search == "ilp":
        own, extra["additivity"] = by_integer_program(score, space, budget, key, scoring.evaluations, config.predictor)
    else:
        sampler = (
            evolution(space, scoring.evaluations, scoring.population)
            if config.search == "evolution"
            else guided(space, budget, config.predictor, scoring.evaluations, scoring.population)
        )
        own = sampled(sampler, score, space, budget, key, scoring.evaluations)
    if not own:
        raise ValueError(f"--search {config.search} found nothing within the budget; allow more, or --search ilp")
    drawn, walked = feasible_samples(space, budget, random_key, len(own))
    archs, values = np.array(list(own), np.int32), np.array(list(own.values()))
    random_values = score(drawn)
    everything, all_values = np.concatenate([archs, drawn]), np.concatenate([values, random_values])
    costs = budget.costs(everything)
    edge = front(np.stack([-costs["macs"], all_values], axis=1))

    def told(row: int) -> dict[str, Any]:
        arch = jnp.asarray(everything[row])
        return {
            "notation": space.notation(arch),
            "score": float(all_values[row]),
            **{name: float(value[row]) if name == "latency_ms" else int(value[row]) for name, value in costs.items()},
        }

    best, best_random = int(np.argmax(values)), int(np.argmax(random_values))
    return {
        "genotype": space.to_genotype(jnp.asarray(archs[best])),
        "random_genotype": space.to_genotype(jnp.asarray(drawn[best_random])),
        "search": config.search,
        "batch_norm": scoring.batch_norm,
        "evaluations": len(own),
        "random_evaluations": len(drawn),
        "random_by_walking": walked,
        "best_score": float(values.max()),
        "mean_score": float(values.mean()),
        "best_random_score": float(random_values.max()),
        "mean_random_score": float(random_values.mean()),
        "front": [told(int(row)) for row in edge],
        "points": {
            "search": {"macs": costs["macs"][: len(own)].tolist(), "scores": values.tolist()},
            "random": {"macs": costs["macs"][len(own) :].tolist(), "scores": random_values.tolist()},
        },
        **extra,
    }
