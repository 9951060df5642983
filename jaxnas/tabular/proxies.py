"""Proxies over a space: scores of all its architectures or of a sample, in a run folder, and their worth by a table.

Scoring goes in chunks that are files of their own, so that a killed run goes on. Architectures that compute the same
function are scored once: their networks differ by the names of parameters alone, and in parameters and multiply-adds of
edges without effect, which are counted for each.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from jaxnas import data, report
from jaxnas.base import Batch, SearchSpace, Skeleton, Supernet
from jaxnas.benchmarks import Table, functional_classes, make_table
from jaxnas.benchmarks.columns import read_npz
from jaxnas.benchmarks.named import metric_column
from jaxnas.benchmarks.table import table_fingerprint
from jaxnas.catalog import Entry
from jaxnas.console import tell
from jaxnas.data import Dataset
from jaxnas.files import write_atomic, write_csv
from jaxnas.proxies import (
    AGGREGATES,
    COSTS,
    PROXIES,
    Proxy,
    checked_names,
    log_ranks,
    over_architectures,
    rank_scores,
    subject,
)
from jaxnas.runfolder import RunFolder, open_run, versions
from jaxnas.spaces.nasbench201 import nasbench201_live
from jaxnas.tabular.pictures import draw_proxies
from jaxnas.tabular.run import NOTHING
from jaxnas.train.stop import check_stop, stop_on_signal

CHUNK = 64
"""Architectures between two looks at a signal, and in a file."""
EVERY, REACHED = "all", "reached"
"""The sets of which correlations are told: all architectures, and those without an operation that is never reached."""


class Scored(NamedTuple):
    """archs: int [A, D]. scores: name -> float [A], higher being better; NaN or -inf where a network gives nothing.
    seconds: of scoring, with compilation, in all runs that had a part in it."""

    archs: np.ndarray
    scores: dict[str, np.ndarray]
    seconds: float


class Network(NamedTuple):
    """The networks that are scored.

    entry: of the catalog. skeleton: around the cells. batch: on which they are scored. names: of `checked_names`.
    seed: of the parameters.
    """

    entry: Entry
    skeleton: Skeleton
    batch: Batch
    names: tuple[str, ...]
    seed: int = 0

    @property
    def space(self) -> SearchSpace:
        """Of which the networks are."""
        return self.entry.space(self.skeleton)


def make_network(
    entry: Entry, dataset: Dataset, names: Sequence[str], *, channels: int, cells: int, batch_size: int, seed: int = 0
) -> Network:
    """Networks for the images of a data set, and a batch of its training split, not augmented.

    Raises: ValueError for unknown names, and for a batch of fewer than 4 or of more images than there are.

    >>> from jaxnas.catalog import entry_of
    >>> digits = data.load_dataset("digits")
    >>> network = make_network(entry_of("nasbench201"), digits, ["naswot"], channels=4, cells=1, batch_size=16)
    >>> network.batch.inputs.shape, network.skeleton.num_classes
    ((16, 8, 8, 1), 10)
    """
    most = data.count(dataset.train)
    if not 4 <= batch_size <= most:
        raise ValueError(f"a batch has 4 to {most} images of {dataset.name}, got {batch_size}")
    skeleton = Skeleton(channels, cells, dataset.image_shape, dataset.num_outputs)
    chosen = np.random.default_rng(seed).choice(most, batch_size, replace=False)
    batch = data.plain_batch(dataset.train, jnp.asarray(chosen), dataset.augmentation)
    return Network(entry, skeleton, batch, checked_names(names), seed)


def score_archs(network: Network, archs: np.ndarray, folder: Path | None = None, stop: Any = None) -> Scored:
    """Scores of architectures int [A, D]; with a folder, of what is there already it takes the files.

    stop: as of `stop_on_signal`. Raises: ValueError for architectures of another space; Stopped where a signal came.
    """
    space = network.space
    if archs.ndim != 2 or archs.shape[1] != len(space.choices):
        raise ValueError(f"archs must be [A, {len(space.choices)}] for {space.name}, got {list(archs.shape)}")
    names = {name: PROXIES[name] for name in network.names if name in PROXIES}
    first, row = np.unique(_classes(network, archs), return_index=True, return_inverse=True)[1:]
    chunks = _chunks(network, names, archs[first], folder, stop) if names else []
    scores = {name: np.concatenate([chunk[name] for chunk in chunks]).astype(float)[row] for name in names}
    if any(name in COSTS for name in network.names):
        costs = [space.costs(arch, network.skeleton) for arch in archs]  # of numpy, which is faster
        scores |= {name: np.array([cost[name] for cost in costs], float) for name in COSTS}
    seconds = float(sum(chunk["seconds"].sum() for chunk in chunks))
    return Scored(archs, _with_aggregates(network.names, scores), seconds)


def _classes(network: Network, archs: np.ndarray) -> np.ndarray:
    """A number for each architecture, equal where the networks are."""
    if _is_nasbench201(network):
        return functional_classes(archs)
    canonical = np.asarray(jax.jit(jax.vmap(network.space.canonical))(jnp.asarray(archs)))
    return np.unique(canonical, axis=0, return_inverse=True)[1].reshape(-1)


def _is_nasbench201(network: Network) -> bool:
    return network.space.name == "nasbench201"


def _with_aggregates(names: Sequence[str], scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    made = {
        name: log_ranks({part: scores[part] for part in parts}) for name, parts in AGGREGATES.items() if name in names
    }
    return {name: (made | dict(scores))[name] for name in names}


def _supernet(network: Network) -> Supernet:
    """Whose paths are the networks: with the scales and offsets that these have, where the space has such."""
    entry, skeleton = network.entry, network.skeleton
    return entry.supernet(skeleton) if entry.together is None else entry.together(skeleton, network.space)


def scorer(network: Network, name: str) -> Callable[[np.ndarray], float]:
    """arch int [D] -> its score by a proxy: a function that `jaxnas.fit.search` maximizes, compiled at its first call.

    Raises: ValueError for a name that is no proxy. An aggregate is none, as it is made of ranks among architectures.

    docs/data.md has an example.
    """
    if name not in PROXIES:
        raise ValueError(f"what is searched is one of {', '.join(PROXIES)}, got {name!r}")
    program = _program(network, {name: PROXIES[name]})
    return lambda arch: float(program(np.asarray(arch, np.int32)[None])[name][0])


def _program(network: Network, proxies: Mapping[str, Proxy]) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """archs [P, D] -> name -> [P], compiled once for a P."""
    supernet = _supernet(network)
    params = jax.jit(supernet.init)(jax.random.key(network.seed))
    program = jax.jit(over_architectures(proxies, subject(supernet)))
    return lambda archs: jax.tree.map(np.asarray, program(params, jnp.asarray(archs), network.batch))


def _chunks(
    network: Network, proxies: Mapping[str, Proxy], archs: np.ndarray, folder: Path | None, stop: Any
) -> list[dict[str, np.ndarray]]:
    """In turn: name -> [P], and under "seconds" what each network took on average."""
    start = time.perf_counter()
    program = _program(network, proxies)
    parts: list[dict[str, np.ndarray]] = []
    starts = range(0, len(archs), CHUNK)
    for number, begin in enumerate(starts):
        path = None if folder is None else folder / f"{number:05d}.npz"
        if path is not None and path.exists():
            try:
                parts.append(read_npz(path).columns)
                continue
            except ValueError as error:
                tell(f"{error}: these networks are scored again")
        if stop is not None:
            check_stop(stop, number, len(starts), "chunk of scores")
        own = archs[begin : begin + CHUNK]
        filled = np.concatenate([own, np.repeat(own[:1], CHUNK - len(own), axis=0)])
        part = {name: values[: len(own)] for name, values in program(filled).items()}
        now = time.perf_counter()
        parts.append({**part, "seconds": np.full(len(own), (now - start) / len(own))})
        start = now
        if path is not None:
            _save(path, parts[-1])
    return parts


def _save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    write_atomic(path, content.getvalue())


def reached(archs: np.ndarray) -> np.ndarray:
    """Which NAS-Bench-201 cells [A, 6] have no operation that is never reached, bool [A]: an edge whose operation is
    not "none" lies on a way from the input to the output. 9,445 of the 15,625 cells."""
    live = np.asarray(jax.jit(jax.vmap(nasbench201_live))(jnp.asarray(archs)))
    return np.asarray((live == (archs != 0)).all(axis=1))


def correlations(network: Network, scored: Scored, values: np.ndarray) -> list[dict[str, Any]]:
    """Kendall's tau (b), Spearman's rho and the value of the architecture that is ranked first, of each name in each
    set; values: float [A] of a metric, NaN where there is none. Aggregates are of ranks within the set."""
    there = ~np.isnan(values)
    sets = {EVERY: there}
    if _is_nasbench201(network):
        sets[REACHED] = there & reached(scored.archs)
    rows: list[dict[str, Any]] = []
    for which, rows_of in sets.items():
        raw = {name: column[rows_of] for name, column in scored.scores.items() if name not in AGGREGATES}
        for name, column in _with_aggregates(network.names, raw).items():
            ranks, truth = log_ranks({name: column}), values[rows_of]
            same = np.ptp(ranks) == 0
            tau = None if same else float(stats.kendalltau(ranks, truth).statistic)
            rho = None if same else float(stats.spearmanr(ranks, truth).statistic)
            first = float(truth[np.argmax(ranks)])
            rows.append({"set": which, "count": len(truth), "proxy": name, "tau": tau, "rho": rho, "first": first})
    return rows


def with_scores(table: Table, path: str | os.PathLike[str]) -> Table:
    """The table with the scores of a run as further metrics, to be signals of predictors or what a sampler searches.

    path: a run folder of `run_proxies`, or its scores.npz. Scores come as quantiles of a normal distribution of their
    ranks. Raises: ValueError where a row of the table has none, a metric of that name is there, or the file is another
    one; OSError.
    """
    path = Path(path)
    found = read_npz(path / "scores.npz" if path.is_dir() else path).columns
    archs = found.pop("archs", None)
    if archs is None or any(scores.ndim != 1 or scores.dtype.kind not in "fiu" for scores in found.values()):
        raise ValueError(f"{path} has no scores of experiments.proxies: give the folder of such a run")
    if archs.dtype.kind not in "iu" or archs.ndim != 2 or archs.shape[1] != len(table.choices):
        raise ValueError(f"{path} has scores of architectures of {archs.shape[1:]} choices, {table.name} has others")
    rows = np.asarray(jax.jit(jax.vmap(table.index))(jnp.asarray(archs, jnp.int32)))
    missing = len(table.archs) - len(np.unique(rows[rows >= 0]))
    if missing:
        raise ValueError(f"{path} has no scores of {missing} of the {len(table.archs)} rows of {table.name}")
    if taken := [name for name in found if name in table.metrics]:
        raise ValueError(f"{table.name} has a metric {taken[0]!r} already, which {path} would hide")
    columns = {name: np.empty(len(table.archs), np.float32) for name in found}
    for name, column in columns.items():
        column[rows[rows >= 0]] = rank_scores(found[name])[rows >= 0]
    described = {**table.descriptions, **{name: f"the proxy {name}, as normal scores" for name in columns}}
    metrics = {**{name: np.asarray(value) for name, value in table.metrics.items()}, **columns}
    return make_table(table.name, table.choices, np.asarray(table.archs), metrics, described, table.fidelities)


def run_proxies(
    workdir: str | os.PathLike[str],
    network: Network,
    archs: np.ndarray,
    *,
    data_fingerprint: Any,
    table: Table | None = None,
    metric: str | None = None,
    runtime: Mapping[str, Any] = NOTHING,
    command: str | None = None,
) -> Scored:
    """Scores architectures int [A, D] in a run folder, or goes on with it; writes scores.csv, scores.npz, and beside a
    table the correlations with a metric, table.csv, pictures and a report.

    Costs and aggregates are made anew each time, so that a finished run may be asked for others. data_fingerprint: of
    the data set, in JSON's terms. runtime, command: as of `run_comparison`.

    Raises: ValueError and OSError as `score_archs` and `open_run`, Stopped where a signal came. Only for the main
    thread.

    docs/data.md shows it at work; the program is experiments/proxies.py.
    """
    values = None if table is None or metric is None else _values(table, metric, archs)
    skeleton = network.skeleton
    identity = {
        "experiment": "proxies", "space": network.space.name, "channels": skeleton.channels, "cells": skeleton.cells,
        "image_shape": list(skeleton.image_shape), "batch_size": len(network.batch.targets), "data": data_fingerprint,
        "proxies": sorted(set(network.names) & set(PROXIES)), "seed": network.seed, "architectures": len(archs),
        "table": None if table is None else table_fingerprint(table), "metric": metric,
    }  # fmt: skip
    with open_run(workdir, identity, runtime) as run, stop_on_signal() as stop:
        stage = run.stage("scores")
        scored = score_archs(network, archs, stage.path, stop)
        stage.finish({"seconds": scored.seconds})
        _save(run.path / "scores.npz", {"archs": scored.archs, **scored.scores})
        notation = [network.space.notation(arch) for arch in archs]
        rows = [
            {"architecture": text, **{name: f"{column[row]:.7g}" for name, column in scored.scores.items()}}
            for row, text in enumerate(notation)
        ]
        write_csv(run.path / "scores.csv", rows)
        _tell(run, network, scored, values, metric, command)
    return scored


def _values(table: Table, metric: str, archs: np.ndarray) -> np.ndarray:
    rows = np.asarray(jax.jit(jax.vmap(table.index))(jnp.asarray(archs)))
    return np.where(rows < 0, np.nan, metric_column(table, metric)[np.maximum(rows, 0)])


def _tell(
    run: RunFolder, network: Network, scored: Scored, values: np.ndarray | None, metric: str | None,
    command: str | None,
) -> None:  # fmt: skip
    rows = [] if values is None else correlations(network, scored, values)
    result: dict[str, Any] = {
        "space": network.space.name,
        "architectures": len(scored.archs),
        "metric": metric,
        "correlations": rows,
        "seed": network.seed,
        "versions": versions(),
        **({} if command is None else {"command": command}),
        "timing": {"scoring": round(scored.seconds, 1)},
    }
    pictures = []
    if rows and values is not None:
        write_csv(run.path / "table.csv", rows)
        best = max(rows, key=lambda row: (row["set"] == rows[-1]["set"], row["tau"] or -1.0))["proxy"]
        draw_proxies(
            rows, rank_scores(scored.scores[best]), values, best, str(metric), run.path / "report" / "proxies.png"
        )
        caption = f"Kendall's tau of each proxy with {metric}; right, the ranks of {best}."
        pictures.append(("Proxies", "proxies.png", caption))
    page = report.write(run.path, result, pictures)
    run.finish(result)
    print(f"\n{len(scored.archs):,} architectures of {network.space.name} scored in {scored.seconds:,.0f} s\n")
    for row in rows:
        tau, rho = (f"{row[key]:.3f}" if row[key] is not None else "–" for key in ("tau", "rho"))
        print(f"{row['set']:<8}{row['count']:>7}  {row['proxy']:<24}{tau:>7}{rho:>8}  {row['first']:.2f}")
    print(f"\nscores: {run.path / 'scores.csv'}\nreport: {page}")
