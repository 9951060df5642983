"""Several seeds of one search: what is refused, and how far cells agree."""

import dataclasses

import jax.numpy as jnp
import pytest

from experiments import darts_seeds
from experiments.darts import PRESETS
from experiments.devices import Devices, spread

TINY = dataclasses.replace(PRESETS["tiny"], seeds=4)


def test_agreement_is_the_share_of_equal_choices_over_all_pairs():
    a, b, c = jnp.array([0, 1, 2, 3]), jnp.array([0, 1, 2, 0]), jnp.array([1, 1, 2, 0])
    assert darts_seeds.share_equal([a, a]) == 1.0
    assert darts_seeds.share_equal([a, b, c]) == pytest.approx((3 / 4 + 2 / 4 + 3 / 4) / 3)


def test_seeds_go_over_as_many_devices_as_divide_them():
    assert darts_seeds.laid_out(TINY).number == 4
    darts_seeds.check(TINY)  # four seeds on the four devices of the tests
    with pytest.raises(ValueError, match="4 seeds cannot be divided over 3 devices"):
        darts_seeds.check(dataclasses.replace(TINY, devices=Devices(count=3)))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"train": dataclasses.replace(TINY.train, hold_out=0.0)}, "train.hold_out must not be 0"),
        ({"search": dataclasses.replace(TINY.search, early_stop=True)}, "search.early_stop"),
        ({"devices": Devices(coordinator="auto")}, "run each seed by --seed"),
    ],
)
def test_what_does_not_go_with_several_seeds_is_told(change, told):
    with pytest.raises(ValueError, match=told):
        darts_seeds.check(dataclasses.replace(TINY, **change))


def test_batches_go_over_as_many_devices_as_divide_them(capsys):
    assert spread(Devices(), 8, 12).devices == 4
    assert spread(Devices(), 9).devices == 3
    assert "batches of 9 go over 3 of 4 devices" in capsys.readouterr().err
    assert spread(Devices(), 7).axis_name is None
    with pytest.raises(ValueError, match="a batch of 6 cannot be divided over 4 devices"):
        spread(Devices(count=4), 6)
    with pytest.raises(ValueError, match="up to the 4 that are there; got 5"):
        spread(Devices(count=5), 10)
