"""Data: sets of images in memory, batches as a pure function of (key, step), augmentation on the device."""

from jaxnas.data.augment import augment, cutout, is_normalized, noisy, normalize, random_crop, random_flip
from jaxnas.data.dataset import (
    Augmentation,
    DataError,
    Dataset,
    Examples,
    Split,
    fingerprint,
    hold_out,
    limited,
    split,
)
from jaxnas.data.images import ImageForm, read_image
from jaxnas.data.pipeline import eval_batches, indices, make_batches, permuted, plain_batch, take
from jaxnas.data.source import load

__all__ = [
    "Augmentation",
    "DataError",
    "Dataset",
    "Examples",
    "ImageForm",
    "Split",
    "augment",
    "cutout",
    "eval_batches",
    "fingerprint",
    "hold_out",
    "indices",
    "is_normalized",
    "limited",
    "load",
    "make_batches",
    "noisy",
    "normalize",
    "permuted",
    "plain_batch",
    "random_crop",
    "random_flip",
    "read_image",
    "split",
    "take",
]
