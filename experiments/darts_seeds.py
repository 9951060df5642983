"""Several seeds of one search at once: what one seed found may be chance, and what all found says how much.

The seeds share the data and its halves; seed s is else the search that `--seed s` alone makes, up to rounding. On
several devices each takes an equal share of the seeds.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from experiments.devices import chosen
from jaxnas.base import Arch, SearchAlgorithm, SearchSpace
from jaxnas.parallel import Seeds, many_seeds
from jaxnas.runfolder import RunFolder, write_json
from jaxnas.search import softmax_mixture
from jaxnas.train.chunk import make_chunk
from jaxnas.train.loop import Leg
from jaxnas.train.loop import run as run_loop

if TYPE_CHECKING:
    from experiments.darts import Config, SearchParts


def check(config: Config) -> None:
    """Raises ValueError for settings that cannot work with several seeds."""
    if config.seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {config.seeds}")
    if config.seeds == 1:
        return
    if not config.train.hold_out:
        raise ValueError("with several seeds the best is chosen by validation: train.hold_out must not be 0")
    if config.search.early_stop or config.search.prune:
        raise ValueError("search.early_stop and search.prune are for one search at a time: leave them out, or seeds")
    if config.devices.coordinator is not None:
        raise ValueError("several seeds run in one process: give no devices.coordinator, or run each seed by --seed")
    laid_out(config)


def laid_out(config: Config) -> Seeds:
    """The seeds over the devices: as many as are asked for, else as many as divide the seeds."""
    devices = chosen(config.devices, [config.seeds])
    # One seed fills a CPU, whose convolutions side by side are slower (benchmarks/seeds.py): there one after another.
    return many_seeds(config.seeds, "map" if devices[0].platform == "cpu" else "vmap", devices)


def search(
    run: RunFolder, config: Config, space: SearchSpace, algorithm: SearchAlgorithm, batch: Callable[..., Any],
    parts: SearchParts, stop: Callable[[], int | None],
) -> tuple[dict[str, Arch], float]:  # fmt: skip
    """The search stage of all seeds: ({"seed-0": architecture, …}, seconds)."""
    stage = run.stage("search")
    names = [f"seed-{config.seed + number}" for number in range(config.seeds)]
    if stage.result is not None:
        done = [space.from_genotype(genotype) for genotype in stage.result["genotypes"]]
        return dict(zip(names, done, strict=True)), stage.result["seconds"]
    settings, seeds = config.search, laid_out(config)
    steps = len(parts.train.labels) // settings.batch_size
    (phase,) = algorithm.phases
    # The keys of a seed are those that a search of this seed alone draws.
    roots = [jax.random.split(jax.random.key(config.seed + number), 3)[0] for number in range(config.seeds)]
    init_keys, run_keys, derive_keys, _ = jnp.stack([jax.random.split(root, 4) for root in roots], axis=1)
    weights = jax.jit(softmax_mixture)

    def after_round(epoch: int, state: Any) -> tuple[Any, dict[str, Any]]:
        del epoch
        return state, {f"weights_{kind}": w for kind, w in weights(state.alpha).items()}

    chunk = make_chunk(phase.step, batch, seeds=seeds)
    outcome = run_loop(
        [Leg("search", chunk, steps, 2 * settings.batch_size * config.seeds)],
        seeds.place(run_keys),
        jax.jit(jax.vmap(algorithm.init))(init_keys),
        seeds.place_data(parts),
        settings.epochs,
        stage=stage,
        after_round=after_round,
        stop=stop,
        place=seeds.place,
    )
    archs = jax.jit(jax.vmap(lambda key, state: algorithm.derive(key, state, None)))(derive_keys, outcome.state)
    found = dict(zip(names, list(archs), strict=True))
    genotypes = [space.to_genotype(arch) for arch in found.values()]
    stage.finish({"genotypes": genotypes, "seconds": outcome.seconds})
    for name, genotype in zip(names, genotypes, strict=True):
        write_json(run.path / f"genotype-{name}.json", genotype)
    return found, outcome.seconds


def choose(
    run: RunFolder, space: SearchSpace, found: Mapping[str, Arch], figures: Mapping[str, dict[str, Any]], first: int
) -> dict[str, dict[str, Any]]:
    """The figures with the best seed by validation as "found", which has those of all seeds in "seeds"."""
    best = max(found, key=lambda name: figures[name]["valid_accuracy"])
    shutil.copytree(run.stage(f"train-{best}").path / "network", run.path / "network", dirs_exist_ok=True)
    tested = [figures[name]["test_accuracy"] for name in found]
    seeds = {
        "chosen": first + list(found).index(best),
        "count": len(found),
        "mean_test_accuracy": float(np.mean(tested)),
        "std_test_accuracy": float(np.std(tested, ddof=1)),
        "agreement": share_equal([space.canonical(arch) for arch in found.values()]),
    }
    print(
        f"{len(found)} seeds: test {seeds['mean_test_accuracy']:.4f} ± {seeds['std_test_accuracy']:.4f}, "
        f"{seeds['agreement']:.0%} of two cells' choices are the same; by validation {best} is kept",
        flush=True,
    )
    return {"found": {**figures[best], "seeds": seeds}, **figures}


def share_equal(archs: ArrayLike) -> float:
    """Of canonical archs [P, D], the share of choices in which two of them are equal, mean over all pairs."""
    return float(np.mean([np.mean(a == b) for a, b in itertools.combinations(np.asarray(archs), 2)]))
