"""The shipped benchmark: that it is what it says, and that the experiment that makes it goes on where it stopped."""

import dataclasses
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from experiments import make_digits201
from jaxnas import command, data
from jaxnas.base import Skeleton
from jaxnas.benchmarks import digits201_table, functional_classes
from jaxnas.benchmarks.digits201 import digits201_cells, digits201_costs, read_digits201
from jaxnas.files import read_json, write_json
from jaxnas.making import Settings, representatives, start_fingerprint, training_batches
from jaxnas.networks import nasbench201_network
from jaxnas.saved import form_of
from jaxnas.spaces import nasbench201_space
from jaxnas.train.trainer import make_evaluate


@pytest.fixture(scope="module")
def table():
    return digits201_table()


@pytest.fixture(scope="module")
def noisy_digits():
    return data.load_dataset("digits201")


def metric(table, name):
    return np.asarray(table.metrics[name], np.float64).reshape(len(table.archs), -1)


def test_cells_that_compute_the_same_have_the_same_values_and_costs_of_their_own(table):
    classes = functional_classes(table.archs)
    assert len(table.archs) == 15625
    for name in ("valid", "valid_loss", "test"):
        values = metric(table, name)
        of_class = np.zeros((classes.max() + 1, values.shape[1]))
        of_class[classes] = values
        np.testing.assert_array_equal(of_class[classes], values)
        assert not np.isnan(values).any()
    skeleton = Skeleton(8, 2, (8, 8, 1), 10)
    for row in (0, 777, 9999, 15624):
        costs = nasbench201_space().costs(table.archs[row], skeleton)
        assert [metric(table, name)[row, 0] for name in ("params", "macs")] == [costs["params"], costs["macs"]]
    two = np.flatnonzero(classes == classes[1])
    assert len(two) > 1
    assert len(np.unique(metric(table, "macs")[two])) > 1


def test_it_is_small_and_neither_saturated_nor_noise(table):
    assert resources.files("jaxnas.benchmarks").joinpath("digits201.npz").stat().st_size < 1_000_000
    valid, test = metric(table, "valid")[:, -1], metric(table, "test")[:, -1]
    low, high = np.quantile(valid, [0.25, 0.95])
    assert high - low > 10
    assert high < 97
    again = metric(table, "valid_second")[:, 0]
    there = ~np.isnan(again)
    assert len(np.unique(functional_classes(np.asarray(table.archs)[there]))) >= 500
    assert stats.spearmanr(valid[there], again[there]).statistic > 0.8
    assert stats.spearmanr(valid, test).statistic > 0.9
    # A cell without a path from its input computes a constant: one digit in ten.
    empty = table.query(jnp.zeros(6, jnp.int32), "test")
    assert 5 < float(empty) < 15
    # Training longer helps, and the cheap fidelities tell something of the last.
    by_epoch = metric(table, "valid")
    assert (np.diff(by_epoch.mean(axis=0)) > 0).all()
    assert stats.spearmanr(by_epoch[:, 0], valid).statistic > 0.3
    seconds = metric(table, "seconds")
    np.testing.assert_allclose(seconds[:, -1] / seconds[:, 0], int(table.fidelities["valid"][-1]), rtol=1e-5)


SMALL = (
    *("--classes", "5", "--second", "3", "--timed", "3", "--epochs", "2", "--fidelities", "1", "2", "--channels", "4"),
    *("--cells", "1", "--copies", "1", "--part", "4", "--batch-size", "359"),
)


def test_a_lost_part_is_made_again_to_the_same_bits(tmp_path, capsys):
    arguments = [*SMALL, "--workdir", str(tmp_path / "run"), "--cache-dir", str(tmp_path / "cache")]
    before = jax.config.jax_compilation_cache_dir
    try:
        command.main(make_digits201.main, make_digits201.Config, arguments)
        first = (tmp_path / "run" / "digits201.npz").read_bytes()
        part = tmp_path / "run" / "stages" / "first" / "0001.npz"
        kept = part.read_bytes()
        part.unlink()
        command.main(make_digits201.main, make_digits201.Config, arguments)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert part.read_bytes() == kept
    assert (tmp_path / "run" / "digits201.npz").read_bytes() == first
    made = digits201_table(tmp_path / "run" / "digits201.npz")
    assert made.fidelities["valid"] == ("1", "2")
    assert len(np.unique(functional_classes(made.archs))) == 5
    assert "part 1 of 1" in capsys.readouterr().out
    # Another folder takes over what the file has and trains nothing more; its losses have the file's precision.
    over = [*SMALL, "--workdir", str(tmp_path / "over"), "--start", str(tmp_path / "run" / "digits201.npz")]
    (tmp_path / "over" / "stages" / "time").mkdir(parents=True)
    config = read_json(tmp_path / "run" / "config.json")
    arrays, _ = read_digits201(tmp_path / "run" / "digits201.npz")
    config["identity"]["start"] = start_fingerprint(arrays)
    write_json(tmp_path / "over" / "config.json", config)
    (tmp_path / "over" / "stages" / "time" / "done.json").write_text(
        (tmp_path / "run" / "stages" / "time" / "done.json").read_text()
    )
    command.main(make_digits201.main, make_digits201.Config, [*over, "--cache-dir", str(tmp_path / "cache")])
    jax.config.update("jax_compilation_cache_dir", before)
    assert "part 1 of" not in capsys.readouterr().out
    again = digits201_table(tmp_path / "over" / "digits201.npz")
    for name in made.metrics:
        np.testing.assert_array_equal(again.metrics[name], made.metrics[name])
    # A file that was exchanged since is not taken for the one of before.
    with np.load(tmp_path / "run" / "digits201.npz") as stored:
        arrays = dict(stored)
    np.savez(tmp_path / "run" / "digits201.npz", **{**arrays, "test_correct": arrays["test_correct"][::-1]})
    with pytest.raises(SystemExit):
        command.main(make_digits201.main, make_digits201.Config, [*over, "--cache-dir", str(tmp_path / "cache")])
    assert "(start: the content has changed since" in capsys.readouterr().err


def test_a_class_is_the_network_of_its_cell():
    """The representative is one of the class, and no other is cheaper."""
    archs, macs = representatives(Settings())
    assert len(archs) == 4930
    cells, classes = digits201_cells()
    place = {tuple(cell): number for cell, number in zip(cells.tolist(), classes, strict=True)}
    assert [place[tuple(arch)] for arch in archs.tolist()] == list(range(4930))
    _, every = digits201_costs(Skeleton(8, 2, (8, 8, 1), 10), cells)
    cheapest = np.full(4930, np.iinfo(np.int64).max)
    np.minimum.at(cheapest, classes, every)
    np.testing.assert_array_equal(macs, cheapest)
    assert nasbench201_network(archs[-1], Skeleton(8, 2, (8, 8, 1), 10)).costs["macs"] == macs[-1]


WRONG = {
    "--fidelities 1 3": "end with 8",
    "--timed 2": "at least 3 timed",
    "--noise -1": "noise must be 0 or positive, got -1.0",
    "--part 0": "part must be at least 1",
    "--start README.md": "README.md is no npz archive",
    "--start jaxnas/benchmarks/digits201.npz --noise 0.5": "noise: 0.6 there, 0.5 now",
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_wrong_input_is_one_line(case, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(resources.files("jaxnas").joinpath(".."))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(SystemExit) as stopped:
        command.main(make_digits201.main, make_digits201.Config, [*case.split(), "--workdir", str(tmp_path / "run")])
    assert stopped.value.code == 2
    assert WRONG[case] in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_file_of_something_else_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="not a file of digits201"):
        digits201_table(tmp_path / "other.npz")


@pytest.mark.parametrize(("part", "number"), [("valid", 1), ("test", 2)])
def test_the_fixed_images_are_moved_noisy_copies(noisy_digits, part, number):
    """Operation by operation, as the networks of the shipped file were measured; compiled, the last bits differ."""
    digits = data.load_dataset("digits")
    images, labels = digits.parts()[part]
    move_key, noise_key = jax.random.split(jax.random.key(number))
    window_key = jax.random.split(move_key, 3)[0]
    moved = data.random_crop(window_key, jnp.tile(images, (3, 1, 1, 1)), 2)
    mean, std = digits.augmentation.mean[0], digits.augmentation.std[0]
    expected = (np.asarray(moved) / 255 - mean) / std + 0.6 * np.asarray(jax.random.normal(noise_key, moved.shape))
    found = noisy_digits.parts()[part].inputs
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=3e-6)
    np.testing.assert_array_equal(noisy_digits.parts()[part].targets, np.tile(labels, 3))


def test_training_images_are_moved_and_noisy_at_every_step(noisy_digits):
    train = data.Examples(*map(jnp.asarray, data.split(noisy_digits, seed=0).train))
    key = jax.random.key(3)
    found = data.make_batches(1077, 64, noisy_digits.augmentation)(key, 20, train)
    draw = training_batches(noisy_digits, 64)
    made, other = (draw(key, noise_key, 20) for noise_key in (jax.random.fold_in(key, 2), jax.random.key(4)))
    jax.tree.map(np.testing.assert_array_equal, found, made)
    # Between two keys of the noise nothing differs but the noise, which is another one at each step.
    np.testing.assert_array_equal(other.targets, made.targets)
    noise = np.ravel(other.inputs - made.inputs)
    np.testing.assert_allclose(np.std(noise), 0.6 * 2**0.5, rtol=0.05)
    later = np.ravel(draw(key, jax.random.key(4), 21).inputs - draw(key, jax.random.fold_in(key, 2), 21).inputs)
    assert abs(np.corrcoef(noise, later)[0, 1]) < 0.1


def test_fixed_images_are_final(noisy_digits):
    """A search that augments its validation part reads the very images, and so does an evaluation."""
    valid = data.split(noisy_digits, seed=0).valid
    batch = data.make_batches(1080, 64, noisy_digits.augmentation)(jax.random.key(0), 0, valid)
    rows = {image.tobytes(): label for image, label in zip(valid.inputs, valid.targets, strict=True)}
    assert [rows[image.tobytes()] for image in np.asarray(batch.inputs)] == batch.targets.tolist()
    evaluate = make_evaluate(lambda scale, x: scale * x.reshape(len(x), -1)[:, 20:30], noisy_digits.augmentation, 512)
    expected = np.argmax(valid.inputs.reshape(1080, -1)[:, 20:30], axis=1) == valid.targets
    assert evaluate(jnp.float32(1), valid).correct == expected.sum()


def test_the_last_bits_of_computed_images_make_no_other_data_set(noisy_digits):
    known = data.fingerprint(noisy_digits)
    assert (known["source"], known["valid_images"]) == ("digits201", 1080)
    elsewhere = dataclasses.replace(
        noisy_digits, valid=noisy_digits.valid._replace(inputs=np.nextafter(noisy_digits.valid.inputs, np.float32(9)))
    )
    assert data.fingerprint(elsewhere) == known
    digits = data.load_dataset("digits")
    edited = dataclasses.replace(digits, test=digits.test._replace(inputs=255 - digits.test.inputs))
    assert data.fingerprint(dataclasses.replace(noisy_digits, computed_from=edited)) != known


def test_what_the_data_set_is_beside_its_images(noisy_digits):
    assert form_of(noisy_digits) == data.ImageForm(1, (8, 8))
    assert "1080 valid (3 moved and noisy copies of valid)" in noisy_digits.told()
    with pytest.raises(data.DataError, match=r"joined for training; give a fraction .* above 0, got 0"):
        data.split(noisy_digits, seed=0, fraction=0.0)
    with pytest.raises(data.DataError, match="digits201 are 8x8 and cannot be resized"):
        data.load_dataset("digits201", size=16)
