"""One-shot training of a real supernet on digits."""

import jax
import numpy as np

from jaxnas.base import Skeleton
from jaxnas.data.dataset import Examples
from jaxnas.data.digits import load_digits
from jaxnas.data.pipeline import plain_batch
from jaxnas.search import fair_paths, single_path
from jaxnas.spaces import nasbench201_space
from jaxnas.supernets import nasbench201_supernet
from jaxnas.train.schedules import sgd

SPACE = nasbench201_space()


def quick(function):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def test_fair_training_on_digits_beats_chance_soon():
    digits = load_digits()
    net = nasbench201_supernet(Skeleton(4, 1, digits.image_shape, digits.num_classes))
    algorithm = single_path(net, fair_paths(SPACE.choices), sgd(0.05, clip=5.0))
    train = plain_batch(Examples(digits.train.inputs, digits.train.targets), np.arange(100), digits.augmentation)
    step, state = quick(algorithm.phases[0].step), quick(algorithm.init)(jax.random.key(0))
    losses = []
    for key in jax.random.split(jax.random.key(1), 25):
        state, info = step(key, state, {"train": train})
        losses.append(float(info.train_loss))
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    assert info.train_metric > 0.2  # the mean over five paths of which some may have nothing to learn with
