"""Several seeds of one search at once: what one seed found may be chance, and what all found says how much.

The seeds share the data and its halves; seed s is else the search that `--seed s` alone makes, up to rounding. On
several devices each takes an equal share of the seeds.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxnas.base import Arch, Key, PyTree, SearchSpace
from jaxnas.files import write_json
from jaxnas.fit.devices import chosen, spread
from jaxnas.fit.problem import Found, Problem
from jaxnas.kernels.trees import taken
from jaxnas.parallel import DataParallel, local, many_seeds
from jaxnas.report import shown
from jaxnas.runfolder import RunFolder, Stage
from jaxnas.train.chunk import Chunk, make_chunk

ONE = "found"
"""The name of what a search with one seed found."""
_LARGEST = 2**32 - 1


class Layout(NamedTuple):
    """Where the steps of a search run: those of one over all devices, or those of several seeds at once.

    axis_name: what the factory of the step is given. chunk: (step, batch) -> Chunk. start: (init, keys) -> the first
    state, its leaves [S, …] for several seeds. keys: those of all seeds for the loop. place, place_data: as of
    `DataParallel` and `Seeds`. devices: how many of this process take part. shares: over how many devices a batch is
    divided. memory_gb: what a step may use of each device, None for all that it has left.
    """

    axis_name: str | None
    chunk: Callable[[Callable[..., Any], Callable[..., Any]], Chunk]
    start: Callable[[Callable[[Key], PyTree], Sequence[Key]], PyTree]
    keys: Callable[[Sequence[Key]], Key]
    place: Callable[[PyTree], PyTree]
    place_data: Callable[[PyTree], PyTree]
    devices: int
    shares: int
    memory_gb: float | None


def check(problem: Problem, alone: Mapping[str, bool]) -> None:
    """Raises ValueError for settings that cannot work with several seeds. alone: flag -> whether it is given, of those
    that are for one search at a time."""
    if problem.seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {problem.seeds}")
    if problem.seeds == 1:
        return
    if problem.seed + problem.seeds - 1 > _LARGEST:
        raise ValueError(f"{problem.seeds} seeds from {problem.seed} on go beyond {_LARGEST}: give a smaller seed")
    if not problem.training.hold_out:
        raise ValueError("with several seeds the best is chosen by validation: train.hold_out must not be 0")
    for name in (name for name, given in alone.items() if given):
        raise ValueError(f"{name} is for one search at a time: leave it out, or seeds")
    if problem.devices.coordinator is not None:
        raise ValueError("several seeds run in one process: give no devices.coordinator, or run each seed by --seed")


def layout(problem: Problem, image_shape: tuple[int, int, int], *batch_sizes: int, side_by_side: bool) -> Layout:
    """Of a search with batches of these sizes, of images [H, W, C].

    side_by_side: whether seeds gain by being computed side by side, which those of methods that take single paths do
    not: all paths would be computed.

    Raises: ValueError where the devices that are asked for do not divide the seeds or the batches.
    """
    if problem.seeds == 1:
        return layout_over(spread(problem.devices, image_shape, *batch_sizes), problem.devices.memory_gb)
    devices = chosen(problem.devices, [problem.seeds])
    # One seed fills a CPU, whose convolutions side by side are slower (benchmarks/seeds.py): there one after another.
    how: Literal["vmap", "map"] = "vmap" if side_by_side and devices[0].platform != "cpu" else "map"
    seeds = many_seeds(problem.seeds, how, devices)
    return Layout(
        None,
        lambda step, batch: make_chunk(step, batch, seeds=seeds),
        lambda init, keys: jax.jit(jax.vmap(init))(stacked(keys)),
        lambda keys: seeds.place(stacked(keys)),
        seeds.place,
        seeds.place_data,
        len(devices),
        1,
        problem.devices.memory_gb,
    )


def layout_over(over: DataParallel, memory_gb: float | None = None) -> Layout:
    """Of one search whose batches are spread over devices."""
    return Layout(
        over.axis_name,
        lambda step, batch: make_chunk(over.step(step), batch),
        lambda init, keys: jax.jit(init)(keys[0]),
        lambda keys: keys[0],
        over.place,
        over.place_data,
        over.devices // jax.process_count(),
        over.devices,
        memory_gb,
    )


def stacked(keys: Sequence[Key]) -> Key:
    """[S]; to be stacked is for JAX's check of reused keys a use."""
    return jax.random.clone(jnp.stack(keys))


def names(problem: Problem) -> list[str]:
    """What the finds are called: "found", or "seed-0", "seed-1", …"""
    if problem.seeds == 1:
        return [ONE]
    return [f"seed-{problem.seed + number}" for number in range(problem.seeds)]


def search_keys(problem: Problem, parts: int) -> list[list[Key]]:
    """The keys of each part of the search, a list with one for each seed: those that a seed alone would have.

    The key of a seed is split into those of search, training, random baselines and budget.
    """
    seeds = range(problem.seed, problem.seed + problem.seeds)
    own = [jax.random.split(jax.random.split(jax.random.key(seed), 4)[0], parts) for seed in seeds]
    return [[keys[part] for keys in own] for part in range(parts)]


def states(count: int, state: PyTree) -> list[PyTree]:
    """The state of each of so many seeds, for one device."""
    if count == 1:
        return [jax.tree.map(local, state)]
    whole = jax.device_get(state)
    return [jax.tree.map(jnp.asarray, taken(whole, n)) for n in range(count)]


def searched(
    run: RunFolder, problem: Problem, space: SearchSpace,
    search: Callable[[Stage], tuple[list[dict[str, Any]], float]],
) -> dict[str, Found]:  # fmt: skip
    """What each seed found in the stage "search", which is gone through unless it was finished before.

    search: stage -> (of each seed, in JSON's terms: "genotype"; "told", what a result says of it; and "beside", where
    there are such, the genotypes of baselines of its own), and the seconds of all.
    """
    stage = run.stage("search")
    done = stage.result
    if done is None:
        found, seconds = search(stage)
        done = {"found": found, "seconds": seconds}
        stage.finish(done)
    return {
        name: Found(
            space,
            space.from_genotype(own["genotype"]),
            own["told"],
            {other: space.from_genotype(genotype) for other, genotype in own.get("beside", {}).items()},
            seconds=done["seconds"],
        )
        for name, own in zip(names(problem), done["found"], strict=True)
    }


def write_genotypes(run: RunFolder, space: SearchSpace, found: Mapping[str, Arch]) -> None:
    """A file for each; prints them too."""
    for name, arch in found.items():
        print(f"{name}: {space.notation(arch)}", flush=True)
        write_json(run.path / ("genotype.json" if name == ONE else f"genotype-{name}.json"), space.to_genotype(arch))


def choose(
    run: RunFolder, problem: Problem, space: SearchSpace, found: Mapping[str, Arch], figures: dict[str, dict[str, Any]]
) -> tuple[dict[str, dict[str, Any]], int | None]:
    """(the figures with the best seed by validation as "found", and the index of that seed).

    With one seed nothing is to be chosen. Else "seeds" of it tells what there was, and its network and genotype become
    those of the run.
    """
    if problem.seeds == 1:
        return figures, None
    metric = problem.dataset.objective.name
    best = max(found, key=lambda name: figures[name][f"valid_{metric}"])
    number = list(found).index(best)
    shutil.copytree(run.stage(f"train-{best}").path / "network", run.path / "network", dirs_exist_ok=True)
    write_json(run.path / "genotype.json", figures[best]["genotype"])
    tested = [figures[name][f"test_{metric}"] for name in found]
    seeds = {
        "chosen": problem.seed + number,
        "count": len(found),
        "metric": metric,
        "mean_test": float(np.mean(tested)),
        "std_test": float(np.std(tested, ddof=1)),
        "agreement": share_equal([space.canonical(arch) for arch in found.values()]),
        "agreement_by_chance": share_equal_by_chance(space),
    }
    print(f"{told(seeds)}; by validation {best} is kept", flush=True)
    return {ONE: {**figures[best], "seeds": seeds}, **figures}, number


def once(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Figures for a picture, of which the seed that was kept is there as "found (seed-N)" alone."""
    if "seeds" not in figures[ONE]:
        return dict(figures)
    kept = f"seed-{figures[ONE]['seeds']['chosen']}"
    others = {name: row for name, row in figures.items() if name not in (ONE, kept)}
    return {f"{ONE} ({kept})": figures[ONE], **others}


def told(seeds: Mapping[str, Any]) -> str:
    """What several seeds gave, in one line."""
    return (
        f"{seeds['count']} seeds: test {seeds['metric']} {seeds['mean_test']:.4f} ± {seeds['std_test']:.4f}; "
        f"two found architectures have {seeds['agreement']:.0%} of their choices in common, two random ones "
        f"{seeds['agreement_by_chance']:.0%}"
    )


def tables(
    found: Mapping[str, Arch], figures: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """The seeds for the report: a line of each and one of all; nothing with one seed."""
    if len(found) == 1:
        return []
    seeds = figures[ONE]["seeds"]
    metric = seeds["metric"]
    rows: list[tuple[str, ...]] = [
        (
            name, shown(figures[name][f"test_{metric}"], metric), shown(figures[name][f"valid_{metric}"], metric),
            "kept" if name == f"seed-{seeds['chosen']}" else "", figures[name]["notation"],
        )
        for name in found
    ]  # fmt: skip
    head = ("Seed", f"Test {metric}", f"Validation {metric}", "", "Found")
    return [("Seeds", head, rows), ("All seeds", ("Mean ± standard deviation",), [(told(seeds),)])]


def share_equal(archs: ArrayLike) -> float:
    """Of canonical archs [P, D], the share of choices in which two of them are equal, mean over all pairs."""
    return float(np.mean([np.mean(a == b) for a, b in itertools.combinations(np.asarray(archs), 2)]))


def share_equal_by_chance(space: SearchSpace, count: int = 200) -> float:
    """`share_equal` of random architectures."""
    archs = jax.jit(jax.vmap(lambda key: space.canonical(space.sample(key))))(
        jax.random.split(jax.random.key(0), count)
    )
    return share_equal(np.asarray(archs))
