"""Scores of single paths of a supernet on a whole split, all on the same batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Arch, Array, Aux, Context, PyTree
from jaxnas.data.augment import normalise
from jaxnas.data.dataset import Augmentation, Examples


def make_path_score(
    apply_path: Callable[[PyTree, Arch, Array, Context], tuple[Array, Aux]], augmentation: Augmentation, batch_size: int
) -> Callable[[PyTree, Array, Examples], np.ndarray]:
    """Makes (params, archs [P, D], data) -> accuracy of each on all examples, float64 [P]; compiled once.

    Batch norm is by the statistics of each batch, the policy "batch": averages over other paths would mean nothing. All
    batches have `batch_size` images, or all there are; the last is filled up with examples that count nothing, taken
    from the first, so that it has statistics like the others.

    Raises: ValueError where batch_size is under 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")

    @jax.jit
    def correct(params: PyTree, arch: Arch, images: Array, labels: Array, counts: Array) -> Array:
        logits, _ = apply_path(params, arch, normalise(images, augmentation.mean, augmentation.std), Context())
        return jnp.sum((jnp.argmax(logits, axis=1) == labels) & counts)

    def score(params: PyTree, archs: Any, data: Examples) -> np.ndarray:
        total = len(data.labels)
        size = min(batch_size, total)
        position = np.arange(-(-total // size) * size).reshape(-1, size)
        images, labels = jnp.asarray(data.images), jnp.asarray(data.labels)
        batches = [(images[p % total], labels[p % total], jnp.asarray(p < total)) for p in position]
        counted = jax.device_get([[correct(params, arch, *batch) for batch in batches] for arch in jnp.asarray(archs)])
        return np.array([sum(int(c) for c in row) for row in counted]) / total

    return score
