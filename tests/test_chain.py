"""The chain space: blocks against plain convolutions, costs by hand, one function in supernet and network."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxnas import data, saved, spaces
from jaxnas.base import Context, Skeleton
from jaxnas.data.augment import normalize
from jaxnas.networks import chain_network
from jaxnas.ops.chain import BLOCKS
from jaxnas.ops.primitives import PRIMITIVES
from jaxnas.supernets import chain_supernet


def quick(function):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def convolved(x, params, stride=1):
    """A convolution of XLA's and batch norm in plain words."""
    kernel = params["kernel"]
    depthwise = kernel.ndim == 3
    size = kernel.shape[0] if depthwise else 1
    whole = kernel[:, :, None, :] if depthwise else kernel[None, None]
    pad = (size // 2, size // 2)
    y = lax.conv_general_dilated(
        x, whole, (stride, stride), (pad, pad), dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] if depthwise else 1,
    )  # fmt: skip
    axes = (0, 1, 2)
    y = (y - y.mean(axes, keepdims=True)) / jnp.sqrt(y.var(axes, keepdims=True) + 1e-5)
    return y * params["norm"]["scale"][None, None, None] + params["norm"]["offset"][None, None, None]


def expected_block(name, params, x, stride):
    main = params["main"]
    if name.startswith("mbconv"):
        y = jax.nn.relu(convolved(x, main[0]))
        y = jax.nn.relu(convolved(y, main[1], stride))
        y = convolved(y, main[2])
        return x + y if stride == 1 else y
    half = x.shape[-1] // 2
    left, right = (x[..., :half], x[..., half:]) if stride == 1 else (x, x)
    if name == "shuffle_xception":
        for pair in range(3):
            right = convolved(right, main[2 * pair], stride if pair == 0 else 1)
            right = jax.nn.relu(convolved(right, main[2 * pair + 1]))
    else:
        right = jax.nn.relu(convolved(right, main[0]))
        right = jax.nn.relu(convolved(convolved(right, main[1], stride), main[2]))
    if stride == 2:
        left = jax.nn.relu(convolved(convolved(left, params["side"][0], 2), params["side"][1]))
    both = jnp.concatenate([left, right], -1)
    # Channel c of one branch is followed by channel c of the other.
    order = np.arange(both.shape[-1]).reshape(2, -1).T.reshape(-1)
    return both[..., order]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ["mbconv3_5x5", "mbconv6_3x3", "shuffle_7x7", "shuffle_xception"])
def test_a_block_is_the_convolutions_that_it_is_made_of(name, stride):
    block = BLOCKS[name]
    key, image = jax.random.split(jax.random.key(0))
    rng = np.random.default_rng(0)
    params = block.init(key, 4, stride, True)
    # Scales and offsets as after some training, so that their places matter.
    params = jax.tree.map(lambda leaf: leaf + jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32), params)
    x = jax.random.normal(image, (3, 7, 6, 4))
    y, seen = quick(lambda params, x: block.apply(params, x, stride, Context()))(params, x)
    assert y.shape == (3, *(-(-n // stride) for n in (7, 6)), 4 * stride)
    np.testing.assert_allclose(y, quick(lambda p, x: expected_block(name, p, x, stride))(params, x), atol=2e-4)
    assert tuple(mean.shape[0] for mean, _ in seen) == block.norms(4, stride)


# Costs.


def test_a_small_chain_by_hand():
    """Two stages of 2 and 4 channels on 5×4 gray images, three classes."""
    space = spaces.chain_space((2, 2))
    arch = space.from_genotype("mbconv3_5x5 identity | shuffle_3x3 shuffle_xception")
    weights = [(9 * 2, 20)]  # stem
    weights += [(2 * 6, 20), (25 * 6, 20), (6 * 2, 20)]  # 2 → 6 → 6 → 2
    weights += [(2 * 2, 20), (9 * 2, 6), (2 * 2, 6), (9 * 2, 6), (2 * 2, 6)]  # of 2 channels both branches
    weights += [(9 * 2, 6), (2 * 2, 6)] * 3  # one half of 4 channels
    weights += [(4 * 16, 6)]
    norms = 2 * (2 + (6 + 6 + 2) + 5 * 2 + 6 * 2 + 16)
    head = 3 * 17
    found = space.costs(arch, Skeleton(2, 4, (5, 4, 1), 3))
    assert found["params"] == sum(count for count, _ in weights) + norms + head
    assert found["macs"] == sum(count * places for count, places in weights) + head


@pytest.mark.parametrize("depths", [(1, 1, 1), (2, 3)])
def test_costs_are_the_parameters_that_there_are_and_each_weight_is_used_once_a_place(depths):
    space = spaces.chain_space(depths)
    skeleton = Skeleton(6, sum(depths), (11, 8, 3), 5)
    sizes = [11 * 8, 6 * 4, 3 * 2]
    for arch in jax.vmap(space.sample)(jax.random.split(jax.random.key(0), 8)):
        network = chain_network(arch, skeleton, space)
        params, stats = jax.eval_shape(network.init, jax.random.key(0))
        assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == network.costs["params"]
        _, seen = jax.eval_shape(lambda p, x, n=network: n.apply(p, x, Context()), params, jnp.zeros((2, 11, 8, 3)))
        assert jax.tree.map(lambda leaf: leaf.shape, stats) == jax.tree.map(lambda leaf: leaf.shape, seen.stats)
        macs = params["stem"]["kernel"].size * sizes[0] + params["head"]["kernel"].size * sizes[len(depths) - 1]
        for s, (stage, names) in enumerate(zip(params["stages"], space.to_genotype(arch)["stages"], strict=True)):
            for number, (block, name) in enumerate(zip(stage, names, strict=True)):
                for branch, number_in_branch in ((b, n) for b, steps in block.items() for n in range(len(steps))):
                    # Only the 1×1 convolutions that begin a branch see the image before it is halved.
                    large = (
                        s > 0 and number == number_in_branch == 0 and branch == "main" and name != "shuffle_xception"
                    )
                    macs += block[branch][number_in_branch]["kernel"].size * sizes[s - large]
        assert network.costs["macs"] == macs + 5 * (params["classifier"]["kernel"].shape[0] + 1)


def test_the_extremes_are_the_ends_of_all_architectures():
    blocks = ("shuffle_5x5", "mbconv3_3x3", "identity", "mbconv6_7x7", "shuffle_3x3")
    space, skeleton = spaces.chain_space((2, 2), blocks), Skeleton(4, 4, (8, 8, 3), 10)
    everything = itertools.product(*(range(len(choice.options)) for choice in space.choices))
    macs = {arch: space.costs(np.array(arch), skeleton)["macs"] for arch in everything}
    largest, smallest = (tuple(end.tolist()) for end in spaces.chain_extremes(space, skeleton))
    assert len(macs) == 5 * 5 * 4 * 5
    assert macs[largest] == max(macs.values())
    assert macs[smallest] == min(macs.values())
    assert space.notation(np.array(smallest)) == "identity identity | shuffle_3x3 identity"
    # Without the largest block of layer 1 and the smallest of layer 2.
    left = spaces.prune(space, [range(5), (0, 1, 2, 4), (0, 1, 2), range(5)])
    ends = [left.space.notation(end) for end in spaces.chain_extremes(left.space, skeleton)]
    assert ends == [
        "mbconv6_7x7 mbconv3_3x3 | mbconv6_7x7 mbconv6_7x7",
        "identity identity | shuffle_5x5 identity",
    ]


# Genotypes and graphs.


def test_the_graph_leaves_identities_out():
    space = spaces.chain_space((3, 3))
    arch = space.from_genotype("identity mbconv3_3x3 identity | shuffle_3x3 identity mbconv3_3x3")
    graph = space.graph(arch)
    names = [space.vocabulary[o] for o in graph.ops[0].tolist()]
    assert [n for n, there in zip(names, graph.mask[0].tolist(), strict=True) if there] == [
        "stem", "mbconv3_3x3", "reduce shuffle_3x3", "mbconv3_3x3", "output",
    ]  # fmt: skip
    assert {tuple(edge) for edge in np.argwhere(graph.adjacency[0]).tolist()} == {(0, 2), (2, 4), (4, 6), (6, 7)}
    # The same network otherwise placed: the same graph but for the order of the places.
    other = space.graph(space.from_genotype("mbconv3_3x3 identity identity | shuffle_3x3 mbconv3_3x3 identity"))
    for one in (graph, other):
        kept = np.flatnonzero(one.mask[0])
        np.testing.assert_array_equal(one.adjacency[0][np.ix_(kept, kept)], np.eye(5, k=1))
        np.testing.assert_array_equal(np.asarray(one.ops[0])[kept], np.asarray(graph.ops[0])[[0, 2, 4, 6, 7]])


@pytest.mark.parametrize(
    ("genotype", "message"),
    [
        ("mbconv3_3x3 identity", r"the stages of this space have \(1, 2\) layers, those of the genotype \(2,\)"),
        ("identity | identity mbconv3_3x3", "stage 1 layer 1: no block 'identity'; there are shuffle_3x3, mbconv3_3x3"),
        ("mbconv6_3x3 | shuffle_3x3 identity", "stage 0 layer 0: no block 'mbconv6_3x3'"),
        ({"space": "darts", "stages": []}, "of the space 'darts'"),
        ({"space": "chain"}, "'stages' must be a list of lists of blocks, got None"),
    ],
)
def test_a_genotype_that_does_not_fit_is_refused(genotype, message):
    with pytest.raises(ValueError, match=message):
        spaces.chain_space((1, 2), ("shuffle_3x3", "mbconv3_3x3", "identity")).from_genotype(genotype)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((2, 0),), r"at least one layer, got depths \(2, 0\)"),
        (((),), "at least one layer"),
        (((2,), ("mbconv9_3x3",)), "unknown block 'mbconv9_3x3'; known are identity, mbconv3_3x3, "),
        (((2,), ("identity",)), "one block must be no identity, got identity"),
        (((2,), ("shuffle_3x3",) * 2), "blocks must have different names, got shuffle_3x3, shuffle_3x3"),
        (((1, 1), ("shuffle_3x3",)), "single architecture"),
        (((1, 2), ("identity", PRIMITIVES["nor_conv_3x3"])), r"at stride 2 nor_conv_3x3 makes \[2, 2, 2, 4\] of"),
    ],
)
def test_a_space_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        spaces.chain_space(*arguments)


def test_blocks_may_be_objects():
    """Costs, table, network and graph are those of the objects."""
    own = PRIMITIVES["nor_conv_3x3"]._replace(name="own")
    space, skeleton = spaces.chain_space((2,), ("identity", own)), Skeleton(4, 2, (5, 4, 3), 3)
    arch = space.from_genotype({"space": "chain", "stages": [["own", "identity"]]})
    assert [space.vocabulary[o] for o in space.graph(arch).ops[0].tolist()] == ["stem", "own", "identity", "output"]
    none = space.costs(space.from_genotype({"space": "chain", "stages": [["identity"] * 2]}), skeleton)
    assert space.costs(arch, skeleton)["params"] - none["params"] == 9 * 16 + 2 * 4
    table = spaces.chain_cost_table(skeleton, (2,), ("identity", own))
    assert table.macs["normal"].tolist() == [[0, 9 * 16 * 20]] * 2
    params, _ = jax.eval_shape(chain_network(arch, skeleton, space, blocks=("identity", own)).init, jax.random.key(0))
    assert params["stages"][0][0]["kernel"].shape == (3, 3, 4, 4)


def test_a_skeleton_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="has 5 layers, but the skeleton has cells=4"):
        chain_supernet(Skeleton(4, 4, (8, 8, 1), 3), (2, 3))
    with pytest.raises(ValueError, match="must be even, got 5"):
        chain_supernet(Skeleton(5, 4, (8, 8, 1), 3))
    with pytest.raises(ValueError, match="no auxiliary head"):
        spaces.chain_cost_table(Skeleton(4, 4, (8, 8, 1), 3, auxiliary=True))
    with pytest.raises(ValueError, match="at least 3 layers, got 2"):
        spaces.chain_depths(2)
    assert [spaces.chain_depths(n) for n in (3, 4, 5, 12)] == [(1, 1, 1), (1, 1, 2), (1, 2, 2), (4, 4, 4)]


# Supernet and network.


def test_the_same_blocks_at_other_places_are_another_path():
    """Parameters belong to places: why architectures that differ in the place of an identity stay apart."""
    depths, blocks = (2, 1, 2), ("mbconv3_5x5", "identity", "shuffle_3x3", "shuffle_xception")
    space, net = spaces.chain_space(depths, blocks), chain_supernet(Skeleton(4, 5, (6, 6, 2), 3), depths, blocks)
    params, x = quick(net.init)(jax.random.key(0)), jax.random.normal(jax.random.key(1), (4, 6, 6, 2))
    path = quick(lambda arch: net.apply_path(params, arch, x, Context())[0])
    one, other = (
        space.from_genotype(f"{first} | shuffle_3x3 | shuffle_3x3 identity")
        for first in ("mbconv3_5x5 identity", "identity mbconv3_5x5")
    )
    assert np.abs(path(one) - path(other)).max() > 1e-3
    assert not np.array_equal(space.canonical(one), space.canonical(other))


def test_statistics_of_blocks_not_taken_are_as_before_any_batch():
    depths, blocks = (2, 1, 2), ("mbconv3_5x5", "identity", "shuffle_3x3")
    net = chain_supernet(Skeleton(4, 5, (6, 6, 2), 3), depths, blocks)
    params, x = quick(net.init)(jax.random.key(0)), jax.random.normal(jax.random.key(1), (4, 6, 6, 2))
    arch = net.space.from_genotype("mbconv3_5x5 identity | shuffle_3x3 | mbconv3_5x5 mbconv3_5x5")
    runs = quick(lambda: net.apply_path(params, arch, x, Context())[1].stats["runs"])()
    (mean, variance), *_ = runs[0][blocks.index("mbconv3_5x5")]
    assert mean[0].any()
    assert not mean[1].any()
    assert (variance[1] == 1).all()


def test_dropped_paths_leave_the_input_of_a_bottleneck():
    space, skeleton = spaces.chain_space((1,)), Skeleton(4, 1, (6, 6, 2), 3)
    network = chain_network(space.from_genotype("mbconv3_3x3"), skeleton, space)
    params, _ = quick(network.init)(jax.random.key(0))
    empty = chain_network(space.from_genotype("identity"), skeleton, space)
    x = jax.random.normal(jax.random.key(1), (4, 6, 6, 2))
    dropped = quick(lambda p, key: network.apply(p, x, Context("batch", key, 1 - 1e-7))[0])(params, jax.random.key(2))
    without = quick(lambda p: empty.apply(p, x, Context())[0])({**params, "stages": [[{}]]})
    np.testing.assert_allclose(dropped, without, atol=1e-5)
    kept = quick(lambda p: network.apply(p, x, Context())[0])(params)
    assert np.abs(kept - without).max() > 1e-3


def test_a_network_of_any_stages_is_saved_and_given_back(tmp_path):
    """A genotype says how deep its stages are; a skeleton says only how many layers there are."""
    dataset = data.load_dataset("digits", None)
    space, skeleton = spaces.chain_space((1, 3), ("shuffle_3x3", "identity")), Skeleton(4, 4, (8, 8, 1), 10)
    arch = space.from_genotype("identity | shuffle_3x3 identity shuffle_3x3")
    network = chain_network(arch, skeleton, space)
    params, stats = quick(network.init)(jax.random.key(0))
    saved.save_network(tmp_path, params, stats, space.to_genotype(arch), skeleton, dataset)
    apply, kept = saved.load(tmp_path)
    images = dataset.test.inputs[:4]
    x = normalize(jnp.asarray(images), dataset.augmentation.mean, dataset.augmentation.std)
    expected = quick(lambda x: network.apply(params, x, Context(stats))[0])(x)
    np.testing.assert_allclose(quick(apply)(kept, images), expected, rtol=1e-4, atol=1e-4)
