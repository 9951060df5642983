"""The hand-designed network of many tutorials, a baseline: LeNet-5's layout with ReLU and max pooling.

LeCun et al. 1998, "Gradient-based learning applied to document recognition"; in this form the first network of the
PyTorch tutorials.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp

from jaxnas.base import Array, Aux, Context, Key, Network, PyTree, Stats
from jaxnas.networks.blocks import draw, fresh_keys
from jaxnas.ops import layers

_KERNEL = 5


def tutorial_cnn(image_shape: tuple[int, int, int], num_classes: int, dtype: str = "float32") -> Network:
    """Conv 5×5 to 6, pool, conv 5×5 to 16, pool, dense 120, 84, K; ReLU between, max pooling 2×2, biases everywhere.

    Convolutions are not padded on images of 32 pixels and more, and keep the size on smaller ones. There is no batch
    norm, so its statistics are empty, and the context changes nothing. `costs` counts a bias as one MAC for each
    output. dtype: of the convolutions' activations.

    Raises: ValueError where the image is under 4×4, or there is no class.

    >>> network = tutorial_cnn((28, 28, 1), num_classes=10)
    >>> network.costs["params"]
    107786
    >>> params, stats = jax.eval_shape(network.init, jax.random.key(0))
    >>> jax.eval_shape(lambda p: network.apply(p, jnp.zeros((5, 28, 28, 1)), Context())[0], params).shape
    (5, 10)
    """
    height, width, channels = image_shape
    if min(height, width) < 4 or channels < 1:
        raise ValueError(f"the tutorial network pools twice: it needs images of at least 4×4, got {image_shape}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    padding = _KERNEL // 2 if min(height, width) < 32 else 0
    trim = _KERNEL - 1 - 2 * padding

    params_count = macs = 0
    size = (height, width)
    for inputs, outputs in ((channels, 6), (6, 16)):
        size = (size[0] - trim, size[1] - trim)
        weights = (_KERNEL * _KERNEL * inputs + 1) * outputs
        params_count, macs = params_count + weights, macs + weights * size[0] * size[1]
        size = (size[0] // 2, size[1] // 2)
    features = size[0] * size[1] * 16
    widths = (features, 120, 84, num_classes)
    dense = sum((before + 1) * after for before, after in itertools.pairwise(widths))
    costs = {"params": params_count + dense, "macs": macs + dense}

    def convolution(key: Key, inputs: int, outputs: int) -> layers.Params:
        return {"kernel": layers.conv_init(key, _KERNEL, inputs, outputs), "bias": jnp.zeros((outputs,))}

    def layout(key: Key) -> PyTree:
        keys = fresh_keys(key)
        return {
            "convolutions": [convolution(next(keys), channels, 6), convolution(next(keys), 6, 16)],
            "dense": [layers.dense_init(next(keys), before, after) for before, after in itertools.pairwise(widths)],
        }

    def init(key: Key) -> tuple[PyTree, Stats]:
        return draw(key, layout), ()

    def apply(params: PyTree, x: Array, context: Context) -> tuple[Array, Aux]:
        x = x.astype(dtype)
        for layer in params["convolutions"]:
            y = layers.conv(x, layer["kernel"], padding=padding)
            x = _pool(jax.nn.relu(layers.added(y, layer["bias"])))
        x = x.reshape(x.shape[0], -1)
        for layer in params["dense"][:-1]:
            x = jax.nn.relu(layers.dense(x, layer))
        return layers.dense(x, params["dense"][-1]), Aux(())

    return Network(init, apply, costs)


def _pool(x: Array) -> Array:
    """2×2 maximum of stride 2; an odd last row or column is dropped."""
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))
