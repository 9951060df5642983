"""Data: sets of images and of other arrays in memory, batches as a pure function of (key, step), augmentation."""

from jaxnas.data.arrays import from_arrays
from jaxnas.data.augment import (
    augment,
    cutout,
    network_inputs,
    noisy,
    normalize,
    random_crop,
    random_flip,
)
from jaxnas.data.dataset import (
    Augmentation,
    DataError,
    Dataset,
    Examples,
    count,
    fingerprint,
)
from jaxnas.data.images import ImageForm, image_files, read_image
from jaxnas.data.pipeline import eval_batches, indices, make_batches, plain_batch, plain_batches, take
from jaxnas.data.source import load_dataset
from jaxnas.data.splits import Split, hold_out, limited, split

__all__ = [
    "Augmentation",
    "DataError",
    "Dataset",
    "Examples",
    "ImageForm",
    "Split",
    "augment",
    "count",
    "cutout",
    "eval_batches",
    "fingerprint",
    "from_arrays",
    "hold_out",
    "image_files",
    "indices",
    "limited",
    "load_dataset",
    "make_batches",
    "network_inputs",
    "noisy",
    "normalize",
    "plain_batch",
    "plain_batches",
    "random_crop",
    "random_flip",
    "read_image",
    "split",
    "take",
]
