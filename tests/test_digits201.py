"""The shipped benchmark: that it is what it says, and that the experiment that makes it goes on where it stopped."""

from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from experiments import make_digits201
from jaxnas import command
from jaxnas.base import Skeleton
from jaxnas.benchmarks import digits201_table, functional_classes
from jaxnas.benchmarks.digits201 import read_digits201
from jaxnas.files import read_json, write_json
from jaxnas.networks import nasbench201_network
from jaxnas.spaces import nasbench201_space


@pytest.fixture(scope="module")
def table():
    return digits201_table()


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
    config["identity"]["start"] = make_digits201.start_fingerprint(arrays)
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
    archs, macs = make_digits201.representatives(make_digits201.Config())
    assert len(archs) == 4930
    cells, classes = make_digits201.digits201_cells()
    place = {tuple(cell): number for cell, number in zip(cells.tolist(), classes, strict=True)}
    assert [place[tuple(arch)] for arch in archs.tolist()] == list(range(4930))
    _, every = make_digits201.digits201_costs(Skeleton(8, 2, (8, 8, 1), 10), cells)
    cheapest = np.full(4930, np.iinfo(np.int64).max)
    np.minimum.at(cheapest, classes, every)
    np.testing.assert_array_equal(macs, cheapest)
    assert nasbench201_network(archs[-1], Skeleton(8, 2, (8, 8, 1), 10)).costs["macs"] == macs[-1]


WRONG = {
    "--fidelities 1 3": "end with 8",
    "--timed 2": "at least 3 timed",
    "--noise -1": "must not be negative",
    "--part 0": "part must be at least 1",
    "--start README.md": "not a file of digits201",
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
