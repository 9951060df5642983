"""A step that does not fit is refused before it runs, and what is advised fits."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import data, fit
from jaxnas.data.digits import load_digits
from jaxnas.fit.memory import Lighter, divisors, memory_check
from jaxnas.memory import GIGABYTE, available_memory, free_memory, machine_memory, needed_memory
from jaxnas.networks import tutorial_cnn
from jaxnas.train.chunk import make_chunk
from jaxnas.train.loop import PhaseSteps, run


def chunk_of(size):
    """Steps that need a table of 256 numbers for each example, beside a state of one."""

    def step(key, state, batch):
        table = jnp.sort(batch[:, None] * jnp.arange(256.0)[None], axis=0)  # sorted as a whole, it is there as a whole
        return state + table[0].sum(), {"state": state}

    return make_chunk(step, lambda key, index, data: data[:size])


DATA, KEY, STATE = jnp.arange(256.0), jax.random.key(0), jnp.zeros(())


def need(size):
    return needed_memory(chunk_of(size).compile(STATE, KEY, DATA))


def test_what_a_program_needs_is_its_temporaries():
    small, large = need(16), need(256)
    assert 4 * 256 * 16 <= small < 4 * 256 * 64
    assert 4 * 256 * 256 <= large < 16 * 256 * 256


def test_a_device_has_a_part_of_what_the_machine_has_left():
    left, there = available_memory(), machine_memory()
    if left is None:
        pytest.skip("this system does not tell how much memory it has left")
    assert 0 < left <= there
    assert free_memory(4) <= free_memory(1) <= there


def check(most, tried):
    def lighten(phase):
        assert phase == "step"
        for parts in divisors(8):

            def make(parts=parts):
                tried.append(parts)
                return chunk_of(256 // parts)

            yield Lighter(f"size {256 // parts}", make, parts)

    return memory_check(lighten, 1, most / GIGABYTE)


def test_it_tells_the_largest_part_that_fits_and_tries_none_that_cannot():
    tried = []
    phases = [PhaseSteps("step", chunk_of(256), 1)]
    with pytest.raises(
        ValueError, match=r"a step of step needs .* on each device, where .* may be used: size 64 needs"
    ):
        check(need(64), tried)(phases, STATE, [KEY], DATA)
    assert tried == [4]  # a half needs a half at least, so that nobody asks
    with pytest.raises(ValueError, match="no smaller part of a batch fits"):
        check(8, tried)(phases, STATE, [KEY], DATA)
    check(need(256), tried)(phases, STATE, [KEY], DATA)


def test_nothing_runs_before_it_is_known_to_fit_and_nothing_is_compiled_twice():
    traces = []

    def step(key, state, batch):
        traces.append(1)
        return state + batch.sum(), {"state": state}

    phases = [PhaseSteps("step", make_chunk(step, lambda key, index, data: data), 3)]

    def refuse(*_):
        raise ValueError("no room")

    with pytest.raises(ValueError, match="no room"):
        run(phases, KEY, STATE, DATA, 1, fits=refuse)
    assert not traces

    def compiled(phases, state, keys, data):
        phases[0].chunk.compile(state, keys[0], data)

    outcome = run(phases, KEY, STATE, DATA, 1, fits=compiled)
    assert outcome.state == 3 * DATA.sum()
    assert len(traces) == 1


def test_a_training_that_is_told_what_fits_runs_with_that():
    digits = load_digits()
    few = data.from_arrays(*((part.inputs[:64], part.targets[:64]) for part in (digits.train, digits.test)))
    network = tutorial_cnn(few.image_shape, few.num_outputs)

    def train(most, accumulate=1):
        training = fit.Training(epochs=1, batch_size=32, accumulate=accumulate, hold_out=0.0, drop_path=0.0)
        return fit.train(network, few, training, devices=fit.Devices(count=1, memory_gb=most))

    with pytest.raises(ValueError, match="a step of train needs") as told:
        train(1e-6)
    whole = float(re.search(r"needs ([\d.e-]+) GB", str(told.value))[1])
    with pytest.raises(ValueError, match=r"train\.accumulate") as told:
        train(0.7 * whole)
    advice = r"train\.accumulate (\d+) \(or, no more, train\.batch_size \d+\) needs ([\d.e-]+) GB"
    parts, own = re.search(advice, str(told.value)).groups()
    assert float(own) < 0.7 * whole
    assert np.isfinite(train(0.7 * whole, int(parts)).test_loss)
