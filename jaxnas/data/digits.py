"""The handwritten digits that come with the package: 1,797 gray images of 8x8 pixels in 10 classes.

Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository 1998,
https://doi.org/10.24432/C50P49, CC BY 4.0; the test set of that source as scikit-learn distributes it.

`digits.npz` holds `images` [1797, 8, 8, 1] uint8, `labels` [1797] uint8, `source_index` [1797] int16 and `sizes`
(1077, 360, 360): train, validation and test follow one another. Pixels count 0 to 16 ink dots in the source and are
stored times 15, without loss. The split is stratified: `hold_out(labels, 360, seed=0)` first for the test part, then
for the validation part; `source_index` says where each image is in `sklearn.datasets.load_digits()`.
"""

from __future__ import annotations

from importlib import resources

import numpy as np

from jaxnas.data.dataset import Augmentation, Dataset, Examples, channel_statistics


def load_digits() -> Dataset:
    """The embedded digits with their fixed split of 1,077 train, 360 validation and 360 test images."""
    with resources.files("jaxnas.data").joinpath("digits.npz").open("rb") as file, np.load(file) as stored:
        images, labels = stored["images"], stored["labels"].astype(np.int32)
        train, valid, _ = stored["sizes"].tolist()
    mean, std = channel_statistics(images[:train])
    return Dataset(
        name="digits",
        train=Examples(images[:train], labels[:train]),
        valid=Examples(images[train : train + valid], labels[train : train + valid]),
        test=Examples(images[train + valid :], labels[train + valid :]),
        class_names=tuple("0123456789"),
        augmentation=Augmentation(shift=1, flip=False, cutout=0, mean=mean, std=std),
        source="digits",
    )
