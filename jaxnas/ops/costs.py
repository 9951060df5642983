"""What the parts of a derived network cost: parameters and multiply-accumulates (MACs), as exact Python integers.

Conventions, those of the NAS-Bench-201 tables: MACs are those of convolutions and of the classifier, its bias included
(one MAC per class); pooling, batch norm, additions and activations count 0. Convolutions have no bias. Every batch norm
of a derived network is affine and has 2C parameters. A size is (height, width); stride 2 halves it, rounding up.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Cost:
    """Parameters and MACs for one image."""

    params: int = 0
    macs: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.params + other.params, self.macs + other.macs)


class CostTable(NamedTuple):
    """The costs of every architecture of a space in one network, additive in the operations used.

    params and macs: cell kind -> int64 [S, O], what one operation in one slot adds over all cells of that kind.
    constant: {"params": …, "macs": …} of everything that the architecture does not change.
    """

    constant: dict[str, int]
    params: dict[str, np.ndarray]
    macs: dict[str, np.ndarray]


def strided(size: Size, stride: int) -> Size:
    """The size after a stride: ceil(H / stride), ceil(W / stride)."""
    return -(-size[0] // stride), -(-size[1] // stride)


def conv(inputs: int, outputs: int, kernel: int, size: Size, groups: int = 1) -> Cost:
    """A kernel × kernel convolution without bias whose output has the given size."""
    params = inputs // groups * outputs * kernel * kernel
    return Cost(params, params * size[0] * size[1])


def batch_norm(channels: int) -> Cost:
    """An affine batch norm: one scale and one offset per channel."""
    return Cost(params=2 * channels)


def conv_bn(inputs: int, outputs: int, kernel: int, size: Size) -> Cost:
    """A convolution, its output of the given size, followed by batch norm."""
    return conv(inputs, outputs, kernel, size) + batch_norm(outputs)


def linear(inputs: int, outputs: int) -> Cost:
    """A dense layer with bias."""
    return Cost((inputs + 1) * outputs, (inputs + 1) * outputs)


def factorized_reduce(inputs: int, outputs: int, size: Size) -> Cost:
    """Two 1×1 convolutions of stride 2 to `outputs - outputs // 2` and `outputs // 2` channels, then batch norm.

    The size is that of the output. At an odd number of channels the first convolution has one channel more.
    """
    second = outputs // 2
    return conv(inputs, outputs - second, 1, size) + conv(inputs, second, 1, size) + batch_norm(outputs)


def depthwise_separable(channels: int, kernel: int, size: Size) -> Cost:
    """A depthwise and a 1×1 convolution, then batch norm; the output has the given size."""
    depthwise = conv(channels, channels, kernel, size, groups=channels)
    return depthwise + conv_bn(channels, channels, 1, size)


def basic_block(inputs: int, outputs: int, size: Size) -> Cost:
    """The residual block of stride 2 between the stages of NAS-Bench-201; the output has the given size.

    Two 3×3 convolutions with batch norm; the shortcut is an average pool and a 1×1 convolution without batch norm.
    """
    return conv_bn(inputs, outputs, 3, size) + conv_bn(outputs, outputs, 3, size) + conv(inputs, outputs, 1, size)


def auxiliary_head(channels: int, size: Size, num_classes: int) -> Cost:
    """The auxiliary head of the DARTS evaluation network on a map of the given size.

    Average pool 5×5 of stride 3, 1×1 convolution to 128, 2×2 convolution to 768 without padding, each with batch norm,
    and a classifier on the mean over positions (of which there is one at 8×8, as in the paper).

    Raises: ValueError where the map is under 8×8.
    """
    if min(size) < 8:
        raise ValueError(
            f"the auxiliary head needs a map of at least 8×8, this network has {size[0]}×{size[1]} there; "
            "use larger images or auxiliary=False"
        )
    pooled = ((size[0] - 5) // 3 + 1, (size[1] - 5) // 3 + 1)
    last = conv_bn(128, 768, 2, (pooled[0] - 1, pooled[1] - 1))
    return conv_bn(channels, 128, 1, pooled) + last + linear(768, num_classes)
