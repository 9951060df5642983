"""Moved and noisy digits: the data on which the networks of the shipped benchmark digits201 were trained and measured.

The images are those of `jaxnas.data.digits`. On them nearly every network is right; moved and noisy they tell networks
apart. The values of the benchmark (`jaxnas.benchmarks.digits201_table`) are for the images that are made here.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Array, Key
from jaxnas.data.augment import augment, noisy
from jaxnas.data.dataset import Augmentation, Dataset, Examples
from jaxnas.data.digits import load_digits
from jaxnas.kernels.compiling import known_options

_KEYS = {"valid": 1, "test": 2}
"""Part -> the number of the key of its shifts and noise."""


def load_digits201(shift: int = 2, noise: float = 0.6, copies: int = 3) -> Dataset:
    """Digits that are moved by up to `shift` pixels and have Gaussian noise of `noise` standard deviations.

    The 1,077 training images are uint8. At every step each gets a new shift and new noise, by the `augmentation`. The
    validation and test images are fixed: `copies` of all 360, copy after copy, each image with its own shift and noise,
    float32 [360 copies, 8, 8, 1] and normalized. They are final: also where a search reads the validation part in
    augmented batches, they are not moved again and get no more noise. So all that reads them sees the images that the
    benchmark was measured on, and none that are twice as hard. Copies of an image are not independent, and intervals
    that count them as such are too narrow.

    With the defaults it is the data of the shipped benchmark. On another device the last bits of the fixed images may
    differ.
    """
    digits = load_digits()
    assert digits.augmentation is not None  # they are images
    augmentation = dataclasses.replace(digits.augmentation, shift=shift, noise=noise)
    parts: dict[str, Any] = {}
    for part, number in _KEYS.items():
        images, labels = digits.parts()[part]
        key = jax.random.key(number, impl="threefry2x32")
        made = np.asarray(_program()(key, images, augmentation, copies))
        parts[part] = Examples(made, np.tile(labels, copies))
    return dataclasses.replace(
        digits,
        **parts,
        name="digits201",
        augmentation=augmentation,
        source="digits201",
        origins={part: f"{copies} moved and noisy copies of {part}" for part in _KEYS},
        computed_from=digits,
    )


def _fixed(key: Key, images: Array, augmentation: Augmentation, copies: int) -> Array:
    """All images `copies` times, each moved and noisy, normalized, float32 [copies N, H, W, C]; images: uint8."""
    move_key, noise_key = jax.random.split(key)
    moved = augment(move_key, jnp.tile(images, (copies, 1, 1, 1)), augmentation, cutout=False)
    return noisy(noise_key, moved, augmentation.noise)


@functools.cache
def _program() -> Callable[..., Array]:
    """`_fixed`, compiled. It runs twice and on few images: where a CPU optimizes less, all takes half the time."""
    options = known_options({"xla_backend_optimization_level": 1}) if jax.default_backend() == "cpu" else {}
    return jax.jit(_fixed, static_argnames=("augmentation", "copies"), compiler_options=options)
