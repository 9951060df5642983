"""Layers of alternatives that the trained model has not, such as a cheaper block: trained before they are scored.

Each is put alone into the trained model and learns to give its outputs. One compiled step trains all of them, a path
of the supernet that is drawn at each step; nothing else learns. Puzzle does so block by block (Bercovich et al. 2024,
"block-wise local distillation").
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas import data
from jaxnas.base import Array, Batch, Context, Key, PyTree
from jaxnas.choices import Searchable
from jaxnas.data import Dataset
from jaxnas.fit.problem import Stop
from jaxnas.runfolder import Stage
from jaxnas.shrinking.distances import Divergence
from jaxnas.shrinking.settings import Distillation
from jaxnas.train.chunk import make_chunk
from jaxnas.train.loop import PhaseSteps
from jaxnas.train.loop import run as run_loop


class _State(NamedTuple):
    params: PyTree
    opt_state: PyTree


class _Info(NamedTuple):
    distance: Array


def new_layers(own: Searchable) -> list[bool]:
    """Of each array of the supernet's parameters, whether the trained model has nothing of it."""
    return [not bool(np.any(np.asarray(mask))) for mask in jax.tree.leaves(own.supernet.used(own.units().whole))]


def filled(
    own: Searchable, params: PyTree, archs: np.ndarray, dataset: Dataset, settings: Distillation,
    divergence: Divergence, key: Key, stage: Stage | None, stop: Stop,
) -> PyTree:  # fmt: skip
    """The supernet's parameters with the layers that are new trained; `params` itself where there are none.

    archs: every alternative alone, int32 [P, D].
    """
    new, supernet = new_layers(own), own.supernet
    used = jax.jit(supernet.used)
    reading = [
        arch for arch in archs
        if any(fresh and np.any(np.asarray(mask)) for fresh, mask in zip(new, jax.tree.leaves(used(arch)), strict=True))
    ]  # fmt: skip
    if not reading:
        return params
    form, every = jax.tree.structure(params), jnp.array(np.stack(reading), jnp.int32)
    labels = jax.tree.unflatten(form, ["new" if fresh else "kept" for fresh in new])
    examples = data.split(dataset, 0, 0.0).train
    steps = data.count(examples) // settings.batch_size
    rate = optax.cosine_decay_schedule(settings.learning_rate, settings.epochs * steps)
    optimizer = optax.partition({"new": optax.adam(rate), "kept": optax.set_to_zero()}, labels)

    def step(key: Key, state: _State, batch: Batch) -> tuple[_State, _Info]:
        arch = every[jax.random.randint(key, (), 0, len(every))]
        trained = supernet.apply_path(state.params, own.units().whole, batch.inputs, Context())[0]

        def loss(params: PyTree) -> Any:
            outputs = supernet.apply_path(params, arch, batch.inputs, Context())[0]
            return divergence.distance(outputs, trained).mean()

        value, gradient = jax.value_and_grad(loss)(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        return _State(optax.apply_updates(state.params, updates), opt_state), _Info(value)

    batches = data.make_batches(data.count(examples), settings.batch_size, dataset.augmentation)
    phase = PhaseSteps("fill", make_chunk(step, batches), steps, settings.batch_size)
    state = _State(params, optimizer.init(params))
    return run_loop([phase], key, state, examples, settings.epochs, stage=stage, stop=stop).state.params
