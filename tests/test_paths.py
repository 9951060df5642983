"""Only what a path used moves: as a plain optimizer would move the used slices if nothing else existed."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnas.base import Context, Skeleton
from jaxnas.search.paths import path_only
from jaxnas.spaces import nasbench201_space
from jaxnas.supernets import nasbench201_supernet
from jaxnas.train.schedules import cosine, sgd

OPTIMIZERS = {
    "sgd": sgd(cosine(0.1, 0.0, 8), momentum=0.9, weight_decay=0.1, clip=0.5, nesterov=True),
    "adam": optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.05, b1=0.5)),
    "adamw": optax.adamw(optax.linear_schedule(0.1, 0.0, 8), weight_decay=0.1),
}
# Three choices of one of two slices [S, O, F], a parameter of two axes and one that is always used.
PARAMS = {"slots": jnp.arange(24.0).reshape(3, 2, 4) - 12, "vector": [jnp.linspace(-1, 1, 3)], "always": jnp.float32(2)}


def used(arch):
    return {
        "slots": jax.nn.one_hot(arch, 2, dtype=bool)[:, :, None],
        "vector": [arch == 1],
        "always": jnp.array(True),
    }


def gradients(step):
    """Of everything, so also where nothing is used: that must not be read."""
    keys = jax.random.split(jax.random.key(step), 3)
    return jax.tree.map(
        lambda key, leaf: 3 * jax.random.normal(key, leaf.shape),
        jax.tree.unflatten(jax.tree.structure(PARAMS), list(keys)),
        PARAMS,
    )


def taken(tree, masks):
    """The used numbers of a tree of the form of the parameters, each leaf flat."""
    return jax.tree.map(lambda leaf, mask: np.asarray(leaf)[np.broadcast_to(mask, leaf.shape)], tree, masks)


def put(tree, masks, values):
    def one(leaf, mask, value):
        result = np.array(leaf)
        result[np.broadcast_to(mask, result.shape)] = value
        return jnp.asarray(result)

    return jax.tree.map(one, tree, masks, values)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_is_the_plain_step_on_the_used_slices_alone(name):
    chex.clear_trace_counter()
    plain, optimizer = OPTIMIZERS[name], path_only(OPTIMIZERS[name])
    params, state = PARAMS, optimizer.init(PARAMS)
    expected, expected_state = PARAMS, plain.init(PARAMS)
    step = jax.jit(chex.assert_max_traces(lambda g, s, p, arch: optimizer.update(g, s, p, used=used(arch)), n=1))
    archs = jnp.array([[0, 1, 1], [0, 0, 1], [1, 1, 0], [0, 1, 1], [0, 1, 0]])
    for number, arch in enumerate(archs):
        g, masks = gradients(number), used(arch)
        updates, state = step(g, state, params, arch)
        params = optax.apply_updates(params, updates)
        # The used numbers as a problem of their own, with their part of the state.
        part = taken(expected, masks)
        part_state = optax.tree_map_params(plain, lambda leaf, mask: taken(leaf, mask), expected_state, masks)
        part_updates, part_state = plain.update(taken(g, masks), part_state, part)
        expected = put(expected, masks, optax.apply_updates(part, part_updates))
        whole = plain.update(g, expected_state, expected)[1]  # only for what counts steps
        expected_state = _merged(plain, expected_state, part_state, whole, masks)
        chex.assert_trees_all_close(params, expected, rtol=1e-5, atol=1e-6)
        chex.assert_trees_all_close(state, expected_state, rtol=1e-5, atol=1e-6)
    assert int(optax.tree.get_all_with_path(state, "count")[0][1]) == len(archs)


def _merged(optimizer, before, part, whole, masks):
    """A state: what has the form of the parameters with the part put in, all else as after a whole step."""
    places = optax.tree_map_params(optimizer, lambda _, m: m, before, masks, transform_non_params=lambda _: None)
    return jax.tree.map(
        lambda mask, old, value, after: after if mask is None else put(old, mask, value),
        places, before, part, whole, is_leaf=lambda leaf: leaf is None,
    )  # fmt: skip


def test_a_supernet_moves_where_the_path_is_and_nowhere_else():
    net = nasbench201_supernet(Skeleton(channels=2, cells=1, image_shape=(4, 4, 1), num_classes=3))
    optimizer = path_only(sgd(0.1, momentum=0.9, weight_decay=0.1))
    params = jax.jit(net.init)(jax.random.key(0))
    state = optimizer.init(params)
    x = jax.random.normal(jax.random.key(1), (4, 4, 4, 1))

    @jax.jit
    def step(params, state, arch):
        gradient = jax.grad(lambda p: jnp.sum(jnp.sin(net.apply_path(p, arch, x, Context())[0])))(params)
        updates, state = optimizer.update(gradient, state, params, used=net.used(arch))
        return optax.apply_updates(params, updates), state

    for arch in jax.vmap(nasbench201_space().sample)(jax.random.split(jax.random.key(2), 3)):
        moved, state = step(params, state, arch)
        for before, after, mask in zip(*map(jax.tree.leaves, (params, moved, net.used(arch))), strict=True):
            mask = np.broadcast_to(mask, before.shape)
            changed = np.asarray(before) != np.asarray(after)
            assert not changed[~mask].any()
            assert changed[mask].all() or not mask.any()  # decay alone moves every used number that is not zero
        params = moved
