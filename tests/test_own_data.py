"""A model of one's own and data that it does not go with: told before anything is compiled or written."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnas
from jaxnas import choices, data, fit
from jaxnas.base import Objective
from jaxnas.shrinking import Fitting


class Net(nn.Module):
    """outputs: what is made of the logits."""

    classes: int = 10
    outputs: object = None
    value: bool = False

    @nn.compact
    def __call__(self, x):
        if self.value:
            x = choices.value("sign", (1, 2)) * x
        x = nn.relu(nn.Dense(choices.width("hidden", (4, 8)))(x.reshape(x.shape[0], -1)))
        x = nn.Dense(self.classes)(x)
        return x if self.outputs is None else self.outputs(x)


def refused(told, model, dataset, example, method=None, **settings):
    entry = jaxnas.searchable(model, example).entry
    with pytest.raises(ValueError, match=told) as caught:
        jaxnas.run(method or jaxnas.Darts(batch_size=8), entry, dataset, jaxnas.Training(batch_size=8), **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [False, True])
def test_a_model_made_for_other_inputs_is_refused(value):
    told = r"made searchable for inputs float32 \[32, 32, 1\] of an example, and digits has float32 \[8, 8, 1\]: give"
    method = jaxnas.BlackBox(epochs=1) if value else None
    refused(told, Net(value=value), data.load_dataset("digits"), jnp.zeros((1, 32, 32, 1)), method)


def test_a_model_that_gives_other_outputs_than_logits_of_the_classes_is_refused():
    digits, example = data.load_dataset("digits"), jnp.zeros((1, 8, 8, 1))
    refused("the model gives 7 logits, and digits has 10 classes: make the last layer as wide", Net(7), digits, example)
    refused(r"the model gives outputs \[8, 1, 10\], and", Net(outputs=lambda x: x[:, None]), digits, example)
    told = "the model gives a dict, and digits needs one array of logits: give it alone, or"
    for given in (Net(outputs=lambda x: {"logits": x}), Net(7, lambda x: {"logits": x, "more": x})):
        refused(told, given, digits, example)
        with pytest.raises(ValueError, match=told):
            jaxnas.shrink(given, None, digits, training=Fitting(epochs=1))


def test_an_objective_of_ones_own_takes_what_it_wants():
    """Two classes may have one logit."""
    rng = np.random.default_rng(0)
    pair = rng.normal(size=(32, 4)).astype(np.float32), np.arange(32) % 2
    loss = Objective(lambda y, t: jax.nn.softplus(-y * (2 * t - 1)), lambda y, t: (y > 0) == t, "accuracy", share=True)
    dataset = data.from_arrays(pair, pair, pair, objective=loss)
    own = jaxnas.searchable(Net(1, lambda x: x[:, 0]), jnp.zeros((1, 4)))
    fit.training.check_networks(own.entry, own.space, jaxnas.Training(batch_size=8), dataset, "float32")


def test_inputs_that_no_network_of_a_space_reads_are_told():
    pair = np.ones((32, 7), np.float32), np.arange(32) % 2
    with pytest.raises(
        ValueError, match="networks of nasbench201 cannot read the inputs of arrays, which are no images"
    ):
        jaxnas.run(
            jaxnas.Darts(batch_size=8), "nasbench201", data.from_arrays(pair, pair, pair), jaxnas.Training(batch_size=8)
        )


def flat_images(*shape):
    pair = np.random.default_rng(0).integers(0, 255, (40, *shape), dtype=np.uint8), np.arange(40) % 2
    return data.from_arrays(pair, pair, pair)


def test_images_that_only_networks_designed_by_hand_do_not_take_are_taken_without_these(monkeypatch):
    dataset, example = flat_images(1, 64, 1), jnp.zeros((1, 1, 64, 1))
    refused("the tutorial network pools twice.*, got", Net(2), dataset, example)

    class Prepared(Exception):
        """The checks of the road are done."""

    def prepare(self, problem):
        raise Prepared

    monkeypatch.setattr(jaxnas.Darts, "prepare", prepare)
    entry = jaxnas.searchable(Net(2), example).entry
    training = jaxnas.Training(batch_size=8)
    with pytest.raises(Prepared):
        jaxnas.run(jaxnas.Darts(batch_size=8), entry, dataset, training, hand_designed=False)


def test_arrays_of_images_are_told_what_arrays_can_be():
    last = r"images are \[N, H, W, C\], channels last \(np.moveaxis.*smallest that go are 4×4: give such arrays$"
    training = jaxnas.Training(batch_size=8)
    with pytest.raises(ValueError, match=last):
        jaxnas.run(jaxnas.Darts(batch_size=8), "nasbench201", flat_images(3, 32, 32), training)
    images = np.zeros((40, 8, 8, 1), np.uint8), np.arange(40) % 2
    with pytest.raises(
        data.DataError, match=r"train images \(8, 8, 1\); give arrays \[N, H, W, C\], channels last, of one"
    ):
        data.from_arrays(images, (images[0][:, :4], images[1]))
