"""Tables through the same training and search as images: inputs in two arrays, targets that are numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_table import NET, SPACE, TRUTH, table

from jaxnas import data
from jaxnas.base import Aux, Context, Network
from jaxnas.search import darts, single_path, uniform_paths
from jaxnas.testing import check_supernet
from jaxnas.train.chunk import make_chunk
from jaxnas.train.path_score import make_path_score, recalibrated
from jaxnas.train.trainer import make_evaluate, make_trainer


@pytest.fixture(scope="module")
def dataset():
    return data.from_arrays(table(64, 0), table(20, 1), table(64, 2))


ARCHS = jnp.asarray(np.stack(np.meshgrid(range(3), range(3), indexing="ij"), -1).reshape(-1, 2), jnp.int32)


def test_its_supernet_obeys_the_laws(dataset):
    inputs = jax.tree.map(lambda leaf: jnp.asarray(leaf[:16]), dataset.train.inputs)
    check_supernet(SPACE, NET, inputs=inputs)
    with pytest.raises(ValueError, match=r"for examples \['kind'\] \[B\], \['numbers'\] \[B, 2\], got \['numbers'\]"):
        NET.apply_path(NET.init(jax.random.key(0)), ARCHS[0], {"numbers": inputs["numbers"]}, Context())


def searched(algorithm, dataset, steps):
    """(state, infos) after some steps of the only phase, on batches of 32."""
    (phase,) = algorithm.phases
    batches = data.make_batches(64, 32, dataset.augmentation)
    chunk = make_chunk(
        phase.step,
        lambda key, step, parts: {name: batches(key, step, parts[name]) for name in phase.reads},
        loop="device",
    )
    parts = {name: jax.tree.map(jnp.asarray, part) for name, part in dataset.parts().items()}
    return chunk.run(algorithm.init(jax.random.key(0)), jax.random.key(1), 0, steps, parts)


def test_a_network_learns_what_least_squares_find(dataset):
    """Linear in three numbers and the kind; in the evaluation the last batch is filled up and counts as it should."""

    def apply(params, inputs, context):
        return inputs["numbers"] @ params["slope"] + params["kinds"][inputs["kind"]], Aux(())

    network = Network(lambda key: ({"slope": jnp.zeros(2), "kinds": jnp.zeros(3)}, ()), apply, {})
    trainer = make_trainer(network, optax.sgd(0.3), total_steps=200, objective=dataset.objective, drop_path=0.0)
    chunk = make_chunk(trainer.step, data.make_batches(64, 64, dataset.augmentation), loop="device")
    state, infos = chunk.run(
        trainer.init(jax.random.key(0)), jax.random.key(1), 0, 200, jax.tree.map(jnp.asarray, dataset.train)
    )
    inputs, targets = dataset.train
    columns = np.concatenate([inputs["numbers"], np.eye(3)[inputs["kind"]]], axis=1)
    _, (residual,), *_ = np.linalg.lstsq(columns, targets, rcond=None)
    least = residual / 64
    assert infos.loss[0] > 1.2 * least
    np.testing.assert_allclose((infos.loss[-1], infos.metric[-1]), (least, -least), rtol=1e-4)
    told = make_evaluate(trainer.predict, dataset.augmentation, 10, dataset.objective)(state, dataset.train)
    np.testing.assert_allclose((told.metric, told.loss), (-least, least), rtol=1e-4)
    assert (told.correct, told.total) == (None, 64)


def test_darts_finds_the_maps_of_a_table(dataset):
    algorithm = darts(NET, optax.sgd(0.05, momentum=0.9), optax.adam(0.05), objective=dataset.objective)
    state, infos = searched(algorithm, dataset, 150)
    assert infos.valid_loss[-1] < 0.1 * infos.valid_loss[0]
    np.testing.assert_allclose(infos.valid_metric, -infos.valid_loss)
    arch = algorithm.derive(jax.random.key(0), state)
    assert arch.tolist() == TRUTH
    # What was found, trained from scratch as a path of the supernet.
    trainer = make_trainer(NET, optax.sgd(0.1), total_steps=1, objective=dataset.objective)
    before, batch = trainer.init(jax.random.key(0), arch), data.plain_batch(dataset.train, jnp.arange(64), None)
    after, info = trainer.step(jax.random.key(1), before, batch)
    again, later = trainer.step(jax.random.key(2), after, batch)
    assert later.loss < info.loss
    np.testing.assert_array_equal(again.params["slopes"] != before.params["slopes"], NET.used(arch)["slopes"])


def test_single_paths_of_a_table_are_trained_and_ranked(dataset):
    algorithm = single_path(NET, uniform_paths(SPACE, 3), optax.sgd(0.01), objective=dataset.objective, candidates=60)
    state, infos = searched(algorithm, dataset, 300)
    assert infos.train_loss[-20:].mean() < 0.8 * infos.train_loss[:5].mean()
    # Batches of 7 divide 20 with a rest, which is filled up.
    score = make_path_score(NET.apply_path, dataset.augmentation, 7, objective=dataset.objective)
    found = score(state.params, ARCHS, dataset.test)
    whole = [NET.apply_path(state.params, arch, dataset.test.inputs, Context())[0] for arch in ARCHS]
    np.testing.assert_allclose(found, [-np.mean((y - dataset.test.targets) ** 2) for y in whole], rtol=1e-4)
    assert ARCHS[np.argmax(found)].tolist() == TRUTH
    best = algorithm.derive(jax.random.key(2), state, lambda archs: score(state.params, archs, dataset.test))
    assert best.tolist() == TRUTH
    # Without batch norms there is nothing to be estimated anew.
    statistics = recalibrated(NET.apply_path, dataset.augmentation, dataset.train, 2, 32)
    assert statistics(state.params, ARCHS[0]) == ()
    again = make_path_score(NET.apply_path, None, 20, statistics, jax.devices()[:2], objective=dataset.objective)
    np.testing.assert_allclose(again(state.params, ARCHS, dataset.test), found, rtol=1e-5)
