"""ResNet for small images, the fair baseline: a network by hand that costs as much as the found one.

He et al. 2016, https://arxiv.org/abs/1512.03385, section 4.2: a 3×3 convolution, then three stages of n residual blocks
of two 3×3 convolutions, 6n + 2 layers in all. A stage halves the map and doubles the channels. A shortcut that changes
shape takes every second pixel and pads channels with zeros (option A), so that it has no parameters.

Deviation: the first stage has as many channels as the budget allows, where the paper has 16.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas.base import Array, Aux, Context, Key, Network, PyTree, Stats
from jaxnas.networks.blocks import conv_bn, conv_bn_init, draw, fresh_keys, global_pool
from jaxnas.ops import costs as cost
from jaxnas.ops import layers

_STAGES = 3
_PAPER_CHANNELS = 16
_MOST_BLOCKS = 18
"""Of a stage: 110 layers, the paper's deepest that trains without further ado."""


def resnet(
    image_shape: tuple[int, int, int], num_classes: int, blocks: int, channels: int, dtype: str = "float32"
) -> Network:
    """A ResNet of 6 `blocks` + 2 layers, with `channels` in its first stage.

    image_shape: (H, W, C). The order of a block is the paper's: convolution, batch norm, ReLU, with the last ReLU after
    the sum. Batch norms are affine. dtype: of the activations.

    Raises: ValueError where a number is less than 1.

    >>> network = resnet((32, 32, 3), 10, blocks=3, channels=16)  # ResNet-20
    >>> network.costs["params"]  # 0.27 million in the paper's table 6
    269722
    """
    if min(*image_shape, num_classes, blocks, channels) < 1:
        raise ValueError(
            f"a ResNet needs sizes of at least 1, got images {image_shape}, {num_classes} classes, {blocks} blocks and "
            f"{channels} channels"
        )
    # (channels before, channels after, stride) of each block.
    widths = [channels * 2**stage for stage in range(_STAGES) for _ in range(blocks)]
    plan = [(b, a, 2 if b != a else 1) for b, a in itertools.pairwise([channels, *widths])]

    def layout(key: Key) -> PyTree:
        keys = fresh_keys(key)
        return {
            "stem": conv_bn_init(next(keys), 3, image_shape[2], channels),
            "blocks": [
                (conv_bn_init(next(keys), 3, before, after), conv_bn_init(next(keys), 3, after, after))
                for before, after, _ in plan
            ],
            "classifier": layers.dense_init(next(keys), widths[-1], num_classes),
        }

    def stats() -> Stats:
        blocks = [(layers.initial_stats(after),) * 2 for _, after, _ in plan]
        return {"stem": layers.initial_stats(channels), "blocks": blocks}

    def apply(params: PyTree, x: Array, context: Context) -> tuple[Array, Aux]:
        x, stem_seen = conv_bn(x.astype(dtype), params["stem"], context.at("stem"))
        x = jax.nn.relu(x)
        seen: dict[str, Any] = {"stem": stem_seen, "blocks": []}
        for number, ((before, after, stride), (first, second)) in enumerate(zip(plan, params["blocks"], strict=True)):
            here = context.at("blocks", number)
            y, first_seen = conv_bn(x, first, here.at(0), stride)
            y, second_seen = conv_bn(jax.nn.relu(y), second, here.at(1))
            shortcut = jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (0, after - before)))
            x = jax.nn.relu(y + shortcut)
            seen["blocks"].append((first_seen, second_seen))
        return layers.dense(global_pool(x), params["classifier"]), Aux(seen)

    found = _cost(image_shape, num_classes, blocks, channels)
    return Network(lambda key: (draw(key, layout), stats()), apply, {"params": found.params, "macs": found.macs})


def resnet_within(
    macs: int, image_shape: tuple[int, int, int], num_classes: int, dtype: str = "float32"
) -> tuple[Network, int, int]:
    """The ResNet within a budget of multiply-adds for an image that comes closest to the paper's proportions.

    Returns: (network, blocks of a stage, channels of the first stage). For each depth it takes the most channels that
    fit; of these the deepest that still has the paper's 16 channels, and where none has, the one of 8 layers.

    Raises: ValueError where not even the smallest fits.

    >>> network, blocks, channels = resnet_within(50_000_000, (32, 32, 3), 10)
    >>> blocks, channels, network.costs["macs"] <= 50_000_000
    (3, 17, True)
    """

    @functools.cache
    def fits(blocks: int, channels: int) -> bool:
        return _cost(image_shape, num_classes, blocks, channels).macs <= macs

    if not fits(1, 1):
        least = _cost(image_shape, num_classes, 1, 1).macs
        raise ValueError(
            f"the smallest ResNet on images {image_shape} needs {least:,} multiply-adds, more than {macs:,}"
        )
    blocks = max((n for n in range(1, _MOST_BLOCKS + 1) if fits(n, _PAPER_CHANNELS)), default=1)
    channels = 1
    while fits(blocks, channels + 1):
        channels += 1
    return resnet(image_shape, num_classes, blocks, channels, dtype), blocks, channels


def _cost(image_shape: tuple[int, int, int], num_classes: int, blocks: int, channels: int) -> cost.Cost:
    size, width = image_shape[:2], channels
    total = cost.conv_bn(image_shape[2], channels, 3, size)
    for stage in range(_STAGES):
        for block in range(blocks):
            before = width
            if stage and not block:
                size, width = cost.strided(size, 2), 2 * width
            total += cost.conv_bn(before, width, 3, size) + cost.conv_bn(width, width, 3, size)
    return total + cost.linear(width, num_classes)
