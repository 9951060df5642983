"""Augmentation on the device: pure functions of a key and a batch, each image with randomness of its own.

Shapes: B batch, H W C image.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Array, Key, PyTree
from jaxnas.data.dataset import Augmentation


def random_crop(key: Key, images: Array, padding: int) -> Array:
    """Pads each side by `padding` zeros and cuts a random window of the first size out of each image.

    images: [B, H, W, C] of any type, returned in the same shape and type. All (2 padding + 1)^2 windows are equally
    likely.

    >>> random_crop(jax.random.key(0), jnp.ones((5, 8, 8, 1)), padding=1).shape
    (5, 8, 8, 1)
    """
    batch, *shape = images.shape
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    corners = jax.random.randint(key, (batch, 2), 0, 2 * padding + 1, jnp.int32)

    def window(image: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], jnp.int32(0)), shape)

    return jax.vmap(window)(padded, corners)


def random_flip(key: Key, images: Array) -> Array:
    """Mirrors each image left to right with probability one half.

    images: [B, H, W, C] of any type, returned in the same shape and type.

    >>> images = jnp.arange(6).reshape(1, 1, 6, 1)
    >>> flipped = random_flip(jax.random.key(0), images)
    >>> flipped.ravel().tolist() in ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0])
    True
    """
    flip = jax.random.bernoulli(key, jnp.float32(0.5), (images.shape[0], 1, 1, 1))
    return jnp.where(flip, images[:, :, ::-1], images)


def cutout(key: Key, images: Array, size: int) -> Array:
    """Zeros a square of size x size in each image; its center is any pixel, what lies outside the image is lost.

    images: [B, H, W, C], returned in the same shape and type. size: the side of the square in pixels. On normalized
    images zero is the mean color. DeVries and Taylor 2017, arXiv 1708.04552.

    >>> left = cutout(jax.random.key(0), jnp.ones((5, 8, 8, 3)), size=4)
    >>> zeros = (left == 0).sum(axis=(1, 2, 3)) / 3  # of each image; a quarter of the square at the least
    >>> bool((zeros >= 4).all() and (zeros <= 16).all())
    True
    """
    batch, height, width, _ = images.shape
    row_key, column_key = jax.random.split(key)

    def outside(key: Key, length: int) -> Array:
        start = jax.random.randint(key, (batch, 1), 0, length, jnp.int32) - size // 2
        position = jnp.arange(length)[None]
        return (position < start) | (position >= start + size)

    rows, columns = outside(row_key, height), outside(column_key, width)
    keep = rows[:, :, None, None] | columns[:, None, :, None]
    return jnp.where(keep, images, 0)


# The argument of `augment` has the same name.
_cutout = cutout


def noisy(key: Key, images: Array, std: float) -> Array:
    """Adds Gaussian noise to each pixel.

    images: [B, H, W, C] float32, normalized; so is the result. std: the standard deviation; with 0 the images stay as
    they are.

    >>> images = jnp.ones((5, 8, 8, 1))
    >>> noisy(jax.random.key(0), images, std=0.0) is images
    True
    >>> noisy(jax.random.key(0), images, std=0.1).shape
    (5, 8, 8, 1)
    """
    return images + std * jax.random.normal(key, images.shape, images.dtype) if std else images


def is_normalized(images: Array | np.ndarray) -> bool:
    """Whether these images are float32: then they are final, and nothing normalizes or augments them again."""
    return bool(jnp.issubdtype(images.dtype, jnp.floating))


def normalize(images: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
    """(images / 255 - mean) / std for each channel; images that are normalized already stay as they are.

    images: [B, H, W, C] uint8, or float32 where they are normalized; the result is float32.

    >>> images = jnp.array([0, 255], jnp.uint8).reshape(2, 1, 1, 1)
    >>> normalize(images, mean=(0.5,), std=(0.25,)).ravel().tolist()
    [-2.0, 2.0]
    """
    if is_normalized(images):
        return images
    shape = (1, 1, 1, images.shape[-1])
    center = jnp.asarray(mean, jnp.float32).reshape(shape)
    scale = jnp.asarray(std, jnp.float32).reshape(shape)
    return (images.astype(jnp.float32) / 255 - center) / scale


def network_inputs(inputs: PyTree, augmentation: Augmentation | None) -> PyTree:
    """Stored inputs as a network is given them: images are normalized, of other data floats become float32.

    augmentation: that of the data set, which images have, and other data have not.

    >>> network_inputs({"age": np.zeros(3), "kind": np.zeros(3, np.int32)}, None)["age"].dtype
    dtype('float32')
    """
    if augmentation is not None:
        return normalize(inputs, augmentation.mean, augmentation.std)
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, inputs
    )


def augment(key: Key, images: Array, augmentation: Augmentation, cutout: bool) -> Array:
    """Crop, flip, normalize, and cutout last where asked for, as far as the data set's augmentation has them.

    images: [B, H, W, C] uint8. cutout: whether the last one is asked for, as it is in the final training.

    Returns: the images in float32, normalized. Noise comes after it, by `noisy`, from a key of its own.

    >>> usual = Augmentation(shift=4, flip=True, cutout=16, mean=(0.5,) * 3, std=(0.25,) * 3)
    >>> images = jnp.zeros((5, 32, 32, 3), jnp.uint8)
    >>> jax.eval_shape(lambda key: augment(key, images, usual, cutout=True), jax.random.key(0)).shape
    (5, 32, 32, 3)
    """
    crop_key, flip_key, cutout_key = jax.random.split(key, 3)
    if augmentation.shift:
        images = random_crop(crop_key, images, augmentation.shift)
    if augmentation.flip:
        images = random_flip(flip_key, images)
    normalized = normalize(images, augmentation.mean, augmentation.std)
    if cutout and augmentation.cutout:
        normalized = _cutout(cutout_key, normalized, augmentation.cutout)
    return normalized
