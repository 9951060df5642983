"""A model of one's own and data that it does not go with: told before anything is compiled or written."""

import flax.linen as nn
import jax.numpy as jnp
import pytest

import jaxnas
from jaxnas import choices, data


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
