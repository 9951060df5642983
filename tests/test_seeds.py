"""Several seeds of one search: what is refused, how far cells agree, and which of them is kept."""

import json

import jax
import jax.numpy as jnp
import pytest

from jaxnas.catalog import entry_of
from jaxnas.data.digits import load_digits
from jaxnas.fit import seeds
from jaxnas.fit.devices import Devices, spread
from jaxnas.fit.problem import Problem
from jaxnas.fit.settings import Training
from jaxnas.runfolder import open_run
from jaxnas.spaces import darts_space, nasbench201_space

TINY = Problem(entry_of("darts"), load_digits(), Training(), darts_space(), lambda space: None, seeds=4)


def test_agreement_is_the_share_of_equal_choices_over_all_pairs():
    a, b, c = jnp.array([0, 1, 2, 3]), jnp.array([0, 1, 2, 0]), jnp.array([1, 1, 2, 0])
    assert seeds.share_equal([a, a]) == 1.0
    assert seeds.share_equal([a, b, c]) == pytest.approx((3 / 4 + 2 / 4 + 3 / 4) / 3)


def test_the_best_by_validation_is_kept_whatever_the_test_says(tmp_path):
    config = TINY._replace(seed=5, seeds=2)
    space = nasbench201_space()
    found = dict(zip(seeds.names(config), jnp.array([[0, 1, 2, 3, 4, 0], [0, 1, 2, 3, 4, 1]]), strict=True))
    figures = {
        name: {"test_accuracy": test, "valid_accuracy": valid, "notation": name, "genotype": {"of": name}}
        for name, test, valid in (("seed-5", 0.9, 0.7), ("seed-6", 0.8, 0.8))
    }
    with open_run(tmp_path / "run", {}, {}) as run:
        for name in found:
            (run.stage(f"train-{name}").path / "network").mkdir()
            (run.stage(f"train-{name}").path / "network" / "of").write_text(name)
        figures, number = seeds.choose(run, config, space, found, figures)
        assert (run.path / "network" / "of").read_text() == "seed-6"
        assert json.loads((run.path / "genotype.json").read_text()) == {"of": "seed-6"}
    told = figures["found"]["seeds"]
    assert (number, told["chosen"], told["count"]) == (1, 6, 2)
    assert told["mean_test"] == pytest.approx(0.85)
    assert told["std_test"] == pytest.approx(0.1 / 2**0.5)
    assert told["agreement"] == pytest.approx(5 / 6)
    assert told["agreement_by_chance"] == pytest.approx(1 / 5, abs=0.03)
    each, everything = seeds.tables(found, figures)
    assert [row[3] for row in each[2]] == ["", "kept"]
    assert "0.8500 ± 0.0707" in everything[2][0][0]


def test_seeds_go_over_as_many_devices_as_divide_them():
    def laid_out(count):
        layout = seeds.layout(TINY._replace(devices=Devices(count=count)), (8, 8, 1), side_by_side=True)
        return layout.keys([jax.random.key(number) for number in range(4)])

    assert len(laid_out(0).devices()) == 4
    assert len(laid_out(2).devices()) == 2
    with pytest.raises(ValueError, match="4 seeds cannot be divided over 3 devices"):
        laid_out(3)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"seed": 2**32 - 4 + 1}, "4 seeds from 4294967293 on go beyond 4294967295"),
        ({"training": Training(hold_out=0.0)}, "train.hold_out must not be 0"),
        ({"devices": Devices(coordinator="auto")}, "run each seed by --seed"),
    ],
)
def test_what_does_not_go_with_several_seeds_is_told(change, told):
    with pytest.raises(ValueError, match=told):
        seeds.check(TINY._replace(**change), {})


def test_batches_go_over_as_many_devices_as_divide_them(capsys):
    large = (128, 128, 3)
    assert spread(Devices(), large, 8, 12).devices == 4
    assert spread(Devices(), large, 9).devices == 3
    assert "batches of 9 go over 3 of 4 devices" in capsys.readouterr().err
    assert spread(Devices(), large, 7).axis_name is None
    # On CPUs each device runs the step on its part unless another way is asked for.
    assert spread(Devices(), large, 8).axis_name is not None
    assert spread(Devices(way="sharded"), large, 8).axis_name is None
    with pytest.raises(ValueError, match="a batch of 6 cannot be divided over 4 devices"):
        spread(Devices(count=4), large, 6)
    with pytest.raises(ValueError, match="up to the 4 that are there; got 5"):
        spread(Devices(count=5), large, 10)


def test_a_cpu_device_gets_sixteen_images_of_cifar10_or_as_many_pixels(capsys):
    assert spread(Devices(), (32, 32, 3), 64).devices == 4
    assert spread(Devices(), (32, 32, 3), 64, 40).devices == 2
    assert spread(Devices(), (8, 8, 1), 64).devices == 1
    assert spread(Devices(count=4), (8, 8, 1), 64).devices == 4
    assert capsys.readouterr().err == ""
