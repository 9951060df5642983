"""One step over devices and seeds: every way of compiling it gives the same numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from jaxnas.base import Batch, Skeleton
from jaxnas.controllers import adam, lstm_controller, reinforce_policy
from jaxnas.data.stored import StoredImages
from jaxnas.kernels.trees import pmean
from jaxnas.networks import darts_network
from jaxnas.parallel import data_parallel, many_seeds, on_one_device
from jaxnas.search import adam_l2, darts, enas, exact, fair_paths, single_path
from jaxnas.spaces import darts_space
from jaxnas.supernets import darts_supernet
from jaxnas.train.chunk import make_chunk
from jaxnas.train.schedules import sgd
from jaxnas.train.trainer import make_trainer

OPERATIONS = ("none", "skip_connect", "dil_conv_3x3")
SPACE = darts_space(1, OPERATIONS)
SKELETON = Skeleton(channels=2, cells=1, image_shape=(4, 4, 1), num_classes=3)
NET = darts_supernet(SKELETON, 1, OPERATIONS)
OPTIMIZER = sgd(0.1, momentum=0.9, weight_decay=1e-3, clip=1.0)
WAYS = ("sharded", "shard_map", "pmap")
# Relative to the largest number of a leaf: devices add up in another order.
TOLERANCE = 2e-4


def quick(function, **options):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0}, **options)


def images(seed, count=8):
    labels = jnp.arange(count) % 3
    pixels = jax.random.normal(jax.random.key(seed), (count, 4, 4, 1))
    return Batch(pixels.at[:, 0].add(2.0 * labels[:, None, None]), labels)


BATCHES = [{"train": images(2 * i), "valid": images(2 * i + 1)} for i in range(2)]


def search_by_darts(axis_name):
    """By exact second order, which has the gradients of the other orders as its parts."""
    return darts(NET, OPTIMIZER, adam_l2(0.1), exact(OPTIMIZER, axis_name), axis_name=axis_name)


def search_by_enas(axis_name):
    controller = lstm_controller(SPACE.choices, hidden=8, tanh_constant=2.5, op_tanh_reduce=1.0)
    return enas(NET, reinforce_policy(controller, adam(0.1)), OPTIMIZER, samples=2, candidates=2, axis_name=axis_name)


def train_single_paths(axis_name):
    return single_path(NET, fair_paths(SPACE.choices), OPTIMIZER, axis_name=axis_name)


def searched(make):
    """axis_name -> (init, step through all phases of a search)."""

    def made(axis_name):
        algorithm = make(axis_name)

        def step(key, state, batch):
            infos = []
            for phase, own in zip(algorithm.phases, jax.random.split(key, len(algorithm.phases)), strict=True):
                state, info = phase.step(own, state, batch)
                infos.append(info)
            return state, infos

        return algorithm.init, step

    return made


def trained(axis_name):
    arch = SPACE.sample(jax.random.key(1))
    trainer = make_trainer(
        darts_network(arch, SKELETON, SPACE), OPTIMIZER, total_steps=4, drop_path=0.0, axis_name=axis_name
    )
    return trainer.init, lambda key, state, batch: trainer.step(key, state, batch["train"])


STEPS = {
    "darts": searched(search_by_darts),
    "enas": searched(search_by_enas),
    "single_path": searched(train_single_paths),
    "training": trained,
}


def two_steps(make, ways):
    """(states and infos after two steps, programs compiled for them)."""
    init, step = make(ways.axis_name)
    state = ways.place(jax.jit(init)(jax.random.key(0)))
    compiled = quick(ways.step(step), donate_argnums=1)
    infos = []
    for number, batch in enumerate(BATCHES):
        state, info = compiled(jax.random.key(number), state, ways.place_data(batch))
        infos.append(info)
    return (state, infos), compiled._cache_size()


@functools.cache
def on_one(name):
    return two_steps(STEPS[name], on_one_device())[0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", STEPS)
def test_every_way_over_four_devices_is_the_step_on_one(name, way):
    ways = data_parallel(way)
    assert ways.devices == 4
    got, programs = two_steps(STEPS[name], ways)
    assert programs == 1
    assert all(leaf.sharding.is_fully_replicated and len(leaf.devices()) == 4 for leaf in jax.tree.leaves(got[0]))

    def check(a, b):
        np.testing.assert_allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE * max(1e-2, float(np.abs(b).max())))

    jax.tree.map(check, jax.device_get(got), jax.device_get(on_one(name)))


def test_a_mean_of_gradients_needs_the_map_without_check_of_varying_axes():
    """The pitfall: with `check_vma` the same step descends as many times too far as there are devices."""

    def step(key, state, batch):
        del key
        gradient = pmean(jax.grad(lambda w: jnp.mean((batch @ w) ** 2))(state), "batch")
        return state - gradient, ()

    data, start = jnp.arange(24.0).reshape(8, 3), jnp.array([1.0, -2.0, 0.5])
    true = jax.grad(lambda w: jnp.mean((data @ w) ** 2))(start)
    ours = data_parallel("shard_map").step(step)(jax.random.key(0), start, data)[0]
    np.testing.assert_allclose(start - ours, true, rtol=1e-5)
    mesh = Mesh(np.asarray(jax.devices()), ("batch",), axis_types=(AxisType.Auto,))
    careless = jax.shard_map(step, mesh=mesh, in_specs=(P(), P(), P("batch")), out_specs=P())
    np.testing.assert_allclose(start - careless(jax.random.key(0), start, data)[0], 4 * true, rtol=1e-5)


def test_data_is_divided_over_the_devices_and_filled_up_where_they_do_not_divide_it():
    ways = data_parallel("sharded")
    for size in (8, 7, 3):
        placed = ways.place_data(np.arange(size))
        width = 1 if size == 3 else 2
        assert {shard.data.shape for shard in placed.addressable_shards} == {(width,)}
        np.testing.assert_array_equal(placed, np.arange(4 * width) % size)


def test_of_data_that_is_not_in_memory_each_device_asks_for_its_rows():
    asked = []

    def read(numbers):
        asked.append(numbers.tolist())
        return np.broadcast_to(numbers.astype(np.uint8)[:, None, None, None], (len(numbers), 2, 2, 1))

    placed = data_parallel("sharded").place_data(StoredImages(read, 10, (2, 2, 1))[1:])
    assert asked == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]  # the fourth is filled up with the first ones
    np.testing.assert_array_equal(placed[:, 0, 0, 0], [*range(1, 10), 1, 2, 3])


# A bilevel problem small enough to run many seeds of it: the state is a point, the batch a draw of the data.
def noisy_descent(key, state, batch):
    gradient = state - batch + 0.1 * jax.random.normal(key, state.shape)
    return state - 0.5 * gradient, optax.tree.norm(gradient)


def draw(key, index, data):
    return data[jax.random.randint(jax.random.fold_in(key, index), (), 0, len(data))]


@pytest.mark.parametrize("loop", ["host", "device"])
@pytest.mark.parametrize(("how", "devices"), [("vmap", 1), ("map", 1), ("vmap", 2), ("map", 2)])
def test_seeds_at_once_are_those_seeds_alone(how, devices, loop):
    data, keys = jnp.arange(12.0).reshape(4, 3), jax.random.split(jax.random.key(3), 4)
    starts = jax.vmap(lambda key: jax.random.normal(key, (3,)))(jax.random.split(jax.random.key(4), 4))
    seeds = many_seeds(4, how, jax.devices()[:devices])
    together = make_chunk(noisy_descent, draw, max_steps=8, loop=loop, seeds=seeds)
    ends, infos = together.run(
        seeds.place(jnp.array(starts)), seeds.place(jax.random.clone(keys)), 2, 7, seeds.place_data(data)
    )
    assert infos.shape == (5, 4)
    alone = make_chunk(noisy_descent, draw, max_steps=8, loop=loop)
    for number in range(4):
        end, info = alone.run(jnp.array(starts[number]), jax.random.clone(keys[number]), 2, 7, data)
        np.testing.assert_allclose(ends[number], end, rtol=1e-6)
        np.testing.assert_allclose(infos[:, number], info, rtol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: data_parallel("pmean"), "sharded, shard_map, pmap, got 'pmean'"),
        (lambda: data_parallel("sharded", []), "at least one device"),
        (lambda: many_seeds(3, "vmap", jax.devices()[:2]), "3 seeds cannot be divided over 2 devices"),
        (lambda: many_seeds(0), "0 seeds"),
        (lambda: many_seeds(2, "scan"), "'scan'"),
        (
            lambda: data_parallel("pmap").step(noisy_descent)(jax.random.key(0), jnp.zeros(3), jnp.zeros((6, 3))),
            "a batch of 6 cannot be divided over 4 devices",
        ),
    ],
)
def test_wrong_input_is_told(wrong, told):
    with pytest.raises(ValueError, match=told):
        wrong()
