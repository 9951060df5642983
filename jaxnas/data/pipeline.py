"""Batches as pure functions of (key, step): the position in the data is those two, and nothing else is to be saved.

Shapes: N examples, B batch, S batches.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Array, Batch, Key
from jaxnas.data.augment import augment, is_normalized, network_inputs, noisy
from jaxnas.data.dataset import Augmentation, Examples, count

_ROUNDS = 64


def permuted(key: Key, positions: Array, size: int) -> Array:
    """Where a random permutation of range(size) takes `positions` [B], int32, without making the whole permutation.

    The swap-or-not shuffle of Hoang, Morris and Rogaway (CRYPTO 2012, arXiv 1208.1176): each round pairs x with
    pivot - x modulo size and swaps the pair if a hash of its larger member is odd. It is a bijection for any size. The
    sort behind a whole permutation of 25,000 takes 16 ms at each step on a CPU, this takes 0.05 ms.

    >>> sorted(permuted(jax.random.key(0), jnp.arange(10), 10).tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    pivot_key, salt_key = jax.random.split(key)
    pivots = jax.random.randint(pivot_key, (_ROUNDS,), 0, size, jnp.int32)
    salts = jax.random.bits(salt_key, (_ROUNDS, 2), jnp.uint32)

    def swap_or_not(x: Array, entry: tuple[Array, Array]) -> tuple[Array, None]:
        pivot, salt = entry
        partner = pivot - x
        partner = jnp.where(partner < 0, partner + size, partner)
        larger = jnp.maximum(x, partner).astype(jnp.uint32)
        odd = _mix(_mix(larger ^ salt[0]) + salt[1]) & 1
        return jnp.where(odd == 1, partner, x), None

    return jax.lax.scan(swap_or_not, positions.astype(jnp.int32), (pivots, salts))[0]


def _mix(x: Array) -> Array:
    """A bijection of uint32 in which each bit depends on all: the finaliser of MurmurHash3 (Appleby)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def indices(key: Key, step: int | Array, size: int, batch_size: int) -> Array:
    """Which examples of a split a step is given: int32 [B].

    key: the same for all steps. step: counts from 0, and may be traced. size: N of the split.

    An epoch is size // batch_size steps and has a permutation of its own; within it no example comes twice, and what is
    over after the last full batch is left out of this epoch.

    Raises: ValueError where the batch is larger than the split.

    >>> epoch = [indices(jax.random.key(0), step, size=10, batch_size=5).tolist() for step in (0, 1)]
    >>> sorted(epoch[0] + epoch[1])
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    steps = _steps_per_epoch(size, batch_size)
    step = jnp.asarray(step, jnp.int32)
    positions = (step % steps) * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
    return permuted(jax.random.fold_in(key, step // steps), positions, size)


def take(data: Examples, chosen: Array) -> Examples:
    """The chosen examples, int32 [B], as they are stored: arrays [B, …].

    >>> data = Examples(np.array([0.5, 1.5, 2.5]), np.array([0, 1, 2], np.int32))
    >>> take(data, jnp.array([2, 0])).targets.tolist()
    [2, 0]
    """
    return jax.tree.map(lambda leaf: jnp.take(leaf, chosen, axis=0), data)


def plain_batch(data: Examples, chosen: Array, augmentation: Augmentation | None) -> Batch:
    """The chosen examples, int32 [B], as a network is given them and not augmented.

    >>> data = Examples(np.array([0.5, 1.5, 2.5]), np.array([0, 1, 2], np.int32))
    >>> batch = plain_batch(data, jnp.array([2, 0]), None)
    >>> batch.inputs.tolist(), batch.targets.tolist()
    ([2.5, 0.5], [2, 0])
    """
    inputs, targets = take(data, chosen)
    return Batch(network_inputs(inputs, augmentation), targets)


def plain_batches(data: Examples, chosen: np.ndarray, augmentation: Augmentation | None) -> list[Batch]:
    """`plain_batch` of each row of chosen, int [N, B]. The host cuts them, because stored images are read there.

    >>> data = Examples(np.array([0.5, 1.5, 2.5, 3.5]), np.array([0, 1, 2, 3], np.int32))
    >>> [batch.targets.tolist() for batch in plain_batches(data, np.array([[2, 0], [3, 1]]), None)]
    [[2, 0], [3, 1]]
    """
    parts = [jax.tree.map(lambda leaf, row=row: leaf[row], data) for row in chosen]
    return [plain_batch(part, jnp.arange(chosen.shape[1]), augmentation) for part in parts]


def make_batches(
    size: int, batch_size: int, augmentation: Augmentation | None, *, train: bool = True, cutout: bool = False
) -> Callable[[Key, int | Array, Examples], Batch]:
    """Makes (key, step, data) -> Batch for a split of `size` examples.

    The key stays the same over the steps. `data` holds the split's arrays and is an argument so that it is no constant
    of the compiled program; what comes after its first `size` examples, to divide them over devices, is not drawn.
    `augmentation` is that of the data set, None where its inputs are no images. With `train` false the batches are in
    random order but not augmented, and so they are where images are normalized already (float32). `cutout` adds the
    cutout of the data set, if it has one.

    Raises: ValueError where the batch is larger than the split, or cutout is asked for without `train`.

    >>> from jaxnas.data import load_dataset
    >>> digits = load_dataset("digits")
    >>> batches = make_batches(count(digits.train), 64, digits.augmentation)
    >>> batch = batches(jax.random.key(0), 5, digits.train)  # of step 5
    >>> batch.inputs.shape, batch.inputs.dtype, batch.targets.shape
    ((64, 8, 8, 1), dtype('float32'), (64,))
    """
    _steps_per_epoch(size, batch_size)
    if cutout and not train:
        raise ValueError("cutout=True belongs to training batches: leave it out with train=False")

    def batch(key: Key, step: int | Array, data: Examples) -> Batch:
        if count(data) < size:
            raise ValueError(f"these batches are for a split of {size} examples, got {count(data)}")
        chosen = indices(jax.random.fold_in(key, 0), step, size, batch_size)
        if augmentation is None or not train or is_normalized(data.inputs):
            return plain_batch(data, chosen, augmentation)
        images, targets = take(data, chosen)
        step_key, noise_key = (jax.random.fold_in(jax.random.fold_in(key, stream), step) for stream in (1, 2))
        return Batch(noisy(noise_key, augment(step_key, images, augmentation, cutout), augmentation.noise), targets)

    return batch


def eval_batches(size: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """All examples of a split in equal batches: (indices [S, B] int32, weights [S, B] float32).

    The last batch is filled up with example 0 at weight 0, so that each example counts exactly once and all batches
    have one shape. A batch larger than the split is made up in the same way.

    Raises: ValueError where a number is less than 1.

    >>> indices, weights = eval_batches(size=5, batch_size=3)
    >>> indices.tolist(), weights.tolist()
    ([[0, 1, 2], [3, 4, 0]], [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    """
    if size < 1 or batch_size < 1:
        raise ValueError(f"size and batch_size must be at least 1, got {size} and {batch_size}")
    count = -(-size // batch_size)
    position = np.arange(count * batch_size, dtype=np.int32).reshape(count, batch_size)
    inside = position < size
    return np.where(inside, position, 0).astype(np.int32), inside.astype(np.float32)


def _steps_per_epoch(size: int, batch_size: int) -> int:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if batch_size > size:
        raise ValueError(f"batch_size {batch_size} is larger than the split, which has {size} examples")
    return size // batch_size
