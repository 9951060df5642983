"""What is particular to the spaces of ENAS: cells by hand, published architectures, the authors' notation."""

import jax
import numpy as np
import pytest

from jaxnas import spaces
from jaxnas.base import Skeleton
from jaxnas.ops.primitives import PRIMITIVES
from jaxnas.spaces.families import space_of_choices
from jaxnas.testing import check_space

# The cell of the paper's figure 8, as its programs write it.
MICRO = (
    "0 2 0 0 0 4 0 1 0 4 1 1 1 0 0 1 0 2 1 1 "
    "1 0 1 0 0 3 0 2 1 1 3 1 1 0 0 4 0 3 1 1"
)  # fmt: skip


def test_the_published_micro_cells():
    space = spaces.enas_micro_space()
    arch = space.from_genotype(MICRO)
    assert space.notation(arch) == MICRO
    genotype = space.to_genotype(arch)
    assert genotype["normal"][:2] == [["avg_pool_3x3", 0], ["sep_conv_3x3", 0]]
    assert genotype["reduce"][4:6] == [["sep_conv_5x5", 1], ["sep_conv_5x5", 3]]
    # The second node of the reduction cell is read by the third, all others are loose.
    assert genotype["normal_concat"] == [2, 3, 4, 5, 6]
    assert genotype["reduce_concat"] == [2, 4, 5, 6]
    # In the graph the output is fed by the sums of just these nodes, which stand at 4, 7, 10, 13 and 16.
    graph = space.graph(arch)
    for kind, adjacency in zip(("normal", "reduce"), graph.adjacency, strict=True):
        sums = [3 * node - 2 for node in genotype[f"{kind}_concat"]]
        assert np.flatnonzero(adjacency[:, -1]).tolist() == sums


def test_a_small_micro_network_by_hand():
    """One cell, which reduces, of two nodes, 2 channels before it, on 5×4 gray images, three classes."""
    space = spaces.enas_micro_space(2)
    for second, joined in ((2, 1), (1, 2)):  # What the second node reads: the first, or an input.
        arch = np.array([*[0, 1, 4, 4] * 2, 0, 0, 0, 4, second, 0, 2, 1])
        # Preprocessing 6 → 4 at 5×4; then, at 3×2, sep 3×3 and a reducing identity; avg pool and sep 5×5.
        weights = [(54, 20), (2 * 24, 20), (2 * (36 + 16), 6), (16, 6), (2 * (100 + 16), 6)]
        norms = 2 * (6 + 2 * 4 + 2 * 4 + 4 + 2 * 4)
        head = 3 * (4 * joined + 1)
        found = space.costs(arch, Skeleton(2, 1, (5, 4, 1), 3))
        assert found["params"] == sum(count for count, _ in weights) + norms + head
        assert found["macs"] == sum(count * places for count, places in weights) + head


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1 0 x", "'x' is no number; write 16 integers, two cells of 2 nodes, four for each"),
        ("0 1 0 1", "there are 4 integers; write 16"),
        ("0 1 0 1 3 1 0 1 0 1 0 1 0 1 0 1", "'normal node 3 left input' has options 0 to 2, got 3"),
    ],
)
def test_a_micro_notation_that_does_not_fit_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        spaces.enas_micro_space(2).from_genotype(text)


def test_a_micro_genotype_must_concatenate_its_loose_ends():
    space = spaces.enas_micro_space()
    genotype = space.to_genotype(space.from_genotype(MICRO))
    with pytest.raises(ValueError, match=r"reduce_concat is \[2, 3\]; .* must be \[2, 4, 5, 6\]"):
        space.from_genotype({**genotype, "reduce_concat": [2, 3]})
    with pytest.raises(ValueError, match="into node 4: source 4 of sep_conv_3x3 is out of range"):
        space.from_genotype(
            {**genotype, "normal": [*genotype["normal"][:4], ["sep_conv_3x3", 4], *genotype["normal"][5:]]}
        )
    with pytest.raises(ValueError, match="none of them 'none'"):
        spaces.enas_micro_space(2, ("none", "skip_connect"))


def quick(function):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


# The macro space.

# The first twelve layers of the published network.
MACRO = (
    "0 3 0 0 1 0 2 0 0 1 2 0 0 0 0 3 1 1 0 1 0 2 0 0 0 0 0 1 2 0 1 1 0 1 1 1 "
    "1 0 1 1 1 0 1 0 1 0 0 0 0 0 0 0 0 0 0 2 0 0 0 0 0 1 0 0 0 0 0 1 0 0 1 1 0 0 0 0 1 1"
)  # fmt: skip


def test_the_published_macro_layers():
    space = spaces.enas_macro_space()
    assert len(space.choices) == 78
    arch = space.from_genotype(MACRO)
    assert space.notation(arch) == MACRO
    layers = space.to_genotype(arch)["layers"]
    assert layers[:4] == [["conv_3x3", []], ["sep_conv_5x5", []], ["conv_3x3", [0]], ["conv_5x5", [2]]]
    assert layers[11] == ["conv_3x3", [0, 3, 4, 9, 10]]
    graph = space.graph(arch)
    feeds = {(k, k + 1) for k in range(12)} | {(s, k + 1) for k, (_, states) in enumerate(layers) for s in states}
    assert {tuple(edge) for edge in np.argwhere(graph.adjacency[0]).tolist()} == feeds | {(12, 13)}  # the output
    assert [space.vocabulary[o] for o in graph.ops[0].tolist()] == [
        "stem",
        *(o for o, _ in layers),
        "output",
    ]


def test_a_small_macro_network_by_hand():
    """Three layers of 2, 4 and 8 channels on 5×4 gray images, three classes; every layer is followed by a reduction."""
    space = spaces.enas_macro_space(3)
    # 5×5 convolution; average pool; separable 3×3 that adds states 0 and 1, or one of them.
    # State 1 or 2, made last, is always reduced; state 0 twice where it is read.
    for skips, reductions in (((1, 1), (2, 3)), ((0, 1), (1, 2)), ((1, 0), (2, 2))):
        arch = np.array([2, 4, 0, 1, *skips])
        weights = [(9 * 2, 20), (4 + 25 * 4, 20), (16, 6), (64 + 9 * 8 + 64, 2)]
        weights += [(2 * 4 * reductions[0], 6), (4 * 8 * reductions[1], 2)]
        norms = 2 * (2 + (2 + 2 + 2) + (4 + 4) + (8 + 8 + 8) + 4 * reductions[0] + 8 * reductions[1])
        found = space.costs(arch, Skeleton(2, 3, (5, 4, 1), 3))
        assert found["params"] == sum(count for count, _ in weights) + norms + 27
        assert found["macs"] == sum(count * places for count, places in weights) + 27


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": [["conv_3x3", []]]}, "must be a list of 3 pairs"),
        ({"layers": [["conv_7x7", []]] * 3}, "layer 0: unknown operation 'conv_7x7'"),
        ({"layers": [["conv_3x3", []], ["conv_3x3", [1]], ["conv_3x3", []]]}, "layer 1: state 1 cannot be added"),
        ({"layers": [["conv_3x3"]] * 3}, r"layer 0 is \(operation, states added\)"),
        ({"space": "darts", "layers": []}, "of the space 'darts'"),
    ],
)
def test_a_macro_genotype_that_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        spaces.enas_macro_space(3).from_genotype({"space": "enas_macro", **change})


def test_a_macro_network_has_the_layers_of_its_space():
    space = spaces.enas_macro_space(4)
    with pytest.raises(ValueError, match="has 4 layers, but the skeleton has cells=12"):
        space.costs(np.zeros(10, int), Skeleton(4, 12, (8, 8, 1), 3))
    with pytest.raises(ValueError, match="no auxiliary head"):
        space.costs(np.zeros(10, int), Skeleton(4, 4, (8, 8, 1), 3, auxiliary=True))
    with pytest.raises(ValueError, match="at least 3 layers, got 2"):
        spaces.enas_macro_space(2)
    with pytest.raises(ValueError, match=r"unknown operation 'conv_7x7'; known are .* given as a Primitive"):
        spaces.enas_macro_space(3, ("conv_7x7",))
    with pytest.raises(ValueError, match="none of them 'none'"):
        spaces.enas_macro_space(3, ("conv_3x3", PRIMITIVES["none"]))


def test_a_macro_space_of_other_operations():
    space = spaces.enas_macro_space(3, ("conv_5x5", PRIMITIVES["skip_connect"]))
    skeleton = Skeleton(2, 3, (5, 4, 1), 3)
    check_space(space, (skeleton,))
    arch = space.from_genotype("1 1 0 0 1 1")
    assert space.to_genotype(arch)["layers"] == [["skip_connect", []], ["skip_connect", []], ["conv_5x5", [0, 1]]]
    assert [space.vocabulary[o] for o in space.graph(arch).ops[0].tolist()] == [
        "stem", "skip_connect", "skip_connect", "conv_5x5", "output",
    ]  # fmt: skip
    heavier = space.costs(space.from_genotype("0 1 0 0 1 1"), skeleton)
    assert heavier["macs"] - space.costs(arch, skeleton)["macs"] == (1 + 25) * 4 * 20
    assert space_of_choices("enas_macro", spaces.enas_macro_space(3, ("conv_5x5", "max_pool_3x3")).choices) is not None
