"""Scores of single paths of a supernet on a whole split, all on the same batches.

What a path is normalized by is the caller's choice, and belongs in every report of its score: the statistics of each
validation batch (the default); statistics estimated anew for this very path from training batches (`recalibrated`, Guo
et al. 2020, https://arxiv.org/abs/1904.00420); or averages over other paths (`running`), which are what a supernet that
is trained like a network would have, and mean nothing to any one path: known to be bad, and here to be compared with.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxnas.base import Arch, Array, Aux, Context, Objective, PyTree, Stats
from jaxnas.data.augment import network_inputs
from jaxnas.data.dataset import Augmentation, Examples, count, noun
from jaxnas.kernels.compiling import top_level_jit
from jaxnas.objectives import CLASSIFICATION

ApplyPath = Callable[[PyTree, Arch, Any, Context], tuple[Any, Aux]]
"""That of a `Supernet`."""
Statistics = Callable[[PyTree, Arch], Stats]
"""(params, arch) -> what the batch norms of this path are to normalize by."""


def make_path_score(
    apply_path: ApplyPath,
    augmentation: Augmentation | None,
    batch_size: int,
    statistics: Statistics | None = None,
    devices: Sequence[jax.Device] | None = None,
    *,
    objective: Objective = CLASSIFICATION,
) -> Callable[[PyTree, Array, Examples], np.ndarray]:
    """Makes (params, archs [P, D], data) -> the metric of each, its mean over all examples, float64 [P]; compiled once.

    augmentation: that of the data set, None where its inputs are no images. statistics: by which a path is normalized,
    traceable; None is those of each batch. All batches have `batch_size` examples, or all there are; the last is filled
    up with examples that count nothing, taken from the first, so that it has statistics like the others. devices:
    several share the architectures, each taking every so many-th and one after another, with all of parameters and
    data; by default nothing is shared. objective: that of the data set, whose metric is compared.

    Raises: ValueError where batch_size is under 1, or there is no device.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if devices is not None and not devices:
        raise ValueError("devices must be at least one, or None; got none")

    def summed(params: PyTree, arch: Arch, bn: Stats | None, batch: Examples, counts: Array) -> Array:
        context = Context() if bn is None else Context(bn)
        outputs, _ = apply_path(params, arch, network_inputs(batch.inputs, augmentation), context)
        return jnp.sum(jnp.where(counts, objective.metric(outputs, batch.targets), 0.0))

    one = top_level_jit(summed)
    shared = None if devices is None else _shared_out(summed, statistics, devices)

    def score(params: PyTree, archs: Any, data: Examples) -> np.ndarray:
        total = count(data)
        size = min(batch_size, total)
        position = np.arange(-(-total // size) * size).reshape(-1, size)
        arrays = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), data)

        def at(positions: np.ndarray) -> tuple[Examples, Array]:
            return jax.tree.map(lambda leaf: leaf[positions % total], arrays), jnp.asarray(positions < total)

        if shared is not None:
            return shared(params, np.asarray(archs, np.int32), at(position)) / total
        batches = [at(positions) for positions in position]
        sums = []
        for arch in jnp.asarray(archs):
            bn = None if statistics is None else statistics(params, arch)
            sums.append([one(params, arch, bn, *batch) for batch in batches])
        return np.array([math.fsum(row) for row in jax.device_get(sums)]) / total

    return score


PORTION = 32
"""Architectures that a device takes at most before the next are given out; one program, whatever their number."""


def _shared_out(
    summed: Callable[..., Array], statistics: Statistics | None, devices: Sequence[jax.Device]
) -> Callable[[PyTree, np.ndarray, tuple[Examples, Array]], np.ndarray]:
    """Makes (params, archs [P, D], batches) -> the sum of the metric of each, float64 [P], over several devices."""
    mesh = Mesh(np.array(devices), ("population",))
    everywhere, apart = PartitionSpec(), PartitionSpec("population")

    # Devices do different work and nothing is exchanged, so there is nothing to be checked.
    @top_level_jit
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(everywhere, apart, apart, everywhere), out_specs=apart, check_vma=False
    )
    def of_portion(params: PyTree, archs: Array, there: Array, batches: tuple[Examples, Array]) -> Array:
        def next_one(number: Array, found: Array) -> Array:
            arch = archs[number]
            bn = None if statistics is None else statistics(params, arch)
            sums = jax.lax.map(lambda batch: summed(params, arch, bn, *batch), batches)
            return found.at[number].set(sums.sum())

        # As many as there are, which is data: what fills up a portion is not computed.
        return jax.lax.fori_loop(0, there[0], next_one, jnp.zeros(len(archs), jnp.float32))

    def over_devices(params: PyTree, archs: np.ndarray, batches: tuple[Examples, Array]) -> np.ndarray:
        # Wherever a training left them.
        params, batches = jax.device_put((params, batches), NamedSharding(mesh, everywhere))
        size, found = len(devices), []
        for start in range(0, len(archs), size * PORTION):
            part = archs[start : start + size * PORTION]
            # Device d has those at d, d + size, …, so that none waits for more than one.
            padded = np.zeros((PORTION * size, archs.shape[1]), np.int32)
            padded[: len(part)] = part
            counts = np.array([len(part[device::size]) for device in range(size)], np.int32)
            given = padded.reshape(PORTION, size, -1).transpose(1, 0, 2).reshape(padded.shape)
            sums = np.asarray(of_portion(params, given, counts, batches), np.float64)
            found.append(sums.reshape(size, PORTION).T.reshape(-1)[: len(part)])
        return np.concatenate(found) if found else np.zeros(0)

    return over_devices


def recalibrated(
    apply_path: ApplyPath,
    augmentation: Augmentation | None,
    data: Examples,
    batches: int,
    batch_size: int,
    seed: int = 0,
) -> Statistics:
    """Statistics of a path: the mean over some training batches of what its batch norms see there, forward only.

    Every norm sees what the norms before it make of the same batch, as in training. The batches are a random choice of
    `data`, the same for all paths, without augmentation; each is one dispatch of one program.

    Raises: ValueError where a number is less than 1 or the batches are more than the data.
    """
    inputs = _batches(data, batches, batch_size, seed)
    see = _make_see(apply_path, augmentation)

    def statistics(params: PyTree, arch: Arch) -> Stats:
        mean: Stats = None
        for number, batch in enumerate(inputs, start=1):
            seen = see(params, arch, batch)
            # The cumulative average, so that nothing but the mean is kept.
            mean = seen if mean is None else _toward(mean, seen, 1.0 / number)
        return mean

    return statistics


def running(
    apply_path: ApplyPath,
    augmentation: Augmentation | None,
    data: Examples,
    paths: Array,
    batch_size: int,
    seed: int = 0,
    momentum: float = 0.1,
) -> Callable[[PyTree], Stats]:
    """Makes params -> the running averages of a supernet, one set for all paths.

    paths: int32 [N, D], each sees the next training batch, again from the first after the last, and what ran of it
    moves by `momentum`, from (0, 1). They are as of the end of a training that took those paths, with the last
    parameters: without the lag of averages that were collected on the way.

    Raises: ValueError where the data is less than a batch, or momentum not in (0, 1].
    """
    if not 0.0 < momentum <= 1.0:
        raise ValueError(f"momentum must be in (0, 1], got {momentum}")
    inputs = _batches(data, max(1, min(len(paths), count(data) // max(1, batch_size))), batch_size, seed)
    see = _make_see(apply_path, augmentation)

    def statistics(params: PyTree) -> Stats:
        average: Stats = None
        for arch, batch in zip(paths, itertools.cycle(inputs)):  # endless
            seen = see(params, arch, batch)
            average = _initial(seen) if average is None else average
            average = _toward_what_ran(average, seen, momentum)
        return average

    return statistics


def _batches(data: Examples, batches: int, batch_size: int, seed: int) -> list[PyTree]:
    """The inputs of disjoint random batches, as they are stored."""
    for name, value in (("batches", batches), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    total = count(data)
    if batches * batch_size > total:
        raise ValueError(
            f"{batches} batches of {batch_size} {noun(data)} are more than the {total} there are; choose fewer"
        )
    chosen = np.random.RandomState(seed).permutation(total)[: batches * batch_size]
    return [
        jax.tree.map(lambda leaf, rows=rows: jnp.asarray(leaf[rows]), data.inputs)
        for rows in chosen.reshape(batches, batch_size)
    ]


def _make_see(apply_path: ApplyPath, augmentation: Augmentation | None) -> Callable[[PyTree, Arch, PyTree], Stats]:
    @jax.jit  # several devices call it inside another one
    def see(params: PyTree, arch: Arch, inputs: PyTree) -> Stats:
        return apply_path(params, arch, network_inputs(inputs, augmentation), Context())[1].stats

    return see


@jax.jit
def _toward(old: Stats, new: Stats, share: float | Array) -> Stats:
    return jax.tree.map(lambda a, b: a + share * (b - a), old, new)


def _pairs(stats: Stats) -> Iterator[tuple[Array, Array]]:
    leaves = jax.tree.leaves(stats)
    return zip(leaves[::2], leaves[1::2], strict=True)


def _initial(stats: Stats) -> Stats:
    """Mean 0 and variance 1 in the form of some statistics."""
    leaves = [leaf for mean, variance in _pairs(stats) for leaf in (jnp.zeros_like(mean), jnp.ones_like(variance))]
    return jax.tree.unflatten(jax.tree.structure(stats), leaves)


@jax.jit
def _toward_what_ran(old: Stats, new: Stats, share: float | Array) -> Stats:
    """Supernets give mean 0 and variance 1 for a norm that did not run."""
    leaves = []
    for before, seen in zip(_pairs(old), _pairs(new), strict=True):
        ran = (seen[0] != 0.0) | (seen[1] != 1.0)
        leaves += [jnp.where(ran, a + share * (b - a), a) for a, b in zip(before, seen, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(old), leaves)


class CachedScore:
    """A score that asks for nothing twice: archs [P, D] -> float64 [P], each kept by its canonical form.

    values: canonical architecture -> score, in the order in which they came; what is put there is not asked for. Of an
    architecture's spellings the canonical one is scored.
    """

    def __init__(
        self,
        score: Callable[[Array], np.ndarray],
        canonical: Callable[[Arch], Arch],
        values: dict[tuple[int, ...], float] | None = None,
    ) -> None:
        self.values = {} if values is None else dict(values)
        self._score = score
        self._canonical = jax.jit(jax.vmap(canonical))

    def __call__(self, archs: Any) -> np.ndarray:
        keys = [tuple(row) for row in np.asarray(self._canonical(jnp.asarray(archs))).tolist()]
        new = [key for key in dict.fromkeys(keys) if key not in self.values]
        if new:
            found = self._score(jnp.asarray(new, jnp.int32))
            self.values.update(zip(new, found.tolist(), strict=True))
        return np.array([self.values[key] for key in keys], np.float64)
