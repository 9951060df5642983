"""Parameters and MACs against published numbers and against counts by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import spaces
from jaxnas.base import Context, Skeleton
from jaxnas.ops import costs
from jaxnas.ops.primitives import PRIMITIVES

CIFAR = Skeleton(channels=36, cells=20, image_shape=(32, 32, 3), num_classes=10)


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [
        # (operation, channels 6, stride 2, 7×5 input, so 4×3 output): counted by hand.
        ("none", 0, 0),
        ("max_pool_3x3", 0, 0),
        ("avg_pool_3x3", 0, 0),
        ("skip_connect", 6 * 6 + 12, 36 * 12),
        ("sep_conv_3x3", 2 * (54 + 36 + 12), 2 * (54 + 36) * 12),
        ("sep_conv_5x5", 2 * (150 + 36 + 12), 2 * (150 + 36) * 12),
        ("dil_conv_3x3", 54 + 36 + 12, (54 + 36) * 12),
        ("dil_conv_5x5", 150 + 36 + 12, (150 + 36) * 12),
        ("nor_conv_1x1", 36 + 12, 36 * 12),
        ("nor_conv_3x3", 9 * 36 + 12, 9 * 36 * 12),
    ],
)
def test_primitives(name, params, macs):
    strided = PRIMITIVES[name].cost(6, 2, (7, 5))
    assert (strided.params, strided.macs) == (params, macs)
    # Unstrided, the parameters are the same but for the identity, and every MAC is done at 35 places instead of 12.
    plain = PRIMITIVES[name].cost(6, 1, (7, 5))
    expected = (0, 0) if name == "skip_connect" else (params, macs // 12 * 35)
    assert (plain.params, plain.macs) == expected


@pytest.mark.parametrize("name", PRIMITIVES)
@pytest.mark.parametrize("channels", [5, 6])
@pytest.mark.parametrize("stride", [1, 2])
def test_primitives_cost_the_parameters_that_they_make(name, channels, stride):
    """The operations themselves, initialized for a derived network, hold exactly the parameters counted."""
    primitive = PRIMITIVES[name]
    params = jax.eval_shape(lambda key: primitive.init(key, channels, stride, True), jax.random.key(0))
    cost = primitive.cost(channels, stride, (7, 5))
    assert cost.params == sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    x = jax.ShapeDtypeStruct((2, 7, 5, channels), jnp.float32)
    y, _ = jax.eval_shape(lambda params, x: primitive.apply(params, x, stride, Context()), params, x)
    assert y.shape == (2, *costs.strided((7, 5), stride), channels)


def test_factorized_reduce_of_odd_channels():
    """Five channels are made by two convolutions, of three and of two: together one of five."""
    assert costs.factorized_reduce(5, 5, (4, 3)) == costs.Cost(5 * 3 + 5 * 2 + 2 * 5, 25 * 12)


def test_depthwise_convolutions_have_one_filter_a_channel():
    assert costs.conv(8, 8, 3, (2, 2), groups=8) == costs.Cost(8 * 9, 8 * 9 * 4)


@pytest.mark.parametrize(
    ("name", "millions"),
    # The papers' tables: DARTS 3.3, P-DARTS 3.4, PC-DARTS 3.6, DrNAS 4.1 million on CIFAR-10, without auxiliary head.
    [("DARTS_V2", 3.3), ("PDARTS", 3.4), ("PC_DARTS_cifar", 3.6), ("DrNAS_cifar10", 4.1)],
)
def test_published_darts_networks(name, millions):
    space = spaces.darts_space()
    assert round(space.costs(space.from_genotype(name), CIFAR)["params"] / 1e6, 1) == millions


def test_the_darts_v2_evaluation_network():
    space = spaces.darts_space()
    arch = space.from_genotype("DARTS_V2")
    plain = space.costs(arch, CIFAR)
    assert plain["params"] == 3_349_342
    assert round(plain["macs"] / 1e6) == 528
    auxiliary = space.costs(arch, Skeleton(36, 20, (32, 32, 3), 10, auxiliary=True))
    # On 8×8 maps of 4 · 144 channels: pooled to 2×2, then one place.
    convs = 576 * 128 * 4 + 128 * 768 * 4
    assert auxiliary["macs"] - plain["macs"] == convs + 7690
    assert auxiliary["params"] - plain["params"] == 576 * 128 + 2 * 128 + 128 * 768 * 4 + 2 * 768 + 7690


def test_a_small_darts_network_by_hand():
    """Three cells of one node, 2 channels, on 5×4 gray images, three classes."""
    space = spaces.darts_space(1, ("none", "skip_connect", "dil_conv_3x3"))
    arch = np.array([0, 1, 0, 0, 0, 1])  # normal: dil, skip; reduce: skip, dil.
    stem = (1 * 6 * 9 + 12, 54 * 20)
    # Cell 0, normal, 2 channels at 5×4: both inputs 6 → 2; dil 3×3 of 2 channels.
    cell0 = (2 * (12 + 4) + 18 + 4 + 4, (24 + 22) * 20)
    # Cell 1 reduces, 4 channels: inputs 6 → 4 and 2 → 4 at 5×4; skip and dil at 3×2.
    cell1 = ((24 + 8) + (8 + 8) + (16 + 8) + (36 + 16 + 8), 32 * 20 + (16 + 52) * 6)
    # Cell 2 reduces, 8 channels: inputs 2 → 8, itself reduced to 3×2, and 4 → 8; skip and dil at 2×1.
    cell2 = ((16 + 16) + (32 + 16) + (64 + 16) + (72 + 64 + 16), (16 + 32) * 6 + (64 + 136) * 2)
    head = (27, 27)
    expected = np.sum([stem, cell0, cell1, cell2, head], axis=0)
    costs_found = space.costs(arch, Skeleton(2, 3, (5, 4, 1), 3))
    assert [costs_found["params"], costs_found["macs"]] == expected.tolist()


def test_an_auxiliary_head_needs_an_8_by_8_map():
    space = spaces.darts_space()
    skeleton = Skeleton(4, 3, (28, 32, 1), 10, auxiliary=True)
    with pytest.raises(ValueError, match="at least 8×8, this network has 7×8 there"):
        space.costs(space.from_genotype("DARTS_V2"), skeleton)
    with pytest.raises(ValueError, match="at least 8×8"):
        spaces.darts_cost_table(skeleton)


NASBENCH201_ROWS = [
    # Architecture, then MACs and parameters in millions of CIFAR-10, CIFAR-100 and ImageNet16-120.
    (
        "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|",
        ("15.64737", "0.129306", "15.65322", "0.135156", "3.91948", "0.136456"),
    ),
    (
        "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|none~0|nor_conv_1x1~1|none~2|",
        ("11.71521", "0.101306", "11.72106", "0.107156", "2.93644", "0.108456"),
    ),
    (
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|",
        ("153.27297", "1.073466", "153.27882", "1.079316", "38.32588", "1.080616"),
    ),
    (
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|none~0|nor_conv_3x3~1|avg_pool_3x3~2|",
        ("113.95137", "0.802426", "113.95722", "0.808276", "28.49548", "0.809576"),
    ),
]


@pytest.mark.parametrize(("text", "published"), NASBENCH201_ROWS)
def test_nasbench201_networks(text, published):
    space = spaces.nasbench201_space()
    found = []
    for size, classes in ((32, 10), (32, 100), (16, 120)):
        counted = space.costs(space.from_genotype(text), Skeleton(16, 5, (size, size, 3), classes))
        found += [counted["macs"], counted["params"]]
    assert found == [round(float(value) * 1e6) for value in published]


def test_nasbench201_has_no_auxiliary_head():
    space = spaces.nasbench201_space()
    with pytest.raises(ValueError, match="no auxiliary head"):
        space.costs(np.zeros(6, int), Skeleton(16, 5, (32, 32, 3), 10, auxiliary=True))
